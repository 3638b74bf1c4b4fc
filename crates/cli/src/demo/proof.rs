//! The proof that a withdrawn CA is refused, with real connections. What is refused after the withdrawal was tried
//! before it too, and worked: a proof that would pass with a broken set-up proves nothing.
//!
//! Four ways to go on with the withdrawn CA:
//! 1. a client that trusts only it: it must refuse the server;
//! 2. a client with an identity of it: the server must refuse it;
//! 3. the same with a session ticket from before: it must not be resumed;
//! 4. a server with a certificate of it, which our client has visited before: our client must refuse it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use certsource_client::Client;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::Server;
use super::stage::{Era, OLD_HOST};
use crate::error;

/// No connection of a proof takes longer.
const BOUND: Duration = Duration::from_secs(10);
/// A server that has said nothing for so long after a handshake accepts the identity.
const REFUSAL: Duration = Duration::from_secs(2);

/// What came of the four ways.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Refused {
    pub(super) server_by_client: bool,
    pub(super) identity_by_server: bool,
    pub(super) session_by_server: bool,
    pub(super) old_server_by_our_client: bool,
}

impl Refused {
    pub(super) fn all(self) -> bool {
        self.server_by_client
            && self.identity_by_server
            && self.session_by_server
            && self.old_server_by_our_client
    }
}

/// The server that stays behind, and where it is.
pub(super) struct OldServer {
    server: Server,
    config: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl OldServer {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let config = Arc::default();
        Ok(Self { server: Server::behind(Arc::clone(&config)).await?, config })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// From now on it uses this config, sessions and ticket keys included, for HTTP/1.1.
    pub(super) fn set(&self, config: &ServerConfig) {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    fn url(&self) -> String {
        format!("https://{OLD_HOST}:{}/", self.address().port())
    }

    fn resumed(&self) -> u64 {
        self.server.handshakes.resumed.load(Ordering::Relaxed)
    }
}

/// Someone who was let in before the withdrawal, with a session to go on with.
pub(super) struct Proof<'a> {
    address: SocketAddr,
    old: &'a OldServer,
    client: &'a Client,
    /// Its config holds the session tickets.
    insider: Arc<ClientConfig>,
}

impl<'a> Proof<'a> {
    /// While the CA of `old_era` is still trusted: everything that is to be refused later works now.
    pub(super) async fn prepare(
        address: SocketAddr,
        old: &'a OldServer,
        client: &'a Client,
        old_era: &Era,
        new_era: &Era,
    ) -> anyhow::Result<Self> {
        let insider = config(&[old_era, new_era], old_era)?;
        visit(address, &insider)
            .await
            .context("an identity of the old CA was refused before its withdrawal")?;
        let again = visit(address, &insider)
            .await
            .context("a session was refused before the withdrawal of its CA")?;
        ensure!(
            again == HandshakeKind::Resumed,
            "a session could not be resumed, so its refusal would prove nothing"
        );
        let before = old.resumed();
        for _ in 0..2 {
            let answer = client.get(old.url()).send().await;
            answer.map_err(|error| {
                anyhow::anyhow!("our client refused the old server too early: {}", error::chain(&error))
            })?;
        }
        ensure!(old.resumed() > before, "our client resumed no session, so its refusal would prove nothing");
        Ok(Self { address, old, client, insider })
    }

    /// After the withdrawal. What is not refused is told as a problem.
    pub(super) async fn check(self, old_era: &Era, new_era: &Era) -> anyhow::Result<(Refused, Vec<String>)> {
        let mut refused = Refused::default();
        let mut problems = Vec::new();
        let mut judge = |what: &str, verdict: Result<(), String>| {
            let is_refused = verdict.is_ok();
            problems.extend(verdict.err().map(|why| format!("{what}: {why}")));
            is_refused
        };

        let trusts_old = visit(self.address, &config(&[old_era], new_era)?).await;
        refused.server_by_client =
            judge("a client that trusts only the withdrawn CA", unknown_issuer(trusts_old.map(drop)));
        let outsider = intrude(self.address, &config(&[new_era], old_era)?).await;
        refused.identity_by_server = judge("an identity of the withdrawn CA", unknown_ca(outsider));
        let insider = intrude(self.address, &self.insider).await;
        refused.session_by_server = judge("a session of the withdrawn CA", unknown_ca(insider));

        let before = self.old.resumed();
        let answer = self.client.get(self.old.url()).send().await;
        let mut verdict = unknown_issuer(answer.map(drop).map_err(anyhow::Error::new));
        if self.old.resumed() > before {
            verdict = Err(String::from("our client resumed a session with it"));
        }
        refused.old_server_by_our_client = judge("our client and a server of the withdrawn CA", verdict);
        Ok((refused, problems))
    }
}

/// A client made by hand: what it trusts and what it presents are the demo's choice, not a generation's.
fn config(trusted: &[&Era], identity: &Era) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for era in trusted {
        roots.add(era.ca.certificate_der())?;
    }
    let mut config = ClientConfig::builder_with_provider(certsource_rustls::default_provider()?)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.client.chain_der(), identity.client.key_der())?;
    config.resumption = Resumption::in_memory_sessions(16);
    Ok(Arc::new(config))
}

/// One connection with one request, which is expected to be answered.
async fn visit(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<HandshakeKind> {
    bounded(async {
        let mut stream = connect(address, config).await?;
        request(&mut stream).await
    })
    .await
}

/// As [`visit`], and expected to be refused: what the server says right after the handshake is waited for before
/// anything is sent. TLS 1.3 tells a client only then that its identity was refused; a request that is on its way at
/// that moment would turn the alert into a reset.
async fn intrude(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<HandshakeKind> {
    bounded(async {
        let mut stream = connect(address, config).await?;
        match timeout(REFUSAL, stream.read_u8()).await {
            Ok(Ok(_)) => bail!("the server spoke first"),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
        request(&mut stream).await
    })
    .await
}

async fn bounded(
    visit: impl Future<Output = anyhow::Result<HandshakeKind>>,
) -> anyhow::Result<HandshakeKind> {
    match timeout(BOUND, visit).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {BOUND:?}"),
    }
}

async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    Ok(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?)
}

async fn request(stream: &mut TlsStream<TcpStream>) -> anyhow::Result<HandshakeKind> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    ensure!(&answer == b"HTTP/1.1 200", "an answer that is not 200");
    // To the end, however that looks: all session tickets are in before it.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    stream.get_ref().1.handshake_kind().context("a connection without a handshake")
}

/// Whether it failed because the client does not know the issuer of the server's certificate.
fn unknown_issuer(result: anyhow::Result<()>) -> Result<(), String> {
    let Err(failed) = result else { return Err(String::from("ACCEPTED")) };
    match tls_error(failed.as_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Ok(()),
        _ => Err(format!("it failed for another reason: {}", error::one_line(&failed))),
    }
}

/// Whether the server said that it does not know the issuer of the client's certificate.
fn unknown_ca(result: anyhow::Result<HandshakeKind>) -> Result<(), String> {
    match result {
        Ok(kind) => Err(format!("ACCEPTED ({kind:?})")),
        Err(failed) => match tls_error(failed.as_ref()) {
            Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)) => Ok(()),
            _ => Err(format!("it failed for another reason: {}", error::one_line(&failed))),
        },
    }
}

fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = error::below(error);
    }
    None
}
