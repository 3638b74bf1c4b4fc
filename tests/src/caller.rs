//! A plain client of a server that is tested: rustls with a config that is kept, and so its sessions, below hyper.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use certsource_testkit::{Ca, Issued};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{BOUND, whole};

/// A client with its sessions.
#[derive(Clone, Debug)]
pub struct Caller {
    config: Arc<ClientConfig>,
    http2: bool,
}

impl Caller {
    /// A client that trusts this CA and shows this identity, over HTTP/1.1.
    ///
    /// # Panics
    /// When rustls does not take them.
    pub fn new(trust: &Ca, identity: &Issued, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trust.root_der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain_der(), identity.key_der())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config: Arc::new(config), http2: false }
    }

    /// Over HTTP/2.
    pub fn http2(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![b"h2".to_vec()];
        self.http2 = true;
        self
    }

    async fn dial(&self, server: SocketAddr) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect(server).await.map_err(|error| whole(&error))?;
        let connecting = TlsConnector::from(Arc::clone(&self.config));
        connecting.connect("localhost".try_into().unwrap(), tcp).await.map_err(|error| whole(&error))
    }

    /// A connection that stays open.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, server: SocketAddr) -> Result<Open, String> {
        let opening = async {
            let stream = self.dial(server).await?;
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            let io = TokioIo::new(stream);
            let sender = if self.http2 {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(words)?;
                tokio::spawn(connection);
                Sender::Two(sender)
            } else {
                let (sender, connection) = http1::handshake(io).await.map_err(words)?;
                tokio::spawn(connection);
                Sender::One(sender)
            };
            Ok(Open { sender, is_resumed })
        };
        tokio::time::timeout(BOUND, opening).await.unwrap_or_else(|_| Err("no handshake in time".to_owned()))
    }

    /// A request on a connection of its own: whether a session was resumed.
    ///
    /// # Errors
    /// Why it was not answered with 200. On TLS 1.3 a refusal comes as late as this.
    pub async fn ask(&self, server: SocketAddr) -> Result<bool, String> {
        let mut open = self.open(server).await?;
        open.get("/").await?;
        Ok(open.is_resumed)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Open {
    sender: Sender,
    is_resumed: bool,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Open {
    /// Sends a `GET`, and reads the answer.
    ///
    /// # Errors
    /// Why it was not answered with 200.
    pub async fn get(&mut self, path: &str) -> Result<(), String> {
        let answered = tokio::time::timeout(BOUND, async {
            let response = self.send(path).await?.await?;
            let status = response.status();
            response.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        });
        match answered.await {
            Ok(Ok(status)) if status == 200 => Ok(()),
            Ok(Ok(status)) => Err(status.to_string()),
            Ok(Err(error)) => Err(whole(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Sends a `GET`; the answer is on its way.
    ///
    /// # Errors
    /// Why nothing more can be sent.
    pub async fn send(&mut self, path: &str) -> Result<Sent, hyper::Error> {
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                let request = Request::get(path).header("host", "localhost").body(Empty::new()).unwrap();
                Box::pin(sender.send_request(request))
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                let url = format!("https://localhost{path}");
                Box::pin(sender.send_request(Request::get(url).body(Empty::new()).unwrap()))
            }
        })
    }

    /// Whether the server has ended it, or said that it takes nothing more.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        }
    }
}

/// An answer on its way.
pub type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err passes")]
fn words(error: hyper::Error) -> String {
    whole(&error)
}
