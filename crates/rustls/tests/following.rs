//! The config that follows: what it keeps, and what it loses, each held by a test.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use certsource_reload::certsource::machine::Policy;
use certsource_reload::certsource::parts::Parts;
use certsource_reload::certsource::{KeyFormat, Origin, PrivateKey, Pusher, push};
use certsource_reload::{Hub, Reloader};
use certsource_rustls::rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use certsource_rustls::rustls::time_provider::TimeProvider;
use certsource_rustls::rustls::{
    self, CertificateError, ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use certsource_rustls::{ClientAuth, ClientTls, ServerTls};
use certsource_testkit::{Ca, Issued};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// What makes the parts again and again: keys are not cloned.
fn parts(cas: &[&Ca], identity: &Issued) -> impl Fn() -> Parts + Send + 'static {
    let anchors: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    let (chain, key) = (identity.chain_der(), identity.key_der());
    move || {
        let origin = Origin::named("test");
        let parts = Parts::new().with_identity(&origin, chain.clone(), private_key(&key));
        if anchors.is_empty() { parts } else { parts.with_trust(&origin, anchors.clone()) }
    }
}

fn private_key(key: &PrivateKeyDer<'_>) -> PrivateKey {
    let format = match key {
        PrivateKeyDer::Pkcs8(_) => KeyFormat::Pkcs8,
        PrivateKeyDer::Sec1(_) => KeyFormat::Sec1,
        _ => KeyFormat::Pkcs1,
    };
    PrivateKey::new(format, key.secret_der().to_vec().into())
}

fn push_to(pusher: &Pusher, cas: &[&Ca], identity: &Issued) {
    let parts = parts(cas, identity);
    pusher.push(move || Ok(parts()));
}

/// A source that is pushed to, and its reloader.
fn source(cas: &[&Ca], identity: &Issued) -> (Pusher, Reloader) {
    let (pusher, source) = push(Origin::named("test"));
    push_to(&pusher, cas, identity);
    let mut policy = Policy::default();
    policy.settle = Duration::from_millis(10);
    policy.settle_loss = Duration::from_millis(10);
    (pusher, Reloader::builder(source).policy(policy).hub(Hub::new()).start().unwrap())
}

/// A connection in memory.
struct Connection {
    client: ClientConnection,
    server: ServerConnection,
}

impl Connection {
    fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            client: ClientConnection::new(Arc::clone(client), name).unwrap(),
            server: ServerConnection::new(Arc::clone(server)).unwrap(),
        }
    }

    /// One flight each way.
    fn exchange(&mut self) -> Result<(), rustls::Error> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            self.server.read_tls(&mut wire).unwrap();
            self.server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Self, rustls::Error> {
        for _ in 0..6 {
            self.exchange()?;
        }
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
        Ok(self)
    }

    fn kind(&self) -> HandshakeKind {
        self.client.handshake_kind().unwrap()
    }

    fn shown(&self) -> &[u8] {
        &self.server.peer_certificates().unwrap()[0]
    }
}

/// A server of `ca` that asks clients of `clients` for certificates.
fn server(ca: &Ca, clients: &[&Ca], version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let tls = ServerTls::new().unwrap().versions(&[version]).client_auth(ClientAuth::Required);
    Arc::new(tls.config(&parts(clients, &ca.issue("localhost"))().assemble().whole.unwrap()).unwrap())
}

fn tls(version: &'static SupportedProtocolVersion) -> ClientTls {
    ClientTls::new().unwrap().versions(&[version])
}

/// Kept: every new connection trusts and shows what is current, whatever tickets the server gave out.
#[test]
fn new_connections_use_what_is_current() {
    for version in VERSIONS {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let (first, second) = (old.issue("client"), new.issue("client"));
        let (pusher, reloader) = source(&[&old], &first);
        let config = Arc::new(tls(version).following(&reloader).unwrap());
        let both = [&old, &new];
        let (of_old, of_new) = (server(&old, &both, version), server(&new, &both, version));
        assert_eq!(Connection::new(&config, &of_old).finish().unwrap().shown(), &first.leaf_der()[..]);
        push_to(&pusher, &[&new], &second);
        reloader.reload_blocking().unwrap();
        for _ in 0..3 {
            let error = Connection::new(&config, &of_old).finish().err();
            let refused = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
            assert_eq!(error, Some(refused), "what was withdrawn is refused");
            let connection = Connection::new(&config, &of_new).finish().unwrap();
            assert_eq!(connection.shown(), &second.leaf_der()[..]);
        }
    }
}

/// Lost: resumption. The control is a config per generation, which has it.
#[test]
fn nothing_is_resumed() {
    for version in VERSIONS {
        let ca = Ca::new("ca");
        let (_pusher, reloader) = source(&[&ca], &ca.issue("client"));
        let server = server(&ca, &[&ca], version);
        let following = Arc::new(tls(version).following(&reloader).unwrap());
        let fresh = Arc::new(tls(version).config(reloader.current().material()).unwrap());
        for (config, second) in [(following, HandshakeKind::Full), (fresh, HandshakeKind::Resumed)] {
            assert_eq!(Connection::new(&config, &server).finish().unwrap().kind(), HandshakeKind::Full);
            assert_eq!(Connection::new(&config, &server).finish().unwrap().kind(), second, "{version:?}");
        }
    }
}

/// Lost: retirement. A connection that is open goes on under the certificates that it began with.
#[test]
fn open_connections_stay() {
    use std::io::{Read, Write};
    for version in VERSIONS {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let (pusher, reloader) = source(&[&old], &old.issue("client"));
        let config = Arc::new(tls(version).following(&reloader).unwrap());
        let mut open = Connection::new(&config, &server(&old, &[&old], version)).finish().unwrap();
        push_to(&pusher, &[&new], &new.issue("client"));
        reloader.reload_blocking().unwrap();
        open.client.writer().write_all(b"still here").unwrap();
        open.exchange().unwrap();
        let mut heard = [0; 10];
        open.server.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    }
}

/// Lost: one generation per handshake. The identity is read when it is asked for, trust when the server's certificate
/// has come; a rotation fits between the two.
#[test]
fn a_handshake_can_mix_two_generations() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (first, second) = (old.issue("client"), new.issue("client"));
    let mut server = ServerConfig::clone(&server(&new, &[&old, &new], &rustls::version::TLS13));
    server.max_fragment_size = Some(64);
    let server = Arc::new(server);
    let (pusher, reloader) = source(&[&old], &first);
    let config = Arc::new(tls(&rustls::version::TLS13).following(&reloader).unwrap());
    let mut connection = Connection::new(&config, &server);
    let mut wire = Vec::new();
    connection.client.write_tls(&mut wire).unwrap();
    connection.server.read_tls(&mut &wire[..]).unwrap();
    connection.server.process_new_packets().unwrap();
    let mut flight = Vec::new();
    while connection.server.wants_write() {
        connection.server.write_tls(&mut flight).unwrap();
    }
    // Amid the server's certificate: its question for ours came before it.
    let (before, after) = flight.split_at(flight.len() / 2);
    for part in [before, after] {
        let mut part = part;
        while !part.is_empty() {
            connection.client.read_tls(&mut part).unwrap();
        }
        connection.client.process_new_packets().unwrap();
        push_to(&pusher, &[&new], &second);
        reloader.reload_blocking().unwrap();
    }
    let connection = connection.finish().unwrap();
    assert_eq!(connection.shown(), &first.leaf_der()[..], "the old identity, under the new trust");
}

/// A generation that this config could not use is not published, so there is always one that it can.
#[test]
fn it_is_built_before_a_generation_is_published() {
    let ca = Ca::new("ca");
    let (pusher, reloader) = source(&[&ca], &ca.issue("client"));
    let config = Arc::new(tls(VERSIONS[0]).following(&reloader).unwrap());
    push_to(&pusher, &[], &ca.issue("client"));
    reloader.reload_blocking().unwrap_err();
    assert_eq!(reloader.current().number(), 1);
    Connection::new(&config, &server(&ca, &[&ca], VERSIONS[0])).finish().unwrap();
}

#[test]
fn it_asks_the_clock_that_was_given() {
    #[derive(Debug)]
    struct Late;
    impl TimeProvider for Late {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + 7200)))
        }
    }
    let ca = Ca::new("ca");
    let leaf = ca.leaf("localhost").valid_for(Duration::from_secs(3600)).issue();
    let (_pusher, reloader) = source(&[&ca], &ca.issue("client"));
    let material = parts(&[&ca], &leaf)().assemble().whole.unwrap();
    let server = Arc::new(ServerTls::new().unwrap().config(&material).unwrap());
    let tls = ClientTls::new().unwrap();
    let now = Arc::new(tls.following(&reloader).unwrap());
    assert!(Connection::new(&now, &server).finish().is_ok());
    let late = Arc::new(tls.time_provider(Arc::new(Late)).following(&reloader).unwrap());
    let error = Connection::new(&late, &server).finish().err().unwrap();
    assert!(
        matches!(error, rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
        "{error}"
    );
}
