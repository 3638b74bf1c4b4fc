//! Those that the scenarios of a client run against: certsource's client, its connector below hyper-util's client
//! (`subject/connected.rs`), and reqwest over the forty lines that people write by hand. All follow the same real files and
//! connect over real TLS. Ours live in real time; the other one looks when the test says so, so that what it does is the
//! same each time.

use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certsource_client::{Client, Policy};
use reqwest::Method;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use x509_parser::parse_x509_certificate;

use crate::clients::{answer, without_pool};
use crate::naive::Naive;

mod connected;

pub use connected::Connected;

/// Why a subject failed a scenario.
pub type Outcome = Result<(), String>;
/// A request on its way: the body of its answer, or why there is none.
pub type Sent = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// An interval so long that no look comes of it in a test.
pub const HOUR: Duration = Duration::from_secs(3600);
/// What ours has for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the other one has: six looks at each of its two parts.
const TICKS: u64 = 12;

/// Fails the scenario with these words, unless this is so.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    trust: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
    http2: bool,
    pools: bool,
    reactive: bool,
    policy: Policy,
}

impl Setup {
    /// Follows a bundle. Each request makes a connection, and resumes a session if it can.
    pub fn trust(path: impl Into<PathBuf>) -> Self {
        let mut policy = Policy::every(Duration::from_millis(50));
        policy.settle = Duration::from_millis(150);
        policy.settle_loss = Duration::from_millis(300);
        Self { trust: path.into(), identity: None, http2: false, pools: false, reactive: false, policy }
    }

    /// Follows `ca.crt`, `tls.crt` and `tls.key` in a directory.
    pub fn pair(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let identity = Some((dir.join("tls.crt"), dir.join("tls.key")));
        Self { identity, ..Self::trust(dir.join("ca.crt")) }
    }

    /// Over HTTP/2.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Keeps connections.
    pub fn pooled(mut self) -> Self {
        self.pools = true;
        self
    }

    /// A refusal makes ours look, as it does by default.
    pub fn reactive(mut self) -> Self {
        self.reactive = true;
        self
    }

    /// Another patience of ours. An interval of [`HOUR`] is one of the other one, too: it never looks by itself then.
    pub fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }
}

/// A client that follows files.
pub trait Subject: Clone + Send + Sync + 'static {
    /// Loads the files.
    ///
    /// # Errors
    /// Why it can not.
    fn start(setup: &Setup) -> impl Future<Output = Result<Self, String>> + Send;
    /// The versions of TLS that it speaks.
    fn versions() -> Vec<&'static SupportedProtocolVersion> {
        vec![&TLS12, &TLS13]
    }
    /// One request.
    fn send(&self, method: Method, url: String) -> Sent;
    /// Lets a little time pass.
    fn tick(&self) -> impl Future<Output = ()> + Send;
    /// Looks at once. Says what is wrong with what it found.
    fn look(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// How often something new was taken into use.
    fn reloads(&self) -> u64;
    /// Whether the last look met something that can not be used.
    fn is_failing(&self) -> bool;
    /// What it has shown to people.
    fn shown(&self) -> String;
    /// What is over when [`Subject::is_too_late`] says so.
    fn begin(&self) -> (Instant, u64);
    /// Whether what has not come since is not to come.
    fn is_too_late(&self, begun: (Instant, u64)) -> bool;

    /// A `GET`.
    fn get(&self, url: String) -> Sent {
        self.send(Method::GET, url)
    }

    /// Lets time pass until this is so; whether it came to that.
    #[allow(async_fn_in_trait, reason = "nobody sends it to another thread")]
    async fn comes(&self, mut is_so: impl AsyncFnMut() -> bool) -> bool {
        let begun = self.begin();
        loop {
            let is_last = self.is_too_late(begun);
            if is_so().await {
                return true;
            }
            if is_last {
                return false;
            }
            self.tick().await;
        }
    }
}

/// certsource's client.
#[derive(Clone, Debug)]
pub struct Ours {
    /// The client itself.
    pub client: Client,
    shown: Arc<Mutex<String>>,
}

impl Subject for Ours {
    async fn start(setup: &Setup) -> Result<Self, String> {
        let pools = setup.pools;
        let shown = Arc::<Mutex<String>>::default();
        let told = Arc::clone(&shown);
        let mut builder = Client::builder().root_certificate(&setup.trust);
        if let Some((certificate, key)) = &setup.identity {
            builder = builder.identity(certificate, key);
        }
        if !setup.http2 {
            builder = builder.http1_only();
        }
        let client = builder
            .policy(setup.policy.clone())
            .reactive(setup.reactive)
            .no_proxy()
            .on_event(move |event| *told.lock().unwrap() += &format!("{event:?}\n"))
            .reqwest(move |builder| without_pool(builder, !pools))
            .build()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { client, shown })
    }

    fn send(&self, method: Method, url: String) -> Sent {
        let sent = self.client.request(method, url).send();
        Box::pin(async move { answer(sent.await).await })
    }

    async fn tick(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn look(&self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.client.reload()).await.expect("a look ends") {
            Ok(_) => Ok(()),
            Err(error) => {
                *self.shown.lock().unwrap() += &format!("{error}\n{error:?}\n");
                Err(error.to_string())
            }
        }
    }

    fn reloads(&self) -> u64 {
        self.client.generation().number() - 1
    }

    fn is_failing(&self) -> bool {
        self.client.status().reason.is_some()
    }

    fn shown(&self) -> String {
        let mut shown = self.shown.lock().unwrap().clone();
        for (role, certificate) in self.client.certificates() {
            let inspection = certificate.inspection();
            let json = serde_json::to_string(inspection).unwrap();
            shown += &format!("{role:?} {certificate:?} {inspection} {json}\n");
        }
        shown + &format!("{:?}\n{:?}\n{:?}\n", self.client, self.client.status(), self.client.generation())
    }

    fn begin(&self) -> (Instant, u64) {
        (Instant::now(), 0)
    }

    fn is_too_late(&self, begun: (Instant, u64)) -> bool {
        begun.0.elapsed() > PATIENCE
    }
}

/// The forty lines, in a plain reqwest client: a timer for the trust, and one for the identity.
#[derive(Clone, Debug)]
pub struct ByHand {
    client: reqwest::Client,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setup: Setup,
    state: Mutex<State>,
    ticks: AtomicU64,
    reloads: AtomicU64,
}

#[derive(Debug)]
struct State {
    naive: Naive,
    /// Of the trust and of the identity, what their last looks met.
    errors: [Option<String>; 2],
    shown: String,
}

impl ByHand {
    /// What one of the two timers does.
    fn poll(&self, part: usize) -> Result<(), String> {
        let mut state = self.shared.state.lock().unwrap();
        let polled = if part == 0 { state.naive.poll_trust() } else { state.naive.poll_identity() };
        match polled {
            Ok(false) => {}
            Ok(true) => {
                self.shared.reloads.fetch_add(1, Ordering::SeqCst);
                state.shown += &subjects(&self.shared.setup);
                state.errors[part] = None;
            }
            Err(error) => {
                state.shown += &format!("cannot reload: {error}\n");
                state.errors[part] = Some(error.to_string());
                return Err(error.to_string());
            }
        }
        Ok(())
    }
}

/// As `info!("loaded {}", certificate.subject())` says it.
fn subjects(setup: &Setup) -> String {
    let chain = setup.identity.as_ref().map(|(certificate, _)| certificate);
    let files = [Some(&setup.trust), chain].into_iter().flatten().filter_map(|path| fs::read(path).ok());
    let mut shown = String::new();
    for pem in files {
        for certificate in CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok) {
            if let Ok((_, certificate)) = parse_x509_certificate(&certificate) {
                shown += &format!("loaded {}\n", certificate.subject());
            }
        }
    }
    shown
}

impl Subject for ByHand {
    async fn start(setup: &Setup) -> Result<Self, String> {
        let naive = Naive::new(&setup.trust, setup.identity.clone(), rustls::ALL_VERSIONS);
        let naive = naive.map_err(|error| error.to_string())?;
        let mut config = (*naive.config()).clone();
        config.alpn_protocols = if setup.http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        let builder = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
        let client = without_pool(builder, !setup.pools).build().map_err(|error| error.to_string())?;
        let state = State { naive, errors: [None, None], shown: subjects(setup) };
        let shared = Shared {
            setup: setup.clone(),
            state: Mutex::new(state),
            ticks: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
        };
        Ok(Self { client, shared: Arc::new(shared) })
    }

    fn send(&self, method: Method, url: String) -> Sent {
        let sent = self.client.request(method, url).send();
        Box::pin(async move { answer(sent.await).await })
    }

    async fn tick(&self) {
        let tick = self.shared.ticks.fetch_add(1, Ordering::SeqCst);
        if self.shared.setup.policy.interval < HOUR {
            // What it met is what `is_failing` tells.
            let _ = self.poll(usize::from(tick % 2 == 1));
        }
    }

    async fn look(&self) -> Result<(), String> {
        self.poll(0).and(self.poll(1))
    }

    fn reloads(&self) -> u64 {
        self.shared.reloads.load(Ordering::SeqCst)
    }

    fn is_failing(&self) -> bool {
        self.shared.state.lock().unwrap().errors.iter().any(Option::is_some)
    }

    fn shown(&self) -> String {
        self.shared.state.lock().unwrap().shown.clone()
    }

    fn begin(&self) -> (Instant, u64) {
        (Instant::now(), self.shared.ticks.load(Ordering::SeqCst))
    }

    fn is_too_late(&self, begun: (Instant, u64)) -> bool {
        self.shared.ticks.load(Ordering::SeqCst) >= begun.1 + TICKS
    }
}
