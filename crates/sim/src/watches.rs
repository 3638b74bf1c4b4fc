//! [`SimWatches`]: file watches over a [`SimFs`], whose events whoever runs the simulation hands out when, and if, it
//! likes: at once, late, merged, in another order, not at all, or as an overflow.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use certsource::source::{FileEvent, Sink, Watch, WatchError, Watches};

use crate::disk::{Access, Happening, Key, RawEvent, Seen};
use crate::fs::SimFs;

/// Watches over a simulated file system.
pub struct SimWatches {
    fs: SimFs,
    standing: Arc<Mutex<Standing>>,
}

#[derive(Default)]
struct Standing {
    next: u64,
    most: Option<usize>,
    refused: u64,
    by_number: BTreeMap<u64, One>,
}

struct One {
    key: Key,
    path: PathBuf,
    sink: Sink,
}

/// An event on its way to one watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    watch: u64,
    kind: Happening,
    path: Option<PathBuf>,
}

impl Due {
    /// The last name of the path it tells of, if it tells of one.
    pub(crate) fn name(&self) -> Option<&std::ffi::OsStr> {
        self.path.as_ref()?.file_name()
    }
}

/// What becomes of events between the file system and the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// They come at once, also in the middle of a look.
    Prompt,
    /// They come 50 ms late, in order.
    Late,
    /// They come late, and those that are equal and wait together are one.
    Merged,
    /// They come late, and the last first.
    Reordered,
    /// They come late, and as one event that says that events were lost.
    Overflow,
    /// None comes.
    Lost,
}

impl SimWatches {
    /// Watches over this file system; no more than `most` at a time.
    pub fn new(fs: SimFs, most: Option<usize>) -> Self {
        Self { fs, standing: Arc::new(Mutex::new(Standing { most, ..Standing::default() })) }
    }

    /// How many watches were refused because there was none left.
    pub fn refused(&self) -> u64 {
        lock(&self.standing).refused
    }

    /// The part that takes events, which may be used while an access is under way.
    pub fn post(&self) -> Post {
        Post(Arc::clone(&self.standing))
    }
}

/// Takes events and hands them to the watches.
#[derive(Clone)]
pub struct Post(Arc<Mutex<Standing>>);

impl Post {
    /// Who is to be told of these events, as the watches stand now. A watch that is to be told of its own end gets no more.
    pub fn address(&self, events: &[RawEvent]) -> Vec<Due> {
        let (due, gone) = self.recipients(events);
        let mut standing = lock(&self.0);
        for one in standing.by_number.values_mut().filter(|one| gone.contains(&one.key)) {
            one.key = Key::NOTHING;
        }
        due
    }

    /// The same, and nothing changes by it; and the directories that are gone. Their watches get no more as soon as they are
    /// told of it.
    pub(crate) fn recipients(&self, events: &[RawEvent]) -> (Vec<Due>, Vec<Key>) {
        let standing = lock(&self.0);
        let mut due = Vec::new();
        let mut gone: Vec<Key> = Vec::new();
        for event in events {
            if gone.contains(&event.dir) {
                continue;
            }
            for (watch, one) in standing.by_number.iter().filter(|(_, one)| one.key == event.dir) {
                let path = event.name.as_ref().map_or_else(|| one.path.clone(), |name| one.path.join(name));
                due.push(Due { watch: *watch, kind: event.kind, path: Some(path) });
            }
            if event.name.is_none() && event.kind == Happening::Removed {
                // The directory is gone, or has another name, under which it is not what is watched here.
                gone.push(event.dir);
            }
        }
        (due, gone)
    }

    /// Whether there is a watch on this directory.
    pub(crate) fn watches(&self, directory: Key) -> bool {
        lock(&self.0).by_number.values().any(|one| one.key == directory)
    }

    /// Every standing watch is told that events were lost.
    pub fn overflow(&self) -> Vec<Due> {
        let standing = lock(&self.0);
        standing
            .by_number
            .keys()
            .map(|watch| Due { watch: *watch, kind: Happening::Rescan, path: None })
            .collect()
    }

    /// Hands events to their watches. Those that were taken down meanwhile get none.
    pub fn deliver(&self, due: &[Due]) {
        for event in due {
            let sink = lock(&self.0).by_number.get_mut(&event.watch).map(|one| {
                if event.kind == Happening::Removed && event.path.as_ref() == Some(&one.path) {
                    // Told of its own end, it gets no more.
                    one.key = Key::NOTHING;
                }
                Arc::clone(&one.sink)
            });
            if let Some(sink) = sink {
                sink(&FileEvent { kind: event.kind.into(), path: event.path.clone() });
            }
        }
    }

    /// What is on its way, changed as its fate will have it.
    pub fn suffer(&self, fate: Fate, mut due: Vec<Due>) -> Vec<Due> {
        match fate {
            Fate::Prompt | Fate::Late => due,
            Fate::Merged => {
                due.dedup();
                due
            }
            Fate::Reordered => {
                due.reverse();
                due
            }
            Fate::Overflow if due.is_empty() => due,
            Fate::Overflow => self.overflow(),
            Fate::Lost => Vec::new(),
        }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Post")
    }
}

impl fmt::Debug for SimWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = lock(&self.standing).by_number.values().map(|one| one.path.clone()).collect();
        f.debug_tuple("SimWatches").field(&paths).finish()
    }
}

impl Watches for SimWatches {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        let key = match self.fs.access(&Access::Watch(directory.to_owned())) {
            Seen::Dir(key) => key,
            Seen::Error(crate::disk::errno::ENOENT) => return Err(WatchError::NotFound),
            other => return Err(WatchError::Other(format!("{other:?}"))),
        };
        let mut standing = lock(&self.standing);
        if standing.most.is_some_and(|most| standing.by_number.len() >= most) {
            standing.refused += 1;
            return Err(WatchError::Exhausted("no watch left in the simulation".to_owned()));
        }
        let number = standing.next;
        standing.next += 1;
        standing.by_number.insert(number, One { key, path: directory.to_owned(), sink });
        Ok(Watch::new(Guard { number, standing: Arc::clone(&self.standing) }))
    }
}

struct Guard {
    number: u64,
    standing: Arc<Mutex<Standing>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let one = lock(&self.standing).by_number.remove(&self.number);
        drop(one);
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}
