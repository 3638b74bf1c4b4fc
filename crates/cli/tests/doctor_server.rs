//! `certsource doctor --connect` on staged servers: what is served, who refuses whom, and what became of a withdrawn CA.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, Issued, TestDir};
use serde_json::Value;

use crate::common::run;
use crate::common::server::{Server, config};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Files of one party, by the flags that name them.
struct Files {
    dir: TestDir,
    args: Vec<String>,
}

impl Files {
    fn new() -> Self {
        Self { dir: TestDir::new().unwrap(), args: Vec::new() }
    }

    fn with(mut self, flag: &str, content: impl AsRef<[u8]>) -> Self {
        let path: PathBuf = self.dir.write(format!("{}.pem", flag.trim_start_matches('-')), content).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        self.args.extend([flag.to_owned(), path.to_str().unwrap().to_owned()]);
        self
    }

    fn identity(self, issued: &Issued) -> Self {
        self.with("--cert", issued.chain_pem()).with("--key", issued.key_pem())
    }

    /// Findings: code, level, message.
    fn ask(&self, server: &Server, more: &[&str]) -> (Option<i32>, Vec<Value>) {
        let target = server.target();
        let first = ["doctor", "--format=json", "--connect", &target].into_iter();
        let finished = run(first.chain(self.args.iter().map(String::as_str)).chain(more.iter().copied()));
        assert_eq!(finished.stderr, "", "{}", finished.stdout);
        let mut lines = finished.json();
        assert_eq!(lines.pop().unwrap()["event"], "summary");
        (finished.code, lines)
    }
}

#[track_caller]
fn message<'a>(findings: &'a [Value], code: &str) -> &'a str {
    let finding = findings.iter().find(|finding| finding["code"] == code);
    finding.unwrap_or_else(|| panic!("no {code}: {findings:#?}"))["message"].as_str().unwrap()
}

fn has(findings: &[Value], code: &str) -> bool {
    findings.iter().any(|finding| finding["code"] == code)
}

#[test]
fn does_the_server_serve_what_is_on_disk() {
    let ca = Ca::new("a");
    let now = SystemTime::now();
    let old = ca.leaf("localhost").not_before(now - DAY * 60).not_after(now + DAY * 30).issue();
    let new = ca.issue("localhost");
    let server = Server::start(config(&old, &[]), "");
    let files = Files::new().with("--ca", ca.certificate_pem()).identity(&new);
    let (code, stale) = files.ask(&server, &[]);
    assert_eq!((code, &stale[0]["code"]), (Some(1), &"serves_old".into()), "{stale:#?}");
    assert!(message(&stale, "serves_old").contains(", written "), "{stale:#?}");

    server.serve(config(&new, &[]));
    let (code, fresh) = files.ask(&server, &[]);
    assert_eq!(code, Some(0), "{fresh:#?}");
    assert!(message(&fresh, "serves_disk").contains("it cannot have served it before"));
    assert!(message(&fresh, "tls").contains("TLSv1.3 with TLS13_"), "{fresh:#?}");

    // The certificate of a client is not compared with a server's.
    let client = Files::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client.example"));
    let (code, told) = client.ask(&server, &[]);
    assert_eq!(code, Some(0), "{told:#?}");
    assert!(has(&told, "is_client") && !has(&told, "serves_other"));

    // The same leaf without its intermediate.
    let deep = ca.intermediate("b").issue("localhost");
    let files = Files::new().with("--ca", ca.certificate_pem()).identity(&deep);
    let alone = rustls_config_of_leaf(&deep);
    server.serve(alone);
    assert!(has(&files.ask(&server, &[]).1, "serves_other_chain"));
}

fn rustls_config_of_leaf(issued: &Issued) -> rustls::ServerConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.leaf_der()], issued.key_der())
        .unwrap()
}

#[test]
fn we_refuse_the_server() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let server = Server::start(config(&theirs.issue("localhost"), &[]), "");
    let files = Files::new().with("--ca", ours.certificate_pem());
    let (code, told) = files.ask(&server, &[]);
    assert_eq!((code, &told[0]["code"]), (Some(1), &"we_refuse_server".into()));
    assert!(message(&told, "we_refuse_server").ends_with("a client sends the alert unknown_ca"), "{told:#?}");
    assert!(told[0]["advice"].as_str().unwrap().contains("its chain ends at CN=theirs"), "{told:#?}");

    let trusting = Files::new().with("--ca", theirs.certificate_pem());
    let (_, told) = trusting.ask(&server, &["--servername", "other.example"]);
    assert!(message(&told, "we_refuse_server").contains("alert bad_certificate"), "{told:#?}");
    assert_eq!(trusting.ask(&server, &[]).0, Some(0));
}

#[test]
fn the_server_refuses_us() {
    let (ca, stranger) = (Ca::new("a"), Ca::new("stranger"));
    let server = Server::start(config(&ca.issue("localhost"), &[&ca]), "");
    let nobody = Files::new().with("--ca", ca.certificate_pem());
    let (code, told) = nobody.ask(&server, &[]);
    assert_eq!((code, &told[0]["code"]), (Some(1), &"server_refuses_us".into()), "{told:#?}");
    assert!(message(&told, "server_refuses_us").ends_with("we received the alert certificate_required"));
    assert!(message(&told, "asks_for").ends_with("a client certificate of: CN=a"), "{told:#?}");
    assert!(told[0]["advice"].as_str().unwrap().contains("--cert and --key"));

    let wrong = Files::new().with("--ca", ca.certificate_pem()).identity(&stranger.issue("client"));
    let (code, told) = wrong.ask(&server, &[]);
    assert_eq!(code, Some(1));
    assert!(message(&told, "server_refuses_us").ends_with("we received the alert unknown_ca"), "{told:#?}");
    assert!(
        told[0]["advice"].as_str().unwrap().contains("issued by CN=stranger, but it asks for CN=a"),
        "{told:#?}"
    );

    let right = Files::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client"));
    let (code, told) = right.ask(&server, &[]);
    assert_eq!(code, Some(0), "{told:#?}");
    assert!(has(&told, "server_accepts_us"));
}

#[test]
fn clocks_that_differ() {
    let ca = Ca::new("a");
    let server =
        Server::start(config(&ca.issue("localhost"), &[]), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    let (code, told) = Files::new().with("--ca", ca.certificate_pem()).ask(&server, &[]);
    assert_eq!((code, &told[0]["code"]), (Some(1), &"clock_skew".into()), "{told:#?}");
    assert!(message(&told, "clock_skew").contains("ahead of the server's"), "{told:#?}");
}

#[test]
fn is_a_withdrawn_ca_still_accepted() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let old_files = Files::new()
        .with("--old-ca", old.certificate_pem())
        .with("--old-cert", old.issue("client").chain_pem());
    // The key of the very same certificate.
    let gone = old.issue("client");
    let old_files = Files { args: old_files.args[..2].to_vec(), dir: old_files.dir }
        .with("--old-cert", gone.chain_pem())
        .with("--old-key", gone.key_pem());
    let more: Vec<_> = old_files.args.iter().map(String::as_str).collect();
    let files = Files::new().with("--ca", new.certificate_pem()).identity(&new.issue("client"));

    // A server that did not follow: everything of the old CA is still there.
    let behind = Server::start(config(&old.issue("localhost"), &[&old, &new]), "");
    let both = Files::new()
        .with("--ca", old.certificate_pem() + &new.certificate_pem())
        .identity(&new.issue("client"));
    let (code, told) = both.ask(&behind, &more);
    assert_eq!(code, Some(1));
    for code in ["withdrawn_ca_accepted", "withdrawn_ca_presented", "withdrawn_ca_on_disk"] {
        assert!(has(&told, code), "{code}: {told:#?}");
    }
    // Trusted here on purpose or not, so the name alone is no proof; elsewhere it is.
    let (_, told) = files.ask(&behind, &more);
    assert!(has(&told, "withdrawn_ca_asked_for"), "{told:#?}");

    let good = Server::start(config(&new.issue("localhost"), &[&new]), "");
    let (code, told) = files.ask(&good, &more);
    assert_eq!(code, Some(0), "{told:#?}");
    assert!(message(&told, "withdrawn_ca_refused").ends_with("with the alert unknown_ca"), "{told:#?}");

    let (_, told) = files.ask(&good, &more[..2]);
    assert!(has(&told, "withdrawn_ca_untested"), "{told:#?}");
}

#[test]
fn a_server_that_is_not_there_or_speaks_something_else() {
    let ca = Ca::new("a");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("localhost:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let files = Files::new().with("--ca", ca.certificate_pem());
    let args = ["doctor", "--connect", &target].into_iter().chain(files.args.iter().map(String::as_str));
    let gone = run(args);
    assert_eq!((gone.code, &*gone.stderr), (Some(1), ""));
    assert!(
        gone.stdout.starts_with(&format!("PROBLEM unreachable: cannot connect to {target}")),
        "{}",
        gone.stdout
    );

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let plain = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"220 smtp\r\n");
    });
    let odd = run(["doctor", "--connect", &target]);
    plain.join().unwrap();
    assert!(odd.stdout.starts_with("PROBLEM no_tls: there is no TLS handshake"), "{}", odd.stdout);
}
