//! The file watches alone: what they tell, two paths to one directory, directories that are replaced, sinks that do
//! what sinks should not.
#![cfg(all(target_os = "linux", feature = "notify"))]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::source::{FileEvent, FileEventKind, Sink, Watch, WatchError, Watches};
use certsource::watch::OsWatches;
use certsource_testkit::TestDir;

/// The longest wait for something that is sure to come.
const BOUND: Duration = Duration::from_secs(20);

/// A watch, and every event it tells.
fn recording(watches: &OsWatches, directory: &Path) -> (Watch, Receiver<FileEvent>) {
    let (sender, events) = channel();
    let sink: Sink = Arc::new(move |event: &FileEvent| {
        let _ = sender.send(event.clone());
    });
    (watches.watch(directory, sink).unwrap(), events)
}

#[test]
fn watches_tell_events_by_name_and_kind() {
    let dir = TestDir::new().unwrap();
    let watches = OsWatches::new();
    let (_watch, events) = recording(&watches, dir.path());
    let path = dir.join("a");
    fs::write(&path, "x").unwrap();
    fs::read(&path).unwrap();
    fs::rename(&path, dir.join("b")).unwrap();
    fs::remove_file(dir.join("b")).unwrap();
    fs::create_dir(dir.join("end")).unwrap();
    let mut told = Vec::new();
    loop {
        let event = events.recv_timeout(BOUND).unwrap();
        let name = event.path.as_deref().and_then(Path::file_name).unwrap().to_str().unwrap().to_owned();
        if name == "end" {
            break;
        }
        told.push((event.kind, name));
    }
    use FileEventKind::{Closed, Created, Modified, MovedTo, Removed};
    told.dedup();
    let expected = [
        (Created, "a"),
        (Modified, "a"),
        (Closed, "a"),
        (Removed, "a"),
        (MovedTo, "b"),
        // Once more, as a pair.
        (Removed, "a"),
        (MovedTo, "b"),
        (Removed, "b"),
    ];
    assert_eq!(told, expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[test]
fn two_paths_to_one_directory_both_hear_and_go_alone() {
    let dir = TestDir::new().unwrap();
    fs::create_dir(dir.join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.join("alias")).unwrap();
    let watches = OsWatches::new();
    let (one, by_name) = recording(&watches, &dir.join("real"));
    let (two, by_alias) = recording(&watches, &dir.join("alias"));
    let (_again, once_more) = recording(&watches, &dir.join("real"));
    fs::create_dir(dir.join("real/x")).unwrap();
    let path = |events: &Receiver<FileEvent>| events.recv_timeout(BOUND).unwrap().path.unwrap();
    assert_eq!(path(&by_name), dir.join("real/x"));
    assert_eq!(path(&by_alias), dir.join("alias/x"));
    assert_eq!(path(&once_more), dir.join("real/x"));
    // The kernel has one watch for all of them.
    drop(two);
    fs::create_dir(dir.join("real/y")).unwrap();
    assert_eq!(path(&by_name), dir.join("real/y"));
    assert_eq!(path(&once_more), dir.join("real/y"));
    drop(one);
    fs::create_dir(dir.join("real/z")).unwrap();
    assert_eq!(path(&once_more), dir.join("real/z"));
    assert!(by_alias.try_recv().is_err() && by_name.try_recv().is_err());
}

#[test]
fn a_path_that_means_another_directory_is_watched_there() {
    let dir = TestDir::new().unwrap();
    fs::create_dir_all(dir.join("d")).unwrap();
    let watches = OsWatches::new();
    let (_first, first) = recording(&watches, &dir.join("d"));
    fs::rename(dir.join("d"), dir.join("away")).unwrap();
    fs::create_dir(dir.join("d")).unwrap();
    assert_eq!(first.recv_timeout(BOUND).unwrap().kind, FileEventKind::Removed);
    let (_second, second) = recording(&watches, &dir.join("d"));
    // Who shared the entry is told to look.
    while first.recv_timeout(BOUND).unwrap().kind != FileEventKind::Rescan {}
    fs::create_dir(dir.join("away/old")).unwrap();
    fs::create_dir(dir.join("d/new")).unwrap();
    for events in [&first, &second] {
        // In the order in which it was done.
        let mut told = std::iter::from_fn(|| events.recv_timeout(BOUND).ok());
        let next = told.find(|event| event.kind != FileEventKind::Rescan).unwrap();
        assert_eq!(next.path.unwrap(), dir.join("d/new"), "the old directory is not watched any more");
    }
}

#[test]
fn what_cannot_be_watched_is_said() {
    let watches = OsWatches::new();
    let none: Sink = Arc::new(|_| ());
    let missing = watches.watch(Path::new("/nowhere/at/all"), Arc::clone(&none));
    assert_eq!(missing.unwrap_err(), WatchError::NotFound);
}

#[test]
fn a_sink_may_set_and_drop_watches_and_may_panic() {
    let dir = TestDir::new().unwrap();
    for name in ["a", "b", "c"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let watches = Arc::new(OsWatches::new());
    let (sender, done) = channel();
    let held: Arc<Mutex<Vec<Watch>>> = Arc::default();
    let sink: Sink = {
        let (watches, held, b) = (Arc::downgrade(&watches), Arc::downgrade(&held), dir.join("b"));
        Arc::new(move |_| {
            let (Some(watches), Some(held)) = (watches.upgrade(), held.upgrade()) else { return };
            let sender = sender.clone();
            let inner: Sink = Arc::new(move |_| sender.send(()).unwrap());
            let new = watches.watch(&b, inner).unwrap();
            // The watch that called goes too.
            let old = std::mem::replace(&mut *held.lock().unwrap(), vec![new]);
            drop(old);
            panic!("a sink that panics");
        })
    };
    let watch = watches.watch(&dir.join("a"), sink).unwrap();
    held.lock().unwrap().push(watch);
    let (_c, events) = recording(&watches, &dir.join("c"));
    fs::create_dir(dir.join("a/x")).unwrap();
    fs::create_dir(dir.join("c/x")).unwrap();
    events.recv_timeout(BOUND).expect("the thread is alive after a panic");
    fs::create_dir(dir.join("b/x")).unwrap();
    done.recv_timeout(BOUND).expect("the watch that the sink set");
}

#[test]
fn the_threads_end_with_the_watches() {
    let dir = TestDir::new().unwrap();
    let watches = OsWatches::new();
    let alive = Arc::new(());
    let weak = Arc::downgrade(&alive);
    let (sender, events) = channel();
    let sink: Sink = Arc::new(move |_| {
        let _ = (&alive, sender.send(()));
    });
    let watch = watches.watch(dir.path(), sink).unwrap();
    fs::create_dir(dir.join("x")).unwrap();
    events.recv_timeout(BOUND).unwrap();
    drop(watches);
    // The sink, and what it holds, is dropped with them; the channel tells when.
    assert!(matches!(events.recv_timeout(BOUND), Err(std::sync::mpsc::RecvTimeoutError::Disconnected)));
    assert!(weak.upgrade().is_none());
    fs::create_dir(dir.join("y")).unwrap();
    drop(watch);
}
