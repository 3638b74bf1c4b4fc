//! Every future can be dropped at any moment: nothing is held up by it, nothing is lost, nothing is left.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use certsource_client::reqwest::Body;
use certsource_client::{Client, Hub, Redirects};
use certsource_testkit::{Ca, KubeletDir, Method as Writing, PlainDir};
use http_body_util::BodyExt;
use hyper::{Response, StatusCode};
use tokio::task::JoinHandle;

use common::{Gate, Gated, HTTP, Http, SOON, Server, Tls, builder, client, reply, soon, until};

async fn cancel<T: std::fmt::Debug>(task: JoinHandle<T>) {
    if task.is_finished() {
        panic!("it was to be cancelled while it waits: {:?}", task.await);
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}

/// After a future was dropped: a rotation is not held up, requests work, and old connections close.
async fn nothing_is_left(ca: &Ca, dir: &KubeletDir, client: &Client, server: &Server, step: &str) {
    let identity = ca.issue("client");
    dir.swap(&identity).unwrap();
    soon(client.reload()).await.unwrap();
    soon(client.get(server.url("/")).send()).await.unwrap().bytes().await.unwrap();
    assert_eq!(server.last().client, Some(identity.leaf_der()));
    until(&format!("one connection is left: {step}"), || server.open() == 1).await;
}

/// `/headers` never answers, `/body` never ends; anything else reads what comes.
async fn server(ca: &Ca, http: Http) -> Server {
    let leaf = ca.issue("localhost");
    Server::with(Tls::of(&leaf).clients(&[ca]).http(http), |request| async move {
        match request.uri().path() {
            "/headers" => std::future::pending().await,
            "/body" => Response::new(Gated::new([(None, "begun, "), (Some(Gate::new()), "")]).boxed()),
            _ => {
                // Who does not read does not see that nobody writes any more.
                let _ = request.into_body().collect().await;
                reply(StatusCode::OK, "ok")
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_send_at_every_step() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let server = server(&ca, http).await;
        let client = builder(dir.path()).confirm_identity(SOON).build().await.unwrap();

        // While a connection is made.
        server.hold_handshakes();
        let sending = tokio::spawn(client.post(server.url("/")).body("x").send());
        server.held(1).await;
        cancel(sending).await;
        server.release();
        nothing_is_left(&ca, &dir, &client, &server, "connecting").await;

        // While it is sent again, because a rotation came in between.
        dir.swap(ca.issue("client")).unwrap();
        client.reload().await.unwrap();
        server.hold_handshakes();
        let sending = tokio::spawn(client.post(server.url("/")).body("x").send());
        server.held(2).await;
        dir.swap(ca.issue("client")).unwrap();
        client.reload().await.unwrap();
        server.held(3).await;
        cancel(sending).await;
        server.release();
        nothing_is_left(&ca, &dir, &client, &server, "resent").await;

        // While it waits for the head of the response, while its body is read, and while its own body is sent.
        server.forget();
        let sending = tokio::spawn(client.get(server.url("/headers")).send());
        until("it arrives", || server.seen().len() == 1).await;
        cancel(sending).await;
        nothing_is_left(&ca, &dir, &client, &server, "head").await;

        let response = client.get(server.url("/body")).send().await.unwrap();
        let reading = tokio::spawn(response.bytes());
        tokio::task::yield_now().await;
        cancel(reading).await;
        nothing_is_left(&ca, &dir, &client, &server, "body").await;

        server.forget();
        let body = Body::wrap(Gated::new([(None, "begun, "), (Some(Gate::new()), "")]));
        let sending = tokio::spawn(client.post(server.url("/upload")).body(body).send());
        until("it arrives", || server.seen().len() == 1).await;
        cancel(sending).await;
        nothing_is_left(&ca, &dir, &client, &server, "upload").await;
    }
}

/// While it waits for a look, and for a writer that is at work: the next one that needs it gets it.
#[tokio::test]
async fn a_send_that_waits_for_a_look() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = PlainDir::new(Writing::Rename, old.issue("client")).unwrap();
    let client = builder(&dir.path()).build().await.unwrap();
    let leaf = new.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let identity = new.issue("client");
    let mut steps = dir.swap_steps(&identity).unwrap();
    let mut events = client.subscribe();
    while steps.remaining() > 1 {
        steps.step().unwrap();
    }
    let sending: Vec<_> = (0..5).map(|_| tokio::spawn(client.get(server.url("/")).send())).collect();
    while soon(events.next()).await.unwrap().unwrap().kind.as_str() != "pending" {}
    for task in sending {
        cancel(task).await;
    }
    steps.finish().unwrap();
    soon(client.reload()).await.unwrap();
    soon(client.get(server.url("/")).send()).await.unwrap();
}

/// While it waits for the look that a response asked for (`reactive_on`): the answer goes, the look does not.
#[tokio::test]
async fn a_send_that_waits_after_a_refusal_by_http() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let leaf = ca.issue("localhost");
        let server = Server::with(Tls::of(&leaf).clients(&[&ca]).http(http), |request| async move {
            let is_refused = request.uri().path() == "/refused";
            reply(if is_refused { StatusCode::BAD_REQUEST } else { StatusCode::OK }, "")
        })
        .await;
        // The check before publishing is where the look stands still, until the test lets it go.
        let (let_go, is_let_go) = std::sync::mpsc::channel::<()>();
        let is_let_go = std::sync::Mutex::new(is_let_go);
        let (looking, mut is_looking) = tokio::sync::mpsc::unbounded_channel();
        let client = builder(dir.path())
            .reactive_on(|response| response.status() == StatusCode::BAD_REQUEST)
            .validate(move |_, current| {
                if current.is_some() {
                    looking.send(()).unwrap();
                    is_let_go.lock().unwrap().recv_timeout(SOON).map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(())
            })
            .reactive_timeout(4 * SOON)
            .build()
            .await
            .unwrap();
        dir.swap(ca.issue("client")).unwrap();
        let sending = tokio::spawn(client.post(server.url("/refused")).body("x").send());
        soon(is_looking.recv()).await.unwrap();
        cancel(sending).await;
        let_go.send(()).unwrap();
        until("the look goes on", || client.generation().number() == 2).await;
        assert_eq!(server.seen().len(), 1, "it was given up, so it is not sent again");
        let_go.send(()).unwrap();
        nothing_is_left(&ca, &dir, &client, &server, "refused by HTTP").await;
    }
}

/// While it drains: a request that an old connection may still take keeps `reload` waiting. Whoever drops that wait loses
/// nothing, and nor does the request.
#[tokio::test]
async fn a_reload_that_drains() {
    for withdraws in [false, true] {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let gate = Gate::new();
        let leaf = ca.issue("localhost");
        let server = Server::slow(Tls::of(&leaf).clients(&[&ca]).http(Http::One), &gate).await;
        // The body of a last hop is reqwest's own, so that attempt counts until its response is there.
        let client = builder(dir.path()).redirect(Redirects::limited(0)).build().await.unwrap();
        let slow = tokio::spawn(client.post(server.url("/slow")).body("x").send());
        until("it arrives", || server.seen().len() == 1).await;
        dir.swap(ca.issue("client")).unwrap();
        let drains = {
            let client = client.clone();
            tokio::spawn(async move {
                if withdraws { client.withdraw_now().await } else { client.reload().await }
            })
        };
        until("it is published", || client.generation().number() == 2).await;
        // It has nothing left to do but to wait.
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel(drains).await;
        let again = tokio::spawn({
            let client = client.clone();
            async move { client.reload().await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!again.is_finished(), "the next one waits for the same");
        gate.open();
        assert_eq!(soon(slow).await.unwrap().unwrap().status(), StatusCode::OK);
        soon(again).await.unwrap().unwrap();
        nothing_is_left(&ca, &dir, &client, &server, "draining").await;
    }
}

/// While the server's answer to our certificate is waited for.
#[tokio::test]
async fn a_send_that_waits_for_a_confirmation() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    // One that never says anything.
    let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(Http::One).without_tickets()).await;
    let client = builder(dir.path()).confirm_identity(4 * SOON).build().await.unwrap();
    let sending = tokio::spawn(client.get(server.url("/")).send());
    until("it waits", || server.open() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    cancel(sending).await;
    dir.swap(ca.issue("client")).unwrap();
    soon(client.reload()).await.unwrap();
    drop(client);
    until("its connection closes", || server.open() == 0).await;
    assert!(server.seen().is_empty());
}

/// A `reload` that is dropped goes on; a `build` that is dropped leaves nothing; a stream of events loses none.
#[tokio::test]
async fn a_reload_a_build_and_a_stream() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let client = client(&dir).await;
    for withdraws in [false, true] {
        let mut events = client.subscribe();
        let number = client.generation().number();
        // Given up while it waits.
        while tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_ok() {}
        dir.swap(ca.issue("client")).unwrap();
        {
            let (mut reload, mut withdraw) = (Box::pin(client.reload()), Box::pin(client.withdraw_now()));
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            // Mostly pending; it may be quick.
            let _ = if withdraws {
                withdraw.as_mut().poll(&mut context)
            } else {
                reload.as_mut().poll(&mut context)
            };
        }
        until("it goes on", || client.generation().number() == number + 1).await;
        // Each one is polled once and given up, until there is an event; and none of both is missed.
        for kind in ["reloaded", "retired"] {
            let event = soon(async {
                loop {
                    match tokio::time::timeout(Duration::ZERO, events.next()).await {
                        Ok(event) => break event.unwrap().unwrap(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
            assert_eq!(event.await.kind.as_str(), kind);
        }
    }
    let hub = Hub::new();
    let missing = builder(&dir.path().join("missing")).hub(hub.clone()).wait_for_initial(4 * SOON);
    let build = tokio::spawn(missing.build());
    until("it is tried", || !format!("{hub:?}").contains("sources: 0,")).await;
    cancel(build).await;
    until("nothing is followed", || format!("{hub:?}").contains("sources: 0,")).await;
}
