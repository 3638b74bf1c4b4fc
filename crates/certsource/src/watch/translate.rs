//! Events and errors of the crate `notify` in the terms of this crate.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event};

use crate::source::{FileEvent, FileEventKind, WatchError};

/// Everything may have changed: in one directory, or everywhere.
pub(super) fn rescan(directory: Option<&Path>) -> FileEvent {
    FileEvent { kind: FileEventKind::Rescan, path: directory.map(Path::to_path_buf) }
}

/// What an event says, a path at a time. Events of reading say nothing.
pub(super) fn translate(event: Event) -> impl Iterator<Item = FileEvent> {
    // Before anything else: a queue that overflowed is told as an event without a path.
    let (kinds, paths): (&[FileEventKind], Vec<PathBuf>) = if event.need_rescan() {
        return vec![rescan(None)].into_iter();
    } else {
        (kinds(&event.kind), event.paths)
    };
    let Some(&last) = kinds.last() else { return Vec::new().into_iter() };
    if paths.is_empty() {
        return vec![rescan(None)].into_iter();
    }
    let kinds = kinds.iter().copied().chain(std::iter::repeat(last));
    let events = paths.into_iter().zip(kinds).map(|(path, kind)| FileEvent { kind, path: Some(path) });
    events.collect::<Vec<_>>().into_iter()
}

/// What happened to the first path, to the second, and so on; the last one stands for the rest.
fn kinds(kind: &EventKind) -> &'static [FileEventKind] {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => &[FileEventKind::Closed],
        EventKind::Access(_) => &[],
        EventKind::Create(_) => &[FileEventKind::Created],
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            &[FileEventKind::Removed]
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => &[FileEventKind::MovedTo],
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
            &[FileEventKind::Removed, FileEventKind::MovedTo]
        }
        // From where to where is not told: it may be either.
        EventKind::Modify(ModifyKind::Name(_)) => &[FileEventKind::Removed],
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => &[FileEventKind::Modified],
    }
}

/// Why a watch could not be had, with what to do about it.
pub(super) fn watch_error(error: notify::Error) -> WatchError {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match error.kind {
        ErrorKind::PathNotFound => WatchError::NotFound,
        ErrorKind::MaxFilesWatch => WatchError::Exhausted(
            "the user's inotify watches are used up; raise the sysctl fs.inotify.max_user_watches".to_owned(),
        ),
        ErrorKind::Io(error) => match error.raw_os_error() {
            Some(EMFILE | ENFILE) if cfg!(unix) => WatchError::Exhausted(
                "inotify instances or open files are used up; raise the sysctl fs.inotify.max_user_instances, or the \
                 limit on open files"
                    .to_owned(),
            ),
            _ if error.kind() == std::io::ErrorKind::NotFound => WatchError::NotFound,
            _ => WatchError::Other(error.to_string()),
        },
        ErrorKind::Generic(what) => WatchError::Other(what),
        other => WatchError::Other(format!("{other:?}")),
    }
}
