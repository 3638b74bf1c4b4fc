//! What a [`Machine`](super::Machine) remembers between two generations, in pieces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::digest::ContentId;
use crate::error::{Error, Reason};
use crate::machine::Candidate;
use crate::material::Material;
use crate::origin::Origin;
use crate::source::Arrival;

#[derive(Debug)]
pub(super) enum Step {
    /// Wait for this moment, then look.
    Rest(Instant),
    /// A look is out; or, with no job out, it is the first one.
    Looking,
    /// The look is done: read.
    ReadNext,
    Reading,
    /// Adopted at once if a look after the read says that nothing moved.
    ConfirmNext(Arc<Material>),
    Confirming(Arc<Material>),
    JudgeNext(Arc<Material>),
    Judging(Candidate),
}

pub(super) struct Current {
    pub(super) number: u64,
    pub(super) material: Arc<Material>,
    /// What was last read and found equal to the material, or accepted as such.
    pub(super) content: ContentId,
    pub(super) expiry_told: bool,
}

/// Content that has been read and must be read again, unchanged.
pub(super) struct Settling {
    /// `None` after a read that failed: what comes next is read twice again.
    pub(super) content: Option<ContentId>,
    /// The end of the first read of this content.
    pub(super) since: Instant,
    /// When the source began to move.
    pub(super) began: Instant,
}

/// Reads that fail.
pub(super) struct Trouble {
    pub(super) error: Error,
    pub(super) since: Instant,
    pub(super) pause: Duration,
    pub(super) pending_told: bool,
    pub(super) failure_told: Option<Reason>,
    /// The reads are fine; it is a gate or a rule that says no.
    pub(super) refused: bool,
    /// A trust that only loses, held back by the broken identity, and since when it stands.
    pub(super) withdrawal: Option<(ContentId, Instant)>,
}

impl Trouble {
    pub(super) fn new(now: Now, error: &Error, pause: Duration) -> Self {
        Self {
            error: error.clone(),
            since: now.mono,
            pause,
            pending_told: false,
            failure_told: None,
            refused: false,
            withdrawal: None,
        }
    }
}

/// What a gate or a validity rule refused; not asked again until it changes, time comes, or someone demands it.
pub(super) struct Refusal {
    pub(super) content: ContentId,
    pub(super) error: Error,
    pub(super) until: Option<Instant>,
}

/// The least certain of two arrivals decides. A swap replaces everything that came before it.
pub(super) fn merge(before: Option<Arrival>, new: Arrival) -> Arrival {
    match (before, new) {
        (None, new) | (_, new @ Arrival::Swapped) => new,
        (Some(Arrival::Renamed), Arrival::Renamed) => Arrival::Renamed,
        (Some(Arrival::Closed | Arrival::Renamed), Arrival::Closed) => Arrival::Closed,
        _ => Arrival::Unknown,
    }
}

/// Spreads intervals, so that the sources of a process, and the pods of a fleet, do not all look at once. No secret
/// and no safety depends on it.
pub(super) struct Spread(u64);

impl Spread {
    pub(super) fn new(origin: &Origin) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(origin) | 1)
    }

    pub(super) fn around(&mut self, interval: Duration, share: f64) -> Duration {
        // xorshift64: enough for spreading.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let unit = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        interval.mul_f64(1.0 + share.clamp(0.0, 0.5) * (2.0 * unit - 1.0))
    }
}
