//! What threads are to do next. What somebody waits for does not stand behind thousands of looks that are due.

use std::collections::VecDeque;

/// Two lines, from which is taken in turn: neither can hold the other up by more than one job for each of its own.
pub(super) struct Queue<T> {
    asked: VecDeque<T>,
    due: VecDeque<T>,
    was_asked: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { asked: VecDeque::new(), due: VecDeque::new(), was_asked: false }
    }
}

impl<T> Queue<T> {
    /// Adds what something asked for: a caller, a wake-up.
    pub(super) fn push(&mut self, job: T) {
        self.asked.push_back(job);
    }

    /// Adds what is due by time.
    pub(super) fn push_due(&mut self, job: T) {
        self.due.push_back(job);
    }

    /// What is due by time, the next one first.
    pub(super) fn due(&self) -> impl ExactSizeIterator<Item = &T> {
        self.due.iter()
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let takes_due = self.asked.is_empty() || (self.was_asked && !self.due.is_empty());
        self.was_asked = !takes_due;
        if takes_due { self.due.pop_front() } else { self.asked.pop_front() }
    }

    /// How much is left of what was asked for.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.due.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_waits_for_one_that_is_due_and_neither_starves() {
        let mut queue = Queue::default();
        (1..=4).for_each(|number| queue.push_due(number));
        assert_eq!(queue.pop(), Some(1));
        queue.push(10);
        assert_eq!((queue.pop(), queue.pop()), (Some(10), Some(2)));
        queue.push(11);
        queue.push(12);
        assert_eq!((queue.len(), queue.asked()), (4, 2));
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [11, 3, 12, 4]);
        assert!(queue.is_empty());
        queue.push(13);
        queue.push(14);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(13), Some(14), None));
    }
}
