//! A bar on standard error that tells how far a long piece of work is: on a terminal only, and only when it takes long.
//!
//! A thread of its own draws it, so that it is also there while one file hangs.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Work that is done sooner shows no bar.
const LONG: Duration = Duration::from_millis(500);
/// A terminal is written to at most this often.
const OFTEN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// So many of so many. Dropped, it takes itself away, so that results stand alone.
pub(crate) struct Bar {
    done: Arc<AtomicUsize>,
    /// Nobody, when nobody would see it.
    drawer: Option<Drawer>,
}

struct Drawer {
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Bar {
    /// A bar of so many files. `is_free`: nothing else is written to the terminal meanwhile.
    pub(crate) fn on_stderr(total: usize, is_free: bool) -> Self {
        let has_lines = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let stderr = io::stderr();
        let terminal = (is_free && has_lines && stderr.is_terminal()).then_some(stderr);
        Self::new(total, terminal)
    }

    fn new(total: usize, terminal: Option<impl Write + Send + 'static>) -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let drawer = terminal.and_then(|terminal| {
            let (over, is_over) = channel();
            let drawn = Drawn { total, done: Arc::clone(&done), is_shown: false, terminal };
            let thread = thread::Builder::new().name("certsource-bar".into());
            // Without the thread there is no bar; the work goes on.
            let thread = thread.spawn(move || drawn.until(&is_over)).ok()?;
            Some(Drawer { over, thread })
        });
        Self { done, drawer }
    }

    /// One more is done.
    pub(crate) fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(Drawer { over, thread }) = self.drawer.take() {
            drop(over);
            // Should it have panicked, there is no bar to take away.
            let _ = thread.join();
        }
    }
}

struct Drawn<W> {
    total: usize,
    done: Arc<AtomicUsize>,
    is_shown: bool,
    terminal: W,
}

impl<W: Write> Drawn<W> {
    fn until(mut self, is_over: &Receiver<()>) {
        let mut wait = LONG;
        while is_over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            self.draw();
            wait = OFTEN;
        }
        self.clear();
    }

    fn draw(&mut self) {
        self.is_shown = true;
        let frame = frame(self.done.load(Ordering::Relaxed), self.total);
        // A terminal that is gone does not stop the work.
        let _ = write!(self.terminal, "\r\x1b[K{frame}");
        let _ = self.terminal.flush();
    }

    fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(self.terminal, "\r\x1b[K");
            let _ = self.terminal.flush();
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
        let done = Arc::new(AtomicUsize::new(2));
        let mut seen = Vec::new();
        let mut drawn = Drawn { total: 4, done: Arc::clone(&done), is_shown: false, terminal: &mut seen };
        drawn.clear();
        assert!(drawn.terminal.is_empty());
        drawn.draw();
        done.store(3, Ordering::Relaxed);
        drawn.draw();
        drawn.clear();
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
