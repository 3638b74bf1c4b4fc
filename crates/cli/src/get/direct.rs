//! A connection for each request, so that its handshake can be shown. The config is that of the current generation, so a
//! second connection of a generation may resume a session of the first.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certsource::Files;
use certsource::clock::Utc;
use certsource::inspect::{self, Inspection};
use certsource::machine::Policy;
use certsource_reload::{Derived, Event, Reloader};
use certsource_rustls::{ClientTls, TlsGate};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::call::{Call, Failed};
use super::why;
use crate::duration;

/// What a handshake showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Facts {
    address: SocketAddr,
    version: String,
    cipher: String,
    resumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<String>,
    handshake_us: u64,
    chain: Vec<Inspection>,
}

impl Facts {
    /// For people, a line each.
    pub(super) fn lines(&self, generation: u64) -> Vec<String> {
        let mut lines = vec![
            format!("* connected to {}, {self}", self.address),
            format!("* our certificates: generation {generation}"),
        ];
        for certificate in &self.chain {
            let print = certificate.fingerprint().to_string();
            lines.push(format!(
                "* server: {}, issued by {}, until {}, sha256 {}",
                if certificate.subject().is_empty() { "(no subject)" } else { certificate.subject() },
                certificate.issuer(),
                Utc(certificate.not_after()),
                &print[..16]
            ));
        }
        lines
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.resumed { "resumed" } else { "full handshake" };
        let alpn = self.alpn.as_deref().unwrap_or("no ALPN");
        let took = duration::latency(Duration::from_micros(self.handshake_us));
        write!(f, "{} {} {alpn}, {how} in {took}", self.version, self.cipher)
    }
}

/// Sends on connections of its own.
#[derive(Clone)]
pub(super) struct Direct {
    configs: Derived<Arc<ClientConfig>>,
}

impl Direct {
    /// # Errors
    /// When the first load fails.
    pub(super) async fn start(
        files: Files,
        policy: Policy,
        hook: impl Fn(&Event) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let builder = Reloader::builder(files).policy(policy).gate(TlsGate::new()?);
        // Told as results, so not logged too.
        let reloader = builder.on_failure(|_| ()).on_event(hook).start_async().await?;
        let tls = ClientTls::new()?.alpn(["h2", "http/1.1"]);
        let configs = reloader.derive(move |generation| tls.config(generation.material()).map(Arc::new))?;
        Ok(Self { configs })
    }

    pub(super) async fn send(&self, call: &Call) -> Result<Sent, Failed> {
        let end = Instant::now() + call.timeout;
        // One look: the number that is told is that of the config that is used.
        let current = self.configs.load();
        let (config, generation) = (Arc::clone(current.value()), current.generation().number());
        drop(current);
        let late =
            || Failed { why: why::late(&why::place(&call.url), call.timeout), generation, facts: None };
        let (stream, facts) = timeout_at(end, connect(call, config))
            .await
            .map_err(|_| late())?
            .map_err(|why| Failed { why, generation, facts: None })?;
        let with_facts = |why: String| Failed { why, generation, facts: Some(facts.clone()) };
        match timeout_at(end, exchange(call, stream, facts.alpn.as_deref() == Some("h2"))).await {
            Err(_) => Err(with_facts(late().why)),
            Ok(Err(why)) => Err(with_facts(why)),
            Ok(Ok(response)) => Ok(Sent { generation, facts, response }),
        }
    }
}

/// The head of an answer, by the generation whose config made the connection.
pub(super) struct Sent {
    pub(super) generation: u64,
    pub(super) facts: Box<Facts>,
    pub(super) response: Response<Incoming>,
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(call: &Call, config: Arc<ClientConfig>) -> Result<(Stream, Box<Facts>), String> {
    let host = call.url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = call.url.port_or_known_default().unwrap_or(443);
    let words = |failed: io::Error| why::of(&failed, &call.url, call.timeout);
    let tcp = TcpStream::connect((bare, port)).await.map_err(words)?;
    let address = tcp.peer_addr().map_err(|failed| failed.to_string())?;
    // Latency is what is shown.
    let _ = tcp.set_nodelay(true);
    let name =
        ServerName::try_from(bare.to_owned()).map_err(|_| format!("{bare} is no name for a server"))?;
    let began = Instant::now();
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(words)?;
    let tls = stream.get_ref().1;
    let text = |text: Option<&str>| text.unwrap_or("?").to_owned();
    let facts = Facts {
        address,
        version: crate::peer::version_name(tls).unwrap_or_else(|| String::from("?")),
        cipher: text(tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str())),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        handshake_us: super::summary::micros(began.elapsed()),
        chain: tls
            .peer_certificates()
            .into_iter()
            .flatten()
            .filter_map(|der| inspect::certificate(der).ok())
            .collect(),
    };
    Ok((stream, Box::new(facts)))
}

async fn exchange(call: &Call, stream: Stream, is_h2: bool) -> Result<Response<Incoming>, String> {
    let words = |failed: hyper::Error| why::of(&failed, &call.url, call.timeout);
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = call.method.clone();
    *request.headers_mut() = call.headers.clone();
    let path = call
        .url
        .query()
        .map_or_else(|| call.url.path().to_owned(), |query| format!("{}?{query}", call.url.path()));
    // HTTP/2 takes the whole; its fragment is nobody's business but ours.
    let whole = call.url.as_str().split('#').next().unwrap_or_default().to_owned();
    let uri = if is_h2 { whole } else { path };
    *request.uri_mut() = uri.parse::<Uri>().map_err(|failed| failed.to_string())?;
    let (sent, connection) = if is_h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(words)?;
        let connection = tokio::spawn(connection);
        (sender.send_request(request).await, connection)
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(words)?;
        let connection = tokio::spawn(connection);
        if !request.headers().contains_key(HOST) {
            let host = call.url.host_str().unwrap_or_default();
            let host = call.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            let host = HeaderValue::from_str(&host).map_err(|failed| failed.to_string())?;
            request.headers_mut().insert(HOST, host);
        }
        (sender.send_request(request).await, connection)
    };
    match sent {
        // The connection ended before it took the request, and knows why: the server refused our certificate, for one.
        Err(failed) if failed.is_canceled() || failed.is_closed() => match connection.await {
            Ok(Err(cause)) => Err(words(cause)),
            _ => Err(words(failed)),
        },
        sent => sent.map_err(words),
    }
}
