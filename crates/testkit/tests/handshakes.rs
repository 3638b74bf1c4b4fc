//! What is minted does its work in TLS: rustls and its verifiers are the judge, in memory, without sockets.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource_testkit::{Ca, Crl, Issued, KeyKind};
use pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _};
use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

fn roots(der: CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der).expect("a trust anchor");
    Arc::new(roots)
}

/// Mutual TLS between two identities that both trust `root`; the server's name is checked as localhost.
fn handshake(
    root: &CertificateDer<'static>,
    client: &Issued,
    server: &Issued,
    crl: Option<&Crl>,
) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crls = crl.map(Crl::der);
    let of_servers = WebPkiServerVerifier::builder_with_provider(roots(root.clone()), Arc::clone(&provider))
        .with_crls(crls.clone())
        .only_check_end_entity_revocation()
        .build()
        .expect("a verifier of servers");
    let of_clients = WebPkiClientVerifier::builder_with_provider(roots(root.clone()), Arc::clone(&provider))
        .with_crls(crls)
        .only_check_end_entity_revocation()
        .build()
        .expect("a verifier of clients");
    let client_config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_webpki_verifier(of_servers)
        .with_client_auth_cert(client.chain_der(), client.key_der())
        .map_err(|error| error.to_string())?;
    let server_config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(of_clients)
        .with_single_cert(server.chain_der(), server.key_der())
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client_config), name).expect("a client");
    let mut server = ServerConnection::new(Arc::new(server_config)).expect("a server");

    while client.is_handshaking() || server.is_handshaking() {
        let to_server = transfer(|out| client.write_tls(out), |mut inp| server.read_tls(&mut inp));
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let to_client = transfer(|out| server.write_tls(out), |mut inp| client.read_tls(&mut inp));
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        assert!(to_server + to_client > 0, "the handshake stands still");
    }
    Ok(())
}

fn transfer(
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
    mut read: impl FnMut(&[u8]) -> io::Result<usize>,
) -> usize {
    let mut buffer = Vec::new();
    write(&mut buffer).expect("memory takes it");
    let mut rest = &buffer[..];
    while !rest.is_empty() {
        let taken = read(rest).expect("memory gives it");
        rest = &rest[taken..];
    }
    buffer.len()
}

#[track_caller]
fn assert_says(error: &str, expected: &str) {
    assert!(error.starts_with(expected), "{error:?} should begin with {expected:?}");
}

/// The error of a handshake that must fail.
fn refused(root: &Ca, client: &Issued, server: &Issued, crl: Option<&Crl>) -> String {
    match handshake(&root.root_der(), client, server, crl) {
        Ok(()) => panic!("{client:?} and {server:?} were accepted"),
        Err(error) => error,
    }
}

#[test]
fn both_sides_accept_what_was_issued() {
    let root = Ca::new("root");
    let deep = root.intermediate("middle").intermediate("issuing");
    for ca in [&root, &deep] {
        for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519] {
            let issued = ca.leaf("localhost").key(kind).issue();
            handshake(&root.certificate_der(), &issued, &issued, None).unwrap();
        }
        let (client, server) =
            (ca.leaf("a client").client_only().issue(), ca.leaf("localhost").server_only().issue());
        handshake(&root.certificate_der(), &client, &server, None).unwrap();
    }
}

#[test]
fn what_is_wrong_is_refused_for_that_reason() {
    let ca = Ca::new("root");
    let good = ca.issue("localhost");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);

    let expired = ca.leaf("localhost").not_after(now - hour).issue();
    assert_says(
        &refused(&ca, &good, &expired, None),
        "client: invalid peer certificate: certificate expired",
    );
    assert_says(
        &refused(&ca, &expired, &good, None),
        "server: invalid peer certificate: certificate expired",
    );
    let early = ca.leaf("localhost").not_before(now + hour).issue();
    assert_says(
        &refused(&ca, &good, &early, None),
        "client: invalid peer certificate: certificate not valid yet",
    );
    let client_only = ca.leaf("localhost").client_only().issue();
    assert_says(&refused(&ca, &good, &client_only, None), "client: invalid peer certificate");
    let server_only = ca.leaf("localhost").server_only().issue();
    assert_says(&refused(&ca, &server_only, &good, None), "server: invalid peer certificate");
    let named = ca.issue("example.com");
    assert_says(
        &refused(&ca, &good, &named, None),
        "client: invalid peer certificate: certificate not valid for name",
    );
    let stranger = Ca::new("root").issue("localhost"); // the same name, another key
    assert_says(&refused(&ca, &good, &stranger, None), "client: invalid peer certificate");
    assert_says(&refused(&ca, &stranger, &good, None), "server: invalid peer certificate");
}

#[test]
fn a_revoked_certificate_is_refused() {
    let ca = Ca::new("root");
    let (good, bad) = (ca.issue("localhost"), ca.issue("localhost"));
    let before = ca.crl();
    ca.revoke(&bad);
    let after = ca.crl();
    handshake(&ca.root_der(), &bad, &good, Some(&before)).unwrap();
    handshake(&ca.root_der(), &good, &good, Some(&after)).unwrap();
    assert_says(&refused(&ca, &bad, &good, Some(&after)), "server: invalid peer certificate: Revoked");
    assert_says(&refused(&ca, &good, &bad, Some(&after)), "client: invalid peer certificate: Revoked");
    ca.unrevoke(&bad);
    handshake(&ca.root_der(), &bad, &good, Some(&ca.crl())).unwrap();
}

#[test]
fn a_renewed_authority_is_the_same_one() {
    let old = Ca::builder("root").not_after(SystemTime::now() - Duration::from_secs(1)).build();
    let issued = old.issue("localhost");
    let new = old.renew().build();
    assert_ne!(old.certificate_der(), new.certificate_der());
    handshake(&new.certificate_der(), &issued, &new.issue("localhost"), None).unwrap();
    new.revoke(&issued);
    assert_eq!(old.crl().number(), 1, "the list is shared");
}

#[test]
fn a_cross_signed_authority_leads_to_both_roots() {
    let (old, new) = (Ca::new("old root"), Ca::new("new root"));
    let cross = new.renew().signed_by(&old).build();
    let issued = cross.issue("localhost");
    for root in [&old, &new] {
        handshake(&root.certificate_der(), &issued, &issued, None).unwrap();
    }
}

/// Every encoding of a key is the leaf's key.
#[test]
fn encodings_of_a_key() {
    let ca = Ca::new("root");
    let fits = |issued: &Issued, key: PrivateKeyDer<'static>| {
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        CertifiedKey::new(issued.chain_der(), key).keys_match().unwrap();
    };
    for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384] {
        let issued = ca.leaf("x").key(kind).issue();
        fits(&issued, issued.key_der());
        fits(&issued, PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap());
        let sec1 = PrivateKeyDer::from_pem_slice(issued.key_sec1_pem().unwrap().as_bytes()).unwrap();
        assert!(matches!(sec1, PrivateKeyDer::Sec1(_)));
        fits(&issued, sec1);
    }
    let ed25519 = ca.leaf("x").key(KeyKind::Ed25519).issue();
    fits(&ed25519, PrivatePkcs8KeyDer::from_pem_slice(ed25519.key_pem().as_bytes()).unwrap().into());
    assert_eq!(ed25519.key_sec1_pem(), None);
    // RFC 8410 section 7 has this prefix and 32 bytes behind it. OpenSSL 3.0 reads nothing else.
    let prefix =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let der = ed25519.key_der();
    assert!(der.secret_der().starts_with(&prefix) && der.secret_der().len() == 48);
    fits(&ed25519, der);
}

#[cfg(feature = "rsa")]
#[test]
fn rsa_keys() {
    let ca = Ca::builder("root").key(KeyKind::Rsa2048).build();
    let issued = ca.leaf("localhost").key(KeyKind::Rsa2048).issue();
    handshake(&ca.root_der(), &issued, &issued, None).unwrap();
    let pkcs1 = PrivateKeyDer::from_pem_slice(issued.key_pkcs1_pem().unwrap().as_bytes()).unwrap();
    assert!(matches!(pkcs1, PrivateKeyDer::Pkcs1(_)));
    let key = rustls::crypto::ring::sign::any_supported_type(&pkcs1).unwrap();
    CertifiedKey::new(issued.chain_der(), key).keys_match().unwrap();
    assert_eq!(issued.key_sec1_pem(), None);
    assert_eq!(ca.issue("x").key_pkcs1_pem(), None);
}
