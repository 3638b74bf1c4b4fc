//! Events as lines: for people, and as JSON with the field names of the contract.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use certsource::clock::Utc;
use certsource::inspect::{CrlInspection, Inspection};
use certsource::machine::{Expiring, Regressed, Stale, Threshold};
use certsource::{Certificate, Digest, Error, Reason, Role};
use certsource_reload::{Event, EventKind, Failure, Reload};
use serde::Serialize;

use crate::duration;
use crate::error::{safe, without_limits};
use crate::output::{self, Output};

#[derive(Serialize)]
struct Generation<'a> {
    generation: u64,
    digest: Digest,
    origin: String,
    certificates: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    crls: Vec<&'a CrlInspection>,
    added: Vec<Shown<'a>>,
    removed: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    role: Role,
    path: Option<String>,
    line: Option<usize>,
    #[serde(flatten)]
    inspection: &'a Inspection,
}

impl<'a> Shown<'a> {
    fn of(role: Role, certificate: &'a Certificate) -> Self {
        let path = certificate.origin().as_path().map(|path| path.to_string_lossy().into_owned());
        Self { role, path, line: certificate.line(), inspection: certificate.inspection() }
    }
}

#[derive(Serialize)]
struct Failed<'a> {
    reason: &'static str,
    origin: String,
    path: Option<String>,
    line: Option<usize>,
    message: Cow<'a, str>,
    serving: u64,
    withdrawal_pending: bool,
}

impl<'a> Failed<'a> {
    fn of(error: &'a Error, origin: Option<String>, serving: u64, withdrawal_pending: bool) -> Self {
        let path = error.path().map(|path| path.to_string_lossy().into_owned());
        let origin =
            error.origin().map(ToString::to_string).or(origin).or_else(|| path.clone()).unwrap_or_default();
        let (reason, message) = (error.reason().as_str(), without_limits(error.message()));
        Self { reason, origin, path, line: error.line(), message, serving, withdrawal_pending }
    }
}

#[derive(Serialize)]
struct Origin {
    origin: String,
}

/// One certificate that nears its end, and which step of that it has reached.
#[derive(Serialize)]
struct Nearing<'a> {
    origin: String,
    generation: u64,
    threshold: Step,
    expires_in_seconds: i64,
    certificate: Shown<'a>,
}

/// A threshold: a time left, or a share of the life used, 0.0 to 1.0.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    BeforeSeconds(u64),
    Used(f64),
    Other(String),
}

/// What went back.
#[derive(Serialize)]
struct Back<'a> {
    origin: String,
    what: &'static str,
    /// The anchor that is there again, or the new leaf.
    certificate: Option<Shown<'a>>,
    /// The leaf that the new one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Shown<'a>>,
}

/// That nothing is used any more, and why.
#[derive(Serialize)]
struct NothingUsed {
    reason: &'static str,
    origin: String,
    /// What was used until then.
    generation: u64,
    serving: u64,
    /// When it was last confirmed.
    since: String,
    max_stale_seconds: f64,
    message: String,
    /// What is wrong with the files, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
}

#[derive(Serialize)]
struct Degraded<'a> {
    origin: String,
    message: &'a str,
}

#[derive(Serialize)]
struct Number {
    origin: String,
    generation: u64,
}

/// Tells one event.
pub(crate) fn tell(output: &Output, event: &Event) -> anyhow::Result<()> {
    let (at, name, origin) = (event.at, event.kind.as_str(), event.origin.to_string());
    match &event.kind {
        EventKind::Loaded(reload) | EventKind::Reloaded(reload) => {
            if output.is_json() {
                output.json(at, name, &generation(origin, reload))
            } else {
                output.text(&format!("{} {name} {}", output::rfc3339(at), in_words(reload, name == "loaded")))
            }
        }
        EventKind::Pending(failure) | EventKind::Failed(failure) | EventKind::Rejected(failure) => {
            let record =
                Failed::of(&failure.error, Some(origin), failure.serving(), failure.withdrawal_pending);
            line(output, at, name, &record, || failure_in_words(failure))
        }
        EventKind::Recovered => line(output, at, name, &Origin { origin }, || event.origin.to_string()),
        EventKind::Degraded(message) => {
            line(output, at, name, &Degraded { origin, message }, || safe(message))
        }
        EventKind::Retired(generation) => {
            line(output, at, name, &Number { origin, generation: *generation }, || {
                format!("generation {generation}")
            })
        }
        EventKind::Stale(stale) => {
            let record = NothingUsed {
                reason: Reason::Stale.as_str(),
                origin,
                generation: stale.generation,
                serving: 0,
                since: output::rfc3339(stale.since),
                max_stale_seconds: stale.limit.as_secs_f64(),
                message: without_limits(&stale.to_string()).into_owned(),
                cause: stale.error.as_ref().map(|error| error.reason().as_str()),
            };
            line(output, at, name, &record, || stale_in_words(stale, at))
        }
        EventKind::Expired(expired) => {
            let generation = expired.number();
            line(output, at, name, &Number { origin, generation }, || {
                format!("the identity of generation {generation} is past its end; issue a new one")
            })
        }
        EventKind::Expiring(expiring) => {
            let step = match expiring.threshold {
                Threshold::Before(left) => Step::BeforeSeconds(left.as_secs()),
                Threshold::Used(share) => Step::Used(share),
                other => Step::Other(format!("{other:?}")),
            };
            let record = Nearing {
                origin,
                generation: expiring.generation,
                threshold: step,
                expires_in_seconds: seconds_until(expiring.certificate.not_after(), at),
                certificate: Shown::of(expiring.role, &expiring.certificate),
            };
            line(output, at, name, &record, || nearing_in_words(expiring))
        }
        EventKind::Regressed(back) => {
            let (what, certificate, before) = match back {
                Regressed::AnchorReturned(anchor) => {
                    ("anchor_returned", Some(Shown::of(Role::Anchor, anchor)), None)
                }
                Regressed::LeafOlder { leaf, before } => {
                    ("leaf_older", Some(Shown::of(Role::Leaf, leaf)), Some(Shown::of(Role::Leaf, before)))
                }
                _ => ("other", None, None),
            };
            line(output, at, name, &Back { origin, what, certificate, before }, || back_in_words(back))
        }
        _ => line(output, at, name, &Origin { origin }, || event.origin.to_string()),
    }
}

/// Below zero for what is past.
fn seconds_until(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}

/// `generation 1 leaf CN=web 3c4d… until 2026-05-01T12:00:00Z (in 12 d): 30 d or less are left`
fn nearing_in_words(expiring: &Expiring) -> String {
    let step = match expiring.threshold {
        Threshold::Before(left) if left.is_zero() => String::from("its end is reached"),
        Threshold::Before(left) => format!("{} or less are left", duration::rough(left)),
        Threshold::Used(share) => format!("{}% of its life are used", (share * 1e4).round() / 1e2),
        _ => String::from("a threshold is passed"),
    };
    format!(
        "generation {} {} {}: {step}",
        expiring.generation,
        expiring.role,
        certificate_in_words(&expiring.certificate)
    )
}

/// `generation 3 is used no more: not confirmed for 6 h (since 2026-05-01T12:00:00Z); key_mismatch: …`
fn stale_in_words(stale: &Stale, at: SystemTime) -> String {
    let unconfirmed = duration::rough(at.duration_since(stale.since).unwrap_or(stale.limit));
    let cause = match &stale.error {
        Some(error) => format!("{}: {}", error.reason(), without_limits(&error.to_string())),
        None => String::from("the files did not answer, or never stood still"),
    };
    safe(&format!(
        "generation {} is used no more: not confirmed for {unconfirmed} (since {}); {cause}",
        stale.generation,
        Utc(stale.since)
    ))
}

fn back_in_words(back: &Regressed) -> String {
    match back {
        Regressed::AnchorReturned(anchor) => {
            format!("an anchor that was withdrawn is trusted again: {}", certificate_in_words(anchor))
        }
        Regressed::LeafOlder { leaf, before } => format!(
            "the new leaf {} is valid from {}, the one it replaces from {}: an old copy was brought back",
            certificate_in_words(leaf),
            Utc(leaf.not_before()),
            Utc(before.not_before())
        ),
        _ => String::from("a step back"),
    }
}

/// Tells the failure of a first load, as a `failed` event.
pub(crate) fn failed(output: &Output, at: SystemTime, error: &Error) -> anyhow::Result<()> {
    output.json(at, "failed", &Failed::of(error, None, 0, false))
}

/// Writes a record, or `TIME NAME WORDS`.
pub(crate) fn line(
    output: &Output,
    at: SystemTime,
    name: &str,
    record: &impl Serialize,
    words: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(at, name, record)
    } else {
        output.text(&format!("{} {name} {}", output::rfc3339(at), words()))
    }
}

fn shown(list: &[(Role, Certificate)]) -> Vec<Shown<'_>> {
    list.iter().map(|(role, certificate)| Shown::of(*role, certificate)).collect()
}

fn generation(origin: String, reload: &Reload) -> Generation<'_> {
    let material = reload.generation.material();
    Generation {
        generation: reload.generation.number(),
        digest: material.digest(),
        origin,
        certificates: material
            .certificates()
            .map(|(role, certificate)| Shown::of(role, certificate))
            .collect(),
        crls: material.crls().into_iter().flatten().map(certsource::Crl::inspection).collect(),
        added: shown(&reload.diff.added),
        removed: shown(&reload.diff.removed),
    }
}

/// `generation 2 sha256:1a2b… +leaf CN=web 3c4d… until 2026-05-01T12:00:00Z (in 89 d) -leaf CN=web …`
fn in_words(reload: &Reload, is_first: bool) -> String {
    let digest = reload.generation.digest().to_string();
    let mut text = format!("generation {} {}", reload.generation.number(), &digest[..digest.len().min(23)]);
    let signs = [(if is_first { "" } else { "+" }, &reload.diff.added), ("-", &reload.diff.removed)];
    for (sign, list) in signs {
        for (role, certificate) in list {
            let _ = write!(text, " {sign}{role} {}", certificate_in_words(certificate));
        }
    }
    if reload.diff.added.is_empty() && reload.diff.removed.is_empty() {
        // Other lists, another order; or after `stale` the same again.
        text.push_str(" the same certificates");
        for crl in reload.generation.material().crls().into_iter().flatten() {
            let crl = crl.inspection();
            let number = crl.number().map_or_else(String::new, |number| format!(" number {number}"));
            let until = crl.next_update_text().map_or_else(String::new, |until| format!(" until {until}"));
            let _ = write!(text, ", crl {}{number}{until}", crl.issuer());
        }
    }
    text
}

/// `CN=web 3c4d… until 2026-05-01T12:00:00Z (in 89 d)`
fn certificate_in_words(certificate: &Certificate) -> String {
    let inspection = certificate.inspection();
    let who = match (inspection.subject(), inspection.sans().first()) {
        ("", Some(name)) => name.to_string(),
        ("", None) => String::from("(no subject)"),
        (subject, _) => subject.to_owned(),
    };
    let fingerprint = certificate.fingerprint().to_string();
    let when = match certificate.not_after().duration_since(SystemTime::now()) {
        Ok(left) => format!("in {}", duration::rough(left)),
        Err(_) => String::from("EXPIRED"),
    };
    format!("{who} {} until {} ({when})", &fingerprint[..16], inspection.not_after_text())
}

fn failure_in_words(failure: &Failure) -> String {
    let serving = match failure.serving {
        Some(number) => format!("generation {number} stays"),
        None => String::from("nothing is served yet"),
    };
    let pending = if failure.withdrawal_pending { "; a WITHDRAWN trust anchor is still trusted" } else { "" };
    let error = failure.error.to_string();
    safe(&format!("{}: {} ({serving}{pending})", failure.reason(), without_limits(&error)))
}
