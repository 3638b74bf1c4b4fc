//! The DER of private keys, read as far as it tells format, algorithm and public half. Everything borrows: no byte of
//! a key is copied, and none is in an error.

use crate::error::Reason;
use crate::inspect::der::{
    BIT_STRING, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, context, context_constructed, magnitude, octets,
};
use crate::inspect::oid;
use crate::key::KeyFormat;

/// Why a DER is not taken as a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Broken,
    Encrypted,
    /// Its label says another format than this, which it has.
    Mislabelled(KeyFormat),
}

impl Refused {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Broken | Self::Mislabelled(_) => Reason::Malformed,
            Self::Encrypted => Reason::Encrypted,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Broken => "the private key's DER is broken",
            Self::Encrypted => {
                "the private key is encrypted: decrypt it with `openssl pkey -in FILE -out NEW`"
            }
            Self::Mislabelled(KeyFormat::Pkcs8) => {
                "the private key is in PKCS#8, not in the format of its label: it should be BEGIN PRIVATE KEY"
            }
            Self::Mislabelled(KeyFormat::Pkcs1) => {
                "the private key is in PKCS#1, not in the format of its label: it should be BEGIN RSA PRIVATE KEY"
            }
            Self::Mislabelled(KeyFormat::Sec1) => {
                "the private key is in SEC1, not in the format of its label: it should be BEGIN EC PRIVATE KEY"
            }
        }
    }
}

/// What a private key tells.
pub(super) struct Structure<'a> {
    pub(super) algorithm: Algorithm<'a>,
    pub(super) public: Option<Public<'a>>,
}

/// The kind of a key, and for an elliptic curve which one, if that is told.
#[derive(Clone, Copy)]
pub(super) enum Algorithm<'a> {
    Rsa,
    Ec(Option<&'a [u8]>),
    Other(&'a [u8]),
}

impl<'a> Algorithm<'a> {
    fn read(identifier: &'a [u8]) -> Option<Self> {
        let mut inner = Reader::new(identifier);
        let algorithm = match inner.expect(OID)? {
            oid::RSA | oid::RSA_PSS => Self::Rsa,
            // Parameters that spell out a curve are no name of it.
            oid::EC => Self::Ec(inner.expect(OID)),
            other => Self::Other(other),
        };
        if !inner.is_empty() {
            inner.value()?;
        }
        Some(algorithm)
    }

    /// `false` if two halves of one pair cannot have these two.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rsa, Self::Rsa) => true,
            (Self::Ec(Some(mine)), Self::Ec(Some(theirs))) => mine == theirs,
            (Self::Ec(_), Self::Ec(_)) => true,
            (Self::Other(mine), Self::Other(theirs)) => mine == theirs,
            _ => false,
        }
    }
}

/// A public key.
#[derive(Clone, Copy)]
pub(super) enum Public<'a> {
    /// Modulus and exponent as DER integers.
    Rsa {
        modulus: &'a [u8],
        exponent: &'a [u8],
    },
    /// A point, compressed or not.
    Ec(&'a [u8]),
    Other(&'a [u8]),
}

impl<'a> Public<'a> {
    /// The algorithm and key of a SubjectPublicKeyInfo.
    pub(super) fn of_certificate(spki: &'a [u8]) -> Option<(Algorithm<'a>, Self)> {
        let mut outer = Reader::within(SEQUENCE, spki)?;
        let algorithm = Algorithm::read(outer.expect(SEQUENCE)?)?;
        let key = octets(outer.expect(BIT_STRING)?)?;
        let key = match algorithm {
            Algorithm::Rsa => {
                let mut inner = Reader::within(SEQUENCE, key)?;
                Self::Rsa { modulus: inner.expect(INTEGER)?, exponent: inner.expect(INTEGER)? }
            }
            Algorithm::Ec(_) => Self::Ec(key),
            Algorithm::Other(_) => Self::Other(key),
        };
        Some((algorithm, key))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Rsa { modulus, exponent },
                Self::Rsa { modulus: their_modulus, exponent: their_exponent },
            ) => {
                magnitude(modulus) == magnitude(their_modulus)
                    && magnitude(exponent) == magnitude(their_exponent)
            }
            (Self::Ec(mine), Self::Ec(theirs)) => is_same_point(mine, theirs),
            (Self::Other(mine), Self::Other(theirs)) => mine == theirs,
            _ => false,
        }
    }

    pub(super) fn to_der(self) -> Vec<u8> {
        match self {
            Self::Rsa { modulus, exponent } => {
                let mut integers = Vec::with_capacity(modulus.len() + exponent.len() + 8);
                push(INTEGER, modulus, &mut integers);
                push(INTEGER, exponent, &mut integers);
                let mut der = Vec::with_capacity(integers.len() + 4);
                push(SEQUENCE, &integers, &mut der);
                der
            }
            Self::Ec(key) | Self::Other(key) => key.to_vec(),
        }
    }
}

fn push(tag: u8, content: &[u8], der: &mut Vec<u8>) {
    der.push(tag);
    let length = content.len().to_be_bytes();
    let length = magnitude(&length);
    match *length {
        [] => der.push(0),
        [short @ 0..=0x7f] => der.push(short),
        _ => {
            der.push(0x80 | u8::try_from(length.len()).expect("a length has at most 8 octets"));
            der.extend_from_slice(length);
        }
    }
    der.extend_from_slice(content);
}

/// Whether two points (SEC1, section 2.3.3) are one. A compressed one has Y as one bit in its first octet.
fn is_same_point(mine: &[u8], theirs: &[u8]) -> bool {
    fn x_and_sign(point: &[u8]) -> Option<(&[u8], u8)> {
        match *point {
            [first @ (2 | 3), ref x @ ..] => Some((x, first & 1)),
            // 6 and 7 are 4 with the bit added.
            [4 | 6 | 7, ref xy @ ..] if xy.len() % 2 == 0 => {
                let (x, y) = xy.split_at(xy.len() / 2);
                Some((x, y.last()? & 1))
            }
            _ => None,
        }
    }
    if mine.first() == theirs.first() {
        return mine == theirs;
    }
    matches!((x_and_sign(mine), x_and_sign(theirs)), (Some(mine), Some(theirs)) if mine == theirs)
}

/// The format of a private key, by its structure.
pub(super) fn detect(der: &[u8]) -> Result<KeyFormat, Refused> {
    for format in [KeyFormat::Pkcs8, KeyFormat::Pkcs1, KeyFormat::Sec1] {
        if read(format, der).is_ok() {
            return Ok(format);
        }
    }
    Err(if encrypted(der).is_some() { Refused::Encrypted } else { Refused::Broken })
}

/// Reads a private key of this format.
pub(super) fn read(format: KeyFormat, der: &[u8]) -> Result<Structure<'_>, Refused> {
    let structure = match format {
        KeyFormat::Pkcs8 => pkcs8(der),
        KeyFormat::Pkcs1 => {
            pkcs1(der).map(|public| Structure { algorithm: Algorithm::Rsa, public: Some(public) })
        }
        KeyFormat::Sec1 => sec1(der, None),
    };
    structure.ok_or(Refused::Broken)
}

/// RFC 5958, section 2, of which RFC 5208 is the first version.
fn pkcs8(der: &[u8]) -> Option<Structure<'_>> {
    let mut fields = Reader::within(SEQUENCE, der)?;
    let [0 | 1] = fields.expect(INTEGER)? else { return None };
    let algorithm = Algorithm::read(fields.expect(SEQUENCE)?)?;
    let key = fields.expect(OCTET_STRING)?;
    fields.optional(context_constructed(0))?;
    let public = match fields.optional(context(1))? {
        Some(bits) => Some(octets(bits)?),
        None => None,
    };
    fields.end()?;
    match algorithm {
        Algorithm::Rsa => Some(Structure { algorithm, public: Some(pkcs1(key)?) }),
        Algorithm::Ec(curve) => {
            let mut structure = sec1(key, curve)?;
            structure.public = structure.public.or(public.map(Public::Ec));
            Some(structure)
        }
        Algorithm::Other(oid) => {
            if oid == oid::ED25519 && !matches!(key, [OCTET_STRING, 32, seed @ ..] if seed.len() == 32) {
                return None;
            }
            Some(Structure { algorithm, public: public.map(Public::Other) })
        }
    }
}

/// RFC 8017, appendix A.1.2.
fn pkcs1(der: &[u8]) -> Option<Public<'_>> {
    let mut fields = Reader::within(SEQUENCE, der)?;
    let [version @ (0 | 1)] = *fields.expect(INTEGER)? else { return None };
    let modulus = fields.expect(INTEGER)?;
    let exponent = fields.expect(INTEGER)?;
    // The private exponent, two primes, two exponents and a coefficient.
    for _ in 0..6 {
        fields.expect(INTEGER)?;
    }
    if version == 1 {
        fields.expect(SEQUENCE)?;
    }
    fields.end()?;
    let is_positive = |integer: &[u8]| {
        integer.first().is_some_and(|first| first & 0x80 == 0) && !magnitude(integer).is_empty()
    };
    (is_positive(modulus) && is_positive(exponent)).then_some(Public::Rsa { modulus, exponent })
}

/// RFC 5915, section 3. The curve may be told outside.
fn sec1<'a>(der: &'a [u8], outer: Option<&'a [u8]>) -> Option<Structure<'a>> {
    let mut fields = Reader::within(SEQUENCE, der)?;
    let [1] = fields.expect(INTEGER)? else { return None };
    if fields.expect(OCTET_STRING)?.is_empty() {
        return None;
    }
    let curve = match fields.optional(context_constructed(0))? {
        Some(parameters) => Reader::new(parameters).expect(OID),
        None => None,
    };
    let public = match fields.optional(context_constructed(1))? {
        Some(bits) => {
            let mut inner = Reader::new(bits);
            let point = octets(inner.expect(BIT_STRING)?)?;
            inner.end()?;
            Some(Public::Ec(point))
        }
        None => None,
    };
    fields.end()?;
    Some(Structure { algorithm: Algorithm::Ec(outer.or(curve)), public })
}

/// EncryptedPrivateKeyInfo (RFC 5958, section 3).
fn encrypted(der: &[u8]) -> Option<()> {
    let mut fields = Reader::within(SEQUENCE, der)?;
    let mut algorithm = Reader::new(fields.expect(SEQUENCE)?);
    algorithm.expect(OID)?;
    fields.expect(OCTET_STRING)?;
    fields.end()
}
