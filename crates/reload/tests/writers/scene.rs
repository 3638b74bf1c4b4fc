//! The stage of the writers: directories with certificates, a row of the table and its source on the hub, what was told of
//! it, and whether that is what was expected.
#![allow(unreachable_pub, reason = "a part of one test")]

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use certsource::detect::{Mtime, Sha256};
use certsource::files::Files;
use certsource::machine::Policy;
use certsource_reload::{Event, EventKind, Generation, Hub, Reloader};
use certsource_testkit::{Ca, Issued, TestDir};
use tempfile::TempDir;

use crate::apart::{self, Apart, Surroundings};

/// The most that anything may take. Less than the safety poll of `Notify`: there, an event that is lost fails the test.
const BOUND: Duration = Duration::from_secs(50);
/// So long nothing more may be told after a writer is done. Looks come several times within it.
const QUIET: Duration = Duration::from_secs(1);
/// Two contents that each look whole are further apart than this only if the machine stops for so long.
const SETTLE: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_millis(200);
/// Invariant 5, and a second for a machine that is busy. Less than what a change takes that no look tells of: the first read of
/// it comes 2 s after the last change, and the second a settle time later.
const PROMISED: Duration = INTERVAL.saturating_add(SETTLE).saturating_add(Duration::from_secs(1));

/// Two file systems.
#[derive(Clone, Copy)]
pub struct Volume {
    base: &'static str,
    other: &'static str,
}

pub const TMPFS: Volume = Volume { base: "/dev/shm", other: env!("CARGO_TARGET_TMPDIR") };
pub const DISK: Volume = Volume { base: env!("CARGO_TARGET_TMPDIR"), other: "/dev/shm" };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Mtime,
    Sha256,
    #[cfg(feature = "notify")]
    Notify,
}

impl Strategy {
    /// Whether it learns of a change by the directory that the file's name is in.
    pub fn is_told_by_directories(self) -> bool {
        !matches!(self, Self::Mtime | Self::Sha256)
    }

    fn follow(self, files: Files) -> Files {
        match self {
            Self::Mtime => files.detect(Mtime::new()),
            Self::Sha256 => files.detect(Sha256::new()),
            #[cfg(feature = "notify")]
            Self::Notify => files.detect(certsource::detect::Notify::new()),
        }
    }
}

/// Certificates: minted once, for all tests of this file.
pub struct Kit {
    /// Each with a root of its own.
    pub rounds: Vec<Issued>,
    /// A new leaf of round 0's root.
    pub renewed: Issued,
    /// The root of each round as PEM, all of the same size.
    bundles: Vec<String>,
}

impl Kit {
    fn get() -> &'static Self {
        static KIT: OnceLock<Kit> = OnceLock::new();
        KIT.get_or_init(|| {
            let first = Ca::new("round 0");
            let renewed = first.issue("localhost");
            let cas = std::iter::once(first).chain((1..=100).map(|round| Ca::new(&format!("round {round}"))));
            let rounds: Vec<Issued> = cas.map(|ca| ca.issue("localhost")).collect();
            let mut bundles: Vec<String> = rounds.iter().map(Issued::root_pem).collect();
            let longest = bundles.iter().map(String::len).max().unwrap();
            for bundle in &mut bundles {
                // Only the content tells them apart.
                bundle.extend(std::iter::repeat_n('\n', longest - bundle.len()));
            }
            Self { rounds, renewed, bundles }
        })
    }

    /// Which rounds this is made of: `1`, `1+2` for two anchors, `0/1` for trust of one and an identity of another.
    fn rounds_of(&self, generation: &Generation) -> String {
        let unknown = || "of no round".to_owned();
        let trust = generation.trust().map(|anchors| {
            let roots: Vec<_> = self.rounds.iter().map(Issued::root_der).collect();
            let mut rounds: Vec<_> =
                anchors.iter().map(|anchor| roots.iter().position(|root| root == anchor.der())).collect();
            rounds.sort_unstable();
            let names = rounds.iter().map(|round| round.map_or_else(unknown, |round| round.to_string()));
            names.collect::<Vec<_>>().join("+")
        });
        let identity = generation.identity().map(|identity| {
            let leaf = identity.chain()[0].der();
            let round = self.rounds.iter().position(|round| round.leaf_der() == *leaf);
            let renewed = (self.renewed.leaf_der() == *leaf).then(|| "renewed".to_owned());
            round.map(|round| round.to_string()).or(renewed).unwrap_or_else(unknown)
        });
        match (trust, identity) {
            (Some(trust), Some(identity)) if trust != identity => format!("{trust}/{identity}"),
            (trust, identity) => trust.or(identity).unwrap_or_else(unknown),
        }
    }
}

/// A row's directory, and one on the other file system.
pub struct Place {
    pub kit: &'static Kit,
    directory: PathBuf,
    other: PathBuf,
}

impl Place {
    pub fn new(directory: PathBuf, other: PathBuf) -> Self {
        let kit = Kit::get();
        let (dir, _) = (TestDir::at(&directory).unwrap(), TestDir::at(&other).unwrap());
        for (name, bundle) in ["ca.crt", "new", "newer", "newest"].into_iter().zip(&kit.bundles) {
            dir.write(name, bundle).unwrap();
        }
        dir.write("both", kit.bundles[1].clone() + &kit.bundles[2]).unwrap();
        for (name, round) in ["full0", "full1", "full2"].into_iter().zip(&kit.rounds) {
            TestDir::at(directory.join(name)).unwrap().write_issued(round).unwrap();
        }
        Self { kit, directory, other }
    }

    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Runs a program in the row's directory, to its end.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory).env("OTHER", &self.other);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    }

    pub fn shell(&self, command: &str) {
        self.run("sh", ["-ec", command]);
    }
}

/// Whether there is such a program.
pub fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub fn is_superuser() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// What the events must be. Left out of them is `retired` alone: it follows each `reloaded` and says nothing of a writer.
pub enum Expected {
    /// These, in this order, and no other. One with a `?` at its end may be left out.
    Sequence(&'static [&'static str]),
    /// `loaded 0`, then `reloaded` with numbers that grow. Each of `rests` must be among them, for the writer waits there
    /// until it is served, and the last of them is the end; the rounds between may be missing, for the writer did not wait.
    /// And between them any event of `also`.
    Rising { rests: &'static [usize], also: &'static [&'static str] },
}

impl Expected {
    pub fn is_met_by(&self, told: &[String]) -> bool {
        match self {
            Self::Sequence(expected) => fits(told, expected),
            Self::Rising { rests, also } => {
                let told: Vec<_> = told.iter().filter(|event| !also.contains(&event.as_str())).collect();
                let Some((first, reloads)) = told.split_first() else { return false };
                let number = |event: &&String| event.strip_prefix("reloaded ")?.parse::<usize>().ok();
                let numbers: Option<Vec<_>> = reloads.iter().map(number).collect();
                let numbers = numbers.unwrap_or_default();
                *first == "loaded 0"
                    && numbers.is_sorted_by(|a, b| a < b)
                    && rests.iter().all(|rest| numbers.contains(rest))
                    && numbers.last() == rests.last()
            }
        }
    }

    /// The last event that must come: the writer's last content is served then.
    fn end(&self) -> String {
        match self {
            Self::Sequence(expected) => {
                expected.iter().rfind(|event| !event.ends_with('?')).unwrap().to_string()
            }
            Self::Rising { rests, .. } => format!("reloaded {}", rests.last().unwrap()),
        }
    }
}

fn fits(told: &[String], expected: &[&str]) -> bool {
    let Some((next, rest)) = expected.split_first() else { return told.is_empty() };
    let name = next.trim_end_matches('?');
    let is_next = told.first().is_some_and(|event| event == name);
    (is_next && fits(&told[1..], rest)) || (name != *next && fits(told, rest))
}

type Prepare = Box<dyn Fn(&Place) -> Begin + Send + Sync>;
type Act = Box<dyn FnOnce(&Scene<'_>) + Send>;

/// A row of the table.
pub struct Row {
    pub number: u8,
    name: &'static str,
    expected: Expected,
    prepare: Prepare,
}

impl Row {
    pub fn new(
        number: u8,
        name: &'static str,
        expected: Expected,
        prepare: impl Fn(&Place) -> Begin + Send + Sync + 'static,
    ) -> Self {
        Self { number, name, expected, prepare: Box::new(prepare) }
    }
}

/// What is followed, and what the writer then does.
pub struct Begin {
    files: Files,
    act: Act,
    is_early: bool,
}

impl Begin {
    pub fn new(files: Files, act: impl FnOnce(&Scene<'_>) + Send + 'static) -> Self {
        Self { files, act: Box::new(act), is_early: false }
    }

    /// The writer comes while the first load is waited for.
    pub fn before_the_first_load(mut self) -> Self {
        self.is_early = true;
        self
    }
}

/// What was told, and who waits for it.
#[derive(Default)]
struct Told {
    events: Mutex<Vec<String>>,
    /// What failures said, each with the name of its event.
    failures: Mutex<Vec<(String, String)>>,
    more: Condvar,
}

impl Told {
    fn note(&self, event: &Event) {
        let name = event.kind.as_str();
        let event = match &event.kind {
            EventKind::Retired(_) => return,
            EventKind::Loaded(reload) | EventKind::Reloaded(reload) => {
                format!("{name} {}", Kit::get().rounds_of(&reload.generation))
            }
            EventKind::Failed(failure) | EventKind::Rejected(failure) => {
                let event = format!("{name} {}", failure.reason());
                self.failures.lock().unwrap().push((event.clone(), failure.to_string()));
                event
            }
            _ => name.to_owned(),
        };
        self.events.lock().unwrap().push(event);
        self.more.notify_all();
    }

    fn has(&self, expected: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| event == expected)
    }

    fn wait_for(&self, expected: &str, bound: Duration) {
        let events = self.events.lock().unwrap();
        let is_missing = |events: &mut Vec<String>| !events.iter().any(|event| event == expected);
        let (events, timeout) = self.more.wait_timeout_while(events, bound, is_missing).unwrap();
        let events = events.clone();
        assert!(!timeout.timed_out(), "no {expected:?} in {bound:?}, only {events:?}");
    }
}

/// A source that is followed, for its writer.
pub struct Scene<'a> {
    pub place: &'a Place,
    told: &'a Told,
    reloader: Option<&'a Reloader>,
}

impl Scene<'_> {
    /// Waits until this was told.
    pub fn wait_for(&self, event: &str) {
        self.told.wait_for(event, BOUND);
    }

    /// The same, for content that is there at one moment: it is served within the interval and the settle time.
    pub fn wait_as_promised(&self, event: &str) {
        self.told.wait_for(event, PROMISED);
    }

    /// Does this again and again until that was told.
    pub fn until(&self, event: &str, mut again: impl FnMut()) {
        let end = Instant::now() + BOUND;
        while !self.told.has(event) {
            assert!(Instant::now() < end, "no {event:?}, only {:?}", self.told.events.lock().unwrap());
            again();
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A failure was told, in these words among others, and the first round is served all the same.
    pub fn failed_and_serves_the_first(&self, event: &str, words: &str) {
        let failures = self.told.failures.lock().unwrap().clone();
        let said = failures.iter().find(|(name, _)| name == event).map(|(_, said)| said.as_str());
        assert!(said.is_some_and(|said| said.contains(words)), "{event:?} says no {words:?}: {failures:?}");
        assert_eq!(Kit::get().rounds_of(&self.reloader.unwrap().current()), "0");
    }

    /// Runs the parts between `THEN`, each when what the one before brought is served: round 1, round 2.
    pub fn shells(&self, commands: &str) {
        for (number, command) in commands.split(" THEN ").enumerate() {
            if number > 0 {
                self.wait_for(&format!("reloaded {number}"));
            }
            self.place.shell(command);
        }
    }

    /// Has the source read now, whatever its detector says.
    pub fn ask(&self) {
        self.reloader.unwrap().reload_blocking().unwrap();
    }
}

/// One row, from its first load to its last event.
pub fn perform(row: &Row, strategy: Strategy, hub: Hub, place: &Place) {
    let Begin { files, act, is_early } = (row.prepare)(place);
    let mut policy = Policy::every(INTERVAL);
    policy.settle = SETTLE;
    // A hook, and not a subscription: that begins after `loaded` was told.
    let told = Arc::new(Told::default());
    let hook = {
        let told = Arc::clone(&told);
        move |event: &Event| told.note(event)
    };
    let builder = Reloader::builder(strategy.follow(files)).policy(policy).hub(hub).on_event(hook);
    let reloader = if is_early {
        thread::scope(|scope| {
            let started = scope.spawn(|| builder.wait_for_initial(BOUND).start().unwrap());
            act(&Scene { place, told: &told, reloader: None });
            started.join().unwrap()
        })
    } else {
        let reloader = builder.start().unwrap();
        act(&Scene { place, told: &told, reloader: Some(&reloader) });
        reloader
    };
    told.wait_for(&row.expected.end(), BOUND);
    // Nothing else follows by itself, and nothing is left that only an extra read would find.
    thread::sleep(QUIET);
    reloader.reload_blocking().unwrap();
    let current = format!("loaded {}", Kit::get().rounds_of(&reloader.current()));
    let served = current.trim_start_matches("loaded ").to_owned();
    let end = Instant::now() + BOUND;
    let last = || {
        let events = told.events.lock().unwrap();
        let last = events.iter().rev().find_map(|event| event.split_once("loaded "));
        last.map(|(_, rounds)| rounds.to_owned())
    };
    // Hooks run after `reload` has answered.
    while last().as_ref() != Some(&served) && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    let events = told.events.lock().unwrap().clone();
    assert!(row.expected.is_met_by(&events), "served is {served}, told was {events:?}");
    // Else `Notify` would have polled, and no event would have been needed.
    assert_eq!(reloader.status().watching, strategy.is_told_by_directories());
}

/// All rows of one detector on one file system. `name` is the test's own: rows that stand apart are performed by children
/// that run it again.
pub fn cell(name: &str, strategy: Strategy, volume: Volume, rows: fn(Strategy) -> Vec<Row>, apart: &[Apart]) {
    if apart::is_performed(strategy, apart) {
        return;
    }
    let (base, other) = (temporary(volume.base), temporary(volume.other));
    let place = |number: &str| Place::new(base.path().join(number), other.path().join(number));
    let children = apart.iter().enumerate().map(|(number, (surroundings, _))| {
        let directory = base.path().join(format!("apart-{number}"));
        let body = move || apart::have_performed(name, &number.to_string(), *surroundings, &directory);
        (format!("a row with {surroundings:?}"), Box::new(body) as Box<dyn FnOnce() + Send>)
    });
    all(&rows(strategy), strategy, &place, children.collect());
}

/// All rows of one detector on an overlay, in a child that may mount one. What is there at first is in the lower layer, so whatever the
/// writers do begins with a copy in the upper one.
pub fn overlaid(name: &str, strategy: Strategy, rows: fn(Strategy) -> Vec<Row>) {
    let Some((_, directory)) = apart::is_child() else {
        // On tmpfs: the disk may be an overlay already, which can be no upper layer.
        let base = temporary(TMPFS.base);
        apart::have_performed(name, "all", Surroundings::Mounts, &base.path().join("overlay"));
        return;
    };
    let rows = rows(strategy);
    let path = |layer: &str, number: &str| directory.join(layer).join(number);
    for number in 0..rows.len() {
        let number = number.to_string();
        Place::new(path("lower", &number), path("other", &number));
    }
    let mount = "mkdir upper work all && \
        mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none all && test \"$(stat -f -c %T all)\" = overlayfs";
    let here = |directory: PathBuf, other| Place { kit: Kit::get(), directory, other };
    here(directory.clone(), directory.clone()).shell(mount);
    all(&rows, strategy, &|number| here(path("all", number), path("other", number)), Vec::new());
}

fn temporary(base: &str) -> TempDir {
    tempfile::Builder::new().prefix("certsource-").tempdir_in(base).unwrap()
}

/// All of these at once on one hub, each in a place of its own, and what else is to be done meanwhile.
fn all(
    rows: &[Row],
    strategy: Strategy,
    place: &(dyn Fn(&str) -> Place + Sync),
    others: Vec<(String, Box<dyn FnOnce() + Send + '_>)>,
) {
    let hub = Hub::new();
    let wrong = Mutex::new(Vec::new());
    let check = |what: String, body: &mut dyn FnMut()| {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            wrong.lock().unwrap().push(what);
        }
    };
    let check = &check;
    thread::scope(|scope| {
        for (number, row) in rows.iter().enumerate() {
            let hub = &hub;
            scope.spawn(move || {
                check(format!("row {}, {}", row.number, row.name), &mut || {
                    perform(row, strategy, hub.clone(), &place(&number.to_string()));
                });
            });
        }
        for (what, body) in others {
            let mut body = Some(body);
            scope.spawn(move || check(what, &mut || body.take().unwrap()()));
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "not as expected (see above): {wrong:#?}");
}
