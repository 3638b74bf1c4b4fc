//! The library as a [`Subject`]: its sources, its detectors and its machine, driven step by step the way
//! `certsource::Driver` does it.
//!
//! The driver itself cannot be led to a state again without reading everything again; this can. The property tests use
//! the driver.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certsource::detect::{Mtime, Notify, Sha256};
use certsource::machine::{Machine, Policy, Todo, Told, Verdict};
use certsource::parts::{FoundCertificate, Part, Parts};
use certsource::source::{Alarm, Wake};
use certsource::{Files, Material, Origin, Source};

use crate::disk::{Disk, begin};
use crate::fs::SimFs;
use crate::subject::{Live, Next, Published, Reading, Spec, Subject, hash};
use crate::watches::SimWatches;

/// A detector by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the detectors")]
pub enum Strategy {
    Mtime,
    Sha256,
    Notify,
}

/// The library with one detector.
#[derive(Clone, Debug)]
pub struct Engine {
    strategy: Strategy,
    policy: Policy,
    /// Parsed before: most reads of an exploration give one of a few contents.
    known: Arc<Mutex<HashMap<u64, Reading>>>,
}

impl Engine {
    /// With this detector, and the defaults but for the jitter, which would make each run another.
    pub fn new(strategy: Strategy) -> Self {
        let mut policy = Policy::default();
        policy.jitter = 0.0;
        Self { strategy, policy, known: Arc::default() }
    }

    /// How patient it is, to be changed.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// The source over a simulated file system, with this detector.
    pub fn files(&self, spec: &Spec, fs: &SimFs) -> Files {
        let files = spec.files(fs);
        match self.strategy {
            Strategy::Mtime => files.detect(Mtime::new()),
            Strategy::Sha256 => files.detect(Sha256::new()),
            Strategy::Notify => files.detect(Notify::new()),
        }
    }
}

/// What stands for parts of which none is broken.
fn content(parts: &Parts) -> Option<u64> {
    let der =
        |found: &Vec<FoundCertificate>| found.iter().map(|found| found.der.to_vec()).collect::<Vec<_>>();
    let trust = match &parts.trust {
        Part::Broken(_) => return None,
        Part::Absent => None,
        Part::Found(found) => Some(der(found)),
    };
    let identity = match &parts.identity {
        Part::Broken(_) => return None,
        Part::Absent => None,
        Part::Found(found) => Some((der(&found.chain), found.key.secret_der())),
    };
    Some(hash(&(trust, identity, parts.single_file)))
}

fn assemble(parts: Parts) -> Reading {
    let trust = match &parts.trust {
        Part::Found(found) => Some(found.iter().map(|found| found.der.to_vec()).collect()),
        _ => None,
    };
    let reading = parts.assemble();
    match reading.whole {
        Ok(material) => Reading::Whole(material),
        Err(error) => Reading::Failed(error, trust.filter(|_| reading.partial.is_some())),
    }
}

/// What stands for a material.
pub fn tag(material: &Material) -> u64 {
    hash(material.digest().as_bytes())
}

impl Subject for Engine {
    fn start(&self, spec: &Spec, fs: &SimFs, watches: Arc<SimWatches>) -> Box<dyn Live> {
        let files = self.files(spec, fs);
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        let mut alarm = Alarm::new(Wake::new(move || flag.store(true, Ordering::Relaxed)));
        if self.takes_events() {
            alarm = alarm.with_watches(watches);
        }
        let machine = Machine::new(self.policy.clone(), files.origin());
        let deadline = self.policy.deadline;
        Box::new(Running { fs: fs.clone(), files, machine, alarm, woken, deadline })
    }

    fn read(&self, spec: &Spec, fs: &SimFs) -> Reading {
        let parts = match spec.files(fs).read() {
            Ok(parts) => parts,
            Err(error) => return Reading::Failed(error, None),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let content = content(&parts);
        let known = content.map(|content| known.entry(content));
        match known {
            Some(entry) => entry.or_insert_with(|| assemble(parts)).clone(),
            None => assemble(parts),
        }
    }

    fn tag(&self, spec: &Spec, disk: &Arc<Disk>) -> Option<u64> {
        spec.files(&SimFs::new(Arc::clone(disk))).load().ok().map(|material| tag(&material))
    }

    fn takes_events(&self) -> bool {
        self.strategy == Strategy::Notify
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }
}

struct Running {
    fs: SimFs,
    files: Files,
    machine: Machine,
    alarm: Alarm,
    woken: Arc<AtomicBool>,
    deadline: Duration,
}

impl Running {
    /// A job that took too long was told as overdue while it was out.
    fn overdue(&mut self, began: certsource::clock::Now) {
        let took = self.fs.now().mono.saturating_duration_since(began.mono);
        if took >= self.deadline {
            self.machine.overdue(began.after(self.deadline));
        }
    }
}

impl Live for Running {
    fn next(&mut self) -> Next {
        let now = self.fs.now();
        if self.woken.swap(false, Ordering::Relaxed) {
            self.machine.woken(now);
        }
        match self.machine.next(now) {
            Todo::Wait(until) => Next::Wait(until.map(|until| until - begin())),
            Todo::Look => Next::Look,
            Todo::Read => Next::Read,
            Todo::Judge(_) => Next::Judge,
        }
    }

    fn look(&mut self) -> u64 {
        let now = self.fs.now();
        let armed = self.files.arm(&self.alarm);
        let look = self.files.look(now);
        self.overdue(now);
        let what = hash(&(format!("{armed:?}"), format!("{:?}", look.as_ref().map_err(|e| e.reason()))));
        self.machine.armed(armed);
        self.machine.looked(self.fs.now(), look);
        what
    }

    fn read(&mut self, began: Duration, reading: &Reading) {
        // The file system stands at the end of the read.
        let end = self.fs.now();
        let took = self.fs.disk().mono() - began;
        let began = certsource::clock::Now { mono: end.mono - took, wall: end.wall - took };
        self.overdue(began);
        let reported = match reading {
            Reading::Whole(material) => {
                let mut whole = Parts::new().assemble();
                whole.whole = Ok(Arc::clone(material));
                whole
            }
            Reading::Failed(error, None) => certsource::Reading::from(error.clone()),
            Reading::Failed(error, Some(trust)) => {
                let der = trust.iter().map(|der| der.clone().into());
                let mut parts = Parts::new().with_trust(&Origin::named("trust"), der);
                parts.identity = Part::Broken(error.clone());
                parts.assemble()
            }
            Reading::Bytes(_) => unreachable!("not a reading of this subject"),
        };
        self.machine.read(began, end, reported);
    }

    fn judge(&mut self) {
        self.machine.judged(self.fs.now(), Verdict::Accept);
    }

    fn published(&mut self) -> Vec<Published> {
        let told = std::iter::from_fn(|| self.machine.tell());
        let published = told.filter_map(|told| match told {
            Told::Published(published) => {
                Some(Published { number: published.number, tag: tag(&published.material) })
            }
            _ => None,
        });
        published.collect()
    }
}
