//! The source over files: what to load from where, and one consistent view of it.
//!
//! What is not here: when to look again ([`crate::detect`]), whether the parts fit together
//! ([`Parts::assemble`]), and what to do with the result ([`crate::machine`]).

mod content;
mod der;
mod limits;
mod password;
mod plan;
#[cfg(feature = "system-roots")]
mod system;
#[cfg(not(feature = "system-roots"))]
#[path = "files/no_system.rs"]
mod system;
mod view;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "encrypted-keys")]
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::detect::Mtime;
use crate::error::{Error, Reason};
use crate::few::Few;
use crate::fs::{Fs, Kind, RealFs, Stamp, Volume, data};
use crate::material::Material;
use crate::origin::Origin;
use crate::parts::Parts;
use crate::source::{Alarm, Armed, Arrival, Detector, Look, Source};

pub use self::limits::{KeyPermissions, Limits};
use self::password::Password;
use self::plan::{Plan, Role, Wanted};
use self::system::Store;
use self::view::View;

/// How often the whole source is read again when it moves while it is read.
const ROUNDS: usize = 8;
/// How long files must have stood still, by their own file system's clock, to be adopted at the first look.
const STILL: Duration = Duration::from_secs(5);

/// TLS material from files: trust anchors, an identity, revocation lists. PEM or DER.
///
/// All of it is one unit: it is read as one consistent view and published together.
///
/// # Defaults
/// - detector: [`Mtime`]
/// - limits: [`Limits::default`]
/// - a private key that others can read: a warning ([`KeyPermissions::Warn`])
/// - a private key that is encrypted: an error ([`Reason::Encrypted`])
/// - file system: this machine's
///
/// # Consistency
/// If every path goes through the `..data` link of one Kubernetes volume, the directory behind it is opened once and
/// all names are read in it: a swap cannot be seen halfway. Elsewhere all files are read, then looked at again; if one
/// of them moved meanwhile, all are read again, up to 8 times. Then the error is [`Reason::Unstable`].
///
/// A writer that stops between two files, with each of them whole, cannot be told from one that is done. An engine
/// therefore waits until the content stands still; only a single file, or a directory swap, is atomic.
///
/// # Directories of anchors
/// Taken are the files named `*.pem`, `*.crt` and `*.cer`, and OpenSSL's hash names (`1a2b3c4d.0`). Passed over are
/// other names, names that begin with a dot, and sub-directories. A file that is broken, cut or cannot be read is an
/// error of the whole part, so that no anchor is lost silently; a file that is whole but holds no certificate is passed
/// over with a warning. In a Kubernetes volume the names are those of the directory behind `..data`. An anchor that
/// stands in several files counts once.
///
/// Every certificate in such a directory becomes an anchor. Do not point at the directory of a TLS secret, where
/// `tls.crt` would be one: name its `ca.crt`.
///
/// # Examples
/// ```no_run
/// use certsource::Files;
///
/// let mut files = Files::trust("/etc/tls/ca.pem").with_identity("/etc/tls/tls.crt", "/etc/tls/tls.key");
/// let material = files.load()?;
/// # Ok::<(), certsource::Error>(())
/// ```
//
// What a look needs comes first, in this order: see `machine::Machine`.
#[repr(C)]
pub struct Files {
    fs: Arc<dyn Fs>,
    /// Whether a directory is among them, so that they must be listed at each look.
    has_directory: bool,
    /// Whether what the paths lead to must be found out again at the next look.
    is_stale: bool,
    has_looked: bool,
    system: Option<Box<Store>>,
    /// What the detector is given: every path, directories expanded.
    paths: Few<PathBuf>,
    detector: When,
    key_permissions: KeyPermissions,
    wanted: Vec<Wanted>,
    limits: Limits,
    password: Password,
}

/// The detector. The usual one lies beside the rest, so that a look finds it in the same place.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum When {
    Mtime(Mtime),
    Other(Box<dyn Detector>),
}

impl When {
    fn get(&mut self) -> &mut dyn Detector {
        match self {
            Self::Mtime(detector) => detector,
            Self::Other(detector) => &mut **detector,
        }
    }
}

impl Files {
    /// Trust anchors from a file, or from every file of a directory.
    pub fn trust(path: impl Into<PathBuf>) -> Self {
        Self::nothing().and_trust(path)
    }

    /// An identity: the certificate chain with the leaf first, and its private key.
    ///
    /// If both paths are equal, this is [`Files::combined`].
    pub fn identity(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::nothing().with_identity(certificate, key)
    }

    /// An identity in one file: the certificate chain with the leaf first, and one private key before or after it.
    pub fn combined(path: impl Into<PathBuf>) -> Self {
        Self::nothing().with_combined(path)
    }

    /// Revocation lists alone. See [`Files::with_crl`].
    pub fn crl(path: impl Into<PathBuf>) -> Self {
        Self::nothing().with_crl(path)
    }

    /// The trust anchors of the operating system, and no others. See [`Files::with_system_roots`].
    #[cfg(feature = "system-roots")]
    #[cfg_attr(docsrs, doc(cfg(feature = "system-roots")))]
    pub fn system_roots() -> Self {
        Self::nothing().with_system_roots()
    }

    /// The files of a Kubernetes TLS secret in `directory`: `ca.crt`, `tls.crt` and `tls.key`. All three are needed;
    /// see [`Files::without_trust`] for secrets that have no `ca.crt`.
    pub fn kubernetes(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        Self::trust(directory.join("ca.crt"))
            .with_identity(directory.join("tls.crt"), directory.join("tls.key"))
    }

    fn nothing() -> Self {
        Self {
            wanted: Vec::new(),
            system: None,
            limits: Limits::default(),
            key_permissions: KeyPermissions::default(),
            password: Password::default(),
            detector: When::Mtime(Mtime::new()),
            fs: Arc::new(RealFs::new()),
            paths: Few::default(),
            has_directory: false,
            is_stale: true,
            has_looked: false,
        }
    }

    /// Trust anchors from another file or directory too.
    #[must_use]
    pub fn and_trust(self, path: impl Into<PathBuf>) -> Self {
        self.with(Role::Trust, path.into())
    }

    /// Trust anchors from a file or directory. Short for [`Files::and_trust`]: what was set before stays.
    #[must_use]
    pub fn with_trust(self, path: impl Into<PathBuf>) -> Self {
        self.and_trust(path)
    }

    /// The trust anchors of the operating system too (feature `system-roots`). They are never used unless this, or
    /// [`Files::system_roots`], asks for them.
    ///
    /// Where they are is decided as OpenSSL does on Linux and other Unix (`SSL_CERT_FILE` and `SSL_CERT_DIR` first, then
    /// where distributions keep them), and by the operating system on macOS and Windows. A certificate of the store that
    /// cannot be read is passed over with a warning. A store that gives none at all is an error, like an empty bundle.
    ///
    /// # When a change is seen
    /// Where the store is files, at the next look: its bundle, and its directories as far as names come and go. Anything
    /// else after 5 minutes: a file that is edited in place in such a directory, and the stores of macOS and Windows.
    /// Whatever the detector, no event of the store wakes an engine; beside file events the next look is the safety poll.
    ///
    /// # What is different from files
    /// The store is read by another library, so [`Limits`] hold for the number of certificates, not for bytes, and
    /// [`Files::filesystem`] does not reach it.
    #[cfg(feature = "system-roots")]
    #[cfg_attr(docsrs, doc(cfg(feature = "system-roots")))]
    #[must_use]
    pub fn with_system_roots(mut self) -> Self {
        self.system = Some(Box::new(Store::new()));
        self
    }

    /// No trust anchors: what was set before is taken back.
    #[must_use]
    pub fn without_trust(mut self) -> Self {
        self.wanted.retain(|wanted| wanted.role != Role::Trust);
        self.system = None;
        self
    }

    /// An identity from two files. It replaces an identity that was set before.
    #[must_use]
    pub fn with_identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        if certificate == key {
            return self.with_combined(certificate);
        }
        self.without_identity().with(Role::Chain, certificate).with(Role::Key, key)
    }

    /// An identity from one file. It replaces an identity that was set before.
    #[must_use]
    pub fn with_combined(self, path: impl Into<PathBuf>) -> Self {
        self.without_identity().with(Role::Combined, path.into())
    }

    /// Revocation lists from a file. May be called again for more files.
    ///
    /// Each file must exist and hold at least one list: a list that is gone never means that nothing is revoked. For
    /// that reason a directory is not taken here.
    #[must_use]
    pub fn with_crl(self, path: impl Into<PathBuf>) -> Self {
        self.with(Role::Crl, path.into())
    }

    /// Limits on what is read.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What to do about a private key that more users can read than its owner.
    #[must_use]
    pub fn key_permissions(mut self, key_permissions: KeyPermissions) -> Self {
        self.key_permissions = key_permissions;
        self
    }

    /// Where the password comes from if the private key is encrypted (feature `encrypted-keys`).
    ///
    /// It is asked for at each read of such a key, so a key and its password can change while a program runs; the copy
    /// that is given is wiped after use. A password that does not fit is [`Reason::Encrypted`], with
    /// [`WrongPassword`](crate::WrongPassword) as its source, and like every failed read it is tried again.
    ///
    /// Decrypting takes the time that the key's author chose (two seconds at most, see
    /// [`PrivateKey::from_encrypted_der`](crate::PrivateKey::from_encrypted_der)), at each read.
    ///
    /// # Examples
    /// ```no_run
    /// use certsource::Files;
    ///
    /// let files = Files::identity("/etc/tls/tls.crt", "/etc/tls/tls.key").key_password(|| {
    ///     let mut password = std::fs::read("/run/secrets/tls-password")?;
    ///     // The line end that editors add is no part of it.
    ///     password.truncate(password.trim_ascii_end().len());
    ///     Ok(password)
    /// });
    /// ```
    #[cfg(feature = "encrypted-keys")]
    #[cfg_attr(docsrs, doc(cfg(feature = "encrypted-keys")))]
    #[must_use]
    pub fn key_password<P: Into<Zeroizing<Vec<u8>>>>(
        mut self,
        ask: impl FnMut() -> Result<P, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ) -> Self {
        self.password = Password::from(ask);
        self
    }

    /// Another detector.
    #[must_use]
    pub fn detect(mut self, detector: impl Detector + 'static) -> Self {
        self.detector = When::Other(Box::new(detector));
        self
    }

    /// Another file system: for simulation.
    #[must_use]
    pub fn filesystem(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// Reads and checks everything once, without an engine.
    ///
    /// # Errors
    /// The first part that cannot be read, parsed or does not fit: see [`Reason`].
    pub fn load(&mut self) -> Result<Arc<Material>, Error> {
        self.read()?.assemble().whole
    }

    fn without_identity(mut self) -> Self {
        self.wanted.retain(|wanted| !matches!(wanted.role, Role::Chain | Role::Key | Role::Combined));
        self
    }

    fn with(mut self, role: Role, path: PathBuf) -> Self {
        if !self.wanted.iter().any(|wanted| wanted.role == role && wanted.path == path) {
            self.wanted.reserve_exact(1);
            self.wanted.push(Wanted { role, path });
        }
        self
    }

    /// Brings the paths for the detector up to date, and says whether they are others now.
    ///
    /// Only directories are listed at each look. Whether a path is one is found out again after every change.
    fn list(&mut self) -> bool {
        if !self.is_stale && !self.has_directory {
            return false;
        }
        self.is_stale = false;
        let plan = Plan::make(&*self.fs, &self.wanted, &self.limits);
        self.has_directory = !plan.directories.is_empty();
        let paths = plan.paths();
        let differs = paths[..] != self.paths[..];
        self.paths = paths.into_iter().collect();
        differs
    }

    /// How the content that the first look found arrived, as far as that can be told.
    fn first_arrival(&self, now: Now) -> Arrival {
        let fs = &*self.fs;
        let stands_still = |path: &PathBuf| match fs.metadata(path) {
            Ok(meta) if meta.kind == Kind::File || meta.kind == Kind::Directory => {
                fs.volume(path).is_ok_and(|volume| volume == Volume::Local)
                    && is_older(meta.changed, now.wall)
            }
            _ => false,
        };
        if !self.system.iter().flat_map(|system| system.paths()).all(stands_still) {
            return Arrival::Unknown;
        }
        if data::shared_root(fs, &self.paths).is_some() {
            return Arrival::Swapped;
        }
        if self.paths.iter().all(stands_still) { Arrival::Still } else { Arrival::Unknown }
    }
}

impl Source for Files {
    fn origin(&self) -> Origin {
        // A directory that holds everything says more than the first file in it.
        let mut parents = self.wanted.iter().map(|wanted| wanted.path.parent());
        match (&self.wanted[..], parents.next()) {
            ([only], _) => Origin::file(&only.path),
            ([_, ..], Some(Some(parent)))
                if !parent.as_os_str().is_empty() && parents.all(|p| p == Some(parent)) =>
            {
                Origin::file(parent)
            }
            ([first, ..], _) => Origin::file(&first.path),
            ([], _) => {
                self.system.as_ref().map_or_else(|| Origin::named("no files"), |system| system.origin())
            }
        }
    }

    fn look(&mut self, now: Now) -> Result<Look, Error> {
        let differs = self.list();
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let look = self.detector.get().look(&*self.fs, &self.paths, now);
        let look = match &mut self.system {
            Some(system) => either(look, system.look(&*self.fs, now)),
            None => look,
        };
        let look = match look {
            Ok(Look::Changed(_)) if is_first => Ok(Look::Changed(self.first_arrival(now))),
            Ok(_) if is_first => Ok(Look::Changed(Arrival::Unknown)),
            Ok(Look::Same | Look::SameUntil(_)) if differs => Ok(Look::Changed(Arrival::Unknown)),
            look => look,
        };
        self.is_stale = !matches!(look, Ok(Look::Same | Look::SameUntil(_)));
        look
    }

    fn read(&mut self) -> Result<Parts, Error> {
        if self.wanted.is_empty() && self.system.is_none() {
            return Err(Error::new(
                Reason::Empty,
                "no file is named: give a trust bundle, an identity or a CRL",
            ));
        }
        for _ in 0..ROUNDS {
            let plan = Plan::make(&*self.fs, &self.wanted, &self.limits);
            if let View::Whole(outcomes) = view::take(&*self.fs, &plan, &self.limits) {
                if Plan::make(&*self.fs, &self.wanted, &self.limits).is_as(&plan) {
                    return Ok(content::parts(
                        plan,
                        outcomes,
                        &self.limits,
                        self.key_permissions,
                        &mut self.password,
                        self.system.as_deref(),
                    ));
                }
            }
        }
        let message =
            format!("the files changed while they were read, {ROUNDS} times in a row; a writer is at work");
        Err(Error::new(Reason::Unstable, message).of(self.origin()))
    }

    fn arm(&mut self, alarm: &Alarm) -> Armed {
        if self.paths.is_empty() {
            self.list();
            // The paths were not looked at yet: the first look lists them again.
            self.is_stale = true;
        }
        self.detector.get().arm(&*self.fs, &self.paths, alarm)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("wanted", &self.wanted)
            .field("system_roots", &self.system.is_some())
            .field("limits", &self.limits)
            .field("key_permissions", &self.key_permissions)
            .field("fs", &self.fs)
            .finish_non_exhaustive()
    }
}

/// What two looks say together, the second at the system's store. An error is taken as a change, as ever.
fn either(files: Result<Look, Error>, system: Result<Look, Error>) -> Result<Look, Error> {
    Ok(match (files?, system?) {
        (Look::Changed(_), Look::Changed(_)) | (_, Look::Changed(_)) => Look::Changed(Arrival::Unknown),
        (Look::Changed(arrival), _) => Look::Changed(arrival),
        (Look::SameUntil(one), Look::SameUntil(other)) => Look::SameUntil(one.min(other)),
        (Look::SameUntil(at), _) | (_, Look::SameUntil(at)) => Look::SameUntil(at),
        (Look::Same, Look::Same) => Look::Same,
    })
}

/// Whether the stamp lies [`STILL`] or more before `now`. A stamp from the future does not.
fn is_older(stamp: Stamp, now: SystemTime) -> bool {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let Ok(secs) = u64::try_from(stamp.secs) else { return true };
    let changed = Duration::new(secs, stamp.nanos.min(999_999_999));
    since_epoch.checked_sub(changed).is_some_and(|age| age >= STILL)
}
