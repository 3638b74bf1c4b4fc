//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use certsource::inspect::{CrlInspection, Inspection};
use certsource::text::Escaped;

use super::State;
use super::collect::{Item, SourceState};
use super::follow::{NAME, Seen};

/// So much of a fingerprint tells certificates apart.
const SHORT: usize = 16;

/// A label's value in quotes.
pub(super) fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            // What acts on a terminal, turns text around or hides is escaped as everywhere else; the backslash of that as
            // this format wants.
            c if c.is_control() || !c.is_ascii() => {
                let shown = Escaped::new(c.encode_utf8(&mut [0; 4])).to_string();
                text.push_str(&shown.replace('\\', "\\\\"));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

pub(super) fn certificate_labels(
    source: &str,
    role: &str,
    inspection: &Inspection,
    path: Option<&Path>,
) -> String {
    let print = inspection.fingerprint().to_string();
    let mut labels = format!(
        "source={},role=\"{role}\",subject={},issuer={},serial=\"{}\",fingerprint=\"{}\"",
        quoted(source),
        quoted(&subject(inspection)),
        quoted(inspection.issuer()),
        inspection.serial(),
        &print[..SHORT]
    );
    with_path(&mut labels, path);
    labels
}

/// The subject; the first name of a certificate that has none.
fn subject(inspection: &Inspection) -> String {
    match (inspection.subject(), inspection.sans().first()) {
        ("", Some(name)) => name.to_string(),
        (subject, _) => subject.to_owned(),
    }
}

pub(super) fn crl_labels(source: &str, inspection: &CrlInspection, path: Option<&Path>) -> String {
    let mut labels = format!("source={},issuer={}", quoted(source), quoted(inspection.issuer()));
    with_path(&mut labels, path);
    labels
}

fn with_path(labels: &mut String, path: Option<&Path>) {
    if let Some(path) = path {
        let _ = write!(labels, ",path={}", quoted(&path.to_string_lossy()));
    }
}

/// Everything, as one scrape gets it.
pub(super) fn metrics(state: &State, now: SystemTime) -> String {
    let snapshot = state.snapshot();
    let followed = state.followed.as_ref().map(|followed| followed.seen());
    let files = || snapshot.iter().flat_map(|snapshot| &snapshot.files);
    let items = || {
        let followed = followed.iter().flat_map(|seen| seen.items.iter());
        files().flat_map(|items| items.iter()).chain(followed)
    };
    let certificates = || items().filter(|item| !item.is_crl);
    let length: usize = items().map(|item| item.labels.len() + 50).sum();
    let mut text = String::with_capacity(3 * length + 8192);
    let all = &mut text;
    family(all, "x509_cert_not_after", "gauge", "End of the certificate's validity, in seconds since 1970.");
    certificates().for_each(|item| sample(all, "x509_cert_not_after", item, seconds(item.not_after)));
    family(
        all,
        "x509_cert_not_before",
        "gauge",
        "Begin of the certificate's validity, in seconds since 1970.",
    );
    certificates().for_each(|item| sample(all, "x509_cert_not_before", item, seconds(item.not_before)));
    family(all, "x509_cert_expired", "gauge", "Whether the certificate is past its end: 1 or 0.");
    certificates().for_each(|item| sample(all, "x509_cert_expired", item, i64::from(now > item.not_after)));
    family(
        all,
        "x509_crl_next_update",
        "gauge",
        "When the issuer promised the next list, in seconds since 1970.",
    );
    items().filter(|item| item.is_crl).for_each(|item| {
        sample(all, "x509_crl_next_update", item, seconds(item.not_after));
    });
    let sources: &[SourceState] = snapshot.as_ref().map_or(&[], |snapshot| &snapshot.sources);
    self::sources(all, followed.as_ref(), sources);
    if let Some(snapshot) = snapshot.as_ref().filter(|_| !sources.is_empty()) {
        family(all, "x509_scan_timestamp_seconds", "gauge", "When the files were looked at last.");
        let _ = writeln!(all, "x509_scan_timestamp_seconds {}", seconds(snapshot.collected));
        family(all, "x509_scan_duration_seconds", "gauge", "How long that took.");
        let _ = writeln!(all, "x509_scan_duration_seconds {:.6}", snapshot.took.as_secs_f64());
    }
    if let Some(seen) = &followed {
        generation(all, seen, now);
    }
    family(all, "certsource_build_info", "gauge", "The version of this program.");
    let _ = writeln!(all, "certsource_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    text
}

fn sources(all: &mut String, followed: Option<&Seen>, sources: &[SourceState]) {
    family(all, "x509_source_up", "gauge", "Whether everything of the source could be read: 1 or 0.");
    for source in sources {
        let _ = writeln!(all, "x509_source_up{{{}}} {}", source.labels, i64::from(source.is_up));
    }
    if let Some(seen) = followed {
        let is_up = seen.status.as_ref().is_some_and(|status| status.reason.is_none());
        let _ = writeln!(all, "x509_source_up{{source=\"{NAME}\"}} {}", i64::from(is_up));
    }
    if !sources.is_empty() {
        family(
            all,
            "x509_source_certificates",
            "gauge",
            "How many certificates and lists were read in the source.",
        );
        for source in sources {
            let _ = writeln!(all, "x509_source_certificates{{{}}} {}", source.labels, source.certificates);
        }
    }
    let mut errors = Vec::new();
    for source in sources {
        errors.extend(source.errors.iter().map(|(reason, count)| (source.labels.clone(), *reason, *count)));
    }
    if let Some(seen) = followed {
        let labels = format!("source=\"{NAME}\"");
        errors.extend(seen.counts.failures.iter().map(|(reason, count)| (labels.clone(), *reason, *count)));
    }
    if !errors.is_empty() {
        family(all, "x509_source_errors_total", "counter", "How often reading failed, by reason.");
        for (labels, reason, count) in errors {
            let _ = writeln!(all, "x509_source_errors_total{{{labels},reason=\"{reason}\"}} {count}");
        }
    }
}

/// What is followed.
fn generation(all: &mut String, seen: &Seen, now: SystemTime) {
    let (counts, status) = (&seen.counts, seen.status.as_ref());
    family(all, "certsource_reloads_total", "counter", "Loads of a source, by result and reason.");
    let success = [("success", "none", counts.reloads)];
    let failures = counts.failures.iter().map(|(reason, count)| ("failure", *reason, *count));
    for (result, reason, count) in success.into_iter().chain(failures) {
        let labels = format!("source=\"{NAME}\",result=\"{result}\",reason=\"{reason}\"");
        let _ = writeln!(all, "certsource_reloads_total{{{labels}}} {count}");
    }
    let mut gauge = |name: &str, help: &str, value: f64| {
        family(all, name, "gauge", help);
        let _ = writeln!(all, "{name}{{source=\"{NAME}\"}} {value}");
    };
    gauge(
        "certsource_generation",
        "The number of the generation that is served; 0 before the first.",
        status.filter(|status| !status.stale).map_or(0.0, |status| status.generation as f64),
    );
    if let Some(digest) = status.and_then(|status| status.digest) {
        let help = "A number made of the digest of what is served: equal where the same is served.";
        gauge("certsource_drift", help, digest.number() as f64);
    }
    // Moments and not ages, under the names of the library's own metrics.
    let moment = |at: Option<SystemTime>| at.map_or(0.0, |at| seconds(at) as f64);
    gauge(
        "certsource_published_timestamp_seconds",
        "When the served generation was published, since 1970.",
        moment(status.and_then(|status| status.published_at)),
    );
    if let Some(expires) = status.and_then(|status| status.expires_at) {
        gauge(
            "certsource_expires_timestamp_seconds",
            "The earliest end of validity of what is served, since 1970.",
            moment(Some(expires)),
        );
    }
    let failing = status.and_then(|status| status.failing_seconds);
    let failing = failing.and_then(|since| now.checked_sub(Duration::from_secs_f64(since)));
    gauge(
        "certsource_failing_since_timestamp_seconds",
        "Since when the source can not be followed, so that what is served may be old; 0 while it can.",
        moment(failing),
    );
    gauge(
        "certsource_withdrawal_pending",
        "Whether a withdrawn CA is still trusted, because something else is broken: 1 or 0.",
        f64::from(u8::from(status.is_some_and(|status| status.withdrawal_pending))),
    );
    gauge(
        "certsource_ready",
        "Whether a generation is served and valid: 1 or 0.",
        f64::from(u8::from(status.is_some_and(|status| status.is_ready_at(now)))),
    );
}

fn family(all: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(all, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn sample(all: &mut String, name: &str, item: &Item, value: i64) {
    all.push_str(name);
    all.push('{');
    all.push_str(&item.labels);
    all.push_str("} ");
    let _ = writeln!(all, "{value}");
}

fn seconds(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_quoted() {
        assert_eq!(quoted("a\\b\"c\nd\u{1b}"), "\"a\\\\b\\\"c\\nd\\\\u{1b}\"");
        // Not shown backwards, and what is only foreign stays.
        assert_eq!(quoted("ü\u{202e}pem.crt"), "\"ü\\\\u{202e}pem.crt\"");
    }
}
