//! What is due when. Moments lie on a grid, so many sources share one: they are kept together, and the tree stays small
//! however many sources there are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What must not come early is rounded up to this grid, so that many sources share one wake-up of a thread.
const GRID: u64 = 20_000_000;
/// What may come early is rounded down to a grid as coarse as that allows, but no coarser than this: fewer wake-ups a second
/// save nothing.
const COARSEST: u64 = 1_000_000_000;

/// A moment that others share: one between `from` and `until`, or a little after `until` if they are too close.
pub(super) fn shared(zero: Instant, from: Instant, until: Instant) -> Instant {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let past = nanos(until.saturating_duration_since(zero));
    let leeway = nanos(until.saturating_duration_since(from));
    if leeway < GRID {
        let rest = past % GRID;
        return if rest == 0 { until } else { until + Duration::from_nanos(GRID - rest) };
    }
    // The leeway itself, or half of it, or a quarter: it is a share of the interval, and so all that have the same interval
    // have the same grid, and that one divides the interval wherever the share does.
    let halvings = leeway.div_ceil(COARSEST).next_power_of_two();
    let grid = leeway / halvings;
    until.checked_sub(Duration::from_nanos(past % grid)).unwrap_or(until)
}

/// Numbers by the moment at which they are due.
#[derive(Default)]
pub(super) struct Times(BTreeMap<Instant, Vec<u64>>);

impl Times {
    pub(super) fn insert(&mut self, at: Instant, id: u64) {
        self.0.entry(at).or_default().push(id);
    }

    pub(super) fn remove(&mut self, at: Instant, id: u64) {
        let Some(ids) = self.0.get_mut(&at) else { return };
        if let Some(place) = ids.iter().position(|known| *known == id) {
            ids.swap_remove(place);
        }
        if ids.is_empty() {
            self.0.remove(&at);
        }
    }

    /// The next moment at which something is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    /// Takes what is due at the earliest moment that is not after `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Vec<u64>> {
        let first = self.0.first_entry().filter(|first| *first.key() <= now)?;
        Some(first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_come_early_shares_a_moment_and_what_may_not_is_never_early() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        for ms in 0..5_000 {
            let exact = shared(zero, at(ms), at(ms));
            assert!(exact >= at(ms) && exact < at(ms + 20), "{ms}");
            for leeway in [19, 40, 100, 1_000, 100_000] {
                let from = at(ms);
                let moment = shared(zero, from, at(ms + leeway));
                assert!(moment >= from, "{ms} {leeway}");
                let late = if leeway < 20 { 19 } else { 0 };
                assert!(moment <= at(ms + leeway + late), "{ms} {leeway}");
            }
        }
        // A second and a quarter of it: four moments a second for all of them. Ten seconds and a quarter: not even two.
        let count = |leeway: u64, span: u64| {
            let moments = (leeway..leeway + span).map(|ms| shared(zero, at(ms - leeway), at(ms)));
            moments.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((count(250, 8_000), count(2_500, 50_000)), (32, 80));
    }

    #[test]
    fn what_is_not_spread_is_early_once_and_an_interval_apart_from_then_on() {
        let zero = Instant::now();
        for (interval, begin) in [(1_000, 3), (1_000, 1_777), (10_000, 123), (60_000, 59_999), (100, 30)] {
            let (interval, begin) = (Duration::from_millis(interval), Duration::from_millis(begin));
            let next = |at: Instant| shared(zero, at + interval - interval / 4, at + interval);
            let first = next(zero + begin);
            assert!(first <= zero + begin + interval && first >= zero + begin + interval * 3 / 4);
            let mut at = first;
            for look in 1..50 {
                // Each look is a little late.
                at = next(at + Duration::from_millis(2));
                assert_eq!(at, first + interval * look);
            }
        }
    }

    #[test]
    fn what_is_spread_has_more_than_one_moment_to_go_to() {
        let zero = Instant::now();
        for seconds in [1, 5, 10, 60] {
            for spread in [0.05, 0.1, 0.2, 0.25, 0.5] {
                // As `Machine` draws it, right after a shared moment.
                let interval = Duration::from_secs(seconds);
                let leeway = interval.mul_f64((2.0_f64 * spread * 0.4).min(0.25));
                let (first, last) = (interval.mul_f64(1.0 - spread) + leeway, interval.mul_f64(1.0 + spread));
                let mut counts = std::collections::BTreeMap::new();
                for draw in 0..100 {
                    let until = zero + Duration::from_millis(1) + first + (last - first) * draw / 100;
                    *counts.entry(shared(zero, until - leeway, until)).or_insert(0) += 1;
                }
                assert!(counts.values().all(|count| *count <= 80), "{seconds} s, {spread}: {counts:?}");
            }
        }
    }

    #[test]
    fn what_is_due_comes_moment_by_moment_and_what_was_removed_does_not() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut times = Times::default();
        for (ms, id) in [(20, 1), (10, 2), (20, 3), (30, 4), (10, 5)] {
            times.insert(at(ms), id);
        }
        times.remove(at(10), 5);
        times.remove(at(10), 99);
        times.remove(at(11), 2);
        assert_eq!(times.first(), Some(at(10)));
        assert_eq!(times.take_due(at(9)), None);
        assert_eq!(times.take_due(at(20)), Some(vec![2]));
        assert_eq!(times.take_due(at(20)), Some(vec![1, 3]));
        assert_eq!(times.take_due(at(20)), None);
        times.remove(at(30), 4);
        assert_eq!(times.first(), None);
    }
}
