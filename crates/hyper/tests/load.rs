//! Rotations under load: no request fails. `CERTSOURCE_ROTATIONS` sets how many; 1000 is the full size.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the figures of a long run")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use certsource_hyper::certsource_rustls::ClientAuth;
use certsource_hyper::{Connector, Error, Follow, Pooled, Resend, TlsListener, serve};
use certsource_testkit::Ca;
use common::*;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

/// Requests that go on without pause while both sides rotate.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicUsize,
    failed: std::sync::Mutex<Vec<String>>,
}

impl Load {
    /// Both sides get new certificates, again and again: the client's files first or the server's, in turns. Between two
    /// rotations some requests pass.
    async fn rotate(&self, ca: &Ca, server: &Followed, client: &Followed) -> usize {
        let rotations = size("CERTSOURCE_ROTATIONS", 40);
        for rotation in 0..rotations {
            let (one, two) = if rotation % 2 == 0 { (server, client) } else { (client, server) };
            let name = |of: &Followed| if std::ptr::eq(of, server) { "localhost" } else { "client" };
            one.set(&[ca], &ca.issue(name(one))).await;
            two.set(&[ca], &ca.issue(name(two))).await;
            let passed = self.done.load(Ordering::SeqCst) + 4;
            until("requests pass", || self.done.load(Ordering::SeqCst) >= passed).await;
        }
        self.stop.store(true, Ordering::SeqCst);
        rotations
    }

    fn note<T, E: std::fmt::Debug>(&self, result: Result<T, E>) -> Option<T> {
        self.done.fetch_add(1, Ordering::SeqCst);
        result.map_err(|error| lock(&self.failed).push(format!("{error:?}"))).ok()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn finish(&self, what: &str, rotations: usize) {
        let (done, failed) = (self.done.load(Ordering::SeqCst), lock(&self.failed));
        println!("{what}: {rotations} rotations of both sides, {done} requests, {} failed", failed.len());
        assert!(done >= rotations);
        assert!(failed.is_empty(), "{what}: {} of {done} failed: {:?}", failed.len(), failed.first());
    }
}

struct Scene {
    ca: Ca,
    server: Followed,
    client: Followed,
    load: Arc<Load>,
}

impl Scene {
    fn new() -> Self {
        let ca = Ca::new("CA");
        let server = Followed::new(&[&ca], &ca.issue("localhost"));
        let client = Followed::new(&[&ca], &ca.issue("client"));
        Self { ca, server, client, load: Arc::new(Load::default()) }
    }

    async fn listener(&self) -> (TlsListener, SocketAddr) {
        let builder = TlsListener::builder(&self.server.reloader).client_auth(ClientAuth::Required);
        let listener = builder.bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn run(self, what: &str, tasks: Vec<tokio::task::JoinHandle<()>>) {
        let rotations = self.load.rotate(&self.ca, &self.server, &self.client).await;
        for task in tasks {
            soon(task).await.unwrap();
        }
        self.load.finish(what, rotations);
    }
}

fn app() -> Router {
    Router::new().route("/", get(|| async { "ok" })).route(
        "/slow",
        get(|| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            "ok"
        }),
    )
}

/// Requests by a hyper client, by this connector's builder.
fn requests(
    scene: &Scene,
    address: SocketAddr,
    http2: bool,
    follow: bool,
) -> Vec<tokio::task::JoinHandle<()>> {
    let builder = Connector::builder(&scene.client.reloader);
    let connector = if http2 { builder.http2_only() } else { builder.http1_only() }.build().unwrap();
    let client = move |connector| {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(http2).build::<_, Empty<Bytes>>(connector)
    };
    let pooled = Resend::new(Pooled::new(client(connector.clone())));
    let derived = connector.derive(move |connector| Ok::<_, Error>(client(connector))).unwrap();
    let followed = Resend::new(Follow::new(derived));
    (0..8)
        .map(|task| {
            let (load, pooled, followed) = (Arc::clone(&scene.load), pooled.clone(), followed.clone());
            let path = if task % 2 == 0 { "" } else { "slow" };
            let uri: http::Uri = format!("https://localhost:{}/{path}", address.port()).parse().unwrap();
            tokio::spawn(async move {
                while !load.is_over() {
                    let request = Request::get(uri.clone()).body(Empty::new()).unwrap();
                    let sent = if follow {
                        soon(followed.clone().oneshot(request)).await
                    } else {
                        soon(pooled.clone().oneshot(request)).await
                    };
                    if let Some(response) = load.note(sent) {
                        assert_eq!(response.status(), 200);
                        // The request is counted; a body that does not come to its end is a failure of it.
                        if let Err(error) = soon(response.into_body().collect()).await {
                            lock(&load.failed).push(format!("{error:?}"));
                        }
                    }
                }
            })
        })
        .collect()
}

async fn axum_case(http2: bool, follow: bool, own_loop: bool) {
    let scene = Scene::new();
    let (listener, address) = scene.listener().await;
    let server = if own_loop {
        tokio::spawn(serve(listener, app()).into_future())
    } else {
        tokio::spawn(async move { axum::serve(listener, app()).await.unwrap() })
    };
    let tasks = requests(&scene, address, http2, follow);
    scene.run(&format!("axum, http2 {http2}, follow {follow}, serve {own_loop}"), tasks).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_http1() {
    axum_case(false, true, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_http1_pooled() {
    axum_case(false, false, true).await;
}

/// One thread for client and connections: see the known problem of `Resend`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn axum_http2() {
    axum_case(true, true, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_serve_http1() {
    axum_case(false, true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_serve_http2() {
    axum_case(true, true, false).await;
}

fn channel(scene: &Scene, address: SocketAddr) -> Resend<Follow<Channel>> {
    let connector = Connector::builder(&scene.client.reloader).http2_only().build().unwrap();
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
    let derived =
        connector.derive(move |connector| Ok::<_, Error>(Channel::new(connector, endpoint.clone())));
    Resend::new(Follow::new(derived.unwrap()))
}

/// On one thread, as HTTP/2 is with axum: hyper may lose a request when its connection ends on another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tonic_unary() {
    let scene = Scene::new();
    let (listener, address) = scene.listener().await;
    let routes = tonic::service::Routes::new(grpc::Echo).into_axum_router();
    let server = tokio::spawn(serve(listener, routes).into_future());
    let channel = channel(&scene, address);
    let tasks = (0..8)
        .map(|_| {
            let (load, channel) = (Arc::clone(&scene.load), channel.clone());
            tokio::spawn(async move {
                while !load.is_over() {
                    load.note(soon(grpc::unary(channel.clone(), "hello".into())).await);
                }
            })
        })
        .collect();
    scene.run("tonic, unary", tasks).await;
    server.abort();
}

/// Streams that live for a hundred messages, and so span several rotations. What is counted as a request is a message that
/// came back, and the opening and the end of a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tonic_streaming() {
    let scene = Scene::new();
    let (listener, address) = scene.listener().await;
    let routes = tonic::service::Routes::new(grpc::Echo).into_axum_router();
    let server = tokio::spawn(serve(listener, routes).into_future());
    let channel = channel(&scene, address);
    let tasks = (0..4)
        .map(|task| {
            let (load, channel) = (Arc::clone(&scene.load), channel.clone());
            tokio::spawn(async move {
                while !load.is_over() {
                    let Some((sender, mut receiver)) = load.note(soon(grpc::stream(channel.clone())).await)
                    else {
                        continue;
                    };
                    for message in 0..100 {
                        let text = format!("{task} {message}");
                        soon(sender.send(text.clone())).await.unwrap();
                        let echoed = soon(receiver.message()).await;
                        let Some(echoed) = load.note(echoed) else { break };
                        assert_eq!(echoed, Some(text));
                    }
                    drop(sender);
                    load.note(soon(receiver.message()).await);
                }
            })
        })
        .collect();
    scene.run("tonic, streaming", tasks).await;
    server.abort();
}
