//! The HTTPS servers of the demo: one that follows its volume, and one that stays behind with the certificate of a
//! withdrawn CA.
//!
//! Every connection belongs to the generation that its handshake was made with. When that is replaced, the connection
//! finishes what it does and closes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use certsource::Fingerprint;
use certsource_reload::{Derived, Retired};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// The header that says whom the server saw: the SHA-256 of the client's certificate.
pub(super) const SEEN: &str = "x-client-certificate";

/// A client that says nothing is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After its generation is replaced, an idle HTTP/1 connection, or one that was not used yet, lives on for so long:
/// closing it at once would race with a request that is on its way.
const IDLE: Duration = Duration::from_secs(2);

/// What a server counts.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    pub(super) full: AtomicU64,
    pub(super) resumed: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// What a connection is made with.
struct Offer {
    config: Arc<ServerConfig>,
    /// The signal that this is no longer offered; `None` for a server that stays behind.
    retired: Option<Retired>,
}

/// A server. It ends when this is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) handshakes: Arc<Handshakes>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// A server that follows its reloader: each handshake is made with the config of the current generation.
    pub(super) async fn following(configs: Derived<Arc<ServerConfig>>) -> anyhow::Result<Self> {
        Self::start(move || {
            let version = configs.load();
            let retired = version.generation().retired().clone();
            Some(Offer { config: Arc::clone(version.value()), retired: Some(retired) })
        })
        .await
    }

    /// A server that follows nothing: somebody else sets its config, for HTTP/1.1. It takes one request on each
    /// connection.
    pub(super) async fn behind(config: Arc<Mutex<Option<Arc<ServerConfig>>>>) -> anyhow::Result<Self> {
        Self::start(move || {
            let config = config.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
            Some(Offer { config, retired: None })
        })
        .await
    }

    async fn start(offer: impl Fn() -> Option<Offer> + Send + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr().context("cannot listen on 127.0.0.1")?;
        let handshakes = Arc::new(Handshakes::default());
        let counted = Arc::clone(&handshakes);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors: some come back when connections end.
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                if let Some(offer) = offer() {
                    tokio::spawn(serve(stream, offer, Arc::clone(&counted)));
                }
            }
        });
        Ok(Self { address, handshakes, accepting })
    }
}

async fn serve(stream: TcpStream, offer: Offer, handshakes: Arc<Handshakes>) {
    // Latency is what is shown.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, TlsAcceptor::from(offer.config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // Any other error: the client went away, as ours does when a newer generation is published meanwhile.
            if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                handshakes.refused.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(%error, "a handshake was refused");
            return;
        }
        Err(_) => return,
    };
    let (_, session) = stream.get_ref();
    let kind = match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => &handshakes.resumed,
        _ => &handshakes.full,
    };
    kind.fetch_add(1, Ordering::Relaxed);
    let seen = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| Fingerprint::of(leaf).to_string());
    let seen = seen.and_then(|seen| HeaderValue::from_str(&seen).ok());
    let is_h2 = session.alpn_protocol() == Some(b"h2");

    // A server that stays behind has one request on each connection, so that the next one is a new handshake.
    let is_behind = offer.retired.is_none();
    let retired = offer.retired.unwrap_or_default();
    let used = Arc::new(tokio::sync::Notify::new());
    let service = {
        let (retired, used) = (retired.clone(), Arc::clone(&used));
        service_fn(move |request: Request<Incoming>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"ok\n")));
            if let Some(seen) = &seen {
                response.headers_mut().insert(SEEN, seen.clone());
            }
            if request.version() < Version::HTTP_2 && (is_behind || retired.is_retired()) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            used.notify_one();
            std::future::ready(Ok::<_, Infallible>(response))
        })
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let leave = async {
        retired.wait().await;
        if is_h2 {
            // Not before it is in use: hyper drops a connection that is asked to end before its first frames.
            let _ = timeout(IDLE, used.notified()).await;
        } else {
            sleep(IDLE).await;
        }
    };
    tokio::select! {
        // An error here is the client's: it went away.
        _ = connection.as_mut() => return,
        () = leave => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
