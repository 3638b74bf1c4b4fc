//! The forty lines that people write by hand: the negative control.
//!
//! One `ClientConfig` for ever; inside it a verifier and a resolver whose content is swapped. A file is read again when
//! its modification time is later than the last one seen, by a PEM reader that passes over what it does not understand.
//! Trust and identity are two things. Each line is seen in code that is in use.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;
use std::{fmt, fs, io};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
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
    reloads: usize,
}

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

impl Naive {
    /// Reads the files for the first time.
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
            roots: RwLock::new(Arc::new(RootCertStore::empty())),
            key: RwLock::new(None),
            provider: Arc::clone(&provider),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(inside.clone())
            .with_client_cert_resolver(inside.clone());
        let watched = |path| Watched { path, seen: SystemTime::UNIX_EPOCH };
        let mut naive = Self {
            trust: watched(trust.into()),
            identity: identity.map(|(certificate, key)| (watched(certificate), key)),
            inside,
            config: Arc::new(config),
            reloads: 0,
        };
        naive.poll()?;
        naive.reloads = 0;
        Ok(naive)
    }

    /// What its timer does for the trust: returns whether it was read again.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_trust(&mut self) -> io::Result<bool> {
        if !self.trust.is_newer()? {
            return Ok(false);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&fs::read(&self.trust.path)?));
        *self.inside.roots.write().unwrap() = Arc::new(roots);
        self.reloads += 1;
        Ok(true)
    }

    /// What its other timer does for the identity: returns whether it was read again.
    ///
    /// # Errors
    /// What the system or rustls says. What is in use stays.
    pub fn poll_identity(&mut self) -> io::Result<bool> {
        let Some((certificate, key)) = &mut self.identity else { return Ok(false) };
        if !certificate.is_newer()? {
            return Ok(false);
        }
        let chain = certificates(&fs::read(&certificate.path)?);
        let key = PrivateKeyDer::from_pem_slice(&fs::read(key)?).map_err(io::Error::other)?;
        let key = self.inside.provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
        *self.inside.key.write().unwrap() = Some(Arc::new(CertifiedKey::new(chain, key)));
        self.reloads += 1;
        Ok(true)
    }

    /// Both timers at once.
    ///
    /// # Errors
    /// As each of them.
    pub fn poll(&mut self) -> io::Result<bool> {
        Ok(self.poll_trust()? | self.poll_identity()?)
    }

    /// How often something was read again.
    pub fn reloads(&self) -> usize {
        self.reloads
    }

    /// The one config. What is inside of it changes.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The certificates that are in use, as files hold them.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let trust = fs::read(&self.trust.path).unwrap_or_default();
        let key = self.inside.key.read().unwrap().clone();
        certificates(&trust).into_iter().chain(key.map(|key| key.cert.clone()).unwrap_or_default()).collect()
    }

    /// Where the trust comes from.
    pub fn trust_path(&self) -> &Path {
        &self.trust.path
    }
}

/// As `rustls_pemfile::certs(…).filter_map(Result::ok)`.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

struct Inside {
    roots: RwLock<Arc<RootCertStore>>,
    key: RwLock<Option<Arc<CertifiedKey>>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inside")
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
        let roots = Arc::clone(&self.roots.read().unwrap());
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            algorithms,
        )?;
        rustls::client::verify_server_name(&certificate, server_name)?;
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

impl ResolvesClientCert for Inside {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap().clone()
    }

    fn has_certs(&self) -> bool {
        self.key.read().unwrap().is_some()
    }
}
