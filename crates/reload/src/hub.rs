//! The hub: the threads that drive machines. A few I/O threads, of which one that is idle keeps the time; a guard that
//! replaces those that hang; and one watcher of the operating system.
//!
//! What is not here: what a source's step does. That is [`crate::reloader`]'s `Entry::drive`. And what the guard does
//! (`hub/guard.rs`).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use certsource::clock::Now;

use self::queue::Queue;
use self::slots::{Run, Slot, Slots};
use self::surplus::Surplus;
use self::times::Times;
use crate::reloader::{Entry, Next};

mod guard;
mod queue;
mod slots;
mod surplus;
mod times;

/// I/O threads at the most, without those that are slow.
const MAX_THREADS: usize = 64;
/// A job that takes longer is slow. Each source has one job at the most, but for checks that were given up, and those
/// are capped; so a thread that hangs on a dead disk takes no other source's place.
const SLOW: Duration = Duration::from_secs(1);
/// After a thread could not be started, the next try comes this much later.
const RETRY: Duration = Duration::from_secs(1);
/// An I/O thread without work ends after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Queued work that no thread took for so long gets another thread.
const PATIENCE: Duration = Duration::from_millis(5);
/// After so long a queue that never was empty gets another thread, unless more than [`QUICK`] were taken from it meanwhile.
const BACKLOG: Duration = Duration::from_millis(100);
/// So many jobs in [`BACKLOG`] wait for no disk: a second thread would be in the way of the first, and save little.
const QUICK: usize = 1_000;
/// What is due and was taken by nobody for so long is queued by the guard: the keeper of the time hangs. Long, so that
/// the guard seldom wakes up while all is well.
const LATE: Duration = Duration::from_millis(100);
/// Of so many looks that are due what they begin with is loaded at once.
const AHEAD: usize = 8;

/// The threads that keep sources current. Many reloaders share one; it ends when the last of them goes.
///
/// The threads are detached: a disk that hangs delays neither other sources nor the end of the program.
#[derive(Clone)]
pub struct Hub(Arc<HubInner>);

struct HubInner {
    shared: Arc<Shared>,
    #[cfg(feature = "notify")]
    watches: Arc<certsource::watch::OsWatches>,
}

impl Drop for HubInner {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.guard.notify_all();
        self.shared.keep.notify_all();
        self.shared.work.notify_all();
    }
}

/// The hub that reloaders share unless told otherwise. It lives while one of them uses it.
static SHARED: Mutex<Weak<HubInner>> = Mutex::new(Weak::new());

impl Hub {
    /// A hub of one's own. No thread starts before the first source.
    pub fn new() -> Self {
        Self(Arc::new(HubInner {
            shared: Arc::new(Shared::new()),
            #[cfg(feature = "notify")]
            watches: Arc::new(certsource::watch::OsWatches::new()),
        }))
    }

    /// The hub that the process shares. It lives while a source uses it.
    pub fn shared() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = shared.upgrade() {
            return Self(inner);
        }
        let hub = Self::new();
        *shared = Arc::downgrade(&hub.0);
        hub
    }

    /// How many I/O threads there are now.
    pub fn threads(&self) -> usize {
        self.0.shared.lock().threads
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.shared.lock().entries.reserve()
    }

    /// `deadline`: a look, a read or a judgement that takes longer hangs, and that is told. `false`: there is no thread
    /// that would follow it.
    #[must_use]
    pub(crate) fn add(&self, id: u64, entry: Weak<Entry>, deadline: Duration) -> bool {
        let mut state = self.0.shared.lock();
        if !state.guard_runs {
            let shared = Arc::clone(&self.0.shared);
            state.guard_runs = spawn("certsource-guard", move || shared.guard());
        }
        if state.guard_runs {
            state.entries.put(id, Slot::new(entry, deadline));
        }
        state.guard_runs
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut state = self.0.shared.lock();
        let next = state.entries.remove(id).and_then(|slot| slot.next);
        if let Some(next) = next {
            state.times.remove(next, id);
        }
    }

    /// What a wake-up needs: it keeps no hub alive.
    pub(crate) fn waker(&self, id: u64) -> impl Fn() + Send + Sync + 'static + use<> {
        let shared = Arc::downgrade(&self.0.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.enqueue(id, true);
            }
        }
    }

    pub(crate) fn drive(&self, id: u64) {
        self.0.shared.enqueue(id, false);
    }

    pub(crate) fn run(&self, task: impl FnOnce() + Send + 'static) {
        let mut state = self.0.shared.lock();
        state.queue.push(Job::Task(Box::new(task)));
        self.0.shared.kick(&mut state);
    }

    /// Does this then. Returns by what it can be given up.
    pub(crate) fn at(&self, moment: Instant, task: impl FnOnce() + Send + 'static) -> u64 {
        let mut state = self.0.shared.lock();
        let id = state.entries.number();
        state.later.insert(id, Box::new(task));
        state.times.insert(moment, id);
        self.0.shared.tell_keeper(&mut state, moment);
        id
    }

    /// Gives up what was to be done then.
    pub(crate) fn forget(&self, moment: Instant, id: u64) {
        let mut state = self.0.shared.lock();
        state.times.remove(moment, id);
        let task = state.later.remove(&id);
        drop(state);
        drop(task);
    }

    #[cfg(feature = "notify")]
    pub(crate) fn watches(&self) -> Arc<dyn certsource::source::Watches> {
        Arc::clone(&self.0.watches) as Arc<dyn certsource::source::Watches>
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.shared.lock();
        f.debug_struct("Hub").field("sources", &state.entries.len()).field("threads", &state.threads).finish()
    }
}

/// What the threads share. They hold this and no handle, so that the last handle's drop ends them.
struct Shared {
    state: Mutex<State>,
    guard: Condvar,
    /// The idle thread that keeps the time waits here, the others below.
    keep: Condvar,
    work: Condvar,
    /// Zero of the grid.
    zero: Instant,
}

#[derive(Default)]
struct State {
    entries: Slots,
    /// What the I/O threads are at.
    running: Vec<Running>,
    times: Times,
    later: HashMap<u64, Task, BuildHasherDefault<Numbers>>,
    queue: Queue<Job>,
    /// Since when nothing was taken from the queue, if it is not empty.
    waiting_since: Option<Instant>,
    /// Since when it is not empty, or when that was last looked at.
    behind_since: Option<Instant>,
    /// How many were taken from it since then.
    taken: usize,
    threads: usize,
    /// Threads without work, the keeper of the time included.
    idle: usize,
    surplus: Surplus,
    keeper: Option<Keeper>,
    last_job: u64,
    guard_runs: bool,
    /// What the guard waits for.
    guard_until: Option<Instant>,
    no_thread_before: Option<Instant>,
    over: bool,
}

/// Hashes numbers that we count up ourselves: nobody can make them collide.
#[derive(Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u64(&mut self, number: u64) {
        // Spreads over the high bits too (Knuth's multiplicative hashing); the map uses both ends.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// An idle thread that waits for what is due next.
struct Keeper {
    until: Option<Instant>,
}

type Task = Box<dyn FnOnce() + Send>;

enum Job {
    Drive(u64),
    Task(Task),
}

struct Running {
    job: u64,
    since: Instant,
    /// Whose job it is, in which turn; `None`: a task.
    of: Option<(u64, u64)>,
    /// When to see whether it hangs.
    check: Option<Instant>,
}

impl Shared {
    fn new() -> Self {
        Self {
            state: Mutex::default(),
            guard: Condvar::new(),
            keep: Condvar::new(),
            work: Condvar::new(),
            zero: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `woken`: something says that the source may have changed.
    fn enqueue(self: &Arc<Self>, id: u64, woken: bool) {
        let mut state = self.lock();
        if let Some(slot) = state.entries.get_mut(id) {
            slot.woken |= woken;
        }
        if state.queue_up(id) {
            self.kick(&mut state);
        }
    }

    /// Sees to it that a thread takes what is queued: an idle one, or the first one. More come by the guard, when work
    /// waits.
    fn kick(self: &Arc<Self>, state: &mut State) {
        if state.queue.is_empty() || state.over {
            return;
        }
        let since = *state.waiting_since.get_or_insert_with(Instant::now);
        if state.idle == 0 && state.threads == 0 {
            self.hire(state);
        }
        self.wake_idle(state);
        // More work than idle threads: one of them may be kept for long by what it takes.
        if state.queue.len() > state.idle {
            self.tell_guard(state, since + PATIENCE);
        }
    }

    /// The keeper of the time last.
    fn wake_idle(&self, state: &State) {
        if state.idle > usize::from(state.keeper.is_some()) {
            self.work.notify_one();
        } else if state.idle > 0 {
            self.keep.notify_one();
        }
    }

    /// Wakes the keeper of the time if it sleeps for longer.
    fn tell_keeper(&self, state: &mut State, moment: Instant) {
        match &state.keeper {
            Some(keeper) if keeper.until.is_none_or(|until| moment < until) => self.keep.notify_one(),
            Some(_) => {}
            // All threads are at work, or there is none yet.
            None => self.tell_guard(state, moment + LATE),
        }
    }

    /// Wakes the guard if it sleeps for longer.
    fn tell_guard(&self, state: &mut State, moment: Instant) {
        if state.guard_until.is_none_or(|until| moment < until) {
            // Once is enough: it reckons anew when it is awake.
            state.guard_until = Some(moment);
            self.guard.notify_one();
        }
    }

    fn hire(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        let slow =
            state.running.iter().filter(|job| now.saturating_duration_since(job.since) >= SLOW).count();
        if state.threads.saturating_sub(slow) >= MAX_THREADS
            || state.no_thread_before.is_some_and(|at| now < at)
        {
            return;
        }
        state.threads += 1;
        let shared = Arc::clone(self);
        if spawn("certsource-io", move || shared.work()) {
            state.no_thread_before = None;
        } else {
            state.threads -= 1;
            state.no_thread_before = Some(now + RETRY);
        }
    }

    /// An I/O thread.
    fn work(self: &Arc<Self>) {
        let mut state = self.lock();
        // This moment, if it was just read.
        let mut at = None;
        loop {
            if state.over {
                break;
            }
            let Some(job) = state.queue.pop() else {
                at = None;
                state.is_done();
                if !state.queue_due(Instant::now()) {
                    let (back, ends) = self.be_idle(state);
                    state = back;
                    if ends {
                        break;
                    }
                }
                continue;
            };
            let now = at.get_or_insert_with(Now::read).mono;
            self.took(&mut state, now);
            match job {
                Job::Task(task) => {
                    at = None;
                    let job = self.begin(&mut state, now, None, None);
                    drop(state);
                    if catch_unwind(AssertUnwindSafe(task)).is_err() {
                        tracing::error!("a task panicked");
                    }
                    state = self.lock();
                    state.end(job);
                }
                Job::Drive(id) => {
                    state.touch_ahead();
                    let Some(slot) = state.entries.get_mut(id) else { continue };
                    if !slot.take_up() {
                        continue;
                    }
                    let woken = std::mem::take(&mut slot.woken);
                    let (entry, turn, check) = (slot.entry.clone(), slot.turn, now + slot.deadline);
                    if let Some(next) = slot.next.take() {
                        state.times.remove(next, id);
                    }
                    let job = self.begin(&mut state, now, Some((id, turn)), Some(check));
                    drop(state);
                    let driven = catch_unwind(AssertUnwindSafe(|| Entry::drive(&entry, woken, &mut at)));
                    if entry.strong_count() == 0 {
                        // It went here, and what was dropped with it is the application's, which may have taken its time.
                        at = None;
                    }
                    let next = driven.unwrap_or_else(|_| {
                        tracing::error!("following a source panicked; it is tried again");
                        Entry::revive(&entry)
                    });
                    state = self.lock();
                    state.end(job);
                    self.rest(&mut state, id, turn, next);
                }
            }
        }
        state.threads -= 1;
    }

    /// Something was taken from the queue.
    fn took(&self, state: &mut State, now: Instant) {
        if state.queue.is_empty() {
            return state.is_done();
        }
        state.waiting_since = Some(now);
        state.behind_since.get_or_insert(now);
        state.taken += 1;
        // Who waits for what else was asked for does not wait for this job. Of two that are asked for at once, a thread that
        // was woken for the first may be the only one that was.
        if state.queue.asked() > 0 {
            self.wake_idle(state);
        }
    }

    fn begin(
        &self,
        state: &mut State,
        since: Instant,
        of: Option<(u64, u64)>,
        check: Option<Instant>,
    ) -> u64 {
        state.last_job += 1;
        state.running.push(Running { job: state.last_job, since, of, check });
        // If this one hangs, nobody may be left who keeps the time.
        let due = state.times.first().filter(|_| state.keeper.is_none()).map(|at| at + LATE);
        // And nobody takes what is queued behind it: the guard may sleep until an earlier job would have hung.
        let queued = (!state.queue.is_empty()).then(|| since + LATE);
        if let Some(moment) = [check, due, queued].into_iter().flatten().min() {
            self.tell_guard(state, moment);
        }
        state.last_job
    }

    /// Waits for work: one thread for what is due next, the others for what is queued. Whether the thread is needed no
    /// more.
    fn be_idle<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        state.idle += 1;
        let is_keeper = state.keeper.is_none();
        let idle = state.idle;
        if !is_keeper && state.surplus.is_too_many(Instant::now(), idle, KEEP_ALIVE) {
            state.idle -= 1;
            return (state, true);
        }
        let (mut state, timed_out) = if is_keeper {
            let until = state.times.first();
            state.keeper = Some(Keeper { until });
            wait(&self.keep, state, until)
        } else {
            wait(&self.work, state, Some(Instant::now() + KEEP_ALIVE))
        };
        state.idle -= 1;
        let idle = state.idle;
        state.surplus.woke(idle);
        if is_keeper {
            state.keeper = None;
        }
        let ends = !is_keeper && timed_out && state.queue.is_empty();
        (state, ends)
    }

    fn rest(self: &Arc<Self>, state: &mut State, id: u64, turn: u64, next: Option<Next>) {
        let Some(slot) = state.entries.get_mut(id).filter(|slot| slot.turn == turn) else { return };
        if std::mem::replace(&mut slot.run, Run::Idle) == Run::Again {
            state.queue_up(id);
        } else if let Some(next) = next {
            let next = times::shared(self.zero, next.from, next.until);
            slot.next = Some(next);
            state.times.insert(next, id);
            if state.keeper.is_some() {
                self.tell_keeper(state, next);
            }
        }
    }
}

impl State {
    /// The queue is empty.
    fn is_done(&mut self) {
        (self.waiting_since, self.behind_since, self.taken) = (None, None, 0);
    }

    fn end(&mut self, job: u64) {
        self.running.retain(|running| running.job != job);
    }

    /// Loads what the next looks begin with. All at once: each of them would otherwise wait for memory that nothing has
    /// touched since its last look.
    fn touch_ahead(&self) {
        if self.queue.due().len() % AHEAD != 0 {
            return;
        }
        let next = self.queue.due().take(AHEAD).filter_map(|job| match job {
            Job::Drive(id) => self.entries.get(*id),
            Job::Task(_) => None,
        });
        black_box(next.fold(0, |all, slot| all ^ slot.entry.strong_count()));
    }

    /// Queues what is due. Returns whether there was anything.
    fn queue_due(&mut self, now: Instant) -> bool {
        let before = self.queue.len();
        for id in std::iter::from_fn(|| self.times.take_due(now)).flatten() {
            if let Some(slot) = self.entries.get_mut(id) {
                slot.next = None;
                if slot.fall_due() {
                    self.queue.push_due(Job::Drive(id));
                }
            } else if let Some(task) = self.later.remove(&id) {
                // An end that somebody was promised: of a wait, of what nobody can confirm.
                self.queue.push(Job::Task(task));
            }
        }
        self.queue.len() > before
    }

    /// Returns whether the queue grew.
    fn queue_up(&mut self, id: u64) -> bool {
        let grows = self.entries.get_mut(id).is_some_and(Slot::ask);
        if grows {
            self.queue.push(Job::Drive(id));
        }
        grows
    }
}

/// Waits for a signal, or for the moment. Whether that came.
fn wait<'a>(
    on: &Condvar,
    state: MutexGuard<'a, State>,
    until: Option<Instant>,
) -> (MutexGuard<'a, State>, bool) {
    let Some(until) = until else {
        return (on.wait(state).unwrap_or_else(PoisonError::into_inner), false);
    };
    let time = until.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
    let (state, result) = on.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
    (state, result.timed_out())
}

/// Returns whether the thread started.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    if let Err(error) = &started {
        tracing::error!(%error, "cannot start a thread; certificates are not followed until there is room for one");
    }
    started.is_ok()
}
