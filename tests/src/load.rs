//! Requests without pause from many tasks at once, each with a number of its own in its path.
//!
//! What is not here: which client sends them, and what must be true of them.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;

use crate::BOUND;

/// One request to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// A number that no other request of this load has.
    pub number: u64,
    /// `/r/FLOOR/NUMBER`: FLOOR is what [`Load::start`] or [`Load::raise_floor`] said last before the request began.
    pub path: String,
    /// With a body it is a `POST`, else a `GET`.
    pub body: Option<Vec<u8>>,
}

impl Call {
    /// Whether the request of this number has a body.
    pub fn has_body(number: u64) -> bool {
        number % 3 == 0
    }
}

/// Load that goes on until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The paths of the requests that were answered.
    pub answered: Vec<String>,
    /// The others, each with its error.
    pub failed: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    floor: AtomicU64,
    stop: AtomicBool,
    number: AtomicU64,
    ended: AtomicU64,
    progress: Notify,
    outcome: Mutex<Outcome>,
    /// Held for reading over each request.
    gate: Arc<RwLock<()>>,
    /// The requests that have begun and not ended.
    open: Mutex<BTreeSet<String>>,
}

impl Load {
    /// Begins with this many tasks, and with this floor. Each sends one request after the other: some at once, some after a short pause, so
    /// that connections are busy as well as idle; one of three has a body.
    pub fn start<F, R>(tasks: usize, floor: u64, request: F) -> Self
    where
        F: Fn(Call) -> R + Clone + Send + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        let shared = Arc::new(Shared { floor: AtomicU64::new(floor), ..Shared::default() });
        let mut set = JoinSet::new();
        for task in 0..tasks {
            let (shared, request) = (Arc::clone(&shared), request.clone());
            set.spawn(async move {
                while !shared.stop.load(Ordering::SeqCst) {
                    let pass = shared.gate.read().await;
                    let floor = shared.floor.load(Ordering::SeqCst);
                    let number = shared.number.fetch_add(1, Ordering::SeqCst);
                    let path = format!("/r/{floor}/{number}");
                    let body = Call::has_body(number).then(|| vec![b'b'; 3000]);
                    shared.open.lock().unwrap().insert(path.clone());
                    let result = request(Call { number, path: path.clone(), body }).await;
                    shared.note(path, result);
                    drop(pass);
                    if task % 2 == 1 {
                        tokio::time::sleep(Duration::from_millis(1 + number % 5)).await;
                    }
                }
            });
        }
        Self { shared, tasks: set }
    }

    /// From now on requests carry this number: it says what the server may see at the least.
    pub fn raise_floor(&self, floor: u64) {
        self.shared.floor.store(floor, Ordering::SeqCst);
    }

    /// Waits until this many more requests have ended, whatever became of them.
    ///
    /// # Panics
    /// When that takes longer than [`BOUND`].
    pub async fn pass(&self, requests: u64) {
        let until = self.shared.ended.load(Ordering::SeqCst) + requests;
        let reached = async {
            loop {
                let mut more = std::pin::pin!(self.shared.progress.notified());
                more.as_mut().enable();
                if self.shared.ended.load(Ordering::SeqCst) >= until {
                    return;
                }
                more.await;
            }
        };
        let reached = tokio::time::timeout(BOUND, reached).await;
        assert!(
            reached.is_ok(),
            "the load stands still: {:?}, {:?}",
            self.open(),
            self.shared.outcome.lock().unwrap().failed
        );
    }

    /// [`Load::pass`] for so many requests that one bound is too short.
    ///
    /// # Panics
    /// When some hundred of them take longer than [`BOUND`].
    pub async fn pass_many(&self, requests: u64) {
        let mut left = requests;
        while left > 0 {
            let some = left.min(200);
            self.pass(some).await;
            left -= some;
        }
    }

    /// Lets every task end its request and begin no other one until what this returns is dropped. Pools keep their
    /// connections meanwhile.
    ///
    /// # Panics
    /// When that takes longer than [`BOUND`].
    pub async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        let paused = tokio::time::timeout(BOUND, Arc::clone(&self.shared.gate).write_owned()).await;
        paused.unwrap_or_else(|_| panic!("these requests do not end: {:?}", self.open()))
    }

    /// The requests that have begun and not ended.
    pub fn open(&self) -> Vec<String> {
        self.shared.open.lock().unwrap().iter().cloned().collect()
    }

    /// The requests that have failed so far, each with its error.
    pub fn failed(&self) -> Vec<String> {
        self.shared.outcome.lock().unwrap().failed.clone()
    }

    /// Lets every task end its request, and tells what became of all.
    ///
    /// # Panics
    /// When that takes longer than [`BOUND`], or a task panicked.
    pub async fn finish(mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::SeqCst);
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                task.unwrap();
            }
        };
        let ended = tokio::time::timeout(BOUND, all).await;
        assert!(ended.is_ok(), "these requests do not end: {:?}", self.open());
        std::mem::take(&mut *self.shared.outcome.lock().unwrap())
    }
}

impl Shared {
    fn note(&self, path: String, result: Result<(), String>) {
        self.open.lock().unwrap().remove(&path);
        let mut outcome = self.outcome.lock().unwrap();
        match result {
            Ok(()) => outcome.answered.push(path),
            Err(error) => outcome.failed.push(format!("{path}: {error}")),
        }
        drop(outcome);
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.progress.notify_waiters();
    }
}
