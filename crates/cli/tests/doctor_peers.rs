//! `certsource doctor --connect` beside servers that are not ours: a real nginx, and a real `openssl s_server`, each with
//! TLS 1.2 and with TLS 1.3.
//! needs: nginx openssl

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(target_os = "linux")]

mod common;

use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, Issued};

use crate::common::party::{Party, Told};
use crate::common::peers::{RealServer, find};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What `s_server` says to a client without a certificate, by version. TLS 1.2 has no alert of its own for that.
const VERSIONS: [(&str, &str, &str); 2] =
    [("-tls1_2", "TLSv1.2", "handshake_failure"), ("-tls1_3", "TLSv1.3", "certificate_required")];

/// The withdrawn CA and a certificate of it, as flags.
fn withdrawn(old: &Ca) -> Party {
    let gone: Issued = old.issue("client");
    Party::new()
        .with("--old-ca", old.certificate_pem())
        .with("--old-cert", gone.chain_pem())
        .with("--old-key", gone.key_pem())
}

fn with(party: &Party, server: &RealServer, more: &Party) -> Told {
    let more: Vec<_> = more.args.iter().map(String::as_str).collect();
    party.ask(&server.target(), &more)
}

#[test]
fn s_server_serves_and_refuses() {
    let Some(openssl) = find("openssl") else { return };
    let (ca, stranger, old) = (Ca::new("a"), Ca::new("stranger"), Ca::new("old"));
    let now = SystemTime::now();
    let issued = ca.leaf("localhost").not_before(now - DAY).not_after(now + DAY * 30).issue();
    let trusting = || Party::new().with("--ca", ca.certificate_pem());
    for (flag, version, alert) in VERSIONS {
        let clients = [("clients.pem", ca.certificate_pem())];
        let more = format!("{flag} -CAfile clients.pem -Verify 2 -verify_return_error");
        let server = RealServer::s_server(&openssl, &issued, &more, &clients);

        let told = trusting().ask(&server.target(), &[]);
        assert_eq!(told.first(), "server_refuses_us", "{version}");
        let message = told.message("server_refuses_us");
        assert!(message.ends_with(&format!("we received the alert {alert}")), "{version}: {told:#?}");
        assert!(told.message("asks_for").ends_with("of: CN=a"), "{version}: {told:#?}");
        assert!(told.advice().contains("--cert and --key"), "{version}: {told:#?}");

        let told = trusting().identity(&stranger.issue("client")).ask(&server.target(), &[]);
        assert_eq!(told.first(), "server_refuses_us", "{version}");
        let message = told.message("server_refuses_us");
        assert!(message.ends_with("we received the alert unknown_ca"), "{version}: {told:#?}");
        assert!(told.advice().contains("issued by CN=stranger, but it asks for CN=a"), "{told:#?}");

        let right = trusting().identity(&ca.issue("client"));
        let told = with(&right, &server, &withdrawn(&old));
        told.is_fine();
        assert!(told.message("tls").contains(&format!(" speaks {version} with ")), "{told:#?}");
        assert!(told.has("server_accepts_us") && told.has("is_client"), "{version}: {told:#?}");
        assert!(told.message("withdrawn_ca_refused").ends_with("with the alert unknown_ca"), "{told:#?}");

        // Its own files, and newer ones that it was not told of.
        trusting().identity(&issued).ask(&server.target(), &[]).message("serves_disk");
        let newer = trusting().identity(&ca.issue("localhost")).ask(&server.target(), &[]);
        assert_eq!(newer.first(), "serves_old", "{version}");

        let told = Party::new().with("--ca", stranger.certificate_pem()).ask(&server.target(), &[]);
        let message = told.message("we_refuse_server");
        assert!(message.ends_with("a client sends the alert unknown_ca"), "{version}: {told:#?}");
    }
}

#[test]
fn s_server_lets_a_withdrawn_ca_in() {
    let Some(openssl) = find("openssl") else { return };
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let party = Party::new().with("--ca", new.certificate_pem()).identity(&new.issue("client"));
    for (flag, version, _) in VERSIONS {
        let clients = [("clients.pem", old.certificate_pem() + &new.certificate_pem())];
        let more = format!("{flag} -CAfile clients.pem -Verify 2 -verify_return_error");
        let server = RealServer::s_server(&openssl, &new.issue("localhost"), &more, &clients);
        let told = with(&party, &server, &withdrawn(&old));
        assert_eq!(told.code, Some(1), "{version}: {told:#?}");
        assert!(told.has("withdrawn_ca_accepted") && told.has("withdrawn_ca_asked_for"), "{told:#?}");
    }
}

/// nginx answers 400 where others send an alert, and tells so over HTTP/1.1 and HTTP/2.
#[test]
fn nginx_refuses_by_an_answer() {
    let Some(nginx) = find("nginx") else { return };
    let (ca, stranger) = (Ca::new("a"), Ca::new("stranger"));
    let clients = [("clients.pem", ca.certificate_pem())];
    for (version, listen, alpn) in [
        ("TLSv1.2", "ssl", "http/1.1"),
        ("TLSv1.3", "ssl", "http/1.1"),
        ("TLSv1.2", "ssl http2", "h2"),
        ("TLSv1.3", "ssl http2", "h2"),
    ] {
        let lines =
            format!("ssl_protocols {version}; ssl_client_certificate clients.pem; ssl_verify_client on;");
        let server = RealServer::nginx(&nginx, &ca.issue("localhost"), listen, &lines, &clients);
        let trusting = || Party::new().with("--ca", ca.certificate_pem());
        for party in [trusting(), trusting().identity(&stranger.issue("client"))] {
            let told = party.ask(&server.target(), &[]);
            assert_eq!(told.first(), "server_refuses_us", "{version} {alpn}");
            let message = told.message("server_refuses_us");
            assert!(message.contains("answers 400 after it asked for"), "{version} {alpn}: {told:#?}");
            assert!(!told.has("server_accepts_us"), "{version} {alpn}: {told:#?}");
        }
        let told = trusting().identity(&ca.issue("client")).ask(&server.target(), &[]);
        told.is_fine();
        assert!(told.has("server_accepts_us"), "{version} {alpn}: {told:#?}");
        let tls = told.message("tls");
        assert!(tls.contains(&format!(" speaks {version} with ")) && tls.ends_with(alpn), "{tls}");
    }
}

/// What nginx names and what it takes are two settings.
#[test]
fn nginx_asks_for_another_ca_than_it_takes() {
    let Some(nginx) = find("nginx") else { return };
    let (ca, other) = (Ca::new("a"), Ca::new("other"));
    let files = [("named.pem", other.certificate_pem()), ("taken.pem", ca.certificate_pem())];
    let lines = "ssl_client_certificate named.pem; ssl_trusted_certificate taken.pem; ssl_verify_client on;";
    let server = RealServer::nginx(&nginx, &ca.issue("localhost"), "ssl", lines, &files);
    let party = Party::new().with("--ca", ca.certificate_pem()).identity(&ca.issue("client"));
    let told = party.ask(&server.target(), &[]);
    told.is_fine();
    assert!(told.has("not_asked_for") && told.has("server_accepts_us"), "{told:#?}");
}

/// Its files rotate, and it serves the old ones until it is told.
#[test]
fn nginx_serves_what_it_was_told_of() {
    let Some(nginx) = find("nginx") else { return };
    let (old, new, now) = (Ca::new("old"), Ca::new("new"), SystemTime::now());
    let first = new.leaf("localhost").not_before(now - DAY).not_after(now + DAY).issue();
    let second = new.issue("localhost");
    let both = [("clients.pem", old.certificate_pem() + &new.certificate_pem())];
    let lines = "ssl_client_certificate clients.pem; ssl_verify_client on;";
    let server = RealServer::nginx(&nginx, &first, "ssl", lines, &both);
    let gone = withdrawn(&old);
    let party = Party::new().with("--ca", new.certificate_pem()).identity(&second);
    let told = with(&party, &server, &gone);
    assert_eq!(told.first(), "serves_old");
    assert!(told.has("withdrawn_ca_accepted") && told.has("withdrawn_ca_asked_for"), "{told:#?}");

    server.reload(&second, &[("clients.pem", new.certificate_pem())]);
    let told = with(&party, &server, &gone);
    told.is_fine();
    assert!(told.has("serves_disk") && told.has("withdrawn_ca_refused"), "{told:#?}");
}
