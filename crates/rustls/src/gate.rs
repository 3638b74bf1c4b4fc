//! The TLS gate: what rustls would not accept is never published.

use std::sync::Arc;

use certsource_reload::certsource::machine::{Candidate, Verdict};
use certsource_reload::certsource::{Certificate, Identity, Material};
use certsource_reload::{Error, Gate, Reason};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::crypto::{default_provider, refused};
use crate::revocation;

/// The check that rustls can use what was read: every anchor, every revocation list beside anchors and every certificate
/// of the chain parses as rustls parses it, the key can be loaded, and it belongs to the leaf.
#[derive(Clone, Debug)]
pub struct TlsGate {
    provider: Arc<CryptoProvider>,
}

impl TlsGate {
    /// The gate with the default provider.
    ///
    /// # Errors
    /// When no provider feature is on.
    pub fn new() -> Result<Self, Error> {
        default_provider().map(Self::with_provider)
    }

    /// The gate with this provider.
    pub fn with_provider(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }

    /// Checks the material.
    ///
    /// # Errors
    /// What rustls would not accept, with the file and line where that is known.
    pub fn check(&self, material: &Material) -> Result<(), Error> {
        if let Some(trust) = material.trust() {
            let store = roots(trust)?;
            revocation::check(store, material.crls().unwrap_or_default(), &self.provider)?;
        }
        if let Some(identity) = material.identity() {
            certified_key(identity, &self.provider)?;
        }
        Ok(())
    }
}

impl Gate for TlsGate {
    fn judge(&self, candidate: &Candidate) -> Verdict {
        match self.check(&candidate.material) {
            Ok(()) => Verdict::Accept,
            Err(error) => Verdict::Refuse(error),
        }
    }
}

/// The anchors as rustls holds them. Each must be accepted: one that is dropped in silence is a surprise later.
pub(crate) fn roots(trust: &[Certificate]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    store.roots.reserve(trust.len());
    for anchor in trust {
        store
            .add(anchor.der().clone())
            .map_err(|error| at(anchor, refused("rustls does not accept this trust anchor", error)))?;
    }
    Ok(store)
}

/// The identity as rustls holds it, checked: rustls itself takes "cannot tell" for a match, and never parses
/// intermediates.
pub(crate) fn certified_key(identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    for certificate in identity.chain() {
        ParsedCertificate::try_from(certificate.der()).map_err(|error| {
            at(certificate, refused("rustls does not accept this certificate of the chain", error))
        })?;
    }
    let chain: Vec<_> = identity.chain().iter().map(|certificate| certificate.der().clone()).collect();
    let leaf = identity.leaf();
    // The copy of the key that rustls holds from here on is out of our hands.
    let key =
        provider.key_provider.load_private_key(identity.key().secret_key().clone_key()).map_err(|error| {
            at(leaf, refused("rustls can not load the private key of this certificate", error))
        })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown))
            if identity.is_key_match_known() =>
        {
            Ok(certified)
        }
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Err(at(
            leaf,
            Error::new(
                Reason::Unsupported,
                "neither the key file nor the crypto provider tells the public half of the private key, so nobody can \
                 check that it belongs to this certificate; write the key as PKCS#8 with its public key",
            ),
        )),
        Err(error) => Err(at(leaf, refused("the private key does not belong to this certificate", error))),
    }
}

fn at(certificate: &Certificate, error: Error) -> Error {
    let error = error.of(certificate.origin().clone());
    match certificate.line() {
        Some(line) => error.on_line(line),
        None => error,
    }
}
