//! What was withdrawn is gone, against real servers that give out session tickets: nginx, and `openssl s_server`. After
//! the CA is withdrawn no attempt succeeds, resumed or pooled; after the identity is rotated no request shows the old
//! one. `s_server` closes each connection after its answer, so what is said of pooled ones is shown on nginx alone. What is true is read from what the servers say. `CERTSOURCE_ATTEMPTS` says how many attempts there are after
//! each; 10,000 is the full size (docs/PROOFS.md has what came of it). Each test shows first that there was something to go wrong: that sessions were resumed
//! and connections reused, and that people's forty lines go wrong there.
//! needs: nginx openssl
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use certsource_client::certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_client::certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_client::{Client, Files};
use certsource_testkit::TestDir;
use certsource_tests::clients::{self, Clients, answer};
use certsource_tests::disk::{Disk, Writer};
use certsource_tests::load::{Call, Load, Outcome};
use certsource_tests::naive::Naive;
use certsource_tests::nginx::{Nginx, Options};
use certsource_tests::openssl::{Minted, OpensslCa};
use certsource_tests::s_server::{Page, SServer};
use certsource_tests::{size, tool, until};

const TASKS: usize = 8;
/// Requests that fill pools and session stores first.
const BEFORE: u64 = 200;
/// Attempts of the control.
const CONTROL: u64 = 200;

fn attempts() -> u64 {
    size("CERTSOURCE_ATTEMPTS", 500)
}

macro_rules! cells {
    ($($name:ident: $make:expr, $tls:ident;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_withdrawn_ca_is_accepted_never() {
                if tool::are_here(&["nginx", "openssl"]) {
                    withdraw(stringify!($name), &TLS, $make).await;
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn an_old_identity_is_shown_never() {
                if tool::are_here(&["nginx", "openssl"]) {
                    rotate(stringify!($name), &TLS, $make).await;
                }
            }

            static TLS: &SupportedProtocolVersion = &$tls;
        }
    )*};
}

cells! {
    nginx_http1_tls12: |server, ca| OnNginx::start(false, "TLSv1.2", server, ca), TLS12;
    nginx_http1_tls13: |server, ca| OnNginx::start(false, "TLSv1.3", server, ca), TLS13;
    nginx_http2_tls12: |server, ca| OnNginx::start(true, "TLSv1.2", server, ca), TLS12;
    nginx_http2_tls13: |server, ca| OnNginx::start(true, "TLSv1.3", server, ca), TLS13;
    s_server_tls12: |server, ca| OnSServer::start("-tls1_2", server, ca), TLS12;
    s_server_tls13: |server, ca| OnSServer::start("-tls1_3", server, ca), TLS13;
}

/// A request that a server answered, as that server saw it.
#[derive(Clone, Debug)]
struct Seen {
    serial: String,
    resumed: bool,
    /// Whether its connection had carried another one before.
    pooled: bool,
    protocol: String,
}

/// A server that tells what it saw.
trait Witness {
    fn address(&self) -> SocketAddr;
    fn is_http2(&self) -> bool;
    /// Whether connections can be kept.
    fn keeps_connections(&self) -> bool;
    fn load(&self, clients: Sender<'_>, floor: u64) -> Load;
    /// What it saw of the requests with this floor, which had this outcome.
    fn seen(&self, floor: u64, outcome: &Outcome) -> Vec<Seen>;
}

/// Whose requests.
enum Sender<'a> {
    Ours(&'a Clients),
    ByHand(&'a reqwest::Client),
}

async fn withdraw<W: Witness>(cell: &str, tls: &'static SupportedProtocolVersion, start: Start<W>) {
    let (ca, other) = (OpensslCa::new("CA"), OpensslCa::new("other CA"));
    let identity = ca.client(0x1000);
    let server = start(&ca.server(0xA), &ca.certificate());
    let disk = Disk::new(Writer::Kubelet, &ca.certificate(), &identity);
    let clients = clients(&server, tls, &disk).await;
    let (files, mut naive) = naive(tls, &ca.certificate(), &identity);
    let by_hand = clients::by_hand(&naive, server.address(), server.is_http2());
    fill(&server, &clients, &by_hand, &identity).await;

    disk.write(&other.certificate(), &identity);
    clients.reload(None).await.unwrap();
    let load = server.load(Sender::Ours(&clients), 1);
    load.pass_many(attempts()).await;
    let outcome = load.finish().await;
    assert_eq!(outcome.answered, [""; 0], "accepted although the CA is withdrawn");
    let strange: Vec<_> = outcome.failed.iter().filter(|error| !error.contains("UnknownIssuer")).collect();
    assert!(strange.is_empty(), "refused for another reason: {strange:?}");
    assert!(server.seen(1, &outcome).is_empty(), "a request came through");

    // The control: a session brings it through.
    std::fs::write(files.join("ca.crt"), other.certificate()).unwrap();
    until("the naive client to reload", || naive.poll().unwrap().then_some(()));
    let load = server.load(Sender::ByHand(&by_hand), 2);
    load.pass_many(CONTROL).await;
    let control = load.finish().await;
    let resumed = server.seen(2, &control).iter().filter(|seen| seen.resumed).count();
    assert!(resumed > 0, "the control refuses by itself, so this test shows nothing");
    println!(
        "{cell}, CA withdrawn: 0 of {} attempts succeeded (by hand: {} of {})",
        outcome.failed.len(),
        control.answered.len(),
        control.answered.len() + control.failed.len(),
    );
}

async fn rotate<W: Witness>(cell: &str, tls: &'static SupportedProtocolVersion, start: Start<W>) {
    let ca = OpensslCa::new("CA");
    let (old, new) = (ca.client(0x1000), ca.client(0x1001));
    let server = start(&ca.server(0xA), &ca.certificate());
    let disk = Disk::new(Writer::Kubelet, &ca.certificate(), &old);
    let clients = clients(&server, tls, &disk).await;
    let (files, mut naive) = naive(tls, &ca.certificate(), &old);
    let by_hand = clients::by_hand(&naive, server.address(), server.is_http2());
    fill(&server, &clients, &by_hand, &old).await;

    disk.write(&ca.certificate(), &new);
    clients.reload(None).await.unwrap();
    let load = server.load(Sender::Ours(&clients), 1);
    load.pass_many(attempts()).await;
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0]);
    let seen = server.seen(1, &outcome);
    assert_eq!(seen.len(), outcome.answered.len());
    let late: Vec<_> = seen.iter().filter(|seen| seen.serial != new.serial).collect();
    assert!(late.is_empty(), "{} of {} show another identity: {:?}", late.len(), seen.len(), late.first());
    let (resumed, pooled) = resumed_and_pooled(&seen);
    assert!(resumed > 0 && (pooled > 0 || !server.keeps_connections()), "{resumed} resumed, {pooled} pooled");

    // The control.
    std::fs::write(files.join("tls.key"), &new.key).unwrap();
    std::fs::write(files.join("tls.crt"), &new.certificate).unwrap();
    until("the naive client to reload", || naive.poll().unwrap().then_some(()));
    let load = server.load(Sender::ByHand(&by_hand), 2);
    load.pass_many(CONTROL).await;
    let control = server.seen(2, &load.finish().await);
    let late = control.iter().filter(|seen| seen.serial == old.serial).count();
    assert!(late > 0, "the control shows the new identity by itself, so this test shows nothing");
    println!(
        "{cell}, identity rotated: 0 of {} requests showed the old one, {resumed} resumed, {pooled} on a connection \
         in use before (by hand: {late} of {})",
        seen.len(),
        control.len(),
    );
}

type Start<W> = fn(&Minted, &str) -> W;

/// Fills pools with connections and stores with sessions, and asserts that there is something to go wrong.
async fn fill(server: &impl Witness, clients: &Clients, by_hand: &reqwest::Client, identity: &Minted) {
    for sender in [Sender::Ours(clients), Sender::ByHand(by_hand)] {
        let is_ours = matches!(sender, Sender::Ours(_));
        let load = server.load(sender, 0);
        load.pass_many(BEFORE).await;
        let outcome = load.finish().await;
        assert_eq!(outcome.failed, [""; 0]);
        if is_ours {
            let seen = server.seen(0, &outcome);
            assert!(seen.iter().all(|seen| seen.serial == identity.serial));
            let (resumed, pooled) = resumed_and_pooled(&seen);
            assert!(resumed > 0, "no session is resumed, so this tests little: {:?}", seen.first());
            assert!(pooled > 0 || !server.keeps_connections(), "no connection is kept");
        }
    }
}

fn resumed_and_pooled(seen: &[Seen]) -> (usize, usize) {
    let count = |is: fn(&&Seen) -> bool| seen.iter().filter(is).count();
    (count(|seen| seen.resumed && !seen.pooled), count(|seen| seen.pooled))
}

async fn clients(server: &impl Witness, tls: &'static SupportedProtocolVersion, disk: &Disk) -> Clients {
    let http2 = server.is_http2();
    Clients::new(server.address(), || {
        let builder = Client::builder()
            .files(Files::kubernetes(disk.path()))
            .policy(clients::quick())
            .tls_versions(&[tls]);
        if http2 { builder } else { builder.http1_only() }
    })
    .await
}

fn naive(tls: &'static SupportedProtocolVersion, trust: &str, identity: &Minted) -> (TestDir, Naive) {
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.crt", trust).unwrap();
    let pair =
        (dir.write("tls.crt", &identity.certificate).unwrap(), dir.write("tls.key", &identity.key).unwrap());
    let naive = Naive::new(path, Some(pair), &[tls]).unwrap();
    (dir, naive)
}

/// nginx tells by its log.
struct OnNginx {
    nginx: Nginx,
    http2: bool,
    protocol: &'static str,
}

impl OnNginx {
    fn start(http2: bool, protocol: &'static str, server: &Minted, ca: &str) -> Self {
        // As in `nginx.rs`: on HTTP/2 a connection that ends takes requests with it.
        let requests_per_connection = if http2 { 1_000_000 } else { 20 };
        let nginx = Nginx::start(Options { http2, protocol, requests_per_connection }, server, ca);
        Self { nginx, http2, protocol }
    }
}

impl Witness for OnNginx {
    fn address(&self) -> SocketAddr {
        self.nginx.address()
    }

    fn is_http2(&self) -> bool {
        self.http2
    }

    fn keeps_connections(&self) -> bool {
        true
    }

    fn load(&self, sender: Sender<'_>, floor: u64) -> Load {
        let base = self.nginx.url("");
        match sender {
            Sender::Ours(clients) => clients.load(TASKS, &base, floor),
            Sender::ByHand(client) => clients::load_by_hand(client, TASKS, &base, floor),
        }
    }

    fn seen(&self, floor: u64, outcome: &Outcome) -> Vec<Seen> {
        let lines = self.nginx.requests(&format!("/r/{floor}/"), outcome.answered.len());
        let seen: Vec<_> = lines
            .into_iter()
            .map(|line| Seen {
                serial: line.serial,
                resumed: line.resumed,
                pooled: line.request_of_connection > 1,
                protocol: line.protocol,
            })
            .collect();
        assert!(seen.iter().all(|seen| seen.protocol == self.protocol));
        seen
    }
}

/// `s_server` tells by its answers.
struct OnSServer {
    server: SServer,
    protocol: &'static str,
    pages: Arc<Mutex<Vec<(u64, Page)>>>,
}

impl OnSServer {
    fn start(version: &str, server: &Minted, ca: &str) -> Self {
        let protocol = if version == "-tls1_2" { "TLSv1.2" } else { "TLSv1.3" };
        Self { server: SServer::start(version, server, ca), protocol, pages: Arc::default() }
    }
}

impl Witness for OnSServer {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn is_http2(&self) -> bool {
        false
    }

    fn keeps_connections(&self) -> bool {
        false
    }

    fn load(&self, sender: Sender<'_>, floor: u64) -> Load {
        let (base, pages) = (self.server.url(), Arc::clone(&self.pages));
        let send: Arc<dyn Fn(u64, String) -> Sent + Send + Sync> = match sender {
            Sender::Ours(clients) => {
                let clients = clients.clone();
                Arc::new(move |number, url| {
                    let client = if number % 4 == 1 { &clients.fresh } else { &clients.pooled };
                    Box::pin(client.get(url).send())
                })
            }
            Sender::ByHand(client) => {
                let client = client.clone();
                Arc::new(move |_, url| Box::pin(client.get(url).send()))
            }
        };
        Load::start(TASKS, floor, move |Call { number, path, .. }| {
            let (sent, pages) = (send(number, format!("{base}{path}")), Arc::clone(&pages));
            async move {
                let page = Page::read(&answer(sent.await).await?)?;
                pages.lock().unwrap().push((floor, page));
                Ok(())
            }
        })
    }

    fn seen(&self, floor: u64, _: &Outcome) -> Vec<Seen> {
        let pages = self.pages.lock().unwrap();
        // Its count of handshakes shows that no connection is missing here.
        let most = pages.iter().map(|(_, page)| page.handshakes).max().unwrap_or(0);
        assert_eq!(most, pages.len() as u64, "s_server has finished handshakes that nobody was answered on");
        let of_floor = pages.iter().filter(|(of, _)| *of == floor).map(|(_, page)| page.clone());
        let seen: Vec<_> = of_floor
            .map(|page| Seen {
                serial: page.serial,
                resumed: page.resumed,
                pooled: false,
                protocol: page.protocol,
            })
            .collect();
        assert!(seen.iter().all(|seen| seen.protocol == self.protocol));
        seen
    }
}

type Sent =
    std::pin::Pin<Box<dyn Future<Output = Result<reqwest::Response, reqwest::Error>> + Send + 'static>>;
