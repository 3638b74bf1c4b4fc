//! Which files a list of paths means: directories with everything below them that is named as certificates are.
//!
//! Nothing is opened here but directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use certsource::{Error, Reason};

/// Directories in directories, so that no link or mount leads round in circles.
const DEPTH: usize = 16;

/// Where to read.
#[derive(Debug)]
pub(crate) enum Place {
    Stdin,
    File(PathBuf),
    /// A file that its directory lists as a regular one.
    Listed(PathBuf),
    /// A directory that could not be listed.
    Broken(Error),
}

/// All places, in the order of the paths and, in a directory, of the names.
pub(crate) fn list(paths: &[PathBuf]) -> Vec<Place> {
    let mut places = Vec::with_capacity(paths.len());
    for path in paths {
        if super::is_stdin(path) {
            places.push(Place::Stdin);
        } else if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            directory(path, 0, &mut places);
        } else {
            places.push(Place::File(path.clone()));
        }
    }
    places
}

/// The files of a directory that are named as certificates and CRLs are, in the order of their names. Names that begin
/// with a dot are passed over, so that a Kubernetes volume is read once and not once per version.
fn directory(path: &Path, depth: usize, places: &mut Vec<Place>) {
    if depth > DEPTH {
        let message = format!("directories more than {DEPTH} deep; name the inner one");
        return places.push(Place::Broken(Error::new(Reason::TooLarge, message).at(path)));
    }
    let mut names = match names(path) {
        Ok(names) => names,
        Err(error) => return places.push(Place::Broken(Error::io("list the directory", path, error))),
    };
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (name, kind) in names {
        let inner = path.join(&name);
        // A link to a directory is not followed: it may lead back.
        if kind.is_dir() {
            directory(&inner, depth + 1, places);
        } else if is_named_as_certificate(&name) {
            places.push(if kind.is_file() { Place::Listed(inner) } else { Place::File(inner) });
        }
    }
}

fn names(path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push((name, entry.file_type()?));
        }
    }
    Ok(names)
}

fn is_named_as_certificate(name: &OsStr) -> bool {
    let path = Path::new(name);
    let Some(extension) = path.extension().and_then(OsStr::to_str) else { return false };
    let is_hash = || {
        // OpenSSL's `1a2b3c4d.0`, and `1a2b3c4d.r0` for CRLs.
        let number = extension.strip_prefix('r').unwrap_or(extension);
        let stem = path.file_stem().map(OsStr::as_encoded_bytes).unwrap_or_default();
        number.parse::<u8>().is_ok() && stem.len() == 8 && stem.iter().all(u8::is_ascii_hexdigit)
    };
    ["pem", "crt", "cer", "der", "crl"].iter().any(|known| extension.eq_ignore_ascii_case(known)) || is_hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_are_known() {
        for name in ["tls.crt", "CA.PEM", "a.der", "b.cer", "c.crl", "1a2b3c4d.0", "1a2b3c4d.r1"] {
            assert!(is_named_as_certificate(OsStr::new(name)), "{name}");
        }
        for name in ["tls.key", "README", "notes.txt", "1a2b3c4.0", "1a2b3c4d.x", "pem", "a.json"] {
            assert!(!is_named_as_certificate(OsStr::new(name)), "{name}");
        }
    }
}
