//! The structure of certificates and CRLs, field by field, and the few values that loading needs.
//!
//! Every field stands at its place and nothing is left over, extensions and entries are lists of the right things; but
//! names and public keys are only passed over, and odd serial numbers and broken extension values pass, because TLS
//! libraries take them. Compared by changing single octets of 40 public roots: whatever rustls-webpki 0.103.17 takes,
//! this takes, unless a time cannot be read. Full parsers refuse some of it, and cost ten times as much.

use std::ops::Range;
use std::time::SystemTime;

use x509_parser::asn1_rs::Oid;

use super::der::{
    BIT_STRING, BOOLEAN, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, context, context_constructed,
    magnitude,
};
use super::time;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];

/// The fields of a certificate (RFC 5280, section 4.1). Names and the public key are with tag and length.
pub(super) struct CertificateFields<'a> {
    pub(super) serial: &'a [u8],
    pub(super) signature: Oid<'a>,
    pub(super) issuer: &'a [u8],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) subject: &'a [u8],
    pub(super) spki: &'a [u8],
    pub(super) extensions: Extensions<'a>,
}

/// The values of the extensions that are looked at, as they stand.
#[derive(Default)]
pub(super) struct Extensions<'a> {
    pub(super) basic_constraints: Option<&'a [u8]>,
    pub(super) key_usage: Option<&'a [u8]>,
    pub(super) extended_key_usage: Option<&'a [u8]>,
    pub(super) subject_alt_name: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn keep(&mut self, oid: &[u8], value: &'a [u8]) {
        match oid {
            BASIC_CONSTRAINTS => self.basic_constraints = Some(value),
            KEY_USAGE => self.key_usage = Some(value),
            EXTENDED_KEY_USAGE => self.extended_key_usage = Some(value),
            SUBJECT_ALT_NAME => self.subject_alt_name = Some(value),
            _ => {}
        }
    }

    pub(super) fn is_ca(&self) -> bool {
        let flag = self
            .basic_constraints
            .and_then(|value| Reader::within(SEQUENCE, value))
            .and_then(|mut inner| inner.expect(BOOLEAN));
        matches!(flag, Some([value]) if *value != 0)
    }
}

/// Goes through a certificate.
///
/// # Errors
/// What is wrong, if it is not a certificate.
pub(super) fn certificate(der: &[u8]) -> Result<CertificateFields<'_>, &'static str> {
    let (mut tbs, signature) = signed(der)?;
    tbs.optional(context_constructed(0)).ok_or("its version is broken")?;
    let serial = tbs.expect(INTEGER).ok_or("it has no serial number")?;
    algorithm(&mut tbs).ok_or("it has no signature algorithm")?;
    let issuer = tbs.expect_whole(SEQUENCE).ok_or("it has no issuer")?;
    let mut validity = Reader::new(tbs.expect(SEQUENCE).ok_or("it has no validity")?);
    let not_before = time::read(&mut validity).ok_or("its not_before is not a time")?;
    let not_after = time::read(&mut validity).ok_or("its not_after is not a time")?;
    validity.end().ok_or("its validity has more than two times")?;
    let subject = tbs.expect_whole(SEQUENCE).ok_or("it has no subject")?;
    let spki = tbs.expect_whole(SEQUENCE).ok_or("it has no public key")?;
    for unique_id in [1, 2] {
        tbs.optional(context(unique_id)).ok_or("a unique identifier is broken")?;
    }
    let mut extensions = Extensions::default();
    if let Some(list) = tbs.optional(context_constructed(3)).ok_or("its extensions are broken")? {
        each_extension(list, |oid, value| extensions.keep(oid, value)).ok_or("its extensions are broken")?;
    }
    tbs.end().ok_or("it has fields that no certificate has")?;
    Ok(CertificateFields { serial, signature, issuer, not_before, not_after, subject, spki, extensions })
}

/// The fields of a CRL (RFC 5280, section 5.1).
pub(super) struct CrlFields<'a> {
    /// With tag and length.
    pub(super) issuer: &'a [u8],
    pub(super) this_update: SystemTime,
    pub(super) next_update: Option<SystemTime>,
    pub(super) entries: usize,
    /// Big-endian, without leading zeros.
    pub(super) number: Option<&'a [u8]>,
    pub(super) unsupported: Option<&'static str>,
}

pub(super) fn crl(der: &[u8]) -> Result<CrlFields<'_>, &'static str> {
    crl_with(der, |_| {})
}

/// The same; `each` is given the serial number of each entry, as it stands in the DER.
pub(super) fn crl_with<'a>(
    der: &'a [u8],
    mut each: impl FnMut(&'a [u8]),
) -> Result<CrlFields<'a>, &'static str> {
    let (mut tbs, _) = signed(der)?;
    tbs.optional(INTEGER).ok_or("its version is broken")?;
    algorithm(&mut tbs).ok_or("it has no signature algorithm")?;
    let issuer = tbs.expect_whole(SEQUENCE).ok_or("it has no issuer")?;
    let this_update = time::read(&mut tbs).ok_or("its this_update is not a time")?;
    let next_update = time::read_optional(&mut tbs).ok_or("its next_update is not a time")?;
    let mut entries = 0;
    if let Some(list) = tbs.optional(SEQUENCE).ok_or("its entries are broken")? {
        let mut list = Reader::new(list);
        while !list.is_empty() {
            each(revoked(&mut list).ok_or("an entry is broken")?);
            entries += 1;
        }
    }
    let mut number = None;
    let mut unsupported = None;
    if let Some(list) = tbs.optional(context_constructed(0)).ok_or("its extensions are broken")? {
        each_extension(list, |oid, value| match oid {
            CRL_NUMBER => number = Reader::new(value).expect(INTEGER).map(magnitude).or(number),
            DELTA_CRL_INDICATOR => unsupported = Some("delta CRLs"),
            ISSUING_DISTRIBUTION_POINT => unsupported = unsupported.or_else(|| scope(value)),
            _ => {}
        })
        .ok_or("its extensions are broken")?;
    }
    tbs.end().ok_or("it has fields that no CRL has")?;
    Ok(CrlFields { issuer, this_update, next_update, entries, number, unsupported })
}

/// Where a part of `der` is in it.
pub(super) fn range(der: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - der.as_ptr() as usize;
    start..start + part.len()
}

/// The fields to be signed, and the signature's algorithm: `SEQUENCE { SEQUENCE, AlgorithmIdentifier, BIT STRING }`.
fn signed(der: &[u8]) -> Result<(Reader<'_>, Oid<'_>), &'static str> {
    let mut outer = Reader::new(der);
    let content = outer.expect(SEQUENCE).ok_or("it is not DER, or cut")?;
    outer.end().ok_or("there are bytes behind its end")?;
    let mut outer = Reader::new(content);
    let tbs = outer.expect(SEQUENCE).ok_or("it has no signed part")?;
    let signature = algorithm(&mut outer).ok_or("its signature has no algorithm")?;
    outer.expect(BIT_STRING).ok_or("it has no signature")?;
    outer.end().ok_or("there are bytes behind its signature")?;
    Ok((Reader::new(tbs), signature))
}

/// The algorithm of an AlgorithmIdentifier.
fn algorithm<'a>(reader: &mut Reader<'a>) -> Option<Oid<'a>> {
    let mut inner = Reader::new(reader.expect(SEQUENCE)?);
    let oid = inner.expect(OID)?;
    if !inner.is_empty() {
        inner.value()?;
    }
    inner.end()?;
    Some(Oid::new(oid.into()))
}

/// `SEQUENCE OF SEQUENCE { OID, BOOLEAN DEFAULT FALSE, OCTET STRING }`.
fn each_extension<'a>(list: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) -> Option<()> {
    let mut list = Reader::within(SEQUENCE, list)?;
    while !list.is_empty() {
        let mut extension = Reader::new(list.expect(SEQUENCE)?);
        let oid = extension.expect(OID)?;
        extension.optional(BOOLEAN)?;
        let value = extension.expect(OCTET_STRING)?;
        extension.end()?;
        each(oid, value);
    }
    Some(())
}

/// `SEQUENCE { INTEGER, Time, SEQUENCE OF Extension OPTIONAL }`.
fn revoked<'a>(list: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut entry = Reader::new(list.expect(SEQUENCE)?);
    let serial = entry.expect(INTEGER)?;
    entry.value()?;
    entry.optional(SEQUENCE)?;
    entry.end().map(|()| serial)
}

/// What an issuing distribution point (RFC 5280, section 5.2.5) makes of a CRL, if it is not a complete one of its
/// issuer. One that is broken is left to the TLS library, which refuses a critical extension that it cannot read.
fn scope(value: &[u8]) -> Option<&'static str> {
    const INDIRECT: u8 = context(4);
    let mut inner = Reader::within(SEQUENCE, value)?;
    let mut found = None;
    while let Some(field) = inner.value() {
        let is_false_flag = matches!((field.tag, field.content), (0x81 | 0x82 | 0x84 | 0x85, [0]));
        match field.tag {
            _ if is_false_flag => {}
            INDIRECT => return Some("indirect CRLs"),
            _ => found = Some("partitioned CRLs"),
        }
    }
    found
}
