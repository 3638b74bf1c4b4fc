//! A generation: material that was published, as one value, and the signal that it has been replaced.
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`], besides counted pointers and a time that is set once.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use certsource::clock::Now;
use certsource::{Certificate, Digest, Error, Identity, Material};

use crate::sync::{AtomicBool, Notify, Ordering};

/// Material with a number that only grows, its digest and its times: published as one value.
///
/// Trust, identity and CRLs of one generation belong together; whoever holds an `Arc<Generation>` can not mix them
/// with another's.
pub struct Generation {
    number: u64,
    material: Arc<Material>,
    /// When it was made, from which values are derived before it is published.
    made: Now,
    published: OnceLock<Now>,
    degraded: Option<Error>,
    retired: Retired,
}

impl Generation {
    pub(crate) fn new(number: u64, material: Arc<Material>, degraded: Option<Error>) -> Self {
        Self {
            number,
            material,
            made: Now::read(),
            published: OnceLock::new(),
            degraded,
            retired: Retired::default(),
        }
    }

    /// Its number: 1 for the first of a reloader, and growing by one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it holds.
    pub fn material(&self) -> &Arc<Material> {
        &self.material
    }

    /// The trust anchors; `None` when the source holds no trust. Never empty.
    pub fn trust(&self) -> Option<&[Certificate]> {
        self.material.trust()
    }

    /// The identity; `None` when the source holds none.
    pub fn identity(&self) -> Option<&Identity> {
        self.material.identity()
    }

    /// The digest over the public parts.
    pub fn digest(&self) -> Digest {
        self.material.digest()
    }

    /// It is published now.
    pub(crate) fn publish(&self) {
        // Once: a second call would change nothing.
        let _ = self.published.set(Now::read());
    }

    /// When it was published, on the wall clock. Before that, while values are derived from it: when it was made.
    pub fn published_at(&self) -> SystemTime {
        self.since().wall
    }

    /// When it was published, on the monotonic clock. Before that, while values are derived from it: when it was made.
    pub fn published(&self) -> Instant {
        self.since().mono
    }

    fn since(&self) -> Now {
        self.published.get().copied().unwrap_or(self.made)
    }

    /// Set when its trust is newer than its identity, because the identity's files were broken for too long.
    pub fn degraded(&self) -> Option<&Error> {
        self.degraded.as_ref()
    }

    /// The signal that this generation is served no more.
    pub fn retired(&self) -> &Retired {
        &self.retired
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("digest", &self.digest())
            .field("retired", &self.retired.is_retired())
            .finish_non_exhaustive()
    }
}

/// The signal that a generation has been replaced, or given up because its source could not be confirmed
/// ([`Policy::max_stale`](certsource::machine::Policy::max_stale)): it is served no more. Cheap to clone.
#[derive(Clone, Default)]
pub struct Retired(Arc<RetiredInner>);

#[derive(Default)]
struct RetiredInner {
    flag: AtomicBool,
    /// Nobody follows the source any more: it will not be replaced.
    ended: AtomicBool,
    notify: Notify,
}

impl Retired {
    /// Whether the generation has been replaced, or given up.
    pub fn is_retired(&self) -> bool {
        self.0.flag.load(Ordering::Acquire)
    }

    /// Resolves when the generation has been replaced or given up, and also when nobody follows the source any more, so that it never
    /// will be: [`Retired::is_retired`] tells the two apart. At once if that has happened already.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let this = self.clone();
        async move { this.wait_here().await }
    }

    async fn wait_here(&self) {
        // Registered before the flag is looked at, so that a signal in between is not lost.
        let notified = self.0.notify.notified();
        let mut notified = std::pin::pin!(notified);
        notified.as_mut().enable();
        if !self.0.flag.load(Ordering::Acquire) && !self.0.ended.load(Ordering::Acquire) {
            notified.await;
        }
    }

    /// Resolves when the generation has been replaced or given up: never, if nobody follows the source any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub fn replaced(&self) -> impl Future<Output = ()> + Send + 'static {
        let this = self.clone();
        async move { this.replaced_here().await }
    }

    async fn replaced_here(&self) {
        self.wait_here().await;
        if !self.is_retired() {
            std::future::pending().await
        }
    }

    pub(crate) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }

    pub(crate) fn retire(&self) {
        self.0.flag.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

impl fmt::Debug for Retired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retired").field(&self.is_retired()).finish()
    }
}
