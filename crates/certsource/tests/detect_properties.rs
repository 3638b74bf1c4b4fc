//! Invariant 5, with random histories: once the writer is done, its last content is read within the interval and two
//! seconds; changes that move no time stamp, within five minutes. On a simulated file with a coarse clock, where two
//! writes within one tick leave equal signatures.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::clock::Now;
use certsource::detect::{Mtime, Sha256};
use certsource::fs::{Dir, File, Fs, Kind, Meta, Opened, Stamp, Volume};
use certsource::source::{Detector, Look};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_secs(10);

/// One file whose content always has the same size.
#[derive(Clone, Debug)]
struct OneFile(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    content: Option<u8>,
    inode: u64,
    /// Milliseconds of the file system's clock, which need not be ours.
    clock: i64,
    /// Milliseconds between two ticks of its stamps.
    tick: i64,
    stamp: Stamp,
}

impl State {
    fn stamp(&self) -> Stamp {
        let ms = self.clock - self.clock.rem_euclid(self.tick);
        Stamp { secs: ms.div_euclid(1000), nanos: ms.rem_euclid(1000) as u32 * 1_000_000 }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::InPlace(content) => self.content = Some(content),
            Change::Replaced(content) => {
                self.content = Some(content);
                self.inode += 1;
            }
            Change::Removed => self.content = None,
            Change::Touched => {}
            Change::Silent(content) => {
                // A store through mmap, or a cheat with utimensat: no stamp moves.
                self.content = self.content.map(|_| content);
                return;
            }
        }
        self.stamp = self.stamp();
    }
}

impl Fs for OneFile {
    fn metadata(&self, _: &Path) -> io::Result<Meta> {
        let state = self.0.lock().unwrap();
        state.content.ok_or(io::ErrorKind::NotFound)?;
        Ok(Meta {
            kind: Kind::File,
            device: 1,
            inode: state.inode,
            links: 1,
            size: 1,
            mode: 0o600,
            modified: state.stamp,
            changed: state.stamp,
            born: None,
        })
    }
    fn read_link(&self, _: &Path, _: &mut OsString) -> io::Result<()> {
        Err(io::ErrorKind::InvalidInput.into())
    }
    fn open(&self, path: &Path) -> io::Result<Opened> {
        let meta = self.metadata(path)?;
        let content = self.0.lock().unwrap().content.ok_or(io::ErrorKind::NotFound)?;
        Ok(Opened::File(Box::new(OpenFile { left: vec![content], meta })))
    }
    fn open_dir(&self, _: &Path) -> io::Result<Box<dyn Dir>> {
        Err(io::ErrorKind::NotADirectory.into())
    }
    fn volume(&self, _: &Path) -> io::Result<Volume> {
        Ok(Volume::Local)
    }
}

struct OpenFile {
    left: Vec<u8>,
    meta: Meta,
}

impl File for OpenFile {
    fn metadata(&self) -> io::Result<Meta> {
        Ok(self.meta)
    }
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.left.len().min(into.len());
        into[..count].copy_from_slice(&self.left[..count]);
        self.left.drain(..count);
        Ok(count)
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    InPlace(u8),
    Replaced(u8),
    Removed,
    Touched,
    Silent(u8),
}

/// What happens next in a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Change(Change),
    /// Time passes, in milliseconds; the engine looks when it is due.
    Pass(u64),
    /// An extra look, as after `reload()`.
    Look,
    /// The file system's clock is set.
    Clock(i64),
}

/// Looks at the interval or earlier when told so, and reads when told so: an engine in a few lines.
struct Engine<D> {
    detector: D,
    file: OneFile,
    paths: Vec<PathBuf>,
    now: Now,
    due: Now,
    read: Option<u8>,
}

impl<D: Detector> Engine<D> {
    fn new(detector: D, tick: i64) -> Self {
        let state = State { content: Some(0), inode: 1, clock: 1_000_000, tick, stamp: Stamp::default() };
        let now = Now::read();
        let file = OneFile(Arc::new(Mutex::new(state)));
        let mut engine = Self { detector, file, paths: vec!["/a".into()], now, due: now, read: None };
        engine.look();
        engine
    }

    fn look(&mut self) {
        self.due = self.now.after(INTERVAL);
        match self.detector.look(&self.file, &self.paths, self.now).unwrap() {
            Look::Changed(_) => {
                self.read = self.file.0.lock().unwrap().content;
                // Looks again at once, as an engine does after a read.
                if let Look::SameUntil(at) = self.detector.look(&self.file, &self.paths, self.now).unwrap() {
                    self.due = self.now.after((at - self.now.mono).min(INTERVAL));
                }
            }
            Look::SameUntil(at) => self.due = self.now.after((at - self.now.mono).min(INTERVAL)),
            Look::Same => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.due.mono <= end.mono {
            self.move_to(self.due);
            self.look();
        }
        self.move_to(end);
    }

    fn move_to(&mut self, now: Now) {
        let passed = now.mono - self.now.mono;
        self.file.0.lock().unwrap().clock += passed.as_millis() as i64;
        self.now = now;
    }

    fn run(&mut self, history: &[Step]) {
        for step in history {
            match *step {
                Step::Change(change) => self.file.0.lock().unwrap().apply(change),
                Step::Pass(ms) => self.pass(ms as u32 * MS),
                Step::Look => self.look(),
                Step::Clock(clock) => self.file.0.lock().unwrap().clock = clock,
            }
        }
    }

    fn content(&self) -> Option<u8> {
        self.file.0.lock().unwrap().content
    }
}

fn loud() -> impl Strategy<Value = Change> + Clone {
    prop_oneof![
        4 => (0_u8..4).prop_map(Change::InPlace),
        2 => (0_u8..4).prop_map(Change::Replaced),
        1 => Just(Change::Removed),
        1 => Just(Change::Touched),
    ]
}

fn history(change: impl Strategy<Value = Change> + Clone, clock: u32) -> impl Strategy<Value = Vec<Step>> {
    // Most of all, times within one tick of the coarsest clock, and just beyond.
    let pass = prop_oneof![2 => 1_u64..50, 4 => 50_u64..1200, 2 => 1200_u64..2500, 1 => 2500_u64..15_000];
    let step = prop_oneof![
        4 => change.prop_map(Step::Change),
        4 => pass.prop_map(Step::Pass),
        2 => Just(Step::Look),
        clock => (0_i64..2_000_000).prop_map(Step::Clock),
    ];
    // A change is forgotten with the next one that is seen: short histories find more.
    prop_oneof![4 => proptest::collection::vec(step.clone(), 1..8), 1 => proptest::collection::vec(step, 8..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_last_content_is_read_in_time(steps in history(loud(), 0), tick in prop_oneof![Just(1), Just(10), Just(1000)]) {
        let mut engine = Engine::new(Mtime::new(), tick);
        engine.run(&steps);
        // The next look is at most an interval away; if it sees nothing new, the content is read again at the latest
        // 2 s after the signature was first seen, and that was before.
        engine.pass(INTERVAL + 2000 * MS);
        prop_assert_eq!(engine.read, engine.content());
    }

    #[test]
    fn the_last_content_is_read_within_five_minutes_whatever_the_stamps_do(
        steps in history(prop_oneof![loud(), (0_u8..4).prop_map(Change::Silent)], 1),
        tick in prop_oneof![Just(1), Just(1000)],
    ) {
        let mut engine = Engine::new(Mtime::new(), tick);
        engine.run(&steps);
        engine.pass(Duration::from_secs(300) + INTERVAL);
        prop_assert_eq!(engine.read, engine.content());
    }

    #[test]
    fn digests_read_the_last_content_within_the_interval(
        steps in history(prop_oneof![loud(), (0_u8..4).prop_map(Change::Silent)], 1),
    ) {
        let mut engine = Engine::new(Sha256::new(), 1000);
        engine.run(&steps);
        engine.pass(INTERVAL);
        prop_assert_eq!(engine.read, engine.content());
    }
}
