//! Invariant 10: no command prints a private byte, on either stream, in text or JSON, at any level of logging, whether the
//! key is whole, broken, or in a place where no key should be.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;
#[path = "../../certsource/tests/secret_support/mod.rs"]
mod secret_support;

use std::ffi::OsStr;
use std::time::Duration;

use certsource_testkit::{Ca, TestDir};
use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::server::{Server, config};
use crate::common::{Finished, Running};
use crate::secret_support::Secret;

/// Runs a command to its end with everything logged, and holds that neither stream shows the key.
#[track_caller]
fn shows_nothing(secret: &Secret, args: &[&str]) -> Finished {
    let finished = Running::start_with_env(args.iter().map(OsStr::new), &[("RUST_LOG", "trace")]).finish();
    assert!(finished.stdout.len() + finished.stderr.len() > 10, "{args:?} says nothing");
    assert!(!finished.stderr.contains("panicked"), "{args:?}: {}", finished.stderr);
    secret.is_not_in(&format!("{args:?}"), &finished.stdout);
    secret.is_not_in(&format!("{args:?}, in its log,"), &finished.stderr);
    finished
}

#[test]
fn no_command_prints_a_key() {
    let ca = Ca::new("ca");
    let issued = ca.issue("localhost");
    let secret = Secret::of(&issued);
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let server = Server::start(config(&issued, &[&ca]), "");
    let (url, target) = (server.url(), server.target());
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (folder, ca_path, cert, key) = (path(""), path("ca.crt"), path("tls.crt"), path("tls.key"));
    let pem = issued.key_pem();
    let der = issued.key_der().secret_der().to_vec();
    let broken: [(&str, Vec<u8>); 8] = [
        ("whole", pem.clone().into()),
        ("cut", pem[..pem.len() / 2].into()),
        ("a wrong letter", pem.replace("\n-----END", "!\n-----END").into()),
        ("twice", (pem.clone() + &pem).into()),
        ("as a certificate", pem.replace("PRIVATE KEY", "CERTIFICATE").into()),
        ("as an encrypted key", pem.replace("PRIVATE", "ENCRYPTED PRIVATE").into()),
        ("DER", der.clone()),
        ("DER that is cut", der[..der.len() - 1].into()),
    ];
    let files = ["--ca", &ca_path, "--cert", &cert, "--key", &key];
    for (name, text) in broken {
        dir.write("tls.key", text).unwrap();
        for format in ["text", "json"] {
            let format = ["--format", format];
            shows_nothing(&secret, &[&["inspect", "--all", &folder, &key][..], &format].concat());
            shows_nothing(&secret, &[&["inspect", &cert, "--key", &key][..], &format].concat());
            shows_nothing(&secret, &[&["doctor"][..], &files, &format].concat());
            shows_nothing(&secret, &[&["doctor", "--connect", &target][..], &files, &format].concat());
            let got = shows_nothing(&secret, &[&["get", &url, "--count", "1"][..], &files, &format].concat());
            assert!(name != "whole" || got.code == Some(0), "{got:?}");
        }
        shows_nothing(&secret, &["check", "--expires-in", "1d", &folder, &key]);
        shows_nothing(&secret, &["check", "--nagios", "--expires-in", "1d", &key]);
    }
    dir.write("tls.key", &pem).unwrap();

    // Those that go on, through a rotation and a failure.
    let watch =
        [&["watch", "--format=json", "--interval=50ms"][..], &files, &["--exec", "printenv"]].concat();
    let mut watch = Running::start_with_env(watch.iter().map(OsStr::new), &[("RUST_LOG", "trace")]);
    watch.event("loaded");
    dir.write("ca.crt", ca.certificate_pem() + &Ca::new("more").certificate_pem()).unwrap();
    watch.event("reloaded");
    dir.write("tls.key", &pem[..pem.len() / 2]).unwrap();
    watch.event("failed");
    watch.signal(Signal::TERM);
    let finished = watch.finish();
    secret.is_not_in("watch", &finished.stdout);
    secret.is_not_in("the log of watch", &finished.stderr);
    assert!(finished.stderr.len() > 10, "everything is logged");

    let args = ["--interval", "50ms"].into_iter().chain(files).map(OsStr::new).collect::<Vec<_>>();
    dir.write("tls.key", &pem).unwrap();
    let exporter = Exporter::start(&args);
    secret.is_not_in("the exporter", &exporter.metrics());
    dir.write("tls.key", &pem[..pem.len() / 2]).unwrap();
    let end = std::time::Instant::now() + common::BOUND;
    while !exporter.metrics().contains("reason=\"malformed\"") {
        assert!(std::time::Instant::now() < end, "{}", exporter.metrics());
        std::thread::sleep(Duration::from_millis(20));
    }
    secret.is_not_in("the exporter", &exporter.metrics());
    for page in ["/", "/healthz", "/readyz"] {
        secret.is_not_in(page, &exporter.get(page).1);
    }
}
