//! The directories `live` and `archive` as certbot keeps them.
//!
//! The steps are those of `save_successor` and `update_all_links_to` in `certbot/_internal/storage.py` of
//! certbot 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use crate::issued::Issued;
use crate::rotate::Rotate;
use crate::steps::Steps;
use crate::test_dir::TestDir;

/// The order in which certbot changes its links.
const KINDS: [&str; 4] = ["cert", "privkey", "chain", "fullchain"];

/// A certbot lineage: `live/NAME/{cert,privkey,chain,fullchain}.pem` are links to numbered files below
/// `archive/NAME`.
///
/// A renewal writes four new files, then moves the links one after the other. Each link is removed before it is
/// made again, so there are moments without a file, and moments with files of two generations.
///
/// | step | name |
/// | --- | --- |
/// | each new file; a kept key is a link | `write privkey2.pem` or `symlink privkey2.pem`, `write cert2.pem` … |
/// | links to what was current | `symlink previous_cert.pem` … |
/// | for each of cert, privkey, chain, fullchain | `unlink cert.pem`, `symlink cert.pem` |
/// | the links to what was current | `unlink previous_cert.pem` … |
///
/// `chain.pem` holds the intermediates, so it is empty if a root issued the leaf. The root is in no file.
#[derive(Debug)]
pub struct CertbotLive {
    dir: TestDir,
    lineage: String,
}

impl CertbotLive {
    /// A temporary directory with `live` and `archive`, and version 1 of a lineage called `example`.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new(issued: impl AsRef<Issued>) -> io::Result<Self> {
        Self::in_dir(TestDir::new()?, "example", issued)
    }

    /// Version 1 of a new lineage below this directory (certbot's own is `/etc/letsencrypt`).
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if there is such a lineage; else what the system says.
    pub fn in_dir(dir: TestDir, lineage: &str, issued: impl AsRef<Issued>) -> io::Result<Self> {
        let live = Self { dir, lineage: lineage.to_owned() };
        files::create_dir_all(&live.archive())?;
        files::create_dir_all(&live.live())?;
        for (kind, content) in contents(issued.as_ref()) {
            let archived = live.archived(kind, 1);
            let mode = files::mode_for(&archived, content.as_bytes());
            files::create(&archived, content.as_bytes(), mode).map_err(files::at(&archived))?;
            files::symlink(&live.target(kind, 1), &live.link(kind))?;
        }
        let readme = "This directory contains your keys and certificates.\n";
        files::create(&live.live().join("README"), readme.as_bytes(), files::PUBLIC)?;
        Ok(live)
    }

    /// The directory with the links that programs use: `live/NAME`.
    pub fn path(&self) -> PathBuf {
        self.live()
    }

    /// The path of `fullchain.pem`: leaf and intermediates.
    pub fn cert_path(&self) -> PathBuf {
        self.link("fullchain")
    }

    /// The path of `privkey.pem`.
    pub fn key_path(&self) -> PathBuf {
        self.link("privkey")
    }

    /// Renews: everything at once, as `certbot renew`.
    ///
    /// # Errors
    ///
    /// As [`renew_steps`](Self::renew_steps), or what the system says, with the step in front.
    pub fn renew(&self, issued: impl AsRef<Issued>) -> io::Result<()> {
        self.renew_steps(issued)?.finish()
    }

    /// [`renew`](Self::renew), step by step. If the key is the current one, it is kept as with `--reuse-key`.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read.
    pub fn renew_steps(&self, issued: impl AsRef<Issued>) -> io::Result<Steps> {
        let issued = issued.as_ref();
        let version = self.newest()? + 1;
        let mut steps = Steps::new();
        self.plan_files(&mut steps, version, issued);
        for kind in KINDS {
            let (link, previous) = (self.link(kind), self.previous(kind));
            steps.push(format!("symlink previous_{kind}.pem"), move || {
                // A renewal that was cut off may have left no link, or an older `previous_` one.
                let Ok(current) = fs::read_link(&link) else { return Ok(()) };
                remove_if_link(&previous)?;
                files::symlink(&current, &previous)
            });
        }
        for kind in KINDS {
            let link = self.link(kind);
            steps.push(format!("unlink {kind}.pem"), {
                let link = link.clone();
                move || remove_if_link(&link)
            });
            let target = self.target(kind, version);
            steps.push(format!("symlink {kind}.pem"), move || files::symlink(&target, &link));
        }
        for kind in KINDS {
            let previous = self.previous(kind);
            steps.push(format!("unlink previous_{kind}.pem"), move || remove_if_link(&previous));
        }
        Ok(steps)
    }

    fn plan_files(&self, steps: &mut Steps, version: u32, issued: &Issued) {
        let current_key = fs::canonicalize(self.key_path()).ok();
        let reused =
            current_key.filter(|path| fs::read(path).is_ok_and(|key| key == issued.key_pem().as_bytes()));
        for (kind, content) in contents(issued) {
            let archived = self.archived(kind, version);
            let name = files::name_of(&archived);
            match (&reused, kind) {
                (Some(key), "privkey") => {
                    let target = PathBuf::from(files::name_of(key));
                    steps.push(format!("symlink {name}"), move || files::symlink(&target, &archived));
                }
                _ => {
                    let mode = files::mode_for(&archived, content.as_bytes());
                    steps.push(format!("write {name}"), move || {
                        files::create(&archived, content.as_bytes(), mode)
                    });
                }
            }
        }
    }

    /// The highest version in the archive: also one that was written but never linked counts.
    fn newest(&self) -> io::Result<u32> {
        let archive = self.archive();
        let mut newest = 0;
        for entry in fs::read_dir(&archive).map_err(files::at(&archive))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let stem = name.strip_suffix(".pem").unwrap_or(&name);
            let digits = stem.trim_start_matches(|c: char| !c.is_ascii_digit());
            newest = newest.max(digits.parse().unwrap_or(0));
        }
        Ok(newest)
    }

    fn live(&self) -> PathBuf {
        self.dir.join("live").join(&self.lineage)
    }

    fn archive(&self) -> PathBuf {
        self.dir.join("archive").join(&self.lineage)
    }

    fn link(&self, kind: &str) -> PathBuf {
        self.live().join(format!("{kind}.pem"))
    }

    fn previous(&self, kind: &str) -> PathBuf {
        self.live().join(format!("previous_{kind}.pem"))
    }

    fn archived(&self, kind: &str, version: u32) -> PathBuf {
        self.archive().join(format!("{kind}{version}.pem"))
    }

    /// What a link holds: a path relative to `live/NAME`.
    fn target(&self, kind: &str, version: u32) -> PathBuf {
        Path::new("..").join("..").join("archive").join(&self.lineage).join(format!("{kind}{version}.pem"))
    }
}

impl Rotate for CertbotLive {
    fn cert_path(&self) -> PathBuf {
        self.cert_path()
    }

    fn key_path(&self) -> PathBuf {
        self.key_path()
    }

    fn swap_steps(&self, issued: &Issued) -> io::Result<Steps> {
        self.renew_steps(issued)
    }
}

/// In the order in which certbot writes them: the key first.
fn contents(issued: &Issued) -> [(&'static str, String); 4] {
    [
        ("privkey", issued.key_pem()),
        ("cert", issued.leaf_pem()),
        ("chain", issued.intermediates_pem()),
        ("fullchain", issued.chain_pem()),
    ]
}

fn remove_if_link(link: &Path) -> io::Result<()> {
    if link.is_symlink() { files::remove_link(link) } else { Ok(()) }
}
