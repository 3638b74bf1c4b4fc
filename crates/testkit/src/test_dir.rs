//! A directory that is gone when the test is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::files;
use crate::issued::Issued;

/// A directory for a test's files. One made by [`TestDir::new`] is removed, with all in it, when this is
/// dropped; one named by [`TestDir::at`] stays.
///
/// On Unix directories are made with mode 0700. Files that hold a PEM private key, or are called `*.key`, get
/// 0600, others 0644.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
    /// Held for its drop.
    _temporary: Option<TempDir>,
}

impl TestDir {
    /// A new, empty directory in the system's place for temporary files.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn new() -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("certsource-");
        // tempfile leaves directories to the umask, unlike files.
        #[cfg(unix)]
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        #[cfg(unix)]
        builder.permissions(private);
        let temporary = builder.tempdir()?;
        Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// This directory, made with its parents if it is missing. It is not removed at drop.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn at(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        files::create_dir_all(&path).map_err(files::at(&path))?;
        Ok(Self { path, _temporary: None })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the directory; nothing needs to be there.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file, in place if there is one already, and returns its path. Directories on the way are made.
    ///
    /// This is for setting the scene; the writers that change files like real ones are in
    /// [`write`](mod@crate::write).
    ///
    /// # Errors
    ///
    /// If the system refuses; the path is in the message.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        let path = self.join(name);
        let mode = files::mode_for(&path, content.as_ref());
        let write = || {
            files::create_dir_all(path.parent().unwrap_or(&self.path))?;
            io::Write::write_all(&mut files::open_truncated(&path, mode)?, content.as_ref())?;
            files::set_mode(&path, mode)
        };
        write().map_err(files::at(&path))?;
        Ok(path)
    }

    /// Writes `ca.crt` (the root), `tls.crt` (the chain) and `tls.key` as plain files.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_issued(&self, issued: impl AsRef<Issued>) -> io::Result<()> {
        issued
            .as_ref()
            .files()
            .into_iter()
            .try_for_each(|(name, content)| self.write(name, content).map(drop))
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// If it is not there, or the system refuses.
    pub fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let path = self.join(name);
        fs::remove_file(&path).map_err(files::at(&path))
    }
}

impl AsRef<Path> for TestDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
