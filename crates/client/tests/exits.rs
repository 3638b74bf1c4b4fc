//! The three ways out for code that wants another type than our client: what each keeps, and what it loses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use certsource_client::certsource_rustls::ClientTls;
use certsource_client::reqwest::{self, StatusCode};
use certsource_client::rustls::ClientConfig;
use certsource_client::{Client, Reason};
use certsource_testkit::{Ca, Issued, KubeletDir};

use common::{HTTP, Http, Server, TLS, Tls, builder, reply, until};

/// Trust and identity of one CA, then of another. The server accepts both, and shows a certificate of the first.
struct Setting {
    dir: KubeletDir,
    server: Server,
    first: Issued,
    second: Issued,
}

impl Setting {
    async fn new(http: Http, version: &'static certsource_client::rustls::SupportedProtocolVersion) -> Self {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let (first, second) = (old.issue("client"), new.issue("client"));
        let leaf = old.issue("localhost");
        let server =
            Server::start(Tls::of(&leaf).clients(&[&old, &new]).http(http).versions(&[version])).await;
        Self { dir: KubeletDir::new(&first).unwrap(), server, first, second }
    }

    async fn client(&self) -> Client {
        builder(self.dir.path()).build().await.unwrap()
    }

    /// The first CA is withdrawn.
    async fn rotate(&self, client: &Client) {
        self.dir.swap(&self.second).unwrap();
        client.reload().await.unwrap();
    }

    async fn ask(&self, client: &reqwest::Client) -> Result<(), reqwest::Error> {
        client.get(self.server.url("/")).send().await?.bytes().await.map(drop)
    }
}

/// A snapshot keeps reqwest's type, our options, its pool and resumption; it loses everything that follows.
#[tokio::test]
async fn a_snapshot_keeps_the_moment_and_follows_nothing() {
    for http in HTTP {
        for version in TLS {
            let setting = Setting::new(http, version).await;
            let unpooled = builder(setting.dir.path())
                .reqwest(|b| b.pool_max_idle_per_host(0).user_agent("mine"))
                .build()
                .await
                .unwrap();
            let (pooled, unpooled) = (setting.client().await.snapshot().unwrap(), {
                let snapshot = unpooled.snapshot().unwrap();
                setting.ask(&snapshot).await.unwrap();
                assert_eq!(setting.server.last().headers["user-agent"], "mine", "kept: the options");
                setting.rotate(&unpooled).await;
                snapshot
            });
            setting.ask(&pooled).await.unwrap();
            setting.ask(&pooled).await.unwrap();
            let seen = setting.server.forget();
            assert_eq!(seen[1].connection, seen[2].connection, "kept: its pool");
            // Lost: the withdrawn CA is trusted, and the old identity is shown.
            for _ in 0..3 {
                setting.ask(&unpooled).await.unwrap();
                assert!(setting.server.last().is_resumed, "kept: resumption");
                setting.ask(&pooled).await.unwrap();
            }
            assert!(setting.server.seen().iter().all(|seen| seen.client == Some(setting.first.leaf_der())));
        }
    }
}

/// The following config keeps the truth of every new connection; a pool around it keeps the old ones.
#[tokio::test]
async fn a_following_config_is_true_for_new_connections_only() {
    for version in TLS {
        let setting = Setting::new(Http::One, version).await;
        let client = setting.client().await;
        let of =
            |config: ClientConfig| reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
        let config = client.following_config().unwrap();
        let pooled = of(config.clone()).build().unwrap();
        let unpooled = of(config).pool_max_idle_per_host(0).build().unwrap();
        setting.ask(&pooled).await.unwrap();
        setting.ask(&unpooled).await.unwrap();
        setting.ask(&unpooled).await.unwrap();
        assert!(!setting.server.last().is_resumed, "lost: resumption");
        setting.rotate(&client).await;
        // It follows by itself: the client need not stay.
        drop(client);
        let error = setting.ask(&unpooled).await.unwrap_err();
        assert!(error.is_connect(), "kept: what was withdrawn is refused: {error:?}");
        setting.ask(&pooled).await.unwrap();
        let last = setting.server.last();
        assert_eq!(
            last.client,
            Some(setting.first.leaf_der()),
            "lost: the pool goes on with the old identity"
        );
        assert_eq!(last.connection, 0);
    }
}

/// `derive` keeps everything: what is built from a generation is replaced with it, its pool and its sessions too.
#[tokio::test]
async fn a_derived_value_keeps_everything() {
    for http in HTTP {
        for version in TLS {
            let setting = Setting::new(http, version).await;
            let client = setting.client().await;
            let tls = ClientTls::new().unwrap().alpn(["h2", "http/1.1"]);
            let derived = client
                .reloader()
                .derive(move |generation| {
                    let config = tls.config(generation.material()).map_err(Box::new)?;
                    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(client.build()?)
                })
                .unwrap();
            setting.ask(&derived.load()).await.unwrap();
            setting.ask(&derived.load()).await.unwrap();
            assert_eq!(setting.server.connections(), 1, "kept: a pool");
            setting.rotate(&client).await;
            until("kept: the old pool is gone", || setting.server.open() == 0).await;
            let error = setting.ask(&derived.load()).await.unwrap_err();
            assert!(error.is_connect(), "kept: what was withdrawn is refused: {error:?}");
        }
    }
}

/// `Builder::probe`: a candidate that the server does not accept is not published.
#[tokio::test]
async fn a_probe_keeps_a_candidate_out() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let server = Server::with(Tls::of(&leaf).clients(&[&ca]), async |_| reply(StatusCode::OK, "ok")).await;
    let client = builder(dir.path()).probe(server.url("/")).build().await.unwrap();
    // The bundle of another cluster, and an identity that this server does not know.
    for (bundle, identity) in
        [(other.certificate_pem(), ca.issue("client")), (ca.certificate_pem(), other.issue("client"))]
    {
        dir.swap_all(bundle, identity).unwrap();
        let error = client.reload().await.unwrap_err();
        assert_eq!(error.reason(), Reason::Rejected, "{error}");
        assert_eq!(client.generation().number(), 1);
        client.get(server.url("/")).send().await.unwrap();
    }
    dir.swap_all(ca.certificate_pem(), ca.issue("client")).unwrap();
    assert_eq!(client.reload().await.unwrap().number(), 2);
    for wrong in ["http://localhost/", "localhost:443", "https://"] {
        let error = builder(dir.path()).probe(wrong).build().await.unwrap_err();
        assert_eq!(error.reason(), Reason::Unsupported, "{wrong}: {error}");
    }
}
