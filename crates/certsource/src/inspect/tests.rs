//! Certificates and CRLs that no library mints: odd ones, which must not stop a rotation, and broken ones.

use proptest::prelude::*;

use super::der::write::{bits, int, object, seq, tlv};
use super::{San, certificate, crl, crl_essentials, essentials, oid};

const UTC: u8 = 0x17;
const UTF8: u8 = 0x0c;
const CN: &[u8] = &[0x55, 0x04, 0x03];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    seq(&[&object(oid), &tlv(tag, &[value])])
}

fn common_name(value: &str) -> Vec<u8> {
    seq(&[&tlv(0x31, &[&attribute(CN, UTF8, value.as_bytes())])])
}

fn extension(last: u8, value: &[u8]) -> Vec<u8> {
    seq(&[&object(&[0x55, 0x1d, last]), &tlv(4, &[value])])
}

/// A certificate, field by field. The signature is no signature.
struct Certificate {
    version: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    validity: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    behind: Vec<u8>,
}

impl Default for Certificate {
    fn default() -> Self {
        let algorithm = seq(&[&object(oid::EC), &object(P256)]);
        Self {
            version: tlv(0xa0, &[&int(&[2])]),
            serial: int(&[1, 2, 3]),
            issuer: common_name("issuer"),
            validity: seq(&[&tlv(UTC, &[b"250101000000Z"]), &tlv(UTC, &[b"260101000000Z"])]),
            subject: common_name("subject"),
            spki: seq(&[&algorithm, &bits(&[4; 65])]),
            behind: vec![],
        }
    }
}

impl Certificate {
    fn with_extensions(extensions: &[Vec<u8>]) -> Self {
        Self { behind: tlv(0xa3, &[&seq(&[&extensions.concat()])]), ..Self::default() }
    }

    fn tbs(&self) -> Vec<u8> {
        let algorithm = seq(&[&object(ECDSA_SHA256)]);
        let Self { version, serial, issuer, validity, subject, spki, behind } = self;
        seq(&[version, serial, &algorithm, issuer, validity, subject, spki, behind])
    }

    fn der(&self) -> Vec<u8> {
        seq(&[&self.tbs(), &seq(&[&object(ECDSA_SHA256)]), &bits(&[7; 70])])
    }
}

#[test]
fn the_plain_one_is_read_whole() {
    let plain = Certificate::default();
    let der = plain.der();
    let found = essentials(&der).unwrap();
    assert_eq!(der[found.spki], plain.spki);
    assert!(!found.is_ca);
    let record = certificate(&der).unwrap();
    assert_eq!((record.subject(), record.issuer(), record.serial()), ("CN=subject", "CN=issuer", "010203"));
    assert_eq!((record.key(), record.signature()), ("ECDSA P-256", "ecdsa-with-SHA256"));
    assert_eq!((record.not_before(), record.not_after()), (found.not_before, found.not_after));
    assert_eq!(record.not_after_text(), "2026-01-01T00:00:00Z");
    assert!(!record.is_partial());
}

#[test]
fn odd_serial_numbers_pass() {
    for (content, shown) in [
        (&[0][..], "00"),
        (&[0, 0x80], "80"),
        (&[0, 0, 7], "07"),
        (&[], "00"),
        (&[0xff], "-01"),
        (&[0x80], "-80"),
        (&[0xff, 0x00], "-0100"),
        (&[0x7f; 30], &"7f".repeat(30)),
    ] {
        let der = Certificate { serial: int(content), ..Certificate::default() }.der();
        essentials(&der).unwrap();
        let record = certificate(&der).unwrap();
        assert_eq!(record.serial(), shown);
        assert!(!record.is_partial());
    }
}

#[test]
fn public_keys_have_their_words() {
    let rsa = |modulus: &[u8]| {
        let key = seq(&[&int(modulus), &int(&[1, 0, 1])]);
        seq(&[&seq(&[&object(oid::RSA), &[5, 0]]), &bits(&key)])
    };
    let ec = |parameters: &[u8]| seq(&[&seq(&[&object(oid::EC), parameters]), &bits(&[4; 65])]);
    let other = |oid: &[u8]| seq(&[&seq(&[&object(oid)]), &bits(&[1; 32])]);
    for (spki, words) in [
        (rsa(&[&[0, 0x80][..], &[1; 255]].concat()), "RSA 2048"),
        (rsa(&[&[0x01][..], &[1; 384]].concat()), "RSA 3073"),
        (rsa(&[0x7f]), "RSA 7"),
        (ec(&object(P256)), "ECDSA P-256"),
        (ec(&object(&[0x2b, 0x81, 0x04, 0x00, 0x23])), "ECDSA P-521"),
        (ec(&object(&[0x2a, 3])), "ECDSA 1.2.3"),
        (ec(&seq(&[&int(&[1])])), "ECDSA explicit"),
        (other(oid::ED25519), "Ed25519"),
        (other(oid::ED448), "Ed448"),
        (other(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12]), "ML-DSA-65"),
        (other(&[0x2a, 3, 4]), "1.2.3.4"),
    ] {
        let record = certificate(&Certificate { spki, ..Certificate::default() }.der()).unwrap();
        assert_eq!((record.key(), record.is_partial()), (words, false));
    }
}

#[test]
fn version_1_and_unique_identifiers_pass() {
    let der = Certificate { version: vec![], ..Certificate::default() }.der();
    assert!(!certificate(&der).unwrap().is_partial());
    let behind = [tlv(0x81, &[&[0, 1]]), tlv(0x82, &[&[0, 1]])].concat();
    let der = Certificate { behind, ..Certificate::default() }.der();
    essentials(&der).unwrap();
}

#[test]
fn what_a_tls_library_passes_over_passes_and_is_partial() {
    let no_name = seq(&[&[1, 1, 0]]);
    for odd in [
        Certificate { subject: no_name.clone(), ..Certificate::default() },
        Certificate { issuer: no_name, ..Certificate::default() },
        Certificate { spki: seq(&[&[5, 0]]), ..Certificate::default() },
        Certificate { spki: seq(&[&seq(&[&object(oid::EC)]), &bits(&[4])]), ..Certificate::default() },
        Certificate { spki: seq(&[&seq(&[&object(oid::RSA)]), &bits(&[4])]), ..Certificate::default() },
        Certificate::with_extensions(&[extension(0x11, b"no DER")]),
        Certificate::with_extensions(&[extension(0x0f, &[])]),
        Certificate::with_extensions(&[extension(0x25, &[0x30, 1])]),
        Certificate::with_extensions(&[extension(0x0f, &[3, 2, 7, 0x80, 0])]),
    ] {
        let der = odd.der();
        essentials(&der).unwrap();
        let record = certificate(&der).unwrap();
        assert!(record.is_partial(), "{record}");
        assert_eq!(record.not_after_text(), "2026-01-01T00:00:00Z");
    }
}

#[test]
fn being_a_ca_is_told_by_the_basic_constraints() {
    for (value, is_ca) in [
        (seq(&[&[1, 1, 0xff]]), true),
        (seq(&[&[1, 1, 1]]), true),
        (seq(&[&[1, 1, 0xff], &int(&[0])]), true),
        (seq(&[&[1, 1, 0]]), false),
        (seq(&[]), false),
        (seq(&[&int(&[0])]), false),
        (b"no DER".to_vec(), false),
    ] {
        let der = Certificate::with_extensions(&[extension(0x13, &value)]).der();
        assert_eq!(essentials(&der).unwrap().is_ca, is_ca, "{value:x?}");
        assert_eq!(certificate(&der).unwrap().is_ca(), is_ca);
    }
}

#[test]
fn a_broken_certificate_is_told_with_what_is_wrong() {
    let plain = Certificate::default();
    let algorithm = seq(&[&object(ECDSA_SHA256)]);
    let time = tlv(UTC, &[b"250101000000Z"]);
    let with_validity =
        |parts: &[&[u8]]| Certificate { validity: seq(parts), ..Certificate::default() }.der();
    for (der, what) in [
        (b"-----BEGIN".to_vec(), "it is not DER, or cut"),
        (vec![], "it is not DER, or cut"),
        ([plain.der(), vec![0]].concat(), "there are bytes behind its end"),
        (seq(&[&plain.tbs(), &algorithm]), "it has no signature"),
        (seq(&[&plain.tbs(), &seq(&[&int(&[1])]), &bits(&[7])]), "its signature has no algorithm"),
        (seq(&[&plain.tbs(), &algorithm, &bits(&[7]), &[5, 0]]), "there are bytes behind its signature"),
        (seq(&[]), "it has no signed part"),
        (Certificate { serial: vec![], ..Certificate::default() }.der(), "it has no serial number"),
        (Certificate { issuer: vec![], ..Certificate::default() }.der(), "its not_before is not a time"),
        (Certificate { spki: vec![], ..Certificate::default() }.der(), "it has no public key"),
        (Certificate { validity: int(&[1]), ..Certificate::default() }.der(), "it has no validity"),
        (with_validity(&[&time]), "its not_after is not a time"),
        (with_validity(&[&tlv(UTC, &[b"soon"]), &time]), "its not_before is not a time"),
        (with_validity(&[&time, &time, &time]), "its validity has more than two times"),
        (
            Certificate { behind: vec![5, 0], ..Certificate::default() }.der(),
            "it has fields that no certificate has",
        ),
        (Certificate::with_extensions(&[vec![5, 0]]).der(), "its extensions are broken"),
        (Certificate::with_extensions(&[seq(&[&object(CN)])]).der(), "its extensions are broken"),
    ] {
        assert_eq!(essentials(&der).unwrap_err(), what);
        assert_eq!(certificate(&der).unwrap_err(), what);
    }
}

#[test]
fn names_are_rfc_4514_text_without_anything_hostile() {
    let domain = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
    let part = |attributes: &[Vec<u8>]| tlv(0x31, &[&attributes.concat()]);
    let (ia5, teletex, bmp, universal, integer) = (0x16, 0x14, 0x1e, 0x1c, 2);
    for (parts, text) in [
        (vec![], ""),
        // The last part first, and the parts of a part as they stand.
        (
            vec![
                part(&[attribute(domain, ia5, b"net")]),
                part(&[attribute(domain, ia5, b"example")]),
                part(&[attribute(&[0x55, 4, 0x0b], UTF8, b"Sales"), attribute(CN, UTF8, b"J. Smith")]),
            ],
            "OU=Sales+CN=J. Smith,DC=example,DC=net",
        ),
        (vec![part(&[attribute(CN, UTF8, b"a,b+c;d=e")])], r"CN=a\,b\+c\;d=e"),
        (vec![part(&[attribute(CN, UTF8, b" # ")])], r"CN=\ #\ "),
        (vec![part(&[attribute(CN, UTF8, b" ")])], r"CN=\ "),
        (vec![part(&[attribute(CN, UTF8, b"#1")])], r"CN=\#1"),
        (vec![part(&[attribute(CN, UTF8, b"")])], "CN="),
        (vec![part(&[attribute(CN, UTF8, br#"\"<'&`>"#)])], r"CN=\5c\22\3c\27\26\60\3e"),
        (vec![part(&[attribute(CN, UTF8, b"\x1b[0m\n\0")])], r"CN=\1b[0m\0a\00"),
        (vec![part(&[attribute(CN, UTF8, "\u{202e}x\u{e9}".as_bytes())])], "CN=\\e2\\80\\aex\u{e9}"),
        (vec![part(&[attribute(CN, teletex, b"\xe9")])], "CN=\u{e9}"),
        (vec![part(&[attribute(CN, bmp, b"\0a\x20\xac\xd8\x3d\xde\x00")])], "CN=a\u{20ac}\u{1f600}"),
        (vec![part(&[attribute(CN, universal, b"\0\x01\xf6\0")])], "CN=\u{1f600}"),
        // Not the text that their types say.
        (vec![part(&[attribute(CN, bmp, b"\0a\xd8\x3d")])], "CN=#1e040061d83d"),
        (vec![part(&[attribute(CN, bmp, b"a")])], "CN=#1e0161"),
        (vec![part(&[attribute(CN, universal, b"\xff\0\0\0")])], "CN=#1c04ff000000"),
        (vec![part(&[attribute(CN, UTF8, b"\xff")])], "CN=#0c01ff"),
        (vec![part(&[attribute(CN, integer, &[5])])], "CN=#020105"),
        (vec![part(&[attribute(&[0x2a, 3, 4], UTF8, b"a")])], "1.2.3.4=#0c0161"),
    ] {
        let subject = seq(&[&parts.concat()]);
        let record = certificate(&Certificate { subject, ..Certificate::default() }.der()).unwrap();
        assert_eq!(record.subject(), text);
        assert!(!record.is_partial());
    }
}

#[test]
fn alternative_names_of_every_type_are_told() {
    let names = seq(&[
        &tlv(0x82, &[b"localhost"]),
        &tlv(0x87, &[&[127, 0, 0, 1]]),
        &tlv(0x87, &[&[0; 15], &[1]]),
        &tlv(0x81, &[b"a@example.com"]),
        &tlv(0x86, &[b"spiffe://example.org/a"]),
        &tlv(0xa4, &[&common_name("a,\n")]),
        &tlv(0x88, &[&[0x2a, 3, 4]]),
        &tlv(0xa0, &[&object(&[0x2a, 3, 4]), &tlv(0xa0, &[&tlv(UTF8, &[b"x"])])]),
        &tlv(0x87, &[&[1, 2, 3]]),
        &tlv(0x82, &[b"\xff"]),
        &tlv(0x82, &[b"a\n<b>\x1b"]),
        &tlv(0xa3, &[&[5, 0]]),
    ]);
    let record = certificate(&Certificate::with_extensions(&[extension(0x11, &names)]).der()).unwrap();
    let shown: Vec<String> = record.sans().iter().map(San::to_string).collect();
    assert_eq!(
        shown,
        [
            "dns:localhost",
            "ip:127.0.0.1",
            "ip:::1",
            "email:a@example.com",
            "uri:spiffe://example.org/a",
            r"dir:CN=a\,\0a",
            "rid:1.2.3.4",
            "other:1.2.3.4",
            "ip:#010203",
            "dns:#ff",
            r"dns:a\u{a}\u{3c}b\u{3e}\u{1b}",
            "x400:#0500",
        ]
    );
    assert!(!record.is_partial());
    assert_eq!(record.sans()[10], San::Dns("a\n<b>\u{1b}".to_owned()));
    assert!(record.to_string().chars().all(|c| !c.is_control()));
}

/// A CRL with what stands behind its `thisUpdate`.
fn list(behind: &[Vec<u8>]) -> Vec<u8> {
    let algorithm = seq(&[&object(ECDSA_SHA256)]);
    let time = tlv(UTC, &[b"250101000000Z"]);
    let tbs = seq(&[&int(&[1]), &algorithm, &common_name("issuer"), &time, &behind.concat()]);
    seq(&[&tbs, &algorithm, &bits(&[7; 70])])
}

fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
    list(&[tlv(0xa0, &[&seq(&[&extensions.concat()])])])
}

#[test]
fn lists_are_read_with_and_without_their_options() {
    let next = tlv(UTC, &[b"250201000000Z"]);
    let entry = |serial: u8| seq(&[&int(&[serial]), &tlv(UTC, &[b"250101000000Z"])]);
    let entries = seq(&[&entry(1), &entry(2), &entry(3)]);
    for (der, count, next_update) in [
        (list(&[]), 0, None),
        (list(std::slice::from_ref(&next)), 0, Some("2025-02-01T00:00:00Z")),
        (list(std::slice::from_ref(&entries)), 3, None),
        (list(&[next, entries]), 3, Some("2025-02-01T00:00:00Z")),
    ] {
        let record = crl(&der).unwrap();
        assert_eq!((record.issuer(), record.entries()), ("CN=issuer", count));
        assert_eq!(record.next_update_text().as_deref(), next_update);
        assert_eq!((record.number(), record.unsupported()), (None, None));
        let found = crl_essentials(&der).unwrap();
        assert_eq!(found.issuer(&der), common_name("issuer"));
        assert_eq!((found.this_update, found.next_update), (record.this_update(), record.next_update()));
    }
}

#[test]
fn numbers_of_lists_are_told_and_compared() {
    for (content, shown, octets) in [
        (vec![0], "0", vec![]),
        (vec![1], "1", vec![1]),
        (vec![0, 0xff], "255", vec![0xff]),
        (vec![0x12, 0x34], "4660", vec![0x12, 0x34]),
        (vec![0x7f; 16], "169473963133173273960190490760135540607", vec![0x7f; 16]),
        (
            [vec![0x01], vec![0; 16]].concat(),
            "0x0100000000000000000000000000000000",
            [vec![1], vec![0; 16]].concat(),
        ),
    ] {
        let der = with_extensions(&[extension(0x14, &int(&content))]);
        assert_eq!(crl(&der).unwrap().number(), Some(shown));
        assert_eq!(crl_essentials(&der).unwrap().number, Some(octets));
    }
    assert_eq!(crl_essentials(&with_extensions(&[extension(0x14, b"no DER")])).unwrap().number, None);
}

#[test]
fn lists_that_are_not_complete_are_unsupported() {
    let point = |parts: &[&[u8]]| extension(0x1c, &seq(parts));
    let name = tlv(0xa0, &[&tlv(0xa0, &[&tlv(0x86, &[b"http://a/1.crl"])])]);
    for (extensions, what) in [
        (vec![extension(0x1b, &int(&[1]))], Some("delta CRLs")),
        (vec![point(&[&[0x84, 1, 0xff]])], Some("indirect CRLs")),
        (vec![point(&[&name, &[0x84, 1, 0xff]])], Some("indirect CRLs")),
        (vec![point(&[&name])], Some("partitioned CRLs")),
        (vec![point(&[&[0x81, 1, 0xff]])], Some("partitioned CRLs")),
        (vec![point(&[&[0x82, 1, 0xff]])], Some("partitioned CRLs")),
        (vec![point(&[&[0x83, 2, 1, 6]])], Some("partitioned CRLs")),
        (vec![point(&[&[0x85, 1, 0xff]])], Some("partitioned CRLs")),
        (vec![point(&[&name]), extension(0x1b, &int(&[1]))], Some("delta CRLs")),
        (vec![extension(0x1b, &int(&[1])), point(&[&name])], Some("delta CRLs")),
        (vec![point(&[])], None),
        (vec![point(&[&[0x81, 1, 0], &[0x84, 1, 0]])], None),
        (vec![extension(0x14, &int(&[1]))], None),
    ] {
        let der = with_extensions(&extensions);
        assert_eq!(crl_essentials(&der).unwrap().unsupported, what);
        assert_eq!(crl(&der).unwrap().unsupported(), what);
    }
}

#[test]
fn a_broken_list_is_told_with_what_is_wrong() {
    let next = tlv(UTC, &[b"250201000000Z"]);
    for (der, what) in [
        (b"\0".to_vec(), "it is not DER, or cut"),
        ([list(&[]), vec![0]].concat(), "there are bytes behind its end"),
        (list(&[tlv(UTC, &[b"soon"])]), "its next_update is not a time"),
        (list(&[seq(&[&int(&[1])])]), "an entry is broken"),
        (list(&[seq(&[&seq(&[&int(&[1])])])]), "an entry is broken"),
        (list(&[next.clone(), next]), "it has fields that no CRL has"),
        (list(&[tlv(0xa0, &[&int(&[1])])]), "its extensions are broken"),
        (Certificate::default().der(), "it has no signature algorithm"),
    ] {
        assert_eq!(crl_essentials(&der).unwrap_err(), what);
        assert_eq!(crl(&der).unwrap_err(), what);
    }
    assert_eq!(essentials(&list(&[])).unwrap_err(), "it has no validity");
}

fn samples() -> [Vec<u8>; 2] {
    let names =
        seq(&[&tlv(0x82, &[b"localhost"]), &tlv(0x87, &[&[127, 0, 0, 1]]), &tlv(0xa4, &[&common_name("a")])]);
    let usages = [
        extension(0x11, &names),
        extension(0x13, &seq(&[&[1, 1, 0xff]])),
        extension(0x0f, &[3, 2, 5, 0xa0]),
        extension(0x25, &seq(&[&object(&[0x2b, 6, 1, 5, 5, 7, 3, 1])])),
    ];
    let point = extension(0x1c, &seq(&[&[0x84, 1, 0xff]]));
    [Certificate::with_extensions(&usages).der(), with_extensions(&[extension(0x14, &int(&[1])), point])]
}

proptest! {
    /// Whoever has parsed the essentials may ask for the record.
    #[test]
    fn a_record_can_be_had_wherever_the_essentials_can(
        which in 0..2_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut der = samples()[which].clone();
        for (at, value) in changes {
            let at = at.index(der.len());
            der[at] = value;
        }
        prop_assert_eq!(essentials(&der).is_ok(), certificate(&der).is_ok());
        prop_assert_eq!(crl_essentials(&der).is_ok(), crl(&der).is_ok());
        let shown = [certificate(&der).map(|record| record.to_string()), crl(&der).map(|record| record.to_string())];
        for shown in shown.into_iter().flatten() {
            prop_assert!(!shown.chars().any(|c| crate::text::is_hostile(c) && c != '\\'), "{}", shown);
        }
        if let Ok(found) = essentials(&der) {
            prop_assert_eq!(der[found.spki][0], 0x30);
        }
    }

    #[test]
    fn a_cut_is_always_told(which in 0..2_usize, at in any::<prop::sample::Index>()) {
        let der = &samples()[which];
        let cut = &der[..at.index(der.len())];
        prop_assert!(essentials(cut).is_err() && crl_essentials(cut).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (essentials(&bytes), certificate(&bytes), crl_essentials(&bytes), crl(&bytes));
    }
}
