//! The threads of the file watches end with them. Alone in its process, so that threads can be counted.
#![cfg(all(target_os = "linux", feature = "notify"))]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use certsource::source::Watches as _;
use certsource::watch::OsWatches;
use certsource_testkit::TestDir;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn nothing_is_left_behind() {
    let dir = TestDir::new().unwrap();
    let before = (threads(), open_files());
    let unused = OsWatches::new();
    assert_eq!((threads(), open_files()), before, "nothing starts before the first watch");
    drop(unused);
    for _ in 0..3 {
        let watches = OsWatches::new();
        let (sender, events) = channel();
        let sink = Arc::new(move |_: &_| {
            let _ = sender.send(());
        });
        let _held = watches.watch(dir.path(), sink).unwrap();
        fs::write(dir.join("x"), "x").unwrap();
        events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(threads(), before.0 + 2);
        drop(watches);
        let begin = Instant::now();
        while (threads(), open_files()) != before {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{} threads, {} files",
                threads(),
                open_files()
            );
            std::thread::yield_now();
        }
    }
}
