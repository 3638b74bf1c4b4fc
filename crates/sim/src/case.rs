//! A [`Case`]: a source, the disk it begins with, and what a writer does to it, call by call.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Blob, Call, Disk, Traits};
use crate::subject::Spec;

/// A system call of a writer.
#[derive(Clone, Debug)]
pub struct Step {
    /// The call.
    pub call: Call,
    /// Whether the writer may be away before it for longer than the settle time: what stands then is not whole.
    pub may_linger: bool,
}

/// A writer at work.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row of the list of writers, and its name.
    pub name: String,
    /// What is read.
    pub spec: Spec,
    /// How the disk came to be, an hour before.
    pub setup: Vec<Call>,
    /// What the writer does.
    pub steps: Vec<Step>,
    /// The contents that the writer means, in the order of [`Spec::paths`]; the first is that of the beginning.
    pub versions: Vec<Vec<Option<Blob>>>,
    /// Whether the writer closes a file and opens it again for more.
    pub reopens: bool,
}

impl Case {
    /// A writer that has not begun.
    pub fn new(name: &str, spec: Spec) -> Self {
        Self {
            name: name.to_owned(),
            spec,
            setup: vec![Call::Mkdir("/etc".into()), Call::Mkdir("/etc/tls".into())],
            steps: Vec::new(),
            versions: Vec::new(),
            reopens: false,
        }
    }

    /// The same, with this file at the beginning.
    #[must_use]
    pub fn with_file(mut self, path: &str, bytes: &Blob) -> Self {
        self.setup.extend(create(90, path, std::slice::from_ref(bytes)));
        self
    }

    /// The same, with these calls at the beginning.
    #[must_use]
    pub fn with_setup(mut self, calls: impl IntoIterator<Item = Call>) -> Self {
        self.setup.extend(calls);
        self
    }

    /// The same, with this content meant.
    #[must_use]
    pub fn meaning<'a>(mut self, contents: impl IntoIterator<Item = &'a Blob>) -> Self {
        self.versions.push(contents.into_iter().cloned().map(Some).collect());
        self
    }

    /// The same, and then these calls.
    #[must_use]
    pub fn then(mut self, calls: impl IntoIterator<Item = Call>) -> Self {
        self.steps.extend(calls.into_iter().map(|call| Step { call, may_linger: false }));
        self
    }

    /// The same, and then these calls, before each of which the writer may be away for long.
    #[must_use]
    pub fn then_lingering(mut self, calls: impl IntoIterator<Item = Call>) -> Self {
        self.steps.extend(calls.into_iter().map(|call| Step { call, may_linger: true }));
        self
    }

    /// The same; the writer closes and opens again.
    #[must_use]
    pub fn reopening(mut self) -> Self {
        self.reopens = true;
        self
    }

    /// The paths of the source.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.spec.paths()
    }

    /// Every name that can be on the way to a file of the source: those of its paths, and of whatever a link points to.
    pub fn names_on_the_way(&self) -> HashSet<OsString> {
        let calls = self.setup.iter().chain(self.steps.iter().map(|step| &step.call));
        let targets = calls.filter_map(|call| match call {
            Call::Symlink(target, _) => Some(target.clone()),
            _ => None,
        });
        let paths: Vec<_> = self.paths().into_iter().chain(targets).collect();
        paths.iter().flat_map(|path| path.iter().map(OsString::from)).collect()
    }

    /// The disk at the beginning.
    ///
    /// # Panics
    /// If the setup is not possible.
    pub fn disk(&self, traits: Traits) -> Arc<Disk> {
        let mut disk = Disk::new(traits);
        let calls = std::iter::once(&Call::SetClock(-3600)).chain(&self.setup);
        for call in calls.chain([&Call::SetClock(3600)]) {
            disk.call(call).unwrap_or_else(|error| panic!("{}: setup {call:?}: error {error}", self.name));
        }
        disk.wait_until(Duration::ZERO);
        Arc::new(disk)
    }

    /// Which of the meant contents stand now, as bits: more than one, if the writer comes back to one.
    pub fn versions_of(&self, visible: &[Option<Blob>]) -> u64 {
        let bits = self.versions.iter().enumerate().filter(|(_, version)| *version == visible);
        bits.fold(0, |bits, (number, _)| bits | 1 << number)
    }
}

/// Opens a new file, writes it piece by piece and closes it.
pub fn create(fd: u32, path: &str, pieces: &[Blob]) -> Vec<Call> {
    let open =
        Call::Open { fd, path: path.into(), create: true, exclusive: true, truncate: false, append: false };
    let writes = pieces.iter().map(|bytes| Call::Write { fd, bytes: bytes.clone() });
    std::iter::once(open).chain(writes).chain([Call::Close { fd }]).collect()
}

/// Opens a file, cuts it to nothing, writes it piece by piece and closes it.
pub fn overwrite(fd: u32, path: &str, pieces: &[Blob]) -> Vec<Call> {
    let mut calls = create(fd, path, pieces);
    if let Call::Open { exclusive, truncate, .. } = &mut calls[0] {
        (*exclusive, *truncate) = (false, true);
    }
    calls
}

/// Writes another file and renames it over this one.
pub fn replace(fd: u32, path: &str, pieces: &[Blob]) -> Vec<Call> {
    let temporary = format!("{path}.tmp");
    let mut calls = create(fd, &temporary, pieces);
    calls.push(Call::Rename(temporary.into(), path.into()));
    calls
}
