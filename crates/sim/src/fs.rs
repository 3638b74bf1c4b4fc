//! [`SimFs`]: a [`Disk`] behind the trait through which the library touches files.
//!
//! A [`Director`] stands at every access: it is told before, and may change the disk. That is how writers run between
//! any two accesses of a reader, on one thread and the same way each time.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use certsource::clock::Now;
use certsource::fs::{Dir, File, Fs, Meta, Opened, Volume};

use crate::disk::{Access, Disk, Key, Seen};

/// Stands at every access of the reader.
pub trait Director: Send {
    /// The reader is about to make this access. The disk may be replaced.
    fn before(&mut self, disk: &mut Arc<Disk>, access: &Access);

    /// The access gave this.
    fn after(&mut self, access: &Access, seen: &Seen) {
        let _ = (access, seen);
    }
}

/// A handle to a simulated file system. Clones share it.
#[derive(Clone)]
pub struct SimFs(Arc<Mutex<Stage>>);

struct Stage {
    disk: Arc<Disk>,
    director: Option<Box<dyn Director>>,
}

impl SimFs {
    /// A file system in this state.
    pub fn new(disk: Arc<Disk>) -> Self {
        Self(Arc::new(Mutex::new(Stage { disk, director: None })))
    }

    /// Its state now.
    pub fn disk(&self) -> Arc<Disk> {
        Arc::clone(&self.lock().disk)
    }

    /// Puts it into this state.
    pub fn set_disk(&self, disk: Arc<Disk>) {
        self.lock().disk = disk;
    }

    /// Changes its state.
    pub fn change<T>(&self, how: impl FnOnce(&mut Disk) -> T) -> T {
        how(Arc::make_mut(&mut self.lock().disk))
    }

    /// From now on this director stands at every access; `None` ends that.
    pub fn set_director(&self, director: Option<Box<dyn Director>>) {
        let old = std::mem::replace(&mut self.lock().director, director);
        drop(old);
    }

    /// Its clocks.
    pub fn now(&self) -> Now {
        self.lock().disk.now()
    }

    pub(crate) fn access(&self, access: &Access) -> Seen {
        let mut stage = self.lock();
        let Stage { disk, director } = &mut *stage;
        if let Some(director) = director {
            director.before(disk, access);
        }
        let hang = disk.hangs_for(access);
        if !hang.is_zero() {
            let until = disk.mono() + hang;
            Arc::make_mut(disk).wait_until(until);
        }
        let seen = disk.peek(access);
        let has_effect = matches!(seen, Seen::File(_) | Seen::Dir(_)) && !matches!(access, Access::Watch(_));
        if has_effect || !disk.traits().cached_for.is_zero() {
            Arc::make_mut(disk).note(access, &seen);
        }
        if let Some(director) = director {
            director.after(access, &seen);
        }
        seen
    }

    fn opened(&self, seen: Seen, name: &OsStr) -> io::Result<Opened> {
        match seen {
            Seen::File(key) => {
                Ok(Opened::File(Box::new(Handle { fs: self.clone(), key, name: name.to_owned(), offset: 0 })))
            }
            Seen::NotRegular(kind) => Ok(Opened::NotRegular(kind)),
            other => Err(error(&other)),
        }
    }

    fn unpin(&self, key: Key) {
        // When a state was put in place that knows nothing of this handle, there is nothing to let go of.
        let mut stage = self.lock();
        if stage.disk.is_pinned(key) {
            Arc::make_mut(&mut stage.disk).unpin(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimFs")
    }
}

fn error(seen: &Seen) -> io::Error {
    match seen {
        Seen::Error(number) => io::Error::from_raw_os_error(*number),
        other => io::Error::other(format!("the simulation answered {other:?}")),
    }
}

impl Fs for SimFs {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        match self.access(&Access::Stat(path.to_owned())) {
            Seen::Meta(meta) => Ok(meta),
            other => Err(error(&other)),
        }
    }

    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        match self.access(&Access::ReadLink(path.to_owned())) {
            Seen::Link(target) => {
                *into = target;
                Ok(())
            }
            other => Err(error(&other)),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let seen = self.access(&Access::Open(path.to_owned()));
        self.opened(seen, path.file_name().unwrap_or_default())
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        match self.access(&Access::OpenDir(path.to_owned())) {
            Seen::Dir(key) => Ok(Box::new(DirHandle { fs: self.clone(), key })),
            other => Err(error(&other)),
        }
    }

    fn volume(&self, path: &Path) -> io::Result<Volume> {
        match self.access(&Access::Volume(path.to_owned())) {
            Seen::Volume(volume) => Ok(volume),
            other => Err(error(&other)),
        }
    }
}

struct Handle {
    fs: SimFs,
    key: Key,
    name: OsString,
    offset: usize,
}

impl File for Handle {
    fn metadata(&self) -> io::Result<Meta> {
        match self.fs.access(&Access::FileStat(self.key, self.name.clone())) {
            Seen::Meta(meta) => Ok(meta),
            other => Err(error(&other)),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.fs.access(&Access::FileRead(self.key, self.name.clone(), self.offset, into.len())) {
            Seen::Bytes(bytes) => {
                into[..bytes.len()].copy_from_slice(&bytes);
                self.offset += bytes.len();
                Ok(bytes.len())
            }
            other => Err(error(&other)),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.fs.unpin(self.key);
    }
}

struct DirHandle {
    fs: SimFs,
    key: Key,
}

impl Dir for DirHandle {
    fn open(&self, name: &Path) -> io::Result<Opened> {
        let seen = self.fs.access(&Access::DirOpen(self.key, name.to_owned()));
        self.fs.opened(seen, name.file_name().unwrap_or_default())
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        match self.fs.access(&Access::DirNames(self.key)) {
            Seen::Names(names) => Ok(names),
            other => Err(error(&other)),
        }
    }

    fn metadata(&self) -> io::Result<Meta> {
        match self.fs.access(&Access::DirStat(self.key)) {
            Seen::Meta(meta) => Ok(meta),
            other => Err(error(&other)),
        }
    }
}

impl Drop for DirHandle {
    fn drop(&mut self) {
        self.fs.unpin(self.key);
    }
}
