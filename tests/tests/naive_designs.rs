//! The controls of scenarios that the forty lines pass by their design, or fail for another reason: for each a deliberately
//! naive implementation of the design that fails it, as others have it, through the same steps. It must fail.
//! docs/SCENARIOS.md says whose design it is. certsource in the same steps is here too where no other test of that
//! scenario stands beside.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../crates/client/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use certsource_client::rustls::pki_types::pem::PemObject as _;
use certsource_client::rustls::pki_types::{CertificateDer, ServerName};
use certsource_client::rustls::{ALL_VERSIONS, ClientConfig, RootCertStore};
use certsource_client::{Client, Policy, Reason, reqwest};
use certsource_testkit::{Ca, Issued, TestDir};
use certsource_tests::clients::answer;
use certsource_tests::naive::Naive;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use common::{Gate, Gated, Http, Server, Tls, provider, roots, soon};

/// What does not come within this is not to come.
const NEVER: Duration = Duration::from_millis(300);

fn config(roots: RootCertStore) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(ALL_VERSIONS);
    builder.unwrap().with_root_certificates(roots).with_no_client_auth()
}

/// Each request makes a connection.
fn over(config: ClientConfig) -> reqwest::Client {
    let builder = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
    builder.pool_max_idle_per_host(0).build().unwrap()
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Makes what is written there newer than what was there, whatever the file system's clock does.
fn make_newer(path: &Path) {
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
}

/// Adds what it finds to the roots that it has.
struct AddsOnly {
    path: PathBuf,
    roots: RootCertStore,
}

impl AddsOnly {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), roots: RootCertStore::empty() }
    }

    /// A fresh config with these roots: no session brings anything through.
    fn reload(&mut self) -> reqwest::Client {
        self.roots.add_parsable_certificates(certificates(&fs::read(&self.path).unwrap()));
        over(config(self.roots.clone()))
    }
}

#[tokio::test]
async fn s02_by_hand_roots_that_are_only_added_to_keep_a_removed_ca() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", first.certificate_pem()).unwrap();
    let mut by_hand = AddsOnly::new(&path);
    let leaf = first.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    answer(by_hand.reload().get(server.url("/")).send().await).await.unwrap();
    dir.write("ca.pem", second.certificate_pem()).unwrap();
    answer(by_hand.reload().get(server.url("/")).send().await).await.expect("it is accepted still");
}

/// Reads until two reads agree; when they never do, it takes the last one, as Envoy does after five.
struct AgreesInTheEnd {
    path: PathBuf,
    client: reqwest::Client,
}

impl AgreesInTheEnd {
    const READS: usize = 5;

    fn new(path: &Path) -> Self {
        let roots = Self::roots(&fs::read(path).unwrap());
        Self { path: path.to_owned(), client: over(config(roots)) }
    }

    fn roots(pem: &[u8]) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(pem));
        roots
    }

    /// How many reads it took. `meanwhile` is what others do between two of them.
    fn reload(&mut self, mut meanwhile: impl FnMut()) -> usize {
        let mut last = fs::read(&self.path).unwrap();
        for read in 2..=Self::READS {
            meanwhile();
            let next = fs::read(&self.path).unwrap();
            let agrees = next == last;
            last = next;
            if agrees || read == Self::READS {
                self.client = over(config(Self::roots(&last)));
                return read;
            }
        }
        unreachable!("the last read ends it")
    }
}

/// A writer that makes the bundle anew, again and again, and never lets it stand still: each time another first half of it,
/// without the second certificate.
struct Restless {
    dir: TestDir,
    first: Ca,
    others: Vec<Ca>,
    at: usize,
}

impl Restless {
    fn new(whole: &[&Ca], first: Ca) -> Self {
        let dir = TestDir::new().unwrap();
        let pem: String = whole.iter().map(|ca| ca.certificate_pem()).collect();
        dir.write("ca.pem", pem).unwrap();
        Self { dir, first, others: (0..8).map(|at| Ca::new(&format!("other {at}"))).collect(), at: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn write(&mut self) {
        let other = &self.others[self.at % self.others.len()];
        self.at += 1;
        self.dir.write("ca.pem", self.first.certificate_pem() + &other.certificate_pem()).unwrap();
    }
}

#[tokio::test]
async fn s04_by_hand_a_bundle_that_never_stands_still_is_taken_in_the_end() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let leaf = second.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let mut writer = Restless::new(&[&first, &second], first.clone());
    let mut by_hand = AgreesInTheEnd::new(&writer.path());
    // A file that stands still is read twice, and that is that.
    assert_eq!(by_hand.reload(|| ()), 2);
    answer(by_hand.client.get(server.url("/")).send().await).await.expect("the bundle is whole");
    writer.write();
    // One write between two reads, and then none: it waits, as it should.
    let mut writes = 1;
    let path = writer.path();
    let whole = first.certificate_pem() + &second.certificate_pem();
    let reads = by_hand.reload(|| {
        if writes > 0 {
            fs::write(&path, &whole).unwrap();
            writes -= 1;
        }
    });
    assert_eq!(reads, 3);
    answer(by_hand.client.get(server.url("/")).send().await).await.expect("the writer is done");
    // A writer that goes on: no two reads agree, and what came last is used.
    assert_eq!(by_hand.reload(|| writer.write()), AgreesInTheEnd::READS);
    let error = answer(by_hand.client.get(server.url("/")).send().await).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "the second is refused, for it is in no half: {error}");
}

/// certsource beside it: for as long as the writer goes on, what is used is the last bundle that stood still.
#[tokio::test]
async fn s04_a_bundle_that_never_stands_still_is_never_taken() {
    let (first, second, third) = (Ca::new("first"), Ca::new("second"), Ca::new("third"));
    let (leaf, new) = (second.issue("localhost"), third.issue("localhost"));
    let (server, newer) = (Server::start(Tls::of(&leaf)).await, Server::start(Tls::of(&new)).await);
    let mut writer = Restless::new(&[&first, &second], first.clone());
    let mut policy = Policy::every(Duration::from_millis(20));
    // Less than what the writer goes on for, also for what only loses certificates; and more than it pauses, on a busy machine.
    (policy.settle, policy.settle_loss) = (Duration::from_secs(2), Duration::from_secs(2));
    let builder = Client::builder().root_certificate(writer.path()).policy(policy).no_proxy();
    let client = builder.reactive(false).build().await.unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        writer.write();
        answer(client.get(server.url("/")).send().await).await.expect("the last whole bundle is used");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.generation().number(), 1);
    let whole = [&first, &second, &third].map(Ca::certificate_pem).concat();
    writer.dir.write("ca.pem", whole).unwrap();
    soon(async {
        while client.get(newer.url("/")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(client.generation().number(), 2);
}

/// The roots of a file that may be missing. Then it is the system's, and nobody hears of it.
fn optional(path: &Path, system: &Ca) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    match fs::read(path) {
        Ok(pem) => drop(roots.add_parsable_certificates(certificates(&pem))),
        Err(_) => roots.add(system.certificate_der()).unwrap(),
    }
    roots
}

#[tokio::test]
async fn s08_by_hand_a_file_that_may_be_missing_means_the_systems_roots() {
    let (ours, public) = (Ca::new("ours"), Ca::new("public"));
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let leaf = public.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let by_hand = over(config(optional(&path, &public)));
    answer(by_hand.get(server.url("/")).send().await).await.expect("anybody's server is trusted");
    let error = Client::builder().root_certificate(&path).no_proxy().build().await.unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound);
    // With the file, both refuse it.
    dir.write("ca.pem", ours.certificate_pem()).unwrap();
    let by_hand = over(config(optional(&path, &public)));
    answer(by_hand.get(server.url("/")).send().await).await.unwrap_err();
}

/// Takes a new chain only if its first certificate is another one.
struct LeafOnly {
    chain: Vec<CertificateDer<'static>>,
}

impl LeafOnly {
    fn reload(&mut self, chain: &str) {
        let chain = certificates(chain.as_bytes());
        if chain[0] != self.chain[0] {
            self.chain = chain;
        }
    }

    fn client(&self, trust: &Ca, identity: &Issued) -> reqwest::Client {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(ALL_VERSIONS);
        let builder = builder.unwrap().with_root_certificates(roots([trust]));
        over(builder.with_client_auth_cert(self.chain.clone(), identity.key_der()).unwrap())
    }
}

/// certsource's client is in `client_scenarios.rs`.
#[tokio::test]
async fn s14_by_hand_a_leaf_that_stays_hides_a_new_intermediate() {
    let (first, second) = (Ca::new("root 1"), Ca::new("root 2"));
    let issuing = first.intermediate("issuing");
    let cross_signed = issuing.renew().signed_by(&second).build();
    let identities = [issuing.issue("client"), issuing.issue("client")];
    let chain = |identity: &Issued, ca: &Ca| identity.leaf_pem() + &ca.certificate_pem();
    let leaf = first.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&second])).await;
    let mut by_hand = LeafOnly { chain: certificates(chain(&identities[0], &issuing).as_bytes()) };
    for (identity, is_let_in) in [(&identities[0], false), (&identities[1], true)] {
        by_hand.reload(&chain(identity, &cross_signed));
        let sent = soon(by_hand.client(&first, identity).get(server.url("/")).send()).await;
        assert_eq!(answer(sent).await.is_ok(), is_let_in, "of the new chain");
    }
}

/// Remembers its connections, and closes all of them when the identity changes.
struct ClosesAll {
    connections: Vec<JoinHandle<()>>,
}

impl ClosesAll {
    async fn get(
        &mut self,
        server: &Server,
        config: ClientConfig,
        path: &str,
    ) -> Response<hyper::body::Incoming> {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.connections.push(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    }

    fn identity_changed(&mut self) {
        self.connections.drain(..).for_each(|connection| connection.abort());
    }
}

/// The first part of a response, then the identity changes, then the rest of it: certsource's client is in
/// `crates/client/tests/scenarios.rs`.
#[tokio::test]
async fn s16_by_hand_a_response_is_cut_where_every_connection_is_closed() {
    let ca = Ca::new("CA");
    let (leaf, gate) = (ca.issue("localhost"), Gate::new());
    let end = gate.clone();
    let server = Server::with(Tls::of(&leaf).http(Http::One), move |_| {
        let end = end.clone();
        async move { Response::new(Gated::new([(None, "begun, "), (Some(end), "done")]).boxed()) }
    })
    .await;
    for changes in [false, true] {
        let mut by_hand = ClosesAll { connections: Vec::new() };
        let mut config = config(Arc::unwrap_or_clone(roots([&ca])));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut body = by_hand.get(&server, config, "/slow").await.into_body();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "begun, ");
        if changes {
            by_hand.identity_changed();
            assert!(soon(body.frame()).await.is_none_or(|frame| frame.is_err()), "it is cut");
        }
        gate.open();
        if !changes {
            assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "done");
        }
    }
}

/// Calls its one callback while it holds its lock.
struct UnderLock {
    current: Mutex<u64>,
    callback: fn(&Self) -> Option<u64>,
}

impl UnderLock {
    /// What the callback said.
    fn reload(&self) -> Option<u64> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current += 1;
        (self.callback)(self)
    }

    /// What is current. A lock would be waited for without an end; this gives up.
    fn current(&self) -> Option<u64> {
        let begun = Instant::now();
        while begun.elapsed() < NEVER {
            if let Ok(current) = self.current.try_lock() {
                return Some(*current);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// certsource's hooks are in `crates/client/tests/hooks.rs`.
#[test]
fn s21_by_hand_a_callback_under_the_lock_waits_for_itself() {
    let by_hand = UnderLock { current: Mutex::new(1), callback: UnderLock::current };
    assert_eq!(by_hand.current(), Some(1));
    assert_eq!(by_hand.reload(), None, "the callback got its answer");
}

/// A client with a timer of its own, which holds what it reloads.
fn with_timer(path: &Path) -> Arc<Mutex<Naive>> {
    let naive = Arc::new(Mutex::new(Naive::new(path, None, ALL_VERSIONS).unwrap()));
    let timed = Arc::clone(&naive);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let _ = timed.lock().unwrap().poll();
        }
    });
    naive
}

/// A thousand of certsource's are in `crates/client/tests/thousand.rs`.
#[tokio::test]
async fn s25_by_hand_a_timer_outlives_its_client() {
    const CLIENTS: usize = 50;
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", Ca::new("CA").certificate_pem()).unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let clients: Vec<_> = (0..CLIENTS).map(|_| with_timer(&path)).collect();
    let held: Vec<_> = clients.iter().map(Arc::downgrade).collect();
    drop(clients);
    tokio::time::sleep(NEVER).await;
    assert_eq!(tasks() - before, CLIENTS, "they end by themselves");
    assert!(held.iter().all(|client| client.upgrade().is_some()));
}

/// Looks when it gets an event, and never else.
struct EventsOnly {
    naive: Naive,
    events: Option<Receiver<()>>,
}

impl EventsOnly {
    /// With what the system gives for a watch; what it does not give is logged.
    fn new(path: &Path, watch: io::Result<Receiver<()>>) -> Self {
        Self { naive: Naive::new(path, None, ALL_VERSIONS).unwrap(), events: watch.ok() }
    }

    fn tick(&mut self) {
        if self.events.as_ref().is_some_and(|events| events.try_recv().is_ok()) {
            self.naive.poll().unwrap();
        }
    }
}

/// Whether it takes a new CA into use when there is an event for it, if it has a watch.
async fn is_followed(watch: io::Result<Receiver<()>>, event: Option<&Sender<()>>) -> bool {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", first.certificate_pem()).unwrap();
    let mut by_hand = EventsOnly::new(&path, watch);
    dir.write("new.pem", second.certificate_pem()).unwrap();
    fs::rename(dir.join("new.pem"), &path).unwrap();
    make_newer(&path);
    if let Some(event) = event {
        event.send(()).unwrap();
    }
    for _ in 0..100 {
        by_hand.tick();
    }
    let leaf = second.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let client = over((*by_hand.naive.config()).clone());
    answer(client.get(server.url("/")).send().await).await.is_ok()
}

/// certsource's client is in `client_connections.rs`.
#[tokio::test]
async fn s27_by_hand_events_alone_follow_nothing_when_watches_run_out_or_events_are_lost() {
    let (event, events) = channel();
    assert!(is_followed(Ok(events), Some(&event)).await, "nor when there is one");
    let (_lost, events) = channel();
    assert!(!is_followed(Ok(events), None).await);
    assert!(!is_followed(Err(io::Error::from(io::ErrorKind::StorageFull)), None).await);
}

/// Reads its file on the way of each request, and makes a client of what it holds when that changed.
struct OnTheWay {
    path: PathBuf,
    hangs: Arc<AtomicBool>,
    last: Mutex<(Vec<u8>, reqwest::Client)>,
}

impl OnTheWay {
    fn new(path: &Path, hangs: &Arc<AtomicBool>) -> Self {
        let pem = fs::read(path).unwrap();
        let client = Self::client(&pem).unwrap();
        Self { path: path.to_owned(), hangs: Arc::clone(hangs), last: Mutex::new((pem, client)) }
    }

    fn client(pem: &[u8]) -> Result<reqwest::Client, String> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(pem));
        if added == 0 { Err("cannot use the CA certificate".to_owned()) } else { Ok(over(config(roots))) }
    }

    async fn get(&self, url: String) -> Result<String, String> {
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pem = fs::read(&self.path).map_err(|error| error.to_string())?;
        let client = {
            let mut last = self.last.lock().unwrap();
            if last.0 != pem {
                *last = (pem.clone(), Self::client(&pem)?);
            }
            last.1.clone()
        };
        answer(client.get(url).send().await).await
    }
}

/// certsource's client is in `client_scenarios.rs` (garbage, a file that is gone) and in `crates/client/tests/scenarios.rs`
/// (a disk that hangs).
#[tokio::test]
async fn s28_by_hand_a_read_on_the_way_of_a_request_hangs_and_fails_with_the_disk() {
    let ca = Ca::new("CA");
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let by_hand = OnTheWay::new(&path, &hangs);
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    by_hand.get(server.url("/")).await.unwrap();
    hangs.store(true, Ordering::SeqCst);
    let waiting = tokio::time::timeout(NEVER, by_hand.get(server.url("/"))).await;
    assert!(waiting.is_err(), "the request does not wait for the disk");
    hangs.store(false, Ordering::SeqCst);
    // Scenarios 6 and 7: nothing is kept that was good.
    for broken in [Some("garbage"), None] {
        match broken {
            Some(garbage) => drop(dir.write("ca.pem", garbage).unwrap()),
            None => fs::remove_file(&path).unwrap(),
        }
        by_hand.get(server.url("/")).await.expect_err("the last good roots are kept");
    }
}

/// A real one: axum-server 0.9, which makes another config at a reload, by other code than the first. certsource's server is in
/// `servers.rs`.
#[tokio::test]
async fn s30_axum_server_forgets_client_authentication_at_its_first_reload() {
    // It takes the process's provider; nothing else in this file does.
    let _ = Arc::unwrap_or_clone(provider()).install_default();
    let ca = Ca::new("CA");
    let leaf = ca.issue("localhost");
    let served = RustlsConfig::from_config(Tls::of(&leaf).clients(&[&ca]).http(Http::One).config());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let app = Router::new().route("/", get(|| async { "let in" }));
    let server = axum_server::from_tcp_rustls(listener, served.clone()).unwrap();
    let server = tokio::spawn(server.serve(app.into_make_service()));
    // Who has no certificate.
    let stranger = || over(config(Arc::unwrap_or_clone(roots([&ca]))));
    soon(stranger().get(&url).send()).await.expect_err("it is let in before");
    served.reload_from_pem(leaf.chain_pem().into_bytes(), leaf.key_pem().into_bytes()).await.unwrap();
    assert_eq!(answer(soon(stranger().get(&url).send()).await).await.as_deref(), Ok("let in"));
    server.abort();
}

/// Looks at its file when a handshake fails, so often as its one limit lets it, whichever host it was.
struct OneLimit {
    naive: Naive,
    looked: Option<Instant>,
}

impl OneLimit {
    const PAUSE: Duration = Duration::from_secs(600);

    async fn get(&mut self, server: &Server) -> Result<String, String> {
        let client = over((*self.naive.config()).clone());
        let sent = answer(client.get(server.url("/")).send().await).await;
        if sent.is_ok() || self.looked.is_some_and(|looked| looked.elapsed() < Self::PAUSE) {
            return sent;
        }
        self.looked = Some(Instant::now());
        self.naive.poll().unwrap();
        answer(client.get(server.url("/")).send().await).await
    }
}

/// certsource's client is in `crates/client/tests/reactive.rs`.
#[tokio::test]
async fn s31_by_hand_a_bad_host_spends_the_look_that_a_good_one_needs() {
    let [first, second, stranger] = ["first", "second", "stranger"].map(Ca::new);
    let (good, bad) = (second.issue("localhost"), stranger.issue("localhost"));
    let (good, bad) = (Server::start(Tls::of(&good)).await, Server::start(Tls::of(&bad)).await);
    for is_bad_host_asked in [false, true] {
        let dir = TestDir::new().unwrap();
        let path = dir.write("ca.pem", first.certificate_pem()).unwrap();
        let mut by_hand = OneLimit { naive: Naive::new(&path, None, ALL_VERSIONS).unwrap(), looked: None };
        if is_bad_host_asked {
            by_hand.get(&bad).await.unwrap_err();
        }
        dir.write("ca.pem", second.certificate_pem()).unwrap();
        make_newer(&path);
        assert_eq!(by_hand.get(&good).await.is_err(), is_bad_host_asked, "a look finds the new CA");
    }
}
