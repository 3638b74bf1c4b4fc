//! The count of attempts that no connection has taken yet: what `reload` waits for.
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`].

use std::sync::{Arc, PoisonError, Weak};

use crate::sync::{AtomicUsize, Mutex, Notify, Ordering};

/// Counts the attempts of a lane between "picked this generation" and "a connection took it".
#[derive(Default)]
pub(crate) struct Pulse {
    /// The count, and [`CLOSED`]. One word, so that an attempt either is counted before the lane is closed, or sees
    /// that it is.
    state: AtomicUsize,
    empty: Notify,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

impl Pulse {
    /// Counts an attempt; `false` when the lane is closed.
    #[must_use]
    pub(crate) fn enter(&self) -> bool {
        if self.state.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            return true;
        }
        self.leave();
        false
    }

    pub(crate) fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.empty.notify_waiters();
        }
    }

    /// Takes no attempt from now on.
    fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Waits until every attempt that was counted has been taken by a connection, or has ended. Only after `close`.
    async fn drained(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            // Registered before the count is looked at, so that the last one's leave is not missed.
            empty.as_mut().enable();
            if self.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            empty.await;
        }
    }
}

/// The lanes that are alive.
#[derive(Default)]
pub(crate) struct Lanes(Mutex<Vec<(u64, Weak<Pulse>)>>);

impl Lanes {
    pub(crate) fn add(&self, generation: u64, pulse: &Arc<Pulse>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|(_, pulse)| pulse.strong_count() > 0);
        lanes.push((generation, Arc::downgrade(pulse)));
    }

    /// Closes the lanes before `generation`, and waits until no attempt in them is waiting for a connection.
    pub(crate) async fn drain_before(&self, generation: u64) {
        let older: Vec<_> = {
            let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let older = lanes.iter().filter(|(number, _)| *number < generation);
            older.filter_map(|(_, pulse)| pulse.upgrade()).collect()
        };
        for pulse in &older {
            pulse.close();
        }
        for pulse in older {
            pulse.drained().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_closed_lane_takes_nothing() {
        let pulse = Pulse::default();
        assert!(pulse.enter());
        pulse.close();
        assert!(!pulse.enter());
        pulse.leave();
        assert_eq!(pulse.state.load(Ordering::Relaxed), CLOSED);
    }

    #[tokio::test]
    async fn draining_waits_for_what_was_counted_and_for_older_lanes_only() {
        let lanes = Arc::new(Lanes::default());
        let (old, new) = (Arc::new(Pulse::default()), Arc::new(Pulse::default()));
        lanes.add(1, &old);
        lanes.add(2, &new);
        assert!(old.enter() && new.enter());
        let drain = tokio::spawn({
            let lanes = Arc::clone(&lanes);
            async move { lanes.drain_before(2).await }
        });
        while old.enter() {
            old.leave();
            tokio::task::yield_now().await;
        }
        assert!(!drain.is_finished());
        old.leave();
        tokio::time::timeout(Duration::from_secs(10), drain).await.unwrap().unwrap();
        assert!(new.enter(), "the newer lane stays open");
    }

    #[test]
    fn lanes_that_are_gone_are_forgotten() {
        let lanes = Lanes::default();
        for number in 0..10 {
            lanes.add(number, &Arc::new(Pulse::default()));
        }
        assert_eq!(lanes.0.lock().unwrap().len(), 1);
    }
}
