//! What is told: events, and the stream of them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use certsource::machine::{Expiring, Regressed, Stale};
use certsource::{Diff, Error, Origin, Reason};
use tokio::sync::broadcast;

use crate::generation::Generation;

/// Something that happened to a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// When, on the wall clock.
    pub at: SystemTime,
    /// Of which source.
    pub origin: Origin,
    /// What.
    pub kind: EventKind,
    /// How many events were left out before this one, because hooks did not keep up.
    pub skipped: u64,
}

/// What happened to a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// The first generation is served.
    Loaded(Reload),
    /// A new generation is served.
    Reloaded(Reload),
    /// A certificate and a key do not match: a writer is probably between its two files.
    Pending(Failure),
    /// The source could not be loaded. The last good generation stays.
    Failed(Failure),
    /// The source was read, and a gate or a validity rule refused it. The last good generation stays.
    Rejected(Failure),
    /// The failure is over.
    Recovered,
    /// Worth an operator's attention, while everything is served as it should be.
    Degraded(String),
    /// The generation with this number is no longer served.
    Retired(u64),
    /// Nothing is served any more, because the source could not be confirmed for longer than
    /// [`Policy::max_stale`](certsource::machine::Policy::max_stale). It ends with the next [`EventKind::Reloaded`].
    Stale(Stale),
    /// The served identity is past its end.
    Expired(Arc<Generation>),
    /// A certificate that is served has passed a threshold of [`Builder::on_expiry`](crate::Builder::on_expiry), or of
    /// [`Policy::expiring`](certsource::machine::Policy::expiring).
    Expiring(Expiring),
    /// What is served since the last `reloaded` is a step back: a withdrawn anchor is there again, or the new leaf is
    /// older than the one before.
    Regressed(Regressed),
}

impl EventKind {
    /// The stable name, in lower case.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loaded(_) => "loaded",
            Self::Reloaded(_) => "reloaded",
            Self::Pending(_) => "pending",
            Self::Failed(_) => "failed",
            Self::Rejected(_) => "rejected",
            Self::Recovered => "recovered",
            Self::Degraded(_) => "degraded",
            Self::Retired(_) => "retired",
            Self::Stale(_) => "stale",
            Self::Expired(_) => "expired",
            Self::Expiring(_) => "expiring",
            Self::Regressed(_) => "regressed",
        }
    }
}

/// A new generation and what is new in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reload {
    /// The generation.
    pub generation: Arc<Generation>,
    /// What came and what went since the generation before.
    pub diff: Diff,
}

/// A source that could not be followed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// The number of the generation that is served all the same; `None` before the first load, and when nothing is served
    /// any more ([`EventKind::Stale`]).
    pub serving: Option<u64>,
    /// Whether a trust anchor was withdrawn in the files and is still trusted, because the identity is broken too.
    pub withdrawal_pending: bool,
}

impl Failure {
    /// Why, as a stable name.
    pub fn reason(&self) -> Reason {
        self.error.reason()
    }

    pub(crate) fn of_stale(stale: &Stale) -> Self {
        Self { error: stale.clone().into(), serving: None, withdrawal_pending: false }
    }

    /// The number of the generation that is served all the same; 0 when there is none.
    pub fn serving(&self) -> u64 {
        self.serving.unwrap_or(0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// A stream of events. Each subscriber has its own.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<Event>);

/// So many events were lost, because the subscriber did not keep up. The stream goes on with the oldest one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged(pub u64);

impl fmt::Display for Lagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events were lost because the subscriber did not keep up", self.0)
    }
}

impl std::error::Error for Lagged {}

impl Events {
    /// The next event; `None` when the source is no longer followed.
    ///
    /// # Errors
    /// [`Lagged`] when events were lost.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event if there is one now.
    ///
    /// # Errors
    /// [`Lagged`] when events were lost.
    pub fn try_next(&mut self) -> Option<Result<Event, Lagged>> {
        match self.0.try_recv() {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(_) => None,
        }
    }
}
