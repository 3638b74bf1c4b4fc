//! How many idle threads are too many. A condition variable wakes those that wait in turn, so that a little work keeps
//! every thread of a busy hour from being idle for long. What tells is how many were idle at every moment.

use std::time::{Duration, Instant};

/// The least number of idle threads in the window of time that runs, and how many threads are to end because of the
/// one before.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    since: Option<Instant>,
    least: usize,
    to_end: usize,
}

impl Surplus {
    /// A thread found work: so many are idle still.
    pub(super) fn woke(&mut self, idle: usize) {
        self.least = self.least.min(idle);
    }

    /// A thread found no work, and so many are idle with it. Whether it is one too many: all through a window some were
    /// never needed. The one that keeps the time stays, always.
    pub(super) fn is_too_many(&mut self, now: Instant, idle: usize, window: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= window {
            self.to_end = self.least.saturating_sub(1);
            (self.since, self.least) = (Some(now), idle);
        }
        let ends = self.to_end > 0 && idle > 1;
        if ends {
            self.to_end -= 1;
            self.least = self.least.min(idle - 1);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    /// Threads that are woken in turn, as many at once as there is work, every 100 ms. How many are left.
    fn after(seconds: u64, threads: usize, at_once: usize) -> usize {
        let (mut surplus, start, mut idle) = (Surplus::default(), Instant::now(), threads);
        for turn in 0..seconds * 10 {
            let now = start + Duration::from_millis(turn * 100);
            let woken = at_once.min(idle);
            for _ in 0..woken {
                idle -= 1;
                surplus.woke(idle);
            }
            for _ in 0..woken {
                idle += 1;
                if surplus.is_too_many(now, idle, WINDOW) {
                    idle -= 1;
                }
            }
        }
        idle
    }

    #[test]
    fn threads_of_a_busy_hour_end_although_they_are_woken_in_turn() {
        assert_eq!(after(30, 40, 1), 2);
        assert_eq!(after(30, 40, 3), 4);
    }

    #[test]
    fn what_is_needed_and_the_last_one_stay() {
        assert_eq!(after(4, 40, 1), 40);
        assert_eq!(after(60, 5, 5), 5);
        assert_eq!(after(60, 1, 1), 1);
    }
}
