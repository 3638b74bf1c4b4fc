//! Path look-up as the kernel does it (`path_resolution(7)`).

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use super::{Body, Disk, Key, errno};

/// Where a path leads: the last directory and name, and what stands there.
#[derive(Clone, Debug)]
pub(super) struct Walked {
    pub(super) dir: Key,
    pub(super) name: OsString,
    pub(super) found: Option<Key>,
}

impl Disk {
    /// Looks a path up. `follow` says whether a link at its very end is followed.
    pub(super) fn walk(&self, from: Key, path: &Path, follow: bool) -> Result<Walked, i32> {
        let mut stack = vec![from];
        let mut todo: Vec<OsString> = Vec::new();
        self.push(path, &mut todo, &mut stack);
        let mut links = 0;
        loop {
            let dir = *stack.last().expect("the root is never popped");
            let Some(name) = todo.pop() else {
                return Ok(Walked { dir, name: OsString::new(), found: Some(dir) });
            };
            if name == ".." {
                if !matches!(self.inodes.get(&dir).map(|inode| &inode.body), Some(Body::Dir(_))) {
                    return Err(errno::ENOTDIR);
                }
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some(Body::Dir(entries)) = self.inodes.get(&dir).map(|inode| &inode.body) else {
                return Err(errno::ENOTDIR);
            };
            let found = entries.get::<OsStr>(&name).copied();
            if let Some(Body::Link(target)) = found.map(|key| &self.inodes[&key].body) {
                if follow || !todo.is_empty() {
                    links += 1;
                    if links > 40 {
                        return Err(errno::ELOOP);
                    }
                    self.push(Path::new(target), &mut todo, &mut stack);
                    continue;
                }
            }
            if todo.is_empty() {
                return Ok(Walked { dir, name, found });
            }
            stack.push(found.ok_or(errno::ENOENT)?);
        }
    }

    /// Puts the names of a path on top of those still to look up, the first on the very top.
    fn push(&self, path: &Path, todo: &mut Vec<OsString>, stack: &mut Vec<Key>) {
        if path.has_root() {
            *stack = vec![self.root];
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => todo.push(name.to_owned()),
                Component::ParentDir => todo.push("..".into()),
                _ => {}
            }
        }
    }
}
