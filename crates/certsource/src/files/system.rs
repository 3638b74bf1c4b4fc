//! The system's store of trust anchors: when to look at it again, and its content.
//!
//! It is the one part that is not read through [`Fs`]: where it is, and whether it is files at all, is the operating
//! system's business, and rustls-native-certs knows.

use std::env;
use std::path::PathBuf;

use rustls_native_certs::ErrorKind;

use crate::clock::Now;
use crate::detect::Mtime;
use crate::error::{Error, Reason};
use crate::fs::Fs;
use crate::inspect;
use crate::origin::Origin;
use crate::parts::{FoundCertificate, Warning};
use crate::source::{Detector as _, Look};
use crate::text::Escaped;

const NAME: &str = "system trust anchors";

/// The store, and what was last seen of it.
pub(super) struct Store {
    /// Where it is, as far as it is files.
    paths: Vec<PathBuf>,
    detector: Mtime,
    /// Whether the paths must be found out again at the next look.
    is_stale: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { paths: Vec::new(), detector: Mtime::new(), is_stale: true }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin::named(NAME)
    }

    /// The paths of the last look.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// As [`Source::look`](crate::Source::look). `Mtime` asks for a read every 5 minutes whatever it sees: all that
    /// there is where the store is no file.
    pub(super) fn look(&mut self, fs: &dyn Fs, now: Now) -> Result<Look, Error> {
        if std::mem::replace(&mut self.is_stale, false) {
            self.paths = paths();
        }
        let look = self.detector.look(fs, &self.paths, now);
        self.is_stale = !matches!(look, Ok(Look::Same | Look::SameUntil(_)));
        look
    }

    /// Every certificate that can be read. What cannot is a warning: the store is not the user's to repair.
    pub(super) fn read(&self, warnings: &mut Vec<Warning>) -> Result<Vec<FoundCertificate>, Error> {
        let loaded = rustls_native_certs::load_native_certs();
        let origin = self.origin();
        let warn = |what: &str| Warning {
            origin: origin.clone(),
            message: format!("{}; passed over", Escaped::new(what)),
        };
        let mut anchors = Vec::with_capacity(loaded.certs.len());
        let mut broken = Vec::new();
        for der in loaded.certs {
            match inspect::essentials(&der) {
                Ok(_) => anchors.push(FoundCertificate { der, origin: origin.clone(), line: None }),
                Err(what) => broken.push(warn(&format!("not a certificate: {what}"))),
            }
        }
        if !anchors.is_empty() {
            warnings.extend(loaded.errors.iter().map(|error| warn(&error.to_string())));
            warnings.append(&mut broken);
            return Ok(anchors);
        }
        Err(match loaded.errors.into_iter().next() {
            Some(error) => failure(error),
            None if broken.is_empty() => {
                let message = "the system has no store of trust anchors, or an empty one; install its CA certificates \
                               (often a package named ca-certificates), or name a bundle";
                Error::new(Reason::Empty, message).of(origin)
            }
            None => Error::new(Reason::Malformed, "no certificate among them can be read").of(origin),
        })
    }
}

/// Where the store is: the rules of rustls-native-certs.
fn paths() -> Vec<PathBuf> {
    let file = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let directories = env::var_os("SSL_CERT_DIR").unwrap_or_default();
    let directories = env::split_paths(&directories).filter(|path| !path.as_os_str().is_empty());
    let asked: Vec<_> = file.into_iter().chain(directories).collect();
    if asked.is_empty() { of_platform() } else { asked }
}

#[cfg(all(unix, not(target_os = "macos")))]
fn of_platform() -> Vec<PathBuf> {
    let found = openssl_probe::probe();
    found.cert_file.into_iter().chain(found.cert_dir).collect()
}

/// A store that is no file.
#[cfg(not(all(unix, not(target_os = "macos"))))]
fn of_platform() -> Vec<PathBuf> {
    Vec::new()
}

fn failure(error: rustls_native_certs::Error) -> Error {
    let what = error.to_string();
    let reason = match error.kind {
        ErrorKind::Io { inner, path } => return Error::io("read the system's trust anchors", path, inner),
        ErrorKind::Pem(_) => Reason::Malformed,
        _ => Reason::Io,
    };
    Error::new(reason, format!("cannot be read: {}", Escaped::new(&what))).of(Origin::named(NAME))
}
