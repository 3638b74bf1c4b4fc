//! What the design rests on in hyper and reqwest, held by tests: where a plain reqwest client falls short, and the
//! moments that hyper tells us. If one of these fails after an upgrade, the client's own measures must be looked at.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use certsource_client::certsource_rustls::ClientTls;
use certsource_client::reqwest::header::CONTENT_LENGTH;
use certsource_client::reqwest::{self, Body, Method, StatusCode, Version};
use certsource_testkit::{Ca, KubeletDir};
use http_body::{Frame, SizeHint};
use hyper::body::Bytes;

use common::{Gate, HTTP, Http, Server, Tls, builder, client, redirect, reply, soon, until};

/// Tells what hyper asks of a body.
struct Probe {
    asked: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
    data: Option<Bytes>,
}

impl http_body::Body for Probe {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.asked.store(true, Ordering::SeqCst);
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.asked.store(true, Ordering::SeqCst);
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

fn probe(text: &'static str) -> (Body, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (asked, dropped) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let data = (!text.is_empty()).then(|| Bytes::from_static(text.as_bytes()));
    (Body::wrap(Probe { asked: Arc::clone(&asked), dropped: Arc::clone(&dropped), data }), asked, dropped)
}

/// hyper asks a body whether it has ended when a connection takes the request, and not before.
#[tokio::test]
async fn a_body_is_asked_when_a_connection_takes_the_request() {
    for http in HTTP {
        for text in ["", "a body"] {
            let ca = Ca::new("ca");
            let leaf = ca.issue("localhost");
            let dir = KubeletDir::new(&leaf).unwrap();
            let plain = client(&dir).await.snapshot().unwrap();
            let server = Server::start(Tls::of(&leaf).http(http)).await;
            server.hold_handshakes();
            let (body, asked, dropped) = probe(text);
            let request = tokio::spawn(plain.post(server.url("/")).body(body).send());
            server.held(1).await;
            assert!(!asked.load(Ordering::SeqCst) && !dropped.load(Ordering::SeqCst));
            server.release();
            assert_eq!(soon(request).await.unwrap().unwrap().text().await.unwrap(), text);
            assert!(asked.load(Ordering::SeqCst), "{http:?} {text:?}");
        }
    }
}

/// A body that fails when it is first asked. Its length is not known.
struct Failing;

impl http_body::Body for Failing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::Error::other("taken back"))))
    }
}

/// A body that fails when it is first asked: over HTTP/1 nothing is sent, not even the head. So a request that is taken
/// back while a connection takes it does not go out. (Over HTTP/2 the head may, with a reset behind it.)
#[tokio::test]
async fn a_body_that_fails_at_once_stops_the_head() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let plain = client(&dir).await.snapshot().unwrap();
    for http in HTTP {
        let server = Server::start(Tls::of(&leaf).http(http)).await;
        // On a connection that is there already, and on a new one.
        for _ in 0..10 {
            plain.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
            plain.post(server.url("/never")).body(Body::wrap(Failing)).send().await.unwrap_err();
            plain.post(server.url("/never")).body(Body::wrap(Failing)).send().await.unwrap_err();
        }
        plain.get(server.url("/")).send().await.unwrap();
        if http == Http::One {
            assert!(server.seen().iter().all(|seen| seen.path != "/never"));
        }
    }
}

/// But not over HTTP/1 where hyper takes the body for an empty one, and asks it nothing: then the head goes out. So what is
/// sent like that is taken back in another way (`leaves_no_trace` in `crates/client/src/send.rs`).
#[tokio::test]
async fn a_body_that_is_taken_for_an_empty_one_does_not_stop_the_head() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let plain = client(&dir).await.snapshot().unwrap();
    for (method, version, length, goes_out) in [
        (Method::POST, Version::HTTP_11, None, false),
        (Method::POST, Version::HTTP_11, Some("5"), false),
        (Method::POST, Version::HTTP_11, Some("0"), true),
        (Method::POST, Version::HTTP_11, Some("00"), true),
        (Method::POST, Version::HTTP_10, None, true),
        (Method::POST, Version::HTTP_10, Some("0"), true),
        // That we do not make use of.
        (Method::POST, Version::HTTP_10, Some("5"), false),
        // These may be repeated; the next may not.
        (Method::GET, Version::HTTP_11, None, true),
        (Method::CONNECT, Version::HTTP_11, None, true),
    ] {
        let what = format!("{method} {version:?} {length:?}");
        let server = Server::start(Tls::of(&leaf).http(Http::One)).await;
        let mut request = plain.request(method, server.url("/")).version(version).body(Body::wrap(Failing));
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let sent = soon(request.send()).await;
        assert_eq!(
            (sent.is_ok(), server.seen().len()),
            (goes_out, usize::from(goes_out)),
            "{what}: {sent:?}"
        );
    }
}

/// An attempt that is given up before only drops the body, and has dropped it when it is over.
#[tokio::test]
async fn a_failed_connect_only_drops_the_body() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap();
    let plain = client(&dir).await.snapshot().unwrap();
    let leaf = other.issue("localhost");
    for http in HTTP {
        let server = Server::start(Tls::of(&leaf).http(http)).await;
        let (body, asked, dropped) = probe("a body");
        assert!(plain.post(server.url("/")).body(body).send().await.unwrap_err().is_connect());
        assert!(dropped.load(Ordering::SeqCst) && !asked.load(Ordering::SeqCst));
    }
}

/// The negative control of the redirect hop: clients that are only swapped send it on the old connection.
#[tokio::test]
async fn a_plain_client_that_was_swapped_still_hops_on_the_old_connection() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let (leaf, first) = (ca.issue("localhost"), ca.issue("client"));
        let gate = Gate::new();
        let at = gate.clone();
        let server = Server::with(Tls::of(&leaf).clients(&[&ca]).http(http), move |request| {
            let gate = at.clone();
            async move {
                if request.uri().path() == "/start" {
                    gate.passed().await;
                    return redirect(302, "/end");
                }
                reply(StatusCode::OK, "ok")
            }
        })
        .await;
        let dir = KubeletDir::new(&first).unwrap();
        let client = client(&dir).await;
        let old = client.snapshot().unwrap();
        let request = tokio::spawn(old.get(server.url("/start")).send());
        until("the first hop arrives", || server.seen().len() == 1).await;
        dir.swap(ca.issue("client")).unwrap();
        client.reload().await.unwrap();
        drop(old);
        gate.open();
        soon(request).await.unwrap().unwrap();
        let last = server.last();
        assert_eq!((&last.path[..], last.connection), ("/end", 0));
        assert_eq!(last.client, Some(first.leaf_der()));
    }
}

/// The negative control of the waiter: a request that waits for a new connection is served by an old one that becomes
/// idle, long after the swap.
#[tokio::test]
async fn a_waiter_of_a_plain_client_that_was_swapped_takes_an_old_connection() {
    let ca = Ca::new("ca");
    let (leaf, first) = (ca.issue("localhost"), ca.issue("client"));
    let gate = Gate::new();
    let server = Server::slow(Tls::of(&leaf).clients(&[&ca]).http(Http::One), &gate).await;
    let dir = KubeletDir::new(&first).unwrap();
    let client = client(&dir).await;
    let old = client.snapshot().unwrap();
    let slow = tokio::spawn(old.get(server.url("/slow")).send());
    until("the slow request arrives", || server.seen().len() == 1).await;
    server.hold_handshakes();
    let waiter = tokio::spawn(old.get(server.url("/waiter")).send());
    server.held(1).await;
    dir.swap(ca.issue("client")).unwrap();
    client.reload().await.unwrap();
    drop(old);
    gate.open();
    soon(slow).await.unwrap().unwrap().bytes().await.unwrap();
    soon(waiter).await.unwrap().unwrap();
    let last = server.last();
    assert_eq!((&last.path[..], last.connection), ("/waiter", 0));
    assert_eq!(last.client, Some(first.leaf_der()));
}

/// reqwest leaves ALPN to whoever brings the config: `http1_only` with `h2` in it still speaks HTTP/2, and no ALPN at
/// all means HTTP/1.1. So our client sets it from what was asked.
#[tokio::test]
async fn alpn_decides_the_version_of_http() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let ours = client(&dir).await;
    let generation = ours.generation();
    for (alpn, version) in [(vec![], Version::HTTP_11), (vec!["h2"], Version::HTTP_2)] {
        let config = ClientTls::new().unwrap().alpn(alpn).config(generation.material()).unwrap();
        let plain = reqwest::Client::builder().http1_only().no_proxy().tls_backend_preconfigured(config);
        assert_eq!(plain.build().unwrap().get(server.url("/")).send().await.unwrap().version(), version);
    }
    let of_builder = builder(dir.path()).http1_only().build().await.unwrap();
    let of_closure = builder(dir.path()).reqwest(|b| b.http1_only()).build().await.unwrap();
    let prior = builder(dir.path()).reqwest(|b| b.http2_prior_knowledge()).build().await.unwrap();
    for (client, version) in [
        (ours, Version::HTTP_2),
        (of_builder, Version::HTTP_11),
        (of_closure, Version::HTTP_11),
        (prior, Version::HTTP_2),
    ] {
        assert_eq!(client.get(server.url("/")).send().await.unwrap().version(), version);
    }
}

/// A config of another minor version of rustls, or one in an `Arc`, is only found out when the client is built.
#[tokio::test]
async fn reqwest_takes_this_rustls() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap();
    let generation = client(&dir).await.generation();
    let config = || ClientTls::new().unwrap().config(generation.material()).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(config()).build().unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(Arc::new(config())).build().unwrap_err();
}
