//! The director of one step of the reader: before each access it lets the writer make some of its next calls, as a list
//! of choices says, and notes which choices there were.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::history::What;
use super::node::Node;
use super::{Explorer, Memo};
use crate::case::Case;
use crate::disk::{Access, Disk, Key, RawEvent, Seen};
use crate::fs::{Director, SimFs};
use crate::subject::{Reading, hash};
use crate::watches::{Due, Fate, Post};

/// What there is to know of some accesses, so that they can be had again.
#[derive(Clone)]
pub(super) struct Moment {
    disk: Arc<Disk>,
    due: Vec<Due>,
    /// How many accesses in a row find the disk like this. The events come with the first.
    count: usize,
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
    let key = hash(&(node.hash_of_writer(), deadline));
    if let Some(known) = explorer.memo.0.get(&key) {
        return Arc::clone(known);
    }
    let mut outings: Vec<Outing> = Vec::new();
    let mut known = HashSet::new();
    let foresight = Foresight::default();
    let mut prefix = Some(Vec::new());
    while let Some(choices) = prefix {
        let fs = SimFs::new(Arc::clone(&node.disk));
        let (scout, shared) = Scout::new(explorer, node, deadline, choices, None, &foresight);
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

/// The states after each number of calls, and the events of these calls.
type Futures = Vec<(Node, Vec<RawEvent>)>;

/// What the writer's calls lead to, from each state that is met in one step of the reader. Kept from one list of choices to the
/// next.
#[derive(Clone, Default)]
pub(super) struct Foresight(Arc<Mutex<HashMap<u64, Arc<Future>>>>);

struct Future {
    calls: Futures,
    /// What an access gives before the calls, and after each number of them.
    answers: Mutex<HashMap<Access, Arc<Vec<Seen>>>>,
}

pub(super) struct Shared {
    case: Arc<Case>,
    paths: Vec<PathBuf>,
    node: Node,
    foresight: Foresight,
    /// What the calls lead to from `node`, as long as this is its disk.
    future: Option<(Arc<Disk>, Arc<Future>)>,
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
    /// Any event at all has the reader look at everything.
    overflows: bool,
    /// Every number of calls is a choice of its own before a watch is set, because events go with them.
    all: bool,
    /// Names whose events count; `None` is all.
    names: Option<HashSet<OsString>>,
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
        foresight: &Foresight,
    ) -> (Self, Arc<Mutex<Shared>>) {
        let mut node = node.clone();
        node.line = None;
        let takes_events = explorer.subject.takes_events();
        let preemptions_left = if explorer.is_too_early(&node) { 0 } else { explorer.bounds.preemptions };
        let shared = Shared {
            paths: explorer.case.paths(),
            case: Arc::clone(&explorer.case),
            node,
            foresight: foresight.clone(),
            future: None,
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
            overflows: explorer.bounds.fate == Fate::Overflow,
            names: (takes_events && explorer.bounds.reduces).then(|| explorer.names.clone()),
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
        match shared.trace.last_mut() {
            Some(last) if due.is_empty() && Arc::ptr_eq(&last.disk, disk) => last.count += 1,
            _ => shared.trace.push(Moment { disk: Arc::clone(disk), due, count: 1 }),
        }
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
        let future = self.foresee();
        let answers = future.answers(&self.node, access);
        let all = self.all && matches!(access, Access::Watch(_));
        let options = if all { self.before_watch(&future, &answers) } else { first_of_each(&answers) };
        let calls = options[self.choose(options.len())];
        if calls == 0 {
            return Vec::new();
        }
        self.preemptions_left -= 1;
        let mut events = Vec::new();
        for (_, more) in &future.calls[..calls] {
            self.node.note(What::Called(self.node.done, Some(access.clone())));
            self.node.done += 1;
            events.extend(more.iter().cloned());
        }
        self.node.follow(&future.calls[calls - 1].0);
        let Some(post) = &self.post else {
            self.events.extend(events);
            return Vec::new();
        };
        let (due, _) = post.recipients(&events);
        if !self.delivers {
            self.due.extend(due);
            return Vec::new();
        }
        post.deliver(&due);
        let heard: Vec<_> = due.iter().filter(|due| self.is_heard(due.name())).collect();
        if !heard.is_empty() {
            heard.hash(&mut self.hasher);
        }
        due
    }

    fn is_heard(&self, name: Option<&std::ffi::OsStr>) -> bool {
        match (&self.names, name) {
            (Some(names), Some(name)) => names.contains(name),
            _ => true,
        }
    }

    /// The numbers of calls that make a difference before a watch is set: by what it is set on, by the events for those that stand
    /// already, and by those that this one comes too late for.
    fn before_watch(&self, future: &Future, answers: &[Seen]) -> Vec<usize> {
        let Some(post) = self.post.as_ref().filter(|_| self.names.is_some()) else {
            return (0..answers.len()).collect();
        };
        let to_be_watched: Vec<Key> = answers
            .iter()
            .filter_map(|seen| if let Seen::Dir(key) = seen { Some(*key) } else { None })
            .collect();
        let counts = |event: &RawEvent| {
            (to_be_watched.contains(&event.dir) || post.watches(event.dir))
                && (self.overflows || self.is_heard(event.name.as_deref()))
        };
        let mut options = vec![0];
        for calls in 1..answers.len() {
            let is_new = future.calls[calls - 1].1.iter().any(counts);
            if is_new || !options.iter().any(|before| answers[*before] == answers[calls]) {
                options.push(calls);
            }
        }
        options
    }

    /// What the writer's calls lead to from here.
    fn foresee(&mut self) -> Arc<Future> {
        if let Some((_, future)) = self.future.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &self.node.disk)) {
            return Arc::clone(future);
        }
        let mut known = self.foresight.0.lock().unwrap_or_else(PoisonError::into_inner);
        let future = known.entry(self.node.hash_of_writer()).or_insert_with(|| {
            let mut node = self.node.clone();
            let mut calls = Vec::new();
            while node.done < self.case.steps.len() {
                let (events, _) = node.call(&self.case, &self.paths);
                calls.push((node.clone(), events));
            }
            Arc::new(Future { calls, answers: Mutex::default() })
        });
        self.future = Some((Arc::clone(&self.node.disk), Arc::clone(future)));
        Arc::clone(future)
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

impl Future {
    /// What the access gives before the calls, and after each number of them.
    fn answers(&self, node: &Node, access: &Access) -> Arc<Vec<Seen>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = answers.get(access) {
            return Arc::clone(known);
        }
        let disks = std::iter::once(&node.disk).chain(self.calls.iter().map(|(node, _)| &node.disk));
        let seen = Arc::new(disks.map(|disk| disk.peek(access)).collect::<Vec<_>>());
        answers.insert(access.clone(), Arc::clone(&seen));
        seen
    }
}

/// The smallest number of calls for each answer.
fn first_of_each(answers: &[Seen]) -> Vec<usize> {
    let mut options: Vec<usize> = Vec::new();
    for (calls, seen) in answers.iter().enumerate() {
        if !options.iter().any(|known| answers[*known] == *seen) {
            options.push(calls);
        }
    }
    options
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
        let moment = self.trace.front_mut().expect("a reader makes the same accesses again");
        *disk = Arc::clone(&moment.disk);
        self.post.deliver(&moment.due);
        moment.due.clear();
        moment.count -= 1;
        if moment.count == 0 {
            self.trace.pop_front();
        }
    }
}
