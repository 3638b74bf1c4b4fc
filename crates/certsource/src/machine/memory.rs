//! What a [`Machine`](super::Machine) remembers between two generations, in pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Now;
use crate::digest::ContentId;
use crate::error::{Error, Reason};
use crate::machine::{Candidate, Policy, SHORTEST, Told};
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
    /// With an error: a withdrawal, completed with the last good rest because of that error.
    JudgeNext(Arc<Material>, Option<Error>),
    /// With what was read, of which the candidate was made. Boxed, so that a step is small.
    Judging(Box<(Candidate, Arc<Material>)>),
}

// In this order: each look asks whether the first two are the same.
#[repr(C)]
pub(super) struct Current {
    /// What is served: what was read, and anchors that overlap.
    pub(super) material: Arc<Material>,
    /// What was read.
    pub(super) plain: Arc<Material>,
    pub(super) number: u64,
    /// What was last read and found equal to that, or accepted as such.
    pub(super) content: ContentId,
}

/// Content that has been read and must be read again, unchanged.
pub(super) struct Settling {
    /// `None` after a read that failed: what comes next is read twice again.
    pub(super) content: Option<ContentId>,
    /// The end of the first read of this content.
    pub(super) since: Instant,
    /// The end of the last read of it before which a look said that something moved: equal bytes can have been written
    /// again by a writer that is not done.
    pub(super) still: Instant,
    /// When the source began to move.
    pub(super) began: Instant,
}

impl Settling {
    /// When it has stood still for this long. Equal bytes that are written again and again count in the end.
    pub(super) fn stands_at(&self, need: Duration) -> Instant {
        (self.still + need).min(self.since + need * 5)
    }
}

/// Reads that fail.
pub(super) struct Trouble {
    pub(super) error: Error,
    pub(super) since: Instant,
    pub(super) pause: Duration,
    pub(super) pending_told: bool,
    pub(super) failure_told: Option<Reason>,
    /// Since when what was told as a failure lasts: its end must be told of, too.
    pub(super) failing_since: Option<Instant>,
    /// The reads are fine; it is a gate or a rule that says no.
    pub(super) refused: bool,
    pub(super) withdrawal: Option<Held>,
}

/// A withdrawal that is held back, because something else in the source is broken.
pub(super) struct Held {
    pub(super) content: ContentId,
    /// Since when it stands.
    pub(super) seen: Instant,
    /// When it is published all the same.
    pub(super) due: Instant,
}

impl Trouble {
    pub(super) fn new(now: Now, error: &Error, pause: Duration) -> Box<Self> {
        Box::new(Self {
            error: error.clone(),
            since: now.mono,
            pause,
            pending_told: false,
            failure_told: None,
            failing_since: None,
            refused: false,
            withdrawal: None,
        })
    }
}

/// What a gate or a validity rule refused; not asked again until it changes, time comes, or someone demands it.
pub(super) struct Refusal {
    pub(super) content: ContentId,
    pub(super) error: Error,
    /// Asked again at this moment.
    pub(super) until: Option<Instant>,
    /// The same, on the wall clock: that one can be set right long before `until`.
    pub(super) valid_from: Option<SystemTime>,
}

impl Refusal {
    pub(super) fn is_over(&self, now: Now) -> bool {
        self.until.is_some_and(|until| until <= now.mono)
            || self.valid_from.is_some_and(|from| from <= now.wall)
    }
}

/// Content that was said to be replaced whole, and was replaced again while it was read.
pub(super) struct Unconfirmed {
    pub(super) content: ContentId,
    pub(super) times: u32,
}

/// Slows down wake-ups that come without end: a burst of them is served at once, the rest one by one.
pub(super) struct Pace {
    /// When the bucket is empty again.
    full_until: Option<Instant>,
}

impl Pace {
    const EACH: Duration = Duration::from_millis(10);
    const BURST: u32 = 16;

    pub(super) const fn new() -> Self {
        Self { full_until: None }
    }

    /// When a wake-up that came by `now` may be followed.
    pub(super) fn earliest(&self, now: Instant) -> Instant {
        let burst = Self::EACH * Self::BURST;
        self.full_until.and_then(|until| until.checked_sub(burst)).map_or(now, |earliest| earliest.max(now))
    }

    pub(super) fn take(&mut self, now: Instant) {
        self.full_until = Some(self.full_until.map_or(now, |until| until.max(now)) + Self::EACH);
    }
}

/// The least certain of two arrivals decides. A swap replaces everything that came before it. One change that was seen
/// before its event is explained by that event, which is the next thing that is told.
pub(super) fn merge(before: Option<Arrival>, new: Arrival) -> Arrival {
    match (before, new) {
        (None, new) | (_, new @ Arrival::Swapped) => new,
        // Nothing moved; whether the content is still the same is seen when it is read.
        (Some(before), Arrival::Recheck) => before,
        (Some(Arrival::Unannounced), new) if new != Arrival::Unannounced => new,
        (Some(Arrival::Closed | Arrival::Renamed), Arrival::Unannounced) => Arrival::Unannounced,
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

    pub(super) fn within(&mut self, most: Duration) -> Duration {
        let unit = self.unit();
        if most.is_zero() { most } else { most.mul_f64(unit) }
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        // xorshift64: enough for spreading.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// By which share of the interval a look may be made early at the most. A divisor of one: looks that are not spread are an
/// interval apart once they are made together.
const LEEWAY: f64 = 0.25;
/// How much of the spread is for being early; the rest is drawn. Less than a half: what is drawn must reach over more than
/// one of the moments that are shared, or everything stays an unvarying time apart, and together for good.
const LEEWAY_OF_SPREAD: f64 = 0.4;

/// From when to when the next look is drawn: worked out once, and not for each look.
pub(super) struct Draw {
    pub(super) first: Duration,
    pub(super) span: Duration,
    /// How early a look may be made.
    pub(super) leeway: Duration,
}

impl Draw {
    /// Of looks that are about so far apart.
    pub(super) fn of(policy: &Policy, interval: Duration) -> Self {
        // A look in time: a source that is well must never seem stale because nobody looked.
        let in_time = |limit: Duration| interval.min((limit / 2).max(SHORTEST));
        let interval = policy.max_stale.map_or(interval, in_time);
        let leeway = Self::leeway(policy, interval);
        let last = interval.mul_f64(1.0 + policy.jitter);
        // So that what comes early is not before the interval less its jitter.
        let first = (interval.mul_f64(1.0 - policy.jitter) + leeway).min(last);
        Self { first, span: last - first, leeway }
    }

    /// How early a look may be made that is due after this time.
    pub(super) fn leeway(policy: &Policy, interval: Duration) -> Duration {
        let jitter = policy.jitter;
        interval.mul_f64(if jitter > 0.0 { (2.0 * jitter * LEEWAY_OF_SPREAD).min(LEEWAY) } else { LEEWAY })
    }
}

/// What there is to tell. It has no memory while that is nothing: there are many machines, and they seldom tell.
#[derive(Default)]
#[allow(clippy::box_collection, reason = "a pointer in each machine in place of four words")]
pub(super) struct Outbox(Option<Box<VecDeque<Told>>>);

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn push_back(&mut self, told: Told) {
        self.0.get_or_insert_default().push_back(told);
    }

    pub(super) fn pop_front(&mut self) -> Option<Told> {
        let told = self.0.as_mut()?.pop_front();
        self.0.take_if(|left| left.is_empty());
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_evenly() {
        for source in 0..20 {
            let mut spread = Spread::new(&Origin::named(source.to_string()));
            // Ten parts of a second: about 100 draws in each.
            let mut parts = [0; 10];
            for _ in 0..1000 {
                let draw = spread.within(Duration::from_secs(10));
                assert!(draw < Duration::from_secs(10), "{draw:?}");
                parts[usize::try_from(draw.as_secs()).unwrap()] += 1;
            }
            assert!(parts.iter().all(|count| (50..160).contains(count)), "{parts:?}");
        }
    }
}
