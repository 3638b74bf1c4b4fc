//! What is wrong, as it is told and shown: the source's own trouble, and an overlap that could not end.

use std::time::Instant;

use crate::error::Error;
use crate::machine::{Machine, Told};

impl Machine {
    /// What is wrong now, and since when: what was told before what still has its grace.
    pub fn trouble(&self) -> Option<(&Error, Instant)> {
        let trouble = self.trouble.as_ref().map(|trouble| (&trouble.error, trouble.since));
        let is_told = self.trouble.as_ref().is_some_and(|trouble| trouble.failing_since.is_some());
        let told = trouble.filter(|_| is_told);
        told.or_else(|| self.withdrawn.failed()).or(trouble)
    }

    /// Whether the source itself could not be followed at the last try.
    pub fn is_source_broken(&self) -> bool {
        self.trouble.is_some()
    }

    /// Since when the source can not be followed, or an overlap can not end, as far as it was told: `None` while all is well,
    /// and while what is wrong still has its grace.
    pub fn failing_since(&self) -> Option<Instant> {
        let of_the_source = self.trouble.as_ref().and_then(|trouble| trouble.failing_since);
        let of_an_end = self.withdrawn.failed().map(|(_, since)| since);
        of_the_source.into_iter().chain(of_an_end).min()
    }

    /// Since when the source holds something that is neither adopted nor told as a failure: it must stand still first,
    /// or a writer seems to be between two files.
    pub fn pending_since(&self) -> Option<Instant> {
        if self.failing_since().is_some() {
            return None;
        }
        let trouble = self.trouble.as_ref().map(|trouble| trouble.since);
        let settling = self.settling.as_ref().map(|settling| settling.began);
        trouble.into_iter().chain(settling).min()
    }

    /// Whether a withdrawal of trust, or a newer revocation list, is held back, because something else is broken, or because the
    /// material without what was withdrawn can not be used.
    pub fn is_withdrawal_pending(&self) -> bool {
        let is_held = self.trouble.as_ref().is_some_and(|trouble| trouble.withdrawal.is_some());
        is_held || self.withdrawn.failed().is_some()
    }

    pub(in crate::machine) fn tell_recovery(&mut self, was_failing: bool) {
        if was_failing && self.failing_since().is_none() {
            self.told.push_back(Told::Recovered);
        }
    }
}
