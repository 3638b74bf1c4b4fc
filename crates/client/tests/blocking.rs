//! The blocking client: the same truth without a runtime, on one thread, dropped anywhere.

#![cfg(feature = "blocking")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use certsource_client::blocking::{BlockedInAsync, Body, Client, Response};
use certsource_client::{DrainDeadlinePassed, Reason, reqwest};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;
use hyper::StatusCode;

use common::{Gate, Gated, HTTP, Http, Server, Tls, builder, reply, soon, until};

/// Runs what waits on a thread where that is fine.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    soon(tokio::task::spawn_blocking(work)).await.unwrap()
}

fn has<E: Error + 'static>(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

struct Setting {
    ca: Ca,
    dir: KubeletDir,
    server: Server,
}

impl Setting {
    async fn new(http: Http) -> Self {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let leaf = ca.issue("localhost");
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        Self { ca, dir, server }
    }

    async fn client(&self) -> Client {
        let builder = builder(self.dir.path());
        on_a_thread(|| builder.blocking()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_follow_a_rotation() {
    for http in HTTP {
        let setting = Setting::new(http).await;
        let client = setting.client().await;
        let url = setting.server.url("/path");
        let (asked, of) = (url.clone(), client.clone());
        let built = on_a_thread(move || {
            let response = of.get(&asked).header("x-mine", "yes").send().unwrap();
            assert_eq!((response.status(), response.url().as_str()), (StatusCode::OK, &asked[..]));
            assert!(response.remote_addr().is_some());
            assert_eq!(of.put(&asked).body("bytes").send().unwrap().text().unwrap(), "bytes");
            of.post(&asked).body("built before")
        })
        .await;
        assert_eq!(setting.server.seen()[0].headers["x-mine"], "yes");
        let second = setting.ca.issue("client");
        setting.dir.swap(&second).unwrap();
        on_a_thread(move || {
            assert_eq!(client.reload().unwrap().number(), 2);
            assert_eq!(built.send().unwrap().text().unwrap(), "built before");
            assert_eq!(client.status().generation, 2);
        })
        .await;
        assert_eq!(setting.server.last().client, Some(second.leaf_der()));
    }
}

/// A reader of so many bytes, which counts what was read.
struct Long(u64, Arc<std::sync::atomic::AtomicU64>);

impl Read for Long {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = buffer.len().min(usize::try_from(self.0).unwrap());
        buffer[..read].fill(b'x');
        self.0 -= read as u64;
        self.1.fetch_add(read as u64, std::sync::atomic::Ordering::SeqCst);
        Ok(read)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_files_are_streamed() {
    const LENGTH: u64 = 5_000_000;
    for http in HTTP {
        let setting = Setting::new(http).await;
        let client = setting.client().await;
        let url = setting.server.url("/");
        on_a_thread(move || {
            let read = Arc::default();
            let echo = |body: Body| client.post(&url).body(body).send().unwrap().bytes().unwrap();
            assert_eq!(echo(Body::new(Long(LENGTH, Arc::clone(&read)))).len() as u64, LENGTH);
            assert_eq!(echo(Body::sized(Long(LENGTH, Arc::clone(&read)), LENGTH)).len() as u64, LENGTH);
            assert_eq!(echo(Body::new(io::empty())).len(), 0);
            assert_eq!(echo(Body::sized(io::empty(), 0)).len(), 0);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"of a file").unwrap();
            io::Seek::rewind(&mut file).unwrap();
            assert_eq!(&echo(file.into())[..], b"of a file");
            // A reader that breaks, and one that is shorter than was said, are errors; nothing looks whole.
            struct Broken;
            impl Read for Broken {
                fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                    Err(io::Error::other("the disk is gone"))
                }
            }
            let error = client.post(&url).body(Body::new(Broken)).send().unwrap_err();
            assert!(format!("{error:?}").contains("the disk is gone"), "{error:?}");
            assert!(has::<io::Error>(&error));
            let error = client.post(&url).body(Body::sized(&b"short"[..], 50)).send().unwrap_err();
            assert!(format!("{error:?}").contains("before the length"), "{error:?}");
        })
        .await;
    }
}

/// A server may answer before it has read everything: then no more is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_ends_the_reading() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let server = Server::with(Tls::of(&leaf).http(Http::Two), |mut request| async move {
        request.body_mut().frame().await.unwrap().unwrap();
        reply(StatusCode::FORBIDDEN, "no")
    })
    .await;
    let builder = builder(dir.path());
    let url = server.url("/");
    on_a_thread(move || {
        let client = builder.blocking().unwrap();
        let read = Arc::default();
        let response = client.post(url).body(Body::new(Long(u64::from(u32::MAX), Arc::clone(&read)))).send();
        assert_eq!(response.unwrap().status(), StatusCode::FORBIDDEN);
        assert!(read.load(std::sync::atomic::Ordering::SeqCst) < u64::from(u32::MAX));
    })
    .await;
}

/// Handles and responses may be dropped in async code, and a response is read to its end after its client is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_dropped_anywhere() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let gate = Gate::new();
    let at = gate.clone();
    let server = Server::with(Tls::of(&leaf), move |_| {
        let frames = Gated::new([(None, "first, "), (Some(at.clone()), "last")]);
        async move { reply(StatusCode::OK, "").map(|_| frames.boxed()) }
    })
    .await;
    let (made, url) = (builder(dir.path()), server.url("/"));
    let (client, first, second): (Client, Response, Response) = on_a_thread(move || {
        let client = made.blocking().unwrap();
        let (first, second) = (client.get(&url).send().unwrap(), client.get(&url).send().unwrap());
        (client, first, second)
    })
    .await;
    let weak = client.downgrade();
    drop(client);
    assert!(weak.upgrade().is_none());
    drop(first);
    gate.open();
    assert_eq!(on_a_thread(|| second.text()).await.unwrap(), "first, last");
    until("the connections close", || server.open() == 0).await;
}

#[tokio::test]
async fn in_async_code_it_says_so() {
    let setting = Setting::new(Http::One).await;
    let client = setting.client().await;
    let error = client.get(setting.server.url("/")).send().unwrap_err();
    assert!(has::<BlockedInAsync>(&error), "{error:?}");
    assert_eq!(error.url().map(|url| url.path()), Some("/"));
    let error = client.post(setting.server.url("/")).body(Body::new(io::empty())).send().unwrap_err();
    assert!(has::<BlockedInAsync>(&error), "{error:?}");
    assert_eq!(client.reload().unwrap_err().reason(), Reason::Unsupported);
    let error = builder(setting.dir.path()).blocking().unwrap_err();
    assert!(error.to_string().contains("async"), "{error}");
    // What does not wait is fine here.
    assert_eq!(client.generation().number(), 1);
    assert!(client.certificates().len() > 1 && client.expires_at().is_some());
    assert!(setting.server.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_and_the_drain_deadline_hold() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let server = Server::with(Tls::of(&leaf), |request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        let frames = Gated::new([(None, "first, "), (Some(Gate::new()), "last")]);
        reply(StatusCode::OK, "").map(|_| frames.boxed())
    })
    .await;
    let limit = Duration::from_millis(300);
    let (made, url) = (builder(dir.path()).drain_deadline(limit), server.url("/"));
    let never = server.url("/never");
    on_a_thread(move || {
        let client = made.blocking().unwrap();
        let error = client.get(never).timeout(limit).send().unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let response = client.get(url).send().unwrap();
        dir.swap(ca.issue("client")).unwrap();
        client.reload().unwrap();
        assert!(has::<DrainDeadlinePassed>(&response.bytes().unwrap_err()));
    })
    .await;
}
