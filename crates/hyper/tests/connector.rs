//! The connector against a bare server: what is resumed, what is refused, what a failed handshake brings about.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use certsource_hyper::certsource_rustls::ClientTls;
use certsource_hyper::rustls::{CertificateError, Error as TlsError};
use certsource_hyper::{ConnectErrorKind, Connector};
use certsource_testkit::Ca;
use common::*;
use hyper_util::rt::TokioIo;

const HTTP: &[&str] = &["h2", "http/1.1"];
const HTTP1: &[&str] = &["http/1.1"];

/// FACTS: the same verifier resumes, a fresh config refuses. Our connector, and beside it a config that is kept.
#[tokio::test]
async fn what_was_withdrawn_is_refused_and_not_resumed() {
    for version in TLS {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let server =
            Bare::start(server_config(&old.issue("localhost"), &[&old, &new], &[version], HTTP1)).await;
        let files = Followed::new(&[&old], &old.issue("client"));
        let tls = ClientTls::with_provider(provider()).versions(&[version]);
        let connector = Connector::builder(&files.reloader).tls(tls).http1_only().build().unwrap();
        let kept = Arc::new(client_config(&[&old], Some(&old.issue("kept")), &[version], HTTP1));
        for is_resumed in [false, true] {
            get_by(&connector, &server.uri()).await.unwrap();
            assert_eq!(server.met().last().unwrap().is_resumed, is_resumed, "{version:?}");
            let stream = dial(&kept, server.address, "localhost").await.unwrap();
            get_once(TokioIo::new(stream)).await.unwrap();
            assert_eq!(server.met().last().unwrap().is_resumed, is_resumed, "{version:?}");
        }

        let identity = new.issue("client");
        files.set(&[&new], &identity).await;
        for _ in 0..20 {
            let error = get_by(&connector, &server.uri()).await.unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::ServerCertificate);
            let issuer = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
            assert_eq!(error.tls(), Some(&issuer));
        }
        let stream = dial(&kept, server.address, "localhost").await.unwrap();
        get_once(TokioIo::new(stream)).await.unwrap();
        assert!(server.met().last().unwrap().is_resumed, "a config that is kept resumes");

        // The new identity goes with the new trust.
        server.set(server_config(&new.issue("localhost"), &[&new], &[version], HTTP1));
        get_by(&connector, &server.uri()).await.unwrap();
        let met = server.met().pop().unwrap();
        assert_eq!(met.client, Some(identity.leaf_der()));
        assert!(!met.is_resumed);
    }
}

/// FACTS: an old connection reads its ticket after the swap, and by hand the next connect resumes with it. It goes to the
/// store of its own generation, so nobody resumes it: also not where nothing was withdrawn.
#[tokio::test]
async fn a_late_ticket_is_not_used() {
    for withdraws in [true, false] {
        for pooled in [false, true] {
            let (old, new) = (Ca::new("old"), Ca::new("new"));
            let config = server_config(&old.issue("localhost"), &[&old, &new], &TLS[1..], HTTP1);
            let server = Bare::start(config).await;
            let files = Followed::new(&[&old], &old.issue("client"));
            let connector = Connector::builder(&files.reloader).http1_only().build().unwrap();
            let kept = Arc::new(client_config(&[&old], Some(&old.issue("kept")), &TLS[1..], HTTP1));
            if pooled {
                // The generation has sessions already.
                get_by(&connector, &server.uri()).await.unwrap();
            }
            // Nobody reads of these yet: the tickets wait in the socket.
            let late = soon(connect(&connector, &server.uri())).await.unwrap();
            let control = dial(&kept, server.address, "localhost").await.unwrap();

            let ca = if withdraws { &new } else { &old };
            let identity = ca.issue("client");
            files.set(&[ca], &identity).await;
            assert_eq!(soon(get_once(late)).await.unwrap().0, 200, "what was connected goes on");
            soon(get_once(TokioIo::new(control))).await.unwrap();

            let met = server.met().len();
            for _ in 0..5 {
                let connected = get_by(&connector, &server.uri()).await;
                if withdraws {
                    let issuer = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
                    assert_eq!(connected.unwrap_err().tls(), Some(&issuer));
                    assert_eq!(server.met().len(), met, "a connection was made");
                } else {
                    connected.unwrap();
                    let last = server.met().pop().unwrap();
                    assert_eq!((last.client, last.is_resumed), (Some(identity.leaf_der()), false));
                    break;
                }
            }
            // It came, and it was one to resume by.
            let stream = dial(&kept, server.address, "localhost").await.unwrap();
            get_once(TokioIo::new(stream)).await.unwrap();
            assert!(server.met().last().unwrap().is_resumed, "the control");
        }
    }
}

/// Many connects to a host that is simply bad cost few looks, and none that a good host needs.
#[tokio::test]
async fn a_bad_host_spends_no_look_that_a_good_one_needs() {
    for _ in 0..5 {
        if a_bad_host_beside_a_good_one().await {
            return;
        }
    }
    panic!("this machine stands still for a second, each time; or looks hold the bad host up");
}

/// `false`: it took so long that the bad host may ask for a look again, or could not ask often enough.
async fn a_bad_host_beside_a_good_one() -> bool {
    let (ca, stranger, next) = (Ca::new("CA"), Ca::new("stranger"), Ca::new("next"));
    let bad = Bare::start(server_config(&stranger.issue("localhost"), &[], &TLS, HTTP1)).await;
    let good = Bare::start(server_config(&next.issue("localhost"), &[], &TLS, HTTP1)).await;
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let connector = Connector::builder(&files.reloader).http1_only().build().unwrap();
    let begun = tokio::time::Instant::now();
    let mut refused = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let error = soon(connect(&connector, &bad.uri())).await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::ServerCertificate);
        refused += 1;
    }
    // It may ask again after one second, two, four: most of them were not held up by a look.
    if refused <= 3 {
        return false;
    }
    files.write(&[&ca, &next], &ca.issue("client"));
    assert_eq!(
        soon(connect(&connector, &bad.uri())).await.unwrap_err().kind(),
        ConnectErrorKind::ServerCertificate
    );
    let number = files.reloader.current().number();
    // It asked at the start at the earliest, a second later, and may do so two seconds after that.
    if begun.elapsed() >= Duration::from_secs(3) {
        return false;
    }
    assert_eq!(number, 1, "it asks for nothing while it pauses");
    soon(connect(&connector, &good.uri())).await.unwrap();
    assert_eq!(files.reloader.current().number(), 2);
    true
}

#[tokio::test]
async fn a_failed_handshake_asks_for_a_look_that_all_who_wait_share() {
    for version in TLS {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let server = Bare::start(server_config(&new.issue("localhost"), &[&new], &[version], HTTP)).await;
        let files = Followed::new(&[&old], &old.issue("client"));
        let connector = Connector::new(&files.reloader).unwrap();
        files.write(&[&new], &new.issue("client"));
        let connects: Vec<_> = (0..20)
            .map(|_| {
                let (connector, uri) = (connector.clone(), server.uri());
                tokio::spawn(async move { connect(&connector, &uri).await.map(drop) })
            })
            .collect();
        for connect in connects {
            soon(connect).await.unwrap().unwrap();
        }
        assert_eq!(files.reloader.current().number(), 2);
    }
}

#[tokio::test]
async fn without_it_the_error_comes_as_it_is() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let server = Bare::start(server_config(&new.issue("localhost"), &[], &TLS, HTTP)).await;
    let files = Followed::new(&[&old], &old.issue("client"));
    let connector = Connector::builder(&files.reloader).reactive(None).build().unwrap();
    files.write(&[&new], &new.issue("client"));
    let error = connect(&connector, &server.uri()).await.unwrap_err();
    assert_eq!(error.kind(), ConnectErrorKind::ServerCertificate);
    assert_eq!(files.reloader.current().number(), 1);
}

/// On TLS 1.3 the refusal of our certificate comes after the handshake. It asks for a look all the same.
#[tokio::test]
async fn a_late_refusal_is_looked_into_too() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let server = Bare::start(server_config(&old.issue("localhost"), &[&new], &TLS[1..], HTTP1)).await;
    let files = Followed::new(&[&old], &old.issue("client"));
    let connector = Connector::builder(&files.reloader).http1_only().build().unwrap();
    files.write(&[&old], &new.issue("client"));
    let stream = connect(&connector, &server.uri()).await.unwrap();
    assert!(soon(get_once(stream)).await.is_err(), "the server refuses the old identity");
    until("the look", || files.reloader.current().number() == 2).await;
    assert_eq!(get_by(&connector, &server.uri()).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_connect_that_spans_a_swap_is_made_again() {
    for version in TLS {
        let ca = Ca::new("CA");
        let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &[version], HTTP1)).await;
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let connector = Connector::builder(&files.reloader).http1_only().build().unwrap();
        server.hold();
        let connecting = tokio::spawn({
            let (connector, uri) = (connector.clone(), server.uri());
            async move { get_by(&connector, &uri).await }
        });
        server.held(1).await;
        let identity = ca.issue("client");
        files.set(&[&ca], &identity).await;
        server.held(2).await;
        server.release();
        assert_eq!(soon(connecting).await.unwrap().unwrap().0, 200);
        // The connection that was given up may get through its handshake; it carries no request.
        let used: Vec<_> = server.met().into_iter().filter(|met| met.requests > 0).collect();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].client, Some(identity.leaf_der()));
    }
}

#[tokio::test]
async fn what_is_spoken_is_agreed_on() {
    let ca = Ca::new("CA");
    let both = Bare::start(server_config(&ca.issue("localhost"), &[], &TLS, HTTP)).await;
    let one = Bare::start(server_config(&ca.issue("localhost"), &[], &TLS, HTTP1)).await;
    let none = Bare::start(server_config(&ca.issue("localhost"), &[], &TLS, &[])).await;
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let builder = || Connector::builder(&files.reloader);
    for _ in 0..3 {
        connect(&builder().build().unwrap(), &both.uri()).await.unwrap();
        until("h2", || both.met().last().is_some_and(|met| met.alpn.as_deref() == Some(b"h2"))).await;
        connect(&builder().http1_only().build().unwrap(), &both.uri()).await.unwrap();
        until("h1", || both.met().last().is_some_and(|met| met.alpn.as_deref() == Some(b"http/1.1"))).await;
        let http2 = builder().http2_only().build().unwrap();
        connect(&http2, &both.uri()).await.unwrap();
        // This one goes on to say that it has no such protocol; that one has nothing to say.
        let error = connect(&http2, &one.uri()).await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Tls, "{error:?}");
        let error = connect(&http2, &none.uri()).await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Protocol, "{error:?}");
        files.set(&[&ca], &ca.issue("client")).await;
    }
}

#[tokio::test]
async fn errors_have_a_kind() {
    let (ca, other) = (Ca::new("CA"), Ca::new("other"));
    let files = Followed::new(&[&ca], &other.issue("client"));
    let connector = Connector::builder(&files.reloader).build().unwrap();
    let kind = async |uri: &http::Uri| soon(connect(&connector, uri)).await.unwrap_err().kind();
    let hasty = Connector::builder(&files.reloader).handshake_timeout(Duration::from_millis(300));
    let hasty = hasty.build().unwrap();

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://localhost:{}", silent.local_addr().unwrap().port()).parse().unwrap();
    assert_eq!(soon(connect(&hasty, &uri)).await.unwrap_err().kind(), ConnectErrorKind::TimedOut);
    // Nobody is given this port by port 0. One that was free a moment ago may be another test's now.
    assert_eq!(kind(&http::Uri::from_static("https://localhost:1/")).await, ConnectErrorKind::Connect);
    assert_eq!(kind(&http::Uri::from_static("http://localhost/")).await, ConnectErrorKind::Uri);

    let named = Bare::start(server_config(&ca.issue("elsewhere"), &[], &TLS, HTTP)).await;
    assert_eq!(kind(&named.uri()).await, ConnectErrorKind::ServerCertificate);
    // On TLS 1.2 the refusal of our certificate is part of the handshake.
    let strict = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS[..1], HTTP)).await;
    assert_eq!(kind(&strict.uri()).await, ConnectErrorKind::ClientCertificate);
    let error = connect(&connector, &strict.uri()).await.unwrap_err();
    let host = format!("localhost:{}", strict.address.port());
    assert_eq!(error.host(), host);
    assert_eq!(error.to_string(), format!("connecting to {host}: the server refuses our certificate"));
}
