//! HTTP/2 servers that refuse a request unread: it is sent again, as reqwest does, but by us.

#![cfg(feature = "http2")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certsource_client::Redirects;
use certsource_client::reqwest::Method;
use certsource_testkit::{Ca, Issued, KubeletDir};
use hyper::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use common::raw_h2::{RawH2, Verdict};
use common::{Gate, Http, Tls, builder, client, soon, until};

/// What a server does with its first requests.
#[derive(Clone, Copy, Debug)]
enum First {
    /// `REFUSED_STREAM`.
    Reset,
    /// `CANCEL`: it may have looked at it.
    Cancel,
    /// `GOAWAY`, and the connection closes.
    GoAway,
}

/// A server that so treats its first `count` requests, and answers 200 to the others.
async fn start(leaf: &Issued, first: First, count: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Tls::of(leaf).http(Http::Two).config());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut connection =
                    h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let is_first = counted.fetch_add(1, Ordering::SeqCst) < count;
                    drop(request);
                    match first {
                        First::Reset if is_first => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        First::Cancel if is_first => respond.send_reset(h2::Reason::CANCEL),
                        First::GoAway if is_first => {
                            // The stream was refused before: the last stream that counts is none.
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                            connection.graceful_shutdown();
                        }
                        _ => {
                            let response = Response::builder().status(StatusCode::OK).body(()).unwrap();
                            respond.send_response(response, true).unwrap();
                        }
                    }
                }
            });
        }
    });
    (address, requests)
}

#[tokio::test]
async fn a_refused_request_is_sent_again_within_a_bound() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    for (first, refused, works, sent) in [
        (First::Reset, 1, true, 2),
        (First::Reset, 2, true, 3),
        (First::Reset, 16, true, 17),
        (First::Reset, 17, false, 17),
        (First::GoAway, 1, true, 2),
    ] {
        let (address, requests) = start(&leaf, first, refused).await;
        let client = client(&dir).await;
        let request = client.post(format!("https://localhost:{}/", address.port())).body("a body");
        assert_eq!(soon(request.send()).await.is_ok(), works, "{first:?} {refused}");
        assert_eq!(requests.load(Ordering::SeqCst), sent, "{first:?} {refused}");
    }
}

/// A stream that was cancelled may have been looked at: a `POST` is not repeated.
#[tokio::test]
async fn a_cancelled_request_is_not_sent_again() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let (address, requests) = start(&leaf, First::Cancel, 1).await;
    let client = client(&dir).await;
    let request = client.post(format!("https://localhost:{}/", address.port()));
    soon(request.send()).await.unwrap_err();
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

/// No retry of the protocol's on an old connection: what it refuses unread after a rotation goes to the new generation,
/// and not to the old one's pool. Also on what may be the last hop, whose body reqwest itself could send again.
#[tokio::test]
async fn what_an_old_connection_refuses_goes_to_the_new_generation() {
    for verdict in [Verdict::Refuse, Verdict::GoAway] {
        for method in [Method::GET, Method::POST] {
            for redirects in [Redirects::default(), Redirects::limited(0)] {
                let ca = Ca::new("ca");
                let (leaf, first, second) = (ca.issue("localhost"), ca.issue("client"), ca.issue("client"));
                let dir = KubeletDir::new(&first).unwrap();
                let gate = Gate::new();
                let at = gate.clone();
                let server = RawH2::start(Tls::of(&leaf).clients(&[&ca]), move |arrived| {
                    let (gate, is_old) = (at.clone(), arrived.connection == 0);
                    async move {
                        if !is_old {
                            return Verdict::Answer;
                        }
                        gate.passed().await;
                        verdict
                    }
                })
                .await;
                let client = builder(dir.path()).redirect(redirects).build().await.unwrap();
                let request = client.request(method.clone(), server.url("/")).body("a body");
                let sending = tokio::spawn(request.send());
                until("the old connection has it", || server.seen().len() == 1).await;
                dir.swap(&second).unwrap();
                // Published; the client's own `reload` may wait for this very request.
                soon(client.reloader().reload()).await.unwrap();
                gate.open();
                soon(sending).await.unwrap().unwrap();
                let seen = server.seen().into_iter().map(|seen| (seen.connection, seen.client));
                let expected = [(0, Some(first.leaf_der())), (1, Some(second.leaf_der()))];
                assert_eq!(seen.collect::<Vec<_>>(), expected, "{verdict:?} {method} {redirects:?}");
            }
        }
    }
}
