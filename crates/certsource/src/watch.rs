//! One watcher of the operating system for any number of sources: [`OsWatches`], on the crate `notify`.
//!
//! One watcher per source would meet `fs.inotify.max_user_instances` (128 by default) soon. What is not here: what
//! events mean to a source ([`crate::detect::Notify`]).

mod translate;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use self::translate::{rescan, translate, watch_error};
use crate::fs::{Fs as _, RealFs};
use crate::source::{FileEvent, Sink, Watch, WatchError, Watches};

/// Events that wait for their sinks. When more come, those are dropped and every sink is told to look at everything.
const BACKLOG: usize = 4096;
/// How often a watch is set again when its directory changes meanwhile.
const ROUNDS: usize = 4;

/// File watches of this machine's operating system, shared by any number of sources.
///
/// The watcher and its two threads start with the first watch and end when this value is dropped; watches that
/// are still held then get no more events. Sinks are called on one of these threads, one at a time. A sink may set and
/// drop watches.
///
/// # Limits
/// Setting a watch on a directory of a network file system that hangs hangs all watches. [`Notify`](crate::detect::Notify)
/// never does so on Linux.
///
/// # Platforms
/// Made for and tested with inotify (Linux). On macOS and Windows it is what the crate `notify` gives there.
#[derive(Default)]
pub struct OsWatches {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Events were dropped because the backlog was full.
    is_overflown: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    entries: HashMap<PathBuf, Entry>,
    last_number: u64,
}

struct Running {
    watcher: RecommendedWatcher,
    events: SyncSender<FileEvent>,
}

/// One watched directory and all that want its events.
struct Entry {
    identity: Identity,
    sinks: Vec<(u64, Sink)>,
}

/// Device and inode; `None` where the system does not tell.
type Identity = Option<(u64, u64)>;

impl OsWatches {
    /// Watches that start with the first use.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Watches for OsWatches {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        let mut state = self.inner.lock();
        if state.running.is_none() {
            state.running = Some(start(&self.inner)?);
        }
        let identity = state.set(directory)?;
        state.last_number += 1;
        let number = state.last_number;
        let entry = state.entries.entry(directory.to_path_buf());
        let entry = entry.or_insert_with(|| Entry { identity, sinks: Vec::new() });
        entry.identity = identity;
        entry.sinks.push((number, sink));
        Ok(Watch::new(Guard {
            inner: Arc::downgrade(&self.inner),
            directory: directory.to_path_buf(),
            number,
        }))
    }
}

impl fmt::Debug for OsWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("OsWatches")
            .field("is_running", &state.running.is_some())
            .field("directories", &state.entries.len())
            .finish_non_exhaustive()
    }
}

/// Ends one watch when dropped.
struct Guard {
    inner: Weak<Inner>,
    directory: PathBuf,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let sink = inner.lock().remove(&self.directory, self.number);
        // After the lock: what a sink holds may itself drop a watch.
        drop(sink);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sets the watch on a directory, also when one stands there already: that is how it is known to stand.
    fn set(&mut self, directory: &Path) -> Result<Identity, WatchError> {
        for _ in 0..ROUNDS {
            let identity = identity(directory)?;
            let is_stale = self.entries.get(directory).is_some_and(|entry| entry.identity != identity);
            if is_stale {
                // The path means another directory now. The watch on the old one would go on telling of it.
                self.unset(directory);
            }
            self.os_watch(directory)?;
            if is_stale {
                self.tell_others(directory, identity);
            }
            if self::identity(directory)? == identity {
                return Ok(identity);
            }
        }
        Err(WatchError::Other("the directory is replaced faster than it can be watched".to_owned()))
    }

    /// Those that share the entry of a directory that was replaced look at everything.
    fn tell_others(&mut self, directory: &Path, identity: Identity) {
        if let Some(entry) = self.entries.get_mut(directory) {
            entry.identity = identity;
        }
        if let Some(running) = &self.running {
            // If the backlog is full, they are told so anyway.
            let _ = running.events.try_send(rescan(Some(directory)));
        }
    }

    fn os_watch(&mut self, directory: &Path) -> Result<(), WatchError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        // `notify` 8 panics here if its own thread could not be started or has died.
        let result =
            catch_unwind(AssertUnwindSafe(|| running.watcher.watch(directory, RecursiveMode::NonRecursive)));
        match result {
            Ok(result) => result.map_err(watch_error),
            Err(_) => Err(WatchError::Other("the thread of the file watcher does not run".to_owned())),
        }
    }

    fn unset(&mut self, directory: &Path) {
        let Some(running) = &mut self.running else { return };
        // It may be gone by itself, with its directory.
        let _ = catch_unwind(AssertUnwindSafe(|| running.watcher.unwatch(directory)));
        // The kernel has one watch per directory, whatever the path: a second path to the same one (a bind mount) has
        // just lost its watch too.
        let old = self.entries.get(directory).and_then(|entry| entry.identity);
        for alias in self.aliases(directory, old) {
            let _ = self.os_watch(&alias);
        }
    }

    /// Other paths to the directory of this identity.
    fn aliases(&self, directory: &Path, identity: Identity) -> Vec<PathBuf> {
        let Some(identity) = identity else { return Vec::new() };
        let others = self
            .entries
            .iter()
            .filter(|(path, entry)| entry.identity == Some(identity) && path.as_path() != directory);
        others.map(|(path, _)| path.clone()).collect()
    }

    fn remove(&mut self, directory: &Path, number: u64) -> Option<Sink> {
        let entry = self.entries.get_mut(directory)?;
        let at = entry.sinks.iter().position(|(known, _)| *known == number)?;
        let (_, sink) = entry.sinks.swap_remove(at);
        if entry.sinks.is_empty() {
            self.unset(directory);
            self.entries.remove(directory);
        }
        Some(sink)
    }

    /// Who gets an event, and with which path.
    fn sinks_of(&self, event: &FileEvent) -> Vec<(Sink, FileEvent)> {
        let mut to = Vec::new();
        let Some(path) = &event.path else {
            for entry in self.entries.values() {
                to.extend(entry.sinks.iter().map(|(_, sink)| (Arc::clone(sink), event.clone())));
            }
            return to;
        };
        // The directory itself, and the directory it is an entry of: both may be watched.
        let candidates = [(Some(path.as_path()), None), (path.parent(), path.file_name())];
        for (directory, name) in candidates {
            let Some((directory, entry)) = directory.and_then(|at| self.entries.get_key_value(at)) else {
                continue;
            };
            let aliases = self.aliases(directory, entry.identity);
            for directory in std::iter::once(directory).chain(&aliases) {
                let path = name.map_or_else(|| directory.clone(), |name| directory.join(name));
                let event = FileEvent { kind: event.kind, path: Some(path) };
                let sinks =
                    self.entries.get(directory).map(|entry| entry.sinks.as_slice()).unwrap_or_default();
                to.extend(sinks.iter().map(|(_, sink)| (Arc::clone(sink), event.clone())));
            }
        }
        to
    }
}

/// Starts the watcher, and a thread of ours behind it: on the watcher's own thread a sink could not set or drop a
/// watch, because the watcher answers those on that thread.
fn start(inner: &Arc<Inner>) -> Result<Running, WatchError> {
    let (events, receiver) = sync_channel(BACKLOG);
    let (sender, is_overflown) = (events.clone(), Arc::clone(&inner.is_overflown));
    let send = move |event: FileEvent| {
        // Never waits: it runs on the thread that must empty the kernel's queue, and that answers `watch`.
        if let Err(TrySendError::Full(_)) = sender.try_send(event) {
            is_overflown.store(true, Ordering::Release);
        }
    };
    let watcher = notify::recommended_watcher(move |result| match result {
        Ok(event) => translate(event).into_iter().for_each(&send),
        Err(_) => send(rescan(None)),
    });
    let watcher = watcher.map_err(watch_error)?;
    let weak = Arc::downgrade(inner);
    let thread = std::thread::Builder::new().name("certsource-watch".to_owned());
    thread
        .spawn(move || deliver(&weak, &receiver))
        .map_err(|error| WatchError::Exhausted(format!("no thread for file events: {error}")))?;
    Ok(Running { watcher, events })
}

/// Hands events to their sinks until the watches are gone.
fn deliver(inner: &Weak<Inner>, events: &Receiver<FileEvent>) {
    while let Ok(event) = events.recv() {
        // Not held while sinks run, so that the watches can end meanwhile.
        let Some((sinks, overflow)) = inner.upgrade().map(|inner| {
            let is_overflown = inner.is_overflown.swap(false, Ordering::AcqRel);
            let state = inner.lock();
            let overflow = if is_overflown { state.sinks_of(&rescan(None)) } else { Vec::new() };
            (state.sinks_of(&event), overflow)
        }) else {
            return;
        };
        for (sink, event) in sinks.into_iter().chain(overflow) {
            // One that panics must not take the events from all others.
            let _ = catch_unwind(AssertUnwindSafe(|| sink(&event)));
        }
    }
}

/// Which directory a path means now.
fn identity(directory: &Path) -> Result<Identity, WatchError> {
    match RealFs::new().metadata(directory) {
        Ok(meta) => Ok((meta.inode != 0).then_some((meta.device, meta.inode))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(WatchError::NotFound),
        Err(error) => Err(WatchError::Other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::source::FileEventKind;

    const BOUND: Duration = Duration::from_secs(20);

    #[test]
    fn a_sink_that_is_too_slow_is_told_to_look_at_everything() {
        let dir = tempfile::tempdir().unwrap();
        let watches = OsWatches::new();
        let (release, held) = channel::<()>();
        let (sender, events) = channel();
        let held = Mutex::new(held);
        let sink: Sink = Arc::new(move |event: &FileEvent| {
            // Every event waits until this is released.
            let _ = held.lock().unwrap().recv();
            let _ = sender.send(event.clone());
        });
        let _watch = watches.watch(dir.path(), sink).unwrap();
        let begin = Instant::now();
        let mut count = 0;
        while !watches.inner.is_overflown.load(Ordering::Acquire) {
            assert!(begin.elapsed() < BOUND, "{count} directories, and no overflow");
            count += 1;
            std::fs::create_dir(dir.path().join(count.to_string())).unwrap();
        }
        assert!(count >= BACKLOG);
        drop(release);
        let told = std::iter::from_fn(|| events.recv_timeout(BOUND).ok())
            .find(|event| event.kind == FileEventKind::Rescan);
        assert_eq!(told.map(|event| event.path), Some(None));
    }
}
