//! One state of an exploration, and the moves from it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::history::{Line, What};
use super::rules::Broken;
use super::scout::{self, Outing};
use super::{Explorer, stage};
use crate::case::Case;
use crate::disk::{Blob, Disk, RawEvent};
use crate::subject::{Live, Next, Published, Reading, hash};
use crate::watches::{Due, Fate, Post, SimWatches};

/// How late events come that do not come at once.
const LATE: Duration = Duration::from_millis(50);

/// What led a reader to its state.
pub(super) enum Record {
    /// It looked, on a disk that was as these while it did.
    Look { disk: Arc<Disk>, trace: Vec<scout::Moment> },
    /// It read, and this came of it.
    Read { began: Duration, end: Arc<Disk>, reading: Reading },
    /// It decided.
    Judge { disk: Arc<Disk> },
    /// Events arrived.
    Deliver { disk: Arc<Disk>, due: Vec<Due> },
}

pub(super) struct Chain {
    before: Option<Arc<Chain>>,
    record: Record,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) disk: Arc<Disk>,
    /// How many of the writer's calls were made.
    pub(super) done: usize,
    /// When something that can be seen last changed; when the writer began, if nothing has yet.
    pub(super) moved: Option<Duration>,
    /// When the writer's last call was made.
    pub(super) last_call: Duration,
    /// When the last change was made that moved no time stamp.
    pub(super) unstamped: bool,
    /// What can be seen through the paths, and which meant versions that is.
    visible: Vec<Option<Blob>>,
    versions: u64,
    /// Which meant versions could be seen since the last publication.
    pub(super) seen: u64,
    pub(super) slow_left: bool,
    pub(super) queue: Vec<Due>,
    pub(super) queue_at: Duration,
    chain: Option<Arc<Chain>>,
    chain_hash: u64,
    pub(super) published: Vec<Published>,
    pub(super) line: Option<Arc<Line>>,
}

impl Node {
    pub(super) fn first(disk: Arc<Disk>, case: &Case) -> Self {
        let visible = disk.visible(&case.paths());
        let versions = case.versions_of(&visible);
        Self {
            visible,
            versions,
            disk,
            done: 0,
            moved: None,
            last_call: Duration::ZERO,
            unstamped: false,
            seen: versions,
            slow_left: true,
            queue: Vec::new(),
            queue_at: Duration::ZERO,
            chain: None,
            chain_hash: 0,
            published: Vec::new(),
            line: None,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        hash(&(
            (&self.disk, self.done, self.moved, self.last_call, self.unstamped),
            (self.seen, self.slow_left, &self.queue, self.queue_at, self.chain_hash),
        ))
    }

    pub(super) fn now(&self) -> Duration {
        self.disk.mono()
    }

    /// Takes over what the writer did in `end`.
    pub(super) fn follow(&mut self, end: &Self) {
        self.disk = Arc::clone(&end.disk);
        (self.done, self.moved, self.last_call) = (end.done, end.moved, end.last_call);
        (self.unstamped, self.seen, self.slow_left) = (end.unstamped, end.seen, end.slow_left);
        (self.visible, self.versions) = (end.visible.clone(), end.versions);
    }

    pub(super) fn note(&mut self, what: What) {
        self.line = Some(Arc::new(Line { before: self.line.take(), at: self.now(), what }));
    }

    /// The writer makes its next call.
    pub(super) fn call(&mut self, case: &Case, paths: &[PathBuf]) -> Vec<RawEvent> {
        let step = &case.steps[self.done];
        let disk = Arc::make_mut(&mut self.disk);
        let events = disk.call(&step.call);
        let events = events.unwrap_or_else(|error| panic!("{}: {:?}: error {error}", case.name, step.call));
        self.last_call = disk.mono();
        let visible = disk.visible(paths);
        if visible != self.visible {
            self.moved = Some(disk.mono());
            self.unstamped = !disk.stamps_moved();
            self.versions = case.versions_of(&visible);
            self.seen |= self.versions;
            self.visible = visible;
        }
        self.moved.get_or_insert(disk.mono());
        self.done += 1;
        events
    }

    fn record(&mut self, record: Record, seen: u64) {
        self.chain_hash = hash(&(self.chain_hash, self.now(), seen));
        self.chain = Some(Arc::new(Chain { before: self.chain.take(), record }));
    }

    /// A reader that has seen all that was recorded.
    fn revive(&self, explorer: &Explorer<'_>) -> (Box<dyn Live>, crate::fs::SimFs, Post) {
        let mut records = Vec::new();
        let mut at = self.chain.as_ref();
        while let Some(chain) = at {
            records.push(&chain.record);
            at = chain.before.as_ref();
        }
        let fs = stage(&self.disk);
        let watches = Arc::new(SimWatches::new(fs.clone(), explorer.bounds.most_watches));
        let post = watches.post();
        let mut live = explorer.subject.start(&explorer.case.spec, &fs, watches);
        for record in records.into_iter().rev() {
            match record {
                Record::Deliver { disk, due } => {
                    fs.set_disk(Arc::clone(disk));
                    post.deliver(due);
                }
                Record::Look { disk, trace } => {
                    fs.set_disk(Arc::clone(disk));
                    assert_eq!(live.next(), Next::Look, "a reader does the same again");
                    scout::repeat(&fs, &post, trace);
                    live.look();
                    fs.set_director(None);
                }
                Record::Read { began, end, reading } => {
                    // What comes next was asked when the read began.
                    let mut disk = (**end).clone();
                    disk.set_mono(*began);
                    fs.set_disk(Arc::new(disk));
                    assert_eq!(live.next(), Next::Read, "a reader does the same again");
                    fs.set_disk(Arc::clone(end));
                    live.read(*began, reading);
                }
                Record::Judge { disk } => {
                    fs.set_disk(Arc::clone(disk));
                    assert_eq!(live.next(), Next::Judge, "a reader does the same again");
                    live.judge();
                }
            }
        }
        fs.set_disk(Arc::clone(&self.disk));
        (live, fs, post)
    }
}

impl Explorer<'_> {
    pub(super) fn expand(&mut self, mut node: Node) {
        let (mut live, fs, post) = node.revive(self);
        let all = live.published();
        for published in &all[node.published.len()..] {
            if let Some(broken) = self.rules.publication(&node, *published) {
                self.breaks(&node, broken);
                return;
            }
            node.note(What::Published(published.number));
            node.published.push(*published);
            node.seen = node.versions;
        }
        if !node.queue.is_empty() && node.now() >= node.queue_at {
            let due = std::mem::take(&mut node.queue);
            post.deliver(&due);
            node.record(Record::Deliver { disk: Arc::clone(&node.disk), due: due.clone() }, hash(&due));
            node.note(What::Delivered(due.len()));
        }
        match live.next() {
            Next::Wait(until) => self.rest(node, until, &post),
            Next::Judge => {
                node.record(Record::Judge { disk: Arc::clone(&node.disk) }, 0);
                self.add(node);
            }
            Next::Read => self.read(&node, &post),
            Next::Look => {
                if self.subject.takes_events()
                    && node.done < self.case.steps.len()
                    && !self.is_too_early(&node)
                {
                    // Events may come between what woke the reader and its look.
                    self.call(node.clone(), &post);
                }
                drop((live, fs));
                self.look(&node);
            }
        }
    }

    fn rest(&mut self, node: Node, until: Option<Duration>, post: &Post) {
        let steps = self.case.steps.len();
        if node.done == steps && node.queue.is_empty() {
            let end = self.rules.end(&node);
            if until.is_none_or(|until| until > end) {
                match self.rules.liveness(&node) {
                    Some(broken) => self.breaks(&node, broken),
                    None => self.report.ends += 1,
                }
                return;
            }
        }
        let deadline = self.deadline(&node);
        if node.done < steps && !self.is_too_early(&node) {
            let is_forced = deadline.is_some_and(|deadline| deadline <= node.now());
            if is_forced || self.is_worth_a_call(&node, until) {
                self.call(node.clone(), post);
            }
            if is_forced {
                return;
            }
        }
        let arrival = (!node.queue.is_empty()).then_some(node.queue_at);
        let Some(next) = [until, deadline, arrival].into_iter().flatten().min() else {
            self.breaks(&node, Broken::Asleep);
            return;
        };
        let mut moments = vec![next];
        if node.done == 0 {
            moments.extend(self.bounds.phases.iter().filter_map(|phase| next.checked_sub(*phase)));
        }
        for moment in moments.into_iter().filter(|moment| *moment > node.now()) {
            let mut later = node.clone();
            Arc::make_mut(&mut later.disk).wait_until(moment);
            self.add(later);
        }
    }

    /// Whether the writer has not begun and does not begin yet.
    pub(super) fn is_too_early(&self, node: &Node) -> bool {
        node.done == 0 && node.now() < self.bounds.start_after
    }

    /// Whether it makes a difference if the writer makes its next call now, while the reader rests, or at the reader's
    /// next moment. Without events the reader sees no more of it than a time stamp.
    fn is_worth_a_call(&self, node: &Node, until: Option<Duration>) -> bool {
        let tick = node.disk.traits().tick.as_nanos().max(1);
        let ticks = |at: Duration| at.as_nanos() / tick;
        self.subject.takes_events() || tick > 1 && until.is_none_or(|until| ticks(until) != ticks(node.now()))
    }

    /// The writer makes its next call, while the reader does nothing.
    fn call(&mut self, mut node: Node, post: &Post) {
        node.note(What::Called(node.done, None));
        let events = node.call(&self.case, &self.case.paths());
        self.send(&mut node, &events, post);
        self.add(node);
    }

    /// Events are handed over, or put on their way.
    fn send(&self, node: &mut Node, events: &[RawEvent], post: &Post) {
        if !self.subject.takes_events() || events.is_empty() {
            return;
        }
        let fate = self.bounds.fate;
        let due = post.address(events);
        if due.is_empty() {
            return;
        }
        if fate == Fate::Prompt {
            node.record(Record::Deliver { disk: Arc::clone(&node.disk), due: due.clone() }, hash(&due));
            return;
        }
        if node.queue.is_empty() {
            node.queue_at = node.now() + LATE;
        }
        node.queue.extend(due);
        let queue = std::mem::take(&mut node.queue);
        node.queue = post.suffer(fate, queue);
    }

    /// When the writer must have made its next call.
    fn deadline(&self, node: &Node) -> Option<Duration> {
        let step = self.case.steps.get(node.done)?;
        Some(match node.moved {
            None => self.bounds.start,
            Some(_) if step.may_linger => node.last_call + self.bounds.linger,
            Some(moved) => moved + self.bounds.stall,
        })
    }

    fn read(&mut self, node: &Node, post: &Post) {
        let deadline = self.deadline(node);
        for outing in scout::reads(self, node, deadline).iter() {
            let mut next = node.clone();
            outing.apply(&mut next);
            if let Some(reading) = &outing.reading {
                let record =
                    Record::Read { began: node.now(), end: Arc::clone(&next.disk), reading: reading.clone() };
                next.record(record, hash(&(node.now(), reading.hash())));
                next.note(What::Read(reading.to_string()));
            }
            self.send(&mut next, &outing.events, post);
            self.add(next);
        }
    }

    fn look(&mut self, node: &Node) {
        let deadline = self.deadline(node);
        let mut prefix = Some(Vec::new());
        while let Some(choices) = prefix {
            if self.report.moves >= self.bounds.moves {
                self.report.is_cut = true;
                return;
            }
            let (mut live, fs, post) = node.revive(self);
            let is_look = live.next();
            debug_assert_eq!(is_look, Next::Look);
            let (scout, shared) = scout::Scout::new(self, node, deadline, choices, Some(post.clone()));
            fs.set_director(Some(Box::new(scout)));
            let what = live.look();
            fs.set_director(None);
            let outing: Outing = scout::take(&shared, fs.disk(), None);
            prefix = outing.next_prefix();
            let mut next = node.clone();
            outing.apply(&mut next);
            let trace = outing.trace.clone();
            next.record(Record::Look { disk: Arc::clone(&node.disk), trace }, hash(&(what, outing.seen)));
            next.note(What::Looked);
            // Those that came at once were handed over in the middle.
            if self.bounds.fate != Fate::Prompt {
                self.send_due(&mut next, outing.due.clone(), &post);
            }
            self.add(next);
        }
    }

    fn send_due(&self, node: &mut Node, due: Vec<Due>, post: &Post) {
        if due.is_empty() {
            return;
        }
        if node.queue.is_empty() {
            node.queue_at = node.now() + LATE;
        }
        node.queue.extend(due);
        let queue = std::mem::take(&mut node.queue);
        node.queue = post.suffer(self.bounds.fate, queue);
    }
}
