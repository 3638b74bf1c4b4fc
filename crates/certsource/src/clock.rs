//! The one place where time is read.

use std::time::{Duration, Instant, SystemTime};

/// A moment on both clocks.
///
/// Intervals, settling and grace are counted on the monotonic clock. Validity is judged on the wall clock. Nothing
/// in this crate compares a file's time with either, but for the stated exception of a first load (see
/// [`Arrival::Still`](crate::source::Arrival::Still)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }

    /// This moment moved on by `by` on both clocks: for simulated time.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self { mono: self.mono + by, wall: self.wall + by }
    }
}
