//! `certsource doctor --connect` on staged servers: what is served, who refuses whom, and what became of a withdrawn CA.
//!
//! Servers that are not ours are in `doctor_peers.rs`.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, Issued};

use crate::common::party::Party;
use crate::common::run;
use crate::common::server::{Server, config, config_that_names, config_that_takes_all};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn does_the_server_serve_what_is_on_disk() {
    let ca = Ca::new("a");
    let now = SystemTime::now();
    let old = ca.leaf("localhost").not_before(now - DAY * 60).not_after(now + DAY * 30).issue();
    let new = ca.issue("localhost");
    let server = Server::start(config(&old, &[]), "");
    let party = Party::new().with("--ca", ca.certificate_pem()).identity(&new);
    let stale = party.ask(&server.target(), &[]);
    assert_eq!(stale.first(), "serves_old");
    assert!(stale.message("serves_old").contains(", written "), "{stale:#?}");

    server.serve(config(&new, &[]));
    let fresh = party.ask(&server.target(), &[]);
    fresh.is_fine();
    assert!(fresh.message("serves_disk").contains("it cannot have served it before"));
    assert!(fresh.message("tls").contains("TLSv1.3 with TLS13_"), "{fresh:#?}");

    // The files are behind the server, or are not those that it reads.
    let behind = Party::new().with("--ca", ca.certificate_pem()).identity(&old);
    assert_eq!(behind.ask(&server.target(), &[]).first(), "serves_other");

    // The certificate of a client is not compared with a server's.
    let client = Party::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client.example"));
    let told = client.ask(&server.target(), &[]);
    told.is_fine();
    assert!(told.has("is_client") && !told.has("serves_other"));

    // The same leaf without its intermediate.
    let deep = ca.intermediate("b").issue("localhost");
    let party = Party::new().with("--ca", ca.certificate_pem()).identity(&deep);
    server.serve(config_of_leaf(&deep));
    assert!(party.ask(&server.target(), &[]).has("serves_other_chain"));
}

fn config_of_leaf(issued: &Issued) -> rustls::ServerConfig {
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
    let told = Party::new().with("--ca", ours.certificate_pem()).ask(&server.target(), &[]);
    assert_eq!(told.first(), "we_refuse_server");
    assert!(told.message("we_refuse_server").ends_with("a client sends the alert unknown_ca"), "{told:#?}");
    assert!(told.advice().contains("its chain ends at CN=theirs"), "{told:#?}");

    let trusting = Party::new().with("--ca", theirs.certificate_pem());
    let told = trusting.ask(&server.target(), &["--servername", "other.example"]);
    assert!(told.message("we_refuse_server").contains("alert bad_certificate"), "{told:#?}");
    trusting.ask(&server.target(), &[]).is_fine();

    // Its CA was renewed under the same name, on one side only.
    let renewed = Party::new().with("--ca", Ca::new("theirs").certificate_pem());
    let told = renewed.ask(&server.target(), &[]);
    assert!(told.advice().contains("CN=theirs is trusted by name, with another key"), "{told:#?}");
}

/// As `openssl req -x509` makes one: a certificate of a CA, which no client takes for a server's. Which key signs the handshake
/// does not come into it: the certificate is judged first.
#[test]
fn a_server_that_shows_a_ca_as_its_own_certificate() {
    let ca = Ca::new("localhost");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(ca.issue("localhost").key_der()).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![ca.certificate_der()], key);
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let server = Server::start(config, "");
    let told = Party::new().with("--ca", ca.certificate_pem()).ask(&server.target(), &[]);
    assert_eq!(told.first(), "we_refuse_server");
    assert!(
        told.advice().contains("certificate of a CA as its own") && told.advice().contains("CA:FALSE"),
        "{told:#?}"
    );
}

#[test]
fn the_server_refuses_us() {
    let (ca, stranger) = (Ca::new("a"), Ca::new("stranger"));
    let server = Server::start(config(&ca.issue("localhost"), &[&ca]), "");
    let told = Party::new().with("--ca", ca.certificate_pem()).ask(&server.target(), &[]);
    assert_eq!(told.first(), "server_refuses_us");
    assert!(told.message("server_refuses_us").ends_with("we received the alert certificate_required"));
    assert!(told.message("asks_for").ends_with("a client certificate of: CN=a"), "{told:#?}");
    assert!(told.advice().contains("--cert and --key"));

    let wrong = Party::new().with("--ca", ca.certificate_pem()).identity(&stranger.issue("client"));
    let told = wrong.ask(&server.target(), &[]);
    assert!(told.message("server_refuses_us").ends_with("we received the alert unknown_ca"), "{told:#?}");
    assert!(told.advice().contains("issued by CN=stranger, but it asks for CN=a"), "{told:#?}");

    let right = Party::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client"));
    let told = right.ask(&server.target(), &[]);
    told.is_fine();
    assert!(told.has("server_accepts_us") && !told.has("not_asked_for"));
}

/// It takes our certificate and names another CA: clients that go by the names send none.
#[test]
fn the_server_does_not_ask_for_our_ca() {
    let (ca, other) = (Ca::new("a"), Ca::new("other"));
    let server = Server::start(config_that_names(&ca.issue("localhost"), &[&ca], &[&other]), "");
    let party = Party::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client"));
    let told = party.ask(&server.target(), &[]);
    told.is_fine();
    assert_eq!(told.level("not_asked_for"), "warning");
    assert!(told.message("not_asked_for").starts_with("our certificate is issued by CN=a"), "{told:#?}");
    assert!(told.message("asks_for").ends_with("of: CN=other"), "{told:#?}");
    assert!(told.has("server_accepts_us"));
}

/// nginx' way: the handshake is good, and the refusal is an answer.
#[test]
fn a_refusal_that_comes_as_an_answer() {
    let (ca, stranger) = (Ca::new("a"), Ca::new("stranger"));
    let server = config_that_takes_all(&ca.issue("localhost"), &[&ca]);
    let server = Server::answering("400 Bad Request", server, "");
    let nobody = Party::new().with("--ca", ca.certificate_pem());
    let told = nobody.ask(&server.target(), &[]);
    assert_eq!(told.first(), "server_refuses_us");
    assert!(told.message("server_refuses_us").contains("answers 400 after it asked for"), "{told:#?}");
    assert!(told.advice().contains("--cert and --key"), "{told:#?}");
    let gone = stranger.issue("client");
    let gone = Party::new().with("--old-cert", gone.chain_pem()).with("--old-key", gone.key_pem());
    let more: Vec<_> = gone.args.iter().map(String::as_str).collect();
    // Of a certificate that the handshake lets through and the answer does not.
    let server = config(&ca.issue("localhost"), &[&ca, &stranger]);
    let server = Server::answering("400 Bad Request", server, "");
    let told = nobody.ask(&server.target(), &more);
    assert!(told.has("withdrawn_ca_refused") && !told.has("withdrawn_ca_accepted"), "{told:#?}");
}

/// The server stays behind because of what is on disk: that is told first.
#[test]
fn the_cause_comes_before_what_follows_from_it() {
    let (ca, now) = (Ca::new("a"), SystemTime::now());
    let server = Server::start(config(&ca.issue("localhost"), &[]), "");
    let ahead = ca.leaf("localhost").not_before(now + DAY * 2).valid_for(DAY * 30).issue();
    let told = Party::new().with("--ca", ca.certificate_pem()).identity(&ahead).ask(&server.target(), &[]);
    assert_eq!(told.first(), "not_yet_valid");
    assert_eq!(told.level("serves_old"), "problem");
    assert_eq!(told.codes()[..2], ["not_yet_valid", "serves_old"], "{told:#?}");
}

#[test]
fn clocks_that_differ() {
    let ca = Ca::new("a");
    let server =
        Server::start(config(&ca.issue("localhost"), &[]), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    let told = Party::new().with("--ca", ca.certificate_pem()).ask(&server.target(), &[]);
    assert_eq!(told.first(), "clock_skew");
    assert!(told.message("clock_skew").contains("ahead of the server's"), "{told:#?}");
}

#[test]
fn is_a_withdrawn_ca_still_accepted() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let gone = old.issue("client");
    let withdrawn = Party::new()
        .with("--old-ca", old.certificate_pem())
        .with("--old-cert", gone.chain_pem())
        .with("--old-key", gone.key_pem());
    let more: Vec<_> = withdrawn.args.iter().map(String::as_str).collect();
    let party = Party::new().with("--ca", new.certificate_pem()).identity(&new.issue("client"));

    // A server that did not follow: everything of the old CA is still there.
    let behind = Server::start(config(&old.issue("localhost"), &[&old, &new]), "");
    let both = Party::new()
        .with("--ca", old.certificate_pem() + &new.certificate_pem())
        .identity(&new.issue("client"));
    let told = both.ask(&behind.target(), &more);
    assert_eq!(told.code, Some(1));
    for code in ["withdrawn_ca_accepted", "withdrawn_ca_presented", "withdrawn_ca_on_disk"] {
        assert!(told.has(code), "{code}: {told:#?}");
    }
    // Trusted here on purpose or not, so the name alone is no proof; elsewhere it is.
    let told = party.ask(&behind.target(), &more);
    assert!(told.has("withdrawn_ca_asked_for"), "{told:#?}");

    let good = Server::start(config(&new.issue("localhost"), &[&new]), "");
    let told = party.ask(&good.target(), &more);
    told.is_fine();
    assert!(told.message("withdrawn_ca_refused").ends_with("with the alert unknown_ca"), "{told:#?}");
    assert!(party.ask(&good.target(), &more[..2]).has("withdrawn_ca_untested"));

    // Nobody is asked, so nobody is refused.
    let open = Server::start(config(&new.issue("localhost"), &[]), "");
    let told = party.ask(&open.target(), &more);
    assert!(told.message("withdrawn_ca_untested").contains("it lets everybody in"), "{told:#?}");
}

/// A CA that was renewed under its old name: what the server asks for does not tell the two apart. A certificate does.
#[test]
fn a_withdrawn_ca_of_the_same_name() {
    let (old, new) = (Ca::new("a"), Ca::new("a"));
    let gone = old.issue("client");
    let withdrawn = Party::new().with("--old-ca", old.certificate_pem());
    let more: Vec<_> = withdrawn.args.iter().map(String::as_str).collect();
    let party = Party::new().with("--ca", new.certificate_pem()).identity(&new.issue("client"));
    let server = Server::start(config(&new.issue("localhost"), &[&new]), "");
    let told = party.ask(&server.target(), &more);
    told.is_fine();
    assert_eq!(told.level("withdrawn_ca_same_name"), "note");
    assert!(told.message("withdrawn_ca_same_name").contains("--old-cert and --old-key tell which"));
    assert!(!told.has("withdrawn_ca_asked_for"));

    let withdrawn = withdrawn.with("--old-cert", gone.chain_pem()).with("--old-key", gone.key_pem());
    let more: Vec<_> = withdrawn.args.iter().map(String::as_str).collect();
    assert!(party.ask(&server.target(), &more).has("withdrawn_ca_refused"));
    server.serve(config(&new.issue("localhost"), &[&old, &new]));
    assert!(party.ask(&server.target(), &more).has("withdrawn_ca_accepted"));
}

#[test]
fn a_server_that_is_not_there_or_speaks_something_else() {
    let ca = Ca::new("a");
    // Nobody is given this port by port 0. One that was free a moment ago may be another test's now.
    let target = "localhost:1";
    let party = Party::new().with("--ca", ca.certificate_pem());
    let args = ["doctor", "--connect", target].into_iter().chain(party.args.iter().map(String::as_str));
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
