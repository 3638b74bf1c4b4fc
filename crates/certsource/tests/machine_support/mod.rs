//! A scripted source and simulated time, for the tests of the machine.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Candidate, Machine, Policy, Regressed, Todo, Told, Verdict};
use certsource::parts::Parts;
use certsource::source::{Alarm, Armed, Arrival, Look};
use certsource::{Driver, Error, KeyFormat, Origin, PrivateKey, Reason, Source};
use certsource_testkit::{Ca, Issued};
use zeroize::Zeroizing;

pub const SEC: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);
/// More steps at one moment than any history here needs: a machine that never rests.
pub const STEPS: usize = 10_000;

pub type Make = Box<dyn Fn() -> Result<Parts, Error> + Send>;

pub struct Script {
    /// What the next looks say; then `always`, for ever.
    pub looks: Vec<Look>,
    pub always: Box<dyn Fn(Now) -> Look + Send>,
    pub make: Make,
    pub armed: Armed,
    /// Looks and reads.
    pub count: [usize; 2],
}

#[derive(Clone)]
pub struct Scripted(pub Arc<Mutex<Script>>);

impl Source for Scripted {
    fn origin(&self) -> Origin {
        Origin::named("script")
    }
    fn look(&mut self, now: Now) -> Result<Look, Error> {
        let mut script = self.0.lock().unwrap();
        script.count[0] += 1;
        Ok(if script.looks.is_empty() { (script.always)(now) } else { script.looks.remove(0) })
    }
    fn read(&mut self) -> Result<Parts, Error> {
        let mut script = self.0.lock().unwrap();
        script.count[1] += 1;
        (script.make)()
    }
    fn arm(&mut self, _: &Alarm) -> Armed {
        self.0.lock().unwrap().armed.clone()
    }
}

pub struct World {
    pub script: Scripted,
    pub driver: Driver<Scripted>,
    pub now: Now,
    start: Now,
    log: Vec<(Duration, String)>,
}

impl World {
    pub fn new(make: impl Fn() -> Result<Parts, Error> + Send + 'static) -> Self {
        Self::with(make, Policy::every(10 * SEC), |_| Verdict::Accept)
    }

    pub fn with(
        make: impl Fn() -> Result<Parts, Error> + Send + 'static,
        policy: Policy,
        gate: impl FnMut(&Candidate) -> Verdict + Send + 'static,
    ) -> Self {
        Self::arriving(Arrival::Still, make, policy, gate)
    }

    pub fn arriving(
        first: Arrival,
        make: impl Fn() -> Result<Parts, Error> + Send + 'static,
        policy: Policy,
        gate: impl FnMut(&Candidate) -> Verdict + Send + 'static,
    ) -> Self {
        let mut world = Self::unstarted(make, policy, gate);
        world.script.0.lock().unwrap().looks.push(Look::Changed(first));
        world.pass(Duration::ZERO);
        world
    }

    pub fn unstarted(
        make: impl Fn() -> Result<Parts, Error> + Send + 'static,
        mut policy: Policy,
        gate: impl FnMut(&Candidate) -> Verdict + Send + 'static,
    ) -> Self {
        if policy.jitter == Policy::default().jitter {
            policy.jitter = 0.0;
        }
        let script = Script {
            looks: Vec::new(),
            always: Box::new(|_| Look::Same),
            make: Box::new(make),
            armed: Armed::PollOnly,
            count: [0; 2],
        };
        let script = Scripted(Arc::new(Mutex::new(script)));
        let driver = Driver::new(script.clone(), policy).with_gate(gate);
        let now = Now::read();
        Self { script, driver, now, start: now, log: Vec::new() }
    }

    /// New content, and what the next look says of it.
    pub fn change(&mut self, arrival: Arrival, make: impl Fn() -> Result<Parts, Error> + Send + 'static) {
        let mut script = self.script.0.lock().unwrap();
        script.make = Box::new(make);
        script.looks.push(Look::Changed(arrival));
    }

    /// The same, and the engine is woken.
    pub fn push(&mut self, arrival: Arrival, make: impl Fn() -> Result<Parts, Error> + Send + 'static) {
        self.change(arrival, make);
        self.driver.wake(self.now);
        self.pass(Duration::ZERO);
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let mut steps = 0;
            let next = loop {
                if let Some(until) = self.driver.step(|| self.now) {
                    break until;
                }
                steps += 1;
                assert!(steps < STEPS, "the machine never rests");
            };
            let at = self.now.mono - self.start.mono;
            self.log.extend(self.driver.drain().map(|told| (at, name(&told))));
            match next {
                Some(next) if next <= end.mono => {
                    self.now = self.now.after(next.saturating_duration_since(self.now.mono).max(MS / 10));
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub fn told(&mut self) -> Vec<String> {
        self.told_at().into_iter().map(|(_, told)| told).collect()
    }

    /// The same, with the time since the beginning.
    pub fn told_at(&mut self) -> Vec<(Duration, String)> {
        std::mem::take(&mut self.log)
    }

    /// Looks and reads since the last call.
    pub fn count(&self) -> [usize; 2] {
        std::mem::take(&mut self.script.0.lock().unwrap().count)
    }
}

pub fn name(told: &Told) -> String {
    match told {
        Told::Published(p) if p.degraded.is_some() => format!("degraded generation {}", p.number),
        Told::Published(p) => format!("generation {}", p.number),
        Told::Pending(e) => format!("pending {}", e.reason()),
        Told::Failed(e) => format!("failed {}", e.reason()),
        Told::Refused(e) => format!("refused {}", e.reason()),
        Told::Recovered => "recovered".into(),
        Told::Degraded(_) => "degraded".into(),
        Told::Stale(_) => "stale".into(),
        Told::Expired => "expired".into(),
        Told::Expiring(e) => format!("{} expiring {:?}", e.role, e.threshold),
        Told::Regressed(Regressed::AnchorReturned(_)) => "regressed anchor".into(),
        Told::Regressed(_) => "regressed leaf".into(),
        Told::Concluded { ticket, result } => {
            let result = result.as_ref().map_or_else(|e| e.reason().to_string(), u64::to_string);
            format!("concluded {ticket} {result}")
        }
        other => format!("{other:?}"),
    }
}

pub fn trust(cas: &[&Ca]) -> impl Fn() -> Result<Parts, Error> + Send + Clone + 'static + use<> {
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    move || {
        let mut parts = Parts::new().with_trust(&Origin::named("ca"), ders.clone());
        parts.single_file = true;
        Ok(parts)
    }
}

pub fn full(cas: &[&Ca], id: &Issued) -> impl Fn() -> Result<Parts, Error> + Send + Clone + 'static + use<> {
    mixed(cas, id, id)
}

/// Trust, the certificate of one and the key of another.
pub fn mixed(
    cas: &[&Ca],
    certificate_of: &Issued,
    key_of: &Issued,
) -> impl Fn() -> Result<Parts, Error> + Send + Clone + 'static + use<> {
    let (trust, chain) = (trust(cas), certificate_of.chain_der());
    let key = key_of.key_der().secret_der().to_vec();
    move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, Zeroizing::new(key.clone()));
        let mut parts = trust()?.with_identity(&Origin::named("id"), chain.clone(), key);
        parts.single_file = false;
        Ok(parts)
    }
}

/// An identity and nothing else, with the key of another.
pub fn pair(
    certificate_of: &Issued,
    key_of: &Issued,
) -> impl Fn() -> Result<Parts, Error> + Send + Clone + 'static + use<> {
    let (chain, key) = (certificate_of.chain_der(), key_of.key_der().secret_der().to_vec());
    move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, Zeroizing::new(key.clone()));
        Ok(Parts::new().with_identity(&Origin::named("id"), chain.clone(), key))
    }
}

/// Trust and the lists of these numbers, all of the first CA.
pub fn with_crls(
    cas: &[&Ca],
    numbers: &[u64],
) -> impl Fn() -> Result<Parts, Error> + Send + Clone + 'static + use<> {
    let trust = trust(cas);
    let ders: Vec<_> = numbers.iter().map(|n| cas[0].crl_builder().number(*n).sign().der()).collect();
    move || Ok(trust()?.with_crls(&Origin::named("crl"), ders.clone()))
}

pub fn broken(reason: Reason) -> impl Fn() -> Result<Parts, Error> + Send + 'static {
    move || Err(Error::new(reason, "broken by the test"))
}

pub fn none() -> Vec<String> {
    Vec::new()
}

pub fn no(reason: Reason) -> Verdict {
    Verdict::Refuse(Error::new(reason, "no"))
}

/// A poll at this interval, and an overlap.
pub fn overlapping(by: Duration, interval: Duration) -> Policy {
    let mut policy = Policy::every(interval);
    policy.jitter = 0.0;
    policy.overlap = by;
    policy
}

/// How many anchors are served.
pub fn served(world: &World) -> usize {
    world.driver.machine().current().unwrap().1.trust().unwrap().len()
}

/// How far [`work`] goes.
#[derive(Clone, Copy, PartialEq)]
pub enum Until {
    Rest,
    /// A read is handed out.
    Read,
    /// A judgement is.
    Judge,
}

/// Does what is due at this moment, up to there.
pub fn work(machine: &mut Machine, now: Now, look: Look, make: &Make, until: Until) {
    let mut look = Some(look);
    for _ in 0..STEPS {
        match machine.next(now) {
            Todo::Look => machine.looked(now, Ok(look.take().unwrap_or(Look::Same))),
            Todo::Read if until == Until::Read => return,
            Todo::Read => read(machine, now, make),
            Todo::Judge(_) if until == Until::Judge => return,
            Todo::Judge(_) => machine.judged(now, Verdict::Accept),
            Todo::Wait(_) => return,
        }
    }
    panic!("the machine never rests");
}

pub fn read(machine: &mut Machine, now: Now, make: &Make) {
    machine.read(now, now, make().map_or_else(Into::into, |parts| parts.assemble()));
}

pub fn told(machine: &mut Machine) -> Vec<String> {
    std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect()
}
