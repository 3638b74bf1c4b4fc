//! The feature `metrics`: connections that end with their generation, and reactive reloads.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use certsource_testkit::{Ca, KubeletDir};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use common::{Server, Tls, client, until};

/// Counters by name and the value of their only label.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Kept {
    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels = key.labels().filter(|label| label.key() == "result");
        let text = labels.fold(key.name().to_owned(), |text, label| format!("{text} {}", label.value()));
        Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(text).or_default()))
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
async fn retired_connections_and_reactive_reloads_are_counted() {
    const RETIRED: &str = "certsource_connections_retired_total";
    let kept = Kept::default();
    assert!(metrics::set_global_recorder(kept.clone()).is_ok());
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (old_leaf, new_leaf) = (old.issue("localhost"), new.issue("localhost"));
    let server = Server::start(Tls::of(&old_leaf)).await;
    let dir = KubeletDir::new(&old_leaf).unwrap();
    let following = client(&dir).await;
    following.get(server.url("/")).send().await.unwrap().text().await.unwrap();
    assert_eq!(kept.count(RETIRED), 0, "it is still in use");

    // The server is refused by the old CA: that asks for a look, and it finds the new one.
    server.set(Tls::of(&new_leaf));
    dir.swap(&new_leaf).unwrap();
    let other = Server::start(Tls::of(&new_leaf)).await;
    following.get(other.url("/")).send().await.unwrap().text().await.unwrap();
    assert_eq!(kept.count("certsource_reactive_reloads_total newer"), 1);
    until("the old connection is retired", || kept.count(RETIRED) >= 1).await;

    // A client that goes away has retired nothing more.
    let retired = kept.count(RETIRED);
    drop(following);
    until("its connections are closed", || server.open() + other.open() == 0).await;
    assert_eq!(kept.count(RETIRED), retired);
}
