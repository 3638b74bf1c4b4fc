//! What no command does: a page about an error, a panic, or hostile text on a terminal.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use certsource_testkit::{Ca, TestDir};

use crate::common::server::{Server, config};
use crate::common::{Finished, as_another_user, run};

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
