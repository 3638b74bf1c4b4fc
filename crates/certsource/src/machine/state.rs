//! [`Machine`]: the states of one source between two generations, and the rules that lead from one to the next.
//!
//! What is not here: anything that blocks or reads a clock.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::error::{Error, Reason};
use crate::machine::memory::{Current, Refusal, Settling, Spread, Step, Trouble, merge};
use crate::machine::{Candidate, Policy, Publication, Todo, Told, Verdict};
use crate::material::{Material, Partial, Reading};
use crate::origin::Origin;
use crate::source::{Armed, Arrival, Look};

/// The decision logic of one source.
///
/// An engine calls [`next`](Self::next), does what it says, reports, and takes what there is to tell with
/// [`tell`](Self::tell). At most one look, read or judgement is out at a time; wake-ups and demands may come at any
/// time.
pub struct Machine {
    policy: Policy,
    origin: Origin,
    step: Step,
    /// Read after the next look, whatever that look says.
    must_read: bool,
    /// A wake-up came while a job was out.
    woken: bool,
    /// How the change that is being followed arrived; the least certain of all its parts.
    arrival: Option<Arrival>,
    settling: Option<Settling>,
    current: Option<Current>,
    trouble: Option<Trouble>,
    refusal: Option<Refusal>,
    /// Demands made, and those that the read in progress covers.
    demands: u64,
    covering: u64,
    concluded: u64,
    /// When the job that is out was handed out.
    out_since: Option<Instant>,
    armed: Armed,
    told: VecDeque<Told>,
    spread: Spread,
}

impl Machine {
    /// A machine that has seen nothing: its first step is a look.
    pub fn new(policy: Policy, origin: Origin) -> Self {
        let spread = Spread::new(&origin);
        Self {
            policy,
            origin,
            step: Step::Looking,
            must_read: true,
            woken: false,
            arrival: None,
            settling: None,
            current: None,
            trouble: None,
            refusal: None,
            demands: 0,
            covering: 0,
            concluded: 0,
            out_since: None,
            armed: Armed::PollOnly,
            told: VecDeque::new(),
            spread,
        }
    }

    /// What to do next. What it hands out must be reported before anything else is handed out.
    pub fn next(&mut self, now: Now) -> Todo {
        self.watch_expiry(now);
        if self.out_since.is_some() {
            return Todo::Wait(None);
        }
        let todo = match std::mem::replace(&mut self.step, Step::Looking) {
            Step::Rest(until) if until > now.mono && !self.woken => {
                self.step = Step::Rest(until);
                return Todo::Wait(Some(self.expiry_wake(now, until)));
            }
            Step::Rest(_) | Step::Looking => {
                self.woken = false;
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
            Step::JudgeNext(material) => {
                let candidate = self.candidate(material);
                self.step = Step::Judging(candidate.clone());
                Todo::Judge(candidate)
            }
            out @ (Step::Reading | Step::Confirming(_) | Step::Judging(_)) => {
                // Unreachable while the engine keeps to its side: a job is out exactly when `out_since` is set.
                self.step = out;
                return Todo::Wait(None);
            }
        };
        self.out_since = Some(now.mono);
        todo
    }

    /// Reports what arming the source gave, before the look that follows it.
    pub fn armed(&mut self, armed: Armed) {
        if let Armed::Degraded(why) = &armed {
            if self.armed != armed {
                self.told.push_back(Told::Degraded(why.clone()));
            }
        }
        self.armed = armed;
    }

    /// Reports a look.
    pub fn looked(&mut self, now: Now, look: Result<Look, Error>) {
        self.out_since = None;
        // An error is "changed": the read that follows says what is wrong, with its path.
        let look = look.unwrap_or(Look::Changed(Arrival::Unknown));
        if let Look::Changed(arrival) = look {
            self.arrival = Some(merge(self.arrival, arrival));
            self.must_read = true;
        }
        self.step = match std::mem::replace(&mut self.step, Step::Looking) {
            Step::Confirming(material) if !matches!(look, Look::Changed(_)) => Step::JudgeNext(material),
            Step::Confirming(_) => Step::ReadNext,
            _ if self.must_read => Step::ReadNext,
            _ => {
                let mut until = self.next_look(now);
                if let Look::SameUntil(at) = look {
                    until = if self.armed == Armed::Watching { at } else { until.min(at) };
                }
                if let Some(refused_until) = self.refusal.as_ref().and_then(|refusal| refusal.until) {
                    until = until.min(refused_until);
                    self.must_read |= refused_until <= now.mono;
                }
                if self.must_read { Step::ReadNext } else { Step::Rest(until) }
            }
        };
    }

    /// Reports a read that began at `began` and ended at `now`.
    pub fn read(&mut self, began: Now, now: Now, reading: Reading) {
        self.out_since = None;
        match reading.whole {
            Ok(material) => self.consider(began, now, material),
            Err(error) => self.fail(now, error, reading.partial.as_ref()),
        }
    }

    /// Reports what the gates said of the candidate.
    pub fn judged(&mut self, now: Now, verdict: Verdict) {
        self.out_since = None;
        let Step::Judging(candidate) = std::mem::replace(&mut self.step, Step::Rest(now.mono)) else {
            return;
        };
        match verdict {
            Verdict::Accept => self.accept(now, &candidate),
            Verdict::Refuse(error) | Verdict::AskAgain { error, .. } if !candidate.can_be_refused => {
                self.told
                    .push_back(Told::Degraded(format!("published although a check refused it: {error}")));
                self.accept(now, &candidate);
            }
            Verdict::Refuse(error) if error.reason() == Reason::KeyMismatch => self.fail(now, error, None),
            Verdict::Refuse(error) => self.refuse(now, &candidate.material, error, None),
            Verdict::AskAgain { at, error } => self.refuse(now, &candidate.material, error, Some(at)),
        }
    }

    /// Something may have changed. A pause after failures starts anew.
    pub fn woken(&mut self, now: Now) {
        let _ = now;
        self.woken = true;
        if let Some(trouble) = &mut self.trouble {
            trouble.pause = self.policy.backoff;
        }
    }

    /// Asks for a read whatever the next look says, and for a new judgement of what was refused. The answer is
    /// [`Told::Concluded`] with this ticket or a later one.
    pub fn demand(&mut self, now: Now) -> u64 {
        self.woken(now);
        self.must_read = true;
        self.refusal = None;
        self.demands += 1;
        self.demands
    }

    /// The job that is out has taken too long. It stays out; when it comes back, all goes on.
    pub fn overdue(&mut self, now: Now) {
        let Some(since) = self.out_since else { return };
        let error = Error::new(
            Reason::TimedOut,
            format!(
                "no answer for {} s; the disk or the network file system hangs, the last good generation stays",
                now.mono.saturating_duration_since(since).as_secs()
            ),
        )
        .of(self.origin.clone());
        self.covering = self.demands;
        self.note_failure(now, error);
    }

    /// When the job that is out was handed out, if one is.
    pub fn out_since(&self) -> Option<Instant> {
        self.out_since
    }

    /// Takes the next thing to tell.
    pub fn tell(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// The material of the served generation and its number.
    pub fn current(&self) -> Option<(u64, &Arc<Material>)> {
        self.current.as_ref().map(|current| (current.number, &current.material))
    }

    /// What is wrong now, and since when.
    pub fn trouble(&self) -> Option<(&Error, Instant)> {
        self.trouble.as_ref().map(|trouble| (&trouble.error, trouble.since))
    }

    /// Whether new trust that only loses is held back, because the identity's files are broken.
    pub fn is_withdrawal_pending(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.withdrawal.is_some())
    }

    /// Whether changes wake the engine.
    pub fn arming(&self) -> &Armed {
        &self.armed
    }

    fn candidate(&self, material: Arc<Material>) -> Candidate {
        let current = self.current.as_ref().map(|current| Arc::clone(&current.material));
        let can_be_refused = current.as_ref().is_none_or(|current| !material.only_withdraws(current));
        Candidate { material, current, can_be_refused }
    }

    /// A whole read: nothing new, or a candidate that must settle, or one that is ready for the gates.
    fn consider(&mut self, began: Now, now: Now, material: Arc<Material>) {
        let content = material.content_id();
        if let Some(current) = &self.current {
            if current.content == content {
                return self.unchanged(now);
            }
            if current.material.digest() == material.digest() {
                // The public parts are the same and the key's bytes are not: nothing to publish, but the gates must
                // say whether that key still fits.
                self.step = Step::JudgeNext(material);
                return;
            }
        }
        if let Some(refusal) = &self.refusal {
            if refusal.content == content && refusal.until.is_none_or(|until| until > now.mono) {
                let (error, until) = (refusal.error.clone(), refusal.until);
                return self.rest_refused(now, error, until);
            }
        }
        if self.is_adopted_at_once(&material) {
            self.step = Step::ConfirmNext(material);
            return;
        }
        let need = self.settle_time(&material);
        let moved_since = self.settling.as_ref().map_or(began.mono, |settling| settling.began);
        match &self.settling {
            Some(settling) if settling.content == Some(content) => {
                if began.mono.saturating_duration_since(settling.since) >= need {
                    self.step = Step::JudgeNext(material);
                    return;
                }
            }
            _ => {
                self.settling = Some(Settling { content: Some(content), since: now.mono, began: moved_since })
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
        let since = self.settling.as_ref().map_or(now.mono, |settling| settling.since);
        self.step = Step::Rest(since + need);
    }

    fn is_adopted_at_once(&self, material: &Material) -> bool {
        match self.arrival {
            Some(Arrival::Swapped) => true,
            Some(Arrival::Still) => self.current.is_none(),
            Some(Arrival::Renamed) => self.current.as_ref().is_some_and(|current| {
                (material.is_single_file() && !material.only_loses(&current.material))
                    || material.is_new_pair(&current.material)
            }),
            _ => false,
        }
    }

    fn settle_time(&self, material: &Material) -> Duration {
        let loses = self.current.as_ref().is_some_and(|current| material.only_loses(&current.material));
        match self.arrival {
            _ if loses => self.policy.settle_loss.max(self.policy.settle),
            Some(Arrival::Closed) if material.is_single_file() => self.policy.settle_closed,
            _ => self.policy.settle,
        }
    }

    fn unchanged(&mut self, now: Now) {
        self.end_trouble();
        self.follow_nothing();
        self.refusal = None;
        self.step = Step::Rest(self.next_look(now));
        self.conclude_current();
    }

    fn accept(&mut self, now: Now, candidate: &Candidate) {
        let material = Arc::clone(&candidate.material);
        if let Some(current) = &mut self.current {
            if current.material.digest() == material.digest() {
                current.content = material.content_id();
                return self.unchanged(now);
            }
        }
        if let Err((error, until)) = self.check_policy(now, candidate) {
            return self.refuse(now, &material, error, until);
        }
        self.end_trouble();
        self.refusal = None;
        self.follow_nothing();
        self.publish(now, material, None);
        self.step = Step::Rest(self.next_look(now));
        self.conclude_current();
    }

    fn publish(&mut self, now: Now, material: Arc<Material>, degraded: Option<Error>) {
        if let (None, Some(identity)) = (&self.current, material.identity()) {
            // A device whose clock is wrong must boot, so the first load takes what there is, and says so.
            for certificate in identity.chain() {
                let what = if now.wall > certificate.not_after() {
                    "has expired; accepted because there is nothing better, issue a new one"
                } else if now.wall < certificate.not_before() {
                    "is not valid yet; accepted because there is nothing better, check the clock"
                } else {
                    continue;
                };
                self.told
                    .push_back(Told::Degraded(format!("{}: the certificate {what}", certificate.origin())));
            }
        }
        let (number, diff) = match &self.current {
            Some(current) => (current.number + 1, material.diff(&current.material)),
            None => {
                let added = material.certificates().map(|(role, c)| (role, c.clone())).collect();
                (1, crate::material::Diff { added, removed: Vec::new() })
            }
        };
        for warning in material.warnings() {
            self.told.push_back(Told::Degraded(warning.to_string()));
        }
        self.current = Some(Current {
            number,
            content: material.content_id(),
            material: Arc::clone(&material),
            expiry_told: false,
        });
        self.told.push_back(Told::Published(Publication {
            number,
            material,
            diff,
            degraded,
            ticket: self.covering,
        }));
    }

    /// The rules of time and of revocation that need no TLS library.
    fn check_policy(&self, now: Now, candidate: &Candidate) -> Result<(), (Error, Option<Instant>)> {
        let Some(current) = candidate.current.as_deref().filter(|_| candidate.can_be_refused) else {
            return Ok(());
        };
        for crl in candidate.material.crls().into_iter().flatten() {
            if current.crls().into_iter().flatten().any(|known| crl.is_older_than(known)) {
                let error = Error::new(
                    Reason::Rejected,
                    "the CRL has a lower number than the one in use; it may be a replay, publish a newer list",
                );
                return Err((error.of(crl.origin().clone()), None));
            }
        }
        let (Some(new), Some(old)) = (candidate.material.identity(), current.identity()) else {
            return Ok(());
        };
        let old_is_good = old.chain().iter().all(|c| c.not_before() <= now.wall && now.wall <= c.not_after());
        if !old_is_good {
            return Ok(());
        }
        for certificate in new.chain() {
            if certificate.not_before() > now.wall + self.policy.skew {
                let wait = certificate.not_before().duration_since(now.wall).unwrap_or_default();
                let error = Error::new(
                    Reason::NotYetValid,
                    "the new certificate is not valid yet; it is adopted when its time comes, check the clocks",
                );
                return Err((error.of(certificate.origin().clone()), Some(now.mono + wait)));
            }
            if certificate.not_after() + self.policy.skew < now.wall {
                let error = Error::new(
                    Reason::Expired,
                    "the new certificate has expired and the one in use has not; issue a new one",
                );
                return Err((error.of(certificate.origin().clone()), None));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, now: Now, material: &Material, error: Error, until: Option<Instant>) {
        self.refusal = Some(Refusal { content: material.content_id(), error: error.clone(), until });
        self.told.push_back(Told::Refused(error.clone()));
        self.rest_refused(now, error, until);
    }

    /// The source is read, known and refused: nothing to follow until it changes, its time comes or a demand.
    fn rest_refused(&mut self, now: Now, error: Error, until: Option<Instant>) {
        let since = self.trouble.take().map_or(now.mono, |trouble| trouble.since);
        let trouble = Trouble::new(now, &error, self.policy.backoff);
        self.trouble = Some(Trouble { since, refused: true, failure_told: Some(error.reason()), ..trouble });
        self.follow_nothing();
        let next = self.next_look(now);
        self.step = Step::Rest(until.map_or(next, |until| next.min(until)));
        self.conclude(Err(error));
    }

    /// A read that failed: it is tried again soon, and told once it has lasted.
    fn fail(&mut self, now: Now, error: Error, partial: Option<&Partial>) {
        if let Some(settling) = &mut self.settling {
            settling.content = None;
        }
        let is_pair = error.reason() == Reason::KeyMismatch;
        let trouble = self.trouble.take().filter(|trouble| !trouble.refused);
        let trouble =
            self.trouble.insert(trouble.unwrap_or_else(|| Trouble::new(now, &error, self.policy.backoff)));
        trouble.error = error.clone();
        let lasted = now.mono.saturating_duration_since(trouble.since);
        let patience = if is_pair { self.policy.pair_grace } else { self.policy.settle };
        if self.current.is_none() || lasted >= patience {
            self.note_failure(now, error.clone());
        } else if is_pair {
            if !trouble.pending_told {
                trouble.pending_told = true;
                self.told.push_back(Told::Pending(error.clone()));
            }
            self.conclude(Err(error.clone()));
        }
        let withdrawal_due = self.withdraw(now, partial, &error);
        let most = self.policy.backoff_max.min(self.policy.interval).max(self.policy.backoff);
        if let Some(trouble) = &mut self.trouble {
            let mut until = now.mono + trouble.pause;
            if lasted < patience {
                until = until.min(trouble.since + patience);
            }
            if let Some(due) = withdrawal_due {
                until = until.min(due.max(now.mono + self.policy.backoff));
            }
            trouble.pause = (trouble.pause * 2).min(most);
            self.step = Step::Rest(until);
        }
        self.must_read = true;
    }

    /// Tells a failure, once for each reason while it lasts, and answers those who wait.
    fn note_failure(&mut self, now: Now, error: Error) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(now, &error, self.policy.backoff));
        trouble.error = error.clone();
        if trouble.failure_told != Some(error.reason()) {
            trouble.failure_told = Some(error.reason());
            self.told.push_back(Told::Failed(error.clone()));
        }
        self.conclude(Err(error));
    }

    /// Invariant 12: trust that only loses is published with the last good identity, once the identity has been
    /// broken beyond its grace. Returns when to read again for it.
    fn withdraw(&mut self, now: Now, partial: Option<&Partial>, error: &Error) -> Option<Instant> {
        let material = Arc::new(partial?.completed_by(&self.current.as_ref()?.material));
        let trouble = self.trouble.as_mut()?;
        if !material.only_withdraws(&self.current.as_ref()?.material) {
            trouble.withdrawal = None;
            return None;
        }
        let content = material.content_id();
        let seen = match trouble.withdrawal {
            Some((of, seen)) if of == content => seen,
            _ => now.mono,
        };
        trouble.withdrawal = Some((content, seen));
        let due = (seen + self.policy.settle_loss).max(trouble.since + self.policy.pair_grace);
        if now.mono < due {
            return Some(due);
        }
        trouble.withdrawal = None;
        self.publish(now, material, Some(error.clone()));
        None
    }

    /// The failure is over, or there was none.
    fn end_trouble(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            if trouble.failure_told.is_some() {
                self.told.push_back(Told::Recovered);
            }
        }
    }

    fn follow_nothing(&mut self) {
        self.settling = None;
        self.arrival = None;
        // A demand that came after the read began still wants one.
        self.must_read = self.demands > self.covering;
        self.woken |= self.must_read;
    }

    fn conclude_current(&mut self) {
        if let Some(number) = self.current.as_ref().map(|current| current.number) {
            self.conclude(Ok(number));
        }
    }

    fn conclude(&mut self, result: Result<u64, Error>) {
        if self.covering > self.concluded {
            self.concluded = self.covering;
            self.told.push_back(Told::Concluded { ticket: self.covering, result });
        }
    }

    fn next_look(&mut self, now: Now) -> Instant {
        let interval = if self.armed == Armed::Watching { self.policy.safety } else { self.policy.interval };
        now.mono + self.spread.around(interval, self.policy.jitter)
    }

    fn watch_expiry(&mut self, now: Now) {
        if let Some(current) = &mut self.current {
            let over = current.material.identity_not_after().is_some_and(|end| end < now.wall);
            if over && !current.expiry_told {
                current.expiry_told = true;
                self.told.push_back(Told::Expired);
            }
        }
    }

    /// The earlier of `until` and the end of the served identity, so that its expiry is told on time.
    fn expiry_wake(&self, now: Now, until: Instant) -> Instant {
        let end = self.current.as_ref().filter(|current| !current.expiry_told);
        match end.and_then(|current| current.material.identity_not_after()) {
            Some(end) => match end.duration_since(now.wall) {
                Ok(left) => until.min(now.mono + left + Duration::from_secs(1)),
                Err(_) => until,
            },
            None => until,
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
