//! What a path led to at one moment, in a form that can be compared.

use std::io;
use std::path::Path;

use super::{Fs, Signature};

/// What a path led to. Two are compared with `==` only: any difference is a change, also from one error to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Something is there.
    There(Signature),
    /// Nothing is, or it may not be looked at.
    Not(io::ErrorKind),
}

impl Default for Seen {
    fn default() -> Self {
        Self::Not(io::ErrorKind::NotFound)
    }
}

impl Seen {
    /// What `path` leads to now.
    pub(crate) fn at(fs: &dyn Fs, path: &Path) -> Self {
        match fs.metadata(path) {
            Ok(meta) => Self::There(meta.signature()),
            Err(error) => Self::Not(error.kind()),
        }
    }
}
