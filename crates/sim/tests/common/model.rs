//! The writers of a random history at work, and the model that the reader is held against: what could be seen when, and
//! what of it somebody meant.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certsource::Material;
use certsource::pem::{self, Content};
use certsource_sim::case::Case;
use certsource_sim::disk::{Blob, Call, Disk, RawEvent};
use certsource_sim::engine::tag;
use certsource_sim::fs::SimFs;
use certsource_sim::subject::Spec;
use certsource_sim::watches::{Due, Fate, Post};

use super::acts::{Delay, Layout, Meant, Plan, Script, ending, refused, scripts};

/// Anchors, each by its DER.
pub(crate) type Anchors = BTreeSet<Vec<u8>>;

struct Queued {
    delay: Delay,
    call: Call,
    act: usize,
    is_last: bool,
}

/// An act, and whether another was under way while it was.
struct Act {
    meant: Meant,
    is_under_way: bool,
    has_begun: bool,
    is_overlapped: bool,
}

/// What one writer has still to do.
#[derive(Default)]
struct Lane {
    calls: VecDeque<Queued>,
    /// When it made its last call.
    at: Duration,
}

/// A material as those see it who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) anchors: Anchors,
    /// The chain of the identity.
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Shown {
    pub(crate) fn of(material: &Material) -> Self {
        let anchors = material.trust().into_iter().flatten().map(|anchor| anchor.der().to_vec()).collect();
        let chain = material.identity().map_or(&[][..], |identity| identity.chain());
        Self { anchors, chain: chain.iter().map(|certificate| certificate.der().to_vec()).collect() }
    }
}

/// What could be seen for a while.
#[derive(Clone, Debug)]
pub(crate) struct Visible {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) content: Vec<Option<Blob>>,
    pub(crate) tag: Option<u64>,
    /// What a reader has of it, where it is whole.
    pub(crate) shown: Option<Arc<Shown>>,
    /// The anchors, where they are whole; whatever the other files hold.
    pub(crate) anchors: Option<Anchors>,
    pub(crate) is_meant: bool,
}

impl Visible {
    /// The anchors, where they are whole.
    pub(crate) fn trust(&self) -> Option<&Anchors> {
        self.shown.as_ref().map(|shown| &shown.anchors).or(self.anchors.as_ref())
    }
}

/// The tag of a content that is whole, and what a reader has of it.
type Whole = Option<(u64, Arc<Shown>)>;

/// The writers and the model: everything but the reader.
pub(crate) struct Model {
    spec: Spec,
    layout: Layout,
    paths: Vec<PathBuf>,
    acts: Vec<Act>,
    lanes: Vec<Lane>,
    /// What happens when all of them are done.
    ending: Option<Script>,
    initial: Vec<Option<Blob>>,
    pub(crate) visible: Vec<Visible>,
    pub(crate) post: Post,
    fate: Fate,
    pub(crate) due: Vec<Due>,
    pub(crate) due_at: Duration,
    pub(crate) lines: Vec<String>,
    pub(crate) clock_was_set: bool,
    pub(crate) was_broken: bool,
    pub(crate) last_call: Duration,
    /// Until when an access hangs, or hung.
    pub(crate) hung_until: Duration,
    pub(crate) unstamped: bool,
    tags: Vec<(Vec<Option<Blob>>, Whole)>,
    /// What a gate refuses is as good as broken.
    refused: Option<Vec<u8>>,
}

impl Model {
    pub(crate) fn new(plan: &Plan, case: &Case, disk: &Arc<Disk>, post: Post) -> Self {
        let paths = case.paths();
        let initial = disk.visible(&paths);
        let mut model = Self {
            spec: case.spec.clone(),
            layout: plan.layout,
            acts: Vec::new(),
            lanes: Vec::new(),
            ending: Some(ending()),
            initial: initial.clone(),
            visible: Vec::new(),
            post,
            fate: plan.fate,
            due: Vec::new(),
            due_at: Duration::ZERO,
            lines: Vec::new(),
            clock_was_set: false,
            was_broken: false,
            last_call: Duration::ZERO,
            hung_until: Duration::ZERO,
            unstamped: false,
            tags: Vec::new(),
            refused: plan.reader.refuses.then(refused),
            paths,
        };
        for script in scripts(plan, &model.paths) {
            model.add_lane(script, Duration::ZERO);
        }
        let first = model.see(initial, disk, true);
        model.visible.push(Visible { from: Duration::ZERO, ..first });
        model
    }

    fn add_lane(&mut self, scripts: impl IntoIterator<Item = Script>, at: Duration) {
        let mut lane = Lane { calls: VecDeque::new(), at };
        for Script { calls, meant } in scripts {
            let act = self.acts.len();
            self.acts.push(Act { meant, is_under_way: false, has_begun: false, is_overlapped: false });
            let count = calls.len();
            lane.calls.extend(calls.into_iter().enumerate().map(|(number, (delay, call))| Queued {
                delay,
                call,
                act,
                is_last: number + 1 == count,
            }));
        }
        self.lanes.push(lane);
    }

    /// How many acts were under way while another was.
    pub(crate) fn overlapped(&self) -> usize {
        self.acts.iter().filter(|act| act.is_overlapped).count()
    }

    /// When the next call is made if the reader rests; `None` when all is done.
    pub(crate) fn next_call(&mut self, now: Duration) -> Option<Duration> {
        if self.lanes.iter().all(|lane| lane.calls.is_empty()) {
            let ending = self.ending.take()?;
            self.add_lane([ending], now);
        }
        self.lanes.iter().filter_map(Lane::due_at_rest).min()
    }

    /// Makes the calls of all writers whose moment has come, while the reader rests.
    pub(crate) fn rest(&mut self, disk: &mut Arc<Disk>) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].due_at_rest().is_some_and(|at| at <= disk.mono()) {
                self.call(lane, disk);
            }
        }
    }

    /// The reader makes an access: counts it, and makes the calls whose moment has come.
    pub(crate) fn before_access(&mut self, disk: &mut Arc<Disk>) {
        for lane in 0..self.lanes.len() {
            loop {
                let Lane { calls, at } = &mut self.lanes[lane];
                if !calls.front_mut().is_some_and(|queued| queued.delay.is_over(*at, disk.mono())) {
                    break;
                }
                self.call(lane, disk);
            }
        }
    }

    fn call(&mut self, lane: usize, disk: &mut Arc<Disk>) {
        let now = disk.mono();
        self.lanes[lane].at = now;
        let Some(queued) = self.lanes[lane].calls.pop_front() else { return };
        self.last_call = now;
        self.clock_was_set |= matches!(queued.call, Call::SetClock(_));
        self.was_broken |= matches!(queued.call, Call::Break(..));
        self.begin(queued.act);
        let result = Arc::make_mut(disk).call(&queued.call);
        let failed = result.as_ref().err().map_or_else(String::new, |error| format!("   fails: {error}"));
        let call = &queued.call;
        self.lines.push(format!("{:>9.3} s  writer {lane}  {call:?}{failed}", now.as_secs_f64()));
        // A writer whose file another took away gives up that call; the next may work.
        let events: Vec<RawEvent> = result.unwrap_or_default();
        let content = disk.visible(&self.paths);
        let is_meant = self.is_meant(queued.act, &content, disk);
        if queued.is_last {
            self.acts[queued.act].is_under_way = false;
        }
        let last = self.visible.last_mut().unwrap();
        if last.content == content {
            last.is_meant |= is_meant;
        } else {
            last.to = now;
            self.unstamped = !disk.stamps_moved();
            let seen = self.see(content, disk, is_meant);
            self.visible.push(seen);
        }
        self.send(events, now);
    }

    fn begin(&mut self, act: usize) {
        if self.acts[act].has_begun {
            return;
        }
        (self.acts[act].has_begun, self.acts[act].is_under_way) = (true, true);
        let writes = |act: &&mut Act| act.is_under_way && !act.meant.is_empty();
        if self.acts.iter_mut().filter(writes).count() > 1 {
            self.acts.iter_mut().filter(writes).for_each(|act| act.is_overlapped = true);
        }
    }

    /// Whether what can be seen after a call of this act is what somebody meant. Of an act that is alone: what it means to
    /// leave behind. Where several were under way, each file is as one of them meant it; a directory is swapped as a whole.
    /// A key that fits a certificate which an earlier act left completes what that act began, whatever the act that brings
    /// the key goes on to do.
    fn is_meant(&self, act: usize, content: &[Option<Blob>], disk: &Disk) -> bool {
        let holds = |meant: &Meant| meant.iter().all(|(path, blob)| disk.content(path) == *blob);
        if !self.acts[act].is_overlapped {
            return holds(&self.acts[act].meant) || self.completes(act, content);
        }
        let mut begun = self.acts.iter().filter(|act| act.has_begun && !act.meant.is_empty());
        if self.layout == Layout::Volume {
            return content == self.initial || begun.any(|act| holds(&act.meant));
        }
        self.paths.iter().enumerate().all(|(number, path)| {
            let is_this = |blob: &Option<Blob>| *blob == content[number];
            is_this(&self.initial[number])
                || begun.clone().any(|act| act.meant.get(path).is_some_and(is_this))
        })
    }

    /// Whether this act brought the key to a certificate of an earlier act that wrote no other key. If it does not fit,
    /// nothing is published, so that need not be asked here.
    fn completes(&self, act: usize, content: &[Option<Blob>]) -> bool {
        let (Layout::Pair, [certificate, key]) = (self.layout, &self.paths[..]) else { return false };
        let is_left = |before: &Act| {
            before.has_begun
                && !before.is_under_way
                && before.meant.get(certificate) == Some(&content[0])
                && before.meant.get(key).is_none_or(|key| *key == content[1])
        };
        self.acts[act].meant.get(key) == Some(&content[1]) && self.acts.iter().any(is_left)
    }

    /// What can be seen from now on.
    fn see(&mut self, content: Vec<Option<Blob>>, disk: &Arc<Disk>, is_meant: bool) -> Visible {
        let (tag, shown) = self.whole(&content, disk).unzip();
        let anchors = self.anchors(&content);
        Visible { from: disk.mono(), to: Duration::MAX, content, tag, shown, anchors, is_meant }
    }

    fn whole(&mut self, content: &[Option<Blob>], disk: &Arc<Disk>) -> Whole {
        if let Some((_, whole)) = self.tags.iter().find(|(known, _)| known == content) {
            return whole.clone();
        }
        let mut disk = (**disk).clone();
        disk.mend_all();
        let material = self.spec.files(&SimFs::new(Arc::new(disk))).load().ok();
        let whole = material.map(|material| (tag(&material), Arc::new(Shown::of(&material))));
        let whole =
            whole.filter(|(_, shown)| shown.chain.is_empty() || shown.chain.first() != self.refused.as_ref());
        self.tags.push((content.to_vec(), whole.clone()));
        whole
    }

    /// Only where there is an identity beside them: there they may go alone.
    fn anchors(&self, content: &[Option<Blob>]) -> Option<Anchors> {
        let (Spec::Full(..), Some(Some(bundle))) = (&self.spec, content.first()) else { return None };
        let sections: Result<Vec<_>, _> = pem::sections(bundle.bytes()).collect();
        let anchor = |section: pem::Section| match section.content {
            Content::Certificate(der) => Some(der.to_vec()),
            _ => None,
        };
        let anchors: Anchors = sections.ok()?.into_iter().filter_map(anchor).collect();
        (!anchors.is_empty()).then_some(anchors)
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

impl Lane {
    fn due_at_rest(&self) -> Option<Duration> {
        self.calls.front().map(|queued| queued.delay.over_at_rest(self.at))
    }
}
