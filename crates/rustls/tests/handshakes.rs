//! Handshakes in memory: what a fresh config per generation refuses, and what a swap inside one config lets through.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, RwLock};
use std::time::Duration;

use certsource_reload::Reason;
use certsource_reload::certsource::parts::Parts;
use certsource_reload::certsource::{KeyFormat, Material, Origin, PrivateKey};
use certsource_rustls::rustls::client::WebPkiServerVerifier;
use certsource_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use certsource_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use certsource_rustls::rustls::time_provider::TimeProvider;
use certsource_rustls::rustls::{
    self, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use certsource_rustls::{ClientAuth, ClientTls, ServerTls, TlsGate, default_provider};
use certsource_testkit::{Ca, Issued, KeyKind};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn key(issued: &Issued) -> PrivateKey {
    let format = match issued.key_der() {
        PrivateKeyDer::Pkcs8(_) => KeyFormat::Pkcs8,
        PrivateKeyDer::Sec1(_) => KeyFormat::Sec1,
        _ => KeyFormat::Pkcs1,
    };
    PrivateKey::new(format, issued.key_der().secret_der().to_vec().into())
}

fn material(cas: &[&Ca], identity: Option<&Issued>) -> Arc<Material> {
    let origin = Origin::named("test");
    let mut parts = Parts::new().with_trust(&origin, cas.iter().map(|ca| ca.certificate_der()));
    if let Some(identity) = identity {
        parts = parts.with_identity(&origin, identity.chain_der(), key(identity));
    }
    parts.assemble().whole.unwrap()
}

/// One connection in memory, a byte of data each way included, so that tickets are read.
fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<HandshakeKind, rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(client.handshake_kind().unwrap())
}

#[test]
fn a_fresh_config_refuses_what_was_withdrawn_and_a_swap_inside_one_does_not() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    for version in VERSIONS {
        let versions = [version];
        let server = ServerTls::new().unwrap().versions(&versions);
        let server = Arc::new(server.config(&material(&[&old], Some(&old.issue("localhost")))).unwrap());

        // Ours: one config per generation.
        let tls = ClientTls::new().unwrap().versions(&versions);
        let before = Arc::new(tls.config(&material(&[&old], None)).unwrap());
        assert_eq!(connect(&before, &server).unwrap(), HandshakeKind::Full);
        assert_eq!(connect(&before, &server).unwrap(), HandshakeKind::Resumed, "within a generation");
        let after = Arc::new(tls.config(&material(&[&new], None)).unwrap());
        for _ in 0..3 {
            let error = connect(&after, &server).unwrap_err();
            assert_eq!(error, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }

        // The control: the verifier is swapped inside one config. The withdrawn CA is accepted again and again.
        let inside = Arc::new(Swapping(RwLock::new(verifier(&old))));
        let mut by_hand = ClientConfig::builder_with_provider(default_provider().unwrap())
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(inside.clone())
            .with_no_client_auth();
        by_hand.enable_early_data = false;
        let by_hand = Arc::new(by_hand);
        assert_eq!(connect(&by_hand, &server).unwrap(), HandshakeKind::Full);
        *inside.0.write().unwrap() = verifier(&new);
        for _ in 0..3 {
            assert_eq!(
                connect(&by_hand, &server).unwrap(),
                HandshakeKind::Resumed,
                "rustls has begun to verify resumed sessions: docs and design rest on it not doing so"
            );
        }
    }
}

#[test]
fn a_new_server_config_forgets_sessions_of_a_withdrawn_client_ca() {
    let (ca, old, new) = (Ca::new("servers"), Ca::new("old clients"), Ca::new("new clients"));
    let (server_id, client_id) = (ca.issue("localhost"), old.issue("client"));
    for version in VERSIONS {
        let versions = [version];
        let tls = ServerTls::new().unwrap().versions(&versions).client_auth(ClientAuth::Required);
        let before = Arc::new(tls.config(&material(&[&old], Some(&server_id))).unwrap());
        let after = Arc::new(tls.config(&material(&[&new], Some(&server_id))).unwrap());
        let client = ClientTls::new().unwrap().versions(&versions);
        let client = Arc::new(client.config(&material(&[&ca], Some(&client_id))).unwrap());
        assert_eq!(connect(&client, &before).unwrap(), HandshakeKind::Full);
        assert_eq!(connect(&client, &before).unwrap(), HandshakeKind::Resumed);
        for _ in 0..3 {
            assert!(connect(&client, &after).is_err(), "{version:?}");
        }
        // Without a certificate: refused when one is required, served when it is optional.
        let nobody = ClientTls::new().unwrap().versions(&versions);
        let nobody = Arc::new(nobody.config(&material(&[&ca], None)).unwrap());
        assert!(connect(&nobody, &after).is_err());
        let optional = tls.clone().client_auth(ClientAuth::Optional);
        let optional = Arc::new(optional.config(&material(&[&new], Some(&server_id))).unwrap());
        assert!(connect(&nobody, &optional).is_ok());
    }
}

#[test]
fn resumption_can_be_switched_off() {
    let ca = Ca::new("ca");
    let server =
        Arc::new(ServerTls::new().unwrap().config(&material(&[&ca], Some(&ca.issue("localhost")))).unwrap());
    let client =
        Arc::new(ClientTls::new().unwrap().resumption(false).config(&material(&[&ca], None)).unwrap());
    for _ in 0..3 {
        assert_eq!(connect(&client, &server).unwrap(), HandshakeKind::Full);
    }
    let server = ServerTls::new().unwrap().resumption(false);
    let server = Arc::new(server.config(&material(&[&ca], Some(&ca.issue("localhost")))).unwrap());
    let client = Arc::new(ClientTls::new().unwrap().config(&material(&[&ca], None)).unwrap());
    for _ in 0..3 {
        assert_eq!(connect(&client, &server).unwrap(), HandshakeKind::Full);
    }
}

#[test]
fn a_revoked_server_is_refused_by_the_generation_that_holds_the_crl() {
    let ca = Ca::new("ca");
    let id = ca.issue("localhost");
    let server = Arc::new(ServerTls::new().unwrap().config(&material(&[&ca], Some(&id))).unwrap());
    let with_crl = || {
        let origin = Origin::named("test");
        let parts = Parts::new().with_trust(&origin, [ca.certificate_der()]);
        parts.with_crls(&origin, [ca.crl().der()]).assemble().whole.unwrap()
    };
    let tls = ClientTls::new().unwrap();
    assert!(connect(&Arc::new(tls.config(&with_crl()).unwrap()), &server).is_ok());
    ca.revoke(&id);
    let error = connect(&Arc::new(tls.config(&with_crl()).unwrap()), &server).unwrap_err();
    assert_eq!(error, rustls::Error::InvalidCertificate(CertificateError::Revoked));
}

/// A clock that stands still.
#[derive(Debug)]
struct At(Option<UnixTime>);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0
    }
}

#[test]
fn a_time_provider_says_what_has_expired() {
    let ca = Ca::new("ca");
    let id = ca.leaf("localhost").valid_for(Duration::from_secs(3600)).issue();
    let server = Arc::new(ServerTls::new().unwrap().config(&material(&[&ca], Some(&id))).unwrap());
    let trust = material(&[&ca], None);
    let connect_at = |time: Option<UnixTime>| {
        let tls = ClientTls::new().unwrap().time_provider(Arc::new(At(time)));
        connect(&Arc::new(tls.config(&trust).unwrap()), &server)
    };
    let now = UnixTime::now().as_secs();
    let at = |seconds| Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    connect_at(at(now)).unwrap();
    let early = connect_at(at(now - 366 * 86_400)).unwrap_err();
    assert!(
        matches!(early, rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })),
        "{early}"
    );
    let late = connect_at(at(now + 7200)).unwrap_err();
    assert!(
        matches!(late, rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
        "{late}"
    );
    // One that knows no time lets nobody in.
    assert_eq!(connect_at(None).unwrap_err(), rustls::Error::FailedToGetCurrentTime);
}

/// Clients are judged by the server's clock.
#[test]
fn a_time_provider_says_which_clients_have_expired() {
    let ca = Ca::new("ca");
    let id = ca.issue("localhost");
    let client = ca.leaf("client").valid_for(Duration::from_secs(3600)).issue();
    let connect_at = |time: Option<UnixTime>| {
        let server =
            ServerTls::new().unwrap().client_auth(ClientAuth::Required).time_provider(Arc::new(At(time)));
        let client = ClientTls::new().unwrap().config(&material(&[&ca], Some(&client))).unwrap();
        connect(&Arc::new(client), &Arc::new(server.config(&material(&[&ca], Some(&id))).unwrap()))
    };
    let now = UnixTime::now().as_secs();
    let at = |seconds| Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    connect_at(at(now)).unwrap();
    let late = connect_at(at(now + 7200)).unwrap_err();
    assert!(
        matches!(late, rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
        "{late}"
    );
    assert_eq!(connect_at(None).unwrap_err(), rustls::Error::FailedToGetCurrentTime);
}

#[test]
fn the_gate_tells_what_rustls_would_not_accept() {
    let gate = TlsGate::new().unwrap();
    let ca = Ca::new("ca");
    for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519] {
        let (a, b) = (ca.leaf("a").key(kind).issue(), ca.leaf("b").key(kind).issue());
        gate.check(&material(&[&ca], Some(&a))).unwrap();
        // A key of another certificate: known without a crypto library, or by the gate.
        let origin = Origin::named("test");
        let mixed = Parts::new().with_identity(&origin, a.chain_der(), key(&b)).assemble().whole;
        let error = mixed.and_then(|material| gate.check(&material)).unwrap_err();
        assert_eq!(error.reason(), Reason::KeyMismatch, "{kind:?}: {error}");
    }
    // A key that can not be loaded.
    let leaf = ca.issue("a");
    let broken = PrivateKey::new(KeyFormat::Pkcs8, b"no key at all".to_vec().into());
    let origin = Origin::named("test");
    let whole = Parts::new().with_identity(&origin, leaf.chain_der(), broken).assemble().whole;
    assert!(whole.and_then(|material| gate.check(&material)).is_err());
}

#[test]
fn what_is_missing_is_said() {
    let ca = Ca::new("ca");
    let only_trust = material(&[&ca], None);
    let error = ServerTls::new().unwrap().config(&only_trust).unwrap_err();
    assert_eq!(error.reason(), Reason::Empty);
    let origin = Origin::named("test");
    let leaf = ca.issue("a");
    let only_identity =
        Parts::new().with_identity(&origin, leaf.chain_der(), key(&leaf)).assemble().whole.unwrap();
    let error = ClientTls::new().unwrap().config(&only_identity).unwrap_err();
    assert_eq!(error.reason(), Reason::Empty, "never the system's roots");
    let required =
        ServerTls::new().unwrap().client_auth(ClientAuth::Required).config(&only_identity).unwrap_err();
    assert_eq!(required.reason(), Reason::Empty);
}

/// The verifier that people write by hand: it changes inside.
#[derive(Debug)]
struct Swapping(RwLock<Arc<WebPkiServerVerifier>>);

fn verifier(ca: &Ca) -> Arc<WebPkiServerVerifier> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der()).unwrap();
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), default_provider().unwrap()).build().unwrap()
}

impl ServerCertVerifier for Swapping {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.read().unwrap().verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.read().unwrap().verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.read().unwrap().verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.read().unwrap().supported_verify_schemes()
    }
}
