//! The guard: the thread that sees to it that what is due or queued finds a thread, and that what hangs is found.

use std::sync::Arc;
use std::time::Instant;

use super::slots::Run;
use super::{BACKLOG, Job, LATE, PATIENCE, Shared, State, wait};
use crate::reloader::{Entry, Overdue};

impl Shared {
    /// The guard: sees to it that what is due or queued finds a thread, and that what hangs is found.
    pub(super) fn guard(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            let queued = state.queue.len();
            if now.checked_sub(LATE).is_some_and(|late| state.times.first().is_some_and(|at| at <= late)) {
                state.queue_due(now);
            }
            self.find_overdue(&mut state, now);
            if state.queue.len() > queued {
                self.kick(&mut state);
            }
            let due = state.times.first().map(|at| at + LATE);
            let check = state.running.iter().filter_map(|job| job.check).min();
            let mut until = [due, check].into_iter().flatten().min();
            let patience = self.mind_queue(&mut state, now);
            until = [until, patience].into_iter().flatten().min();
            state.guard_until = until;
            state = wait(&self.guard, state, until).0;
        }
    }

    /// Sees to it that what is queued finds a thread. Returns when to come again.
    ///
    /// What is due together is done by one thread, one after the other. A second one would be in its way at each of them, and as
    /// each batch would wake it again, it would have no quiet time after which it ends. So another one comes only if nothing is
    /// taken for [`PATIENCE`], or if there is no end of it for [`BACKLOG`].
    fn mind_queue(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        if state.queue.is_empty() {
            return None;
        }
        let stands = *state.waiting_since.get_or_insert(now) + PATIENCE;
        let is_behind = *state.behind_since.get_or_insert(now) + BACKLOG;
        if state.threads > 0 && now < stands && now < is_behind {
            return Some(stands.min(is_behind));
        }
        if state.idle > 0 {
            self.wake_idle(state);
        } else {
            self.hire(state);
        }
        (state.waiting_since, state.behind_since) = (Some(now), Some(now));
        Some(now + PATIENCE)
    }

    /// Jobs that may hang are looked into by another thread.
    fn find_overdue(self: &Arc<Self>, state: &mut State, now: Instant) {
        let State { running, entries, queue, .. } = state;
        for job in running.iter_mut().filter(|job| job.check.is_some_and(|at| at <= now)) {
            job.check = None;
            let Some((id, turn)) = job.of else { continue };
            let Some(entry) = entries.get_mut(id).map(|slot| slot.entry.clone()) else { continue };
            let (shared, job) = (Arc::clone(self), job.job);
            queue.push(Job::Task(Box::new(move || match Entry::overdue(&entry) {
                Overdue::No(at) => shared.check_later(job, at),
                Overdue::Told => {}
                Overdue::GivenUp => shared.give_up(id, turn),
            })));
        }
    }

    fn check_later(self: &Arc<Self>, job: u64, at: Instant) {
        let mut state = self.lock();
        if let Some(running) = state.running.iter_mut().find(|running| running.job == job) {
            running.check = Some(at);
            self.tell_guard(&mut state, at);
        }
    }

    /// The thread that has this turn hangs in something that the source does not need: another one goes on.
    fn give_up(self: &Arc<Self>, id: u64, turn: u64) {
        let mut state = self.lock();
        let Some(slot) = state.entries.get_mut(id).filter(|slot| slot.turn == turn) else { return };
        slot.turn += 1;
        slot.run = Run::Idle;
        if state.queue_up(id) {
            self.kick(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn queue_of_three() -> State {
        let mut state = State { threads: 2, idle: 1, ..State::default() };
        (0..3).for_each(|id| state.queue.push_due(Job::Drive(id)));
        state
    }

    #[test]
    fn what_is_queued_is_left_to_the_thread_that_works_until_it_takes_nothing_for_a_while() {
        let (shared, begin) = (Arc::new(Shared::new()), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut state = queue_of_three();
        // A thread takes one each millisecond: the one that is idle is left alone.
        for ms in 0..50 {
            state.waiting_since = Some(at(ms));
            assert_eq!(shared.mind_queue(&mut state, at(ms + 1)), Some(at(ms) + PATIENCE));
            assert_eq!(state.waiting_since, Some(at(ms)), "nobody was asked");
        }
        // It hangs: the idle one is asked, and not again at once.
        let late = at(49) + PATIENCE;
        assert_eq!(shared.mind_queue(&mut state, late), Some(late + PATIENCE));
        assert_eq!(state.waiting_since, Some(late));
        assert_eq!(shared.mind_queue(&mut State::default(), late), None, "nothing is queued");
    }

    #[test]
    fn a_queue_that_has_no_end_gets_another_thread_however_quickly_it_is_taken_from() {
        let (shared, begin) = (Arc::new(Shared::new()), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut state = queue_of_three();
        let asked = (0..500).filter(|ms| {
            state.waiting_since = Some(at(*ms));
            shared.mind_queue(&mut state, at(*ms)) == Some(at(*ms) + PATIENCE)
                && state.behind_since == Some(at(*ms))
        });
        // At 0 it is seen for the first time, and nobody is asked.
        assert_eq!(asked.collect::<Vec<_>>(), [0, 100, 200, 300, 400]);
    }
}
