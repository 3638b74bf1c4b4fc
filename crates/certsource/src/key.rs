//! Private keys: held, wiped, never shown; and the public half, as far as it can be told without a crypto library.
//!
//! What is not here: whether a crypto library takes the key.

#[cfg(feature = "encrypted-keys")]
mod encrypted;
mod structure;
#[cfg(test)]
mod tests;

use std::fmt;

use pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

#[cfg(feature = "encrypted-keys")]
pub use self::encrypted::WrongPassword;
use self::structure::{Public, Refused};
use crate::error::{Error, Reason};

/// The DER structure that a private key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyFormat {
    /// PKCS#8 (RFC 5208, RFC 5958): `BEGIN PRIVATE KEY`.
    Pkcs8,
    /// PKCS#1 (RFC 8017): `BEGIN RSA PRIVATE KEY`.
    Pkcs1,
    /// SEC1 (RFC 5915): `BEGIN EC PRIVATE KEY`.
    Sec1,
}

/// A private key. Not `Clone`, wiped on drop, and its `Debug` shows the format only.
pub struct PrivateKey {
    format: KeyFormat,
    der: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// A key in this format. The content is not checked.
    pub fn new(format: KeyFormat, der: Zeroizing<Vec<u8>>) -> Self {
        Self { format, der }
    }

    /// A key in any of the formats, told apart by the structure of its DER.
    ///
    /// # Errors
    /// [`Reason::Encrypted`] for an encrypted PKCS#8 key, [`Reason::Malformed`] for what is no private key. The bytes
    /// are wiped in either case.
    pub fn from_der(der: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        match structure::detect(&der) {
            Ok(format) => Ok(Self { format, der }),
            Err(refused) => Err(Error::new(refused.reason(), refused.message())),
        }
    }

    /// The DER structure.
    pub fn format(&self) -> KeyFormat {
        self.format
    }

    /// The secret bytes.
    pub fn secret_der(&self) -> &[u8] {
        &self.der
    }

    /// The secret bytes in the type that rustls takes, borrowed.
    pub fn secret_key(&self) -> PrivateKeyDer<'_> {
        match self.format {
            KeyFormat::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.secret_der())),
            KeyFormat::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(self.secret_der())),
            KeyFormat::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(self.secret_der())),
        }
    }

    /// The public key that the private key holds, as it stands in a certificate's `subjectPublicKey` (RFC 5280, section
    /// 4.1.2.7): a DER `RSAPublicKey`, an elliptic-curve point, or the octets of an Ed25519 key.
    ///
    /// `None`: it holds none, as an Ed25519 key that OpenSSL wrote, or its DER is broken.
    pub fn public_half(&self) -> Option<Vec<u8>> {
        Some(structure::read(self.format, &self.der).ok()?.public?.to_der())
    }

    /// Whether the structure of the DER is that of the format.
    pub(crate) fn check(&self) -> Result<(), (Reason, &'static str)> {
        let refused = match structure::read(self.format, &self.der) {
            Ok(_) => return Ok(()),
            Err(refused) => refused,
        };
        let what = match structure::detect(&self.der) {
            Ok(format) if format != self.format => Refused::Mislabelled(format),
            Err(Refused::Encrypted) => Refused::Encrypted,
            _ => refused,
        };
        Err((what.reason(), what.message()))
    }

    /// Whether this is the key of a certificate, given the DER of the certificate's SubjectPublicKeyInfo.
    pub(crate) fn matches(&self, spki_der: &[u8]) -> Match {
        let Ok(key) = structure::read(self.format, &self.der) else { return Match::Unknown };
        let Some((algorithm, theirs)) = Public::of_certificate(spki_der) else { return Match::Unknown };
        if !key.algorithm.may_be(&algorithm) {
            return Match::No;
        }
        match key.public.map(|mine| mine.is(&theirs)) {
            Some(true) => Match::Yes,
            Some(false) => Match::No,
            None => Match::Unknown,
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("format", &self.format).finish_non_exhaustive()
    }
}

/// Whether a private key belongs to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    No,
    /// The key does not hold its public half (Ed25519 as OpenSSL writes it): a crypto library must tell.
    Unknown,
}
