//! Certificate revocation lists.

use std::time::{Duration, SystemTime};

use pki_types::CertificateRevocationListDer;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use crate::ca::Ca;
use crate::text;
use crate::validity::to_x509;

const DEFAULT_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// One revoked certificate.
pub(crate) struct Revoked {
    pub(crate) serial: Vec<u8>,
    pub(crate) at: SystemTime,
}

/// A signed certificate revocation list.
#[derive(Clone, Debug)]
pub struct Crl {
    der: CertificateRevocationListDer<'static>,
    number: u64,
}

impl Crl {
    /// The list as PEM (`X509 CRL`).
    pub fn pem(&self) -> String {
        text::pem("X509 CRL", &self.der)
    }

    /// The list.
    pub fn der(&self) -> CertificateRevocationListDer<'static> {
        self.der.clone()
    }

    /// Its CRL number (RFC 5280 section 5.2.3).
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Describes a CRL before it is signed. Made by [`Ca::crl_builder`].
///
/// # Defaults
///
/// - entries: everything the authority has revoked so far
/// - number: one more than the highest so far; the first is 1
/// - this update: now, or a day before the next update if that is in the past
/// - next update: seven days after this update
#[must_use = "no CRL is made until `sign` is called"]
#[derive(Debug)]
pub struct CrlBuilder<'a> {
    ca: &'a Ca,
    this_update: Option<SystemTime>,
    next_update: Option<SystemTime>,
    number: Option<u64>,
}

impl<'a> CrlBuilder<'a> {
    pub(crate) fn new(ca: &'a Ca) -> Self {
        Self { ca, this_update: None, next_update: None, number: None }
    }

    /// When the list was made, cut to whole seconds.
    pub fn this_update(mut self, at: SystemTime) -> Self {
        self.this_update = Some(at);
        self
    }

    /// When the next list is due, cut to whole seconds: from then on this one counts as expired.
    pub fn next_update(mut self, at: SystemTime) -> Self {
        self.next_update = Some(at);
        self
    }

    /// Sets the CRL number, also to a lower one than before: a roll-back.
    pub fn number(mut self, number: u64) -> Self {
        self.number = Some(number);
        self
    }

    /// Signs the list.
    ///
    /// # Panics
    ///
    /// If the next update is not at least a second after this update.
    #[must_use]
    #[track_caller]
    pub fn sign(self) -> Crl {
        let now = SystemTime::now();
        let this_update = self.this_update.unwrap_or_else(|| match self.next_update {
            Some(next) if next <= now + Duration::from_secs(1) => next - Duration::from_secs(24 * 3600),
            _ => now,
        });
        let next_update = self.next_update.unwrap_or(this_update + DEFAULT_LIFE);
        let (this_update, next_update) = (to_x509(this_update), to_x509(next_update));
        assert!(this_update < next_update, "next update must be at least a second after this update");

        let mut revocations = self.ca.revocations();
        let number = self.number.unwrap_or(revocations.last_number + 1);
        revocations.last_number = revocations.last_number.max(number);
        let revoked_certs = revocations
            .list
            .iter()
            .map(|revoked| RevokedCertParams {
                serial_number: SerialNumber::from(revoked.serial.clone()),
                revocation_time: to_x509(revoked.at),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.ca.issuer()).expect("an authority of ours may sign CRLs");
        Crl { der: signed.into(), number }
    }
}
