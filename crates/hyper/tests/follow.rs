//! `Pooled` and `Follow`: no new request on an old connection, and nothing that has begun is cut.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use certsource_hyper::{ConnectionInfo, Connector, Error, Follow, Pooled, Resend, TlsListener, serve};
use certsource_testkit::Ca;
use common::*;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

type Plain = Client<Connector, Empty<Bytes>>;

fn request(uri: &http::Uri) -> Request<Empty<Bytes>> {
    Request::get(uri.clone()).body(Empty::new()).unwrap()
}

/// Sends a request, reads the answer, and tells the generation of its connection.
async fn used<S, B>(service: S, uri: &http::Uri) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = hyper::Response<B>>,
    S::Error: std::fmt::Debug,
    B: hyper::body::Body,
    B::Error: std::fmt::Debug,
{
    let response = soon(service.oneshot(request(uri))).await.unwrap();
    let number = response.extensions().get::<ConnectionInfo>().unwrap().generation().number();
    response.into_body().collect().await.unwrap();
    number
}

fn client(connector: Connector) -> Plain {
    Client::builder(TokioExecutor::new()).build(connector)
}

#[tokio::test]
async fn a_pooled_connection_of_an_older_generation_is_not_used() {
    for alpn in ["h2", "http/1.1"] {
        let ca = Ca::new("CA");
        let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &[alpn])).await;
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let connector = Connector::new(&files.reloader).unwrap();
        let (plain, pooled) = (client(connector.clone()), Pooled::new(client(connector)));
        for number in 1..=20 {
            // The second request finds the first one's connection.
            for _ in 0..2 {
                assert_eq!(used(pooled.clone(), &server.uri()).await, number, "{alpn}");
            }
            assert_eq!(used(plain.clone(), &server.uri()).await, 1, "{alpn}: a plain pool goes on");
            files.set(&[&ca], &ca.issue("client")).await;
        }
        assert_eq!(server.met().len(), 21, "{alpn}: a connection for each generation, and one");
    }
}

#[tokio::test]
async fn many_requests_at_once_leave_no_old_connection_behind() {
    let ca = Ca::new("CA");
    let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &["http/1.1"])).await;
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let pooled = Pooled::new(client(Connector::new(&files.reloader).unwrap()));
    for number in 1..=10 {
        let uri = server.uri();
        let requests: Vec<_> = (0..16)
            .map(|_| {
                let (pooled, uri) = (pooled.clone(), uri.clone());
                tokio::spawn(async move { used(pooled, &uri).await })
            })
            .collect();
        for request in requests {
            assert_eq!(soon(request).await.unwrap(), number);
        }
        files.set(&[&ca], &ca.issue("client")).await;
    }
}

/// Another connection becomes free before a request's own is there: hyper-util finishes that in the background, and pools
/// it, and no request has told of it.
#[tokio::test]
async fn a_connection_that_no_request_has_taken_is_not_used_after_a_rotation() {
    for resend in [false, true] {
        let ca = Ca::new("CA");
        let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &["http/1.1"])).await;
        let files = Followed::new(&[&ca], &ca.issue("client"));
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let connector = Connector::new(&files.reloader).unwrap().map_response(move |stream| {
            count.fetch_add(1, Ordering::SeqCst);
            stream
        });
        let pooled = Pooled::new(Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector));
        let ask = || {
            let (pooled, uri) = (pooled.clone(), server.uri());
            tokio::spawn(async move {
                if resend { used(Resend::new(pooled), &uri).await } else { used(pooled, &uri).await }
            })
        };
        server.hold();
        let (first, second) = (ask(), ask());
        server.held(2).await;
        server.release_first(1);
        // Both on the connection that was let through.
        assert_eq!((soon(first).await.unwrap(), soon(second).await.unwrap()), (1, 1));
        assert_eq!(server.met().len(), 1);
        server.release();
        until("the other is made", || made.load(Ordering::SeqCst) == 2).await;
        // It is pooled: on this one thread, nothing else is to be done.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        files.set(&[&ca], &ca.issue("client")).await;
        let (first, second) = (ask(), ask());
        assert_eq!((soon(first).await.unwrap(), soon(second).await.unwrap()), (2, 2));
        let requests: Vec<_> = server.met().iter().take(2).map(|met| met.requests).collect();
        assert_eq!(requests, [2, 0], "the other one was never used");
    }
}

/// The server's side for the tests below: the crate's own, and never rotated.
async fn start(files: &Followed, app: Router) -> http::Uri {
    let listener = TlsListener::bind("127.0.0.1:0", &files.reloader).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(listener, app).into_future());
    format!("https://localhost:{port}/").parse().unwrap()
}

#[tokio::test]
async fn follow_switches_below_retries() {
    let ca = Ca::new("CA");
    let files = Arc::new(Followed::new(&[&ca], &ca.issue("client")));
    let server = Bare::start(server_config(&ca.issue("localhost"), &[&ca], &TLS, &["h2"])).await;
    let connector = Connector::new(&files.reloader).unwrap();
    let follow = Follow::new(connector.derive(|connector| Ok::<_, Error>(client(connector))).unwrap());
    let numbers = Arc::new(std::sync::Mutex::new(Vec::new()));
    // Retries once; a rotation comes between the two tries.
    #[derive(Clone)]
    struct Twice(Arc<Followed>, Arc<Ca>, usize);
    impl<B> tower::retry::Policy<Request<Empty<Bytes>>, hyper::Response<B>, hyper_util::client::legacy::Error>
        for Twice
    {
        type Future = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
        fn retry(
            &mut self,
            _: &mut Request<Empty<Bytes>>,
            _: &mut Result<hyper::Response<B>, hyper_util::client::legacy::Error>,
        ) -> Option<Self::Future> {
            self.2 = self.2.checked_sub(1)?;
            let (files, ca) = (Arc::clone(&self.0), Arc::clone(&self.1));
            Some(Box::pin(async move {
                files.set(&[&ca], &ca.issue("client")).await;
            }))
        }
        fn clone_request(&mut self, request: &Request<Empty<Bytes>>) -> Option<Request<Empty<Bytes>>> {
            Some(request.clone())
        }
    }
    let ca = Arc::new(ca);
    let noted = {
        let numbers = Arc::clone(&numbers);
        tower::ServiceBuilder::new()
            .map_response(move |response: hyper::Response<hyper::body::Incoming>| {
                let info = response.extensions().get::<ConnectionInfo>().unwrap();
                lock(&numbers).push(info.generation().number());
                response
            })
            .service(follow)
    };
    let retry = tower::retry::Retry::new(Twice(Arc::clone(&files), Arc::clone(&ca), 3), noted);
    soon(retry.oneshot(request(&server.uri()))).await.unwrap();
    assert_eq!(*lock(&numbers), [1, 2, 3, 4]);
}

#[tokio::test]
async fn an_idle_follow_keeps_nothing_of_an_older_generation() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let made = files.reloader.derive(|generation| Ok::<_, Error>(Arc::new(generation.number()))).unwrap();
    #[derive(Clone)]
    struct Number(Arc<u64>);
    impl Service<()> for Number {
        type Response = u64;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<u64, Self::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Ok(*self.0))
        }
    }
    let follow = files
        .reloader
        .derive(|generation| Ok::<_, Error>(Number(Arc::new(generation.number()))))
        .map(Follow::new)
        .unwrap();
    drop(made);
    let (mut one, mut two) = (follow.clone(), follow.clone());
    assert_eq!(one.ready().await.unwrap().call(()).await, Ok(1));
    let first = Arc::downgrade(&follow.current().value().0);
    // Ready on the first generation, called on the second.
    two.ready().await.unwrap();
    files.set(&[&ca], &ca.issue("client")).await;
    assert_eq!(two.call(()).await, Ok(2));
    until("the first is gone", || first.upgrade().is_none()).await;
    assert_eq!(one.ready().await.unwrap().call(()).await, Ok(2));
}

#[tokio::test]
async fn with_hyper_a_response_finishes_while_generations_change() {
    let ca = Ca::new("CA");
    let (server, files) =
        (Followed::new(&[&ca], &ca.issue("localhost")), Followed::new(&[&ca], &ca.issue("client")));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let app = Router::new().route("/", get(|| async { "ok" })).route(
        "/long",
        get(move || async move {
            let receiver = lock(&receiver).take().unwrap();
            axum::body::Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
        }),
    );
    let uri = start(&server, app).await;
    let long: http::Uri = format!("{uri}long").parse().unwrap();
    let connector = Connector::new(&files.reloader).unwrap();
    let follow = Follow::new(connector.derive(|connector| Ok::<_, Error>(client(connector))).unwrap());
    let response = soon(follow.clone().oneshot(request(&long))).await.unwrap();
    for number in 2..5 {
        sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        files.set(&[&ca], &ca.issue("client")).await;
        assert_eq!(used(follow.clone(), &uri).await, number);
    }
    drop(sender);
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(&body[..], b"xxx");
}

#[tokio::test]
async fn with_tonic_new_calls_use_the_new_one_and_open_streams_finish() {
    let ca = Ca::new("CA");
    let server = Followed::new(&[&ca], &ca.issue("localhost"));
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let uri = start(&server, tonic::service::Routes::new(grpc::Echo).into_axum_router()).await;
    let connector = Connector::builder(&files.reloader).http2_only().build().unwrap();
    let endpoint = Endpoint::from(uri);
    let channel = Follow::new(
        connector.derive(move |connector| Ok::<_, Error>(Channel::new(connector, endpoint.clone()))).unwrap(),
    );
    let mut streams = Vec::new();
    for number in 1..=5 {
        let (sender, receiver) = soon(grpc::stream(channel.clone())).await.unwrap();
        streams.push((sender, receiver));
        assert_eq!(grpc::unary(channel.clone(), "hello".into()).await.unwrap(), "hello");
        // Every stream still goes both ways, those of older generations too.
        for (sender, receiver) in &mut streams {
            sender.send(format!("at {number}")).await.unwrap();
            assert_eq!(soon(receiver.message()).await.unwrap(), Some(format!("at {number}")));
        }
        files.set(&[&ca], &ca.issue("client")).await;
    }
    for (sender, mut receiver) in streams {
        drop(sender);
        assert_eq!(soon(receiver.message()).await.unwrap(), None);
    }
}

/// The other way to make a channel.
#[tokio::test]
async fn tonic_connects_through_an_endpoint_too() {
    let ca = Ca::new("CA");
    let server = Followed::new(&[&ca], &ca.issue("localhost"));
    let files = Followed::new(&[&ca], &ca.issue("client"));
    let uri = start(&server, tonic::service::Routes::new(grpc::Echo).into_axum_router()).await;
    let connector = Connector::builder(&files.reloader).http2_only().tls_for_http().build().unwrap();
    for scheme in ["https", "http"] {
        let uri = format!("{scheme}://{}", uri.authority().unwrap());
        let endpoint = Endpoint::from_shared(uri).unwrap();
        let channel = soon(endpoint.connect_with_connector(connector.clone())).await.unwrap();
        assert_eq!(grpc::unary(channel, "hello".into()).await.unwrap(), "hello");
    }
}
