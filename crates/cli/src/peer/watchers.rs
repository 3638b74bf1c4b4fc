//! What rustls asks its user during a handshake, noted down: the server's chain, the CAs it asks for, its tickets.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, NamedGroup, SignatureScheme};

/// Takes every chain, and notes what the real verifier says of it.
pub(super) struct Noted {
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    verdict: Option<Result<(), rustls::Error>>,
}

impl Noted {
    pub(super) fn new(verifier: Option<Arc<dyn ServerCertVerifier>>, provider: Arc<CryptoProvider>) -> Self {
        Self { verifier, provider, seen: Mutex::default() }
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).chain.clone()
    }

    pub(super) fn verdict(&self) -> Option<Result<(), rustls::Error>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).verdict.clone()
    }

    /// A chain that rustls cannot even parse is shown all the same, so its signature cannot be held against it here.
    fn signed(&self, result: Result<HandshakeSignatureValid, rustls::Error>) -> HandshakeSignatureValid {
        if let Err(error) = result {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(verdict) = seen.verdict.as_mut().filter(|verdict| verdict.is_ok()) {
                *verdict = Err(error);
            }
        }
        HandshakeSignatureValid::assertion()
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noted")
    }
}

impl ServerCertVerifier for Noted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.verifier.as_ref().map(|verifier| {
            verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now).map(|_| ())
        });
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { chain, verdict };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.signed(verify_tls12_signature(message, cert, dss, algorithms)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.signed(verify_tls13_signature(message, cert, dss, algorithms)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Notes which CAs the server asks for, and hands out our identity.
#[derive(Debug)]
pub(super) struct Asked {
    identity: Option<Arc<CertifiedKey>>,
    names: Mutex<Option<Vec<Vec<u8>>>>,
}

impl Asked {
    pub(super) fn new(identity: Option<Arc<CertifiedKey>>) -> Self {
        Self { identity, names: Mutex::default() }
    }

    pub(super) fn names(&self) -> Option<Vec<Vec<u8>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, names: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = names.iter().map(|name| name.to_vec()).collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Notes that a ticket came, and keeps none: a server that sends one has accepted us.
#[derive(Debug, Default)]
pub(super) struct Tickets(AtomicBool);

impl Tickets {
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.store(true, Ordering::Release);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
