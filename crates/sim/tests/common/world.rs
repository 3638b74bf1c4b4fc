//! A random history performed: writers, faults and clocks on a simulated file system, the library's `Driver` as the
//! reader, and the properties.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certsource::detect::{Mtime, Notify, Sha256};
use certsource::machine::{Candidate, Policy, Publication, Told, Verdict};
use certsource::source::{Alarm, Armed, Wake};
use certsource::{Driver, Error, Files, Material, Reason};
use certsource_sim::disk::{Access, Disk, Traits, begin};
use certsource_sim::engine::{Strategy, tag};
use certsource_sim::fs::{Director, SimFs};
use certsource_sim::watches::SimWatches;

use super::acts::{Layout, Plan, refused, start};
use super::model::{Anchors, Model, Shown, Visible};
use super::overlap::{Counts, Overlaps};

/// What happened, and the property that did not hold.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) lines: Vec<String>,
    pub(crate) broken: Option<String>,
    /// How many withdrawals were published with the last good identity.
    pub(crate) degraded: usize,
    /// How many acts were under way while another was.
    pub(crate) overlapped: usize,
    /// What happened of overlaps and calls.
    pub(crate) counts: Counts,
}

/// Within this time a withdrawal is published although the identity is broken: the grace of a pair (30 s), the time that a
/// loss stands still, and some looks.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(90);

struct AtAccess(Arc<Mutex<Model>>);

impl Director for AtAccess {
    fn before(&mut self, disk: &mut Arc<Disk>, access: &Access) {
        let mut model = self.0.lock().unwrap();
        model.before_access(disk);
        let hang = disk.hangs_for(access);
        if !hang.is_zero() {
            model.hung_until = disk.mono() + hang;
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
    policy.overlap = Duration::from_millis(plan.reader.overlap.into());
    policy.max_stale = plan.reader.max_stale.map(|seconds| Duration::from_secs(seconds.into()));
    let case = start(plan.layout);
    let tick = Duration::from_millis(plan.tick).max(Duration::from_nanos(1));
    let traits = Traits { tick, read_most: plan.read_most, ..Traits::default() };
    let fs = SimFs::new(case.disk(traits));
    let watches = Arc::new(SimWatches::new(fs.clone(), plan.most_watches));
    let model = Arc::new(Mutex::new(Model::new(plan, &case, &fs.disk(), watches.post())));
    fs.set_director(Some(Box::new(AtAccess(Arc::clone(&model)))));
    let files = detect(case.spec.files(&fs));
    let woken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&woken);
    let wake = Wake::new(move || flag.store(true, Ordering::Relaxed));
    let alarm = Alarm::new(wake).with_watches(Arc::clone(&watches) as Arc<_>);
    let driver = Driver::new(files, policy.clone()).with_alarm(alarm);
    let driver = with_gate(driver, plan, &fs);
    let mut history = History {
        plan,
        policy,
        fs,
        watches,
        model,
        driver,
        woken,
        served: None,
        last_publication: Duration::ZERO,
        degraded: 0,
        was_told_of_watches: false,
        overlaps: Overlaps::new(&plan.reader),
        stale_since: None,
    };
    let broken = history.run().err();
    history.fs.set_director(None);
    let mut model = history.model.lock().unwrap();
    let lines = std::mem::take(&mut model.lines);
    let counts = history.overlaps.counts;
    Log { lines, broken, degraded: history.degraded, overlapped: model.overlapped(), counts }
}

fn leaf(candidate: &Candidate) -> Option<&[u8]> {
    candidate.material.identity().map(|identity| identity.leaf().der().as_ref())
}

/// A gate that takes its time, and can use nothing for a while.
fn with_gate(driver: Driver<Files>, plan: &Plan, fs: &SimFs) -> Driver<Files> {
    let millis = |millis: u32| Duration::from_millis(millis.into());
    let (takes, fs) = (millis(plan.reader.judges_for), fs.clone());
    let unusable = plan.reader.unusable.map(|(from, to)| millis(from)..millis(to));
    let refused = plan.reader.refuses.then(refused);
    if takes.is_zero() && unusable.is_none() && refused.is_none() {
        return driver;
    }
    driver.with_gate(move |candidate| {
        let end = fs.disk().mono() + takes;
        fs.change(|disk| disk.wait_until(end));
        match &unusable {
            Some(unusable) if unusable.contains(&end) => {
                Verdict::Unusable(Error::new(Reason::Rejected, "the gate can use nothing now"))
            }
            _ if refused.is_some() && leaf(candidate) == refused.as_deref() => {
                Verdict::Refuse(Error::new(Reason::Rejected, "the gate refuses this identity"))
            }
            _ => Verdict::Accept,
        }
    })
}

struct History<'a> {
    plan: &'a Plan,
    policy: Policy,
    fs: SimFs,
    watches: Arc<SimWatches>,
    model: Arc<Mutex<Model>>,
    driver: Driver<Files>,
    woken: Arc<AtomicBool>,
    served: Option<(u64, Arc<Material>)>,
    last_publication: Duration,
    degraded: usize,
    was_told_of_watches: bool,
    overlaps: Overlaps,
    /// Since when nothing is served.
    stale_since: Option<Duration>,
}

impl History<'_> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            let until = self.work()?.map(|until| until - begin());
            if self.woken.swap(false, Ordering::Relaxed) {
                self.driver.wake(self.fs.now());
                continue;
            }
            self.rests()?;
            let shared = Arc::clone(&self.model);
            let mut model = shared.lock().unwrap();
            let now = (self.fs.disk().mono(), self.fs.now());
            if self.overlaps.at_rest(&mut self.driver, &mut model, now) {
                continue;
            }
            let ask_at = self.overlaps.due_at_rest();
            let call_at = model.next_call(self.fs.disk().mono());
            let events_at = (!model.due.is_empty()).then_some(model.due_at);
            if call_at.is_none() && events_at.is_none() && ask_at.is_none() {
                let (later, from) = self.overlaps.allowance(self.longest_pause());
                let end = model.last_call.max(model.hung_until).max(from) + self.bound(&model) + later;
                if until.is_none_or(|until| until > end) {
                    drop(model);
                    return self.end();
                }
            }
            let next = [until, call_at, events_at, ask_at]
                .into_iter()
                .flatten()
                .min()
                .ok_or("5: the reader waits for ever")?;
            self.fs.change(|disk| disk.wait_until(next));
            if events_at.is_some_and(|at| at <= next) {
                let due = std::mem::take(&mut model.due);
                model.post.deliver(&due);
            }
            if call_at.is_some_and(|at| at <= next) {
                let mut disk = self.fs.disk();
                model.rest(&mut disk);
                self.fs.set_disk(disk);
            }
        }
    }

    /// Does all that is due, step by step, so that calls come in between.
    fn work(&mut self) -> Result<Option<Instant>, String> {
        loop {
            let shared = Arc::clone(&self.model);
            let now = (self.fs.disk().mono(), self.fs.now());
            self.overlaps.before_step(&mut self.driver, &mut shared.lock().unwrap(), now);
            let until = self.driver.step(|| self.fs.now());
            let told: Vec<_> = self.driver.drain().collect();
            for told in &told {
                self.told(told)?;
            }
            if let Some(until) = until {
                return Ok(until);
            }
        }
    }

    fn rests(&mut self) -> Result<(), String> {
        let shared = Arc::clone(&self.model);
        let (model, now) = (shared.lock().unwrap(), self.fs.disk().mono());
        let Some((_, served)) = &self.served else { return Ok(()) };
        self.overlaps.rests(
            &self.driver,
            &model,
            &Shown::of(served),
            self.longest_pause(),
            (self.last_publication, now),
        )
    }

    fn longest_pause(&self) -> Duration {
        self.policy.backoff_max.min(self.policy.interval)
    }

    /// Invariant 5: how long after the last call its content must be served.
    fn bound(&self, model: &Model) -> Duration {
        let mut bound = self.policy.interval + self.policy.settle + self.policy.settle_loss;
        let is_watching = *self.driver.machine().arming() == Armed::Watching;
        if self.plan.strategy == Strategy::Notify && (self.watches.refused() == 0 || is_watching) {
            // Events may be lost; and what went wrong may have been mended without one. Without watches it polls.
            bound += self.policy.safety;
        }
        if (model.unstamped || model.clock_was_set) && self.plan.strategy != Strategy::Sha256 {
            bound += Duration::from_secs(300);
        }
        if self.plan.layout == Layout::Volume {
            // Files behind an unmoved link are looked at every 10 s.
            bound += Duration::from_secs(10);
        }
        if self.withdrawal(model).is_some() {
            bound += WITHDRAWN_WITHIN;
        }
        bound
    }

    /// The anchors that stand on disk, if they are some of those that are served and everything else is broken.
    fn withdrawal(&self, model: &Model) -> Option<Anchors> {
        let last = model.visible.last()?;
        let served = anchors(&self.served.as_ref()?.1);
        let left = last.anchors.clone().filter(|_| last.tag.is_none())?;
        (left.is_subset(&served) && left != served).then_some(left)
    }

    fn told(&mut self, told: &Told) -> Result<(), String> {
        let shared = Arc::clone(&self.model);
        let mut model = shared.lock().unwrap();
        let now = self.fs.disk().mono();
        let published = match told {
            Told::Published(published) => published,
            Told::Degraded(why) => {
                self.was_told_of_watches |= why.contains("no watch left");
                return Ok(());
            }
            told => {
                model.lines.push(format!("{:>9.3} s  reader  {told:?}", now.as_secs_f64()));
                match told {
                    Told::Stale(_) => {
                        self.stale_since = Some(now);
                        self.overlaps.counts.stale += 1;
                    }
                    Told::Concluded { ticket, result } => {
                        let shown = self.served.as_ref().map(|(number, served)| (*number, Shown::of(served)));
                        let served = shown.as_ref().map(|(number, shown)| (*number, shown));
                        let result = result.as_ref().map(|number| *number).map_err(Error::to_string);
                        let result = result.as_ref().map(|number| *number).map_err(String::as_str);
                        return self.overlaps.concluded(&model, served, (*ticket, result), now);
                    }
                    _ => {}
                }
                return Ok(());
            }
        };
        let (shown, before) =
            (Shown::of(&published.material), self.served.as_ref().map(|(_, served)| Shown::of(served)));
        let before = before.as_ref();
        let degraded = if published.degraded.is_some() { " of a withdrawal alone" } else { "" };
        let line = format!("{:>9.3} s  reader  publishes {}{degraded}", now.as_secs_f64(), published.number);
        model.lines.push(line);
        let number = self.served.as_ref().map_or(1, |(number, _)| number + 1);
        if published.number != number {
            return Err(format!("1: number {} instead of {number}", published.number));
        }
        let tag_of = tag(&published.material);
        let is_back = self.stale_since.take();
        if is_back.is_none() && self.served.as_ref().is_some_and(|(_, served)| tag(served) == tag_of) {
            return Err("4: published what is served".to_owned());
        }
        if published.material.certificates().next().is_none() {
            return Err("3: published nothing".to_owned());
        }
        let result = if published.degraded.is_some() {
            self.degraded += 1;
            self.degraded(&model, published, (&shown, before), now)
        } else {
            self.whole(&model, (&shown, before), is_back, now)
        };
        let times = (self.last_publication, now);
        let result =
            result.and(self.overlaps.published(&model, &shown, before, published.degraded.is_some(), times));
        self.served = Some((published.number, Arc::clone(&published.material)));
        self.last_publication = now;
        result
    }

    /// Invariant 6.
    fn whole(
        &self,
        model: &Model,
        (shown, before): (&Shown, Option<&Shown>),
        stale_since: Option<Duration>,
        now: Duration,
    ) -> Result<(), String> {
        let single = self.plan.layout == Layout::Trust && self.plan.strategy == Strategy::Notify;
        let need = if single { self.policy.settle_closed } else { self.policy.settle };
        let since = match stale_since {
            // Nothing is served again but what was read since, or was being read when it was given up.
            Some(_) => self.last_publication,
            None => self.overlaps.basis(shown, before, self.last_publication),
        };
        let is_first = self.served.is_none();
        let is_this = |visible: &&Visible| visible.to >= since && self.overlaps.shows(visible, shown, before);
        let those = || model.visible.iter().filter(is_this);
        // From the first to the last time it could be seen: equal content that is written again and again is taken as
        // standing still in the end (five settle times).
        let from = those().map(|visible| visible.from).min().unwrap_or(now);
        let to = those().map(|visible| visible.to).max().unwrap_or(from).min(now);
        // A clock that is set back to the moment of the old stamps makes the new ones equal to them, in the middle of a read, too.
        let is_fooled = is_first && model.clock_was_set && self.plan.strategy != Strategy::Sha256;
        let is_allowed = is_fooled
            || those().any(|visible| visible.is_meant || is_first && model.clock_was_set)
            || to.saturating_sub(from) >= need;
        if is_allowed {
            Ok(())
        } else {
            Err("6: published what no writer meant, and what did not stand".to_owned())
        }
    }

    /// Invariant 12: the anchors stand on disk and are fewer than before, the identity is the last good one, and
    /// something is broken.
    fn degraded(
        &self,
        model: &Model,
        published: &Publication,
        (shown, was_shown): (&Shown, Option<&Shown>),
        now: Duration,
    ) -> Result<(), String> {
        let Some((_, before)) = &self.served else {
            return Err("12: the first load is one of a part".to_owned());
        };
        let chain = |material: &Material| {
            material
                .identity()
                .map(|identity| identity.chain().iter().map(|c| c.fingerprint()).collect::<Vec<_>>())
        };
        if chain(&published.material) != chain(before) {
            return Err("12: a withdrawal with another identity than the last good one".to_owned());
        }
        let (left, served) = (anchors(&published.material), anchors(before));
        if left.is_empty() || left == served || !left.is_subset(&served) {
            return Err("12: published alone what is not only a withdrawal".to_owned());
        }
        let since = self.overlaps.basis(shown, was_shown, self.last_publication);
        let has_overlap = !self.overlaps.length().is_zero();
        let those = || {
            // Anchors that were withdrawn one after the other do not go at one moment.
            let is_left =
                |anchors: &Anchors| *anchors == left || has_overlap && !anchors.is_superset(&served);
            model.visible.iter().filter(move |seen| seen.to >= since && seen.trust().is_some_and(is_left))
        };
        let from = those().map(|visible| visible.from).min().unwrap_or(now);
        let to = those().map(|visible| visible.to).max().unwrap_or(from).min(now);
        // The end of an overlap needs nothing but that the source was without it once, and whole.
        let was_meant = has_overlap && those().any(|seen| seen.is_meant);
        let was_whole = has_overlap && those().any(|seen| seen.tag.is_some());
        let need = if was_whole { self.policy.settle } else { self.policy.settle_loss };
        if to.saturating_sub(from) < need && !was_meant {
            return Err("12: a withdrawal that did not stand".to_owned());
        }
        let is_broken = model.visible.iter().any(|visible| visible.to >= since && visible.tag.is_none());
        if is_broken || model.was_broken || self.plan.reader.unusable.is_some() {
            Ok(())
        } else {
            Err("12: a withdrawal alone, although nothing was broken".to_owned())
        }
    }

    fn end(&self) -> Result<(), String> {
        self.overlaps.end()?;
        let model = self.model.lock().unwrap();
        let last = model.visible.last().unwrap();
        let served = self.served.as_ref().map(|(number, material)| (*number, tag(material)));
        let current = self.driver.machine().current().map(|(number, material)| (number, tag(material)));
        if current != served {
            return Err("2: what is served is not what was published last".to_owned());
        }
        if self.plan.strategy == Strategy::Notify && self.watches.refused() > 0 && !self.was_told_of_watches {
            return Err("5: watches ran out, and nobody was told".to_owned());
        }
        let after = (self.fs.disk().mono() - model.last_call).as_secs_f64();
        match last.tag {
            Some(_) if self.stale_since.is_some() => Err(format!(
                "5: {after:.3} s after the last call nothing is served; {:?}",
                self.driver.machine()
            )),
            Some(_) if served.map(|(_, tag)| tag) != last.tag => Err(format!(
                "5: {after:.3} s after the last call its content is not served; {:?}",
                self.driver.machine()
            )),
            None if self.driver.machine().trouble().is_none() => {
                Err("5: broken content is not told".to_owned())
            }
            // While nothing is served there is nothing to withdraw.
            None if self.stale_since.is_none() && self.withdrawal(&model).is_some() => {
                Err(format!("12: {after:.3} s after the last call a withdrawal is held back"))
            }
            _ => Ok(()),
        }
    }
}

fn anchors(material: &Material) -> Anchors {
    material.trust().into_iter().flatten().map(|anchor| anchor.der().to_vec()).collect()
}
