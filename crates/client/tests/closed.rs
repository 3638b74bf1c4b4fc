//! Failing closed: files that nobody can confirm for too long, and a withdrawal that no client can be made from. No request is
//! sent with the old certificates; what has begun finishes; it ends by itself.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use certsource::parts::Parts;
use certsource_client::reqwest::Proxy;
use certsource_client::{Builder, Client, Error, Files, Reason, Retire, Stale, Unbuilt, push, reqwest};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;
use hyper::Response;

use common::{Gate, Gated, HTTP, Server, Tls, provider, soon, until};

/// A machine that stands still for a second must not look like files that nobody can confirm.
const LIMIT: Duration = Duration::from_secs(3);

fn closing(dir: &KubeletDir) -> Builder {
    Client::builder()
        .files(Files::kubernetes(dir.path()))
        .crypto_provider(provider())
        .reload_every(Duration::from_millis(100))
        .max_stale(LIMIT)
        .no_proxy()
}

/// The files are broken, for long enough.
async fn spoil(dir: &KubeletDir, client: &Client) {
    dir.write([("ca.crt", ""), ("tls.crt", ""), ("tls.key", "")]).unwrap();
    until("it is closed", || client.status().stale).await;
}

fn stale(error: &reqwest::Error) -> &Stale {
    error.source().and_then(|source| source.downcast_ref::<Stale>()).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn what_nobody_can_confirm_is_used_no_more_until_the_files_are_whole_again() {
    for (http, retire) in HTTP.into_iter().zip([Retire::Strict, Retire::Lazy]) {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        let dir = KubeletDir::new(&leaf).unwrap();
        let client = closing(&dir).retire(retire).build().await.unwrap();
        let clone = client.clone();
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
        // Well for longer than the limit.
        tokio::time::sleep(LIMIT * 3 / 2).await;
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(server.connections(), 1);

        spoil(&dir, &client).await;
        let begun = Instant::now();
        for client in [&client, &clone] {
            for request in [client.get(server.url("/")), client.post(server.url("/")).body("x")] {
                let error = soon(request.send()).await.unwrap_err();
                let stale = stale(&error);
                assert_eq!((stale.generation, stale.limit), (1, LIMIT));
                assert_eq!(stale.error.as_ref().unwrap().reason(), Reason::Empty);
                assert!(error.url().is_some() && !error.is_connect());
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "at once");
        assert_eq!((server.seen().len(), server.connections()), (2, 1), "nothing was sent");
        assert_eq!(client.snapshot().unwrap_err().reason(), Reason::Stale);
        assert_eq!(soon(client.reload()).await.unwrap_err().reason(), Reason::Empty);

        dir.swap(&leaf).unwrap();
        assert_eq!(soon(client.reload()).await.unwrap().number(), 2, "the same, as a new generation");
        soon(clone.get(server.url("/")).send()).await.unwrap().bytes().await.unwrap();
        assert_eq!(server.connections(), 2, "nothing of before is used");
        assert!(!server.last().is_resumed && !client.status().stale);
    }
}

#[tokio::test]
async fn what_has_begun_finishes_and_what_waits_for_a_connection_fails() {
    for http in HTTP {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let gate = Gate::new();
        let server = Server::with(Tls::of(&leaf).http(http), {
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move { Response::new(Gated::new([(None, "begun, "), (Some(gate), "done")]).boxed()) }
            }
        })
        .await;
        let other = Server::start(Tls::of(&leaf).http(http)).await;
        let dir = KubeletDir::new(&leaf).unwrap();
        let client = closing(&dir).build().await.unwrap();
        let response = client.get(server.url("/")).send().await.unwrap();
        other.hold_handshakes();
        let waits = tokio::spawn(client.get(other.url("/")).send());
        other.held(1).await;

        spoil(&dir, &client).await;
        let error = soon(waits).await.unwrap().unwrap_err();
        assert_eq!(stale(&error).generation, 1);
        other.release();
        gate.open();
        assert_eq!(soon(response.text()).await.unwrap(), "begun, done");
        assert!(other.seen().is_empty());
    }
}

#[tokio::test]
async fn a_withdrawal_that_no_client_can_be_made_from_is_published_and_nothing_old_is_used() {
    let (kept, withdrawn) = (Ca::new("kept"), Ca::new("withdrawn"));
    let trust = |cas: &[&Ca]| {
        let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
        move || Ok::<_, Error>(Parts::new().with_trust(&certsource::Origin::named("push"), ders.clone()))
    };
    let server = Server::start(Tls::of(&withdrawn.issue("localhost"))).await;
    let good = Server::start(Tls::of(&kept.issue("localhost"))).await;
    let (pusher, source) = push(certsource::Origin::named("push"));
    pusher.push(trust(&[&kept, &withdrawn]));
    let fails = Arc::new(AtomicBool::new(false));
    let client = Client::builder()
        .source(source)
        .crypto_provider(provider())
        .no_proxy()
        .reqwest({
            let fails = Arc::clone(&fails);
            // Proxies are refused there.
            move |builder| {
                if fails.load(Ordering::SeqCst) {
                    builder.proxy(Proxy::all("http://127.0.0.1:1").unwrap())
                } else {
                    builder
                }
            }
        })
        .build()
        .await
        .unwrap();
    client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
    fails.store(true, Ordering::SeqCst);
    pusher.push(trust(&[&kept]));
    assert_eq!(soon(client.reload()).await.unwrap().number(), 2, "nothing holds it back");
    for url in [server.url("/"), good.url("/")] {
        let error = soon(client.get(url).send()).await.unwrap_err();
        let unbuilt = error.source().unwrap().downcast_ref::<Unbuilt>().unwrap();
        assert_eq!(unbuilt.generation, 2);
    }
    assert_eq!((server.seen().len(), good.connections()), (1, 0), "nothing was sent");
    assert!(client.status().degraded.is_some());
    fails.store(false, Ordering::SeqCst);
    // By itself.
    until("it is mended", || client.status().degraded.is_none()).await;
    soon(client.get(good.url("/")).send()).await.unwrap();
    assert!(soon(client.get(server.url("/")).send()).await.is_err(), "it was withdrawn");
    assert_eq!(server.seen().len(), 1);
}
