//! What goes to `tracing`: the names of events, fields and spans are a contract.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use certsource::Files;
use certsource_reload::Reloader;
use certsource_testkit::{Ca, TestDir};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const BOUND: Duration = Duration::from_secs(60);

type Fields = BTreeMap<&'static str, String>;

/// Level and fields of each event; the names of spans.
#[derive(Default)]
struct Told {
    events: Vec<(tracing::Level, Fields)>,
    spans: Vec<(&'static str, Fields)>,
}

static TOLD: Mutex<Told> = Mutex::new(Told { events: Vec::new(), spans: Vec::new() });

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "certsource"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut visitor = Visitor(Fields::new());
        span.record(&mut visitor);
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.spans.push((span.metadata().name(), visitor.0));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut visitor = Visitor(Fields::new());
        event.record(&mut visitor);
        TOLD.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .events
            .push((*event.metadata().level(), visitor.0));
    }
}

/// The next event of this name of this source.
#[track_caller]
fn event(origin: &str, name: &str) -> (tracing::Level, Fields) {
    let end = Instant::now() + BOUND;
    loop {
        {
            let told = TOLD.lock().unwrap();
            let found =
                told.events.iter().find(|(_, fields)| fields["origin"] == origin && fields["event"] == name);
            if let Some(found) = found {
                return found.clone();
            }
            assert!(Instant::now() < end, "no {name}: {:?}", told.events);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn events_and_spans_have_stable_names_and_fields() {
    tracing::subscriber::set_global_default(Recorder).unwrap();
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    let reloader = Reloader::builder(Files::trust(&path)).start().unwrap();
    let origin = reloader.origin().to_string();
    let names =
        |fields: &Fields| -> Vec<&str> { fields.keys().copied().filter(|name| *name != "message").collect() };

    let (level, loaded) = event(&origin, "loaded");
    assert_eq!(level, tracing::Level::INFO);
    assert_eq!(names(&loaded), ["added", "digest", "event", "generation", "origin", "removed"]);
    assert_eq!((&*loaded["generation"], &*loaded["added"]), ("1", "1"));
    assert_eq!(loaded["digest"], reloader.current().digest().to_string());

    dir.write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    assert!(reloader.reload_blocking().is_err());
    let (level, failed) = event(&origin, "failed");
    assert_eq!(level, tracing::Level::WARN, "no hook hears of it");
    assert_eq!(
        names(&failed),
        ["event", "line", "origin", "path", "reason", "serving", "withdrawal_pending"],
        "{failed:?}"
    );
    assert_eq!((&*failed["reason"], &*failed["serving"], &*failed["line"]), ("malformed", "1", "1"));

    dir.write("ca.pem", Ca::new("b").certificate_pem()).unwrap();
    reloader.reload_blocking().unwrap();
    let (_, reloaded) = event(&origin, "reloaded");
    assert_eq!((&*reloaded["added"], &*reloaded["removed"]), ("1", "1"));
    assert_eq!(event(&origin, "retired").1["generation"], "1");
    event(&origin, "recovered");

    let told = TOLD.lock().unwrap();
    for name in ["look", "read", "judge"] {
        assert!(
            told.spans.iter().any(|(span, fields)| *span == name && fields["origin"] == origin),
            "{name}"
        );
    }
}
