//! `certsource watch`: each event that is neither `loaded` nor `reloaded`, and what stands in it.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::time::{Duration, SystemTime};

use certsource::Fingerprint;
use certsource_testkit::{Ca, Issued, KubeletDir, Method, PlainDir, TestDir};

use crate::common::{Running, assert_ts, run};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn watching(dir: &std::path::Path, more: &[&str]) -> Running {
    let first = ["watch", "--format=json", "--interval=50ms", "--kubernetes", dir.to_str().unwrap()];
    Running::start(first.iter().chain(more))
}

fn print(issued: &Issued) -> String {
    Fingerprint::of(&issued.leaf_der()).to_string()
}

#[test]
fn a_writer_between_its_two_files_is_pending_and_it_ends() {
    let ca = Ca::new("a");
    let dir = PlainDir::new(Method::Rename, ca.issue("localhost")).unwrap();
    let mut watch = watching(dir.cert_path().parent().unwrap(), &[]);
    watch.event("loaded");
    let next = ca.issue("localhost");
    std::fs::write(dir.cert_path(), next.chain_pem()).unwrap();
    let pending = watch.event("pending");
    assert_ts(&pending);
    assert_eq!((&pending["reason"], &pending["serving"]), (&"key_mismatch".into(), &1.into()));
    assert_eq!(pending["withdrawal_pending"], false);
    std::fs::write(dir.key_path(), next.key_pem()).unwrap();
    assert_eq!(watch.event("reloaded")["added"][0]["fingerprint"], print(&next));
}

#[test]
fn what_is_not_valid_yet_is_rejected_and_then_recovered() {
    let ca = Ca::new("a");
    let first = ca.issue("localhost");
    let volume = KubeletDir::new(&first).unwrap();
    let mut watch = watching(volume.path(), &[]);
    watch.event("loaded");
    let later = ca.leaf("localhost").not_before(SystemTime::now() + DAY).valid_for(DAY * 9).issue();
    volume.swap(later).unwrap();
    let rejected = watch.event("rejected");
    assert_ts(&rejected);
    assert_eq!((&rejected["reason"], &rejected["serving"]), (&"not_yet_valid".into(), &1.into()));
    volume.swap(&first).unwrap();
    let recovered = watch.event("recovered");
    assert_eq!(recovered["origin"], volume.path().to_str().unwrap());
}

/// With `--max-stale`, what nobody can confirm is used no more; without it, the last good generation stays.
#[test]
fn what_nobody_can_confirm_is_stale_until_it_is_whole_again() {
    let issued = Ca::new("a").issue("localhost");
    let volume = KubeletDir::new(&issued).unwrap();
    let path = volume.path().to_str().unwrap();
    let mut patient = watching(volume.path(), &[]);
    let mut watch = watching(volume.path(), &["--max-stale=3s"]);
    let mut text = Running::start(["watch", "--interval=50ms", "--max-stale=3s", "--kubernetes", path]);
    for watch in [&mut patient, &mut watch] {
        watch.event("loaded");
    }
    assert!(text.line().contains(" loaded "));
    volume.write([("ca.crt", "garbage"), ("tls.crt", "garbage"), ("tls.key", "garbage")]).unwrap();
    let stale = watch.event("stale");
    assert_ts(&stale);
    assert_eq!((&stale["reason"], &stale["cause"]), (&"stale".into(), &"malformed".into()), "{stale}");
    assert_eq!((&stale["generation"], &stale["serving"]), (&1.into(), &0.into()), "{stale}");
    assert_eq!((&stale["origin"], &stale["max_stale_seconds"]), (&path.into(), &3.0.into()), "{stale}");
    assert!(stale["since"].as_str().unwrap() < stale["ts"].as_str().unwrap(), "{stale}");
    let line = std::iter::repeat_with(|| text.line()).find(|line| line.contains(" stale ")).unwrap();
    assert!(
        line.contains(" stale generation 1 is used no more: not confirmed for ")
            && line.contains("malformed: "),
        "{line}"
    );
    assert_eq!(patient.event("failed")["serving"], 1);
    // The same as before is a new generation: nothing was used in between.
    volume.swap(&issued).unwrap();
    let back = watch.event("reloaded");
    assert_eq!((&back["generation"], &back["added"]), (&2.into(), &serde_json::json!([])), "{back}");
    let line = std::iter::repeat_with(|| text.line()).find(|line| line.contains(" reloaded ")).unwrap();
    assert!(line.contains(" reloaded generation 2 ") && line.ends_with(" the same certificates"), "{line}");
    patient.event("recovered");
}

/// A withdrawn CA beside a key that does not match: it is told that the CA is still trusted.
#[test]
fn a_withdrawal_beside_a_broken_pair_is_pending() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let issued = new.issue("localhost");
    let volume = KubeletDir::from_dir(TestDir::new().unwrap());
    let both = old.certificate_pem() + &new.certificate_pem();
    volume.swap_all(both, &issued).unwrap();
    let mut watch = watching(volume.path(), &[]);
    watch.event("loaded");
    let other = new.issue("localhost");
    volume
        .write([
            ("ca.crt", new.certificate_pem()),
            ("tls.crt", issued.chain_pem()),
            ("tls.key", other.key_pem()),
        ])
        .unwrap();
    let told = loop {
        let line = watch.line();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["withdrawal_pending"] == true {
            break event;
        }
    };
    assert!(["pending", "failed"].map(serde_json::Value::from).contains(&told["event"]), "{told}");
    assert_eq!((&told["reason"], &told["serving"]), (&"key_mismatch".into(), &1.into()));
}

#[test]
fn the_end_of_the_identity_is_told_when_it_comes() {
    let now = SystemTime::now();
    let ca = Ca::new("a");
    let issued = ca.leaf("localhost").not_before(now - DAY).not_after(now + Duration::from_secs(8)).issue();
    let volume = KubeletDir::new(issued).unwrap();
    let mut watch = watching(volume.path(), &["--expiring=3s"]);
    watch.event("loaded");
    let expiring = watch.event("expiring");
    assert_eq!(expiring["threshold"]["before_seconds"], 3);
    let expired = watch.event("expired");
    assert_ts(&expired);
    assert_eq!(expired["generation"], 1);
}

#[test]
fn thresholds_are_told_with_the_certificate() {
    let now = SystemTime::now();
    let issued = Ca::builder("a").not_before(now - DAY).not_after(now + DAY * 5000).build();
    let issued = issued.leaf("localhost").not_before(now - DAY * 80).not_after(now + DAY * 20).issue();
    let volume = KubeletDir::new(&issued).unwrap();
    let more = ["--expiring=30d", "--expiring=75%", "--expiring=1d"];
    let mut watch = watching(volume.path(), &more);
    // The most pressing one last: 30 days came before three quarters of 100.
    for (name, value) in
        [("before_seconds", serde_json::json!(30 * 86_400)), ("used", serde_json::json!(0.75))]
    {
        let told = watch.event("expiring");
        assert_ts(&told);
        assert_eq!(told["threshold"][name], value, "{told}");
        assert_eq!((&told["generation"], &told["certificate"]["role"]), (&1.into(), &"leaf".into()));
        assert_eq!(told["certificate"]["fingerprint"], print(&issued));
        let left = told["expires_in_seconds"].as_i64().unwrap();
        assert!((19 * 86_400..=20 * 86_400).contains(&left), "{left}");
    }
    assert!(watch.is_quiet(Duration::from_millis(300)), "a day is not all that is left");

    let mut text =
        Running::start(["watch", "--expiring", "30d", "--kubernetes", volume.path().to_str().unwrap()]);
    assert!(text.line().contains(" loaded "));
    let line = text.line();
    assert!(
        line.contains(" expiring generation 1 leaf CN=localhost ")
            && line.ends_with(": 30 d or less are left"),
        "{line}"
    );
    let wrong = run(["watch", "--ca", "x", "--expiring", "101%"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.error_line().contains("between 0% and 100%"), "{}", wrong.stderr);
}

#[test]
fn a_step_back_is_told_with_what_went_back() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let now = SystemTime::now();
    let leaf = |age: Duration| new.leaf("localhost").not_before(now - age).valid_for(DAY * 90).issue();
    let (young, aged) = (leaf(DAY), leaf(DAY * 30));
    let both = old.certificate_pem() + &new.certificate_pem();
    let volume = KubeletDir::from_dir(TestDir::new().unwrap());
    volume.swap_all(both.clone(), &young).unwrap();
    let mut watch = watching(volume.path(), &[]);
    watch.event("loaded");

    volume.swap_all(both.clone(), &aged).unwrap();
    let told = watch.event("regressed");
    assert_ts(&told);
    assert_eq!(told["what"], "leaf_older");
    assert_eq!(
        (&told["certificate"]["fingerprint"], &told["before"]["fingerprint"]),
        (&print(&aged).into(), &print(&young).into())
    );

    volume.swap_all(new.certificate_pem(), &aged).unwrap();
    assert_eq!(watch.event("reloaded")["generation"], 3);
    volume.swap_all(both, &aged).unwrap();
    let told = watch.event("regressed");
    assert_eq!(told["what"], "anchor_returned");
    let returned = &told["certificate"];
    assert_eq!((&returned["role"], &returned["subject"]), (&"anchor".into(), &"CN=old".into()));
}
