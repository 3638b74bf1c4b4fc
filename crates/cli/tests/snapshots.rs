//! What every command prints, held as it is: its help, and its output on staged files.
//!
//! What differs from run to run (times, digests, paths, ports) is replaced by a word in brackets first. After a change
//! that is meant: `SNAPSHOTS=overwrite cargo test -p certsource-cli --test snapshots`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, KubeletDir, TestDir};
use snapbox::Data;

use crate::common::exporter::Exporter;
use crate::common::server::{Server, config};
use crate::common::{Finished, run};

const COMMANDS: [&str; 7] = ["demo", "get", "watch", "inspect", "check", "doctor", "exporter"];
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Compares with `tests/snapshots/NAME.txt`.
#[track_caller]
fn hold(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
    let expected = Data::read_from(&path, Some(snapbox::data::DataFormat::Text)).raw();
    let actual = Data::text(text).raw();
    snapbox::Assert::new().action_env("SNAPSHOTS").eq(actual, expected);
}

/// Command, exit code, both outputs.
fn shown(args: &[&OsStr], finished: &Finished, stage: &Path) -> String {
    let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
    let code = finished.code.map_or_else(|| String::from("none"), |code| code.to_string());
    let text = format!(
        "$ certsource {}\n{}{}exit code {code}\n\n",
        words.join(" "),
        finished.stdout,
        finished.stderr
    );
    scrub(&text.replace(&*stage.to_string_lossy(), "[DIR]"))
}

/// Runs each command line on the stage and holds what they say together.
#[track_caller]
fn hold_runs(name: &str, stage: &Path, runs: &[&[&OsStr]]) {
    let text: String = runs.iter().map(|args| shown(args, &run(args.iter().copied()), stage)).collect();
    assert!(!text.contains(|c: char| c != '\n' && c.is_control()), "{text:?}");
    hold(name, &text);
}

/// Replaces what differs from run to run.
fn scrub(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        // Modes, sizes and file systems are the machine's.
        let line = match line.split_once(" is a regular file of ") {
            Some((before, after)) => {
                let end = after.find(';').unwrap_or(after.len());
                format!("{before} [FACTS]{}", &after[end..])
            }
            None => line.to_owned(),
        };
        let mut rest = line.as_str();
        while let Some(c) = rest.chars().next() {
            let (word, length) = token(rest);
            out.push_str(&word);
            rest = &rest[length.max(c.len_utf8())..];
        }
        out.push('\n');
    }
    out
}

/// What the text begins with, and how long that is.
fn token(text: &str) -> (String, usize) {
    let run = |is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let hex = run(|c| c.is_ascii_hexdigit());
    if text.starts_with("..2") {
        // A version of a Kubernetes volume.
        return (String::from("[VERSION]"), run(|c| c.is_ascii_digit() || c == '_' || c == '.'));
    }
    let moment = text.get(..20).filter(|text| text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T');
    if let Some(moment) = moment.filter(|moment| moment.starts_with("20")) {
        let end = text.find('Z').map_or(moment.len(), |end| end + 1);
        return (String::from("[TIME]"), end);
    }
    if let Some(minute) = text.get(..16).filter(|text| text.starts_with("20") && text.as_bytes()[13] == b':')
    {
        return (String::from("[DAY AND TIME]"), minute.len());
    }
    if hex >= 12 {
        return (format!("[{hex} HEX]"), hex);
    }
    let digits = run(|c| c.is_ascii_digit());
    if digits > 0 {
        let number = &text[..digits];
        let after = &text[digits..];
        let share = after
            .strip_prefix('.')
            .map_or(0, |rest| rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(0) + 1);
        let unit = &after[share..];
        for name in [" ms", " µs", " s ago", " s;", " s,", " s"] {
            let is_word = unit.get(name.len()..).is_none_or(|rest| !rest.starts_with(char::is_alphanumeric));
            if unit.starts_with(name) && is_word {
                let tail = if name.ends_with([';', ',']) { &name[name.len() - 1..] } else { "" };
                let ago = if name.ends_with("ago") { " ago" } else { "" };
                return (format!("[TOOK]{ago}{tail}"), digits + share + name.len());
            }
        }
        // Ports that the system chose.
        if digits == 5 {
            return (String::from("[PORT]"), digits);
        }
        // Seconds that pass while the test runs.
        if digits > 5 {
            return (String::from("[NUMBER]"), digits);
        }
        return (number.to_owned(), digits);
    }
    let word = run(char::is_alphanumeric).max(text.chars().next().map_or(0, char::len_utf8));
    (text[..word].to_owned(), word)
}

#[test]
fn help() {
    hold("help", &run(["--help"]).stdout);
    for command in COMMANDS {
        hold(&format!("help-{command}"), &run([command, "--help"]).stdout);
    }
}

/// A root, a leaf below an intermediate, its key, a list and something broken.
fn stage() -> (TestDir, Ca) {
    let dir = TestDir::new().unwrap();
    let now = SystemTime::now();
    let root =
        Ca::builder("Example root").not_before(now - DAY * 100).not_after(now + DAY * 900 + DAY / 2).build();
    let ca = Ca::builder("Example issuing CA").signed_by(&root).not_before(now - DAY * 50);
    let ca = ca.not_after(now + DAY * 400 + DAY / 2).build();
    let issued = ca.leaf("localhost").not_before(now - DAY).not_after(now + DAY * 12 + DAY / 2).issue();
    ca.revoke(&issued);
    dir.write("tls.crt", issued.chain_pem()).unwrap();
    let key = dir.write("tls.key", issued.key_pem()).unwrap();
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    dir.write("ca.crt", root.certificate_pem()).unwrap();
    let crl = ca.crl_builder().this_update(now - DAY).next_update(now + DAY * 5 + DAY / 2).number(7).sign();
    dir.write("ca.crl", crl.pem()).unwrap();
    dir.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    (dir, ca)
}

#[test]
fn inspect() {
    let (dir, _) = stage();
    let at = |name: &str| dir.join(name).into_os_string();
    let (cert, key, ca, crl) = (at("tls.crt"), at("tls.key"), at("ca.crt"), at("ca.crl"));
    let [all, json, pem, line, by] =
        ["--all", "--format=json", "--format=pem", "--timeline", "--key"].map(OsStr::new);
    let inspect = OsStr::new("inspect");
    hold_runs(
        "inspect",
        dir.path(),
        &[
            &[inspect, &cert],
            &[inspect, all, &cert, &ca, &crl, by, &key],
            &[inspect, line, all, &cert, &ca, &crl],
            &[inspect, json, all, &cert, &crl, &key],
            &[inspect, dir.path().as_os_str()],
            &[inspect, at("none").as_os_str()],
        ],
    );
    let text = run([inspect, pem, &cert]).stdout;
    assert!(text.starts_with("# leaf CN=localhost until "), "{text}");
}

#[test]
fn check() {
    let (dir, _) = stage();
    let at = |name: &str| dir.join(name).into_os_string();
    let (cert, broken) = (at("tls.crt"), at("broken.pem"));
    let [check, soon, late, share, nagios, json] =
        ["check", "--expires-in=30d", "--expires-in=1d", "--expires-in=75%", "--nagios", "--format=json"]
            .map(OsStr::new);
    hold_runs(
        "check",
        dir.path(),
        &[
            &[check, late, &cert],
            &[check, soon, &cert],
            &[check, share, json, &cert],
            &[check, nagios, soon, &cert],
            &[check, soon, &broken],
            &[check, &cert],
        ],
    );
}

#[test]
fn doctor() {
    let (dir, ca) = stage();
    let volume = dir.join("v");
    let issued = ca.leaf("localhost").valid_for(DAY * 20 + DAY / 2).issue();
    KubeletDir::from_dir(TestDir::at(&volume).unwrap()).swap(issued.clone()).unwrap();
    let server = Server::start(config(&issued, &[&ca]), "");
    let target = server.target();
    let [doctor, kubernetes, json, connect] =
        ["doctor", "--kubernetes", "--format=json", "--connect"].map(OsStr::new);
    let [ca_flag, cert_flag, key_flag] = ["--ca", "--cert", "--key"].map(OsStr::new);
    let at = |name: &str| dir.join(name).into_os_string();
    let (root, cert, key) = (at("ca.crt"), at("tls.crt"), at("tls.key"));
    dir.write("other.key", ca.issue("other").key_pem()).unwrap();
    let other = at("other.key");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    hold_runs(
        "doctor",
        dir.path(),
        &[
            &[doctor, kubernetes, volume.as_os_str()],
            &[doctor, cert_flag, &cert, key_flag, &other],
            &[doctor, json, cert_flag, &cert, key_flag, &other],
            &[doctor, ca_flag, &root, connect, target.as_ref()],
            &[doctor, ca_flag, &root, cert_flag, &cert, key_flag, &key, connect, target.as_ref()],
            &[doctor],
        ],
    );
}

#[test]
fn watch_and_get() {
    let (dir, ca) = stage();
    let server = Server::start(config(&ca.issue("localhost"), &[]), "");
    let (url, root) = (server.url(), dir.join("ca.crt").into_os_string());
    let none = dir.join("none").into_os_string();
    let [watch, get, once, json, flag, v, count] =
        ["watch", "get", "--once", "--format=json", "--ca", "-v", "--count=2"].map(OsStr::new);
    let url = url.as_ref();
    hold_runs(
        "watch",
        dir.path(),
        &[&[watch, flag, &root, once], &[watch, flag, &root, once, json], &[watch, flag, &none], &[watch]],
    );
    let runs: &[&[&OsStr]] = &[
        &[get, url, flag, &root],
        &[get, url, flag, &root, v],
        &[get, url, flag, &root, count],
        &[get, url],
        &[get],
    ];
    // The latencies of JSON lines have no unit, so those lines are held in tests/get.rs.
    hold_runs("get", dir.path(), runs);
}

#[test]
fn exporter() {
    let (dir, _) = stage();
    let named = format!("web={}", dir.join("tls.crt").display());
    let exporter = Exporter::start(&[
        named.as_ref(),
        dir.join("ca.crl").as_os_str(),
        dir.join("broken.pem").as_os_str(),
    ]);
    let text = exporter.metrics();
    let mut kept = String::new();
    for line in text.lines() {
        let volatile = ["_not_", "x509_crl", "x509_scan"].iter().any(|part| line.contains(part));
        match line.rsplit_once(' ').filter(|_| volatile && !line.starts_with('#')) {
            Some((series, _)) => kept += &format!("{series} [VALUE]\n"),
            None => kept += &format!("{line}\n"),
        }
    }
    hold("exporter", &scrub(&kept));
}
