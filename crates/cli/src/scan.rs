//! Reads files for `inspect` and `check`: everything that is in them, and everything that is wrong with them, without
//! stopping at the first broken piece.
//!
//! What is not here: which files there are (`scan/walk.rs`), and the strict reading of a source that is followed: that
//! is `certsource::Files`.

mod walk;

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use certsource::fs::{Fs, Kind, Opened, RealFs};
use certsource::inspect::{self, CrlInspection, Inspection};
use certsource::pem::{self, Content};
use certsource::text::Escaped;
use certsource::{Error, KeyFormat, Reason};
use pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

pub(crate) use self::walk::{Place, list};
use crate::progress::Bar;

/// As `certsource::files::Limits`: more than any public bundle or list needs.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// So many files are read before their results are handed over.
const BATCH: usize = 512;
/// More threads than this wait for the disk only.
const THREADS: usize = 4;

/// One file and what is in it.
#[derive(Debug)]
pub(crate) struct File {
    /// The path as it was named; `-` for standard input.
    pub(crate) path: PathBuf,
    pub(crate) items: Vec<Item>,
    pub(crate) problems: Vec<Error>,
}

/// One thing in a file.
#[derive(Debug)]
pub(crate) struct Item {
    /// The line it begins on, if it came from text.
    pub(crate) line: Option<usize>,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Certificate(Box<Found>),
    Crl(Box<FoundCrl>),
    Key(&'static str),
    /// A section of another kind.
    Other,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) inspection: Inspection,
}

#[derive(Debug)]
pub(crate) struct FoundCrl {
    pub(crate) der: CertificateRevocationListDer<'static>,
    pub(crate) inspection: CrlInspection,
}

impl Found {
    /// What the certificate is, as far as it tells itself.
    pub(crate) fn role(&self) -> &'static str {
        match (self.inspection.is_ca(), self.inspection.subject() == self.inspection.issuer()) {
            (true, true) => "root",
            (true, false) => "intermediate",
            (false, _) => "leaf",
        }
    }
}

impl File {
    /// The certificates with their lines.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (Option<usize>, &Found)> {
        self.items.iter().filter_map(|item| match &item.what {
            What::Certificate(found) => Some((item.line, &**found)),
            _ => None,
        })
    }
}

/// Standard input, which can be read once only: whoever names it twice means the same bytes. Wiped on drop.
#[derive(Default)]
pub(crate) struct Stdin(OnceLock<Result<Zeroizing<Vec<u8>>, Error>>);

impl Stdin {
    /// All of it; the first call reads.
    pub(crate) fn bytes(&self) -> Result<&[u8], Error> {
        let bytes = self.0.get_or_init(|| {
            let mut stdin = io::stdin().lock();
            content(Path::new("-"), 0, "read standard input", |into| stdin.read(into))
        });
        bytes.as_ref().map(|bytes| &bytes[..]).map_err(Error::clone)
    }
}

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads all of these paths, directories with everything below them, and hands over file by file. On a terminal, a bar
/// on standard error tells how far it is when that takes long; `is_free` says that nothing is written meanwhile.
pub(crate) fn each(
    paths: &[PathBuf],
    stdin: &Stdin,
    is_free: bool,
    mut take: impl FnMut(File) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut places = Vec::new();
    for path in paths {
        let inside = list(std::slice::from_ref(path));
        if inside.is_empty() {
            // A wrong directory beside a right one must not pass for one that is fine.
            let message = "there is nothing to look at: no name in it is *.pem, *.crt, *.cer, *.der or *.crl";
            places.push(Place::Broken(Error::new(Reason::Empty, message).at(path)));
        }
        places.extend(inside);
    }
    // Who types is shown what they type.
    let is_typed = paths.iter().any(|path| is_stdin(path)) && io::stdin().is_terminal();
    let reader = Reader { stdin, bar: Bar::on_stderr(places.len(), is_free && !is_typed) };
    // In batches, so that results come while there is more to read, and in their order.
    for batch in places.chunks(BATCH) {
        for file in reader.read(batch) {
            take(file)?;
        }
    }
    Ok(())
}

struct Reader<'a> {
    stdin: &'a Stdin,
    bar: Bar,
}

impl Reader<'_> {
    /// Reads some places, by several threads if that pays.
    fn read(&self, places: &[Place]) -> Vec<File> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        if threads == 1 || places.len() < BATCH / 4 {
            return self.all(places);
        }
        let mut shares = places.chunks(places.len().div_ceil(threads));
        // The first share is read by this thread, so that there is one to read even where the system gives no more.
        let own = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let start = |share| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, move || self.all(share));
                (thread.ok(), share)
            };
            let others: Vec<_> = shares.map(start).collect();
            let mut files = self.all(own);
            for (thread, share) in others {
                // Neither a thread that was not given nor one that panicked is a reason to lose its files.
                let read = thread.and_then(|thread| thread.join().ok());
                files.extend(read.unwrap_or_else(|| self.all(share)));
            }
            files
        })
    }

    fn all(&self, places: &[Place]) -> Vec<File> {
        let read = |place| {
            let file = self.one(place);
            self.bar.step();
            file
        };
        places.iter().map(read).collect()
    }

    fn one(&self, place: &Place) -> File {
        match place {
            Place::Stdin => parse(Path::new("-"), self.stdin.bytes()),
            Place::File(path) => file(path),
            Place::Listed(path) => listed(path),
            Place::Broken(error) => {
                let path = error.path().unwrap_or(Path::new("")).to_owned();
                File { path, items: Vec::new(), problems: vec![error.clone()] }
            }
        }
    }
}

/// A chain that a server sent, as if it stood in a file of this name.
pub(crate) fn served(path: PathBuf, chain: Vec<CertificateDer<'static>>) -> File {
    let mut file = File { path, items: Vec::new(), problems: Vec::new() };
    for der in chain {
        match inspect::certificate(&der) {
            Ok(inspection) => {
                let what = What::Certificate(Box::new(Found { der, inspection }));
                file.items.push(Item { line: None, what });
            }
            Err(what) => {
                let wrong =
                    Error::new(Reason::Malformed, format!("it sent what is not a certificate: {what}"));
                file.problems.push(wrong.at(&file.path));
            }
        }
    }
    file
}

/// One file, with everything in it.
pub(crate) fn file(path: &Path) -> File {
    parse(path, bytes(path))
}

/// One file of a directory. What its directory says of it saves a look; should it be another thing by now, opening it
/// neither waits nor takes a terminal, and the look is made up for.
#[cfg(unix)]
fn listed(path: &Path) -> File {
    use std::os::unix::fs::OpenOptionsExt;

    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let Ok(mut opened) = opened else { return file(path) };
    let Some(meta) = opened.metadata().ok().filter(std::fs::Metadata::is_file) else { return file(path) };
    parse(path, content(path, meta.len(), "read", |into| opened.read(into)))
}

#[cfg(not(unix))]
fn listed(path: &Path) -> File {
    file(path)
}

/// The bytes of a regular file. Anything else is not even opened.
pub(crate) fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut file = match RealFs::new().open(path) {
        Ok(Opened::File(file)) => file,
        Ok(Opened::NotRegular(Kind::Directory)) => {
            return Err(Error::new(Reason::NotRegularFile, "this is a directory; name a file in it").at(path));
        }
        Ok(Opened::NotRegular(kind)) => {
            return Err(
                Error::new(Reason::NotRegularFile, format!("this is {kind}; name a regular file")).at(path)
            );
        }
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let size = file.metadata().map_or(0, |meta| meta.size);
    content(path, size, "read", |into| file.read(into))
}

/// All that can be read, if it is not too much. `size` is what is expected. Wiped on drop: there may be a key in it.
fn content(
    path: &Path,
    size: u64,
    doing: &str,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // One more than it holds, so that one read more tells its end. What grows meanwhile is read on.
    let mut bytes = Zeroizing::new(vec![0; size.min(FILE_BYTES) as usize + 1]);
    let mut filled = 0;
    loop {
        match read(&mut bytes[filled..]) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(bytes);
            }
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(doing, path, error)),
        }
        if filled as u64 > FILE_BYTES {
            return Err(too_large(path));
        }
        if filled == bytes.len() {
            bytes = grown(&bytes);
        }
    }
}

/// A larger buffer with the same content. Not `resize`: that would leave the old one behind unwiped.
fn grown(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let size = (bytes.len() * 2).max(4096);
    let mut larger = Zeroizing::new(Vec::with_capacity(size));
    larger.extend_from_slice(bytes);
    larger.resize(size, 0);
    larger
}

fn too_large(path: &Path) -> Error {
    let message = format!("larger than {} MiB; no certificate file is", FILE_BYTES / (1024 * 1024));
    Error::new(Reason::TooLarge, message).at(path)
}

fn parse(path: &Path, bytes: Result<impl AsRef<[u8]>, Error>) -> File {
    let mut file = File { path: path.to_owned(), items: Vec::new(), problems: Vec::new() };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            file.problems.push(error);
            return file;
        }
    };
    let bytes = bytes.as_ref();
    if pem::looks_like_der(bytes) {
        file.der(bytes);
        return file;
    }
    for section in pem::sections(bytes) {
        match section {
            Ok(section) => file.section(section),
            Err(flaw) => file.problems.push(flaw.at(path)),
        }
    }
    if file.items.is_empty() && file.problems.is_empty() {
        let (reason, what) = if bytes.iter().all(u8::is_ascii_whitespace) {
            (Reason::Empty, "the file is empty")
        } else {
            (Reason::Malformed, "neither PEM nor DER: nothing in it begins with -----BEGIN")
        };
        file.problems.push(Error::new(reason, what).at(path));
    }
    file
}

impl File {
    fn der(&mut self, der: &[u8]) {
        let what = if let Ok(inspection) = inspect::certificate(der) {
            What::Certificate(Box::new(Found { der: CertificateDer::from(der).into_owned(), inspection }))
        } else if let Ok(inspection) = inspect::crl(der) {
            What::Crl(Box::new(FoundCrl {
                der: CertificateRevocationListDer::from(der.to_vec()),
                inspection,
            }))
        } else if let Ok(key) = PrivateKeyDer::try_from(der) {
            What::Key(match key {
                PrivateKeyDer::Pkcs1(_) => name_of(KeyFormat::Pkcs1),
                PrivateKeyDer::Sec1(_) => name_of(KeyFormat::Sec1),
                _ => name_of(KeyFormat::Pkcs8),
            })
        } else {
            let message = "DER that is neither a certificate, nor a CRL, nor a private key";
            return self.problems.push(Error::new(Reason::Malformed, message).at(&self.path));
        };
        self.items.push(Item { line: None, what });
    }

    fn section(&mut self, section: pem::Section) {
        let line = section.line;
        let wrong = |what: String| Error::new(Reason::Malformed, what).at(&self.path).on_line(line);
        let what = match section.content {
            Content::Certificate(der) => match inspect::certificate(&der) {
                Ok(inspection) => What::Certificate(Box::new(Found { der, inspection })),
                Err(what) => {
                    let error = wrong(format!("not a certificate: {what}"));
                    return self.problems.push(error);
                }
            },
            Content::Crl(der) => match inspect::crl(&der) {
                Ok(inspection) => What::Crl(Box::new(FoundCrl { der, inspection })),
                Err(what) => {
                    let error = wrong(format!("not a revocation list: {what}"));
                    return self.problems.push(error);
                }
            },
            Content::PrivateKey(key) => What::Key(name_of(key.format())),
            Content::EncryptedKey(_) => What::Key("encrypted PKCS#8"),
            _ => What::Other,
        };
        self.items.push(Item { line: Some(line), what });
    }
}

fn name_of(format: KeyFormat) -> &'static str {
    match format {
        KeyFormat::Pkcs1 => "PKCS#1",
        KeyFormat::Sec1 => "SEC1",
        _ => "PKCS#8",
    }
}

/// `PATH:LINE`, safe to show.
pub(crate) fn place(path: &Path, line: Option<usize>) -> String {
    let path = path.to_string_lossy();
    match line {
        Some(line) => format!("{}:{line}", Escaped::new(&path)),
        None => Escaped::new(&path).to_string(),
    }
}
