//! [`RealFs`](super::RealFs) with nothing but `std`: for Windows, and whatever else is not Unix.
//!
//! `std` tells neither inode nor change time nor link count there; those fields are constant, and content is
//! compared by digest (every volume is [`Volume::Remote`]).

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fs::{Dir, File, Kind, Meta, Opened, Stamp, Volume};

pub(super) fn metadata(path: &Path) -> io::Result<Meta> {
    std::fs::metadata(path).map(|found| from_std(&found))
}

pub(super) fn read_link(path: &Path, into: &mut OsString) -> io::Result<()> {
    let is_link = std::fs::symlink_metadata(path)?.file_type().is_symlink();
    if !is_link {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    *into = std::fs::read_link(path)?.into_os_string();
    Ok(())
}

pub(super) fn open(path: &Path) -> io::Result<Opened> {
    let seen = metadata(path)?.kind;
    if seen != Kind::File {
        return Ok(Opened::NotRegular(seen));
    }
    let file = std::fs::File::open(path)?;
    let opened = from_std(&file.metadata()?).kind;
    if opened != Kind::File {
        return Ok(Opened::NotRegular(opened));
    }
    Ok(Opened::File(Box::new(PortableFile(file))))
}

/// The links of `path` are resolved once, so that a later swap of a link above does not change what names mean.
pub(super) fn open_dir(path: &Path) -> io::Result<Box<dyn Dir>> {
    let path = std::fs::canonicalize(path)?;
    if !std::fs::metadata(&path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(Box::new(PortableDir(path)))
}

pub(super) fn volume(path: &Path) -> io::Result<Volume> {
    metadata(path).map(|_| Volume::Remote)
}

struct PortableDir(PathBuf);

impl Dir for PortableDir {
    fn open(&self, name: &Path) -> io::Result<Opened> {
        open(&self.0.join(name))
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn metadata(&self) -> io::Result<Meta> {
        metadata(&self.0)
    }
}

struct PortableFile(std::fs::File);

impl File for PortableFile {
    fn metadata(&self) -> io::Result<Meta> {
        self.0.metadata().map(|found| from_std(&found))
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

fn from_std(found: &std::fs::Metadata) -> Meta {
    let kind = if found.is_file() {
        Kind::File
    } else if found.is_dir() {
        Kind::Directory
    } else {
        Kind::Other
    };
    let modified = found.modified().map_or(Stamp::default(), stamp);
    Meta {
        kind,
        device: 0,
        inode: 0,
        links: 1,
        size: found.len(),
        mode: 0,
        modified,
        changed: modified,
        born: found.created().ok().map(stamp),
    }
}

fn stamp(at: SystemTime) -> Stamp {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Stamp { secs: after.as_secs().try_into().unwrap_or(i64::MAX), nanos: after.subsec_nanos() }
        }
        Err(before) => {
            // Seconds are rounded down, so that nanoseconds always count forward.
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Stamp { secs: -secs, nanos: 0 },
                nanos => Stamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}
