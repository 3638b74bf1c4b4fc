//! What is minted is read back with x509-parser, an implementation of its own.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certsource_testkit::{Ca, Issued, KeyKind};
use x509_parser::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn kinds() -> Vec<KeyKind> {
    vec![
        KeyKind::EcdsaP256,
        KeyKind::EcdsaP384,
        KeyKind::Ed25519,
        #[cfg(feature = "rsa")]
        KeyKind::Rsa2048,
    ]
}

/// Subject alternative names as text.
fn sans(issued: &Issued) -> Vec<String> {
    let der = issued.leaf_der();
    let (_, leaf) = X509Certificate::from_der(&der).expect("a certificate");
    let Some(names) = leaf.subject_alternative_name().expect("at most one such extension") else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => format!("dns {name}"),
        GeneralName::URI(uri) => format!("uri {uri}"),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => format!("ip {}", IpAddr::from(v4)),
            (_, Ok(v6)) => format!("ip {}", IpAddr::from(v6)),
            _ => panic!("an address of {} bytes", bytes.len()),
        },
        other => panic!("unexpected {other}"),
    };
    names.value.general_names.iter().map(text).collect()
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

#[test]
fn names_come_from_the_name() {
    let ca = Ca::new("root");
    let local = ["dns localhost", "ip 127.0.0.1", "ip ::1"];
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(sans(&ca.issue(name)), local, "{name}");
    }
    assert_eq!(sans(&ca.issue("api.example.com")), ["dns api.example.com"]);
    assert_eq!(sans(&ca.issue("*.example.com")), ["dns *.example.com"]);
    assert_eq!(sans(&ca.issue("192.0.2.7")), ["ip 192.0.2.7"]);
    assert_eq!(sans(&ca.issue("spiffe://example.org/billing")), ["uri spiffe://example.org/billing"]);
    assert_eq!(sans(&ca.issue("a client, Zürich")), [] as [&str; 0]);
    assert_eq!(sans(&ca.issue("")), [] as [&str; 0]);

    let more = ca
        .leaf("a.example.com")
        .san_dns("b.example.com")
        .san_ip([192, 0, 2, 1])
        .san_uri("spiffe://example.org/a")
        .issue();
    assert_eq!(
        sans(&more),
        ["dns a.example.com", "dns b.example.com", "ip 192.0.2.1", "uri spiffe://example.org/a"]
    );
}

#[test]
fn the_subject_is_the_name() {
    let ca = Ca::new("Wurzel Ä");
    let der = ca.issue("a client, Zürich").leaf_der();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=a client, Zürich");
    assert_eq!(leaf.issuer().to_string(), "CN=Wurzel Ä");
    assert!(!leaf.is_ca());
}

#[test]
#[should_panic(expected = "must be ASCII")]
fn a_dns_name_must_be_ascii() {
    let _ = Ca::new("root").leaf("x").san_dns("zürich.example");
}

#[test]
fn usages() {
    let ca = Ca::new("root");
    let cases = [
        (ca.issue("both"), true, true),
        (ca.leaf("client").client_only().issue(), false, true),
        (ca.leaf("server").server_only().issue(), true, false),
    ];
    for (issued, server, client) in cases {
        let der = issued.leaf_der();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((usage.server_auth, usage.client_auth), (server, client), "{issued:?}");
        assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    }
}

#[test]
fn validity_is_what_was_asked_for() {
    let ca = Ca::new("root");
    let now = SystemTime::now();
    let early = UNIX_EPOCH + Duration::from_millis(1_000_000_000_500);
    let late = UNIX_EPOCH + Duration::from_secs(4_000_000_000); // 2096: another encoding of times

    let both = ca.leaf("x").not_before(early).not_after(late).issue();
    let from = ca.leaf("x").not_before(early).valid_for(DAY).issue();
    let short = ca.leaf("x").valid_for(Duration::from_millis(1500)).issue();
    let expired = ca.leaf("x").not_after(now - DAY).issue();
    let default = ca.issue("x");

    for issued in [&both, &from, &short, &expired, &default] {
        let der = issued.leaf_der();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(leaf.validity().not_before.timestamp(), seconds(issued.not_before()));
        assert_eq!(leaf.validity().not_after.timestamp(), seconds(issued.not_after()));
        assert!(issued.not_before() < issued.not_after());
    }
    assert_eq!((seconds(both.not_before()), seconds(both.not_after())), (1_000_000_000, 4_000_000_000));
    assert_eq!(seconds(from.not_after()), 1_000_000_001 + DAY.as_secs() as i64, "rounded up");
    assert!(short.not_after() >= now + Duration::from_millis(1500), "the time asked for is there");
    assert!(short.not_after() <= SystemTime::now() + Duration::from_millis(2500));
    assert!(short.not_before() < now && default.not_before() < now, "dated back");
    assert!(default.not_after() >= now + 90 * DAY);
    assert!(expired.not_after() < now);
}

#[test]
fn serial_numbers() {
    let ca = Ca::new("root");
    let random: HashSet<_> = (0..50).map(|_| ca.issue("x").serial_hex()).collect();
    assert_eq!(random.len(), 50);
    assert!(random.iter().all(|serial| serial.len() == 32));

    let cases = [(0, "00"), (0x7f, "7f"), (0x80, "80"), (0x1234, "1234"), (u64::MAX, "ffffffffffffffff")];
    for (serial, hex) in cases {
        let issued = ca.leaf("x").serial(serial).issue();
        assert_eq!(issued.serial_hex(), hex);
        let der = issued.leaf_der();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(leaf.serial, serial.into(), "positive, whatever the highest bit is");
    }
}

#[test]
fn every_kind_of_key_signs_and_is_signed() {
    for ca_kind in kinds() {
        let root = Ca::builder("root").key(ca_kind).build();
        let issuing = Ca::builder("issuing").key(ca_kind).signed_by(&root).build();
        for kind in kinds() {
            let issued = issuing.leaf("localhost").key(kind).issue();
            assert_eq!(issued.key_kind(), kind);
            let ders: Vec<_> = issued.chain_der().into_iter().chain([issued.root_der()]).collect();
            assert_eq!(ders.len(), 3);
            for (below, above) in ders.iter().zip(&ders[1..]) {
                let (_, below) = X509Certificate::from_der(below).unwrap();
                let (_, above) = X509Certificate::from_der(above).unwrap();
                below.verify_signature(Some(above.public_key())).unwrap();
                assert_eq!(below.issuer(), above.subject());
                assert!(above.is_ca());
            }
        }
    }
}

#[test]
fn a_renewal_may_keep_the_key() {
    let ca = Ca::new("root");
    let first = ca.issue("localhost");
    let second = ca.leaf("localhost").with_key_of(&first).issue();
    let third = ca.issue("localhost");
    let public = |issued: &Issued| {
        let der = issued.leaf_der();
        X509Certificate::from_der(&der).unwrap().1.public_key().raw.to_vec()
    };
    assert_eq!(public(&first), public(&second));
    assert_eq!(first.key_pem(), second.key_pem());
    assert_ne!(first.serial_hex(), second.serial_hex());
    assert_ne!(public(&first), public(&third));
}

#[test]
fn texts_are_the_parts_in_order() {
    let root = Ca::new("root");
    let issuing = root.intermediate("middle").intermediate("issuing");
    let issued = issuing.issue("localhost");
    assert_eq!(issued.chain_pem(), issued.leaf_pem() + &issued.intermediates_pem());
    assert_eq!(issued.combined_pem(), issued.chain_pem() + &issued.key_pem());
    assert_eq!(issued.root_pem(), root.certificate_pem());
    assert_eq!(issuing.root_der(), root.certificate_der());
    let labels: Vec<_> = Pem::iter_from_buffer(issued.combined_pem().as_bytes())
        .map(|pem| pem.unwrap())
        .map(|pem| (pem.label.clone(), pem.contents.clone()))
        .collect();
    let mut expected: Vec<_> =
        issued.chain_der().iter().map(|der| ("CERTIFICATE".to_owned(), der.to_vec())).collect();
    expected.push(("PRIVATE KEY".to_owned(), issued.key_der().secret_der().to_vec()));
    assert_eq!(labels, expected);
    assert_eq!(expected.len(), 4);
    assert!(!issued.combined_pem().contains('\r'));
    assert_eq!(root.issue("x").intermediates_pem(), "");
    assert_eq!(issued.files().map(|(name, _)| name), ["ca.crt", "tls.crt", "tls.key"]);
}

#[test]
fn a_crl_lists_what_is_revoked() {
    let ca = Ca::new("root");
    let (kept, gone) = (ca.issue("kept"), ca.issue("gone"));
    let intermediate = ca.intermediate("intermediate");
    let serials = |crl: &certsource_testkit::Crl| {
        let der = crl.der();
        let (rest, crl) = CertificateRevocationList::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let root = ca.certificate_der();
        crl.verify_signature(X509Certificate::from_der(&root).unwrap().1.public_key()).unwrap();
        assert_eq!(crl.issuer().to_string(), "CN=root");
        crl.iter_revoked_certificates().map(|revoked| format!("{:x}", revoked.serial())).collect::<Vec<_>>()
    };

    assert_eq!(serials(&ca.crl()), [] as [&str; 0]);
    ca.revoke(&gone);
    ca.revoke(&gone);
    ca.revoke_intermediate(&intermediate);
    let listed = serials(&ca.crl());
    assert_eq!(listed.len(), 2, "twice revoked is listed once");
    assert_eq!(listed[0], gone.serial_hex().trim_start_matches('0'));
    assert!(!listed.contains(&kept.serial_hex().trim_start_matches('0').to_owned()));
    ca.unrevoke(&gone);
    assert_eq!(serials(&ca.crl()).len(), 1);
    assert_eq!(serials(&ca.clone().crl()).len(), 1, "clones share the list");
}

#[test]
fn crl_numbers_and_times() {
    let ca = Ca::new("root");
    let read = |crl: &certsource_testkit::Crl| {
        let pem = crl.pem();
        let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(pem.label, "X509 CRL");
        assert_eq!(pem.contents, crl.der().to_vec());
        let (_, list) = CertificateRevocationList::from_der(&pem.contents).unwrap();
        assert_eq!(list.crl_number().unwrap(), &crl.number().into());
        (list.last_update().timestamp(), list.next_update().unwrap().timestamp())
    };
    let now = seconds(SystemTime::now());
    let (this, next) = read(&ca.crl());
    assert!((now..now + 60).contains(&this), "this update is now");
    assert_eq!(next - this, 7 * DAY.as_secs() as i64);

    assert_eq!(ca.crl().number(), 2);
    assert_eq!(ca.crl_builder().number(40).sign().number(), 40);
    assert_eq!(ca.crl().number(), 41);
    assert_eq!(ca.crl_builder().number(3).sign().number(), 3, "a roll-back");
    assert_eq!(ca.crl().number(), 42, "goes on from the highest");
    assert_eq!(ca.renew().build().crl().number(), 43, "a renewed authority is the same one");

    let past = SystemTime::now() - 3 * DAY;
    let (this, next) = read(&ca.crl_builder().next_update(past).sign());
    assert_eq!(next, seconds(past));
    assert!(this < next);
    let (this, next) =
        read(&ca.crl_builder().this_update(past - DAY).next_update(past + Duration::from_millis(500)).sign());
    assert_eq!((this, next), (seconds(past - DAY), seconds(past + Duration::from_millis(500))));
}

#[test]
#[should_panic(expected = "at least a second after")]
fn a_crl_must_not_end_before_it_begins() {
    let now = SystemTime::now();
    let _ = Ca::new("root").crl_builder().this_update(now).next_update(now).sign();
}

#[test]
#[should_panic(expected = "was not issued by")]
fn only_the_issuer_revokes() {
    let issued = Ca::new("one").issue("localhost");
    Ca::new("two").revoke(&issued);
}

#[test]
fn debug_shows_no_key() {
    let ca = Ca::new("root").intermediate("issuing");
    for kind in kinds() {
        let issued = ca.leaf("localhost").key(kind).issue();
        let leaf = ca.leaf("localhost").with_key_of(&issued);
        let shown = format!("{issued:?} {issued:#?} {ca:?} {:?} {leaf:?} {:?}", ca.renew(), ca.crl_builder());
        assert!(shown.contains("elided") && shown.contains(&issued.serial_hex()), "{shown}");
        let key = issued.key_der();
        let hex: String = key.secret_der().iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{:?}", &key.secret_der()[20..30]);
        let list = list.trim_matches(['[', ']']);
        assert!(
            !shown.contains("PRIVATE") && !shown.contains(list) && !shown.contains(&hex[40..80]),
            "{shown}"
        );
        for line in issued.key_pem().lines().filter(|line| !line.starts_with('-')) {
            assert!(!shown.contains(line), "{shown}");
        }
    }
}
