//! Certificate authorities: roots, intermediates, renewed and cross-signed ones.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use pki_types::CertificateDer;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};

use crate::crl::{Crl, CrlBuilder, Revoked};
use crate::issued::Issued;
use crate::key::{Key, KeyKind};
use crate::leaf::Leaf;
use crate::random;
use crate::text;
use crate::validity::{Validity, to_x509};

const DEFAULT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A certificate authority: a root, or an intermediate below one.
///
/// Clones are handles to the same authority: they share its key and its list of revoked certificates.
///
/// # Examples
///
/// ```
/// use certsource_testkit::Ca;
///
/// let root = Ca::new("Example root");
/// let issuing = root.intermediate("Example issuing CA");
/// let issued = issuing.issue("localhost");
/// assert_eq!(issued.chain_der().len(), 2); // the leaf and the intermediate; never the root
///
/// issuing.revoke(&issued);
/// let crl = issuing.crl();
/// assert!(crl.pem().starts_with("-----BEGIN X509 CRL-----"));
/// ```
#[derive(Clone)]
pub struct Ca {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    params: CertificateParams,
    key: Arc<Key>,
    certificate: CertificateDer<'static>,
    serial: Vec<u8>,
    /// From this CA's own certificate up to the one below the root; empty for a root.
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    issuer_key: Vec<u8>,
    /// Shared with renewed certificates of the same authority: a CRL belongs to name and key.
    revocations: Arc<Mutex<Revocations>>,
}

#[derive(Default)]
pub(crate) struct Revocations {
    pub(crate) list: Vec<Revoked>,
    pub(crate) last_number: u64,
}

impl Ca {
    /// A new root with the defaults of [`CaBuilder`].
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::builder(name).build()
    }

    /// A root or an intermediate with options.
    pub fn builder(name: &str) -> CaBuilder {
        CaBuilder {
            name: name.to_owned(),
            parent: None,
            validity: Validity::default(),
            key: None,
            kind: KeyKind::default(),
            revocations: None,
        }
    }

    /// A new intermediate below this authority.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        Self::builder(name).signed_by(self).build()
    }

    /// The same authority with a new certificate: name, key and revoked certificates stay. What the old
    /// certificate verified, the new one verifies too. With [`CaBuilder::signed_by`] it is a cross-signed one.
    pub fn renew(&self) -> CaBuilder {
        CaBuilder {
            key: Some(Arc::clone(&self.inner.key)),
            revocations: Some(Arc::clone(&self.inner.revocations)),
            ..Self::builder(&self.inner.name)
        }
    }

    /// Issues a leaf for server and client use with the defaults of [`Leaf`]. Short for
    /// `ca.leaf(name).issue()`.
    #[must_use]
    pub fn issue(&self, name: &str) -> Issued {
        self.leaf(name).issue()
    }

    /// A leaf with options.
    pub fn leaf(&self, name: &str) -> Leaf<'_> {
        Leaf::new(self, name)
    }

    /// The name it was made with (the subject's common name).
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// This authority's own certificate, as PEM. For a root, this is what clients trust.
    pub fn certificate_pem(&self) -> String {
        text::pem("CERTIFICATE", &self.inner.certificate)
    }

    /// This authority's own certificate.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        self.inner.certificate.clone()
    }

    /// The root above this authority, or its own certificate if it is the root.
    pub fn root_der(&self) -> CertificateDer<'static> {
        self.inner.root.clone()
    }

    /// Revokes a certificate. It is in every CRL that is made from now on.
    ///
    /// # Panics
    ///
    /// If the certificate was issued by another authority: its CRL would have no effect.
    #[track_caller]
    pub fn revoke(&self, issued: impl AsRef<Issued>) {
        let issued = issued.as_ref();
        self.revoke_serial(&issued.name, &issued.issuer_key, &issued.serial);
    }

    /// Revokes an intermediate of this authority.
    ///
    /// # Panics
    ///
    /// If it is an intermediate of another authority.
    #[track_caller]
    pub fn revoke_intermediate(&self, ca: &Ca) {
        self.revoke_serial(&ca.inner.name, &ca.inner.issuer_key, &ca.inner.serial);
    }

    /// Takes a revocation back (RFC 5280 calls it `removeFromCRL`). Nothing happens if there was none.
    pub fn unrevoke(&self, issued: impl AsRef<Issued>) {
        let serial = &issued.as_ref().serial;
        self.revocations().list.retain(|revoked| revoked.serial != *serial);
    }

    /// A CRL of everything that is revoked now, with the next number, valid for seven days. Short for
    /// `ca.crl_builder().sign()`.
    #[must_use]
    pub fn crl(&self) -> Crl {
        self.crl_builder().sign()
    }

    /// A CRL with options.
    pub fn crl_builder(&self) -> CrlBuilder<'_> {
        CrlBuilder::new(self)
    }

    #[track_caller]
    fn revoke_serial(&self, name: &str, issuer_key: &[u8], serial: &[u8]) {
        assert_eq!(issuer_key, self.public_key(), "{name} was not issued by {}", self.inner.name);
        let mut revocations = self.revocations();
        if revocations.list.iter().all(|revoked| revoked.serial != serial) {
            revocations.list.push(Revoked { serial: serial.to_vec(), at: SystemTime::now() });
        }
    }

    pub(crate) fn revocations(&self) -> MutexGuard<'_, Revocations> {
        // A test that panicked elsewhere leaves the list whole: each change is one push or one retain.
        self.inner.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.inner.params, &self.inner.key.pair)
    }

    pub(crate) fn sign(&self, params: &CertificateParams, key: &Key) -> CertificateDer<'static> {
        let signed = params.signed_by(&key.pair, &self.issuer());
        signed.expect("complete parameters and a generated key always sign").into()
    }

    pub(crate) fn intermediates(&self) -> Vec<CertificateDer<'static>> {
        self.inner.intermediates.clone()
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.inner.key.public()
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("name", &self.inner.name)
            .field("serial", &text::hex(&self.inner.serial))
            .field("key", &format_args!("{:?} [elided]", self.inner.key.kind))
            .finish_non_exhaustive()
    }
}

/// Describes an authority before it is made. Made by [`Ca::builder`] and [`Ca::renew`].
///
/// # Defaults
///
/// - a root: it signs itself
/// - validity: from an hour ago, for ten years from now
/// - key: a new one, [`KeyKind::EcdsaP256`]
#[must_use = "no authority is made until `build` is called"]
pub struct CaBuilder {
    name: String,
    parent: Option<Ca>,
    validity: Validity,
    key: Option<Arc<Key>>,
    kind: KeyKind,
    revocations: Option<Arc<Mutex<Revocations>>>,
}

impl CaBuilder {
    /// Makes it an intermediate below another authority.
    pub fn signed_by(mut self, parent: &Ca) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    /// Begins to be valid at this time, cut to whole seconds.
    pub fn not_before(mut self, at: SystemTime) -> Self {
        self.validity.not_before(at);
        self
    }

    /// Ends to be valid at this time, cut to whole seconds.
    pub fn not_after(mut self, at: SystemTime) -> Self {
        self.validity.not_after(at);
        self
    }

    /// Is valid for this long: from [`not_before`](Self::not_before) if that is set, else from now. Rounded up
    /// to whole seconds.
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.validity.valid_for(time);
        self
    }

    /// Generates a key of this kind. No effect after [`Ca::renew`], which keeps the key.
    pub fn key(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// Makes the authority.
    ///
    /// # Panics
    ///
    /// If the system's random source fails.
    #[must_use]
    pub fn build(self) -> Ca {
        let (not_before, not_after) = self.validity.resolve(DEFAULT_LIFE);
        let key = self.key.unwrap_or_else(|| Arc::new(Key::generate(self.kind)));
        let serial = random::serial();

        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.not_before = to_x509(not_before);
        params.not_after = to_x509(not_after);
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = self.parent.is_some();

        let (certificate, intermediates, root, issuer_key) = match &self.parent {
            Some(parent) => {
                let certificate = parent.sign(&params, &key);
                let mut intermediates = vec![certificate.clone()];
                intermediates.extend(parent.intermediates());
                (certificate, intermediates, parent.root_der(), parent.public_key())
            }
            None => {
                let signed = params.self_signed(&key.pair);
                let certificate: CertificateDer<'static> =
                    signed.expect("complete parameters and a generated key always sign").into();
                (certificate.clone(), Vec::new(), certificate, key.public())
            }
        };
        Ca {
            inner: Arc::new(Inner {
                name: self.name,
                params,
                key,
                certificate,
                serial,
                intermediates,
                root,
                issuer_key,
                revocations: self.revocations.unwrap_or_default(),
            }),
        }
    }
}

impl fmt::Debug for CaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaBuilder")
            .field("name", &self.name)
            .field("parent", &self.parent)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}
