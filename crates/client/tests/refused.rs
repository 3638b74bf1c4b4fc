//! HTTP/2 servers that refuse a request unread: it is sent again, as reqwest does, but by us.

#![cfg(feature = "http2")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certsource_client::Redirects;
use certsource_client::reqwest::{Body, Method};
use certsource_client::rustls::version::TLS13;
use certsource_testkit::{Ca, Issued, KubeletDir};
use hyper::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use common::raw_h2::{RawH2, Verdict};
use common::{Gate, Gated, Http, Tls, builder, client, soon, until};

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

/// A server that says `GOAWAY` on its first `count` connections together with its part of the handshake, so before a
/// request can be there: as one does that rotates between accepting a connection and serving it. It answers on the others.
/// Counts connections, and the requests that came.
async fn leaving(leaf: &Issued, count: usize) -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    /// `SETTINGS`, and `GOAWAY` with `NO_ERROR` and no stream that counts (RFC 9113, sections 6.5 and 6.8).
    const LEAVES: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = (*Tls::of(leaf).http(Http::Two).versions(&[&TLS13]).config()).clone();
    // Without it a server sends nothing before it has the client's part.
    config.send_half_rtt_data = true;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (connections, requests) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let told = (address, Arc::clone(&connections), Arc::clone(&requests));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let is_leaving = connections.fetch_add(1, Ordering::SeqCst) < count;
            let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
            tokio::spawn(async move {
                let accept = acceptor.accept_with(stream, |tls| {
                    if is_leaving {
                        tls.writer().write_all(&LEAVES).unwrap();
                    }
                });
                // A client that makes several connections at once gives some of them up.
                let Ok(mut stream) = accept.await else { return };
                if is_leaving {
                    // Until the client goes.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    return;
                }
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let response = Response::builder().status(StatusCode::OK).body(()).unwrap();
                    respond.send_response(response, true).unwrap();
                }
            });
        }
    });
    told
}

/// A connection that closes with the request in its queue has not taken it: it is sent again, whatever its method and its
/// body. A plain client gives up, because the connection was not used before.
#[tokio::test]
async fn what_a_new_connection_did_not_take_is_sent_again_within_a_bound() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = client(&dir).await;
    let bodies: [fn() -> Body; 3] = [
        || Body::from(""),
        || Body::from("a body"),
        || Body::wrap(Gated::new([(None, "a "), (None, "stream")])),
    ];
    for body in bodies {
        for (leaves, works) in [(1, true), (16, true), (17, false)] {
            let (address, connections, requests) = leaving(&leaf, leaves).await;
            let url = format!("https://localhost:{}/", address.port());
            let sent = soon(client.post(url).body(body()).send()).await;
            assert_eq!(sent.is_ok(), works, "{leaves}: {sent:?}");
            assert_eq!(connections.load(Ordering::SeqCst), leaves.min(16) + 1, "{leaves}");
            assert_eq!(requests.load(Ordering::SeqCst), usize::from(works), "{leaves}");
        }
    }
    // The control: the request is in the queue when the connection closes.
    let (address, ..) = leaving(&leaf, 1).await;
    let url = format!("https://localhost:{}/", address.port());
    let error = soon(client.snapshot().unwrap().post(url).send()).await.unwrap_err();
    assert!(
        last(&error).is::<hyper::Error>() || last(&error).to_string() == "connection closed",
        "{error:?}"
    );
}

fn last<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    error.source().map_or(error, last)
}

/// Nor did one that closes while many wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_wait_for_a_connection_that_closes_are_sent_again() {
    const AT_ONCE: usize = 16;
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let client = client(&dir).await;
    for _ in 0..10 {
        let (address, _, requests) = leaving(&leaf, 4).await;
        let url = format!("https://localhost:{}/", address.port());
        let sending: Vec<_> =
            (0..AT_ONCE).map(|_| tokio::spawn(client.post(&url).body("a body").send())).collect();
        for sent in sending {
            soon(sent).await.unwrap().unwrap();
        }
        assert_eq!(requests.load(Ordering::SeqCst), AT_ONCE, "each was seen once");
    }
}
