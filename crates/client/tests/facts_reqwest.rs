//! What the design rests on in a plain reqwest client: what it does again by itself and where, what it forgets, what it
//! ignores, and to whom it shows the identity. If one of these fails after an upgrade, the client's own measures must be
//! looked at.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use certsource_client::reqwest::tls::Version as TlsVersion;
use certsource_client::reqwest::{self, Certificate, Identity, StatusCode};
use certsource_client::rustls::ClientConfig;
use certsource_client::rustls::version::{TLS12, TLS13};
use certsource_testkit::{Ca, Issued};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::TokioExecutor;

use common::{Gate, Http, SOON, Server, Tls, provider, reply, roots, soon, until};

/// A config as people make it by hand.
fn config(trust: &Ca, identity: Option<&Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots([trust]));
    match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain_der(), identity.key_der()).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

fn plain(config: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config)
}

/// reqwest sends again what an HTTP/2 server refused unread: on the same client, so with the old identity, also after
/// another client took its place. `retry::never()` stops that; ours has it, and sends again by itself.
#[cfg(feature = "http2")]
#[tokio::test]
async fn a_refused_request_is_sent_again_by_the_old_client() {
    use common::raw_h2::{RawH2, Verdict};
    for (verdict, connection) in [(Verdict::Refuse, 0), (Verdict::GoAway, 1)] {
        for retries in [true, false] {
            let ca = Ca::new("ca");
            let (leaf, first) = (ca.issue("localhost"), ca.issue("client"));
            let gate = Gate::new();
            let at = gate.clone();
            let server = RawH2::start(Tls::of(&leaf).clients(&[&ca]), move |arrived| {
                let (gate, is_first) = (at.clone(), arrived.number == 0);
                async move {
                    if !is_first {
                        return Verdict::Answer;
                    }
                    gate.passed().await;
                    verdict
                }
            })
            .await;
            let mut config = config(&ca, Some(&first));
            config.alpn_protocols = vec![b"h2".to_vec()];
            let mut old = plain(config);
            if !retries {
                old = old.retry(reqwest::retry::never());
            }
            let old = old.build().unwrap();
            let sending = tokio::spawn(old.post(server.url("/")).body("a body").send());
            until("it arrives", || server.seen().len() == 1).await;
            // The swap as it is done by hand: the pointer moves on, and this handle goes.
            drop(old);
            gate.open();
            let sent = soon(sending).await.unwrap();
            assert_eq!(sent.is_ok(), retries, "{verdict:?}");
            let seen = server.seen();
            assert_eq!(seen.len(), 1 + usize::from(retries), "{verdict:?}");
            if retries {
                assert_eq!((seen[1].connection, &seen[1].client), (connection, &Some(first.leaf_der())));
            }
        }
    }
}

/// A server on a thread that keeps its first connection open after an answer, and closes it when it is told to; it
/// answers the first request of the second one.
fn closing_server() -> (SocketAddr, mpsc::Sender<()>, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, told) = mpsc::channel::<()>();
    let (tell, closed) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in 0..2 {
            let Ok((mut stream, _)) = listener.accept() else { return };
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut head = Vec::new();
            let mut buffer = [0; 1024];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => head.extend(&buffer[..count]),
                    _ => return,
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            if told.recv_timeout(SOON).is_err() {
                return;
            }
            drop(stream);
            // The test may be over.
            let _ = tell.send(connection);
        }
    });
    (address, close, closed)
}

/// Closes the first connection so that hyper finds it out only after it has put the next request in its queue: this
/// thread is the runtime, and it stands still meanwhile.
async fn close_unseen(close: &mpsc::Sender<()>, closed: &mpsc::Receiver<usize>) {
    // The connection is back in its pool.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    close.send(()).unwrap();
    assert_eq!(closed.recv_timeout(SOON), Ok(0));
    // The kernel may hand the end over a little later; the runtime stands still.
    std::thread::sleep(std::time::Duration::from_millis(50));
    // The event is there, its task runs after this one.
    tokio::task::yield_now().await;
}

/// hyper-util by itself sends again what a pooled connection gave back unsent, in the same pool. It has a knob for
/// that; reqwest has none: `retry::never()` is another one.
#[tokio::test]
async fn a_cancelled_request_is_sent_again_in_the_old_pool() {
    for retries in [true, false] {
        let (address, close, closed) = closing_server();
        let bare = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .retry_canceled_requests(retries)
            .build::<_, Empty<Bytes>>(HttpConnector::new());
        let url: hyper::Uri = format!("http://{address}/").parse().unwrap();
        let response = bare.get(url.clone()).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        close_unseen(&close, &closed).await;
        // The control shows that it was cancelled: nobody else sends it again.
        assert_eq!(soon(bare.get(url)).await.is_ok(), retries);
    }
    let (address, close, closed) = closing_server();
    let old = reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .tls_backend_preconfigured(config(&Ca::new("ca"), None))
        .build()
        .unwrap();
    let url = format!("http://{address}/");
    old.get(&url).send().await.unwrap().bytes().await.unwrap();
    close_unseen(&close, &closed).await;
    let sending = old.get(&url).send();
    drop(old);
    // On a second connection, of the client that was replaced.
    soon(sending).await.unwrap();
}

/// What hyper-util says of requests whose HTTP/2 connection closed before it took them, and that it does not send again: the
/// one for which it was made, and one that waited for it in the pool. Others see no more of the second than its words, and
/// our client goes by them.
#[cfg(feature = "http2")]
#[tokio::test]
async fn a_connection_that_closes_at_once_is_told_by_words() {
    use std::convert::Infallible;
    use std::io;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use hyper_util::client::legacy::connect::{Connected, Connection};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Join, ReadHalf, SimplexStream, WriteHalf, join, simplex};

    /// `SETTINGS`, and `GOAWAY` with `NO_ERROR` and no stream that counts.
    const LEAVES: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    type Both = Join<ReadHalf<SimplexStream>, WriteHalf<SimplexStream>>;
    struct Pipe(TokioIo<Both>);
    impl hyper::rt::Read for Pipe {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: hyper::rt::ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }
    impl hyper::rt::Write for Pipe {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }
        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }
    impl Connection for Pipe {
        fn connected(&self) -> Connected {
            Connected::new().negotiated_h2()
        }
    }

    /// Makes pipes so short that the client's preface waits to be read, and keeps their other ends.
    #[derive(Clone, Default)]
    struct Connect(Arc<Mutex<Vec<Both>>>);
    impl tower_service::Service<hyper::Uri> for Connect {
        type Response = Pipe;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Pipe, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: hyper::Uri) -> Self::Future {
            let (to_client, to_server) = (simplex(LEAVES.len()), simplex(16));
            self.0.lock().unwrap().push(join(to_server.0, to_client.1));
            std::future::ready(Ok(Pipe(TokioIo::new(join(to_client.0, to_server.1)))))
        }
    }

    fn last(error: &(dyn std::error::Error + 'static)) -> String {
        error.source().map_or_else(|| error.to_string(), last)
    }

    let connect = Connect::default();
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build::<_, Empty<Bytes>>(connect.clone());
    let uri: hyper::Uri = "http://localhost/".parse().unwrap();
    let requests = [tokio::spawn(client.get(uri.clone())), tokio::spawn(client.get(uri))];
    until("both connect", || connect.0.lock().unwrap().len() == 2).await;
    // The second waits for the first, whose connection is the pool's now.
    tokio::task::yield_now().await;
    let mut server = connect.0.lock().unwrap().remove(0);
    server.write_all(&LEAVES).await.unwrap();
    tokio::spawn(async move { while server.read_u8().await.is_ok() {} });
    let [first, second] = requests;
    let words = [soon(first).await, soon(second).await].map(|sent| last(&sent.unwrap().unwrap_err()));
    assert_eq!(words, ["connection closed", "checked out connection was closed"]);
}

/// reqwest drops the extensions of a request, so hyper-util's `capture_connection`, which would tell when a connection
/// takes it, is out of reach.
#[tokio::test]
async fn extensions_of_a_request_are_dropped() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let plain = plain(config(&ca, None)).build().unwrap();
    let mut request = hyper::Request::get(server.url("/")).body("").unwrap();
    let captured = capture_connection(&mut request);
    plain.execute(request.try_into().unwrap()).await.unwrap();
    assert!(captured.connection_metadata().is_none());
}

/// What a client keeps is lost when it is built anew, unless both share it.
#[cfg(feature = "cookies")]
#[tokio::test]
async fn a_cookie_jar_is_lost_on_rebuild_unless_it_is_shared() {
    use std::sync::Arc;

    use reqwest::cookie::Jar;

    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::with(Tls::of(&leaf), |_| async {
        let mut response = reply(StatusCode::OK, "ok");
        response.headers_mut().insert("set-cookie", "mark=1".parse().unwrap());
        response
    })
    .await;
    for shared in [None, Some(Arc::new(Jar::default()))] {
        let build = || match &shared {
            Some(jar) => plain(config(&ca, None)).cookie_provider(Arc::clone(jar)),
            None => plain(config(&ca, None)).cookie_store(true),
        };
        let first = build().build().unwrap();
        for _ in 0..2 {
            first.get(server.url("/")).send().await.unwrap();
        }
        assert_eq!(server.last().headers["cookie"], "mark=1");
        build().build().unwrap().get(server.url("/")).send().await.unwrap();
        assert_eq!(server.last().headers.contains_key("cookie"), shared.is_some());
    }
}

/// With a TLS config that somebody brings, reqwest ignores its own settings in silence, each of these.
#[tokio::test]
async fn settings_of_tls_are_ignored_beside_a_config() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let (leaf, misnamed, strange) = (ca.issue("localhost"), ca.issue("elsewhere"), other.issue("localhost"));
    let identity = ca.issue("client");
    let (clients, tls12, tls13) = ([&ca], [&TLS12], [&TLS13]);
    ca.revoke(&leaf);
    let crl = ca.crl().pem();
    let by_reqwest = Identity::from_pem(identity.combined_pem().as_bytes()).unwrap();
    let stranger = Certificate::from_pem(other.certificate_pem().as_bytes()).unwrap();
    let crls = reqwest::tls::CertificateRevocationList::from_pem_bundle(crl.as_bytes()).unwrap();
    type Set = Box<dyn FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder>;
    let root = stranger.clone();
    let cases: [(&str, Tls<'_>, bool, Set); 9] = [
        // What the server is, whether a request works although, or fails because, it is ignored.
        ("identity", Tls::of(&leaf).clients(&clients), false, Box::new(move |b| b.identity(by_reqwest))),
        (
            "invalid certificates",
            Tls::of(&strange),
            false,
            Box::new(|b| b.tls_danger_accept_invalid_certs(true)),
        ),
        (
            "invalid names",
            Tls::of(&misnamed),
            false,
            Box::new(|b| b.tls_danger_accept_invalid_hostnames(true)),
        ),
        ("more roots", Tls::of(&strange), false, Box::new(move |b| b.tls_certs_merge([stranger.clone()]))),
        ("other roots", Tls::of(&strange), false, Box::new(move |b| b.tls_certs_only([root.clone()]))),
        ("CRLs", Tls::of(&leaf), true, Box::new(move |b| b.tls_crls_only(crls))),
        (
            "at the most",
            Tls::of(&leaf).versions(&tls13),
            true,
            Box::new(|b| b.tls_version_max(TlsVersion::TLS_1_2)),
        ),
        (
            "at the least",
            Tls::of(&leaf).versions(&tls12),
            true,
            Box::new(|b| b.tls_version_min(TlsVersion::TLS_1_3)),
        ),
        ("SNI", Tls::of(&leaf), true, Box::new(|b| b.tls_sni(false))),
    ];
    for (case, tls, works, set) in cases {
        let server = Server::start(tls.http(Http::One)).await;
        let client = set(plain(config(&ca, None))).build().unwrap();
        let sent = soon(client.get(server.url("/")).send()).await;
        assert_eq!(sent.is_ok(), works, "{case}: {sent:?}");
        if works {
            assert_eq!(server.last().name.as_deref(), Some("localhost"), "{case}");
        }
    }
}

/// A plain client shows its identity to an `https://` proxy that asks for one, before it says where it wants to go. Ours
/// is not built then, unless it is allowed.
#[tokio::test]
async fn the_identity_is_shown_to_an_https_proxy() {
    let ca = Ca::new("ca");
    let (leaf, identity) = (ca.issue("localhost"), ca.issue("client"));
    let proxy = Server::with(Tls::of(&leaf).clients(&[&ca]).http(Http::One), |_| async {
        reply(StatusCode::FORBIDDEN, "")
    })
    .await;
    let plain = reqwest::Client::builder()
        .proxy(reqwest::Proxy::all(proxy.url("")).unwrap())
        .tls_backend_preconfigured(config(&ca, Some(&identity)))
        .build()
        .unwrap();
    soon(plain.get("https://upstream.example/").send()).await.unwrap_err();
    let seen = proxy.last();
    assert_eq!((&seen.method[..], seen.client), ("CONNECT", Some(identity.leaf_der())));
}

/// Idle connections of a client that was replaced stay open until its last request has the head of its response.
#[tokio::test]
async fn idle_connections_stay_until_the_last_response_head() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let gate = Gate::new();
    let server = Server::slow(Tls::of(&leaf).http(Http::One), &gate).await;
    let old = plain(config(&ca, None)).build().unwrap();
    let slow = tokio::spawn(old.get(server.url("/slow")).send());
    until("the slow request arrives", || server.seen().len() == 1).await;
    old.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(server.open(), 2);
    drop(old);
    // Long against the 0.3 ms after which idle connections close otherwise.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(server.open(), 2, "the idle one is still there");
    gate.open();
    let response = soon(slow).await.unwrap().unwrap();
    until("the idle one goes, before the body is read", || server.open() <= 1).await;
    drop(response);
}
