//! A place where a writer keeps `ca.crt`, `tls.crt` and `tls.key`, and the ways in which it breaks.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use certsource_client::Files;
use certsource_testkit::write::rename_over;
use certsource_testkit::{
    AgentFiles, Ca, CertbotLive, Damage, Issued, KubeletDir, Part, PlainDir, Rotate as _, TestDir, damage,
};

/// A writer and its files.
#[derive(Debug)]
pub(crate) enum Place {
    Kubelet(KubeletDir),
    Agent(AgentFiles),
    Plain(PlainDir),
    /// Files that are renamed into place, on a disk that can be filled.
    Small(TestDir),
    /// certbot keeps no root: that is a file of its own beside it.
    Certbot(CertbotLive, TestDir),
}

impl Place {
    /// Certbot's layout and a bundle beside it.
    pub(crate) fn certbot(first: &Issued) -> io::Result<Self> {
        let beside = TestDir::new()?;
        beside.write("ca.crt", first.root_pem())?;
        Ok(Self::Certbot(CertbotLive::new(first)?, beside))
    }

    /// What a client is told to read.
    pub(crate) fn files(&self) -> Files {
        Files::trust(self.path(Part::Trust)).with_identity(self.path(Part::Certificate), self.path(Part::Key))
    }

    pub(crate) fn path(&self, part: Part) -> PathBuf {
        match self {
            Self::Kubelet(dir) => dir.join(part.file_name()),
            Self::Agent(dir) => dir.join(part.file_name()),
            Self::Plain(dir) => dir.join(part.file_name()),
            Self::Small(dir) => dir.join(part.file_name()),
            Self::Certbot(live, beside) => match part {
                Part::Trust => beside.join("ca.crt"),
                Part::Certificate => live.cert_path(),
                _ => live.key_path(),
            },
        }
    }

    /// Writes everything, the way this writer does.
    pub(crate) fn write(&self, trust: &str, issued: &Issued) -> io::Result<()> {
        let files =
            [("ca.crt", trust.to_owned()), ("tls.crt", issued.chain_pem()), ("tls.key", issued.key_pem())];
        match self {
            Self::Kubelet(dir) => dir.write(files),
            Self::Agent(dir) => dir.render(files),
            Self::Plain(dir) => dir.write_steps(files)?.finish(),
            Self::Small(dir) => files
                .into_iter()
                .try_for_each(|(name, content)| rename_over(dir.join(name), content).finish()),
            Self::Certbot(live, beside) => {
                rename_over(beside.join("ca.crt"), trust).finish()?;
                live.swap(issued)
            }
        }
    }

    /// Puts one file back as it should be, in place: for damage that the writer itself would leave alone.
    pub(crate) fn mend(&self, trust: &str, issued: &Issued) -> io::Result<()> {
        for (part, content) in [
            (Part::Trust, trust.to_owned()),
            (Part::Certificate, issued.chain_pem()),
            (Part::Key, issued.key_pem()),
        ] {
            let path = self.path(part);
            set_mode(&path, 0o600)?;
            if fs::read(&path).is_ok_and(|bytes| bytes == content.as_bytes()) {
                continue;
            }
            fs::write(path, content)?;
        }
        Ok(())
    }
}

/// What goes wrong between two rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Torn,
    Empty,
    NoEndLine,
    Garbage,
    PermissionTaken,
    Expired,
    OtherKey,
    OpenBundle,
    DiskFull,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::Torn,
        Self::Empty,
        Self::NoEndLine,
        Self::Garbage,
        Self::PermissionTaken,
        Self::Expired,
        Self::OtherKey,
        Self::OpenBundle,
        Self::DiskFull,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Torn => "half a file",
            Self::Empty => "an empty file",
            Self::NoEndLine => "the end line missing",
            Self::Garbage => "garbage inside a section",
            Self::PermissionTaken => "permission taken away",
            Self::Expired => "an expired identity",
            Self::OtherKey => "another certificate's key",
            Self::OpenBundle => "a bundle with text and no certificate",
            Self::DiskFull => "the disk full while writing",
        }
    }

    /// Whether it can be done to this place.
    pub(crate) fn suits(self, place: &Place) -> bool {
        (self == Self::DiskFull) == matches!(place, Place::Small(_))
    }

    /// Breaks the place. Returns whether nothing of what it leaves behind may be taken.
    pub(crate) fn strike(self, place: &Place, part: Part, trust: &str, ca: &Ca) -> io::Result<bool> {
        match self {
            Self::Torn => damage(place.path(part), Damage::Half)?,
            Self::Empty => damage(place.path(part), Damage::Empty)?,
            Self::NoEndLine => damage(place.path(part), Damage::NoEndLine)?,
            Self::Garbage => damage(place.path(part), Damage::Garbage)?,
            Self::PermissionTaken => {
                set_mode(&place.path(part), 0)?;
                if fs::read(place.path(part)).is_ok() {
                    return Err(io::Error::other("this user reads everything"));
                }
            }
            Self::Expired => {
                let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
                let old = ca.leaf("client").not_before(now - 2 * day).not_after(now - day);
                place.write(trust, &old.issue())?;
            }
            Self::OtherKey => fs::write(place.path(Part::Key), ca.issue("another").key_pem())?,
            Self::OpenBundle => fs::write(place.path(Part::Trust), "# no certificate here\n")?,
            Self::DiskFull => return fill_and_write(place, trust, ca),
        }
        Ok(true)
    }
}

/// Fills the disk below a place, lets the writer try, and makes room again.
fn fill_and_write(place: &Place, trust: &str, ca: &Ca) -> io::Result<bool> {
    let Place::Small(dir) = place else { return Err(io::ErrorKind::Unsupported.into()) };
    let path = dir.join("filler");
    let mut filler = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    while filler.write_all(&[0; 4096]).is_ok() {}
    let result = place.write(trust, &ca.issue("client"));
    drop(filler);
    fs::remove_file(path)?;
    for entry in fs::read_dir(dir.path())?.flatten() {
        if entry.file_name().to_string_lossy().contains(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    match result {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Err(io::Error::other("the disk did not get full")),
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
