//! `certsource watch`: what it tells and how it ends.
//!
//! First loads that fail are in `watch_refused.rs`, the rarer events in `watch_events.rs`.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, Instant};

use certsource::Fingerprint;
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};

use crate::common::{BOUND, Running, assert_ts, run};

fn words<const N: usize>(words: [&dyn AsRef<OsStr>; N]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

fn print(issued: &Issued) -> String {
    Fingerprint::of(&issued.leaf_der()).to_string()
}

#[test]
fn names_of_files_are_shown_escaped() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("\u{1b}[31m.pem");
    let text = run(["watch".as_ref(), "--ca".as_ref(), path.as_os_str()]);
    assert_eq!(text.code, Some(2));
    assert!(!text.stderr.contains('\u{1b}') && text.error_line().contains("\\u{1b}"), "{}", text.stderr);
}

#[test]
fn nothing_to_watch() {
    let text = run(["watch"]);
    assert_eq!(text.code, Some(2));
    assert!(text.error_line().contains("--ca"), "{}", text.stderr);
}

/// A rotation by a directory swap, seen with each strategy.
#[cfg(unix)]
fn a_rotation(detect: &str) {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let first = old.issue("localhost");
    let dir = KubeletDir::new(&first).unwrap();
    let mut args =
        words([&"watch", &"--kubernetes", &dir.path(), &"--format", &"json", &"--detect", &detect]);
    args.extend(words([&"--interval", &"50ms"]));
    let mut watch = Running::start(args);

    let loaded = watch.event("loaded");
    assert_ts(&loaded);
    assert_eq!(loaded["generation"], 1);
    let digest = loaded["digest"].as_str().unwrap();
    assert!(digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64), "{digest}");
    let leaf = &loaded["certificates"][0];
    assert_eq!((leaf["role"].as_str(), leaf["fingerprint"].as_str()), (Some("leaf"), Some(&*print(&first))));
    assert_eq!(leaf["sans"][0], "dns:localhost");
    assert_eq!(loaded["certificates"].as_array().unwrap().len(), 2);

    let second = new.issue("localhost");
    dir.swap(&second).unwrap();
    let reloaded = watch.event("reloaded");
    assert_eq!(reloaded["generation"], 2);
    assert_ne!(reloaded["digest"], loaded["digest"]);
    let prints = |list: &serde_json::Value| -> Vec<String> {
        let mut prints: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["fingerprint"].as_str().unwrap().to_owned())
            .collect();
        prints.sort();
        prints
    };
    let sorted = |issued: &Issued| {
        let mut prints = vec![print(issued), Fingerprint::of(&issued.root_der()).to_string()];
        prints.sort();
        prints
    };
    assert_eq!(prints(&reloaded["added"]), sorted(&second));
    assert_eq!(prints(&reloaded["removed"]), sorted(&first));
    assert_eq!(prints(&reloaded["certificates"]), sorted(&second));
    let retired = watch.event("retired");
    assert_eq!(retired["generation"], 1);

    watch.signal(rustix::process::Signal::TERM);
    let end = watch.finish();
    assert_eq!((end.code, &*end.stderr), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn a_rotation_by_mtime() {
    a_rotation("mtime");
}

#[cfg(unix)]
#[test]
fn a_rotation_by_sha256() {
    a_rotation("sha256");
}

#[cfg(unix)]
#[test]
fn a_rotation_by_notify() {
    a_rotation("notify");
}

#[cfg(unix)]
#[test]
fn a_rotation_by_auto() {
    a_rotation("auto");
}

/// What is served stays while the files are broken; that is told, and that it is over.
#[test]
fn a_failure_and_its_end() {
    let ca = Ca::new("a");
    let issued = ca.issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let args = words([&"watch", &"--kubernetes", &dir.path(), &"--format", &"json", &"--interval", &"100ms"]);
    let mut watch = Running::start(args);
    watch.event("loaded");
    std::fs::write(dir.ca_path(), "garbage").unwrap();
    let failed = watch.event("failed");
    assert_ts(&failed);
    assert_eq!(failed["reason"], "malformed");
    assert_eq!(failed["serving"], 1);
    assert_eq!(failed["path"], dir.ca_path().to_str().unwrap());
    dir.swap(&issued).unwrap();
    watch.event("recovered");
}

#[test]
fn text_is_one_line_an_event() {
    let ca = Ca::new("a");
    let issued = ca.issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let mut watch = Running::start(words([&"watch", &"--kubernetes", &dir.path(), &"--interval", &"50ms"]));
    let loaded = watch.line();
    let leaf = format!(" leaf CN=localhost {} until ", &print(&issued)[..16]);
    assert!(loaded.contains("Z loaded generation 1 sha256:") && loaded.contains(&leaf), "{loaded}");
    dir.swap(ca.issue("localhost")).unwrap();
    let reloaded = watch.line();
    assert!(
        reloaded.contains(" +leaf CN=localhost ") && reloaded.contains(" -leaf CN=localhost "),
        "{reloaded}"
    );
}

/// `--wait` outlasts files that are not there yet; `--once` ends after the first load.
#[test]
fn waits_for_the_first_load() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let mut args = words([&"watch", &"--ca", &path, &"--wait", &"60s", &"--once", &"--format", &"json"]);
    args.extend(words([&"--interval", &"50ms"]));
    let mut watch = Running::start(args);
    assert_eq!(watch.event("failed")["reason"], "not_found");
    dir.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    assert_eq!(watch.event("loaded")["generation"], 1);
    let end = watch.finish();
    assert_eq!((end.code, &*end.stderr), (Some(0), ""));
}

#[test]
fn a_wait_that_is_over_is_an_error() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let end = run(words([&"watch", &"--ca", &path, &"--wait", &"3s", &"--format", &"json"]));
    assert_eq!(end.code, Some(2));
    assert!(end.error_line().ends_with("[not_found]"));
    assert!(end.took >= Duration::from_secs(3));
    assert_eq!(end.json().len(), 1, "told once: {}", end.stdout);
}

/// `certsource watch … | grep -m 1 loaded`, and then no file changes.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_it_although_nothing_happens() {
    use std::io::BufRead;

    let dir = KubeletDir::new(Ca::new("a").issue("localhost")).unwrap();
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_certsource"))
        .args(words([&"watch", &"--kubernetes", &dir.path()]))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(" loaded "), "{line}");
    let until = Instant::now() + BOUND;
    let status = loop {
        if let Some(status) = watch.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            watch.kill().unwrap();
            panic!("it goes on without a reader");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let ca = Ca::new("a");
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap();
    let mut watch = Running::start(words([&"watch", &"--kubernetes", &dir.path(), &"--interval", &"50ms"]));
    watch.line();
    watch.close_stdout();
    // The reading thread takes one more line before it notices that nobody listens to it.
    let until = Instant::now() + BOUND;
    while watch.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "it goes on without a reader");
        dir.swap(ca.issue("localhost")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let end = watch.finish();
    assert_eq!((end.code, &*end.stderr), (Some(0), ""));
}

#[cfg(unix)]
mod reactions {
    use std::process::Command;

    use super::*;

    fn script(dir: &TestDir, text: &str) -> std::path::PathBuf {
        let (plain, path) = (dir.write("plain", format!("#!/bin/sh\n{text}\n")).unwrap(), dir.join("hook"));
        // Written by another process: a child that another test starts just now could hold what this one writes, and
        // nobody can run a file that somebody may write.
        let installed = Command::new("install").args(["-m", "755"]).args([&plain, &path]).status();
        assert!(installed.unwrap().success());
        path
    }

    fn watching(volume: &KubeletDir, more: Vec<OsString>) -> Running {
        let mut args = words([&"watch", &"--kubernetes", &volume.path(), &"--format", &"json"]);
        args.extend(words([&"--interval", &"50ms"]));
        args.extend(more);
        Running::start(args)
    }

    /// Waits for a file that a command writes as its last act.
    #[track_caller]
    fn content(path: &Path) -> String {
        let until = Instant::now() + BOUND;
        loop {
            if let Ok(text) = std::fs::read_to_string(path) {
                return text;
            }
            assert!(Instant::now() < until, "the command did not run");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_gets_its_arguments_and_the_facts() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let out = dir.join("out");
        let hook = script(
            &dir,
            "{ env | grep ^CERTSOURCE_; echo \"$@\"; } >\"$1.tmp\" && mv \"$1.tmp\" \"$1\"; echo noise",
        );
        // What looks like a flag, or like shell, is an argument.
        let mut watch = watching(&volume, words([&"--exec", &hook, &out, &"--ca", &"$HOME;x"]));
        watch.event("loaded");
        let second = ca.issue("localhost");
        volume.swap(&second).unwrap();
        let reloaded = watch.event("reloaded");
        let text = content(&out);
        let leaf = print(&second);
        for line in [
            "CERTSOURCE_EVENT=reloaded",
            "CERTSOURCE_GENERATION=2",
            &format!("CERTSOURCE_DIGEST={}", reloaded["digest"].as_str().unwrap()),
            &format!("CERTSOURCE_FINGERPRINT={leaf}"),
            &format!("CERTSOURCE_ADDED={leaf}"),
            &format!("CERTSOURCE_ORIGIN={}", volume.path().display()),
            &format!("{} --ca $HOME;x", out.display()),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        watch.signal(rustix::process::Signal::INT);
        let end = watch.finish();
        assert_eq!(end.code, Some(0));
        assert!(end.stderr.contains("noise") && !end.stdout.contains("noise"), "its output is not a result");
    }

    /// The first load counts for `--once` and `--exec-on-load`: nothing that rotated before it is lost.
    #[test]
    fn a_command_for_the_first_load_gets_the_facts_too() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let issued = ca.issue("localhost");
        let volume = KubeletDir::new(&issued).unwrap();
        let out = dir.join("out");
        let hook = script(&dir, "env | grep ^CERTSOURCE_ >\"$1.tmp\" && mv \"$1.tmp\" \"$1\"");
        let facts = |text: &str, name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
        };
        let mut watch = watching(&volume, words([&"--exec-on-load", &"--exec", &hook, &out]));
        let loaded = watch.event("loaded");
        let text = content(&out);
        assert_eq!(facts(&text, "CERTSOURCE_EVENT"), "loaded");
        assert_eq!(facts(&text, "CERTSOURCE_GENERATION"), "1");
        assert_eq!(
            facts(&text, "CERTSOURCE_NOT_AFTER"),
            loaded["certificates"][0]["not_after"].as_str().unwrap()
        );
        assert_eq!(facts(&text, "CERTSOURCE_REMOVED"), "");
        std::fs::remove_file(&out).unwrap();
        volume.swap(ca.issue("localhost")).unwrap();
        let text = content(&out);
        assert_eq!(facts(&text, "CERTSOURCE_EVENT"), "reloaded");
        assert_eq!(facts(&text, "CERTSOURCE_REMOVED"), print(&issued));

        let once = run(words([
            &"watch",
            &"--kubernetes",
            &volume.path(),
            &"--once",
            &"--exec",
            &hook,
            &dir.join("b"),
        ]));
        assert_eq!((once.code, &*once.stderr), (Some(0), ""));
        assert_eq!(facts(&content(&dir.join("b")), "CERTSOURCE_EVENT"), "loaded");
    }

    #[test]
    fn once_fails_with_its_command() {
        let volume = KubeletDir::new(Ca::new("a").issue("localhost")).unwrap();
        for (command, why) in [
            ("false", "exit status: 1"),
            ("/no/such/command", "cannot run it: there is no such program; name its path"),
            ("touch x", "cannot run it: there is no program of this name; there is no shell"),
        ] {
            let args =
                [&"watch" as &dyn AsRef<OsStr>, &"--kubernetes", &volume.path(), &"--format=json", &"--once"];
            let failed = run(words(args).into_iter().chain(words([&"--exec", &command])));
            assert_eq!(failed.code, Some(2), "{failed:?}");
            assert!(failed.error_line().contains(why), "{}", failed.stderr);
            let events: Vec<_> = failed.json().iter().map(|line| line["event"].clone()).collect();
            assert_eq!(events, ["loaded", "exec_failed"]);
        }
        let nothing = run(words([&"watch", &"--kubernetes", &volume.path(), &"--exec-on-load"]));
        assert_eq!(nothing.code, Some(2));
        assert!(nothing.error_line().contains("--exec, or --signal"), "{}", nothing.stderr);
    }

    #[test]
    fn a_signal_for_the_first_load() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        for how in ["--once", "--exec-on-load"] {
            let mut target = Target::start();
            let pid_file = dir.write("pid", format!("{}\n", target.0.id())).unwrap();
            let watch = watching(&volume, words([&how, &"--signal", &"USR1", &"--pid-file", &pid_file]));
            assert_eq!(target.ended_by(), Some(10), "{how}: SIGUSR1 ends `sleep`");
            if how == "--once" {
                assert_eq!(watch.finish().code, Some(0));
                // Nobody has that number any more.
                let gone = watching(&volume, words([&how, &"--signal", &"USR1", &"--pid-file", &pid_file]));
                let gone = gone.finish();
                assert_eq!(gone.code, Some(2), "{gone:?}");
                assert!(gone.error_line().contains("the signal was not sent: /"), "{}", gone.stderr);
            }
        }
    }

    /// A process to send a signal to. Killed when dropped.
    struct Target(std::process::Child);

    impl Target {
        fn start() -> Self {
            Self(Command::new("sleep").arg("600").spawn().unwrap())
        }

        /// The signal that ends it within the bound.
        #[track_caller]
        fn ended_by(&mut self) -> Option<i32> {
            let until = Instant::now() + BOUND;
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return std::os::unix::process::ExitStatusExt::signal(&status);
                }
                assert!(Instant::now() < until, "no signal came");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Target {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_command_that_fails_is_told() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let hook = script(&dir, "exit 7");
        let mut watch = watching(&volume, words([&"--exec", &hook]));
        watch.event("loaded");
        volume.swap(ca.issue("localhost")).unwrap();
        let failed = watch.event("exec_failed");
        assert_ts(&failed);
        assert_eq!((&failed["generation"], &failed["code"]), (&2.into(), &7.into()));
        assert_eq!(failed["command"], hook.to_str().unwrap());
        // It goes on.
        volume.swap(ca.issue("localhost")).unwrap();
        assert_eq!(watch.event("exec_failed")["generation"], 3);
    }

    #[test]
    fn a_command_that_cannot_be_run_is_told() {
        let ca = Ca::new("a");
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let mut watch = watching(&volume, words([&"--exec", &"/no/such/command"]));
        watch.event("loaded");
        volume.swap(ca.issue("localhost")).unwrap();
        let failed = watch.event("exec_failed");
        assert!(failed["message"].as_str().unwrap().contains("cannot run it"), "{failed}");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let pid = dir.join("pid");
        // The shell's child must go too.
        let hook = script(&dir, "sleep 600 & echo $! >\"$1.tmp\"; mv \"$1.tmp\" \"$1\"; wait");
        let mut watch = watching(&volume, words([&"--exec-timeout", &"3s", &"--exec", &hook, &pid]));
        watch.event("loaded");
        volume.swap(ca.issue("localhost")).unwrap();
        let failed = watch.event("exec_failed");
        assert!(failed["message"].as_str().unwrap().contains("longer than"), "{failed}");
        let pid = rustix::process::Pid::from_raw(content(&pid).trim().parse().unwrap()).unwrap();
        let until = Instant::now() + BOUND;
        while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid) {
            assert!(Instant::now() < until, "the command's child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ended, and not yet fetched by whoever adopts orphans here.
    fn is_zombie(pid: rustix::process::Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }

    #[test]
    fn commands_do_not_overlap_and_the_newest_facts_win() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let hook = script(
            &dir,
            "cd \"$1\" || exit 9\nmkdir lock || { echo overlap >>log; exit 1; }\n\
             while [ ! -e go ]; do sleep 0.01; done\necho $CERTSOURCE_GENERATION >>log\nrmdir lock\n\
             if [ \"$(wc -l <log)\" -ge 2 ]; then mv log done; fi",
        );
        let mut watch = watching(&volume, words([&"--exec", &hook, &dir.path()]));
        watch.event("loaded");
        for generation in 2..=5 {
            volume.swap(ca.issue("localhost")).unwrap();
            assert_eq!(watch.event("reloaded")["generation"], generation);
        }
        dir.write("go", "").unwrap();
        assert_eq!(content(&dir.join("done")), "2\n5\n");
    }

    #[test]
    fn a_signal_reaches_the_process_of_the_pid_file() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let mut target = Target::start();
        let pid_file = dir.write("pid", format!("{}\n", target.0.id())).unwrap();
        let mut watch = watching(&volume, words([&"--signal", &"SIGUSR1", &"--pid-file", &pid_file]));
        watch.event("loaded");
        assert!(target.0.try_wait().unwrap().is_none(), "no signal for the first load");
        volume.swap(ca.issue("localhost")).unwrap();
        assert_eq!(target.ended_by(), Some(10), "SIGUSR1 ends `sleep`");
    }

    #[test]
    fn a_pid_file_without_a_process_is_told() {
        let (ca, dir) = (Ca::new("a"), TestDir::new().unwrap());
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        for content in ["", "0", "1", "-1", "-5", "abc"] {
            let pid_file = dir.write("pid", content).unwrap();
            let mut watch = watching(&volume, words([&"--signal", &"term", &"--pid-file", &pid_file]));
            watch.event("loaded");
            volume.swap(ca.issue("localhost")).unwrap();
            let failed = watch.event("signal_failed");
            assert!(failed["message"].as_str().unwrap().contains("PID file"), "{failed}");
        }
        let wrong = run(["watch", "--ca", "x", "--signal", "KILL", "--pid-file", "x"]);
        assert_eq!(wrong.code, Some(2));
        assert!(wrong.error_line().contains("HUP"), "{}", wrong.stderr);
    }
}
