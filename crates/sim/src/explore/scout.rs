//! The director of one step of the reader: before each access it lets the writer make some of its next calls, as a list
//! of choices says, and notes which choices there were.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::history::What;
use super::node::Node;
use super::{Explorer, Memo};
use crate::case::Case;
use crate::disk::{Access, Disk, RawEvent, Seen};
use crate::fs::{Director, SimFs};
use crate::subject::{Reading, hash};
use crate::watches::{Due, Fate, Post};

/// What there is to know of one access, so that it can be had again.
#[derive(Clone)]
pub(super) struct Moment {
    disk: Arc<Disk>,
    due: Vec<Due>,
}

/// What came of one step of the reader with one list of choices.
#[derive(Clone)]
pub(super) struct Outing {
    taken: Vec<(usize, usize)>,
    pub(super) trace: Vec<Moment>,
    pub(super) seen: u64,
    pub(super) events: Vec<RawEvent>,
    pub(super) due: Vec<Due>,
    pub(super) reading: Option<Reading>,
    end: Node,
}

impl Outing {
    /// The next list of choices, in order; `None` after the last.
    pub(super) fn next_prefix(&self) -> Option<Vec<usize>> {
        let at = self.taken.iter().rposition(|(choice, of)| choice + 1 < *of)?;
        let mut prefix: Vec<usize> = self.taken[..=at].iter().map(|(choice, _)| *choice).collect();
        prefix[at] += 1;
        Some(prefix)
    }

    /// Equal for outings that end in the same state.
    fn hash(&self) -> u64 {
        hash(&(self.end.hash(), &self.events, self.reading.as_ref().map(Reading::hash)))
    }

    /// Puts what the writer did meanwhile into a state.
    pub(super) fn apply(&self, node: &mut Node) {
        node.follow(&self.end);
        let mut lines = Vec::new();
        let mut line = self.end.line.as_ref();
        while let Some(at) = line {
            lines.push(at);
            line = at.before.as_ref();
        }
        for line in lines.into_iter().rev() {
            node.note(line.what.clone());
        }
    }
}

#[derive(Default)]
pub(super) struct ReadMemo(Memo<u64, Vec<Outing>>);

/// All that can come of a read in this state.
pub(super) fn reads(
    explorer: &mut Explorer<'_>,
    node: &Node,
    deadline: Option<Duration>,
) -> Arc<Vec<Outing>> {
    let key = hash(&(
        (&node.disk, node.done, node.moved, node.last_call, node.unstamped),
        (node.seen, node.slow_left, deadline),
    ));
    if let Some(known) = explorer.memo.0.get(&key) {
        return Arc::clone(known);
    }
    let mut outings: Vec<Outing> = Vec::new();
    let mut known = HashSet::new();
    let mut prefix = Some(Vec::new());
    while let Some(choices) = prefix {
        let fs = SimFs::new(Arc::clone(&node.disk));
        let (scout, shared) = Scout::new(explorer, node, deadline, choices, None);
        fs.set_director(Some(Box::new(scout)));
        let reading = explorer.subject.read(&explorer.case.spec, &fs);
        fs.set_director(None);
        let outing = take(&shared, fs.disk(), Some(reading));
        prefix = outing.next_prefix();
        if known.insert(outing.hash()) {
            outings.push(outing);
        }
    }
    let outings = Arc::new(outings);
    explorer.memo.0.insert(key, Arc::clone(&outings));
    outings
}

pub(super) struct Shared {
    case: Arc<Case>,
    paths: Vec<PathBuf>,
    node: Node,
    /// The states after each number of calls from `node`, and the events of these calls; for this disk.
    futures: Vec<(Node, Vec<RawEvent>)>,
    futures_of: Option<Arc<Disk>>,
    deadline: Option<Duration>,
    slow: Duration,
    preemptions_left: usize,
    choices: Vec<usize>,
    taken: Vec<(usize, usize)>,
    trace: Vec<Moment>,
    hasher: DefaultHasher,
    events: Vec<RawEvent>,
    due: Vec<Due>,
    post: Option<Post>,
    delivers: bool,
    /// Every number of calls is a choice of its own before a watch is set, because events go with them.
    all: bool,
}

/// See the head of this file.
pub(super) struct Scout(Arc<Mutex<Shared>>);

impl Scout {
    pub(super) fn new(
        explorer: &Explorer<'_>,
        node: &Node,
        deadline: Option<Duration>,
        choices: Vec<usize>,
        post: Option<Post>,
    ) -> (Self, Arc<Mutex<Shared>>) {
        let mut node = node.clone();
        node.line = None;
        let takes_events = explorer.subject.takes_events();
        let preemptions_left = if explorer.is_too_early(&node) { 0 } else { explorer.bounds.preemptions };
        let shared = Shared {
            paths: explorer.case.paths(),
            case: Arc::clone(&explorer.case),
            node,
            futures: Vec::new(),
            futures_of: None,
            deadline,
            slow: explorer.bounds.slow,
            preemptions_left,
            choices,
            taken: Vec::new(),
            trace: Vec::new(),
            hasher: DefaultHasher::new(),
            events: Vec::new(),
            due: Vec::new(),
            all: takes_events && post.is_some() && explorer.bounds.fate != Fate::Lost,
            post: post.filter(|_| takes_events),
            delivers: explorer.bounds.fate == Fate::Prompt,
        };
        let shared = Arc::new(Mutex::new(shared));
        (Self(Arc::clone(&shared)), shared)
    }
}

/// What came of the step, when it is over.
pub(super) fn take(shared: &Mutex<Shared>, end: Arc<Disk>, reading: Option<Reading>) -> Outing {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.node.disk = end;
    Outing {
        taken: std::mem::take(&mut shared.taken),
        trace: std::mem::take(&mut shared.trace),
        seen: shared.hasher.finish(),
        events: std::mem::take(&mut shared.events),
        due: std::mem::take(&mut shared.due),
        reading,
        end: shared.node.clone(),
    }
}

impl Director for Scout {
    fn before(&mut self, disk: &mut Arc<Disk>, access: &Access) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.node.disk = Arc::clone(disk);
        let due = shared.decide(access);
        *disk = Arc::clone(&shared.node.disk);
        shared.trace.push(Moment { disk: Arc::clone(disk), due });
    }

    fn after(&mut self, access: &Access, seen: &Seen) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (access, seen).hash(&mut shared.hasher);
    }
}

impl Shared {
    fn decide(&mut self, access: &Access) -> Vec<Due> {
        let is_at_work = self.node.done < self.case.steps.len();
        if !self.slow.is_zero()
            && self.node.slow_left
            && self.node.done > 0
            && is_at_work
            && self.choose(2) == 1
        {
            self.node.slow_left = false;
            let until = self.node.now() + self.slow;
            let until = self.deadline.map_or(until, |deadline| until.min(deadline)).max(self.node.now());
            Arc::make_mut(&mut self.node.disk).wait_until(until);
            self.node.note(What::Slow(access.clone()));
        }
        if !is_at_work || self.preemptions_left == 0 {
            return Vec::new();
        }
        // The state after each number of calls, and what the access would give then.
        if self.futures_of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, &self.node.disk)) {
            self.foresee();
        }
        let all = self.all && matches!(access, Access::Watch(_));
        let mut known = vec![self.node.disk.peek(access)];
        let mut options = vec![0];
        for (number, (node, _)) in self.futures.iter().enumerate() {
            let seen = node.disk.peek(access);
            if all || !known.contains(&seen) {
                known.push(seen);
                options.push(number + 1);
            }
        }
        let calls = options[self.choose(options.len())];
        if calls == 0 {
            return Vec::new();
        }
        self.preemptions_left -= 1;
        let mut events = Vec::new();
        for (_, more) in &self.futures[..calls] {
            self.node.note(What::Called(self.node.done, Some(access.clone())));
            self.node.done += 1;
            events.extend(more.iter().cloned());
        }
        let node = self.futures[calls - 1].0.clone();
        self.node.follow(&node);
        let Some(post) = &self.post else {
            self.events.extend(events);
            return Vec::new();
        };
        let due = post.address(&events);
        if !self.delivers {
            self.due.extend(due);
            return Vec::new();
        }
        post.deliver(&due);
        due.hash(&mut self.hasher);
        due
    }

    fn foresee(&mut self) {
        self.futures_of = Some(Arc::clone(&self.node.disk));
        self.futures.clear();
        let mut node = self.node.clone();
        while node.done < self.case.steps.len() {
            let events = node.call(&self.case, &self.paths);
            self.futures.push((node.clone(), events));
        }
    }

    fn choose(&mut self, of: usize) -> usize {
        if of == 1 {
            return 0;
        }
        let choice = self.choices.get(self.taken.len()).copied().unwrap_or(0);
        self.taken.push((choice, of));
        choice
    }
}

/// Lets the reader have the same answers again.
pub(super) fn repeat(fs: &SimFs, post: &Post, trace: &[Moment]) {
    let trace = trace.iter().cloned().collect();
    fs.set_director(Some(Box::new(Repeat { trace, post: post.clone() })));
}

struct Repeat {
    trace: VecDeque<Moment>,
    post: Post,
}

impl Director for Repeat {
    fn before(&mut self, disk: &mut Arc<Disk>, _: &Access) {
        let moment = self.trace.pop_front().expect("a reader makes the same accesses again");
        *disk = moment.disk;
        self.post.deliver(&moment.due);
    }
}
