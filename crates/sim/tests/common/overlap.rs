//! What is asked of a reader in a random history, and the properties of overlaps and of answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use certsource::clock::Now;
use certsource::{Driver, Files};

use super::acts::{Ask, Reader};
use super::model::{Anchors, Model, Shown, Visible};

/// What happened of what the properties are about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Anchors that went on being trusted.
    pub(crate) kept: usize,
    /// Those that went when their time was over, and those that went because it was asked for.
    pub(crate) ended: usize,
    pub(crate) withdrawn: usize,
    /// Answers by a generation, and by an error.
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    pub(crate) stale: usize,
}

/// A call that has no answer yet.
struct Open {
    ticket: u64,
    at: Duration,
    withdraws: bool,
}

/// A `withdraw_now`: whether it was answered, and until when nothing new may overlap because of it.
struct Withdrawal {
    ticket: u64,
    is_answered: bool,
    over: Option<Duration>,
}

/// The properties, and what they need to know of what was before.
pub(crate) struct Overlaps {
    reader: Reader,
    asks: VecDeque<Ask>,
    /// When the last call was made.
    asked_at: Duration,
    open: Vec<Open>,
    withdrawals: Vec<Withdrawal>,
    /// Since when an anchor could have been served, the first time.
    added: BTreeMap<Vec<u8>, Duration>,
    /// When it was first seen that an anchor is served which the source does not hold, and for how long it may be.
    kept: BTreeMap<Vec<u8>, (Duration, Duration)>,
    /// Before what was served last that did not only end an overlap: from then on what is served could be seen.
    basis: Duration,
    was_overlapping: bool,
    pub(crate) counts: Counts,
}

impl Overlaps {
    pub(crate) fn new(reader: &Reader) -> Self {
        Self {
            reader: reader.clone(),
            asks: reader.asks.iter().copied().collect(),
            asked_at: Duration::ZERO,
            open: Vec::new(),
            withdrawals: Vec::new(),
            added: BTreeMap::new(),
            kept: BTreeMap::new(),
            basis: Duration::ZERO,
            was_overlapping: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_millis(self.reader.overlap.into())
    }

    fn judging(&self) -> Duration {
        Duration::from_millis(self.reader.judges_for.into())
    }

    /// When a gate that can use nothing begins to do its work.
    fn usable_from(&self) -> Duration {
        Duration::from_millis(self.reader.unusable.map_or(0, |(_, to)| to).into())
    }

    /// By how much later all of it may come, and until when nothing need come at all.
    pub(crate) fn allowance(&self, longest_pause: Duration) -> (Duration, Duration) {
        let pauses = if self.reader.unusable.is_some() { longest_pause * 2 } else { Duration::ZERO };
        (self.length() + self.judging() * 5 + pauses, self.usable_from().max(self.asked_at))
    }

    /// Makes the call whose moment has come, before a step of the reader.
    pub(crate) fn before_step(
        &mut self,
        driver: &mut Driver<Files>,
        model: &mut Model,
        now: (Duration, Now),
    ) {
        while self.asks.front_mut().is_some_and(|ask| ask.delay.is_over(self.asked_at, now.0)) {
            self.ask(driver, model, now);
        }
    }

    /// When the next call is made if the reader rests.
    pub(crate) fn due_at_rest(&self) -> Option<Duration> {
        self.asks.front().map(|ask| ask.delay.over_at_rest(self.asked_at))
    }

    /// Makes the call whose moment has come while the reader rests. Whether there was one.
    pub(crate) fn at_rest(
        &mut self,
        driver: &mut Driver<Files>,
        model: &mut Model,
        now: (Duration, Now),
    ) -> bool {
        let is_due = self.due_at_rest().is_some_and(|at| at <= now.0);
        if is_due {
            self.ask(driver, model, now);
        }
        is_due
    }

    fn ask(&mut self, driver: &mut Driver<Files>, model: &mut Model, (at, now): (Duration, Now)) {
        let Some(Ask { withdraws, .. }) = self.asks.pop_front() else { return };
        self.asked_at = at;
        let ticket = if withdraws { driver.withdraw_now(now) } else { driver.demand(now) };
        let what = if withdraws { "withdraws now" } else { "asks for a read" };
        model.lines.push(format!("{:>9.3} s  caller  {what}, {ticket}", at.as_secs_f64()));
        self.open.push(Open { ticket, at, withdraws });
        if withdraws {
            for (kept, length) in self.kept.values_mut() {
                *length = (*length).min(at.saturating_sub(*kept));
            }
            self.withdrawals.push(Withdrawal { ticket, is_answered: false, over: None });
        }
    }

    /// Whether what is published could be what could be seen then: it, or it and anchors that were served before.
    pub(crate) fn shows(&self, seen: &Visible, published: &Shown, before: Option<&Shown>) -> bool {
        let Some(shown) = seen.shown.as_deref() else { return false };
        let is_kept = |anchor: &Vec<u8>| before.is_some_and(|before| before.anchors.contains(anchor));
        shown.chain == published.chain
            && shown.anchors.is_subset(&published.anchors)
            && (shown.anchors == published.anchors || !self.length().is_zero())
            && published.anchors.difference(&shown.anchors).all(is_kept)
    }

    /// Since when what is published now could be seen: since the last publication, or longer ago if it is the end of an overlap.
    pub(crate) fn basis(&self, published: &Shown, before: Option<&Shown>, last: Duration) -> Duration {
        if self.only_ends(published, before) { self.basis } else { last }
    }

    fn only_ends(&self, published: &Shown, before: Option<&Shown>) -> bool {
        !self.length().is_zero()
            && before.is_some_and(|before| {
                before.chain == published.chain && published.anchors.is_subset(&before.anchors)
            })
    }

    /// To be called of each publication: none of the anchors that it loses goes early.
    pub(crate) fn published(
        &mut self,
        model: &Model,
        published: &Shown,
        before: Option<&Shown>,
        is_degraded: bool,
        (last, now): (Duration, Duration),
    ) -> Result<(), String> {
        let none = Anchors::new();
        let lost: Vec<_> =
            before.map_or(&none, |before| &before.anchors).difference(&published.anchors).collect();
        for anchor in &lost {
            let added = self.added.get(*anchor).copied().unwrap_or_default();
            let absent = || model.visible.iter().filter(|seen| seen.to >= added && lacks(seen, anchor));
            let is_over = absent().any(|seen| seen.from + self.length() <= now);
            let is_asked = self.withdrawals.iter().any(|withdrawal| {
                let until = withdrawal.over.unwrap_or(now);
                absent().any(|seen| seen.from <= until)
            });
            if is_asked {
                self.counts.withdrawn += 1;
            } else if is_over {
                self.counts.ended += usize::from(self.kept.contains_key(*anchor));
            } else {
                return Err("overlap: an anchor goes before its time is over".to_owned());
            }
        }
        let is_whole = !is_degraded && !self.only_ends(published, before);
        if !self.only_ends(published, before) {
            self.basis = last;
        }
        for anchor in &published.anchors {
            self.added.entry(anchor.clone()).or_insert(last);
        }
        let since = self.basis(published, before, last);
        let could_be: Vec<_> = model
            .visible
            .iter()
            .filter(|seen| seen.to >= since && self.shows(seen, published, before))
            .filter_map(|seen| seen.shown.as_deref())
            .collect();
        if !could_be.is_empty() {
            let is_kept = |anchor: &&Vec<u8>| !could_be.iter().any(|shown| shown.anchors.contains(*anchor));
            for anchor in published.anchors.iter().filter(is_kept) {
                self.keep(anchor.clone(), now);
            }
        }
        self.was_overlapping = could_be.iter().any(|shown| shown.anchors != published.anchors);
        if is_whole {
            self.found_whole(now);
        }
        Ok(())
    }

    /// The source was found whole: what was asked for and answered before is over.
    fn found_whole(&mut self, now: Duration) {
        for withdrawal in self.withdrawals.iter_mut().filter(|withdrawal| withdrawal.is_answered) {
            withdrawal.over.get_or_insert(now);
        }
    }

    fn is_strict(&self) -> bool {
        self.withdrawals.iter().any(|withdrawal| withdrawal.over.is_none())
    }

    fn keep(&mut self, anchor: Vec<u8>, now: Duration) {
        let length = if self.is_strict() { Duration::ZERO } else { self.length() };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.kept.entry(anchor) {
            entry.insert((now, length));
            self.counts.kept += 1;
        }
    }

    /// To be called when the reader rests: nothing is trusted for longer than was asked.
    pub(crate) fn rests(
        &mut self,
        driver: &Driver<Files>,
        model: &Model,
        served: &Shown,
        longest_pause: Duration,
        (last, now): (Duration, Duration),
    ) -> Result<(), String> {
        let is_overlapping = driver.machine().is_overlapping();
        if is_overlapping && self.length().is_zero() {
            return Err("overlap: one that nobody asked for".to_owned());
        }
        if is_overlapping && !self.was_overlapping {
            // Nothing was published: the source lost what goes on being served.
            let absent =
                |anchor: &&Vec<u8>| model.visible.iter().any(|seen| seen.to >= last && lacks(seen, anchor));
            let absent: Vec<_> = served.anchors.iter().filter(absent).collect();
            match absent[..] {
                [] => return Err("overlap: of an anchor that was never gone".to_owned()),
                [anchor] => self.keep(anchor.clone(), now),
                _ => {}
            }
        }
        self.was_overlapping = is_overlapping;
        if driver.machine().trouble().is_none() {
            self.found_whole(now);
        }
        if driver.machine().is_stale() {
            return Ok(());
        }
        let usable_from =
            if self.reader.unusable.is_some() { self.usable_from() + longest_pause } else { Duration::ZERO };
        for anchor in &served.anchors {
            let Some((kept, length)) = self.kept.get(anchor) else { continue };
            let is_back = model.visible.iter().any(|seen| seen.to >= *kept && !lacks(seen, anchor));
            let end = (*kept + *length).max(usable_from) + self.judging() * 4;
            if now > end && !is_back {
                return Err(format!(
                    "overlap: an anchor is trusted {:.3} s after its end",
                    (now - end).as_secs_f64()
                ));
            }
        }
        Ok(())
    }

    /// To be called of each answer.
    pub(crate) fn concluded(
        &mut self,
        model: &Model,
        served: Option<(u64, &Shown)>,
        (ticket, result): (u64, Result<u64, &str>),
        now: Duration,
    ) -> Result<(), String> {
        let open = std::mem::take(&mut self.open);
        let (answered, open) = open.into_iter().partition(|open| open.ticket <= ticket);
        self.open = open;
        let answered: Vec<Open> = answered;
        for withdrawal in self.withdrawals.iter_mut().filter(|withdrawal| withdrawal.ticket <= ticket) {
            withdrawal.is_answered = true;
        }
        let number = match result {
            Ok(number) => number,
            Err(error)
                if error.contains("withdrawn anchors are still trusted")
                    && self.reader.unusable.is_none() =>
            {
                return Err(format!("answer: {error}"));
            }
            Err(_) => {
                self.counts.failed += answered.len();
                return Ok(());
            }
        };
        let Some((served_number, served)) = served.filter(|(served, _)| *served == number) else {
            return Err(format!("answer: generation {number}, which is not served"));
        };
        self.found_whole(now);
        for Open { at, withdraws, .. } in &answered {
            self.counts.answered += 1;
            let seen = || model.visible.iter().filter(|seen| seen.to >= *at);
            if !seen().any(|seen| self.shows(seen, served, Some(served))) {
                return Err(format!(
                    "answer: {served_number} is not what the source held after it was asked for"
                ));
            }
            let is_exact = |seen: &Visible| seen.shown.as_deref().is_some_and(|shown| shown == served);
            if *withdraws && !seen().any(is_exact) {
                return Err("answer: of what was withdrawn, something is still trusted".to_owned());
            }
        }
        Ok(())
    }

    /// At the end of a history nobody waits for an answer.
    pub(crate) fn end(&self) -> Result<(), String> {
        if self.open.is_empty() { Ok(()) } else { Err("answer: none for who still waits".to_owned()) }
    }
}

/// Whether an anchor can not be seen, although there are anchors.
fn lacks(seen: &Visible, anchor: &[u8]) -> bool {
    seen.trust().is_some_and(|anchors| !anchors.contains(anchor))
}
