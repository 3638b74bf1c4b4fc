//! `confirm_identity`: a refusal of our certificate is a failed connect, on every version of TLS and HTTP; and who has
//! nothing to confirm waits for nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use certsource_client::Builder;
use certsource_client::reqwest::Body;
use certsource_client::rustls::version::{TLS12, TLS13};
use certsource_client::rustls::{self, AlertDescription, SupportedProtocolVersion};
use certsource_testkit::{Ca, KubeletDir};
use tokio::time::Instant;

use common::{Gated, HTTP, Http, SOON, Server, TLS, Tls, builder, soon};

/// Longer than any server takes to say something, shorter than a test may take.
const PATIENT: Duration = SOON;

fn unpooled(dir: &KubeletDir) -> Builder {
    builder(dir.path()).reqwest(|b| b.pool_max_idle_per_host(0))
}

/// As many refusals are tried of each kind.
const TRIES: usize = 200;

/// All of them are connect errors, with a body that is bytes or a stream, also a large one.
#[tokio::test]
async fn every_refusal_is_a_failed_connect() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let dir = KubeletDir::new(ours.issue("client")).unwrap();
    let leaf = ours.issue("localhost");
    for versions in TLS {
        for http in HTTP {
            let server =
                Server::start(Tls::of(&leaf).clients(&[&theirs]).http(http).versions(&[versions])).await;
            let client = unpooled(&dir).reactive(false).confirm_identity(PATIENT).build().await.unwrap();
            for n in 0..TRIES {
                let body = match n % 3 {
                    0 => Body::from("a body"),
                    1 => Body::from(vec![b'x'; 1 << 20]),
                    _ => Body::wrap(Gated::new([(None, "a "), (None, "stream")])),
                };
                let error = soon(client.post(server.url("/")).body(body).send()).await.unwrap_err();
                assert!(error.is_connect(), "{versions:?} {http:?} {n}: {error:?}");
            }
            assert!(server.seen().is_empty());
        }
    }
}

/// The alert that an error carries. `source` skips what an `io::Error` wraps.
fn alert(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() {
        return Some(*alert);
    }
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => alert(inner),
        None => alert(error.source()?),
    }
}

/// The control: without it, a refusal is a failed connect with its alert on TLS 1.2, each time; on TLS 1.3 it never is
/// a failed connect, and over HTTP/2 the alert is not even told.
#[tokio::test]
async fn without_it_a_refusal_on_tls_1_3_meets_the_request() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let dir = KubeletDir::new(ours.issue("client")).unwrap();
    let leaf = ours.issue("localhost");
    for versions in TLS {
        for http in HTTP {
            let server =
                Server::start(Tls::of(&leaf).clients(&[&theirs]).http(http).versions(&[versions])).await;
            let client = unpooled(&dir).reactive(false).build().await.unwrap();
            for n in 0..TRIES {
                let error = soon(client.post(server.url("/")).body("a body").send()).await.unwrap_err();
                let (is_connect, alert) = (error.is_connect(), alert(&error));
                let case = format!("{versions:?} {http:?} {n}: {error:?}");
                if versions == &TLS12 {
                    assert!(is_connect && alert == Some(AlertDescription::UnknownCA), "{case}");
                    continue;
                }
                assert!(!is_connect, "confirm_identity may be of no use any more: {case}");
                if http == Http::Two {
                    assert_eq!(alert, None, "{case}");
                }
            }
        }
    }
}

/// So what could not be saved is: a `POST`, and a stream that there is one of.
#[tokio::test]
async fn any_request_is_mended_after_a_rotation() {
    for versions in TLS {
        for http in HTTP {
            for is_streaming in [false, true] {
                let (old, new) = (Ca::new("old"), Ca::new("new"));
                let dir = KubeletDir::new(old.issue("client")).unwrap();
                let leaf = old.issue("localhost");
                let client = unpooled(&dir).confirm_identity(PATIENT).build().await.unwrap();
                let server =
                    Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&[versions])).await;
                let identity = new.issue("client");
                dir.swap_all(old.certificate_pem(), &identity).unwrap();
                let body = if is_streaming {
                    Body::wrap(Gated::new([(None, "a "), (None, "body")]))
                } else {
                    Body::from("a body")
                };
                let response = soon(client.post(server.url("/")).body(body).send()).await.unwrap();
                assert_eq!(response.text().await.unwrap(), "a body");
                assert_eq!(server.seen().len(), 1);
                assert_eq!(server.last().client, Some(identity.leaf_der()));
            }
        }
    }
}

/// A server that rotates under a generation that has connected to it already: later connections are confirmed too.
#[tokio::test]
async fn a_server_that_rotates_later_is_mended_too() {
    for http in HTTP {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let dir = KubeletDir::new(old.issue("client")).unwrap();
        let leaf = old.issue("localhost");
        let versions = [&TLS13];
        let tls = || Tls::of(&leaf).http(http).versions(&versions);
        let server = Server::start(tls().clients(&[&old])).await;
        let client = unpooled(&dir).confirm_identity(PATIENT).build().await.unwrap();
        for _ in 0..2 {
            soon(client.post(server.url("/")).body("a body").send()).await.unwrap();
        }
        let identity = new.issue("client");
        dir.swap_all(old.certificate_pem(), &identity).unwrap();
        server.set(tls().clients(&[&new]));
        let sent: Vec<_> =
            (0..20).map(|_| tokio::spawn(client.post(server.url("/")).body("a body").send())).collect();
        for sent in sent {
            let response = soon(sent).await.unwrap().unwrap();
            assert_eq!(response.text().await.unwrap(), "a body", "{http:?}");
        }
        assert_eq!((server.seen().len(), server.last().client), (22, Some(identity.leaf_der())));
    }
}

/// A server that sends a ticket, or data, keeps nobody waiting; one that sends neither does so once for an origin and
/// a generation.
#[tokio::test]
async fn a_silent_server_is_waited_for_once() {
    // Longer than a request takes on a machine that has much to do.
    const WAIT: Duration = Duration::from_secs(4);
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let clients = [&ca];
    let tls = Tls::of(&leaf).clients(&clients).http(Http::One).without_tickets();
    let server = Server::start(tls.versions(&[&TLS13])).await;
    let client = unpooled(&dir).confirm_identity(WAIT).build().await.unwrap();
    let took = async || {
        let begun = Instant::now();
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
        begun.elapsed()
    };
    assert!(took().await >= WAIT);
    let again = (took().await, took().await);
    assert!(again.0 < WAIT && again.1 < WAIT, "{again:?}");
    dir.swap(ca.issue("client")).unwrap();
    client.reload().await.unwrap();
    assert!(took().await >= WAIT, "a new generation is confirmed anew");
    let again = (took().await, took().await);
    assert!(again.0 < WAIT && again.1 < WAIT, "{again:?}");
}

#[tokio::test]
async fn nobody_waits_for_what_is_not_to_come() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let clients = [&ca];
    let tls12: [&SupportedProtocolVersion; 1] = [&TLS12];
    let cases: [(&str, Tls<'_>); 5] = [
        ("a ticket comes", Tls::of(&leaf).clients(&clients).http(Http::One)),
        ("data comes", Tls::of(&leaf).clients(&clients).http(Http::Two).without_tickets()),
        ("no certificate was asked for", Tls::of(&leaf).http(Http::One).without_tickets()),
        ("TLS 1.2", Tls::of(&leaf).clients(&clients).http(Http::One).versions(&tls12)),
        ("TLS 1.2, HTTP/2", Tls::of(&leaf).clients(&clients).http(Http::Two).versions(&tls12)),
    ];
    for (case, tls) in cases {
        let server = Server::start(tls).await;
        // Would fail the test if it were waited for.
        let client = unpooled(&dir).confirm_identity(2 * SOON).build().await.unwrap();
        for n in 0..3 {
            let body =
                soon(client.post(server.url("/")).body("x").send()).await.unwrap().text().await.unwrap();
            assert_eq!(body, "x", "{case}");
            if n > 0 && case == "a ticket comes" {
                assert!(server.last().is_resumed, "sessions are resumed as without it");
            }
        }
    }
}
