//! The hub: the threads that drive machines. One timer, a few I/O threads that are replaced when they hang, and one
//! watcher of the operating system.
//!
//! What is not here: what a source's step does. That is [`crate::reloader`]'s `Entry::drive`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::reloader::{Entry, Overdue};

/// I/O threads at the most, without those that are slow.
const MAX_THREADS: usize = 64;
/// A job that takes longer is slow. Each source has one job at the most, but for checks that were given up, and those
/// are capped; so a thread that hangs on a dead disk takes no other source's place.
const SLOW: Duration = Duration::from_secs(1);
/// After a thread could not be started, the next try comes this much later.
const RETRY: Duration = Duration::from_secs(1);
/// An I/O thread without work ends after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Moments are rounded up to this grid, so that many sources share one wake-up of a thread.
const GRID: Duration = Duration::from_millis(20);
/// Queued work that no thread took for so long gets another thread.
const PATIENCE: Duration = Duration::from_millis(5);

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
        self.shared.timer.notify_all();
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
        let mut state = self.0.shared.lock();
        state.last_id += 1;
        state.last_id
    }

    /// `deadline`: a look, a read or a judgement that takes longer hangs, and that is told. `false`: there is no thread
    /// that would follow it.
    #[must_use]
    pub(crate) fn add(&self, id: u64, entry: Weak<Entry>, deadline: Duration) -> bool {
        let mut state = self.0.shared.lock();
        if !state.timer_runs {
            let shared = Arc::clone(&self.0.shared);
            state.timer_runs = spawn("certsource-timer", move || shared.keep_time());
        }
        if state.timer_runs {
            state.entries.insert(id, Slot { entry, deadline, run: Run::Idle, next: None, turn: 0 });
        }
        state.timer_runs
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut state = self.0.shared.lock();
        let next = state.entries.remove(&id).and_then(|slot| slot.next);
        if let Some(next) = next {
            state.times.remove(&(next, id));
        }
    }

    /// What a wake-up needs: it keeps no hub alive.
    pub(crate) fn waker(&self, id: u64) -> impl Fn() + Send + Sync + 'static + use<> {
        let shared = Arc::downgrade(&self.0.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.enqueue(id);
            }
        }
    }

    pub(crate) fn drive(&self, id: u64) {
        self.0.shared.enqueue(id);
    }

    pub(crate) fn run(&self, task: impl FnOnce() + Send + 'static) {
        let mut state = self.0.shared.lock();
        state.queue.push_back(Job::Task(Box::new(task)));
        self.0.shared.kick(&mut state);
    }

    pub(crate) fn at(&self, moment: Instant, task: impl FnOnce() + Send + 'static) {
        let mut state = self.0.shared.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.later.insert(id, Box::new(task));
        state.times.insert((moment, id));
        self.0.shared.tell_timer(&state, moment);
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
    timer: Condvar,
    work: Condvar,
    /// Zero of the grid.
    zero: Instant,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Slot>,
    /// What the I/O threads are at.
    running: Vec<Running>,
    times: BTreeSet<(Instant, u64)>,
    later: HashMap<u64, Task>,
    queue: VecDeque<Job>,
    /// When the queue last stopped being empty.
    waiting_since: Option<Instant>,
    threads: usize,
    idle: usize,
    last_id: u64,
    last_job: u64,
    timer_runs: bool,
    /// What the timer thread waits for.
    timer_until: Option<Instant>,
    no_thread_before: Option<Instant>,
    over: bool,
}

type Task = Box<dyn FnOnce() + Send>;

enum Job {
    Drive(u64),
    Task(Task),
}

struct Slot {
    entry: Weak<Entry>,
    deadline: Duration,
    run: Run,
    next: Option<Instant>,
    /// Grows when a thread that hangs is given up: what it reports late is then ignored.
    turn: u64,
}

struct Running {
    job: u64,
    since: Instant,
    /// Whose job it is, in which turn; `None`: a task.
    of: Option<(u64, u64)>,
    /// When to see whether it hangs.
    check: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Idle,
    Queued,
    Running,
    /// Running, and asked for again.
    Again,
}

impl Shared {
    fn new() -> Self {
        Self { state: Mutex::default(), timer: Condvar::new(), work: Condvar::new(), zero: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(self: &Arc<Self>, id: u64) {
        let mut state = self.lock();
        if state.queue_up(id) {
            self.kick(&mut state);
        }
    }

    /// Sees to it that a thread takes what is queued: an idle one, or the first one. More come by the timer, when
    /// work waits.
    fn kick(self: &Arc<Self>, state: &mut State) {
        if state.queue.is_empty() || state.over {
            return;
        }
        let since = *state.waiting_since.get_or_insert_with(Instant::now);
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.threads == 0 {
            self.hire(state);
        }
        // More work than idle threads: one of them may be kept for long by what it takes.
        if state.queue.len() > state.idle {
            self.tell_timer(state, since + PATIENCE);
        }
    }

    /// Wakes the timer thread if it sleeps for longer.
    fn tell_timer(&self, state: &State, moment: Instant) {
        if state.timer_until.is_none_or(|until| moment < until) {
            self.timer.notify_one();
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

    /// The timer thread: queues what is due, and hires when work waits.
    fn keep_time(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            while let Some(&(at, id)) = state.times.first() {
                if at > now {
                    break;
                }
                state.times.pop_first();
                if let Some(task) = state.later.remove(&id) {
                    state.queue.push_back(Job::Task(task));
                } else {
                    if let Some(slot) = state.entries.get_mut(&id) {
                        slot.next = None;
                    }
                    state.queue_up(id);
                }
            }
            self.find_overdue(&mut state, now);
            let mut until = state.times.first().map(|(at, _)| *at);
            let check = state.running.iter().filter_map(|job| job.check).min();
            until = [until, check].into_iter().flatten().min();
            if !state.queue.is_empty() {
                let since = *state.waiting_since.get_or_insert(now);
                if state.idle > 0 {
                    self.work.notify_one();
                } else if state.threads == 0 || now.saturating_duration_since(since) >= PATIENCE {
                    self.hire(&mut state);
                    state.waiting_since = Some(now);
                }
                let soon = now + PATIENCE;
                until = Some(until.map_or(soon, |until| until.min(soon)));
            }
            state.timer_until = until;
            state = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now).max(Duration::from_micros(100));
                    self.timer.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.timer.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Jobs that may hang are looked into by another thread.
    fn find_overdue(self: &Arc<Self>, state: &mut State, now: Instant) {
        let State { running, entries, queue, .. } = state;
        for job in running.iter_mut().filter(|job| job.check.is_some_and(|at| at <= now)) {
            job.check = None;
            let Some((id, turn)) = job.of else { continue };
            let Some(entry) = entries.get(&id).map(|slot| slot.entry.clone()) else { continue };
            let (shared, job) = (Arc::clone(self), job.job);
            queue.push_back(Job::Task(Box::new(move || match Entry::overdue(&entry) {
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
            self.tell_timer(&state, at);
        }
    }

    /// The thread that has this turn hangs in something that the source does not need: another one goes on.
    fn give_up(self: &Arc<Self>, id: u64, turn: u64) {
        let mut state = self.lock();
        let Some(slot) = state.entries.get_mut(&id).filter(|slot| slot.turn == turn) else { return };
        slot.turn += 1;
        slot.run = Run::Idle;
        if state.queue_up(id) {
            self.kick(&mut state);
        }
    }

    /// An I/O thread.
    fn work(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            if state.over {
                break;
            }
            let Some(job) = state.queue.pop_front() else {
                state.waiting_since = None;
                state.idle += 1;
                let (back, timeout) =
                    self.work.wait_timeout(state, KEEP_ALIVE).unwrap_or_else(PoisonError::into_inner);
                state = back;
                state.idle -= 1;
                if timeout.timed_out() && state.queue.is_empty() && state.threads > 1 {
                    break;
                }
                continue;
            };
            let now = Instant::now();
            state.waiting_since = if state.queue.is_empty() { None } else { Some(now) };
            match job {
                Job::Task(task) => {
                    let job = state.begin(now, None, None);
                    drop(state);
                    if catch_unwind(AssertUnwindSafe(task)).is_err() {
                        tracing::error!("a task panicked");
                    }
                    state = self.lock();
                    state.end(job);
                }
                Job::Drive(id) => {
                    let Some(slot) = state.entries.get_mut(&id) else { continue };
                    slot.run = Run::Running;
                    let (entry, turn, check) = (slot.entry.clone(), slot.turn, now + slot.deadline);
                    if let Some(next) = slot.next.take() {
                        state.times.remove(&(next, id));
                    }
                    let job = state.begin(now, Some((id, turn)), Some(check));
                    self.tell_timer(&state, check);
                    drop(state);
                    let next = catch_unwind(AssertUnwindSafe(|| Entry::drive(&entry))).unwrap_or_else(|_| {
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

    fn rest(self: &Arc<Self>, state: &mut State, id: u64, turn: u64, next: Option<Instant>) {
        let Some(slot) = state.entries.get_mut(&id).filter(|slot| slot.turn == turn) else { return };
        if std::mem::replace(&mut slot.run, Run::Idle) == Run::Again {
            state.queue_up(id);
        } else if let Some(next) = next {
            let next = on_grid(self.zero, next);
            slot.next = Some(next);
            state.times.insert((next, id));
            self.tell_timer(state, next);
        }
    }
}

impl State {
    fn begin(&mut self, since: Instant, of: Option<(u64, u64)>, check: Option<Instant>) -> u64 {
        self.last_job += 1;
        self.running.push(Running { job: self.last_job, since, of, check });
        self.last_job
    }

    fn end(&mut self, job: u64) {
        self.running.retain(|running| running.job != job);
    }

    /// Returns whether the queue grew.
    fn queue_up(&mut self, id: u64) -> bool {
        let Some(slot) = self.entries.get_mut(&id) else { return false };
        match slot.run {
            Run::Idle => {
                slot.run = Run::Queued;
                self.queue.push_back(Job::Drive(id));
                true
            }
            Run::Running => {
                slot.run = Run::Again;
                false
            }
            Run::Queued | Run::Again => false,
        }
    }
}

/// Rounds up to the grid.
fn on_grid(zero: Instant, at: Instant) -> Instant {
    let past = at.saturating_duration_since(zero);
    let rest = past.as_nanos() % GRID.as_nanos();
    if rest == 0 { at } else { at + GRID - Duration::from_nanos(rest as u64) }
}

/// Returns whether the thread started.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    if let Err(error) = &started {
        tracing::error!(%error, "cannot start a thread; certificates are not followed until there is room for one");
    }
    started.is_ok()
}
