//! The feature `metrics`: what a recorder gets, and that no gauge stays at the value of an older generation.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use certsource::machine::Policy;
use certsource::{Files, Reason};
use certsource_reload::Reloader;
use certsource_testkit::{Ca, KubeletDir, TestDir};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

const BOUND: Duration = Duration::from_secs(60);

/// Keeps every value by its key, `name{label=value,…}`.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Kept {
    fn slot(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let text = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().unwrap().entry(text).or_default())
    }

    /// The sum of the counters of this name whose labels hold all of these.
    fn count(&self, name: &str, parts: &[&str]) -> u64 {
        self.find(name, parts).iter().sum()
    }

    fn gauge(&self, name: &str, source: &str) -> Option<f64> {
        self.find(name, &[source]).first().map(|bits| f64::from_bits(*bits))
    }

    fn find(&self, name: &str, parts: &[&str]) -> Vec<u64> {
        let all = self.0.lock().unwrap();
        let fits =
            |key: &str| key.split('{').next() == Some(name) && parts.iter().all(|part| key.contains(part));
        all.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value.load(Ordering::Relaxed)).collect()
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The recorder of this process: the hub's threads have no other way to it.
fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(|| {
        let kept = Kept::default();
        assert!(metrics::set_global_recorder(kept.clone()).is_ok());
        certsource_reload::metrics::describe();
        kept
    })
}

#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !is() {
        assert!(Instant::now() < end, "never: {what}; {:?}", kept().0.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn every_gauge_follows_the_generation_and_ends_with_the_source() {
    let kept = kept();
    let dir = TestDir::new().unwrap();
    let path = dir.join("v");
    let volume = KubeletDir::from_dir(TestDir::at(&path).unwrap());
    let ca = Ca::new("a");
    let first = ca.issue("localhost");
    volume.swap(first.clone()).unwrap();
    let reloader = Reloader::builder(Files::kubernetes(&path)).on_failure(|_| ()).start().unwrap();
    let source = reloader.origin().to_string();
    let gauge = |name: &str| kept.gauge(name, &source).unwrap();
    let count = |parts: &[&str]| kept.count("certsource_reloads_total", &[&[&*source], parts].concat());
    until("loaded", || count(&["result=success", "reason=none"]) == 1);
    let failures = kept.find("certsource_reloads_total", &[&source, "result=failure"]);
    assert_eq!(failures, vec![0; Reason::ALL.len()], "every reason is there before the first failure");
    assert_eq!((gauge("certsource_ready"), gauge("certsource_withdrawal_pending")), (1.0, 0.0));
    assert_eq!(gauge("certsource_generation"), 1.0);
    assert_eq!(gauge("certsource_expires_timestamp_seconds").floor(), seconds(first.not_after()).floor());
    let drift = gauge("certsource_drift");
    assert!(drift > 0.0 && drift.fract() == 0.0 && drift < 2f64.powi(48), "{drift}");

    let second = ca.leaf("localhost").valid_for(Duration::from_secs(7 * 86_400)).issue();
    volume.swap(second.clone()).unwrap();
    reloader.reload_blocking().unwrap();
    until("reloaded", || gauge("certsource_generation") == 2.0);
    until("counted", || count(&["result=success"]) == 2);
    assert_ne!(gauge("certsource_drift"), drift);
    assert_eq!(gauge("certsource_expires_timestamp_seconds").floor(), seconds(second.not_after()).floor());
    let published = gauge("certsource_published_timestamp_seconds");
    assert!((published - seconds(reloader.current().published_at())).abs() < 0.001);

    volume.write([("ca.crt", "garbage"), ("tls.crt", "garbage"), ("tls.key", "garbage")]).unwrap();
    assert!(reloader.reload_blocking().is_err());
    until("failing", || gauge("certsource_failing_since_timestamp_seconds") > 0.0);
    until("told", || count(&["result=failure", "reason=malformed"]) >= 1);
    assert_eq!(gauge("certsource_generation"), 2.0, "what is served stays");

    // The same content again, so no new generation: the failure is over all the same.
    volume.swap(second).unwrap();
    drop(reloader.reload_blocking());
    until("well again", || gauge("certsource_failing_since_timestamp_seconds") == 0.0);

    drop(reloader);
    until("gone", || gauge("certsource_generation") == 0.0 && gauge("certsource_drift").is_nan());
    assert!(gauge("certsource_expires_timestamp_seconds").is_nan() && gauge("certsource_ready").is_nan());
}

/// Half of a source is followed: what is withdrawn goes, and the pair beside it goes on failing.
#[test]
fn a_withdrawal_beside_a_broken_pair_leaves_the_source_failing() {
    let kept = kept();
    let dir = TestDir::new().unwrap();
    let path = dir.join("half");
    let volume = KubeletDir::from_dir(TestDir::at(&path).unwrap());
    let (ca, old) = (Ca::new("half"), Ca::new("old"));
    let (leaf, other) = (ca.issue("localhost"), ca.issue("localhost"));
    let both = ca.certificate_pem() + &old.certificate_pem();
    volume.write([("ca.crt", both), ("tls.crt", leaf.chain_pem()), ("tls.key", leaf.key_pem())]).unwrap();
    let mut policy = Policy::default();
    policy.pair_grace = Duration::from_secs(3);
    policy.settle_loss = Duration::from_millis(200);
    policy.interval = Duration::from_millis(100);
    let reloader =
        Reloader::builder(Files::kubernetes(&path)).policy(policy).on_failure(|_| ()).start().unwrap();
    let source = reloader.origin().to_string();
    let gauge = |name: &str| kept.gauge(name, &source).unwrap();
    let failing = || gauge("certsource_failing_since_timestamp_seconds");

    let without = ca.certificate_pem();
    volume.write([("ca.crt", without), ("tls.crt", leaf.chain_pem()), ("tls.key", other.key_pem())]).unwrap();
    let begun = SystemTime::now();
    assert_eq!(reloader.reload_blocking().unwrap_err().reason(), Reason::KeyMismatch);
    let (status, seen) = (reloader.status(), SystemTime::now());
    assert!(status.pending_seconds.is_some() && status.failing_seconds.is_none(), "{status:?}");
    assert_eq!((status.reason, &status.message), (None, &None), "a writer has its grace");
    until("held back", || gauge("certsource_withdrawal_pending") == 1.0 && failing() == 0.0);

    until("published in part", || {
        gauge("certsource_generation") == 2.0 && gauge("certsource_withdrawal_pending") == 0.0
    });
    let since = failing();
    let broken = seconds(begun) - 0.5..seconds(seen) + 0.5;
    assert!(broken.contains(&since), "since the pair was broken, and still: {since}, {broken:?}");
    let status = reloader.status();
    assert_eq!((status.reason, status.pending_seconds), (Some(Reason::KeyMismatch), None));

    volume.write([("ca.crt", "garbage"), ("tls.crt", "garbage"), ("tls.key", "garbage")]).unwrap();
    let malformed = || kept.count("certsource_reloads_total", &[&source, "reason=malformed"]);
    until("another reason", || malformed() == 1);
    assert!((failing() - since).abs() < 0.5, "one failure, since {since}: {}", failing());

    volume
        .write([("ca.crt", ca.certificate_pem()), ("tls.crt", leaf.chain_pem()), ("tls.key", leaf.key_pem())])
        .unwrap();
    until("well again", || failing() == 0.0 && reloader.status().failing_seconds.is_none());
}

/// What is read of the gauges needs no event: an anchor that has expired makes nothing unready.
#[test]
fn an_expired_anchor_beside_a_good_one_is_ready() {
    let kept = kept();
    let dir = TestDir::new().unwrap();
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    let gone = Ca::builder("gone").not_before(now - 2 * day).not_after(now - day).build();
    let path = dir.write("mixed.pem", gone.certificate_pem() + &Ca::new("good").certificate_pem()).unwrap();
    let reloader = Reloader::builder(Files::trust(&path)).start().unwrap();
    let source = reloader.origin().to_string();
    until("ready", || kept.gauge("certsource_ready", &source) == Some(1.0));
}

#[test]
fn the_same_content_has_the_same_drift_everywhere() {
    let kept = kept();
    let ca = Ca::new("b");
    let dir = TestDir::new().unwrap();
    let mut drifts = Vec::new();
    for name in ["one.pem", "two.pem"] {
        let path = dir.write(name, ca.certificate_pem()).unwrap();
        let reloader = Reloader::builder(Files::trust(&path)).start().unwrap();
        let source = reloader.origin().to_string();
        until("told", || kept.gauge("certsource_drift", &source).is_some_and(|drift| drift > 0.0));
        drifts.push(kept.gauge("certsource_drift", &source).unwrap());
    }
    assert_eq!(drifts[0], drifts[1]);
}

#[test]
fn nothing_is_served_while_nobody_can_confirm_it() {
    let kept = kept();
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("c");
    let path = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let reloader = Reloader::builder(Files::trust(&path))
        .every(Duration::from_millis(50))
        // Longer than a machine stands still.
        .max_stale(Duration::from_secs(4))
        .on_failure(|_| ())
        .start()
        .unwrap();
    let source = reloader.origin().to_string();
    let generation = |number: f64| kept.gauge("certsource_generation", &source) == Some(number);
    until("loaded", || generation(1.0));
    dir.write("ca.pem", "garbage").unwrap();
    until("stale", || generation(0.0));
    dir.write("ca.pem", ca.certificate_pem()).unwrap();
    until("served again", || generation(2.0));
}
