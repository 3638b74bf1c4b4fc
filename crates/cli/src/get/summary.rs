//! The figures of a repeated run: at its end, and on a line that lives on a terminal while it goes on.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::duration;
use crate::latency::Latencies;

/// A terminal is written to at most this often.
const OFTEN: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    requests: u64,
    failed: u64,
    reloads: u64,
    latency_us_p50: u64,
    latency_us_p90: u64,
    latency_us_p99: u64,
    latency_us_p999: u64,
    latency_us_max: u64,
    seconds: f64,
}

impl Summary {
    pub(super) fn new([requests, failed, reloads]: [u64; 3], latencies: &Latencies, took: Duration) -> Self {
        let at = |share| micros(latencies.percentile(share));
        Self {
            requests,
            failed,
            reloads,
            latency_us_p50: at(0.5),
            latency_us_p90: at(0.9),
            latency_us_p99: at(0.99),
            latency_us_p999: at(0.999),
            latency_us_max: micros(latencies.max()),
            seconds: (took.as_secs_f64() * 1e3).round() / 1e3,
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.failed == 0
    }

    /// The line that lives.
    pub(super) fn line(&self, generation: u64) -> String {
        let rate = self.requests as f64 / self.seconds.max(0.001);
        format!(
            "{} requests ({rate:.0}/s), {} failed, generation {generation}, {} reloads; p50 {}, p99 {}",
            self.requests,
            self.failed,
            self.reloads,
            text(self.latency_us_p50),
            text(self.latency_us_p99),
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed, {} reloads in {:.1} s; latency p50 {}, p90 {}, p99 {}, p99.9 {}, at most {}",
            self.requests,
            self.failed,
            self.reloads,
            self.seconds,
            text(self.latency_us_p50),
            text(self.latency_us_p90),
            text(self.latency_us_p99),
            text(self.latency_us_p999),
            text(self.latency_us_max),
        )
    }
}

fn text(micros: u64) -> String {
    duration::latency(Duration::from_micros(micros))
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One line on a terminal that is written again and again.
pub(super) struct Live {
    terminal: Option<Mutex<Line>>,
}

struct Line {
    to: Box<dyn Write + Send>,
    next: Instant,
    is_there: bool,
}

impl Live {
    /// On standard error, when both it and standard output are a terminal; elsewhere each request is a line of its own.
    pub(super) fn on_terminal() -> Self {
        if io::stdout().is_terminal() && io::stderr().is_terminal() {
            Self::on(Box::new(io::stderr()))
        } else {
            Self::none()
        }
    }

    pub(super) fn none() -> Self {
        Self { terminal: None }
    }

    fn on(to: Box<dyn Write + Send>) -> Self {
        Self { terminal: Some(Mutex::new(Line { to, next: Instant::now(), is_there: false })) }
    }

    pub(super) fn is_shown(&self) -> bool {
        self.terminal.is_some()
    }

    /// Writes the line, if it is time again.
    pub(super) fn show(&self, line: impl FnOnce() -> String) {
        let Some(terminal) = &self.terminal else { return };
        let mut terminal = terminal.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < terminal.next {
            return;
        }
        terminal.next = Instant::now() + OFTEN;
        terminal.is_there = true;
        // A terminal that is gone stops no request.
        let _ = write!(terminal.to, "\r\x1b[K{}", line());
        let _ = terminal.to.flush();
    }

    /// Takes it away, so that a lasting line has its place.
    pub(super) fn clear(&self) {
        let Some(terminal) = &self.terminal else { return };
        let mut terminal = terminal.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut terminal.is_there) {
            let _ = write!(terminal.to, "\r\x1b[K");
            let _ = terminal.to.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_live_line_is_written_now_and_then_and_taken_away() {
        let seen = Seen::default();
        let live = Live::on(Box::new(seen.clone()));
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_millis(2));
        let summary = Summary::new([10, 1, 2], &latencies, Duration::from_secs(2));
        for _ in 0..3 {
            live.show(|| summary.line(3));
        }
        live.clear();
        live.clear();
        let text = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
        let line = "10 requests (5/s), 1 failed, generation 3, 2 reloads; p50 2.0 ms, p99 2.0 ms";
        assert_eq!(text, format!("\r\x1b[K{line}\r\x1b[K"));
        assert!(!summary.is_good());
    }
}
