//! What no command does: a page about an error, a panic, or hostile text on a terminal.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use certsource_testkit::{Ca, TestDir};

use crate::common::exporter::{Exporter, value};
use crate::common::server::{Server, config};
use crate::common::{Finished, as_another_user, not_run, run, run_in};

/// Every command that reads a directory, and one that it may not read.
#[test]
fn a_directory_that_may_not_be_read_is_one_line() {
    let dir = TestDir::new().unwrap();
    let closed = TestDir::at(dir.join("closed")).unwrap();
    closed.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    let set = |mode| fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(mode)).unwrap();
    let Some(program) = as_another_user(&dir) else { return };
    set(0o000);
    let path = dir.join("closed");
    let path = path.to_str().unwrap();
    for args in [
        &["inspect", path][..],
        &["check", "--expires-in=1d", path],
        &["check", "--nagios", "--expires-in=1d", path],
        &["watch", "--ca", path],
        &["get", "https://localhost:1/", "--ca", path],
        &["get", "https://localhost:1/", "--ca", path, "-v"],
    ] {
        let output = program().args(args).output().unwrap();
        let is_plugin = args.contains(&"--nagios");
        let said = String::from_utf8(if is_plugin { output.stdout } else { output.stderr }).unwrap();
        assert_eq!(output.status.code(), Some(if is_plugin { 3 } else { 2 }), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(
            said.contains("permission denied") && said.contains("[permission_denied]"),
            "{args:?}: {said}"
        );
    }
    set(0o700);
}

/// What is named is not there, or is something else: one line that names it and says what to do.
#[test]
fn a_wrong_path_is_one_line_that_says_what_to_do() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    dir.write("ca.pem", ca.certificate_pem()).unwrap();
    dir.write("file", "").unwrap();
    dir.write("other/server.crt", ca.issue("localhost").chain_pem()).unwrap();
    dir.write("acme/tls.crt", ca.issue("localhost").chain_pem()).unwrap();
    std::os::unix::fs::symlink("round.pem", dir.join("round.pem")).unwrap();
    let round =
        "its links lead round in a circle; make one of them point at the file (namei PATH shows them) [io]";
    let layout = "--kubernetes takes the directory that holds ca.crt, tls.crt and tls.key, and this is a file; else name \
                  files with --ca, --cert and --key [not_regular_file]";
    let no_body = "cannot read the body of the request: ";
    let no_file = "cannot write the body of the answer: ";
    for (words, named, what) in [
        (
            "get URL --ca ca.pem -d @none",
            "none",
            format!(
                "{no_body}no such file or directory; check the path, and that its volume is mounted [not_found]"
            ),
        ),
        (
            "get URL --ca ca.pem -d @other",
            "other",
            format!("{no_body}this is a directory; name a file in it [not_regular_file]"),
        ),
        ("get URL --ca ca.pem -d @round.pem", "round.pem", format!("{no_body}{round}")),
        (
            "get URL --ca ca.pem -o none/body",
            "none/body",
            format!("{no_file}its directory does not exist; make it first (mkdir -p) [not_found]"),
        ),
        (
            "get URL --ca ca.pem -o other",
            "other",
            format!("{no_file}this is a directory; name a file in it [not_regular_file]"),
        ),
        (
            "get URL --ca ca.pem -o file/body",
            "file/body",
            format!("{no_file}a part of this path is a file, not a directory; check the path [io]"),
        ),
        ("get URL --kubernetes file", "file", layout.into()),
        ("get URL --kubernetes file -v", "file", layout.into()),
        ("watch --kubernetes file", "file", layout.into()),
        ("watch --kubernetes file --wait 100ms", "file", layout.into()),
        (
            "watch --kubernetes other",
            "other",
            String::from(
                "there is no ca.crt in it; --kubernetes needs ca.crt, tls.crt and tls.key: check that its volume is mounted, or name files with --ca, --cert and --key [not_found]",
            ),
        ),
        (
            "watch --kubernetes other --ca ca.pem",
            "other",
            String::from(
                "there is no tls.crt in it; --kubernetes needs tls.crt and tls.key: check that its volume is mounted, or name files with --ca, --cert and --key [not_found]",
            ),
        ),
        (
            "watch --kubernetes acme",
            "acme",
            String::from(
                "there is no ca.crt beside tls.crt (Secrets of ACME issuers have none): name the CA with --ca [not_found]",
            ),
        ),
        ("inspect round.pem", "round.pem", format!("cannot open: {round}")),
        ("inspect .", "./round.pem", format!("cannot open: {round}")),
        ("inspect ca.pem --key round.pem", "round.pem", format!("cannot open: {round}")),
        (
            "inspect file/x.pem",
            "file/x.pem",
            String::from("cannot open: a part of this path is a file, not a directory; check the path [io]"),
        ),
        ("check --expires-in 1d round.pem", "round.pem", format!("cannot open: {round}")),
        ("watch --ca round.pem", "round.pem", format!("cannot read the trust anchors: {round}")),
        ("get URL --ca round.pem", "round.pem", format!("cannot read the trust anchors: {round}")),
    ] {
        let finished = run_in(dir.path(), words.replace("URL", "https://localhost:1/").split(' '));
        let line = finished.error_line();
        assert_eq!((finished.code, line), (Some(2), &*format!("error: {named}: {what}")), "{words}");
    }
}

/// tokio would panic when it starts. What each command has left to open then, it may have or not; it never panics.
#[test]
fn without_descriptors_it_is_one_line() {
    let dir = TestDir::new().unwrap();
    dir.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    for limit in [4, 6, 8, 11, 14, 16, 18] {
        for args in [
            "watch --ca ca.pem --once",
            "get https://127.0.0.1:1/ --ca ca.pem",
            "demo --rotations 1 --duration 0s",
        ] {
            let program = env!("CARGO_BIN_EXE_certsource");
            let script = format!("ulimit -n {limit}; exec '{program}' {args}");
            let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked") && output.status.code() < Some(3), "{limit} {args}: {said}");
            if limit < 11 && (args.starts_with("watch") || args.starts_with("get")) {
                assert_eq!(
                    (output.status.code(), said.lines().count()),
                    (Some(2), 1),
                    "{limit} {args}: {said}"
                );
                assert!(
                    said.starts_with("error: cannot start; ") && said.contains("ulimit -n"),
                    "{limit} {args}: {said}"
                );
            }
        }
    }
}

/// The commands whose answer a link that leads round in a circle is: they tell it, and what to do.
#[test]
fn links_round_in_a_circle_are_found() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("round.pem");
    std::os::unix::fs::symlink("round.pem", &path).unwrap();
    dir.write("file", "").unwrap();
    let finished = run_in(dir.path(), ["doctor", "--ca", "round.pem"]);
    let first: Vec<_> = finished.stdout.lines().take(2).collect();
    assert_eq!(finished.code, Some(1));
    assert!(
        first[0].starts_with("PROBLEM link_loop: the links of round.pem lead round in a circle: "),
        "{first:?}"
    );
    assert!(
        first[0].ends_with(" → round.pem") && first[1].ends_with("do: make one of them point at the file"),
        "{first:?}"
    );
    let finished = run_in(dir.path(), ["doctor", "--kubernetes", "file"]);
    let first = finished.stdout.lines().next().unwrap();
    assert_eq!(first, "PROBLEM not_a_directory: file/ca.crt does not exist: file is a file, not a directory");

    let exporter = Exporter::start(&["--show-details".as_ref(), path.as_os_str()]);
    let (status, problems) = exporter.get("/problems");
    assert!(status == 200 && problems.contains("its links lead round in a circle; make one"), "{problems}");
    assert_eq!(value(&exporter.metrics(), "x509_source_up", &["source=\"1\""]), Some(0.0));
}

#[track_caller]
fn is_harmless(finished: &Finished) {
    let hostile = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{200b}'));
    for text in [&finished.stdout, &finished.stderr] {
        assert!(!text.contains(hostile), "{text:?}");
    }
    assert!((finished.stdout.clone() + &finished.stderr).contains("red"), "the name is shown: {finished:?}");
}

/// A certificate whose names would colour the terminal, turn its text around and begin a line of their own.
#[test]
fn hostile_names_are_escaped_by_every_command() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("\u{1b}[31mred\u{202e}\nroot\u{200b}");
    let issued = ca.leaf("red\u{7}").san_dns("localhost").issue();
    let cert = dir.write("red\u{1b}.crt", issued.chain_pem()).unwrap();
    let root = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let server = Server::start(config(&issued, &[]), "x-red: red\u{202e}\r\n");
    let (cert, root, target, url) =
        (cert.to_str().unwrap(), root.to_str().unwrap(), server.target(), server.url());
    for format in ["text", "json"] {
        for args in [
            &["inspect", "--timeline", cert][..],
            &["inspect", "--all", "--connect", &target],
            &["check", "--expires-in=1000d", cert],
            &["watch", "--ca", root, "--once"],
            &["watch", "--ca", cert, "--once"],
            &["doctor", "--ca", root, "--connect", &target, "--servername", "other.example"],
            &["get", &url, "--ca", root, "-v"],
        ] {
            is_harmless(&run(args.iter().copied().chain(["--format", format])));
        }
    }
    is_harmless(&run(["inspect", "--format=pem", cert]));
    is_harmless(&run(["check", "--nagios", "--expires-in=1000d", cert]));
    is_harmless(&run(["inspect", "red\u{1b}[31m"]));
}

/// A limit that a program could raise: this one has no flag for it, and says so.
#[test]
fn too_much_is_one_line_that_names_no_limit_of_the_library() {
    let dir = TestDir::new().unwrap();
    let many = Ca::new("a").certificate_pem().repeat(20_001);
    let large = dir.write("large.pem", "#".repeat(17 * 1024 * 1024)).unwrap();
    let many = dir.write("many.pem", many).unwrap();
    let full = TestDir::at(dir.join("full")).unwrap();
    (0..10_001).for_each(|number| drop(full.write(format!("{number}.txt"), "").unwrap()));
    for (path, what) in [
        (large.as_path(), "the limit of 16777216 bytes"),
        (&many, "more than 20000 certificates"),
        (full.path(), "more than 10000 names"),
    ] {
        for command in [&["watch", "--once"][..], &["get", "https://localhost:1/"]] {
            let run = run(command.iter().copied().chain(["--ca", path.to_str().unwrap()]));
            let line = run.error_line();
            assert_eq!(run.code, Some(2), "{line}");
            assert!(line.contains(what) && line.ends_with(" [too_large]"), "{line}");
            assert!(line.contains("; this program takes no more: name fewer or smaller files"), "{line}");
            assert!(!line.contains("raise") && !line.contains("Limits"), "{line}");
        }
    }
}

/// A system that gives no further thread: then there is the one that asked.
#[test]
fn without_a_further_thread_everything_is_read_all_the_same() {
    let dir = TestDir::new().unwrap();
    let Some(program) = as_another_user(&dir) else { return };
    let inside = TestDir::at(dir.join("in")).unwrap();
    fs::set_permissions(inside.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pem = Ca::new("a").certificate_pem();
    for number in 0..300 {
        let path = inside.write(format!("{number:03}.pem"), &pem).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let mut limited = Command::new("prlimit");
    limited.arg("--nproc=1").arg(program().get_program()).args(["check", "--expires-in=1h", "--format=json"]);
    limited.arg(inside.path()).current_dir("/").env("RUST_BACKTRACE", "1");
    if rustix::process::geteuid().is_root() {
        // The limit is none for root.
        limited.uid(65_534).gid(65_534);
    }
    let Ok(output) = limited.output() else { return not_run("there is no prlimit") };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let at = |number: usize| lines.iter().position(|line| line.contains(&format!("/{number:03}.pem")));
    let places: Vec<_> = (0..300).map(|number| at(number).expect("each file is told")).collect();
    assert!(places.is_sorted(), "in their order");
}
