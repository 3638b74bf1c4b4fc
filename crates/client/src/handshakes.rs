//! [`Handshakes`]: what hangs on the TLS handshakes of a generation. One that ends after the generation was replaced is
//! refused; and they are counted, for the feature `metrics`. A layer around reqwest's connector could do both, and costs
//! each request a dozen allocations (docs/decisions/0018).
//!
//! What is not here: requests that wait for such a connection; they leave by themselves ([`crate::send`]).

use std::sync::Arc;

use certsource_reload::Retired;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, OtherError, SignatureScheme,
};

use crate::connector::Superseded;
use crate::made::Made;

/// As many sessions as rustls keeps by default.
const SESSIONS: usize = 256;

/// The handshakes of one generation.
pub(crate) struct Handshakes {
    retired: Retired,
    made: Made,
}

impl Handshakes {
    pub(crate) fn new(retired: Retired) -> Arc<Self> {
        let made = Made::new(retired.clone());
        Arc::new(Self { retired, made })
    }

    /// Lets a config tell of its handshakes. It must be one that nobody has used yet.
    pub(crate) fn watch(self: &Arc<Self>, config: &mut ClientConfig) {
        let sessions = ClientSessionMemoryCache::new(SESSIONS);
        config.resumption = Resumption::store(Arc::new(Sessions { sessions, all: Arc::clone(self) }));
    }

    /// The verifier of a config, which also ends handshakes of a generation that was replaced meanwhile.
    pub(crate) fn verifier(
        self: &Arc<Self>,
        inner: Arc<dyn ServerCertVerifier>,
    ) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Verifier { inner, all: Arc::clone(self) })
    }
}

struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.all.retired.is_retired() {
            return Err(Error::Other(OtherError(Arc::new(Superseded))));
        }
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

struct Sessions {
    sessions: ClientSessionMemoryCache,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    /// rustls calls this when a handshake of TLS 1.3 has ended, and never for TLS 1.2 (0.23.46; tests hold both). 0.23.37
    /// does when the server's hello is there: then one that fails after that is counted too.
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.all.made.one_more();
        self.sessions.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(name)
    }

    /// And this when one of TLS 1.2 has, if the server lets it be resumed.
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.all.made.one_more();
        self.sessions.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions.take_tls13_ticket(name)
    }
}
