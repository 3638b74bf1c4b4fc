//! Whether a private key belongs to one of the certificates that are inspected.

use std::fmt;
use std::path::{Path, PathBuf};

use certsource::parts::Parts;
use certsource::pem::{self, Content};
use certsource::{Error, Fingerprint, KeyFormat, Origin, PrivateKey, Reason};
use certsource_rustls::TlsGate;
use pki_types::PrivateKeyDer;

use crate::scan::{self, Found, Stdin, place};

/// A private key, and what was found out about it so far.
pub(super) struct Question {
    path: PathBuf,
    format: KeyFormat,
    der: PrivateKey,
    gate: TlsGate,
    compared: usize,
    match_: Option<(String, Fingerprint)>,
}

impl Question {
    /// Reads the key.
    ///
    /// # Errors
    /// When there is no private key in the file, or it is encrypted.
    pub(super) fn ask(path: &Path, stdin: &Stdin) -> anyhow::Result<Self> {
        let der =
            if scan::is_stdin(path) { read(path, stdin.bytes()?) } else { read(path, &scan::bytes(path)?) }?;
        Ok(Self {
            path: path.to_owned(),
            format: der.format(),
            der,
            gate: TlsGate::new()?,
            compared: 0,
            match_: None,
        })
    }

    /// Compares it with one more certificate.
    pub(super) fn compare(&mut self, path: &Path, line: Option<usize>, found: &Found) {
        self.compared += 1;
        if self.match_.is_some() {
            return;
        }
        let key = PrivateKey::new(self.format, self.der.secret_der().to_vec().into());
        let parts = Parts::new().with_identity(&Origin::file(path), [found.der.clone()], key);
        let Ok(material) = parts.assemble().whole else { return };
        // A key that does not hold its public half is for the TLS library to judge.
        let is_known = material.identity().is_some_and(certsource::Identity::is_key_match_known);
        if is_known || self.gate.check(&material).is_ok() {
            let inspection = &found.inspection;
            let who = if inspection.subject().is_empty() { "(no subject)" } else { inspection.subject() };
            let text = format!("{} {who} ({})", found.role(), place(path, line));
            self.match_ = Some((text, inspection.fingerprint()));
        }
    }

    pub(super) fn verdict(&self) -> Verdict<'_> {
        match &self.match_ {
            Some((whose, fingerprint)) => Verdict::Yes { key: &self.path, whose, fingerprint: *fingerprint },
            None => Verdict::No { key: &self.path, compared: self.compared },
        }
    }
}

/// The answer.
pub(super) enum Verdict<'a> {
    Yes { key: &'a Path, whose: &'a str, fingerprint: Fingerprint },
    No { key: &'a Path, compared: usize },
}

impl Verdict<'_> {
    pub(super) fn matches(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }

    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Yes { fingerprint, .. } => Some(*fingerprint),
            Self::No { .. } => None,
        }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { key, whose, .. } => write!(f, "key {} belongs to {whose}", place(key, None)),
            Self::No { key, compared: 0 } => {
                write!(f, "key {} was compared with nothing: there is no certificate", place(key, None))
            }
            Self::No { key, compared: 1 } => {
                write!(f, "key {} does NOT belong to this certificate", place(key, None))
            }
            Self::No { key, compared } => {
                write!(f, "key {} belongs to NONE of these {compared} certificates", place(key, None))
            }
        }
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<PrivateKey, Error> {
    if pem::looks_like_der(bytes) {
        let format = match PrivateKeyDer::try_from(bytes) {
            Ok(PrivateKeyDer::Pkcs8(_)) => KeyFormat::Pkcs8,
            Ok(PrivateKeyDer::Pkcs1(_)) => KeyFormat::Pkcs1,
            Ok(PrivateKeyDer::Sec1(_)) => KeyFormat::Sec1,
            _ => return Err(Error::new(Reason::Malformed, "DER that is no private key").at(path)),
        };
        return Ok(PrivateKey::new(format, bytes.to_vec().into()));
    }
    for section in pem::sections(bytes) {
        let section = section.map_err(|flaw| flaw.at(path))?;
        match section.content {
            Content::PrivateKey(key) => return Ok(key),
            Content::EncryptedKey(_) => {
                let message = "the private key is encrypted; decrypt it first, for example with openssl pkey";
                return Err(Error::new(Reason::Encrypted, message).at(path).on_line(section.line));
            }
            _ => {}
        }
    }
    let message = if scan::is_stdin(path) {
        "there is no private key on standard input; with --key - it is read from there"
    } else {
        "there is no private key in it"
    };
    Err(Error::new(Reason::Empty, message).at(path))
}
