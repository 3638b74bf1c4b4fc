//! The feature `metrics`: what happens to a source, for whatever recorder the application has installed for the facade of
//! the same name. Without a recorder nothing is kept.
//!
//! Names and labels are a contract. Moments are given as seconds since 1970 and not as ages, so that none goes stale while
//! nothing happens: the age is `time() - certsource_published_timestamp_seconds`.

use std::time::SystemTime;

use certsource::Origin;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::event::EventKind;
use crate::generation::Generation;

/// Loads and refused or failed loads. Labels: `source`, `result` (`success`, `failure`), `reason` (`none` for a success).
const RELOADS: &str = "certsource_reloads_total";
/// The number of the served generation; 0 when the source is followed no more, or when nothing of it is served (`stale`).
const GENERATION: &str = "certsource_generation";
/// A number made of the served digest: instances that serve the same have the same. No label changes with it.
const DRIFT: &str = "certsource_drift";
/// When the served generation was published.
const PUBLISHED: &str = "certsource_published_timestamp_seconds";
/// The earliest end of validity in the served generation.
const EXPIRES: &str = "certsource_expires_timestamp_seconds";
/// Since when the source cannot be followed; 0 while all is well.
const FAILING: &str = "certsource_failing_since_timestamp_seconds";

/// Tells the recorder what the names mean. For applications that install theirs before the first source is followed;
/// may be called again.
pub fn describe() {
    describe_counter!(RELOADS, "Loads of a source, by result and reason");
    describe_gauge!(GENERATION, "The number of the generation that is served");
    describe_gauge!(DRIFT, "A number made of the digest of what is served: equal where the same is served");
    describe_gauge!(PUBLISHED, Unit::Seconds, "When the served generation was published, since 1970");
    describe_gauge!(EXPIRES, Unit::Seconds, "The earliest end of validity of what is served, since 1970");
    describe_gauge!(FAILING, Unit::Seconds, "Since when the source can not be followed; 0 while it can");
}

/// One event of a source.
pub(crate) fn event(origin: &Origin, at: SystemTime, kind: &EventKind) {
    let source = origin.to_string();
    match kind {
        EventKind::Loaded(reload) | EventKind::Reloaded(reload) => {
            counter!(RELOADS, "source" => source.clone(), "result" => "success", "reason" => "none")
                .increment(1);
            serving(source, &reload.generation);
        }
        EventKind::Failed(failure) | EventKind::Rejected(failure) => {
            let reason = failure.reason().as_str();
            counter!(RELOADS, "source" => source.clone(), "result" => "failure", "reason" => reason)
                .increment(1);
            gauge!(FAILING, "source" => source).set(seconds(at));
        }
        EventKind::Stale(_) => gauge!(GENERATION, "source" => source).set(0.0),
        EventKind::Recovered => gauge!(FAILING, "source" => source).set(0.0),
        _ => {}
    }
}

/// All gauges of a generation at once: none stays at the one before.
fn serving(source: String, generation: &Generation) {
    let material = generation.material();
    let expires = material.identity_not_after().or_else(|| material.earliest_not_after());
    gauge!(GENERATION, "source" => source.clone()).set(generation.number() as f64);
    gauge!(DRIFT, "source" => source.clone()).set(generation.digest().number() as f64);
    gauge!(PUBLISHED, "source" => source.clone()).set(seconds(generation.published_at()));
    gauge!(EXPIRES, "source" => source.clone()).set(expires.map_or(f64::INFINITY, seconds));
    gauge!(FAILING, "source" => source).set(0.0);
}

/// The source is followed no more: what its gauges said is true no longer.
pub(crate) fn gone(origin: &Origin) {
    let source = origin.to_string();
    gauge!(GENERATION, "source" => source.clone()).set(0.0);
    for name in [DRIFT, PUBLISHED, EXPIRES] {
        gauge!(name, "source" => source.clone()).set(f64::NAN);
    }
    gauge!(FAILING, "source" => source).set(0.0);
}

fn seconds(at: SystemTime) -> f64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
