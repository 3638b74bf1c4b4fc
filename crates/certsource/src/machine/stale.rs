//! Failing closed: what is served although the source could not be confirmed for too long is served no more.
//!
//! What is not here: what becomes of connections then. That is the engine's, and of those who use it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Now, Utc};
use crate::error::{Error, Reason};
use crate::machine::{Machine, Told};

/// Nothing is served any more: the source could not be confirmed for longer than
/// [`Policy::max_stale`](crate::machine::Policy::max_stale).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stale {
    /// The number of the generation that was served until then.
    pub generation: u64,
    /// When it was last confirmed, on the wall clock.
    pub since: SystemTime,
    /// How long it may stay unconfirmed.
    pub limit: Duration,
    /// What is wrong with the source, if that is known.
    pub error: Option<Error>,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the certificates could not be confirmed for {:?} (max_stale; last confirmed {}), so they are not used until the \
             source can be read again; ",
            self.limit,
            Utc(self.since)
        )?;
        match &self.error {
            Some(error) => write!(f, "mend it: {error}"),
            None => f.write_str("it did not answer, or never stood still"),
        }
    }
}

impl std::error::Error for Stale {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

impl From<Stale> for Error {
    fn from(stale: Stale) -> Self {
        Self::new(Reason::Stale, stale.to_string()).caused_by(stale)
    }
}

impl Machine {
    /// Whether nothing is served any more, because the source could not be confirmed for too long.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Tells [`Told::Stale`] if it is time, and returns when that may be: `None` while nothing is served, or without
    /// [`Policy::max_stale`](crate::machine::Policy::max_stale).
    ///
    /// [`Machine::next`] does this by itself. It is for the time when a job is out: one that hangs must not keep what
    /// nobody can confirm.
    pub fn watch_stale(&mut self, now: Now) -> Option<Instant> {
        let (limit, at) = (self.max_stale?, self.confirmed_at?);
        let due = at.mono + limit;
        if self.stale {
            return None;
        }
        if now.mono < due {
            return Some(due);
        }
        let generation = self.current()?.0;
        self.stale = true;
        // Nothing is trusted any more, also not what could not go.
        self.withdrawn.failed = None;
        // A look that says "same" is no proof any more: what it found the same was given up.
        self.must_read = true;
        if let Some(trouble) = &mut self.trouble {
            // Nothing is served from which something could still be withdrawn.
            trouble.withdrawal = None;
        }
        let error = self.trouble.as_ref().map(|trouble| trouble.error.clone());
        let error = error.or_else(|| self.out_since().map(|_| self.hung(now)));
        self.told.push_back(Told::Stale(Stale { generation, since: at.wall, limit, error }));
        None
    }

    /// The source was found to hold what is served, or what it holds was published: whether that ends a time in which
    /// nothing was served.
    pub(super) fn confirm(&mut self, now: Now) -> bool {
        if self.max_stale.is_some() {
            // Nobody else asks for it.
            self.confirmed_at = Some(now);
        }
        std::mem::take(&mut self.stale)
    }
}
