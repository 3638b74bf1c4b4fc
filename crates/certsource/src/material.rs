//! Material: the parsed, checked, immutable content of a source at one moment, and how two of them differ.
//!
//! Revocation lists are in `material/crl.rs`, comparing in `material/compare.rs`.
//!
//! What is not here: reading (see [`crate::files`]) and whether a change should be adopted (see [`crate::machine`]).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::digest::{ContentId, Digest, Fingerprint, SecretHasher};
use crate::error::{Error, Reason};
use crate::inspect::{self, Inspection};
use crate::key::{Match, PrivateKey};
use crate::origin::Origin;
use crate::parts::{FoundCertificate, FoundIdentity, Part, Parts, Warning};

mod compare;
mod crl;

pub use self::compare::{Diff, Partial};
pub use self::crl::Crl;

/// What a certificate is for in its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// A trust anchor.
    Anchor,
    /// The end entity of the identity.
    Leaf,
    /// An intermediate of the identity's chain.
    Intermediate,
}

impl Role {
    /// The stable name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anchor => "anchor",
            Self::Leaf => "leaf",
            Self::Intermediate => "intermediate",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A certificate that was parsed. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<CertificateInner>);

struct CertificateInner {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
    essentials: inspect::Essentials,
    origin: Origin,
    line: Option<usize>,
    inspection: OnceLock<Inspection>,
}

impl Certificate {
    fn parse(found: FoundCertificate) -> Result<Self, Error> {
        let FoundCertificate { der, origin, line } = found;
        match inspect::essentials(&der) {
            Ok(essentials) => Ok(Self(Arc::new(CertificateInner {
                fingerprint: Fingerprint::of(&der),
                der,
                essentials,
                origin,
                line,
                inspection: OnceLock::new(),
            }))),
            Err(what) => {
                Err(place(Error::new(Reason::Malformed, format!("not a certificate: {what}")), origin, line))
            }
        }
    }

    /// The DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// The SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.0.essentials.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.0.essentials.not_after
    }

    /// Whether its basic constraints say that it is a certificate authority.
    pub fn is_ca(&self) -> bool {
        self.0.essentials.is_ca
    }

    /// The DER of its SubjectPublicKeyInfo.
    pub fn public_key_der(&self) -> &[u8] {
        &self.0.der[self.0.essentials.spki.clone()]
    }

    /// Where it was found.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// The line its section begins on, counted from 1, if it came from text.
    pub fn line(&self) -> Option<usize> {
        self.0.line
    }

    /// Everything that is shown of it: names, algorithms, times. Parsed at the first call.
    pub fn inspection(&self) -> &Inspection {
        self.0.inspection.get_or_init(|| {
            inspect::certificate(&self.0.der).expect("the essentials of this certificate were parsed before")
        })
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.0.fingerprint)
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}

/// A certificate chain and its private key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<Certificate>,
    key: PrivateKey,
    matches: Match,
}

impl Identity {
    fn assemble(found: FoundIdentity) -> Result<Self, Error> {
        let FoundIdentity { chain, key, key_origin } = found;
        let mut chain = chain.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
        chain.shrink_to_fit();
        let Some(leaf) = chain.first() else {
            return Err(Error::new(Reason::Empty, "the identity holds no certificate").of(key_origin));
        };
        key.check().map_err(|(reason, what)| Error::new(reason, what).of(key_origin.clone()))?;
        let matches = key.matches(leaf.public_key_der());
        if matches == Match::No {
            return Err(Error::new(
                Reason::KeyMismatch,
                format!(
                    "the private key does not belong to the certificate in {}; a writer may be between the two \
                     files, otherwise issue both again",
                    leaf.origin()
                ),
            )
            .of(key_origin));
        }
        Ok(Self { chain, key, matches })
    }

    /// The chain: the leaf first.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The end-entity certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.chain[0]
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Whether it is known that the key belongs to the leaf. `false` means that a crypto library must tell: an Ed25519
    /// key as OpenSSL writes it does not hold its public half.
    pub fn is_key_match_known(&self) -> bool {
        self.matches == Match::Yes
    }
}

/// The content of a source at one moment: typed, checked, immutable. Keys are never shown.
#[derive(Debug)]
pub struct Material {
    trust: Option<Vec<Certificate>>,
    identity: Option<Arc<Identity>>,
    crls: Option<Vec<Crl>>,
    warnings: Vec<Warning>,
    single_file: bool,
    digest: Digest,
    content: ContentId,
}

impl Material {
    fn new(
        trust: Option<Vec<Certificate>>,
        identity: Option<Arc<Identity>>,
        crls: Option<Vec<Crl>>,
        warnings: Vec<Warning>,
        single_file: bool,
    ) -> Self {
        let digest = digest(trust.as_deref(), identity.as_deref(), crls.as_deref());
        let content = content(&digest, identity.as_deref());
        Self { trust, identity, crls, warnings, single_file, digest, content }
    }

    /// The trust anchors, in the order they were found; `None` when the source holds no trust.
    ///
    /// Never an empty list: an empty bundle is an error.
    pub fn trust(&self) -> Option<&[Certificate]> {
        self.trust.as_deref()
    }

    /// The identity; `None` when the source holds none.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    /// The revocation lists; `None` when the source holds none.
    pub fn crls(&self) -> Option<&[Crl]> {
        self.crls.as_deref()
    }

    /// What was worth telling when it was read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The digest over the public parts.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Equal for equal reads; see [`ContentId`].
    pub fn content_id(&self) -> ContentId {
        self.content
    }

    /// Every certificate with its role: the chain, then the anchors.
    pub fn certificates(&self) -> impl Iterator<Item = (Role, &Certificate)> {
        let chain = self.identity.iter().flat_map(|identity| identity.chain.iter());
        let chain =
            chain.enumerate().map(|(at, c)| (if at == 0 { Role::Leaf } else { Role::Intermediate }, c));
        chain.chain(self.trust.iter().flatten().map(|c| (Role::Anchor, c)))
    }

    /// The end of validity that comes first, over the whole chain and, where every anchor must be alive, not over
    /// the anchors: one expired anchor of a bundle harms nobody. `None` without an identity.
    pub fn identity_not_after(&self) -> Option<SystemTime> {
        self.identity.as_ref()?.chain.iter().map(Certificate::not_after).min()
    }

    /// The earliest end of validity over everything in it, anchors included.
    pub fn earliest_not_after(&self) -> Option<SystemTime> {
        self.certificates().map(|(_, certificate)| certificate.not_after()).min()
    }

    /// Whether the whole source is one file.
    pub fn is_single_file(&self) -> bool {
        self.single_file
    }
}

/// What came of a read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reading {
    /// The material, if every part of it is good.
    pub whole: Result<Arc<Material>, Error>,
    /// The parts that are good, when another one is broken: a withdrawal in them must not be lost.
    pub partial: Option<Partial>,
}

impl From<Error> for Reading {
    fn from(error: Error) -> Self {
        Self { whole: Err(error), partial: None }
    }
}

impl Parts {
    /// Parses every part and checks that they fit together.
    pub fn assemble(self) -> Reading {
        let Self { trust, identity, crls, warnings, single_file } = self;
        let trust = assemble_part(trust, |found| {
            non_empty(&found, "the trust bundle holds no certificate; it never means \"trust nobody\"")?;
            let mut anchors = found.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
            // Collected in place, in the room of what was found, which is eight times as large.
            anchors.shrink_to_fit();
            Ok(anchors)
        });
        let crls = assemble_part(crls, |found| {
            non_empty(
                &found,
                "the CRL file holds no revocation list; it never means \"nothing is revoked\"",
            )?;
            found.into_iter().map(Crl::parse).collect::<Result<Vec<_>, _>>()
        });
        let identity = assemble_part(identity, |found| Identity::assemble(found).map(Arc::new));
        match (trust, identity, crls) {
            (Ok(None), Ok(None), Ok(None)) => {
                Error::new(Reason::Empty, "the source holds neither trust, nor an identity, nor a CRL").into()
            }
            (Ok(trust), Ok(identity), Ok(crls)) => Reading {
                whole: Ok(Arc::new(Material::new(trust, identity, crls, warnings, single_file))),
                partial: None,
            },
            (trust, identity, crls) => {
                let error = [trust.as_ref().err(), identity.as_ref().err(), crls.as_ref().err()];
                let error = error.into_iter().flatten().next().cloned().expect("one of the parts is broken");
                Reading { whole: Err(error), partial: Some(Partial { trust: trust.ok(), crls: crls.ok() }) }
            }
        }
    }
}

fn assemble_part<T, U>(part: Part<T>, parse: impl FnOnce(T) -> Result<U, Error>) -> Result<Option<U>, Error> {
    match part {
        Part::Absent => Ok(None),
        Part::Found(found) => parse(found).map(Some),
        Part::Broken(error) => Err(error),
    }
}

fn non_empty<T>(found: &[T], message: &str) -> Result<(), Error> {
    if found.is_empty() { Err(Error::new(Reason::Empty, message)) } else { Ok(()) }
}

fn place(error: Error, origin: Origin, line: Option<usize>) -> Error {
    let error = error.of(origin);
    match line {
        Some(line) => error.on_line(line),
        None => error,
    }
}

/// Domain-separated: each part is tagged and counted, so that no two materials share an input.
fn digest(trust: Option<&[Certificate]>, identity: Option<&Identity>, crls: Option<&[Crl]>) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"certsource material 1");
    let mut part = |tag: u8, prints: Option<Vec<Fingerprint>>| {
        hasher.update([tag, u8::from(prints.is_some())]);
        let prints = prints.unwrap_or_default();
        hasher.update((prints.len() as u64).to_be_bytes());
        prints.iter().for_each(|print| hasher.update(print.as_bytes()));
    };
    let set = |mut prints: Vec<Fingerprint>| {
        prints.sort_unstable();
        prints.dedup();
        prints
    };
    part(b't', trust.map(|t| set(t.iter().map(Certificate::fingerprint).collect())));
    part(b'i', identity.map(|i| i.chain.iter().map(Certificate::fingerprint).collect()));
    part(b'c', crls.map(|c| set(c.iter().map(Crl::fingerprint).collect())));
    Digest(hasher.finalize().into())
}

fn content(digest: &Digest, identity: Option<&Identity>) -> ContentId {
    let mut hasher = SecretHasher::default();
    hasher.update(digest.as_bytes());
    if let Some(identity) = identity {
        hasher.update(identity.key.secret_der());
    }
    ContentId(hasher.finish())
}
