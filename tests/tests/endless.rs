//! Rotation after rotation under the load of 64 loops, and no request fails. Client and server both follow files of
//! their own, each written as a Kubernetes volume is.
//!
//! With overlap: both CAs are trusted, then the server shows the new one, then the client, then nobody trusts the old.
//! Without: the client's files change first and nobody tells it, then the server's; from then on neither side takes what
//! the other showed so far, and all that helps is that a refusal makes the client look.
//! With `confirm_identity` that helps every method, else on TLS 1.3 those that may be repeated.
//! `CERTSOURCE_ROTATIONS` says how many rotations there are; 1,000 is the full size (docs/PROOFS.md has what came of it). Those without overlap take about a
//! second each, as the client looks about once a second at the most; of them an everyday run makes a third.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use certsource_client::{Client, Files, Policy, Retire, detect};
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};
use certsource_tests::clients::answer;
use certsource_tests::load::{Call, Load};
use certsource_tests::orderly::LINGER;
use certsource_tests::server::Server;
use certsource_tests::{BOUND, size, whole};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;

const LOOPS: usize = 64;
/// Requests that end between two rotations, at the least: as many as there are loops.
const BETWEEN: u64 = LOOPS as u64;

/// Between two rotations that the client has to find out about by a refusal: it looks about once a second at the most.
const PACE: Duration = Duration::from_millis(1100);

fn rotations() -> u64 {
    size("CERTSOURCE_ROTATIONS", 30)
}

macro_rules! cells {
    ($($name:ident: $http2:literal, $retire:ident;)*) => {$(
        mod $name {
            use super::*;

            const CELL: Cell =
                Cell { name: stringify!($name), http2: $http2, retire: Retire::$retire, confirms: false };

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_overlap() {
                super::with_overlap(CELL).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn without_overlap() {
                super::without_overlap(CELL, Change::Everything).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn identities_without_overlap() {
                super::without_overlap(CELL, Change::Identities).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn confirmed_identities_without_overlap() {
                super::without_overlap(Cell { confirms: true, ..CELL }, Change::Identities).await;
            }
        }
    )*};
}

cells! {
    http1_strict: false, Strict;
    http1_lazy: false, Lazy;
    http2_strict: true, Strict;
    http2_lazy: true, Lazy;
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    name: &'static str,
    http2: bool,
    retire: Retire,
    /// `confirm_identity`: then a refusal on TLS 1.3 comes before a request is sent, so that every method is saved.
    confirms: bool,
}

impl Cell {
    /// A client that looks by itself only when `detector` says so: its timer is an hour.
    async fn client(self, dir: &KubeletDir, server: &Server, watches: bool) -> Client {
        let address = server.address();
        let builder = Client::builder()
            .files(Files::kubernetes(dir.path()))
            .policy(Policy::every(Duration::from_secs(3600)))
            .retire(self.retire)
            .no_proxy()
            .reqwest(move |builder| builder.resolve("localhost", address));
        let builder = if watches { builder.detect(detect::Notify::new()) } else { builder };
        let builder = if self.http2 { builder } else { builder.http1_only() };
        let builder = if self.confirms { builder.confirm_identity(BOUND) } else { builder };
        builder.build().await.unwrap()
    }
}

/// One CA, and what it issued for both sides.
#[derive(Clone)]
struct Era {
    ca: Ca,
    server: Issued,
    client: Issued,
}

impl Era {
    fn new(number: u64) -> Self {
        let ca = Ca::new(&format!("CA {number}"));
        Self { server: ca.issue("localhost"), client: ca.issue("client"), ca }
    }

    fn pem(&self) -> String {
        self.ca.certificate_pem()
    }
}

fn volume(trust: &str, identity: &Issued) -> KubeletDir {
    let dir = KubeletDir::from_dir(TestDir::new().unwrap());
    dir.swap_all(trust, identity).unwrap();
    dir
}

async fn with_overlap(cell: Cell) {
    let first = Era::new(0);
    let dir = volume(&first.pem(), &first.client);
    let server = Server::start(cell.http2, &first.pem(), &first.server).await;
    let client = cell.client(&dir, &server, true).await;
    let mut era = first.clone();
    let load = load(&client, &server, Duration::ZERO, "POST");
    load.pass(BETWEEN).await;
    let mut done = 0;
    while done < rotations() {
        let next = Era::new(done + 1);
        let both = era.pem() + &next.pem();
        // Trust first, on both sides; then what is shown; then the old CA goes.
        server.rotate(&both, &era.server).await;
        adopt(&client, &dir, &both, &era.client, false).await;
        load.pass(BETWEEN).await;
        server.rotate(&both, &next.server).await;
        load.pass(BETWEEN).await;
        adopt(&client, &dir, &both, &next.client, true).await;
        load.pass(BETWEEN).await;
        server.rotate(&next.pem(), &next.server).await;
        adopt(&client, &dir, &next.pem(), &next.client, done % 8 == 0).await;
        load.pass(BETWEEN).await;
        // The bundle, the server's certificate, the identity, and the bundle again.
        done += 4;
        era = next;
    }
    let requests = finish(load).await;
    println!(
        "{}, with overlap: {requests} requests over {done} rotations, none failed ({} handshakes did)",
        cell.name,
        server.refused()
    );
    // The first CA went long ago: a server that still has its certificate is refused.
    let late = Server::start(cell.http2, &era.pem(), &first.server).await;
    let refusal = client.get(late.url("/")).send().await.unwrap_err();
    assert!(whole(&refusal).contains("UnknownIssuer"), "{}", whole(&refusal));
}

/// Swaps the client's volume, and waits until the client uses it: because it was told, or by its watches.
async fn adopt(client: &Client, dir: &KubeletDir, trust: &str, identity: &Issued, told: bool) {
    let mut generations = client.reloader().watch();
    dir.swap_all(trust, identity).unwrap();
    if told {
        tokio::time::timeout(BOUND, client.reload()).await.unwrap().unwrap();
    } else {
        tokio::time::timeout(BOUND, generations.changed()).await.unwrap().unwrap();
    }
    assert_eq!(client.generation().identity().unwrap().leaf().der(), &identity.leaf_der());
}

/// What a rotation without overlap replaces.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    /// The CA, and all that it issued: the client refuses the server before anything is sent.
    Everything,
    /// The CA of the clients alone: on TLS 1.3 the server refuses after a request was sent, so that only what may be
    /// repeated can be saved.
    Identities,
}

async fn without_overlap(cell: Cell, change: Change) {
    let mut era = Era::new(0);
    let first = era.pem();
    let server_identity = era.server.clone();
    let dir = volume(&first, &era.client);
    let server = Server::start(cell.http2, &first, &era.server).await;
    let client = cell.client(&dir, &server, false).await;
    // At full speed this measures the machine: in one of these rotations all loops wait for one look anyway.
    // Over HTTP/2, refusals meet the first requests of a connection: only what may be repeated can come through.
    let is_early = change == Change::Everything && !cell.http2;
    let method = if is_early || cell.confirms { "POST" } else { "PUT" };
    let load = load(&client, &server, Duration::from_millis(100), method);
    load.pass(BETWEEN).await;
    let rotations = rotations().div_ceil(if rotations() < 100 { 3 } else { 1 });
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1..=rotations {
        pace.tick().await;
        let next = Era::new(number);
        let mut generations = client.reloader().watch();
        // The files first.
        match change {
            Change::Everything => {
                dir.swap(&next.client).unwrap();
                server.rotate(&next.pem(), &next.server).await;
            }
            Change::Identities => {
                dir.swap_all(first.clone(), &next.client).unwrap();
                server.rotate(&next.pem(), &server_identity).await;
            }
        }
        let adopted = tokio::time::timeout(BOUND, generations.changed()).await;
        assert_eq!(adopted.unwrap().unwrap().number(), number + 1, "{:?}", load.failed());
        load.pass(BETWEEN).await;
        assert_eq!(load.failed(), [""; 0], "rotation {number}");
        era = next;
    }
    drop(era);
    let requests = finish(load).await;
    println!(
        "{}, {change:?} without overlap, {method}: {requests} requests over {rotations} rotations, none failed ({} handshakes did)",
        cell.name,
        server.refused()
    );
    assert!(server.refused() > 0, "nothing was ever refused, so this test shows nothing");
}

/// One of three requests has a body, and this method.
fn load(client: &Client, server: &Server, pause: Duration, method: &'static str) -> Load {
    let (client, base) = (client.clone(), server.url(""));
    Load::start(LOOPS, 0, move |Call { path, body, .. }| {
        let url = format!("{base}{path}");
        let expected = body.clone().unwrap_or_default();
        let request = match body {
            Some(body) => client.request(method.parse().unwrap(), url).body(body),
            None => client.get(url),
        };
        async move {
            let echoed = answer(request.send().await).await?;
            if echoed.as_bytes() != expected {
                return Err("another body came back".to_owned());
            }
            tokio::time::sleep(pause).await;
            Ok(())
        }
    })
}

async fn finish(load: Load) -> usize {
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0]);
    outcome.answered.len()
}

/// What all of these cells rest on, for HTTP/2: the server ends an old connection by GOAWAY, and a client that has not heard
/// of it yet can send on. Were the socket closed with that in it, the client would be reset, and never read the GOAWAY that
/// says which of its requests nobody has looked at.
#[tokio::test]
async fn the_server_reads_on_until_its_client_has_closed() {
    const PING: u8 = 6;
    const ACK: u8 = 1;
    /// A PING that asks for nothing.
    const PONG: [u8; 17] = [0, 0, 8, PING, ACK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (first, next) = (Era::new(0), Era::new(1));
    let server = Server::start(true, &first.pem(), &first.server).await;
    let mut roots = RootCertStore::empty();
    roots.add(first.ca.root_der()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(first.client.chain_der(), first.client.key_der())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    // The preface, and empty SETTINGS (RFC 9113, section 3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // It lingers from some moment after this.
    let rotated = Instant::now();
    server.rotate(&next.pem(), &next.server).await;
    let ended = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if (kind, flags & ACK) == (PING, 0) {
                // After this the server has nothing left to wait for.
                let answer = [&PONG[..9], &payload].concat();
                stream.write_all(&answer).await.unwrap();
            }
        }
    };
    tokio::time::timeout(BOUND, ended).await.unwrap();
    for _ in 0..10 {
        let sent = async {
            stream.write_all(&PONG).await?;
            stream.flush().await
        };
        if let Err(error) = sent.await {
            assert!(rotated.elapsed() > LINGER, "{error} after {:?}", rotated.elapsed());
        }
    }
}
