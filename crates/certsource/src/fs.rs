//! The rim to the file system: everything this crate does to files goes through [`Fs`].
//!
//! Two implementations: [`RealFs`] here, and the simulated one that the tests explore. What is not here: any decision
//! about what was found.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

pub(crate) mod data;
mod real;
mod seen;

pub use real::RealFs;
pub(crate) use seen::Seen;

/// The file system as this crate needs it. All calls may block.
pub trait Fs: Send + Sync + fmt::Debug {
    /// The facts of what `path` leads to, links followed.
    ///
    /// # Errors
    /// As the operating system says.
    fn metadata(&self, path: &Path) -> io::Result<Meta>;

    /// The target of the link `path`, put into `into` (its memory is used again).
    ///
    /// # Errors
    /// As the operating system says; [`io::ErrorKind::InvalidInput`] when `path` is not a link.
    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()>;

    /// Opens for reading what `path` leads to, if it is a regular file. Anything else is not opened, so that looking
    /// at a FIFO or a device has no effect and does not block.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &Path) -> io::Result<Opened>;

    /// Opens a directory, links followed. Names are then looked up in that very directory, also when `path` comes to
    /// mean another one.
    ///
    /// # Errors
    /// As the operating system says.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>>;

    /// What kind of volume `path` is on.
    ///
    /// # Errors
    /// As the operating system says.
    fn volume(&self, path: &Path) -> io::Result<Volume>;
}

/// An open directory.
pub trait Dir: Send {
    /// Opens a name in it: see [`Fs::open`].
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, name: &Path) -> io::Result<Opened>;

    /// The names in it, without `.` and `..`, in no particular order.
    ///
    /// # Errors
    /// As the operating system says.
    fn names(&self) -> io::Result<Vec<OsString>>;

    /// The facts of the directory itself.
    ///
    /// # Errors
    /// As the operating system says.
    fn metadata(&self) -> io::Result<Meta>;
}

/// What opening a path gave.
pub enum Opened {
    /// A regular file, open for reading.
    File(Box<dyn File>),
    /// Something else, which was not opened.
    NotRegular(Kind),
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_) => f.write_str("File"),
            Self::NotRegular(kind) => f.debug_tuple("NotRegular").field(kind).finish(),
        }
    }
}

/// An open regular file.
pub trait File: Send {
    /// The facts of the open file: those of its inode, whatever its name means by now.
    ///
    /// # Errors
    /// As the operating system says.
    fn metadata(&self) -> io::Result<Meta>;

    /// Reads on, as `read(2)` does; 0 is the end.
    ///
    /// # Errors
    /// As the operating system says.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// What kind of thing a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character or block device.
    Device,
    /// Anything else.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "not a regular file",
        })
    }
}

/// A time stamp of a file: seconds and nanoseconds since 1970, as the file system stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub secs: i64,
    /// Nanoseconds of the second, 0..1_000_000_000.
    pub nanos: u32,
}

/// The facts of an inode, as `stat(2)` tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// The device it is on.
    pub device: u64,
    /// The inode's number.
    pub inode: u64,
    /// The number of names it has; 0 means that no name leads to it any more.
    pub links: u64,
    /// Bytes.
    pub size: u64,
    /// Permission bits (`0o7777`), 0 where the system has none.
    pub mode: u32,
    /// Last change of content.
    pub modified: Stamp,
    /// Last change of content or attributes.
    pub changed: Stamp,
    /// Creation, where the file system keeps it.
    pub born: Option<Stamp>,
}

impl Meta {
    /// What identifies one state of one file: compared with `==` only, never with `<`, because clocks go back.
    pub fn signature(&self) -> Signature {
        let Self { kind, device, inode, size, modified, changed, born, .. } = *self;
        let nanos = |stamp: Option<Stamp>| stamp.map_or(Signature::NEVER, |stamp| stamp.nanos);
        Signature {
            device,
            inode,
            size,
            secs: [modified.secs, changed.secs, born.map_or(0, |stamp| stamp.secs)],
            nanos: [nanos(Some(modified)), nanos(Some(changed)), nanos(born)],
            kind,
        }
    }
}

/// See [`Meta::signature`].
//
// 64 bytes, one line of the processor's cache: thousands of them are compared each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    /// Of the last change of content, of content or attributes, and of the creation.
    secs: [i64; 3],
    nanos: [u32; 3],
    kind: Kind,
}

impl Signature {
    /// In place of the nanoseconds of a moment that the file system does not keep: no second has as many.
    const NEVER: u32 = u32::MAX;
}

#[cfg(feature = "notify")]
impl Signature {
    /// Last change of content.
    pub(crate) fn modified(&self) -> Stamp {
        let ([secs, ..], [nanos, ..]) = (self.secs, self.nanos);
        Stamp { secs, nanos }
    }

    /// Last change of content or attributes.
    pub(crate) fn changed(&self) -> Stamp {
        let ([_, secs, _], [_, nanos, _]) = (self.secs, self.nanos);
        Stamp { secs, nanos }
    }

    /// Creation, where the file system keeps it.
    pub(crate) fn born(&self) -> Option<Stamp> {
        let ([.., secs], [.., nanos]) = (self.secs, self.nanos);
        (nanos != Self::NEVER).then_some(Stamp { secs, nanos })
    }
}

/// What kind of volume a path is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Volume {
    /// A file system of this machine whose time stamps and events can be relied on.
    Local,
    /// A network, FUSE or unknown file system: time stamps may be coarse or cached, events missing.
    Remote,
}
