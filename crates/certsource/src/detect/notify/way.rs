//! The way to a set of paths: every directory in which a name is looked up, and which names those are.
//!
//! A change of any of these names can change what the paths lead to: of the files, of the links to them, of the
//! directories and links above them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::fs::{Fs, Kind, data};

/// As many links as the kernel follows (`path_resolution(7)`).
const LINKS: usize = 40;

/// The names that matter in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Every name that does not begin with a dot: the directory itself is a part of the source.
    any: bool,
    names: BTreeSet<OsString>,
}

impl Names {
    pub(super) fn matters(&self, name: &OsStr) -> bool {
        self.names.contains(name)
            || self.any && (name == data::LINK || !name.as_encoded_bytes().starts_with(b"."))
    }
}

/// Directories without links in their paths, and the names that matter in each.
pub(super) type Way = BTreeMap<PathBuf, Names>;

/// The way to `paths`. Relative ones begin at `here`.
pub(super) fn to(fs: &dyn Fs, paths: &[PathBuf], here: &Path) -> Way {
    let mut way = Way::new();
    paths.iter().for_each(|path| walk(fs, &here.join(path), &mut way));
    way
}

enum Step {
    Root(PathBuf),
    Up,
    Down(OsString),
}

/// Resolves a path the way the kernel does, one name at a time. It ends where something is missing: what lies below
/// can only be watched once that is there.
fn walk(fs: &dyn Fs, path: &Path, way: &mut Way) {
    let mut steps = Vec::new();
    push(&mut steps, path);
    let mut at = PathBuf::new();
    let mut target = OsString::new();
    let mut links = 0;
    while let Some(step) = steps.pop() {
        let name = match step {
            Step::Root(root) => {
                at = root;
                continue;
            }
            Step::Up => {
                // No link is left in `at`, so its parent is the one in its path; that of the root is the root.
                at.pop();
                continue;
            }
            Step::Down(name) => name,
        };
        let next = at.join(&name);
        way.entry(at.clone()).or_default().names.insert(name);
        if fs.read_link(&next, &mut target).is_ok() {
            links += 1;
            if links > LINKS {
                return;
            }
            push(&mut steps, Path::new(&target));
            continue;
        }
        match fs.metadata(&next) {
            Ok(meta) if meta.kind == Kind::Directory => at = next,
            _ => return,
        }
    }
    way.entry(at).or_default().any = true;
}

/// Puts the steps of a path on top, the first on the very top.
fn push(steps: &mut Vec<Step>, path: &Path) {
    let mut root = PathBuf::new();
    let mut new = Vec::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir => root.push(component),
            Component::CurDir => {}
            Component::ParentDir => new.push(Step::Up),
            Component::Normal(name) => new.push(Step::Down(name.to_owned())),
        }
    }
    steps.extend(new.into_iter().rev());
    if !root.as_os_str().is_empty() {
        steps.push(Step::Root(root));
    }
}
