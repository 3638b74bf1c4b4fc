//! The drain deadline: what still runs on a replaced generation is cut, with an error that says why; and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::error::Error;
use std::time::Duration;

use certsource_client::reqwest::{self, Body, StatusCode};
use certsource_client::{Client, DrainDeadlinePassed, Retire};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;
use hyper::Response;
use tokio::time::Instant;

use common::{Gate, Gated, HTTP, Http, SOON, Server, Tls, builder, redirect, reply, soon, until};

const LIMIT: Duration = Duration::from_millis(300);

/// What says why, found the way users find it: along `source()`.
fn why(error: &reqwest::Error) -> Option<DrainDeadlinePassed> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(cut) = error.downcast_ref::<DrainDeadlinePassed>() {
            return Some(*cut);
        }
        next = error.source();
    }
    None
}

struct Setting {
    ca: Ca,
    dir: KubeletDir,
    server: Server,
    /// What the server waits for.
    gate: Gate,
}

impl Setting {
    /// `/headers` waits before its headers, `/body` after the first bytes of its body, `/hop` before it leads to
    /// `/end`; a `POST` is read to its end first.
    async fn new(http: Http) -> Self {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let gate = Gate::new();
        let leaf = ca.issue("localhost");
        let server = Server::with(Tls::of(&leaf).clients(&[&ca]).http(http), {
            let gate = gate.clone();
            move |request| {
                let gate = gate.clone();
                async move {
                    match request.uri().path() {
                        "/headers" => gate.passed().await,
                        "/hop" => {
                            gate.passed().await;
                            return redirect(302, "/end");
                        }
                        "/body" => {
                            let frames = [(None, "begun, "), (Some(gate), "done")];
                            return Response::new(Gated::new(frames).boxed());
                        }
                        _ => {}
                    }
                    match request.into_body().collect().await {
                        Ok(body) => reply(StatusCode::OK, body.to_bytes()),
                        Err(_) => reply(StatusCode::BAD_REQUEST, ""),
                    }
                }
            }
        })
        .await;
        Self { ca, dir, server, gate }
    }

    async fn client(&self) -> Client {
        builder(self.dir.path()).drain_deadline(LIMIT).build().await.unwrap()
    }

    async fn rotate(&self, client: &Client) {
        self.dir.swap(self.ca.issue("client")).unwrap();
        soon(client.reload()).await.unwrap();
    }
}

#[tokio::test]
async fn what_still_runs_is_cut_and_says_why() {
    for http in HTTP {
        let setting = Setting::new(http).await;
        let client = setting.client().await;
        let url = |path| setting.server.url(path);
        let mut body = client.get(url("/body")).send().await.unwrap();
        assert_eq!((body.url().path(), body.remote_addr()), ("/body", Some(setting.server.address())));
        assert_eq!(body.chunk().await.unwrap().unwrap(), "begun, ");
        let headers = tokio::spawn(client.get(url("/headers")).send());
        let upload = Body::wrap(Gated::new([(None, "up "), (Some(setting.gate.clone()), "and away")]));
        let upload = tokio::spawn(client.post(url("/post")).body(upload).send());
        until("all are on their way", || setting.server.seen().len() == 3).await;

        let begun = Instant::now();
        setting.rotate(&client).await;
        let expected = Some(1);
        let body = soon(body.bytes()).await.unwrap_err();
        assert_eq!(why(&body).map(|cut| cut.generation), expected, "{body:?}");
        for request in [headers, upload] {
            let error = soon(request).await.unwrap().unwrap_err();
            let cut = why(&error).unwrap_or_else(|| panic!("{error:?}"));
            assert_eq!((cut.generation, cut.deadline), (1, LIMIT));
            assert!(!error.is_connect() && !error.is_timeout() && error.url().is_some());
        }
        assert!(begun.elapsed() >= LIMIT, "not before the deadline");
        // Nothing was sent again, and the connections are gone.
        assert_eq!(setting.server.seen().len(), 3);
        until("the old connections close", || setting.server.open() == 0).await;
        client.get(url("/")).send().await.unwrap();
    }
}

/// A response that nobody reads is cut too: its connection must not stay.
#[tokio::test]
async fn a_response_that_is_not_read_is_cut_as_well() {
    for http in HTTP {
        let setting = Setting::new(http).await;
        let client = setting.client().await;
        let response = client.get(setting.server.url("/body")).send().await.unwrap();
        setting.rotate(&client).await;
        until("its connection closes", || setting.server.open() == 0).await;
        assert!(why(&response.bytes().await.unwrap_err()).is_some());
    }
}

/// Responses that end in time end well, and what began on the new generation is not counted.
#[tokio::test]
async fn what_ends_in_time_is_whole() {
    for http in HTTP {
        let setting = Setting::new(http).await;
        let client = builder(setting.dir.path()).drain_deadline(SOON).build().await.unwrap();
        let old = client.get(setting.server.url("/body")).send().await.unwrap();
        setting.rotate(&client).await;
        let new = client.get(setting.server.url("/body")).send().await.unwrap();
        let length = client.post(setting.server.url("/")).body("four").send().await.unwrap();
        assert_eq!(length.content_length(), Some(4));
        setting.gate.open();
        assert_eq!(soon(old.text()).await.unwrap(), "begun, done");
        assert_eq!(soon(new.text()).await.unwrap(), "begun, done");
        assert_eq!(length.text().await.unwrap(), "four");
    }
}

/// The end of the client replaces nothing: what runs goes on, however long it takes.
#[tokio::test]
async fn the_end_of_the_client_cuts_nothing() {
    let setting = Setting::new(Http::One).await;
    let client = setting.client().await;
    let response = client.get(setting.server.url("/body")).send().await.unwrap();
    drop(client);
    tokio::time::sleep(3 * LIMIT).await;
    setting.gate.open();
    assert_eq!(soon(response.text()).await.unwrap(), "begun, done");
}

/// What waits in the queue of a full connection goes on as the new generation, when the deadline has cut what fills it.
#[tokio::test]
async fn what_waits_behind_what_is_cut_moves_on() {
    let setting = Setting::new(Http::Two).await;
    let client = setting.client().await;
    let slow: Vec<_> =
        (0..200).map(|_| tokio::spawn(client.get(setting.server.url("/headers")).send())).collect();
    until("the connection is full", || setting.server.seen().len() == 200).await;
    let posts: Vec<_> = (0..5).map(|_| tokio::spawn(client.post(setting.server.url("/")).send())).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    setting.rotate(&client).await;
    for request in slow {
        assert!(why(&soon(request).await.unwrap().unwrap_err()).is_some());
    }
    let mut moved = 0;
    for request in posts {
        match soon(request).await.unwrap() {
            Ok(_) => moved += 1,
            // The first that waits was taken already: its connection has only to find a stream for it.
            Err(error) => assert!(why(&error).is_some()),
        }
    }
    assert!(moved >= 4, "{moved} of 5 moved");
}

/// However short the deadline is, it cuts nothing that no connection has taken.
#[tokio::test]
async fn what_waits_for_its_connection_is_not_cut() {
    for limit in [Duration::ZERO, Duration::from_millis(100)] {
        let setting = Setting::new(Http::Two).await;
        let client = builder(setting.dir.path()).drain_deadline(limit).build().await.unwrap();
        setting.server.hold_handshakes();
        let waiter = tokio::spawn(client.post(setting.server.url("/")).body("four").send());
        setting.server.held(1).await;
        setting.rotate(&client).await;
        setting.server.release();
        assert_eq!(soon(waiter).await.unwrap().unwrap().text().await.unwrap(), "four");
    }
}

/// A lazy client stays on its generation with its hops, until the deadline.
#[tokio::test]
async fn a_lazy_client_is_cut_too() {
    let setting = Setting::new(Http::One).await;
    let client =
        builder(setting.dir.path()).retire(Retire::Lazy).drain_deadline(LIMIT).build().await.unwrap();
    let request = tokio::spawn(client.get(setting.server.url("/hop")).send());
    until("the first hop arrives", || setting.server.seen().len() == 1).await;
    setting.rotate(&client).await;
    assert!(why(&soon(request).await.unwrap().unwrap_err()).is_some());
}
