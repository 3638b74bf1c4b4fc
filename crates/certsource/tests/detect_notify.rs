//! What the detector `Notify` and the watches below it add to the suite: how changes arrive, what is ignored, watches
//! that are lost and set again, and what happens where no watch can be had.
#![cfg(all(target_os = "linux", feature = "notify"))]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod detect_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::detect::Notify;
use certsource::fs::{Dir, Fs, Meta, Opened, RealFs, Volume};
use certsource::source::{
    Alarm, Armed, Arrival, FileEvent, FileEventKind, Look, Sink, Wake, Watch, WatchError, Watches,
};
use certsource::watch::OsWatches;
use certsource::{Files, Source};
use certsource_testkit::{Ca, KubeletDir, Steps, TestDir, write};

use self::detect_support::{Events, Rig, SEC, link};

fn watching(files: Files) -> Rig {
    let mut rig = Rig::watching(files, Notify::new());
    assert_eq!(rig.armed, Armed::Watching);
    rig.rest();
    rig.looks.clear();
    rig
}

fn bundle() -> (TestDir, PathBuf) {
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", Ca::new("Root").certificate_pem()).unwrap();
    (dir, path)
}

/// Every event is delivered before the one look.
fn arrival(rig: &mut Rig) -> Arrival {
    assert!(rig.is_woken());
    match rig.step() {
        Look::Changed(arrival) => arrival,
        look => panic!("{look:?}"),
    }
}

#[test]
fn how_a_change_of_the_only_file_arrives() {
    let (dir, path) = bundle();
    let pem = Ca::new("Other").certificate_pem();
    let mut rig = watching(Files::trust(&path));
    let mut arrives = |steps: Steps| {
        steps.finish().unwrap();
        let arrival = arrival(&mut rig);
        rig.rest();
        arrival
    };
    assert_eq!(arrives(write::rename_over(&path, pem.clone())), Arrival::Renamed);
    assert_eq!(arrives(write::rename_with_hard_link(&path, pem.clone())), Arrival::Renamed);
    assert_eq!(arrives(write::in_place(&path, pem.clone(), 3)), Arrival::Closed);
    assert_eq!(arrives(write::unlink_and_create(&path, pem.clone(), 3)), Arrival::Closed);
    assert_eq!(
        arrives(write::rename_with_backup(&path, pem.clone())),
        Arrival::Unknown,
        "it was gone for a moment"
    );
    assert_eq!(arrives(write::flip_symlink(&path, "ca.pem.bak")), Arrival::Renamed);
    let both = write::in_place(dir.join("ca.pem.bak"), pem.clone(), 1).then(write::rename_over(&path, pem));
    assert_eq!(arrives(both), Arrival::Unknown, "a write and a rename");
}

#[test]
fn a_writer_that_is_not_done_is_not_closed() {
    let (_dir, path) = bundle();
    let mut rig = watching(Files::trust(&path));
    let mut steps = write::in_place(&path, Ca::new("Other").certificate_pem(), 2);
    for _ in 0..3 {
        steps.step().unwrap();
        assert_eq!(arrival(&mut rig), Arrival::Unknown);
    }
    steps.finish().unwrap();
    assert_eq!(arrival(&mut rig), Arrival::Closed);
}

#[test]
fn of_several_files_a_closed_one_says_nothing() {
    let issued = Ca::new("Root").issue("localhost");
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let mut rig = watching(Files::kubernetes(dir.path()));
    write::in_place(dir.join("tls.crt"), issued.chain_pem(), 1).finish().unwrap();
    assert_eq!(arrival(&mut rig), Arrival::Unknown);
    rig.rest();
    write::rename_over(dir.join("tls.crt"), issued.chain_pem())
        .then(write::rename_over(dir.join("tls.key"), issued.key_pem()))
        .finish()
        .unwrap();
    assert_eq!(arrival(&mut rig), Arrival::Renamed);
}

#[test]
fn a_swap_is_a_swap_with_and_without_old_versions() {
    for keep_old in [false, true] {
        let dir = KubeletDir::new(Ca::new("Root").issue("localhost")).unwrap().keep_old(keep_old);
        let mut rig = watching(Files::kubernetes(dir.path()));
        for round in 0..3 {
            let mut steps = dir.swap_steps(Ca::new("Next").issue("localhost")).unwrap();
            steps.run_until("rename ..data_tmp").unwrap();
            assert!(!rig.is_woken(), "nothing changed yet, round {round}");
            steps.run_through("rename ..data_tmp").unwrap();
            assert_eq!(arrival(&mut rig), Arrival::Swapped, "round {round}");
            steps.finish().unwrap();
            rig.rest();
        }
    }
}

#[test]
fn reading_and_other_names_wake_nobody() {
    let (dir, path) = bundle();
    let mut rig = watching(Files::trust(&path));
    for _ in 0..20 {
        rig.files.read().unwrap();
        fs::read(&path).unwrap();
    }
    assert!(!rig.is_woken(), "a read is no change");
    dir.write("other.pem", "x").unwrap();
    dir.write("ca.pem.tmp", "x").unwrap();
    fs::rename(dir.join("ca.pem.tmp"), dir.join("ca.pem.new")).unwrap();
    fs::remove_file(dir.join("ca.pem.new")).unwrap();
    fs::create_dir(dir.join("..data_tmp")).unwrap();
    assert!(!rig.is_woken(), "these names are not on the way");
    // It does hear.
    fs::write(&path, "x").unwrap();
    assert!(rig.is_woken());
}

#[test]
fn idle_it_asks_for_a_look_in_a_minute_and_finds_what_was_missed() {
    let (_dir, path) = bundle();
    let mut rig = watching(Files::trust(&path));
    // The content is read again 2 s after it was first seen, as `Mtime` does.
    let Look::SameUntil(at) = rig.step() else { panic!("{:?}", rig.looks) };
    assert_eq!(at, rig.now.mono + 2 * SEC);
    rig.pass(2 * SEC);
    assert_eq!(rig.step(), Look::Changed(Arrival::Recheck));
    assert_eq!(rig.step(), Look::SameUntil(rig.now.mono + 60 * SEC));
    rig.pass(30 * SEC);
    assert_eq!(rig.step(), Look::SameUntil(rig.now.mono + 60 * SEC));
}

#[test]
fn a_change_without_an_event_is_found_within_a_minute() {
    let (_dir, path) = bundle();
    // These watches stand and never tell anything.
    let mut scripted = Scripted::new(Files::trust(&path), 1000);
    scripted.step();
    scripted.now = scripted.now.after(2 * SEC);
    scripted.step();
    let (Armed::Watching, Look::SameUntil(at)) = scripted.step() else { panic!("not at rest") };
    fs::write(&path, "x").unwrap();
    scripted.now = scripted.now.after(at - scripted.now.mono);
    assert_eq!(scripted.step().1, Look::Changed(Arrival::Unannounced));
}

#[test]
fn directories_replaced_at_full_speed_leave_the_watches_standing() {
    // A watch that is set on a new directory can be taken away by a late event of the old one.
    let ca = Ca::new("Root");
    let pems: Vec<String> = (0..4).map(|number| Ca::new(&number.to_string()).certificate_pem()).collect();
    let dir = Arc::new(TestDir::new().unwrap());
    dir.write("a/b/ca.pem", ca.certificate_pem()).unwrap();
    let mut rig = watching(Files::trust(dir.join("a/b/ca.pem")));
    for round in 0..30 {
        let (dir, texts) = (Arc::clone(&dir), pems.clone());
        let writer = std::thread::spawn(move || {
            for number in 0..20 {
                let text = texts[number % 4].clone();
                match number % 3 {
                    0 => write::replace_dir(dir.join("a"), [("b/ca.pem", text)]).finish().unwrap(),
                    1 => write::replace_dir(dir.join("a/b"), [("ca.pem", text)]).finish().unwrap(),
                    _ => write::rebuild_dir(dir.join("a/b"), [("ca.pem", text)]).unwrap().finish().unwrap(),
                }
            }
        });
        while !writer.is_finished() {
            if rig.wakes.recv_timeout(Duration::from_millis(5)).is_ok() {
                rig.step();
            }
        }
        writer.join().unwrap();
        rig.react();
        assert_eq!(rig.armed, Armed::Watching, "round {round}");
        // Now one more change, on which all depends.
        let last = pems[round % 4].clone();
        write::rename_over(dir_path(&rig, "a/b/ca.pem"), last).finish().unwrap();
        assert!(rig.is_woken(), "round {round}: the watch is gone");
        rig.step();
        rig.react();
    }
}

fn dir_path(rig: &Rig, below: &str) -> PathBuf {
    let origin = rig.files.origin();
    let path = origin.as_path().unwrap();
    assert!(path.ends_with(below));
    path.to_owned()
}

#[test]
fn many_sources_share_one_watcher() {
    let watches: Arc<dyn Watches> = Arc::new(OsWatches::new());
    let dirs: Vec<_> = (0..200).map(|_| bundle()).collect();
    let mut sources: Vec<_> = dirs
        .iter()
        .map(|(_, path)| {
            let (sender, wakes) = channel();
            let wake = Wake::new(move || {
                let _ = sender.send(());
            });
            let alarm = Alarm::new(wake).with_watches(Arc::clone(&watches));
            let mut files = Files::trust(path).detect(Notify::new());
            assert_eq!(files.arm(&alarm), Armed::Watching);
            (files, wakes)
        })
        .collect();
    let mut events = Events::new(Arc::clone(&watches));
    for number in [0, 77, 199] {
        fs::write(&dirs[number].1, "x").unwrap();
        events.deliver();
        for (other, (_, wakes)) in sources.iter().enumerate() {
            assert_eq!(wakes.try_iter().count(), usize::from(other == number), "{other} after {number}");
        }
        // What happened is taken by the look.
        sources[number].0.look(certsource::clock::Now::read()).unwrap();
    }
    // One that goes leaves the watches of the others, also on directories that they share.
    sources.remove(0);
    fs::write(&dirs[1].1, "x").unwrap();
    events.deliver();
    assert_eq!(sources[0].1.try_iter().count(), 1);
}

#[test]
fn without_watches_it_says_so_and_polls() {
    let (_dir, path) = bundle();
    let mut rig = Rig::polling(Files::trust(&path), Notify::new());
    let Armed::Degraded(why) = &rig.armed else { panic!("{:?}", rig.armed) };
    assert!(why.contains("no file watches"), "{why}");
    rig.rest();
    fs::write(&path, "x").unwrap();
    rig.react();
    assert_eq!(rig.looks, [Look::Changed(Arrival::Unknown)]);
}

/// Refuses all but some watches, and lets the test send events.
#[derive(Default)]
struct Scarce {
    left: Mutex<usize>,
    asked: AtomicUsize,
    sinks: Mutex<Vec<(PathBuf, Sink)>>,
    /// Done once, before the next watch is set.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Scarce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scarce")
    }
}

impl Watches for Scarce {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        let mut left = self.left.lock().unwrap();
        if *left == 0 {
            return Err(WatchError::Exhausted("raise it".to_owned()));
        }
        *left -= 1;
        self.sinks.lock().unwrap().push((directory.to_owned(), sink));
        Ok(Watch::new(()))
    }
}

impl Scarce {
    fn send(&self, directory: &Path, kind: FileEventKind, path: Option<&Path>) {
        let sinks = self.sinks.lock().unwrap();
        let (_, sink) = sinks.iter().find(|(watched, _)| watched == directory).unwrap();
        sink(&FileEvent { kind, path: path.map(Path::to_owned) });
    }
}

struct Scripted {
    watches: Arc<Scarce>,
    files: Files,
    alarm: Alarm,
    woken: Arc<AtomicUsize>,
    now: certsource::clock::Now,
}

impl Scripted {
    fn new(files: Files, left: usize) -> Self {
        let watches = Arc::new(Scarce { left: Mutex::new(left), ..Scarce::default() });
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = Wake::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let alarm = Alarm::new(wake).with_watches(Arc::clone(&watches) as Arc<dyn Watches>);
        let now = certsource::clock::Now::read();
        Self { watches, files: files.detect(Notify::new()), alarm, woken, now }
    }

    fn step(&mut self) -> (Armed, Look) {
        let armed = self.files.arm(&self.alarm);
        (armed, self.files.look(self.now).unwrap())
    }
}

#[test]
fn when_watches_run_out_it_polls_and_tries_again() {
    let (_dir, path) = bundle();
    let path = fs::canonicalize(path).unwrap();
    let mut scripted = Scripted::new(Files::trust(&path), 1);
    let (Armed::Degraded(why), _) = scripted.step() else { panic!("not degraded") };
    assert!(why.contains("no file watch left: raise it"), "{why}");
    // Degraded, it never asks for less than the interval.
    scripted.now = scripted.now.after(3 * SEC);
    scripted.step();
    assert_eq!(scripted.step().1, Look::Same);
    let asked = scripted.watches.asked.load(Ordering::Relaxed);
    scripted.step();
    assert_eq!(scripted.watches.asked.load(Ordering::Relaxed), asked, "not at every look");

    *scripted.watches.left.lock().unwrap() = 100;
    scripted.now = scripted.now.after(60 * SEC);
    scripted.step();
    assert_eq!(scripted.step().0, Armed::Watching, "a minute later");
    assert!(scripted.woken.load(Ordering::Relaxed) > 0, "a look after new watches stand");
}

#[test]
fn lost_events_set_every_watch_again() {
    let (dir, path) = bundle();
    let directory = fs::canonicalize(dir.path()).unwrap();
    let path = directory.join(path.file_name().unwrap());
    let mut scripted = Scripted::new(Files::trust(&path), 1000);
    scripted.step();
    scripted.now = scripted.now.after(3 * SEC);
    scripted.step();
    let levels = directory.components().count();
    assert_eq!(scripted.watches.asked.swap(0, Ordering::Relaxed), levels, "one watch a level");
    assert!(matches!(scripted.step().1, Look::SameUntil(_)));
    scripted.step();
    assert_eq!(scripted.watches.asked.load(Ordering::Relaxed), 0);

    // What is told of names is not believed where everything is as it was; the watches are set again all the same.
    let cases: [(&str, FileEventKind, Option<&Path>, usize, bool); 5] = [
        ("overflow", FileEventKind::Rescan, None, levels, true),
        ("an event without a name", FileEventKind::Modified, None, levels, true),
        ("the directory went", FileEventKind::Removed, Some(&directory), 1, false),
        ("the directory came", FileEventKind::MovedTo, Some(&directory), 1, false),
        ("the file went", FileEventKind::Removed, Some(&path), 0, false),
    ];
    for (what, kind, about, again, changed) in cases {
        scripted.woken.store(0, Ordering::Relaxed);
        scripted.watches.send(&directory, kind, about);
        assert_eq!(scripted.woken.load(Ordering::Relaxed), 1, "{what}");
        let (armed, look) = scripted.step();
        assert_eq!(armed, Armed::Watching);
        assert_eq!(matches!(look, Look::Changed(_)), changed, "{what}: {look:?}");
        scripted.step();
        assert_eq!(scripted.watches.asked.swap(0, Ordering::Relaxed), again, "{what}");
    }
}

#[test]
fn a_watch_that_ends_between_arming_and_the_look_is_set_again_at_once() {
    let (dir, path) = bundle();
    let directory = fs::canonicalize(dir.path()).unwrap();
    let path = directory.join(path.file_name().unwrap());
    let mut scripted = Scripted::new(Files::trust(&path), 1000);
    scripted.step();
    scripted.now = scripted.now.after(3 * SEC);
    scripted.step();
    scripted.step();
    scripted.woken.store(0, Ordering::Relaxed);
    scripted.watches.asked.store(0, Ordering::Relaxed);

    // Old news of the file wakes the engine, and while it arms nothing is lost yet.
    scripted.watches.send(&directory, FileEventKind::MovedTo, Some(&path));
    assert_eq!(scripted.files.arm(&scripted.alarm), Armed::Watching);
    // Behind an event that no look has taken yet. The look finds nothing, and would let the engine sleep for a minute.
    scripted.watches.send(&directory, FileEventKind::Removed, Some(&directory));
    assert_eq!(scripted.woken.load(Ordering::Relaxed), 1);
    assert!(matches!(scripted.files.look(scripted.now), Ok(Look::SameUntil(_))));
    assert_eq!(scripted.woken.load(Ordering::Relaxed), 2, "the watch must be set again");
    assert_eq!(scripted.watches.asked.load(Ordering::Relaxed), 0);
    scripted.step();
    assert_eq!(scripted.watches.asked.load(Ordering::Relaxed), 1);
    let woken = scripted.woken.swap(0, Ordering::Relaxed);
    scripted.step();
    assert_eq!(
        (woken, scripted.woken.load(Ordering::Relaxed)),
        (3, 0),
        "a look behind the new watch, and then rest"
    );
}

#[test]
fn a_directory_that_was_replaced_without_an_event_is_watched_again_within_a_minute() {
    // As when something is mounted over it.
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    dir.write("tls/ca.pem", Ca::new("Root").certificate_pem()).unwrap();
    let mut scripted = Scripted::new(Files::trust(base.join("tls/ca.pem")), 1000);
    scripted.step();
    scripted.now = scripted.now.after(3 * SEC);
    scripted.step();
    scripted.step();
    fs::rename(base.join("tls"), base.join("away")).unwrap();
    dir.write("tls/ca.pem", "x").unwrap();
    scripted.watches.asked.store(0, Ordering::Relaxed);
    scripted.now = scripted.now.after(60 * SEC);
    assert!(matches!(scripted.step().1, Look::Changed(_)));
    scripted.step();
    assert_eq!(scripted.watches.asked.load(Ordering::Relaxed), 1, "the one that means another directory now");
}

#[test]
fn what_comes_to_be_while_watches_are_set_is_watched_too() {
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    let path = base.join("a/b/ca.pem");
    let mut scripted = Scripted::new(Files::trust(&path), 1000);
    // Before the watch stands that would tell of it.
    let late = path.clone();
    *scripted.watches.meanwhile.lock().unwrap() = Some(Box::new(move || {
        fs::create_dir_all(late.parent().unwrap()).unwrap();
        fs::write(late, "x").unwrap();
    }));
    assert_eq!(scripted.step().0, Armed::Watching);
    let watched: Vec<_> =
        scripted.watches.sinks.lock().unwrap().iter().map(|(directory, _)| directory.clone()).collect();
    assert!(watched.contains(&base.join("a")) && watched.contains(&base.join("a/b")), "{watched:?}");
}

/// Replaces a directory in the moment in which it is to be watched, once, and keeps what was watched.
#[derive(Debug)]
struct Replacing {
    directory: PathBuf,
    watched: Mutex<Vec<PathBuf>>,
}

impl Watches for Replacing {
    fn watch(&self, directory: &Path, _: Sink) -> Result<Watch, WatchError> {
        let mut watched = self.watched.lock().unwrap();
        if directory == self.directory && !watched.contains(&self.directory) {
            fs::rename(directory, directory.with_extension("old")).unwrap();
            fs::create_dir(directory).unwrap();
        }
        watched.push(directory.to_owned());
        Ok(Watch::new(()))
    }
}

#[test]
fn a_directory_that_is_replaced_while_its_watch_is_set_is_watched_again_and_others_are_not() {
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    dir.write("tls/ca.pem", "x").unwrap();
    let watches = Arc::new(Replacing { directory: base.join("tls"), watched: Mutex::default() });
    let alarm = Alarm::new(Wake::new(|| ())).with_watches(Arc::clone(&watches) as Arc<dyn Watches>);
    let mut files = Files::trust(base.join("tls/ca.pem")).detect(Notify::new());
    assert_eq!(files.arm(&alarm), Armed::Watching);
    let times = |directory: &Path| {
        watches.watched.lock().unwrap().iter().filter(|watched| *watched == directory).count()
    };
    assert_eq!(times(&base.join("tls")), 2, "the first watch is on the directory that went away");
    assert_eq!(times(&base), 1);
}

#[test]
fn as_many_links_are_followed_as_the_kernel_follows_and_a_circle_has_an_end() {
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    dir.write("sub/ca.pem", "x").unwrap();
    link("sub/ca.pem", base.join("1"));
    for number in 2..=41 {
        link((number - 1).to_string(), base.join(number.to_string()));
    }
    link("a", base.join("b"));
    link("b", base.join("a"));
    for (name, is_followed) in [("40", true), ("41", false), ("a", false)] {
        let mut scripted = Scripted::new(Files::trust(base.join(name)), 1000);
        scripted.step();
        let sinks = scripted.watches.sinks.lock().unwrap();
        assert_eq!(sinks.iter().any(|(directory, _)| *directory == base.join("sub")), is_followed, "{name}");
    }
}

#[test]
fn of_a_directory_of_anchors_every_name_wakes_but_hidden_ones() {
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    dir.write("a.pem", "x").unwrap();
    let mut scripted = Scripted::new(Files::trust(&base), 1000);
    scripted.step();
    for (name, wakes) in [("b.pem", 1), (".hidden", 0), ("..data", 1), ("..2026", 0)] {
        scripted.woken.store(0, Ordering::Relaxed);
        scripted.watches.send(&base, FileEventKind::Modified, Some(&base.join(name)));
        assert_eq!(scripted.woken.load(Ordering::Relaxed), wakes, "{name}");
        scripted.step();
    }
}

#[test]
fn a_burst_of_events_is_one_wake_up_until_it_is_looked_at() {
    let (dir, path) = bundle();
    let directory = fs::canonicalize(dir.path()).unwrap();
    let path = directory.join(path.file_name().unwrap());
    let mut scripted = Scripted::new(Files::trust(&path), 1000);
    scripted.step();
    for round in 1..=3 {
        for _ in 0..1000 {
            scripted.watches.send(&directory, FileEventKind::Modified, Some(&path));
        }
        assert_eq!(scripted.woken.load(Ordering::Relaxed), round);
        scripted.step();
    }
}

/// Calls one path remote.
#[derive(Debug)]
struct RemoteAt(PathBuf);

impl Fs for RemoteAt {
    fn metadata(&self, path: &Path) -> std::io::Result<Meta> {
        RealFs.metadata(path)
    }
    fn read_link(&self, path: &Path, into: &mut std::ffi::OsString) -> std::io::Result<()> {
        RealFs.read_link(path, into)
    }
    fn open(&self, path: &Path) -> std::io::Result<Opened> {
        RealFs.open(path)
    }
    fn open_dir(&self, path: &Path) -> std::io::Result<Box<dyn Dir>> {
        RealFs.open_dir(path)
    }
    fn volume(&self, path: &Path) -> std::io::Result<Volume> {
        if path == self.0 { Ok(Volume::Remote) } else { RealFs.volume(path) }
    }
}

#[test]
fn a_remote_directory_on_the_way_means_polling() {
    let (dir, path) = bundle();
    let directory = fs::canonicalize(dir.path()).unwrap();
    let path = directory.join(path.file_name().unwrap());
    for remote in [&path, &directory, &PathBuf::from("/")] {
        let files = Files::trust(&path).filesystem(Arc::new(RemoteAt(remote.clone())));
        let mut scripted = Scripted::new(files, 1000);
        let (Armed::Degraded(why), _) = scripted.step() else { panic!("{remote:?}") };
        assert!(why.starts_with(&format!("{}: on a network", remote.display())), "{why}");
        // A watch on a file system that hangs would hang all others.
        let sinks = scripted.watches.sinks.lock().unwrap();
        assert!(!sinks.is_empty() && sinks.iter().all(|(watched, _)| watched != remote));
    }
}
