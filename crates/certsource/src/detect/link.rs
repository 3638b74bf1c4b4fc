//! The `..data` link that all paths of a source go through, followed from look to look.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::fs::{Fs, data};

/// What happened to the link since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It points where it pointed.
    No,
    /// It pointed somewhere and now points somewhere else: the volume was swapped.
    Swapped,
    /// It came or went.
    Otherwise,
}

/// The link, and where it pointed when it was last read.
#[derive(Debug)]
pub(super) struct DataLink {
    path: PathBuf,
    there: bool,
    target: OsString,
    /// Kept between looks, so that an idle one allocates nothing.
    buffer: OsString,
}

impl DataLink {
    /// The link that all of `paths` go through, read now.
    pub(super) fn find(fs: &dyn Fs, paths: &[PathBuf]) -> Option<Self> {
        let path = data::shared_root(fs, paths)?.join(data::LINK);
        let mut link = Self { path, there: false, target: OsString::new(), buffer: OsString::new() };
        link.moved(fs);
        Some(link)
    }

    /// Reads the link again.
    pub(super) fn moved(&mut self, fs: &dyn Fs) -> Moved {
        let there = fs.read_link(&self.path, &mut self.buffer).is_ok();
        let moved = match (self.there, there) {
            (false, false) => Moved::No,
            (true, true) if self.buffer == self.target => Moved::No,
            (true, true) => Moved::Swapped,
            _ => Moved::Otherwise,
        };
        if moved != Moved::No {
            self.there = there;
            std::mem::swap(&mut self.target, &mut self.buffer);
        }
        moved
    }
}
