//! [`Site`]: one identity of a server, with the source it follows; [`Sites`]: which of them a client asked for.

use std::collections::HashMap;
use std::sync::Arc;

use certsource_reload::{Derived, Error, Generation, Reloader};
use certsource_rustls::ServerTls;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;

/// What is made of a generation.
pub(super) struct SiteTls {
    pub(super) config: Arc<ServerConfig>,
    /// Judges those who are there already.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl SiteTls {
    fn new(tls: &ServerTls, generation: &Generation) -> Result<Self, Error> {
        let material = generation.material();
        Ok(Self { config: Arc::new(tls.config(material)?), verifier: tls.client_verifier(material)? })
    }
}

/// One identity of a server.
pub(super) struct Site {
    pub(super) current: Derived<SiteTls>,
}

impl Site {
    pub(super) fn new(reloader: &Reloader, tls: ServerTls) -> Result<Arc<Self>, Error> {
        let current = reloader.derive(move |generation| SiteTls::new(&tls, generation))?;
        Ok(Arc::new(Self { current }))
    }

    pub(super) fn reloader(&self) -> &Reloader {
        self.current.reloader()
    }
}

/// The identities of a server.
pub(super) struct Sites {
    default: Arc<Site>,
    /// By name; `*.example.org` stands for one label.
    named: HashMap<String, Arc<Site>>,
}

impl Sites {
    pub(super) fn new(default: Arc<Site>, named: HashMap<String, Arc<Site>>) -> Self {
        Self { default, named }
    }

    /// The one for this name of the client's hello (RFC 6066, section 3). Without a name, or with an unknown one, the
    /// default: whoever does not know that certificate refuses it.
    pub(super) fn choose(&self, name: Option<&str>) -> &Arc<Site> {
        let Some(name) = name.filter(|_| !self.named.is_empty()) else { return &self.default };
        let name = name.to_ascii_lowercase();
        let found = self.named.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.named.get(&format!("*.{parent}"))
        });
        found.unwrap_or(&self.default)
    }
}
