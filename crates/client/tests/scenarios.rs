//! Scenarios of docs/SCENARIOS.md that only a client can show, by their number. The others' tests stand there too.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certsource_client::certsource_reload::certsource::clock::Now;
use certsource_client::certsource_reload::certsource::parts::Parts;
use certsource_client::certsource_reload::certsource::source::{Alarm, Armed, Look};
use certsource_client::certsource_reload::certsource::{Origin, Source};
use certsource_client::{Client, Error, Files, Hub, Retire, Threshold, Unsaved, reqwest};
use certsource_testkit::{Ca, KubeletDir};
use http_body_util::BodyExt;
use hyper::{Response, StatusCode, Version};
use tokio::time::{Instant, timeout};

use common::{Gate, Gated, HTTP, Http, NEVER, SOON, Server, Tls, builder, client, reply, soon, until};

/// A server that asks for certificates, and answers `/slow` with a body whose end waits at the gate.
async fn slow_server(ca: &Ca, http: Http, gate: &Gate) -> Server {
    let leaf = ca.issue("localhost");
    let gate = gate.clone();
    Server::with(Tls::of(&leaf).clients(&[ca]).http(http), move |request| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == "/slow" {
                return Response::new(Gated::new([(None, "begun, "), (Some(gate), "done")]).boxed());
            }
            reply(StatusCode::OK, request.into_body().collect().await.unwrap().to_bytes())
        }
    })
    .await
}

/// A response that takes 10 s, with a rotation each second, completes.
#[tokio::test]
async fn scenario_16_a_response_of_ten_seconds_completes() {
    let ten_seconds = async |http| {
        let ca = Ca::new("ca");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let gate = Gate::new();
        let server = slow_server(&ca, http, &gate).await;
        let client = client(&dir).await;
        let begun = Instant::now();
        let response = client.get(server.url("/slow")).send().await.unwrap();
        let mut reading = tokio::spawn(response.text());
        while begun.elapsed() < Duration::from_secs(10) {
            dir.swap(ca.issue("client")).unwrap();
            soon(client.reload()).await.unwrap();
            assert!(timeout(Duration::from_secs(1), &mut reading).await.is_err(), "it is cut");
        }
        gate.open();
        assert_eq!(soon(reading).await.unwrap().unwrap(), "begun, done");
        assert_eq!(server.connections(), 1);
    };
    tokio::join!(ten_seconds(Http::One), ten_seconds(Http::Two));
}

/// Streams that are open stay on the old connection and finish; new requests go to a new one.
#[tokio::test]
async fn scenario_17_open_streams_finish_and_new_requests_use_a_new_connection() {
    let ca = Ca::new("ca");
    let first = ca.issue("client");
    let dir = KubeletDir::new(&first).unwrap();
    let gate = Gate::new();
    let server = slow_server(&ca, Http::Two, &gate).await;
    let client = client(&dir).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(client.get(server.url("/slow")).send().await.unwrap());
    }
    assert_eq!(server.connections(), 1);
    let second = ca.issue("client");
    dir.swap(&second).unwrap();
    client.reload().await.unwrap();
    for _ in 0..10 {
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
        let last = server.last();
        assert_eq!((last.connection, last.client), (1, Some(second.leaf_der())));
    }
    assert_eq!(server.open(), 2, "the old connection lives as long as its streams");
    gate.open();
    for response in open {
        assert_eq!(soon(response.text()).await.unwrap(), "begun, done");
    }
    until("then it closes", || server.open() == 1).await;
}

/// 1,000 requests on their way when a generation is replaced: each is answered, and each was seen once.
#[tokio::test]
async fn a_thousand_requests_at_the_moment_of_a_rotation() {
    for http in HTTP {
        for retire in [Retire::Strict, Retire::Lazy] {
            let ca = Ca::new("ca");
            let dir = KubeletDir::new(ca.issue("client")).unwrap();
            let leaf = ca.issue("localhost");
            let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
            let client = builder(dir.path()).retire(retire).build().await.unwrap();
            let requests: Vec<_> = (0..1_000)
                .map(|n| tokio::spawn(client.post(server.url("/")).body(n.to_string()).send()))
                .collect();
            until("some are on their way", || !server.seen().is_empty()).await;
            let second = ca.issue("client");
            dir.swap(&second).unwrap();
            soon(client.reload()).await.unwrap();
            for (n, request) in requests.into_iter().enumerate() {
                let response = timeout(2 * SOON, request).await.unwrap().unwrap().unwrap();
                assert_eq!(response.text().await.unwrap(), n.to_string());
            }
            assert_eq!(server.seen().len(), 1_000, "{http:?} {retire:?}");
            client.get(server.url("/")).send().await.unwrap();
            assert_eq!(server.last().client, Some(second.leaf_der()));
        }
    }
}

/// Files on a disk that can hang.
struct Hanging {
    files: Files,
    hangs: Arc<AtomicBool>,
    reads: Gate,
}

impl Source for Hanging {
    fn origin(&self) -> Origin {
        self.files.origin()
    }
    fn look(&mut self, now: Now) -> Result<Look, Error> {
        self.files.look(now)
    }
    fn read(&mut self) -> Result<Parts, Error> {
        if self.hangs.load(Ordering::SeqCst) {
            self.reads.open();
        }
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.files.read()
    }
    fn arm(&mut self, alarm: &Alarm) -> Armed {
        self.files.arm(alarm)
    }
}

/// Requests, `status` and the end of the client wait for no disk.
#[tokio::test]
async fn scenario_28_a_disk_that_hangs_delays_no_request_and_no_end() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let dir = KubeletDir::new(&leaf).unwrap();
    let (hangs, reads) = (Arc::new(AtomicBool::new(false)), Gate::new());
    let source =
        Hanging { files: Files::kubernetes(dir.path()), hangs: Arc::clone(&hangs), reads: reads.clone() };
    let hub = Hub::new();
    let client = Client::builder()
        .source(source)
        .reload_every(NEVER)
        .no_proxy()
        .hub(hub.clone())
        .build()
        .await
        .unwrap();
    let server = Server::start(Tls::of(&leaf)).await;
    hangs.store(true, Ordering::SeqCst);
    dir.swap(ca.issue("localhost")).unwrap();
    let reload = tokio::spawn({
        let client = client.clone();
        async move { client.reload().await }
    });
    soon(reads.passed()).await;
    let begun = Instant::now();
    for _ in 0..100 {
        client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
    }
    assert_eq!(client.status().generation, 1);
    reload.abort();
    assert!(reload.await.unwrap_err().is_cancelled());
    drop(client);
    assert!(begun.elapsed() < SOON);
    assert!(format!("{hub:?}").contains("sources: 0,"), "nothing is followed any more: {hub:?}");
    // Lets the thread go that hangs there.
    hangs.store(false, Ordering::SeqCst);
}

/// Client authentication, ALPN and SNI are there after reloads as before.
#[tokio::test]
async fn scenario_30_nothing_is_lost_with_the_first_reload() {
    for (http, version) in [(Http::One, Version::HTTP_11), (Http::Two, Version::HTTP_2)] {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        let client = builder(dir.path()).reqwest(|b| b.user_agent("mine")).build().await.unwrap();
        for n in 0..4 {
            let identity = ca.issue("client");
            dir.swap(&identity).unwrap();
            client.reload().await.unwrap();
            client.get(server.url("/")).send().await.unwrap();
            let last = server.last();
            assert_eq!((last.client, last.version), (Some(identity.leaf_der()), version), "reload {n}");
            assert_eq!(
                (last.name.as_deref(), &last.headers["user-agent"]),
                (Some("localhost"), &"mine".parse().unwrap())
            );
        }
    }
}

/// A garbage CA reaches a whole fleet: every one stays on its last good generation, serves, and follows what comes next.
#[tokio::test]
async fn scenario_34_a_garbage_ca_for_a_whole_fleet() {
    const FLEET: usize = 20;
    let (ca, next) = (Ca::new("ca"), Ca::new("next"));
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&ca, &next])).await;
    let mut fleet = Vec::new();
    for _ in 0..FLEET {
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        fleet.push((client(&dir).await, dir));
    }
    for garbage in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\0\0\0"] {
        for (client, dir) in &fleet {
            dir.swap_all(garbage, ca.issue("client")).unwrap();
            client.reload().await.unwrap_err();
            assert_eq!(client.status().generation, 1);
            client.get(server.url("/")).send().await.unwrap();
        }
    }
    assert_eq!(server.seen().len(), 3 * FLEET);
    server.set(Tls::of(&next.issue("localhost")));
    for (client, dir) in &fleet {
        dir.swap(next.issue("client")).unwrap();
        assert_eq!(client.reload().await.unwrap().number(), 2);
        client.get(server.url("/")).send().await.unwrap();
    }
}

/// What cannot be saved is an error that says so; nothing is sent twice, and the next request works.
#[tokio::test]
async fn what_can_not_be_saved_is_told() {
    // A server that rotates before the files do: we do not know it, and no look helps.
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("client")).unwrap();
    let leaf = new.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let early = client(&dir).await;
    let error = early.get(server.url("/")).send().await.unwrap_err();
    assert!(error.is_connect() && format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    dir.swap(new.issue("client")).unwrap();
    early.reload().await.unwrap();
    early.get(server.url("/")).send().await.unwrap();

    // A streaming body of which something was read, when the server refuses our certificate on TLS 1.3.
    for http in HTTP {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let dir = KubeletDir::new(old.issue("client")).unwrap();
        let leaf = old.issue("localhost");
        let versions = [&certsource_client::rustls::version::TLS13];
        let server = Server::start(Tls::of(&leaf).clients(&[&new]).http(http).versions(&versions)).await;
        let client = client(&dir).await;
        dir.swap_all(old.certificate_pem(), new.issue("client")).unwrap();
        let gate = Gate::new();
        let body = reqwest::Body::wrap(Gated::new([(None, "taken, "), (Some(gate.clone()), "the rest")]));
        let sent = soon(client.put(server.url("/")).body(body).send()).await;
        let error = sent.unwrap_err();
        assert_eq!(Unsaved::of(&error), Some(Unsaved::StreamAlreadyRead), "{error:?}");
        assert!(server.seen().is_empty());
        client.put(server.url("/")).body("again").send().await.unwrap();
        assert_eq!(server.seen().len(), 1);
    }
}

/// Overlap: what was withdrawn is trusted for a while, until `withdraw_now`; and thresholds of expiry are told.
#[tokio::test]
async fn overlap_and_expiry_reach_the_client() {
    const DAY: Duration = Duration::from_secs(86_400);
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("client")).unwrap();
    let leaf = old.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let client = builder(dir.path())
        .overlap(DAY)
        .on_expiry([Threshold::Before(40_000 * DAY), Threshold::Used(1.0)], move |expiring| {
            told.send(expiring.threshold).unwrap();
        })
        .reqwest(|b| b.pool_max_idle_per_host(0))
        .build()
        .await
        .unwrap();
    assert_eq!(soon(heard.recv()).await.unwrap(), Threshold::Before(40_000 * DAY));
    dir.swap(new.issue("client")).unwrap();
    client.reload().await.unwrap();
    client.get(server.url("/")).send().await.unwrap();
    soon(client.withdraw_now()).await.unwrap();
    let error = client.get(server.url("/")).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}
