//! [`Machine`]: the states of one source between two generations, and the rules that lead from one to the next.
//!
//! What is not here: anything that blocks or reads a clock; what comes of a verdict or of a failure, which is in
//! `state/outcome.rs`; and what is said to be wrong, which is in `state/health.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::error::{Error, Reason};
use crate::machine::adopt::Turn;
use crate::machine::expiry::Expiry;
use crate::machine::memory::{
    Current, Draw, Outbox, Pace, Refusal, Settling, Spread, Step, Trouble, Unconfirmed, merge,
};
use crate::machine::overlap::Withdrawn;
use crate::machine::{Candidate, Policy, SHORTEST, Todo, Told, Verdict};
use crate::material::{Material, Reading};
use crate::origin::Origin;
use crate::source::{Armed, Arrival, Look};

mod health;
mod outcome;

/// So often content that was replaced whole is replaced again before it must settle like any other.
const CONFIRMATIONS: u32 = 3;

/// The decision logic of one source.
///
/// An engine calls [`next`](Self::next), does what it says, reports, and takes what there is to tell with
/// [`tell`](Self::tell). At most one look, read or judgement is out at a time; wake-ups and demands may come at any
/// time.
//
// What is there only while something goes on is boxed, and what every look needs comes first, in this order: with thousands
// of sources, a look at one that rests costs as much as the lines of memory that it touches.
#[repr(C)]
pub struct Machine {
    pub(super) step: Step,
    /// From when on the next look may be made, if nothing but the interval waits for it.
    look_from: Option<Instant>,
    /// When the last look asked to look again.
    look_by: Option<Instant>,
    /// When the job that is out was handed out.
    out_since: Option<Instant>,
    /// Read after the next look, whatever that look says.
    pub(super) must_read: bool,
    /// A wake-up came that no look has followed yet.
    woken: bool,
    /// A demand came that no look has followed yet: it is not slowed down.
    asked: bool,
    /// The job that is out has taken too long, and that was told.
    hangs: bool,
    /// Nothing is served any more.
    pub(super) stale: bool,
    /// Somebody needs what the next read finds.
    pub(super) hurried: bool,
    /// A look said so, and no read has followed yet.
    moved: bool,
    /// A look had the content read once more; if it is another by then, nothing is known of how it came.
    rechecks: bool,
    /// The look before the read saw nothing move: what it saw may not be what is read.
    is_unasked: bool,
    pub(super) trouble: Option<Box<Trouble>>,
    refusal: Option<Box<Refusal>>,
    pub(super) told: Outbox,
    pub(super) spread: Spread,
    /// Of looks while no wake-up is armed.
    polls: Draw,
    armed: Armed,
    /// As the policy has it.
    pub(super) max_stale: Option<Duration>,
    pub(super) expiry: Expiry,
    pub(super) current: Option<Current>,
    // A look that finds nothing needs none of what follows.
    pub(super) confirmed_at: Option<Now>,
    pace: Pace,
    /// What is ready, and when it is adopted.
    pub(super) turn: Option<Box<Turn>>,
    /// How the change that is being followed arrived; the least certain of all its parts.
    arrival: Option<Arrival>,
    settling: Option<Box<Settling>>,
    unconfirmed: Option<Box<Unconfirmed>>,
    pub(super) withdrawn: Withdrawn,
    /// Demands made, and those that the read in progress covers.
    pub(super) demands: u64,
    pub(super) covering: u64,
    pub(super) concluded: u64,
    pub(super) origin: Origin,
    pub(super) policy: Policy,
}

impl Machine {
    /// A machine that has seen nothing: its first step is a look.
    pub fn new(policy: Policy, origin: Origin) -> Self {
        let policy = policy.in_range();
        Self {
            step: Step::Looking,
            look_from: None,
            look_by: None,
            out_since: None,
            must_read: true,
            woken: false,
            asked: false,
            hangs: false,
            stale: false,
            hurried: false,
            moved: false,
            rechecks: false,
            is_unasked: false,
            trouble: None,
            refusal: None,
            told: Outbox::default(),
            spread: Spread::new(&origin),
            polls: Draw::of(&policy, policy.interval),
            armed: Armed::PollOnly,
            max_stale: policy.max_stale,
            expiry: Expiry::default(),
            current: None,
            confirmed_at: None,
            pace: Pace::new(),
            turn: None,
            arrival: None,
            settling: None,
            unconfirmed: None,
            withdrawn: Withdrawn::default(),
            demands: 0,
            covering: 0,
            concluded: 0,
            origin,
            policy,
        }
    }

    /// What to do next. What it hands out must be reported before anything else is handed out.
    pub fn next(&mut self, now: Now) -> Todo {
        self.watch_expiry(now);
        let stale_at = self.watch_stale(now);
        if self.out_since.is_some() {
            return Todo::Wait(None);
        }
        self.end_overlap(now);
        if self.withdrawn.is_ending() {
            // What is withdrawn waits for no look.
        } else if let Step::Rest(until) = self.step {
            let woken = self.woken.then(|| self.pace.earliest(now.mono));
            let until = if self.asked { now.mono } else { woken.map_or(until, |woken| until.min(woken)) };
            if until > now.mono {
                let until = stale_at.map_or(until, |stale| until.min(stale));
                return Todo::Wait(Some(self.expiry_wake(now, until)));
            }
        }
        let todo = match std::mem::replace(&mut self.step, Step::Looking) {
            Step::Rest(_) | Step::Looking => {
                if std::mem::take(&mut self.woken) {
                    self.pace.take(now.mono);
                }
                self.asked = false;
                self.look_from = None;
                Todo::Look
            }
            Step::ConfirmNext(material) => {
                self.step = Step::Confirming(material);
                Todo::Look
            }
            Step::ReadNext => {
                self.covering = self.demands;
                self.step = Step::Reading;
                Todo::Read
            }
            Step::JudgeNext(material, degraded) => {
                let candidate = self.candidate(now, &material, degraded);
                self.step = Step::Judging(Box::new((candidate.clone(), material)));
                Todo::Judge(candidate)
            }
            out @ (Step::Reading | Step::Confirming(_) | Step::Judging(..)) => {
                // Unreachable while the engine keeps to its side: a job is out exactly when `out_since` is set.
                self.step = out;
                return Todo::Wait(None);
            }
        };
        self.out_since = Some(now.mono);
        todo
    }

    /// For engines that look at many sources at one moment: from when on the next look may be made, although
    /// [`next`](Self::next) names a later moment. `None`: at that moment only.
    ///
    /// What is due by the interval alone may come early: within the spread, or without one by a quarter of the interval. No
    /// time that content must stand still is ever shortened.
    pub fn look_from(&self) -> Option<Instant> {
        self.look_from
    }

    /// The engine is at work now: a look that may be made from now on ([`look_from`](Self::look_from)) is due.
    pub fn bring_forward(&mut self, now: Now) {
        if let (Step::Rest(until), Some(from)) = (&mut self.step, self.look_from) {
            if from <= now.mono {
                *until = (*until).min(now.mono);
            }
        }
    }

    /// Reports what arming the source gave, before the look that follows it.
    pub fn armed(&mut self, armed: Armed) {
        if let Armed::Degraded(why) = &armed {
            if self.armed != armed {
                self.told.push_back(Told::Degraded(why.clone()));
            }
        }
        if self.armed != armed {
            self.armed = armed;
        }
    }

    /// Reports a look.
    pub fn looked(&mut self, now: Now, look: Result<Look, Error>) {
        self.job_is_back();
        // An error is "changed": the read that follows says what is wrong, with its path.
        let look = look.unwrap_or(Look::Changed(Arrival::Unknown));
        self.look_by = if let Look::SameUntil(at) = look { Some(at) } else { None };
        if let Look::Changed(arrival) = look {
            self.arrival = Some(merge(self.arrival, arrival));
            self.moved |= arrival != Arrival::Recheck;
            self.rechecks |= arrival == Arrival::Recheck;
            self.must_read = true;
        }
        let held = self.trouble.as_ref().and_then(|trouble| trouble.withdrawal.as_ref()).map(|held| held.due);
        self.must_read |= held.is_some_and(|due| due <= now.mono);
        self.must_read |= self.refusal.as_ref().is_some_and(|refusal| refusal.is_over(now));
        self.is_unasked = !matches!(look, Look::Changed(arrival) if arrival != Arrival::Recheck);
        self.step = match std::mem::replace(&mut self.step, Step::Looking) {
            Step::Confirming(material) if !matches!(look, Look::Changed(_)) => {
                Step::JudgeNext(material, None)
            }
            Step::Confirming(material) => {
                let times = self.unconfirmed.as_ref().map_or(0, |before| before.times) + 1;
                self.unconfirmed = Some(Box::new(Unconfirmed { content: material.content_id(), times }));
                Step::ReadNext
            }
            _ if self.must_read => Step::ReadNext,
            _ => {
                if self.trouble.is_none() && self.refusal.is_none() && !self.is_stale() {
                    self.confirm(now);
                }
                let mut until = self.next_look(now);
                if let Look::SameUntil(at) = look {
                    let at = at.max(now.mono + SHORTEST);
                    // A limit on how long nobody may look counts more than what the detector needs.
                    let is_enough = self.armed == Armed::Watching && self.max_stale.is_none();
                    if is_enough {
                        until = at;
                        // Early by the same share as all others, so that they share moments.
                        let from = at.checked_sub(Draw::leeway(&self.policy, self.policy.safety));
                        self.look_from = from.filter(|from| *from > now.mono);
                    } else {
                        until = until.min(at);
                    }
                }
                let refused_until = self.refusal.as_ref().and_then(|refusal| refusal.until);
                Step::Rest([refused_until, held].into_iter().flatten().fold(until, Instant::min))
            }
        };
    }

    /// Reports a read that began at `began` and ended at `now`.
    pub fn read(&mut self, began: Now, now: Now, reading: Reading) {
        self.job_is_back();
        match reading.whole {
            Ok(material) => self.consider(began, now, material),
            Err(error) => self.fail(now, error, reading.partial.as_ref()),
        }
    }

    /// Reports what the gates said of the candidate.
    pub fn judged(&mut self, now: Now, verdict: Verdict) {
        match std::mem::replace(&mut self.step, Step::Looking) {
            Step::Judging(judged) => {
                let (candidate, plain) = *judged;
                self.job_is_back();
                self.step = Step::Rest(now.mono);
                self.decide(now, &candidate, &plain, verdict);
            }
            // Nothing was asked, or what was asked has been given up.
            step => self.step = step,
        }
    }

    /// Something may have changed. A pause after failures starts anew.
    pub fn woken(&mut self, _now: Now) {
        self.woken = true;
        if let Some(trouble) = &mut self.trouble {
            trouble.pause = self.policy.backoff;
        }
    }

    /// Asks for a read whatever the next look says, and for a new judgement of what was refused. The answer is
    /// [`Told::Concluded`] with this ticket or a later one.
    ///
    /// While a job hangs, the answer is there at once.
    pub fn demand(&mut self, now: Now) -> u64 {
        self.woken(now);
        self.asked = true;
        self.must_read = true;
        self.refusal = None;
        self.demands += 1;
        if self.hangs {
            // What is out began before, so it covers nothing that is asked meanwhile.
            self.conclude_to(self.demands, Err(self.hung(now)));
        }
        self.demands
    }

    /// The job that is out has taken too long. It stays out; when it comes back, all goes on.
    pub fn overdue(&mut self, now: Now) {
        if self.out_since.is_none() {
            return;
        }
        self.hangs = true;
        // A look that comes back with "same" must not leave the failure standing.
        self.must_read = true;
        self.withdrawn.look_after_end(now);
        self.tell_failure(now, self.hung(now));
        self.conclude_to(self.demands, Err(self.hung(now)));
        self.watch_stale(now);
    }

    /// The policy, with every value in range.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the job that is out was reported as overdue.
    pub fn is_overdue(&self) -> bool {
        self.hangs
    }

    /// When the job that is out was handed out, if one is.
    pub fn out_since(&self) -> Option<Instant> {
        self.out_since
    }

    /// Whether there is something to tell.
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// Takes the next thing to tell.
    pub fn tell(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// The material of the served generation and its number.
    pub fn current(&self) -> Option<(u64, &Arc<Material>)> {
        self.current.as_ref().map(|current| (current.number, &current.material))
    }

    /// Whether changes wake the engine.
    pub fn arming(&self) -> &Armed {
        &self.armed
    }

    fn candidate(&self, now: Now, plain: &Arc<Material>, degraded: Option<Error>) -> Candidate {
        let material = self.overlapped(now, plain);
        let current = self.current.as_ref().map(|current| Arc::clone(&current.material));
        // The checks have accepted it once. One that says no now, because a server is down, must not keep all of it closed.
        let is_back = self.is_stale()
            && self.current.as_ref().is_some_and(|current| current.content == plain.content_id());
        let can_be_refused =
            !is_back && current.as_ref().is_none_or(|current| !material.only_withdraws(current));
        Candidate { material, current, can_be_refused, degraded }
    }

    /// A whole read: nothing new, or a candidate that must settle, or one that is ready for the gates.
    fn consider(&mut self, began: Now, now: Now, material: Arc<Material>) {
        let content = material.content_id();
        let is_known = self.unconfirmed.as_ref().is_some_and(|before| before.content == content)
            || self.settling.as_ref().is_some_and(|before| before.content == Some(content));
        if std::mem::take(&mut self.rechecks) && !is_known {
            self.arrival = Some(Arrival::Unknown);
        }
        if let Some(current) = &self.current {
            if current.content == content && !self.is_stale() {
                return self.unchanged(now);
            }
            if current.content == content {
                // It has been judged, and it stood still long before.
                self.step = Step::JudgeNext(material, None);
                return;
            }
            if current.plain.digest() == material.digest() {
                // The public parts are the same and the key's bytes are not: nothing to publish, but the gates must
                // say whether that key still fits.
                self.step = Step::JudgeNext(material, None);
                return;
            }
        }
        if let Some(refusal) = &self.refusal {
            if refusal.content == content && !refusal.is_over(now) {
                let (error, until) = (refusal.error.clone(), refusal.until);
                return self.rest_refused(now, &material, error, until);
            }
        }
        if self.is_adopted_at_once(&material) {
            match &self.unconfirmed {
                Some(before) if before.times >= CONFIRMATIONS => {}
                // Replaced by the same again: read whole twice.
                Some(before) if before.content == content => {
                    return self.take_turn(began, now, material, |material| Step::JudgeNext(material, None));
                }
                _ => return self.take_turn(began, now, material, Step::ConfirmNext),
            }
        }
        let need = self.settle_time(&material);
        let moved_since = self.settling.as_ref().map_or(began.mono, |settling| settling.began);
        match &mut self.settling {
            Some(settling) if settling.content == Some(content) => {
                if std::mem::take(&mut self.moved) {
                    settling.still = now.mono;
                }
                if began.mono >= settling.stands_at(need) {
                    return self.take_turn(began, now, material, |material| Step::JudgeNext(material, None));
                }
            }
            _ => {
                self.moved = false;
                self.settling = Some(Box::new(Settling {
                    content: Some(content),
                    since: now.mono,
                    still: now.mono,
                    began: moved_since,
                }));
            }
        }
        if now.mono.saturating_duration_since(moved_since) >= self.policy.unstable_after.max(need * 4) {
            self.note_failure(
                now,
                Error::new(
                    Reason::Unstable,
                    "the content keeps changing; the last good generation stays until it stands still",
                )
                .of(self.origin.clone()),
            );
        }
        self.must_read = true;
        let stands = self.settling.as_ref().map_or(now.mono, |settling| settling.stands_at(need));
        // Looks in between: what moves is seen early, so that it can begin to stand still early.
        let until = stands.min(now.mono + self.policy.settle);
        self.step = Step::Rest(until.max(now.mono + SHORTEST));
    }

    fn is_adopted_at_once(&self, material: &Material) -> bool {
        match self.arrival {
            Some(Arrival::Swapped) => true,
            Some(Arrival::Still) => self.current.is_none(),
            Some(Arrival::Renamed) => self.current.as_ref().is_some_and(|current| {
                (material.is_single_file() && !material.only_loses(&current.plain))
                    || material.is_new_pair(&current.plain)
            }),
            _ => false,
        }
    }

    fn settle_time(&self, material: &Material) -> Duration {
        let loses = self.current.as_ref().is_some_and(|current| material.only_loses(&current.plain));
        match self.arrival {
            _ if loses => self.policy.settle_loss.max(self.policy.settle),
            Some(Arrival::Closed) if material.is_single_file() => self.policy.settle_closed,
            _ => self.policy.settle,
        }
    }

    fn unchanged(&mut self, now: Now) {
        self.confirm(now);
        let was_followed = self.settling.is_some() || self.unconfirmed.is_some() || self.turn.is_some();
        let was_another = self.trouble.is_some() || was_followed;
        let was_failing = self.failing_since().is_some();
        self.trouble = None;
        self.tell_recovery(was_failing);
        if !self.is_end_due(now) {
            // The source may hold again what could not go.
            self.end_worked();
        }
        self.follow_nothing();
        // The last look saw something else then, if that was not what asked for this read. If it comes back, the next look says
        // "same" of it: so that has to be read.
        self.must_read |= was_another && self.is_unasked;
        self.refusal = None;
        self.step = Step::Rest(self.next_look(now));
        self.conclude_current();
    }

    fn follow_nothing(&mut self) {
        self.settling = None;
        self.unconfirmed = None;
        self.moved = false;
        self.rechecks = false;
        self.arrival = None;
        self.turn = None;
        self.hurried = false;
        // A demand that came after the read began still wants one.
        self.must_read = self.demands > self.covering;
        self.asked |= self.must_read;
    }

    fn job_is_back(&mut self) {
        self.out_since = None;
        self.hangs = false;
    }

    pub(super) fn hung(&self, now: Now) -> Error {
        let since = self.out_since.unwrap_or(now.mono);
        let message = format!(
            "no answer for {} s; the disk or the network file system hangs",
            now.mono.saturating_duration_since(since).as_secs()
        );
        Error::new(Reason::TimedOut, message).of(self.origin.clone())
    }

    /// The source is whole, and what it holds is served.
    fn conclude_current(&mut self) {
        let Some(number) = self.current.as_ref().map(|current| current.number) else { return };
        self.honour_withdrawal();
        self.conclude(match self.withdrawal_failed() {
            Some(error) => Err(error),
            None => Ok(number),
        });
    }

    fn conclude(&mut self, result: Result<u64, Error>) {
        self.conclude_to(self.covering, result);
    }

    fn conclude_to(&mut self, ticket: u64, result: Result<u64, Error>) {
        if ticket > self.concluded {
            self.concluded = ticket;
            self.told.push_back(Told::Concluded { ticket, result });
        }
    }

    fn next_look(&mut self, now: Now) -> Instant {
        let is_watching = self.armed == Armed::Watching;
        let of_safety = is_watching.then(|| Draw::of(&self.policy, self.policy.safety));
        let Draw { first, span, leeway } = of_safety.as_ref().unwrap_or(&self.polls);
        let wait = *first + self.spread.within(*span);
        let next = now.mono + wait;
        self.look_from = Some(now.mono + wait.saturating_sub(*leeway));
        // The safety poll is far away; what was adopted meanwhile may be too young to be trusted.
        match self.look_by.filter(|_| is_watching) {
            Some(at) => next.min(at.max(now.mono + SHORTEST)),
            None => next,
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("origin", &self.origin)
            .field("step", &self.step)
            .field("arrival", &self.arrival)
            .field("generation", &self.current.as_ref().map(|current| current.number))
            .field("trouble", &self.trouble.as_ref().map(|trouble| &trouble.error))
            .finish_non_exhaustive()
    }
}
