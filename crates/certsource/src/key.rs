//! Private keys: held, wiped, never shown; and the public half, as far as it can be told without a crypto library.

use std::fmt;

use pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

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
