//! What the tests share: HTTPS servers on 127.0.0.1 whose TLS can be replaced, which tell what they saw.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certsource_client::rustls::crypto::CryptoProvider;
// What stands beside the library uses the crypto that the library is built with.
#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use certsource_client::rustls::crypto::aws_lc_rs as crypto;
#[cfg(feature = "ring")]
use certsource_client::rustls::crypto::ring as crypto;
use certsource_client::rustls::pki_types::CertificateDer;
use certsource_client::rustls::server::WebPkiClientVerifier;
use certsource_client::rustls::{
    HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion, version::TLS12, version::TLS13,
};
use certsource_client::{Builder, Client, Files, Policy};
use certsource_testkit::{Ca, Issued, KubeletDir};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub mod counting;
pub mod raw_h2;

/// No test waits longer than this for something that must come.
pub const SOON: Duration = Duration::from_secs(20);
/// No detector of a test looks by itself: each look is asked for.
pub const NEVER: Duration = Duration::from_secs(24 * 3600);

pub type Body = BoxBody<Bytes, Infallible>;
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// One request as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: hyper::HeaderMap,
    pub version: hyper::Version,
    /// Counts the connections of this server.
    pub connection: usize,
    pub is_resumed: bool,
    /// The name that the client asked for in its handshake.
    pub name: Option<String>,
    /// The client's leaf certificate.
    pub client: Option<CertificateDer<'static>>,
}

/// One handshake that ended well, as a server saw it.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub is_resumed: bool,
    /// The client's leaf certificate.
    pub client: Option<CertificateDer<'static>>,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

pub const HTTP: [Http; 2] = [Http::One, Http::Two];
pub const TLS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// How a server's TLS is made.
pub struct Tls<'a> {
    pub identity: &'a Issued,
    /// Whose clients are accepted; certificates are asked for if there are any.
    pub clients: &'a [&'a Ca],
    pub versions: &'a [&'static SupportedProtocolVersion],
    pub http: Option<Http>,
    pub has_tickets: bool,
}

impl<'a> Tls<'a> {
    pub fn of(identity: &'a Issued) -> Self {
        Self { identity, clients: &[], versions: &TLS, http: None, has_tickets: true }
    }

    pub fn clients(mut self, clients: &'a [&'a Ca]) -> Self {
        self.clients = clients;
        self
    }

    pub fn http(mut self, http: Http) -> Self {
        self.http = Some(http);
        self
    }

    pub fn versions(mut self, versions: &'a [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// On TLS 1.3.
    pub fn without_tickets(mut self) -> Self {
        self.has_tickets = false;
        self
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)
            .expect("every provider has them");
        let builder = if self.clients.is_empty() {
            builder.with_no_client_auth()
        } else {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(self.clients.iter().copied()), provider());
            builder.with_client_cert_verifier(verifier.build().expect("CAs are there"))
        };
        let mut config = builder
            .with_single_cert(self.identity.chain_der(), self.identity.key_der())
            .expect("what is issued is whole");
        config.alpn_protocols = match self.http {
            None => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Some(Http::One) => vec![b"http/1.1".to_vec()],
            Some(Http::Two) => vec![b"h2".to_vec()],
        };
        config.ticketer = crypto::Ticketer::new().expect("there is randomness");
        if !self.has_tickets {
            config.send_tls13_tickets = 0;
        }
        Arc::new(config)
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::default_provider())
}

pub fn roots<'a>(cas: impl IntoIterator<Item = &'a Ca>) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for ca in cas {
        store.add(ca.root_der()).expect("a minted root is whole");
    }
    Arc::new(store)
}

/// An HTTPS server on 127.0.0.1. It ends when it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    address: SocketAddr,
}

struct Shared {
    tls: Mutex<Arc<ServerConfig>>,
    handler: Handler,
    seen: Mutex<Vec<Seen>>,
    handshakes: Mutex<Vec<Handshake>>,
    streams: AtomicU32,
    connections: AtomicUsize,
    failures: AtomicUsize,
    open: AtomicUsize,
    holds_handshakes: AtomicBool,
    release: tokio::sync::Notify,
    waiting: watch::Sender<usize>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that answers `200 ok` to everything, after it read the body.
    pub async fn start(tls: Tls<'_>) -> Self {
        Self::with(tls, echo).await
    }

    /// The same, but a request to `/slow` waits at the gate first.
    pub async fn slow(tls: Tls<'_>, gate: &Gate) -> Self {
        let gate = gate.clone();
        Self::with(tls, move |request| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/slow" {
                    gate.passed().await;
                }
                echo(request).await
            }
        })
        .await
    }

    pub async fn with<F>(
        tls: Tls<'_>,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            tls: Mutex::new(tls.config()),
            handler: Arc::new(move |request| Box::pin(handler(request))),
            seen: Mutex::default(),
            handshakes: Mutex::default(),
            // As many as hyper's servers take.
            streams: AtomicU32::new(200),
            connections: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            holds_handshakes: AtomicBool::new(false),
            release: tokio::sync::Notify::new(),
            waiting: watch::Sender::new(0),
        });
        let (stop, mut stopped) = watch::channel(false);
        tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let accepted = tokio::select! {
                        _ = stopped.changed() => return,
                        accepted = listener.accept() => accepted,
                    };
                    let Ok((stream, _)) = accepted else { continue };
                    let (shared, mut stopped) = (Arc::clone(&shared), stopped.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = stopped.changed() => {}
                            () = shared.serve(stream) => {}
                        }
                    });
                }
            }
        });
        Self { shared, stop, address }
    }

    /// Speaks this from the next connection on.
    pub fn set(&self, tls: Tls<'_>) {
        *lock(&self.shared.tls) = tls.config();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// What it saw since it was last asked to forget.
    pub fn forget(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.shared.seen))
    }

    pub fn last(&self) -> Seen {
        lock(&self.shared.seen).last().cloned().expect("the server saw a request")
    }

    /// Connections that came, those that failed among them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Handshakes that ended well.
    pub fn handshakes(&self) -> Vec<Handshake> {
        lock(&self.shared.handshakes).clone()
    }

    /// Takes so many streams at once on an HTTP/2 connection, from the next one on.
    pub fn streams(&self, most: u32) {
        self.shared.streams.store(most, Ordering::SeqCst);
    }

    /// Handshakes that failed.
    pub fn failures(&self) -> usize {
        self.shared.failures.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Lets new connections wait before their handshake, until `release`.
    pub fn hold_handshakes(&self) {
        self.shared.holds_handshakes.store(true, Ordering::SeqCst);
    }

    /// Waits until so many connections are held.
    pub async fn held(&self, count: usize) {
        let mut waiting = self.shared.waiting.subscribe();
        soon(waiting.wait_for(|now| *now >= count)).await.expect("the server lives");
    }

    pub fn release(&self) {
        self.shared.holds_handshakes.store(false, Ordering::SeqCst);
        self.shared.release.notify_waiters();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let released = self.release.notified();
        if self.holds_handshakes.load(Ordering::SeqCst) {
            self.waiting.send_modify(|waiting| *waiting += 1);
            released.await;
        }
        let tls = Arc::clone(&lock(&self.tls));
        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
            self.failures.fetch_add(1, Ordering::SeqCst);
            return;
        };
        let tls = stream.get_ref().1;
        let client = tls.peer_certificates().and_then(|chain| chain.first().cloned());
        // Who speaks HTTP/2 speaks first, as real servers do: a server that must find out waits for the client.
        let is_http2 = tls.alpn_protocol() == Some(b"h2");
        let name = tls.server_name().map(str::to_owned);
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        lock(&self.handshakes).push(Handshake { is_resumed, client: client.clone() });
        let shared = Arc::clone(&self);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            lock(&shared.seen).push(Seen {
                method: request.method().to_string(),
                path: request.uri().path().to_owned(),
                headers: request.headers().clone(),
                version: request.version(),
                connection,
                is_resumed,
                name: name.clone(),
                client: client.clone(),
            });
            let answer = (shared.handler)(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let _count = Count::new(&self);
        // A client that goes away is no failure of the server.
        let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        server.http2().max_concurrent_streams(self.streams.load(Ordering::SeqCst));
        let server = if is_http2 { server.http2_only() } else { server };
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

struct Count(Arc<Shared>);

impl Count {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await;
    let status = if body.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    reply(status, body.map_or_else(|_| Bytes::new(), |body| body.to_bytes()))
}

pub fn reply(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
}

pub fn redirect(status: u16, to: &str) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert("location", to.parse().expect("a header"));
    response
}

/// Waits for what must come soon.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("it did not come in time")
}

/// Waits until `is_so`. For what nothing tells: the other side of a connection.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A client of this directory that looks only when it is asked to.
pub fn builder(dir: &Path) -> Builder {
    let mut policy = Policy::every(NEVER);
    policy.settle = Duration::from_millis(50);
    Client::builder().files(Files::kubernetes(dir)).policy(policy).no_proxy()
}

pub async fn client(dir: &KubeletDir) -> Client {
    builder(dir.path()).build().await.expect("the first load works")
}

/// A gate that a test opens: a body or a handler waits at it.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn passed(&self) {
        let mut gate = self.0.subscribe();
        // The sender is this very gate.
        let _ = gate.wait_for(|is_open| *is_open).await;
    }
}

/// A body of frames; each waits at its gate.
pub struct Gated {
    frames: VecDeque<(Option<Gate>, Bytes)>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Gated {
    pub fn new(frames: impl IntoIterator<Item = (Option<Gate>, &'static str)>) -> Self {
        let frames = frames.into_iter().map(|(gate, text)| (gate, Bytes::from_static(text.as_bytes())));
        Self { frames: frames.collect(), waiting: None }
    }
}

impl hyper::body::Body for Gated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        use std::task::{Poll, ready};
        if self.waiting.is_none() {
            let Some((gate, _)) = self.frames.front_mut() else { return Poll::Ready(None) };
            if let Some(gate) = gate.take() {
                self.waiting = Some(Box::pin(async move { gate.passed().await }));
            }
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
        let (_, text) = self.frames.pop_front().expect("looked at above");
        Poll::Ready(Some(Ok(hyper::body::Frame::data(text))))
    }
}
