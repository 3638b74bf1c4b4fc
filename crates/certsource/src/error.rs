//! The one error type of this crate and the reasons it can have.
//!
//! What is not here: how an error is told to users of the engine (`certsource-reload`), or printed (`certsource-cli`).

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::origin::Origin;
use crate::text::Escaped;

/// Why a source could not be loaded, or why what was loaded was not accepted.
///
/// The names given by [`Reason::as_str`] are a contract: they do not change between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A file or directory does not exist.
    NotFound,
    /// The operating system refused access.
    PermissionDenied,
    /// A private key can be read by more users than it should, and the caller asked for that to be an error.
    PermissionInsecure,
    /// A directory, FIFO, socket or device stands where a regular file is needed.
    NotRegularFile,
    /// A limit on bytes, on the number of entries, or on what decrypting a key may cost was exceeded.
    TooLarge,
    /// The content is not what it should be: broken PEM, DER or X.509.
    Malformed,
    /// There is nothing in it: no certificate in a bundle, no key in a key file.
    Empty,
    /// The private key is encrypted, and no password was given or it is the wrong one.
    Encrypted,
    /// The content is valid, but of a kind that is not supported.
    Unsupported,
    /// The private key does not belong to the certificate.
    KeyMismatch,
    /// The certificate or CRL is past its end.
    Expired,
    /// The certificate's validity has not begun.
    NotYetValid,
    /// The content never stood still long enough to be read whole.
    Unstable,
    /// A check by the application, or by its TLS library, said no.
    Rejected,
    /// An operation took longer than its deadline.
    TimedOut,
    /// What was served could not be confirmed for too long, and is served no more: see
    /// [`Policy::max_stale`](crate::machine::Policy::max_stale).
    Stale,
    /// Any other error of the operating system.
    Io,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::NotFound,
        Self::PermissionDenied,
        Self::PermissionInsecure,
        Self::NotRegularFile,
        Self::TooLarge,
        Self::Malformed,
        Self::Empty,
        Self::Encrypted,
        Self::Unsupported,
        Self::KeyMismatch,
        Self::Expired,
        Self::NotYetValid,
        Self::Unstable,
        Self::Rejected,
        Self::TimedOut,
        Self::Stale,
        Self::Io,
    ];

    /// The stable name, in snake case: for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::PermissionInsecure => "permission_insecure",
            Self::NotRegularFile => "not_regular_file",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::Encrypted => "encrypted",
            Self::Unsupported => "unsupported",
            Self::KeyMismatch => "key_mismatch",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Unstable => "unstable",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Stale => "stale",
            Self::Io => "io",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What went wrong with a source, where, and what to do about it.
///
/// Cheap to clone. Its text never holds content of a file, so never a byte of a key.
///
/// The text reads `PATH:LINE: what is wrong`, or begins with the origin's name where there is no path.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    reason: Reason,
    message: String,
    origin: Option<Origin>,
    path: Option<PathBuf>,
    line: Option<usize>,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with its reason and a message: lower case, no full stop, what is wrong and what to do.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            reason,
            message: message.into(),
            origin: None,
            path: None,
            line: None,
            cause: None,
        }))
    }

    /// An error of the operating system while `doing` something to `path`.
    ///
    /// The reason follows from the kind of `error`.
    pub fn io(doing: &str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        let (reason, message) = match error.kind() {
            io::ErrorKind::NotFound => (
                Reason::NotFound,
                format!(
                    "cannot {doing}: no such file or directory; check the path, and that its volume is mounted"
                ),
            ),
            io::ErrorKind::PermissionDenied => (
                Reason::PermissionDenied,
                format!(
                    "cannot {doing}: permission denied; let this user read the file and enter its directories"
                ),
            ),
            io::ErrorKind::TimedOut => (Reason::TimedOut, format!("cannot {doing}: timed out")),
            io::ErrorKind::NotADirectory => (
                Reason::Io,
                format!("cannot {doing}: a part of this path is a file, not a directory; check the path"),
            ),
            io::ErrorKind::IsADirectory => {
                (Reason::NotRegularFile, format!("cannot {doing}: this is a directory; name a file in it"))
            }
            _ if is_out_of_descriptors(&error) => (
                Reason::Io,
                format!(
                    "cannot {doing}: too many files are open; raise the limit (ulimit -n, LimitNOFILE of a unit), or find out \
                     what leaves them open"
                ),
            ),
            _ if is_link_loop(&error) => (
                Reason::Io,
                format!(
                    "cannot {doing}: its links lead round in a circle; make one of them point at the file \
                     (namei PATH shows them)"
                ),
            ),
            _ => (Reason::Io, format!("cannot {doing}: {error}")),
        };
        Self::new(reason, message).at(path).caused_by(error)
    }

    /// The same error, at this path.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.0).path = Some(path.into());
        self
    }

    /// The same error, at this line (the first line is 1).
    #[must_use]
    pub fn on_line(mut self, line: usize) -> Self {
        Arc::make_mut(&mut self.0).line = Some(line);
        self
    }

    /// The same error, of this origin.
    #[must_use]
    pub fn of(mut self, origin: Origin) -> Self {
        Arc::make_mut(&mut self.0).origin = Some(origin);
        self
    }

    /// The same error, with what caused it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl StdError + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).cause = Some(Arc::new(cause));
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The text without the place: what is wrong and what to do.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The path it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref().or_else(|| self.0.origin.as_ref().and_then(Origin::as_path))
    }

    /// The line it is about, counted from 1, if the content is text.
    pub fn line(&self) -> Option<usize> {
        self.0.line
    }

    /// The origin it is about, if it is known.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// Whether it may go away without anyone changing what the source holds: a read error, a time-out, a source
    /// that is being written.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.reason, Reason::Io | Reason::TimedOut | Reason::Unstable)
    }
}

/// No descriptor is left, of this process or of the whole system. The standard library has no name for it.
#[cfg(unix)]
fn is_out_of_descriptors(error: &io::Error) -> bool {
    let full = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    full.iter().any(|full| error.raw_os_error() == Some(full.raw_os_error()))
}

#[cfg(not(unix))]
fn is_out_of_descriptors(_: &io::Error) -> bool {
    false
}

/// More links than the system follows. The standard library has no stable name for it.
#[cfg(unix)]
fn is_link_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(not(unix))]
fn is_link_loop(_: &io::Error) -> bool {
    false
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path(), self.origin()) {
            (Some(path), _) => write!(f, "{}", Escaped::new(&path.to_string_lossy()))?,
            (None, Some(origin)) => write!(f, "{origin}")?,
            (None, None) => return f.write_str(self.message()),
        }
        if let Some(line) = self.0.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("path", &self.path())
            .field("line", &self.0.line)
            .field("origin", &self.0.origin)
            .field("cause", &self.0.cause)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.cause {
            Some(cause) => Some(&**cause),
            None => None,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_or_a_system_without_a_descriptor_is_told_what_to_raise() {
        for full in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            let error = Error::io("open it", "/a", io::Error::from_raw_os_error(full.raw_os_error()));
            assert_eq!(error.reason(), Reason::Io);
            let said = error.to_string();
            assert!(
                said.starts_with("/a: cannot open it: too many files are open; raise the limit"),
                "{said}"
            );
        }
        let other = Error::io("open it", "/a", io::Error::from_raw_os_error(5));
        assert!(!other.to_string().contains("raise the limit"), "{other}");
    }

    #[test]
    fn what_the_system_says_has_its_reason_and_its_words() {
        use rustix::io::Errno;
        for (errno, reason, words) in [
            (Errno::NOENT, Reason::NotFound, "no such file or directory; check the path"),
            (Errno::ACCESS, Reason::PermissionDenied, "permission denied; let this user read the file"),
            (Errno::TIMEDOUT, Reason::TimedOut, "timed out"),
            (Errno::NOTDIR, Reason::Io, "a part of this path is a file"),
            (Errno::ISDIR, Reason::NotRegularFile, "this is a directory; name a file in it"),
            (Errno::LOOP, Reason::Io, "its links lead round in a circle"),
            (Errno::IO, Reason::Io, ""),
        ] {
            let system = io::Error::from_raw_os_error(errno.raw_os_error());
            let words = if words.is_empty() { system.to_string() } else { words.to_owned() };
            let error = Error::io("open it", "/a", system);
            assert_eq!(error.reason(), reason, "{error}");
            assert!(error.to_string().starts_with(&format!("/a: cannot open it: {words}")), "{error}");
        }
    }
}
