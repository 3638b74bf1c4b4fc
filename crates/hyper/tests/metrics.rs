//! The feature `metrics`: connections that end with their generation, at both ends, and reactive reloads.
#![cfg(all(feature = "metrics", feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use certsource_hyper::{Connector, TlsListener};
use certsource_testkit::Ca;
use common::*;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Counters by name and the values of the labels `side` and `result`.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Kept {
    fn count(&self, name: &str) -> u64 {
        lock(&self.0).get(name).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Retired at the client, at the server.
    fn retired(&self) -> (u64, u64) {
        let of = |side: &str| self.count(&format!("certsource_connections_retired_total {side}"));
        (of("client"), of("server"))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels = key.labels().filter(|label| matches!(label.key(), "side" | "result"));
        let text = labels.fold(key.name().to_owned(), |text, label| format!("{text} {}", label.value()));
        Counter::from_arc(Arc::clone(lock(&self.0).entry(text).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

// One test: the recorder is the process's own.
#[tokio::test]
async fn connections_that_outlive_their_generation_and_looks_are_counted() {
    let kept = Kept::default();
    assert!(metrics::set_global_recorder(kept.clone()).is_ok());
    let (ca, new) = (Ca::new("CA"), Ca::new("new"));
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let mut listener = TlsListener::bind("127.0.0.1:0", &files.reloader).await.unwrap();
    let uri = format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let connector = Connector::new(&files.reloader).unwrap();

    let ends = tokio::join!(soon(listener.accept()), soon(connect(&connector, &uri)));
    drop(ends);
    assert_eq!(kept.retired(), (0, 0), "these ended by themselves");

    let (theirs, ours) = tokio::join!(soon(listener.accept()), soon(connect(&connector, &uri)));
    let ours = ours.unwrap();
    files.set(&[&ca], &ca.issue("localhost")).await;
    assert_eq!(kept.retired(), (0, 0), "they are still open");
    drop(ours);
    assert_eq!(kept.retired(), (1, 0));
    drop(theirs);
    assert_eq!(kept.retired(), (1, 1));

    // A server of a CA that we do not know yet: a look finds it.
    let other = Bare::start(server_config(&new.issue("localhost"), &[], &TLS, &["h2", "http/1.1"])).await;
    files.write(&[&ca, &new], &ca.issue("localhost"));
    let stream = connect(&connector, &other.uri()).await.unwrap();
    assert_eq!(kept.count("certsource_reactive_reloads_total newer"), 1);

    // Who goes away altogether has retired nothing.
    drop((connector, listener, files));
    drop(stream);
    assert_eq!(kept.retired(), (1, 1));
}
