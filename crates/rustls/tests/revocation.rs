//! Revocation lists: what is refused by default, and by choice; and the tickets of a provider that was passed in.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource_reload::Reason;
use certsource_reload::certsource::parts::Parts;
use certsource_reload::certsource::{KeyFormat, Material, Origin, PrivateKey};
use certsource_rustls::rustls::pki_types::{CertificateRevocationListDer, PrivateKeyDer, ServerName};
use certsource_rustls::rustls::{
    self, CertificateError, ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
};
use certsource_rustls::{ClientAuth, ClientTls, CrlExpiry, Revocation, ServerTls, TlsGate, default_provider};
use certsource_testkit::{Ca, Crl, Issued};

const HOUR: Duration = Duration::from_secs(3600);

fn key(issued: &Issued) -> PrivateKey {
    let format = match issued.key_der() {
        PrivateKeyDer::Pkcs8(_) => KeyFormat::Pkcs8,
        PrivateKeyDer::Sec1(_) => KeyFormat::Sec1,
        _ => KeyFormat::Pkcs1,
    };
    PrivateKey::new(format, issued.key_der().secret_der().to_vec().into())
}

fn material(cas: &[&Ca], identity: Option<&Issued>, crls: &[Crl]) -> Arc<Material> {
    let origin = Origin::named("test");
    let mut parts = Parts::new().with_trust(&origin, cas.iter().map(|ca| ca.certificate_der()));
    if let Some(identity) = identity {
        parts = parts.with_identity(&origin, identity.chain_der(), key(identity));
    }
    if !crls.is_empty() {
        parts = parts.with_crls(&origin, crls.iter().map(Crl::der));
    }
    parts.assemble().whole.unwrap()
}

/// One handshake in memory; who refused is whose error it is.
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
    Ok(client.handshake_kind().unwrap())
}

/// The same check from both sides: a client of a server, and a server of a client.
fn verdicts(
    revocation: Revocation,
    cas: &[&Ca],
    crls: &[Crl],
    issued: &Issued,
) -> [Result<(), CertificateError>; 2] {
    let other = Ca::new("other side");
    let plain = other.issue("localhost");
    let own = material(cas, None, crls);
    let client = ClientTls::new().unwrap().revocation(revocation).config(&own).unwrap();
    let server = ServerTls::new().unwrap().config(&material(&[&other], Some(issued), &[])).unwrap();
    let of_server = connect(&Arc::new(client), &Arc::new(server));

    let own = material(cas, Some(&plain), crls);
    let server = ServerTls::new().unwrap().client_auth(ClientAuth::Required).revocation(revocation);
    let client = ClientTls::new().unwrap().config(&material(&[&other], Some(issued), &[])).unwrap();
    let of_client = connect(&Arc::new(client), &Arc::new(server.config(&own).unwrap()));
    [of_server, of_client].map(|result| match result {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => Err(error),
        Err(other) => panic!("{other}"),
    })
}

fn is_expired(verdict: &Result<(), CertificateError>) -> bool {
    matches!(
        verdict,
        Err(CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. })
    )
}

#[test]
fn one_list_in_a_store_of_several_cas_refuses_nobody_else() {
    let (with, without) = (Ca::new("with a list"), Ca::new("without"));
    let (cas, crls) = ([&with, &without], [with.crl()]);
    for id in [with.issue("localhost"), without.issue("localhost")] {
        assert_eq!(verdicts(Revocation::new(), &cas, &crls, &id), [Ok(()), Ok(())]);
    }
    let unknown = Err(CertificateError::UnknownRevocationStatus);
    let strict = Revocation::new().deny_unknown(true);
    assert_eq!(verdicts(strict, &cas, &crls, &with.issue("localhost")), [Ok(()), Ok(())]);
    assert_eq!(verdicts(strict, &cas, &crls, &without.issue("localhost")), [unknown.clone(), unknown]);
}

#[test]
fn revoked_is_refused_whatever_is_chosen() {
    let ca = Ca::new("ca");
    let id = ca.issue("localhost");
    ca.revoke(&id);
    let revoked = Err(CertificateError::Revoked);
    let long_ago = SystemTime::now() - 2 * HOUR;
    let expired = ca.crl_builder().this_update(long_ago).next_update(long_ago + HOUR).sign();
    for crl in [ca.crl(), expired] {
        for revocation in [
            Revocation::new(),
            Revocation::new().deny_unknown(true),
            Revocation::new().end_entity_only(true),
            Revocation::new().expiry(CrlExpiry::Ignored),
        ] {
            let verdicts = verdicts(revocation, &[&ca], std::slice::from_ref(&crl), &id);
            assert_eq!(verdicts, [revoked.clone(), revoked.clone()], "{revocation:?}");
        }
    }
}

#[test]
fn the_whole_chain_is_checked_unless_it_is_chosen_not_to_be() {
    let root = Ca::new("root");
    let intermediate = root.intermediate("intermediate");
    let id = intermediate.issue("localhost");
    root.revoke_intermediate(&intermediate);
    let crls = [root.crl(), intermediate.crl()];
    let revoked = Err(CertificateError::Revoked);
    assert_eq!(verdicts(Revocation::new(), &[&root], &crls, &id), [revoked.clone(), revoked]);
    assert_eq!(verdicts(Revocation::new().end_entity_only(true), &[&root], &crls, &id), [Ok(()), Ok(())]);
}

#[test]
fn an_expired_list_is_used_for_its_grace_and_then_refuses() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let id = ca.issue("localhost");
    let ended = |ca: &Ca, ago: Duration| {
        let now = SystemTime::now();
        [ca.crl_builder().this_update(now - ago - HOUR).next_update(now - ago).sign()]
    };
    let enforced = |grace| Revocation::new().expiry(CrlExpiry::Enforced { grace });
    let check = |revocation, crls: &[Crl]| {
        let [server, client] = verdicts(revocation, &[&ca, &other], crls, &id);
        assert_eq!(server.is_ok(), client.is_ok());
        assert!(server.is_ok() || (is_expired(&server) && is_expired(&client)), "{server:?} {client:?}");
        server.is_ok()
    };
    assert!(check(Revocation::new(), &ended(&ca, HOUR)), "within the day");
    assert!(!check(Revocation::new(), &ended(&ca, 25 * HOUR)), "after the day");
    assert!(!check(enforced(Duration::ZERO), &ended(&ca, HOUR)));
    assert!(check(enforced(3 * HOUR), &ended(&ca, 2 * HOUR)));
    assert!(!check(enforced(HOUR), &ended(&ca, 2 * HOUR)));
    assert!(check(Revocation::new().expiry(CrlExpiry::Ignored), &ended(&ca, 1000 * HOUR)));
    // A list that this chain does not need does not matter, whatever its age.
    let [old_other] = ended(&other, 1000 * HOUR);
    let [young] = ended(&ca, HOUR);
    assert!(check(Revocation::new(), &[old_other, young]));
}

#[test]
fn the_grace_of_one_list_hides_no_dead_one_in_the_same_chain() {
    let root = Ca::new("root");
    let intermediate = root.intermediate("intermediate");
    let id = intermediate.issue("localhost");
    let ended = |ca: &Ca, ago: Duration| {
        let now = SystemTime::now();
        ca.crl_builder().this_update(now - ago - HOUR).next_update(now - ago).sign()
    };
    for (of_root, of_intermediate, is_fine) in [(1, 1, true), (1, 1000, false), (1000, 1, false)] {
        let crls = [ended(&root, of_root * HOUR), ended(&intermediate, of_intermediate * HOUR)];
        for verdict in verdicts(Revocation::new(), &[&root], &crls, &id) {
            assert_eq!(verdict.is_ok(), is_fine, "{of_root} {of_intermediate} {verdict:?}");
            assert!(is_fine || is_expired(&verdict));
        }
    }
}

#[test]
fn the_gate_refuses_a_list_that_rustls_would_not_take() {
    // Two outer fields of a list as our inspection reads it, and a critical extension that nobody knows.
    let ca = Ca::new("ca");
    let good = ca.crl().der().to_vec();
    let origin = Origin::named("test");
    let gate = TlsGate::new().unwrap();
    let parts = |der: Vec<u8>| {
        let parts = Parts::new().with_trust(&origin, [ca.certificate_der()]);
        parts.with_crls(&origin, [CertificateRevocationListDer::from(der)]).assemble().whole
    };
    gate.check(&parts(good.clone()).unwrap()).unwrap();
    // The version says "v1", with extensions: RFC 5280 section 5.1.2.1 forbids that.
    let mut different = 0;
    for at in 0..good.len().min(60) {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        if let Ok(material) = parts(bad) {
            let tls = ClientTls::new().unwrap().config(&material);
            let checked = gate.check(&material);
            assert_eq!(checked.is_ok(), tls.is_ok(), "the gate and the config disagree at byte {at}");
            if let Err(error) = checked {
                assert_eq!(error.reason(), Reason::Rejected);
                different += 1;
            }
        }
    }
    assert!(different > 0, "no such list was found: the test shows nothing");
}

#[test]
fn a_provider_that_is_passed_in_does_all_of_the_cryptography() {
    let ca = Ca::new("ca");
    let own = material(&[&ca], Some(&ca.issue("localhost")), &[]);
    let client = Arc::new(ClientTls::new().unwrap().config(&material(&[&ca], None, &[])).unwrap());
    let ours = ServerTls::new().unwrap().config(&own).unwrap();
    assert!(ours.ticketer.enabled(), "the default provider has tickets");
    let passed = ServerTls::with_provider(default_provider().unwrap());
    let server = Arc::new(passed.clone().config(&own).unwrap());
    assert!(!server.ticketer.enabled(), "no library but the provider's");
    assert_eq!(connect(&client, &server).unwrap(), HandshakeKind::Full);
    assert_eq!(connect(&client, &server).unwrap(), HandshakeKind::Resumed, "from memory");
    let ticketer = ours.ticketer.clone();
    let chosen = passed.ticketer(move || Some(ticketer.clone())).config(&own).unwrap();
    assert!(chosen.ticketer.enabled());
}
