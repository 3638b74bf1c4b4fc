//! The file system of this machine.
//!
//! What is not here: the system calls themselves, which differ by platform, and any decision.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::{Dir, Fs, Meta, Opened, Volume};

#[cfg(not(unix))]
mod portable;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
use portable as system;
#[cfg(unix)]
use unix as system;

/// The file system of this machine.
///
/// # Platforms
/// - Linux: everything that [`Fs`] promises. Birth times come from `statx(2)` where the file system keeps them.
/// - Other Unix: there is no way to look at an open path before it is opened for reading, so a file is opened
///   without blocking and looked at then; opening a FIFO can be seen by its writer. Every volume counts as
///   [`Volume::Remote`], so content is compared by digest.
/// - Windows and others: `std` tells no inode, no change time and no link count; names in an open directory are
///   looked up by path. Every volume counts as [`Volume::Remote`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl RealFs {
    /// The file system of this machine.
    pub fn new() -> Self {
        Self
    }
}

impl Fs for RealFs {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        system::metadata(path)
    }

    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        system::read_link(path, into)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        system::open(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        system::open_dir(path)
    }

    fn volume(&self, path: &Path) -> io::Result<Volume> {
        system::volume(path)
    }
}
