//! The two that the scenarios of a server run against: certsource's listener and accept loop, and the server that people
//! write by hand. Both follow `ca.crt`, `tls.crt` and `tls.key` of a directory, and let in clients of `ca.crt` only. Ours
//! lives in real time; the other one looks when the test says so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use certsource::Files;
use certsource_client::Policy;
use certsource_hyper::{Peer, TlsListener, serve};
use certsource_reload::{Error, Reloader};
use certsource_rustls::{ClientAuth, ServerTls, TlsGate};
use certsource_testkit::Issued;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tower_service::Service;

use crate::BOUND;
use crate::naive_server::NaiveServer;

/// What both serve: a line, and on `/slow` only once the gate is open. It knows whose requests reached it.
#[derive(Clone, Debug, Default)]
pub struct App {
    reached: Arc<Mutex<Vec<CertificateDer<'static>>>>,
    gate: watch::Sender<bool>,
}

impl App {
    /// Answers a request of this client.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Panics
    /// Never.
    pub fn answer<B>(
        &self,
        request: Request<B>,
        client: Option<CertificateDer<'static>>,
    ) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + use<B> {
        self.reached.lock().unwrap().extend(client);
        let is_slow = request.uri().path() == "/slow";
        let mut gate = self.gate.subscribe();
        async move {
            if is_slow {
                let _ = gate.wait_for(|is_open| *is_open).await;
            }
            Ok(Response::new(Full::new(Bytes::from_static(b"ok\n"))))
        }
    }

    /// How many requests of a client reached it.
    ///
    /// # Panics
    /// Never.
    pub fn reached(&self, client: &Issued) -> usize {
        let leaf = client.leaf_der();
        self.reached.lock().unwrap().iter().filter(|shown| **shown == leaf).count()
    }

    /// Lets the answers of `/slow` go.
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for App {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answer {
        let peer = request.extensions().get::<Peer>();
        let client = peer.and_then(|peer| peer.certificates()?.first().cloned());
        Box::pin(self.answer(request, client))
    }
}

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    dir: PathBuf,
    versions: Vec<&'static SupportedProtocolVersion>,
    tickets: bool,
    app: App,
}

impl Setup {
    /// Follows this directory.
    pub fn new(dir: impl Into<PathBuf>, app: &App) -> Self {
        Self { dir: dir.into(), versions: rustls::ALL_VERSIONS.to_vec(), tickets: true, app: app.clone() }
    }

    /// Speaks this version of TLS only.
    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Whether sessions are kept by the clients, in tickets, or by the server.
    pub fn tickets(mut self, tickets: bool) -> Self {
        self.tickets = tickets;
        self
    }
}

/// A server that follows files.
pub trait Host: Send + Sync + Sized + 'static {
    /// What it has for what must come: so many of its ticks.
    const TICKS: u32;

    /// Loads the files, and serves.
    ///
    /// # Errors
    /// Why it can not.
    fn start(setup: &Setup) -> impl Future<Output = Result<Self, String>> + Send;
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// Lets a little time pass.
    fn tick(&self) -> impl Future<Output = ()> + Send;
    /// Looks at once. Says what is wrong with what it found.
    fn look(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// How often something new was taken into use.
    fn reloads(&self) -> u64;

    /// Lets time pass until this is so; whether it came to that.
    #[allow(async_fn_in_trait, reason = "nobody sends it to another thread")]
    async fn comes(&self, mut is_so: impl AsyncFnMut() -> bool) -> bool {
        for _ in 0..Self::TICKS {
            if is_so().await {
                return true;
            }
            self.tick().await;
        }
        is_so().await
    }
}

/// certsource's listener and accept loop.
#[derive(Debug)]
pub struct Ours {
    reloader: Reloader,
    address: SocketAddr,
    serving: AbortHandle,
}

const TICK: Duration = Duration::from_millis(20);

impl Host for Ours {
    /// Thirty seconds.
    const TICKS: u32 = 1500;

    async fn start(setup: &Setup) -> Result<Self, String> {
        let words = |error: Error| error.to_string();
        let mut policy = Policy::every(Duration::from_millis(50));
        policy.settle = Duration::from_millis(150);
        policy.settle_loss = Duration::from_millis(300);
        policy.pair_grace = Duration::from_millis(500);
        let reloader = Reloader::builder(Files::kubernetes(&setup.dir))
            .policy(policy)
            .gate(TlsGate::new().map_err(words)?)
            .start_async()
            .await
            .map_err(words)?;
        let mut tls = ServerTls::new().map_err(words)?.versions(&setup.versions).alpn(["h2", "http/1.1"]);
        if !setup.tickets {
            tls = tls.ticketer(|| None);
        }
        let builder = TlsListener::builder(&reloader).tls(tls).client_auth(ClientAuth::Required);
        let listener = builder.bind("127.0.0.1:0").await.map_err(words)?;
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, setup.app.clone()).into_future());
        Ok(Self { reloader, address, serving: serving.abort_handle() })
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn tick(&self) {
        tokio::time::sleep(TICK).await;
    }

    async fn look(&self) -> Result<(), String> {
        let looked = tokio::time::timeout(BOUND, self.reloader.reload()).await.expect("a look ends");
        looked.map(drop).map_err(|error| error.to_string())
    }

    fn reloads(&self) -> u64 {
        self.reloader.current().number() - 1
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The server that people write by hand: a timer for the CAs of its clients, and one for its identity.
#[derive(Debug)]
pub struct ByHand {
    server: NaiveServer,
    ticks: AtomicU64,
    reloads: AtomicU64,
}

impl ByHand {
    /// What one of the two timers does.
    fn poll(&self, part: u64) -> Result<(), String> {
        let polled = if part == 0 { self.server.poll_trust() } else { self.server.poll_identity() };
        let is_new = polled.map_err(|error| error.to_string())?;
        self.reloads.fetch_add(u64::from(is_new), Ordering::SeqCst);
        Ok(())
    }
}

impl Host for ByHand {
    /// Six looks at each of its two parts.
    const TICKS: u32 = 12;

    async fn start(setup: &Setup) -> Result<Self, String> {
        let server = NaiveServer::start(&setup.dir, &setup.versions, setup.tickets, setup.app.clone());
        let server = server.await.map_err(|error| error.to_string())?;
        Ok(Self { server, ticks: AtomicU64::new(0), reloads: AtomicU64::new(0) })
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    async fn tick(&self) {
        // What it met is in its log.
        let _ = self.poll(self.ticks.fetch_add(1, Ordering::SeqCst) % 2);
        tokio::task::yield_now().await;
    }

    async fn look(&self) -> Result<(), String> {
        self.poll(0).and(self.poll(1))
    }

    fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::SeqCst)
    }
}
