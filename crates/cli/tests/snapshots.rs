//! What every command prints, held as it is: its help, and its output on staged files.
//!
//! What differs from run to run (times, digests, paths, ports) is replaced by a word in brackets first. After a change
//! that is meant: `SNAPSHOTS=overwrite cargo test -p certsource-cli --test snapshots`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use certsource_testkit::{Ca, KubeletDir, TestDir};
use snapbox::Data;

use crate::common::exporter::{Exporter, value};
use crate::common::server::{Server, config};
use crate::common::{BOUND, Finished, Running, run};

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

/// Replaces the numbers of these fields in JSON, and what was measured.
fn without_numbers(json: &str, fields: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = json;
    while let Some(at) = rest.find("\":") {
        let (before, after) = rest.split_at(at + 2);
        let name = before[..at].rsplit('"').next().unwrap_or_default();
        let is_measured = name.contains("_us") || name.contains("_ms") || name == "seconds";
        out.push_str(before);
        let number = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
        let is_left_out = number > 0 && (is_measured || fields.contains(&name));
        out.push_str(if is_left_out { "[N]" } else { &after[..number] });
        rest = &after[number..];
    }
    out + rest
}

/// Replaces the counts of requests in lines for people.
fn without_counts(text: &str) -> String {
    let mut pieces = text.split(" requests").peekable();
    let mut out = String::new();
    while let Some(piece) = pieces.next() {
        match pieces.peek() {
            Some(_) => {
                out += &format!("{}[N] requests", piece.trim_end_matches(|c: char| c.is_ascii_digit()))
            }
            None => out += piece,
        }
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
    let broken = at("broken.pem");
    let runs: &[&[&OsStr]] = &[
        &[inspect, pem, &cert],
        &[inspect, pem, all, &cert, &ca, &crl, &key],
        &[inspect, pem, &cert, by, &key],
        &[inspect, pem, &broken],
    ];
    let text: String = runs
        .iter()
        .map(|args| {
            let mut finished = run(args.iter().copied());
            finished.stdout = without_base64(&finished.stdout);
            shown(args, &finished, dir.path())
        })
        .collect();
    hold("inspect-pem", &text);
}

/// Replaces what is between the first and the last line of each PEM section, which must be there.
fn without_base64(text: &str) -> String {
    let (mut out, mut is_inside) = (String::new(), false);
    for line in text.lines() {
        if line.starts_with("-----END ") {
            assert!(is_inside && out.ends_with("-----\n"), "{text}");
            out += "[BASE64]\n";
            is_inside = false;
        }
        if is_inside {
            assert!(
                line.len() <= 64
                    && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
            );
            continue;
        }
        is_inside = line.starts_with("-----BEGIN ");
        out += &format!("{line}\n");
    }
    out
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
    hold_runs("get", dir.path(), runs);

    dir.write("other.pem", Ca::new("Another root").certificate_pem()).unwrap();
    let other = dir.join("other.pem").into_os_string();
    let runs: &[&[&OsStr]] = &[
        &[get, url, flag, &root, json],
        &[get, url, flag, &root, json, v],
        &[get, url, flag, &root, json, count],
        &[get, url, flag, &other, json],
    ];
    let text: String = runs
        .iter()
        .map(|args| {
            let mut finished = run(args.iter().copied());
            finished.stdout = without_numbers(&finished.stdout, &[]);
            shown(args, &finished, dir.path())
        })
        .collect();
    hold("get-json", &text);
}

/// A rotation, a command that fails, files that break and are mended.
#[test]
fn watch_while_files_change() {
    for (format, name) in [("text", "watch-events"), ("json", "watch-events-json")] {
        let dir = TestDir::new().unwrap();
        let path = dir.join("v");
        let volume = KubeletDir::from_dir(TestDir::at(&path).unwrap());
        // Half a day more, so that a second does not change the days.
        let ca = Ca::builder("Example root").valid_for(DAY * 3650 + DAY / 2).build();
        let issue = || ca.leaf("localhost").valid_for(DAY * 12 + DAY / 2).issue();
        volume.swap(issue()).unwrap();
        let args = ["watch", "--kubernetes", path.to_str().unwrap(), "--interval=50ms", "--detect=sha256"];
        let args = [&args[..], &["--format", format, "--max-stale=5s", "--exec", "false"]].concat();
        let mut watch = Running::start(&args);
        let mut text = String::new();
        // The lines until all of these have come, in this order: which of two comes first is not held.
        let mut until = |events: &[&str]| {
            let mut lines = vec![String::new(); events.len()];
            while lines.iter().any(String::is_empty) {
                let line = watch.line();
                let is = |event: &&str| {
                    line.contains(&format!(" {event} ")) || line.contains(&format!("\"event\":\"{event}\""))
                };
                let at = events.iter().position(is).unwrap_or_else(|| panic!("{line}"));
                lines[at] = line;
            }
            lines.iter().for_each(|line| text += &format!("{line}\n"));
        };
        until(&["loaded"]);
        let second = issue();
        volume.swap(&second).unwrap();
        until(&["reloaded", "retired", "exec_failed"]);
        let broken = [
            ("ca.crt", ca.certificate_pem()),
            ("tls.crt", "-----BEGIN".into()),
            ("tls.key", second.key_pem()),
        ];
        volume.write(broken).unwrap();
        until(&["failed", "stale", "retired"]);
        volume.swap(issue()).unwrap();
        until(&["recovered", "reloaded", "exec_failed"]);
        let words: Vec<_> =
            args.iter().map(|word| word.replace(&*dir.path().to_string_lossy(), "[DIR]")).collect();
        let text = text.replace(&*dir.path().to_string_lossy(), "[DIR]");
        hold(name, &format!("$ certsource {}\n{}", words.join(" "), scrub(&text)));
    }
}

#[test]
fn demo() {
    let args = ["demo", "--rotations=2", "--duration=0s", "--rate=200", "--detect=sha256"].map(OsStr::new);
    let mut text = run(args);
    text.stdout = without_counts(&text.stdout);
    let json = [&args[..], &[OsStr::new("--format=json")]].concat();
    let mut lines = run(&json);
    let counted = ["requests", "handshakes_full", "handshakes_resumed", "handshakes_refused"];
    lines.stdout = without_numbers(&lines.stdout, &counted);
    let nowhere = Path::new("/no/stage");
    hold("demo", &(shown(&args, &text, nowhere) + &shown(&json, &lines, nowhere)));
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
    hold("exporter", &scraped(&exporter.metrics()));
}

/// A source that is followed: before anything is there, while it is served, and when a rotation is refused.
#[test]
fn exporter_of_a_kubernetes_volume() {
    let (dir, ca) = stage();
    let path = dir.join("v");
    let volume = KubeletDir::from_dir(TestDir::at(&path).unwrap());
    let flags = ["--interval=50ms", "--detect=sha256", "--show-details", "--kubernetes"].map(OsStr::new);
    let exporter = Exporter::start(&[&flags[..], &[path.as_os_str()]].concat());
    let mut text = String::new();
    let mut take = |title: &str, until_seen: &[(&str, &[&str])]| {
        let until = Instant::now() + BOUND;
        let metrics = loop {
            let metrics = exporter.metrics();
            if until_seen.iter().all(|(name, parts)| value(&metrics, name, parts) >= Some(1.0)) {
                break metrics;
            }
            assert!(Instant::now() < until, "no {until_seen:?} in {metrics}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let (ready, problems) = (exporter.get("/readyz"), exporter.get("/problems").1);
        let mut scraped = scraped(&metrics).replace(&*dir.path().to_string_lossy(), "[DIR]");
        // Every reason is there from the start. Once is enough to read.
        if !text.is_empty() {
            let is_none = |line: &&str| line.contains("reason=") && line.ends_with("} 0");
            scraped = scraped.lines().filter(|line| !is_none(line)).map(|line| format!("{line}\n")).collect();
        }
        let problems = scrub(&problems.replace(&*dir.path().to_string_lossy(), "[DIR]"));
        text += &format!(
            "{title}\n/readyz {} {}\n/problems\n{problems}/metrics\n{scraped}\n",
            ready.0,
            ready.1.trim()
        );
    };
    let (loads, failing) = ("certsource_reloads_total", "certsource_failing_since_timestamp_seconds");
    take("nothing is there", &[(loads, &["failure", "not_found"])]);
    let issued = ca.leaf("localhost").valid_for(DAY * 12 + DAY / 2).issue();
    volume.swap(&issued).unwrap();
    // Loads are counted a moment later than they are seen.
    take("it is served", &[("certsource_generation", &[]), ("x509_source_up", &[]), (loads, &["success"])]);
    let broken =
        [("ca.crt", issued.root_pem()), ("tls.crt", "garbage".into()), ("tls.key", issued.key_pem())];
    volume.write(broken).unwrap();
    take("a rotation is refused", &[(loads, &["failure", "malformed"]), (failing, &[])]);
    hold("exporter-kubernetes", &text);
}

/// A scrape, without the values that differ from run to run.
fn scraped(metrics: &str) -> String {
    let mut kept = String::new();
    for line in metrics.lines() {
        let parts = [
            "_not_",
            "x509_crl",
            "x509_scan",
            "_timestamp_",
            "certsource_drift",
            "certsource_reloads_total",
            "errors_total{source=\"followed\"",
        ];
        // Counts of what is told again and again while it lasts are held as to whether there are any.
        let volatile = parts.iter().any(|part| line.contains(part)) && !line.ends_with("} 0");
        match line.rsplit_once(' ').filter(|_| volatile && !line.starts_with('#')) {
            Some((series, _)) => kept += &format!("{series} [VALUE]\n"),
            None => kept += &format!("{line}\n"),
        }
    }
    scrub(&kept)
}
