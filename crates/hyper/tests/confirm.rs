//! `confirm_identity` of the connector: a refusal of our certificate is a failed connect, on every version of TLS and HTTP,
//! and makes the source look before anything is lost; who has nothing to confirm waits for nothing.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use certsource_hyper::certsource_rustls::ClientTls;
use certsource_hyper::rustls::{AlertDescription, Error as TlsError, ServerConfig};
use certsource_hyper::{Builder, ConnectErrorKind, Connector};
use certsource_testkit::{Ca, Issued};
use common::*;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

type Asking = Client<Connector, Full<Bytes>>;

const ALPN: [&str; 2] = ["h2", "http/1.1"];
/// Longer than any server takes to say something, shorter than a test may take.
const PATIENT: Duration = SOON;
/// Would fail the test if it were waited for.
const TOO_LONG: Duration = Duration::from_secs(2 * SOON.as_secs());
/// As many refusals are tried of each kind.
const TRIES: usize = 50;

fn confirming(files: &Followed) -> Builder {
    Connector::builder(&files.reloader).confirm_identity(PATIENT)
}

/// A client that makes a connection for every request.
fn unpooled(connector: Connector) -> Asking {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

fn post(uri: &http::Uri, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri.clone()).body(Full::new(body.into())).unwrap()
}

/// The server sends no session tickets.
fn without_tickets(config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

#[tokio::test]
async fn every_refusal_is_a_failed_connect() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let files = Followed::new(&[&ours], &ours.issue("client"));
    let leaf = ours.issue("localhost");
    for version in TLS {
        for alpn in ALPN {
            let server = Bare::start(server_config(&leaf, &[&theirs], &[version], &[alpn])).await;
            let connector = confirming(&files).reactive(None).build().unwrap();
            let client = unpooled(connector.clone());
            for n in 0..TRIES {
                let body = if n % 2 == 0 { vec![b'x'; 6] } else { vec![b'x'; 1 << 20] };
                let error = soon(client.request(post(&server.uri(), body))).await.unwrap_err();
                assert!(error.is_connect(), "{version:?} {alpn} {n}: {error:?}");
                let error = soon(connect(&connector, &server.uri())).await.unwrap_err();
                assert_eq!(error.kind(), ConnectErrorKind::ClientCertificate, "{error:?}");
                let alert = TlsError::AlertReceived(AlertDescription::UnknownCA);
                assert_eq!(error.tls(), Some(&alert), "{version:?} {alpn}: {error:?}");
            }
            assert!(server.met().is_empty());
        }
    }
}

/// The control: without it a refusal on TLS 1.3 is no failed connect.
#[tokio::test]
async fn without_it_a_refusal_on_tls_1_3_meets_the_request() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let files = Followed::new(&[&ours], &ours.issue("client"));
    for alpn in ALPN {
        let config = server_config(&ours.issue("localhost"), &[&theirs], &TLS[1..], &[alpn]);
        let server = Bare::start(config).await;
        let client = unpooled(Connector::builder(&files.reloader).reactive(None).build().unwrap());
        for n in 0..TRIES {
            let error = soon(client.request(post(&server.uri(), "a body"))).await.unwrap_err();
            assert!(!error.is_connect(), "it may be of no use any more: {alpn} {n}: {error:?}");
        }
    }
}

/// The server has rotated, our files have too, and nobody has looked yet: a `POST` comes through, and only once.
#[tokio::test]
async fn any_request_is_saved_after_a_rotation() {
    for version in TLS {
        for alpn in ALPN {
            let (old, new) = (Ca::new("old"), Ca::new("new"));
            let files = Followed::new(&[&old], &old.issue("client"));
            let leaf = old.issue("localhost");
            let server = Bare::start(server_config(&leaf, &[&new], &[version], &[alpn])).await;
            let client = unpooled(confirming(&files).build().unwrap());
            let identity = new.issue("client");
            files.write(&[&old], &identity);
            let response = soon(client.request(post(&server.uri(), "a body"))).await.unwrap();
            assert_eq!(response.status(), 200, "{version:?} {alpn}");
            let met = server.met();
            assert_eq!((met.len(), met[0].requests), (1, 1), "{version:?} {alpn}");
            assert_eq!(met[0].client, Some(identity.leaf_der()));
        }
    }
}

/// Nothing newer is there, or the newest is refused too: a connect error that says so, and nothing was sent.
#[tokio::test]
async fn what_can_not_be_saved_is_a_refused_connect() {
    for version in TLS {
        for alpn in ALPN {
            let (old, new, theirs) = (Ca::new("old"), Ca::new("new"), Ca::new("theirs"));
            let files = Followed::new(&[&old], &old.issue("client"));
            let leaf = old.issue("localhost");
            let server = Bare::start(server_config(&leaf, &[&theirs], &[version], &[alpn])).await;
            let connector = confirming(&files).build().unwrap();
            let error = soon(connect(&connector, &server.uri())).await.unwrap_err();
            assert_eq!(error.kind(), ConnectErrorKind::ClientCertificate, "{error:?}");
            assert_eq!(files.reloader.current().number(), 1);
            // Another connector: this one's host asked in vain a moment ago.
            let connector = confirming(&files).build().unwrap();
            files.write(&[&old], &new.issue("client"));
            let error = soon(unpooled(connector).request(post(&server.uri(), "a body"))).await.unwrap_err();
            assert!(error.is_connect(), "{version:?} {alpn}: {error:?}");
            assert_eq!(files.reloader.current().number(), 2, "it was looked for");
            assert!(server.met().is_empty());
        }
    }
}

/// A server that rotates under a generation that has connected to it already: later connections are confirmed too.
#[tokio::test]
async fn a_server_that_rotates_later_loses_nothing() {
    for alpn in ALPN {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let files = Followed::new(&[&old], &old.issue("client"));
        let leaf = old.issue("localhost");
        let server = Bare::start(server_config(&leaf, &[&old], &TLS[1..], &[alpn])).await;
        let client = unpooled(confirming(&files).build().unwrap());
        for _ in 0..2 {
            soon(client.request(post(&server.uri(), "a body"))).await.unwrap();
        }
        let identity = new.issue("client");
        files.write(&[&old], &identity);
        server.set(server_config(&leaf, &[&new], &TLS[1..], &[alpn]));
        let sent: Vec<_> =
            (0..20).map(|_| tokio::spawn(client.request(post(&server.uri(), "a body")))).collect();
        for sent in sent {
            assert_eq!(soon(sent).await.unwrap().unwrap().status(), 200, "{alpn}");
        }
        let met = server.met();
        assert_eq!(met.iter().map(|met| met.requests).sum::<usize>(), 22, "{alpn}");
        assert_eq!(met.last().unwrap().client, Some(identity.leaf_der()));
    }
}

/// Rotation after rotation that only the files tell of, under load that may not be repeated. `CERTSOURCE_ROTATIONS` sets how
/// many; about one a second is looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_that_nobody_told_of_lose_nothing() {
    for alpn in ALPN {
        let mut ca = Ca::new("0");
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let root = Ca::new("root");
        let leaf = root.issue("localhost");
        files.set(&[&root], &ca.issue("client")).await;
        let server = Bare::start(server_config(&leaf, &[&ca], &TLS[1..], &[alpn])).await;
        let client = unpooled(confirming(&files).build().unwrap());
        let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let loops: Vec<_> = (0..4)
            .map(|_| {
                let (client, uri) = (client.clone(), server.uri());
                let (is_over, done) = (Arc::clone(&is_over), Arc::clone(&done));
                tokio::spawn(async move {
                    while !is_over.load(Ordering::SeqCst) {
                        let response = soon(client.request(post(&uri, "a body"))).await.unwrap();
                        response.into_body().collect().await.unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for rotation in 1..=size("CERTSOURCE_ROTATIONS", 5) {
            ca = Ca::new(&rotation.to_string());
            files.write(&[&root], &ca.issue("client"));
            server.set(server_config(&leaf, &[&ca], &TLS[1..], &[alpn]));
            let passed = done.load(Ordering::SeqCst) + 8;
            until("requests pass", || done.load(Ordering::SeqCst) >= passed).await;
        }
        is_over.store(true, Ordering::SeqCst);
        for running in loops {
            soon(running).await.unwrap();
        }
    }
}

/// A server that sends neither a ticket nor data is waited for once in a generation, and no longer than that.
#[tokio::test]
async fn a_silent_server_is_waited_for_once() {
    // Longer than a connect takes on a machine that has much to do.
    const WAIT: Duration = Duration::from_secs(4);
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let config = server_config(&ca.issue("localhost"), &[&ca], &TLS[1..], &["http/1.1"]);
    let server = Bare::start(without_tickets(config)).await;
    let connector = Connector::builder(&files.reloader).confirm_identity(WAIT).build().unwrap();
    let took = async || {
        let begun = Instant::now();
        let stream = soon(connect(&connector, &server.uri())).await.unwrap();
        let took = begun.elapsed();
        assert_eq!(soon(get_once(stream)).await.unwrap().0, 200);
        took
    };
    assert!(took().await >= WAIT);
    let again = (took().await, took().await);
    assert!(again.0 < WAIT && again.1 < WAIT, "{again:?}");
    files.set(&[&ca], &ca.issue("client")).await;
    assert!(took().await >= WAIT, "a new generation is confirmed anew");
    let again = took().await;
    assert!(again < WAIT, "{again:?}");
}

/// The wait is part of the connect: a newer generation ends it.
#[tokio::test]
async fn a_wait_that_spans_a_swap_is_given_up() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let config = server_config(&ca.issue("localhost"), &[&ca], &TLS[1..], &["http/1.1"]);
    let server = Bare::start(without_tickets(Arc::clone(&config))).await;
    let connector = Connector::builder(&files.reloader).confirm_identity(TOO_LONG).build().unwrap();
    let connecting = tokio::spawn({
        let (connector, uri) = (connector.clone(), server.uri());
        async move { connect(&connector, &uri).await }
    });
    until("it is connected and waits", || server.met().len() == 1).await;
    server.set(config);
    files.set(&[&ca], &ca.issue("client")).await;
    let stream = soon(connecting).await.unwrap().unwrap();
    assert_eq!(stream.info().unwrap().generation().number(), 2);
}

#[tokio::test]
async fn nobody_waits_for_what_is_not_to_come() {
    let ca = Ca::new("CA");
    let leaf = ca.issue("localhost");
    let config = |clients: &[&Ca], versions, alpn| server_config(&leaf, clients, versions, &[alpn]);
    let (tls12, tls13) = (&TLS[..1], &TLS[1..]);
    let cases = [
        ("a ticket comes", config(&[&ca], tls13, "http/1.1")),
        ("data comes", without_tickets(config(&[&ca], tls13, "h2"))),
        ("no certificate was asked for", without_tickets(config(&[], tls13, "http/1.1"))),
        ("TLS 1.2", config(&[&ca], tls12, "http/1.1")),
        ("TLS 1.2, HTTP/2", config(&[&ca], tls12, "h2")),
    ];
    for (case, config) in cases {
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let server = Bare::start(config).await;
        let connector = Connector::builder(&files.reloader).confirm_identity(TOO_LONG).build().unwrap();
        let client = unpooled(connector);
        for n in 0..3 {
            let response = soon(client.request(post(&server.uri(), "x"))).await.unwrap();
            assert_eq!(response.status(), 200, "{case}");
            if n > 0 && case == "a ticket comes" {
                assert!(server.met().last().unwrap().is_resumed, "sessions are resumed as without it");
            }
        }
    }
}

/// A server of another protocol than HTTP: what it does when a handshake is done.
async fn other<F>(
    identity: &Issued,
    clients: &Ca,
    then: fn(tokio_rustls::server::TlsStream<TcpStream>) -> F,
) -> http::Uri
where
    F: Future<Output = ()> + Send + 'static,
{
    let config = without_tickets(server_config(identity, &[clients], &TLS[1..], &[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    then(stream).await;
                }
            });
        }
    });
    format!("https://localhost:{port}/").parse().unwrap()
}

fn of_no_http(files: &Followed) -> Connector {
    let tls = ClientTls::with_provider(provider());
    Connector::builder(&files.reloader).tls(tls).own_alpn().confirm_identity(TOO_LONG).build().unwrap()
}

/// What it says is there for the protocol above, whole.
#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let uri = other(&ca.issue("localhost"), &ca, |mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        // The other side closes.
        let _ = stream.read(&mut asked).await;
    })
    .await;
    for _ in 0..3 {
        let stream = soon(connect(&of_no_http(&files), &uri)).await.unwrap();
        let mut stream = hyper_util::rt::TokioIo::new(stream);
        let mut heard = [0; 11];
        soon(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"220 ready\r\n");
        stream.write_all(b"EHLO").await.unwrap();
        soon(stream.read_exact(&mut heard[..4])).await.unwrap();
        assert_eq!(&heard[..4], b"EHLO");
    }
}

/// Not every server says why. One that says goodbye, and one that is gone: both looked into, and both failed connects.
#[tokio::test]
async fn a_server_that_ends_the_connection_without_a_reason_refuses() {
    let ca = Ca::new("CA");
    for polite in [true, false] {
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let leaf = ca.issue("localhost");
        let uri = if polite {
            other(&leaf, &ca, |mut stream| async move { stream.shutdown().await.unwrap() }).await
        } else {
            other(&leaf, &ca, |stream| async move { drop(stream) }).await
        };
        files.write(&[&ca], &ca.issue("client"));
        let error = soon(connect(&of_no_http(&files), &uri)).await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::ClientCertificate, "{error:?}");
        assert_eq!(error.tls(), None, "{error:?}");
        assert_eq!(files.reloader.current().number(), 2, "it was looked for");
    }
}
