//! The mounts that paths sit behind, as `/proc/self/mountinfo` lists them (proc(5)).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Which part of its file system is mounted: `/` for the whole.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    /// `ext4`, `tmpfs`, `nfs4`, …
    pub(super) kind: String,
}

/// All mounts that this process sees; none where the system does not tell.
pub(super) fn read() -> Vec<Mount> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let (root, point) = (words.nth(3)?, words.next()?);
    let kind = words.skip_while(|word| *word != b"-").nth(1)?;
    Some(Mount { root: path(root), point: path(point), kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn path(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(
                digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
            );
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    os(bytes).into()
}

#[cfg(unix)]
fn os(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn os(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The mount that a real path (no link in it) is on: the last of the longest that hold it.
pub(super) fn of<'a>(mounts: &'a [Mount], real: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| real.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

impl Mount {
    /// Whether it shows one version of a Kubernetes volume, as `subPath` does: it then stays with that version. The
    /// kubelet keeps versions in directories such as `..2026_11_22_20_00_00.123`, and mounts of a `subPath` below
    /// `volume-subpaths`.
    pub(super) fn is_sub_path(&self) -> bool {
        self.root.components().any(|part| {
            let name = part.as_os_str().as_encoded_bytes();
            name == b"volume-subpaths" || (name.len() > 3 && name.starts_with(b"..") && name != b"..data")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
36 21 0:40 / /etc/tls ro,relatime shared:7 - tmpfs tmpfs rw,size=64k\n\
37 21 254:0 /var/lib/kubelet/pods/1/volume-subpaths/tls/web/0 /etc/one/tls.crt rw - ext4 /dev/vda rw\n\
38 21 0:41 /..2026_11_22_20_00_00.42/tls.crt /etc/two/tls.crt rw - tmpfs tmpfs rw\n\
39 21 254:0 /srv/x/a\\040b.pem /etc/a\\040b.pem rw - ext4 /dev/vda rw\n\
40 21 0:50 / /mnt/net rw - nfs4 server:/x rw\n";

    #[test]
    fn mounts_are_found() {
        let mounts = parse(TEXT);
        let at = |path: &str| of(&mounts, Path::new(path)).unwrap();
        assert_eq!(at("/etc/hosts").kind, "ext4");
        assert_eq!((&*at("/etc/tls/tls.crt").kind, at("/etc/tls/tls.crt").is_sub_path()), ("tmpfs", false));
        assert!(at("/etc/one/tls.crt").is_sub_path() && at("/etc/two/tls.crt").is_sub_path());
        assert_eq!(at("/etc/a b.pem").point, Path::new("/etc/a b.pem"));
        assert!(!at("/etc/a b.pem").is_sub_path());
        assert_eq!(at("/mnt/net/ca.pem").kind, "nfs4");
        assert!(parse(b"").is_empty() && parse(b"junk\n1 2 3\n").is_empty());
    }
}
