//! One hot path, or the bare calls that it can not do without, many times: `certsource-instructions look-mtime ours 100`.
//! `cargo xtask counts` runs this under valgrind, which counts the instructions inside [`counted_calls`] and no others.

// A command-line program: its errors are its result.
#![allow(clippy::print_stderr)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use certsource::clock::Now;
use certsource::source::Look;
use certsource::{Files, Source};
use certsource_reload::Reloader;
use certsource_testkit::{Ca, KubeletDir, TestDir};

#[allow(dead_code, unreachable_pub, reason = "shared with the figures, and not all of it is used here")]
#[path = "../../src/bundle.rs"]
mod bundle;
#[allow(dead_code, unreachable_pub, reason = "the client's file, included as it is")]
#[path = "../../../crates/client/src/pulse.rs"]
mod pulse;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the client's file, included as it is")]
#[path = "../../../crates/client/src/sync.rs"]
mod sync;
#[allow(dead_code, unreachable_pub, reason = "the client's file, included as it is")]
#[path = "../../../crates/client/src/ticket.rs"]
mod ticket;

use pulse::Pulse;
use sync::{AtomicU8, AtomicUsize, Ordering};
use ticket::{Open, Ticket};

/// Something that is called again and again, with all that must live meanwhile.
type Call = Box<dyn FnMut()>;

/// The name of a hot path, and its preparation.
type HotPath = (&'static str, fn() -> (Call, Call));

/// Ours first, then the bare one.
const PATHS: [HotPath; 5] = [
    ("look-mtime", look_mtime),
    ("look-link", look_link),
    ("current", current),
    ("load-roots", load_roots),
    ("ticket", ticket_of_a_request),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, side, calls] = arguments.as_slice() else {
        let names = PATHS.map(|(name, _)| name).join("|");
        eprintln!("certsource-instructions {names} ours|bare CALLS");
        return ExitCode::from(2);
    };
    let path = PATHS.iter().find(|(known, _)| known == name);
    let (Some((_, prepare)), Ok(calls)) = (path, calls.parse()) else { return ExitCode::from(2) };
    let (ours, bare) = prepare();
    let mut call = match side.as_str() {
        "ours" => ours,
        "bare" => bare,
        _ => return ExitCode::from(2),
    };
    // What is done once in the life of a process is not what is counted.
    call();
    counted_calls(calls, &mut call);
    ExitCode::SUCCESS
}

/// What valgrind counts, by this name.
#[inline(never)]
fn counted_calls(calls: u32, call: &mut dyn FnMut()) {
    for _ in 0..calls {
        call();
    }
}

/// An idle look at three files, beside three `statx`.
fn look_mtime() -> (Call, Call) {
    let dir = TestDir::new().expect("a directory");
    dir.write_issued(Ca::new("ca").issue("client")).expect("three files");
    let paths: Vec<PathBuf> = ["ca.crt", "tls.crt", "tls.key"].iter().map(|name| dir.join(name)).collect();
    let mut files = Files::kubernetes(dir.path());
    let idle = settled(&mut files);
    let dir = Arc::new(dir);
    let keep = Arc::clone(&dir);
    (
        Box::new(move || {
            let _ = (&keep, black_box(files.look(idle)));
        }),
        Box::new(move || {
            let _ = &dir;
            paths.iter().for_each(|path| stat(path));
        }),
    )
}

/// An idle look at a volume of Kubernetes, beside one `readlink`.
fn look_link() -> (Call, Call) {
    let dir = KubeletDir::new(Ca::new("ca").issue("client")).expect("a directory");
    let link = dir.join("..data");
    let mut files = Files::kubernetes(dir.path());
    let idle = settled(&mut files);
    let dir = Arc::new(dir);
    let keep = Arc::clone(&dir);
    (
        Box::new(move || {
            let _ = (&keep, black_box(files.look(idle)));
        }),
        Box::new(move || {
            let _ = &dir;
            read_link(&link);
        }),
    )
}

/// The current generation, beside a pointer that is loaded and cloned.
fn current() -> (Call, Call) {
    let dir = TestDir::new().expect("a directory");
    dir.write_issued(Ca::new("ca").issue("client")).expect("three files");
    let reloader = Reloader::builder(Files::kubernetes(dir.path())).start().expect("the files load");
    let bare = ArcSwap::from_pointee(1_u64);
    (
        Box::new(move || {
            let _ = (&dir, black_box(reloader.current().number()));
        }),
        Box::new(move || {
            black_box(*bare.load_full());
        }),
    )
}

/// A load of the public roots, beside reading, decoding, parsing and digesting them by hand.
fn load_roots() -> (Call, Call) {
    let dir = Arc::new(TestDir::new().expect("a directory"));
    let path = dir.write("roots.pem", bundle::pem()).expect("a file");
    let mut files = Files::trust(&path);
    let keep = Arc::clone(&dir);
    (
        Box::new(move || {
            let material = files.load().expect("the roots load");
            for (_, certificate) in material.certificates() {
                black_box(certificate.inspection());
            }
            let _ = &keep;
        }),
        Box::new(move || {
            let _ = (&dir, black_box(bundle::load_bare(&path)));
        }),
    )
}

/// What a request costs between picking a generation and being taken by a connection, beside an allocation, a count up
/// and down, and one exchange.
fn ticket_of_a_request() -> (Call, Call) {
    let pulse = Arc::new(Pulse::default());
    let (count, counted) = (Arc::new(AtomicUsize::new(0)), 1);
    (
        Box::new(move || {
            let open = Open(Ticket::<()>::take(&pulse).expect("the lane is open"));
            assert!(open.0.commit());
            drop(black_box(open));
        }),
        Box::new(move || {
            let state = Arc::new((Arc::clone(&count), AtomicU8::new(0)));
            count.fetch_add(counted, Ordering::AcqRel);
            let _ = state.1.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
            count.fetch_sub(counted, Ordering::AcqRel);
            drop(black_box(state));
        }),
    )
}

/// Looks until nothing is left to look at again, and returns a moment at which each further look finds nothing.
fn settled(files: &mut Files) -> Now {
    let start = Now::read();
    for seconds in [0, 3, 6] {
        files.look(start.after(Duration::from_secs(seconds))).expect("the files are there");
    }
    let idle = start.after(Duration::from_secs(7));
    assert_eq!(files.look(idle).expect("the files are there"), Look::Same);
    idle
}

#[cfg(target_os = "linux")]
fn stat(path: &Path) {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME);
    black_box(found.expect("the file is there"));
}

#[cfg(not(target_os = "linux"))]
fn stat(path: &Path) {
    black_box(std::fs::metadata(path).expect("the file is there"));
}

#[cfg(unix)]
fn read_link(path: &Path) {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
    let link = rustix::fs::readlinkat_raw(rustix::fs::CWD, path, &mut buffer);
    black_box(link.expect("the link is there"));
}

#[cfg(not(unix))]
fn read_link(path: &Path) {
    black_box(std::fs::read_link(path).expect("the link is there"));
}
