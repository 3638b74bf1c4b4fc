//! A generation made into a `ClientConfig`: fresh in every part, so that nothing of an older one can be resumed.

use std::sync::Arc;

use certsource_reload::certsource::Material;
use certsource_reload::{Error, Reason};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::{SigningKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::crypto::{default_provider, refused};
use crate::gate::certified_key;
use crate::revocation::Revocation;

/// How client configs are made from generations.
///
/// rustls resumes a session when the verifier and the resolver are the same objects as before, without verifying the
/// chain again. So each config has a verifier, a resolver and a session store of its own: what a generation no
/// longer trusts is refused at the first connection that it makes.
///
/// # Defaults
/// * time: the system's clock
/// * protocol versions: TLS 1.3 and 1.2
/// * ALPN: none
/// * resumption: on, within a generation
/// * early data: off
/// * revocation lists: [`Revocation::default`]
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientTls {
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    resumption: bool,
    revocation: Revocation,
}

impl ClientTls {
    /// With the default provider.
    ///
    /// # Errors
    /// When no provider feature is on.
    pub fn new() -> Result<Self, Error> {
        default_provider().map(Self::with_provider)
    }

    /// With this provider.
    pub fn with_provider(provider: Arc<CryptoProvider>) -> Self {
        Self {
            provider,
            time: Arc::new(DefaultTimeProvider),
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: Vec::new(),
            resumption: true,
            revocation: Revocation::default(),
        }
    }

    /// Asks this for the time at each handshake, by which certificates and revocation lists of servers are judged, and
    /// the age of session tickets: for devices whose clock is not the system's, and for tests. One that cannot tell the
    /// time makes every handshake fail.
    pub fn time_provider(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.time = time;
        self
    }

    /// Offers these protocols by ALPN (RFC 7301), the preferred one first.
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Speaks these versions of TLS only.
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
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

    /// The crypto provider.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Makes the verifier of servers alone, for programs that ask what a config would accept.
    ///
    /// # Errors
    /// As [`ClientTls::config`].
    pub fn verifier(&self, material: &Material) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        let Some(trust) = material.trust() else {
            return Err(Error::new(
                Reason::Empty,
                "no trust anchors: name a CA bundle; the system's roots are never used unasked",
            ));
        };
        self.revocation.server_verifier(trust, material.crls().unwrap_or_default(), &self.provider)
    }

    /// Who tells the time.
    pub(crate) fn time(&self) -> &Arc<dyn TimeProvider> {
        &self.time
    }

    /// The versions of TLS that are spoken.
    pub(crate) fn offered_versions(&self) -> &[&'static SupportedProtocolVersion] {
        &self.versions
    }

    /// What is offered by ALPN.
    pub(crate) fn offered_protocols(&self) -> &[Vec<u8>] {
        &self.alpn
    }

    /// Makes a config: a fresh verifier, resolver and session store.
    ///
    /// # Errors
    /// When the material holds no trust, or when rustls does not accept it.
    pub fn config(&self, material: &Material) -> Result<ClientConfig, Error> {
        self.config_with(material, |verifier| verifier, |key| key)
    }

    /// As [`ClientTls::config`], with something of `certsource-client`'s around the verifier and the private key: rustls
    /// shows a config's own to nobody.
    #[doc(hidden)]
    pub fn config_with(
        &self,
        material: &Material,
        around_verifier: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier>,
        around_key: impl FnOnce(Arc<dyn SigningKey>) -> Arc<dyn SigningKey>,
    ) -> Result<ClientConfig, Error> {
        let verifier = around_verifier(self.verifier(material)?);
        let builder = ClientConfig::builder_with_details(self.provider.clone(), Arc::clone(&self.time))
            .with_protocol_versions(&self.versions)
            .map_err(|error| refused("the crypto provider does not have these versions of TLS", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match material.identity() {
            Some(identity) => {
                let mut certified = certified_key(identity, &self.provider)?;
                certified.key = around_key(certified.key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = if self.resumption { Resumption::default() } else { Resumption::disabled() };
        config.enable_early_data = false;
        Ok(config)
    }
}
