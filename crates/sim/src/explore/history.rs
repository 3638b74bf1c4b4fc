//! How a state came to be, for people.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use super::rules::Broken;
use crate::case::Case;
use crate::disk::{Access, Call};

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The writer's call of this number, before this access if the reader was at work.
    Called(usize, Option<Access>),
    Looked,
    Read(String),
    Slow(Access),
    Delivered(usize),
    Published(u64),
}

pub(super) struct Line {
    pub(super) before: Option<Arc<Line>>,
    pub(super) at: Duration,
    pub(super) what: What,
}

impl Drop for Line {
    fn drop(&mut self) {
        // Not one drop inside the other: a history can be long.
        let mut before = self.before.take();
        while let Some(line) = before.and_then(Arc::into_inner) {
            let mut line = line;
            before = line.before.take();
        }
    }
}

/// A history, one line for each thing that happened.
#[derive(Clone)]
pub struct History {
    /// The lines.
    pub lines: Vec<String>,
}

impl History {
    pub(super) fn of(node: &Node, case: &Case, broken: &Broken) -> Self {
        let mut lines = vec![format!("{:>9.3} s  {broken}", node.now().as_secs_f64())];
        let mut line = node.line.as_ref();
        while let Some(at) = line {
            let what = match &at.what {
                What::Called(number, before) => {
                    let when =
                        before.as_ref().map_or_else(String::new, |before| format!("   (before {before:?})"));
                    format!("writer   {}{when}", show(&case.steps[*number].call))
                }
                What::Looked => "reader   looks".to_owned(),
                What::Read(reading) => format!("reader   reads: {reading}"),
                What::Slow(access) => format!("reader   {access:?} is slow"),
                What::Delivered(count) => format!("reader   gets {count} events"),
                What::Published(number) => format!("reader   publishes generation {number}"),
            };
            lines.push(format!("{:>9.3} s  {what}", at.at.as_secs_f64()));
            line = at.before.as_ref();
        }
        lines.reverse();
        Self { lines }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

fn show(call: &Call) -> String {
    match call {
        Call::Open { path, truncate, create, append, .. } => {
            let flag = |set: bool, name: &'static str| if set { name } else { "" };
            let (cut, new, end) =
                (flag(*truncate, " O_TRUNC"), flag(*create, " O_CREAT"), flag(*append, " O_APPEND"));
            format!("open {}{cut}{new}{end}", path.display())
        }
        Call::Write { bytes, .. } => format!("write {} bytes", bytes.bytes().len()),
        Call::Store { at, bytes, .. } => {
            format!("store {} bytes at {at} through a mapping", bytes.bytes().len())
        }
        Call::Close { .. } => "close".to_owned(),
        Call::Unlink(path) => format!("unlink {}", path.display()),
        Call::Rename(from, to) => format!("rename {} {}", from.display(), to.display()),
        Call::Link(from, to) => format!("link {} {}", from.display(), to.display()),
        Call::Symlink(target, link) => format!("symlink {} {}", target.display(), link.display()),
        other => format!("{other:?}"),
    }
}
