//! A generation made into a `ServerConfig`: fresh in every part, session storage and ticket keys included.

use std::fmt;
use std::sync::Arc;

use certsource_reload::certsource::Material;
use certsource_reload::{Error, Reason};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::crypto::{default_provider, fresh_ticketer, refused};
use crate::gate::certified_key;
use crate::revocation::Revocation;

/// Sessions that a server keeps for resumption, per generation.
const SESSIONS: usize = 1024;

/// Whether a server asks clients for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// A certificate of the source's trust anchors is asked for; clients without one are served too.
    Optional,
    /// A certificate of the source's trust anchors is needed.
    Required,
}

/// How server configs are made from generations.
///
/// rustls restores a client's chain from a stored session without verifying it again. So each config has a verifier,
/// a session store and ticket keys of its own.
///
/// # Defaults
/// * time: the system's clock
/// * protocol versions: TLS 1.3 and 1.2
/// * ALPN: none
/// * client authentication: none
/// * resumption: on, within a generation
/// * tickets: by the default provider's library, with fresh keys for each generation. With a provider that was passed
///   in there are none, as only that provider's library may do cryptography; sessions then resume from memory. See
///   [`ServerTls::ticketer`].
/// * revocation lists: [`Revocation::default`]
#[derive(Clone)]
#[must_use]
pub struct ServerTls {
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    client_auth: ClientAuth,
    resumption: bool,
    revocation: Revocation,
    ticketer: MakeTicketer,
}

type MakeTicketer = Arc<dyn Fn() -> Option<Arc<dyn ProducesTickets>> + Send + Sync>;

impl ServerTls {
    /// With the default provider.
    ///
    /// # Errors
    /// When no provider feature is on.
    pub fn new() -> Result<Self, Error> {
        let mut tls = default_provider().map(Self::with_provider)?;
        tls.ticketer = Arc::new(fresh_ticketer);
        Ok(tls)
    }

    /// With this provider.
    pub fn with_provider(provider: Arc<CryptoProvider>) -> Self {
        Self {
            provider,
            time: Arc::new(DefaultTimeProvider),
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: Vec::new(),
            client_auth: ClientAuth::None,
            resumption: true,
            revocation: Revocation::default(),
            ticketer: Arc::new(|| None),
        }
    }

    /// Asks this for the time at each handshake, by which certificates and revocation lists of clients are judged, and the
    /// age of sessions: for devices whose clock is not the system's, and for tests. One that cannot tell the time makes
    /// handshakes fail.
    pub fn time_provider(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.time = time;
        self
    }

    /// Accepts these protocols by ALPN (RFC 7301), the preferred one first.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Speaks these versions of TLS only.
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// Whether clients are asked for a certificate.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// Whether sessions are resumed within a generation.
    pub fn resumption(mut self, resumption: bool) -> Self {
        self.resumption = resumption;
        self
    }

    /// What the revocation lists are used for.
    pub fn revocation(mut self, revocation: Revocation) -> Self {
        self.revocation = revocation;
        self
    }

    /// Makes the ticketer of each generation. It must have fresh keys each time: a ticket of an older generation holds a
    /// client's chain that nobody would verify again. `None`: sessions resume from memory only.
    pub fn ticketer(
        mut self,
        make: impl Fn() -> Option<Arc<dyn ProducesTickets>> + Send + Sync + 'static,
    ) -> Self {
        self.ticketer = Arc::new(make);
        self
    }

    /// Makes the verifier of clients, as [`ServerTls::config`] uses it: to judge again, by newer material, who is there
    /// already. `None` when clients are asked for nothing.
    ///
    /// # Errors
    /// When client authentication is on and the material holds no trust, or when rustls does not accept it.
    pub fn client_verifier(&self, material: &Material) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
        if self.client_auth == ClientAuth::None {
            return Ok(None);
        }
        let Some(trust) = material.trust() else {
            return Err(Error::new(
                Reason::Empty,
                "no trust anchors: a server that asks clients for certificates needs a CA bundle",
            ));
        };
        let crls = material.crls().unwrap_or_default();
        let is_optional = self.client_auth == ClientAuth::Optional;
        self.revocation.client_verifier(trust, crls, &self.provider, is_optional).map(Some)
    }

    /// Makes a config: a fresh verifier, resolver, session store and ticketer.
    ///
    /// # Errors
    /// When the material holds no identity, when client authentication is on and it holds no trust, or when rustls
    /// does not accept it.
    pub fn config(&self, material: &Material) -> Result<ServerConfig, Error> {
        let Some(identity) = material.identity() else {
            return Err(Error::new(Reason::Empty, "no identity: a server needs a certificate and its key"));
        };
        let builder = ServerConfig::builder_with_details(self.provider.clone(), Arc::clone(&self.time))
            .with_protocol_versions(&self.versions)
            .map_err(|error| refused("the crypto provider does not have these versions of TLS", error))?;
        let builder = match self.client_verifier(material)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let key = certified_key(identity, &self.provider)?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols.clone_from(&self.alpn);
        if self.resumption {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
            if let Some(ticketer) = (self.ticketer)() {
                config.ticketer = ticketer;
            }
        } else {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("versions", &self.versions)
            .field("alpn", &self.alpn)
            .field("client_auth", &self.client_auth)
            .field("resumption", &self.resumption)
            .field("revocation", &self.revocation)
            .finish_non_exhaustive()
    }
}
