//! One `ClientConfig` that follows: for code that keeps a config for good. What it keeps, and what it loses against a
//! fresh config per generation, is said at [`ClientTls::following`].

use std::sync::Arc;

use certsource_reload::{Derived, Error, Generation, Reloader};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};

use crate::client::ClientTls;
use crate::gate::certified_key;

impl ClientTls {
    /// Makes one config that reads the current generation at every handshake: for code that takes a
    /// `rustls::ClientConfig` once and never again.
    ///
    /// It keeps the source followed for as long as it lives.
    ///
    /// # What it keeps
    /// Every new connection trusts and shows what is current then: what was withdrawn is refused. While nothing may be used,
    /// handshakes fail with a [`Closed`](certsource_reload::Closed) in [`rustls::Error::Other`].
    ///
    /// # What it loses
    /// * Resumption: rustls would resume a session without a look at what verified it, so every connection pays a full
    ///   handshake. Do not switch [`ClientConfig::resumption`] on again.
    /// * Retirement: connections that are open, also idle ones in somebody's pool, stay in use as they are.
    /// * One generation: trust and identity are each current, but they are read at two moments of a handshake. One that
    ///   a rotation falls into may use the old one of the one and the new one of the other.
    ///
    /// Who can take a new config now and then should take
    /// `reloader.derive(move |generation| tls.config(generation.material()))`: that keeps everything.
    ///
    /// # Errors
    /// When the current generation holds no trust, or when rustls does not accept it. A later one that it does not
    /// accept is not published.
    pub fn following(&self, reloader: &Reloader) -> Result<ClientConfig, Error> {
        let tls = self.clone();
        let current = reloader.derive(move |generation| Current::new(&tls, generation))?;
        let current =
            Arc::new(Following { algorithms: self.provider().signature_verification_algorithms, current });
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(self.provider()), Arc::clone(self.time()))
                .with_protocol_versions(self.offered_versions())
                .map_err(|error| {
                    crate::crypto::refused("the crypto provider does not have these versions of TLS", error)
                })?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&current) as Arc<dyn ServerCertVerifier>)
                .with_client_cert_resolver(current);
        config.alpn_protocols = self.offered_protocols().to_vec();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

/// What one generation brings to a handshake.
#[derive(Debug)]
struct Current {
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<Arc<CertifiedKey>>,
}

impl Current {
    fn new(tls: &ClientTls, generation: &Generation) -> Result<Self, Error> {
        let material = generation.material();
        let provider: &Arc<CryptoProvider> = tls.provider();
        let identity = material.identity().map(|identity| certified_key(identity, provider)).transpose()?;
        Ok(Self { verifier: tls.verifier(material)?, identity: identity.map(Arc::new) })
    }
}

#[derive(Debug)]
struct Following {
    algorithms: WebPkiSupportedAlgorithms,
    current: Derived<Current>,
}

impl ServerCertVerifier for Following {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let current = self.current.get().map_err(|closed| OtherError(Arc::new(closed)))?;
        current.verifier.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Following {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current.get().ok()?.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.current.load().identity.is_some()
    }
}
