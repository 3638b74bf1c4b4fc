//! Every hot path can be called, ours and the bare one, without valgrind around it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_certsource-instructions");

#[test]
fn every_path_can_be_called_again_and_again() {
    // Without arguments it names them.
    let usage = Command::new(PROGRAM).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let usage = String::from_utf8(usage.stderr).unwrap();
    let names: Vec<&str> = usage.split_whitespace().nth(1).unwrap().split('|').collect();
    assert!(names.len() >= 5, "{usage}");
    for name in names {
        for side in ["ours", "bare"] {
            let status = Command::new(PROGRAM).args([name, side, "3"]).status().unwrap();
            assert!(status.success(), "{name} {side}");
        }
    }
}

#[test]
fn a_path_that_does_not_exist_is_refused() {
    let status = Command::new(PROGRAM).args(["look-up", "ours", "3"]).status().unwrap();
    assert_eq!(status.code(), Some(2));
}
