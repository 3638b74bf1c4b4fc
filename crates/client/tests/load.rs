//! Under load: everything rotates again and again, and no request fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "the count of requests is a result")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use certsource_client::{Client, Retire};
use certsource_testkit::{Ca, KubeletDir};

use common::{HTTP, Http, Server, Tls, builder, soon, until};

const LOOPS: usize = 16;
/// Requests that end between two rotations, at the least.
const BETWEEN: u64 = 4;

/// Waits until some more requests have ended.
async fn goes_on(done: &AtomicU64) {
    let now = done.load(Ordering::Relaxed);
    until("requests go on", || done.load(Ordering::Relaxed) >= now + BETWEEN).await;
}

/// Each cycle hands over from one CA to the next, as operators do it: first both are trusted, then the server and
/// the identities change, then the old one goes. Two generations a cycle.
async fn rotate_under_load(http: Http, retire: Retire, cycles: u64) {
    let mut ca = Ca::new("ca 0");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let client = builder(dir.path()).retire(retire).build().await.unwrap();
    let first = ca.issue("localhost");
    let server = Arc::new(Server::start(Tls::of(&first).clients(&[&ca]).http(http)).await);
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let loops: Vec<_> = (0..LOOPS)
        .map(|n| {
            let (client, server) = (client.clone(), Arc::clone(&server));
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let body = format!("body of {n}");
                    let response = client.post(server.url("/")).body(body.clone()).send().await;
                    assert_eq!(response.unwrap().text().await.unwrap(), body);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for cycle in 1..=cycles {
        let next = Ca::new(&format!("ca {cycle}"));
        let both = ca.certificate_pem() + &next.certificate_pem();
        dir.swap_all(both, ca.issue("client")).unwrap();
        assert_eq!(soon(client.reload()).await.unwrap().number(), 2 * cycle);
        goes_on(&done).await;
        let leaf = next.issue("localhost");
        server.set(Tls::of(&leaf).clients(&[&ca, &next]).http(http));
        dir.swap(next.issue("client")).unwrap();
        assert_eq!(soon(client.reload()).await.unwrap().number(), 2 * cycle + 1);
        goes_on(&done).await;
        ca = next;
    }
    over.store(true, Ordering::Relaxed);
    for request in loops {
        soon(request).await.unwrap();
    }
    let done = done.load(Ordering::Relaxed);
    println!("{http:?} {retire:?}: {done} requests over {} generations, none failed", 2 * cycles + 1);

    let withdrawn = Ca::new("withdrawn");
    let foreign = KubeletDir::new(withdrawn.issue("client")).unwrap();
    let foreigner: Client = builder(foreign.path()).build().await.unwrap();
    assert!(foreigner.get(server.url("/")).send().await.unwrap_err().is_connect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_rotations_fail_no_request_strictly() {
    for http in HTTP {
        rotate_under_load(http, Retire::Strict, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_fail_no_request_lazily() {
    for http in HTTP {
        rotate_under_load(http, Retire::Lazy, 20).await;
    }
}
