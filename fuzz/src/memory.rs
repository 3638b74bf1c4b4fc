//! A file system in memory that never changes: what one input describes. It is built anew for each input, so looking
//! something up is a walk over a short list of every path that leads somewhere.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certsource::fs::{Dir, File, Fs, Kind, Meta, Opened, Stamp, Volume};

/// The file system. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryFs(Arc<Contents>);

#[derive(Clone, Debug, Default)]
struct Contents {
    /// `None`: a directory. The place in the list is the inode.
    nodes: Vec<Option<Arc<[u8]>>>,
    entries: Vec<Entry>,
}

/// A path that leads somewhere, by links or not.
#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    /// What the link says, if the path is one.
    target: Option<PathBuf>,
    node: usize,
}

impl MemoryFs {
    /// With this directory in it.
    #[must_use]
    pub fn with_directory(self, path: impl Into<PathBuf>) -> Self {
        self.with(path.into(), None)
    }

    /// With this file in it.
    #[must_use]
    pub fn with_file(self, path: impl Into<PathBuf>, content: &[u8]) -> Self {
        self.with(path.into(), Some(content.into()))
    }

    /// With a link in it, to what is beside it or below that. What the link leads to must be there by now, with all
    /// that is in it; otherwise there is no link.
    #[must_use]
    pub fn with_link(mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        let (path, target) = (path.into(), target.into());
        let leads_to = path.with_file_name(&target);
        let contents = Arc::make_mut(&mut self.0);
        for at in 0..contents.entries.len() {
            let entry = &contents.entries[at];
            let Ok(below) = entry.path.strip_prefix(&leads_to) else { continue };
            let is_itself = below.as_os_str().is_empty();
            let path = if is_itself { path.clone() } else { path.join(below) };
            let target = if is_itself { Some(target.clone()) } else { entry.target.clone() };
            let node = entry.node;
            contents.entries.push(Entry { path, target, node });
        }
        self
    }

    fn with(mut self, path: PathBuf, node: Option<Arc<[u8]>>) -> Self {
        let contents = Arc::make_mut(&mut self.0);
        contents.entries.push(Entry { path, target: None, node: contents.nodes.len() });
        contents.nodes.push(node);
        self
    }

    fn find(&self, path: &Path) -> io::Result<&Entry> {
        let mut entries = self.0.entries.iter();
        // As text: taking paths apart is most of the work otherwise.
        Ok(entries.find(|entry| entry.path.as_os_str() == path.as_os_str()).ok_or(io::ErrorKind::NotFound)?)
    }

    fn meta(&self, node: usize) -> Meta {
        let (kind, size) = match &self.0.nodes[node] {
            Some(content) => (Kind::File, content.len() as u64),
            None => (Kind::Directory, 0),
        };
        let stamp = Stamp { secs: 1_700_000_000, nanos: 0 };
        let (modified, changed, born) = (stamp, stamp, Some(stamp));
        Meta { kind, device: 1, inode: node as u64 + 1, links: 1, size, mode: 0o644, modified, changed, born }
    }
}

impl Fs for MemoryFs {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        self.find(path).map(|entry| self.meta(entry.node))
    }

    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        let target = self.find(path)?.target.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        into.clear();
        into.push(target);
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let node = self.find(path)?.node;
        let meta = self.meta(node);
        Ok(match &self.0.nodes[node] {
            Some(content) => Opened::File(Box::new(MemoryFile { content: Arc::clone(content), at: 0, meta })),
            None => Opened::NotRegular(Kind::Directory),
        })
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        if self.0.nodes[self.find(path)?.node].is_some() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Box::new(MemoryDir { fs: self.clone(), path: path.to_owned() }))
    }

    fn volume(&self, path: &Path) -> io::Result<Volume> {
        self.find(path).map(|_| Volume::Local)
    }
}

struct MemoryDir {
    fs: MemoryFs,
    path: PathBuf,
}

impl Dir for MemoryDir {
    fn open(&self, name: &Path) -> io::Result<Opened> {
        self.fs.open(&self.path.join(name))
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = self.fs.0.entries.iter().map(|entry| &entry.path);
        let below = entries.filter(|path| path.parent() == Some(&self.path));
        Ok(below.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn metadata(&self) -> io::Result<Meta> {
        self.fs.metadata(&self.path)
    }
}

struct MemoryFile {
    content: Arc<[u8]>,
    at: usize,
    meta: Meta,
}

impl File for MemoryFile {
    fn metadata(&self) -> io::Result<Meta> {
        Ok(self.meta)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.content[self.at..];
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_they_say() {
        let fs = MemoryFs::default()
            .with_directory("/v")
            .with_directory("/v/..1")
            .with_file("/v/..1/a", b"abc")
            .with_link("/v/..data", "..1")
            .with_link("/v/a", "..data/a")
            .with_link("/v/b", "..data/b");
        for path in ["/v/a", "/v/..data/a", "/v/..1/a"] {
            assert_eq!(fs.metadata(Path::new(path)).unwrap().size, 3, "{path}");
        }
        let mut target = OsString::new();
        fs.read_link(Path::new("/v/a"), &mut target).unwrap();
        assert_eq!(target, "..data/a");
        assert_eq!(fs.metadata(Path::new("/v/b")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs.open_dir(Path::new("/v/..data")).unwrap().names().unwrap(), ["a"]);
        let mut names = fs.open_dir(Path::new("/v")).unwrap().names().unwrap();
        names.sort_unstable();
        assert_eq!(names, ["..1", "..data", "a"]);
    }
}
