//! Volumes as the kubelet writes them: Secrets, ConfigMaps, projected volumes, CSI drivers.
//!
//! The steps are those of `pkg/volume/util/atomic_writer.go` of Kubernetes 1.33.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use time::OffsetDateTime;

use crate::damage::{Damage, Part, damage};
use crate::files;
use crate::issued::Issued;
use crate::random;
use crate::rotate::Rotate;
use crate::steps::Steps;
use crate::test_dir::TestDir;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// A directory that changes as a Kubernetes volume does: all files at once, by renaming one link.
///
/// ```text
/// ..2026_01_31_12_00_00.123456789/tls.crt
/// ..data  -> ..2026_01_31_12_00_00.123456789
/// tls.crt -> ..data/tls.crt
/// ```
///
/// A write is these steps; their names are stable, so a test can stop at one:
///
/// | step | name |
/// | --- | --- |
/// | a new directory with the time in its name | `mkdir ..2026_…` |
/// | each file in it | `write tls.crt` |
/// | a link to it under another name | `symlink ..data_tmp` |
/// | the swap | `rename ..data_tmp ..data` (Windows: `unlink ..data`, `symlink ..data`, `unlink ..data_tmp`) |
/// | links for files that are new | `link tls.crt` |
/// | links of files that are gone | `unlink old.crt` |
/// | the old directory | `remove ..2026_…` |
///
/// As with the real kubelet, writing what is there already does nothing, only missing links are made again.
/// One thing differs: a `..data_tmp` that an unfinished write left behind is replaced, where the kubelet fails.
///
/// # Defaults
///
/// - the old directory is removed; see [`keep_old`](Self::keep_old)
#[derive(Debug)]
pub struct KubeletDir {
    dir: TestDir,
    keep_old: bool,
}

impl KubeletDir {
    /// A temporary directory with a first version: `ca.crt` (the root), `tls.crt` (the chain), `tls.key`.
    ///
    /// # Errors
    ///
    /// If the system refuses, as every method here.
    pub fn new(issued: impl AsRef<Issued>) -> io::Result<Self> {
        let dir = Self::from_dir(TestDir::new()?);
        dir.swap(issued)?;
        Ok(dir)
    }

    /// A directory without content yet, as before a volume is mounted. The files come with the first write.
    ///
    /// To write to a place that stays, give it [`TestDir::at`].
    pub fn from_dir(dir: TestDir) -> Self {
        Self { dir, keep_old: false }
    }

    /// Whether the directories of older versions stay. Some writers never remove them.
    #[must_use]
    pub fn keep_old(mut self, keep: bool) -> Self {
        self.keep_old = keep;
        self
    }

    /// The directory that a program is pointed at.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file as a program sees it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The path of `ca.crt`.
    pub fn ca_path(&self) -> PathBuf {
        self.join("ca.crt")
    }

    /// The path of `tls.crt`.
    pub fn cert_path(&self) -> PathBuf {
        self.join("tls.crt")
    }

    /// The path of `tls.key`.
    pub fn key_path(&self) -> PathBuf {
        self.join("tls.key")
    }

    /// The directory that `..data` points at now; `None` before the first write.
    ///
    /// # Errors
    ///
    /// If the link cannot be read.
    pub fn version_dir(&self) -> io::Result<Option<PathBuf>> {
        let data = self.join(DATA);
        match fs::read_link(&data) {
            Ok(target) => Ok(Some(self.join(target))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::at(&data)(error)),
        }
    }

    /// Replaces all: `ca.crt` (the root of this chain), `tls.crt`, `tls.key`, as when cert-manager renews.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn swap(&self, issued: impl AsRef<Issued>) -> io::Result<()> {
        self.swap_steps(issued)?.finish()
    }

    /// [`swap`](Self::swap), step by step.
    ///
    /// # Errors
    ///
    /// As [`write_steps`](Self::write_steps).
    pub fn swap_steps(&self, issued: impl AsRef<Issued>) -> io::Result<Steps> {
        let issued = issued.as_ref();
        self.write_steps(issued.files())
    }

    /// As [`swap`](Self::swap), with a `ca.crt` of your own: two roots during a hand-over, for example.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn swap_all(&self, ca_pem: impl Into<String>, issued: impl AsRef<Issued>) -> io::Result<()> {
        let mut files = issued.as_ref().files();
        files[0].1 = ca_pem.into();
        self.write(files)
    }

    /// Replaces the whole content by these files. A name may have directories in it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name that the kubelet refuses (absolute, empty, with `..`); else what the system
    /// says, with the step in front.
    pub fn write<N, C>(&self, files: impl IntoIterator<Item = (N, C)>) -> io::Result<()>
    where
        N: Into<String>,
        C: Into<Vec<u8>>,
    {
        self.write_steps(files)?.finish()
    }

    /// [`write`](Self::write), step by step. The plan is made from what is on disk now.
    ///
    /// # Errors
    ///
    /// `InvalidInput` as for `write`; or what is there now cannot be read.
    pub fn write_steps<N, C>(&self, files: impl IntoIterator<Item = (N, C)>) -> io::Result<Steps>
    where
        N: Into<String>,
        C: Into<Vec<u8>>,
    {
        let payload = payload(files)?;
        let old = self.version_dir()?;
        let stale = match &old {
            Some(old) => stale_names(old, &payload)?,
            None => BTreeSet::new(),
        };
        let unchanged = match &old {
            Some(old) => stale.is_empty() && holds(old, &payload)?,
            None => false,
        };
        let mut steps = Steps::new();
        if !unchanged {
            self.plan_version(&mut steps, &payload, old.is_some());
        }
        self.plan_links(&mut steps, &payload, &stale)?;
        if let (Some(old), false, false) = (old, unchanged, self.keep_old) {
            plan_removal(&mut steps, old);
        }
        Ok(steps)
    }

    /// Writes the same files again into a new version: new inodes and times, equal content. The kubelet itself
    /// does so when a volume is mounted again.
    ///
    /// # Errors
    ///
    /// `NotFound` before the first write; else what the system says.
    pub fn rewrite(&self) -> io::Result<()> {
        let Some(old) = self.version_dir()? else {
            return Err(files::at(&self.join(DATA))(io::ErrorKind::NotFound.into()));
        };
        let mut payload = BTreeMap::new();
        for path in files_below(&old)? {
            payload.insert(path.clone(), fs::read(old.join(&path)).map_err(files::at(&old))?);
        }
        let mut steps = Steps::new();
        self.plan_version(&mut steps, &payload, true);
        if !self.keep_old {
            plan_removal(&mut steps, old);
        }
        steps.finish()
    }

    /// Damages a file of the current version in place: half of it is left. The next write repairs it.
    ///
    /// # Errors
    ///
    /// If the file cannot be changed. For other kinds of damage see [`damage`].
    pub fn torn_write(&self, part: Part) -> io::Result<()> {
        damage(self.join(part.file_name()), Damage::Half)
    }

    fn plan_version(&self, steps: &mut Steps, payload: &BTreeMap<PathBuf, Vec<u8>>, replaces: bool) {
        let name = version_name(OffsetDateTime::now_utc());
        let version = self.join(&name);
        steps.push(format!("mkdir {name}"), {
            let version = version.clone();
            move || {
                fs::create_dir(&version)?;
                files::set_mode(&version, 0o755) // as the kubelet: what is secret has its own mode
            }
        });
        for (path, content) in payload {
            let (target, content) = (version.join(path), content.clone());
            let mode = files::mode_for(&target, &content);
            steps.push(format!("write {}", path.display()), move || {
                files::create_dir_all(target.parent().expect("a file of a version has a parent"))?;
                files::create(&target, &content, mode)
            });
        }
        let (data, data_tmp) = (self.join(DATA), self.join(DATA_TMP));
        steps.push(format!("symlink {DATA_TMP}"), {
            let (data_tmp, name) = (data_tmp.clone(), name.clone());
            move || {
                if data_tmp.is_symlink() {
                    files::remove_link(&data_tmp)?;
                }
                files::symlink(name.as_ref(), &data_tmp)
            }
        });
        if cfg!(windows) {
            // Windows renames no link over another: the kubelet leaves a moment without `..data` there.
            if replaces {
                let data = data.clone();
                steps.push(format!("unlink {DATA}"), move || files::remove_link(&data));
            }
            steps.push(format!("symlink {DATA}"), move || files::symlink(name.as_ref(), &data));
            steps.push(format!("unlink {DATA_TMP}"), move || files::remove_link(&data_tmp));
        } else {
            steps.push(format!("rename {DATA_TMP} {DATA}"), move || fs::rename(&data_tmp, &data));
        }
    }

    fn plan_links(
        &self,
        steps: &mut Steps,
        payload: &BTreeMap<PathBuf, Vec<u8>>,
        stale: &BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        // One link for each first component: `a/b.crt` is reached through a link `a`.
        let visible: BTreeSet<&Path> =
            payload.keys().filter_map(|path| path.iter().next()).map(Path::new).collect();
        for name in visible {
            let link = self.join(name);
            if link.is_symlink() {
                continue;
            }
            let target = Path::new(DATA).join(name);
            steps.push(format!("link {}", name.display()), move || match files::symlink(&target, &link) {
                // Another plan that was run in between made it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && link.is_symlink() => Ok(()),
                result => result,
            });
        }
        for name in stale {
            let link = self.join(name);
            if link.is_symlink() {
                steps.push(format!("unlink {}", name.display()), move || files::remove_link(&link));
            }
        }
        Ok(())
    }
}

impl Rotate for KubeletDir {
    fn cert_path(&self) -> PathBuf {
        self.cert_path()
    }

    fn key_path(&self) -> PathBuf {
        self.key_path()
    }

    fn swap_steps(&self, issued: &Issued) -> io::Result<Steps> {
        self.swap_steps(issued)
    }
}

impl AsRef<Path> for KubeletDir {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

fn plan_removal(steps: &mut Steps, old: PathBuf) {
    steps.push(format!("remove {}", files::name_of(&old)), move || match fs::remove_dir_all(&old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()), // as Go's os.RemoveAll
        result => result,
    });
}

/// `..2006_01_02_15_04_05.` and a random number, as Go's `os.MkdirTemp` appends it.
fn version_name(now: OffsetDateTime) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}.{}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        random::number() >> 32,
    )
}

fn payload<N, C>(files: impl IntoIterator<Item = (N, C)>) -> io::Result<BTreeMap<PathBuf, Vec<u8>>>
where
    N: Into<String>,
    C: Into<Vec<u8>>,
{
    files.into_iter().map(|(name, content)| Ok((valid_path(name.into())?, content.into()))).collect()
}

/// The rules of the kubelet's `validatePath`.
fn valid_path(name: String) -> io::Result<PathBuf> {
    let path = PathBuf::from(&name);
    let normal = path.components().all(|component| matches!(component, Component::Normal(_)));
    if name.is_empty() || name.starts_with("..") || !normal {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("not a name for a file in a volume: {name:?}"),
        ));
    }
    Ok(path)
}

/// Whether a version holds each of these files with this content.
fn holds(version: &Path, payload: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<bool> {
    for (path, content) in payload {
        match fs::read(version.join(path)) {
            Ok(present) if present == *content => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(files::at(&version.join(path))(error)),
        }
    }
    Ok(true)
}

/// Names in the root of a version that the new files do not have.
fn stale_names(version: &Path, payload: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<BTreeSet<PathBuf>> {
    let kept: BTreeSet<&Path> = payload.keys().flat_map(|path| path.ancestors()).collect();
    let present = files_below(version)?;
    let gone = present.iter().flat_map(|path| path.ancestors()).filter(|path| !kept.contains(path));
    Ok(gone.filter(|path| path.iter().count() == 1).map(Path::to_owned).collect())
}

/// Paths of all files below a directory, relative to it. None if the directory is gone.
fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fn walk(dir: &Path, prefix: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = prefix.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &path, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    match walk(dir, Path::new(""), &mut found) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::at(dir)(error)),
        _ => Ok(found),
    }
}
