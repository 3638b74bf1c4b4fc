//! The probe: a candidate that a real server would not talk to is not published; and it never holds back what it must
//! not.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use certsource_reload::certsource::machine::{Candidate, Verdict};
use certsource_reload::certsource::parts::Parts;
use certsource_reload::certsource::{Files, Material, Origin};
use certsource_reload::{EventKind, Gate, Hub, Reason, Reloader};
use certsource_rustls::rustls::{
    self, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    server::WebPkiClientVerifier,
};
use certsource_rustls::{ClientTls, Probe, default_provider};
use certsource_testkit::{Ca, Issued, KubeletDir};

/// Nobody is given this port by port 0. One that was free a moment ago may be another test's now.
const NOBODY: ([u8; 4], u16) = ([127, 0, 0, 1], 1);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A server that shakes hands, one connection at a time, for as long as the test runs.
fn server(leaf: &Issued, clients: Option<&Ca>, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let provider = default_provider().unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let builder = match clients {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.root_der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let config = Arc::new(builder.with_single_cert(leaf.chain_der(), leaf.key_der()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut socket).is_err() {
                    break;
                }
            }
            while tls.wants_write() && tls.write_tls(&mut socket).is_ok() {}
            // Until the client goes away: what a server that is talked to does.
            let _ = socket.read(&mut [0; 64]);
        }
    });
    address
}

fn material(dir: &KubeletDir) -> Arc<Material> {
    Reloader::builder(Files::kubernetes(dir.path()))
        .hub(Hub::new())
        .start()
        .unwrap()
        .current()
        .material()
        .clone()
}

fn trust_only(ca: &Ca) -> Arc<Material> {
    Parts::new().with_trust(&Origin::named("test"), [ca.root_der()]).assemble().whole.unwrap()
}

fn probe(at: SocketAddr) -> Probe {
    Probe::new(ClientTls::new().unwrap(), "localhost", at.port()).unwrap().timeout(Duration::from_secs(10))
}

#[test]
fn it_tells_who_refuses_whom() {
    for version in VERSIONS {
        let (ca, other) = (Ca::new("ca"), Ca::new("other"));
        let leaf = ca.issue("localhost");
        let (ours, strange) = (ca.issue("client"), other.issue("client"));
        let at = server(&leaf, Some(&ca), version);
        let (good, foreign) = (KubeletDir::new(&ours).unwrap(), KubeletDir::new(&ours).unwrap());
        probe(at).handshake(&material(&good)).unwrap();
        // We do not know the server.
        let error = probe(at).handshake(&trust_only(&other)).unwrap_err();
        assert_eq!(error.reason(), Reason::Rejected, "{error}");
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        // The server does not know us: on TLS 1.3 it says so after the handshake.
        foreign.swap_all(ca.certificate_pem(), &strange).unwrap();
        let error = probe(at).handshake(&material(&foreign)).unwrap_err();
        assert_eq!(error.reason(), Reason::Rejected, "{version:?}: {error}");
        // It asks for a certificate, and we have none.
        let error = probe(at).handshake(&trust_only(&ca)).unwrap_err();
        assert_eq!(error.reason(), Reason::Rejected, "{version:?}: {error}");
        // It asks for none.
        probe(server(&leaf, None, version)).handshake(&trust_only(&ca)).unwrap();
    }
}

#[test]
fn it_takes_no_longer_than_it_may() {
    let ca = Ca::new("ca");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let limit = Duration::from_millis(300);
    let begun = Instant::now();
    let error = probe(silent.local_addr().unwrap()).timeout(limit).handshake(&trust_only(&ca)).unwrap_err();
    assert_eq!(error.reason(), Reason::TimedOut, "{error}");
    assert!(begun.elapsed() >= limit && begun.elapsed() < Duration::from_secs(10));
    assert_eq!(probe(NOBODY.into()).handshake(&trust_only(&ca)).unwrap_err().reason(), Reason::Io);
    assert!(Probe::new(ClientTls::new().unwrap(), "no host", 1).is_err());
    Probe::new(ClientTls::new().unwrap(), "[::1]", 1).unwrap();
}

/// A candidate is tried; a withdrawal is published at once, although the server that would be asked hangs.
#[test]
fn it_guards_what_is_served_and_no_withdrawal() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let both = ca.certificate_pem() + &other.certificate_pem();
    dir.swap_all(both.clone(), ca.issue("client")).unwrap();
    let at = server(&ca.issue("localhost"), Some(&ca), VERSIONS[0]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = Hub::new();
    let probed = |at| {
        let builder = Reloader::builder(Files::kubernetes(dir.path())).gate(probe(at)).hub(hub.clone());
        // Also the first load, which is not asked about.
        builder.start().unwrap()
    };
    let reloader = probed(at);
    let mut events = reloader.subscribe();
    let identity = other.issue("client");
    dir.swap_all(both.clone(), &identity).unwrap();
    let error = reloader.reload_blocking().unwrap_err();
    assert!(error.to_string().contains("the probe of localhost"), "{error}");
    assert_eq!(reloader.current().number(), 1);
    let mut told = std::iter::from_fn(|| events.try_next().map(Result::unwrap));
    assert!(told.any(|event| matches!(event.kind, EventKind::Rejected(_))));
    let good = ca.issue("client");
    dir.swap_all(both, &good).unwrap();
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);

    let reloader = probed(silent.local_addr().unwrap());
    dir.swap_all(ca.certificate_pem(), &good).unwrap();
    let begun = Instant::now();
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    assert!(begun.elapsed() < Duration::from_secs(8), "the silent server was not asked");
}

/// A server that is down is asked again by itself.
#[test]
fn what_failed_is_asked_again() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let reloader = Reloader::builder(Files::kubernetes(dir.path())).gate(Recorded(probe(NOBODY.into())));
    let reloader = reloader.hub(Hub::new());
    let reloader = reloader.start().unwrap();
    dir.swap(other.issue("client")).unwrap();
    reloader.reload_blocking().unwrap_err();
}

struct Recorded(Probe);

impl Gate for Recorded {
    fn judge(&self, candidate: &Candidate) -> Verdict {
        let now = Instant::now();
        let verdict = self.0.judge(candidate);
        match &verdict {
            Verdict::Accept => assert!(candidate.current.is_none(), "only the first load is not asked about"),
            Verdict::AskAgain { at, .. } => assert!(*at > now && *at < now + Duration::from_secs(60)),
            other => panic!("{other:?}"),
        }
        verdict
    }
}
