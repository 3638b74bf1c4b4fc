//! Damage to files, as a crash, a full disk or a careless script leaves it.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::files;

/// A part of a directory with `ca.crt`, `tls.crt` and `tls.key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// `ca.crt`
    Trust,
    /// `tls.crt`
    Certificate,
    /// `tls.key`
    Key,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Trust, Self::Certificate, Self::Key];

    /// The file's name in a Kubernetes TLS secret.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Trust => "ca.crt",
            Self::Certificate => "tls.crt",
            Self::Key => "tls.key",
        }
    }
}

/// A kind of damage. All of them change the file in place: its inode and its links stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Only the first half is left: a PEM section without its end.
    Half,
    /// Nothing is left.
    Empty,
    /// The last line is gone: every byte of the body is there, the end line is not.
    NoEndLine,
    /// The same size, with some bytes in the middle that no encoding allows.
    Garbage,
}

impl Damage {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Half, Self::Empty, Self::NoEndLine, Self::Garbage];
}

/// Damages a file in place, through symbolic links.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn damage(path: impl AsRef<Path>, damage: Damage) -> io::Result<()> {
    let path = path.as_ref();
    let spoil = || {
        let content = fs::read(path)?;
        let mut file = OpenOptions::new().write(true).open(path)?;
        let size = content.len() as u64;
        match damage {
            Damage::Half => file.set_len(size / 2),
            Damage::Empty => file.set_len(0),
            Damage::NoEndLine => {
                let body = content.trim_ascii_end();
                let keep = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                file.set_len(keep as u64)
            }
            Damage::Garbage => {
                let noise = content.len().min(16);
                file.seek(SeekFrom::Start((size - noise as u64) / 2))?;
                file.write_all(&[0xff; 16][..noise])
            }
        }
    };
    spoil().map_err(files::at(path))
}
