//! The decision logic, without I/O: observations, verdicts and clocks in; what to do next, and what to tell, out.
//!
//! This file holds the words that go in and out; [`Machine`] itself is in `machine/state.rs`,
//! its verdicts in `machine/state/outcome.rs`, what it remembers in `machine/memory.rs`. What is not here: any
//! access to files, threads or clocks. Every moment is handed in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::material::{Certificate, Diff, Material, Role};

mod adopt;
mod expiry;
mod memory;
mod overlap;
mod stale;
mod state;

pub use expiry::Threshold;
pub use stale::Stale;
pub use state::Machine;

/// How patient a [`Machine`] is.
///
/// # Defaults
/// * `interval`: 10 s
/// * `jitter`: 0.1 of the interval, to both sides
/// * `safety`: 60 s between looks when a wake-up is armed
/// * `settle`: 1 s between two equal reads, counted anew when a look in between says that something moved, for five
///   times as long at the most
/// * `settle_closed`: 100 ms, when the writer closed the source's only file (told by `Notify` only)
/// * `settle_loss`: 5 s, when certificates only went away, and not by an atomic swap
/// * `pair_grace`: 30 s for a certificate and a key that do not match
/// * `backoff`: 100 ms after the first failed read, doubling up to 30 s, or the interval if that is shorter
/// * `unstable_after`: 30 s of content that never stands still
/// * `deadline`: 10 s for a look, a read or a judgement; what takes longer hangs
/// * `skew`: 5 min of difference between clocks that validity checks tolerate
/// * `expiring`: no threshold
/// * `overlap`: none: what is withdrawn is gone at once
/// * `refuse_regressed`: no: what looks like a step back is told, and adopted
/// * `max_stale`: none: the last good material is served for as long as it takes
/// * `adopt_within`: none: what is ready is published at once
///
/// # Range
/// A [`Machine`] takes the nearest value in range for one that is out of it: 10 ms to 100 years for every duration, but
/// for `pair_grace`, `unstable_after` and `skew`, which may be zero, `overlap`, which is 7 days at most, and
/// `adopt_within`, which is 5 s at most; 0.0 to 0.5 for `jitter`. So no value can make it spin or overflow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// Time between looks when polling. The promise: a change is seen this much later at the most, plus jitter.
    pub interval: Duration,
    /// Share of the interval by which looks are spread, 0.0 to 0.5.
    ///
    /// An engine with many sources looks at those that are due at about the same time together. For that a look may come up
    /// to a quarter of the interval earlier than it was drawn, but never before the interval less this share. Without a
    /// spread, a look may come a quarter earlier: mostly once, as those that are made together are due together again. Where
    /// what may come early is less than 20 ms, it may come up to 20 ms later instead.
    pub jitter: f64,
    /// Time between looks when a wake-up is armed.
    pub safety: Duration,
    /// How long content must stand still before it is adopted.
    pub settle: Duration,
    /// The same, when the writer closed the source's only file.
    pub settle_closed: Duration,
    /// The same, when certificates only went away.
    pub settle_loss: Duration,
    /// How long a certificate and a key may not match before that is a failure.
    pub pair_grace: Duration,
    /// Pause after the first failed read; it doubles.
    pub backoff: Duration,
    /// The longest pause after a failed read.
    pub backoff_max: Duration,
    /// How long content may keep changing before that is told as a failure.
    pub unstable_after: Duration,
    /// How long a look, a read or a judgement may take. A look or a read that hangs is told, and goes on when it
    /// comes back; a judgement that hangs counts as a no. For the engine: the machine itself counts no time.
    pub deadline: Duration,
    /// Difference between clocks that validity checks tolerate.
    pub skew: Duration,
    /// When certificates of the served material count as expiring: each threshold is told once for each certificate.
    pub expiring: Vec<Threshold>,
    /// How long a trust anchor that was withdrawn goes on being trusted, for peers that are slow to change. Zero: not at
    /// all. Nothing prolongs it: an anchor that comes back and is withdrawn again has no more than what is left of the
    /// first time. [`Machine::withdraw_now`] ends it. 4,096 anchors overlap at the most: of more, those that were withdrawn
    /// first go before their time.
    pub overlap: Duration,
    /// Refuses material with a step back (see [`Regressed`]) instead of telling it.
    pub refuse_regressed: bool,
    /// Fails closed when what is served could not be confirmed for so long, on the monotonic clock: [`Told::Stale`] is
    /// told, and nothing is served until the source is whole again. `None`: never.
    ///
    /// A look that finds nothing moved confirms it, and so do a read that finds the same and a publication. What does
    /// not: a read that fails or hangs, content that is refused, also one whose time has not come yet, content that does
    /// not stand still, and a publication of a part of the source ([`Publication::degraded`]). Looks are made at least
    /// twice in this time.
    ///
    /// It ends by itself with the next read that is good. What is read is then published as a new generation, also if it
    /// is the same as before.
    pub max_stale: Option<Duration>,
    /// Spreads a fleet: what only adds is published at a random moment within this time after it is ready, 0 to 5 s, so that
    /// not every process connects anew at once. What only adds: new anchors, and an identity in the place of one that is still
    /// valid by then.
    ///
    /// Nothing that withdraws waits, no other revocation list, no first load, and nothing that was asked for
    /// ([`Machine::demand`], [`Machine::hurry`]).
    pub adopt_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            jitter: 0.1,
            safety: Duration::from_secs(60),
            settle: Duration::from_secs(1),
            settle_closed: Duration::from_millis(100),
            settle_loss: Duration::from_secs(5),
            pair_grace: Duration::from_secs(30),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            unstable_after: Duration::from_secs(30),
            deadline: Duration::from_secs(10),
            skew: Duration::from_secs(300),
            expiring: Vec::new(),
            overlap: Duration::ZERO,
            refuse_regressed: false,
            max_stale: None,
            adopt_within: Duration::ZERO,
        }
    }
}

impl Policy {
    /// The defaults with this interval.
    pub fn every(interval: Duration) -> Self {
        Self { interval, ..Self::default() }
    }

    fn in_range(mut self) -> Self {
        const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
        for pause in [
            &mut self.interval,
            &mut self.safety,
            &mut self.settle,
            &mut self.settle_closed,
            &mut self.settle_loss,
            &mut self.backoff,
            &mut self.backoff_max,
            &mut self.deadline,
        ] {
            *pause = (*pause).clamp(SHORTEST, LONGEST);
        }
        for patience in [&mut self.pair_grace, &mut self.unstable_after, &mut self.skew] {
            *patience = (*patience).min(LONGEST);
        }
        self.overlap = self.overlap.min(LONGEST_OVERLAP);
        self.adopt_within = self.adopt_within.min(LONGEST_TURN);
        self.max_stale = self.max_stale.map(|limit| limit.clamp(SHORTEST, LONGEST));
        self.jitter = if self.jitter.is_nan() { 0.0 } else { self.jitter.clamp(0.0, 0.5) };
        self
    }
}

/// What was withdrawn must not be trusted for ever by a slip of the configuration.
const LONGEST_OVERLAP: Duration = Duration::from_secs(7 * 86_400);

/// Long enough to spread a fleet, and short enough for peers that have moved on.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// No pause is shorter: so a machine rests whatever its source and its gates say.
const SHORTEST: Duration = Duration::from_millis(10);

/// What an engine does next.
#[derive(Clone, Debug)]
pub enum Todo {
    /// Arm the source, look at it, and report to [`Machine::armed`] and [`Machine::looked`].
    Look,
    /// Read the source and report to [`Machine::read`].
    Read,
    /// Ask the gates and report to [`Machine::judged`].
    Judge(Candidate),
    /// Nothing until this moment; `None`: until a report or a wake-up.
    Wait(Option<Instant>),
}

/// Material that stands to be published.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// The material.
    pub material: Arc<Material>,
    /// What is served now; `None` before the first load.
    pub current: Option<Arc<Material>>,
    /// Whether a refusal counts. A pure withdrawal is published whatever the gates say, and so is what was served before
    /// when the source is confirmed again: see [`Policy::max_stale`].
    pub can_be_refused: bool,
    /// Set when only what was withdrawn is new, and the rest is the last good one, because this is broken.
    pub degraded: Option<Error>,
}

/// What the gates say.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Publish it.
    Accept,
    /// Do not publish it, for this reason. [`KeyMismatch`](crate::Reason::KeyMismatch) is taken as a writer at work.
    Refuse(Error),
    /// Not now: ask again at this moment, also if nothing changes by then.
    AskAgain {
        /// When.
        at: Instant,
        /// Why not now.
        error: Error,
    },
    /// What follows the source can not use it. For engines: it is tried again soon, after a growing pause. Unlike a refusal,
    /// this holds back a pure withdrawal too, and the end of an overlap, so it is only for an engine that can not even stop using
    /// what is served.
    Unusable(Error),
}

/// A new generation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Publication {
    /// The generation's number: 1 for the first, and growing by one.
    pub number: u64,
    /// Its material.
    pub material: Arc<Material>,
    /// What changed since the generation before; everything is added by the first.
    pub diff: Diff,
    /// Set when only what was withdrawn is new, and the rest is the last good one, because something is broken.
    pub degraded: Option<Error>,
    /// Which demands it answers.
    pub ticket: u64,
}

/// A certificate of the served material is near its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Expiring {
    /// The certificate.
    pub certificate: Certificate,
    /// What it is for.
    pub role: Role,
    /// Which threshold it has passed.
    pub threshold: Threshold,
    /// The number of the generation that is served.
    pub generation: u64,
}

/// A step back: an issuer that runs backwards, a restored backup, or somebody who brings back what was withdrawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Regressed {
    /// A trust anchor that was withdrawn is trusted again.
    AnchorReturned(Certificate),
    /// The new leaf begins to be valid before the one it replaces did.
    LeafOlder {
        /// The new one.
        leaf: Certificate,
        /// The one before.
        before: Certificate,
    },
}

/// What there is to tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Told {
    /// Publish this generation: it is decided.
    Published(Publication),
    /// A pair does not match: a writer is probably between its two files. The last good generation stays.
    Pending(Error),
    /// The source could not be loaded. The last good generation stays. Told once for each reason.
    Failed(Error),
    /// The source was read, and a gate or a validity rule refused it. The last good generation stays.
    Refused(Error),
    /// The failure is over.
    Recovered,
    /// Worth an operator's attention, while everything is served as it should be.
    Degraded(String),
    /// Nothing is served any more: see [`Policy::max_stale`]. It ends with the next [`Told::Published`].
    Stale(Stale),
    /// The served identity is past its end.
    Expired,
    /// A certificate that is served has passed one of [`Policy::expiring`].
    Expiring(Expiring),
    /// What was published last is a step back.
    Regressed(Regressed),
    /// All demands up to this ticket are answered.
    Concluded {
        /// The latest demand that this answers.
        ticket: u64,
        /// The number of the generation that is served and matches the source, or why it does not.
        result: Result<u64, Error>,
    },
}
