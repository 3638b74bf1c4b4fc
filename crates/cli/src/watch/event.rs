//! Events as lines: for people, and as JSON with the field names of the contract.

use std::fmt::Write;
use std::time::SystemTime;

use certsource::inspect::{CrlInspection, Inspection};
use certsource::{Certificate, Digest, Error, Role};
use certsource_reload::{Event, EventKind, Failure, Reload};
use serde::Serialize;

use crate::duration;
use crate::error::safe;
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
    message: &'a str,
    serving: u64,
    withdrawal_pending: bool,
}

impl<'a> Failed<'a> {
    fn of(error: &'a Error, origin: Option<String>, serving: u64, withdrawal_pending: bool) -> Self {
        let path = error.path().map(|path| path.to_string_lossy().into_owned());
        let origin =
            error.origin().map(ToString::to_string).or(origin).or_else(|| path.clone()).unwrap_or_default();
        let (reason, message) = (error.reason().as_str(), error.message());
        Self { reason, origin, path, line: error.line(), message, serving, withdrawal_pending }
    }
}

#[derive(Serialize)]
struct Origin {
    origin: String,
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
        EventKind::Expired(expired) => {
            let generation = expired.number();
            line(output, at, name, &Number { origin, generation }, || {
                format!("the identity of generation {generation} is past its end; issue a new one")
            })
        }
        _ => line(output, at, name, &Origin { origin }, || event.origin.to_string()),
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
            let inspection = certificate.inspection();
            let who = match (inspection.subject(), inspection.sans().first()) {
                ("", Some(name)) => name.to_string(),
                ("", None) => String::from("(no subject)"),
                (subject, _) => subject.to_owned(),
            };
            let fingerprint = certificate.fingerprint().to_string();
            let _ = write!(
                text,
                " {sign}{role} {who} {} until {}",
                &fingerprint[..16],
                inspection.not_after_text()
            );
            if let Ok(left) = certificate.not_after().duration_since(SystemTime::now()) {
                let _ = write!(text, " (in {})", duration::rough(left));
            } else {
                text.push_str(" (EXPIRED)");
            }
        }
    }
    if reload.diff.added.is_empty() && reload.diff.removed.is_empty() {
        text.push_str(" new CRLs");
    }
    text
}

fn failure_in_words(failure: &Failure) -> String {
    let serving = match failure.serving {
        Some(number) => format!("generation {number} stays"),
        None => String::from("nothing is served yet"),
    };
    let pending = if failure.withdrawal_pending { "; a WITHDRAWN trust anchor is still trusted" } else { "" };
    safe(&format!("{}: {} ({serving}{pending})", failure.reason(), failure.error))
}
