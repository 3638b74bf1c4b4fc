//! Thousands of sources on one hub: CPU, memory, punctuality, and what is left when they are gone.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::detect::{Mtime, Notify};
use certsource::fs::Fs;
use certsource::machine::Policy;
use certsource::source::{Detector, Look};
use certsource::{Error, Files, Material};
use certsource_bench::rounds::Sample;
use certsource_bench::row::{Bar, Row, time};
use certsource_bench::usage::{Usage, cpu, thread_cpu};
use certsource_reload::{Hub, Reloader};
use certsource_testkit::{Ca, TestDir};

use crate::looks::stat;

const SOURCES: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);
/// Signatures are trusted after two seconds; the same again until all is quiet.
const QUIET: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(15);
/// How long sources with nothing to do are watched.
const IDLE: Duration = Duration::from_secs(30);

/// Directories with `ca.crt`, `tls.crt` and `tls.key` each.
struct Tree {
    base: TestDir,
    count: usize,
}

impl Tree {
    fn new(count: usize) -> Self {
        let base = TestDir::new().expect("a directory");
        let issued = Ca::new("ca").issue("client");
        for number in 0..count {
            let dir = TestDir::at(base.join(number.to_string())).expect("a directory");
            dir.write_issued(&issued).expect("three files");
        }
        Self { base, count }
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.count).map(|number| self.base.join(number.to_string()))
    }
}

/// `Mtime`, which also notes how late each look is.
#[derive(Debug)]
struct Timed {
    inner: Mtime,
    last: Option<Instant>,
    late: Arc<Mutex<Vec<f64>>>,
}

impl Detector for Timed {
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        let look = self.inner.look(fs, paths, now);
        if let (Some(last), Ok(Look::Same)) = (self.last, &look) {
            let late = now.mono.saturating_duration_since(last + SECOND);
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(late.as_nanos() as f64);
        }
        // Only a look that found nothing is followed by one a whole interval later.
        self.last = matches!(look, Ok(Look::Same)).then_some(now.mono);
        look
    }
}

fn punctual() -> Policy {
    let mut policy = Policy::every(SECOND);
    // No spread: so each look has one moment at which it is due.
    policy.jitter = 0.0;
    policy
}

/// `made`: what is done to each source before it is followed.
fn start_all(tree: &Tree, hub: &Hub, made: impl Fn(Files) -> Files) -> Vec<Reloader> {
    let start = |dir| {
        let source = made(Files::kubernetes(dir));
        Reloader::builder(source).hub(hub.clone()).policy(punctual()).start().expect("the files load")
    };
    tree.dirs().map(start).collect()
}

/// How many looks there were in the time that is measured, and how late they were (the middle, then p99), in nanoseconds. In a
/// process of its own, so that what notes this costs nothing where CPU is measured.
fn drift() -> String {
    let tree = Tree::new(SOURCES);
    let late = Arc::new(Mutex::new(Vec::new()));
    let hub = Hub::new();
    let timed = || Timed { inner: Mtime::new(), last: None, late: Arc::clone(&late) };
    let reloaders = start_all(&tree, &hub, |files| files.detect(timed()));
    sleep(QUIET);
    let taken = || std::mem::take(&mut *late.lock().unwrap_or_else(PoisonError::into_inner));
    drop(taken());
    sleep(MEASURED);
    let lateness = Sample::new(taken());
    drop(reloaders);
    format!("{} {} {}", lateness.len(), lateness.median(), lateness.quantile(0.99))
}

/// 10,000 sources of three files, looked at every second by one hub.
pub(crate) fn looks_of_all() -> Vec<Row> {
    let tree = Tree::new(SOURCES);
    let paths: Vec<[PathBuf; 3]> =
        tree.dirs().map(|dir| ["ca.crt", "tls.crt", "tls.key"].map(|name| dir.join(name))).collect();
    // Before the others begin.
    let [looks, middle, late] = numbers_of_child("drift")[..] else { panic!("a child says three numbers") };
    let hub = Hub::new();
    let reloaders = start_all(&tree, &hub, |files| files);
    sleep(QUIET);
    let (mut ratios, mut tight_ratios, mut ours, mut bare) = (vec![], vec![], vec![], vec![]);
    for _ in 0..3 {
        let (bare_ns, tight_ns) = (bare_paced(&paths, 5, SECOND), bare_tight(&paths));
        let before = cpu();
        sleep(MEASURED);
        let used = (cpu() - before) as f64;
        let a_look = used / looks;
        ours.push(a_look);
        bare.push(bare_ns);
        ratios.push(a_look / bare_ns);
        tight_ratios.push(a_look / tight_ns);
    }
    let (ratio, tight) = (Sample::new(ratios).median(), Sample::new(tight_ratios).median());
    let looks_a_second = SOURCES as f64;
    let (ours, bare) = (Sample::new(ours).median(), Sample::new(bare).median());
    drop(reloaders);
    let bar = Bar::AtMost(1.3);
    vec![
        Row {
            id: "many-cpu",
            what: "10,000 sources of 3 files, a look a second, one hub: CPU".to_owned(),
            ours: format!("{:.3} s/s", ours * looks_a_second / 1e9),
            bare: format!("{:.3} s/s", bare * looks_a_second / 1e9),
            result: format!("{} ×", bar.show(ratio, 2)),
            bar: format!("{bar} ×"),
            is_met: bar.is_met_by(ratio),
            note: format!(
                "bare: 30,000 × statx in one loop, once a second; {tight:.2} × of three such loops without a pause between them; ours: {:.0} looks a second were counted in another process, which also noted how late they are",
                looks / MEASURED.as_secs_f64()
            ),
        },
        Row {
            id: "many-drift",
            what: "the same: how late a look is, p99".to_owned(),
            ours: time(late),
            bare: String::new(),
            result: format!("p50 {}, p99 {}", time(middle), time(late)),
            bar: "p99 ≤ 50 ms".to_owned(),
            is_met: late <= 50e6,
            note: "without a spread, sources are made to look together: four times a second, each an interval after its last look".to_owned(),
        },
    ]
}

/// CPU of the calls of one look, all sources in one loop.
fn bare_tight(paths: &[[PathBuf; 3]]) -> f64 {
    let before = thread_cpu();
    for _ in 0..3 {
        paths.iter().flatten().for_each(|path| stat(path));
    }
    (thread_cpu() - before) as f64 / (3 * paths.len()) as f64
}

/// The same calls, spread over a second or more in steps, as our looks are; CPU of one source's.
fn bare_paced<const FILES: usize>(paths: &[[PathBuf; FILES]], times: u32, step: Duration) -> f64 {
    let at_once = (paths.len() as f64 * step.as_secs_f64()) as usize;
    let before = thread_cpu();
    let mut next = Instant::now();
    for _ in 0..times {
        for part in paths.chunks(at_once) {
            sleep(next.saturating_duration_since(Instant::now()));
            part.iter().flatten().for_each(|path| stat(path));
            next += step;
        }
    }
    (thread_cpu() - before) as f64 / (paths.len() * times as usize) as f64
}

/// What a process of its own measures, in numbers.
fn numbers_of_child(what: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).args(["--child", what]).output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().map(|number| number.parse().expect("a child prints numbers")).collect()
}

/// The same, if it is one number.
fn number_of_child(what: &str) -> f64 {
    let [number] = numbers_of_child(what)[..] else { panic!("a child prints a number") };
    number
}

/// What 10,000 sources hold beyond what was loaded.
pub(crate) fn memory() -> Vec<Row> {
    let (all, materials) = (number_of_child("sources"), number_of_child("materials"));
    let count = SOURCES as f64;
    let beyond = (all - materials) / count;
    let bar = Bar::AtMost(4.0);
    vec![Row {
        id: "many-memory",
        what: "the same: memory of a source beyond its certificates".to_owned(),
        ours: format!("{:.1} KiB a source", all / count),
        bare: format!("{:.1} KiB of certificates", materials / count),
        result: format!("{} KiB", bar.show(beyond, 1)),
        bar: format!("{bar} KiB"),
        is_met: bar.is_met_by(beyond),
        note: "resident memory of two processes: one follows 10,000 sources, one holds what was loaded"
            .to_owned(),
    }]
}

/// Runs in a process of its own and returns what it says: KiB, or seconds of CPU.
pub(crate) fn child(what: &str) -> String {
    match what {
        "left" => return left(),
        "drift" => return drift(),
        "idle" => return idle_for(IDLE, &punctual()).to_string(),
        "idle-spread" => return idle_for(IDLE, &Policy::every(SECOND)).to_string(),
        "idle-bare" => return bare_idle().to_string(),
        _ => {}
    }
    let tree = Tree::new(SOURCES);
    let kept: Box<dyn Debug>;
    // Whatever is made once is made before.
    let one = Files::kubernetes(tree.base.join("0")).load().expect("the files load");
    let hub = Hub::new();
    let first = Reloader::builder(Files::kubernetes(tree.base.join("0"))).hub(hub.clone()).start();
    let before = Usage::now().memory;
    if what == "sources" {
        let start = |dir| {
            let builder = Reloader::builder(Files::kubernetes(dir)).hub(hub.clone()).every(SECOND);
            builder.start().expect("the files load")
        };
        kept = Box::new(tree.dirs().map(start).collect::<Vec<Reloader>>());
        sleep(QUIET);
    } else {
        let load = |dir| Files::kubernetes(dir).load().expect("the files load");
        kept = Box::new(tree.dirs().map(load).collect::<Vec<Arc<Material>>>());
    }
    let used = Usage::now().memory - before;
    drop((kept, one, first));
    used.to_string()
}

/// 1,000 files of one certificate each, written long enough ago that no start waits for them to settle.
fn thousand() -> (TestDir, Vec<PathBuf>) {
    let base = TestDir::new().expect("a directory");
    let pem = Ca::new("ca").certificate_pem();
    let path = |number: usize| base.write(format!("{number}.pem"), &pem).expect("a file");
    let paths = (0..1_000).map(path).collect();
    sleep(QUIET);
    (base, paths)
}

/// CPU seconds that 1,000 sources of one file take in this time, with nothing to do.
fn idle_for(time: Duration, policy: &Policy) -> f64 {
    let (_base, paths) = thousand();
    let start = |path: &PathBuf| {
        Reloader::builder(Files::trust(path)).policy(policy.clone()).start().expect("the file loads")
    };
    let reloaders: Vec<Reloader> = paths.iter().map(start).collect();
    sleep(QUIET);
    let before = cpu();
    sleep(time);
    let used = (cpu() - before) as f64 / 1e9;
    drop(reloaders);
    used
}

/// The same of the calls that this needs, made as our looks are.
fn bare_idle() -> f64 {
    let (_base, paths) = thousand();
    let alone: Vec<[PathBuf; 1]> = paths.into_iter().map(|path| [path]).collect();
    let times = IDLE.as_secs() as u32;
    bare_paced(&alone, times, Duration::from_millis(250)) * (alone.len() as u32 * times) as f64 / 1e9
}

/// 1,000 sources of one file and nothing to do.
pub(crate) fn idle() -> Vec<Row> {
    let (bare, spread) = (number_of_child("idle-bare"), number_of_child("idle-spread"));
    let used = number_of_child("idle");
    let bar = Bar::AtMost(0.08);
    vec![Row {
        id: "many-idle",
        what: "1,000 sources of one file, a look a second, 30 s: CPU".to_owned(),
        ours: format!("{used:.3} s"),
        bare: format!("{bare:.3} s"),
        result: format!("{} s, {:.2} ×", bar.show(used, 3), used / bare),
        bar: format!("{bar} s"),
        is_met: bar.is_met_by(used),
        note: format!(
            "without a spread, as go-resty looks, which took 0.40 s on a machine of this kind, not in this run; {spread:.3} s with looks spread by 10 %; bare: 30,000 × statx, 250 at a time, every 250 ms, as ours are"
        ),
    }]
}

/// 1,000 watched sources, made and dropped, again and again: in a process of its own, whose heap is one, and gives back what
/// is free. With a heap for each thread, as is usual, memory that is free in one of them counts as used: it grows and
/// shrinks by megabytes from one time to the next.
pub(crate) fn nothing_left() -> Vec<Row> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["--child", "left"]).env("MALLOC_ARENA_MAX", "1").env("MALLOC_TRIM_THRESHOLD_", "0");
    let output = command.output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<i64> =
        text.split_whitespace().map(|n| n.parse().expect("a child prints numbers")).collect();
    let [descriptors, threads, watches, memory @ ..] = &numbers[..] else { panic!("a child said {text}") };
    let grown = memory[5] - memory[2];
    let counts = [*descriptors, *threads, *watches];
    vec![Row {
        id: "nothing-left",
        what: "1,000 watched sources made and dropped, six times: what is left".to_owned(),
        ours: format!("{descriptors} descriptors, {threads} threads, {watches} watches"),
        bare: String::new(),
        result: format!(
            "{} in all; memory {grown:+} KiB from the third time to the sixth",
            counts.iter().sum::<i64>()
        ),
        bar: "nothing".to_owned(),
        is_met: counts == [0, 0, 0] && grown <= 256,
        note: format!(
            "in a process with one heap that gives back what is free (MALLOC_ARENA_MAX=1, MALLOC_TRIM_THRESHOLD_=0); with a \
             heap for each thread, what lies free in them counts too; memory after each time, KiB: {memory:?}"
        ),
    }]
}

/// What is left, in numbers: descriptors, threads, watches; then KiB of memory after each time.
fn left() -> String {
    let tree = Tree::new(500);
    let before = Usage::now();
    let mut after = Vec::new();
    for _ in 0..6 {
        let hub = Hub::new();
        let reloaders: Vec<Reloader> = tree
            .dirs()
            .chain(tree.dirs())
            .map(|dir| {
                let source = Files::kubernetes(dir).detect(Notify::new());
                Reloader::builder(source).hub(hub.clone()).start().expect("the files load")
            })
            .collect();
        drop((hub, reloaders));
        let end = Instant::now() + Duration::from_secs(20);
        let held = |usage: Usage| (usage.descriptors, usage.threads, usage.watches);
        while held(Usage::now()) != held(before) && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
        after.push(Usage::now());
    }
    let late = after[5];
    let left = |of: fn(&Usage) -> usize| of(&late) as i64 - of(&before) as i64;
    let counts = [left(|usage| usage.descriptors), left(|usage| usage.threads), left(|usage| usage.watches)];
    let memory = after.iter().map(|usage| usage.memory as i64);
    counts.into_iter().chain(memory).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}
