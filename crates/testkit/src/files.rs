//! The few file operations that the writers are made of. All differences between systems are here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::random;

/// The mode of a key file.
pub(crate) const PRIVATE: u32 = 0o600;
/// The mode of any other file.
pub(crate) const PUBLIC: u32 = 0o644;

/// [`PRIVATE`] for what holds a PEM private key or is called `*.key`, [`PUBLIC`] for the rest.
pub(crate) fn mode_for(path: &Path, content: &[u8]) -> u32 {
    const LABEL: &[u8] = b"PRIVATE KEY-----";
    let named_key = path.extension().is_some_and(|extension| extension == "key");
    if named_key || content.windows(LABEL.len()).any(|window| window == LABEL) { PRIVATE } else { PUBLIC }
}

/// Creates a file that must not exist yet, whole, with this mode.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = open_new(path, mode)?;
    file.write_all(content)?;
    set_mode(path, mode)
}

/// Creates an empty file that must not exist yet. Private from the first moment if the mode says so.
pub(crate) fn open_new(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    with_mode(&mut options, mode).open(path)
}

/// Opens for writing in place, emptied; creates the file with this mode if there is none.
pub(crate) fn open_truncated(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    with_mode(&mut options, mode).open(path)
}

/// A directory and its missing parents, for the owner only.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Sets the mode exactly, whatever the umask is. Windows has no modes: nothing happens there.
#[cfg(unix)]
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
pub(crate) fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

fn with_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options
}

/// Makes `link` point at `target`, a path relative to the link's directory or an absolute one.
#[cfg(unix)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Windows asks for the target's kind, and for the right to make links (developer mode or an administrator).
#[cfg(windows)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    let resolved = link.parent().map_or_else(|| target.to_path_buf(), |dir| dir.join(target));
    if resolved.is_dir() {
        std::os::windows::fs::symlink_dir(target, link)
    } else {
        std::os::windows::fs::symlink_file(target, link)
    }
}

/// Removes a link itself, never what it points at.
pub(crate) fn remove_link(link: &Path) -> io::Result<()> {
    // On Windows a link to a directory is a directory.
    if cfg!(windows) && link.is_dir() { fs::remove_dir(link) } else { fs::remove_file(link) }
}

/// Sets the modification time without opening for writing where the system allows that, so that a watch sees a
/// change of attributes and no write.
pub(crate) fn set_modified(path: &Path, at: SystemTime) -> io::Result<()> {
    let mut options = OpenOptions::new();
    if cfg!(unix) {
        options.read(true)
    } else {
        options.write(true)
    };
    options.open(path)?.set_modified(at)
}

/// The last component, for the names of steps.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A name beside a path that is not taken: `tls.crt` becomes `tls.crt.tmp-4711`.
pub(crate) fn beside(path: &Path, word: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{word}-{}", random::number() >> 32));
    path.with_file_name(name)
}

/// Adds the path to an error: the system's own text has none.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
