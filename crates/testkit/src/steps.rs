//! A writer as a list of small steps that the test runs when it wants.

use std::collections::VecDeque;
use std::time::Duration;
use std::{fmt, io};

type Action = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// What a writer is about to do, one system call or so at a time.
///
/// A test runs some steps, looks with its reader, runs some more: each state that a reader can meet is met for
/// certain, without threads and sleeps. Steps own all they need, so a list may also be sent to a thread.
///
/// Dropping a list that is not finished leaves the files as they are: a writer that was killed.
///
/// # Examples
///
/// ```
/// use certsource_testkit::{Ca, KubeletDir};
///
/// # fn main() -> std::io::Result<()> {
/// let ca = Ca::new("Example root");
/// let dir = KubeletDir::new(ca.issue("localhost"))?;
/// let mut steps = dir.swap_steps(ca.issue("localhost"))?;
/// while let Some(done) = steps.step()? {
///     // `done` is for example "write tls.crt" or "rename ..data_tmp ..data".
///     assert!(dir.cert_path().exists(), "after {done}");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is written until the steps are run"]
#[derive(Default)]
pub struct Steps {
    queue: VecDeque<(String, Action)>,
}

impl Steps {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step at the end. For writers of your own.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        action: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        self.queue.push_back((name.into(), Box::new(action)));
    }

    /// These steps, then the others: for example the certificate in place, then the key.
    pub fn then(mut self, others: Steps) -> Self {
        self.queue.extend(others.queue);
        self
    }

    /// Runs the next step and returns its name; `None` if none is left.
    ///
    /// # Errors
    ///
    /// What the system says, with the step's name in front. The step counts as done.
    pub fn step(&mut self) -> io::Result<Option<String>> {
        match self.queue.pop_front() {
            None => Ok(None),
            Some((name, action)) => match action() {
                Ok(()) => Ok(Some(name)),
                Err(error) => Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
            },
        }
    }

    /// Runs every step before the first whose name begins with `name`, which stays the next one.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step); `NotFound`, before anything is run, if no such step is left.
    pub fn run_until(&mut self, name: &str) -> io::Result<()> {
        let before = self.index_of(name)?;
        (0..before).try_for_each(|_| self.step().map(drop))
    }

    /// Runs every step up to and including the first whose name begins with `name`.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Self::run_until).
    pub fn run_through(&mut self, name: &str) -> io::Result<()> {
        let last = self.index_of(name)?;
        (0..=last).try_for_each(|_| self.step().map(drop))
    }

    /// Runs all that is left.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step), for the first step that fails; the ones behind it are not run.
    pub fn finish(mut self) -> io::Result<()> {
        while self.step()?.is_some() {}
        Ok(())
    }

    /// Runs all that is left, with this pause before each step: a slow writer, on this thread. A list of steps may be
    /// sent to another one.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_slowly(mut self, pause: Duration) -> io::Result<()> {
        while self.remaining() > 0 {
            std::thread::sleep(pause);
            self.step()?;
        }
        Ok(())
    }

    /// The names of the steps that are left, in order.
    pub fn upcoming(&self) -> impl Iterator<Item = &str> {
        self.queue.iter().map(|(name, _)| name.as_str())
    }

    /// How many steps are left.
    pub fn remaining(&self) -> usize {
        self.queue.len()
    }

    fn index_of(&self, name: &str) -> io::Result<usize> {
        self.upcoming().position(|upcoming| upcoming.starts_with(name)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no step {name:?} is left in {self:?}"))
        })
    }
}

/// Each `next` runs a step.
impl Iterator for Steps {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.queue.len(), Some(self.queue.len()))
    }
}

impl ExactSizeIterator for Steps {}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps ")?;
        f.debug_list().entries(self.upcoming()).finish()
    }
}
