//! Rests: now and then everything stops for a moment, so that what the process holds can be compared from rest to rest.
//! While requests run, descriptors and threads follow the load of the machine, and tell nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certsource_bench::usage::Usage;

/// A rotation that is under way ends, at the latest, when its adoption is given up.
const STOPS_WITHIN: Duration = Duration::from_secs(240);
/// Longer than idle connections are kept, and threads without work: tokio's 10 s are the longest.
const STILL: Duration = Duration::from_secs(12);
const STILL_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// Whether everything runs, rests or is over.
#[derive(Debug, Default)]
pub(crate) struct Course {
    over: AtomicBool,
    rests: AtomicBool,
    all: AtomicUsize,
    resting: AtomicUsize,
}

impl Course {
    /// One more that rests when it is told to.
    pub(crate) fn join(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    /// One that rests no more, as it ended.
    pub(crate) fn leave(&self) {
        self.all.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        self.rests.load(Ordering::SeqCst) && !self.is_over()
    }

    /// Waits while everything rests.
    pub(crate) async fn point(&self) {
        if self.holds() {
            self.resting.fetch_add(1, Ordering::SeqCst);
            while self.holds() {
                tokio::time::sleep(LOOK).await;
            }
            self.resting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The same on a thread.
    pub(crate) fn blocking_point(&self) {
        if self.holds() {
            self.resting.fetch_add(1, Ordering::SeqCst);
            while self.holds() {
                std::thread::sleep(LOOK);
            }
            self.resting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Makes everything rest, until what the process holds stays as it is, and lets it go on.
    pub(crate) async fn rest(&self) -> Result<Usage, String> {
        self.rests.store(true, Ordering::SeqCst);
        let held = self.settled().await;
        self.rests.store(false, Ordering::SeqCst);
        while self.resting.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(LOOK).await;
        }
        held
    }

    async fn settled(&self) -> Result<Usage, String> {
        let end = Instant::now() + STOPS_WITHIN;
        while self.resting.load(Ordering::SeqCst) < self.all.load(Ordering::SeqCst) {
            if Instant::now() > end {
                let (resting, all) = (self.resting.load(Ordering::SeqCst), self.all.load(Ordering::SeqCst));
                return Err(format!("{resting} of {all} came to rest"));
            }
            tokio::time::sleep(LOOK).await;
        }
        let counts = |usage: &Usage| (usage.descriptors, usage.threads, usage.watches);
        let end = Instant::now() + STILL_WITHIN;
        let (mut last, mut since) = (Usage::now(), Instant::now());
        while since.elapsed() < STILL {
            if Instant::now() > end {
                return Err(format!("what is held did not come to rest: {last:?}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = Usage::now();
            if counts(&now) != counts(&last) {
                since = Instant::now();
            }
            last = now;
        }
        Ok(last)
    }
}
