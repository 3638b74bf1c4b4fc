//! One state of an exploration, and the moves from it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::history::{Line, What};
use super::rules::Broken;
use super::scout::{self, Outing};
use super::{Explorer, stage};
use crate::case::Case;
use crate::disk::{Blob, Disk, RawEvent};
use crate::fs::SimFs;
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

/// A reader, and what it touches.
pub(super) struct Reader {
    live: Box<dyn Live>,
    fs: SimFs,
    post: Post,
    /// What it published and nobody has looked at.
    news: Vec<Published>,
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
        let arrival = (!self.queue.is_empty()).then_some(self.queue_at);
        hash(&(self.hash_of_writer(), &self.queue, arrival, self.chain_hash))
    }

    /// Equal for states from which a writer, and a read of the whole source, go on in the same way.
    pub(super) fn hash_of_writer(&self) -> u64 {
        hash(&(
            (&self.disk, self.done, self.moved, self.last_call, self.unstamped),
            (self.seen, self.slow_left),
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

    /// The writer makes its next call. Gives its events, and whether it changed what can be seen.
    pub(super) fn call(&mut self, case: &Case, paths: &[PathBuf]) -> (Vec<RawEvent>, bool) {
        let step = &case.steps[self.done];
        let disk = Arc::make_mut(&mut self.disk);
        let events = disk.call(&step.call);
        let events = events.unwrap_or_else(|error| panic!("{}: {:?}: error {error}", case.name, step.call));
        self.last_call = disk.mono();
        let visible = disk.visible(paths);
        let is_visible = visible != self.visible;
        if is_visible {
            self.moved = Some(disk.mono());
            self.unstamped = !disk.stamps_moved();
            self.versions = case.versions_of(&visible);
            self.seen |= self.versions;
            self.visible = visible;
        }
        self.moved.get_or_insert(disk.mono());
        self.done += 1;
        (events, is_visible)
    }

    fn record(&mut self, record: Record, seen: u64) {
        self.chain_hash = hash(&(self.chain_hash, self.now(), seen));
        self.record_unheard(record);
    }

    /// The same for what makes no difference to the reader.
    fn record_unheard(&mut self, record: Record) {
        self.chain = Some(Arc::new(Chain { before: self.chain.take(), record }));
    }

    /// A reader that has seen all that was recorded.
    fn revive(&self, explorer: &Explorer<'_>) -> Reader {
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
        let mut news = live.published();
        news.drain(..self.published.len());
        Reader { live, fs, post, news }
    }
}

impl Explorer<'_> {
    pub(super) fn expand(&mut self, mut node: Node, reader: Option<Reader>) {
        let mut reader = reader.unwrap_or_else(|| node.revive(self));
        reader.fs.set_disk(Arc::clone(&node.disk));
        let mut news = std::mem::take(&mut reader.news);
        news.extend(reader.live.published());
        for published in news {
            if let Some(broken) = self.rules.publication(&node, published) {
                self.breaks(&node, broken);
                return;
            }
            node.note(What::Published(published.number));
            node.published.push(published);
            node.seen = node.versions;
        }
        if !node.queue.is_empty() && node.now() >= node.queue_at {
            let due = std::mem::take(&mut node.queue);
            reader.post.deliver(&due);
            node.record(Record::Deliver { disk: Arc::clone(&node.disk), due: due.clone() }, hash(&due));
            node.note(What::Delivered(due.len()));
        }
        match reader.live.next() {
            Next::Wait(until) => self.rest(node, until, reader),
            Next::Judge => {
                node.record(Record::Judge { disk: Arc::clone(&node.disk) }, 0);
                reader.live.judge();
                self.add(node, Some(reader));
            }
            Next::Read => self.read(&node, reader),
            Next::Look => {
                if self.subject.takes_events()
                    && node.done < self.case.steps.len()
                    && !self.is_too_early(&node)
                {
                    // Events may come between what woke the reader and its look. What it would do next is asked anew then.
                    let mut before = node.clone();
                    self.call(&mut before, &reader.post);
                    self.add(before, None);
                }
                self.look(&node, reader);
            }
        }
    }

    fn rest(&mut self, mut node: Node, until: Option<Duration>, reader: Reader) {
        let steps = self.case.steps.len();
        if node.done == steps && node.queue.is_empty() {
            let end = self.rules.end(&node);
            if until.is_none_or(|until| until > end) {
                match self.rules.liveness(&node) {
                    Some(broken) => self.breaks(&node, broken),
                    None => {
                        self.report.ends += 1;
                        let tags = node.published.iter().map(|published| published.tag).collect();
                        self.report.outcomes.insert(tags);
                    }
                }
                return;
            }
        }
        let deadline = self.deadline(&node);
        if node.done < steps && !self.is_too_early(&node) {
            let is_forced = deadline.is_some_and(|deadline| deadline <= node.now());
            if is_forced {
                let due = self.call(&mut node, &reader.post);
                reader.post.deliver(&due);
                self.add(node, Some(reader));
                return;
            }
            if self.is_worth_a_call(&node, until) {
                let mut called = node.clone();
                self.call(&mut called, &reader.post);
                self.add(called, None);
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
        let mut reader = Some(reader);
        for moment in moments.into_iter().filter(|moment| *moment > node.now()) {
            let mut later = node.clone();
            Arc::make_mut(&mut later.disk).wait_until(moment);
            self.add(later, reader.take());
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

    /// The writer makes its next call, while the reader does nothing; and those after it, up to one that the reader can hear of or
    /// see. Gives the events that were handed over.
    fn call(&mut self, node: &mut Node, post: &Post) -> Vec<Due> {
        let paths = self.case.paths();
        let mut handed_over = Vec::new();
        loop {
            let call = &self.case.steps[node.done].call;
            let is_told_of = call.is_told_of();
            node.note(What::Called(node.done, None));
            let (events, is_visible) = node.call(&self.case, &paths);
            let is_heard = self.send(node, &events, post, &mut handed_over);
            let is_silent = self.bounds.reduces && is_told_of && !is_visible && !is_heard;
            if !is_silent || !self.subject.takes_events() || node.done == self.case.steps.len() {
                return handed_over;
            }
            if !self.case.steps[node.done].call.is_told_of() {
                return handed_over;
            }
        }
    }

    /// Whether an event is of a name that the reader goes by.
    pub(super) fn is_heard(&self, name: Option<&OsStr>) -> bool {
        !self.bounds.reduces || name.is_none_or(|name| self.names.contains(name))
    }

    /// Events are handed over, or put on their way. Gives whether they can make a difference to the reader.
    fn send(&self, node: &mut Node, events: &[RawEvent], post: &Post, handed_over: &mut Vec<Due>) -> bool {
        if !self.subject.takes_events() || events.is_empty() {
            return false;
        }
        let (due, _) = post.recipients(events);
        if due.is_empty() {
            return false;
        }
        if self.bounds.fate != Fate::Prompt {
            return self.send_due(node, due, post);
        }
        let heard: Vec<_> = due.iter().filter(|due| self.is_heard(due.name())).collect();
        let record = Record::Deliver { disk: Arc::clone(&node.disk), due: due.clone() };
        if heard.is_empty() {
            node.record_unheard(record);
        } else {
            node.record(record, hash(&heard));
        }
        handed_over.extend(due.iter().cloned());
        !heard.is_empty()
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

    fn read(&mut self, node: &Node, reader: Reader) {
        let deadline = self.deadline(node);
        let outings = scout::reads(self, node, deadline);
        let mut reader = Some(reader);
        for (number, outing) in outings.iter().enumerate() {
            let mut next = node.clone();
            outing.apply(&mut next);
            let post = match &reader {
                Some(reader) => reader.post.clone(),
                None => unreachable!("the last outing takes it"),
            };
            if let Some(reading) = &outing.reading {
                let record =
                    Record::Read { began: node.now(), end: Arc::clone(&next.disk), reading: reading.clone() };
                next.record(record, hash(&(node.now(), reading.hash())));
                next.note(What::Read(reading.to_string()));
            }
            let mut due = Vec::new();
            self.send(&mut next, &outing.events, &post, &mut due);
            // The last of these states gets the reader.
            let mut taken = if number + 1 == outings.len() { reader.take() } else { None };
            if let (Some(reader), Some(reading)) = (&mut taken, &outing.reading) {
                reader.fs.set_disk(Arc::clone(&next.disk));
                reader.live.read(node.now(), reading);
                reader.post.deliver(&due);
            }
            self.add(next, taken);
        }
    }

    fn look(&mut self, node: &Node, reader: Reader) {
        let deadline = self.deadline(node);
        let foresight = scout::Foresight::default();
        let mut reader = Some(reader);
        let mut prefix = Some(Vec::new());
        while let Some(choices) = prefix {
            if self.report.moves >= self.bounds.moves {
                self.report.is_cut = true;
                return;
            }
            // The first takes the reader that is here. The others are led to the same state.
            let mut reader = reader.take().unwrap_or_else(|| {
                let mut reader = node.revive(self);
                let is_look = reader.live.next();
                debug_assert_eq!(is_look, Next::Look);
                reader
            });
            let post = Some(reader.post.clone());
            let (scout, shared) = scout::Scout::new(self, node, deadline, choices, post, &foresight);
            reader.fs.set_director(Some(Box::new(scout)));
            let what = reader.live.look();
            reader.fs.set_director(None);
            let outing: Outing = scout::take(&shared, reader.fs.disk(), None);
            prefix = outing.next_prefix();
            let mut next = node.clone();
            outing.apply(&mut next);
            let trace = outing.trace.clone();
            next.record(Record::Look { disk: Arc::clone(&node.disk), trace }, hash(&(what, outing.seen)));
            next.note(What::Looked);
            // Those that came at once were handed over in the middle.
            if self.bounds.fate != Fate::Prompt {
                self.send_due(&mut next, outing.due.clone(), &reader.post);
            }
            self.add(next, Some(reader));
        }
    }

    /// Events are put on their way. Gives whether any is.
    fn send_due(&self, node: &mut Node, mut due: Vec<Due>, post: &Post) -> bool {
        match self.bounds.fate {
            Fate::Lost => return false,
            // Whichever they are, the reader is told to look at everything.
            Fate::Overflow => {}
            _ => due.retain(|due| self.is_heard(due.name())),
        }
        if due.is_empty() {
            return false;
        }
        if node.queue.is_empty() {
            node.queue_at = node.now() + LATE;
        }
        node.queue.extend(due);
        let queue = std::mem::take(&mut node.queue);
        node.queue = post.suffer(self.bounds.fate, queue);
        true
    }
}
