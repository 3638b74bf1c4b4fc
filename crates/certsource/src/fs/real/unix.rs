//! [`RealFs`](super::RealFs) on Unix, through rustix.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::StatxFlags;
use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::{Dir, File, Kind, Meta, Opened, Stamp, Volume};

/// How often a name may come to mean another file while it is opened.
const OPEN_ROUNDS: usize = 8;

pub(super) fn metadata(path: &Path) -> io::Result<Meta> {
    stat_at(CWD, path)
}

pub(super) fn read_link(path: &Path, into: &mut OsString) -> io::Result<()> {
    // PATH_MAX, with the final NUL that is not written here: no target is longer on Linux.
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let (target, rest) = sys::readlinkat_raw(CWD, path, &mut buffer)?;
    if rest.is_empty() {
        // Full to the brim: it may have been cut.
        return Err(Errno::NAMETOOLONG.into());
    }
    into.clear();
    into.push(OsStr::from_bytes(target));
    Ok(())
}

pub(super) fn open(path: &Path) -> io::Result<Opened> {
    open_at(CWD, path)
}

pub(super) fn open_dir(path: &Path) -> io::Result<Box<dyn Dir>> {
    let fd = sys::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Box::new(UnixDir(fd)))
}

struct UnixDir(OwnedFd);

impl Dir for UnixDir {
    fn open(&self, name: &Path) -> io::Result<Opened> {
        open_at(self.0.as_fd(), name)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in sys::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    fn metadata(&self) -> io::Result<Meta> {
        stat_fd(self.0.as_fd())
    }
}

struct UnixFile(std::fs::File);

impl File for UnixFile {
    fn metadata(&self) -> io::Result<Meta> {
        stat_fd(self.0.as_fd())
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

/// Looks first and opens then. The name may mean another file by then, so both are compared; and whatever it is by
/// then, `O_NONBLOCK` keeps the open from waiting and `O_NOCTTY` from taking a terminal.
fn open_at(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Opened> {
    for _ in 0..OPEN_ROUNDS {
        let seen = peek(dir, path)?;
        if let Some(seen) = seen {
            if seen.kind != Kind::File {
                return Ok(Opened::NotRegular(seen.kind));
            }
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match retry(|| sys::openat(dir, path, flags, Mode::empty())) {
            Ok(fd) => fd,
            // A socket took the place of the file in between: the next round says so.
            Err(Errno::NXIO) if seen.is_some() => continue,
            Err(error) => return Err(error.into()),
        };
        let meta = stat_fd(fd.as_fd())?;
        match seen {
            None if meta.kind != Kind::File => return Ok(Opened::NotRegular(meta.kind)),
            None => {}
            Some(seen) if (seen.device, seen.inode, seen.kind) == (meta.device, meta.inode, meta.kind) => {}
            Some(_) => continue,
        }
        return Ok(Opened::File(Box::new(UnixFile(fd.into()))));
    }
    Err(io::Error::other("the file is replaced faster than it can be opened"))
}

/// What the name leads to, without opening it for reading: opening a FIFO or a device can have effects.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn peek(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Meta>> {
    let fd = retry(|| sys::openat(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))?;
    stat_fd(fd.as_fd()).map(Some)
}

/// There is no `O_PATH` here: the file is looked at when it is open.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn peek(_: BorrowedFd<'_>, _: &Path) -> io::Result<Option<Meta>> {
    Ok(None)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn stat_at(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Meta> {
    match sys::statx(dir, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
        Ok(found) => Ok(from_statx(&found)),
        // Kernels before 4.11, and sandboxes that know no statx.
        Err(Errno::NOSYS) => Ok(from_stat(&sys::statat(dir, path, AtFlags::empty())?)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Meta> {
    match sys::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
        Ok(found) => Ok(from_statx(&found)),
        Err(Errno::NOSYS) => Ok(from_stat(&sys::fstat(fd)?)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn stat_at(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Meta> {
    Ok(from_stat(&sys::statat(dir, path, AtFlags::empty())?))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Meta> {
    Ok(from_stat(&sys::fstat(fd)?))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn from_statx(found: &sys::Statx) -> Meta {
    let stamp = |at: &sys::StatxTimestamp| Stamp { secs: at.tv_sec, nanos: at.tv_nsec };
    let mode = u32::from(found.stx_mode);
    Meta {
        kind: kind(mode),
        device: sys::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        links: u64::from(found.stx_nlink),
        size: found.stx_size,
        mode: mode & 0o7777,
        modified: stamp(&found.stx_mtime),
        changed: stamp(&found.stx_ctime),
        born: (found.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| stamp(&found.stx_btime)),
    }
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts, reason = "the field types differ between platforms")]
fn from_stat(found: &sys::Stat) -> Meta {
    Meta {
        kind: kind(found.st_mode as u32),
        device: found.st_dev as u64,
        inode: found.st_ino as u64,
        links: found.st_nlink as u64,
        size: found.st_size as u64,
        mode: found.st_mode as u32 & 0o7777,
        modified: Stamp { secs: found.st_mtime as i64, nanos: found.st_mtime_nsec as u32 },
        changed: Stamp { secs: found.st_ctime as i64, nanos: found.st_ctime_nsec as u32 },
        born: None,
    }
}

#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_cast,
    reason = "the type of a mode differs between platforms"
)]
fn kind(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode as sys::RawMode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice | FileType::BlockDevice => Kind::Device,
        _ => Kind::Other,
    }
}

/// The file systems whose time stamps move with every change and whose events are complete: `f_type` of `statfs(2)`,
/// values from linux/magic.h and the file systems' own sources.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOCAL: &[u32] = &[
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs: through one mount, stamps and events are those of its upper layer
];

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn volume(path: &Path) -> io::Result<Volume> {
    // The width and sign of f_type differ between architectures; a magic number has 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let magic = retry(|| sys::statfs(path))?.f_type as u32;
    Ok(if LOCAL.contains(&magic) { Volume::Local } else { Volume::Remote })
}

/// Not told apart here: content is compared by digest, which is always right.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn volume(path: &Path) -> io::Result<Volume> {
    stat_at(CWD, path).map(|_| Volume::Remote)
}
