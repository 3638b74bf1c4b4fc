//! What servers keep and what they take over by reloads: by the first, the second, and the hundredth.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_reload::certsource::Files;
use certsource_hyper::certsource_reload::certsource::machine::Policy;
use certsource_hyper::certsource_rustls::{ClientAuth, ServerTls, TlsGate};
use certsource_hyper::rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use certsource_hyper::{ListenerBuilder, TlsListener, serve};
use certsource_testkit::{Ca, Issued, KubeletDir};
use common::*;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

const HTTP: &[&str] = &["h2", "http/1.1"];
const HTTP1: &[&str] = &["http/1.1"];

async fn start(builder: ListenerBuilder) -> SocketAddr {
    let listener = builder.client_auth(ClientAuth::Required).bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "ok" }))).into_future());
    address
}

fn config(
    trust: &Ca,
    identity: Option<&Issued>,
    version: &'static SupportedProtocolVersion,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    Arc::new(client_config(&[trust], identity, &[version], alpn))
}

/// A connection and a request: how the handshake went, and the status.
async fn ask(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<(HandshakeKind, u16), String> {
    let stream = soon(dial(config, address, name)).await.map_err(|error| error.to_string())?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let answer = soon(get_once(TokioIo::new(stream))).await.map_err(|error| error.to_string())?;
    Ok((kind, answer.0))
}

/// Two names want clients of two CAs that change places at each reload, and a third one wants none.
#[tokio::test]
async fn client_authentication_alpn_and_names_are_kept_and_certificates_are_new() {
    let ca = Ca::new("CA");
    let clients = [Ca::new("clients"), Ca::new("other clients")];
    let issue = || [ca.issue("localhost"), ca.issue("b.test"), ca.leaf("*.c.test").issue()];
    let mut issued = issue();
    let first = Followed::new(&[&clients[0]], &issued[0]);
    let second = Followed::new(&[&clients[1]], &issued[1]);
    let third = Followed::new(&[&ca], &issued[2]);
    let open_to_all = ServerTls::with_provider(provider()).alpn(["http/1.1"]);
    let builder = TlsListener::builder(&first.reloader).identity_for(["B.test"], &second.reloader);
    let address = start(builder.identity_with(["*.c.test"], &third.reloader, open_to_all)).await;
    // With a session of their name. Two of these looks in a row are at an even and an odd reload.
    let mut were_let_in: Vec<(&str, Arc<ClientConfig>)> = Vec::new();
    for reload in 0..=100 {
        let (here, there) = (&clients[reload % 2], &clients[(reload + 1) % 2]);
        if reload > 0 {
            issued = issue();
            first.set(&[here], &issued[0]).await;
            second.set(&[there], &issued[1]).await;
            third.set(&[&ca], &issued[2]).await;
        }
        if !matches!(reload, 0 | 1 | 2 | 99 | 100) {
            continue;
        }
        for (name, config) in were_let_in.drain(..) {
            assert!(ask(&config, address, name).await.is_err(), "{reload} {name}: by a session");
        }
        for version in TLS {
            let sites = [("localhost", here, there, &issued[0]), ("b.test", there, here, &issued[1])];
            for (name, its, others, issued) in sites {
                let (known, stranger) = (its.issue("client"), others.issue("client"));
                // Which certificate is shown, and what is spoken.
                for alpn in [HTTP, HTTP1] {
                    let config = config(&ca, Some(&known), version, alpn);
                    let stream = soon(dial(&config, address, name)).await.unwrap();
                    let tls = stream.get_ref().1;
                    assert_eq!(tls.peer_certificates().unwrap()[0], issued.leaf_der(), "{reload} {name}");
                    assert_eq!(tls.alpn_protocol(), Some(alpn[0].as_bytes()), "{reload} {name}");
                }
                // Who is let in.
                let known = config(&ca, Some(&known), version, HTTP1);
                for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                    assert_eq!(ask(&known, address, name).await, Ok((kind, 200)), "{reload} {name}");
                }
                were_let_in.push((name, known));
                for nobody in [Some(&stranger), None] {
                    let config = config(&ca, nobody, version, HTTP1);
                    assert!(ask(&config, address, name).await.is_err(), "{reload} {name} {version:?}");
                }
            }
            let config = config(&ca, None, version, HTTP);
            let stream = soon(dial(&config, address, "x.c.test")).await.unwrap();
            let tls = stream.get_ref().1;
            assert_eq!(tls.peer_certificates().unwrap()[0], issued[2].leaf_der(), "{reload}");
            assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]), "{reload}");
            assert_eq!(soon(get_once(TokioIo::new(stream))).await.unwrap().0, 200, "{reload}");
        }
    }
}

/// Files with a revocation list, and who follows them.
struct Listed<'a> {
    ca: &'a Ca,
    name: &'static str,
    dir: KubeletDir,
    reloader: Reloader,
}

impl<'a> Listed<'a> {
    fn new(ca: &'a Ca, name: &'static str) -> Self {
        let dir = KubeletDir::new(ca.issue(name)).unwrap();
        write(&dir, ca, name);
        let mut policy = Policy::every(Duration::from_secs(24 * 3600));
        policy.settle = Duration::from_millis(50);
        let reloader = Reloader::builder(Files::kubernetes(dir.path()).with_crl(dir.join("crl.pem")))
            .policy(policy)
            .gate(TlsGate::with_provider(provider()))
            .start()
            .unwrap();
        Self { ca, name, dir, reloader }
    }

    async fn reload(&self) {
        write(&self.dir, self.ca, self.name);
        soon(self.reloader.reload()).await.unwrap();
    }
}

/// A new certificate, and the list as it is now.
fn write(dir: &KubeletDir, ca: &Ca, name: &str) {
    let identity = ca.issue(name);
    dir.write([
        ("ca.crt", ca.certificate_pem()),
        ("tls.crt", identity.chain_pem()),
        ("tls.key", identity.key_pem()),
        ("crl.pem", ca.crl().pem()),
    ])
    .unwrap();
}

/// By a handshake, by a session, and on a connection that is open; at the identity of the listener, and at a named one.
#[tokio::test]
async fn revoked_clients_are_refused_and_stay_refused() {
    let ca = Ca::new("CA");
    let (first, second) = (Listed::new(&ca, "localhost"), Listed::new(&ca, "b.test"));
    let address =
        start(TlsListener::builder(&first.reloader).identity_for(["b.test"], &second.reloader)).await;
    let cases = || TLS.into_iter().flat_map(|version| ["localhost", "b.test"].map(|name| (version, name)));
    let good = ca.issue("good");
    let good: Vec<_> =
        cases().map(|(version, name)| (name, config(&ca, Some(&good), version, HTTP1))).collect();
    let mut revoked = Vec::new();
    for reload in 1..=100 {
        let is_looked_at = matches!(reload, 1 | 2 | 100);
        let mut idle = Vec::new();
        if is_looked_at {
            let bad = ca.issue("bad");
            for (version, name) in cases() {
                let config_of_bad = config(&ca, Some(&bad), version, HTTP1);
                for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                    assert_eq!(ask(&config_of_bad, address, name).await, Ok((kind, 200)), "{reload} {name}");
                }
                let stream = soon(dial(&config_of_bad, address, name)).await.unwrap();
                let (mut sender, connection) =
                    http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                assert_eq!(soon(common::get(&mut sender)).await.unwrap().0, 200);
                idle.push(sender);
                revoked.push((name, config_of_bad));
                // Without a session.
                revoked.push((name, config(&ca, Some(&bad), version, HTTP1)));
            }
            ca.revoke(&bad);
        }
        first.reload().await;
        second.reload().await;
        for sender in &mut idle {
            assert!(!matches!(soon(common::get(sender)).await, Ok((200, _))), "{reload}");
        }
        if is_looked_at {
            for (name, config) in &revoked {
                assert!(ask(config, address, name).await.is_err(), "{reload} {name}");
            }
            for (name, config) in &good {
                for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                    assert_eq!(ask(config, address, name).await, Ok((kind, 200)), "{reload} {name}");
                }
            }
        }
    }
}
