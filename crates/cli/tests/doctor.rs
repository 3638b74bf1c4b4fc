//! `certsource doctor` on staged cases: each question that it must answer, on files and on their readers.
//!
//! Servers are in `doctor_server.rs`.
//! needs: unshare

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, KubeletDir, TestDir};
use serde_json::Value;

use crate::common::{Finished, as_another_user, not_run, run};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Its findings, by code.
struct Diagnosis {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Diagnosis {
    fn of(finished: &Finished) -> Self {
        assert_eq!(finished.stderr, "", "{}", finished.stdout);
        let mut findings = finished.json();
        let summary = findings.pop().unwrap();
        assert_eq!(summary["event"], "summary");
        let first = findings[0]["level"] != "note";
        assert_eq!(summary["first"], if first { findings[0]["code"].clone() } else { Value::Null });
        Self { code: finished.code, findings }
    }

    /// The likeliest cause: code and message.
    #[track_caller]
    fn first(&self) -> (&str, &str) {
        assert_eq!(self.code, Some(1), "{:#?}", self.findings);
        let first = &self.findings[0];
        assert_eq!(first["level"], "problem");
        (first["code"].as_str().unwrap(), first["message"].as_str().unwrap())
    }

    #[track_caller]
    fn message(&self, code: &str) -> &str {
        self.find(code)["message"].as_str().unwrap()
    }

    #[track_caller]
    fn find(&self, code: &str) -> &Value {
        let finding = self.findings.iter().find(|finding| finding["code"] == code);
        finding.unwrap_or_else(|| panic!("no {code}: {:#?}", self.findings))
    }

    fn has(&self, code: &str) -> bool {
        self.findings.iter().any(|finding| finding["code"] == code)
    }
}

fn doctor(args: &[&OsStr]) -> Diagnosis {
    let whole = ["doctor".as_ref(), "--format=json".as_ref()].into_iter().chain(args.iter().copied());
    Diagnosis::of(&run(whole))
}

fn kubernetes(dir: &Path) -> Diagnosis {
    doctor(&["--kubernetes".as_ref(), dir.as_os_str()])
}

/// A plain directory with the three files.
fn written(issued: &certsource_testkit::Issued) -> TestDir {
    let dir = TestDir::new().unwrap();
    for (name, content) in issued.files() {
        dir.write(name, content).unwrap();
    }
    fs::set_permissions(dir.join("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// The program in a mount namespace of its own, after `script` there; `None` where the system does not allow that.
fn in_namespace(script: &str, args: &[&OsStr]) -> Option<Diagnosis> {
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        not_run("this system allows no user namespaces, or has no unshare(1)");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_certsource"))
        .args(["doctor", "--format=json"])
        .args(args)
        .output()
        .unwrap();
    Some(diagnosis(&output))
}

fn diagnosis(output: &std::process::Output) -> Diagnosis {
    Diagnosis::of(&Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout.clone()).unwrap(),
        stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        took: Duration::ZERO,
    })
}

#[test]
fn nothing_is_wrong_and_the_facts_are_told() {
    let dir = TestDir::new().unwrap();
    let volume = KubeletDir::from_dir(TestDir::at(dir.join("v")).unwrap());
    let issued = Ca::new("a").leaf("localhost").valid_for(DAY * 12 + DAY / 2).issue();
    volume.swap(issued).unwrap();
    let path = dir.join("v");
    let told = kubernetes(&path);
    assert_eq!(told.code, Some(0), "{:#?}", told.findings);
    assert!(told.message("would_publish").contains("1 trust anchor, the identity CN=localhost"));
    assert!(told.message("expires_first").starts_with("leaf CN=localhost is the first to expire: in 12 d"));
    assert!(told.message("changed_last").contains("as the kubelet does"), "{}", told.message("changed_last"));
    assert!(told.message("file").contains("→ ..data/"), "{}", told.message("file"));
    let text = run(["doctor".as_ref(), "--kubernetes".as_ref(), path.as_os_str()]);
    assert_eq!(text.code, Some(0));
    assert!(text.stdout.trim_end().ends_with("nothing is wrong"), "{}", text.stdout);
}

#[test]
fn a_key_of_another_certificate() {
    let ca = Ca::new("a");
    let dir = written(&ca.issue("localhost"));
    dir.write("tls.key", ca.issue("localhost").key_pem()).unwrap();
    assert_eq!(kubernetes(dir.path()).first().0, "key_mismatch");
    let text = run(["doctor".as_ref(), "--kubernetes".as_ref(), dir.path().as_os_str()]);
    let mut lines = text.stdout.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("PROBLEM key_mismatch: a reload would be refused, and what is served stays: ")
    );
    assert!(lines.next().unwrap().starts_with("        do: "));
    assert!(text.stdout.trim_end().ends_with("1 problem"), "{}", text.stdout);
}

#[test]
fn files_that_are_missing_broken_or_empty() {
    let dir = written(&Ca::new("a").issue("localhost"));
    fs::remove_file(dir.join("tls.key")).unwrap();
    let (code, message) = {
        let told = kubernetes(dir.path());
        let (a, b) = told.first();
        (a.to_owned(), b.to_owned())
    };
    assert_eq!(
        (&*code, &*message),
        ("not_found", &*format!("{} does not exist", dir.join("tls.key").display()))
    );
    // What follows from it is no cause of its own.
    let told = kubernetes(dir.path());
    assert_eq!((told.find("would_fail")["level"].as_str(), told.has("would_publish")), (Some("note"), false));
    assert!(told.message("would_fail").starts_with("a reload would keep what is served: "));
    let acme = written(&Ca::new("a").issue("localhost"));
    fs::remove_file(acme.join("ca.crt")).unwrap();
    assert!(
        kubernetes(acme.path()).findings[0]["advice"].as_str().unwrap().contains("ACME issuers have none")
    );
    symlink("nowhere.key", dir.join("tls.key")).unwrap();
    assert!(kubernetes(dir.path()).first().1.contains("is a link that leads nowhere: "));
    let missing = doctor(&["--ca".as_ref(), dir.join("no/such/ca.pem").as_os_str()]);
    assert!(
        missing.first().1.ends_with(&format!("there is no {}", dir.join("no").display())),
        "{:?}",
        missing.first()
    );

    symlink("round.pem", dir.join("round.pem")).unwrap();
    let round = doctor(&["--ca".as_ref(), dir.join("round.pem").as_os_str()]);
    assert_eq!((round.first().0, round.has("would_fail")), ("link_loop", true), "{:#?}", round.findings);

    let file = doctor(&["--ca".as_ref(), dir.join("tls.crt/ca.pem").as_os_str()]);
    assert_eq!((file.first().0, file.has("would_fail")), ("not_a_directory", true), "{:#?}", file.findings);

    let broken = dir.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    assert_eq!(doctor(&["--ca".as_ref(), broken.as_os_str()]).first().0, "malformed");
    let empty = dir.write("empty.pem", "").unwrap();
    assert_eq!(doctor(&["--ca".as_ref(), empty.as_os_str()]).first().0, "empty");
}

#[test]
fn a_directory_that_may_not_be_entered_and_a_file_that_may_not_be_read() {
    let dir = written(&Ca::new("a").issue("localhost"));
    let inner = TestDir::at(dir.join("inner")).unwrap();
    inner.write("ca.pem", "").unwrap();
    let Some(program) = as_another_user(&dir) else { return };
    let ask = |path: &Path| {
        diagnosis(&program().args(["doctor", "--format=json", "--ca"]).arg(path).output().unwrap())
    };
    set(&dir.join("tls.crt"), 0o000);
    let unread = ask(&dir.join("tls.crt"));
    let (code, message) = unread.first();
    assert_eq!(code, "permission_denied");
    assert!(message.contains("may not read it (mode 0000"), "{message}");
    assert!(unread.has("would_fail"));

    set(&dir.join("inner"), 0o600);
    let entered = ask(&dir.join("inner/ca.pem"));
    set(&dir.join("inner"), 0o700);
    let (code, message) = entered.first();
    assert_eq!(code, "permission_denied");
    assert!(
        message.contains(&format!("may not enter {} (mode 0600", dir.join("inner").display())),
        "{message}"
    );
}

/// The files may be read and the directory may be entered, but not listed: then the system gives no watch on it.
#[test]
fn a_directory_that_may_not_be_watched() {
    let dir = written(&Ca::new("a").issue("localhost"));
    set(dir.path(), 0o755);
    let Some(program) = as_another_user(&TestDir::at(dir.join("bin")).unwrap()) else { return };
    let ca = dir.join("ca.crt");
    set(&ca, 0o644);
    let ask = |mode, more: &[&str]| {
        set(dir.path(), mode);
        let output =
            program().args(["doctor", "--format=json", "--ca"]).arg(&ca).args(more).output().unwrap();
        set(dir.path(), 0o700);
        diagnosis(&output)
    };
    let told = ask(0o311, &[]);
    assert_eq!((told.code, told.find("no_watches")["level"].as_str()), (Some(0), Some("warning")));
    assert!(told.message("no_watches").starts_with("changes are found by polling only: cannot watch: "));
    // Who polls by choice needs none, and where it may be listed there is one.
    assert!(!ask(0o311, &["--detect=mtime"]).has("no_watches") && !ask(0o755, &[]).has("no_watches"));
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_not_valid_yet_what_expired_and_clocks() {
    let (ca, now) = (Ca::new("a"), SystemTime::now());
    let soon =
        written(&ca.leaf("localhost").not_before(now + Duration::from_secs(7000)).valid_for(DAY).issue());
    let told = kubernetes(soon.path());
    assert_eq!(told.first().0, "not_yet_valid");
    assert_eq!(told.findings[0]["advice"], "set this clock, or the issuer's: they differ");

    let over = written(&ca.leaf("localhost").not_before(now - DAY * 3).not_after(now - DAY).issue());
    let told = kubernetes(over.path());
    assert_eq!(told.first().0, "expired");
    assert!(!told.has("would_publish"), "{:#?}", told.findings);

    let ahead = written(&ca.issue("localhost"));
    let file = File::options().write(true).open(ahead.join("tls.crt")).unwrap();
    file.set_modified(now + Duration::from_secs(7300)).unwrap();
    let told = kubernetes(ahead.path());
    assert_eq!(told.code, Some(0));
    assert!(
        told.message("clock_skew").contains("was changed 2 h in the future"),
        "{}",
        told.message("clock_skew")
    );
}

/// The engine judges the whole chain. An anchor that is over is a warning: rustls takes it, others do not.
#[test]
fn what_expired_behind_the_leaf() {
    let (root, now) = (Ca::new("a"), SystemTime::now());
    let ca = Ca::builder("b").signed_by(&root).not_before(now - DAY * 3).not_after(now - DAY).build();
    let dir = written(&ca.issue("localhost"));
    let told = kubernetes(dir.path());
    assert_eq!(told.first().0, "expired");
    assert!(told.first().1.starts_with("CN=b expired "), "{:#?}", told.findings);
    assert!(!told.has("would_publish"), "{:#?}", told.findings);

    let gone = Ca::builder("gone").not_before(now - DAY * 3).not_after(now - DAY).build();
    let gone = dir.write("gone.pem", gone.certificate_pem()).unwrap();
    let told = doctor(&["--ca".as_ref(), gone.as_os_str()]);
    assert_eq!((told.code, told.find("anchor_expired")["level"].as_str()), (Some(0), Some("warning")));
}

#[test]
fn a_stale_revocation_list_and_a_chain_in_disorder() {
    let ca = Ca::new("a").intermediate("b").intermediate("c");
    let issued = ca.issue("localhost");
    let dir = written(&issued);
    let now = SystemTime::now();
    let crl = ca.crl_builder().this_update(now - DAY * 9).next_update(now - DAY * 2).sign();
    let crl = dir.write("ca.crl", crl.pem()).unwrap();
    let told = doctor(&["--kubernetes".as_ref(), dir.path().as_os_str(), "--crl".as_ref(), crl.as_os_str()]);
    assert_eq!(told.first().0, "crl_stale");
    assert!(
        told.first().1.contains("should have been replaced 48 h ago") || told.first().1.contains("2 d ago"),
        "{}",
        told.first().1
    );

    let pem = issued.chain_pem();
    let mut blocks: Vec<_> = pem.split_inclusive("-----END CERTIFICATE-----\n").collect();
    assert!(blocks.len() >= 3);
    blocks.swap(1, 2);
    dir.write("tls.crt", blocks.concat()).unwrap();
    assert!(kubernetes(dir.path()).message("chain_order").contains("is issued by CN=c, but next comes CN=b"));
}

/// Peers that trust the same as we do would refuse it. Others may know that issuer, so it is a fact and no problem.
#[test]
fn a_chain_that_ends_nowhere() {
    let ca = Ca::new("a").intermediate("b");
    let issued = ca.issue("localhost");
    let dir = written(&issued);
    assert!(!kubernetes(dir.path()).has("chain_end"));
    dir.write("tls.crt", issued.leaf_pem()).unwrap();
    let told = kubernetes(dir.path());
    assert_eq!((told.code, told.find("chain_end")["level"].as_str()), (Some(0), Some("note")));
    assert!(
        told.message("chain_end").ends_with("not among the trust anchors here: CN=b"),
        "{:#?}",
        told.findings
    );
    dir.write("ca.crt", Ca::new("other").certificate_pem()).unwrap();
    dir.write("tls.crt", issued.chain_pem()).unwrap();
    assert!(kubernetes(dir.path()).message("chain_end").ends_with("not among the trust anchors here: CN=a"));
}

#[test]
fn the_kind_of_writer() {
    let ca = Ca::new("a");
    let now = SystemTime::now();
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let ask = |path: &Path| doctor(&["--ca".as_ref(), path.as_os_str()]).message("changed_last").to_owned();
    assert!(ask(&path).contains("by a new file under this name"), "{}", ask(&path));
    let touch = |at| {
        File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(at)).unwrap()
    };
    touch(now + Duration::from_secs(20));
    assert!(ask(&path).contains("in place"), "{}", ask(&path));
    touch(now - DAY);
    assert!(ask(&path).contains("kept its older time stamp"), "{}", ask(&path));

    let archive = TestDir::at(dir.join("archive/x")).unwrap();
    archive.write("chain7.pem", ca.certificate_pem()).unwrap();
    let live = TestDir::at(dir.join("live/x")).unwrap();
    symlink("../../archive/x/chain7.pem", live.join("chain.pem")).unwrap();
    assert!(ask(&live.join("chain.pem")).contains("as certbot does"));
    symlink("ca.pem", dir.join("link.pem")).unwrap();
    assert!(ask(&dir.join("link.pem")).contains("as ln -sf does"));
}

/// Which file is what is told by the flags, not by its name: certbot calls them all `.pem`.
#[test]
fn a_pair_that_was_written_apart_and_a_key_that_others_may_read() {
    let issued = Ca::new("a").issue("localhost");
    let dir = TestDir::new().unwrap();
    let cert = dir.write("fullchain.pem", issued.chain_pem()).unwrap();
    let key = dir.write("privkey.pem", issued.key_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let ask = || doctor(&["--cert".as_ref(), cert.as_os_str(), "--key".as_ref(), key.as_os_str()]);
    let told = ask();
    assert!(!told.has("written_apart") && !told.has("permission_insecure"), "{:#?}", told.findings);
    let file = File::options().write(true).open(&cert).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(150)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let told = ask();
    assert_eq!(told.code, Some(0), "{:#?}", told.findings);
    assert!(told.message("written_apart").starts_with("certificate and key were changed 2 min apart"));
    assert!(told.message("permission_insecure").contains("(mode 0644)"), "{:#?}", told.findings);
    assert!(!told.has("warning"), "{:#?}", told.findings);
}

#[test]
fn mounts_through_which_no_change_comes() {
    let ca = Ca::new("a");
    let dir = TestDir::new().unwrap();
    let volume = dir.join("v");
    KubeletDir::from_dir(TestDir::at(&volume).unwrap()).swap(ca.issue("localhost")).unwrap();
    let mounted = dir.write("mounted.crt", "").unwrap();
    let plain = dir.write("plain.pem", ca.certificate_pem()).unwrap();
    let args = [OsStr::new("--ca"), mounted.as_os_str()];
    let (from, to) = (volume.join("..data/ca.crt").canonicalize().unwrap(), mounted.display());

    let script = format!("mount --bind '{}' '{to}'", from.display());
    let Some(told) = in_namespace(&script, &args) else { return };
    assert_eq!(told.first().0, "sub_path");

    let script = format!("mount --bind '{}' '{to}'", plain.display());
    let told = in_namespace(&script, &args).unwrap();
    assert_eq!(told.code, Some(0), "{:#?}", told.findings);
    assert!(told.message("single_file_mount").contains("is a mount of a single file"));

    let script = format!("mount --bind '{0}' '{to}'\nmv '{0}' '{0}.old'\nrm '{0}.old'", plain.display());
    let told = in_namespace(&script, &args).unwrap();
    assert_eq!(told.first().0, "replaced_outside");
    assert!(!told.has("single_file_mount") && !told.has("warning"), "{:#?}", told.findings);
}

#[test]
fn file_systems_and_limits_without_events() {
    // No certificate, but on a file system that tells of no changes.
    #[cfg(target_os = "linux")]
    assert!(
        doctor(&["--ca".as_ref(), "/proc/version".as_ref()])
            .message("network_file_system")
            .contains("(proc)")
    );

    let dir = written(&Ca::new("a").issue("localhost"));
    let args = [OsStr::new("--kubernetes"), dir.path().as_os_str()];
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let script = format!("echo 0 > /proc/sys/user/{limit}");
        let Some(told) = in_namespace(&script, &args) else { return };
        assert_eq!(told.code, Some(0), "{:#?}", told.findings);
        assert!(told.message("watches_exhausted").contains("no file watch left"), "{limit}");
        // Who polls by choice needs none.
        let polling = [&args[..], &[OsStr::new("--detect=sha256")]].concat();
        assert!(!in_namespace(&script, &polling).unwrap().has("watches_exhausted"));
    }
}

#[test]
fn what_it_cannot_do_is_one_line() {
    let none = run(["doctor"]);
    assert_eq!((none.code, &*none.stdout), (Some(2), ""));
    assert!(none.error_line().starts_with("error: nothing to look at"), "{}", none.stderr);
    let old = run(["doctor", "--connect", "localhost:1", "--old-ca", "/no/such.pem"]);
    assert_eq!(old.code, Some(2));
    assert!(old.error_line().ends_with("[not_found]"), "{}", old.stderr);
}

#[test]
fn hostile_names_are_escaped() {
    let issued = Ca::new("\u{1b}[31mred\u{202e}").leaf("a").issue();
    let dir = written(&issued);
    for format in ["text", "json"] {
        let args = [
            "doctor".as_ref(),
            "--kubernetes".as_ref(),
            dir.path().as_os_str(),
            "--format".as_ref(),
            format.as_ref(),
        ];
        let told = run(args);
        assert_eq!(told.code, Some(0));
        assert!(
            !told.stdout.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')),
            "{:?}",
            told.stdout
        );
    }
}
