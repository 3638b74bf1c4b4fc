//! The two contracts that others implement: [`Source`] (what) and [`Detector`] (when), and what they exchange with
//! the engine that drives them.
//!
//! What is not here: any implementation. Files are in [`crate::files`], detectors in [`crate::detect`], pushed
//! streams in [`push`](crate::push()).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::clock::Now;
use crate::error::Error;
use crate::fs::Fs;
use crate::origin::Origin;
use crate::parts::Parts;

/// WHAT: something that can be looked at and read as one unit. Its parts are published together.
///
/// An engine calls `look` often and `read` seldom, always from one thread at a time. Both may block; the engine keeps
/// them off every other thread.
pub trait Source: Send {
    /// Where this source comes from, for people.
    fn origin(&self) -> Origin;

    /// A cheap look: may the content differ from what the last `read` saw?
    ///
    /// The first look says [`Look::Changed`]. A wrong `Changed` costs a read; the engine compares content. A wrong
    /// `Same` costs time.
    ///
    /// # Errors
    /// An error is taken as "changed": the engine reads, and tells what the read says.
    fn look(&mut self, now: Now) -> Result<Look, Error>;

    /// Reads the whole source: one consistent view.
    ///
    /// # Errors
    /// When no part of it could be read. A part that alone is broken goes into the [`Parts`] as broken, so that the
    /// withdrawal of a trust anchor is not held back by a broken identity.
    fn read(&mut self) -> Result<Parts, Error>;

    /// Arms a wake-up, so that a change is seen before the next look. Called before the first look, and again after
    /// every change and every failure.
    fn arm(&mut self, alarm: &Alarm) -> Armed {
        let _ = alarm;
        Armed::PollOnly
    }
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn origin(&self) -> Origin {
        (**self).origin()
    }
    fn look(&mut self, now: Now) -> Result<Look, Error> {
        (**self).look(now)
    }
    fn read(&mut self) -> Result<Parts, Error> {
        (**self).read()
    }
    fn arm(&mut self, alarm: &Alarm) -> Armed {
        (**self).arm(alarm)
    }
}

/// WHEN to read files again. A detector only hints: the engine compares content, so a wrong detector costs time,
/// never safety.
pub trait Detector: Send {
    /// Looks at `paths` and says whether their content may have changed since the last look that said so.
    ///
    /// `paths` are the files of the source. Where a directory of anchors is a part, they are the directory itself and
    /// then its files as they are now.
    ///
    /// # Errors
    /// What the operating system said. The engine then reads.
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error>;

    /// Arms a wake-up. See [`Source::arm`].
    fn arm(&mut self, fs: &dyn Fs, paths: &[PathBuf], alarm: &Alarm) -> Armed {
        let _ = (fs, paths, alarm);
        Armed::PollOnly
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing changed.
    Same,
    /// Nothing changed, but look again at this moment: earlier than the interval (a signature that is too young to
    /// be trusted) or, when armed, later.
    SameUntil(Instant),
    /// The content may have changed.
    Changed(Arrival),
}

/// How a change arrived, as far as the detector knows: it decides how long the content must stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arrival {
    /// Not known: two equal reads, a settle time apart, are needed.
    Unknown,
    /// The writer closed the source's only file: a short settle time is enough.
    Closed,
    /// Every change since the last look replaced a file whole (a rename over it).
    Renamed,
    /// The whole source was replaced in one step (`..data` of a Kubernetes volume).
    Swapped,
    /// Nothing was seen to move, and it is time to read once more: some changes leave no trace. As [`Arrival::Unknown`],
    /// but content that is read the same again has stood still all along.
    Recheck,
    /// Something changed, and the file event that will say how has not come yet. Until the next look that tells of a
    /// change, this is as good as [`Arrival::Unknown`]; what that one says then counts for both.
    Unannounced,
    /// For a first look only: every file has stood still for seconds, by the clock of the kernel that holds it.
    Still,
}

/// Whether a wake-up is armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Armed {
    /// No wake-up: the engine polls at the interval.
    PollOnly,
    /// Changes wake the engine; it polls only as a safety net.
    Watching,
    /// A wake-up was wanted and could not be had; the engine polls at the interval and tells why.
    Degraded(String),
}

/// Wakes the engine for one source. Cheap to clone; may be called from any thread, at any time, also after the
/// engine is gone.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// A wake-up that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Asks the engine to look at the source now. Never blocks for long.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// What an engine gives a source to arm itself with.
#[derive(Clone, Debug)]
pub struct Alarm {
    wake: Wake,
    watches: Option<Arc<dyn Watches>>,
}

impl Alarm {
    /// An alarm without file watches.
    pub fn new(wake: Wake) -> Self {
        Self { wake, watches: None }
    }

    /// The same alarm, with the engine's file watches.
    #[must_use]
    pub fn with_watches(mut self, watches: Arc<dyn Watches>) -> Self {
        self.watches = Some(watches);
        self
    }

    /// The wake-up of this source.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// The engine's file watches, if it has any.
    pub fn watches(&self) -> Option<&Arc<dyn Watches>> {
        self.watches.as_ref()
    }
}

/// File watches shared by many sources: one watcher of the operating system below all of them.
pub trait Watches: Send + Sync + fmt::Debug {
    /// Watches the entries of one directory (not below it) until the [`Watch`] is dropped.
    ///
    /// # Errors
    /// When the operating system has no watch left, or the file system gives no events.
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError>;
}

/// Gets the events of a watch. Called on the watcher's thread: must not block.
pub type Sink = Arc<dyn Fn(&FileEvent) + Send + Sync>;

/// A standing watch. Dropping it ends the watch.
pub struct Watch(#[allow(dead_code, reason = "held for its Drop")] Box<dyn Send>);

impl Watch {
    /// A watch that ends when `guard` is dropped.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Why a watch could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchError {
    /// The directory is not there.
    NotFound,
    /// A limit of the operating system is reached (`max_user_watches`, `max_user_instances`, open files).
    Exhausted(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("the directory to watch does not exist"),
            Self::Exhausted(what) => write!(f, "no file watch left: {what}"),
            Self::Other(what) => write!(f, "cannot watch: {what}"),
        }
    }
}

impl std::error::Error for WatchError {}

/// One event of a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEvent {
    /// What happened.
    pub kind: FileEventKind,
    /// The entry it happened to, where that is known.
    pub path: Option<PathBuf>,
}

/// What happened to an entry of a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileEventKind {
    /// Something was renamed onto the name.
    MovedTo,
    /// The name, or the watched directory itself, went away or was renamed away.
    Removed,
    /// A new entry was created.
    Created,
    /// Content or attributes changed.
    Modified,
    /// A writer closed the file.
    Closed,
    /// Events were lost: look at everything.
    Rescan,
}
