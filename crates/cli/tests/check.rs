//! `certsource check`: its exit codes are a contract.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, TestDir};

use crate::common::{Finished, assert_ts, run, run_with};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[track_caller]
fn check(soon: &str, more: &[&str], paths: &[&PathBuf]) -> Finished {
    let mut args: Vec<OsString> = vec!["check".into(), "--expires-in".into(), soon.into()];
    args.extend(more.iter().map(OsString::from));
    args.extend(paths.iter().map(|path| path.into()));
    run(args)
}

/// A leaf that is 10 days old and has 20 days left.
fn leaf(dir: &TestDir) -> PathBuf {
    let now = SystemTime::now();
    let issued =
        Ca::new("a").leaf("localhost").not_before(now - DAY * 10).not_after(now + DAY * 20 + DAY / 2).issue();
    dir.write("tls.crt", issued.leaf_pem()).unwrap()
}

#[test]
fn fine_expiring_or_unknown() {
    let dir = TestDir::new().unwrap();
    let path = leaf(&dir);
    for (soon, code) in
        [("19d", 0), ("21d", 1), ("400h", 0), ("500h", 1), ("30%", 1), ("35%", 0), ("0%", 1), ("100%", 0)]
    {
        let checked = check(soon, &[], &[&path]);
        assert_eq!((checked.code, &*checked.stderr), (Some(code), ""), "{soon}");
        assert_eq!(checked.stdout.lines().count(), 1);
        assert!(checked.stdout.contains("expires in 20 d, at "), "{}", checked.stdout);
    }
    let missing = dir.join("missing.crt");
    let checked = check("19d", &[], &[&path, &missing]);
    assert_eq!(checked.code, Some(2));
    assert!(checked.error_line().ends_with("[not_found]"));
    // One of them expires and another cannot be told: both are said.
    let checked = check("21d", &[], &[&path, &missing]);
    assert_eq!(checked.code, Some(2));
    assert!(checked.stdout.contains("expires in 20 d") && checked.error_line().contains("missing.crt"));
}

#[test]
fn what_cannot_be_told() {
    let dir = TestDir::new().unwrap();
    let key = dir.write("tls.key", Ca::new("a").issue("localhost").key_pem()).unwrap();
    let garbage = dir.write("garbage.pem", "garbage").unwrap();
    let nothing = dir.join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    for path in [&key, &garbage, &nothing] {
        let checked = check("30d", &[], &[path]);
        assert_eq!((checked.code, &*checked.stdout), (Some(2), ""), "{}", path.display());
        checked.error_line();
    }
    assert_eq!(run_with(["check", "--expires-in", "30d", "-"], b"").code, Some(2));
    // Nor is a wrong directory fine because there is a right file beside it.
    let good = dir.write("good.crt", Ca::new("a").issue("localhost").leaf_pem()).unwrap();
    let checked = check("1d", &[], &[&good, &nothing]);
    assert_eq!((checked.code, &*checked.stdout), (Some(2), ""));
    let empty = format!("error: {}: there is nothing to look at: ", nothing.display());
    assert!(
        checked.error_line().starts_with(&empty) && checked.error_line().ends_with("[empty]"),
        "{checked:?}"
    );
}

#[test]
fn every_certificate_of_a_file_counts() {
    let dir = TestDir::new().unwrap();
    let root = Ca::builder("root").valid_for(DAY * 7).build();
    let issued = root.leaf("localhost").valid_for(DAY * 90).issue();
    let path = dir.write("tls.crt", issued.chain_pem() + &issued.root_pem()).unwrap();
    let checked = check("30d", &[], &[&path]);
    assert_eq!(checked.code, Some(1));
    assert!(checked.stdout.contains(": root CN=root expires in "), "{}", checked.stdout);
    assert!(!checked.stdout.contains("localhost"), "only what expires: {}", checked.stdout);
}

#[test]
fn expired_certificates_and_stale_lists() {
    let dir = TestDir::new().unwrap();
    let (ca, now) = (Ca::new("a"), SystemTime::now());
    let expired = ca.leaf("localhost").not_after(now - DAY * 3 - DAY / 2).issue();
    let path = dir.write("tls.crt", expired.leaf_pem()).unwrap();
    let checked = check("1d", &[], &[&path]);
    assert_eq!(checked.code, Some(1));
    assert!(checked.stdout.contains("has expired 3 d ago"), "{}", checked.stdout);

    let fresh = dir.write("fresh.crl", ca.crl().pem()).unwrap();
    assert_eq!(check("30d", &[], &[&fresh]).code, Some(0), "a list for a week is not expiring");
    let stale = ca.crl_builder().this_update(now - DAY * 9).next_update(now - DAY * 2 - DAY / 2).sign();
    let stale = dir.write("stale.crl", stale.pem()).unwrap();
    let checked = check("30d", &[], &[&stale]);
    assert_eq!(checked.code, Some(1));
    assert!(checked.stdout.contains("crl CN=a is stale since 2 d"), "{}", checked.stdout);
}

#[test]
fn json_ends_with_a_summary() {
    let dir = TestDir::new().unwrap();
    let path = leaf(&dir);
    let checked = check("21d", &["--format", "json"], &[&path]);
    let lines = checked.json();
    lines.iter().for_each(assert_ts);
    let [certificate, summary] = &lines[..] else { panic!("{}", checked.stdout) };
    assert_eq!((&certificate["event"], &certificate["state"]), (&"certificate".into(), &"expiring".into()));
    assert_eq!((&summary["event"], &summary["state"]), (&"summary".into(), &"expiring".into()));
    assert_eq!((&summary["certificates"], &summary["expiring"]), (&1.into(), &1.into()));
}

#[test]
fn a_monitoring_plugin() {
    let dir = TestDir::new().unwrap();
    let path = leaf(&dir);
    let expired = Ca::new("a").leaf("old").not_after(SystemTime::now() - DAY).issue();
    let expired = dir.write("old.crt", expired.leaf_pem()).unwrap();
    let missing = dir.join("missing.crt");
    for (soon, paths, code, word) in [
        ("19d", vec![&path], 0, "OK"),
        ("21d", vec![&path], 1, "WARNING"),
        ("19d", vec![&path, &expired], 2, "CRITICAL"),
        ("19d", vec![&path, &missing], 3, "UNKNOWN"),
        ("19d", vec![&missing, &expired], 2, "CRITICAL"),
    ] {
        let checked = check(soon, &["--nagios"], &paths);
        assert_eq!((checked.code, &*checked.stderr), (Some(code), ""), "{word}");
        assert_eq!(checked.stdout.lines().count(), 1, "{}", checked.stdout);
        assert!(checked.stdout.starts_with(&format!("CERTIFICATES {word} - ")), "{}", checked.stdout);
        let (_, data) = checked.stdout.split_once(" | ").unwrap();
        assert!(data.split(' ').all(|pair| pair.contains('=')), "{data}");
    }
}

#[test]
fn a_wrong_threshold_is_one_line() {
    for soon in ["30", "120%", "soon", "-5d"] {
        let checked = run(["check".to_owned(), format!("--expires-in={soon}"), "x".to_owned()]);
        assert_eq!(checked.code, Some(2), "{soon}");
        assert!(checked.error_line().contains("--expires-in"), "{}", checked.stderr);
    }
}

#[cfg(unix)]
#[test]
fn the_exit_code_is_right_also_when_nobody_reads() {
    use std::process::{Command, Stdio};
    let dir = TestDir::new().unwrap();
    let path = leaf(&dir);
    for (soon, code) in [("19d", 0), ("21d", 1)] {
        // The end that reads is closed before the program starts.
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let status = Command::new(env!("CARGO_BIN_EXE_certsource"))
            .args(["check", "--expires-in", soon])
            .arg(&path)
            .stdout(Stdio::from(writer))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{soon}");
    }
}
