//! Turns at a steady rate, shared by workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Turns that the workers are behind by more than this are not made up for.
const BEHIND: Duration = Duration::from_millis(500);

/// Hands out turns.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    /// Seconds between two turns; zero for as many as are asked for.
    every: f64,
    next: AtomicU64,
}

impl Pace {
    /// A turn each `every`, from now on; with zero, each at once.
    pub(crate) fn new(every: Duration) -> Self {
        Self { began: Instant::now(), every: every.as_secs_f64(), next: AtomicU64::new(0) }
    }

    /// Waits for one's turn.
    pub(crate) async fn turn(&self) {
        if self.every <= 0.0 {
            // A worker must let others run, also when every answer is there at once.
            return tokio::task::yield_now().await;
        }
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(mine as f64 * self.every);
        let now = Instant::now();
        if now.saturating_duration_since(due) > BEHIND {
            // Behind for good: go on from here instead of in a burst.
            let here = (now.duration_since(self.began).as_secs_f64() / self.every) as u64;
            self.next.fetch_max(here, Ordering::Relaxed);
        }
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_steady_and_a_long_pause_is_not_made_up_for() {
        let pace = Pace::new(Duration::from_millis(100));
        let began = Instant::now();
        for _ in 0..5 {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(400));
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..12 {
            pace.turn().await;
        }
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
