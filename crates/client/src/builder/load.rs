//! What a client loads, and how it finds out that it changed.

use std::path::PathBuf;

use certsource::source::Detector;
use certsource::{Files, Source};
use certsource_rustls::Revocation;

use super::{Builder, What};

impl Builder {
    /// Trusts the certificates of this file, or of every file of this directory, and no others: they replace the
    /// roots. Call it again for more files of the same bundle.
    pub fn root_certificate(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.with_files(|files| match files {
            Some(files) => files.and_trust(path),
            None => Files::trust(path),
        })
    }

    /// Shows this certificate chain (the leaf first), with its private key, to servers that ask for one.
    pub fn identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        self.with_files(|files| match files {
            Some(files) => files.with_identity(certificate, key),
            None => Files::identity(certificate, key),
        })
    }

    /// As [`Builder::identity`], with chain and key in one file.
    pub fn identity_file(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.with_files(|files| match files {
            Some(files) => files.with_combined(path),
            None => Files::combined(path),
        })
    }

    /// Refuses what the revocation lists of this file revoke. Call it again for more files.
    ///
    /// The whole chain of a server is checked. A certificate whose issuer has no list here is accepted, and a list is used
    /// for one day after its end: see [`Revocation`](certsource_rustls::Revocation). The file must be there and hold a
    /// list: one that is gone never means that nothing is revoked.
    pub fn crl(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.with_files(|files| match files {
            Some(files) => files.with_crl(path),
            None => Files::crl(path),
        })
    }

    /// What the revocation lists are used for.
    pub fn revocation(mut self, revocation: Revocation) -> Self {
        self.revocation = revocation;
        self
    }

    /// Trusts the operating system's roots too. They are never used unless this asks for them. See
    /// [`Files::with_system_roots`] for where they are, and when a change of them is seen.
    #[cfg(feature = "system-roots")]
    #[cfg_attr(docsrs, doc(cfg(feature = "system-roots")))]
    pub fn with_system_roots(self) -> Self {
        self.with_files(|files| match files {
            Some(files) => files.with_system_roots(),
            None => Files::system_roots(),
        })
    }

    /// Where the password comes from if the private key is encrypted. It is asked for at each read of such a key: see
    /// [`Files::key_password`].
    #[cfg(feature = "encrypted-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "encrypted-keys")))]
    pub fn key_password<P: Into<zeroize::Zeroizing<Vec<u8>>>>(
        mut self,
        ask: impl FnMut() -> Result<P, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ) -> Self {
        self.on_files.push(Box::new(move |files| files.key_password(ask)));
        self
    }

    /// Loads these files. Paths named later are added to them.
    pub fn files(mut self, files: Files) -> Self {
        match self.what {
            What::Nothing => self.what = What::Files(Box::new(files)),
            _ => self.mistake("Builder::files must come before other files are named, and once"),
        }
        self
    }

    /// Loads this source instead of files: a [`push`](certsource::push) source, or one of your own.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        match self.what {
            What::Nothing => self.what = What::Source(Box::new(source)),
            _ => self.mistake("a client has either files or one source"),
        }
        self
    }

    /// Looks for changes of the files with this detector.
    pub fn detect(mut self, detector: impl Detector + 'static) -> Self {
        self.on_files.push(Box::new(move |files| files.detect(detector)));
        self
    }

    fn with_files(mut self, change: impl FnOnce(Option<Files>) -> Files) -> Self {
        match std::mem::replace(&mut self.what, What::Nothing) {
            What::Nothing => self.what = What::Files(Box::new(change(None))),
            What::Files(files) => self.what = What::Files(Box::new(change(Some(*files)))),
            source @ What::Source(_) => {
                self.what = source;
                self.mistake("a client has either files or one source");
            }
        }
        self
    }
}
