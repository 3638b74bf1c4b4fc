//! [`Entry`]: one source on the hub's threads. It gives the machine what it asks for and carries out what it decides.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use certsource::clock::Now;
use certsource::machine::{Candidate, Machine, Publication, Todo, Told, Verdict};
use certsource::parts::Parts;
use certsource::source::{Alarm, Look, Wake};
use certsource::{Material, Reading};

use super::*;
use crate::derived::{AnySlot, Build};
use crate::gate::panicked;

type Answer = Box<dyn FnOnce(Result<Arc<Generation>, Error>) + Send>;

/// One source that is followed. Handles hold it strongly, the hub's threads weakly.
pub(crate) struct Entry {
    pub(super) origin: Origin,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) numbers: watch::Sender<u64>,
    current: ArcSwapOption<Generation>,
    machine: Mutex<Machine>,
    /// Away while a thread works with it.
    source: Mutex<Option<Box<dyn Source>>>,
    alarm: Alarm,
    gates: Vec<Box<dyn Gate>>,
    hooks: Arc<Hooks>,
    failures_are_hooked: bool,
    waiting: Mutex<Waiting>,
    /// Values that are replaced together with the generation. The lock is held while one is published, so that a
    /// value that is derived at that moment misses neither.
    slots: Mutex<Vec<Weak<dyn AnySlot>>>,
    /// What the gates' thread built for the candidate that it judged.
    prepared: Mutex<Option<Prepared>>,
    degraded: Mutex<Option<String>>,
    judging: AtomicBool,
    /// Set by wake-ups, which take no lock: they come from the watcher's thread.
    woken: Arc<AtomicBool>,
    deadline: Duration,
    id: u64,
    hub: Hub,
}

#[derive(Default)]
struct Waiting {
    first: Option<First>,
    demands: Vec<(u64, Answer)>,
}

struct First {
    until: Option<Instant>,
    last: Option<Error>,
    answer: Answer,
}

struct Prepared {
    generation: Arc<Generation>,
    built: Vec<(Weak<dyn AnySlot>, Box<dyn Any + Send>)>,
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
        let woken = Arc::new(AtomicBool::new(false));
        let (flag, enqueue) = (Arc::clone(&woken), hub.waker(id));
        let alarm = Alarm::new(Wake::new(move || {
            flag.store(true, Ordering::Release);
            enqueue();
        }));
        #[cfg(feature = "notify")]
        let alarm = alarm.with_watches(hub.watches());
        Arc::new(Self {
            deadline: policy.deadline,
            events: broadcast::Sender::new(BACKLOG),
            numbers: watch::Sender::new(0),
            current: ArcSwapOption::empty(),
            machine: Mutex::new(Machine::new(policy, origin.clone())),
            source: Mutex::new(Some(source)),
            alarm,
            gates,
            hooks: Arc::new(hooks),
            failures_are_hooked,
            waiting: Mutex::default(),
            slots: Mutex::default(),
            prepared: Mutex::default(),
            degraded: Mutex::default(),
            judging: AtomicBool::new(false),
            woken,
            origin,
            id,
            hub,
        })
    }

    pub(super) fn begin(self: &Arc<Self>, until: Option<Instant>, answer: Answer) {
        lock(&self.waiting).first = Some(First { until, last: None, answer });
        self.hub.add(self.id, Arc::downgrade(self), self.deadline);
        if let Some(until) = until {
            let entry = Arc::downgrade(self);
            self.hub.at(until, move || {
                if let Some(entry) = entry.upgrade() {
                    entry.answer_first(None);
                }
            });
        }
        lock(&self.machine).demand(Now::read());
        self.hub.drive(self.id);
    }

    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    pub(super) fn wake(&self) {
        self.alarm.wake().wake();
    }

    pub(super) fn demand(&self, answer: impl FnOnce(Result<Arc<Generation>, Error>) + Send + 'static) {
        {
            let mut waiting = lock(&self.waiting);
            let ticket = lock(&self.machine).demand(Now::read());
            waiting.demands.push((ticket, Box::new(answer)));
        }
        self.hub.drive(self.id);
    }

    pub(super) fn derive<T: Send + Sync + 'static>(
        &self,
        build: Build<T>,
    ) -> Result<Arc<Slot<T>>, Error> {
        // Held over `build`: no generation is published between the one it sees and its place in the list.
        let mut slots = lock(&self.slots);
        let generation = self.current().ok_or_else(|| gone(self))?;
        let slot = Slot::start(build, &generation)?;
        let any: Arc<dyn AnySlot> = slot.clone();
        slots.push(Arc::downgrade(&any));
        Ok(slot)
    }

    pub(super) fn status(&self) -> Status {
        let (trouble, withdrawal_pending, watching) = {
            let machine = lock(&self.machine);
            let trouble = machine.trouble().map(|(error, since)| (error.clone(), since));
            (trouble, machine.is_withdrawal_pending(), *machine.arming() == Armed::Watching)
        };
        let current = self.current();
        let material = current.as_ref().map(|generation| generation.material());
        Status {
            origin: self.origin.clone(),
            generation: current.as_ref().map_or(0, |generation| generation.number()),
            digest: current.as_ref().map(|generation| generation.digest()),
            published_at: current.as_ref().map(|generation| generation.published_at()),
            age_seconds: current.as_ref().map_or(0.0, |generation| generation.published().elapsed().as_secs_f64()),
            failing_seconds: trouble.as_ref().map(|(_, since)| since.elapsed().as_secs_f64()),
            reason: trouble.as_ref().map(|(error, _)| error.reason()),
            message: trouble.as_ref().map(|(error, _)| error.to_string()),
            withdrawal_pending,
            degraded: lock(&self.degraded).clone(),
            watching,
            expires_at: material.and_then(|m| m.identity_not_after().or_else(|| m.earliest_not_after())),
        }
    }

    /// Does everything that is due, on an I/O thread, and returns when to come again. While a source is looked at or
    /// read, this thread holds no handle: a hung disk keeps nothing alive.
    pub(crate) fn drive(weak: &Weak<Self>) -> Option<Instant> {
        loop {
            let entry = weak.upgrade()?;
            let todo = {
                let (mut machine, now) = (lock(&entry.machine), Now::read());
                if entry.woken.swap(false, Ordering::AcqRel) {
                    machine.woken(now);
                }
                machine.next(now)
            };
            entry.carry_out();
            match todo {
                Todo::Wait(until) => return until,
                Todo::Look => {
                    let mut source = lock(&entry.source).take()?;
                    let alarm = entry.alarm.clone();
                    drop(entry);
                    let looked = guarded(|| {
                        let armed = source.arm(&alarm);
                        (armed, source.look(Now::read()))
                    });
                    let entry = weak.upgrade()?;
                    *lock(&entry.source) = Some(source);
                    let (armed, look) =
                        looked.unwrap_or_else(|error| (Armed::PollOnly, Err::<Look, Error>(error)));
                    let mut machine = lock(&entry.machine);
                    machine.armed(armed);
                    machine.looked(Now::read(), look);
                }
                Todo::Read => {
                    let mut source = lock(&entry.source).take()?;
                    drop(entry);
                    let began = Now::read();
                    let reading =
                        guarded(|| source.read().map_or_else(Reading::from, Parts::assemble)).unwrap_or_else(Reading::from);
                    let entry = weak.upgrade()?;
                    *lock(&entry.source) = Some(source);
                    lock(&entry.machine).read(began, Now::read(), reading);
                }
                Todo::Judge(candidate) => {
                    entry.judging.store(true, Ordering::Release);
                    let (verdict, prepared) = entry.judge(&candidate);
                    let mut machine = lock(&entry.machine);
                    if !entry.judging.swap(false, Ordering::AcqRel) {
                        // Given up while it hung: another thread goes on with this source.
                        return None;
                    }
                    *lock(&entry.prepared) = prepared;
                    machine.judged(Now::read(), verdict);
                }
            }
        }
    }

    /// The job that is out hangs. Returns whether it was a judgement: that one is given up.
    pub(crate) fn overdue(weak: &Weak<Self>) -> bool {
        let Some(entry) = weak.upgrade() else { return false };
        let given_up = {
            let mut machine = lock(&entry.machine);
            if entry.judging.swap(false, Ordering::AcqRel) {
                let error = Error::new(Reason::TimedOut, "a check before publishing took too long; it counts as a no");
                machine.judged(Now::read(), Verdict::Refuse(error.of(entry.origin.clone())));
                true
            } else {
                machine.overdue(Now::read());
                false
            }
        };
        entry.carry_out();
        given_up
    }

    /// Asks the gates, then builds every derived value: if one can not be built, the candidate is refused.
    fn judge(&self, candidate: &Candidate) -> (Verdict, Option<Prepared>) {
        for gate in &self.gates {
            let verdict = catch_unwind(AssertUnwindSafe(|| gate.judge(candidate)))
                .unwrap_or_else(|_| Verdict::Refuse(panicked("a check before publishing")));
            if !matches!(verdict, Verdict::Accept) && candidate.can_be_refused {
                return (verdict, None);
            }
        }
        let slots: Vec<_> = lock(&self.slots).clone();
        match self.prepare(&candidate.material, None, slots) {
            Ok(prepared) => (Verdict::Accept, Some(prepared)),
            Err(error) => (Verdict::Refuse(error.of(self.origin.clone())), None),
        }
    }

    fn prepare(
        &self,
        material: &Arc<Material>,
        degraded: Option<Error>,
        slots: Vec<Weak<dyn AnySlot>>,
    ) -> Result<Prepared, Error> {
        let number = self.current.load().as_ref().map_or(0, |generation| generation.number()) + 1;
        let generation = Arc::new(Generation::new(number, Arc::clone(material), degraded));
        let mut built = Vec::with_capacity(slots.len());
        for weak in slots {
            if let Some(slot) = weak.upgrade() {
                built.push((weak, slot.build(&generation)?));
            }
        }
        Ok(Prepared { generation, built })
    }

    /// Carries out what the machine decided, in its order.
    fn carry_out(&self) {
        loop {
            // One thread at a time: the lock of the slots also keeps the order of what is told.
            let mut slots = lock(&self.slots);
            let told = lock(&self.machine).tell();
            let Some(told) = told else { return };
            match told {
                Told::Published(publication) => {
                    self.publish(&mut slots, publication);
                    drop(slots);
                    self.answer_first(None);
                }
                Told::Pending(error) => self.emit(EventKind::Pending(self.failure(error))),
                Told::Failed(error) => {
                    self.emit(EventKind::Failed(self.failure(error.clone())));
                    drop(slots);
                    self.answer_first(Some(error));
                }
                Told::Refused(error) => {
                    self.emit(EventKind::Rejected(self.failure(error.clone())));
                    drop(slots);
                    self.answer_first(Some(error));
                }
                Told::Recovered => self.emit(EventKind::Recovered),
                Told::Degraded(why) => {
                    *lock(&self.degraded) = Some(why.clone());
                    self.emit(EventKind::Degraded(why));
                }
                Told::Expired => {
                    if let Some(generation) = self.current() {
                        self.emit(EventKind::Expired(generation));
                    }
                }
                Told::Concluded { ticket, result } => {
                    drop(slots);
                    self.conclude(ticket, &result);
                }
                _ => {}
            }
        }
    }

    fn publish(&self, slots: &mut Vec<Weak<dyn AnySlot>>, publication: Publication) {
        slots.retain(|slot| slot.strong_count() > 0);
        let prepared = lock(&self.prepared).take();
        let prepared = match prepared {
            Some(prepared) if Arc::ptr_eq(prepared.generation.material(), &publication.material) => Ok(prepared),
            _ => self.prepare(&publication.material, publication.degraded.clone(), slots.clone()),
        };
        let Prepared { generation, mut built } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.emit(EventKind::Failed(self.failure(error))),
        };
        debug_assert_eq!(generation.number(), publication.number);
        // Derived since the candidate was judged: built from the older generation, so built again.
        for slot in slots.iter() {
            if !built.iter().any(|(known, _)| Weak::ptr_eq(known, slot)) {
                if let Some(late) = slot.upgrade() {
                    match late.build(&generation) {
                        Ok(value) => built.push((slot.clone(), value)),
                        Err(error) => self.emit(EventKind::Failed(self.failure(error))),
                    }
                }
            }
        }
        let previous = self.current.swap(Some(Arc::clone(&generation)));
        for (slot, value) in built {
            if let Some(slot) = slot.upgrade() {
                slot.publish(value);
            }
        }
        if publication.degraded.is_none() {
            *lock(&self.degraded) = None;
        }
        self.numbers.send_replace(generation.number());
        let reload = Reload { generation: Arc::clone(&generation), diff: publication.diff };
        match previous {
            None => self.emit(EventKind::Loaded(reload)),
            Some(previous) => {
                previous.retired().retire();
                self.emit(EventKind::Reloaded(reload));
                self.emit(EventKind::Retired(previous.number()));
            }
        }
        if let Some(error) = publication.degraded {
            let why = format!("the trust is new, the identity is the last good one: {error}");
            *lock(&self.degraded) = Some(why.clone());
            self.emit(EventKind::Degraded(why));
        }
    }

    fn failure(&self, error: Error) -> Failure {
        let serving = self.current.load().as_ref().map(|generation| generation.number());
        Failure { error, serving, withdrawal_pending: lock(&self.machine).is_withdrawal_pending() }
    }

    /// Tells an event to subscribers, hooks and, where nobody else hears of it, to `tracing`.
    fn emit(&self, kind: EventKind) {
        match &kind {
            EventKind::Failed(failure) | EventKind::Rejected(failure) if !self.failures_are_hooked => {
                tracing::warn!(
                    origin = %self.origin,
                    event = kind.as_str(),
                    reason = failure.reason().as_str(),
                    serving = failure.serving(),
                    "cannot follow a source: {failure}"
                );
            }
            EventKind::Degraded(why) => tracing::warn!(origin = %self.origin, event = "degraded", "{why}"),
            EventKind::Expired(_) => {
                tracing::warn!(origin = %self.origin, event = "expired", "the served identity has expired");
            }
            EventKind::Loaded(reload) | EventKind::Reloaded(reload) => tracing::info!(
                origin = %self.origin,
                event = kind.as_str(),
                generation = reload.generation.number(),
                digest = %reload.generation.digest(),
                "a generation is served"
            ),
            _ => tracing::debug!(origin = %self.origin, event = kind.as_str()),
        }
        let event = Event { at: SystemTime::now(), origin: self.origin.clone(), kind, skipped: 0 };
        if self.hooks.push(event.clone()) {
            let hooks = Arc::clone(&self.hooks);
            self.hub.run(move || hooks.run());
        }
        // An error means that nobody subscribed.
        let _ = self.events.send(event);
    }

    fn conclude(&self, ticket: u64, result: &Result<u64, Error>) {
        let due = {
            let mut waiting = lock(&self.waiting);
            let (due, left) = std::mem::take(&mut waiting.demands).into_iter().partition(|(of, _)| *of <= ticket);
            waiting.demands = left;
            due
        };
        let due: Vec<(u64, Answer)> = due;
        let result = result.clone().and_then(|_| self.current().ok_or_else(|| gone(self)));
        for (_, answer) in due {
            answer(result.clone());
        }
        match &result {
            Ok(_) => self.answer_first(None),
            Err(error) => self.answer_first(Some(error.clone())),
        }
    }

    /// Answers whoever waits for the first load, if it is decided: a generation, or an error past the deadline.
    fn answer_first(&self, error: Option<Error>) {
        let mut waiting = lock(&self.waiting);
        let Some(first) = &mut waiting.first else { return };
        first.last = error.or_else(|| first.last.take());
        let result = match (self.current(), &first.last) {
            (Some(generation), _) => Ok(generation),
            (None, last) if first.until.is_none_or(|until| until <= Instant::now()) => match last {
                Some(error) => Err(error.clone()),
                None if first.until.is_some() => Err(Error::new(
                    Reason::TimedOut,
                    "the first load did not end in time; the disk or the network file system hangs",
                )
                .of(self.origin.clone())),
                None => return,
            },
            _ => return,
        };
        let first = waiting.first.take();
        drop(waiting);
        if let Some(first) = first {
            (first.answer)(result);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.hub.remove(self.id);
    }
}

/// Runs what a source does, and makes a panic in it an error.
fn guarded<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| panicked("the source"))
}
