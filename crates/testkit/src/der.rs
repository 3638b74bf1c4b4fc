//! The few DER structures of private keys that are taken apart or put together here.
//!
//! Only for keys that this crate generated itself: malformed input is a bug, so it panics. Reading other
//! people's keys is what a real parser is for.

pub(crate) const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// The private key inside a PKCS #8 `PrivateKeyInfo` (RFC 5208 section 5).
pub(crate) fn pkcs8_private_key(pkcs8: &[u8]) -> &[u8] {
    let (info, _) = take(SEQUENCE, pkcs8);
    let (_version, rest) = take(INTEGER, info);
    let (_algorithm, rest) = take(SEQUENCE, rest);
    take(OCTET_STRING, rest).0
}

/// The private number inside an `ECPrivateKey` (RFC 5915 section 3).
pub(crate) fn ec_private_scalar(ec: &[u8]) -> &[u8] {
    let (body, _) = take(SEQUENCE, ec);
    let (_version, rest) = take(INTEGER, body);
    take(OCTET_STRING, rest).0
}

/// An `ECPrivateKey` with both optional fields. Inside PKCS #8 the curve is left out, but in a file of its
/// own nothing else names it.
pub(crate) fn ec_private_key(scalar: &[u8], curve: &[u8], public: &[u8]) -> Vec<u8> {
    let mut bits = vec![0]; // no unused bits
    bits.extend_from_slice(public);
    let fields = [
        put(INTEGER, &[1]),
        put(OCTET_STRING, scalar),
        put(CONTEXT_0, &put(OID, curve)),
        put(CONTEXT_1, &put(BIT_STRING, &bits)),
    ];
    put(SEQUENCE, &fields.concat())
}

/// An Ed25519 key as OpenSSL writes it: PKCS #8 version 1 (RFC 8410 section 7), made from one of version 2.
pub(crate) fn ed25519_version_1(pkcs8: &[u8]) -> Vec<u8> {
    let algorithm = put(SEQUENCE, &put(OID, OID_ED25519));
    let fields = [put(INTEGER, &[0]), algorithm, put(OCTET_STRING, pkcs8_private_key(pkcs8))];
    put(SEQUENCE, &fields.concat())
}

fn put(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("an EC key of at most 384 bits is below 256 bytes");
    let mut out = vec![tag];
    if length >= 0x80 {
        out.push(0x81);
    }
    out.push(length);
    out.extend_from_slice(content);
    out
}

fn take(tag: u8, input: &[u8]) -> (&[u8], &[u8]) {
    let [found, length, rest @ ..] = input else { panic!("generated key: DER ends early") };
    assert_eq!(*found, tag, "generated key: unexpected DER tag");
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at(usize::from(long & 0x7f));
            (digits.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit)), rest)
        }
    };
    rest.split_at(length)
}
