//! The guard: the thread that sees to it that what is due or queued finds a thread, and that what hangs is found.

use std::sync::Arc;
use std::time::Instant;

use super::slots::Run;
use super::{BACKLOG, Job, LATE, PATIENCE, QUICK, Shared, State, wait};
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
            let (patience, is_short) = state.mind_queue(now);
            if is_short && state.idle > 0 {
                self.wake_idle(&state);
            } else if is_short {
                self.hire(&mut state);
            }
            until = [until, patience].into_iter().flatten().min();
            state.guard_until = until;
            state = wait(&self.guard, state, until).0;
        }
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

impl State {
    /// Whether what is queued needs one more thread, and when to ask again.
    ///
    /// What is due together is done by one thread, one after the other. A second one would be in its way at each of them, and as
    /// each batch would wake it again, it would have no quiet time after which it ends. So another one comes only if nothing is
    /// taken for [`PATIENCE`], or if there is no end of it for [`BACKLOG`] and each takes its time.
    fn mind_queue(&mut self, now: Instant) -> (Option<Instant>, bool) {
        if self.queue.is_empty() {
            return (None, false);
        }
        let stands = *self.waiting_since.get_or_insert(now) + PATIENCE;
        let is_behind = *self.behind_since.get_or_insert(now) + BACKLOG;
        let is_slow = now >= is_behind && self.taken < QUICK;
        if now >= is_behind {
            (self.behind_since, self.taken) = (Some(now), 0);
        }
        let is_short = self.threads == 0 || now >= stands || is_slow;
        if is_short {
            self.waiting_since = Some(now);
        }
        (self.waiting_since.map(|since| since + PATIENCE), is_short)
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
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut state = queue_of_three();
        // A thread takes one each millisecond: the one that is idle is left alone.
        for ms in 0..50 {
            state.waiting_since = Some(at(ms));
            assert_eq!(state.mind_queue(at(ms + 1)), (Some(at(ms) + PATIENCE), false));
        }
        // It hangs: another one is asked for, and not again at once.
        let late = at(49) + PATIENCE;
        assert_eq!(state.mind_queue(late), (Some(late + PATIENCE), true));
        assert_eq!(state.mind_queue(late), (Some(late + PATIENCE), false));
        state.threads = 0;
        assert!(state.mind_queue(late).1, "there is none");
        assert_eq!(State::default().mind_queue(late), (None, false), "nothing is queued");
    }

    #[test]
    fn a_queue_that_has_no_end_gets_another_thread_if_each_job_takes_its_time() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        for (jobs_a_ms, expected) in [(1, &[100, 200, 300, 400][..]), (9, &[100, 200, 300, 400]), (10, &[])] {
            let mut state = queue_of_three();
            let asked = (0..500).filter(|ms| {
                state.waiting_since = Some(at(*ms));
                let (_, is_short) = state.mind_queue(at(*ms));
                state.taken += jobs_a_ms;
                is_short
            });
            assert_eq!(asked.collect::<Vec<_>>(), expected, "{jobs_a_ms}");
        }
    }

    #[test]
    fn the_guard_is_told_once_of_a_moment_and_again_only_of_an_earlier_one() {
        let (shared, begin) = (Shared::new(), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut state = State::default();
        let told = [20, 30, 20, 10, 15].map(|ms| {
            shared.tell_guard(&mut state, at(ms));
            state.guard_until
        });
        assert_eq!(told, [20, 20, 20, 10, 10].map(|ms| Some(at(ms))));
    }
}
