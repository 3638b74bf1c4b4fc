//! What identifies a certificate, a material, and a read: SHA-256 values with types of their own.
//!
//! What is not here: what goes into them. That is beside the types that they are of, in [`crate::material`].

use std::fmt;
use std::hint::black_box;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a certificate's or CRL's DER. Shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of this DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The digest of material: a SHA-256 over its public parts, in an order that does not depend on the file. Shown as
/// `sha256:` and 64 lower-case hex digits.
///
/// Two materials with equal digests have the same anchors (as a set), the same chain (in order, which fixes the
/// key's public half) and the same CRLs (as a set).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first 48 bits as a number, for metrics: the same where the same is served, and kept exactly by a 64-bit float.
    pub fn number(&self) -> u64 {
        self.0[..6].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// At once: there are tens of thousands of them in a directory, or in a scrape.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8; 32]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
    f.write_str(std::str::from_utf8(&text).expect("hex digits are ASCII"))
}

/// Equal exactly when everything that was read is equal, the private key included. It depends on the private key, so
/// it has no text form and never leaves the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContentId(pub(crate) [u8; 32]);

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentId(..)")
    }
}

/// SHA-256 of what holds a private key. A hasher keeps what does not fill a block of 64 bytes; of this one nothing is left.
#[derive(Default)]
pub(crate) struct SecretHasher(Sha256);

impl SecretHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// By reference: what is moved leaves a copy behind.
    pub(crate) fn finish(&mut self) -> [u8; 32] {
        self.0.finalize_reset().into()
    }
}

impl Drop for SecretHasher {
    fn drop(&mut self) {
        // A block in two parts: a whole one would not be kept first, and so overwrite nothing.
        self.0.reset();
        self.0.update([0; 1]);
        self.0.update([0; 63]);
        black_box(&self.0);
    }
}
