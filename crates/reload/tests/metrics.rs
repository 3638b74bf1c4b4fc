//! The feature `metrics`: what a recorder gets, and that no gauge stays at the value of an older generation.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use certsource::Files;
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
    assert!(count(&["result=failure", "reason=malformed"]) >= 1);
    assert_eq!(gauge("certsource_generation"), 2.0, "what is served stays");

    // The same content again, so no new generation: the failure is over all the same.
    volume.swap(second).unwrap();
    drop(reloader.reload_blocking());
    until("well again", || gauge("certsource_failing_since_timestamp_seconds") == 0.0);

    drop(reloader);
    until("gone", || gauge("certsource_generation") == 0.0 && gauge("certsource_drift").is_nan());
    assert!(gauge("certsource_expires_timestamp_seconds").is_nan());
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
        .max_stale(Duration::from_millis(200))
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
