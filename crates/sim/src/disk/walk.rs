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
        let (dir, name, found) = self.lead(from, path, follow)?;
        Ok(Walked { dir, name: name.to_owned(), found })
    }

    /// What a path leads to, if there is something.
    pub(super) fn lead_to(&self, from: Key, path: &Path, follow: bool) -> Result<Key, i32> {
        self.lead(from, path, follow)?.2.ok_or(errno::ENOENT)
    }

    /// The same as [`Disk::walk`], and nothing is copied: an exploration looks up millions of paths.
    fn lead<'a>(
        &'a self,
        from: Key,
        path: &'a Path,
        follow: bool,
    ) -> Result<(Key, &'a OsStr, Option<Key>), i32> {
        let mut stack = Vec::with_capacity(8);
        stack.push(from);
        let mut todo: Vec<&OsStr> = Vec::with_capacity(8);
        self.push(path, &mut todo, &mut stack);
        let mut links = 0;
        loop {
            let dir = *stack.last().expect("the root is never popped");
            let Some(name) = todo.pop() else {
                return Ok((dir, OsStr::new(""), Some(dir)));
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
            let found = entries.get(name).copied();
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
                return Ok((dir, name, found));
            }
            stack.push(found.ok_or(errno::ENOENT)?);
        }
    }

    /// Puts the names of a path on top of those still to look up, the first on the very top.
    fn push<'a>(&self, path: &'a Path, todo: &mut Vec<&'a OsStr>, stack: &mut Vec<Key>) {
        if path.has_root() {
            stack.clear();
            stack.push(self.root);
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => todo.push(name),
                Component::ParentDir => todo.push(OsStr::new("..")),
                _ => {}
            }
        }
    }
}
