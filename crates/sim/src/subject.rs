//! What is explored: a reader that can be started anew and led to the same state again.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certsource::machine::Policy;
use certsource::{Error, Files, Material};

use crate::disk::Disk;
use crate::fs::SimFs;
use crate::watches::SimWatches;

/// The files of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Spec {
    /// A bundle of trust anchors in one file.
    Trust(PathBuf),
    /// A certificate and its key.
    Pair(PathBuf, PathBuf),
    /// A bundle, a certificate and its key.
    Full(PathBuf, PathBuf, PathBuf),
}

impl Spec {
    /// The paths, always in this order: bundle, certificate, key.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Trust(ca) => vec![ca.clone()],
            Self::Pair(cert, key) => vec![cert.clone(), key.clone()],
            Self::Full(ca, cert, key) => vec![ca.clone(), cert.clone(), key.clone()],
        }
    }

    /// The source over them.
    pub fn files(&self, fs: &SimFs) -> Files {
        let files = match self {
            Self::Trust(ca) => Files::trust(ca),
            Self::Pair(cert, key) => Files::identity(cert, key),
            Self::Full(ca, cert, key) => Files::trust(ca).with_identity(cert, key),
        };
        files.filesystem(Arc::new(fs.clone()))
    }
}

/// What a reader wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until this time since the beginning; `None` is until it is woken.
    Wait(Option<Duration>),
    /// To look.
    Look,
    /// To read.
    Read,
    /// To decide, without any access.
    Judge,
}

/// What one read of the whole source gave.
#[derive(Clone, Debug)]
pub enum Reading {
    /// A whole.
    Whole(Arc<Material>),
    /// A failure; with it, what there was of trust, as DER.
    Failed(Error, Option<Vec<Vec<u8>>>),
    /// For readers that parse nothing: the bytes of each file.
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Reading {
    /// Equal for readings that a reader cannot tell apart.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Whole(material) => {
                let key = material.identity().map(|identity| identity.key().secret_der());
                hash(&("whole", material.digest(), key, material.is_single_file()))
            }
            Self::Failed(error, partial) => {
                // What it says in detail changes nothing in what a reader does.
                hash(&("failed", format!("{:?}", error.reason()), partial))
            }
            Self::Bytes(bytes) => hash(&("bytes", bytes)),
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(material) => {
                write!(f, "whole, {} certificates", material.certificates().count())
            }
            Self::Failed(error, _) => write!(f, "fails: {}", error.reason()),
            Self::Bytes(bytes) => {
                write!(f, "sizes {:?}", bytes.iter().map(|b| b.as_ref().map(Vec::len)).collect::<Vec<_>>())
            }
        }
    }
}

/// A generation that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Published {
    /// Its number.
    pub number: u64,
    /// Stands for its material: compare with [`Subject::tag`].
    pub tag: u64,
}

/// A reader under way.
pub trait Live {
    /// What it wants next, at the file system's time.
    fn next(&mut self) -> Next;
    /// Makes the look that it wants. Gives a hash of what came of it.
    fn look(&mut self) -> u64;
    /// Takes the reading that it wants: it was begun at this time.
    fn read(&mut self, began: Duration, reading: &Reading);
    /// Makes the decision that it wants.
    fn judge(&mut self);
    /// What it has published since this was last asked.
    fn published(&mut self) -> Vec<Published>;
}

/// A kind of reader.
pub trait Subject {
    /// Starts one on this file system.
    fn start(&self, spec: &Spec, fs: &SimFs, watches: Arc<SimWatches>) -> Box<dyn Live>;
    /// One read of the whole source. It depends on nothing but the file system: that is why it is explored once for
    /// each state of that, and not for each state of the reader.
    fn read(&self, spec: &Spec, fs: &SimFs) -> Reading;
    /// What stands for the content as it is now, if it is whole.
    fn tag(&self, spec: &Spec, disk: &Arc<Disk>) -> Option<u64>;
    /// Whether it is woken by events, so that their order matters.
    fn takes_events(&self) -> bool;
    /// How patient it is.
    fn policy(&self) -> &Policy;
}

/// The hash of anything.
pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
