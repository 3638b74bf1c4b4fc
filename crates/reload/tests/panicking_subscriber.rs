//! An application's `tracing` subscriber runs on the threads of the hub. One that panics there, or that asks the reloader
//! something, must not end the following of a source. It is one for the whole process, so it has this file for itself.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use certsource::clock::Now;
use certsource::machine::Policy;
use certsource::parts::Parts;
use certsource::source::{Alarm, Armed, Arrival, Look};
use certsource::{Error, Origin, Source};
use certsource_reload::{Hub, Reloader};
use certsource_testkit::Ca;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use support::*;

/// The next warning panics.
static PANICS: AtomicBool = AtomicBool::new(false);

/// Asked for its status whenever a span is closed.
static ASKED: Mutex<Option<Reloader>> = Mutex::new(None);

struct Odd;

impl Odd {
    fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
    }
}

impl Subscriber for Odd {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "certsource"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            assert!(!PANICS.swap(false, Ordering::SeqCst), "on purpose");
        }
    }
    fn try_close(&self, _: Id) -> bool {
        let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reloader) = asked {
            let _ = reloader.status();
        }
        true
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Once it has changed, its next step tells that its watches are gone, and has its content read at once.
struct Changes {
    has_changed: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    first: Ca,
    second: Ca,
}

impl Source for Changes {
    fn origin(&self) -> Origin {
        Origin::named("changes")
    }
    fn arm(&mut self, _: &Alarm) -> Armed {
        if self.has_changed.load(Ordering::SeqCst) {
            return Armed::Degraded("no watches".into());
        }
        Armed::PollOnly
    }
    fn look(&mut self, _: Now) -> Result<Look, Error> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let has_changed = self.has_changed.load(Ordering::SeqCst);
        Ok(if has_changed { Look::Changed(Arrival::Swapped) } else { Look::Same })
    }
    fn read(&mut self) -> Result<Parts, Error> {
        let has_changed = self.has_changed.load(Ordering::SeqCst);
        anchors(&[if has_changed { &self.second } else { &self.first }])()
    }
}

#[test]
fn a_subscriber_that_panics_before_a_read_ends_nothing() {
    Odd::install();
    let has_changed = Arc::new(AtomicBool::new(false));
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let source = Changes { has_changed: Arc::clone(&has_changed), looks: Arc::default(), first, second };
    let mut policy = Policy::every(20 * MS);
    policy.settle = MS;
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(policy).start().unwrap();
    PANICS.store(true, Ordering::SeqCst);
    has_changed.store(true, Ordering::SeqCst);
    until("what came after the panic is served", || reloader.current().number() > 1);
    assert!(!PANICS.load(Ordering::SeqCst), "it did panic");
}

#[test]
fn a_subscriber_that_asks_for_the_status_when_a_span_is_closed_gets_it() {
    Odd::install();
    let looks = Arc::new(AtomicUsize::new(0));
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let source = Changes { has_changed: Arc::default(), looks: Arc::clone(&looks), first, second };
    let mut policy = Policy::every(20 * MS);
    policy.settle = MS;
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(policy).start().unwrap();
    *ASKED.lock().unwrap() = Some(reloader.clone());
    let enough = looks.load(Ordering::SeqCst) + 5;
    until("looks go on", || looks.load(Ordering::SeqCst) >= enough);
    *ASKED.lock().unwrap() = None;
    bounded("the status", move || drop(reloader.status()));
}
