//! What comes of a verdict, a refusal or a failed read: a generation, a rest, something to tell.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Now;
use crate::error::{Error, Reason};
use crate::machine::memory::{Current, Held, Refusal, Step, Trouble};
use crate::machine::{Candidate, Machine, Publication, Told, Verdict};
use crate::material::{Material, Partial};

impl Machine {
    /// `plain`: what was read, of which the candidate was made.
    pub(super) fn decide(
        &mut self,
        now: Now,
        candidate: &Candidate,
        plain: &Arc<Material>,
        verdict: Verdict,
    ) {
        let material = plain;
        match verdict {
            Verdict::Unusable(error) if self.withdrawn.is_ending() => self.end_failed(now, candidate, error),
            Verdict::Accept => self.accept(now, candidate, plain),
            Verdict::Refuse(error) | Verdict::AskAgain { error, .. } if !candidate.can_be_refused => {
                self.told
                    .push_back(Told::Degraded(format!("published although a check refused it: {error}")));
                self.accept(now, candidate, plain);
            }
            Verdict::Refuse(error) | Verdict::Unusable(error)
                if error.reason() == Reason::KeyMismatch && candidate.can_be_refused =>
            {
                self.fail(now, error, Some(&material.as_partial()));
            }
            Verdict::Refuse(error) => self.refuse(now, material, error, None, None),
            Verdict::AskAgain { at, error } => {
                self.refuse(now, material, error, Some(at.max(now.mono + self.policy.backoff)), None);
            }
            Verdict::Unusable(error) if candidate.degraded.is_some() => self.fail(now, error, None),
            Verdict::Unusable(error) => {
                let pause = self.trouble.as_ref().map_or(self.policy.backoff, |trouble| trouble.pause);
                self.refuse(now, material, error, Some(now.mono + pause), None);
                self.lengthen_pause(pause);
            }
        }
    }

    fn accept(&mut self, now: Now, candidate: &Candidate, plain: &Arc<Material>) {
        let material = Arc::clone(&candidate.material);
        if self.withdrawn.is_ending() {
            // Nothing was read, so nothing is confirmed; what was given up meanwhile waits for a read.
            if !self.is_stale() {
                self.publish(now, material, plain, candidate.degraded.clone());
            }
            return self.go_on_after_end(now);
        }
        if let Some(error) = candidate.degraded.clone() {
            // Only a part of what the source holds: its trouble goes on.
            if let Some(trouble) = &mut self.trouble {
                trouble.withdrawal = None;
            }
            // While nothing is served, there is nothing to withdraw, and a part of the source is no reason to begin again.
            if !self.is_stale() && !self.is_served_already(now, &material, plain) {
                self.publish(now, material, plain, Some(error));
            }
            self.step = Step::Rest(now.mono + self.policy.backoff);
            return;
        }
        if !self.is_stale() && self.is_served_already(now, &material, plain) {
            return self.unchanged(now);
        }
        if let Err((error, valid_from)) = self.check_policy(now, candidate) {
            let wait = valid_from.map(|from| from.duration_since(now.wall).unwrap_or_default());
            return self.refuse(now, plain, error, wait.map(|wait| now.mono + wait), valid_from);
        }
        let owes_recovery = self.failing_since().is_some();
        self.trouble = None;
        self.tell_recovery(owes_recovery);
        if self.confirm(now) && !owes_recovery {
            self.told.push_back(Told::Recovered);
        }
        self.refusal = None;
        self.follow_nothing();
        self.publish(now, material, plain, None);
        self.step = Step::Rest(self.next_look(now));
        self.conclude_current();
    }

    /// Whether `material` is what is served; then what was read, `plain`, stands for it from now on.
    fn is_served_already(&mut self, now: Now, material: &Material, plain: &Arc<Material>) -> bool {
        let Some(current) =
            self.current.as_mut().filter(|current| current.material.digest() == material.digest())
        else {
            return false;
        };
        current.content = plain.content_id();
        if plain.digest() == material.digest() {
            current.plain = Arc::clone(&current.material);
        } else {
            // What was withdrawn is all there is to it, and that overlaps.
            current.plain = Arc::clone(plain);
            let served = Arc::clone(&current.material);
            self.count_overlap(now, plain, &served);
        }
        true
    }

    fn publish(&mut self, now: Now, material: Arc<Material>, plain: &Arc<Material>, degraded: Option<Error>) {
        // What is over is no part of it.
        self.end_worked();
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
        let regressed = self.regressions(&material);
        self.remember_withdrawn(now, &material);
        self.count_overlap(now, plain, &material);
        self.current = Some(Current {
            number,
            content: plain.content_id(),
            plain: Arc::clone(plain),
            material: Arc::clone(&material),
        });
        self.begin_expiry();
        self.told.push_back(Told::Published(Publication {
            number,
            material,
            diff,
            degraded,
            // An end answers nobody: what it serves was read before.
            ticket: if self.withdrawn.is_ending() { self.concluded } else { self.covering },
        }));
        self.tell_regressions(regressed);
    }

    /// The rules of time and of revocation that need no TLS library. The moment is when it can be tried again.
    fn check_policy(&self, now: Now, candidate: &Candidate) -> Result<(), (Error, Option<SystemTime>)> {
        let Some(current) = candidate.current.as_deref().filter(|_| candidate.can_be_refused) else {
            return Ok(());
        };
        if let Some(crl) = candidate.material.replays(current) {
            let error = Error::new(
                Reason::Rejected,
                "the CRL has a lower number than the one in use; it may be a replay, publish a newer list",
            );
            return Err((error.of(crl.origin().clone()), None));
        }
        self.check_regressions(&candidate.material).map_err(|error| (error, None))?;
        let (Some(new), Some(old)) = (candidate.material.identity(), current.identity()) else {
            return Ok(());
        };
        // What is worse than the current one is taken when that one ends.
        let old_ends = current.identity_not_after().map(|end| end + Duration::from_secs(1));
        let old_is_good = old.chain().iter().all(|c| c.not_before() <= now.wall && now.wall <= c.not_after());
        if !old_is_good {
            return Ok(());
        }
        for certificate in new.chain() {
            if certificate.not_before() > now.wall + self.policy.skew {
                let error = Error::new(
                    Reason::NotYetValid,
                    "the new certificate is not valid yet; it is adopted when its time comes, check the clocks",
                );
                let begins = certificate.not_before();
                let again = old_ends.map_or(begins, |ends| ends.min(begins));
                return Err((error.of(certificate.origin().clone()), Some(again)));
            }
            if certificate.not_after() + self.policy.skew < now.wall {
                let error = Error::new(
                    Reason::Expired,
                    "the new certificate has expired and the one in use has not; issue a new one",
                );
                return Err((error.of(certificate.origin().clone()), old_ends));
            }
        }
        Ok(())
    }

    fn refuse(
        &mut self,
        now: Now,
        material: &Arc<Material>,
        error: Error,
        until: Option<Instant>,
        valid_from: Option<SystemTime>,
    ) {
        let content = material.content_id();
        let is_known = self
            .refusal
            .as_ref()
            .is_some_and(|known| known.content == content && known.error.reason() == error.reason());
        if !is_known {
            self.told.push_back(Told::Refused(error.clone()));
        }
        // Who demanded since the read began wants the gates asked anew.
        let refusal = Refusal { content, error: error.clone(), until, valid_from };
        self.refusal = (self.demands == self.covering).then(|| Box::new(refusal));
        self.rest_refused(now, material, error, until);
    }

    /// The source is read, known and refused: nothing to follow until it changes, its time comes or a demand.
    pub(super) fn rest_refused(
        &mut self,
        now: Now,
        material: &Arc<Material>,
        error: Error,
        until: Option<Instant>,
    ) {
        let mut trouble =
            self.trouble.take().unwrap_or_else(|| Trouble::new(now, &error, self.policy.backoff));
        trouble.error = error.clone();
        trouble.failure_told = Some(error.reason());
        trouble.failing_since.get_or_insert(trouble.since);
        trouble.refused = true;
        self.trouble = Some(trouble);
        self.follow_nothing();
        self.conclude(Err(error.clone()));
        let next = self.next_look(now);
        let until = until.map_or(next, |until| next.min(until));
        self.step = match self.withdraw(now, Some(&material.as_partial()), &error) {
            Withdrawal::Due(step) => step,
            Withdrawal::Held(due) => Step::Rest(until.min(due)),
            Withdrawal::None => Step::Rest(until),
        };
    }

    /// A read that failed: it is tried again soon, and told once it has lasted.
    pub(super) fn fail(&mut self, now: Now, error: Error, partial: Option<&Partial>) {
        if let Some(settling) = &mut self.settling {
            settling.content = None;
        }
        let is_pair = error.reason() == Reason::KeyMismatch;
        if is_pair {
            // Both files were whole when they were read once more: how the one comes that is waited for is known.
            self.rechecks = false;
        }
        let before = self.trouble.take();
        let failing_since = before.as_ref().and_then(|trouble| trouble.failing_since);
        let trouble = before.filter(|trouble| !trouble.refused);
        let mut trouble = trouble.unwrap_or_else(|| Trouble::new(now, &error, self.policy.backoff));
        trouble.failing_since = failing_since;
        trouble.error = error.clone();
        let (since, pause) = (trouble.since, trouble.pause);
        let tell_pending = is_pair && !trouble.pending_told;
        let lasted = now.mono.saturating_duration_since(since);
        let patience = if is_pair { self.policy.pair_grace } else { self.policy.settle };
        let is_told = self.current.is_none() || lasted >= patience;
        trouble.pending_told |= tell_pending && !is_told;
        self.trouble = Some(trouble);
        if is_told {
            self.note_failure(now, error.clone());
        } else if is_pair {
            if tell_pending {
                self.told.push_back(Told::Pending(error.clone()));
            }
            self.conclude(Err(error.clone()));
        }
        self.must_read = true;
        let mut until = now.mono + pause;
        if lasted < patience {
            until = until.min(since + patience);
        }
        self.lengthen_pause(pause);
        self.step = match self.withdraw(now, partial, &error) {
            Withdrawal::Due(step) => step,
            Withdrawal::Held(due) => Step::Rest(until.min(due.max(now.mono + self.policy.backoff))),
            Withdrawal::None => Step::Rest(until),
        };
    }

    fn lengthen_pause(&mut self, pause: Duration) {
        let most = self.policy.backoff_max.min(self.policy.interval).max(self.policy.backoff);
        if let Some(trouble) = &mut self.trouble {
            trouble.pause = (pause * 2).min(most);
        }
    }

    /// Tells a failure, once for each reason while it lasts, and answers those who wait.
    pub(super) fn note_failure(&mut self, now: Now, error: Error) {
        self.tell_failure(now, error.clone());
        self.conclude(Err(error));
    }

    pub(super) fn tell_failure(&mut self, now: Now, error: Error) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(now, &error, self.policy.backoff));
        trouble.error = error.clone();
        trouble.failing_since.get_or_insert(trouble.since);
        if trouble.failure_told != Some(error.reason()) {
            trouble.failure_told = Some(error.reason());
            self.told.push_back(Told::Failed(error));
        }
    }

    /// Invariant 12: what is withdrawn is published with the last good rest, once something else has been broken
    /// beyond its grace.
    fn withdraw(&mut self, now: Now, partial: Option<&Partial>, error: &Error) -> Withdrawal {
        if self.is_stale() {
            return Withdrawal::None;
        }
        let (Some(current), Some(trouble)) = (&self.current, &mut self.trouble) else {
            return Withdrawal::None;
        };
        let Some(material) = partial.and_then(|partial| partial.withdrawal_from(&current.plain)) else {
            trouble.withdrawal = None;
            return Withdrawal::None;
        };
        let content = material.content_id();
        let seen = match &trouble.withdrawal {
            Some(held) if held.content == content => held.seen,
            _ => now.mono,
        };
        let due = (seen + self.policy.settle_loss).max(trouble.since + self.policy.pair_grace);
        trouble.withdrawal = Some(Held { content, seen, due });
        if now.mono < due {
            return Withdrawal::Held(due);
        }
        Withdrawal::Due(Step::JudgeNext(Arc::new(material), Some(error.clone())))
    }
}

enum Withdrawal {
    None,
    /// Held back until then.
    Held(Instant),
    Due(Step),
}
