//! [`Entry`]: one source on the hub's threads. It gives the machine what it asks for.
//!
//! What is not here: asking the checks and building derived values (`entry/judge.rs`), building later what could not be
//! built (`entry/mend.rs`), and carrying out what the machine decided (`entry/tell.rs`).
//!
//! Locks are taken in this order: `telling`, `slots`, `judging`, `waiting`, `machine`, `notes`. The application's code
//! (checks, derive closures, hooks, drops of its values) runs under none of them.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use certsource::Reading;
use certsource::clock::Now;
use certsource::machine::{Machine, Todo};
use certsource::parts::Parts;
use certsource::source::{Alarm, Look, Wake};

use self::judge::Judging;
use self::tell::{Answer, First, Notes, Waiting};
use super::*;
use crate::derived::{AnySlot, Build};
use crate::gate::panicked;

mod judge;
mod mend;
mod tell;

/// One source that is followed. Handles hold it strongly, the hub's threads weakly.
//
// What a look needs comes first, beside the counts of the handles: with thousands of sources, a look costs as much as the
// lines of memory that it touches.
#[repr(C)]
pub(crate) struct Entry {
    machine: Mutex<Driven>,
    pub(super) origin: Origin,
    /// Made by the first who subscribes: it holds room for the whole backlog.
    events: OnceLock<broadcast::Sender<Event>>,
    /// Made by the first who watches.
    numbers: OnceLock<watch::Sender<u64>>,
    current: ArcSwapOption<Generation>,
    wake: Wake,
    gates: Vec<Box<dyn Gate>>,
    hooks: Arc<Hooks>,
    failures_are_hooked: bool,
    waiting: Mutex<Waiting>,
    /// Values that are replaced together with the generation. Held while one is published, so that a value that is
    /// derived at that moment misses neither.
    slots: Mutex<Vec<Weak<dyn AnySlot>>>,
    judging: Mutex<Judging>,
    /// Held by the one thread that tells: so what is told keeps its order.
    telling: Mutex<()>,
    notes: Mutex<Notes>,
    deadline: Duration,
    max_stale: Option<Duration>,
    /// Set while nothing is served.
    pub(super) stale: ArcSwapOption<Stale>,
    /// When it is looked whether what is served is stale, and by what that can be given up.
    stale_watch: Mutex<Option<(Instant, u64)>>,
    /// When values that could not be built are tried again, and by what that can be given up.
    mending: Mutex<Option<(Instant, u64)>>,
    /// The first pause before that, and the longest.
    first_pause: Duration,
    longest_pause: Duration,
    me: Weak<Self>,
    id: u64,
    hub: Hub,
}

/// A machine and its source. Together, so that one lock does for both.
#[repr(C)]
struct Driven {
    /// Away while a thread works with it.
    source: Option<Armable>,
    machine: Machine,
}

impl Deref for Driven {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for Driven {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

/// A source and what wakes it. Together, so that a look needs no handle of its own to the second.
struct Armable {
    source: Box<dyn Source>,
    /// Boxed, as few sources want it.
    alarm: Box<Alarm>,
}

/// When a source is to be driven again.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    pub(crate) until: Instant,
    /// It may be done from here on, together with others.
    pub(crate) from: Instant,
}

/// What became of a job that seemed to take too long.
pub(crate) enum Overdue {
    /// It is in time; look again then.
    No(Instant),
    /// It hangs, and that was told.
    Told,
    /// It hangs in a check: the source goes on without the thread that has it.
    GivenUp,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    pub(super) fn new(
        hub: Hub,
        source: Box<dyn Source>,
        policy: Policy,
        gates: Vec<Box<dyn Gate>>,
        hooks: Hooks,
        failures_are_hooked: bool,
    ) -> Arc<Self> {
        let origin = source.origin();
        let id = hub.next_id();
        let wake = Wake::new(hub.waker(id));
        let alarm = Alarm::new(wake.clone());
        #[cfg(feature = "notify")]
        let alarm = alarm.with_watches(hub.watches());
        let machine = Machine::new(policy, origin.clone());
        let policy = machine.policy();
        let (first_pause, longest_pause) =
            (policy.backoff, policy.backoff_max.min(policy.interval).max(policy.backoff));
        let (deadline, max_stale) = (policy.deadline, policy.max_stale);
        let source = Some(Armable { source, alarm: Box::new(alarm) });
        Arc::new_cyclic(|me| Self {
            machine: Mutex::new(Driven { source, machine }),
            me: me.clone(),
            mending: Mutex::default(),
            first_pause,
            longest_pause,
            deadline,
            max_stale,
            stale: ArcSwapOption::empty(),
            stale_watch: Mutex::default(),
            events: OnceLock::new(),
            numbers: OnceLock::new(),
            current: ArcSwapOption::empty(),
            wake,
            gates,
            hooks: Arc::new(hooks),
            failures_are_hooked,
            waiting: Mutex::default(),
            slots: Mutex::default(),
            judging: Mutex::default(),
            telling: Mutex::default(),
            notes: Mutex::default(),
            origin,
            id,
            hub,
        })
    }

    pub(super) fn begin(self: &Arc<Self>, until: Option<Instant>, answer: Answer) {
        lock(&self.waiting).first = Some(First { until, last: None, answer });
        #[cfg(feature = "metrics")]
        crate::metrics::begin(&self.origin);
        if !self.hub.add(self.id, Arc::downgrade(self), self.deadline) {
            let error = Error::new(Reason::Io, "cannot start a thread to follow the source; raise the limit");
            return self.refuse_first(error.of(self.origin.clone()));
        }
        if let Some(until) = until {
            let entry = Arc::downgrade(self);
            self.hub.at(until, move || {
                if let Some(entry) = entry.upgrade() {
                    entry.answer_first(None);
                }
            });
        }
        lock(&self.machine).demand(Now::read());
        self.watch_stale();
        self.hub.drive(self.id);
    }

    /// Sees to it that what nobody can confirm is given up in time, also while a job hangs.
    fn watch_stale(self: &Arc<Self>) {
        let Some(limit) = self.max_stale else { return };
        let now = Now::read();
        let (due, has_told) = {
            let mut machine = lock(&self.machine);
            (machine.watch_stale(now), machine.has_told())
        };
        if has_told {
            self.carry_out();
        }
        // What is served from now on is stale no sooner.
        let at = due.unwrap_or(now.mono + limit);
        let entry = Arc::downgrade(self);
        let id = self.hub.at(at, move || {
            if let Some(entry) = entry.upgrade() {
                entry.watch_stale();
            }
        });
        *lock(&self.stale_watch) = Some((at, id));
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.events.get_or_init(|| broadcast::Sender::new(BACKLOG)).subscribe())
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        let current = || self.current().map_or(0, |generation| generation.number());
        self.numbers.get_or_init(|| watch::Sender::new(current())).subscribe()
    }

    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    pub(super) fn wake(&self) {
        // Somebody needs what there is; a fleet is spread without it.
        lock(&self.machine).hurry(Now::read());
        self.wake.wake();
    }

    /// `withdraws`: every overlap ends, too.
    pub(super) fn demand(
        self: &Arc<Self>,
        withdraws: bool,
        answer: impl FnOnce(Result<Arc<Generation>, Error>) + Send + 'static,
    ) {
        let is_answered = {
            let mut waiting = lock(&self.waiting);
            let mut machine = lock(&self.machine);
            let now = Now::read();
            let ticket = if withdraws { machine.withdraw_now(now) } else { machine.demand(now) };
            waiting.demands.push((ticket, Box::new(answer)));
            machine.is_overdue()
        };
        if is_answered {
            // The thread that would tell hangs.
            let entry = Arc::downgrade(self);
            self.hub.run(move || {
                if let Some(entry) = entry.upgrade() {
                    entry.carry_out();
                }
            });
        }
        self.hub.drive(self.id);
    }

    pub(super) fn derive<T: Send + Sync + 'static>(&self, build: Build<T>) -> Result<Arc<Slot<T>>, Error> {
        let mut generation = self.current().ok_or_else(|| gone(self))?;
        let slot = Arc::new(Slot::start(build, &generation)?);
        loop {
            {
                // No generation is published between this look and the place in the list.
                let mut slots = lock(&self.slots);
                let current = self.current().ok_or_else(|| gone(self))?;
                if current.number() == generation.number() {
                    if slots.len() == slots.capacity() {
                        slots.retain(|slot| slot.strong_count() > 0);
                    }
                    let any: Arc<dyn AnySlot> = slot.clone();
                    slots.push(Arc::downgrade(&any));
                    return Ok(slot);
                }
                generation = current;
            }
            slot.start_again(&generation)?;
        }
    }

    pub(super) fn status(&self) -> Status {
        // Before the trouble: an old generation without trouble is the lesser lie of the two.
        let current = self.current();
        let (trouble, is_broken, failing, pending, withdrawal_pending, arming) = {
            let machine = lock(&self.machine);
            let trouble = machine.trouble().map(|(error, _)| error.clone());
            let (failing, pending) = (machine.failing_since(), machine.pending_since());
            let (is_broken, is_held) = (machine.is_source_broken(), machine.is_withdrawal_pending());
            (trouble, is_broken, failing, pending, is_held, machine.arming().clone())
        };
        let stale = self.stale.load_full();
        let closed = stale.as_deref().filter(|_| failing.is_none());
        let seconds_since = |moment: Instant| moment.elapsed().as_secs_f64();
        let material = current.as_ref().map(|generation| generation.material());
        let degraded = current.as_ref().filter(|_| is_broken).and_then(|generation| generation.degraded());
        let degraded = degraded.map(tell::degraded_by).or_else(|| lock(&self.notes).newest());
        let degraded = degraded.or_else(|| self.unbuilt().map(|unbuilt| unbuilt.to_string()));
        let degraded = degraded.or(if let Armed::Degraded(why) = &arming { Some(why.clone()) } else { None });
        // What is wrong and was not told yet is pending, and no failure.
        let failure = trouble.filter(|_| failing.is_some());
        Status {
            origin: self.origin.clone(),
            generation: current.as_ref().map_or(0, |generation| generation.number()),
            digest: current.as_ref().map(|generation| generation.digest()),
            published_at: current.as_ref().map(|generation| generation.published_at()),
            age_seconds: current
                .as_ref()
                .map_or(0.0, |generation| generation.published().elapsed().as_secs_f64()),
            pending_seconds: pending.map(seconds_since),
            failing_seconds: failing.map(seconds_since),
            reason: failure.as_ref().map(|error| error.reason()).or(closed.map(|_| Reason::Stale)),
            message: failure
                .as_ref()
                .map(|error| error.to_string())
                .or_else(|| closed.map(ToString::to_string)),
            stale: stale.is_some(),
            withdrawal_pending,
            degraded,
            watching: arming == Armed::Watching,
            expires_at: material.and_then(|m| m.identity_not_after().or_else(|| m.earliest_not_after())),
            identity_ends: material.and_then(|m| m.identity_not_after()),
        }
    }

    /// Does everything that is due, on an I/O thread, and returns when to come again. While a source is looked at or
    /// read, this thread holds no handle: a hung disk keeps nothing alive.
    ///
    /// `woken`: something says that the source may have changed. What says so from now on has it driven again. `at`: this
    /// moment, if it was just read, and then the moment at which this ended, likewise. With thousands of sources the reads
    /// add up.
    pub(crate) fn drive(weak: &Weak<Self>, woken: bool, at: &mut Option<Now>) -> Option<Next> {
        let mut now = at.take().unwrap_or_else(Now::read);
        // Handed on is only what was read here: else a thread that never rests would have a clock that stands still.
        let mut is_fresh = false;
        let mut entry = weak.upgrade()?;
        let mut machine = lock(&entry.machine);
        machine.bring_forward(now);
        if woken {
            machine.woken(now);
        }
        loop {
            let todo = machine.next(now);
            let (from, is_quiet) = (machine.look_from(), !machine.has_told());
            if !is_quiet {
                // Before the source is taken away: if this panics, it must be there still.
                drop(machine);
                entry.carry_out();
                machine = lock(&entry.machine);
            }
            match todo {
                Todo::Wait(until) => {
                    drop(machine);
                    // What shows metrics is the application's, and may take its time.
                    if is_quiet && is_fresh && !cfg!(feature = "metrics") {
                        *at = Some(now);
                    }
                    entry.show();
                    return until.map(|until| Next { until, from: from.unwrap_or(until) });
                }
                Todo::Look => {
                    let away = machine.source.take();
                    drop(machine);
                    let mut away = away?;
                    let span = crate::trace::look(&entry.origin);
                    drop(entry);
                    let looked = guarded(|| {
                        let _in = span.enter();
                        let armed = away.source.arm(&away.alarm);
                        (armed, away.source.look(now))
                    });
                    // Closing it is the subscriber's code, so not under the lock.
                    drop(span);
                    entry = weak.upgrade()?;
                    (now, is_fresh) = (Now::read(), true);
                    let (armed, look) =
                        looked.unwrap_or_else(|error| (Armed::PollOnly, Err::<Look, Error>(error)));
                    machine = lock(&entry.machine);
                    machine.source = Some(away);
                    machine.armed(armed);
                    machine.looked(now, look);
                }
                Todo::Read => {
                    let away = machine.source.take();
                    drop(machine);
                    let mut away = away?;
                    let span = crate::trace::read(&entry.origin);
                    drop(entry);
                    let began = now;
                    let reading = guarded(|| {
                        let _in = span.enter();
                        away.source.read().map_or_else(Reading::from, Parts::assemble)
                    });
                    drop(span);
                    entry = weak.upgrade()?;
                    (now, is_fresh) = (Now::read(), true);
                    machine = lock(&entry.machine);
                    machine.source = Some(away);
                    machine.read(began, now, reading.unwrap_or_else(Reading::from));
                }
                Todo::Judge(candidate) => {
                    drop(machine);
                    let is_judged = {
                        let span = crate::trace::judge(&entry.origin);
                        let _in = span.enter();
                        entry.judge(&candidate)
                    };
                    if !is_judged {
                        return None;
                    }
                    (now, is_fresh) = (Now::read(), true);
                    machine = lock(&entry.machine);
                }
            }
        }
    }

    /// Gives the recorder of metrics the state as it is now: also what changes without an event, so that no gauge sticks.
    fn show(&self) {
        #[cfg(feature = "metrics")]
        crate::metrics::show(&self.status(), SystemTime::now());
    }

    /// A panic got through in [`Entry::drive`], from code of the application that runs where none should: the source
    /// must not stay away for ever. Returns when to come again.
    pub(crate) fn revive(weak: &Weak<Self>) -> Option<Next> {
        let entry = weak.upgrade()?;
        let now = Now::read();
        lock(&entry.judging).forget();
        let mut machine = lock(&entry.machine);
        if machine.out_since().is_some() {
            machine.looked(now, Err(panicked("following the source")));
        }
        let until = now.mono + Duration::from_secs(1);
        Some(Next { until, from: until })
    }

    /// The job that is out may hang.
    pub(crate) fn overdue(weak: &Weak<Self>) -> Overdue {
        let Some(entry) = weak.upgrade() else { return Overdue::Told };
        let now = Now::read();
        // One thread does many jobs in a row: what counts is when the one at hand began.
        let began = lock(&entry.machine).out_since();
        let due = began.unwrap_or(now.mono) + entry.deadline;
        if now.mono < due {
            return Overdue::No(due);
        }
        if entry.give_up_judgement() {
            return Overdue::GivenUp;
        }
        {
            let mut machine = lock(&entry.machine);
            if machine.out_since() != began {
                // It came back just now, and another job may be out.
                return Overdue::No(machine.out_since().unwrap_or(now.mono) + entry.deadline);
            }
            machine.overdue(now);
        }
        entry.carry_out();
        Overdue::Told
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.hub.remove(self.id);
        let later = [lock(&self.stale_watch).take(), lock(&self.mending).take()];
        later.into_iter().flatten().for_each(|(at, id)| self.hub.forget(at, id));
        #[cfg(feature = "metrics")]
        crate::metrics::gone(&self.origin);
        if let Some(last) = self.current.swap(None) {
            last.retired().end();
        }
    }
}

/// Runs what a source does, and makes a panic in it an error.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| panicked("the source"))
}

/// Drops what the application made: its drop may panic.
fn discard<T>(value: T) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::error!("a value of the application panicked when it was dropped");
    }
}
