//! [`Reloader`]: the handle of one source that is followed, and how to build it.
//!
//! What happens on the hub's threads is in `reloader/entry.rs`.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use certsource::machine::{Expiring, Policy, Stale, Threshold};
use certsource::source::Armed;
use certsource::{Error, Origin, Reason, Source};
use tokio::sync::{broadcast, oneshot, watch};

use crate::derived::{Derived, Slot};
use crate::event::{Event, EventKind, Events, Failure, Reload};
use crate::gate::Gate;
use crate::generation::Generation;
use crate::hooks::{Hook, Hooks};
use crate::hub::Hub;
use crate::status::Status;

mod entry;

pub(crate) use entry::{Entry, Next, Overdue};

/// Events that a subscriber may be behind before it is told that it lost some.
const BACKLOG: usize = 128;

/// The longest wait that is counted: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Follows one source: loads it, and publishes a new generation when its material changes.
///
/// Cheap to clone. When the last clone, and the last [`Derived`] value, is gone, nothing runs any more.
#[derive(Clone)]
pub struct Reloader {
    entry: Arc<Entry>,
}

impl Reloader {
    /// Begins to build a reloader for this source.
    pub fn builder(source: impl Source + 'static) -> Builder {
        Builder::new(Box::new(source))
    }

    /// The generation that is served now; while nothing is served, the one that was served last: see [`Reloader::stale`].
    /// Never blocks; some nanoseconds.
    pub fn current(&self) -> Arc<Generation> {
        self.entry.current().expect("a reloader is handed out after its first load")
    }

    /// Set while nothing is served, because the source could not be confirmed for longer than [`Policy::max_stale`].
    /// Never blocks.
    pub fn stale(&self) -> Option<Stale> {
        self.entry.stale.load().as_deref().cloned()
    }

    /// Reads the source now, whatever its detector says, and returns the generation that matches it.
    ///
    /// When it returns, the generation is published and every derived value is replaced, or closed where it could not be
    /// built from a withdrawal (see [`Derived`]). Content that could be half
    /// written must stand still first: see [`Policy::settle`].
    ///
    /// # Errors
    /// Why the source could not be followed. The last good generation stays.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the read goes on.
    pub async fn reload(&self) -> Result<Arc<Generation>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.entry.demand(false, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or_else(|_| Err(gone(&self.entry)))
    }

    /// Ends every overlap (see [`Builder::overlap`]) and reads the source now, as [`Reloader::reload`] does: what that
    /// read finds withdrawn has no overlap either. When it returns `Ok`, nothing is trusted that the source does not
    /// hold.
    ///
    /// # Errors
    /// Why the source could not be followed. What overlapped is gone all the same, but for two cases: while a look or a read hangs it
    /// goes when that comes back, and where the material without it can not be used that is tried again. Until a read finds the source
    /// whole, what is withdrawn has no overlap.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the withdrawal goes on.
    pub async fn withdraw_now(&self) -> Result<Arc<Generation>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.entry.demand(true, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or_else(|_| Err(gone(&self.entry)))
    }

    /// [`Reloader::reload`] for threads without a runtime: blocks this thread.
    ///
    /// # Errors
    /// As [`Reloader::reload`].
    pub fn reload_blocking(&self) -> Result<Arc<Generation>, Error> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.entry.demand(false, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or_else(|_| Err(gone(&self.entry)))
    }

    /// Asks for a look now, without waiting for what comes of it.
    pub fn wake(&self) {
        self.entry.wake();
    }

    /// Builds a value from the current generation, and again from every later one: see [`Derived`].
    ///
    /// `build` runs on this thread now, and on a thread of the hub for each later generation, before that is
    /// published. It may call this reloader, but for [`Reloader::reload_blocking`]: that would wait for itself.
    ///
    /// # Errors
    /// When `build` fails for the current generation.
    pub fn derive<T, E>(
        &self,
        build: impl Fn(&Arc<Generation>) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Derived<T>, Error>
    where
        T: Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let slot = self.entry.derive(Box::new(move |generation| build(generation).map_err(Into::into)))?;
        Ok(Derived::new(slot, self.clone()))
    }

    /// The events from now on.
    pub fn subscribe(&self) -> Events {
        self.entry.subscribe()
    }

    /// The served generation as something to wait on: the newest one always, never a backlog.
    pub fn watch(&self) -> Generations {
        Generations { numbers: self.entry.watch(), entry: Arc::downgrade(&self.entry) }
    }

    /// The state at one glance.
    pub fn status(&self) -> Status {
        self.entry.status()
    }

    /// Where the source is, for people.
    pub fn origin(&self) -> &Origin {
        &self.entry.origin
    }

    /// A handle that does not keep the source followed: for hooks.
    pub fn downgrade(&self) -> WeakReloader {
        WeakReloader { entry: Arc::downgrade(&self.entry) }
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader")
            .field("origin", &self.entry.origin)
            .field("generation", &self.entry.current().map(|generation| generation.number()))
            .finish_non_exhaustive()
    }
}

fn gone(entry: &Entry) -> Error {
    Error::new(Reason::Io, "the thread that follows the source is gone").of(entry.origin.clone())
}

/// A handle that does not keep the source followed.
#[derive(Clone)]
pub struct WeakReloader {
    entry: Weak<Entry>,
}

impl WeakReloader {
    /// The reloader, if it is still in use.
    pub fn upgrade(&self) -> Option<Reloader> {
        self.entry.upgrade().map(|entry| Reloader { entry })
    }
}

impl fmt::Debug for WeakReloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakReloader")
    }
}

/// Waits for generations. See [`Reloader::watch`].
#[derive(Clone)]
pub struct Generations {
    numbers: watch::Receiver<u64>,
    entry: Weak<Entry>,
}

impl Generations {
    /// Waits for a generation newer than the last one this returned, or than the one that was served when this was
    /// made. `None` when the source is no longer followed.
    ///
    /// # Cancel safety
    /// Dropping the future loses no generation.
    pub async fn changed(&mut self) -> Option<Arc<Generation>> {
        self.numbers.changed().await.ok()?;
        self.entry.upgrade()?.current()
    }
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Generations").field(&*self.numbers.borrow()).finish()
    }
}

/// Builds a [`Reloader`].
///
/// # Defaults
/// * policy: [`Policy::default`], so a look every 10 s
/// * hub: [`Hub::shared`]
/// * no overlap, no threshold of expiry, no [`Builder::max_stale`]
/// * no gate, no hook; failures go to `tracing` as warnings while no failure hook is set
/// * a first load that fails is an error at once
#[must_use]
pub struct Builder {
    source: Box<dyn Source>,
    policy: Policy,
    hub: Option<Hub>,
    gates: Vec<Box<dyn Gate>>,
    hooks: Vec<Hook>,
    failures_are_hooked: bool,
    wait: Option<Duration>,
    thresholds: Vec<Threshold>,
    overlap: Option<Duration>,
    max_stale: Option<Duration>,
    adopt_within: Option<Duration>,
}

impl Builder {
    fn new(source: Box<dyn Source>) -> Self {
        Self {
            source,
            policy: Policy::default(),
            hub: None,
            gates: Vec::new(),
            hooks: Vec::new(),
            failures_are_hooked: false,
            wait: None,
            thresholds: Vec::new(),
            overlap: None,
            max_stale: None,
            adopt_within: None,
        }
    }

    /// Looks this often. A change is seen that much later at the most, plus 10 %.
    pub fn every(mut self, interval: Duration) -> Self {
        self.policy.interval = interval;
        self
    }

    /// All of the patience settings at once.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Uses the threads of this hub.
    pub fn hub(mut self, hub: Hub) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Adds a check before publishing. Gates run in the order they were added; the first "no" counts.
    pub fn gate(mut self, gate: impl Gate + 'static) -> Self {
        self.gates.push(Box::new(gate));
        self
    }

    /// Calls this after each reload, and after the first load.
    pub fn on_reload(self, hook: impl Fn(&Reload) + Send + Sync + 'static) -> Self {
        self.on_event(move |event| {
            if let EventKind::Loaded(reload) | EventKind::Reloaded(reload) = &event.kind {
                hook(reload);
            }
        })
    }

    /// Calls this when the source could not be loaded, when what was loaded was refused, and when nothing is served any
    /// more ([`Policy::max_stale`]). Failures then no longer go to `tracing`.
    pub fn on_failure(mut self, hook: impl Fn(&Failure) + Send + Sync + 'static) -> Self {
        self.failures_are_hooked = true;
        self.on_event(move |event| match &event.kind {
            EventKind::Failed(failure) | EventKind::Rejected(failure) => hook(failure),
            EventKind::Stale(stale) => hook(&Failure::of_stale(stale)),
            _ => {}
        })
    }

    /// Calls this for every event.
    ///
    /// Hooks run after publishing, one at a time, in order, on a thread of the hub. A hook that panics or is slow
    /// holds back other hooks of this source only. To reach the reloader from a hook, capture a [`WeakReloader`]:
    /// a strong handle would keep it alive for ever.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Calls this when a certificate of the served generation passes one of these thresholds: so long before its end
    /// ([`Threshold::Before`], or a plain [`Duration`]), or so much of its lifetime used ([`Threshold::Used`]).
    ///
    /// Time alone brings it, within a second; no look and no reload is needed. Each threshold is told once for each
    /// certificate, anchors and intermediates included, and again for the certificate that replaces it. Those that were
    /// passed before the first load are told after it. The hook runs as those of [`Builder::on_event`] do. May be
    /// called more than once, each time with thresholds of its own.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use certsource_reload::{Reloader, Threshold, certsource::Files};
    ///
    /// const DAY: Duration = Duration::from_secs(86_400);
    /// let reloader = Reloader::builder(Files::kubernetes("/etc/tls"))
    ///     .on_expiry([Threshold::Used(0.8), Threshold::Before(7 * DAY)], |expiring| {
    ///         eprintln!("{} ends soon", expiring.certificate.inspection().subject());
    ///     })
    ///     .start()?;
    /// # Ok::<(), certsource_reload::Error>(())
    /// ```
    pub fn on_expiry<T: Into<Threshold>>(
        mut self,
        thresholds: impl IntoIterator<Item = T>,
        hook: impl Fn(&Expiring) + Send + Sync + 'static,
    ) -> Self {
        let thresholds: Vec<Threshold> = thresholds.into_iter().map(Into::into).collect();
        self.thresholds.extend(&thresholds);
        self.on_event(move |event| match &event.kind {
            EventKind::Expiring(expiring) if thresholds.contains(&expiring.threshold) => hook(expiring),
            _ => {}
        })
    }

    /// Trusts a withdrawn anchor for so much longer, for peers that are slow to change. Off by default: what is
    /// withdrawn is gone at once. At most 7 days; nothing prolongs it, and [`Reloader::withdraw_now`] ends it. See
    /// [`Policy::overlap`].
    pub fn overlap(mut self, overlap: Duration) -> Self {
        self.overlap = Some(overlap);
        self
    }

    /// Fails closed when the source could not be confirmed for so long: nothing is served any more, until it is whole
    /// again. Off by default: the last good generation stays for as long as it takes. See [`Policy::max_stale`] for what
    /// confirms a source, [`Derived::get`] for what becomes of values.
    pub fn max_stale(mut self, limit: Duration) -> Self {
        self.max_stale = Some(limit);
        self
    }

    /// Publishes what only adds (new anchors; an identity in the place of one that is still valid) at a random moment within
    /// this time, 5 s at most, so that a fleet does not connect anew all at once. Off by default. What is withdrawn, and what
    /// is asked for by [`Reloader::reload`] or [`Reloader::wake`], never waits: see [`Policy::adopt_within`].
    pub fn adopt_within(mut self, time: Duration) -> Self {
        self.adopt_within = Some(time);
        self
    }

    /// Waits so long for a first load that works, instead of failing at once.
    pub fn wait_for_initial(mut self, timeout: Duration) -> Self {
        self.wait = Some(timeout);
        self
    }

    /// Loads the source and follows it. Blocks this thread until the first load.
    ///
    /// # Errors
    /// Why the first load failed.
    pub fn start(self) -> Result<Reloader, Error> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reloader = self.launch(move |result| drop(sender.send(result)));
        match receiver.recv() {
            Ok(first) => first.map(|_| reloader),
            Err(_) => Err(gone(&reloader.entry)),
        }
    }

    /// [`Builder::start`] that does not block.
    ///
    /// # Errors
    /// Why the first load failed.
    ///
    /// # Cancel safety
    /// Dropping the future drops the reloader.
    pub async fn start_async(self) -> Result<Reloader, Error> {
        let (sender, receiver) = oneshot::channel();
        let reloader = self.launch(move |result| drop(sender.send(result)));
        match receiver.await {
            Ok(first) => first.map(|_| reloader),
            Err(_) => Err(gone(&reloader.entry)),
        }
    }

    fn launch(self, first: impl FnOnce(Result<Arc<Generation>, Error>) + Send + 'static) -> Reloader {
        let Self {
            source,
            mut policy,
            hub,
            gates,
            hooks,
            failures_are_hooked,
            wait,
            thresholds,
            overlap,
            max_stale,
            adopt_within,
        } = self;
        for threshold in thresholds {
            if !policy.expiring.contains(&threshold) {
                policy.expiring.push(threshold);
            }
        }
        policy.overlap = overlap.unwrap_or(policy.overlap);
        policy.max_stale = max_stale.or(policy.max_stale);
        policy.adopt_within = adopt_within.unwrap_or(policy.adopt_within);
        let hub = hub.unwrap_or_else(Hub::shared);
        let deadline = wait.map(|wait| Instant::now() + wait.min(LONGEST));
        let entry = Entry::new(hub, source, policy, gates, Hooks::new(hooks), failures_are_hooked);
        entry.begin(deadline, Box::new(first));
        Reloader { entry }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("origin", &self.source.origin())
            .field("policy", &self.policy)
            .field("gates", &self.gates.len())
            .field("hooks", &self.hooks.len())
            .finish_non_exhaustive()
    }
}
