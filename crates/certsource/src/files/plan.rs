//! Which files a source consists of at this moment: the paths that were asked for, directories expanded.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Limits;
use crate::error::{Error, Reason};
use crate::fs::{Fs, Kind, data};

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Trust,
    Chain,
    Key,
    Combined,
    Crl,
}

/// A path that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) role: Role,
    pub(super) path: PathBuf,
}

/// A file to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) role: Role,
    /// The path that is opened.
    pub(super) path: PathBuf,
    /// The path that is shown: without `..data`.
    pub(super) shown: PathBuf,
    /// Whether a directory listed it, rather than the user.
    pub(super) is_listed: bool,
}

/// All files to read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) places: Vec<Place>,
    /// The directories that were expanded.
    pub(super) directories: Vec<PathBuf>,
    /// Directories of anchors that give none. All of them are a failure of trust.
    pub(super) broken: Vec<Error>,
    /// Whether all of the source is one path, and that a file.
    pub(super) is_single_file: bool,
}

impl Plan {
    pub(super) fn make(fs: &dyn Fs, wanted: &[Wanted], limits: &Limits) -> Self {
        let mut plan = Self::default();
        for Wanted { role, path } in wanted {
            let is_directory =
                *role == Role::Trust && fs.metadata(path).is_ok_and(|meta| meta.kind == Kind::Directory);
            if is_directory {
                plan.directories.push(path.clone());
                if let Err(error) = plan.expand(fs, path, limits) {
                    plan.broken.push(error);
                }
            } else {
                let place = Place { role: *role, path: path.clone(), shown: path.clone(), is_listed: false };
                plan.places.push(place);
            }
        }
        plan.is_single_file = plan.directories.is_empty() && plan.places.len() == 1;
        plan
    }

    /// Adds the files of a directory. In a Kubernetes volume those behind `..data` count: the links in the directory
    /// itself are made after the swap and removed after it.
    fn expand(&mut self, fs: &dyn Fs, directory: &Path, limits: &Limits) -> Result<(), Error> {
        let base =
            if data::is_volume(fs, directory) { directory.join(data::LINK) } else { directory.to_path_buf() };
        let names = fs.open_dir(&base).and_then(|directory| directory.names());
        let mut names = names.map_err(|error| Error::io("list the directory", directory, error))?;
        if names.len() > limits.directory_entries {
            let message = format!(
                "more than {} names in this directory; if this is meant, name the files, or raise \
                 `Limits::directory_entries`",
                limits.directory_entries
            );
            return Err(Error::new(Reason::TooLarge, message).at(directory));
        }
        names.retain(|name| is_anchor_name(name));
        if names.is_empty() {
            let message = "no file of anchors in this directory: looked for *.pem, *.crt, *.cer and hash names \
                           such as 1a2b3c4d.0";
            return Err(Error::new(Reason::Empty, message).at(directory));
        }
        names.sort_unstable();
        self.places.extend(names.iter().map(|name| Place {
            role: Role::Trust,
            path: base.join(name),
            shown: directory.join(name),
            is_listed: true,
        }));
        Ok(())
    }

    /// Every path that matters: directories and files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.directories.iter().chain(self.places.iter().map(|place| &place.path)).cloned().collect()
    }

    /// Whether both consist of the same files.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let reasons = |plan: &Self| plan.broken.iter().map(Error::reason).collect::<Vec<_>>();
        self.places == other.places
            && self.directories == other.directories
            && reasons(self) == reasons(other)
    }
}

fn is_anchor_name(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    if name.starts_with('.') {
        return false;
    }
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let is_hash = stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    ["pem", "crt", "cer"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        || is_hash && !extension.is_empty() && extension.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::is_anchor_name;

    #[test]
    fn names_of_anchor_files() {
        for (name, taken) in [
            ("ca.pem", true),
            ("CA.PEM", true),
            ("a.b.crt", true),
            ("x.cer", true),
            ("1a2b3c4d.0", true),
            ("1A2B3C4D.12", true),
            ("1a2b3c4d.r0", false),
            ("1a2b3c4d.", false),
            ("1a2b3c4.0", false),
            ("1a2b3c4g.0", false),
            (".ca.pem", false),
            ("..data", false),
            ("ca.pem~", false),
            ("ca.pem.bak", false),
            ("README", false),
            ("tls.key", false),
        ] {
            assert_eq!(is_anchor_name(OsStr::new(name)), taken, "{name}");
        }
    }
}
