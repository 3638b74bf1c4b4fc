//! The one place where time is read.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// Shows a moment as RFC 3339 in UTC, to the second: `2026-11-22T20:00:00Z`.
///
/// A moment outside the years 0 to 9999 has no such text, and is shown as the seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = match self.0.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i128::from(after.as_secs()),
            Err(before) => -(before.duration().as_nanos().div_ceil(1_000_000_000) as i128),
        };
        let text = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|moment| moment.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{seconds}"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Utc {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_in_utc() {
        let at = |seconds: u64| Utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_795_377_600), "2026-11-22T20:00:00Z");
        assert_eq!(at(1 << 40), "1099511627776");
        let before = Utc(SystemTime::UNIX_EPOCH - Duration::from_millis(1500)).to_string();
        assert_eq!(before, "1969-12-31T23:59:58Z");
    }
}
