//! What becomes of a client's connections and of what it says, by the number of the scenario: certsource's client and its
//! connector over real TLS, and reqwest over the forty lines that people write by hand. Where those fail it, they run too, and must fail
//! for the reason that stands beside it; docs/SCENARIOS.md says who fails the others.
//!
//! What is not here: what happens to files (`client_scenarios.rs`).
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../crates/client/tests/common/mod.rs"]
mod common;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::clock::Now;
use certsource::parts::Parts;
use certsource::source::{Alarm, Armed, Look, Sink, Watch, WatchError, Watches};
use certsource::{Error, Origin, Source};
use certsource_client::rustls::pki_types::pem::PemObject as _;
use certsource_client::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use certsource_client::rustls::server::WebPkiClientVerifier;
use certsource_client::rustls::sign::CertifiedKey;
use certsource_client::rustls::{ALL_VERSIONS, ServerConfig};
use certsource_client::{Client, Files, Policy, Proxy, Reason, detect, reqwest};
use certsource_testkit::{AgentFiles, Ca, Issued, KubeletDir, TestDir};
use certsource_tests::ensure;
use certsource_tests::load::{Call, Load};
use certsource_tests::naive::Naive;
use certsource_tests::subject::{ByHand, Connected, Ours, Outcome, Setup, Subject};
use http_body_util::BodyExt as _;
use hyper::{Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use common::{Gate, Gated, Http, Server, Tls, provider, redirect, reply, roots, soon, until};

macro_rules! scenarios {
    ($($name:ident: by hand $by_hand:literal;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn with_certsource() {
                super::$name::<Ours>().await.unwrap();
            }

            #[tokio::test]
            async fn with_the_connector() {
                super::$name::<Connected>().await.unwrap();
            }

            #[tokio::test]
            async fn with_the_connector_over_tls_1_2() {
                super::$name::<Connected<true>>().await.unwrap();
            }

            #[tokio::test]
            async fn by_hand_fails() {
                let why = super::$name::<ByHand>().await.expect_err("it tests something");
                assert!(why.contains($by_hand), "it fails for another reason: {why}");
            }
        }
    )*};
}

scenarios! {
    s03_a_ca_is_replaced_with_an_overlap_under_load: by hand "the first CA is accepted at the end";
    s15_an_idle_connection_is_retired_with_its_identity: by hand "the idle connection is used, with the old identity";
    s17_new_requests_use_a_new_connection_beside_open_streams: by hand "a new request goes to the old connection";
    s18_a_removed_ca_costs_a_full_handshake: by hand "accepted without a full handshake";
    s29_a_redirect_hop_after_a_reload_uses_what_is_new: by hand "the hop goes to the old connection";
}

async fn s03_a_ca_is_replaced_with_an_overlap_under_load<S: Subject>() -> Outcome {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let dir = TestDir::new().unwrap();
    let write = |cas: &[&Ca]| {
        let pem: String = cas.iter().map(|ca| ca.certificate_pem()).collect();
        dir.write("ca.pem", pem).unwrap();
    };
    write(&[&first]);
    let subject = S::start(&Setup::trust(dir.join("ca.pem"))).await?;
    let (old, new) = (first.issue("localhost"), second.issue("localhost"));
    let server = Server::start(Tls::of(&old)).await;
    // One that will not rotate, by another name: the sessions of a name are few.
    let late = first.leaf("late").san_ip([127, 0, 0, 1]).issue();
    let other = Server::start(Tls::of(&late)).await;
    let late = format!("https://{}/", other.address());
    for _ in 0..2 {
        subject.get(late.clone()).await?;
    }
    ensure!(other.last().is_resumed, "no session is resumed, so this tests little");
    let load = Load::start(8, 0, {
        let (subject, base) = (subject.clone(), server.url(""));
        move |Call { path, .. }| {
            let sent = subject.get(format!("{base}{path}"));
            async move { sent.await.map(drop) }
        }
    });
    load.pass(50).await;
    write(&[&first, &second]);
    ensure!(subject.comes(async || accepts(&subject, &second).await).await, "the second CA is not taken");
    server.set(Tls::of(&new));
    load.pass(50).await;
    write(&[&second]);
    ensure!(subject.comes(async || !accepts(&subject, &first).await).await, "the first CA is not withdrawn");
    load.pass(50).await;
    let outcome = load.finish().await;
    ensure!(outcome.failed.is_empty(), "requests failed: {:?}", outcome.failed);
    for _ in 0..3 {
        ensure!(subject.get(late.clone()).await.is_err(), "the first CA is accepted at the end");
    }
    Ok(())
}

/// The forty lines end with an error, too. A file that is optional, and then the system's roots, is of others: see
/// docs/SCENARIOS.md.
#[tokio::test]
async fn s08_missing_at_the_start_is_an_error_or_is_waited_for() {
    let ca = Ca::new("CA");
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let error = Client::builder().root_certificate(&path).no_proxy().build().await.unwrap_err();
    assert_eq!((error.reason(), error.path()), (Reason::NotFound, Some(path.as_path())));
    ByHand::start(&Setup::trust(&path)).await.unwrap_err();
    let builder = Client::builder().root_certificate(&path).wait_for_initial(common::SOON).no_proxy();
    let waiting = tokio::spawn(builder.build());
    tokio::task::yield_now().await;
    dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let client = common::soon(waiting).await.unwrap().unwrap();
    assert_eq!(client.certificates().len(), 1, "what the file holds and nothing else");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    client.get(server.url("/")).send().await.unwrap();
}

async fn s15_an_idle_connection_is_retired_with_its_identity<S: Subject>() -> Outcome {
    for http in common::HTTP {
        let ca = Ca::new("CA");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let leaf = ca.issue("localhost");
        let server = Server::start(Tls::of(&leaf).clients(&[&ca]).http(http)).await;
        let setup = Setup::pair(dir.path()).pooled();
        let subject = S::start(&if http == Http::Two { setup.http2() } else { setup }).await?;
        for _ in 0..2 {
            subject.get(server.url("/")).await?;
        }
        ensure!(server.connections() == 1, "no connection is kept, so this tests nothing");
        let second = ca.issue("client");
        dir.swap(&second).unwrap();
        subject.look().await?;
        subject.get(server.url("/")).await?;
        let is_new = server.last().client == Some(second.leaf_der());
        ensure!(is_new, "the idle connection is used, with the old identity");
        until("the old connection closes", || server.open() == 1).await;
    }
    Ok(())
}

/// A server of this CA that answers `/slow` with a body whose end waits at the gate, and `/hop` with a redirect that does.
async fn gated(ca: &Ca, http: Http, gate: &Gate) -> Server {
    let (leaf, gate) = (ca.issue("localhost"), gate.clone());
    Server::with(Tls::of(&leaf).clients(&[ca]).http(http), move |request| {
        let gate = gate.clone();
        async move {
            match request.uri().path() {
                "/slow" => Response::new(Gated::new([(None, "begun, "), (Some(gate), "done")]).boxed()),
                "/hop" => {
                    gate.passed().await;
                    redirect(307, "/end")
                }
                _ => reply(StatusCode::OK, "ok"),
            }
        }
    })
    .await
}

async fn s17_new_requests_use_a_new_connection_beside_open_streams<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let gate = Gate::new();
    let server = gated(&ca, Http::Two, &gate).await;
    let subject = S::start(&Setup::pair(dir.path()).pooled().http2()).await?;
    subject.get(server.url("/")).await?;
    let open: Vec<_> = (0..5).map(|_| tokio::spawn(subject.get(server.url("/slow")))).collect();
    until("the streams are open", || server.seen().len() == 6).await;
    let second = ca.issue("client");
    dir.swap(&second).unwrap();
    subject.look().await?;
    subject.get(server.url("/")).await?;
    let last = server.last();
    ensure!(last.connection != 0, "a new request goes to the old connection");
    ensure!(last.client == Some(second.leaf_der()), "with the old identity");
    gate.open();
    for stream in open {
        let text = soon(stream).await.unwrap()?;
        ensure!(text == "begun, done", "a stream was cut");
    }
    Ok(())
}

async fn s18_a_removed_ca_costs_a_full_handshake<S: Subject>() -> Outcome {
    for version in S::versions() {
        let (kept, removed) = (Ca::new("kept"), Ca::new("removed"));
        let dir = TestDir::new().unwrap();
        dir.write("ca.pem", removed.certificate_pem() + &kept.certificate_pem()).unwrap();
        let subject = S::start(&Setup::trust(dir.join("ca.pem"))).await?;
        let leaf = removed.issue("localhost");
        let server = Server::start(Tls::of(&leaf).versions(&[version])).await;
        for _ in 0..2 {
            subject.get(server.url("/")).await?;
        }
        ensure!(server.last().is_resumed, "there is no ticket, so this tests nothing");
        dir.write("ca.pem", kept.certificate_pem()).unwrap();
        subject.look().await?;
        for n in 1..=3 {
            ensure!(subject.get(server.url("/")).await.is_err(), "accepted without a full handshake");
            until("the server hears that it is refused", || server.failures() == n).await;
        }
    }
    Ok(())
}

async fn s29_a_redirect_hop_after_a_reload_uses_what_is_new<S: Subject>() -> Outcome {
    for http in common::HTTP {
        let ca = Ca::new("CA");
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let gate = Gate::new();
        let server = gated(&ca, http, &gate).await;
        let setup = Setup::pair(dir.path()).pooled();
        let subject = S::start(&if http == Http::Two { setup.http2() } else { setup }).await?;
        let sent = tokio::spawn(subject.get(server.url("/hop")));
        until("the first hop arrives", || server.seen().len() == 1).await;
        let second = ca.issue("client");
        dir.swap(&second).unwrap();
        subject.look().await?;
        gate.open();
        soon(sent).await.unwrap()?;
        let last = server.last();
        ensure!(last.path == "/end" && last.connection != 0, "the hop goes to the old connection");
        ensure!(last.client == Some(second.leaf_der()), "the hop shows the old identity");
    }
    Ok(())
}

/// What is logged in this process, at every level, by every library.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Keeps what is logged.
struct Log(&'static Mutex<Vec<u8>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A key of another certificate, with a log that holds everything.
#[tokio::test]
async fn s26_a_key_mismatch_logs_no_key_byte() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log(&LOG)).init();
    let ca = Ca::new("CA");
    let (served, stranger) = (ca.issue("localhost"), ca.issue("stranger"));
    let files = AgentFiles::new(&served).unwrap();
    let mut policy = Policy::every(Duration::from_millis(50));
    policy.pair_grace = Duration::from_millis(200);
    // No hook: what is wrong goes to the log.
    let client = Client::builder()
        .root_certificate(files.ca_path())
        .identity(files.cert_path(), files.key_path())
        .policy(policy)
        .no_proxy()
        .build()
        .await
        .unwrap();
    let parts =
        [("ca.crt", served.root_pem()), ("tls.crt", served.chain_pem()), ("tls.key", stranger.key_pem())];
    files.render(parts).unwrap();
    let log = || String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    until("the warning is logged", || {
        log().lines().any(|line| line.contains("WARN") && line.contains("key_mismatch"))
    })
    .await;
    let error = client.reload().await.unwrap_err();
    assert_eq!(error.reason(), Reason::KeyMismatch);
    let server = Server::start(Tls::of(&served).clients(&[&ca])).await;
    client.get(server.url("/")).send().await.unwrap();
    let shown = format!("{}{error}{error:?}{client:?}{:?}", log(), client.status());
    for identity in [&served, &stranger] {
        assert_eq!(leaked(&shown, identity), None);
    }
    // What a warning holds when it shows what it was given, as grpc's did: that is found.
    let der = stranger.key_der();
    let der = der.secret_der();
    for warning in [format!("{:?}", stranger.key_pem()), format!("{der:?}"), format!("{der:02x?}"), hex(der)]
    {
        assert!(leaked(&format!("cannot use {warning}"), &stranger).is_some(), "{warning}");
    }
}

/// A pair that is read when its time has come. What can not be used is told with what it was, as in grpc's
/// `pemfile` watcher.
struct TellsWhatItRead {
    dir: PathBuf,
    certified: CertifiedKey,
}

impl TellsWhatItRead {
    fn read(dir: &Path) -> Result<CertifiedKey, String> {
        let [chain, key] =
            ["tls.crt", "tls.key"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap());
        let certificates = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
        let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        CertifiedKey::from_der(certificates, der, &provider())
            .map_err(|error| format!("CertifiedKey::from_der({chain:?}, {key:?}): {error}"))
    }

    fn poll(&mut self) {
        match Self::read(&self.dir) {
            Ok(certified) => self.certified = certified,
            Err(error) => tracing::warn!("cannot reload: {error}"),
        }
    }
}

/// The same key of another certificate. The last good pair is kept, and the key is in the log.
#[test]
fn s26_by_hand_a_warning_that_tells_what_was_read_logs_the_key() {
    let ca = Ca::new("CA");
    let (served, stranger) = (ca.issue("localhost"), ca.issue("stranger"));
    let files = AgentFiles::new(&served).unwrap();
    static WARNINGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let logged = || String::from_utf8(WARNINGS.lock().unwrap().clone()).unwrap();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log(&WARNINGS)).finish();
    tracing::subscriber::with_default(subscriber, || {
        let certified = TellsWhatItRead::read(files.path()).unwrap();
        let mut by_hand = TellsWhatItRead { dir: files.path().to_owned(), certified };
        by_hand.poll();
        assert_eq!(logged(), "", "a pair that belongs together is not told");
        let parts =
            [("ca.crt", served.root_pem()), ("tls.crt", served.chain_pem()), ("tls.key", stranger.key_pem())];
        files.render(parts).unwrap();
        by_hand.poll();
        assert_eq!(by_hand.certified.cert[0], served.leaf_der());
    });
    let logged = logged();
    assert!(logged.contains("WARN") && logged.contains("KeyMismatch"), "it is told for another reason");
    assert!(leaked(&logged, &stranger).is_some(), "the key that was read is told");
    assert_eq!(leaked(&logged, &served), None, "and no other one");
}

/// A piece of the secret of a P-256 key that stands in this text, by one of the ways in which bytes are shown.
fn leaked(shown: &str, identity: &Issued) -> Option<String> {
    let der = identity.key_der();
    let der = der.secret_der();
    // ECPrivateKey (RFC 5915): an OCTET STRING of 32 bytes.
    let at = der.windows(2).rposition(|head| head == [0x04, 0x20]).unwrap() + 2;
    let pem = identity.key_pem();
    // Its base64 lines, but for what every such key begins with.
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).skip(1).map(str::to_owned);
    let pieces = der[at..at + 32].chunks(8).flat_map(|piece| {
        let (decimal, spaced) = (format!("{piece:?}"), format!("{piece:02x?}"));
        [hex(piece), decimal, spaced].map(|piece| piece.trim_matches(['[', ']']).to_owned())
    });
    let shown = shown.to_lowercase();
    lines.chain(pieces).find(|piece| shown.contains(&piece.to_lowercase()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A machine that has no watch left.
#[derive(Debug)]
struct NoneLeft;

impl Watches for NoneLeft {
    fn watch(&self, _: &Path, _: Sink) -> Result<Watch, WatchError> {
        Err(WatchError::Exhausted("raise fs.inotify.max_user_watches".to_owned()))
    }
}

/// Files on such a machine.
struct Unwatched(Files);

impl Source for Unwatched {
    fn origin(&self) -> Origin {
        self.0.origin()
    }
    fn look(&mut self, now: Now) -> Result<Look, Error> {
        self.0.look(now)
    }
    fn read(&mut self) -> Result<Parts, Error> {
        self.0.read()
    }
    fn arm(&mut self, alarm: &Alarm) -> Armed {
        self.0.arm(&Alarm::new(alarm.wake().clone()).with_watches(Arc::new(NoneLeft)))
    }
}

#[tokio::test]
async fn s27_a_client_without_a_watch_left_goes_on_polling() {
    let ca = Ca::new("CA");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&ca])).await;
    let files = Files::kubernetes(dir.path()).detect(detect::Notify::new());
    let mut policy = Policy::every(Duration::from_millis(50));
    // With a watch it would look this seldom.
    policy.safety = Duration::from_secs(3600);
    let client = Client::builder().source(Unwatched(files)).policy(policy).no_proxy().build().await.unwrap();
    until("it is told", || client.status().degraded.is_some_and(|why| why.contains("watch"))).await;
    assert!(!client.status().watching);
    for _ in 0..3 {
        let (identity, mut generations) = (ca.issue("client"), client.reloader().watch());
        dir.swap(&identity).unwrap();
        soon(generations.changed()).await.unwrap();
        client.get(server.url("/")).send().await.unwrap();
        assert_eq!(server.last().client, Some(identity.leaf_der()));
    }
}

/// A proxy that speaks TLS, and asks for a certificate without demanding one.
struct AskingProxy {
    address: SocketAddr,
    /// What was shown, at each `CONNECT`.
    shown: Arc<Mutex<Vec<Option<CertificateDer<'static>>>>>,
}

impl AskingProxy {
    async fn start(ca: &Ca) -> Self {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots([ca]), provider());
        let identity = ca.issue("localhost");
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(ALL_VERSIONS)
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(identity.chain_der(), identity.key_der())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&shown);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut client = acceptor.accept(stream).await?;
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(client.read_u8().await?);
                    }
                    let certificate = client.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    seen.lock().unwrap().push(certificate.cloned());
                    let head = String::from_utf8_lossy(&head);
                    let port = head.split([' ', ':']).nth(2).and_then(|port| port.parse::<u16>().ok());
                    let mut server =
                        TcpStream::connect(("127.0.0.1", port.expect("CONNECT host:port"))).await?;
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, shown }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn shown(&self) -> Vec<Option<CertificateDer<'static>>> {
        self.shown.lock().unwrap().clone()
    }
}

/// The other half, a bad host and a good one: `crates/client/tests/reactive.rs`.
#[tokio::test]
async fn s31_the_identity_is_not_handed_to_an_https_proxy_unasked() {
    let ca = Ca::new("CA");
    let identity = ca.issue("client");
    let dir = KubeletDir::new(&identity).unwrap();
    let leaf = ca.issue("localhost");
    let (open, closed) =
        (Server::start(Tls::of(&leaf)).await, Server::start(Tls::of(&leaf).clients(&[&ca])).await);
    let proxy = AskingProxy::start(&ca).await;
    let with =
        || Client::builder().files(Files::kubernetes(dir.path())).proxy(Proxy::all(&proxy.url()).unwrap());

    let error = with().build().await.unwrap_err().to_string();
    assert!(error.contains("Builder::identity_to_proxy"), "{error}");
    assert_eq!(proxy.shown(), []);
    // Without an identity there is nothing to show, and the proxy is used.
    let trust = Client::builder().root_certificate(dir.ca_path()).proxy(Proxy::all(&proxy.url()).unwrap());
    trust.build().await.unwrap().get(open.url("/")).send().await.unwrap();
    assert_eq!(proxy.shown(), [None]);
    // Who wants it says so.
    let asked = with().identity_to_proxy(true).build().await.unwrap();
    asked.get(closed.url("/")).send().await.unwrap();
    assert_eq!(closed.last().client, Some(identity.leaf_der()));
    assert_eq!(proxy.shown()[1..], [Some(identity.leaf_der())]);
}

#[tokio::test]
async fn s31_by_hand_the_proxy_gets_the_identity() {
    let ca = Ca::new("CA");
    let identity = ca.issue("client");
    let dir = KubeletDir::new(&identity).unwrap();
    let leaf = ca.issue("localhost");
    let (server, proxy) =
        (Server::start(Tls::of(&leaf).clients(&[&ca])).await, AskingProxy::start(&ca).await);
    let naive = Naive::new(dir.ca_path(), Some((dir.cert_path(), dir.key_path())), ALL_VERSIONS).unwrap();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured((*naive.config()).clone())
        .proxy(reqwest::Proxy::all(proxy.url()).unwrap())
        .build()
        .unwrap();
    client.get(server.url("/")).send().await.unwrap();
    assert_eq!(proxy.shown(), [Some(identity.leaf_der())], "nobody asked for that");
}

/// Whether a server of this CA is accepted by a full handshake.
async fn accepts(subject: &impl Subject, ca: &Ca) -> bool {
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    subject.get(server.url("/")).await.is_ok()
}
