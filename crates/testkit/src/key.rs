//! Kinds of keys, key generation, and the encodings a key file may have.
//!
//! What a key signs lives in `leaf`, `ca` and `crl`.

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm};

use crate::der;
use crate::text;

/// Which kind of key to generate.
///
/// # Defaults
///
/// - [`KeyKind::EcdsaP256`]: quick to generate, and every TLS library takes it.
///
/// # Features
///
/// - `rsa` adds `Rsa2048`. Without it there are no RSA keys, because ring cannot generate them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on the curve P-256, signing with SHA-256.
    #[default]
    EcdsaP256,
    /// ECDSA on the curve P-384, signing with SHA-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits, signing with PKCS #1 v1.5 and SHA-256.
    #[cfg(feature = "rsa")]
    Rsa2048,
}

impl KeyKind {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            #[cfg(feature = "rsa")]
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

/// A key pair with the kind it was made as.
pub(crate) struct Key {
    pub(crate) kind: KeyKind,
    pub(crate) pair: KeyPair,
}

impl Key {
    pub(crate) fn generate(kind: KeyKind) -> Self {
        let pair =
            KeyPair::generate_for(kind.algorithm()).expect("the system's random source generates a key");
        Self { kind, pair }
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn pkcs8_pem(&self) -> String {
        text::pem("PRIVATE KEY", self.pair.serialized_der())
    }

    /// SEC 1 (`EC PRIVATE KEY`, RFC 5915), with the curve and the public key, as OpenSSL writes it.
    pub(crate) fn sec1_pem(&self) -> Option<String> {
        let curve = match self.kind {
            KeyKind::EcdsaP256 => der::OID_P256,
            KeyKind::EcdsaP384 => der::OID_P384,
            _ => return None,
        };
        let inner = der::pkcs8_private_key(self.pair.serialized_der());
        let scalar = der::ec_private_scalar(inner);
        Some(text::pem("EC PRIVATE KEY", &der::ec_private_key(scalar, curve, self.pair.public_key_raw())))
    }

    /// PKCS #1 (`RSA PRIVATE KEY`, RFC 8017 appendix A.1.2).
    #[cfg(feature = "rsa")]
    pub(crate) fn pkcs1_pem(&self) -> Option<String> {
        match self.kind {
            // The octet string inside PKCS #8 is the PKCS #1 structure itself.
            KeyKind::Rsa2048 => {
                Some(text::pem("RSA PRIVATE KEY", der::pkcs8_private_key(self.pair.serialized_der())))
            }
            _ => None,
        }
    }
}
