//! Inspection records of minted certificates and CRLs, field by field and beside another parser. Odd and broken ones
//! are tested next to the code.
#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use certsource::Fingerprint;
use certsource::inspect::{self, San};
use certsource_testkit::{Ca, KeyKind};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Date, Month, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

fn at(year: i32, month: Month, day: u8) -> OffsetDateTime {
    Date::from_calendar_date(year, month, day).expect("a date").midnight().assume_utc()
}

/// A self-signed certificate with everything that is shown.
fn full() -> Vec<u8> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "NL");
    name.push(DnType::OrganizationName, "Example, Inc. \u{202e}<b>");
    name.push(DnType::CommonName, DnValue::Utf8String("a.example\u{1b}[2J".into()));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc, 0xde]));
    params.not_before = at(2024, Month::February, 29);
    params.not_after = at(2051, Month::December, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4]),
    ];
    params.subject_alt_names = vec![
        SanType::DnsName("a.example".try_into().unwrap()),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        SanType::URI("spiffe://example.org/ns/default".try_into().unwrap()),
        SanType::Rfc822Name("ops@a.example".try_into().unwrap()),
        SanType::DnsName("\u{1b}[31m<script>".try_into().unwrap()),
        SanType::OtherName((vec![1, 3, 6, 1], "other".into())),
    ];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn a_record_tells_what_was_minted() {
    let der = full();
    let record = inspect::certificate(&der).unwrap();
    let name = r"CN=a.example\1b[2J,O=Example\, Inc. \e2\80\ae\3cb\3e,C=NL";
    assert_eq!((record.subject(), record.issuer()), (name, name));
    assert_eq!(
        record.sans(),
        [
            San::Dns("a.example".into()),
            San::Ip(Ipv4Addr::LOCALHOST.into()),
            San::Ip(Ipv6Addr::LOCALHOST.into()),
            San::Uri("spiffe://example.org/ns/default".into()),
            San::Email("ops@a.example".into()),
            San::Dns("\u{1b}[31m<script>".into()),
            San::Other("other:1.3.6.1".into()),
        ]
    );
    assert_eq!(record.serial(), "0abcde");
    assert_eq!((record.key(), record.signature()), ("ECDSA P-384", "ecdsa-with-SHA384"));
    assert_eq!(record.not_before(), SystemTime::from(at(2024, Month::February, 29)));
    assert_eq!(record.not_before_text(), "2024-02-29T00:00:00Z");
    assert_eq!(record.not_after(), SystemTime::from(at(2051, Month::December, 31)));
    assert_eq!(record.not_after_text(), "2051-12-31T00:00:00Z");
    assert_eq!(record.fingerprint(), Fingerprint::of(&der));
    assert!(record.is_ca());
    assert_eq!(record.key_usages(), ["digitalSignature", "keyCertSign", "cRLSign"]);
    assert_eq!(record.extended_key_usages(), ["serverAuth", "clientAuth", "1.2.3.4"]);
    assert!(!record.is_partial());
}

#[test]
fn a_record_is_shown_on_one_line_without_anything_hostile() {
    let record = inspect::certificate(&full()).unwrap();
    let shown = record.to_string();
    for part in [
        r"CN=a.example\1b[2J,O=Example\, Inc. \e2\80\ae\3cb\3e,C=NL dns:a.example,ip:127.0.0.1,ip:::1,uri:spiffe://",
        r"dns:\u{1b}[31m\u{3c}script\u{3e}",
        "serial 0abcde from 2024-02-29T00:00:00Z to 2051-12-31T00:00:00Z ECDSA P-384 CA issued by CN=",
        &format!("sha256 {}", record.fingerprint()),
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.chars().any(|c| c.is_control() || c == '<' || c == '\u{202e}'), "{shown}");
    assert!(!format!("{record:?}").contains('\u{1b}'));
}

#[test]
fn a_leaf_without_a_subject_is_shown_by_its_names() {
    let mut params = CertificateParams::new(["b.example".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let record = inspect::certificate(&der).unwrap();
    assert_eq!((record.subject(), record.is_ca(), record.is_partial()), ("", false, false));
    assert!(record.to_string().starts_with("(no subject) dns:b.example serial "), "{record}");
}

#[test]
fn every_kind_of_key_has_its_words() {
    for (kind, key, signature) in [
        (KeyKind::EcdsaP256, "ECDSA P-256", "ecdsa-with-SHA256"),
        (KeyKind::EcdsaP384, "ECDSA P-384", "ecdsa-with-SHA384"),
        (KeyKind::Ed25519, "Ed25519", "Ed25519"),
    ] {
        let ca = Ca::builder("root").key(kind).build();
        let record = inspect::certificate(&ca.certificate_der()).unwrap();
        assert_eq!((record.key(), record.signature()), (key, signature));
    }
}

#[cfg(feature = "serde")]
#[test]
fn the_json_form_is_stable_and_escaped() {
    let der = full();
    let record = inspect::certificate(&der).unwrap();
    let name = r"CN=a.example\1b[2J,O=Example\, Inc. \e2\80\ae\3cb\3e,C=NL";
    assert_eq!(
        serde_json::to_value(&record).unwrap(),
        serde_json::json!({
            "subject": name,
            "issuer": name,
            "sans": [
                "dns:a.example",
                "ip:127.0.0.1",
                "ip:::1",
                "uri:spiffe://example.org/ns/default",
                "email:ops@a.example",
                r"dns:\u{1b}[31m\u{3c}script\u{3e}",
                "other:1.3.6.1",
            ],
            "serial": "0abcde",
            "key": "ECDSA P-384",
            "signature": "ecdsa-with-SHA384",
            "not_before": "2024-02-29T00:00:00Z",
            "not_after": "2051-12-31T00:00:00Z",
            "fingerprint": Fingerprint::of(&der).to_string(),
            "is_ca": true,
        })
    );
    let ca = Ca::new("root");
    ca.revoke(ca.issue("localhost"));
    let crl = ca.crl_builder().number(7).this_update(SystemTime::UNIX_EPOCH).sign();
    let record = serde_json::to_value(inspect::crl(&crl.der()).unwrap()).unwrap();
    assert_eq!(record["issuer"], "CN=root");
    assert_eq!(record["number"], "7");
    assert_eq!(record["this_update"], "1970-01-01T00:00:00Z");
    assert_eq!(record["entries"], 1);
    assert_eq!(record["unsupported"], serde_json::Value::Null);
    assert_eq!(record.as_object().unwrap().len(), 6);
}

#[test]
fn a_revocation_list_tells_what_was_signed() {
    let ca = Ca::new("Example root");
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    for entries in 0..3 {
        let crl = ca
            .crl_builder()
            .number(40 + entries)
            .this_update(start)
            .next_update(start + Duration::from_secs(24 * 3600))
            .sign();
        let record = inspect::crl(&crl.der()).unwrap();
        assert_eq!(record.issuer(), "CN=Example root");
        assert_eq!(record.number(), Some((40 + entries).to_string().as_str()));
        assert_eq!(
            (record.this_update(), record.this_update_text().as_str()),
            (start, "2025-01-01T00:00:00Z")
        );
        assert_eq!(record.next_update(), Some(start + Duration::from_secs(24 * 3600)));
        assert_eq!(record.next_update_text().as_deref(), Some("2025-01-02T00:00:00Z"));
        assert_eq!((record.entries() as u64, record.unsupported()), (entries, None));
        let shown = format!(
            "CRL of CN=Example root number {} from 2025-01-01T00:00:00Z to 2025-01-02T00:00:00Z with {entries} entries",
            40 + entries
        );
        assert_eq!(record.to_string(), shown);
        ca.revoke(ca.issue("localhost"));
    }
}

#[test]
fn what_is_no_certificate_is_told() {
    let ca = Ca::new("root");
    let crl = ca.crl();
    assert!(inspect::certificate(&crl.der()).is_err());
    assert!(inspect::crl(&ca.certificate_der()).is_err());
    assert!(inspect::certificate(ca.issue("localhost").key_der().secret_der()).is_err());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9 .,+\"<>;=#\\\\-]{1,20}",
        prop::collection::vec(any::<char>(), 1..12).prop_map(|chars| chars.into_iter().collect()),
    ]
}

/// Reads the escapes of RFC 4514 back.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'\\', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&[*high, *low]).unwrap(), 16).unwrap());
                tail
            }
            (b'\\', [plain, tail @ ..]) => {
                bytes.push(*plain);
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_record_agrees_with_a_full_parser(
        common_name in text(),
        serial in prop::collection::vec(any::<u8>(), 1..20),
        from in 1950..2060_i32,
        years in 0..100_i32,
        is_ca in any::<bool>(),
        names in prop::collection::vec("[a-z]{1,10}\\.example", 0..4),
    ) {
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name.as_str());
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = at(from, Month::June, 1);
        params.not_after = at(from + years, Month::June, 30);
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();

        let record = inspect::certificate(&der).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        prop_assert!(!record.is_partial());
        let value = record.subject().strip_prefix("CN=").unwrap();
        prop_assert_eq!(&unescaped(value), &common_name);
        prop_assert_eq!(parsed.subject().iter_common_name().next().unwrap().as_str().unwrap(), &common_name);
        prop_assert_eq!(record.is_ca(), parsed.is_ca());
        let seconds = |time: SystemTime| OffsetDateTime::from(time).unix_timestamp();
        prop_assert_eq!(seconds(record.not_before()), parsed.validity().not_before.timestamp());
        prop_assert_eq!(seconds(record.not_after()), parsed.validity().not_after.timestamp());
        let serial = parsed.tbs_certificate.serial.to_str_radix(16);
        prop_assert_eq!(record.serial().trim_start_matches('0'), serial.trim_start_matches('0'));
        let sans: Vec<San> = names.into_iter().map(San::Dns).collect();
        prop_assert_eq!(record.sans(), sans);
    }
}
