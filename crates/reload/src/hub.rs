//! The hub: the threads that drive machines. One timer, a few I/O threads that are replaced when they hang, and one
//! watcher of the operating system.
//!
//! What is not here: what a source's step does. That is [`crate::reloader`]'s `Entry::drive`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::reloader::Entry;

/// I/O threads at the most. Each can hang on its own dead disk.
const MAX_THREADS: usize = 64;
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

    /// `deadline`: a look, a read or a judgement that takes longer hangs, and that is told.
    pub(crate) fn add(&self, id: u64, entry: Weak<Entry>, deadline: Duration) {
        let mut state = self.0.shared.lock();
        state.entries.insert(id, Slot { entry, deadline, run: Run::Idle, next: None, turn: 0 });
        if !state.timer_runs {
            state.timer_runs = true;
            let shared = Arc::clone(&self.0.shared);
            spawn("certsource-timer", move || shared.keep_time());
        }
    }

    pub(crate) fn remove(&self, id: u64) {
        self.0.shared.lock().entries.remove(&id);
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
        state.times.push(Reverse((moment, id)));
        self.0.shared.timer.notify_one();
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
    /// What the I/O threads are at; no more of them than threads.
    running: Vec<Running>,
    times: BinaryHeap<Reverse<(Instant, u64)>>,
    later: HashMap<u64, Task>,
    queue: VecDeque<Job>,
    /// When the queue last stopped being empty.
    waiting_since: Option<Instant>,
    threads: usize,
    idle: usize,
    last_id: u64,
    timer_runs: bool,
    /// What the timer thread waits for.
    timer_until: Option<Instant>,
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
    id: u64,
    turn: u64,
    deadline: Instant,
    overdue: bool,
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
        state.waiting_since.get_or_insert_with(Instant::now);
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.threads == 0 {
            self.hire(state);
        } else {
            self.timer.notify_one();
        }
    }

    fn hire(self: &Arc<Self>, state: &mut State) {
        if state.threads < MAX_THREADS {
            state.threads += 1;
            let shared = Arc::clone(self);
            if !spawn("certsource-io", move || shared.work()) {
                state.threads -= 1;
            }
        }
    }

    /// The timer thread: queues what is due, and hires when work waits.
    fn keep_time(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            while let Some(&Reverse((at, id))) = state.times.peek() {
                if at > now {
                    break;
                }
                state.times.pop();
                if let Some(task) = state.later.remove(&id) {
                    state.queue.push_back(Job::Task(task));
                } else if state.entries.get(&id).is_some_and(|slot| slot.next == Some(at)) {
                    state.queue_up(id);
                }
            }
            self.find_overdue(&mut state, now);
            let mut until = state.times.peek().map(|Reverse((at, _))| *at);
            let deadline = state.running.iter().filter(|job| !job.overdue).map(|job| job.deadline).min();
            if let Some(deadline) = deadline {
                until = Some(until.map_or(deadline, |until| until.min(deadline)));
            }
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

    /// Jobs that hang are reported by another thread, once each.
    fn find_overdue(self: &Arc<Self>, state: &mut State, now: Instant) {
        let State { running, entries, queue, .. } = state;
        for job in running.iter_mut().filter(|job| !job.overdue && job.deadline <= now) {
            job.overdue = true;
            let Some(entry) = entries.get(&job.id).map(|slot| slot.entry.clone()) else { continue };
            let (shared, id, turn) = (Arc::clone(self), job.id, job.turn);
            queue.push_back(Job::Task(Box::new(move || {
                if Entry::overdue(&entry) {
                    shared.give_up(id, turn);
                }
            })));
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
            state.waiting_since = if state.queue.is_empty() { None } else { Some(Instant::now()) };
            match job {
                Job::Task(task) => {
                    drop(state);
                    task();
                }
                Job::Drive(id) => {
                    let Some(slot) = state.entries.get_mut(&id) else { continue };
                    slot.run = Run::Running;
                    slot.next = None;
                    let (entry, turn) = (slot.entry.clone(), slot.turn);
                    let deadline = Instant::now() + slot.deadline;
                    state.running.push(Running { id, turn, deadline, overdue: false });
                    if state.deadline_is_sooner(deadline) {
                        self.timer.notify_one();
                    }
                    drop(state);
                    let next = Entry::drive(&entry);
                    state = self.lock();
                    state.running.retain(|job| (job.id, job.turn) != (id, turn));
                    self.rest(&mut state, id, turn, next);
                    continue;
                }
            }
            state = self.lock();
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
            let sooner = state.times.peek().is_none_or(|Reverse((at, _))| next < *at);
            state.times.push(Reverse((next, id)));
            if sooner {
                self.timer.notify_one();
            }
        }
    }
}

impl State {
    fn deadline_is_sooner(&self, deadline: Instant) -> bool {
        self.timer_until.is_none_or(|until| deadline < until)
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
