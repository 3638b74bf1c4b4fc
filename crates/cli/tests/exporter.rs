//! `certsource exporter`: what a scrape gets, who gets it, and what it says while files rotate and break.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::OsStr;
use std::time::{Duration, Instant, SystemTime};

use certsource_testkit::{Ca, Damage, KubeletDir, TestDir, damage};

use crate::common::exporter::{Exporter, value};
use crate::common::{BOUND, run};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as f64
}

#[test]
fn a_fresh_list_hides_no_stale_one_of_its_issuer() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root");
    let now = SystemTime::now();
    let ends = [now + DAY * 30, now - DAY, now + DAY * 7];
    for (name, end) in ["a", "b", "c"].into_iter().zip(ends) {
        let crl = ca.crl_builder().this_update(now - DAY * 9).next_update(end).sign();
        dir.write(format!("{name}.crl"), crl.pem()).unwrap();
    }
    let text = Exporter::start(&[dir.path().as_os_str()]).metrics();
    assert_eq!(value(&text, "x509_crl_next_update", &["CN=Example root"]), Some(seconds(ends[1])));
    assert_eq!(text.matches("\nx509_crl_next_update{").count(), 1, "{text}");
}

#[test]
fn files_directories_and_patterns_are_exported() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root");
    let good = ca.issue("localhost");
    let now = SystemTime::now();
    let old = ca.leaf("old").not_before(now - DAY * 9).not_after(now - DAY).issue();
    ca.revoke(&old);
    let file = dir.write("tls.crt", good.chain_pem()).unwrap();
    dir.write("dir/old.crt", old.leaf_pem()).unwrap();
    dir.write("dir/ca.crl", ca.crl().pem()).unwrap();
    dir.write("a/x.crt", ca.certificate_pem()).unwrap();
    let named = format!("web={}", file.display());
    let exporter =
        Exporter::start(&[named.as_ref(), dir.join("dir").as_os_str(), dir.join("*/x.crt").as_os_str()]);
    let text = exporter.metrics();
    let of = |name: &str, parts: &[&str]| value(&text, name, parts);
    assert_eq!(
        of("x509_cert_not_after", &["source=\"web\"", "CN=localhost", "role=\"leaf\""]),
        Some(seconds(good.not_after()))
    );
    assert_eq!(
        of("x509_cert_not_before", &["source=\"web\"", "CN=localhost"]),
        Some(seconds(good.not_before()))
    );
    assert_eq!(of("x509_cert_expired", &["source=\"web\"", "CN=localhost"]), Some(0.0));
    assert_eq!(of("x509_cert_expired", &["source=\"2\"", "subject=\"CN=old\""]), Some(1.0));
    assert!(of("x509_cert_not_after", &["source=\"3\"", "CN=Example root", "role=\"root\""]).is_some());
    assert!(of("x509_crl_next_update", &["source=\"2\"", "issuer=\"CN=Example root\""]).is_some());
    for source in ["web", "2", "3"] {
        assert_eq!(of("x509_source_up", &[&format!("source=\"{source}\"")]), Some(1.0));
    }
    assert!(!text.contains(&*dir.path().to_string_lossy()), "paths are hidden: {text}");
    assert_eq!((exporter.get("/healthz").0, exporter.get("/readyz").0), (200, 200));
    assert_eq!(exporter.get("/problems").0, 404);

    let open =
        Exporter::start(&[OsStr::new("--show-details"), file.as_os_str(), dir.join("none").as_os_str()]);
    let text = open.metrics();
    assert!(text.contains(&format!("path=\"{}\"", file.display())), "{text}");
    assert_eq!(value(&text, "x509_source_up", &["source=\"2\""]), Some(0.0));
    assert_eq!(
        value(&text, "x509_source_errors_total", &["source=\"2\"", "reason=\"not_found\""]),
        Some(1.0)
    );
    assert!(
        open.get("/problems").1.contains("none: cannot open: no such file"),
        "{:?}",
        open.get("/problems")
    );
}

/// Waits until a scrape says so.
#[track_caller]
fn until(exporter: &Exporter, what: &str, is: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + BOUND;
    loop {
        let text = exporter.metrics();
        if is(&text) {
            return text;
        }
        assert!(Instant::now() < end, "not {what}: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_changes_and_what_goes_is_seen() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    dir.write("a.crt", ca.issue("one").leaf_pem()).unwrap();
    let exporter = Exporter::start(&[OsStr::new("--interval=50ms"), dir.path().as_os_str()]);
    assert!(exporter.metrics().contains("CN=one"));
    dir.write("a.crt", ca.issue("two").leaf_pem()).unwrap();
    // No series of what is gone stays behind.
    until(&exporter, "replaced", |text| text.contains("CN=two") && !text.contains("CN=one"));
    damage(dir.join("a.crt"), Damage::Half).unwrap();
    let text = until(&exporter, "down", |text| value(text, "x509_source_up", &["1"]) == Some(0.0));
    assert!(value(&text, "x509_source_errors_total", &["malformed"]) >= Some(1.0), "{text}");
    assert_eq!(exporter.get("/healthz").0, 200, "liveness never looks at certificates");
}

#[test]
fn a_source_is_followed() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("v");
    let ca = Ca::new("a");
    let volume = KubeletDir::from_dir(TestDir::at(&path).unwrap());
    let exporter =
        Exporter::start(&[OsStr::new("--kubernetes"), path.as_os_str(), OsStr::new("--interval=50ms")]);
    assert_eq!((exporter.get("/readyz").0, exporter.get("/healthz").0), (503, 200), "nothing is there yet");
    volume.swap(ca.issue("one")).unwrap();
    let text =
        until(&exporter, "loaded", |text| value(text, "certsource_generation", &["followed"]) == Some(1.0));
    assert_eq!(value(&text, "certsource_ready", &["followed"]), Some(1.0));
    let zero = |name: &str| value(&text, name, &["followed", "reason=\"malformed\""]) == Some(0.0);
    assert!(zero("certsource_reloads_total") && zero("x509_source_errors_total"), "before the first: {text}");
    let drift = value(&text, "certsource_drift", &["followed"]).unwrap();
    assert!(drift > 0.0 && drift.fract() == 0.0, "{drift}");
    assert_eq!(exporter.get("/readyz").0, 200);
    volume.swap(ca.issue("two")).unwrap();
    let text = until(&exporter, "reloaded", |text| {
        value(text, "certsource_reloads_total", &["result=\"success\""]) == Some(2.0)
    });
    assert_eq!(value(&text, "certsource_generation", &["followed"]), Some(2.0));
    assert!(text.contains("CN=two") && !text.contains("CN=one"), "{text}");
    assert_ne!(value(&text, "certsource_drift", &["followed"]), Some(drift));

    // Broken: what is served stays, and stays ready; that it is old is told.
    volume.swap(ca.issue("three")).unwrap();
    until(&exporter, "third", |text| value(text, "certsource_generation", &["followed"]) == Some(3.0));
    let broken = [("ca.crt", "garbage"), ("tls.crt", "garbage"), ("tls.key", "garbage")];
    volume.write(broken).unwrap();
    let text = until(&exporter, "failing", |text| {
        value(text, "certsource_failing_since_timestamp_seconds", &["followed"]) > Some(0.0)
    });
    assert_eq!(value(&text, "certsource_generation", &["followed"]), Some(3.0));
    assert_eq!(value(&text, "x509_source_up", &["followed"]), Some(0.0));
    // Hooks are told behind it.
    until(&exporter, "counted", |text| {
        value(text, "certsource_reloads_total", &["result=\"failure\"", "malformed"]) >= Some(1.0)
            && value(text, "x509_source_errors_total", &["followed", "malformed"]) >= Some(1.0)
    });
    assert_eq!(exporter.get("/readyz").0, 200);
    volume.swap(ca.issue("four")).unwrap();
    // A gauge does not stay at its old value.
    until(&exporter, "well again", |text| {
        value(text, "certsource_failing_since_timestamp_seconds", &["followed"]) == Some(0.0)
    });
}

/// What nobody can confirm is used no more: no certificate of it is told of, and nothing is ready.
#[test]
fn a_source_that_is_stale() {
    let issued = Ca::new("a").issue("one");
    let volume = KubeletDir::new(&issued).unwrap();
    let args = ["--interval=50ms", "--max-stale=3s", "--kubernetes"].map(OsStr::new);
    let exporter = Exporter::start(&[&args[..], &[volume.path().as_os_str()]].concat());
    let is = |name: &'static str, wanted: f64| {
        move |text: &str| value(text, name, &["source=\"followed\""]) == Some(wanted)
    };
    let text = until(&exporter, "loaded", is("certsource_generation", 1.0));
    assert!(value(&text, "x509_cert_not_after", &["followed", "CN=one"]).is_some(), "{text}");
    volume.write([("ca.crt", "garbage"), ("tls.crt", "garbage"), ("tls.key", "garbage")]).unwrap();
    let text = until(&exporter, "stale", is("certsource_generation", 0.0));
    assert!(is("certsource_ready", 0.0)(&text) && is("x509_source_up", 0.0)(&text), "{text}");
    assert_eq!(value(&text, "x509_cert_not_after", &["followed"]), None, "{text}");
    // It was published once: that is how the rule tells it from a source that has not loaded yet.
    assert!(value(&text, "certsource_published_timestamp_seconds", &["followed"]) > Some(0.0), "{text}");
    assert_eq!(exporter.get("/readyz").0, 503);
    volume.swap(&issued).unwrap();
    let text = until(&exporter, "well again", is("certsource_generation", 2.0));
    assert!(is("certsource_ready", 1.0)(&text) && text.contains("CN=one"), "{text}");
}

#[test]
fn only_hosts_that_are_meant_and_only_reading() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a.crt", Ca::new("a").issue("one").leaf_pem()).unwrap();
    let exporter = Exporter::start(&[path.as_os_str(), OsStr::new("--allow-host=node1.example")]);
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:9793", 200),
        ("node1.example:9793", 200),
        ("rebound.example", 403),
        ("localhost.rebound.example", 403),
    ] {
        assert_eq!(exporter.request("GET", "/metrics", host).0, status, "{host}");
    }
    assert_eq!(exporter.request("POST", "/metrics", "localhost").0, 405);
    assert_eq!(exporter.get("/etc/passwd").0, 404);
    assert_eq!(exporter.request("HEAD", "/metrics", "localhost"), (200, String::new()));
}

#[test]
fn what_it_cannot_do_is_one_line() {
    let none = run(["exporter"]);
    assert_eq!((none.code, &*none.stdout), (Some(2), ""));
    assert!(none.error_line().starts_with("error: nothing to export"), "{}", none.stderr);
    let port = run(["exporter", "--listen", "9793", "x.pem"]);
    assert!(
        port.error_line().contains("write it as ADDRESS:PORT, such as 127.0.0.1:9793"),
        "{}",
        port.stderr
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let used = run(["exporter", "--listen", &address, "x.pem"]);
    assert_eq!(used.code, Some(2));
    let line = used.error_line();
    assert!(
        line.starts_with(&format!(
            "error: cannot listen on {address}; choose another address or port with --listen"
        )),
        "{line}"
    );
}

#[cfg(unix)]
#[test]
fn it_ends_with_0_when_it_is_told_to() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a.crt", Ca::new("a").issue("one").leaf_pem()).unwrap();
    let mut exporter = Exporter::start(&[path.as_os_str()]);
    exporter.running.signal(rustix::process::Signal::TERM);
    assert_eq!(exporter.running.exit().code(), Some(0));
}

/// Names and values.
type Labels = Vec<(String, String)>;

/// Name, labels and value of a sample, read as Prometheus reads them: `None` for what it would not understand.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let name = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, mut rest) = line.split_at(name);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (mut value, mut chars) = (String::new(), after.chars());
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => value.push(match chars.next()? {
                        'n' => '\n',
                        c @ ('"' | '\\') => c,
                        _ => return None,
                    }),
                    c => value.push(c),
                }
            }
            labels.push((label.to_owned(), value));
            rest = chars.as_str();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    Some((name, labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// Names that would colour a terminal, turn its text around, end a label or begin a sample of their own.
#[test]
fn hostile_names_are_escaped() {
    let dir = TestDir::new().unwrap();
    let name = "\u{1b}[31mred\u{202e}\"\n} 1\nx509_cert_expired{a=\"b\"} 1\\";
    let ca = Ca::new(name);
    let issued = ca.leaf("a").issue();
    ca.revoke(&issued);
    let file = format!("a{}.crt", name.replace('/', ""));
    let path = dir.write(&file, issued.leaf_pem() + &ca.crl().pem()).unwrap();
    let volume = dir.join("v\u{202e}\n\"");
    KubeletDir::from_dir(TestDir::at(&volume).unwrap()).swap(&issued).unwrap();
    let args =
        [OsStr::new("--show-details"), path.as_os_str(), OsStr::new("--kubernetes"), volume.as_os_str()];
    let exporter = Exporter::start(&args);
    let text =
        until(&exporter, "loaded", |text| text.contains("certsource_generation{source=\"followed\"} 1"));
    assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    let mut expired = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("{line}"));
        let label =
            |name: &str| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str());
        expired += usize::from(name == "x509_cert_expired");
        if name.starts_with("x509_cert_") || name.starts_with("x509_crl_") {
            let shown = label("issuer").unwrap();
            // As names are written (RFC 4514).
            assert!(shown.contains("\\1b[31mred\\e2\\80\\ae\\22\\0a"), "{shown}");
            assert!(value > 1e9 || name == "x509_cert_expired" && value == 0.0, "{line}");
            let path = label("path").unwrap_or_default();
            assert!(path.contains("\\u{202e}") || name == "x509_crl_next_update", "{line}");
        }
    }
    // The leaf in the file; the leaf and its anchor in the volume.
    assert_eq!(expired, 3, "{text}");
    assert!(exporter.get("/problems").1 == "none\n");
}
