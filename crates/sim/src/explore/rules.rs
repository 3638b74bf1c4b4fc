//! The rules: invariants 2 to 6 of the design as checks of states.

use std::fmt;
use std::time::Duration;

use super::Bounds;
use super::node::Node;
use crate::case::Case;
use crate::disk::{Disk, Traits};
use crate::subject::{Published, Subject};

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Invariant 6: what was published is nothing that the writer meant.
    NotMeant,
    /// Invariant 6: what was published was meant, but could not be seen since the last publication.
    Stale(usize),
    /// Invariant 4: what was published is what was served already.
    Unchanged,
    /// Invariant 1: numbers do not grow by one.
    Number(u64),
    /// Invariant 5: the writer is done, and its last content is not served in time.
    Late {
        /// How long ago the writer was done.
        after: Duration,
    },
    /// Invariant 5: the reader waits for ever.
    Asleep,
}

impl Broken {
    /// The rule, without the circumstances.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotMeant => "not meant",
            Self::Stale(_) => "stale",
            Self::Unchanged => "unchanged",
            Self::Number(_) => "number",
            Self::Late { .. } => "late",
            Self::Asleep => "asleep",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMeant => f.write_str("PUBLISHED what no writer meant"),
            Self::Stale(version) => write!(f, "PUBLISHED version {version}, which is long gone"),
            Self::Unchanged => f.write_str("PUBLISHED what is served already"),
            Self::Number(number) => write!(f, "PUBLISHED as number {number}"),
            Self::Late { after } => {
                write!(f, "NOT SERVED, {:.3} s after the writer was done", after.as_secs_f64())
            }
            Self::Asleep => f.write_str("the reader WAITS for ever"),
        }
    }
}

pub(super) struct Rules {
    /// What stands for each version.
    tags: Vec<Option<u64>>,
    last: Option<u64>,
    bound: Duration,
    bound_unstamped: Duration,
}

impl Rules {
    pub(super) fn new(subject: &dyn Subject, case: &Case, traits: &Traits, bounds: &Bounds) -> Self {
        // Every state that the writer leaves behind, without any reader.
        let mut disk = case.disk(traits.clone());
        let mut tags = vec![None; case.versions.len()];
        let mut last = None;
        let mut is_meant = false;
        for step in 0..=case.steps.len() {
            let bits = case.versions_of(&disk.visible(&case.paths()));
            is_meant = bits != 0;
            if is_meant {
                last = subject.tag(&case.spec, &unhindered(&disk));
                let versions = tags.iter_mut().enumerate().filter(|(version, _)| bits & 1 << version != 0);
                versions.for_each(|(_, tag)| *tag = last);
            }
            if let Some(step) = case.steps.get(step) {
                let result = std::sync::Arc::make_mut(&mut disk).call(&step.call);
                result.unwrap_or_else(|error| panic!("{}: {:?}: error {error}", case.name, step.call));
            }
        }
        assert!(is_meant, "{}: the writer ends with something meant", case.name);
        for (version, contents) in case.versions.iter().enumerate() {
            assert!(
                tags[version].is_some() || contents.iter().any(Option::is_none),
                "{}: version {version} is never whole",
                case.name
            );
        }
        let policy = subject.policy();
        let promised = policy.interval + policy.settle + bounds.grace;
        let bound = bounds.end_within.unwrap_or(promised);
        let bound_unstamped = promised + Duration::from_secs(300);
        Self { tags, last, bound, bound_unstamped }
    }

    pub(super) fn publication(&self, node: &Node, published: Published) -> Option<Broken> {
        let before = node.published.last();
        if published.number != before.map_or(1, |before| before.number + 1) {
            return Some(Broken::Number(published.number));
        }
        if before.is_some_and(|before| before.tag == published.tag) {
            return Some(Broken::Unchanged);
        }
        let meant = |version: &usize| self.tags[*version] == Some(published.tag);
        let mut versions = (0..self.tags.len()).filter(meant).peekable();
        let first = *versions.peek().unwrap_or(&usize::MAX);
        if first == usize::MAX {
            return Some(Broken::NotMeant);
        }
        (!versions.any(|version| node.seen & 1 << version != 0)).then_some(Broken::Stale(first))
    }

    /// When the last content must be served.
    pub(super) fn end(&self, node: &Node) -> Duration {
        node.last_call + if node.unstamped { self.bound_unstamped } else { self.bound }
    }

    pub(super) fn liveness(&self, node: &Node) -> Option<Broken> {
        let served = node.published.last().map(|published| published.tag);
        let is_served = self.last.is_none() || served == self.last;
        (!is_served).then(|| Broken::Late { after: self.end(node) - node.last_call })
    }
}

/// The same disk without faults.
fn unhindered(disk: &std::sync::Arc<Disk>) -> std::sync::Arc<Disk> {
    let mut disk = (**disk).clone();
    disk.mend_all();
    std::sync::Arc::new(disk)
}
