//! What certificates and CRLs say, for people: names, times, algorithms.
//!
//! Nothing here decides whether a certificate is accepted. What inspection cannot read is told as such
//! ([`Inspection::is_partial`]); the TLS library has the last word.
//!
//! What is not here: the private key ([`crate::PrivateKey`]), and where a certificate was found
//! ([`crate::Certificate`]).

mod certificate;
mod crl;
pub(crate) mod der;
mod name;
mod san;
#[cfg(test)]
mod tests;
mod time;
mod walk;
mod words;

use std::ops::Range;
use std::time::SystemTime;

pub use self::certificate::{Inspection, certificate};
pub use self::crl::{CrlInspection, crl};
use self::der::magnitude;
pub use self::san::San;
pub(crate) use self::words::oid;

/// A distinguished name in DER (such as those of the CAs that a server asks for) as RFC 4514 text that is safe to show.
/// `None`: it is not a name.
pub fn distinguished_name(der: &[u8]) -> Option<String> {
    name::text(der)
}

/// The little of a certificate that loading needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Essentials {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) is_ca: bool,
    /// Where the SubjectPublicKeyInfo is, with tag and length.
    pub(crate) spki: Range<usize>,
}

/// Parses what loading needs, and checks the structure of the whole.
///
/// # Errors
/// What is wrong, if it is not a certificate.
pub(crate) fn essentials(der: &[u8]) -> Result<Essentials, String> {
    let fields = walk::certificate(der)?;
    Ok(Essentials {
        not_before: fields.not_before,
        not_after: fields.not_after,
        is_ca: fields.extensions.is_ca(),
        spki: walk::range(der, fields.spki),
    })
}

/// The little of a CRL that loading needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrlEssentials {
    issuer: Range<usize>,
    /// The CRL number, big-endian and without leading zeros: the longer one is the greater, then the bytes tell.
    pub(crate) number: Option<Vec<u8>>,
    pub(crate) this_update: SystemTime,
    pub(crate) next_update: Option<SystemTime>,
    /// The kind of CRL, in the plural, if it is one that is not supported.
    pub(crate) unsupported: Option<&'static str>,
}

impl CrlEssentials {
    /// The issuer's name, as it stands in the DER that this was parsed from.
    pub(crate) fn issuer<'a>(&self, der: &'a [u8]) -> &'a [u8] {
        &der[self.issuer.clone()]
    }
}

/// As [`essentials`], for a CRL.
///
/// # Errors
/// What is wrong, if it is not a CRL.
pub(crate) fn crl_essentials(der: &[u8]) -> Result<CrlEssentials, String> {
    let fields = walk::crl(der)?;
    Ok(CrlEssentials {
        issuer: walk::range(der, fields.issuer),
        number: fields.number.map(<[u8]>::to_vec),
        this_update: fields.this_update,
        next_update: fields.next_update,
        unsupported: fields.unsupported,
    })
}

/// The serial numbers that a CRL revokes, as they stand in its DER.
pub(crate) fn revoked_serials(der: &[u8]) -> std::collections::HashSet<&[u8]> {
    let mut serials = std::collections::HashSet::new();
    // One that is broken was refused when it was parsed.
    let _ = walk::crl_with(der, |serial| {
        serials.insert(magnitude(serial));
    });
    serials
}
