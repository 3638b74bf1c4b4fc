//! The feature `metrics`: what happens to a source, for whatever recorder the application has installed for the facade of
//! the same name. Without a recorder nothing is kept.
//!
//! Names and labels are a contract. Moments are given as seconds since 1970 and not as ages, so that none goes stale while
//! nothing happens: the age is `time() - certsource_published_timestamp_seconds`. Gauges are set from the state of the
//! source, after each event and after each look: none stays at what was true before.

use std::time::{Duration, SystemTime};

use certsource::{Origin, Reason};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::event::EventKind;
use crate::status::Status;

/// Loads and refused or failed loads. Labels: `source`, `result` (`success`, `failure`), `reason` (`none` for a success).
/// Every reason is there from the start, at 0.
const RELOADS: &str = "certsource_reloads_total";
/// The number of the served generation; 0 before the first, when the source is followed no more, and when nothing of it is
/// served (`stale`).
const GENERATION: &str = "certsource_generation";
/// A number made of the served digest: instances that serve the same have the same. No label changes with it.
const DRIFT: &str = "certsource_drift";
/// When the served generation was published.
const PUBLISHED: &str = "certsource_published_timestamp_seconds";
/// The earliest end of validity in the served generation.
const EXPIRES: &str = "certsource_expires_timestamp_seconds";
/// Since when the source cannot be followed, also when a part of it is; 0 while all is well.
const FAILING: &str = "certsource_failing_since_timestamp_seconds";
/// Whether a withdrawn anchor is still trusted, because something else is broken: 1 or 0.
const WITHDRAWAL: &str = "certsource_withdrawal_pending";
/// Whether a generation is served and its identity is valid: 1 or 0.
const READY: &str = "certsource_ready";

/// Tells the recorder what the names mean. For applications that install theirs before the first source is followed;
/// may be called again.
pub fn describe() {
    describe_counter!(RELOADS, "Loads of a source, by result and reason");
    describe_gauge!(GENERATION, "The number of the generation that is served");
    describe_gauge!(DRIFT, "A number made of the digest of what is served: equal where the same is served");
    describe_gauge!(PUBLISHED, Unit::Seconds, "When the served generation was published, since 1970");
    describe_gauge!(EXPIRES, Unit::Seconds, "The earliest end of validity of what is served, since 1970");
    describe_gauge!(FAILING, Unit::Seconds, "Since when the source can not be followed; 0 while it can");
    describe_gauge!(WITHDRAWAL, "Whether a withdrawn CA is still trusted, because something else is broken");
    describe_gauge!(READY, "Whether a generation is served and valid");
}

/// The source is followed from now on. A counter that is born with its first count shows no increase.
pub(crate) fn begin(origin: &Origin) {
    let source = origin.to_string();
    reloads(&source, "success", "none", 0);
    for reason in Reason::ALL {
        reloads(&source, "failure", reason.as_str(), 0);
    }
}

/// One event of a source.
pub(crate) fn event(origin: &Origin, kind: &EventKind) {
    match kind {
        EventKind::Loaded(_) | EventKind::Reloaded(_) => reloads(&origin.to_string(), "success", "none", 1),
        EventKind::Failed(failure) | EventKind::Rejected(failure) => {
            reloads(&origin.to_string(), "failure", failure.reason().as_str(), 1);
        }
        _ => {}
    }
}

fn reloads(source: &str, result: &'static str, reason: &'static str, more: u64) {
    counter!(RELOADS, "source" => source.to_owned(), "result" => result, "reason" => reason).increment(more);
}

/// All gauges of a source at once.
pub(crate) fn show(status: &Status, now: SystemTime) {
    let source = status.origin.to_string();
    let set = |name: &'static str, value: f64| gauge!(name, "source" => source.clone()).set(value);
    // What is not served any more is no generation that is served.
    set(GENERATION, if status.stale { 0.0 } else { status.generation as f64 });
    if let (Some(digest), Some(published)) = (status.digest, status.published_at) {
        set(DRIFT, digest.number() as f64);
        set(PUBLISHED, seconds(published));
        set(EXPIRES, status.expires_at.map_or(f64::INFINITY, seconds));
    }
    let since = status.failing_seconds.map(Duration::from_secs_f64);
    set(FAILING, since.and_then(|since| now.checked_sub(since)).map_or(0.0, seconds));
    set(WITHDRAWAL, f64::from(u8::from(status.withdrawal_pending)));
    set(READY, f64::from(u8::from(status.is_ready_at(now))));
}

/// The source is followed no more: what its gauges said is true no longer.
pub(crate) fn gone(origin: &Origin) {
    let source = origin.to_string();
    for name in [GENERATION, FAILING, WITHDRAWAL] {
        gauge!(name, "source" => source.clone()).set(0.0);
    }
    for name in [DRIFT, PUBLISHED, EXPIRES, READY] {
        gauge!(name, "source" => source.clone()).set(f64::NAN);
    }
}

fn seconds(at: SystemTime) -> f64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
