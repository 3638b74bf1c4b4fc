//! What the watcher's thread leaves for the next look: what happened on the way, and which watches may be gone.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::way::Way;
use crate::source::{Arrival, FileEvent, FileEventKind, Wake};

/// So many paths between two looks are as good as all.
const MANY: usize = 64;

/// Shared between a detector and the sinks of its watches.
#[derive(Default)]
pub(super) struct Shared(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    way: Way,
    wake: Option<Wake>,
    happened: Option<Happened>,
    /// A name on the way changed its meaning: the way must be walked again.
    is_rerouted: bool,
    /// Watches at or below these paths may have ended.
    lost: Vec<PathBuf>,
    /// Any watch may have ended.
    lost_all: bool,
}

/// All events since the last look, in brief.
#[derive(Debug)]
pub(super) struct Happened {
    all_moved_to: bool,
    only_names: bool,
    last: FileEventKind,
    /// The directories into which something was renamed.
    moved_into: Vec<PathBuf>,
}

impl Happened {
    /// Whether names came, went or were replaced, and nothing was done to what is in a file. Every such change moves a
    /// signature, so it can be told whether a look has seen it: events may come after the look that saw all of what
    /// they tell of. A write may move none, within one tick of the file system's clock.
    pub(super) fn is_only_names(&self) -> bool {
        self.only_names
    }

    /// The directories into which something was renamed.
    pub(super) fn moved_into(&self) -> &[PathBuf] {
        &self.moved_into
    }

    /// How a change arrived, if it is all that happened. Only for a source of one file does a closed file mean that the writer is done.
    pub(super) fn arrival(&self, is_single: bool) -> Arrival {
        match self.last {
            _ if self.all_moved_to => Arrival::Renamed,
            FileEventKind::Closed if is_single => Arrival::Closed,
            _ => Arrival::Unknown,
        }
    }
}

/// Which watches must be set again.
#[derive(Debug, Default)]
pub(super) struct Lost {
    all: bool,
    below: Vec<PathBuf>,
}

impl Lost {
    pub(super) fn is(&self, directory: &Path) -> bool {
        self.all || self.below.iter().any(|path| directory.starts_with(path))
    }
}

impl Shared {
    /// An event of a watch on `directory`.
    pub(super) fn happened(&self, directory: &Path, event: &FileEvent) {
        let wake = {
            let mut inner = self.lock();
            if !inner.matters(directory, event) {
                return;
            }
            let is_first = inner.happened.is_none();
            let is_of_a_name = inner.is_of_a_name(event);
            let happened = inner.happened.get_or_insert_with(|| Happened {
                all_moved_to: true,
                only_names: true,
                last: event.kind,
                moved_into: Vec::new(),
            });
            happened.all_moved_to &= event.kind == FileEventKind::MovedTo;
            happened.only_names &= is_of_a_name;
            happened.last = event.kind;
            if happened.all_moved_to && !happened.moved_into.iter().any(|known| known == directory) {
                happened.moved_into.push(directory.to_path_buf());
            }
            match (event.kind, &event.path) {
                (FileEventKind::Rescan, _) | (_, None) => {
                    inner.is_rerouted = true;
                    inner.lost_all = true;
                }
                (FileEventKind::Closed | FileEventKind::Modified, _) => {}
                (_, Some(path)) => {
                    inner.is_rerouted = true;
                    if inner.lost.len() >= MANY {
                        inner.lost_all = true;
                    } else if !inner.lost.contains(path) {
                        inner.lost.push(path.clone());
                    }
                }
            }
            if is_first { inner.wake.clone() } else { None }
        };
        // Not under the lock: whoever is woken may look at once.
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    /// Takes what happened since the last call. If a name on the way changed after the watches were armed, the engine is
    /// woken once more: while other events wait to be taken an event wakes nobody, and a watch that ended is not set again
    /// before the next arming.
    pub(super) fn take_happened(&self) -> Option<Happened> {
        let (happened, wake) = {
            let mut inner = self.lock();
            let wake = if inner.is_rerouted { inner.wake.clone() } else { None };
            (inner.happened.take(), wake)
        };
        if let Some(wake) = wake {
            wake.wake();
        }
        happened
    }

    /// Whether the way must be walked again.
    pub(super) fn is_rerouted(&self) -> bool {
        self.lock().is_rerouted
    }

    /// Takes which watches must be set again, before the way is walked.
    pub(super) fn take_lost(&self) -> Lost {
        let mut inner = self.lock();
        inner.is_rerouted = false;
        Lost { all: std::mem::take(&mut inner.lost_all), below: std::mem::take(&mut inner.lost) }
    }

    /// From now on these names matter.
    pub(super) fn set_way(&self, way: &Way) {
        self.lock().way.clone_from(way);
    }

    /// From now on this is woken.
    pub(super) fn set_wake(&self, wake: &Wake) {
        self.lock().wake = Some(wake.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under the lock; if it did, the worst is a look too many.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether an event is about a name, and not about what is in a file.
    fn is_of_a_name(&self, event: &FileEvent) -> bool {
        match (event.kind, &event.path) {
            (FileEventKind::MovedTo | FileEventKind::Created | FileEventKind::Removed, Some(_)) => true,
            // The mode of a directory on the way.
            (FileEventKind::Modified, Some(path)) => self.way.contains_key(path),
            _ => false,
        }
    }

    fn matters(&self, directory: &Path, event: &FileEvent) -> bool {
        let Some(path) = &event.path else { return true };
        if event.kind == FileEventKind::Rescan {
            return true;
        }
        // Of a directory that the way leads through no more, events may still come: its watch ended, they were late.
        let Some(names) = self.way.get(directory) else { return false };
        path == directory || path.file_name().is_some_and(|name| names.matters(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events may come by the thousand before the next look.
    #[test]
    fn every_directory_into_which_something_was_renamed_is_noted_once() {
        let shared = Shared::default();
        let event = |kind| FileEvent { kind, path: None };
        for directory in ["/a", "/b", "/a", "/b"] {
            shared.happened(Path::new(directory), &event(FileEventKind::MovedTo));
        }
        let happened = shared.take_happened().unwrap();
        assert_eq!(happened.moved_into(), [Path::new("/a"), Path::new("/b")]);
    }
}
