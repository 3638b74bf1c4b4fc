//! The builder of leaf certificates.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SerialNumber};

use crate::ca::Ca;
use crate::issued::Issued;
use crate::key::{Key, KeyKind};
use crate::random;
use crate::validity::{Validity, to_x509};

/// Let's Encrypt's choice, and cert-manager's default.
const DEFAULT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Describes a leaf certificate before it is issued. Made by [`Ca::leaf`].
///
/// # Defaults
///
/// - subject alternative names: from the name. `localhost`, `127.0.0.1` and `::1` get all three; another IP
///   address gets itself; a URI (`spiffe://…`) gets a URI; a host name gets a DNS name; any other text stays
///   in the subject only
/// - validity: from an hour ago, for 90 days from now
/// - usage: server and client
/// - serial number: random, 16 bytes
/// - key: a new one, [`KeyKind::EcdsaP256`]
#[must_use = "nothing is issued until `issue` is called"]
#[derive(Debug)]
pub struct Leaf<'a> {
    ca: &'a Ca,
    name: String,
    sans: Vec<SanType>,
    validity: Validity,
    usages: Vec<ExtendedKeyUsagePurpose>,
    serial: Option<Vec<u8>>,
    key: KeyChoice,
}

enum KeyChoice {
    New(KeyKind),
    Given(Arc<Key>),
}

impl std::fmt::Debug for KeyChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New(kind) => write!(f, "new {kind:?}"),
            Self::Given(key) => write!(f, "{:?} [elided]", key.kind),
        }
    }
}

impl<'a> Leaf<'a> {
    pub(crate) fn new(ca: &'a Ca, name: &str) -> Self {
        Self {
            ca,
            name: name.to_owned(),
            sans: sans_of(name),
            validity: Validity::default(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            serial: None,
            key: KeyChoice::New(KeyKind::default()),
        }
    }

    /// Adds a DNS name.
    ///
    /// # Panics
    ///
    /// If the name is not ASCII: write international names in their `xn--` form.
    #[track_caller]
    pub fn san_dns(mut self, name: &str) -> Self {
        self.sans.push(dns(name));
        self
    }

    /// Adds an IP address.
    pub fn san_ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.sans.push(SanType::IpAddress(address.into()));
        self
    }

    /// Adds a URI, such as a SPIFFE ID.
    ///
    /// # Panics
    ///
    /// If the URI is not ASCII.
    #[track_caller]
    pub fn san_uri(mut self, uri: &str) -> Self {
        self.sans.push(self::uri(uri));
        self
    }

    /// Begins to be valid at this time, cut to whole seconds.
    pub fn not_before(mut self, at: SystemTime) -> Self {
        self.validity.not_before(at);
        self
    }

    /// Ends to be valid at this time, cut to whole seconds. A time in the past gives an expired certificate.
    pub fn not_after(mut self, at: SystemTime) -> Self {
        self.validity.not_after(at);
        self
    }

    /// Is valid for this long: from [`not_before`](Self::not_before) if that is set, else from the moment of
    /// issuing. Rounded up to whole seconds. Replaces [`not_after`](Self::not_after).
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.validity.valid_for(time);
        self
    }

    /// Only for clients: servers with this certificate are refused.
    pub fn client_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Only for servers: clients with this certificate are refused.
    pub fn server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Sets the serial number.
    pub fn serial(mut self, serial: u64) -> Self {
        let bytes = serial.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(7);
        self.serial = Some(bytes[zeros..].to_vec());
        self
    }

    /// Generates a key of this kind.
    pub fn key(mut self, kind: KeyKind) -> Self {
        self.key = KeyChoice::New(kind);
        self
    }

    /// Takes the key of another certificate: a renewal that keeps its key.
    pub fn with_key_of(mut self, other: &Issued) -> Self {
        self.key = KeyChoice::Given(Arc::clone(&other.key));
        self
    }

    /// Issues the certificate.
    ///
    /// # Panics
    ///
    /// If the system's random source fails.
    #[must_use]
    pub fn issue(self) -> Issued {
        let (not_before, not_after) = self.validity.resolve(DEFAULT_LIFE);
        let (not_before, not_after) = (to_x509(not_before), to_x509(not_after));
        let serial = self.serial.unwrap_or_else(random::serial);
        let key = match self.key {
            KeyChoice::New(kind) => Arc::new(Key::generate(kind)),
            KeyChoice::Given(key) => key,
        };

        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.subject_alt_names = self.sans;
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages;
        params.use_authority_key_identifier_extension = true;

        let leaf = self.ca.sign(&params, &key);
        let mut chain = vec![leaf];
        chain.extend(self.ca.intermediates());
        Issued {
            name: self.name,
            chain,
            root: self.ca.root_der(),
            key,
            serial,
            not_before: not_before.into(),
            not_after: not_after.into(),
            issuer_key: self.ca.public_key(),
        }
    }
}

fn sans_of(name: &str) -> Vec<SanType> {
    let host_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
    if matches!(name, "localhost" | "127.0.0.1" | "::1") {
        let local = ["127.0.0.1", "::1"].map(|ip| SanType::IpAddress(ip.parse().expect("a literal address")));
        [dns("localhost")].into_iter().chain(local).collect()
    } else if let Ok(address) = name.parse() {
        vec![SanType::IpAddress(address)]
    } else if name.is_ascii() && name.contains("://") {
        vec![uri(name)]
    } else if !name.is_empty() && name.chars().all(host_name) {
        vec![dns(name)]
    } else {
        Vec::new()
    }
}

#[track_caller]
fn dns(name: &str) -> SanType {
    match name.try_into() {
        Ok(name) => SanType::DnsName(name),
        Err(_) => panic!("a DNS name in a certificate must be ASCII: {name:?}"),
    }
}

#[track_caller]
fn uri(uri: &str) -> SanType {
    match uri.try_into() {
        Ok(uri) => SanType::URI(uri),
        Err(_) => panic!("a URI in a certificate must be ASCII: {uri:?}"),
    }
}
