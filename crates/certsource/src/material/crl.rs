//! [`Crl`]: a revocation list that was parsed, and how two of them compare.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use pki_types::CertificateRevocationListDer;

use super::place;
use crate::digest::Fingerprint;
use crate::error::{Error, Reason};
use crate::inspect::{self, CrlInspection};
use crate::origin::Origin;
use crate::parts::FoundCrl;

/// A revocation list that was parsed. Cheap to clone.
#[derive(Clone)]
pub struct Crl(Arc<CrlInner>);

struct CrlInner {
    der: CertificateRevocationListDer<'static>,
    fingerprint: Fingerprint,
    essentials: inspect::CrlEssentials,
    origin: Origin,
    inspection: OnceLock<CrlInspection>,
}

impl Crl {
    pub(super) fn parse(found: FoundCrl) -> Result<Self, Error> {
        let FoundCrl { der, origin, line } = found;
        let essentials = match inspect::crl_essentials(&der) {
            Ok(essentials) => essentials,
            Err(what) => {
                return Err(place(
                    Error::new(Reason::Malformed, format!("not a revocation list: {what}")),
                    origin,
                    line,
                ));
            }
        };
        if let Some(what) = essentials.unsupported {
            return Err(place(
                Error::new(
                    Reason::Unsupported,
                    format!("{what} are not supported; use a full CRL of the issuer"),
                ),
                origin,
                line,
            ));
        }
        Ok(Self(Arc::new(CrlInner {
            fingerprint: Fingerprint::of(&der),
            der,
            essentials,
            origin,
            inspection: OnceLock::new(),
        })))
    }

    /// The DER.
    pub fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.0.der
    }

    /// The SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// When the issuer promises the next list, if it does.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.0.essentials.next_update
    }

    /// Where it was found.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Everything that is shown of it. Parsed at the first call.
    pub fn inspection(&self) -> &CrlInspection {
        self.0
            .inspection
            .get_or_init(|| inspect::crl(&self.0.der).expect("the essentials of this CRL were parsed before"))
    }

    /// Whether this list is of the same issuer as `other` and has a lower CRL number.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        match (&self.0.essentials.number, &other.0.essentials.number) {
            (Some(mine), Some(theirs)) => {
                self.is_of_issuer_of(other) && (mine.len(), mine) < (theirs.len(), theirs)
            }
            _ => false,
        }
    }

    /// Whether this is a newer list of the same issuer that revokes whatever `other` does: one that takes a revocation
    /// back accepts something that was not accepted before.
    pub(crate) fn takes_the_place_of(&self, other: &Self) -> bool {
        other.is_older_than(self)
            && inspect::revoked_serials(&other.0.der).is_subset(&inspect::revoked_serials(&self.0.der))
    }

    pub(super) fn is_of_issuer_of(&self, other: &Self) -> bool {
        self.0.essentials.issuer(&self.0.der) == other.0.essentials.issuer(&other.0.der)
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("fingerprint", &self.0.fingerprint)
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}
