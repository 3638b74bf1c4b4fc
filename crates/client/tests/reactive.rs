//! Reactive reload: what a rotation broke is mended by a look at once, within limits; what is simply bad stays bad.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use certsource_client::reqwest::{self, Body, Method, StatusCode};
use certsource_client::rustls::version::{TLS12, TLS13};
use certsource_client::{Builder, Client, Policy, Unsaved};
use certsource_testkit::{Ca, KubeletDir, Method as Writing, PlainDir, TestDir};
use http_body_util::BodyExt;
use tokio::time::Instant;

use common::counting::counting;
use common::{Gated, HTTP, NEVER, SOON, Server, TLS, Tls, builder, reply, soon};

const HOUR: Duration = Duration::from_secs(3600);
/// A host that asked in vain may ask again after a second.
const PAUSE: Duration = Duration::from_millis(1_100);

/// A client that makes a connection for every request.
fn unpooled(dir: &KubeletDir) -> Builder {
    builder(dir.path()).reqwest(|b| b.pool_max_idle_per_host(0))
}

#[tokio::test]
async fn an_unknown_issuer_is_mended_for_every_method_and_body() {
    for http in HTTP {
        for versions in TLS {
            for method in [Method::PUT, Method::POST] {
                for is_streaming in [false, true] {
                    let (old, new) = (Ca::new("old"), Ca::new("new"));
                    let dir = KubeletDir::new(old.issue("localhost")).unwrap();
                    let client = builder(dir.path()).build().await.unwrap();
                    let leaf = new.issue("localhost");
                    let server = Server::start(Tls::of(&leaf).http(http).versions(&[versions])).await;
                    dir.swap(&leaf).unwrap();
                    let body = if is_streaming {
                        Body::wrap(Gated::new([(None, "a "), (None, "body")]))
                    } else {
                        Body::from("a body")
                    };
                    let response = client.request(method.clone(), server.url("/")).body(body).send().await;
                    assert_eq!(response.unwrap().text().await.unwrap(), "a body");
                    assert_eq!(client.generation().number(), 2);
                    assert_eq!(server.seen().len(), 1);
                }
            }
        }
    }
}

/// On TLS 1.2 the server refuses our certificate before the handshake ends: any method can go again, with any body.
#[tokio::test]
async fn our_certificate_refused_on_tls_1_2_is_mended_for_every_method_and_body() {
    for http in HTTP {
        for method in [Method::PUT, Method::POST] {
            for text in ["", "a body", "a stream"] {
                let body = match text {
                    "a stream" => Body::wrap(Gated::new([(None, "a "), (None, "stream")])),
                    bytes => Body::from(bytes),
                };
                let (old, new) = (Ca::new("old"), Ca::new("new"));
                let leaf = old.issue("localhost");
                let dir = KubeletDir::new(old.issue("client")).unwrap();
                let client = unpooled(&dir).build().await.unwrap();
                let server =
                    Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&[&TLS12])).await;
                let identity = new.issue("client");
                dir.swap_all(old.certificate_pem(), &identity).unwrap();
                let request = client.request(method.clone(), server.url("/")).body(body);
                assert_eq!(soon(request.send()).await.unwrap().text().await.unwrap(), text);
                assert_eq!(server.last().client, Some(identity.leaf_der()));
            }
        }
    }
}

/// The server's certificate has expired. It is replaced while we look, by one of the CA that our files bring: that is how
/// an issuer's new root arrives after the last certificate of the old one was left to end.
#[tokio::test]
async fn an_expired_server_certificate_that_is_replaced_is_mended() {
    for http in HTTP {
        for versions in TLS {
            let (old, new) = (Ca::new("old"), Ca::new("new"));
            let now = SystemTime::now();
            let ended = old.leaf("localhost").not_before(now - 2 * HOUR).not_after(now - HOUR).issue();
            let leaf = new.issue("localhost");
            let server = Server::start(Tls::of(&ended).http(http).versions(&[versions])).await;
            let server = Arc::new(server);
            let dir = KubeletDir::new(old.issue("client")).unwrap();
            let (plain, replaced) = (Arc::clone(&server), leaf.clone());
            let client = builder(dir.path())
                .validate(move |_, current| {
                    // At the look that the failure asked for.
                    if current.is_some() {
                        plain.set(Tls::of(&replaced).http(http));
                    }
                    Ok::<_, std::convert::Infallible>(())
                })
                .build()
                .await
                .unwrap();
            let error = client.post(server.url("/")).body("x").send().await.unwrap_err();
            assert!(error.is_connect() && format!("{error:?}").contains("Expired"), "{error:?}");
            assert_eq!(Unsaved::of(&error), None);
            dir.swap_all(old.certificate_pem() + &new.certificate_pem(), &leaf).unwrap();
            // The host asked in vain a moment ago.
            tokio::time::sleep(PAUSE).await;
            let response = soon(client.post(server.url("/")).body("x").send()).await.unwrap();
            assert_eq!(response.text().await.unwrap(), "x");
            assert_eq!((client.generation().number(), server.failures(), server.seen().len()), (2, 2, 1));
        }
    }
}

/// An intermediate of the server's chain has expired. The files bring its renewal as an anchor: that alone mends it.
#[tokio::test]
async fn an_expired_intermediate_is_mended_by_the_files_alone() {
    for http in HTTP {
        for versions in TLS {
            let root = Ca::new("root");
            let now = SystemTime::now();
            let ended = Ca::builder("intermediate")
                .signed_by(&root)
                .not_before(now - 2 * HOUR)
                .not_after(now - HOUR)
                .build();
            let renewed = ended.renew().build();
            let leaf = ended.issue("localhost");
            let server = Server::start(Tls::of(&leaf).http(http).versions(&[versions])).await;
            let dir = KubeletDir::new(root.issue("client")).unwrap();
            let client = builder(dir.path()).build().await.unwrap();
            dir.swap_all(renewed.certificate_pem(), root.issue("client")).unwrap();
            soon(client.post(server.url("/")).body("x").send()).await.unwrap();
            assert_eq!((client.generation().number(), server.failures(), server.seen().len()), (2, 1, 1));
        }
    }
}

/// The server's certificate is revoked by the list that we have, and no more by the one that the files hold.
#[tokio::test]
async fn a_revoked_server_certificate_is_mended_by_a_newer_list() {
    for http in HTTP {
        for versions in TLS {
            let ca = Ca::new("ca");
            let leaf = ca.issue("localhost");
            let server = Server::start(Tls::of(&leaf).http(http).versions(&[versions])).await;
            let dir = TestDir::new().unwrap();
            let trust = dir.write("ca.pem", ca.certificate_pem()).unwrap();
            ca.revoke(&leaf);
            let list = dir.write("ca.crl", ca.crl().pem()).unwrap();
            let mut policy = Policy::every(NEVER);
            policy.settle = Duration::from_millis(50);
            let client = Client::builder().root_certificate(trust).crl(list).policy(policy).no_proxy();
            let client = client.build().await.unwrap();
            let error = client.post(server.url("/")).body("x").send().await.unwrap_err();
            assert!(error.is_connect() && format!("{error:?}").contains("Revoked"), "{error:?}");
            ca.unrevoke(&leaf);
            dir.write("ca.crl", ca.crl().pem()).unwrap();
            // The host asked in vain a moment ago.
            tokio::time::sleep(PAUSE).await;
            soon(client.post(server.url("/")).body("x").send()).await.unwrap();
            assert_eq!((client.generation().number(), server.failures(), server.seen().len()), (2, 2, 1));
        }
    }
}

/// On TLS 1.3 the refusal comes after the handshake, and its alert is often lost. What may be repeated is; the rest
/// fails, and the next request works.
#[tokio::test]
async fn our_certificate_refused_on_tls_1_3_is_mended_where_that_is_safe() {
    for http in HTTP {
        for method in [Method::GET, Method::PUT, Method::POST] {
            for body in ["", "a body"] {
                let (old, new) = (Ca::new("old"), Ca::new("new"));
                let leaf = old.issue("localhost");
                let dir = KubeletDir::new(old.issue("client")).unwrap();
                let client = unpooled(&dir).build().await.unwrap();
                let server =
                    Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&[&TLS13])).await;
                let identity = new.issue("client");
                dir.swap_all(old.certificate_pem(), &identity).unwrap();
                let first = client.request(method.clone(), server.url("/")).body(body).send().await;
                match (method.is_idempotent(), first) {
                    (true, first) => assert_eq!(first.unwrap().text().await.unwrap(), body),
                    // The request was refused before a connection took it: then it went again.
                    (false, Ok(first)) => assert_eq!(first.text().await.unwrap(), body),
                    (false, Err(error)) => {
                        assert_eq!(Unsaved::of(&error), Some(Unsaved::MayHaveBeenSeen), "{error:?}");
                        assert_eq!(client.generation().number(), 2);
                        client.post(server.url("/")).body(body).send().await.unwrap();
                    }
                }
                assert_eq!(server.seen().len(), 1, "a refused request was never looked at");
                assert_eq!(server.last().client, Some(identity.leaf_der()));
            }
        }
    }
}

/// nginx completes the handshake and answers 400.
#[tokio::test]
async fn a_refusal_by_http_is_mended_if_the_user_says_that_it_is_one() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let (first, second) = (ca.issue("client"), ca.issue("client"));
    let dir = KubeletDir::new(&first).unwrap();
    let server = Server::with(Tls::of(&leaf).clients(&[&ca]), |request| async move {
        match request.into_body().collect().await {
            Ok(body) => reply(StatusCode::OK, body.to_bytes()),
            Err(_) => reply(StatusCode::BAD_REQUEST, ""),
        }
    })
    .await;
    let is_refusal = {
        // What nginx would know: whose certificate it was.
        let wanted = second.leaf_der();
        let server = Arc::new(server);
        let seen = Arc::clone(&server);
        (server, move |_: &reqwest::Response| seen.last().client != Some(wanted.clone()))
    };
    let (server, is_refusal) = is_refusal;
    let client = builder(dir.path()).reactive_on(is_refusal).build().await.unwrap();
    let response = client.post(server.url("/")).body("x").send().await.unwrap();
    assert_eq!((response.status(), server.seen().len()), (StatusCode::OK, 1), "nothing new: as it came");
    drop(response);
    dir.swap(&second).unwrap();
    tokio::time::sleep(PAUSE).await;
    let response = client.post(server.url("/")).body("x").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "x");
    assert_eq!(server.last().client, Some(second.leaf_der()));
}

/// No storm, the same error, and no delay for anyone else.
#[tokio::test]
async fn a_server_that_is_simply_bad() {
    let (ca, stranger) = (Ca::new("ca"), Ca::new("stranger"));
    let leaf = ca.issue("localhost");
    let strange = stranger.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let (plain, reads) = counting(&dir);
    let client = plain.build().await.unwrap();
    let at_start = reads.load(Ordering::SeqCst);
    let (good, bad) = (Server::start(Tls::of(&leaf)).await, Server::start(Tls::of(&strange)).await);
    let begun = Instant::now();
    let (mut failures, mut answers) = (0, Vec::new());
    while begun.elapsed() < Duration::from_secs(3) {
        let requests: Vec<_> = (0..20).map(|_| tokio::spawn(client.get(bad.url("/")).send())).collect();
        for request in requests {
            let error = soon(request).await.unwrap().unwrap_err();
            assert!(error.is_connect(), "{error:?}");
            assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
            failures += 1;
        }
        let asked = Instant::now();
        client.get(good.url("/")).send().await.unwrap();
        answers.push(asked.elapsed());
    }
    // One may be late on a busy machine.
    answers.sort();
    assert!(answers[(answers.len() - 1) / 2] < Duration::from_secs(1), "{answers:?}");
    let looks = reads.load(Ordering::SeqCst) - at_start;
    assert!(failures >= 40, "{failures} requests in 3 s");
    // One at the start, and one a second at the most.
    let most = 2 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&looks), "{looks} looks for {failures} failures");

    // The bad host did not spend the look that the good one needs now.
    let next = Ca::new("next");
    let next_leaf = next.issue("localhost");
    let rotated = Server::start(Tls::of(&next_leaf)).await;
    dir.swap(&next_leaf).unwrap();
    client.get(rotated.url("/")).send().await.unwrap();
}

/// Sends so many at once; each must be served, once, by a few looks.
async fn a_crowd_is_served(count: usize, server: &Server, dir: &KubeletDir, rotate: impl FnOnce()) {
    let (plain, reads) = counting(dir);
    let client = plain.build().await.unwrap();
    let at_start = reads.load(Ordering::SeqCst);
    rotate();
    let requests: Vec<_> = (0..count).map(|_| tokio::spawn(client.get(server.url("/")).send())).collect();
    for request in requests {
        // Thousands of handshakes, of both sides, on one thread.
        tokio::time::timeout(3 * SOON, request).await.unwrap().unwrap().unwrap();
    }
    assert_eq!((server.seen().len(), client.generation().number()), (count, 2));
    let looks = reads.load(Ordering::SeqCst) - at_start;
    assert!((1..=3).contains(&looks), "{looks} looks");
}

#[tokio::test]
async fn many_at_the_moment_of_a_rotation_share_a_look() {
    for http in HTTP {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let dir = KubeletDir::new(old.issue("localhost")).unwrap();
        let leaf = new.issue("localhost");
        let server = Server::start(Tls::of(&leaf).http(http)).await;
        a_crowd_is_served(1_000, &server, &dir, || dir.swap(&leaf).unwrap()).await;
    }
}

/// Over HTTP/1 each one is two handshakes with a certificate of the client's: 1,000 of them by `CERTSOURCE_CROWD=1000`.
#[tokio::test]
async fn many_whose_identity_is_refused_share_a_look() {
    let crowd = std::env::var("CERTSOURCE_CROWD").map_or(200, |count| count.parse().unwrap());
    for http in HTTP {
        for versions in TLS {
            let (old, new) = (Ca::new("old"), Ca::new("new"));
            let dir = KubeletDir::new(old.issue("client")).unwrap();
            let leaf = old.issue("localhost");
            let server =
                Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&[versions])).await;
            let identity = new.issue("client");
            let rotate = || dir.swap_all(old.certificate_pem(), &identity).unwrap();
            a_crowd_is_served(crowd, &server, &dir, rotate).await;
            assert!(server.seen().iter().all(|seen| seen.client == Some(identity.leaf_der())));
        }
    }
}

/// A certificate is there, its key is not yet: whoever waits is served when the writer is done.
#[tokio::test]
async fn a_writer_at_work_is_waited_for() {
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
    let request = tokio::spawn(client.get(server.url("/")).send());
    loop {
        let event = soon(events.next()).await.unwrap().unwrap();
        if event.kind.as_str() == "pending" {
            break;
        }
    }
    assert!(!request.is_finished());
    steps.finish().unwrap();
    soon(request).await.unwrap().unwrap();
    assert_eq!(client.generation().number(), 2);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("localhost")).unwrap();
    let client = builder(dir.path()).reactive(false).build().await.unwrap();
    let leaf = new.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    dir.swap(&leaf).unwrap();
    client.get(server.url("/")).send().await.unwrap_err();
    assert_eq!(client.generation().number(), 1);
}

/// The one that looks is dropped; those who wait for its look get one of their own.
#[tokio::test]
async fn a_dropped_send_keeps_nobody_waiting() {
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
    let first = tokio::spawn(client.get(server.url("/")).send());
    while soon(events.next()).await.unwrap().unwrap().kind.as_str() != "pending" {}
    let second = tokio::spawn(client.get(server.url("/")).send());
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    steps.finish().unwrap();
    soon(second).await.unwrap().unwrap();
}
