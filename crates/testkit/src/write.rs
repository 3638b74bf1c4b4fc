//! Writers that change one path, as the tools of every day do. Sets of files are changed by
//! [`PlainDir`](crate::PlainDir) and its siblings; [`Steps::then`] puts writers in a row.
//!
//! | writer | like | what a reader meets in between |
//! | --- | --- | --- |
//! | [`in_place`] | `cp`, `>`, `openssl -out`, vim, Vault's `writeToFile` | an empty, then a growing file |
//! | [`rename_over`] | `mv`, `sed -i` | nothing: the old file, then the new one |
//! | [`unlink_and_create`] | `install`, `tar x`, `mv` across file systems | no file, then a growing one |
//! | [`rename_with_backup`] | `sed -i.bak`, editors with backups | no file; its inode goes on as `.bak` |
//! | [`rename_with_hard_link`] | hard-link backup, then `mv` | nothing; the old inode keeps a link |
//! | [`flip_symlink`] | `ln -sf` | nothing; the file behind the old target never changes |
//! | [`set_modified`] | `touch -d`, the end of `cp -p`, `rsync -t`, `tar x` | equal content, another time, maybe an older one |
//! | [`replace_dir`] | unpack beside, two `mv` of directories | no directory |
//! | [`rebuild_dir`] | `rm -r`, `mkdir`, write again | files vanish one by one, and come back one by one |
//!
//! `rsync -t --inplace` is `in_place(…).then(set_modified(…))`. Not here: writing through `mmap`, which needs
//! unsafe code, and bind mounts, which need rights that tests don't have.
//!
//! Each function only plans. Nothing is written before the first step runs. A path that is missing is no error:
//! where a tool would remove it or rename it away, that step does nothing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::files;
use crate::steps::Steps;

/// Empties the file, writes it in this many pieces, closes it. The inode stays; a missing file is created.
///
/// Steps: `truncate NAME`, `write NAME 1/3` …, `close NAME`.
pub fn in_place(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>, pieces: usize) -> Steps {
    let (path, content) = (path.into(), content.into());
    let mode = files::mode_for(&path, &content);
    let mut steps = Steps::new();
    let name = files::name_of(&path);
    write_pieces(&mut steps, "truncate", &name, &content, pieces, move || files::open_truncated(&path, mode));
    steps
}

/// Writes a new file beside this one and renames it over.
///
/// Steps: `create NAME.tmp-…`, `rename NAME.tmp-… NAME`.
pub fn rename_over(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Steps {
    let path = path.into();
    let mut steps = Steps::new();
    let temporary = create_beside(&mut steps, &path, content.into());
    rename(&mut steps, &temporary, &path);
    steps
}

/// Removes the file and creates it again, in this many pieces.
///
/// Steps: `unlink NAME`, `create NAME`, `write NAME 1/3` …, `close NAME`.
pub fn unlink_and_create(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>, pieces: usize) -> Steps {
    let (path, content) = (path.into(), content.into());
    let mode = files::mode_for(&path, &content);
    let mut steps = Steps::new();
    let name = files::name_of(&path);
    steps.push(format!("unlink {name}"), {
        let path = path.clone();
        move || or_missing(fs::remove_file(&path))
    });
    write_pieces(&mut steps, "create", &name, &content, pieces, move || files::open_new(&path, mode));
    steps
}

/// Writes a new file beside, renames the old one to `NAME.bak`, renames the new one to its place.
///
/// Steps: `create NAME.tmp-…`, `rename NAME NAME.bak`, `rename NAME.tmp-… NAME`.
pub fn rename_with_backup(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Steps {
    let path = path.into();
    let mut steps = Steps::new();
    let temporary = create_beside(&mut steps, &path, content.into());
    rename_away(&mut steps, &path, &backup_of(&path));
    rename(&mut steps, &temporary, &path);
    steps
}

/// Writes a new file beside, gives the old one a second name `NAME.bak`, renames the new one over the first.
///
/// Steps: `create NAME.tmp-…`, `link NAME NAME.bak`, `rename NAME.tmp-… NAME`.
pub fn rename_with_hard_link(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Steps {
    let path = path.into();
    let mut steps = Steps::new();
    let temporary = create_beside(&mut steps, &path, content.into());
    let backup = backup_of(&path);
    steps.push(format!("link {} {}", files::name_of(&path), files::name_of(&backup)), {
        let path = path.clone();
        move || {
            or_missing(fs::remove_file(&backup))?;
            fs::hard_link(&path, &backup)
        }
    });
    rename(&mut steps, &temporary, &path);
    steps
}

/// Makes a link point elsewhere, to a file or a directory: a new link beside, renamed over the old one.
///
/// On Windows, where links are not renamed over each other, the old one is removed first, in the same step.
///
/// Steps: `symlink NAME.tmp-…`, `rename NAME.tmp-… NAME`.
pub fn flip_symlink(link: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Steps {
    let (link, target) = (link.into(), target.into());
    let temporary = files::beside(&link, "tmp");
    let mut steps = Steps::new();
    steps.push(format!("symlink {}", files::name_of(&temporary)), {
        let temporary = temporary.clone();
        move || files::symlink(&target, &temporary)
    });
    steps.push(format!("rename {} {}", files::name_of(&temporary), files::name_of(&link)), move || {
        if cfg!(windows) && link.is_symlink() {
            files::remove_link(&link)?;
        }
        fs::rename(&temporary, &link)
    });
    steps
}

/// Sets the modification time and nothing else.
///
/// Steps: `utime NAME`.
pub fn set_modified(path: impl Into<PathBuf>, at: SystemTime) -> Steps {
    let path = path.into();
    let mut steps = Steps::new();
    steps.push(format!("utime {}", files::name_of(&path)), move || files::set_modified(&path, at));
    steps
}

/// Fills a new directory beside this one, renames the old one away and the new one in, removes the old one.
///
/// Steps: `mkdir NAME.new-…`, `write FILE` …, `rename NAME NAME.old-…`, `rename NAME.new-… NAME`,
/// `remove NAME.old-…`.
pub fn replace_dir<N, C>(dir: impl Into<PathBuf>, files: impl IntoIterator<Item = (N, C)>) -> Steps
where
    N: AsRef<Path>,
    C: Into<Vec<u8>>,
{
    let dir = dir.into();
    let (new, old) = (files::beside(&dir, "new"), files::beside(&dir, "old"));
    let mut steps = fill_dir(&new, files);
    rename_away(&mut steps, &dir, &old);
    rename(&mut steps, &new, &dir);
    steps.push(format!("remove {}", files::name_of(&old)), move || or_missing(fs::remove_dir_all(&old)));
    steps
}

/// Removes the directory with all in it, makes it again, fills it.
///
/// Steps: `unlink FILE` … for each file that is there when this is called, `rmdir NAME` (with whatever came
/// later), `mkdir NAME`, `write FILE` ….
///
/// # Errors
///
/// If the directory is there and cannot be listed.
pub fn rebuild_dir<N, C>(
    dir: impl Into<PathBuf>,
    files: impl IntoIterator<Item = (N, C)>,
) -> io::Result<Steps>
where
    N: AsRef<Path>,
    C: Into<Vec<u8>>,
{
    let dir = dir.into();
    let mut present = Vec::new();
    match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(files::at(&dir)(error)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    present.push(entry.path());
                }
            }
        }
    }
    present.sort(); // the file system's order is arbitrary; a test wants the same one each time
    let mut steps = Steps::new();
    for path in present {
        steps.push(format!("unlink {}", files::name_of(&path)), move || or_missing(fs::remove_file(&path)));
    }
    steps.push(format!("rmdir {}", files::name_of(&dir)), {
        let dir = dir.clone();
        move || or_missing(fs::remove_dir_all(&dir))
    });
    Ok(steps.then(fill_dir(&dir, files)))
}

/// `mkdir`, then each file whole.
pub(crate) fn fill_dir<N, C>(dir: &Path, files: impl IntoIterator<Item = (N, C)>) -> Steps
where
    N: AsRef<Path>,
    C: Into<Vec<u8>>,
{
    let mut steps = Steps::new();
    steps.push(format!("mkdir {}", files::name_of(dir)), {
        let dir = dir.to_owned();
        move || files::create_dir_all(&dir)
    });
    for (name, content) in files {
        let (path, content) = (dir.join(name.as_ref()), content.into());
        let mode = files::mode_for(&path, &content);
        steps.push(format!("write {}", name.as_ref().display()), move || {
            files::create_dir_all(path.parent().expect("a name was put into a directory"))?;
            files::create(&path, &content, mode)
        });
    }
    steps
}

/// Open, write piece by piece, close. The open file is what the steps share.
fn write_pieces(
    steps: &mut Steps,
    opening: &str,
    name: &str,
    content: &[u8],
    pieces: usize,
    open: impl FnOnce() -> io::Result<File> + Send + 'static,
) {
    let shared: Arc<Mutex<Option<File>>> = Arc::default();
    steps.push(format!("{opening} {name}"), {
        let shared = Arc::clone(&shared);
        move || {
            *lock(&shared) = Some(open()?);
            Ok(())
        }
    });
    let size = content.len().div_ceil(pieces.max(1)).max(1);
    let count = content.len().div_ceil(size);
    for (number, piece) in content.chunks(size).enumerate() {
        let (shared, piece) = (Arc::clone(&shared), piece.to_vec());
        steps.push(format!("write {name} {}/{count}", number + 1), move || match &mut *lock(&shared) {
            Some(file) => file.write_all(&piece),
            // The opening failed and the caller went on regardless.
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the file was not opened")),
        });
    }
    steps.push(format!("close {name}"), move || {
        lock(&shared).take();
        Ok(())
    });
}

fn lock(shared: &Mutex<Option<File>>) -> std::sync::MutexGuard<'_, Option<File>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create_beside(steps: &mut Steps, path: &Path, content: Vec<u8>) -> PathBuf {
    let temporary = files::beside(path, "tmp");
    let mode = files::mode_for(path, &content);
    steps.push(format!("create {}", files::name_of(&temporary)), {
        let temporary = temporary.clone();
        move || files::create(&temporary, &content, mode)
    });
    temporary
}

fn rename(steps: &mut Steps, from: &Path, to: &Path) {
    let (from, to) = (from.to_owned(), to.to_owned());
    steps.push(format!("rename {} {}", files::name_of(&from), files::name_of(&to)), move || {
        fs::rename(&from, &to)
    });
}

/// As [`rename`]; nothing happens if there is nothing to rename.
fn rename_away(steps: &mut Steps, from: &Path, to: &Path) {
    let (from, to) = (from.to_owned(), to.to_owned());
    steps.push(format!("rename {} {}", files::name_of(&from), files::name_of(&to)), move || {
        or_missing(fs::rename(&from, &to))
    });
}

fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".bak");
    path.with_file_name(name)
}

/// For what a writer that was killed may have left undone: a missing path is fine.
fn or_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
