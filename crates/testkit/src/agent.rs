//! Files as consul-template renders them, and with it the agents of Vault and OpenBao.
//!
//! The steps are those of `renderer.AtomicWrite` of consul-template.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files;
use crate::issued::Issued;
use crate::random;
use crate::rotate::Rotate;
use crate::steps::Steps;
use crate::test_dir::TestDir;

/// A directory whose files are rendered from templates, each for itself: between two renames a reader meets the
/// new certificate with the old key. With the real agents that lasts up to seconds; here, as long as the test
/// waits between two steps.
///
/// For each file that changes, in the given order:
///
/// | step | name |
/// | --- | --- |
/// | a temporary file in the same directory, written whole | `create tls.crt` |
/// | flushed to the disk | `fsync tls.crt` |
/// | given its mode | `chmod tls.crt` |
/// | the swap | `rename tls.crt` |
///
/// As with the real ones, a file that would not change is left alone.
#[derive(Debug)]
pub struct AgentFiles {
    dir: TestDir,
}

impl AgentFiles {
    /// A temporary directory with `ca.crt` (the root), `tls.crt` (the chain) and `tls.key`.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new(issued: impl AsRef<Issued>) -> io::Result<Self> {
        let agent = Self::from_dir(TestDir::new()?);
        agent.swap(issued)?;
        Ok(agent)
    }

    /// A directory as it is; the files come with the first rendering.
    pub fn from_dir(dir: TestDir) -> Self {
        Self { dir }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file.
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

    /// Renders `ca.crt`, then `tls.crt`, then `tls.key`.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn swap(&self, issued: impl AsRef<Issued>) -> io::Result<()> {
        self.swap_steps(issued)?.finish()
    }

    /// [`swap`](Self::swap), step by step.
    ///
    /// # Errors
    ///
    /// As [`render_steps`](Self::render_steps).
    pub fn swap_steps(&self, issued: impl AsRef<Issued>) -> io::Result<Steps> {
        self.render_steps(issued.as_ref().files())
    }

    /// Renders these files, in this order.
    ///
    /// # Errors
    ///
    /// If a file that is there cannot be read, or a step fails.
    pub fn render<N, C>(&self, files: impl IntoIterator<Item = (N, C)>) -> io::Result<()>
    where
        N: AsRef<Path>,
        C: Into<Vec<u8>>,
    {
        self.render_steps(files)?.finish()
    }

    /// [`render`](Self::render), step by step. What changes is decided now.
    ///
    /// # Errors
    ///
    /// If a file that is there cannot be read.
    pub fn render_steps<N, C>(&self, files: impl IntoIterator<Item = (N, C)>) -> io::Result<Steps>
    where
        N: AsRef<Path>,
        C: Into<Vec<u8>>,
    {
        let mut steps = Steps::new();
        for (name, content) in files {
            let (path, content) = (self.join(name.as_ref()), content.into());
            match fs::read(&path) {
                Ok(present) if present == content => continue,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files::at(&path)(error)),
                _ => plan(&mut steps, &name.as_ref().display().to_string(), path, content),
            }
        }
        Ok(steps)
    }
}

impl Rotate for AgentFiles {
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

impl AsRef<Path> for AgentFiles {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

fn plan(steps: &mut Steps, name: &str, path: PathBuf, content: Vec<u8>) {
    let mode = files::mode_for(&path, &content);
    // Go's TempFile with an empty pattern: the name is a number and nothing else.
    let temporary = path.with_file_name((random::number() >> 32).to_string());
    steps.push(format!("create {name}"), {
        let temporary = temporary.clone();
        move || {
            files::create_dir_all(temporary.parent().expect("a name was put into a directory"))?;
            files::open_new(&temporary, files::PRIVATE)?.write_all(&content)
        }
    });
    steps.push(format!("fsync {name}"), {
        let temporary = temporary.clone();
        move || fs::OpenOptions::new().write(true).open(&temporary)?.sync_all()
    });
    steps.push(format!("chmod {name}"), {
        let temporary = temporary.clone();
        move || files::set_mode(&temporary, mode)
    });
    steps.push(format!("rename {name}"), move || fs::rename(&temporary, &path));
}
