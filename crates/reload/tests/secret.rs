//! Invariant 10: no private byte is shown by the engine, in its types, its events, `tracing` or metrics, while a source is
//! loaded, rotated, broken in every way that a key can be, and mended.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../certsource/tests/secret_support/mod.rs"]
mod secret_support;

mod secret_heard;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certsource::Error;
use certsource::files::Files;
use certsource::machine::{Candidate, Policy};
use certsource_reload::{Event, EventKind, Hub, Reloader};
use certsource_testkit::{Ca, TestDir};

use secret_heard::Heard;
use secret_support::Shown;

const BOUND: Duration = Duration::from_secs(60);

#[cfg(feature = "metrics")]
mod recorder {
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::Heard;

    impl Heard {
        fn key(&self, key: &Key) {
            self.add(&format!("{key:?} {key}\n"));
        }
    }

    /// Keeps names and labels; a number is no key.
    impl Recorder for Heard {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.key(key);
            Counter::noop()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.key(key);
            Gauge::noop()
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.key(key);
            Histogram::noop()
        }
    }
}

#[test]
fn nothing_that_the_engine_says_holds_a_key() {
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    #[cfg(feature = "metrics")]
    assert!(metrics::set_global_recorder(heard.clone()).is_ok());

    let ca = Ca::new("ca");
    let issued = ca.issue("client");
    let mut shown = Shown::of(&issued);
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let candidates: Arc<Mutex<String>> = Arc::default();
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let (seen, told) = (Arc::clone(&candidates), Arc::clone(&events));
    let mut policy = Policy::every(Duration::from_millis(50));
    (policy.settle, policy.settle_loss) = (Duration::from_millis(50), Duration::from_millis(50));
    let builder = Reloader::builder(Files::kubernetes(dir.path()))
        .hub(Hub::new())
        .policy(policy)
        .gate(move |candidate: &Candidate| {
            let _ = writeln!(seen.lock().unwrap(), "{candidate:?}");
            Ok(())
        })
        .on_event(move |event: &Event| told.lock().unwrap().push(event.clone()));
    shown.debug(&builder);
    let reloader = builder.start().unwrap();
    let mut stream = reloader.subscribe();
    let generations = reloader.watch();
    // What is derived may be anything that shows itself: a number here.
    let derived = reloader.derive(|generation| Ok::<_, Error>(generation.number())).unwrap();

    let key = issued.key_pem();
    let broken = [
        key.split("-----END").next().unwrap().to_owned(),
        key.replace("\n-----END", "!\n-----END"),
        key.clone() + &key,
        key.replace("PRIVATE", "RSA PRIVATE"),
        String::new(),
    ];
    for (number, text) in broken.into_iter().enumerate() {
        dir.write("tls.key", text).unwrap();
        let error = reloader.reload_blocking().unwrap_err();
        shown.error(&error);
        shown.debug(&reloader.status());
        dir.write("tls.key", &key).unwrap();
        // Another anchor each time, so that there is another generation.
        dir.write("ca.crt", ca.certificate_pem() + &Ca::new(&number.to_string()).certificate_pem()).unwrap();
        let generation = reloader.reload_blocking().unwrap();
        shown.debug(&*generation);
        shown.debug(generation.retired());
        shown.debug(&reloader.status());
        shown.text("the status as JSON", &json(&reloader));
    }
    shown.debug(&reloader);
    shown.debug(&reloader.downgrade());
    shown.debug(&stream);
    shown.debug(&generations);
    shown.debug(&derived);
    shown.debug(&*derived.load());
    shown.debug(&Hub::new());
    let end = Instant::now() + BOUND;
    while !events
        .lock()
        .unwrap()
        .iter()
        .any(|event| matches!(&event.kind, EventKind::Reloaded(r) if r.generation.number() == 6))
    {
        assert!(Instant::now() < end, "{:?}", events.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut failures = 0;
    for event in events.lock().unwrap().iter() {
        shown.debug(event);
        shown.debug(&event.kind);
        match &event.kind {
            EventKind::Loaded(reload) | EventKind::Reloaded(reload) => shown.debug(reload),
            EventKind::Failed(failure) => {
                failures += 1;
                shown.debug(failure);
            }
            _ => {}
        }
    }
    assert!(failures > 0);
    while let Some(Ok(event)) = stream.try_next() {
        shown.debug(&event);
    }
    let text = candidates.lock().unwrap().clone();
    assert!(text.contains("Candidate"));
    shown.text("a candidate that a gate shows", &text);
    let text = heard.text();
    assert!(text.contains("loaded"), "tracing heard nothing");
    shown.text("tracing and metrics", &text);

    shown.is_all_of("certsource-reload", &["Closed", "Lagged", "Unbuilt"]);
}

#[cfg(feature = "serde")]
fn json(reloader: &Reloader) -> String {
    serde_json::to_string(&reloader.status()).unwrap()
}

#[cfg(not(feature = "serde"))]
fn json(_: &Reloader) -> String {
    String::new()
}
