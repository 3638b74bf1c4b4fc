//! The forty lines that people write by hand to follow a CA bundle and a client certificate.
//!
//! One `ClientConfig` for ever; inside it a verifier and a resolver, and what they hold is swapped. A file is read again
//! when its modification time is later than the last one seen, by a PEM reader that passes over what it does not
//! understand. Trust and identity are two things. Each line is seen in code that is in use.
//!
//! `by_hand.rs` shows what is wrong with them. The end-to-end tests include this very file, as what must fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};

/// A client's TLS that follows files in the way that is written most often.
#[derive(Debug)]
pub struct Naive {
    trust: Watched,
    identity: Option<(Watched, PathBuf)>,
    inside: Arc<Inside>,
    config: Arc<ClientConfig>,
}

/// What is swapped.
#[derive(Debug)]
struct Inside {
    roots: ArcSwap<RootCertStore>,
    key: ArcSwapOption<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Naive {
    /// Reads the files for the first time: the bundle, and a certificate with its key.
    ///
    /// # Errors
    /// What the system says, or an identity that rustls does not take.
    pub fn new(
        trust: impl Into<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let inside = Arc::new(Inside {
            roots: ArcSwap::from_pointee(RootCertStore::empty()),
            key: ArcSwapOption::empty(),
            provider: Arc::clone(&provider),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(inside.clone())
            .with_client_cert_resolver(inside.clone());
        let watched = |path| Watched { path, seen: SystemTime::UNIX_EPOCH };
        let identity = identity.map(|(certificate, key)| (watched(certificate), key));
        let mut naive = Self { trust: watched(trust.into()), identity, inside, config: Arc::new(config) };
        naive.poll()?;
        Ok(naive)
    }

    /// The one config. What is inside of it changes.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Both timers at once.
    ///
    /// # Errors
    /// As each of them.
    pub fn poll(&mut self) -> io::Result<bool> {
        Ok(self.poll_trust()? | self.poll_identity()?)
    }

    /// What its timer does for the trust. Returns whether it was read again.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_trust(&mut self) -> io::Result<bool> {
        if !self.trust.is_newer()? {
            return Ok(false);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.trust.path)?);
        self.inside.roots.store(Arc::new(roots));
        Ok(true)
    }

    /// What its other timer does for the identity. Returns whether it was read again.
    ///
    /// # Errors
    /// What the system or rustls says. What is in use stays.
    pub fn poll_identity(&mut self) -> io::Result<bool> {
        let Some((certificate, key)) = &mut self.identity else { return Ok(false) };
        if !certificate.is_newer()? {
            return Ok(false);
        }
        let chain = certificates(&certificate.path)?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(key)?).map_err(io::Error::other)?;
        let key = self.inside.provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
        self.inside.key.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(true)
    }
}

/// A file and the latest time that was seen on it.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    seen: SystemTime,
}

impl Watched {
    /// Whether the file is to be read. The time is noted before the file is read.
    fn is_newer(&mut self) -> io::Result<bool> {
        let modified = fs::metadata(&self.path)?.modified()?;
        let newer = modified > self.seen;
        self.seen = self.seen.max(modified);
        Ok(newer)
    }
}

/// As `rustls_pemfile::certs(…).filter_map(Result::ok)`.
fn certificates(path: &PathBuf) -> io::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(&fs::read(path)?).filter_map(Result::ok).collect())
}

impl ResolvesClientCert for Inside {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }

    fn has_certs(&self) -> bool {
        self.key.load().is_some()
    }
}

impl ServerCertVerifier for Inside {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (certificate, roots) = (ParsedCertificate::try_from(end_entity)?, self.roots.load());
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
