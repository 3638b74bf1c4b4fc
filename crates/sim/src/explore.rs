//! The explorer: every interleaving of a writer's system calls with a reader's accesses, and of time with both.
//!
//! # What is explored
//! A state is: the disk, how far the writer is, what the reader has seen, which events are on their way, and the time.
//! From a state
//! - the reader goes on when its time has come. Before each of its accesses any number of the writer's next calls may
//!   happen (`scout`);
//! - the writer makes its next call, while the reader rests;
//! - time passes: to the reader's next moment, to the arrival of events, or until the writer's patience ends. A writer
//!   is never away between two changes that can be seen for as long as the settle time, except where what stands is
//!   not whole.
//!
//! # Reduction
//! - States that were reached before are not explored again. What the reader has seen is part of a state as the
//!   sequence of its observations, so two states are taken as equal only if the reader is in the same state.
//! - Between accesses of one moment the writer is moved as late as possible: calls before an access matter only if the
//!   access gives something else then. Of all numbers of calls that give the same answer the smallest is taken; the
//!   others can still follow it at the next access. Where events matter, each number is taken before a look and before
//!   each watch that is set.
//! - Within one look or read the writer moves at a bounded number of accesses ([`Bounds::preemptions`]), by any number
//!   of calls at each.
//! - A read of the whole source depends on the disk alone, so each is explored once for each state of the disk.
//! - Calls that the reader cannot hear of, and that change nothing that can be seen, are made together with the next one that
//!   it can; and of several numbers of calls before a watch is set, between which there is no event for it or for another watch,
//!   the smallest is taken. Events with a name that is on no way to a file count as not heard: those that come at once are
//!   delivered all the same, those that come late are not.
//!   [`Bounds::reduces`] turns this off, so that both can be compared.
//!
//! States are explored breadth first: the first history that breaks a rule is one of the shortest. But for those that must
//! come to an end ([`Bounds::deep`]).

mod history;
mod node;
mod rules;
mod scout;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::disk::Traits;
use crate::fs::SimFs;
use crate::subject::Subject;
use crate::watches::Fate;

pub use history::History;
pub use rules::Broken;

use self::node::{Node, Reader};
use self::rules::Rules;
use self::scout::ReadMemo;

/// Bounds of an exploration.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long the writer may be away between two changes that can be seen.
    pub stall: Duration,
    /// How long it may be away where what stands is not whole.
    pub linger: Duration,
    /// When it begins at the earliest.
    pub start_after: Duration,
    /// When it begins at the latest.
    pub start: Duration,
    /// How long before each of the reader's moments it may begin, besides the moments of the reader itself.
    pub phases: Vec<Duration>,
    /// At how many of its accesses, within one look or read, the writer may move.
    pub preemptions: usize,
    /// How long one of the reader's accesses may take, once, in the middle of the writer's work; zero is never.
    pub slow: Duration,
    /// What becomes of events.
    pub fate: Fate,
    /// How many watches there are; `None` is enough of them.
    pub most_watches: Option<usize>,
    /// How much later than the interval and the settle time the end must be served.
    pub grace: Duration,
    /// How long after the writer's last call the end must be served, instead of what the policy promises.
    pub end_within: Option<Duration>,
    /// The most states.
    pub states: usize,
    /// The most moves between states. Beyond them the exploration ends at once.
    pub moves: usize,
    /// Stop at the first rule that is broken.
    pub stops_at_first: bool,
    /// Go on from the newest state, and not from the oldest: ends are reached with few states. A history that breaks a rule
    /// is not one of the shortest then.
    pub deep: bool,
    /// Whether calls that the reader cannot hear of are made together.
    pub reduces: bool,
    /// How many readers are kept beside the states that they are in. The others are led there again, which takes longer.
    pub most_held: usize,
}

impl Bounds {
    /// Bounds that fit a patience: the writer is away for a millisecond less than the settle time.
    pub fn within(settle: Duration) -> Self {
        let stall = settle.saturating_sub(Duration::from_millis(1));
        Self {
            stall,
            linger: Duration::from_secs(12),
            start_after: Duration::ZERO,
            start: Duration::from_secs(12),
            phases: vec![stall, stall / 2],
            preemptions: 2,
            slow: Duration::ZERO,
            fate: Fate::Prompt,
            most_watches: None,
            grace: Duration::ZERO,
            end_within: None,
            states: 200_000,
            moves: usize::MAX,
            stops_at_first: true,
            deep: false,
            reduces: true,
            most_held: 20_000,
        }
    }
}

/// What an exploration found.
#[derive(Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Moves between them.
    pub moves: usize,
    /// Ends that were reached: the writer is done, and its last content is served.
    pub ends: usize,
    /// What was published in the histories that came to an end: the tags of each, in order.
    pub outcomes: BTreeSet<Vec<u64>>,
    /// How long it took.
    pub took: Duration,
    /// Whether the bound on states was met, so that not all was explored.
    pub is_cut: bool,
    /// The rules that were broken, each kind with the shortest history that breaks it.
    pub broken: Vec<(Broken, History)>,
}

/// Explores a case.
///
/// # Panics
/// If the case is not possible, or the reader publishes nothing at the beginning although there is something.
pub fn explore(subject: &dyn Subject, case: &Case, traits: &Traits, bounds: &Bounds) -> Report {
    let began = Instant::now();
    let rules = Rules::new(subject, case, traits, bounds);
    let mut explorer = Explorer {
        subject,
        case: Arc::new(case.clone()),
        bounds,
        rules,
        memo: ReadMemo::default(),
        known: HashSet::new(),
        names: case.names_on_the_way(),
        queue: VecDeque::new(),
        held: 0,
        report: Report {
            states: 0,
            moves: 0,
            ends: 0,
            outcomes: BTreeSet::new(),
            took: Duration::ZERO,
            is_cut: false,
            broken: Vec::new(),
        },
    };
    explorer.add(Node::first(case.disk(traits.clone()), case), None);
    while let Some((node, reader)) =
        if bounds.deep { explorer.queue.pop_back() } else { explorer.queue.pop_front() }
    {
        explorer.held -= usize::from(reader.is_some());
        explorer.expand(node, reader);
        if explorer.report.moves >= bounds.moves {
            explorer.report.is_cut = true;
            break;
        }
        if explorer.bounds.stops_at_first && !explorer.report.broken.is_empty() {
            break;
        }
    }
    explorer.report.states = explorer.known.len();
    explorer.report.took = began.elapsed();
    explorer.report
}

struct Explorer<'a> {
    subject: &'a dyn Subject,
    case: Arc<Case>,
    bounds: &'a Bounds,
    rules: Rules,
    memo: ReadMemo,
    known: HashSet<u64>,
    /// An event of any other name is nothing to the reader.
    names: HashSet<OsString>,
    queue: VecDeque<(Node, Option<Reader>)>,
    /// How many of these have a reader.
    held: usize,
    report: Report,
}

impl Explorer<'_> {
    /// A state was reached, and with it this reader, if there is one that is in it.
    fn add(&mut self, node: Node, reader: Option<Reader>) {
        self.report.moves += 1;
        let hash = node.hash();
        if self.known.contains(&hash) {
            return;
        }
        if self.known.len() >= self.bounds.states || self.report.moves >= self.bounds.moves {
            self.report.is_cut = true;
            return;
        }
        self.known.insert(hash);
        let reader = reader.filter(|_| self.held < self.bounds.most_held);
        self.held += usize::from(reader.is_some());
        self.queue.push_back((node, reader));
    }

    fn breaks(&mut self, node: &Node, broken: Broken) {
        if !self.report.broken.iter().any(|(known, _)| known.kind() == broken.kind()) {
            let history = History::of(node, &self.case, &broken);
            self.report.broken.push((broken, history));
        }
    }
}

/// A file system that stands at this disk.
fn stage(disk: &Arc<crate::disk::Disk>) -> SimFs {
    SimFs::new(Arc::clone(disk))
}

type Memo<K, V> = HashMap<K, Arc<V>>;
