//! The detector that compares content.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::Digest as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::link::{DataLink, Moved};
use crate::clock::Now;
use crate::digest::SecretHasher;
use crate::error::Error;
use crate::fs::{Fs, Kind, Opened, Seen};
use crate::source::{Arrival, Detector, Look};

/// Bytes after which a file counts as too large to compare: more than any limit on a file that is read for use.
const CAP: u64 = 256 * 1024 * 1024;
const CHUNK: usize = 16 * 1024;
/// Content that changed while the engine read it, and was put back, looks like what the last look saw. So a change is
/// read once more after this time, and the files are read this often in any case.
const READ_AGAIN: Duration = Duration::from_secs(2);
const READ_ANYWAY: Duration = Duration::from_secs(300);

/// Compares the SHA-256 of each file's content at every look. For network and other file systems whose time stamps
/// cannot be relied on, and for anyone who would rather read than trust them.
///
/// # Limits
/// A file over 256 MiB is one state, whatever it holds; reading it for use fails long before that.
///
/// Digests of private keys are among those it keeps. They never leave it: its `Debug` shows none.
#[derive(Default)]
pub struct Sha256 {
    entries: Vec<(PathBuf, State)>,
    link: Option<DataLink>,
    buffer: Zeroizing<Vec<u8>>,
    has_looked: bool,
    /// What `stat(2)` told at the last look that said "changed", until the next look. What the engine read in between may
    /// have been put there and taken away again, and then the digests are as before.
    seen: Vec<Seen>,
    /// When to say "changed" although nothing differs.
    read_again: Option<Instant>,
    read_anyway: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    File([u8; 32]),
    Names([u8; 32]),
    TooLarge,
    NotRegular(Kind),
    Not(io::ErrorKind),
}

impl Sha256 {
    /// A detector that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the states of `paths` as they are now, and says whether they are what they were.
    fn take(&mut self, fs: &dyn Fs, paths: &[PathBuf]) -> bool {
        let is_new = self.entries.len() != paths.len()
            || self.entries.iter().zip(paths).any(|((entry, _), path)| entry.as_os_str() != path.as_os_str());
        if is_new {
            self.entries = paths.iter().map(|path| (path.clone(), State::TooLarge)).collect();
        }
        self.buffer.resize(CHUNK, 0);
        let mut differs = is_new;
        for (path, state) in &mut self.entries {
            let now = state_of(fs, path, &mut self.buffer);
            differs |= now != *state;
            *state = now;
        }
        // Bytes of keys went through it.
        self.buffer.as_mut_slice().zeroize();
        differs
    }
}

impl Sha256 {
    /// What a look says whose digests are those of the look before.
    fn same(&mut self, now: Now) -> Look {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if is_due(self.read_again) || is_due(self.read_anyway) {
            self.read_again = None;
            self.read_anyway = now.mono.checked_add(READ_ANYWAY);
            return Look::Changed(Arrival::Recheck);
        }
        self.read_again.map_or(Look::Same, Look::SameUntil)
    }

    /// Whether a file was replaced or touched since the last look, if that look said "changed".
    fn was_moved(&mut self, fs: &dyn Fs, paths: &[PathBuf]) -> bool {
        let seen = std::mem::take(&mut self.seen);
        seen.iter().zip(paths).any(|(seen, path)| Seen::at(fs, path) != *seen)
    }

    fn changed(&mut self, fs: &dyn Fs, paths: &[PathBuf], arrival: Arrival) -> Look {
        self.seen = paths.iter().map(|path| Seen::at(fs, path)).collect();
        Look::Changed(arrival)
    }
}

impl Detector for Sha256 {
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        // The link before the files: if it moves in between, the next look sees both again.
        let moved = self.link.as_mut().map_or(Moved::No, |link| link.moved(fs));
        let differs = self.take(fs, paths);
        if differs {
            self.read_again = now.mono.checked_add(READ_AGAIN);
            self.read_anyway = now.mono.checked_add(READ_ANYWAY);
        }
        if !std::mem::replace(&mut self.has_looked, true) {
            self.link = DataLink::find(fs, paths);
            return Ok(self.changed(fs, paths, Arrival::Unknown));
        }
        if !differs {
            // Once: a file system whose numbers move by themselves would say so at every look.
            let was_moved = self.was_moved(fs, paths);
            return Ok(if was_moved { Look::Changed(Arrival::Unknown) } else { self.same(now) });
        }
        if moved == Moved::Swapped {
            return Ok(self.changed(fs, paths, Arrival::Swapped));
        }
        self.link = DataLink::find(fs, paths);
        Ok(self.changed(fs, paths, Arrival::Unknown))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.entries.iter().map(|(path, _)| path).collect();
        f.debug_struct("Sha256").field("paths", &paths).finish_non_exhaustive()
    }
}

fn state_of(fs: &dyn Fs, path: &Path, buffer: &mut [u8]) -> State {
    let state = match fs.open(path) {
        Ok(Opened::File(mut file)) => digest(&mut *file, buffer),
        Ok(Opened::NotRegular(Kind::Directory)) => names(fs, path),
        Ok(Opened::NotRegular(kind)) => Ok(State::NotRegular(kind)),
        Err(error) => Err(error),
    };
    state.unwrap_or_else(|error| State::Not(error.kind()))
}

fn digest(file: &mut dyn crate::fs::File, buffer: &mut [u8]) -> io::Result<State> {
    let mut hasher = SecretHasher::default();
    let mut total = 0;
    loop {
        let read = file.read(buffer)?;
        if read == 0 {
            return Ok(State::File(hasher.finish()));
        }
        total += read as u64;
        if total > CAP {
            return Ok(State::TooLarge);
        }
        hasher.update(&buffer[..read]);
    }
}

/// A directory is what it lists.
fn names(fs: &dyn Fs, path: &Path) -> io::Result<State> {
    let mut names = fs.open_dir(path)?.names()?;
    names.sort_unstable();
    let mut hasher = sha2::Sha256::new();
    for name in names {
        let name = name.as_encoded_bytes();
        hasher.update((name.len() as u64).to_be_bytes());
        hasher.update(name);
    }
    Ok(State::Names(hasher.finalize().into()))
}
