//! Which crypto provider is used when none is passed in. Nothing here is installed for the process.

use std::sync::Arc;

use certsource_reload::{Error, Reason};
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;

/// The crypto provider that this crate's features choose, in this order: `ring`, `aws-lc-rs`.
///
/// The provider that a process has installed is not looked at: what a library does should not depend on it.
///
/// # Errors
/// When neither feature is on.
pub fn default_provider() -> Result<Arc<CryptoProvider>, Error> {
    #[cfg(feature = "ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    Err(Error::new(
        Reason::Unsupported,
        "no crypto provider: switch on the feature `ring` or `aws-lc-rs`, or pass a provider in",
    ))
}

/// A fresh ticketer of the default provider's library; `None` when there is none. Then sessions resume from the
/// server's memory only.
pub(crate) fn fresh_ticketer() -> Option<Arc<dyn ProducesTickets>> {
    #[cfg(feature = "ring")]
    return rustls::crypto::ring::Ticketer::new().ok();
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    return rustls::crypto::aws_lc_rs::Ticketer::new().ok();
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    None
}

/// An error of rustls as one of ours.
pub(crate) fn refused(doing: &str, error: rustls::Error) -> Error {
    let reason = match &error {
        rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => Reason::KeyMismatch,
        rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding) => Reason::Malformed,
        _ => Reason::Rejected,
    };
    Error::new(reason, format!("{doing}: {error}")).caused_by(error)
}
