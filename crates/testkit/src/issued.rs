//! What a CA hands out: a leaf with its chain and its key, in every encoding that files have.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::key::{Key, KeyKind};
use crate::text;

/// A leaf certificate with the chain that leads to its root, and its private key.
///
/// Clones are cheap in keys: they share one. `Debug` never shows it.
#[derive(Clone)]
pub struct Issued {
    pub(crate) name: String,
    /// Leaf first, then the intermediates; never the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) key: Arc<Key>,
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Subject public key info of the issuer: tells whose CRL may revoke this.
    pub(crate) issuer_key: Vec<u8>,
}

impl Issued {
    /// The name it was issued for (the subject's common name).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The leaf and the intermediates as PEM, leaf first: the content of `tls.crt` or `fullchain.pem`.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| text::pem("CERTIFICATE", der)).collect()
    }

    /// Only the leaf, as PEM: certbot's `cert.pem`.
    pub fn leaf_pem(&self) -> String {
        text::pem("CERTIFICATE", &self.chain[0])
    }

    /// Only the intermediates, as PEM: certbot's `chain.pem`. Empty if a root issued the leaf.
    pub fn intermediates_pem(&self) -> String {
        self.chain[1..].iter().map(|der| text::pem("CERTIFICATE", der)).collect()
    }

    /// The root that the chain leads to, as PEM: what cert-manager puts into `ca.crt`.
    pub fn root_pem(&self) -> String {
        text::pem("CERTIFICATE", &self.root)
    }

    /// The private key as PKCS #8 PEM (`PRIVATE KEY`).
    pub fn key_pem(&self) -> String {
        self.key.pkcs8_pem()
    }

    /// The private key as SEC 1 PEM (`EC PRIVATE KEY`); `None` unless it is an ECDSA key.
    pub fn key_sec1_pem(&self) -> Option<String> {
        self.key.sec1_pem()
    }

    /// The private key as PKCS #1 PEM (`RSA PRIVATE KEY`); `None` unless it is an RSA key.
    #[cfg(feature = "rsa")]
    pub fn key_pkcs1_pem(&self) -> Option<String> {
        self.key.pkcs1_pem()
    }

    /// Chain and key in one text, the key last: the content of a combined file.
    pub fn combined_pem(&self) -> String {
        self.chain_pem() + &self.key_pem()
    }

    /// The files of a Kubernetes TLS secret as cert-manager fills it, by name: `ca.crt` (the root), `tls.crt`
    /// (the chain), `tls.key`, in this order.
    pub fn files(&self) -> [(&'static str, String); 3] {
        [("ca.crt", self.root_pem()), ("tls.crt", self.chain_pem()), ("tls.key", self.key_pem())]
    }

    /// The leaf.
    pub fn leaf_der(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }

    /// The leaf and the intermediates, leaf first, as rustls takes them.
    pub fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The root that the chain leads to.
    pub fn root_der(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// The private key (PKCS #8), as rustls takes it.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.secret_pkcs8().to_vec()).into()
    }

    /// The kind of key.
    pub fn key_kind(&self) -> KeyKind {
        self.key.kind
    }

    /// The leaf's serial number in lower-case hex, without separators and leading zero bytes.
    pub fn serial_hex(&self) -> String {
        text::hex(&self.serial)
    }

    /// When the leaf begins to be valid, in whole seconds.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the leaf ends to be valid, in whole seconds.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// So that functions which take `impl AsRef<Issued>` accept it by value and by reference.
impl AsRef<Issued> for Issued {
    fn as_ref(&self) -> &Issued {
        self
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("name", &self.name)
            .field("serial", &self.serial_hex())
            .field("certificates", &self.chain.len())
            .field("key", &format_args!("{:?} [elided]", self.key.kind))
            .finish_non_exhaustive()
    }
}
