//! The smallest engine: one source, one machine, the caller's thread and the caller's clock.
//!
//! `certsource-reload` has the engine with threads. This one is for programs that have a loop of their own, and for
//! simulated time.

use std::fmt;
use std::time::Instant;

use crate::clock::Now;
use crate::machine::{Candidate, Machine, Policy, Todo, Told, Verdict};
use crate::material::Reading;
use crate::source::{Alarm, Source};

/// Drives one source on the caller's thread.
///
/// ```no_run
/// use certsource::{Driver, Files, clock::Now, machine::{Policy, Told}};
///
/// let mut driver = Driver::new(Files::trust("/etc/tls/ca.pem"), Policy::default());
/// loop {
///     let next = driver.run(Now::read);
///     for told in driver.drain() {
///         if let Told::Published(publication) = told {
///             println!("generation {}", publication.number);
///         }
///     }
///     let pause = next.map_or(std::time::Duration::from_secs(1), |at| at.saturating_duration_since(Now::read().mono));
///     std::thread::sleep(pause);
/// }
/// ```
pub struct Driver<S> {
    source: S,
    machine: Machine,
    alarm: Alarm,
    gate: Box<dyn FnMut(&Candidate) -> Verdict + Send>,
}

impl<S: Source> Driver<S> {
    /// A driver that polls, with no gate.
    pub fn new(source: S, policy: Policy) -> Self {
        let machine = Machine::new(policy, source.origin());
        let alarm = Alarm::new(crate::source::Wake::new(|| ()));
        Self { source, machine, alarm, gate: Box::new(|_| Verdict::Accept) }
    }

    /// The same driver, with this alarm: its wake-up should lead to [`Driver::wake`].
    #[must_use]
    pub fn with_alarm(mut self, alarm: Alarm) -> Self {
        self.alarm = alarm;
        self
    }

    /// The same driver, with this gate before publishing.
    #[must_use]
    pub fn with_gate(mut self, gate: impl FnMut(&Candidate) -> Verdict + Send + 'static) -> Self {
        self.gate = Box::new(gate);
        self
    }

    /// Does everything that is due and returns when to call again; `None` means at the next wake-up only.
    pub fn run(&mut self, clock: impl Fn() -> Now) -> Option<Instant> {
        loop {
            if let Some(until) = self.step(&clock) {
                return until;
            }
        }
    }

    /// Does one thing that is due: one look, one read or one judgement. Returns `Some` when nothing is.
    pub fn step(&mut self, clock: impl Fn() -> Now) -> Option<Option<Instant>> {
        let now = clock();
        match self.machine.next(now) {
            Todo::Wait(until) => return Some(until),
            Todo::Look => {
                let armed = self.source.arm(&self.alarm);
                self.machine.armed(armed);
                let look = self.source.look(now);
                self.machine.looked(clock(), look);
            }
            Todo::Read => {
                let reading = self.source.read().map_or_else(Reading::from, crate::parts::Parts::assemble);
                self.machine.read(now, clock(), reading);
            }
            Todo::Judge(candidate) => {
                let verdict = (self.gate)(&candidate);
                self.machine.judged(clock(), verdict);
            }
        }
        None
    }

    /// Takes what there is to tell.
    pub fn drain(&mut self) -> impl Iterator<Item = Told> {
        std::iter::from_fn(|| self.machine.tell())
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Something may have changed: look at the next [`Driver::run`].
    pub fn wake(&mut self, now: Now) {
        self.machine.woken(now);
    }

    /// As [`Driver::wake`], for somebody who needs what there is. See [`Machine::hurry`].
    pub fn hurry(&mut self, now: Now) {
        self.machine.hurry(now);
    }

    /// Asks for a read whatever the next look says. Answered by [`Told::Concluded`] with this ticket or a later one.
    pub fn demand(&mut self, now: Now) -> u64 {
        self.machine.demand(now)
    }

    /// Ends every overlap. See [`Machine::withdraw_now`].
    pub fn withdraw_now(&mut self, now: Now) -> u64 {
        self.machine.withdraw_now(now)
    }
}

impl<S> fmt::Debug for Driver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("machine", &self.machine).finish_non_exhaustive()
    }
}
