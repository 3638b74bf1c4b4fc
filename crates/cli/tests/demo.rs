//! `certsource demo`: no request fails, every rotation is seen, the withdrawn CA is refused; for each strategy.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use crate::common::{Running, assert_ts, run};

fn rotates(detect: &str) {
    let demo = run([
        "demo",
        "--rotations",
        "3",
        "--duration",
        "0s",
        "--rate",
        "200",
        "--detect",
        detect,
        "--format",
        "json",
    ]);
    assert_eq!((demo.code, &*demo.stderr), (Some(0), ""), "{}", demo.stdout);
    let lines = demo.json();
    lines.iter().for_each(assert_ts);
    let (summary, rotations) = lines.split_last().unwrap();
    assert_eq!(rotations.len(), 3, "{}", demo.stdout);
    for (number, rotation) in (1..).zip(rotations) {
        assert_eq!((&rotation["event"], &rotation["rotation"]), (&"rotation".into(), &number.into()));
        assert_eq!((&rotation["seen"], &rotation["withdrawn_ca_refused"]), (&true.into(), &true.into()));
        assert_eq!(rotation["client_generation"], 1 + 3 * number);
        for way in ["server_by_client", "identity_by_server", "session_by_server", "old_server_by_our_client"]
        {
            assert_eq!(rotation["refused"][way], true, "{way}");
        }
    }
    assert_eq!(summary["event"], "summary");
    assert!(summary["requests"].as_u64().unwrap() > 0);
    assert_eq!(summary["failed"], 0);
    assert_eq!((&summary["rotations"], &summary["rotations_seen"]), (&3.into(), &3.into()));
    assert_eq!(summary["withdrawn_ca_refused"], true);
    assert_eq!(summary["detect"], detect);
    assert!(summary["degraded"].is_null(), "{summary}");
}

#[test]
fn by_mtime() {
    rotates("mtime");
}

#[test]
fn by_sha256() {
    rotates("sha256");
}

#[test]
fn by_notify() {
    rotates("notify");
}

#[test]
fn in_a_pipe_it_is_a_line_for_each_rotation() {
    let demo = run(["demo", "--rotations", "2", "--duration", "0s", "--rate", "200"]);
    assert_eq!((demo.code, &*demo.stderr), (Some(0), ""), "{}", demo.stdout);
    let lines: Vec<_> = demo.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{}", demo.stdout);
    assert!(lines[1].starts_with("rotation 1/2: CA 2 in place of CA 1, "), "{}", lines[1]);
    assert!(lines[2].ends_with("; seen by the client; CA 2 is refused"), "{}", lines[2]);
    assert!(
        lines[3].starts_with("ok: ") && lines[3].contains(" requests, 0 failed; 2 of 2 rotations seen"),
        "{}",
        lines[3]
    );
    assert!(!demo.stdout.contains('\u{1b}'), "no colour and no cursor in a pipe");
}

/// Ended early it proves less than was asked: it says so, and not with 0.
#[cfg(unix)]
#[test]
fn a_signal_ends_it_with_a_summary() {
    let mut demo = Running::start(["demo", "--rotations", "1000", "--duration", "1h", "--format", "json"]);
    demo.event("rotation");
    demo.signal(rustix::process::Signal::TERM);
    let summary = demo.event("summary");
    assert_eq!((&summary["failed"], &summary["rotations"]), (&0.into(), &1.into()));
    assert!(summary["message"].as_str().unwrap().contains("signal"));
    assert_eq!(demo.finish().code, Some(1));
}
