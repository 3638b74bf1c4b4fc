//! The inspection record of a certificate.

use std::fmt;
use std::time::SystemTime;

use super::san::{self, San};
use super::{name, time, walk, words};
use crate::digest::Fingerprint;

/// What a certificate says, for people.
///
/// Shown on one line. Its serde form (feature `serde`) is stable: `subject`, `issuer`, `sans`, `serial`, `key`,
/// `signature`, `not_before`, `not_after`, `fingerprint`, `is_ca`. Both are safe to print: everything hostile in a
/// name is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    subject: String,
    issuer: String,
    sans: Vec<San>,
    serial: String,
    key: String,
    signature: String,
    not_before: SystemTime,
    not_after: SystemTime,
    fingerprint: Fingerprint,
    is_ca: bool,
    key_usages: Vec<&'static str>,
    extended_key_usages: Vec<String>,
    is_partial: bool,
}

/// Inspects one certificate in DER.
///
/// # Errors
/// What is wrong, if it is not a certificate. One that is odd in its details is inspected in part.
pub fn certificate(der: &[u8]) -> Result<Inspection, String> {
    let fields = walk::certificate(der)?;
    let extensions = &fields.extensions;
    let mut is_partial = false;
    let mut detail = Detail(&mut is_partial);
    Ok(Inspection {
        subject: detail.or_default(name::text(fields.subject)),
        issuer: detail.or_default(name::text(fields.issuer)),
        sans: detail.of_extension(extensions.subject_alt_name, san::read),
        serial: words::serial(fields.serial),
        key: detail.or_default(words::key(fields.spki)),
        signature: words::signature(&fields.signature),
        not_before: fields.not_before,
        not_after: fields.not_after,
        fingerprint: Fingerprint::of(der),
        is_ca: extensions.is_ca(),
        key_usages: detail.of_extension(extensions.key_usage, words::key_usages),
        extended_key_usages: detail.of_extension(extensions.extended_key_usage, words::extended_key_usages),
        is_partial,
    })
}

/// Notes that a detail could not be read.
struct Detail<'a>(&'a mut bool);

impl Detail<'_> {
    fn or_default<T: Default>(&mut self, read: Option<T>) -> T {
        *self.0 |= read.is_none();
        read.unwrap_or_default()
    }

    fn of_extension<T: Default>(&mut self, value: Option<&[u8]>, read: impl Fn(&[u8]) -> Option<T>) -> T {
        value.map_or_else(T::default, |value| self.or_default(read(value)))
    }
}

impl Inspection {
    /// The subject as RFC 4514 text: `CN=localhost,O=Example`. What is hostile in it is escaped the way of that RFC, so
    /// it is safe to show as it is. Empty for many certificates that have SANs.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The issuer, in the same form.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The subject alternative names, in the certificate's order. Their strings are hostile text; their `Display` is
    /// safe.
    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    /// The serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The kind and size of the public key: `ECDSA P-256`, `RSA 2048`, `Ed25519`, or an object identifier.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The algorithm of the issuer's signature: `ecdsa-with-SHA256`, `sha256WithRSAEncryption`, `Ed25519`, or an object
    /// identifier.
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// [`Inspection::not_before`] as RFC 3339 in UTC: `2025-01-31T12:00:00Z`.
    pub fn not_before_text(&self) -> String {
        time::to_text(self.not_before)
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// [`Inspection::not_after`] as RFC 3339 in UTC.
    pub fn not_after_text(&self) -> String {
        time::to_text(self.not_after)
    }

    /// The SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether its basic constraints say that it is a certificate authority.
    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// The key usages, in the words of RFC 5280: `digitalSignature`.
    pub fn key_usages(&self) -> &[&'static str] {
        &self.key_usages
    }

    /// The extended key usages, in the words of RFC 5280: `serverAuth`; others as object identifiers.
    pub fn extended_key_usages(&self) -> &[String] {
        &self.extended_key_usages
    }

    /// Whether details could not be read. What could not is empty here; whether the certificate is accepted is for the
    /// TLS library to say.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.subject.is_empty() { "(no subject)" } else { &self.subject })?;
        for (at, san) in self.sans.iter().enumerate() {
            write!(f, "{}{san}", if at == 0 { " " } else { "," })?;
        }
        let (not_before, not_after) = (self.not_before_text(), self.not_after_text());
        write!(f, " serial {} from {not_before} to {not_after} {}", self.serial, self.key)?;
        f.write_str(if self.is_ca { " CA" } else { "" })?;
        write!(f, " issued by {} sha256 {}", self.issuer, self.fingerprint)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Inspection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut record = serializer.serialize_struct("Inspection", 10)?;
        record.serialize_field("subject", &self.subject)?;
        record.serialize_field("issuer", &self.issuer)?;
        record.serialize_field("sans", &self.sans)?;
        record.serialize_field("serial", &self.serial)?;
        record.serialize_field("key", &self.key)?;
        record.serialize_field("signature", &self.signature)?;
        record.serialize_field("not_before", &self.not_before_text())?;
        record.serialize_field("not_after", &self.not_after_text())?;
        record.serialize_field("fingerprint", &self.fingerprint)?;
        record.serialize_field("is_ca", &self.is_ca)?;
        record.end()
    }
}
