//! Failing closed: while nobody can confirm what is served, connectors refuse every connect, no pool goes on with what it
//! has, and servers end what is open and let nobody in.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use certsource_hyper::certsource_reload::certsource::machine::Policy;
use certsource_hyper::certsource_reload::certsource::parts::Parts;
use certsource_hyper::certsource_reload::certsource::{KeyFormat, Origin, PrivateKey, Pusher, push};
use certsource_hyper::certsource_reload::{Closed, Error, Hub, Reason, Reloader};
use certsource_hyper::certsource_rustls::{ClientAuth, ClientTls};
use certsource_hyper::{ConnectErrorKind, Connector, Follow, Pooled, Standing, TlsListener, serve};
use certsource_testkit::{Ca, Issued};
use common::*;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower::{Service, ServiceExt};

struct Pushed {
    pusher: Pusher,
    reloader: Reloader,
}

impl Pushed {
    fn new(ca: &Ca, identity: &Issued) -> Self {
        let (pusher, source) = push(Origin::named("push"));
        let mut policy = Policy::every(Duration::from_millis(100));
        // A machine that stands still for a second must not look like a source that nobody can confirm.
        policy.max_stale = Some(Duration::from_secs(3));
        put(&pusher, ca, identity);
        let reloader = Reloader::builder(source).hub(Hub::new()).policy(policy).start().unwrap();
        Self { pusher, reloader }
    }

    async fn spoil(&self) {
        self.pusher.fail(Error::new(Reason::NotFound, "gone"));
        until("it is closed", || self.reloader.status().stale).await;
    }

    async fn mend(&self, ca: &Ca, identity: &Issued) {
        put(&self.pusher, ca, identity);
        soon(self.reloader.reload()).await.unwrap();
    }
}

fn put(pusher: &Pusher, ca: &Ca, identity: &Issued) {
    let (trust, chain) = (ca.certificate_der(), identity.chain_der());
    let key = identity.key_der().secret_der().to_vec();
    pusher.push(move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, key.clone().into());
        let origin = Origin::named("push");
        Ok(Parts::new().with_trust(&origin, [trust.clone()]).with_identity(&origin, chain.clone(), key))
    });
}

fn request(uri: &http::Uri) -> Request<Empty<Bytes>> {
    Request::get(uri.clone()).body(Empty::new()).unwrap()
}

/// Whether one of an error's causes says that it is closed.
fn says_closed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Closed>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[tokio::test]
async fn nothing_is_connected_to_and_no_pool_goes_on() {
    for alpn in ["h2", "http/1.1"] {
        let ca = Ca::new("CA");
        let identity = ca.issue("client");
        let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &[alpn])).await;
        let files = Pushed::new(&ca, &identity);
        let connector = Connector::new(&files.reloader).unwrap();
        let build = |connector| Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
        let pooled = Pooled::new(build(connector.clone()));
        let follow =
            Follow::new(connector.derive(move |connector| Ok::<_, Error>(build(connector))).unwrap());
        let uri = server.uri();
        let ask_pool = || async { soon(pooled.clone().oneshot(request(&uri))).await };
        let ask_follow = || async { soon(follow.clone().oneshot(request(&uri))).await };
        for response in [ask_pool().await.unwrap(), ask_follow().await.unwrap()] {
            response.into_body().collect().await.unwrap();
        }
        let ready_before = {
            let mut follow = follow.clone();
            follow.ready().await.unwrap();
            follow
        };
        let met = server.met().len();
        files.spoil().await;
        let error = connect(&connector, &uri).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Closed, "{error}");
        assert!(error.source().unwrap().to_string().contains("could not be confirmed"), "{error:?}");
        for result in [ask_pool().await, ask_follow().await, soon({ ready_before }.call(request(&uri))).await]
        {
            let error = result.map(|_| ()).unwrap_err();
            assert!(says_closed(&error), "{alpn}: {error:?}");
        }
        assert_eq!(server.met().len(), met, "{alpn}: no handshake was made");
        files.mend(&ca, &identity).await;
        for response in [ask_pool().await.unwrap(), ask_follow().await.unwrap()] {
            response.into_body().collect().await.unwrap();
        }
        assert_eq!(server.met().len(), met + 2, "{alpn}: on new connections");
    }
}

#[tokio::test]
async fn a_config_that_follows_refuses_too() {
    let ca = Ca::new("CA");
    let identity = ca.issue("client");
    let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &["http/1.1"])).await;
    let files = Pushed::new(&ca, &identity);
    let config = Arc::new(ClientTls::with_provider(provider()).following(&files.reloader).unwrap());
    let address = format!("127.0.0.1:{}", server.uri().port_u16().unwrap()).parse().unwrap();
    soon(dial(&config, address, "localhost")).await.unwrap();
    files.spoil().await;
    let error = soon(dial(&config, address, "localhost")).await.unwrap_err();
    assert!(error.to_string().contains("could not be confirmed"), "{error}");
    files.mend(&ca, &identity).await;
    soon(dial(&config, address, "localhost")).await.unwrap();
}

#[tokio::test]
async fn a_server_lets_nobody_in_and_ends_what_is_open_without_cutting_it() {
    let ca = Ca::new("CA");
    let identity = ca.issue("localhost");
    let files = Pushed::new(&ca, &identity);
    let begun = Arc::new(tokio::sync::Semaphore::new(0));
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let app = Router::new().route("/", get(|| async { "ok" })).route("/slow", {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        get(move || async move {
            begun.add_permits(1);
            drop(go_on.acquire().await.unwrap());
            "slow"
        })
    });
    let listener = TlsListener::builder(&files.reloader).client_auth(ClientAuth::Required);
    let listener = listener.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app).into_future());
    let client = ca.issue("client");
    let config = |alpn: &str| Arc::new(client_config(&[&ca], Some(&client), &TLS, &[alpn]));

    // An idle connection, one that is at work, and one of HTTP/2 that is at work.
    let stream = soon(dial(&config("http/1.1"), address, "localhost")).await.unwrap();
    let (mut idle, idles) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let idles = tokio::spawn(idles);
    assert_eq!(soon(common::get(&mut idle)).await.unwrap().0, 200);
    let slow = Request::get("/slow").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    let stream = soon(dial(&config("http/1.1"), address, "localhost")).await.unwrap();
    let (mut busy, works) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let works = tokio::spawn(works);
    let first = tokio::spawn(busy.send_request(slow.clone()));
    let stream = soon(dial(&config("h2"), address, "localhost")).await.unwrap();
    let (mut two, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = slow.clone();
    *request.uri_mut() = "https://localhost/slow".parse().unwrap();
    let second = tokio::spawn(two.send_request(request.clone()));
    drop(soon(begun.acquire_many(2)).await.unwrap());

    files.spoil().await;
    // The idle one is ended at once.
    let _ = soon(idles).await.unwrap();
    // Nobody comes in.
    assert!(
        soon(async {
            let stream = dial(&config("http/1.1"), address, "localhost").await.ok()?;
            get_once(TokioIo::new(stream)).await.ok()
        })
        .await
        .is_none()
    );
    go_on.add_permits(2);
    let (first, second) = (soon(first).await.unwrap().unwrap(), soon(second).await.unwrap().unwrap());
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "slow");
    assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "slow");
    let _ = soon(works).await.unwrap();
    let _ = soon(connection).await.unwrap();
    assert!(two.send_request(request).await.is_err());

    files.mend(&ca, &identity).await;
    let stream = soon(dial(&config("http/1.1"), address, "localhost")).await.unwrap();
    assert_eq!(soon(get_once(TokioIo::new(stream))).await.unwrap().0, 200);
}

#[tokio::test]
async fn who_was_withdrawn_is_not_let_in_again_by_what_is_given_up() {
    let (ca, other) = (Ca::new("CA"), Ca::new("other"));
    let files = Pushed::new(&ca, &ca.issue("localhost"));
    let mut listener = TlsListener::builder(&files.reloader)
        .client_auth(ClientAuth::Required)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let client = ca.issue("client");
    let config = Arc::new(client_config(&[&ca], Some(&client), &TLS, &["http/1.1"]));
    let (stream, accepted) = tokio::join!(dial(&config, address, "localhost"), listener.accept());
    let _stream = stream.unwrap();
    let peer = accepted.peer();
    assert_eq!(peer.standing(), Standing::Current);
    files.mend(&other, &ca.issue("localhost")).await;
    assert_eq!(peer.standing(), Standing::Withdrawn);
    files.spoil().await;
    assert_eq!(peer.standing(), Standing::Withdrawn);
    files.mend(&ca, &ca.issue("localhost")).await;
    assert_eq!(peer.standing(), Standing::Old);
    files.spoil().await;
    assert_eq!(peer.standing(), Standing::Old);
}
