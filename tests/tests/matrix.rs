//! One rotation from its first to its last step, in every combination of what a program chooses: how a change is noticed (time
//! stamps, content, events of the system), TLS 1.2 or 1.3, HTTP/1.1 or HTTP/2, a runtime on one thread or on several. The
//! crypto provider is a feature of this package: `cargo xtask test` runs this file once with each, and without the other.
//!
//! Client and server are ours, and follow volumes as Kubernetes writes them. Nobody tells either that something changed, and a
//! refusal makes neither look: what is adopted was noticed. Meanwhile requests go on, and none may fail: both CAs are
//! trusted, the server shows an identity of the new one, then the client does, then nobody trusts the old one. After that a
//! server and a client of the old CA are refused, by new handshakes, by stored sessions and on connections that were open.
//! features: ring aws-lc-rs
#![cfg(all(target_os = "linux", any(feature = "ring", feature = "aws-lc-rs")))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::Version;
use axum::{Extension, Router};
use certsource_client::{Client, Files, Policy, detect};
use certsource_hyper::{Peer, TlsListener, serve};
use certsource_reload::Reloader;
use certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_rustls::{ClientAuth, ServerTls, TlsGate};
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};
use certsource_tests::BOUND;
use certsource_tests::clients::{Clients, answer};
use certsource_tests::load::Outcome;

const TASKS: usize = 4;
/// Requests that end between two steps, at the least.
const BETWEEN: u64 = 24;
/// Attempts of each client after the CA was withdrawn.
const ATTEMPTS: usize = 6;

/// How a change is noticed.
#[derive(Clone, Copy, Debug)]
enum Notices {
    Mtime,
    Sha256,
    Notify,
}

#[derive(Debug)]
struct Cell {
    notices: Notices,
    http2: bool,
    tls: &'static SupportedProtocolVersion,
}

macro_rules! cells {
    ($notices:ident; $($name:ident: $http2:literal, $tls:ident;)*) => {$(
        mod $name {
            use super::super::*;

            static CELL: Cell = Cell { notices: Notices::$notices, http2: $http2, tls: &$tls };

            #[tokio::test(flavor = "current_thread")]
            async fn on_one_thread() {
                story(&CELL).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_several_threads() {
                story(&CELL).await;
            }
        }
    )*};
}

macro_rules! matrix {
    ($($name:ident: $notices:ident;)*) => {$(
        mod $name {
            cells! { $notices;
                http1_tls12: false, TLS12;
                http1_tls13: false, TLS13;
                http2_tls12: true, TLS12;
                http2_tls13: true, TLS13;
            }
        }
    )*};
}

matrix! {
    mtime: Mtime;
    sha256: Sha256;
    notify: Notify;
}

impl Cell {
    fn files(&self, dir: &KubeletDir) -> Files {
        let files = Files::kubernetes(dir.path());
        match self.notices {
            Notices::Mtime => files.detect(detect::Mtime::new()),
            Notices::Sha256 => files.detect(detect::Sha256::new()),
            Notices::Notify => files.detect(detect::Notify::new()),
        }
    }

    /// With events, no timer helps: it is an hour.
    fn policy(&self) -> Policy {
        Policy::every(match self.notices {
            Notices::Mtime | Notices::Sha256 => Duration::from_millis(100),
            Notices::Notify => Duration::from_secs(3600),
        })
    }

    fn version(&self) -> Version {
        if self.http2 { Version::HTTP_2 } else { Version::HTTP_11 }
    }

    async fn clients(&self, dir: &KubeletDir, address: SocketAddr) -> Clients {
        Clients::new(address, || {
            let builder = Client::builder().files(self.files(dir)).policy(self.policy());
            let builder = builder.tls_versions(&[self.tls]).reactive(false);
            if self.http2 { builder } else { builder.http1_only() }
        })
        .await
    }
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
struct Seen {
    /// `/r/FLOOR/NUMBER`
    path: String,
    leaf: Vec<u8>,
    resumed: bool,
    version: Version,
}

/// A server that follows a volume of its own.
struct Site {
    dir: KubeletDir,
    reloader: Reloader,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Site {
    async fn start(cell: &Cell, trust: &str, identity: &Issued) -> Self {
        let dir = volume(trust, identity);
        let builder = Reloader::builder(cell.files(&dir)).policy(cell.policy());
        let reloader = builder.gate(TlsGate::new().unwrap()).start_async().await.unwrap();
        let protocol: &[u8] = if cell.http2 { b"h2" } else { b"http/1.1" };
        let tls = ServerTls::new().unwrap().versions(&[cell.tls]).alpn([protocol]);
        let listener = TlsListener::builder(&reloader).tls(tls.client_auth(ClientAuth::Required));
        let listener = listener.bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let told = Arc::clone(&seen);
        let app = Router::new().fallback(async move |Extension(peer): Extension<Peer>, request: Request| {
            told.lock().unwrap().push(Seen {
                path: request.uri().path().to_owned(),
                leaf: peer.certificates().unwrap()[0].to_vec(),
                resumed: peer.is_resumed(),
                version: request.version(),
            });
            to_bytes(request.into_body(), 1 << 20).await.unwrap()
        });
        tokio::spawn(serve(listener, app).into_future());
        Self { dir, reloader, address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests of whoever shows this.
    fn seen_of(&self, identity: &Issued) -> usize {
        let leaf = identity.leaf_der();
        self.seen().iter().filter(|seen| seen.leaf == *leaf).count()
    }

    async fn adopts(&self, trust: &str, identity: &Issued) {
        let mut generations = self.reloader.watch();
        self.dir.swap_all(trust, identity).unwrap();
        tokio::time::timeout(BOUND, generations.changed()).await.expect("it is noticed").unwrap();
    }
}

fn volume(trust: &str, identity: &Issued) -> KubeletDir {
    let dir = KubeletDir::from_dir(TestDir::new().unwrap());
    dir.swap_all(trust, identity).unwrap();
    dir
}

async fn adopt(clients: &Clients, dir: &KubeletDir, trust: &str, identity: &Issued) {
    let mut generations = clients.both().map(|client| client.reloader().watch());
    dir.swap_all(trust, identity).unwrap();
    for generations in &mut generations {
        tokio::time::timeout(BOUND, generations.changed()).await.expect("it is noticed").unwrap();
    }
}

/// So many requests of each of the two, one after the other.
async fn send(clients: &Clients, url: &str, requests: usize) -> Vec<Result<String, String>> {
    let mut answers = Vec::new();
    for client in clients.both() {
        for _ in 0..requests {
            // One that hyper loses is ended by a time limit only (docs/decisions/0018): where a server refuses, connections end all
            // the time, on other threads. Where an answer is expected this is a failure as any other.
            let request = client.get(url).timeout(BOUND / 2);
            let sent = tokio::time::timeout(BOUND, request.send()).await.expect("it ends");
            answers.push(answer(sent).await);
        }
    }
    answers
}

async fn story(cell: &'static Cell) {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let (old_pem, new_pem) = (old.certificate_pem(), new.certificate_pem());
    let both_pem = format!("{old_pem}{new_pem}");
    let (old_server, new_server) = (old.issue("localhost"), new.issue("localhost"));
    let (old_client, new_client) = (old.issue("client"), new.issue("client"));

    let site = Site::start(cell, &old_pem, &old_server).await;
    let dir = volume(&old_pem, &old_client);
    let clients = cell.clients(&dir, site.address).await;
    // Two that are not told: a server that goes on with what the old CA issued, and a client that does. By another name, for
    // sessions are stored by name, and the other server's would take their place.
    let late_server = old.leaf("late server").san_ip([127, 0, 0, 1]).issue();
    let late_site = Site::start(cell, &both_pem, &late_server).await;
    let late_client = old.issue("late client");
    let late_dir = volume(&both_pem, &late_client);
    let late_clients = cell.clients(&late_dir, site.address).await;
    let expected = if cfg!(feature = "ring") { "Ring" } else { "AwsLcRs" };
    let crypto = clients.pooled.following_config().unwrap();
    assert_eq!(format!("{:?}", crypto.crypto_provider().secure_random), expected);

    let load = clients.load(TASKS, &site.url(""), 1);
    load.pass(BETWEEN).await;
    site.adopts(&both_pem, &old_server).await;
    adopt(&clients, &dir, &both_pem, &old_client).await;
    load.pass(BETWEEN).await;
    site.adopts(&both_pem, &new_server).await;
    load.pass(BETWEEN).await;
    adopt(&clients, &dir, &both_pem, &new_client).await;
    load.raise_floor(2);
    load.pass(BETWEEN).await;
    // There is something to go wrong: open connections and stored sessions, here and there.
    let late_url = |path: &str| format!("https://{}{path}", late_site.address);
    for (who, at, url) in
        [(&clients, &late_site, late_url("/before")), (&late_clients, &site, site.url("/before"))]
    {
        let answers = send(who, &url, 3).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert!(at.seen().iter().any(|seen| seen.path == "/before" && seen.resumed), "nothing is resumed");
    }
    site.adopts(&new_pem, &new_server).await;
    adopt(&clients, &dir, &new_pem, &new_client).await;
    load.raise_floor(3);
    load.pass(BETWEEN).await;
    let Outcome { answered, failed } = load.finish().await;
    assert_eq!(failed, [""; 0], "of {}", answered.len());

    // What was sent after the identity was adopted shows that one, on new connections, in sessions and on kept connections.
    let seen = site.seen();
    assert!(seen.iter().all(|seen| seen.version == cell.version()));
    let after: Vec<_> = seen.iter().filter(|seen| floor(seen).is_some_and(|floor| floor > 1)).collect();
    assert!(after.iter().all(|seen| seen.leaf == *new_client.leaf_der()), "an old identity is shown");
    assert!(after.iter().any(|seen| seen.resumed) && after.iter().any(|seen| !seen.resumed));

    // The old CA is gone, on both sides.
    let reached = late_site.seen().len();
    for refusal in send(&clients, &late_url("/after"), ATTEMPTS).await {
        let refusal = refusal.expect_err("a server of the withdrawn CA is trusted");
        assert!(refusal.contains("UnknownIssuer"), "{refusal}");
    }
    assert_eq!(late_site.seen().len(), reached);
    let reached = site.seen_of(&late_client);
    let answers = send(&late_clients, &site.url("/after"), ATTEMPTS).await;
    assert!(answers.iter().all(Result::is_err), "a client of the withdrawn CA is let in: {answers:?}");
    assert_eq!(site.seen_of(&late_client), reached);
    // And what is of the new one still works.
    assert!(send(&clients, &site.url("/after"), 2).await.iter().all(Result::is_ok));
}

/// Of a request of the load.
fn floor(seen: &Seen) -> Option<u64> {
    seen.path.strip_prefix("/r/")?.split('/').next()?.parse().ok()
}
