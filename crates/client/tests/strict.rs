//! Strict retirement: what no connection has taken moves to the new generation, what one has taken finishes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use certsource_client::reqwest::{Body, Method, StatusCode};
use certsource_client::{Builder, Client, Redirects, Retire, ServedBy};
use certsource_testkit::{Ca, Issued, KubeletDir};
use http_body_util::BodyExt;
use hyper::Response;

use common::{Gate, Gated, HTTP, Http, Server, Tls, builder, client, redirect, reply, soon, until};

/// A CA whose server asks for certificates, and a client of it.
struct Setting {
    ca: Ca,
    dir: KubeletDir,
    first: Issued,
}

impl Setting {
    fn new() -> Self {
        let ca = Ca::new("ca");
        let first = ca.issue("client");
        Self { dir: KubeletDir::new(&first).unwrap(), ca, first }
    }

    /// Rotates the identity, and returns the new one once the client uses it.
    async fn rotate(&self, client: &Client) -> Issued {
        let next = self.ca.issue("client");
        self.dir.swap(&next).unwrap();
        soon(client.reload()).await.unwrap();
        next
    }
}

#[track_caller]
fn served_by(response: &certsource_client::Response) -> u64 {
    response.extensions().get::<ServedBy>().unwrap().generation
}

/// FACTS: a gate after the connect is not enough. Requests that wait for a connection are woken, and none of them is
/// given an old connection that becomes idle later.
#[tokio::test]
async fn a_waiter_in_the_old_pool_moves_on() {
    let setting = Setting::new();
    let gate = Gate::new();
    let server_leaf = setting.ca.issue("localhost");
    let server = Server::slow(Tls::of(&server_leaf).clients(&[&setting.ca]).http(Http::One), &gate).await;
    let client = client(&setting.dir).await;
    let slow = tokio::spawn(client.get(server.url("/slow")).send());
    until("the slow request arrives", || server.seen().len() == 1).await;
    server.hold_handshakes();
    let waiters: Vec<_> =
        (0..20).map(|n| tokio::spawn(client.post(server.url("/post")).body(format!("{n}")).send())).collect();
    server.held(20).await;

    let second = setting.rotate(&client).await;
    // The old connection becomes idle while they wait: that is what they must not take.
    gate.open();
    slow.await.unwrap().unwrap().bytes().await.unwrap();
    server.release();
    for (n, waiter) in waiters.into_iter().enumerate() {
        assert_eq!(soon(waiter).await.unwrap().unwrap().text().await.unwrap(), n.to_string());
    }
    let posts: Vec<_> = server.seen().into_iter().filter(|seen| seen.method == "POST").collect();
    assert_eq!(posts.len(), 20, "each was seen once");
    assert!(posts.iter().all(|seen| seen.client == Some(second.leaf_der()) && seen.connection != 0));
    assert_eq!(server.seen()[0].client, Some(setting.first.leaf_der()));
}

/// The first connection of a pool is being made: with HTTP/2, all requests wait for it.
#[tokio::test]
async fn many_that_wait_for_the_first_connection_move_on() {
    for http in HTTP {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http)).await;
        let client = client(&setting.dir).await;
        server.hold_handshakes();
        let waiters: Vec<_> =
            (0..50).map(|n| tokio::spawn(client.post(server.url("/")).body(format!("{n}")).send())).collect();
        server.held(1).await;
        let second = setting.rotate(&client).await;
        server.release();
        for (n, waiter) in waiters.into_iter().enumerate() {
            let response = soon(waiter).await.unwrap().unwrap();
            assert_eq!(served_by(&response), 2, "where it ended, not where it began");
            assert_eq!(response.text().await.unwrap(), n.to_string());
        }
        let seen = server.seen();
        assert_eq!(seen.len(), 50, "each was seen once, {http:?}");
        assert!(seen.iter().all(|seen| seen.client == Some(second.leaf_der())));
    }
}

/// Also on what may be the last hop, whose body tells nobody when a connection takes it. It holds `reload` up there, until its
/// own handshake is refused, for its generation is over.
#[tokio::test]
async fn a_last_hop_that_waits_for_its_connection_moves_on() {
    for http in HTTP {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http)).await;
        let client = builder(setting.dir.path()).redirect(Redirects::limited(0)).build().await.unwrap();
        for method in [Method::PUT, Method::POST] {
            server.hold_handshakes();
            let before = server.connections();
            let request = client.request(method, server.url("/")).body("a body");
            let waiter = tokio::spawn(request.send());
            until("it connects", || server.connections() > before).await;
            let next = setting.ca.issue("client");
            setting.dir.swap(&next).unwrap();
            let number = client.generation().number();
            let reload = tokio::spawn({
                let client = client.clone();
                async move { client.reload().await }
            });
            until("it is published", || client.generation().number() > number).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert!(!reload.is_finished(), "it may have a connection");
            server.release();
            soon(reload).await.unwrap().unwrap();
            assert_eq!(soon(waiter).await.unwrap().unwrap().text().await.unwrap(), "a body");
            let seen = server.forget();
            assert_eq!(seen.len(), 1, "it was seen once, {http:?}");
            assert_eq!(seen[0].client, Some(next.leaf_der()));
            // The next one connects anew.
            setting.rotate(&client).await;
        }
    }
}

/// There a rotation cuts nothing that a connection has taken, whether it may be repeated or not.
#[tokio::test]
async fn a_last_hop_that_a_connection_has_taken_finishes() {
    for http in HTTP {
        let (setting, gate) = (Setting::new(), Gate::new());
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::with(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http), {
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move {
                    gate.passed().await;
                    reply(StatusCode::OK, "ok")
                }
            }
        })
        .await;
        let client = builder(setting.dir.path()).redirect(Redirects::limited(0)).build().await.unwrap();
        let request = client.request(Method::PUT, server.url("/")).body("a body");
        let taken = tokio::spawn(request.send());
        until("it is taken", || server.seen().len() == 1).await;
        setting.dir.swap(setting.ca.issue("client")).unwrap();
        let reload = tokio::spawn({
            let client = client.clone();
            async move { client.reload().await }
        });
        until("it is published", || client.generation().number() == 2).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        gate.open();
        assert_eq!(served_by(&soon(taken).await.unwrap().unwrap()), 1, "{http:?}");
        soon(reload).await.unwrap().unwrap();
        assert_eq!(server.seen().len(), 1, "it was seen once");
    }
}

/// One that may not be repeated moves on too, while another connection of its generation works, and is seen once.
#[tokio::test]
async fn a_post_that_waits_for_its_handshake_moves_on() {
    for is_http1 in [false, true] {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let tls = || Tls::of(&server_leaf);
        let (server, other) =
            (Server::start(tls().clients(&[&setting.ca])).await, Server::start(tls()).await);
        let builder = builder(setting.dir.path());
        let builder = if is_http1 { builder.http1_only() } else { builder };
        let client = builder.build().await.unwrap();
        server.hold_handshakes();
        let waiter = tokio::spawn(client.post(server.url("/")).body("a body").send());
        server.held(1).await;
        client.get(other.url("/")).send().await.unwrap();
        let second = setting.rotate(&client).await;
        server.release();
        let response = soon(waiter).await.unwrap().unwrap();
        assert_eq!((served_by(&response), &response.text().await.unwrap()[..]), (2, "a body"));
        assert_eq!(server.seen().len(), 1, "it was seen once");
        assert_eq!(server.last().client, Some(second.leaf_der()));
    }
}

/// A lazy client's too, when no connection takes it for a while: its own may never come.
#[tokio::test]
async fn a_lazy_request_that_no_connection_takes_moves_on() {
    for method in [Method::GET, Method::POST] {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca])).await;
        let client = builder(setting.dir.path()).retire(Retire::Lazy).build().await.unwrap();
        server.hold_handshakes();
        let waiter = tokio::spawn(client.request(method, server.url("/")).send());
        server.held(1).await;
        let second = setting.rotate(&client).await;
        server.held(2).await;
        server.release();
        assert_eq!(served_by(&soon(waiter).await.unwrap().unwrap()), 2);
        assert_eq!(server.seen().len(), 1, "it was seen once");
        assert_eq!(server.last().client, Some(second.leaf_der()));
    }
}

/// An HTTP/2 connection that is full keeps requests in a queue: they move on too, and do not hold `reload` up.
#[tokio::test]
async fn what_waits_for_a_full_connection_moves_on() {
    let setting = Setting::new();
    let gate = Gate::new();
    let server_leaf = setting.ca.issue("localhost");
    let server = Server::slow(Tls::of(&server_leaf).clients(&[&setting.ca]).http(Http::Two), &gate).await;
    let client = client(&setting.dir).await;
    // hyper's server takes 200 streams at once.
    let slow: Vec<_> = (0..200).map(|_| tokio::spawn(client.get(server.url("/slow")).send())).collect();
    until("the connection is full", || server.seen().len() == 200).await;
    let queued: Vec<_> = (0..50).map(|_| tokio::spawn(client.get(server.url("/queued")).send())).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.seen().len(), 200, "they do wait");
    let second = setting.rotate(&client).await;
    // hyper takes one more than fits, which then waits within the connection: that one is committed.
    until("the others move on", || {
        let moved = |seen: &&common::Seen| seen.path == "/queued" && seen.client == Some(second.leaf_der());
        server.seen().iter().filter(moved).count() >= 49
    })
    .await;
    gate.open();
    for request in slow.into_iter().chain(queued) {
        soon(request).await.unwrap().unwrap();
    }
    assert_eq!(server.seen().len(), 250, "each was seen once");
}

/// What may not be repeated is left in the queue of an old connection for a moment, and then taken back: `reload` waits no
/// longer, nothing more is given to that connection, and each request is seen once.
#[tokio::test]
async fn what_may_not_be_repeated_leaves_the_queue_of_an_old_connection() {
    let setting = Setting::new();
    let gate = Gate::new();
    let server_leaf = setting.ca.issue("localhost");
    let server = Server::with(Tls::of(&server_leaf).clients(&[&setting.ca]).http(Http::Two), {
        let gate = gate.clone();
        move |request| {
            let gate = gate.clone();
            async move {
                if request.method() == "GET" {
                    gate.passed().await;
                }
                reply(StatusCode::OK, "ok")
            }
        }
    })
    .await;
    let client = client(&setting.dir).await;
    let slow: Vec<_> = (0..200).map(|_| tokio::spawn(client.get(server.url("/")).send())).collect();
    until("the connection is full", || server.seen().len() == 200).await;
    let posts: Vec<_> = (0..5).map(|_| tokio::spawn(client.post(server.url("/")).send())).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The old connection is full all the while.
    let next = setting.rotate(&client).await;
    client.post(server.url("/new")).send().await.unwrap();
    gate.open();
    for request in slow.into_iter().chain(posts) {
        soon(request).await.unwrap().unwrap();
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 206, "each was seen once");
    let new = seen.into_iter().filter(|seen| seen.client == Some(next.leaf_der())).count();
    // The first that waits was taken already: its connection has only to find a stream for it.
    assert!((5..=6).contains(&new), "{new} of 6 moved");
}

#[tokio::test]
async fn a_streaming_body_is_bounced_and_sent_whole() {
    for http in HTTP {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http)).await;
        let client = client(&setting.dir).await;
        server.hold_handshakes();
        let body = Body::wrap(Gated::new([(None, "one "), (None, "two "), (None, "three")]));
        let request = tokio::spawn(client.post(server.url("/")).body(body).send());
        server.held(1).await;
        let second = setting.rotate(&client).await;
        server.release();
        assert_eq!(soon(request).await.unwrap().unwrap().text().await.unwrap(), "one two three");
        assert_eq!(server.seen().len(), 1);
        assert_eq!(server.last().client, Some(second.leaf_der()));
    }
}

/// A response that takes long is not cut by a rotation, in either direction.
#[tokio::test]
async fn a_long_response_and_a_long_upload_finish() {
    for http in HTTP {
        let setting = Setting::new();
        let gate = Gate::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::with(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http), {
            let gate = gate.clone();
            move |request| {
                let gate = gate.clone();
                async move {
                    if request.method() == "POST" {
                        return reply(
                            StatusCode::OK,
                            request.into_body().collect().await.unwrap().to_bytes(),
                        );
                    }
                    let frames = [(None, "begun, "), (Some(gate), "done")];
                    Response::new(Gated::new(frames).boxed())
                }
            }
        })
        .await;
        let client = client(&setting.dir).await;
        let mut response = client.get(server.url("/")).send().await.unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "begun, ");
        let body = Body::wrap(Gated::new([(None, "up "), (Some(gate.clone()), "and away")]));
        let upload = tokio::spawn(client.post(server.url("/")).body(body).send());
        until("the upload begins", || server.seen().len() == 2).await;

        for _ in 0..3 {
            setting.rotate(&client).await;
            client.get(server.url("/")).send().await.unwrap();
        }
        gate.open();
        assert_eq!(soon(response.text()).await.unwrap(), "done");
        assert_eq!(soon(upload).await.unwrap().unwrap().text().await.unwrap(), "up and away");
        let seen = server.seen();
        assert_eq!(seen[0].client, Some(setting.first.leaf_der()));
        assert_eq!(seen[1].client, Some(setting.first.leaf_der()));
        assert_ne!(seen[2].client, Some(setting.first.leaf_der()));
    }
}

/// Old idle connections close by themselves when their generation is replaced.
#[tokio::test]
async fn idle_connections_of_an_old_generation_close() {
    for http in HTTP {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http)).await;
        let client = client(&setting.dir).await;
        // A request that is only drafted holds no pool.
        let draft = client.get(server.url("/"));
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(server.open(), 1);
        setting.rotate(&client).await;
        until("the idle connection closes", || server.open() == 0).await;
        drop(draft);
    }
}

/// FACTS: with reqwest's own redirects, a hop went out on the old connection after the swap.
#[tokio::test]
async fn a_redirect_hop_after_a_swap_uses_the_new_generation() {
    for http in HTTP {
        let setting = Setting::new();
        let gate = Gate::new();
        let server_leaf = setting.ca.issue("localhost");
        let server = Server::with(Tls::of(&server_leaf).clients(&[&setting.ca]).http(http), {
            let gate = gate.clone();
            move |request| {
                let gate = gate.clone();
                async move {
                    match request.uri().path() {
                        "/start" => {
                            gate.passed().await;
                            redirect(307, "/end")
                        }
                        _ => reply(StatusCode::OK, request.into_body().collect().await.unwrap().to_bytes()),
                    }
                }
            }
        })
        .await;
        let client = client(&setting.dir).await;
        let request = tokio::spawn(client.put(server.url("/start")).body("kept").send());
        until("the first hop arrives", || server.seen().len() == 1).await;
        let second = setting.rotate(&client).await;
        gate.open();
        let response = soon(request).await.unwrap().unwrap();
        assert_eq!(response.url().path(), "/end");
        assert_eq!(served_by(&response), 2, "the last hop's");
        assert_eq!(response.text().await.unwrap(), "kept");
        let last = server.last();
        assert_eq!((&last.path[..], &last.method[..]), ("/end", "PUT"));
        assert_eq!(last.client, Some(second.leaf_der()));
        assert_ne!(last.connection, 0);
    }
}

#[tokio::test]
async fn a_lazy_client_finishes_where_it_began() {
    let setting = Setting::new();
    let gate = Gate::new();
    let server_leaf = setting.ca.issue("localhost");
    let server = Server::with(Tls::of(&server_leaf).clients(&[&setting.ca]), {
        let gate = gate.clone();
        move |request| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/start" {
                    gate.passed().await;
                    return redirect(302, "/end");
                }
                reply(StatusCode::OK, "ok")
            }
        }
    })
    .await;
    let client = builder(setting.dir.path()).retire(Retire::Lazy).build().await.unwrap();
    let request = tokio::spawn(client.get(server.url("/start")).send());
    until("the first hop arrives", || server.seen().len() == 1).await;
    let second = setting.rotate(&client).await;
    client.get(server.url("/new")).send().await.unwrap();
    assert_eq!(server.last().client, Some(second.leaf_der()));
    gate.open();
    soon(request).await.unwrap().unwrap();
    assert_eq!(server.last().path, "/end");
    assert_eq!(server.last().client, Some(setting.first.leaf_der()));
}

/// A timeout counts from the start of `send`, over every attempt, whoever set it.
#[tokio::test]
async fn a_timeout_spans_all_attempts() {
    const LIMIT: Duration = Duration::from_secs(6);
    async fn check(make: impl Fn(Builder) -> Builder, of_request: bool) {
        let setting = Setting::new();
        let server_leaf = setting.ca.issue("localhost");
        let client = make(builder(setting.dir.path())).build().await.unwrap();
        let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca])).await;
        server.hold_handshakes();
        let mut request = client.get(server.url("/"));
        if of_request {
            request = request.timeout(LIMIT);
        }
        let begun = tokio::time::Instant::now();
        let request = tokio::spawn(request.send());
        server.held(1).await;
        tokio::time::sleep(LIMIT / 3).await;
        let rotated = begun.elapsed();
        setting.rotate(&client).await;
        let error = soon(request).await.unwrap().unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let took = begun.elapsed();
        // A limit of its own would end the second attempt so long after the rotation.
        assert!(took >= LIMIT && took < rotated + LIMIT, "one limit for both attempts, took {took:?}");
        assert_eq!(server.connections(), 2);
    }
    tokio::join!(
        check(|b| b.timeout(LIMIT), false),
        check(|b| b.reqwest(|b| b.timeout(LIMIT)), false),
        check(|b| b, true)
    );
}

/// A `send` that is dropped while it is being resent leaves nothing that `reload` would wait for.
#[tokio::test]
async fn a_dropped_send_holds_nothing_up() {
    let setting = Setting::new();
    let server_leaf = setting.ca.issue("localhost");
    let server = Server::start(Tls::of(&server_leaf).clients(&[&setting.ca])).await;
    let client = client(&setting.dir).await;
    server.hold_handshakes();
    let request = tokio::spawn(client.get(server.url("/")).send());
    server.held(1).await;
    setting.rotate(&client).await;
    server.held(2).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    setting.rotate(&client).await;
    server.release();
    client.get(server.url("/")).send().await.unwrap();
    assert_eq!(server.seen().len(), 1);
}
