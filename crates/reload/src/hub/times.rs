//! What is due when. Moments lie on a grid, so many sources share one: they are kept together, and the tree stays small
//! however many sources there are.

use std::collections::BTreeMap;
use std::time::Instant;

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
    use std::time::Duration;

    use super::*;

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
