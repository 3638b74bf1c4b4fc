// What it costs to look at many files the way go-resty's SetRootCertificatesWatcher does: for each file a goroutine and a
// ticker, and os.Stat at each tick. Nothing is ever loaded. With the standard library alone.
//
// Takes the number of seconds and the files, looks at each once a second, and prints the CPU seconds of that time.
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"syscall"
	"time"
)

func watch(path string, stop <-chan struct{}) {
	last := modified(path)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			if now := modified(path); now.After(last) {
				log.Fatalf("%s changed", path)
			}
		}
	}
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		log.Fatal(err)
	}
	return info.ModTime().UTC()
}

func used() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: watching SECONDS FILE...")
	}
	seconds, err := strconv.Atoi(os.Args[1])
	if err != nil || seconds < 1 {
		log.Fatalf("%q is no number of seconds", os.Args[1])
	}
	stop := make(chan struct{})
	for _, path := range os.Args[2:] {
		go watch(path, stop)
	}
	// Until all of them wait.
	time.Sleep(5 * time.Second)
	before := used()
	time.Sleep(time.Duration(seconds) * time.Second)
	after := used()
	close(stop)
	fmt.Printf("%.3f\n", after-before)
}
