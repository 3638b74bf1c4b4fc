//! What the gate and the configs rest on in rustls: what it does not check, and what it infers. If one of these fails
//! after an upgrade, the measure that answers it can be looked at again.
#![cfg(any(feature = "ring", feature = "aws-lc-rs"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use certsource_rustls::default_provider;
use certsource_rustls::rustls::crypto::{CryptoProvider, KeyProvider};
use certsource_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use certsource_rustls::rustls::sign::{CertifiedKey, Signer, SigningKey};
use certsource_rustls::rustls::{Error, InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use certsource_testkit::Ca;

/// `CertifiedKey::from_der` looks at the leaf and its key only: an intermediate that is no certificate is accepted.
#[test]
fn a_garbage_intermediate_is_accepted() {
    let leaf = Ca::new("ca").issue("localhost");
    let chain = || vec![leaf.leaf_der(), CertificateDer::from(b"no certificate at all".to_vec())];
    CertifiedKey::from_der(chain(), leaf.key_der(), &default_provider().unwrap()).unwrap();
}

/// Keys that do not tell their public half, as those of a token or a smart card.
#[derive(Debug)]
struct Mute(Arc<dyn SigningKey>);

impl SigningKey for Mute {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered)
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct MuteKeys;

impl KeyProvider for MuteKeys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Ok(Arc::new(Mute(default_provider().unwrap().key_provider.load_private_key(key)?)))
    }
}

/// `CertifiedKey::from_der` takes "unknown" as fine: with such a key, another leaf's is accepted.
#[test]
fn a_key_that_does_not_tell_its_public_half_is_accepted_for_any_leaf() {
    let ca = Ca::new("ca");
    let (leaf, other) = (ca.issue("localhost"), ca.issue("localhost"));
    let known = default_provider().unwrap();
    let refused = CertifiedKey::from_der(leaf.chain_der(), other.key_der(), &known).unwrap_err();
    assert_eq!(refused, Error::InconsistentKeys(InconsistentKeys::KeyMismatch));
    let mute = CryptoProvider { key_provider: &MuteKeys, ..CryptoProvider::clone(&known) };
    let accepted = CertifiedKey::from_der(leaf.chain_der(), other.key_der(), &mute).unwrap();
    assert_eq!(accepted.keys_match(), Err(Error::InconsistentKeys(InconsistentKeys::Unknown)));
}

/// `ClientConfig::builder()` infers a provider from rustls's features, and panics when two are on. Ours takes one.
#[cfg(all(feature = "ring", feature = "aws-lc-rs"))]
#[test]
fn a_builder_without_a_provider_panics_when_there_are_two() {
    use certsource_rustls::rustls::{ClientConfig, ServerConfig};
    assert!(CryptoProvider::get_default().is_none(), "nobody installs one for this process");
    std::panic::catch_unwind(|| drop(ClientConfig::builder())).unwrap_err();
    std::panic::catch_unwind(|| drop(ServerConfig::builder())).unwrap_err();
    drop(certsource_rustls::ClientTls::new().unwrap());
    assert!(CryptoProvider::get_default().is_none(), "ours installs none");
}
