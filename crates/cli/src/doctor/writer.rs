//! When a path changed last, and by which kind of writer, as far as its traces tell.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use certsource::fs::Stamp;
#[cfg(test)]
use certsource::fs::{Kind, Meta};

use super::disk::Looked;

/// Times that a writer makes in one go are closer together than this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The traces of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: SystemTime,
    pub(super) how: How,
}

/// Kinds of writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A `..data` link was swapped: kubelet and those who write like it.
    Swapped,
    /// A link into an archive of numbered versions was flipped: certbot.
    Archive,
    /// A link was pointed elsewhere.
    Relinked,
    /// A new file took the name: renamed over it, or removed and written anew.
    Replaced,
    /// The file that was there was written into.
    InPlace,
    /// A copy that kept an older time stamp.
    Copied,
    /// It changed; how is not to be seen.
    Unknown,
}

impl How {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Swapped => "by an atomic swap of the whole volume, as the kubelet does",
            Self::Archive => "by a link into an archive, as certbot does",
            Self::Relinked => "by pointing a link elsewhere, as ln -sf does",
            Self::Replaced => "by a new file under this name, as mv and most agents do",
            Self::InPlace => {
                "in place, as cp, >, Vault's writeToFile and spiffe-helper do: half of it can be seen"
            }
            Self::Copied => "by a copy that kept its older time stamp, as cp -p, rsync -t and tar do",
            Self::Unknown => "by a writer that leaves no trace of how",
        }
    }
}

pub(super) fn time(stamp: Stamp) -> SystemTime {
    let nanos = Duration::from_nanos(stamp.nanos.into());
    match u64::try_from(stamp.secs) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after) + nanos,
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(stamp.secs.unsigned_abs()) + nanos,
    }
}

/// What changed a path last.
pub(super) fn last(looked: &Looked) -> Option<Change> {
    let meta = looked.meta.as_ref()?;
    let (modified, changed) = (time(meta.modified), time(meta.changed));
    // The newest link on the way, if that is newer than the content.
    let newest = looked.links.iter().max_by_key(|link| link.changed);
    if let Some(link) = newest.filter(|_| looked.links.iter().any(|link| is_data(&link.path))) {
        let data = looked.links.iter().filter(|link| is_data(&link.path)).map(|link| link.changed).max();
        return Some(Change { at: data.unwrap_or(link.changed), how: How::Swapped });
    }
    if let Some(link) = newest.filter(|link| link.changed + AT_ONCE >= modified) {
        let how = if is_archive(&link.target) { How::Archive } else { How::Relinked };
        return Some(Change { at: link.changed, how });
    }
    let how = match meta.born.map(time) {
        None => How::Unknown,
        // Content older than the file itself: its time stamp was carried over.
        Some(born) if modified + AT_ONCE < born => return Some(Change { at: changed, how: How::Copied }),
        Some(born) if born + AT_ONCE < modified => How::InPlace,
        Some(_) => How::Replaced,
    };
    Some(Change { at: modified, how })
}

fn is_data(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "..data")
}

/// `../../archive/example.org/fullchain3.pem`
fn is_archive(target: &Path) -> bool {
    let stem = target.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let parts: Vec<PathBuf> = target.iter().map(PathBuf::from).collect();
    stem.ends_with(|c: char| c.is_ascii_digit()) && parts.iter().any(|part| part == Path::new("archive"))
}

#[cfg(test)]
mod tests {
    use super::super::disk::Link;
    use super::*;

    fn at(seconds: i64) -> Stamp {
        Stamp { secs: seconds, nanos: 0 }
    }

    fn looked(born: i64, modified: i64, changed: i64) -> Looked {
        let meta = Meta {
            kind: Kind::File,
            device: 1,
            inode: 2,
            links: 1,
            size: 3,
            mode: 0o644,
            modified: at(modified),
            changed: at(changed),
            born: Some(at(born)),
        };
        let path = PathBuf::from("/x/tls.crt");
        Looked { path, links: Vec::new(), real: None, meta: Some(meta), mount: None, volume: None }
    }

    fn link(path: &str, target: &str, changed: i64) -> Link {
        Link { path: path.into(), target: target.into(), changed: time(at(changed)) }
    }

    #[test]
    fn writers_leave_traces() {
        for (looked, how, seconds) in [
            (looked(100, 100, 100), How::Replaced, 100),
            (looked(100, 200, 200), How::InPlace, 200),
            (looked(200, 100, 200), How::Copied, 200),
        ] {
            assert_eq!(last(&looked), Some(Change { at: time(at(seconds)), how }));
        }
        let mut swapped = looked(100, 100, 100);
        swapped.links = vec![link("/x/tls.crt", "..data/tls.crt", 50), link("/x/..data", "..1", 101)];
        assert_eq!(last(&swapped).unwrap(), Change { at: time(at(101)), how: How::Swapped });
        let mut certbot = looked(100, 100, 100);
        certbot.links = vec![link("/live/x/cert.pem", "../../archive/x/cert2.pem", 100)];
        assert_eq!(last(&certbot).unwrap().how, How::Archive);
        let mut relinked = looked(100, 100, 100);
        relinked.links = vec![link("/x/tls.crt", "tls-2.crt", 300)];
        assert_eq!(last(&relinked).unwrap(), Change { at: time(at(300)), how: How::Relinked });
        // A link that was there long before: the file behind it was written.
        let mut behind = looked(100, 900, 900);
        behind.links = vec![link("/x/tls.crt", "tls-2.crt", 300)];
        assert_eq!(last(&behind).unwrap().how, How::InPlace);
    }
}
