//! The system calls of writers, their effects and their events.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use certsource::fs::Stamp;
use certsource::source::FileEventKind;

use super::{Blob, Body, Descriptor, Disk, Fault, Inode, Key, errno};

/// One system call of a writer, or one thing that happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the system calls and their arguments")]
pub enum Call {
    /// `open` for writing; `fd` is the number the writer knows it by.
    Open {
        fd: u32,
        path: PathBuf,
        create: bool,
        exclusive: bool,
        truncate: bool,
        append: bool,
    },
    Write {
        fd: u32,
        bytes: Blob,
    },
    /// A store through a shared mapping. The first one moves the time stamps, later ones do not, nor do `munmap` and
    /// `close` (seen on Linux 6.18, tmpfs and ext4). No event.
    Store {
        fd: u32,
        at: usize,
        bytes: Blob,
    },
    Close {
        fd: u32,
    },
    Truncate {
        path: PathBuf,
        size: usize,
    },
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    /// Target, then the link.
    Symlink(PathBuf, PathBuf),
    Mkdir(PathBuf),
    Rmdir(PathBuf),
    Mkfifo(PathBuf),
    Chmod(PathBuf, u32),
    /// `utimensat`: the modification time; `None` is now.
    SetModified(PathBuf, Option<Stamp>),
    /// The wall clock is set forward or back by so many seconds.
    SetClock(i64),
    /// From now on accesses to this name fail; `None` is every name.
    Break(Option<OsString>, Fault),
    /// They do not any more.
    Mend(Option<OsString>),
}

impl Call {
    /// Whether it changes files and names, and is told of by events. The clock, faults, attributes and stores through a
    /// mapping have effects of other kinds.
    pub(crate) fn is_told_of(&self) -> bool {
        !matches!(
            self,
            Self::Store { .. }
                | Self::Chmod(..)
                | Self::SetModified(..)
                | Self::SetClock(_)
                | Self::Break(..)
                | Self::Mend(_)
        )
    }
}

/// An event in a directory, before it is known who watches that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawEvent {
    /// The directory.
    pub dir: Key,
    /// The entry; `None` is the directory itself.
    pub name: Option<OsString>,
    /// What happened.
    pub kind: Happening,
}

/// [`FileEventKind`], which has no `Hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "see FileEventKind")]
pub enum Happening {
    MovedTo,
    Removed,
    Created,
    Modified,
    Closed,
    Rescan,
}

impl From<Happening> for FileEventKind {
    fn from(kind: Happening) -> Self {
        match kind {
            Happening::MovedTo => Self::MovedTo,
            Happening::Removed => Self::Removed,
            Happening::Created => Self::Created,
            Happening::Modified => Self::Modified,
            Happening::Closed => Self::Closed,
            Happening::Rescan => Self::Rescan,
        }
    }
}

type Events = Vec<RawEvent>;

impl Disk {
    /// Makes a system call.
    ///
    /// # Errors
    /// The error number. Nothing is changed then.
    pub fn call(&mut self, call: &Call) -> Result<Events, i32> {
        let mut events = Vec::new();
        self.calls += 1;
        match call {
            Call::Open { fd, path, create, exclusive, truncate, append } => {
                self.open(*fd, path, [*create, *exclusive, *truncate, *append], &mut events)?;
            }
            Call::Write { fd, bytes } => {
                let held = self.held(*fd)?;
                if bytes.bytes().is_empty() {
                    return Ok(events);
                }
                self.change(held.key, |blob| blob.with(held.offset, bytes.bytes()));
                let ours = self.descriptors.get_mut(fd).expect("it is held");
                ours.offset += bytes.bytes().len();
                ours.has_written = true;
                tell(&mut events, held.dir, &held.name, Happening::Modified);
            }
            Call::Store { fd, at, bytes } => {
                let held = self.held(*fd)?;
                if held.has_stored {
                    let inode = self.inode(held.key);
                    let Body::File(blob) = &mut inode.body else { return Err(errno::EINVAL) };
                    *blob = blob.with(*at, bytes.bytes());
                    self.stamps_moved = false;
                } else {
                    self.change(held.key, |blob| blob.with(*at, bytes.bytes()));
                }
                let ours = self.descriptors.get_mut(fd).expect("it is held");
                (ours.has_stored, ours.has_written) = (true, true);
            }
            Call::Close { fd } => {
                let held = self.descriptors.remove(fd).ok_or(errno::EINVAL)?;
                self.release(held.key);
                tell(&mut events, held.dir, &held.name, Happening::Closed);
            }
            Call::Truncate { path, size } => {
                let at = self.walk(self.root, path, true)?;
                let key = at.found.ok_or(errno::ENOENT)?;
                if matches!(self.inodes[&key].body, Body::Dir(_)) {
                    return Err(errno::EISDIR);
                }
                self.change(key, |blob| Blob::new(&blob.bytes()[..(*size).min(blob.bytes().len())]));
                tell(&mut events, at.dir, &at.name, Happening::Modified);
            }
            Call::Unlink(path) => {
                let at = self.walk(self.root, path, false)?;
                let key = at.found.ok_or(errno::ENOENT)?;
                if matches!(self.inodes[&key].body, Body::Dir(_)) {
                    return Err(errno::EISDIR);
                }
                self.entries(at.dir)?.remove(&at.name);
                self.drop_link(key);
                tell(&mut events, at.dir, &at.name, Happening::Removed);
            }
            Call::Rename(from, to) => self.rename(from, to, &mut events)?,
            Call::Link(from, to) => {
                let key = self.walk(self.root, from, false)?.found.ok_or(errno::ENOENT)?;
                let at = self.new_name(to)?;
                if matches!(self.inodes[&key].body, Body::Dir(_)) {
                    return Err(errno::EPERM);
                }
                let now = self.stamp();
                let inode = self.inode(key);
                (inode.links, inode.changed) = (inode.links + 1, now);
                self.entries(at.dir)?.insert(at.name.clone(), key);
                tell(&mut events, at.dir, &at.name, Happening::Created);
            }
            Call::Symlink(target, link) => {
                self.make(link, Body::Link(target.clone().into_os_string()), 0o777, &mut events)?
            }
            Call::Mkdir(path) => self.make(path, Body::Dir(Default::default()), 0o755, &mut events)?,
            Call::Mkfifo(path) => self.make(path, Body::Fifo, 0o644, &mut events)?,
            Call::Rmdir(path) => {
                let at = self.walk(self.root, path, false)?;
                let key = at.found.ok_or(errno::ENOENT)?;
                match &self.inodes[&key].body {
                    Body::Dir(entries) if entries.is_empty() => {}
                    Body::Dir(_) => return Err(errno::ENOTEMPTY),
                    _ => return Err(errno::ENOTDIR),
                }
                self.entries(at.dir)?.remove(&at.name);
                self.inode(key).links = 0;
                self.release(key);
                events.push(RawEvent { dir: key, name: None, kind: Happening::Removed });
                tell(&mut events, at.dir, &at.name, Happening::Removed);
            }
            Call::Chmod(path, mode) => {
                let at = self.walk(self.root, path, true)?;
                let now = self.stamp();
                let inode = self.inode(at.found.ok_or(errno::ENOENT)?);
                (inode.mode, inode.changed) = (*mode, now);
                tell(&mut events, at.dir, &at.name, Happening::Modified);
            }
            Call::SetModified(path, to) => {
                let at = self.walk(self.root, path, true)?;
                let now = self.stamp();
                let inode = self.inode(at.found.ok_or(errno::ENOENT)?);
                (inode.modified, inode.changed) = (to.unwrap_or(now), now);
                tell(&mut events, at.dir, &at.name, Happening::Modified);
            }
            Call::SetClock(seconds) => self.shift += seconds,
            Call::Break(name, fault) => {
                self.faults.insert(name.clone(), *fault);
            }
            Call::Mend(name) => {
                self.faults.remove(name);
            }
        }
        Ok(events)
    }

    fn open(&mut self, fd: u32, path: &Path, flags: [bool; 4], events: &mut Events) -> Result<(), i32> {
        let [create, exclusive, truncate, append] = flags;
        // With O_EXCL a link at the end is not followed, whatever it points to (open(2)).
        let at = self.walk(self.root, path, !exclusive)?;
        let key = match at.found {
            Some(_) if exclusive => return Err(errno::EEXIST),
            Some(key) => key,
            None if create => {
                let key = self.add(Body::File(Blob::new(&[][..])), 0o600);
                self.entries(at.dir)?.insert(at.name.clone(), key);
                tell(events, at.dir, &at.name, Happening::Created);
                key
            }
            None => return Err(errno::ENOENT),
        };
        let Body::File(blob) = &self.inodes[&key].body else { return Err(errno::EISDIR) };
        let size = blob.bytes().len();
        if truncate && at.found.is_some() {
            self.change(key, |_| Blob::new(&[][..]));
            tell(events, at.dir, &at.name, Happening::Modified);
        }
        let offset = if append && !truncate { size } else { 0 };
        let held =
            Descriptor { key, offset, dir: at.dir, name: at.name, has_written: truncate, has_stored: false };
        self.descriptors.insert(fd, held);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, events: &mut Events) -> Result<(), i32> {
        let from = self.walk(self.root, from, false)?;
        let key = from.found.ok_or(errno::ENOENT)?;
        let to = self.walk(self.root, to, false)?;
        let is_dir = matches!(self.inodes[&key].body, Body::Dir(_));
        if to.found == Some(key) {
            return Ok(());
        }
        if is_dir && self.is_within(to.dir, key) {
            return Err(errno::EINVAL);
        }
        if let Some(over) = to.found {
            match (&self.inodes[&over].body, is_dir) {
                (Body::Dir(entries), true) if entries.is_empty() => {}
                (Body::Dir(_), true) => return Err(errno::ENOTEMPTY),
                (Body::Dir(_), false) => return Err(errno::EISDIR),
                (_, true) => return Err(errno::ENOTDIR),
                (_, false) => {}
            }
        }
        self.entries(from.dir)?.remove(&from.name);
        self.entries(to.dir)?.insert(to.name.clone(), key);
        let now = self.stamp();
        self.inode(key).changed = now;
        if let Some(over) = to.found {
            if is_dir {
                self.inode(over).links = 0;
                self.release(over);
                events.push(RawEvent { dir: over, name: None, kind: Happening::Removed });
            } else {
                self.drop_link(over);
            }
        }
        tell(events, from.dir, &from.name, Happening::Removed);
        tell(events, to.dir, &to.name, Happening::MovedTo);
        if is_dir {
            events.push(RawEvent { dir: key, name: None, kind: Happening::Removed });
        }
        Ok(())
    }

    /// Whether a directory is this one or somewhere below it.
    fn is_within(&self, dir: Key, above: Key) -> bool {
        let below = |at: &Key| match &self.inodes[at].body {
            Body::Dir(entries) => entries.values().copied().collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        let mut todo = vec![above];
        while let Some(at) = todo.pop() {
            if at == dir {
                return true;
            }
            todo.extend(below(&at));
        }
        false
    }

    fn make(&mut self, path: &Path, body: Body, mode: u32, events: &mut Events) -> Result<(), i32> {
        let at = self.new_name(path)?;
        let key = self.add(body, mode);
        self.entries(at.dir)?.insert(at.name.clone(), key);
        tell(events, at.dir, &at.name, Happening::Created);
        Ok(())
    }

    fn new_name(&self, path: &Path) -> Result<super::walk::Walked, i32> {
        let at = self.walk(self.root, path, false)?;
        if at.found.is_some() { Err(errno::EEXIST) } else { Ok(at) }
    }

    fn held(&self, fd: u32) -> Result<Descriptor, i32> {
        self.descriptors.get(&fd).cloned().ok_or(errno::EINVAL)
    }

    /// New content, and the time stamps that come with it.
    fn change(&mut self, key: Key, new: impl FnOnce(&Blob) -> Blob) {
        let now = self.stamp();
        let inode = self.inode(key);
        if let Body::File(blob) = &mut inode.body {
            *blob = new(blob);
        }
        (inode.modified, inode.changed) = (now, now);
        self.stamps_moved = true;
    }

    /// The entries of a directory that is about to change.
    fn entries(&mut self, dir: Key) -> Result<&mut std::collections::BTreeMap<OsString, Key>, i32> {
        let now = self.stamp();
        let inode: &mut Inode = self.inode(dir);
        (inode.modified, inode.changed) = (now, now);
        self.stamps_moved = true;
        match &mut self.inode(dir).body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(errno::ENOTDIR),
        }
    }

    fn drop_link(&mut self, key: Key) {
        let now = self.stamp();
        let inode = self.inode(key);
        (inode.links, inode.changed) = (inode.links - 1, now);
        self.release(key);
    }
}

fn tell(events: &mut Events, dir: Key, name: &OsString, kind: Happening) {
    events.push(RawEvent { dir, name: Some(name.clone()), kind });
}
