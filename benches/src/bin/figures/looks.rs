//! Idle looks and a load, each beside the system calls, or the crates, that it can not do without.

use std::ffi::OsString;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use certsource::clock::Now;
use certsource::detect::Sha256;
use certsource::fs::{Dir, Fs, Meta, Opened, RealFs, Volume};
use certsource::source::Look;
use certsource::{Files, Source};
use certsource_bench::bundle;
use certsource_bench::rounds::{Pair, calls_for, in_turns, nanos};
use certsource_bench::row::{Bar, Row, time};
use certsource_testkit::{Ca, KubeletDir, TestDir};
use rustix::fs::{AtFlags, CWD, StatxFlags, readlinkat_raw, statx};
use sha2::Digest as _;

const ROUNDS: usize = 101;
const SLICE: Duration = Duration::from_millis(4);

/// Looks until nothing is left to look at again, and returns the moment at which each further look finds nothing.
fn settled(files: &mut Files) -> Now {
    let start = Now::read();
    for seconds in [0, 3, 6] {
        files.look(start.after(Duration::from_secs(seconds))).expect("the files are there");
    }
    let idle = start.after(Duration::from_secs(7));
    assert_eq!(files.look(idle).expect("the files are there"), Look::Same);
    idle
}

fn beside(mut ours: impl FnMut(), mut bare: impl FnMut()) -> Pair {
    let calls = calls_for(SLICE, &mut bare);
    in_turns(ROUNDS, || nanos(calls, &mut ours), || nanos(calls, &mut bare))
}

fn row(id: &'static str, what: &str, pair: &Pair, bar: Bar, note: &str) -> Row {
    Row {
        id,
        what: what.to_owned(),
        ours: time(pair.ours.median()),
        bare: time(pair.bare.median()),
        result: format!("{} ×", pair.ratio_beside(bar)),
        bar: format!("{bar} ×"),
        is_met: bar.is_met_by(pair.ratio.median()),
        note: note.to_owned(),
    }
}

/// A look at three files.
pub(crate) fn mtime() -> Vec<Row> {
    let dir = TestDir::new().expect("a directory");
    dir.write_issued(Ca::new("ca").issue("client")).expect("three files");
    let paths: Vec<PathBuf> = ["ca.crt", "tls.crt", "tls.key"].iter().map(|name| dir.join(name)).collect();
    let mut files = Files::kubernetes(dir.path());
    let idle = settled(&mut files);
    let pair = beside(|| drop(black_box(files.look(idle))), || paths.iter().for_each(|path| stat(path)));
    vec![row("look-mtime", "an idle look at 3 files, mtime", &pair, Bar::AtMost(1.3), "bare: 3 × statx")]
}

#[inline(never)]
pub(crate) fn stat(path: &Path) {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME);
    black_box(found.expect("the file is there"));
}

/// A look at a Kubernetes volume: by time, and by the number of calls.
pub(crate) fn link() -> Vec<Row> {
    let dir = KubeletDir::new(Ca::new("ca").issue("client")).expect("a directory");
    let counted = Arc::new(Counted::default());
    let mut files = Files::kubernetes(dir.path()).filesystem(Arc::clone(&counted) as Arc<dyn Fs>);
    let idle = settled(&mut files);
    counted.forget();
    files.look(idle).expect("the volume is there");
    let (links, others) = (counted.links.load(Ordering::Relaxed), counted.others.load(Ordering::Relaxed));
    let calls = Row {
        id: "look-link-calls",
        what: "file accesses of an idle look at a `..data` volume".to_owned(),
        ours: format!("{links} readlink, {others} others"),
        bare: "1 readlink".to_owned(),
        result: format!("{} calls", links + others),
        bar: "1 readlink".to_owned(),
        is_met: (links, others) == (1, 0),
        note: String::new(),
    };
    let link = dir.join("..data");
    let mut files = Files::kubernetes(dir.path());
    let idle = settled(&mut files);
    let pair = beside(|| drop(black_box(files.look(idle))), || read_link(&link));
    let inlined = beside(|| read_link(&link), || read_link_inlined(&link));
    let note = format!(
        "bare: 1 × readlink in a function; inlined into the measuring loop, so that no return follows it, the system call \
         alone takes {}",
        time(inlined.bare.median())
    );
    vec![calls, row("look-link", "an idle look at a `..data` volume, mtime", &pair, Bar::AtMost(1.3), &note)]
}

/// A processor that distrusts the addresses to return to, once the kernel has run, makes the first return after a system
/// call dear: half as much again as this call. Only a call that is inlined into its loop does without, and no program is
/// such a loop. So the bare call is a function, as any call in a program is.
#[inline(never)]
fn read_link(path: &Path) {
    read_link_inlined(path);
}

#[inline(always)]
fn read_link_inlined(path: &Path) {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
    black_box(readlinkat_raw(CWD, path, &mut buffer).expect("the link is there"));
}

/// A look at the public roots by digest.
pub(crate) fn sha256() -> Vec<Row> {
    let (_dir, path) = roots();
    let mut files = Files::trust(&path).detect(Sha256::new());
    let start = Now::read();
    for seconds in [0, 3, 6] {
        files.look(start.after(Duration::from_secs(seconds))).expect("the file is there");
    }
    let idle = start.after(Duration::from_secs(7));
    let bare = || {
        black_box(sha2::Sha256::digest(std::fs::read(&path).expect("the file is there")));
    };
    let pair = beside(|| drop(black_box(files.look(idle))), bare);
    vec![row(
        "look-sha256",
        "an idle look at the public roots, sha256",
        &pair,
        Bar::AtMost(1.2),
        "bare: read + sha2",
    )]
}

/// A load of the public roots, with everything that is shown of them.
pub(crate) fn load() -> Vec<Row> {
    let (_dir, path) = roots();
    let mut files = Files::trust(&path);
    let pair = beside(
        || {
            let material = files.load().expect("the roots load");
            for (_, certificate) in material.certificates() {
                black_box(certificate.inspection());
            }
        },
        || {
            black_box(bundle::load_bare(&path));
        },
    );
    vec![row(
        "load-roots",
        "a load of the public roots, with inspection",
        &pair,
        Bar::AtMost(1.25),
        "bare: read, pki-types PEM, x509-parser, sha2",
    )]
}

fn roots() -> (TestDir, PathBuf) {
    let dir = TestDir::new().expect("a directory");
    let path = dir.write("roots.pem", bundle::pem()).expect("a file");
    (dir, path)
}

/// The real file system, counted.
#[derive(Debug, Default)]
struct Counted {
    links: AtomicU64,
    others: AtomicU64,
}

impl Counted {
    fn forget(&self) {
        self.links.store(0, Ordering::Relaxed);
        self.others.store(0, Ordering::Relaxed);
    }

    fn other(&self) -> RealFs {
        self.others.fetch_add(1, Ordering::Relaxed);
        RealFs::new()
    }
}

impl Fs for Counted {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        self.other().metadata(path)
    }

    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        self.links.fetch_add(1, Ordering::Relaxed);
        RealFs::new().read_link(path, into)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.other().open(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.other().open_dir(path)
    }

    fn volume(&self, path: &Path) -> io::Result<Volume> {
        self.other().volume(path)
    }
}
