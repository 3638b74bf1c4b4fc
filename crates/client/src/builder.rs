//! [`Builder`]: what a client loads, how it follows it, and how it talks.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certsource::machine::{Candidate, Policy};
use certsource::{Error, Files, Material, Reason, Source};
use certsource_reload::{Event, Expiring, Failure, Hub, Reload, Reloader, Threshold};
use certsource_rustls::{ClientTls, Probe, Revocation, TlsGate};
use http::HeaderMap;
use reqwest::Url;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::TimeProvider;

use crate::client::{Client, IsRefusal};
use crate::factory::{Customize, Factory, Proxies, Retire};
use crate::proxy::Proxy;
use crate::pulse::Lanes;
use crate::reactive::Reactive;
use crate::redirect::Redirects;

mod load;

/// How long a refused request waits for newer certificates.
const REACTIVE_TIMEOUT: Duration = Duration::from_secs(3);

type OnFiles = Box<dyn FnOnce(Files) -> Files + Send>;
type Step = Box<dyn FnOnce(certsource_reload::Builder) -> certsource_reload::Builder + Send>;
type Judge =
    Box<dyn Fn(&Material, Option<&Material>) -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync>;

/// Builds a [`Client`].
///
/// # Defaults
/// * roots: none. Name a CA bundle; the system's roots are never used
/// * look for changes: every 10 s ± 10 %, by time stamps ([`detect::Mtime`](certsource::detect::Mtime))
/// * a first load that fails is an error at once
/// * what rustls would not accept is never published ([`TlsGate`]); more checks by [`Builder::validate`]
/// * crypto: of this crate's features `ring`, `aws-lc-rs`, in this order; the process's default is not looked at
/// * versions of TLS: 1.3 and 1.2
/// * HTTP: 2 and 1.1, as the server chooses
/// * redirects: at most ten; proxies: as in reqwest, from the environment; timeouts: none, as in reqwest
/// * a new generation is used strictly: see [`Retire::Strict`]
/// * files that are broken are never too old to be used: see [`Builder::max_stale`]
/// * what a connection has taken is never cut: see [`Builder::drain_deadline`]
/// * a handshake that a rotation may have broken asks for a look at once: see [`Builder::reactive`]
#[must_use]
pub struct Builder {
    what: What,
    /// What becomes of the files before they are read.
    on_files: Vec<OnFiles>,
    policy: Policy,
    steps: Vec<Step>,
    validate: Vec<Judge>,
    probes: Vec<String>,
    provider: Option<Arc<CryptoProvider>>,
    time: Option<Arc<dyn TimeProvider>>,
    versions: Option<Vec<&'static SupportedProtocolVersion>>,
    revocation: Revocation,
    factory: Unfinished,
    follow_up: FollowUp,
    /// The first mistake; told by `build`.
    mistake: Option<Error>,
}

/// What is loaded.
enum What {
    Nothing,
    Files(Box<Files>),
    Source(Box<dyn Source>),
}

/// What becomes of refusals.
struct FollowUp {
    is_reactive: bool,
    limit: Duration,
    on: Vec<IsRefusal>,
}

/// The parts of a [`Factory`] that are known before `build`.
struct Unfinished {
    http1_only: bool,
    customize: Vec<Customize>,
    shared: Vec<Customize>,
    proxies: Proxies,
    identity_to_proxy: bool,
    redirects: Redirects,
    retire: Retire,
    drain_deadline: Option<Duration>,
    confirm_identity: Option<Duration>,
    timeout: Option<Duration>,
    referer: bool,
    default_headers: HeaderMap,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            what: What::Nothing,
            on_files: Vec::new(),
            policy: Policy::default(),
            steps: Vec::new(),
            validate: Vec::new(),
            probes: Vec::new(),
            provider: None,
            time: None,
            versions: None,
            revocation: Revocation::default(),
            factory: Unfinished {
                http1_only: false,
                customize: Vec::new(),
                shared: Vec::new(),
                proxies: Proxies::System,
                identity_to_proxy: false,
                redirects: Redirects::default(),
                retire: Retire::default(),
                drain_deadline: None,
                confirm_identity: None,
                timeout: None,
                referer: true,
                default_headers: HeaderMap::new(),
            },
            follow_up: FollowUp { is_reactive: true, limit: REACTIVE_TIMEOUT, on: Vec::new() },
            mistake: None,
        }
    }

    /// Looks for changes this often. A change is seen that much later at the most, plus 10 %.
    pub fn reload_every(mut self, interval: Duration) -> Self {
        if interval.is_zero() {
            self.mistake("Builder::reload_every needs a time above zero");
        }
        self.policy.interval = interval;
        self
    }

    /// All of the patience settings at once, the interval of [`Builder::reload_every`] among them.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Follows the source on the threads of this hub.
    pub fn hub(self, hub: Hub) -> Self {
        self.step(|builder| builder.hub(hub))
    }

    /// Waits so long for a first load that works, instead of failing at once.
    pub fn wait_for_initial(self, timeout: Duration) -> Self {
        self.step(move |builder| builder.wait_for_initial(timeout))
    }

    /// Asks this before a generation is published, with the candidate and what is served now (`None` at first). It
    /// runs on a thread of the hub and may block.
    ///
    /// It can not hold back a pure withdrawal: then its refusal is told, and the generation is published.
    pub fn validate<E>(
        mut self,
        judge: impl Fn(&Material, Option<&Material>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.validate.push(Box::new(move |candidate, current| judge(candidate, current).map_err(Into::into)));
        self
    }

    /// Tries a candidate before it is published: a handshake with the server of this `https://` URL must succeed, and
    /// the server must not refuse our certificate. Call it again for more servers. See [`Probe`] for what is tried,
    /// when it is tried again, and the timeout of 3 s.
    ///
    /// It guards against files that are well-formed and wrong: the bundle of another cluster, an identity that nobody
    /// knows. It is not asked about the first load, nor about a pure withdrawal, which it could not hold back.
    ///
    /// Think twice before you probe a server whose rotation you follow: until it has the new certificates, they are
    /// not published here either.
    pub fn probe(mut self, url: impl Into<String>) -> Self {
        self.probes.push(url.into());
        self
    }

    /// Calls this after each reload, and after the first load.
    ///
    /// Hooks run after publishing, one at a time, in order, on a thread of the hub. One that panics or is slow holds
    /// back other hooks of this client only. To use the client in a hook, capture a [`WeakClient`](crate::WeakClient).
    pub fn on_reload(self, hook: impl Fn(&Reload) + Send + Sync + 'static) -> Self {
        self.step(|builder| builder.on_reload(hook))
    }

    /// Calls this when the source could not be loaded, or when what was loaded was refused. Failures then no longer
    /// go to `tracing`. See [`Builder::on_reload`].
    pub fn on_failure(self, hook: impl Fn(&Failure) + Send + Sync + 'static) -> Self {
        self.step(|builder| builder.on_failure(hook))
    }

    /// Calls this for every event. See [`Builder::on_reload`].
    pub fn on_event(self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.step(|builder| builder.on_event(hook))
    }

    /// Calls this when a certificate in use passes one of these thresholds: so long before its end, or so much of its
    /// lifetime used. Time alone brings it: see [`certsource_reload::Builder::on_expiry`], and [`Builder::on_reload`] for
    /// how hooks run.
    pub fn on_expiry<T: Into<Threshold>>(
        self,
        thresholds: impl IntoIterator<Item = T>,
        hook: impl Fn(&Expiring) + Send + Sync + 'static,
    ) -> Self {
        let thresholds: Vec<Threshold> = thresholds.into_iter().map(Into::into).collect();
        self.step(|builder| builder.on_expiry(thresholds, hook))
    }

    /// Goes on trusting what was withdrawn for so long, for servers that are slow to change. Off by default, and ended by
    /// [`Client::withdraw_now`]: see [`certsource_reload::Builder::overlap`].
    pub fn overlap(self, overlap: Duration) -> Self {
        self.step(move |builder| builder.overlap(overlap))
    }

    /// Fails closed when the source could not be confirmed for so long: requests then fail at once, with a
    /// [`Stale`](crate::Stale) as the first source of the [`reqwest::Error`], and nothing more is given to connections that are
    /// open. What has begun finishes. It ends by itself when the source can be read again. Off by default: what is served
    /// is served for as long as it takes.
    ///
    /// What confirms a source is said at [`Policy::max_stale`]. A time of hours leaves room to mend it.
    pub fn max_stale(self, limit: Duration) -> Self {
        self.step(move |builder| builder.max_stale(limit))
    }

    /// Adopts what only adds (new roots; an identity in the place of one that is still valid) at a random moment within this
    /// time, 5 s at most, so that a fleet does not connect anew all at once. Off by default. What is withdrawn never waits, nor
    /// does what a failed handshake or [`Client::reload`] asks for: see [`Policy::adopt_within`].
    pub fn adopt_within(self, time: Duration) -> Self {
        self.step(move |builder| builder.adopt_within(time))
    }

    /// Uses this crypto provider. Nothing is installed for the process.
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Asks this for the time, by which the certificates and revocation lists of servers are judged: for devices whose
    /// clock is not the system's, and for tests. By default the system's clock. See
    /// [`ClientTls::time_provider`](certsource_rustls::ClientTls::time_provider).
    ///
    /// What is told about our own certificates ([`Builder::on_expiry`], whether a candidate is valid yet) goes by the
    /// system's clock.
    pub fn time_provider(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.time = Some(time);
        self
    }

    /// Speaks these versions of TLS only.
    pub fn tls_versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = Some(versions.to_vec());
        self
    }

    /// Speaks HTTP/1.1 only.
    pub fn http1_only(mut self) -> Self {
        self.factory.http1_only = true;
        self
    }

    /// Your own options of reqwest. Called once for each generation; several are called in order.
    ///
    /// What must hold is set afterwards: the TLS config, redirects, and reqwest's own retries, which are off: they
    /// would use old connections (what an HTTP/2 server refused unread is sent again by us). What would be ignored
    /// is an error: proxies, a redirect policy, versions of TLS, and everything `danger`. Only these are ignored in
    /// silence: reqwest's `identity`, root certificates and CRLs, and a `retry` policy.
    ///
    /// State that outlives a generation is not for this closure: a cookie jar that it makes would be empty after every
    /// rotation, so it is an error, and a DNS cache would be cold. See [`Builder::dns_resolver`] and, with the feature
    /// `cookies`, `Builder::cookie_jar`. Anything else of that kind you make outside, and clone an `Arc` into the closure.
    pub fn reqwest(
        mut self,
        customize: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.factory.customize.push(Box::new(customize));
        self
    }

    /// A timeout from the start of a request to the end of its response, over all attempts and redirects.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.factory.timeout = Some(timeout);
        self
    }

    /// Adds these headers to every request that does not set them. The sensitive ones do not go along when a
    /// redirect leads to another origin.
    pub fn default_headers(mut self, headers: HeaderMap) -> Self {
        for (name, value) in &headers {
            self.factory.default_headers.insert(name, value.clone());
        }
        self
    }

    /// Whether redirects carry a `Referer`. On by default.
    pub fn referer(mut self, referer: bool) -> Self {
        self.factory.referer = referer;
        self
    }

    /// How redirects are followed. Each hop is an attempt of its own, on the newest generation.
    pub fn redirect(mut self, redirects: Redirects) -> Self {
        self.factory.redirects = redirects;
        self
    }

    /// Uses this proxy; call it again for more. The environment's proxies are then not used.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        match &mut self.factory.proxies {
            Proxies::These(proxies) => proxies.push(proxy),
            system @ Proxies::System => *system = Proxies::These(vec![proxy]),
        }
        self
    }

    /// Uses no proxy, also none of the environment.
    pub fn no_proxy(mut self) -> Self {
        self.factory.proxies = Proxies::These(Vec::new());
        self
    }

    /// Whether an `https://` proxy may ask for the client certificate. Off by default: then a client with an
    /// identity and such a proxy is not built.
    pub fn identity_to_proxy(mut self, allowed: bool) -> Self {
        self.factory.identity_to_proxy = allowed;
        self
    }

    /// What becomes of requests that began before a new generation was published.
    pub fn retire(mut self, retire: Retire) -> Self {
        self.factory.retire = retire;
        self
    }

    /// Cuts what still runs on a generation so long after it was replaced: responses, uploads, and requests that wait
    /// for an answer. They fail with an error that has [`DrainDeadlinePassed`](crate::DrainDeadlinePassed) among its
    /// sources, and their connections close. By default nothing is ever cut.
    ///
    /// It also bounds [`Client::reload`], which waits for what an old connection may still take. What was upgraded
    /// (WebSocket) is no response any more, and stays.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.factory.drain_deadline = Some(deadline);
        self
    }

    /// Whether a failed handshake asks for a look at the source at once, instead of at the next interval. On by
    /// default.
    ///
    /// It does when it fails as a rotation makes it fail: the server's issuer is unknown, its certificate expired or
    /// revoked, or the server refuses ours. If newer certificates come of the look, the request is sent again where
    /// that is safe: when no connection took it, or when its method may be repeated. Where it is not, the error says so:
    /// see [`Unsaved`](crate::Unsaved). If the look finds nothing newer, the error is returned as it was; so it is when a
    /// server rotates before its clients' files do. Looks are shared, and limited per host and over all hosts, to about
    /// one a second.
    pub fn reactive(mut self, reactive: bool) -> Self {
        self.follow_up.is_reactive = reactive;
        self
    }

    /// How long a refused request waits for newer certificates: for its turn, for the look, and for a writer that is
    /// at work. 3 s by default.
    pub fn reactive_timeout(mut self, timeout: Duration) -> Self {
        self.follow_up.limit = timeout;
        self
    }

    /// Takes a response for a refusal of our certificate when this says so: some servers complete the handshake and
    /// say it by HTTP, nginx with status 400.
    ///
    /// Say yes only to responses that mean that the request was not looked at: it is sent again, whatever its method.
    pub fn reactive_on(
        mut self,
        is_refusal: impl Fn(&reqwest::Response) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.follow_up.on.push(Box::new(is_refusal));
        self
    }

    /// Waits so long for a server's first message after it was shown our certificate in a handshake. Off by default.
    ///
    /// On TLS 1.3 a server judges our certificate after the handshake. Without this, a refusal meets the first request:
    /// one that may not be repeated (`POST`) then fails although nobody looked at it. With this, a refusal is a failed
    /// connect, and any request is sent again when newer certificates come of the look that follows.
    ///
    /// It costs half a round trip on those connections. A server that sends nothing (no session ticket, and HTTP/1.1)
    /// costs the whole `timeout`, once in each generation, and is not waited for after that. Nothing is waited for on
    /// TLS 1.2, nor where the server did not ask for a certificate, nor when a session is resumed.
    pub fn confirm_identity(mut self, timeout: Duration) -> Self {
        self.factory.confirm_identity = Some(timeout);
        self
    }

    /// Keeps cookies in this jar, over all generations.
    #[cfg(feature = "cookies")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cookies")))]
    pub fn cookie_jar(self, jar: Arc<impl reqwest::cookie::CookieStore + 'static>) -> Self {
        self.shared(move |builder| builder.cookie_provider(Arc::clone(&jar)))
    }

    /// Resolves names by this, over all generations: what it keeps (a cache) outlives a rotation. What
    /// `reqwest(|b| b.resolve(…))` names goes before it.
    pub fn dns_resolver(self, resolver: Arc<impl reqwest::dns::Resolve + 'static>) -> Self {
        self.shared(move |builder| builder.dns_resolver(Arc::clone(&resolver)))
    }

    /// Loads everything and builds the client. No runtime thread is blocked, and the runtime need not outlive this.
    ///
    /// # Errors
    /// Why the first load failed, or what the options contradict.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt and leaves nothing behind.
    pub async fn build(self) -> Result<Client, Error> {
        let (builder, factory, follow_up) = self.prepare()?;
        Self::finish(builder.start_async().await?, factory, follow_up)
    }

    /// [`Builder::build`] for threads without a runtime: blocks this thread until the first load.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build_blocking(self) -> Result<Client, Error> {
        let (builder, factory, follow_up) = self.prepare()?;
        Self::finish(builder.start()?, factory, follow_up)
    }

    fn prepare(self) -> Result<(certsource_reload::Builder, Factory, FollowUp), Error> {
        let Self {
            what,
            on_files,
            policy,
            steps,
            validate,
            probes,
            provider,
            time,
            versions,
            revocation,
            factory,
            follow_up,
            mistake,
        } = self;
        if let Some(mistake) = mistake {
            return Err(mistake);
        }
        let source: Box<dyn Source> = match what {
            What::Files(files) => Box::new(on_files.into_iter().fold(*files, |files, change| change(files))),
            What::Source(source) if on_files.is_empty() => source,
            What::Source(_) => {
                return Err(wrong(
                    "Builder::detect is for files, and so is Builder::key_password; a source detects by itself",
                ));
            }
            What::Nothing => {
                return Err(Error::new(
                    Reason::Empty,
                    "nothing to load: name a CA bundle by Builder::root_certificate, or files by Builder::files",
                ));
            }
        };
        let mut tls = match provider {
            Some(provider) => ClientTls::with_provider(provider),
            None => ClientTls::new()?,
        };
        tls = tls.revocation(revocation);
        if let Some(time) = time {
            tls = tls.time_provider(time);
        }
        if let Some(versions) = versions {
            tls = tls.versions(&versions);
        }
        let mut builder =
            Reloader::builder(source).policy(policy).gate(TlsGate::with_provider(Arc::clone(tls.provider())));
        for judge in validate {
            builder = builder.gate(move |candidate: &Candidate| {
                judge(&candidate.material, candidate.current.as_deref()).map_err(|error| {
                    Error::new(Reason::Rejected, format!("the application refused it: {error}"))
                })
            });
        }
        for url in probes {
            builder = builder.gate(probe(&url, factory.offers(tls.clone()))?);
        }
        builder = steps.into_iter().fold(builder, |builder, step| step(builder));
        Ok((builder, factory.with(tls), follow_up))
    }

    fn finish(reloader: Reloader, factory: Factory, follow_up: FollowUp) -> Result<Client, Error> {
        let drafts = factory.drafts()?;
        let (factory, lanes) = (Arc::new(factory), Arc::new(Lanes::default()));
        let derived = reloader.derive({
            let (factory, lanes) = (Arc::clone(&factory), Arc::clone(&lanes));
            move |generation| factory.lane(generation, &lanes)
        })?;
        let reactive = follow_up.is_reactive.then(|| Reactive::new(follow_up.limit));
        Ok(Client::new(derived, factory, lanes, drafts, reactive, follow_up.on))
    }

    fn shared(
        mut self,
        share: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.factory.shared.push(Box::new(share));
        self
    }

    fn step(
        mut self,
        step: impl FnOnce(certsource_reload::Builder) -> certsource_reload::Builder + Send + 'static,
    ) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    fn mistake(&mut self, what: &str) {
        self.mistake.get_or_insert_with(|| wrong(what));
    }
}

/// The gate that makes a handshake with the server of this URL.
fn probe(url: &str, tls: ClientTls) -> Result<Probe, Error> {
    let wrong = |why: &str| {
        Error::new(Reason::Unsupported, format!("Builder::probe needs an https:// URL; {url:?}: {why}"))
    };
    let url = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    match (url.scheme(), url.host_str(), url.port_or_known_default()) {
        ("https", Some(host), Some(port)) => Probe::new(tls, host, port),
        _ => Err(wrong("there is no handshake to make")),
    }
}

fn wrong(what: &str) -> Error {
    Error::new(Reason::Unsupported, what)
}

impl Unfinished {
    /// With the protocols that the clients will offer, as far as that is known before the user's closure is asked.
    fn offers(&self, tls: ClientTls) -> ClientTls {
        if self.http1_only || !cfg!(feature = "http2") {
            tls.alpn(["http/1.1"])
        } else {
            tls.alpn(["h2", "http/1.1"])
        }
    }

    fn with(self, tls: ClientTls) -> Factory {
        let in_order = |options: Vec<Customize>| -> Customize {
            Box::new(move |builder| options.iter().fold(builder, |builder, option| option(builder)))
        };
        Factory {
            tls,
            http1_only: self.http1_only,
            customize: in_order(self.customize),
            shared: in_order(self.shared),
            proxies: self.proxies,
            identity_to_proxy: self.identity_to_proxy,
            redirects: self.redirects,
            retire: self.retire,
            drain_deadline: self.drain_deadline,
            confirm_identity: self.confirm_identity,
            timeout: self.timeout,
            referer: self.referer,
            default_headers: self.default_headers,
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match &self.what {
            What::Nothing => None,
            What::Files(files) => Some(files.origin()),
            What::Source(source) => Some(source.origin()),
        };
        f.debug_struct("Builder")
            .field("origin", &origin)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
