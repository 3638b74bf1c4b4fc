//! What is on disk: the files, the links that lead to them, the mounts that they sit behind, who may read them, and
//! whether the system tells of changes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource::clock::Utc;
use certsource::fs::{Fs, Meta, RealFs, Volume};
use certsource::source::{WatchError, Watches};
use certsource::watch::OsWatches;

use super::mounts::{self, Mount};
use super::{Findings, ago, rank, writer};
use crate::args::{Detect, Material};

/// As the kernel counts (path_resolution(7)).
const LINKS: usize = 40;
/// Clocks that differ by less are in step.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A link on the way to a file.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
    /// When it was made: links cannot be changed.
    pub(super) changed: SystemTime,
}

/// One path and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    pub(super) path: PathBuf,
    pub(super) links: Vec<Link>,
    /// Where the links end, if something is there.
    pub(super) real: Option<PathBuf>,
    pub(super) meta: Option<Meta>,
    pub(super) mount: Option<Mount>,
    pub(super) volume: Option<Volume>,
}

impl Looked {
    /// `/etc/tls/tls.crt`, as it was named.
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// Looks at every path that was named.
pub(super) fn examine(material: &Material, found: &mut Findings) -> Vec<Looked> {
    let mounts = mounts::read();
    let looked: Vec<_> = paths(material).into_iter().map(|path| look(path, &mounts)).collect();
    for looked in &looked {
        access(looked, found);
        frozen(looked, found);
        facts(looked, found);
    }
    last_change(&looked, found);
    let is_polling = matches!(material.detect, Detect::Mtime | Detect::Sha256);
    if !is_polling {
        watches(&looked, &OsWatches::new(), found);
    }
    looked
}

fn paths(material: &Material) -> Vec<PathBuf> {
    let mut paths = material.ca.clone();
    paths.extend(material.cert.iter().chain(&material.key).chain(&material.combined).cloned());
    paths.extend(material.crl.iter().cloned());
    if let Some(directory) = &material.kubernetes {
        let names: &[&str] =
            if material.ca.is_empty() { &["ca.crt", "tls.crt", "tls.key"] } else { &["tls.crt", "tls.key"] };
        paths.extend(names.iter().map(|name| directory.join(name)));
    }
    paths
}

fn look(path: PathBuf, mounts: &[Mount]) -> Looked {
    let fs = RealFs::new();
    let meta = fs.metadata(&path).ok();
    let real = path.canonicalize().ok();
    let mount = real.as_deref().and_then(|real| mounts::of(mounts, real)).cloned();
    let volume = fs.volume(&path).ok();
    Looked { links: links(&path), real, meta, mount, volume, path }
}

/// Every link on the way, in the order in which they are followed.
fn links(path: &Path) -> Vec<Link> {
    let (fs, mut links) = (RealFs::new(), Vec::new());
    let Ok(mut rest) = std::path::absolute(path) else { return links };
    'restart: while links.len() < LINKS {
        let mut at = PathBuf::new();
        let mut components = rest.components();
        while let Some(component) = components.next() {
            match component {
                // In a path without links before it: a link before it was replaced by its target.
                std::path::Component::ParentDir => drop(at.pop()),
                other => at.push(other),
            }
            let mut target = OsString::new();
            if fs.read_link(&at, &mut target).is_ok() {
                let changed = std::fs::symlink_metadata(&at).and_then(|meta| meta.modified());
                let target = PathBuf::from(target);
                let next = at.parent().unwrap_or(Path::new("/")).join(&target).join(components.as_path());
                links.push(Link { path: at, target, changed: changed.unwrap_or(SystemTime::UNIX_EPOCH) });
                rest = next;
                continue 'restart;
            }
        }
        break;
    }
    links
}

/// Who is in the way of a read.
fn access(looked: &Looked, found: &mut Findings) {
    let (name, path) = (looked.name(), &looked.path);
    let opened = match RealFs::new().metadata(path) {
        Ok(meta) if meta.kind == certsource::fs::Kind::Directory => std::fs::read_dir(path).map(drop),
        Ok(_) => RealFs::new().open(path).map(drop),
        Err(error) => Err(error),
    };
    let Err(error) = opened else { return };
    match error.kind() {
        io::ErrorKind::NotFound => {
            let missing = first_missing(path);
            let dangling = looked.links.last().filter(|_| !looked.links.is_empty());
            let message = match dangling {
                Some(link) => format!(
                    "{name} is a link that leads nowhere: {} → {}",
                    link.path.display(),
                    link.target.display()
                ),
                None if missing != *path => {
                    format!("{name} does not exist: there is no {}", missing.display())
                }
                None => format!("{name} does not exist"),
            };
            let is_acme = path.ends_with("ca.crt") && path.with_file_name("tls.crt").exists();
            let advice = if is_acme {
                "the Secrets of ACME issuers have none: name --cert and --key instead of --kubernetes, and a CA with --ca"
            } else {
                "check the path, and that its volume is mounted"
            };
            found.problem(rank::ACCESS, "not_found", message, advice);
        }
        io::ErrorKind::PermissionDenied => {
            let (message, advice) = denied(path);
            found.problem(rank::ACCESS, "permission_denied", format!("{name}: {message}"), advice);
        }
        io::ErrorKind::NotADirectory => {
            let file = path.ancestors().find(|part| part.is_file()).unwrap_or(path).display();
            let message = format!("{name} does not exist: {file} is a file, not a directory");
            let advice = "name the file itself with --ca, --cert or --key; --kubernetes takes a directory";
            found.problem(rank::ACCESS, "not_a_directory", message, advice);
        }
        _ if looked.links.len() == LINKS => {
            let link = looked.links.last().map_or_else(String::new, |link| {
                format!(": {} → {}", link.path.display(), link.target.display())
            });
            let message = format!("the links of {name} lead round in a circle{link}");
            found.problem(rank::ACCESS, "link_loop", message, "make one of them point at the file");
        }
        _ => found.problem(rank::ACCESS, "io", format!("{name}: {error}"), "look at the disk and its mount"),
    }
}

fn first_missing(path: &Path) -> PathBuf {
    let mut first = path.to_owned();
    while let Some(parent) = first.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        if parent.exists() {
            break;
        }
        first = parent.to_owned();
    }
    first
}

/// The first directory that may not be entered, or the file that may not be read; and what would help.
fn denied(path: &Path) -> (String, String) {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ancestors: Vec<_> = whole.ancestors().collect();
    ancestors.reverse();
    for pair in ancestors.windows(2) {
        let [directory, inner] = pair else { continue };
        if inner.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return (
                format!("this user ({}) may not enter {}{}", user(), directory.display(), mode(directory)),
                format!("give it the right to enter: chmod o+x {}, or a group", directory.display()),
            );
        }
    }
    (
        format!("this user ({}) may not read it{}", user(), mode(path)),
        String::from(
            "let the service's group read it: chgrp and chmod g+r; in Kubernetes, fsGroup and defaultMode",
        ),
    )
}

#[cfg(unix)]
fn user() -> String {
    format!("uid {}, gid {}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[cfg(not(unix))]
fn user() -> String {
    String::from("the current one")
}

#[cfg(unix)]
fn mode(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match path.metadata() {
        Ok(meta) => format!(" (mode {:04o}, owner {}:{})", meta.mode() & 0o7777, meta.uid(), meta.gid()),
        Err(_) => String::new(),
    }
}

#[cfg(not(unix))]
fn mode(_: &Path) -> String {
    String::new()
}

/// Mounts through which a change does not come.
fn frozen(looked: &Looked, found: &mut Findings) {
    let name = looked.name();
    let is_single = looked.mount.as_ref().is_some_and(|mount| Some(&mount.point) == looked.real.as_ref());
    let is_file = looked.meta.as_ref().is_some_and(|meta| meta.kind == certsource::fs::Kind::File);
    if looked.mount.as_ref().is_some_and(Mount::is_sub_path) {
        found.problem(
            rank::FROZEN,
            "sub_path",
            format!("{name} is mounted with subPath: it stays the version that was there when the pod started, for ever"),
            "mount the whole volume at a directory of its own, without subPath, and name the file in it",
        );
    } else if is_file && looked.meta.as_ref().is_some_and(|meta| meta.links == 0) {
        found.problem(
            rank::FROZEN,
            "replaced_outside",
            format!("{name} is a mount of a single file that was replaced outside: no name leads to this old file any more"),
            "mount the directory instead of the file, and restart the container",
        );
    } else if is_file && is_single {
        found.warning(
            rank::FROZEN,
            "single_file_mount",
            format!("{name} is a mount of a single file: when it is replaced outside by a rename, as most tools do, that is not seen here"),
            "mount its directory instead",
        );
    }
    if looked.volume == Some(Volume::Remote) {
        let kind = looked.mount.as_ref().map_or("unknown", |mount| mount.kind.as_str());
        found.warning(
            rank::SLOW,
            "network_file_system",
            format!("{name} is on a file system ({kind}) that tells of no changes made elsewhere; its time stamps may be coarse or late"),
            "nothing, if polling by content is soon enough (certsource does that here); else a local copy",
        );
    }
}

fn facts(looked: &Looked, found: &mut Findings) {
    let Some(meta) = &looked.meta else { return };
    let mut message = looked.name();
    for link in &looked.links {
        message += &format!(" → {}", link.target.display());
    }
    let kind = looked.mount.as_ref().map_or_else(String::new, |mount| format!(", {}", mount.kind));
    message += &format!(" is {} of {} bytes, mode {:04o}{kind}", meta.kind, meta.size, meta.mode);
    if let Some(change) = writer::last(looked) {
        message +=
            &format!("; changed {} ({}) {}", ago(change.at, found.now), Utc(change.at), change.how.words());
    }
    found.note(rank::FACTS, "file", message);
    let modified = writer::time(meta.modified);
    if let Ok(ahead) = modified.duration_since(found.now) {
        if ahead > SKEW {
            let ahead = crate::duration::rough(ahead);
            found.warning(
                rank::CLOCK,
                "clock_skew",
                format!(
                    "{} was changed {ahead} in the future: this clock is behind, or that of its writer ahead",
                    looked.name()
                ),
                "set the clock (timedatectl, chronyc tracking)",
            );
        }
    }
}

/// What changed last, of all of them.
fn last_change(looked: &[Looked], found: &mut Findings) {
    let changes = looked.iter().filter_map(|looked| Some((looked, writer::last(looked)?)));
    let Some((newest, change)) = changes.max_by_key(|(_, change)| change.at) else { return };
    let when = format!("{} ({})", ago(change.at, found.now), Utc(change.at));
    found.note(
        rank::FACTS - 1,
        "changed_last",
        format!("{} changed last, {when}, {}", newest.name(), change.how.words()),
    );
}

/// Whether events can be had for the directories of these files.
fn watches(looked: &[Looked], watches: &OsWatches, found: &mut Findings) {
    let directories: BTreeSet<_> =
        looked.iter().filter_map(|looked| looked.real.as_deref()?.parent().map(Path::to_owned)).collect();
    let results = directories.iter().map(|directory| watches.watch(directory, Arc::new(|_| ())));
    // Held together: each needs one of its own.
    let results: Vec<_> = results.collect();
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        unwatched(error, found);
    }
}

fn unwatched(error: &WatchError, found: &mut Findings) {
    match error {
        WatchError::NotFound => {}
        WatchError::Exhausted(what) => {
            let limit = |name: &str| {
                let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"));
                text.map_or_else(|_| String::from("?"), |text| text.trim().to_owned())
            };
            found.warning(
                rank::SLOW,
                "watches_exhausted",
                format!(
                    "this user has no file watch left ({what}): changes are found by polling only; limits: {} instances, {} watches",
                    limit("max_user_instances"),
                    limit("max_user_watches")
                ),
                "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches with sysctl, or end who holds them",
            );
        }
        other => found.warning(
            rank::SLOW,
            "no_watches",
            format!("changes are found by polling only: {other}"),
            "nothing, if the polling interval is soon enough",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_one_by_one() {
        let dir = certsource_testkit::TestDir::new().unwrap();
        let volume =
            certsource_testkit::KubeletDir::from_dir(certsource_testkit::TestDir::at(dir.join("v")).unwrap());
        volume.swap(certsource_testkit::Ca::new("a").issue("localhost")).unwrap();
        let root = dir.path().canonicalize().unwrap();
        let looked = look(root.join("v/tls.crt"), &[]);
        let paths: Vec<_> = looked.links.iter().map(|link| link.path.strip_prefix(&root).unwrap()).collect();
        assert_eq!(paths, [Path::new("v/tls.crt"), Path::new("v/..data")]);
        assert_eq!(looked.links[0].target, Path::new("..data/tls.crt"));
        assert!(looked.real.unwrap().ends_with("tls.crt"));
        // A circle ends.
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("round", dir.join("round")).unwrap();
            assert_eq!(links(&root.join("round")).len(), LINKS);
        }
    }

    #[test]
    fn a_network_file_system_is_told_by_its_kind() {
        let mount = Mount { root: "/".into(), point: "/mnt/net".into(), kind: String::from("nfs4") };
        let path = PathBuf::from("/mnt/net/ca.pem");
        let remote = Looked {
            links: Vec::new(),
            real: Some(path.clone()),
            meta: None,
            mount: Some(mount),
            volume: Some(Volume::Remote),
            path,
        };
        let codes = |looked: &Looked| {
            let mut found = Findings { now: SystemTime::now(), list: Vec::new() };
            frozen(looked, &mut found);
            found.list.into_iter().map(|finding| (finding.code, finding.message)).collect::<Vec<_>>()
        };
        let [(code, message)] = &codes(&remote)[..] else { panic!("{:?}", codes(&remote)) };
        assert!(*code == "network_file_system" && message.contains("(nfs4)"), "{code}: {message}");
        assert!(codes(&Looked { volume: Some(Volume::Local), ..remote }).is_empty());
    }
}
