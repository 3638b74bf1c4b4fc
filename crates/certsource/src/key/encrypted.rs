//! Encrypted private keys: PKCS#8 with PBES2 (RFC 5958, section 3; RFC 8018, section 6.2), decrypted with a password at
//! a bounded cost.
//!
//! What is not here: where the password comes from ([`crate::Files::key_password`]), and OpenSSL's own encryption of PEM
//! text (`Proc-Type: 4,ENCRYPTED`), which the PEM reader refuses.

use std::fmt;

use pkcs5::EncryptionScheme;
use pkcs5::der::{ErrorKind, Tag};
use pkcs5::pbes2::{Kdf, Parameters, Pbkdf2Params, ScryptParams};
use zeroize::Zeroizing;

use super::{KeyFormat, PrivateKey, structure};
use crate::error::{Error, Reason};
use crate::inspect::der::{OCTET_STRING, Reader, SEQUENCE};

/// The octets of a block of AES, the only cipher that is supported.
const BLOCK: usize = 16;

const ENCRYPT_AGAIN: &str = "encrypt it again with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW`";

/// The password does not decrypt the private key: the [`source`](std::error::Error::source) of such an
/// [`Error`], so that a program can tell it from a key without a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrongPassword;

impl fmt::Display for WrongPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrong password")
    }
}

impl std::error::Error for WrongPassword {}

/// Encrypted keys (feature `encrypted-keys`).
#[cfg_attr(docsrs, doc(cfg(feature = "encrypted-keys")))]
impl PrivateKey {
    /// The most rounds of PBKDF2 that a key may ask for. OWASP advised 210,000 to 1,300,000 in 2023, by hash; OpenSSL
    /// writes 2,048. Half a second to two seconds.
    pub const MAX_PBKDF2_ROUNDS: u32 = 2_000_000;
    /// The most memory that a key may ask scrypt for, in bytes, as 128 · r · max(N, p): 128 MiB, the strongest setting
    /// that OWASP advised in 2023 (N = 2^17, r = 8, p = 1).
    pub const MAX_SCRYPT_MEMORY: u64 = 128 << 20;
    /// The most work that a key may ask scrypt for, as N · r · p: twice that of the same setting. One to two seconds.
    pub const MAX_SCRYPT_WORK: u64 = 1 << 21;

    /// Decrypts an encrypted PKCS#8 key: `BEGIN ENCRYPTED PRIVATE KEY`.
    ///
    /// Supported is PBES2 with PBKDF2 (HMAC with SHA-1 or a SHA-2) or scrypt, and AES-CBC of any key length. What it
    /// costs stands in the key and not in our hands, so the three limits above hold; nothing is computed beyond them.
    ///
    /// # Errors
    /// - [`Reason::Encrypted`] with [`WrongPassword`] as its source
    /// - [`Reason::TooLarge`] for a key that asks for more than the limits
    /// - [`Reason::Unsupported`] for another scheme (PBES1, PKCS#12, Triple DES, AES-GCM) and for broken parameters
    /// - [`Reason::Malformed`] for anything else
    pub fn from_encrypted_der(der: &[u8], password: &[u8]) -> Result<Self, Error> {
        let (scheme, ciphertext) =
            split(der).ok_or_else(|| malformed("the DER of the encrypted private key is broken"))?;
        let parameters = parameters(scheme)?;
        check_cost(&parameters.kdf)?;
        // The padding is at least one octet, so there is at least one block.
        if ciphertext.is_empty() || ciphertext.len() % BLOCK != 0 {
            return Err(malformed("the encrypted private key is cut: it is no whole number of blocks"));
        }
        let mut key = Zeroizing::new(ciphertext.to_vec());
        let length = match parameters.decrypt_in_place(password, &mut key) {
            Ok(plain) => plain.len(),
            // Named so by the crate. The padding is not what it should be.
            Err(pkcs5::Error::EncryptFailed | pkcs5::Error::DecryptFailed) => return Err(wrong_password()),
            Err(_) => return Err(broken_parameters()),
        };
        key.truncate(length);
        // One wrong password in 256 leaves something that looks like padding.
        if structure::read(KeyFormat::Pkcs8, &key).is_err() {
            return Err(wrong_password());
        }
        Ok(Self { format: KeyFormat::Pkcs8, der: key })
    }
}

/// The algorithm with its parameters, and the ciphertext.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Reader::within(SEQUENCE, der)?;
    let scheme = fields.expect_whole(SEQUENCE)?;
    let ciphertext = fields.expect(OCTET_STRING)?;
    fields.end()?;
    Some((scheme, ciphertext))
}

fn parameters(scheme: &[u8]) -> Result<Parameters<'_>, Error> {
    match EncryptionScheme::try_from(scheme) {
        Ok(EncryptionScheme::Pbes2(parameters)) => Ok(parameters),
        Ok(_) => Err(unsupported("the private key is encrypted in the old way of PKCS#5 (PBES1)")),
        Err(error) => Err(match error.kind() {
            ErrorKind::OidUnknown { oid } => {
                unsupported(&format!("the private key is encrypted in a way that is not supported ({oid})"))
            }
            // How the crate says that a number has more octets than it takes.
            ErrorKind::Noncanonical { tag: Tag::Integer } | ErrorKind::Length { tag: Tag::Integer } => {
                too_costly("a cost that is out of range", "the limits")
            }
            _ => unsupported(
                "the private key says in a way that is not supported, or broken, how it was encrypted",
            ),
        }),
    }
}

/// A fuzzer finds the most costly key below the limits, and then measures nothing but hashing.
const DIVISOR: u32 = if cfg!(fuzzing) { 1000 } else { 1 };

/// Refuses what would take too long or too much memory, before anything is computed.
fn check_cost(kdf: &Kdf<'_>) -> Result<(), Error> {
    match kdf {
        Kdf::Pbkdf2(Pbkdf2Params { iteration_count: rounds, .. }) => {
            let limit = PrivateKey::MAX_PBKDF2_ROUNDS / DIVISOR;
            match *rounds {
                0 => Err(broken_parameters()),
                rounds if rounds > limit => {
                    Err(too_costly(&format!("{rounds} rounds of PBKDF2"), &format!("the limit of {limit}")))
                }
                _ => Ok(()),
            }
        }
        Kdf::Scrypt(ScryptParams { cost_parameter: n, block_size, parallelization, .. }) => {
            let (n, r, p) = (*n, u64::from(*block_size), u64::from(*parallelization));
            // RFC 7914, section 2. The crate panics at N = 0.
            if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
                return Err(broken_parameters());
            }
            let memory = n.max(p).saturating_mul(128 * r);
            let work = n.saturating_mul(r).saturating_mul(p);
            let limit = PrivateKey::MAX_SCRYPT_MEMORY / u64::from(DIVISOR);
            if memory > limit {
                let asked = format!("{} MiB of memory for scrypt", memory >> 20);
                return Err(too_costly(&asked, &format!("the limit of {} MiB", limit >> 20)));
            }
            let limit = PrivateKey::MAX_SCRYPT_WORK / u64::from(DIVISOR);
            if work > limit {
                return Err(too_costly(&format!("{work} steps of scrypt"), &format!("the limit of {limit}")));
            }
            Ok(())
        }
        _ => Err(unsupported("the private key is encrypted in a way that is not supported")),
    }
}

fn malformed(message: &str) -> Error {
    Error::new(Reason::Malformed, message)
}

fn broken_parameters() -> Error {
    malformed("the encrypted private key asks for a cost that its scheme does not have")
}

fn unsupported(what: &str) -> Error {
    Error::new(Reason::Unsupported, format!("{what}; {ENCRYPT_AGAIN}"))
}

fn too_costly(asked: &str, limit: &str) -> Error {
    let message = format!("decrypting the private key asks for {asked}, over {limit}; {ENCRYPT_AGAIN}");
    Error::new(Reason::TooLarge, message)
}

fn wrong_password() -> Error {
    let message = "the password does not decrypt the private key; give the one that it was encrypted with";
    Error::new(Reason::Encrypted, message).caused_by(WrongPassword)
}
