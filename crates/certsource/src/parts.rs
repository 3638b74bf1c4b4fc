//! What a source's `read` gives: DER with its place, part by part, each found, absent or broken.
//!
//! What is not here: whether the parts fit together. That is [`Material`](crate::Material).

use std::fmt;

use pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::error::Error;
use crate::key::PrivateKey;
use crate::origin::Origin;

/// One part of a source.
#[derive(Debug, Default)]
pub enum Part<T> {
    /// The source does not hold this part.
    #[default]
    Absent,
    /// It was read.
    Found(T),
    /// It should be there and could not be read.
    Broken(Error),
}

impl<T> From<Result<T, Error>> for Part<T> {
    fn from(result: Result<T, Error>) -> Self {
        match result {
            Ok(found) => Self::Found(found),
            Err(error) => Self::Broken(error),
        }
    }
}

/// A certificate as it was found.
#[derive(Clone, Debug)]
pub struct FoundCertificate {
    /// The DER.
    pub der: CertificateDer<'static>,
    /// Where it was found.
    pub origin: Origin,
    /// The line its section begins on, counted from 1, if it came from text.
    pub line: Option<usize>,
}

/// A revocation list as it was found.
#[derive(Clone, Debug)]
pub struct FoundCrl {
    /// The DER.
    pub der: CertificateRevocationListDer<'static>,
    /// Where it was found.
    pub origin: Origin,
    /// The line its section begins on, counted from 1, if it came from text.
    pub line: Option<usize>,
}

/// An identity as it was found.
pub struct FoundIdentity {
    /// The certificate chain, the leaf first.
    pub chain: Vec<FoundCertificate>,
    /// The private key.
    pub key: PrivateKey,
    /// Where the key was found.
    pub key_origin: Origin,
}

impl fmt::Debug for FoundIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundIdentity")
            .field("chain", &self.chain)
            .field("key_origin", &self.key_origin)
            .finish_non_exhaustive()
    }
}

/// Something worth telling that is no failure: a key that others can read, a file that can never change again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub origin: Origin,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// One consistent view of a source.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Parts {
    /// The trust anchors.
    pub trust: Part<Vec<FoundCertificate>>,
    /// The certificate chain and its private key.
    pub identity: Part<FoundIdentity>,
    /// The revocation lists.
    pub crls: Part<Vec<FoundCrl>>,
    /// What is worth telling.
    pub warnings: Vec<Warning>,
    /// Whether the source is one file: then a rename over it is a change of the whole.
    pub single_file: bool,
}

impl Parts {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same parts, with these trust anchors, all of one origin.
    #[must_use]
    pub fn with_trust(
        mut self,
        origin: &Origin,
        anchors: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Self {
        self.trust = Part::Found(found(origin, anchors));
        self
    }

    /// The same parts, with this identity: the chain with the leaf first, and the key in any DER format.
    #[must_use]
    pub fn with_identity(
        mut self,
        origin: &Origin,
        chain: impl IntoIterator<Item = CertificateDer<'static>>,
        key: PrivateKey,
    ) -> Self {
        self.identity =
            Part::Found(FoundIdentity { chain: found(origin, chain), key, key_origin: origin.clone() });
        self
    }

    /// The same parts, with these revocation lists, all of one origin.
    #[must_use]
    pub fn with_crls(
        mut self,
        origin: &Origin,
        crls: impl IntoIterator<Item = CertificateRevocationListDer<'static>>,
    ) -> Self {
        self.crls = Part::Found(
            crls.into_iter().map(|der| FoundCrl { der, origin: origin.clone(), line: None }).collect(),
        );
        self
    }
}

fn found(origin: &Origin, ders: impl IntoIterator<Item = CertificateDer<'static>>) -> Vec<FoundCertificate> {
    ders.into_iter().map(|der| FoundCertificate { der, origin: origin.clone(), line: None }).collect()
}
