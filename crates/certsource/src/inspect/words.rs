//! Words for what certificates hold as numbers: algorithms, usages, serial numbers.

use x509_parser::asn1_rs::Oid;
use x509_parser::extensions::{ExtendedKeyUsage, KeyUsage};
use x509_parser::prelude::FromDer;

use super::der::{BIT_STRING, INTEGER, OID, Reader, SEQUENCE, magnitude, octets};
use super::name::hex;

/// Object identifiers as the content of their DER.
pub(crate) mod oid {
    pub(crate) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    pub(crate) const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
    pub(crate) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    pub(crate) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    pub(crate) const ED448: &[u8] = &[0x2b, 0x65, 0x71];
}

const CURVES: &[(&[u8], &str)] = &[
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "P-256"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "P-384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07], "brainpoolP256r1"),
    (&[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b], "brainpoolP384r1"),
    (&[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d], "brainpoolP512r1"),
];

/// Algorithms whose name says all, for keys and signatures: RFC 8410, FIPS 204 (RFC 9881).
const ALGORITHMS: &[(&[u8], &str)] = &[
    (oid::ED25519, "Ed25519"),
    (oid::ED448, "Ed448"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11], "ML-DSA-44"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12], "ML-DSA-65"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13], "ML-DSA-87"),
];

/// Names from RFC 3279, 4055 and 5758.
const SIGNATURES: &[(&[u8], &str)] = &[
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], "ecdsa-with-SHA1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01], "ecdsa-with-SHA224"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], "ecdsa-with-SHA256"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], "ecdsa-with-SHA384"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], "ecdsa-with-SHA512"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x02], "md2WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], "md5WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], "sha1WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0e], "sha224WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], "sha256WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], "sha384WithRSAEncryption"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], "sha512WithRSAEncryption"),
    (oid::RSA_PSS, "RSASSA-PSS"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], "dsa-with-sha1"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x02], "dsa-with-sha256"),
];

fn find(table: &[(&[u8], &'static str)], oid: &[u8]) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == oid).map(|(_, word)| *word)
}

fn dotted(oid: &[u8]) -> String {
    Oid::new(oid.into()).to_id_string()
}

/// The signature algorithm: its name, or its object identifier with dots.
pub(super) fn signature(algorithm: &Oid<'_>) -> String {
    let oid = algorithm.as_bytes();
    find(SIGNATURES, oid).or_else(|| find(ALGORITHMS, oid)).map_or_else(|| dotted(oid), str::to_owned)
}

/// The algorithm and size of a SubjectPublicKeyInfo. `None`: it is broken.
pub(super) fn key(spki: &[u8]) -> Option<String> {
    let mut outer = Reader::within(SEQUENCE, spki)?;
    let mut algorithm = Reader::new(outer.expect(SEQUENCE)?);
    let oid = algorithm.expect(OID)?;
    let bits = outer.expect(BIT_STRING)?;
    match oid {
        oid::RSA => Some(format!("RSA {}", modulus_bits(bits)?)),
        oid::RSA_PSS => Some(format!("RSASSA-PSS {}", modulus_bits(bits)?)),
        oid::EC => {
            let parameters = algorithm.value()?;
            let curve = match parameters.tag {
                OID => {
                    find(CURVES, parameters.content).map_or_else(|| dotted(parameters.content), str::to_owned)
                }
                // A curve that is spelt out. No TLS library takes it.
                _ => "explicit".to_owned(),
            };
            Some(format!("ECDSA {curve}"))
        }
        _ => Some(find(ALGORITHMS, oid).map_or_else(|| dotted(oid), str::to_owned)),
    }
}

fn modulus_bits(bits: &[u8]) -> Option<usize> {
    let modulus = magnitude(Reader::within(SEQUENCE, octets(bits)?)?.expect(INTEGER)?);
    let first = modulus.first()?;
    Some(modulus.len() * 8 - usize::try_from(first.leading_zeros()).ok()?)
}

/// The words of RFC 5280, section 4.2.1.3. `None`: the extension's value is broken.
pub(super) fn key_usages(value: &[u8]) -> Option<Vec<&'static str>> {
    let ([], usage) = KeyUsage::from_der(value).ok()? else { return None };
    let words = [
        (usage.digital_signature(), "digitalSignature"),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), "keyCertSign"),
        (usage.crl_sign(), "cRLSign"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    Some(words.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word).collect())
}

/// The words of RFC 5280, section 4.2.1.12; others as object identifiers. `None`: the extension's value is broken.
pub(super) fn extended_key_usages(value: &[u8]) -> Option<Vec<String>> {
    let ([], usage) = ExtendedKeyUsage::from_der(value).ok()? else { return None };
    let words = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let known = words.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word.to_owned());
    Some(known.chain(usage.other.iter().map(Oid::to_id_string)).collect())
}

/// A serial number in lower-case hex, two digits an octet; a negative one, which should not be, with a minus sign.
pub(super) fn serial(integer: &[u8]) -> String {
    let mut text = String::new();
    let is_negative = integer.first().is_some_and(|first| first & 0x80 != 0);
    if !is_negative {
        let magnitude = magnitude(integer);
        hex(if magnitude.is_empty() { &[0] } else { magnitude }, &mut text);
        return text;
    }
    let mut carry = true;
    // Two's complement, from the last octet on.
    let mut octets: Vec<u8> = integer
        .iter()
        .rev()
        .map(|octet| {
            let (sum, overflow) = (!octet).overflowing_add(u8::from(carry));
            carry = overflow;
            sum
        })
        .collect();
    octets.reverse();
    text.push('-');
    hex(magnitude(&octets), &mut text);
    text
}
