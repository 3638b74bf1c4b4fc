//! What is done with revocation lists: which certificates are checked, and what an unknown status or an expired list
//! means.
//!
//! rustls enforces a list's end to the second or not at all. The grace in between is made here, of stock rustls
//! verifiers only: no chain is accepted that one of them has not verified.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource_reload::certsource::{Certificate, Crl};
use certsource_reload::{Error, Reason};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::gate::roots;

/// What the revocation lists of a source are used for. Without a list in the source, nothing is checked.
///
/// # Defaults
/// * the whole chain is checked, not the end entity alone
/// * a certificate whose issuer has no list in the source is accepted. rustls itself refuses it; but then one list in
///   a store of several CAs refuses the certificates of all the others. A list that goes missing from a source never
///   means "no list": it is a failure, and the last good one stays.
/// * a list past its `nextUpdate` is used for one more day; after that, every chain that depends on it is refused
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Revocation {
    end_entity_only: bool,
    deny_unknown: bool,
    expiry: CrlExpiry,
}

/// What the end of a revocation list (`nextUpdate`, RFC 5280 section 5.1.2.5) means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrlExpiry {
    /// Nothing: the list is used until a newer one comes.
    Ignored,
    /// This long after its end, every chain that depends on the list is refused.
    Enforced {
        /// Zero: at once.
        grace: Duration,
    },
}

impl Default for CrlExpiry {
    fn default() -> Self {
        Self::Enforced { grace: Duration::from_secs(24 * 60 * 60) }
    }
}

impl Revocation {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether only the end entity's status is checked, and not that of the intermediates.
    pub fn end_entity_only(mut self, end_entity_only: bool) -> Self {
        self.end_entity_only = end_entity_only;
        self
    }

    /// Whether a certificate is refused whose issuer has no list in the source.
    pub fn deny_unknown(mut self, deny_unknown: bool) -> Self {
        self.deny_unknown = deny_unknown;
        self
    }

    /// What the end of a list means.
    pub fn expiry(mut self, expiry: CrlExpiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// A fresh verifier of servers.
    pub(crate) fn server_verifier(
        self,
        trust: &[Certificate],
        crls: &[Crl],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        let (roots, provider) = (Arc::new(roots(trust)?), Arc::clone(provider));
        self.verifier(crls, move |crls, mode| {
            let mut builder =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
            if !crls.is_empty() {
                builder = builder.with_crls(crls);
            }
            if mode.end_entity_only {
                builder = builder.only_check_end_entity_revocation();
            }
            if mode.allow_unknown {
                builder = builder.allow_unknown_revocation_status();
            }
            if mode.enforce {
                builder = builder.enforce_revocation_expiration();
            }
            builder.build().map(|verifier| verifier as Arc<dyn ServerCertVerifier>).map_err(|e| e.to_string())
        })
        .map(|verifier| match verifier {
            Verifier::Stock(verifier) => verifier,
            Verifier::Patient(patient) => Arc::new(patient),
        })
    }

    /// A fresh verifier of clients.
    pub(crate) fn client_verifier(
        self,
        trust: &[Certificate],
        crls: &[Crl],
        provider: &Arc<CryptoProvider>,
        allow_unauthenticated: bool,
    ) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let (roots, provider) = (Arc::new(roots(trust)?), Arc::clone(provider));
        self.verifier(crls, move |crls, mode| {
            let mut builder =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
            if !crls.is_empty() {
                builder = builder.with_crls(crls);
            }
            if mode.end_entity_only {
                builder = builder.only_check_end_entity_revocation();
            }
            if mode.allow_unknown {
                builder = builder.allow_unknown_revocation_status();
            }
            if mode.enforce {
                builder = builder.enforce_revocation_expiration();
            }
            if allow_unauthenticated {
                builder = builder.allow_unauthenticated();
            }
            builder.build().map_err(|e| e.to_string())
        })
        .map(|verifier| match verifier {
            Verifier::Stock(verifier) => verifier,
            Verifier::Patient(patient) => Arc::new(patient),
        })
    }

    fn verifier<V: ?Sized>(
        self,
        crls: &[Crl],
        make: impl Fn(Vec<CertificateRevocationListDer<'static>>, Mode) -> Result<Arc<V>, String>
        + Send
        + Sync
        + 'static,
    ) -> Result<Verifier<V>, Error> {
        let mode = Mode {
            end_entity_only: self.end_entity_only,
            allow_unknown: !self.deny_unknown,
            enforce: self.expiry != CrlExpiry::Ignored,
        };
        let ders = || crls.iter().map(|crl| crl.der().clone()).collect::<Vec<_>>();
        let make_one = |mode| {
            make(ders(), mode).map_err(|error| {
                let message = format!("rustls does not accept the trust anchors or the CRLs: {error}");
                Error::new(Reason::Rejected, message)
            })
        };
        let strict = make_one(mode)?;
        match self.expiry {
            CrlExpiry::Enforced { grace } if !grace.is_zero() && !crls.is_empty() => {
                let lenient = make_one(Mode { enforce: false, ..mode })?;
                let ends = crls.iter().map(|crl| (crl.der().clone(), crl.next_update())).collect();
                let of_dead = move |dead| {
                    make(dead, Mode { allow_unknown: true, ..mode }).map_err(rustls::Error::General)
                };
                Ok(Verifier::Patient(Patient { strict, lenient, ends, grace, of_dead: Box::new(of_dead) }))
            }
            _ => Ok(Verifier::Stock(strict)),
        }
    }
}

#[derive(Clone, Copy)]
struct Mode {
    end_entity_only: bool,
    allow_unknown: bool,
    enforce: bool,
}

enum Verifier<V: ?Sized> {
    Stock(Arc<V>),
    Patient(Patient<V>),
}

type OfDead<V> =
    Box<dyn Fn(Vec<CertificateRevocationListDer<'static>>) -> Result<Arc<V>, rustls::Error> + Send + Sync>;

/// Uses lists for a while after their end.
struct Patient<V: ?Sized> {
    /// Enforces the end of every list.
    strict: Arc<V>,
    /// Enforces none.
    lenient: Arc<V>,
    ends: Vec<(CertificateRevocationListDer<'static>, Option<SystemTime>)>,
    grace: Duration,
    /// Enforces the end of these lists, and knows of no others.
    of_dead: OfDead<V>,
}

impl<V: ?Sized> Patient<V> {
    fn verify<T>(
        &self,
        now: UnixTime,
        check: impl Fn(&V) -> Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        let verified = match check(&self.strict) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. },
            )) => check(&self.lenient)?,
            done => return done,
        };
        // Fine but for the end of some list. A list that is past its grace too must not be among those it needs.
        let is_dead = |end: Option<SystemTime>| {
            let end = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
            // As rustls does: a list has ended at the very second of its next update.
            end.saturating_add(self.grace).as_secs() <= now.as_secs()
        };
        let dead: Vec<_> =
            self.ends.iter().filter(|(_, end)| is_dead(*end)).map(|(der, _)| der.clone()).collect();
        if !dead.is_empty() {
            check(&*(self.of_dead)(dead)?)?;
        }
        Ok(verified)
    }
}

impl<V: ?Sized> fmt::Debug for Patient<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient")
            .field("lists", &self.ends.len())
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Patient<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(now, |verifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.strict.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.strict.root_hint_subjects()
    }
}

impl ClientCertVerifier for Patient<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.strict.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.strict.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(now, |verifier| verifier.verify_client_cert(end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.strict.requires_raw_public_keys()
    }
}

/// Whether rustls takes these lists at all.
pub(crate) fn check(store: RootCertStore, crls: &[Crl], provider: &Arc<CryptoProvider>) -> Result<(), Error> {
    for crl in crls {
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store.clone()), Arc::clone(provider))
                .with_crls([crl.der().clone()])
                .build();
        if let Err(error) = built {
            let message = format!("rustls does not accept this revocation list: {error}");
            return Err(Error::new(Reason::Rejected, message).of(crl.origin().clone()));
        }
    }
    Ok(())
}
