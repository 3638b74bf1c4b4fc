//! The inspection record of a certificate revocation list.

use std::fmt;
use std::time::SystemTime;

use super::{name, time, walk};

/// What a CRL says, for people.
///
/// Shown on one line. Its serde form (feature `serde`) is stable: `issuer`, `number`, `this_update`, `next_update`,
/// `entries`, `unsupported`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlInspection {
    issuer: String,
    number: Option<String>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
    entries: usize,
    unsupported: Option<&'static str>,
}

/// Inspects one CRL in DER.
///
/// # Errors
/// What is wrong, if it is not a CRL.
pub fn crl(der: &[u8]) -> Result<CrlInspection, String> {
    let fields = walk::crl(der)?;
    Ok(CrlInspection {
        issuer: name::text(fields.issuer).unwrap_or_default(),
        number: fields.number.map(number),
        this_update: fields.this_update,
        next_update: fields.next_update,
        entries: fields.entries,
        unsupported: fields.unsupported,
    })
}

/// Decimal up to 128 bits, as issuers count; hex beyond, as issuers that take a hash or a time do.
fn number(octets: &[u8]) -> String {
    let mut wide = [0; 16];
    match wide.len().checked_sub(octets.len()) {
        Some(start) => {
            wide[start..].copy_from_slice(octets);
            u128::from_be_bytes(wide).to_string()
        }
        None => {
            let mut text = "0x".to_owned();
            name::hex(octets, &mut text);
            text
        }
    }
}

impl CrlInspection {
    /// The issuer as RFC 4514 text, safe to show. See [`super::Inspection::subject`].
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The CRL number, if it has one: decimal, or `0x` and hex if it is longer than 128 bits.
    pub fn number(&self) -> Option<&str> {
        self.number.as_deref()
    }

    /// When it was issued.
    pub fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// [`CrlInspection::this_update`] as RFC 3339 in UTC.
    pub fn this_update_text(&self) -> String {
        time::to_text(self.this_update)
    }

    /// When the issuer promises the next one, if it does.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    /// [`CrlInspection::next_update`] as RFC 3339 in UTC.
    pub fn next_update_text(&self) -> Option<String> {
        self.next_update.map(time::to_text)
    }

    /// How many certificates it revokes.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// What kind of CRL it is, in the plural (`delta CRLs`), if it is one that is not supported.
    pub fn unsupported(&self) -> Option<&'static str> {
        self.unsupported
    }
}

impl fmt::Display for CrlInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CRL of {}", self.issuer)?;
        if let Some(number) = &self.number {
            write!(f, " number {number}")?;
        }
        write!(f, " from {}", self.this_update_text())?;
        if let Some(next) = self.next_update_text() {
            write!(f, " to {next}")?;
        }
        write!(f, " with {} entries", self.entries)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for CrlInspection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut record = serializer.serialize_struct("CrlInspection", 6)?;
        record.serialize_field("issuer", &self.issuer)?;
        record.serialize_field("number", &self.number)?;
        record.serialize_field("this_update", &self.this_update_text())?;
        record.serialize_field("next_update", &self.next_update_text())?;
        record.serialize_field("entries", &self.entries)?;
        record.serialize_field("unsupported", &self.unsupported)?;
        record.end()
    }
}
