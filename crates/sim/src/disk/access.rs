//! What a reader asks the file system, and what it is told.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certsource::fs::{Kind, Meta, Volume};

use super::{Body, Disk, Fault, Key, errno};

/// One access of the reader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `stat`.
    Stat(PathBuf),
    /// `readlink`.
    ReadLink(PathBuf),
    /// `open` of a file for reading.
    Open(PathBuf),
    /// `open` of a directory.
    OpenDir(PathBuf),
    /// `statfs`.
    Volume(PathBuf),
    /// `fstat`.
    FileStat(Key, OsString),
    /// `read`.
    FileRead(Key, OsString, usize, usize),
    /// `openat`.
    DirOpen(Key, PathBuf),
    /// `readdir`, all of it.
    DirNames(Key),
    /// `fstat` of a directory.
    DirStat(Key),
    /// A watch is set on a directory.
    Watch(PathBuf),
}

/// What an access gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Seen {
    Meta(Meta),
    Link(OsString),
    File(Key),
    NotRegular(Kind),
    Dir(Key),
    Volume(Volume),
    Bytes(Vec<u8>),
    Names(Vec<OsString>),
    Error(i32),
}

impl Access {
    /// The last name of the path, by which faults are found.
    pub fn name(&self) -> Option<&OsStr> {
        match self {
            Self::Stat(path) | Self::ReadLink(path) | Self::Open(path) | Self::OpenDir(path) => {
                path.file_name()
            }
            Self::DirOpen(_, path) => path.file_name(),
            Self::FileStat(_, name) | Self::FileRead(_, name, ..) => Some(name),
            Self::Volume(_) | Self::DirNames(_) | Self::DirStat(_) | Self::Watch(_) => None,
        }
    }
}

impl Disk {
    /// How long this access hangs.
    pub fn hangs_for(&self, access: &Access) -> Duration {
        match (access, self.fault(access.name())) {
            (Access::Open(_) | Access::DirOpen(..), Some(Fault::Hang(time)))
            | (Access::Stat(_) | Access::ReadLink(_), Some(Fault::HangLook(time)))
            | (Access::FileRead(..), Some(Fault::HangRead(time))) => time,
            _ => Duration::ZERO,
        }
    }

    /// What the access gives, without any effect on the state. [`Disk::note`] makes the effects.
    pub fn peek(&self, access: &Access) -> Seen {
        self.answer(access).unwrap_or_else(Seen::Error)
    }

    /// The effects of an access: what is held open, and which attributes are remembered.
    pub fn note(&mut self, access: &Access, seen: &Seen) {
        if let Seen::File(key) | Seen::Dir(key) = seen {
            if !matches!(access, Access::Watch(_)) {
                *self.pins.entry(*key).or_default() += 1;
            }
        }
        if self.traits.cached_for.is_zero() {
            return;
        }
        let until = self.mono + self.traits.cached_for;
        match (access, seen) {
            (Access::Stat(path), _) if self.cached(path).is_some() => {}
            (Access::Stat(path), Seen::Meta(meta)) => {
                self.cache.insert(path.clone(), (Ok(*meta), until));
            }
            (Access::Stat(path), Seen::Error(error)) => {
                self.cache.insert(path.clone(), (Err(*error), until));
            }
            // Opening asks the server, and what it says is remembered (close-to-open consistency, RFC 1813 4.11).
            (Access::Open(path), Seen::File(key)) => {
                self.cache.insert(path.clone(), (Ok(self.meta(*key)), until));
            }
            (Access::Open(path), _) => {
                self.cache.remove(path);
            }
            _ => {}
        }
    }

    fn cached(&self, path: &Path) -> Option<Result<Meta, i32>> {
        let (known, until) = self.cache.get(path)?;
        (self.mono < *until).then_some(*known)
    }

    fn answer(&self, access: &Access) -> Result<Seen, i32> {
        let fault = self.fault(access.name());
        match access {
            Access::Stat(path) => {
                lookup(fault)?;
                match self.cached(path) {
                    Some(known) => known.map(Seen::Meta),
                    None => Ok(Seen::Meta(self.meta(self.find(path)?))),
                }
            }
            Access::ReadLink(path) => {
                let key = self.lead_to(self.root, path, false)?;
                match &self.inodes[&key].body {
                    Body::Link(target) => Ok(Seen::Link(target.clone())),
                    _ => Err(errno::EINVAL),
                }
            }
            Access::Open(path) => {
                open(fault)?;
                self.opened(self.find(path)?)
            }
            Access::DirOpen(dir, name) => {
                open(fault)?;
                self.opened(self.lead_to(*dir, name, true)?)
            }
            Access::OpenDir(path) | Access::Watch(path) => {
                lookup(fault)?;
                let key = self.find(path)?;
                match &self.inodes[&key].body {
                    Body::Dir(_) => Ok(Seen::Dir(key)),
                    _ => Err(errno::ENOTDIR),
                }
            }
            Access::Volume(path) => {
                self.find(path)?;
                Ok(Seen::Volume(self.traits.volume))
            }
            Access::FileStat(key, _) | Access::DirStat(key) => Ok(Seen::Meta(self.meta(*key))),
            Access::FileRead(key, _, offset, most) => {
                if let Some(Fault::Read(error)) = fault {
                    return Err(error);
                }
                let Body::File(blob) = &self.inodes[key].body else { return Err(errno::EISDIR) };
                let from = (*offset).min(blob.bytes.len());
                let most = (*most).min(self.traits.read_most).min(blob.bytes.len() - from);
                Ok(Seen::Bytes(blob.bytes[from..from + most].to_vec()))
            }
            Access::DirNames(key) => match &self.inodes[key].body {
                Body::Dir(entries) => Ok(Seen::Names(entries.keys().cloned().collect())),
                _ => Err(errno::ENOTDIR),
            },
        }
    }

    fn find(&self, path: &Path) -> Result<Key, i32> {
        self.lead_to(self.root, path, true)
    }

    fn opened(&self, key: Key) -> Result<Seen, i32> {
        match &self.inodes[&key].body {
            Body::File(_) => Ok(Seen::File(key)),
            Body::Dir(_) => Ok(Seen::NotRegular(Kind::Directory)),
            Body::Fifo => Ok(Seen::NotRegular(Kind::Fifo)),
            Body::Link(_) => Err(errno::ELOOP),
        }
    }
}

fn lookup(fault: Option<Fault>) -> Result<(), i32> {
    match fault {
        Some(Fault::Lookup(error)) => Err(error),
        _ => Ok(()),
    }
}

fn open(fault: Option<Fault>) -> Result<(), i32> {
    match fault {
        Some(Fault::Lookup(error) | Fault::Open(error)) => Err(error),
        _ => Ok(()),
    }
}
