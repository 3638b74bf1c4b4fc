//! [`Disk`]: the whole state of the simulated file system as one value that is cheap to clone, compare and hash.
//!
//! The writers' system calls are in `disk/call.rs`, the reader's accesses in `disk/access.rs`, path look-up in
//! `disk/walk.rs`. What is not here: who does what when ([`crate::explore`]) and watches ([`crate::watches`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use certsource::clock::Now;
use certsource::fs::{Kind, Meta, Stamp, Volume};

mod access;
mod call;
mod walk;

pub use access::{Access, Seen};
pub use call::{Call, Happening, RawEvent};

/// Seconds since 1970 at which every simulation begins: some moment in 2027.
pub const BEGIN: u64 = 1_800_000_000;

/// Error numbers of Linux, as far as they are used here.
pub mod errno {
    #![allow(missing_docs, reason = "the names are those of errno(3)")]
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const EACCES: i32 = 13;
    pub const EEXIST: i32 = 17;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EMFILE: i32 = 24;
    pub const ENOTEMPTY: i32 = 39;
    pub const ELOOP: i32 = 40;
}

/// Bytes with their hash, so that states are compared and hashed quickly.
#[derive(Clone)]
pub struct Blob {
    bytes: Arc<[u8]>,
    hash: u64,
}

impl Blob {
    /// These bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Self { hash: hasher.finish(), bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn with(&self, at: usize, new: &[u8]) -> Self {
        let mut bytes = self.bytes.to_vec();
        if bytes.len() < at + new.len() {
            bytes.resize(at + new.len(), 0);
        }
        bytes[at..at + new.len()].copy_from_slice(new);
        Self::new(bytes)
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes.len() == other.bytes.len()
    }
}

impl Eq for Blob {}

impl Hash for Blob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {:04x}", self.bytes.len(), self.hash & 0xffff)
    }
}

/// Names an inode for good. Its number, which the reader sees, is used again as soon as it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u32);

impl Key {
    /// Names no inode.
    pub const NOTHING: Self = Self(u32::MAX);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Body {
    File(Blob),
    Dir(BTreeMap<OsString, Key>),
    Link(OsString),
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Inode {
    number: u64,
    body: Body,
    links: u64,
    mode: u32,
    modified: Stamp,
    changed: Stamp,
    born: Stamp,
}

/// A descriptor that a writer holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Descriptor {
    key: Key,
    offset: usize,
    /// Where it was opened, for events.
    dir: Key,
    name: OsString,
    has_written: bool,
    has_stored: bool,
}

/// What a fault does to the reader's accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Every look-up and open gives this error number.
    Lookup(i32),
    /// Opening gives this error number; looking does not.
    Open(i32),
    /// Reading from the open file gives this error number.
    Read(i32),
    /// Opening takes this long before it goes on.
    Hang(Duration),
    /// Looking (`stat`, `readlink`) takes this long before it goes on.
    HangLook(Duration),
    /// Each read from the open file takes this long before it goes on.
    HangRead(Duration),
}

/// How a file system behaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traits {
    /// Time stamps are cut to whole multiples of this.
    pub tick: Duration,
    /// What the volume says it is.
    pub volume: Volume,
    /// How long attributes that were once looked at by path are believed (NFS); opening a file asks the server.
    pub cached_for: Duration,
    /// The most that one read gives.
    pub read_most: usize,
    /// Whether birth times are kept.
    pub keeps_births: bool,
}

impl Default for Traits {
    fn default() -> Self {
        Self {
            tick: Duration::from_nanos(1),
            volume: Volume::Local,
            cached_for: Duration::ZERO,
            read_most: usize::MAX,
            keeps_births: true,
        }
    }
}

/// A whole file system, its clock and its faults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    inodes: BTreeMap<Key, Arc<Inode>>,
    next_key: u32,
    next_number: u64,
    free_numbers: Vec<u64>,
    root: Key,
    descriptors: BTreeMap<u32, Descriptor>,
    /// Inodes that the reader holds open, and how often.
    pins: BTreeMap<Key, u32>,
    cache: BTreeMap<PathBuf, (Result<Meta, i32>, Duration)>,
    faults: BTreeMap<Option<OsString>, Fault>,
    traits: Traits,
    /// Since the simulation began. Never goes back.
    mono: Duration,
    /// How far the wall clock is off that, in seconds.
    shift: i64,
    /// Whether a time stamp moved with the last change of content. For the bound of invariant 5.
    stamps_moved: bool,
    /// How many calls were made: each takes a nanosecond, so that on a fine clock no two have one stamp.
    calls: u32,
}

impl Disk {
    /// An empty file system.
    pub fn new(traits: Traits) -> Self {
        let mut disk = Self {
            inodes: BTreeMap::new(),
            next_key: 0,
            next_number: 2,
            free_numbers: Vec::new(),
            root: Key(0),
            descriptors: BTreeMap::new(),
            pins: BTreeMap::new(),
            cache: BTreeMap::new(),
            faults: BTreeMap::new(),
            traits,
            mono: Duration::ZERO,
            shift: 0,
            stamps_moved: true,
            calls: 0,
        };
        disk.root = disk.add(Body::Dir(BTreeMap::new()), 0o755);
        disk
    }

    /// The time on both clocks.
    pub fn now(&self) -> Now {
        let wall = UNIX_EPOCH + Duration::from_secs(BEGIN) + self.mono;
        let shift = Duration::from_secs(self.shift.unsigned_abs());
        Now { mono: begin() + self.mono, wall: if self.shift < 0 { wall - shift } else { wall + shift } }
    }

    /// The time since the simulation began.
    pub fn mono(&self) -> Duration {
        self.mono
    }

    /// Moves both clocks on to this moment. Never back.
    pub fn wait_until(&mut self, mono: Duration) {
        self.mono = self.mono.max(mono);
    }

    /// Puts the clocks at this moment, to ask what was asked then.
    pub(crate) fn set_mono(&mut self, mono: Duration) {
        self.mono = mono;
    }

    /// Ends every fault.
    pub fn mend_all(&mut self) {
        self.faults.clear();
    }

    /// How the file system behaves.
    pub fn traits(&self) -> &Traits {
        &self.traits
    }

    /// The content that each path leads to, for a model: no cache, no faults.
    pub fn visible(&self, paths: &[PathBuf]) -> Vec<Option<Blob>> {
        paths.iter().map(|path| self.content(path)).collect()
    }

    /// The content that a path leads to, if it is a file.
    pub fn content(&self, path: &std::path::Path) -> Option<Blob> {
        let key = self.lead_to(self.root, path, true).ok()?;
        match &self.inodes.get(&key)?.body {
            Body::File(blob) => Some(blob.clone()),
            _ => None,
        }
    }

    /// Whether the last change of content moved a time stamp.
    pub fn stamps_moved(&self) -> bool {
        self.stamps_moved
    }

    /// The fault of an access to `name`, if there is one.
    pub fn fault(&self, name: Option<&std::ffi::OsStr>) -> Option<Fault> {
        if self.faults.is_empty() {
            return None;
        }
        let named = name.and_then(|name| self.faults.get(&Some(name.to_owned())));
        named.or_else(|| self.faults.get(&None)).copied()
    }

    /// Whether the reader holds it open.
    pub(crate) fn is_pinned(&self, key: Key) -> bool {
        self.pins.contains_key(&key)
    }

    /// The reader closes what it held open.
    pub fn unpin(&mut self, key: Key) {
        if let Some(count) = self.pins.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&key);
                self.release(key);
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let since = self.now().wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let tick = self.traits.tick.as_nanos().max(1);
        let since = since + u128::from(self.calls);
        to_stamp(since - since % tick)
    }

    fn add(&mut self, body: Body, mode: u32) -> Key {
        let key = Key(self.next_key);
        self.next_key += 1;
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        let links = if matches!(body, Body::Dir(_)) { 2 } else { 1 };
        let now = self.stamp();
        let inode = Inode { number, body, links, mode, modified: now, changed: now, born: now };
        self.inodes.insert(key, Arc::new(inode));
        key
    }

    fn inode(&mut self, key: Key) -> &mut Inode {
        let inode = self.inodes.get_mut(&key).expect("a key that is reachable has its inode");
        Arc::make_mut(inode)
    }

    /// Frees an inode without names and holders; its number is the next to be given out.
    fn release(&mut self, key: Key) {
        let is_held = self.pins.contains_key(&key) || self.descriptors.values().any(|held| held.key == key);
        if is_held || self.inodes.get(&key).is_none_or(|inode| inode.links > 0) {
            return;
        }
        if let Some(inode) = self.inodes.remove(&key) {
            self.free_numbers.push(inode.number);
        }
    }

    fn meta(&self, key: Key) -> Meta {
        let inode = &self.inodes[&key];
        let (kind, size) = match &inode.body {
            Body::File(blob) => (Kind::File, blob.bytes.len() as u64),
            Body::Dir(_) => (Kind::Directory, 4096),
            Body::Link(target) => (Kind::Other, target.len() as u64),
            Body::Fifo => (Kind::Fifo, 0),
        };
        Meta {
            kind,
            device: 1,
            inode: inode.number,
            links: inode.links,
            size,
            mode: inode.mode,
            modified: inode.modified,
            changed: inode.changed,
            born: self.traits.keeps_births.then_some(inode.born),
        }
    }
}

/// The moment on the monotonic clock that stands for the beginning of every simulation of this process. Only
/// differences to it are ever used, so that runs repeat.
pub fn begin() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now)
}

/// A moment of the simulated wall clock.
pub fn wall(after: Duration) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BEGIN) + after
}

fn to_stamp(nanos: u128) -> Stamp {
    let secs = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
    Stamp { secs, nanos: (nanos % 1_000_000_000) as u32 }
}
