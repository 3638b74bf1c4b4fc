//! `ca.crt`, `tls.crt` and `tls.key` in a directory, changed by one of the everyday ways of `write`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use crate::issued::Issued;
use crate::rotate::Rotate;
use crate::steps::Steps;
use crate::test_dir::TestDir;
use crate::write;

/// In how many pieces a growing file is written: the first cut is inside of a PEM section.
const PIECES: usize = 2;

/// How a [`PlainDir`] changes its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// [`write::in_place`] for each file, in two pieces: Vault's `writeToFile`, spiffe-helper, `cp`.
    InPlace,
    /// [`write::rename_over`] for each file: `mv`.
    Rename,
    /// [`write::unlink_and_create`] for each file, in two pieces: `install`.
    UnlinkCreate,
    /// [`write::rename_with_backup`] for each file: `sed -i.bak`.
    RenameWithBackup,
    /// [`write::rename_with_hard_link`] for each file.
    RenameWithHardLink,
    /// Each file is a link to a file beside it, moved by [`write::flip_symlink`]: `ln -sf`.
    FileLink,
    /// The directory itself is a link to a version, moved by [`write::flip_symlink`]: no path inside changes.
    DirLink,
    /// [`write::replace_dir`].
    ReplaceDir,
    /// [`write::rebuild_dir`].
    RebuildDir,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 9] = [
        Self::InPlace,
        Self::Rename,
        Self::UnlinkCreate,
        Self::RenameWithBackup,
        Self::RenameWithHardLink,
        Self::FileLink,
        Self::DirLink,
        Self::ReplaceDir,
        Self::RebuildDir,
    ];

    /// Whether all files change in one moment, without a gap. With the other methods a reader meets mixed or
    /// missing files.
    pub fn is_atomic(self) -> bool {
        self == Self::DirLink
    }
}

/// A directory with `ca.crt`, `tls.crt` and `tls.key` that changes by a [`Method`], one file after the other in
/// this order.
#[derive(Debug)]
pub struct PlainDir {
    /// Holds the directory, so that it can be renamed and linked.
    base: TestDir,
    method: Method,
}

impl PlainDir {
    /// A temporary directory with a first version.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new(method: Method, issued: impl AsRef<Issued>) -> io::Result<Self> {
        let plain = Self { base: TestDir::new()?, method };
        plain.create(issued.as_ref().files())?;
        Ok(plain)
    }

    /// How its files change.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The directory that a program is pointed at.
    pub fn path(&self) -> PathBuf {
        self.base.join("tls")
    }

    /// The path of a file.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The path of `ca.crt`.
    pub fn ca_path(&self) -> PathBuf {
        self.join("ca.crt")
    }

    /// The path of `tls.crt`.
    pub fn cert_path(&self) -> PathBuf {
        self.join("tls.crt")
    }

    /// The path of `tls.key`.
    pub fn key_path(&self) -> PathBuf {
        self.join("tls.key")
    }

    /// Replaces `ca.crt` (the root), `tls.crt` (the chain), `tls.key`.
    ///
    /// # Errors
    ///
    /// As [`write_steps`](Self::write_steps), or what the system says, with the step in front.
    pub fn swap(&self, issued: impl AsRef<Issued>) -> io::Result<()> {
        self.swap_steps(issued)?.finish()
    }

    /// [`swap`](Self::swap), step by step. The names of the steps are those of the functions in
    /// [`write`](mod@write).
    ///
    /// # Errors
    ///
    /// As [`write_steps`](Self::write_steps).
    pub fn swap_steps(&self, issued: impl AsRef<Issued>) -> io::Result<Steps> {
        self.write_steps(issued.as_ref().files())
    }

    /// Changes these files, in this order. With `DirLink`, `ReplaceDir` and `RebuildDir` other files go.
    ///
    /// # Errors
    ///
    /// If what is there now cannot be listed.
    pub fn write_steps<N, C>(&self, files: impl IntoIterator<Item = (N, C)>) -> io::Result<Steps>
    where
        N: AsRef<Path>,
        C: Into<Vec<u8>>,
    {
        match self.method {
            Method::InPlace => Ok(self.each(files, |path, content| write::in_place(path, content, PIECES))),
            Method::Rename => Ok(self.each(files, write::rename_over)),
            Method::UnlinkCreate => {
                Ok(self.each(files, |path, content| write::unlink_and_create(path, content, PIECES)))
            }
            Method::RenameWithBackup => Ok(self.each(files, write::rename_with_backup)),
            Method::RenameWithHardLink => Ok(self.each(files, write::rename_with_hard_link)),
            Method::FileLink => Ok(self.each(files, new_target)),
            Method::DirLink => {
                let version = files::beside(&self.path(), "version");
                let old = fs::canonicalize(self.path()).map_err(files::at(&self.path()))?;
                let mut steps = write::fill_dir(&version, files)
                    .then(write::flip_symlink(self.path(), files::name_of(&version)));
                steps.push(format!("remove {}", files::name_of(&old)), move || fs::remove_dir_all(&old));
                Ok(steps)
            }
            Method::ReplaceDir => Ok(write::replace_dir(self.path(), files)),
            Method::RebuildDir => write::rebuild_dir(self.path(), files),
        }
    }

    fn create(&self, files: [(&'static str, String); 3]) -> io::Result<()> {
        match self.method {
            Method::DirLink => {
                let version = files::beside(&self.path(), "version");
                write::fill_dir(&version, files).finish()?;
                files::symlink(files::name_of(&version).as_ref(), &self.path())
            }
            Method::FileLink => {
                files::create_dir_all(&self.path())?;
                self.each(files, new_target).finish()
            }
            _ => write::fill_dir(&self.path(), files).finish(),
        }
    }

    fn each<N, C>(
        &self,
        files: impl IntoIterator<Item = (N, C)>,
        write: impl Fn(PathBuf, Vec<u8>) -> Steps,
    ) -> Steps
    where
        N: AsRef<Path>,
        C: Into<Vec<u8>>,
    {
        files
            .into_iter()
            .fold(Steps::new(), |steps, (name, content)| steps.then(write(self.join(name), content.into())))
    }
}

impl Rotate for PlainDir {
    fn cert_path(&self) -> PathBuf {
        self.cert_path()
    }

    fn key_path(&self) -> PathBuf {
        self.key_path()
    }

    fn swap_steps(&self, issued: &Issued) -> io::Result<Steps> {
        self.swap_steps(issued)
    }
}

/// A new file beside the link, and the link moved to it. Old targets stay, as `ln -sf` leaves them.
fn new_target(link: PathBuf, content: Vec<u8>) -> Steps {
    let target = files::beside(&link, "version");
    let mode = files::mode_for(&link, &content);
    let mut steps = Steps::new();
    steps.push(format!("create {}", files::name_of(&target)), {
        let target = target.clone();
        move || files::create(&target, &content, mode)
    });
    steps.then(write::flip_symlink(link, files::name_of(&target)))
}
