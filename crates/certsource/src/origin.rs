//! Where a part of a source comes from, for people.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::text::Escaped;

/// Where something comes from: a path, or a name such as `openbao:pki/issue/web`.
///
/// Cheap to clone. Shown with everything hostile escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Path(Arc<Path>),
    Name(Arc<str>),
}

impl Origin {
    /// A file or a directory.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Repr::Path(path.into().into()))
    }

    /// Something that is not a file; the name is for people.
    pub fn named(name: impl Into<String>) -> Self {
        Self(Repr::Name(name.into().into()))
    }

    /// The path, if it is a file or a directory.
    pub fn as_path(&self) -> Option<&Path> {
        match &self.0 {
            Repr::Path(path) => Some(path),
            Repr::Name(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Path(path) => write!(f, "{}", Escaped::new(&path.to_string_lossy())),
            Repr::Name(name) => write!(f, "{}", Escaped::new(name)),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
