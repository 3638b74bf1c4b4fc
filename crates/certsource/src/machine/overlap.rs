//! What was withdrawn and how it is dealt with: anchors that go on being trusted for a while, where that was asked for,
//! and steps back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::clock::Now;
use crate::digest::Fingerprint;
use crate::error::{Error, Reason};
use crate::machine::memory::Step;
use crate::machine::{Candidate, Machine, Regressed, Told};
use crate::material::{Certificate, Material, Role};

/// So many withdrawn anchors are remembered, and so many can overlap.
const MANY: usize = 4096;

/// What is remembered of anchors that were withdrawn.
#[derive(Default)]
pub(super) struct Withdrawn {
    /// Withdrawn from the source, and until when they are trusted all the same. Kept when that is over, and when they
    /// come back: so nothing prolongs it. Of what is forgotten beyond `MANY`, nothing overlaps.
    until: BTreeMap<Fingerprint, Instant>,
    /// Not served any more.
    gone: BTreeMap<Fingerprint, Instant>,
    /// The latest demand of `withdraw_now`, and the earliest that may not be answered yet.
    strict: u64,
    strict_from: u64,
    /// When it was asked for last. The engine's moment may be an earlier one: another thread asked.
    asked: Option<Instant>,
    /// Up to this demand, a read found the source whole. Until then nothing is kept that `strict` came before.
    honoured: u64,
    /// An end that could not be used: it is tried again.
    pub(super) failed: Option<Box<FailedEnd>>,
    /// What was handed out last is the judgement of an end: of what was read long ago, and nothing that the source holds now. Then
    /// it is what goes on after it.
    pub(super) ending: Option<Ending>,
}

/// The end of an overlap that is judged.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// When it was handed out: what goes later is no part of it.
    at: Instant,
    after: After,
}

/// What an end of an overlap came before.
#[derive(Clone, Copy)]
enum After {
    Rest(Instant),
    Read,
}

pub(super) struct FailedEnd {
    error: Error,
    since: Instant,
    tried: Instant,
    /// When to try again. What is to go later than it was tried does not wait for that.
    retry: Instant,
}

impl Withdrawn {
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Something is wrong beside an end that is judged: the next look is to come at once after it.
    pub(super) fn look_after_end(&mut self, now: Now) {
        if let Some(Ending { after: After::Rest(until), .. }) = &mut self.ending {
            *until = now.mono.min(*until);
        }
    }

    /// Why an overlap could not end, and since when.
    pub(super) fn failed(&self) -> Option<(&Error, Instant)> {
        self.failed.as_ref().map(|failed| (&failed.error, failed.since))
    }
}

impl Machine {
    /// Ends every overlap, and asks for a read as [`Machine::demand`] does: what that read finds withdrawn has no overlap
    /// either. If the source is broken then, that holds until a read finds it whole. The answer is [`Told::Concluded`] with
    /// this ticket or a later one.
    pub fn withdraw_now(&mut self, now: Now) -> u64 {
        self.withdrawn.until.values_mut().for_each(|until| *until = now.mono.min(*until));
        self.withdrawn.asked = Some(now.mono);
        // One that failed is tried once more before this is answered.
        if let Some(failed) = &mut self.withdrawn.failed {
            failed.retry = now.mono;
        }
        let is_first = self.withdrawn.strict <= self.concluded;
        let ticket = self.demand(now);
        self.withdrawn.strict = ticket;
        if is_first {
            self.withdrawn.strict_from = ticket;
        }
        ticket
    }

    /// Whether an anchor is still trusted that the source does not hold any more.
    pub fn is_overlapping(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !Arc::ptr_eq(&current.material, &current.plain))
    }

    /// What is to be served when the source holds `plain`: that, and anchors that were withdrawn lately.
    pub(super) fn overlapped(&self, now: Now, plain: &Arc<Material>) -> Arc<Material> {
        let has_none = self.policy.overlap.is_zero() || self.is_strict();
        let Some(current) = self.current.as_ref().filter(|_| !has_none) else { return Arc::clone(plain) };
        let is_kept = |anchor: &&Certificate| {
            let until = self.withdrawn.until.get(&anchor.fingerprint());
            until.is_none_or(|until| *until > now.mono)
        };
        let missing = plain.anchors_missing_from(&current.material);
        let mut kept: Vec<&Certificate> = missing.into_iter().filter(is_kept).collect();
        if kept.len() > MANY {
            // Those that were withdrawn last stay: they have the latest end, and that of one withdrawn only now is not known
            // yet. The others are trusted for a shorter time than they could be, never for a longer one.
            kept.sort_by_key(|anchor| {
                let until = self.withdrawn.until.get(&anchor.fingerprint());
                Reverse((until.is_none(), until.copied()))
            });
            kept.truncate(MANY);
        }
        plain.with_anchors(kept.into_iter().cloned().collect())
    }

    fn is_strict(&self) -> bool {
        self.withdrawn.strict > self.withdrawn.honoured
    }

    /// To be called when a read found the source whole, and what it holds is served.
    pub(super) fn honour_withdrawal(&mut self) {
        self.withdrawn.honoured = self.covering;
    }

    /// To be called when the source was accepted as it is: from now on the overlap of what it lost is counted.
    pub(super) fn count_overlap(&mut self, now: Now, plain: &Material, served: &Material) {
        if self.policy.overlap.is_zero() {
            // Nothing is kept, so there is no end to remember.
            return;
        }
        let end = if self.is_strict() { now.mono } else { now.mono + self.policy.overlap };
        let overlapping = plain.anchors_missing_from(served);
        for anchor in &overlapping {
            self.withdrawn.until.entry(anchor.fingerprint()).or_insert(end);
        }
        let surplus = self.withdrawn.until.len().saturating_sub(MANY);
        if surplus == 0 {
            return;
        }
        // An anchor that overlaps is never forgotten: without its end it would stay. There are `MANY` of them at the most.
        let overlapping: HashSet<_> = overlapping.into_iter().map(Certificate::fingerprint).collect();
        let others = self.withdrawn.until.iter().filter(|(anchor, _)| !overlapping.contains(*anchor));
        let mut others: Vec<_> = others.map(|(anchor, until)| (*until, *anchor)).collect();
        others.sort_unstable();
        for (_, anchor) in others.into_iter().take(surplus) {
            self.withdrawn.until.remove(&anchor);
        }
    }

    /// When anchors that are kept are to go, or when that is to be tried again.
    pub(super) fn overlap_ends(&self) -> Option<Instant> {
        // While nothing is served, what overlapped is not either.
        if self.is_stale() {
            return None;
        }
        let again = |end: Instant| match &self.withdrawn.failed {
            Some(failed) if end <= failed.tried => failed.retry,
            _ => end,
        };
        self.ends().map(again).min()
    }

    /// Whether an anchor is still trusted whose time is over.
    pub(super) fn is_end_due(&self, now: Now) -> bool {
        self.ends().any(|end| end <= now.mono)
    }

    /// When each of the anchors that are kept is to go.
    fn ends(&self) -> impl Iterator<Item = Instant> {
        let current = self.current.as_ref();
        let overlapping = current.filter(|current| !Arc::ptr_eq(&current.material, &current.plain));
        let kept = overlapping.map(|current| current.plain.anchors_missing_from(&current.material));
        let until = |anchor: &Certificate| self.withdrawn.until.get(&anchor.fingerprint()).copied();
        kept.into_iter().flatten().filter_map(until)
    }

    /// While nothing is out: an overlap that is over is ended, whatever else is wrong with the source.
    pub(super) fn end_overlap(&mut self, now: Now) {
        self.withdrawn.ending = None;
        let after = match self.step {
            Step::Rest(until) => After::Rest(until),
            // Who asked for the end must not have the answer of that read first.
            Step::ReadNext => After::Read,
            _ => return,
        };
        let at = self.withdrawn.asked.map_or(now.mono, |asked| asked.max(now.mono));
        if self.overlap_ends().is_none_or(|end| end > at) {
            return;
        }
        let Some(current) = &self.current else { return };
        let trouble = self.trouble.as_ref().map(|trouble| trouble.error.clone());
        self.step = Step::JudgeNext(Arc::clone(&current.plain), trouble);
        self.withdrawn.ending = Some(Ending { at, after });
    }

    /// An end takes nothing from what it came before: content that has to stand still is followed on, a look is neither put off nor
    /// made early, and who waits has no answer yet.
    pub(super) fn go_on_after_end(&mut self, now: Now) {
        self.step = match self.withdrawn.ending.map(|ending| ending.after) {
            Some(After::Read) => Step::ReadNext,
            Some(After::Rest(until)) => Step::Rest(until),
            None => Step::Rest(now.mono),
        };
    }

    /// The material without what overlapped can not be used. That is told once; all else goes on.
    pub(super) fn end_failed(&mut self, now: Now, candidate: &Candidate, error: Error) {
        self.go_on_after_end(now);
        let Some(current) = self.current.as_ref().filter(|_| !self.is_stale()) else { return };
        let error = still_trusted(&candidate.material.anchors_missing_from(&current.material), error);
        let since = self.withdrawn.failed().map_or(now.mono, |(_, since)| since);
        let most = self.policy.backoff_max.min(self.policy.interval).max(self.policy.settle);
        let tried = self.withdrawn.ending.map_or(now.mono, |ending| ending.at);
        // Who asked while it was judged wants it tried again.
        let was_asked = self.withdrawn.asked.is_some_and(|asked| asked > tried);
        let pause = now.mono.saturating_duration_since(since).clamp(self.policy.settle, most);
        let retry = if was_asked { now.mono } else { now.mono + pause };
        let error = error.of(self.origin.clone());
        if self.withdrawn.failed.is_none() {
            self.told.push_back(Told::Refused(error.clone()));
        }
        self.withdrawn.failed = Some(Box::new(FailedEnd { error, since, tried, retry }));
    }

    /// Nothing is trusted any more that could not go.
    pub(super) fn end_worked(&mut self) {
        let was_failing = self.failing_since().is_some();
        self.withdrawn.failed = None;
        self.tell_recovery(was_failing);
    }

    /// Why [`Machine::withdraw_now`], which is about to be answered, did not end what overlapped.
    pub(super) fn withdrawal_failed(&self) -> Option<Error> {
        let is_asked = self.withdrawn.strict > self.concluded && self.covering >= self.withdrawn.strict_from;
        let (error, _) = self.withdrawn.failed().filter(|_| is_asked && self.is_overlapping())?;
        Some(error.clone())
    }

    /// The steps back from what is served to `material`.
    pub(super) fn regressions(&self, material: &Material) -> Vec<Regressed> {
        let Some(current) = &self.current else { return Vec::new() };
        let came = material.diff(&current.material).added;
        let is_back = |(role, anchor): &(Role, Certificate)| {
            *role == Role::Anchor && self.withdrawn.gone.contains_key(&anchor.fingerprint())
        };
        let mut found: Vec<_> =
            came.into_iter().filter(is_back).map(|(_, anchor)| Regressed::AnchorReturned(anchor)).collect();
        if let (Some(new), Some(old)) = (material.identity(), current.material.identity()) {
            if new.leaf().not_before() < old.leaf().not_before() {
                let (leaf, before) = (new.leaf().clone(), old.leaf().clone());
                found.push(Regressed::LeafOlder { leaf, before });
            }
        }
        found
    }

    /// To be called before `material` replaces what is served.
    pub(super) fn remember_withdrawn(&mut self, now: Now, material: &Material) {
        let Some(current) = &self.current else { return };
        let gone = &mut self.withdrawn.gone;
        for anchor in material.anchors_missing_from(&current.material) {
            if gone.len() >= MANY {
                let oldest = gone.iter().min_by_key(|(_, at)| **at).map(|(fingerprint, _)| *fingerprint);
                oldest.and_then(|oldest| gone.remove(&oldest));
            }
            gone.insert(anchor.fingerprint(), now.mono);
            if !self.policy.overlap.is_zero() {
                // It has had its time, be it none. If it comes back and goes again, it has no other.
                self.withdrawn.until.entry(anchor.fingerprint()).or_insert(now.mono);
            }
        }
        for anchor in material.trust().into_iter().flatten() {
            gone.remove(&anchor.fingerprint());
        }
    }

    /// Whether a policy says no to steps back.
    pub(super) fn check_regressions(&self, material: &Material) -> Result<(), Error> {
        if !self.policy.refuse_regressed {
            return Ok(());
        }
        match self.regressions(material).first() {
            Some(step @ Regressed::AnchorReturned(anchor)) => {
                Err(Error::new(Reason::Rejected, step.to_string()).of(anchor.origin().clone()))
            }
            Some(step @ Regressed::LeafOlder { leaf, .. }) => {
                Err(Error::new(Reason::Rejected, step.to_string()).of(leaf.origin().clone()))
            }
            None => Ok(()),
        }
    }

    pub(super) fn tell_regressions(&mut self, found: Vec<Regressed>) {
        found.into_iter().map(Told::Regressed).for_each(|told| self.told.push_back(told));
    }
}

fn still_trusted(anchors: &[&Certificate], error: Error) -> Error {
    let first = anchors.first().map_or("", |anchor| anchor.inspection().subject());
    let more = match anchors.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let what = format!(
        "the trust anchor {first}{more} was withdrawn and is still trusted, because it can not be left out"
    );
    let message =
        format!("{what}; it is tried again, restart the program if this lasts: {}", error.message());
    Error::new(error.reason(), message).caused_by(error)
}

impl std::fmt::Display for Regressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AnchorReturned(anchor) => {
                let subject = anchor.inspection().subject().to_owned();
                write!(f, "the trust anchor {subject} was withdrawn and is back; find out who put it there")
            }
            Self::LeafOlder { leaf, before } => write!(
                f,
                "the new certificate is valid from {}, which is before that of the one it replaces, {}; it may come from \
                 a backup",
                crate::clock::Utc(leaf.not_before()),
                crate::clock::Utc(before.not_before())
            ),
        }
    }
}
