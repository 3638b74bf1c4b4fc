//! The detector that compares what `stat(2)` tells.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustc_hash::FxHasher;

use super::Sha256;
use super::link::{DataLink, Moved};
use crate::clock::Now;
use crate::error::Error;
use crate::few::Few;
use crate::fs::{Fs, Seen, Volume};
use crate::source::{Arrival, Detector, Look};

/// How long after a signature was first seen a read must lie for the two to be trusted together. Coarser than the
/// time stamps of every file system that counts as local (the coarsest, ext3 and ext4 with small inodes: 1 s).
const TRUST_AFTER: Duration = Duration::from_secs(2);
/// How long files behind an unmoved `..data` link go without a look of their own.
const FULL_ROUND: Duration = Duration::from_secs(10);
/// How often content is read whatever the signatures say.
const READ_ANYWAY: Duration = Duration::from_secs(300);

/// Compares each path's signature: device, inode, size, modification, change and birth time.
///
/// Signatures are compared for being different, never for being later: a clock may go back, and so may a file's time
/// (`cp -p`). A file that is absent, or may not be looked at, is a state like any other.
///
/// # Behaviour
/// - A Kubernetes volume costs one `readlink(2)` a look; the files behind it are looked at every 10 s, for writers
///   that edit them in place.
/// - Two changes within one tick of a file system's clock can leave equal signatures. So 2 s after a signature was
///   first seen the content is read once more.
/// - Some changes move no time stamp at all (`mmap(2)`, `utimensat(2)` with a cheating clock). So the content is read
///   every 5 minutes in any case.
/// - If one of the paths is on a network, FUSE or unknown file system, every look compares digests, as [`Sha256`].
///
/// An idle look on local files allocates nothing.
//
// What an idle look needs comes first, in this order: see `machine::Machine`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Mtime {
    /// Which paths those are: a hash, as no second copy is worth its memory. With thousands of sources, whatever a look
    /// touches has to come from there each time. Two lists of one hash are taken for one only if they lead to the same files,
    /// too.
    of: u64,
    /// Boxed, as most sources have none.
    link: Option<Box<Followed>>,
    /// Set while a path is on a volume whose time stamps cannot be relied on.
    digests: Option<Box<Sha256>>,
    /// When the content must be read once more, whatever the signatures say; `None`: nothing was seen yet.
    read_at: Option<Instant>,
    /// That is because it changed, and so a look is due then.
    is_young: bool,
    /// Whether the last look saw something move; otherwise it said "changed" because it was time to read again.
    has_moved: bool,
    /// What each path led to.
    seen: Few<Seen>,
    /// Of which paths the state differed from what was seen before, since [`Mtime::forget_moved`]; empty: of none.
    #[cfg(feature = "notify")]
    moved: Vec<bool>,
}

#[derive(Debug)]
struct Followed {
    link: DataLink,
    /// From when on every file is looked at; `None`: by the next look.
    full_from: Option<Instant>,
}

impl Mtime {
    /// A detector that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes everything as it is now for what was last seen.
    fn take(&mut self, fs: &dyn Fs, paths: &[PathBuf]) {
        // The link first: if it moves while the files are looked at, the next look says so.
        self.link = DataLink::find(fs, paths).map(|link| Box::new(Followed { link, full_from: None }));
        let seen = Few::from_iter(paths.iter().map(|path| Seen::at(fs, path)));
        let of = hash(paths);
        #[cfg(feature = "notify")]
        self.note_moved(of, &seen);
        (self.seen, self.of) = (seen, of);
        if !paths.iter().all(|path| is_local(fs, path)) {
            self.digests.get_or_insert_default();
        } else {
            self.digests = None;
        }
    }

    /// A look at every file, also at those behind a link that has not moved.
    #[cfg(feature = "notify")]
    pub(super) fn look_at_all(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        if let Some(followed) = &mut self.link {
            followed.full_from = None;
        }
        self.look(fs, paths, now)
    }

    /// Whether the last look saw something move.
    #[cfg(feature = "notify")]
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Before `seen` takes the place of what was seen. The first time nothing is known to have moved.
    #[cfg(feature = "notify")]
    fn note_moved(&mut self, of: u64, seen: &[Seen]) {
        if self.read_at.is_none() {
            return;
        }
        if self.of != of {
            self.moved = vec![true; seen.len()];
            return;
        }
        self.moved.resize(seen.len(), false);
        for (moved, (before, seen)) in self.moved.iter_mut().zip(self.seen.iter().zip(seen)) {
            *moved |= before != seen;
        }
    }

    /// What is at each path that changed since [`forget_moved`](Self::forget_moved), as the last look saw it.
    #[cfg(feature = "notify")]
    pub(super) fn moved(&self) -> impl Iterator<Item = &Seen> {
        self.moved.iter().zip(self.seen.iter()).filter(|(moved, _)| **moved).map(|(_, seen)| seen)
    }

    /// What has changed so far is explained, or never will be.
    #[cfg(feature = "notify")]
    pub(super) fn forget_moved(&mut self) {
        self.moved = Vec::new();
    }

    fn changed(&mut self, arrival: Arrival, now: Instant) -> Look {
        if let Some(followed) = &mut self.link {
            followed.full_from = Some(now + FULL_ROUND);
        }
        (self.read_at, self.is_young) = (Some(now + TRUST_AFTER), true);
        self.has_moved = true;
        Look::Changed(arrival)
    }

    fn any_differs(&self, fs: &dyn Fs, paths: &[PathBuf]) -> bool {
        self.seen.iter().zip(paths).any(|(seen, path)| Seen::at(fs, path) != *seen)
    }
}

impl Detector for Mtime {
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        let mono = now.mono;
        self.has_moved = false;
        let Some(read_at) = self.read_at.filter(|_| self.of == hash(paths)) else {
            self.take(fs, paths);
            if let Some(digests) = &mut self.digests {
                digests.look(fs, paths, now)?;
            }
            return Ok(self.changed(Arrival::Unknown, mono));
        };
        if let Some(digests) = &mut self.digests {
            let look = digests.look(fs, paths, now)?;
            if let Look::Changed(arrival) = look {
                self.take(fs, paths);
                return Ok(self.changed(arrival, mono));
            }
            return Ok(look);
        }
        let is_full = match &mut self.link {
            None => true,
            Some(followed) => {
                let moved = followed.link.moved(fs);
                if moved != Moved::No {
                    let arrival = if moved == Moved::Swapped { Arrival::Swapped } else { Arrival::Unknown };
                    self.take(fs, paths);
                    return Ok(self.changed(arrival, mono));
                }
                let is_full = followed.full_from.is_none_or(|from| mono >= from);
                if is_full {
                    followed.full_from = Some(mono + FULL_ROUND);
                }
                is_full
            }
        };
        if is_full && self.any_differs(fs, paths) {
            // The volume may have been swapped since the link was read above.
            let moved = self.link.as_mut().map(|followed| followed.link.moved(fs));
            let arrival = if moved == Some(Moved::Swapped) { Arrival::Swapped } else { Arrival::Unknown };
            self.take(fs, paths);
            return Ok(self.changed(arrival, mono));
        }
        if mono >= read_at {
            (self.read_at, self.is_young) = (Some(mono + READ_ANYWAY), false);
            return Ok(Look::Changed(Arrival::Recheck));
        }
        Ok(if self.is_young { Look::SameUntil(read_at) } else { Look::Same })
    }
}

/// Which paths these are, as far as 64 bits can tell.
fn hash(paths: &[PathBuf]) -> u64 {
    let mut hasher = FxHasher::default();
    // Not as paths, of which `a//b` and `a/b` are the same.
    paths.iter().for_each(|path| path.as_os_str().hash(&mut hasher));
    hasher.finish()
}

/// Whether time stamps of what `path` leads to can be relied on. What is not there has no volume: then that of the
/// nearest directory above it counts.
fn is_local(fs: &dyn Fs, path: &Path) -> bool {
    let volume = path.ancestors().find_map(|at| {
        // The last ancestor of a relative path is empty, and means here.
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        fs.volume(at).ok()
    });
    volume == Some(Volume::Local)
}
