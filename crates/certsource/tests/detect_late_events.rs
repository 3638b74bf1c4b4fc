//! File events that come after the look that saw what they tell of, or after a look that saw a part of it: the detector
//! `Notify` must neither take old news for a change nor lose how a change arrived. With events that the test sends, and
//! with real ones that are held back.
#![cfg(all(target_os = "linux", feature = "notify"))]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod detect_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::detect::Notify;
use certsource::machine::{Policy, Told};
use certsource::source::{
    Alarm, Armed, Arrival, FileEvent, FileEventKind, Look, Sink, Wake, Watch, WatchError, Watches,
};
use certsource::watch::OsWatches;
use certsource::{Driver, Files, Source};
use certsource_testkit::{Ca, KubeletDir, TestDir, write};

use self::detect_support::{BOUND, SEC};

/// Watches that tell what the test says.
#[derive(Default)]
struct Scripted(Mutex<Vec<(PathBuf, Sink)>>);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Watches for Scripted {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        self.0.lock().unwrap().push((directory.to_owned(), sink));
        Ok(Watch::new(()))
    }
}

struct Rig {
    watches: Arc<Scripted>,
    files: Files,
    alarm: Alarm,
    now: Now,
}

impl Rig {
    /// At rest: also the content was read once more.
    fn at_rest(files: Files) -> Self {
        let watches = Arc::new(Scripted::default());
        let alarm = Alarm::new(Wake::new(|| ())).with_watches(Arc::clone(&watches) as Arc<dyn Watches>);
        let mut rig = Self { watches, files: files.detect(Notify::new()), alarm, now: Now::read() };
        rig.look();
        rig.now = rig.now.after(3 * SEC);
        rig.look();
        assert!(matches!(rig.look(), Look::SameUntil(_)));
        rig
    }

    fn look(&mut self) -> Look {
        assert_eq!(self.files.arm(&self.alarm), Armed::Watching);
        self.files.look(self.now).unwrap()
    }

    fn send(&self, kind: FileEventKind, path: impl AsRef<Path>) {
        let path = path.as_ref();
        self.send_by(path.parent().unwrap(), kind, path);
    }

    /// An event of the watch that was set on `directory`, be it still held or not.
    fn send_by(&self, directory: &Path, kind: FileEventKind, path: &Path) {
        let sinks = self.watches.0.lock().unwrap().clone();
        let (_, sink) = sinks.iter().rfind(|(watched, _)| watched == directory).unwrap();
        sink(&FileEvent { kind, path: Some(path.to_owned()) });
    }
}

fn pair() -> (TestDir, PathBuf, PathBuf, Files) {
    let dir = TestDir::new().unwrap();
    dir.write_issued(Ca::new("Root").issue("localhost")).unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    let (cert, key) = (base.join("tls.crt"), base.join("tls.key"));
    let files = Files::identity(&cert, &key);
    (dir, cert, key, files)
}

#[test]
fn events_of_a_swap_that_come_after_the_look_are_no_change() {
    for keep_old in [false, true] {
        let dir = KubeletDir::new(Ca::new("Root").issue("localhost")).unwrap().keep_old(keep_old);
        let base = fs::canonicalize(dir.path()).unwrap();
        let mut rig = Rig::at_rest(Files::kubernetes(&base));
        let old = base.join(fs::read_link(base.join("..data")).unwrap());
        dir.swap(Ca::new("Next").issue("localhost")).unwrap();
        assert_eq!(rig.look(), Look::Changed(Arrival::Swapped));
        rig.send(FileEventKind::MovedTo, base.join("..data"));
        if !keep_old {
            rig.send(FileEventKind::Removed, old.join("tls.key"));
        }
        assert!(matches!(rig.look(), Look::SameUntil(_)), "it was seen");
        rig.send(FileEventKind::Removed, &old);
        assert!(matches!(rig.look(), Look::SameUntil(_)), "it was seen");
        // A file behind the link that is written is a change, by whatever event that is found.
        fs::write(dir.cert_path(), "x").unwrap();
        rig.send(FileEventKind::MovedTo, base.join("..data"));
        assert!(matches!(rig.look(), Look::Changed(_)), "every file is compared");
    }
}

/// The watch on a version of a volume tells of that directory itself, too: that its mode was set, when it was made. Such
/// an event may come when the next version is there already, and says nothing of that one.
#[test]
fn late_events_of_a_directory_that_was_left_are_no_change() {
    let dir = KubeletDir::new(Ca::new("Root").issue("localhost")).unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    let mut rig = Rig::at_rest(Files::kubernetes(&base));
    let old = base.join(fs::read_link(base.join("..data")).unwrap());
    rig.send_by(&old, FileEventKind::Modified, &old);
    assert!(matches!(rig.look(), Look::SameUntil(_)), "a mode: every file is as it was");
    dir.swap(Ca::new("Next").issue("localhost")).unwrap();
    assert_eq!(rig.look(), Look::Changed(Arrival::Swapped));
    assert_eq!(rig.files.arm(&rig.alarm), Armed::Watching);
    for kind in [FileEventKind::Modified, FileEventKind::Closed, FileEventKind::Removed] {
        rig.send_by(&old, kind, &old);
        rig.send_by(&old, kind, &old.join("tls.key"));
        assert!(matches!(rig.look(), Look::SameUntil(_)), "{kind:?}: nothing on the way");
    }
    rig.send_by(&old, FileEventKind::Rescan, &old);
    assert_eq!(rig.look(), Look::Changed(Arrival::Unknown), "events were lost: anything may have happened");
}

#[test]
fn an_event_that_comes_after_the_look_explains_what_that_saw() {
    // A writer that a busy machine holds up between its two renames may be taken for one that settles.
    let is_quick =
        std::iter::repeat_with(explains_what_the_look_before_saw).take(100).any(|is_quick| is_quick);
    assert!(is_quick, "no two renames in a row within 15 ms");
}

/// Whether both renames were made within 15 ms; else nothing is said of them.
fn explains_what_the_look_before_saw() -> bool {
    let (_dir, cert, key, files) = pair();
    let new = Ca::new("Next").issue("localhost");
    let mut rig = Rig::at_rest(files);
    write::rename_over(&cert, new.chain_pem()).finish().unwrap();
    assert_eq!(rig.look(), Look::Changed(Arrival::Unannounced));
    rig.send(FileEventKind::MovedTo, &cert);
    assert_eq!(rig.look(), Look::Changed(Arrival::Renamed));
    // The event of the one, and what the other did.
    let renames = write::rename_over(&cert, new.chain_pem()).then(write::rename_over(&key, new.key_pem()));
    let begun = Instant::now();
    renames.finish().unwrap();
    if begun.elapsed() > Duration::from_millis(15) {
        return false;
    }
    rig.send(FileEventKind::MovedTo, &cert);
    assert_eq!(rig.look(), Look::Changed(Arrival::Renamed));
    rig.send(FileEventKind::MovedTo, &key);
    assert!(matches!(rig.look(), Look::SameUntil(_)), "it was seen");
    true
}

/// Writes in place until the file's time is later than that of its directory: by a step of the kernel's clock.
fn write_in_place_after_the_rename(path: &Path, content: &str) {
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let end = Instant::now() + BOUND;
    loop {
        fs::write(path, content).unwrap();
        if modified(path) > modified(path.parent().unwrap()) {
            return;
        }
        assert!(Instant::now() < end, "a write moves no time stamp");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What stands there by then may be half of what the writer means, and its event is still to come.
#[test]
fn an_event_of_a_rename_does_not_explain_what_was_written_after_it() {
    let (dir, cert, key, _) = pair();
    let ca = fs::canonicalize(dir.join("ca.crt")).unwrap();
    let new = Ca::new("Next").issue("localhost");
    for looks_before in [false, true] {
        for (files, path, content) in
            [(Files::trust(&ca), &ca, new.root_pem()), (Files::identity(&cert, &key), &key, new.key_pem())]
        {
            let mut rig = Rig::at_rest(files);
            write::rename_over(path, content.clone()).finish().unwrap();
            if looks_before {
                assert_eq!(rig.look(), Look::Changed(Arrival::Unannounced));
            }
            write_in_place_after_the_rename(path, &content);
            rig.send(FileEventKind::MovedTo, path);
            assert_eq!(rig.look(), Look::Changed(Arrival::Unknown));
            // What comes then is a change of its own.
            write::rename_over(path, content).finish().unwrap();
            rig.send(FileEventKind::MovedTo, path);
            assert_eq!(rig.look(), Look::Changed(Arrival::Renamed));
        }
    }
}

#[test]
fn an_event_of_a_rename_does_not_explain_a_new_file_that_was_written_after_it() {
    let dir = TestDir::new().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    dir.write("one.crt", Ca::new("One").issue("one").root_pem()).unwrap();
    let mut rig = Rig::at_rest(Files::trust(&base));
    let (path, content) = (base.join("two.crt"), Ca::new("Two").issue("two").root_pem());
    write::rename_over(&path, content.clone()).finish().unwrap();
    write_in_place_after_the_rename(&path, &content);
    rig.send(FileEventKind::MovedTo, &path);
    assert_eq!(rig.look(), Look::Changed(Arrival::Unknown));
}

/// A write that was told of has settled by then, or settles: it says nothing of the file that is renamed next.
#[test]
fn a_rename_is_known_although_another_file_was_written_before_it() {
    let (_dir, cert, key, files) = pair();
    let new = Ca::new("Next").issue("localhost");
    let mut rig = Rig::at_rest(files);
    fs::write(&key, new.key_pem()).unwrap();
    rig.send(FileEventKind::Closed, &key);
    assert_eq!(rig.look(), Look::Changed(Arrival::Unknown));
    // Longer than a write and a rename can be taken for one.
    std::thread::sleep(Duration::from_millis(50));
    write::rename_over(&cert, new.chain_pem()).finish().unwrap();
    rig.send(FileEventKind::MovedTo, &cert);
    assert_eq!(rig.look(), Look::Changed(Arrival::Renamed));
}

/// Within one tick of the clock a write may leave every signature as it was: an event that tells of one is believed.
#[test]
fn an_event_of_a_write_is_a_change_although_no_signature_moved() {
    let (_dir, cert, key, files) = pair();
    let mut rig = Rig::at_rest(files);
    for kind in [FileEventKind::Modified, FileEventKind::Closed, FileEventKind::Rescan] {
        rig.send(kind, &cert);
        rig.send(FileEventKind::MovedTo, &key);
        assert_eq!(rig.look(), Look::Changed(Arrival::Unknown), "{kind:?}");
    }
}

/// Real events, each of them this much late.
struct Late {
    real: OsWatches,
    by: Duration,
    queue: Sender<(Instant, Sink, FileEvent)>,
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Late")
    }
}

impl Late {
    fn by(by: Duration) -> Self {
        let (queue, due) = channel::<(Instant, Sink, FileEvent)>();
        std::thread::spawn(move || {
            for (at, sink, event) in due {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                sink(&event);
            }
        });
        Self { real: OsWatches::new(), by, queue }
    }
}

impl Watches for Late {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        let (by, queue) = (self.by, self.queue.clone());
        let late: Sink = Arc::new(move |event: &FileEvent| {
            let _ = queue.send((Instant::now() + by, Arc::clone(&sink), event.clone()));
        });
        self.real.watch(directory, late)
    }
}

/// Rotates again and again, and fails when one rotation had to settle as if nothing was known of it.
fn rotate(files: Files, rounds: usize, rotation: impl Fn(usize)) {
    let (wake, woken) = channel();
    let mut policy = Policy::default();
    // Longer than anything here takes, so that settling is told from being slow.
    (policy.settle, policy.settle_loss) = (BOUND, BOUND);
    let watches: Arc<dyn Watches> = Arc::new(Late::by(Duration::from_millis(20)));
    let alarm = Alarm::new(Wake::new(move || {
        let _ = wake.send(());
    }))
    .with_watches(watches);
    let mut driver = Driver::new(files.detect(Notify::new()), policy).with_alarm(alarm);
    // What was written just now has stood still by this clock.
    let ahead = 60 * SEC;
    let clock = || Now::read().after(ahead);
    driver.run(clock);
    let publications =
        |driver: &mut Driver<Files>| driver.drain().filter(|told| matches!(told, Told::Published(_))).count();
    assert_eq!(publications(&mut driver), 1, "the first load");
    for round in 1..=rounds {
        rotation(round);
        let end = Instant::now() + BOUND / 2;
        // A look before any event came, as the safety poll makes it.
        if round % 3 == 0 {
            driver.wake(clock());
        }
        loop {
            let next = driver.run(clock);
            if publications(&mut driver) > 0 {
                break;
            }
            let now = Instant::now();
            assert!(now < end, "rotation {round}: it settles. {driver:?}");
            let until = next.map_or(end, |next| (next - ahead).min(end));
            if woken.recv_timeout(until.saturating_duration_since(now)).is_ok() {
                driver.wake(clock());
            }
        }
    }
}

#[test]
fn swaps_are_adopted_at_once_although_their_events_are_late() {
    let ca = Ca::new("Root");
    let issued = [ca.issue("one"), ca.issue("two")];
    for keep_old in [false, true] {
        let dir = KubeletDir::new(&issued[0]).unwrap().keep_old(keep_old);
        rotate(Files::kubernetes(dir.path()), 30, |round| dir.swap(&issued[round % 2]).unwrap());
    }
}

#[test]
fn renames_are_adopted_at_once_although_their_events_are_late() {
    let issued = [Ca::new("One").issue("one"), Ca::new("Two").issue("two")];
    let (dir, cert, key, files) = pair();
    let ca = fs::canonicalize(dir.join("ca.crt")).unwrap();
    rotate(Files::trust(&ca), 30, |round| {
        write::rename_over(&ca, issued[round % 2].root_pem()).finish().unwrap();
    });
    rotate(files, 30, |round| {
        let issued = &issued[round % 2];
        let (cert, key) =
            (write::rename_over(&cert, issued.chain_pem()), write::rename_over(&key, issued.key_pem()));
        cert.then(key).finish().unwrap();
    });
}
