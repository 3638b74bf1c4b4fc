//! The simulated file system against a real one: the same random calls on both, and after each of them the same answers
//! to everything that a reader can ask. What is not compared: inode numbers (the simulation uses them again at once, to
//! be harder), the sizes and link counts of directories, and by how much a time stamp moved.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certsource::fs::{Fs, Kind, Opened, RealFs, Stamp};
use certsource_sim::disk::{Blob, Call, Disk, Traits};
use certsource_sim::fs::SimFs;
use certsource_testkit::TestDir;
use proptest::prelude::{Just, any, prop_oneof, proptest};
use proptest::strategy::Strategy;

/// Every name that the calls use, below the root of both.
const NAMES: [&str; 8] = ["a", "b", "l", "d", "d/a", "d/b", "d/l", "e"];
/// None leads above the root of the test.
const TARGETS: [&str; 7] = ["a", "d", "d/a", "../a", "../d", "nothing", "l"];
const FDS: u32 = 3;

fn name() -> impl Strategy<Value = PathBuf> {
    // Through links too: `l` may be one to a directory.
    prop_oneof![
        8 => (0..NAMES.len()).prop_map(|at| NAMES[at].into()),
        1 => Just("l/a".into()),
        1 => Just("d/../b".into()),
        1 => Just("a/b".into()),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let target = (0..TARGETS.len()).prop_map(|at| PathBuf::from(TARGETS[at]));
    let blob = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Blob::new);
    let flags = prop_oneof![
        Just([false, false, false, false]),
        Just([true, false, false, false]),
        Just([true, true, false, false]),
        Just([true, false, true, false]),
        Just([false, false, true, false]),
        Just([true, false, false, true]),
    ];
    prop_oneof![
        4 => (0..FDS, name(), flags).prop_map(|(fd, path, [create, exclusive, truncate, append])| {
            Call::Open { fd, path, create, exclusive, truncate, append }
        }),
        3 => (0..FDS, blob).prop_map(|(fd, bytes)| Call::Write { fd, bytes }),
        2 => (0..FDS).prop_map(|fd| Call::Close { fd }),
        1 => (name(), 0usize..10).prop_map(|(path, size)| Call::Truncate { path, size }),
        2 => name().prop_map(Call::Unlink),
        4 => (name(), name()).prop_map(|(from, to)| Call::Rename(from, to)),
        1 => (name(), name()).prop_map(|(from, to)| Call::Link(from, to)),
        3 => (target, name()).prop_map(|(target, link)| Call::Symlink(target, link)),
        3 => name().prop_map(Call::Mkdir),
        1 => name().prop_map(Call::Rmdir),
        1 => (name(), prop_oneof![Just(0o600), Just(0o644), Just(0o755)])
            .prop_map(|(path, mode)| Call::Chmod(path, mode)),
        1 => (name(), 1_000i64..2_000)
            .prop_map(|(path, secs)| Call::SetModified(path, Some(Stamp { secs, nanos: 7 }))),
    ]
}

/// The real side: a directory and open files.
struct Real {
    root: PathBuf,
    open: HashMap<u32, fs::File>,
}

impl Real {
    fn call(&mut self, call: &Call) -> io::Result<()> {
        let at = |path: &Path| self.root.join(path);
        let held = |fd: &u32| self.open.get(fd).ok_or(io::ErrorKind::InvalidInput);
        match call {
            Call::Open { fd, path, create, exclusive, truncate, append } => {
                let mut options = fs::File::options();
                let (new, cut) = (*create && *exclusive, *truncate);
                options
                    .mode(0o600)
                    .write(!append)
                    .append(*append)
                    .create(*create)
                    .create_new(new)
                    .truncate(cut);
                let file = options.open(at(path))?;
                self.open.insert(*fd, file);
            }
            Call::Write { fd, bytes } => held(fd)?.write_all(bytes.bytes())?,
            Call::Close { fd } => drop(self.open.remove(fd).ok_or(io::ErrorKind::InvalidInput)?),
            Call::Truncate { path, size } => {
                let file = fs::File::options().write(true).open(at(path))?;
                let size = (*size as u64).min(file.metadata()?.len());
                file.set_len(size)?;
            }
            Call::Unlink(path) => fs::remove_file(at(path))?,
            Call::Rename(from, to) => fs::rename(at(from), at(to))?,
            Call::Link(from, to) => fs::hard_link(at(from), at(to))?,
            Call::Symlink(target, link) => std::os::unix::fs::symlink(target, at(link))?,
            Call::Mkdir(path) => {
                fs::create_dir(at(path))?;
                fs::set_permissions(at(path), fs::Permissions::from_mode(0o755))?;
            }
            Call::Rmdir(path) => fs::remove_dir(at(path))?,
            Call::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?,
            Call::SetModified(path, Some(stamp)) => {
                let to = std::time::UNIX_EPOCH + Duration::new(stamp.secs as u64, stamp.nanos);
                fs::File::open(at(path))?.set_modified(to)?;
            }
            other => panic!("{other:?} is not performed here"),
        }
        Ok(())
    }

    /// Returns when a change would get another time stamp than any before it.
    fn wait_for_a_tick(&self, probe: &Path) {
        let stamp = || {
            fs::write(probe, "x").unwrap();
            RealFs.metadata(probe).unwrap().modified
        };
        let first = stamp();
        while stamp() == first {
            std::thread::yield_now();
        }
    }
}

/// Kind, permissions, and of a file its size and its links.
type Attributes = (Kind, u32, Option<(u64, u64)>);

/// What a reader sees of one path.
#[derive(Clone, Debug, PartialEq)]
struct View {
    meta: Result<Attributes, Option<i32>>,
    link: Result<OsString, Option<i32>>,
    content: Option<Vec<u8>>,
    names: Option<Vec<OsString>>,
}

fn view(fs: &dyn Fs, path: &Path) -> View {
    let meta = fs.metadata(path).map_err(|error| error.raw_os_error()).map(|meta| {
        let file = (meta.kind == Kind::File).then_some((meta.size, meta.links));
        (meta.kind, meta.mode, file)
    });
    let mut target = OsString::new();
    let link = fs.read_link(path, &mut target).map(|()| target).map_err(|error| error.raw_os_error());
    let content = match fs.open(path) {
        Ok(Opened::File(mut file)) => {
            let mut all = vec![0; 4096];
            let count = file.read(&mut all).unwrap();
            all.truncate(count);
            Some(all)
        }
        _ => None,
    };
    let names = fs.open_dir(path).ok().map(|dir| {
        let mut names = dir.names().unwrap();
        names.sort_unstable();
        names
    });
    View { meta, link, content, names }
}

/// Device and inode, and when it was modified and changed.
type Stamps = ((u64, u64), Stamp, Stamp);

/// Which inode a path leads to and its time stamps.
fn stamps(fs: &dyn Fs, path: &Path) -> Option<Stamps> {
    let meta = fs.metadata(path).ok()?;
    Some(((meta.device, meta.inode), meta.modified, meta.changed))
}

/// Which of the paths lead to the same inode, as the number of the first that does.
fn partition(seen: &[Option<Stamps>]) -> Vec<Option<usize>> {
    let first = |inode: (u64, u64)| seen.iter().position(|other| other.is_some_and(|other| other.0 == inode));
    seen.iter().map(|one| one.and_then(|one| first(one.0))).collect()
}

fn run(calls: &[Call]) {
    let dir = TestDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut real = Real { root: root.clone(), open: HashMap::new() };
    // The same path on both sides, so that both resolve as many names.
    let mut disk = Disk::new(Traits::default());
    let mut at = PathBuf::from("/");
    for name in root.components().skip(1) {
        at.push(name);
        disk.call(&Call::Mkdir(at.clone())).unwrap();
    }
    let sim = SimFs::new(Arc::new(disk));
    let paths: Vec<PathBuf> =
        NAMES.iter().copied().chain(["", "l/a", "d/../b"]).map(|name| root.join(name)).collect();
    let rooted = |path: &Path| root.join(path);
    for (number, call) in calls.iter().enumerate() {
        let full = match call.clone() {
            Call::Open { fd, path, create, exclusive, truncate, append } => {
                Call::Open { fd, path: rooted(&path), create, exclusive, truncate, append }
            }
            Call::Truncate { path, size } => Call::Truncate { path: rooted(&path), size },
            Call::Unlink(path) => Call::Unlink(rooted(&path)),
            Call::Rename(from, to) => Call::Rename(rooted(&from), rooted(&to)),
            Call::Link(from, to) => Call::Link(rooted(&from), rooted(&to)),
            Call::Symlink(target, link) => Call::Symlink(target, rooted(&link)),
            Call::Mkdir(path) => Call::Mkdir(rooted(&path)),
            Call::Rmdir(path) => Call::Rmdir(rooted(&path)),
            Call::Chmod(path, mode) => Call::Chmod(rooted(&path), mode),
            Call::SetModified(path, to) => Call::SetModified(rooted(&path), to),
            other => other,
        };
        let see = |fs: &dyn Fs| paths.iter().map(|path| stamps(fs, path)).collect::<Vec<_>>();
        let before = [see(&sim), see(&RealFs)];
        real.wait_for_a_tick(&dir.join("probe"));
        let simulated = sim.change(|disk| {
            let next = disk.mono() + Duration::from_secs(1);
            disk.wait_until(next);
            disk.call(&full)
        });
        let done = real.call(call);
        let what = format!("call {number} of {calls:?}: {call:?}: {simulated:?} and {done:?}");
        assert_eq!(simulated.is_ok(), done.is_ok(), "{what}");
        let after = [see(&sim), see(&RealFs)];
        assert_eq!(partition(&after[0]), partition(&after[1]), "which are one file: {what}");
        for (at, path) in paths.iter().enumerate() {
            assert_eq!(view(&sim, path), view(&RealFs, path), "{}: {what}", path.display());
            // Whether the time stamps of what was there and is there moved.
            let moved = |side: usize| match (before[side][at], after[side][at]) {
                (Some(old), Some(new)) if old.0 == new.0 => Some((old.1 != new.1, old.2 != new.2)),
                _ => None,
            };
            let (here, there) = (moved(0), moved(1));
            if here.is_some() && there.is_some() {
                assert_eq!(here, there, "modified and changed of {}: {what}", path.display());
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: std::env::var("CERTSOURCE_SIM_CASES").ok().and_then(|cases| cases.parse().ok()).map_or(48, |cases: u32| cases.min(1_000)),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Default::default()
    })]

    #[test]
    fn a_reader_sees_the_same_on_both(calls in proptest::collection::vec(call(), 1..25)) {
        run(&calls);
    }
}
