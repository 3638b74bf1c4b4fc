//! A random history performed: writers, faults and clocks on a simulated file system, the library's `Driver` as the
//! reader, and the model that both are held against.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::detect::{Mtime, Notify, Sha256};
use certsource::fs::Stamp;
use certsource::machine::{Policy, Told};
use certsource::source::{Alarm, Wake};
use certsource::{Driver, Files};
use certsource_sim::case::{Case, create, overwrite, replace};
use certsource_sim::disk::{Access, BEGIN, Blob, Call, Disk, Fault, RawEvent, Traits, begin, errno};
use certsource_sim::engine::{Strategy, tag};
use certsource_sim::fs::{Director, SimFs};
use certsource_sim::subject::Spec;
use certsource_sim::watches::{Due, Fate, Post, SimWatches};
use certsource_sim::writers::{self, join};

use super::kit;

/// When a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delay {
    /// After so many accesses of the reader; or when it rests.
    Accesses(u8),
    /// After so much time.
    Millis(u32),
}

/// What a writer, or the machine, does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doing {
    InPlace(u8),
    Uncut(u8),
    Rename,
    UnlinkCreate,
    Mapped(u8),
    CopyWithOldTime,
    Touch,
    Chmod,
    Remove,
    ReplaceDirectory,
    SetClock(i64),
    Fault(u8),
    Mend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Trust,
    Pair,
    Full,
    Volume,
}

#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) doing: Doing,
    pub(crate) version: usize,
    /// In which order files are written.
    pub(crate) order: u8,
    /// Before each of its calls, over and over.
    pub(crate) delays: Vec<Delay>,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) strategy: Strategy,
    pub(crate) layout: Layout,
    /// Milliseconds; 0 is a nanosecond.
    pub(crate) tick: u64,
    pub(crate) fate: Fate,
    pub(crate) most_watches: Option<usize>,
    pub(crate) read_most: usize,
    pub(crate) acts: Vec<Act>,
}

/// What happened, and the property that did not hold.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) lines: Vec<String>,
    pub(crate) broken: Option<String>,
}

struct Queued {
    delay: Delay,
    call: Call,
    /// What the act means to leave behind, by path.
    meant: Arc<BTreeMap<PathBuf, Option<Blob>>>,
}

/// What could be seen for a while.
#[derive(Clone, Debug)]
struct Visible {
    from: Duration,
    to: Duration,
    content: Vec<Option<Blob>>,
    tag: Option<u64>,
    is_meant: bool,
}

/// The writers and the model: everything but the reader.
struct Sim {
    spec: Spec,
    queue: VecDeque<Queued>,
    queued_at: Duration,
    visible: Vec<Visible>,
    post: Post,
    fate: Fate,
    due: Vec<Due>,
    due_at: Duration,
    lines: Vec<String>,
    clock_was_set: bool,
    last_call: Duration,
    unstamped: bool,
    tags: Vec<(Vec<Option<Blob>>, Option<u64>)>,
}

impl Sim {
    fn call(&mut self, disk: &mut Arc<Disk>) {
        let Some(queued) = self.queue.pop_front() else { return };
        let now = disk.mono();
        self.queued_at = now;
        self.last_call = now;
        self.clock_was_set |= matches!(queued.call, Call::SetClock(_));
        let result = Arc::make_mut(disk).call(&queued.call);
        let failed = result.as_ref().err().map_or_else(String::new, |error| format!("   fails: {error}"));
        self.lines.push(format!("{:>9.3} s  writer  {:?}{failed}", now.as_secs_f64(), queued.call));
        // A writer whose file another took away gives up that call; the next may work.
        let events: Vec<RawEvent> = result.unwrap_or_default();
        let paths = self.spec.paths();
        let content = disk.visible(&paths);
        let is_meant = queued.meant.iter().all(|(path, blob)| disk.content(path) == *blob);
        let last = self.visible.last_mut().unwrap();
        if last.content == content {
            last.is_meant |= is_meant;
        } else {
            last.to = now;
            self.unstamped = !disk.stamps_moved();
            let tag = self.tag(&content, disk);
            self.visible.push(Visible { from: now, to: Duration::MAX, content, tag, is_meant });
        }
        self.send(events, now);
    }

    fn tag(&mut self, content: &[Option<Blob>], disk: &Arc<Disk>) -> Option<u64> {
        if let Some((_, tag)) = self.tags.iter().find(|(known, _)| known == content) {
            return *tag;
        }
        let mut disk = (**disk).clone();
        disk.mend_all();
        let tag = self.spec.files(&SimFs::new(Arc::new(disk))).load().ok().map(|material| tag(&material));
        self.tags.push((content.to_vec(), tag));
        tag
    }

    fn send(&mut self, events: Vec<RawEvent>, now: Duration) {
        let due = self.post.address(&events);
        if self.fate == Fate::Prompt {
            self.post.deliver(&due);
            return;
        }
        if self.due.is_empty() {
            self.due_at = now + Duration::from_millis(50);
        }
        self.due.extend(due);
        let due = std::mem::take(&mut self.due);
        self.due = self.post.suffer(self.fate, due);
    }
}

struct AtAccess(Arc<Mutex<Sim>>);

impl Director for AtAccess {
    fn before(&mut self, disk: &mut Arc<Disk>, _: &Access) {
        let mut sim = self.0.lock().unwrap();
        while let Some(Delay::Accesses(left)) = sim.queue.front_mut().map(|queued| &mut queued.delay) {
            if *left > 0 {
                *left -= 1;
                return;
            }
            sim.call(disk);
        }
    }
}

/// Performs a history.
pub(crate) fn run(plan: &Plan) -> Log {
    run_with(plan, |files| match plan.strategy {
        Strategy::Mtime => files.detect(Mtime::new()),
        Strategy::Sha256 => files.detect(Sha256::new()),
        Strategy::Notify => files.detect(Notify::new()),
    })
}

/// Performs a history with another detector.
pub(crate) fn run_with(plan: &Plan, detect: impl FnOnce(Files) -> Files) -> Log {
    let mut policy = Policy::default();
    policy.jitter = 0.0;
    let case = start(plan.layout);
    let tick = Duration::from_millis(plan.tick).max(Duration::from_nanos(1));
    let traits = Traits { tick, read_most: plan.read_most, ..Traits::default() };
    let fs = SimFs::new(case.disk(traits));
    let watches = Arc::new(SimWatches::new(fs.clone(), plan.most_watches));
    let sim = Arc::new(Mutex::new(Sim {
        spec: case.spec.clone(),
        queue: queue(plan, &case),
        queued_at: Duration::ZERO,
        visible: Vec::new(),
        post: watches.post(),
        fate: plan.fate,
        due: Vec::new(),
        due_at: Duration::ZERO,
        lines: Vec::new(),
        clock_was_set: false,
        last_call: Duration::ZERO,
        unstamped: false,
        tags: Vec::new(),
    }));
    {
        let (mut sim, disk) = (sim.lock().unwrap(), fs.disk());
        let content = disk.visible(&case.paths());
        let tag = sim.tag(&content, &disk);
        sim.visible.push(Visible { from: Duration::ZERO, to: Duration::MAX, content, tag, is_meant: true });
    }
    fs.set_director(Some(Box::new(AtAccess(Arc::clone(&sim)))));
    let files = detect(case.spec.files(&fs));
    let woken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&woken);
    let wake = Wake::new(move || flag.store(true, Ordering::Relaxed));
    let driver = Driver::new(files, policy.clone()).with_alarm(Alarm::new(wake).with_watches(watches));
    let mut history =
        History { plan, policy, fs, sim, driver, woken, served: None, last_publication: Duration::ZERO };
    let broken = history.run();
    history.fs.set_director(None);
    let lines = std::mem::take(&mut history.sim.lock().unwrap().lines);
    Log { lines, broken: broken.err() }
}

struct History<'a> {
    plan: &'a Plan,
    policy: Policy,
    fs: SimFs,
    sim: Arc<Mutex<Sim>>,
    driver: Driver<Files>,
    woken: Arc<AtomicBool>,
    served: Option<(u64, u64)>,
    last_publication: Duration,
}

impl History<'_> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            let until = self.driver.run(|| self.fs.now()).map(|until| until - begin());
            let told: Vec<_> = self.driver.drain().collect();
            for told in &told {
                self.told(told)?;
            }
            if self.woken.swap(false, Ordering::Relaxed) {
                self.driver.wake(self.fs.now());
                continue;
            }
            let now = self.fs.disk().mono();
            let mut sim = self.sim.lock().unwrap();
            let call_at = sim.queue.front().map(|queued| match queued.delay {
                // The reader rests: then after half a second all the same.
                Delay::Accesses(_) => sim.queued_at + Duration::from_millis(500),
                Delay::Millis(millis) => sim.queued_at + Duration::from_millis(millis.into()),
            });
            let events_at = (!sim.due.is_empty()).then_some(sim.due_at);
            if call_at.is_none() && events_at.is_none() {
                let end = sim.last_call + self.bound(&sim);
                if until.is_none_or(|until| until > end) {
                    drop(sim);
                    return self.end();
                }
            }
            let next = [until, call_at, events_at]
                .into_iter()
                .flatten()
                .min()
                .ok_or("5: the reader waits for ever")?;
            self.fs.change(|disk| disk.wait_until(next));
            if events_at.is_some_and(|at| at <= next) {
                let due = std::mem::take(&mut sim.due);
                sim.post.deliver(&due);
            }
            if call_at.is_some_and(|at| at <= next) {
                let mut disk = self.fs.disk();
                sim.call(&mut disk);
                self.fs.set_disk(disk);
            }
            let _ = now;
        }
    }

    /// Invariant 5: how long after the last call its content must be served.
    fn bound(&self, sim: &Sim) -> Duration {
        let mut bound = self.policy.interval + self.policy.settle + self.policy.settle_loss;
        if self.plan.strategy == Strategy::Notify {
            // Events may be lost; and what went wrong may have been mended without one.
            bound += self.policy.safety;
        }
        if (sim.unstamped || sim.clock_was_set) && self.plan.strategy != Strategy::Sha256 {
            bound += Duration::from_secs(300);
        }
        if self.plan.layout == Layout::Volume {
            // Files behind an unmoved link are looked at every 10 s.
            bound += Duration::from_secs(10);
        }
        bound
    }

    fn told(&mut self, told: &Told) -> Result<(), String> {
        let mut sim = self.sim.lock().unwrap();
        let now = self.fs.disk().mono();
        let Told::Published(published) = told else {
            if !matches!(told, Told::Degraded(_)) {
                sim.lines.push(format!("{:>9.3} s  reader  {told:?}", now.as_secs_f64()));
            }
            return Ok(());
        };
        let tag = tag(&published.material);
        sim.lines.push(format!("{:>9.3} s  reader  publishes {}", now.as_secs_f64(), published.number));
        let number = self.served.map_or(1, |(number, _)| number + 1);
        if published.number != number {
            return Err(format!("1: number {} instead of {number}", published.number));
        }
        if self.served.is_some_and(|(_, served)| served == tag) {
            return Err("4: published what is served".to_owned());
        }
        if published.material.certificates().next().is_none() {
            return Err("3: published nothing".to_owned());
        }
        let is_first = self.served.is_none();
        self.served = Some((published.number, tag));
        if published.degraded.is_some() {
            // Invariant 12: the anchors stand on disk, or stood; the identity is the last good one.
            return Ok(());
        }
        let single = self.plan.layout == Layout::Trust && self.plan.strategy == Strategy::Notify;
        let need = if single { self.policy.settle_closed } else { self.policy.settle };
        let since = self.last_publication;
        let those = || sim.visible.iter().filter(|visible| visible.tag == Some(tag) && visible.to >= since);
        // From the first to the last time it could be seen: equal content that is written again and again is taken as
        // standing still in the end (five settle times).
        let from = those().map(|visible| visible.from).min().unwrap_or(now);
        let to = those().map(|visible| visible.to).max().unwrap_or(from).min(now);
        let is_allowed = those().any(|visible| visible.is_meant || is_first && sim.clock_was_set)
            || to.saturating_sub(from) >= need;
        self.last_publication = now;
        if is_allowed {
            Ok(())
        } else {
            Err("6: published what no writer meant, and what did not stand".to_owned())
        }
    }

    fn end(&self) -> Result<(), String> {
        let sim = self.sim.lock().unwrap();
        let last = sim.visible.last().unwrap();
        let served = self.served.map(|(_, tag)| tag);
        let current = self.driver.machine().current().map(|(number, material)| (number, tag(material)));
        if current != self.served {
            return Err("2: what is served is not what was published last".to_owned());
        }
        match last.tag {
            Some(_) if served != last.tag => Err(format!(
                "5: {:.3} s after the last call its content is not served; {:?}",
                (self.fs.disk().mono() - sim.last_call).as_secs_f64(),
                self.driver.machine()
            )),
            None if self.driver.machine().trouble().is_none() => {
                Err("5: broken content is not told".to_owned())
            }
            _ => Ok(()),
        }
    }
}

const NAMES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

fn start(layout: Layout) -> Case {
    let path = |name: &str| PathBuf::from(format!("/etc/tls/{name}"));
    let [ca, cert, key] = NAMES.map(path);
    let spec = match layout {
        Layout::Trust => Spec::Trust(ca),
        Layout::Pair => Spec::Pair(cert, key),
        Layout::Full => Spec::Full(ca, cert, key),
        Layout::Volume => return writers::kubelet(kit(), 0, false),
    };
    let paths = spec.paths();
    let mut case = Case::new("random", spec);
    for path in &paths {
        case = case.with_file(path.to_str().unwrap(), &content(path, 0));
    }
    case
}

/// What a version holds at a path.
fn content(path: &std::path::Path, version: usize) -> Blob {
    let kit = kit();
    let name = path.file_name().unwrap().to_str().unwrap();
    match name {
        "ca.crt" if version < 3 => kit.bundles[version].clone(),
        "ca.crt" if version == 3 => join(&kit.bundles[..2]),
        "ca.crt" => join(&kit.bundles[1..]),
        "tls.crt" => kit.pairs[version % 3].0.clone(),
        _ => kit.pairs[version % 3].1.clone(),
    }
}

fn pieces(blob: &Blob, count: u8) -> Vec<Blob> {
    let bytes = blob.bytes();
    let count = usize::from(count);
    // Where there are two certificates, a piece ends between them.
    let size = bytes.len().div_ceil(count).max(1);
    bytes.chunks(size).map(Blob::new).collect()
}

fn queue(plan: &Plan, case: &Case) -> VecDeque<Queued> {
    let mut queue = VecDeque::new();
    let mut at_version = 0;
    let ends = [Act { doing: Doing::Mend, version: 0, order: 0, delays: vec![Delay::Millis(10)] }];
    for (number, act) in plan.acts.iter().chain(&ends).enumerate() {
        let (calls, meant) = if plan.layout == Layout::Volume {
            volume_calls(act, number, &mut at_version)
        } else {
            plain_calls(act, number as u32 * 10, &case.paths())
        };
        let meant = Arc::new(meant);
        let delays = act.delays.iter().cycle();
        queue.extend(calls.into_iter().zip(delays).map(|(call, delay)| Queued {
            delay: *delay,
            call,
            meant: Arc::clone(&meant),
        }));
    }
    queue
}

type Meant = BTreeMap<PathBuf, Option<Blob>>;

fn plain_calls(act: &Act, fd: u32, paths: &[PathBuf]) -> (Vec<Call>, Meant) {
    let mut paths = paths.to_vec();
    let by = usize::from(act.order) % paths.len();
    paths.rotate_left(by);
    // One more bit of the order: all files, or the first only.
    if act.order >= 192 {
        paths.truncate(1);
    }
    let mut calls = Vec::new();
    let mut meant = Meant::new();
    for (fd, path) in (fd..).zip(&paths) {
        let text = path.to_str().unwrap();
        let new = content(path, act.version);
        let was_len = calls.len();
        match act.doing {
            Doing::InPlace(count) => calls.extend(overwrite(fd, text, &pieces(&new, count))),
            Doing::Uncut(count) => {
                let mut steps = overwrite(fd, text, &pieces(&new, count));
                if let Call::Open { truncate, .. } = &mut steps[0] {
                    *truncate = false;
                }
                let cut = Call::Truncate { path: path.clone(), size: new.bytes().len() };
                let close = steps.pop().unwrap();
                calls.extend(steps.into_iter().chain([cut, close]));
            }
            Doing::Rename => calls.extend(replace(fd, text, &pieces(&new, 2))),
            Doing::UnlinkCreate => {
                calls.push(Call::Unlink(path.clone()));
                calls.extend(create(fd, text, &pieces(&new, 2)));
            }
            Doing::Mapped(count) => {
                let mut steps = overwrite(fd, text, &[]);
                if let Call::Open { truncate, .. } = &mut steps[0] {
                    *truncate = false;
                }
                let close = steps.pop().unwrap();
                let mut at = 0;
                for bytes in pieces(&new, count) {
                    let next = at + bytes.bytes().len();
                    steps.push(Call::Store { fd, at, bytes });
                    at = next;
                }
                calls.extend(steps.into_iter().chain([close]));
            }
            Doing::CopyWithOldTime => {
                calls.extend(overwrite(fd, text, &pieces(&new, 2)));
                let old = Stamp { secs: BEGIN as i64 - 90_000, nanos: 0 };
                calls.push(Call::SetModified(path.clone(), Some(old)));
            }
            Doing::Touch => calls.push(Call::SetModified(path.clone(), None)),
            Doing::Chmod => calls.push(Call::Chmod(path.clone(), 0o640)),
            Doing::Remove => calls.push(Call::Unlink(path.clone())),
            Doing::ReplaceDirectory | Doing::SetClock(_) | Doing::Fault(_) | Doing::Mend => {}
        }
        if calls.len() > was_len && !matches!(act.doing, Doing::Touch | Doing::Chmod) {
            meant.insert(path.clone(), (!matches!(act.doing, Doing::Remove)).then_some(new));
        }
    }
    if matches!(act.doing, Doing::ReplaceDirectory) {
        let new = format!("/etc/new{fd}");
        calls.push(Call::Mkdir(new.clone().into()));
        for (fd, path) in (fd..).zip(&paths) {
            let name = path.file_name().unwrap().to_str().unwrap();
            calls.extend(create(fd, &format!("{new}/{name}"), &[content(path, act.version)]));
            meant.insert(path.clone(), Some(content(path, act.version)));
        }
        calls.push(Call::Rename("/etc/tls".into(), format!("/etc/old{fd}").into()));
        calls.push(Call::Rename(new.into(), "/etc/tls".into()));
    }
    calls.extend(machine_calls(act, &paths[0]));
    (calls, meant)
}

fn machine_calls(act: &Act, path: &std::path::Path) -> Vec<Call> {
    let name = path.file_name().map(std::ffi::OsStr::to_owned);
    match act.doing {
        Doing::SetClock(by) => vec![Call::SetClock(by)],
        Doing::Fault(kind) => {
            let fault = match kind {
                0 => Fault::Open(errno::EACCES),
                1 => Fault::Read(errno::EIO),
                2 => Fault::Lookup(errno::EACCES),
                3 => Fault::Lookup(errno::ENOENT),
                4 => return vec![Call::Break(None, Fault::Open(errno::EMFILE))],
                _ => Fault::Hang(Duration::from_secs(3)),
            };
            vec![Call::Break(name, fault)]
        }
        Doing::Mend => {
            let names = NAMES.map(|name| Call::Mend(Some(name.into())));
            names.into_iter().chain([Call::Mend(None)]).collect()
        }
        _ => Vec::new(),
    }
}

/// In a volume every writer is the kubelet, but for faults and clocks; an odd order keeps the old directory.
fn volume_calls(act: &Act, number: usize, at: &mut usize) -> (Vec<Call>, Meant) {
    let mut meant = Meant::new();
    if matches!(act.doing, Doing::SetClock(_) | Doing::Fault(_) | Doing::Mend) {
        return (machine_calls(act, "/etc/tls/ca.crt".as_ref()), meant);
    }
    let new = number + 1;
    let dir = format!("/etc/tls/..v{new}");
    let mut calls = vec![Call::Mkdir(dir.clone().into())];
    for (fd, name) in (number as u32 * 10..).zip(NAMES) {
        let path = PathBuf::from(format!("/etc/tls/{name}"));
        calls.extend(create(fd, &format!("{dir}/{name}"), &[content(&path, act.version)]));
        meant.insert(path.clone(), Some(content(&path, act.version)));
    }
    calls.push(Call::Symlink(format!("..v{new}").into(), "/etc/tls/..data_tmp".into()));
    calls.push(Call::Rename("/etc/tls/..data_tmp".into(), "/etc/tls/..data".into()));
    if act.order % 2 == 0 {
        let old = format!("/etc/tls/..v{at}");
        calls.extend(NAMES.map(|name| Call::Unlink(format!("{old}/{name}").into())));
        calls.push(Call::Rmdir(old.into()));
    }
    *at = new;
    (calls, meant)
}
