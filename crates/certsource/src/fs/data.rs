//! Where on a path the `..data` link of a Kubernetes-style volume lies.
//!
//! The kubelet writes every version of a volume into a directory of its own, lets the link `..data` point to it, and
//! swaps that link in one step (AtomicWriter in kubernetes/pkg/volume/util). Names that users know are links
//! `name → ..data/name`.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use super::Fs;

/// The name of the link that is swapped.
pub(crate) const LINK: &str = "..data";

/// A path that goes through such a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InVolume {
    /// The directory that holds the link.
    pub(crate) root: PathBuf,
    /// The rest of the path, from the directory that the link points to.
    pub(crate) rest: PathBuf,
}

/// The volume that `path` goes through, if it does: `root/..data/rest`, or a link `root/name → ..data/name` with
/// `path` at or below it. The file itself need not exist.
pub(crate) fn locate(fs: &dyn Fs, path: &Path) -> Option<InVolume> {
    let mut target = OsString::new();
    if let Some(found) = split(path) {
        return is_volume(fs, &found.root).then_some(found);
    }
    let mut rest = PathBuf::new();
    let mut at = path;
    loop {
        let (parent, name) = (at.parent()?, at.file_name()?);
        if fs.read_link(at, &mut target).is_ok() {
            if let Ok(below) = Path::new(&target).strip_prefix(LINK) {
                let rest = if rest.as_os_str().is_empty() { below.to_path_buf() } else { below.join(&rest) };
                if is_plain(&rest) {
                    return Some(InVolume { root: parent.to_path_buf(), rest });
                }
            }
        }
        rest = if rest.as_os_str().is_empty() { PathBuf::from(name) } else { Path::new(name).join(rest) };
        at = parent;
    }
}

/// Whether `directory` is such a volume.
pub(crate) fn is_volume(fs: &dyn Fs, directory: &Path) -> bool {
    fs.read_link(&directory.join(LINK), &mut OsString::new()).is_ok()
}

/// The root of the volume that all of `paths` are in, if there is one. A path may also be the root itself.
pub(crate) fn shared_root(fs: &dyn Fs, paths: &[PathBuf]) -> Option<PathBuf> {
    let root = |path: &PathBuf| {
        if is_volume(fs, path) { Some(path.clone()) } else { locate(fs, path).map(|found| found.root) }
    };
    let (first, others) = paths.split_first()?;
    let shared = root(first)?;
    others.iter().all(|path| root(path).as_ref() == Some(&shared)).then_some(shared)
}

/// Splits a path that names the link itself.
fn split(path: &Path) -> Option<InVolume> {
    let mut components = path.components();
    let mut root = PathBuf::new();
    loop {
        let component = components.next()?;
        if component == Component::Normal(OsStr::new(LINK)) {
            let rest = components.as_path().to_path_buf();
            return is_plain(&rest).then_some(InVolume { root, rest });
        }
        root.push(component);
    }
}

/// At least one name, and nothing that leads up and out.
fn is_plain(rest: &Path) -> bool {
    !rest.as_os_str().is_empty() && rest.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs::RealFs;

    #[test]
    fn paths_through_the_link_are_known_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("v/..1/sub")).unwrap();
        fs::create_dir_all(at("plain/..data")).unwrap();
        fs::write(at("v/real"), "").unwrap();
        for (target, link) in [
            ("..1", "v/..data"),
            ("..data/a", "v/a"),
            ("..data/sub", "v/sub"),
            ("..data", "v/all"),
            ("..data/../real", "v/out"),
            ("/..data/a", "v/elsewhere"),
            ("v", "link"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        for (path, expected) in [
            ("v/a", Some(("v", "a"))),
            ("v/sub/x/y", Some(("v", "sub/x/y"))),
            ("v/all/a", Some(("v", "a"))),
            ("v/..data/a", Some(("v", "a"))),
            ("v/..data/sub/x", Some(("v", "sub/x"))),
            ("link/a", Some(("link", "a"))),
            // Beside the link, out of it again, the link itself, no link at all.
            ("v/real", None),
            ("v/missing", None),
            ("v/out", None),
            ("v/..data/../real", None),
            ("v/elsewhere", None),
            ("v/..data", None),
            ("v/all", None),
            ("plain/..data/a", None),
        ] {
            let expected =
                expected.map(|(root, rest)| InVolume { root: at(root), rest: PathBuf::from(rest) });
            assert_eq!(locate(&RealFs, &at(path)), expected, "{path}");
        }
        let shared = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| at(path)).collect();
            shared_root(&RealFs, &paths)
        };
        assert_eq!(shared(&["v/a", "v/sub/x", "v"]), Some(at("v")));
        assert_eq!(
            shared(&["v/a", "link/a"]),
            None,
            "another way to the same volume may come to lead elsewhere"
        );
        assert_eq!(shared(&["v/a", "v/real"]), None);
        assert_eq!(shared(&[]), None);
    }
}
