//! Events and errors of the crate `notify` in the terms of this crate.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event};

use crate::source::{FileEvent, FileEventKind, WatchError};

/// Everything may have changed: in one directory, or everywhere.
pub(super) fn rescan(directory: Option<&Path>) -> FileEvent {
    FileEvent { kind: FileEventKind::Rescan, path: directory.map(Path::to_path_buf) }
}

/// What an event says, a path at a time. Events of reading say nothing.
pub(super) fn translate(event: Event) -> Vec<FileEvent> {
    // Before anything else: a queue that overflowed is told as an event without a path.
    if event.need_rescan() {
        return vec![rescan(None)];
    }
    let kinds = kinds(&event.kind);
    let Some(&last) = kinds.last() else { return Vec::new() };
    if event.paths.is_empty() {
        return vec![rescan(None)];
    }
    let kinds = kinds.iter().copied().chain(std::iter::repeat(last));
    event.paths.into_iter().zip(kinds).map(|(path, kind)| FileEvent { kind, path: Some(path) }).collect()
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

    use super::*;

    fn told(kind: EventKind, paths: &[&str]) -> Vec<(FileEventKind, Option<PathBuf>)> {
        let mut event = Event::new(kind);
        event.paths = paths.iter().map(PathBuf::from).collect();
        translate(event).into_iter().map(|event| (event.kind, event.path)).collect()
    }

    #[test]
    fn every_kind_of_event() {
        let name = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), None),
            (EventKind::Access(AccessKind::Read), None),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), None),
            (EventKind::Access(AccessKind::Any), None),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(FileEventKind::Closed)),
            (EventKind::Create(CreateKind::File), Some(FileEventKind::Created)),
            (EventKind::Remove(RemoveKind::Folder), Some(FileEventKind::Removed)),
            (name(RenameMode::From), Some(FileEventKind::Removed)),
            (name(RenameMode::To), Some(FileEventKind::MovedTo)),
            (name(RenameMode::Any), Some(FileEventKind::Removed)),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(FileEventKind::Modified)),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), Some(FileEventKind::Modified)),
            (EventKind::Any, Some(FileEventKind::Modified)),
            (EventKind::Other, Some(FileEventKind::Modified)),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|kind| (kind, Some("/a/b".into()))).collect();
            assert_eq!(told(kind, &["/a/b"]), expected, "{kind:?}");
        }
        let both = told(name(RenameMode::Both), &["/a/old", "/a/new"]);
        let expected = [
            (FileEventKind::Removed, Some("/a/old".into())),
            (FileEventKind::MovedTo, Some("/a/new".into())),
        ];
        assert_eq!(both, expected);
    }

    #[test]
    fn an_overflow_has_neither_kind_nor_path_and_means_everything() {
        let event = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(translate(event), [rescan(None)]);
        // A flag on an event of reading too, and with a path.
        let event =
            Event::new(EventKind::Access(AccessKind::Any)).set_flag(Flag::Rescan).add_path("/a".into());
        assert_eq!(translate(event), [rescan(None)]);
        assert_eq!(told(EventKind::Create(CreateKind::Any), &[]), [(FileEventKind::Rescan, None)]);
    }

    #[test]
    fn a_limit_is_named_with_what_to_raise() {
        let exhausted = |error| match watch_error(error) {
            WatchError::Exhausted(what) => what,
            other => panic!("{other:?}"),
        };
        assert!(exhausted(notify::Error::new(ErrorKind::MaxFilesWatch)).contains("max_user_watches"));
        let too_many = notify::Error::io(io::Error::from_raw_os_error(24));
        if cfg!(unix) {
            assert!(exhausted(too_many).contains("max_user_instances"));
        }
        assert_eq!(watch_error(notify::Error::path_not_found()), WatchError::NotFound);
        assert_eq!(watch_error(notify::Error::io(io::ErrorKind::NotFound.into())), WatchError::NotFound);
        let denied = watch_error(notify::Error::io(io::ErrorKind::PermissionDenied.into()));
        assert!(matches!(denied, WatchError::Other(_)));
    }
}
