//! Keys of every format against the certificates they belong to, and do not belong to.

use certsource_testkit::{Ca, Issued, KeyKind};
use pki_types::PrivateKeyDer;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{KeyFormat, Match, PrivateKey};
use crate::error::Reason;
use crate::inspect::der::write::{bits, int, object, seq, tlv};
use crate::inspect::{self, oid};
use crate::pem::{self, Content};

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const NULL: &[u8] = &[5, 0];

fn key(format: KeyFormat, der: &[u8]) -> PrivateKey {
    PrivateKey::new(format, Zeroizing::new(der.to_vec()))
}

fn pkcs8(algorithm: &[u8], inner: &[u8]) -> Vec<u8> {
    seq(&[&int(&[0]), algorithm, &tlv(4, &[inner])])
}

/// The structure of an RSA key; the numbers behind the first two are any.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let any = int(&[0x11; 32]);
    seq(&[&int(&[0]), &int(modulus), &int(exponent), &any, &any, &any, &any, &any, &any])
}

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let algorithm = seq(&[&object(oid::RSA), NULL]);
    seq(&[&algorithm, &bits(&seq(&[&int(modulus), &int(exponent)]))])
}

fn ec_algorithm(curve: &[u8]) -> Vec<u8> {
    seq(&[&object(oid::EC), &object(curve)])
}

fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    seq(&[&ec_algorithm(curve), &bits(point)])
}

fn sec1(curve: Option<&[u8]>, point: Option<&[u8]>) -> Vec<u8> {
    let curve = curve.map_or_else(Vec::new, |curve| tlv(0xa0, &[&object(curve)]));
    let point = point.map_or_else(Vec::new, |point| tlv(0xa1, &[&bits(point)]));
    seq(&[&int(&[1]), &tlv(4, &[&[0x22; 32]]), &curve, &point])
}

fn from_pem(text: &str) -> PrivateKey {
    pem::sections(text.as_bytes())
        .find_map(|section| match section.unwrap().content {
            Content::PrivateKey(key) => Some(key),
            _ => None,
        })
        .unwrap()
}

fn spki(issued: &Issued) -> Vec<u8> {
    let der = issued.leaf_der();
    der[inspect::essentials(&der).unwrap().spki].to_vec()
}

#[test]
fn minted_keys_match_their_leaf_and_no_other() {
    let ca = Ca::new("root");
    let kinds = [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519];
    let issued = kinds.map(|kind| (ca.leaf("a").key(kind).issue(), ca.leaf("b").key(kind).issue()));
    for (mine, (first, other)) in issued.iter().enumerate() {
        let is_told = kinds[mine] != KeyKind::Ed25519;
        let mut texts = vec![first.key_pem()];
        texts.extend(first.key_sec1_pem());
        for text in texts {
            let key = from_pem(&text);
            assert_eq!(key.check(), Ok(()));
            assert_eq!(key.matches(&spki(first)), if is_told { Match::Yes } else { Match::Unknown });
            assert_eq!(key.matches(&spki(other)), if is_told { Match::No } else { Match::Unknown });
            for (theirs, (another, _)) in issued.iter().enumerate() {
                if theirs != mine {
                    assert_eq!(key.matches(&spki(another)), Match::No, "{mine} {theirs}");
                }
            }
            let half = key.public_half();
            assert_eq!(half.is_some(), is_told);
            assert!(half.is_none_or(|half| spki(first).ends_with(&half)));
        }
    }
    assert!(issued[0].0.key_sec1_pem().is_some(), "SEC1 is tested");
}

#[test]
fn ed25519_in_version_2_holds_its_public_half() {
    let pair = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = |pair: &rcgen::KeyPair| rcgen::PublicKeyData::subject_public_key_info(pair);
    let (mine, other) = (pair(), pair());
    let key = key(KeyFormat::Pkcs8, &mine.serialize_der());
    assert_eq!(key.check(), Ok(()));
    assert_eq!(key.matches(&public(&mine)), Match::Yes);
    assert_eq!(key.matches(&public(&other)), Match::No);
    assert!(public(&mine).ends_with(&key.public_half().unwrap()));
}

#[test]
fn rsa_keys_match_by_modulus_and_exponent() {
    let modulus = [&[0, 0xc1][..], &[0x5a; 255]].concat();
    let exponent = [1, 0, 1];
    let algorithm = seq(&[&object(oid::RSA), NULL]);
    let pss = seq(&[&object(oid::RSA_PSS)]);
    let inner = rsa(&modulus, &exponent);
    for key in [
        key(KeyFormat::Pkcs1, &inner),
        key(KeyFormat::Pkcs8, &pkcs8(&algorithm, &inner)),
        key(KeyFormat::Pkcs8, &pkcs8(&pss, &inner)),
    ] {
        assert_eq!(key.check(), Ok(()));
        assert_eq!(key.matches(&rsa_spki(&modulus, &exponent)), Match::Yes);
        // As some write it, without the octet that makes it positive.
        assert_eq!(key.matches(&rsa_spki(&modulus[1..], &exponent)), Match::Yes);
        let mut other = modulus.clone();
        other[200] ^= 1;
        assert_eq!(key.matches(&rsa_spki(&other, &exponent)), Match::No);
        assert_eq!(key.matches(&rsa_spki(&modulus, &[3])), Match::No);
        assert_eq!(key.matches(&ec_spki(P256, &[4; 65])), Match::No);
        assert_eq!(key.public_half().unwrap(), seq(&[&int(&modulus), &int(&exponent)]));
    }
}

#[test]
fn rsa_keys_with_more_than_two_primes_say_so() {
    let any = int(&[0x11; 32]);
    let numbers = [&int(&[5])[..], &int(&[3]), &any, &any, &any, &any, &any, &any].concat();
    let others = seq(&[&seq(&[&any, &any, &any])]);
    for (version, more, is_whole) in
        [(0, &[][..], true), (1, &others, true), (0, &others, false), (1, &[], false)]
    {
        let der = seq(&[&int(&[version]), &numbers, more]);
        assert_eq!(key(KeyFormat::Pkcs1, &der).check().is_ok(), is_whole, "{version}");
    }
}

#[test]
fn a_compressed_point_is_the_one_with_its_sign() {
    for (last, sign) in [(0x44, 2), (0x45, 3)] {
        let whole = [&[4][..], &[0x33; 32], &[0x44; 31], &[last]].concat();
        for first in [2, 3] {
            let compressed = [&[first][..], &[0x33; 32]].concat();
            let expected = if first == sign { Match::Yes } else { Match::No };
            let mine = key(KeyFormat::Sec1, &sec1(Some(P256), Some(&compressed)));
            assert_eq!(mine.matches(&ec_spki(P256, &whole)), expected);
            let mine = key(KeyFormat::Sec1, &sec1(Some(P256), Some(&whole)));
            assert_eq!(mine.matches(&ec_spki(P256, &compressed)), expected);
        }
    }
}

#[test]
fn elliptic_curve_keys_match_by_curve_and_point() {
    let point = [&[4][..], &[0x33; 32], &[0x44; 31], &[0x45]].concat();
    let compressed = [&[3][..], &[0x33; 32]].concat();
    let other_sign = [&[2][..], &[0x33; 32]].concat();
    let other = [&[4][..], &[0x33; 32], &[0x44; 31], &[0x47]].concat();
    let in_pkcs8 = |curve, inner: &[u8]| key(KeyFormat::Pkcs8, &pkcs8(&ec_algorithm(curve), inner));
    for (key, expected) in [
        (key(KeyFormat::Sec1, &sec1(Some(P256), Some(&point))), Match::Yes),
        (key(KeyFormat::Sec1, &sec1(None, Some(&point))), Match::Yes),
        (key(KeyFormat::Sec1, &sec1(Some(P256), Some(&compressed))), Match::Yes),
        (key(KeyFormat::Sec1, &sec1(Some(P256), Some(&other_sign))), Match::No),
        (key(KeyFormat::Sec1, &sec1(Some(P256), Some(&other))), Match::No),
        (key(KeyFormat::Sec1, &sec1(Some(P384), Some(&point))), Match::No),
        (key(KeyFormat::Sec1, &sec1(Some(P384), None)), Match::No),
        (key(KeyFormat::Sec1, &sec1(Some(P256), None)), Match::Unknown),
        (key(KeyFormat::Sec1, &sec1(None, None)), Match::Unknown),
        (in_pkcs8(P256, &sec1(None, Some(&point))), Match::Yes),
        (in_pkcs8(P256, &sec1(Some(P256), Some(&other))), Match::No),
        (in_pkcs8(P384, &sec1(None, Some(&point))), Match::No),
        (in_pkcs8(P256, &sec1(None, None)), Match::Unknown),
        // The public half beside the key, as version 2 allows it for any algorithm.
        (
            key(
                KeyFormat::Pkcs8,
                &seq(&[
                    &int(&[1]),
                    &ec_algorithm(P256),
                    &tlv(4, &[&sec1(None, None)]),
                    &tlv(0x81, &[&[0], &point]),
                ]),
            ),
            Match::Yes,
        ),
    ] {
        assert_eq!(key.check(), Ok(()));
        assert_eq!(key.matches(&ec_spki(P256, &point)), expected);
    }
}

#[test]
fn a_key_of_an_algorithm_that_is_not_known_is_left_to_the_crypto_library() {
    let algorithm = |last| seq(&[&object(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, last])]);
    let mine = key(KeyFormat::Pkcs8, &pkcs8(&algorithm(0x11), &[0x80, 1, 7]));
    assert_eq!(mine.check(), Ok(()));
    assert_eq!(mine.matches(&seq(&[&algorithm(0x11), &bits(&[9; 40])])), Match::Unknown);
    assert_eq!(mine.matches(&seq(&[&algorithm(0x12), &bits(&[9; 40])])), Match::No);
}

#[test]
fn what_cannot_be_read_matches_nothing_for_sure() {
    let point = [4; 65];
    let good = key(KeyFormat::Sec1, &sec1(Some(P256), Some(&point)));
    assert_eq!(good.matches(b"no DER"), Match::Unknown);
    assert_eq!(key(KeyFormat::Sec1, b"no DER").matches(&ec_spki(P256, &point)), Match::Unknown);
    assert_eq!(key(KeyFormat::Sec1, b"no DER").public_half(), None);
}

fn samples() -> Vec<(KeyFormat, Vec<u8>)> {
    let point = [4; 65];
    let rsa = rsa(&[0, 0xc1, 0x5a], &[1, 0, 1]);
    let ca = Ca::new("root");
    let minted = |kind| match ca.leaf("a").key(kind).issue().key_der() {
        PrivateKeyDer::Pkcs8(der) => (KeyFormat::Pkcs8, der.secret_pkcs8_der().to_vec()),
        _ => panic!("the testkit gives PKCS#8"),
    };
    vec![
        (KeyFormat::Pkcs8, pkcs8(&seq(&[&object(oid::RSA), NULL]), &rsa)),
        (KeyFormat::Pkcs1, rsa),
        (KeyFormat::Sec1, sec1(Some(P256), Some(&point))),
        (KeyFormat::Sec1, sec1(None, None)),
        minted(KeyKind::EcdsaP256),
        minted(KeyKind::Ed25519),
    ]
}

#[test]
fn the_format_is_told_by_the_structure() {
    for (format, der) in samples() {
        let found = PrivateKey::from_der(Zeroizing::new(der.clone())).unwrap();
        assert_eq!((found.format(), found.secret_der()), (format, &der[..]));
        for label in [KeyFormat::Pkcs8, KeyFormat::Pkcs1, KeyFormat::Sec1] {
            let checked = key(label, &der).check();
            if label == format {
                assert_eq!(checked, Ok(()));
            } else {
                let (reason, message) = checked.unwrap_err();
                assert_eq!(reason, Reason::Malformed);
                assert!(message.contains("not in the format of its label"), "{message}");
            }
        }
    }
}

#[test]
fn cut_and_lengthened_keys_are_malformed() {
    for (format, der) in samples() {
        let cuts = (0..der.len()).map(|end| der[..end].to_vec());
        for broken in cuts.chain([[&der[..], &[0]].concat(), [&[0], &der[..]].concat()]) {
            let (reason, message) = key(format, &broken).check().unwrap_err();
            assert_eq!((reason, message), (Reason::Malformed, "the private key's DER is broken"));
            let error = PrivateKey::from_der(Zeroizing::new(broken)).unwrap_err();
            assert_eq!(error.reason(), Reason::Malformed);
        }
    }
}

#[test]
fn broken_numbers_and_sizes_are_malformed() {
    let ed25519 = seq(&[&object(oid::ED25519)]);
    for (format, der) in [
        (KeyFormat::Pkcs1, rsa(&[0], &[1, 0, 1])),
        (KeyFormat::Pkcs1, rsa(&[0x80, 1], &[1, 0, 1])),
        (KeyFormat::Pkcs1, rsa(&[1], &[0])),
        (KeyFormat::Pkcs1, seq(&[&int(&[2]), &rsa(&[5], &[3])])),
        (KeyFormat::Pkcs8, pkcs8(&ed25519, &tlv(4, &[&[7; 31]]))),
        (KeyFormat::Pkcs8, pkcs8(&ed25519, &[7; 32])),
        (KeyFormat::Pkcs8, seq(&[&int(&[2]), &ed25519, &tlv(4, &[&tlv(4, &[&[7; 32]])])])),
        (KeyFormat::Pkcs8, pkcs8(&seq(&[&object(oid::RSA), NULL]), &sec1(None, None))),
        (KeyFormat::Sec1, seq(&[&int(&[1]), &tlv(4, &[])])),
    ] {
        assert_eq!(key(format, &der).check().unwrap_err().0, Reason::Malformed, "{format:?}");
    }
}

#[test]
fn an_encrypted_key_is_told_as_such() {
    let pbes2 = seq(&[&object(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d]), &seq(&[])]);
    let der = seq(&[&pbes2, &tlv(4, &[&[0x55; 64]])]);
    for format in [KeyFormat::Pkcs8, KeyFormat::Pkcs1, KeyFormat::Sec1] {
        assert_eq!(key(format, &der).check().unwrap_err().0, Reason::Encrypted);
    }
    assert_eq!(PrivateKey::from_der(Zeroizing::new(der)).unwrap_err().reason(), Reason::Encrypted);
}

#[test]
fn nothing_that_is_shown_holds_the_key() {
    for (format, der) in samples() {
        let shown = format!("{:?}", key(format, &der));
        assert_eq!(shown, format!("PrivateKey {{ format: {format:?}, .. }}"));
        let error = PrivateKey::from_der(Zeroizing::new(der[..der.len() - 1].to_vec())).unwrap_err();
        assert_eq!(error.to_string(), "the private key's DER is broken");
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(sample in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let samples = samples();
        let (format, mut der) = samples[sample.index(samples.len())].clone();
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        let key = key(format, &der);
        let _ = (key.check(), key.public_half());
        // Neither is sure: a bit of the private half changes nothing that is seen.
        let _ = key.matches(&ec_spki(P256, &[4; 65]));
        let _ = PrivateKey::from_der(Zeroizing::new(der));
    }

    #[test]
    fn arbitrary_bytes_are_no_key(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(PrivateKey::from_der(Zeroizing::new(bytes)).is_err());
    }
}
