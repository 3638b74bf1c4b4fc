//! What a client resumes after its trust was withdrawn: the table of the design, one test a row, TLS 1.2 and 1.3.
//!
//! The first rows are the negative control: a verifier and a resolver that change inside one config, as people write
//! them by hand. They must accept what was withdrawn; if they ever do not, rustls has changed, and the reason for a
//! fresh config per generation with it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use certsource_client::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use certsource_client::rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue, WebPkiServerVerifier,
};
use certsource_client::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use certsource_client::rustls::sign::{CertifiedKey, SingleCertAndKey};
use certsource_client::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, SignatureScheme,
    SupportedProtocolVersion, version::TLS13,
};
use certsource_testkit::{Ca, Issued, KubeletDir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use common::{Gate, Http, Server, TLS, Tls, client, provider, roots, soon, until};

/// A verifier whose roots change inside.
#[derive(Debug)]
struct ByHandVerifier(Mutex<Arc<WebPkiServerVerifier>>);

impl ByHandVerifier {
    fn now(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

impl ServerCertVerifier for ByHandVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.now().verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

/// A resolver whose identity changes inside.
#[derive(Debug)]
struct ByHandResolver(Mutex<Arc<CertifiedKey>>);

impl ResolvesClientCert for ByHandResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A session store that can be emptied.
#[derive(Debug)]
struct Emptied(Mutex<Arc<ClientSessionMemoryCache>>);

impl Emptied {
    fn new() -> Self {
        Self(Mutex::new(Arc::new(ClientSessionMemoryCache::new(32))))
    }

    fn empty(&self) {
        *self.0.lock().unwrap() = Arc::new(ClientSessionMemoryCache::new(32));
    }

    fn now(&self) -> Arc<ClientSessionMemoryCache> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

impl ClientSessionStore for Emptied {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.now().set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.now().kx_hint(name)
    }
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.now().set_tls12_session(name, value);
    }
    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.now().tls12_session(name)
    }
    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.now().remove_tls12_session(name);
    }
    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.now().insert_tls13_ticket(name, value);
    }
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.now().take_tls13_ticket(name)
    }
}

fn verifier(ca: &Ca) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(roots([ca]), provider()).build().unwrap()
}

fn certified(identity: &Issued) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::from_der(identity.chain_der(), identity.key_der(), &provider()).unwrap())
}

/// A server of CA 1, and a client by hand whose trust and identity are swapped for CA 2's inside one config.
struct ByHand {
    kept: Ca,
    old: Issued,
    new: Issued,
    server: Server,
    verifier: Arc<ByHandVerifier>,
    resolver: Arc<ByHandResolver>,
    config: ClientConfig,
}

impl ByHand {
    async fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (withdrawn, kept) = (Ca::new("withdrawn"), Ca::new("kept"));
        let (old, new) = (withdrawn.issue("client"), kept.issue("client"));
        let leaf = withdrawn.issue("localhost");
        let clients = [&withdrawn, &kept];
        let tls = Tls::of(&leaf).clients(&clients).http(Http::One);
        let server = Server::start(tls.versions(&[version])).await;
        let verifier = Arc::new(ByHandVerifier(Mutex::new(verifier(&withdrawn))));
        let resolver = Arc::new(ByHandResolver(Mutex::new(certified(&old))));
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(resolver.clone());
        Self { kept, old, new, server, verifier, resolver, config }
    }

    fn swap_inside(&self) {
        *self.verifier.0.lock().unwrap() = verifier(&self.kept);
        *self.resolver.0.lock().unwrap() = certified(&self.new);
    }

    async fn connect(&self, config: &ClientConfig) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        TlsConnector::from(Arc::new(config.clone())).connect("localhost".try_into().unwrap(), stream).await
    }

    /// One request on a connection of its own: whether it resumed. Reads the answer, and the tickets with it.
    async fn request(&self, config: &ClientConfig) -> Result<bool, std::io::Error> {
        let mut stream = self.connect(config).await?;
        exchange(&mut stream).await;
        Ok(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    async fn assert_refused(&self, config: &ClientConfig) {
        let error = self.connect(config).await.unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref::<Error>();
        assert_eq!(error, Some(&Error::InvalidCertificate(CertificateError::UnknownIssuer)));
    }
}

async fn exchange(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
}

#[tokio::test]
async fn a_swap_inside_one_config_is_bypassed_by_resumption() {
    for version in TLS {
        let by_hand = ByHand::new(version).await;
        assert!(!by_hand.request(&by_hand.config).await.unwrap());
        by_hand.swap_inside();
        for _ in 0..3 {
            let resumed = by_hand.request(&by_hand.config).await;
            assert!(resumed.unwrap(), "the withdrawn CA was accepted, again and again");
            assert_eq!(by_hand.server.last().client, Some(by_hand.old.leaf_der()), "with the old identity");
        }
        // It is the resumption: a config without a session refuses.
        let mut fresh = by_hand.config.clone();
        fresh.resumption = Resumption::in_memory_sessions(8);
        by_hand.assert_refused(&fresh).await;
    }
}

#[tokio::test]
async fn emptying_the_store_loses_to_a_late_ticket() {
    let by_hand = ByHand::new(&TLS13).await;
    let store = Arc::new(Emptied::new());
    let mut config = by_hand.config.clone();
    config.resumption = Resumption::store(store.clone());
    // The server's tickets are on their way; nobody has read them yet.
    let mut open = by_hand.connect(&config).await.unwrap();
    by_hand.swap_inside();
    store.empty();
    by_hand.assert_refused(&config).await;
    exchange(&mut open).await;
    assert!(by_hand.request(&config).await.unwrap(), "the late ticket resumed");
}

#[tokio::test]
async fn a_new_store_refuses() {
    for version in TLS {
        let by_hand = ByHand::new(version).await;
        by_hand.request(&by_hand.config).await.unwrap();
        by_hand.swap_inside();
        let mut config = by_hand.config.clone();
        config.resumption = Resumption::default();
        by_hand.assert_refused(&config).await;
    }
}

#[tokio::test]
async fn a_fresh_verifier_and_resolver_refuse_with_the_same_store() {
    for version in TLS {
        let by_hand = ByHand::new(version).await;
        by_hand.request(&by_hand.config).await.unwrap();
        assert!(by_hand.request(&by_hand.config).await.unwrap(), "there is a session to resume");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier(&by_hand.kept))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(&by_hand.new))));
        config.resumption = by_hand.config.resumption.clone();
        by_hand.assert_refused(&config).await;
    }
}

#[tokio::test]
async fn without_resumption_a_swap_inside_works() {
    for version in TLS {
        let mut by_hand = ByHand::new(version).await;
        by_hand.config.resumption = Resumption::disabled();
        by_hand.request(&by_hand.config).await.unwrap();
        by_hand.swap_inside();
        by_hand.assert_refused(&by_hand.config).await;
    }
}

/// Ours: resumed within a generation, refused after.
#[tokio::test]
async fn our_client_refuses_what_was_withdrawn() {
    for version in TLS {
        let by_hand = ByHand::new(version).await;
        let dir = KubeletDir::new(&by_hand.old).unwrap();
        let client =
            common::builder(dir.path()).reqwest(|b| b.pool_max_idle_per_host(0)).build().await.unwrap();
        for resumed in [false, true, true] {
            client.get(by_hand.server.url("/")).send().await.unwrap().bytes().await.unwrap();
            assert_eq!(by_hand.server.last().is_resumed, resumed);
        }
        dir.swap(&by_hand.new).unwrap();
        client.reload().await.unwrap();
        let seen = by_hand.server.seen().len();
        for _ in 0..100 {
            let error = client.get(by_hand.server.url("/")).send().await.unwrap_err();
            assert!(error.is_connect(), "{error:?}");
        }
        assert_eq!(by_hand.server.seen().len(), seen, "no request got through");
    }
}

/// The identity alone is rotated: the old one is never resumed either.
#[tokio::test]
async fn our_client_never_resumes_an_old_identity() {
    for version in TLS {
        let ca = Ca::new("ca");
        let leaf = ca.issue("localhost");
        let clients = [&ca];
        let tls = Tls::of(&leaf).clients(&clients).http(Http::One);
        let server = Server::start(tls.versions(&[version])).await;
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        let client = client(&dir).await;
        for _ in 0..5 {
            let identity = ca.issue("client");
            dir.swap(&identity).unwrap();
            client.reload().await.unwrap();
            for _ in 0..3 {
                client.get(server.url("/")).send().await.unwrap().bytes().await.unwrap();
                assert_eq!(server.last().client, Some(identity.leaf_der()));
            }
        }
    }
}

/// A relay in front of a server. What the server says on the first connection after the handshake, its tickets first,
/// is held back until the gate opens.
async fn relay(to: SocketAddr, gate: Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((client, _)) = listener.accept().await {
            let gate = std::mem::replace(&mut is_first, false).then(|| gate.clone());
            let Ok(server) = TcpStream::connect(to).await else { return };
            tokio::spawn(carry(client, server, gate));
        }
    });
    address
}

async fn carry(client: TcpStream, server: TcpStream, gate: Option<Gate>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (has_answered, is_done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (answered, done) = (Arc::clone(&has_answered), Arc::clone(&is_done));
    let up = async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            // The client goes on when it has read all of the server's handshake; six bytes are a lone
            // change_cipher_spec (RFC 8446, appendix D.4).
            if answered.load(Ordering::SeqCst) && count > 6 {
                done.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let down = async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if let (true, Some(gate)) = (is_done.load(Ordering::SeqCst), &gate) {
                gate.passed().await;
            }
            has_answered.store(true, Ordering::SeqCst);
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(up);
    down.await;
}

/// The late ticket: an old connection is open, its ticket is read only after the rotation. It goes to the store of its
/// own generation, so nobody resumes it: the next connect is a full handshake, and refused if the CA was withdrawn.
#[tokio::test]
async fn our_client_never_uses_a_late_ticket() {
    for withdraws in [true, false] {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let (leaf, first) = (old.issue("localhost"), old.issue("client"));
        let second = if withdraws { new.issue("client") } else { old.issue("client") };
        let clients = [&old, &new];
        let tls = Tls::of(&leaf).clients(&clients).http(Http::One);
        let server = Server::start(tls.versions(&[&TLS13])).await;
        let dir = KubeletDir::new(&first).unwrap();
        let client =
            common::builder(dir.path()).reqwest(|b| b.pool_max_idle_per_host(0)).build().await.unwrap();
        // The control is a plain client: its ticket is as late, and it resumes.
        let (plain, control) = (client.snapshot().unwrap(), Gate::new());
        let gate = Gate::new();
        let urls = [&gate, &control].map(|gate| relay(server.address(), gate.clone()));
        let [ours, theirs] =
            urls.map(|address| async { format!("https://localhost:{}/", address.await.port()) });
        let (ours, theirs) = (ours.await, theirs.await);
        let waits = [tokio::spawn(client.get(&ours).send()), tokio::spawn(plain.get(&theirs).send())];
        until("both connections have their request", || server.seen().len() == 2).await;

        dir.swap(&second).unwrap();
        soon(client.reload()).await.unwrap();
        gate.open();
        control.open();
        for wait in waits {
            soon(wait).await.unwrap().unwrap().bytes().await.unwrap();
        }
        server.forget();
        plain.get(&theirs).send().await.unwrap();
        assert!(server.last().is_resumed, "the control: a ticket came late, and it was one to resume by");
        server.forget();
        for _ in 0..5 {
            let sent = soon(client.get(&ours).send()).await;
            if withdraws {
                let error = sent.unwrap_err();
                assert!(error.is_connect() && format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
                assert!(server.seen().is_empty());
            } else {
                sent.unwrap();
                let last = server.forget().pop().unwrap();
                assert_eq!((last.client, last.is_resumed), (Some(second.leaf_der()), false));
                break;
            }
        }
    }
}
