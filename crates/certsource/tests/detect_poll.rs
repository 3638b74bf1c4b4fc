//! The polling detectors, look by look, on simulated time: what they say, when, and what a look costs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod detect_support;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use certsource::clock::Now;
use certsource::detect::{Mtime, Sha256};
use certsource::fs::{Dir, Fs, Meta, Opened, RealFs, Stamp, Volume};
use certsource::source::{Arrival, Detector, Look};
use certsource_testkit::{Ca, KubeletDir, TestDir};

use self::detect_support::{SEC, link};

const CHANGED: Look = Look::Changed(Arrival::Unknown);
const RECHECK: Look = Look::Changed(Arrival::Recheck);

/// The real file system, with time stamps that can be frozen, volumes that can be remote, and a count of calls.
#[derive(Debug, Default)]
struct Odd {
    is_frozen: AtomicBool,
    is_remote: AtomicBool,
    metadata: AtomicUsize,
    links: AtomicUsize,
    opened: AtomicUsize,
    stamps: Mutex<std::collections::HashMap<PathBuf, Meta>>,
}

impl Odd {
    fn counts(&self) -> [usize; 3] {
        [&self.metadata, &self.links, &self.opened].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

impl Fs for Odd {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        self.metadata.fetch_add(1, Ordering::Relaxed);
        let meta = RealFs.metadata(path)?;
        if !self.is_frozen.load(Ordering::Relaxed) {
            self.stamps.lock().unwrap().insert(path.to_owned(), meta);
            return Ok(meta);
        }
        Ok(*self.stamps.lock().unwrap().entry(path.to_owned()).or_insert(meta))
    }
    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        self.links.fetch_add(1, Ordering::Relaxed);
        RealFs.read_link(path, into)
    }
    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        RealFs.open(path)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        RealFs.open_dir(path)
    }
    fn volume(&self, path: &Path) -> io::Result<Volume> {
        match self.is_remote.load(Ordering::Relaxed) {
            true => Ok(Volume::Remote),
            false => RealFs.volume(path),
        }
    }
}

/// A detector on some paths and a clock that stands still between looks.
struct Bench<D> {
    detector: D,
    fs: Odd,
    paths: Vec<PathBuf>,
    now: Now,
}

impl<D: Detector> Bench<D> {
    fn new(detector: D, paths: &[PathBuf]) -> Self {
        let mut bench = Self { detector, fs: Odd::default(), paths: paths.to_vec(), now: Now::read() };
        assert_eq!(bench.look(0), CHANGED, "the first look");
        bench
    }

    /// A look so many seconds later.
    fn look(&mut self, after: u32) -> Look {
        self.now = self.now.after(after * SEC);
        self.detector.look(&self.fs, &self.paths, self.now).unwrap()
    }
}

impl Bench<Mtime> {
    /// At rest: what was seen first was read again.
    fn rested(paths: &[PathBuf]) -> Self {
        let mut bench = Self::new(Mtime::new(), paths);
        assert_eq!(bench.look(2), RECHECK, "content is read again after 2 s");
        assert_eq!(bench.look(1), Look::Same);
        bench
    }
}

/// Whether a look found nothing, be it that it asks for another one.
fn is_same(look: Look) -> bool {
    matches!(look, Look::Same | Look::SameUntil(_))
}

fn one_file() -> (TestDir, PathBuf) {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a", "one").unwrap();
    (dir, path)
}

#[test]
fn a_young_signature_is_checked_once_two_seconds_after_it_was_first_seen() {
    let (_dir, path) = one_file();
    let mut bench = Bench::new(Mtime::new(), std::slice::from_ref(&path));
    let due = bench.now.mono + 2 * SEC;
    assert_eq!(bench.look(0), Look::SameUntil(due));
    assert_eq!(bench.look(1), Look::SameUntil(due));
    assert_eq!(bench.look(1), RECHECK);
    assert_eq!(bench.look(0), Look::Same);
    assert_eq!(bench.look(10), Look::Same);

    fs::write(&path, "two").unwrap();
    assert_eq!(bench.look(10), CHANGED);
    let due = bench.now.mono + 2 * SEC;
    assert_eq!(bench.look(1), Look::SameUntil(due));
    // Another change begins the time anew.
    fs::write(&path, "three").unwrap();
    assert_eq!(bench.look(0), CHANGED);
    assert_eq!(bench.look(1), Look::SameUntil(due + SEC));
    // Late is as good.
    assert_eq!(bench.look(30), RECHECK);
    assert_eq!(bench.look(10), Look::Same);
}

#[test]
fn a_change_that_moves_no_stamp_is_read_within_five_minutes() {
    let (_dir, path) = one_file();
    let mut bench = Bench::rested(std::slice::from_ref(&path));
    bench.fs.is_frozen.store(true, Ordering::Relaxed);
    fs::write(&path, "two").unwrap();
    let mut waited = 0;
    while bench.look(10) == Look::Same {
        waited += 10;
        assert!(waited < 300, "nothing after {waited} s");
    }
    assert!(waited >= 280, "after {waited} s already: a read each look would not show anything here");
    assert_eq!(bench.look(10), Look::Same);
}

type Change<'a> = Box<dyn Fn() + 'a>;

#[test]
fn every_state_of_a_path_is_told_apart() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("a");
    let mut bench = Bench::rested(std::slice::from_ref(&path));
    let steps: [(&str, Change<'_>); 7] = [
        ("created", Box::new(|| fs::write(&path, "one").unwrap())),
        ("mode changed", Box::new(|| fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap())),
        ("removed", Box::new(|| fs::remove_file(&path).unwrap())),
        ("a directory", Box::new(|| fs::create_dir(&path).unwrap())),
        (
            "a link to itself",
            Box::new(|| {
                fs::remove_dir(&path).unwrap();
                link("a", &path);
            }),
        ),
        (
            "a link to nothing",
            Box::new(|| {
                fs::remove_file(&path).unwrap();
                link("nothing", &path);
            }),
        ),
        ("the same bytes again", Box::new(|| fs::write(dir.join("nothing"), "one").unwrap())),
    ];
    for (what, change) in steps {
        change();
        assert_eq!(bench.look(10), CHANGED, "{what}");
        assert_eq!(bench.look(2), RECHECK, "{what}, read again");
        assert_eq!(bench.look(1), Look::Same, "{what}, at rest");
    }
}

#[test]
fn a_stamp_that_goes_back_is_a_change() {
    let (_dir, path) = one_file();
    let mut bench = Bench::rested(std::slice::from_ref(&path));
    for at in [1_000_000_000, 2_000_000_000, 500_000_000] {
        let at = std::time::SystemTime::UNIX_EPOCH + at * SEC;
        fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        assert_eq!(bench.look(10), CHANGED);
        assert_eq!(bench.look(2), RECHECK);
    }
    // Only the modification time, by no more than a nanosecond.
    bench.fs.is_frozen.store(true, Ordering::Relaxed);
    assert_eq!(bench.look(1), Look::Same);
    let mut stamps = bench.fs.stamps.lock().unwrap();
    let meta = stamps.get_mut(&path).unwrap();
    meta.modified = Stamp { nanos: meta.modified.nanos ^ 1, ..meta.modified };
    drop(stamps);
    assert_eq!(bench.look(1), CHANGED);
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let (_dir, path) = one_file();
    let mut bench = Bench::rested(std::slice::from_ref(&path));
    bench.now.wall -= 1_000_000 * SEC;
    assert_eq!(bench.look(1), Look::Same);
    bench.now.wall += 9_000_000 * SEC;
    assert_eq!(bench.look(1), Look::Same);
    fs::write(&path, "two").unwrap();
    assert_eq!(bench.look(1), CHANGED);
}

#[test]
fn on_a_remote_volume_every_look_compares_content() {
    let (_dir, path) = one_file();
    let mut bench =
        Bench { detector: Mtime::new(), fs: Odd::default(), paths: vec![path.clone()], now: Now::read() };
    bench.fs.is_remote.store(true, Ordering::Relaxed);
    bench.look(0);
    bench.fs.is_frozen.store(true, Ordering::Relaxed);
    assert!(is_same(bench.look(1)));
    fs::write(&path, "two").unwrap();
    assert_eq!(bench.look(10), CHANGED, "with equal stamps");
    assert!(is_same(bench.look(1)));
    fs::remove_file(&path).unwrap();
    assert_eq!(bench.look(10), CHANGED);
    // What comes back may be on another volume: then stamps are compared.
    bench.fs.is_remote.store(false, Ordering::Relaxed);
    bench.fs.is_frozen.store(false, Ordering::Relaxed);
    fs::write(&path, "two").unwrap();
    assert_eq!(bench.look(10), CHANGED);
    bench.look(2);
    bench.fs.counts();
    assert_eq!(bench.look(1), Look::Same);
    assert_eq!(bench.fs.counts(), [1, 0, 0]);
}

#[test]
fn an_idle_look_at_files_is_one_stat_each() {
    let (dir, path) = one_file();
    let other = dir.write("b", "two").unwrap();
    let mut bench = Bench::rested(&[path, other]);
    bench.fs.counts();
    assert_eq!(bench.look(10), Look::Same);
    assert_eq!(bench.fs.counts(), [2, 0, 0]);
}

#[test]
fn an_idle_look_at_a_volume_is_one_readlink_and_every_ten_seconds_the_files() {
    let issued = Ca::new("Root").issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let paths = [dir.ca_path(), dir.cert_path(), dir.key_path()];
    let mut bench = Bench::new(Mtime::new(), &paths);
    bench.fs.counts();
    bench.look(1);
    assert_eq!(bench.fs.counts(), [0, 1, 0], "also right after a change");
    let mut bench = Bench::rested(&paths);
    bench.look(10);
    bench.fs.counts();
    for _ in 0..9 {
        assert_eq!(bench.look(1), Look::Same);
        assert_eq!(bench.fs.counts(), [0, 1, 0]);
    }
    assert_eq!(bench.look(1), Look::Same);
    assert_eq!(bench.fs.counts(), [3, 1, 0]);

    dir.swap(Ca::new("Other").issue("localhost")).unwrap();
    assert_eq!(bench.look(1), Look::Changed(Arrival::Swapped));
    assert_eq!(bench.look(2), RECHECK, "read again");
    assert_eq!(bench.look(1), Look::Same);
    // In place, behind the link.
    fs::write(dir.ca_path(), "x").unwrap();
    assert_eq!(bench.look(10), CHANGED);
    assert_eq!(bench.look(2), RECHECK, "read again");
    // The link goes, and comes back: not a swap in one step.
    let data = dir.join("..data");
    let target = fs::read_link(&data).unwrap();
    fs::remove_file(&data).unwrap();
    assert_eq!(bench.look(1), CHANGED);
    link(target, data);
    assert_eq!(bench.look(1), CHANGED);
}

#[test]
fn an_idle_look_allocates_nothing() {
    let (_dir, path) = one_file();
    let volume = KubeletDir::new(Ca::new("Root").issue("localhost")).unwrap();
    for paths in [vec![path], vec![volume.ca_path(), volume.cert_path(), volume.key_path()]] {
        let mut detector = Mtime::new();
        let mut now = Now::read();
        // A second change brings both buffers of a link into use.
        for _ in 0..3 {
            detector.look(&RealFs, &paths, now).unwrap();
            now = now.after(5 * SEC);
        }
        volume.rewrite().unwrap();
        for _ in 0..3 {
            detector.look(&RealFs, &paths, now).unwrap();
            now = now.after(5 * SEC);
        }
        // A minute, with rounds over all files in it.
        let allocations = allocation_counter::measure(|| {
            for _ in 0..12 {
                let look = detector.look(&RealFs, &paths, now).unwrap();
                assert_eq!(look, Look::Same);
                now = now.after(5 * SEC);
            }
        });
        assert_eq!(allocations.count_total, 0, "{paths:?}");
    }
}

#[test]
fn digests_see_content_and_nothing_else() {
    let (dir, path) = one_file();
    let mut bench = Bench::new(Sha256::new(), std::slice::from_ref(&path));
    assert!(is_same(bench.look(1)));
    fs::write(&path, "one").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    fs::rename(&path, dir.join("b")).unwrap();
    fs::copy(dir.join("b"), &path).unwrap();
    assert!(is_same(bench.look(0)), "the same content in another file");
    bench.fs.is_frozen.store(true, Ordering::Relaxed);
    fs::write(&path, "two").unwrap();
    assert_eq!(bench.look(1), CHANGED);
    assert!(is_same(bench.look(1)));
    for content in ["", "x".repeat(100_000).as_str(), "y".repeat(100_000).as_str()] {
        fs::write(&path, content).unwrap();
        assert_eq!(bench.look(1), CHANGED);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(bench.look(1), CHANGED);
    assert!(is_same(bench.look(1)));
    fs::create_dir(&path).unwrap();
    assert_eq!(bench.look(1), CHANGED);
    fs::write(path.join("inner"), "").unwrap();
    assert_eq!(bench.look(1), CHANGED, "a name in a directory");
    assert!(is_same(bench.look(1)));
}

#[test]
fn digests_see_the_last_byte_of_a_large_file() {
    let (_dir, path) = one_file();
    let mut content = vec![b'x'; 2 << 20];
    fs::write(&path, &content).unwrap();
    let mut bench = Bench::new(Sha256::new(), std::slice::from_ref(&path));
    assert!(is_same(bench.look(1)));
    *content.last_mut().unwrap() = b'y';
    fs::write(&path, &content).unwrap();
    // Whatever says "changed" because a file was replaced or touched says so once, and before that.
    bench.fs.is_frozen.store(true, Ordering::Relaxed);
    assert_eq!(bench.look(0), CHANGED);
    assert!(is_same(bench.look(0)));
}

#[test]
fn what_was_read_between_two_looks_is_read_again() {
    // Content that changes after a look and is put back before the next one was read, perhaps, but never seen.
    let (_dir, path) = one_file();
    let mut bench = Bench::new(Sha256::new(), std::slice::from_ref(&path));
    assert_eq!(bench.look(1), Look::SameUntil(bench.now.after(SEC).mono));
    assert_eq!(bench.look(1), RECHECK, "2 s after the change");
    assert_eq!(bench.look(1), Look::Same, "once");
    assert_eq!(bench.look(298), Look::Same);
    assert_eq!(bench.look(1), RECHECK, "every 5 minutes in any case");
    assert_eq!(bench.look(299), Look::Same);
    assert_eq!(bench.look(1), RECHECK);
}

/// What is read after a look that says "changed" is confirmed by the next look. Digests alone would confirm what was there only
/// in between.
#[test]
fn what_was_put_back_after_a_look_that_said_changed_is_told_once() {
    let (dir, path) = one_file();
    let mut bench = Bench::new(Sha256::new(), std::slice::from_ref(&path));
    fs::write(dir.join("b"), "one").unwrap();
    fs::rename(dir.join("b"), &path).unwrap();
    assert_eq!(bench.look(0), CHANGED, "the same content in another file");
    assert!(is_same(bench.look(0)), "once");
}

#[test]
fn digests_know_a_swap_and_ignore_one_that_changes_nothing() {
    let issued = Ca::new("Root").issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let mut bench = Bench::new(Sha256::new(), &[dir.ca_path(), dir.cert_path(), dir.key_path()]);
    assert!(is_same(bench.look(0)));
    dir.rewrite().unwrap();
    assert!(is_same(bench.look(1)));
    dir.swap(Ca::new("Other").issue("localhost")).unwrap();
    assert_eq!(bench.look(1), Look::Changed(Arrival::Swapped));
    // A change in place is no swap.
    fs::write(dir.ca_path(), "x").unwrap();
    assert_eq!(bench.look(1), CHANGED);
}

#[test]
fn no_digest_is_shown() {
    let (_dir, path) = one_file();
    let bench = Bench::new(Sha256::new(), std::slice::from_ref(&path));
    let shown = format!("{:?}", bench.detector);
    assert_eq!(shown, format!("Sha256 {{ paths: [{path:?}], .. }}"));
    let mut mtime = Bench { detector: Mtime::new(), fs: Odd::default(), paths: vec![path], now: Now::read() };
    mtime.fs.is_remote.store(true, Ordering::Relaxed);
    mtime.look(0);
    // The first byte of the digest of "one", in the two forms that Debug would give it.
    let shown = format!("{:?}", mtime.detector);
    assert!(!shown.contains("118, ") && !shown.contains("7692c3ad"), "{shown}");
}

#[test]
fn other_paths_are_a_change() {
    let (dir, path) = one_file();
    let other = dir.write("b", "one").unwrap();
    let mut mtime = Bench::rested(std::slice::from_ref(&path));
    let mut sha256 = Bench::new(Sha256::new(), &[path]);
    mtime.paths = vec![other.clone()];
    sha256.paths = vec![other];
    assert_eq!(mtime.look(1), CHANGED);
    assert_eq!(sha256.look(1), CHANGED);
    assert!(is_same(sha256.look(1)));
    // Also where each leads to what was seen before.
    mtime.paths.push(mtime.paths[0].clone());
    assert_eq!(mtime.look(1), CHANGED, "one path more");
    mtime.paths.pop();
    assert_eq!(mtime.look(1), CHANGED, "and fewer");
}
