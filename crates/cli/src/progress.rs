//! A bar on standard error that tells how far a long piece of work is: on a terminal only, and only when it takes long.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Work that is done sooner shows no bar.
const LONG: Duration = Duration::from_millis(500);
/// A terminal is written to at most this often.
const OFTEN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// So many of so many.
pub(crate) struct Bar<W: Write> {
    total: usize,
    done: usize,
    next: Instant,
    is_shown: bool,
    /// Where it is drawn; nowhere when nobody would see it.
    terminal: Option<W>,
}

impl Bar<io::Stderr> {
    pub(crate) fn on_stderr(total: usize) -> Self {
        let stderr = io::stderr();
        Bar::new(total, Instant::now(), stderr.is_terminal().then_some(stderr))
    }
}

impl<W: Write> Bar<W> {
    fn new(total: usize, now: Instant, terminal: Option<W>) -> Self {
        Self { total, done: 0, next: now + LONG, is_shown: false, terminal }
    }

    /// One more is done.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        if self.terminal.is_some() {
            self.draw(Instant::now());
        }
    }

    fn draw(&mut self, now: Instant) {
        let Some(terminal) = &mut self.terminal else { return };
        if now < self.next {
            return;
        }
        self.next = now + OFTEN;
        self.is_shown = true;
        // A terminal that is gone does not stop the work.
        let _ = write!(terminal, "\r\x1b[K{}", frame(self.done, self.total));
        let _ = terminal.flush();
    }

    /// Takes it away, so that results stand alone.
    pub(crate) fn clear(&mut self) {
        if let Some(terminal) = self.terminal.as_mut().filter(|_| self.is_shown) {
            let _ = write!(terminal, "\r\x1b[K");
            let _ = terminal.flush();
        }
    }
}

fn frame(done: usize, total: usize) -> String {
    let full = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}] {done} of {total} files", "█".repeat(full), "·".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_shows_nothing_and_long_work_leaves_nothing() {
        let (began, mut seen) = (Instant::now(), Vec::new());
        let mut bar = Bar::new(4, began, Some(&mut seen));
        bar.draw(began + LONG / 2);
        bar.clear();
        assert!(seen.is_empty());

        let mut bar = Bar::new(4, began, Some(&mut seen));
        bar.done = 2;
        bar.draw(began + LONG);
        bar.draw(began + LONG + OFTEN / 2);
        bar.done = 3;
        bar.draw(began + LONG + OFTEN);
        bar.clear();
        let seen = String::from_utf8(seen).unwrap();
        let frames: Vec<_> = seen.split("\r\x1b[K").collect();
        assert_eq!(frames, ["", &frame(2, 4), &frame(3, 4), ""]);
    }

    #[test]
    fn the_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(frame(0, 10).matches('█').count(), 0);
        assert_eq!(frame(5, 10).matches('█').count(), WIDTH / 2);
        assert_eq!(frame(10, 10).matches('█').count(), WIDTH);
        assert_eq!(frame(0, 0).matches('·').count(), 0);
    }
}
