//! A server, our client and a bare reqwest client, with the same certificates.

use std::sync::Arc;
use std::time::Duration;

use certsource_client::{Client, Files, Policy};
use certsource_testkit::{Ca, Issued, KubeletDir};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::server::{Http, Server, Sessions, config};

/// Both clients and what they talk to.
#[derive(Debug)]
pub struct Rig {
    /// Who issued everything.
    pub ca: Ca,
    /// The files of our client.
    pub dir: KubeletDir,
    /// The server of both.
    pub server: Server,
    /// Ours. It looks at its files only when it is asked to.
    pub ours: Client,
    /// reqwest with a config that never changes.
    pub bare: reqwest::Client,
}

impl Rig {
    /// Starts the server and builds both clients, with `options` for both.
    ///
    /// # Panics
    /// When this machine gives no port or no file.
    pub async fn new(
        http: Http,
        sessions: Sessions,
        options: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        let ca = Ca::new("ca");
        let identity = ca.issue("client");
        let dir = KubeletDir::new(&identity).expect("a directory");
        let server = Server::start(config(&ca.issue("localhost"), &[&ca], http, sessions));
        let bare = options(builder(http)).tls_backend_preconfigured(tls(&ca, &identity, http));
        let bare = bare.build().expect("reqwest takes the config");
        let mut policy = Policy::every(Duration::from_secs(24 * 3600));
        policy.settle = Duration::from_millis(10);
        let ours = Client::builder().files(Files::kubernetes(dir.path())).policy(policy).no_proxy();
        let ours = if http == Http::One { ours.http1_only() } else { ours };
        let ours = ours.reqwest(options).build().await.expect("the files load");
        Self { ca, dir, server, ours, bare }
    }

    /// A request through our client. Returns the length of the response.
    ///
    /// # Errors
    /// As reqwest's `send`.
    pub async fn send_ours(&self) -> Result<usize, reqwest::Error> {
        Ok(self.ours.get(self.server.url()).send().await?.bytes().await?.len())
    }

    /// The same through the bare client.
    ///
    /// # Errors
    /// As reqwest's `send`.
    pub async fn send_bare(&self) -> Result<usize, reqwest::Error> {
        Ok(self.bare.get(self.server.url()).send().await?.bytes().await?.len())
    }
}

/// What both clients begin with.
pub fn builder(http: Http) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder().no_proxy();
    if http == Http::One { builder.http1_only() } else { builder }
}

/// The config that one writes by hand.
///
/// # Panics
/// When what was minted can not be used, which would be a fault of the testkit.
pub fn tls(ca: &Ca, identity: &Issued, http: Http) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.root_der()).expect("a minted root is whole");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain_der(), identity.key_der())
        .expect("what is issued is whole");
    config.alpn_protocols = match http {
        Http::One => vec![b"http/1.1".to_vec()],
        Http::Two => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    config
}
