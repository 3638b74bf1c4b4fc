//! Where the system gives no file events: that is told, and changes are found by polling.
//!
//! Each test has a user namespace of its own, with limits of its own. Where the system allows none it says so and passes,
//! unless the variable `CERTSOURCE_STRICT` is set.
//! needs: unshare

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(target_os = "linux")]

mod common;

use std::process::{Command, Stdio};

use certsource_testkit::{Ca, KubeletDir};

use crate::common::{Running, assert_ts, not_run};

/// The program where this limit has this value.
fn limited(limit: &str, value: u32, args: &[&str]) -> Option<Running> {
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        not_run("this system allows no user namespaces, or has no unshare(1)");
        return None;
    }
    let script = format!("echo {value} > /proc/sys/user/{limit}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-ec", &script, "sh", env!("CARGO_BIN_EXE_certsource")]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    Some(Running::spawn(command))
}

#[test]
fn watch_tells_it_and_polls() {
    for (limit, value) in [("max_inotify_instances", 0), ("max_inotify_watches", 1)] {
        let ca = Ca::new("a");
        let volume = KubeletDir::new(ca.issue("localhost")).unwrap();
        let args = ["watch", "--detect=notify", "--interval=50ms", "--format=json", "--kubernetes"];
        let args = [&args[..], &[volume.path().to_str().unwrap()]].concat();
        let Some(mut watch) = limited(limit, value, &args) else { return };
        let mut early = [watch.line(), watch.line()].map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_ts(&line);
            line
        });
        // Whichever comes first.
        early.sort_by_key(|line| line["event"].to_string());
        assert_eq!(early[0]["event"], "degraded", "{limit}: {early:?}");
        assert!(early[0]["message"].as_str().unwrap().contains("no file watch left"), "{}", early[0]);
        assert_eq!(early[1]["event"], "loaded", "{limit}");
        volume.swap(ca.issue("localhost")).unwrap();
        assert_eq!(watch.event("reloaded")["generation"], 2, "{limit}");
    }
}

#[test]
fn the_demo_of_events_is_not_ok_without_them() {
    for (detect, code) in [("notify", 1), ("auto", 0)] {
        let args =
            ["demo", "--rotations=1", "--duration=0s", "--rate=100", "--format=json", "--detect", detect];
        let Some(demo) = limited("max_inotify_instances", 0, &args) else { return };
        let demo = demo.finish();
        assert_eq!(demo.code, Some(code), "{detect}: {}", demo.stdout);
        let lines = demo.json();
        let summary = lines.last().unwrap();
        assert_eq!((&summary["failed"], &summary["rotations_seen"]), (&0.into(), &1.into()));
        assert!(summary["degraded"].as_str().unwrap().contains("no file watch left"), "{summary}");
    }
}
