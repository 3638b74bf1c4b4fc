//! Every detector against every writer of WRITERS.md that can be run here: after the writer is done, the next look
//! (for a polling detector) or the last wake-up (for one that is told) leads to a read of what was written.
//!
//! Rows that cannot be run without rights or unsafe code: 15 (mmap), 18 (bind mounts), 19 (network file systems; see
//! `detect_poll.rs` for a simulated one), and 21 beyond permissions.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod detect_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use certsource::Files;
use certsource::parts::{Part, Parts};
use certsource_testkit::{
    AgentFiles, Ca, CertbotLive, Issued, KubeletDir, Method, PlainDir, Steps, TestDir, write,
};

use self::detect_support::{Rig, SEC, link, padded};

/// A source, a writer that brings its versions one after the other, and how a version is known.
struct Scenario {
    name: String,
    files: Files,
    write: Box<dyn FnMut(usize) -> Steps>,
    is: IsVersion,
}

/// Whether a version was read.
type IsVersion = Box<dyn Fn(usize, &Parts) -> bool>;

/// As many versions as are told apart.
const VERSIONS: usize = 3;

struct World {
    cas: Vec<Ca>,
    issued: Vec<Issued>,
}

impl World {
    fn new() -> Self {
        let cas: Vec<_> = (0..VERSIONS).map(|number| Ca::new(&format!("Root {number}"))).collect();
        let issued = cas.iter().map(|ca| ca.issue("localhost")).collect();
        Self { cas, issued }
    }

    /// All versions of a bundle are of one size.
    fn bundle(&self, version: usize) -> String {
        padded(&self.cas[version % VERSIONS].certificate_pem(), 4000)
    }

    fn is_bundle(&self) -> IsVersion {
        let ders: Vec<_> = self.cas.iter().map(Ca::certificate_der).collect();
        Box::new(
            move |version, parts| matches!(&parts.trust, Part::Found(found) if found.len() == 1 && found[0].der == ders[version % VERSIONS]),
        )
    }

    fn is_identity(&self) -> IsVersion {
        let issued = self.issued.clone();
        Box::new(move |version, parts| {
            let issued = &issued[version % VERSIONS];
            matches!(&parts.identity, Part::Found(found)
                if found.chain[0].der == issued.leaf_der()
                    && found.key.secret_der() == issued.key_der().secret_der())
        })
    }

    fn is_all(&self) -> IsVersion {
        let (identity, bundle) = (self.is_identity(), self.is_bundle());
        Box::new(move |version, parts| identity(version, parts) && bundle(version, parts))
    }

    /// One file, written by a function of the testkit.
    fn single(&self, name: &str, write: impl Fn(&Path, String) -> Steps + 'static) -> Scenario {
        let dir = TestDir::new().unwrap();
        let path = dir.write("etc/ca.pem", self.bundle(0)).unwrap();
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        Scenario {
            name: name.to_owned(),
            files: Files::trust(&path),
            write: Box::new(move |version| {
                write(&dir.join("etc/ca.pem"), bundles[version % VERSIONS].clone())
            }),
            is: self.is_bundle(),
        }
    }

    fn singles(&self) -> Vec<Scenario> {
        vec![
            self.single("1 in place", |path, text| write::in_place(path, text, 3)),
            self.single("2 in place with an older time", |path, text| {
                let old = SystemTime::now() - 3600 * SEC;
                write::in_place(path, text, 2).then(write::set_modified(path, old))
            }),
            self.single("3 renamed over", |path, text| write::rename_over(path, text)),
            self.single("3 renamed over with an older time", |path, text| {
                // The same time each time, so that neither size nor modification time tells.
                let old = SystemTime::UNIX_EPOCH + 1_700_000_000 * SEC;
                let beside = path.with_extension("new");
                let mut steps = Steps::new();
                steps.push("write beside", {
                    let beside = beside.clone();
                    move || fs::write(beside, text)
                });
                steps = steps.then(write::set_modified(&beside, old));
                let path = path.to_owned();
                steps.push("rename", move || fs::rename(beside, path));
                steps
            }),
            self.single("4 unlinked and created", |path, text| write::unlink_and_create(path, text, 3)),
            self.single("5 unlinked and created with an older time", |path, text| {
                let old = SystemTime::UNIX_EPOCH + 1_700_000_000 * SEC;
                write::unlink_and_create(path, text, 1).then(write::set_modified(path, old))
            }),
            self.single("7 renamed with a backup", |path, text| write::rename_with_backup(path, text)),
            self.single("8 renamed with a hard link", |path, text| write::rename_with_hard_link(path, text)),
            self.single("16 directory replaced", |path, text| {
                write::replace_dir(path.parent().unwrap(), [("ca.pem", text)])
            }),
            self.single("16 directory rebuilt", |path, text| {
                write::rebuild_dir(path.parent().unwrap(), [("ca.pem", text)]).unwrap()
            }),
            self.single("20 removed and back", |path, text| {
                let (gone, path) = (path.to_owned(), path.to_owned());
                let mut steps = Steps::new();
                steps.push("remove", move || fs::remove_file(gone));
                steps.then(write::in_place(path, text, 1))
            }),
            self.single("22 three in quick succession", |path, text| {
                let first = write::rename_over(path, "one");
                first.then(write::in_place(path, "two", 1)).then(write::rename_over(path, text))
            }),
        ]
    }

    fn plain(&self, method: Method) -> Scenario {
        let dir = PlainDir::new(method, &self.issued[0]).unwrap();
        let issued = self.issued.clone();
        Scenario {
            name: format!("three files by {method:?}"),
            files: Files::kubernetes(dir.path()),
            write: Box::new(move |version| dir.swap_steps(&issued[version % VERSIONS]).unwrap()),
            is: self.is_all(),
        }
    }

    fn agent(&self) -> Scenario {
        let dir = AgentFiles::new(&self.issued[0]).unwrap();
        let issued = self.issued.clone();
        Scenario {
            name: "12 agent".to_owned(),
            files: Files::trust(dir.ca_path()).with_identity(dir.cert_path(), dir.key_path()),
            write: Box::new(move |version| dir.swap_steps(&issued[version % VERSIONS]).unwrap()),
            is: self.is_all(),
        }
    }

    fn certbot(&self) -> Scenario {
        let live = CertbotLive::new(&self.issued[0]).unwrap();
        let issued = self.issued.clone();
        Scenario {
            name: "11 certbot".to_owned(),
            files: Files::identity(live.cert_path(), live.key_path()),
            write: Box::new(move |version| live.renew_steps(&issued[version % VERSIONS]).unwrap()),
            is: self.is_identity(),
        }
    }

    fn kubelet(&self, keep_old: bool) -> Scenario {
        let dir = KubeletDir::new(&self.issued[0]).unwrap().keep_old(keep_old);
        let issued = self.issued.clone();
        Scenario {
            name: format!("10 kubelet, old versions kept: {keep_old}"),
            files: Files::kubernetes(dir.path()),
            write: Box::new(move |version| dir.swap_steps(&issued[version % VERSIONS]).unwrap()),
            is: self.is_all(),
        }
    }

    /// A projected volume with directories in it: the link is on the directory, not on the file.
    fn kubelet_nested(&self) -> Scenario {
        let dir = KubeletDir::from_dir(TestDir::new().unwrap());
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        dir.write([("pki/ca.pem", bundles[0].clone())]).unwrap();
        Scenario {
            name: "10 kubelet, a directory in the volume".to_owned(),
            files: Files::trust(dir.join("pki/ca.pem")),
            write: Box::new(move |version| {
                dir.write_steps([("pki/ca.pem", bundles[version % VERSIONS].clone())]).unwrap()
            }),
            is: self.is_bundle(),
        }
    }

    /// The volume as a directory of anchors; every version has another name in it.
    fn kubelet_directory(&self) -> Scenario {
        let dir = KubeletDir::from_dir(TestDir::new().unwrap());
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        dir.write([("ca-0.pem", bundles[0].clone())]).unwrap();
        Scenario {
            name: "10 kubelet, as a directory".to_owned(),
            files: Files::trust(dir.path()),
            write: Box::new(move |version| {
                let name = format!("ca-{version}.pem");
                dir.write_steps([(name, bundles[version % VERSIONS].clone())]).unwrap()
            }),
            is: self.is_bundle(),
        }
    }

    /// Edits a file of the current version, as some CSI drivers do.
    fn kubelet_in_place(&self) -> Scenario {
        let dir = KubeletDir::from_dir(TestDir::new().unwrap());
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        dir.write([("ca.pem", bundles[0].clone())]).unwrap();
        Scenario {
            name: "10 a file of a volume edited in place".to_owned(),
            files: Files::trust(dir.join("ca.pem")),
            write: Box::new(move |version| {
                write::in_place(dir.join("ca.pem"), bundles[version % VERSIONS].clone(), 2)
            }),
            is: self.is_bundle(),
        }
    }

    /// `a/ca.pem → ../b/link → ../c/N.pem`, of which `b/link` is re-pointed.
    fn link_in_the_middle(&self) -> Scenario {
        let dir = TestDir::new().unwrap();
        for version in 0..VERSIONS {
            dir.write(format!("c/{version}.pem"), self.bundle(version)).unwrap();
        }
        dir.write("a/x", "").unwrap();
        dir.write("b/x", "").unwrap();
        link("../b/link", dir.join("a/ca.pem"));
        link("../c/0.pem", dir.join("b/link"));
        Scenario {
            name: "9 a link in the middle".to_owned(),
            files: Files::trust(dir.join("a/ca.pem")),
            write: Box::new(move |version| {
                write::flip_symlink(dir.join("b/link"), format!("../c/{}.pem", version % VERSIONS))
            }),
            is: self.is_bundle(),
        }
    }

    /// `current → releases/N`, some levels above the file; absolute and relative links.
    fn link_above(&self, absolute: bool) -> Scenario {
        let dir = TestDir::new().unwrap();
        let target = move |dir: &TestDir, version: usize| match absolute {
            true => dir.join(format!("releases/{version}")),
            false => PathBuf::from(format!("releases/{version}")),
        };
        for version in 0..VERSIONS {
            dir.write(format!("releases/{version}/etc/tls/ca.pem"), self.bundle(version)).unwrap();
        }
        link(target(&dir, 0), dir.join("current"));
        Scenario {
            name: format!("17 a link above, absolute: {absolute}"),
            files: Files::trust(dir.join("current/etc/tls/ca.pem")),
            write: Box::new(move |version| {
                write::flip_symlink(dir.join("current"), target(&dir, version % VERSIONS))
            }),
            is: self.is_bundle(),
        }
    }

    /// Neither the file nor the directories above it are there at first; all go and come again.
    fn nothing_at_first(&self) -> Scenario {
        let dir = TestDir::new().unwrap();
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        Scenario {
            name: "20 from nothing".to_owned(),
            files: Files::trust(dir.join("a/b/c/ca.pem")),
            write: Box::new(move |version| {
                let (a, b, text) = (dir.join("a"), dir.join("a/b"), bundles[version % VERSIONS].clone());
                let mut steps = Steps::new();
                if a.exists() {
                    let a = a.clone();
                    steps.push("rm -r a", move || fs::remove_dir_all(a));
                }
                steps.push("mkdir a", move || fs::create_dir(a));
                steps.push("mkdir a/b", {
                    let b = b.clone();
                    move || fs::create_dir(b)
                });
                steps.push("mkdir a/b/c", {
                    let c = b.join("c");
                    move || fs::create_dir(c)
                });
                steps.push("write", move || fs::write(b.join("c/ca.pem"), text));
                steps
            }),
            is: self.is_bundle(),
        }
    }

    /// A plain directory of anchors, in which one file comes and another goes.
    fn directory(&self) -> Scenario {
        let dir = Arc::new(TestDir::new().unwrap());
        dir.write("roots/ca-0.pem", self.bundle(0)).unwrap();
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        let files = Files::trust(dir.join("roots"));
        Scenario {
            name: "a directory of anchors".to_owned(),
            files,
            write: Box::new(move |version| {
                let (old, new) = (format!("roots/ca-{}.pem", version - 1), format!("roots/ca-{version}.pem"));
                let mut steps = write::in_place(dir.join(new), bundles[version % VERSIONS].clone(), 1);
                let dir = Arc::clone(&dir);
                steps.push("remove", move || dir.remove(old));
                steps
            }),
            is: self.is_bundle(),
        }
    }

    /// A path that begins where the process stands.
    fn relative(&self) -> Scenario {
        let dir = TestDir::new().unwrap();
        let path = dir.write("ca.pem", self.bundle(0)).unwrap();
        let here = std::env::current_dir().unwrap();
        let mut relative: PathBuf = here.components().skip(1).map(|_| "..").collect();
        relative.extend(path.components().skip(1));
        assert!(relative.is_relative() && relative.exists());
        let bundles: Vec<_> = (0..VERSIONS).map(|version| self.bundle(version)).collect();
        Scenario {
            name: "a relative path".to_owned(),
            files: Files::trust(relative),
            write: Box::new(move |version| {
                write::rename_over(dir.join("ca.pem"), bundles[version % VERSIONS].clone())
            }),
            is: self.is_bundle(),
        }
    }

    fn sets(&self) -> Vec<Scenario> {
        let mut all: Vec<_> = Method::ALL.into_iter().map(|method| self.plain(method)).collect();
        all.extend([self.agent(), self.certbot()]);
        all
    }

    fn volumes(&self) -> Vec<Scenario> {
        vec![
            self.kubelet(false),
            self.kubelet(true),
            self.kubelet_nested(),
            self.kubelet_directory(),
            self.kubelet_in_place(),
        ]
    }

    fn ways(&self) -> Vec<Scenario> {
        vec![
            self.link_in_the_middle(),
            self.link_above(false),
            self.link_above(true),
            self.nothing_at_first(),
            self.directory(),
            self.relative(),
        ]
    }
}

/// Brings version after version. With `closely`, the source is looked at between any two steps of the writer.
fn run(scenario: Scenario, closely: bool, rounds: usize, rig: impl FnOnce(Files) -> Rig) {
    let Scenario { name, files, mut write, is } = scenario;
    let mut rig = rig(files);
    for version in 1..=rounds {
        rig.rest();
        let mut steps = write(version);
        while let Some(step) = steps.step().unwrap() {
            if closely {
                rig.react();
                assert!(rig.read.is_some(), "{name}: after {step}");
            }
        }
        rig.react();
        let context = format!("{name}: version {version}, closely: {closely}, looks: {:?}", rig.looks);
        let parts = rig.parts().unwrap_or_else(|| panic!("{context}: {:?}", rig.read));
        assert!(is(version, parts), "{context}: {parts:?}");
    }
}

fn run_all(make: impl Fn(&World) -> Vec<Scenario>, rig: impl Fn(Files) -> Rig) {
    let world = World::new();
    for closely in [false, true] {
        for scenario in make(&world) {
            run(scenario, closely, 4, &rig);
        }
    }
}

macro_rules! conformance {
    ($name:ident, $rig:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn single_files() {
                run_all(World::singles, $rig);
            }

            #[test]
            fn sets_of_files() {
                run_all(World::sets, $rig);
            }

            #[test]
            fn volumes() {
                run_all(World::volumes, $rig);
            }

            #[test]
            fn links_and_directories() {
                run_all(World::ways, $rig);
            }

            #[test]
            fn the_hundredth_swap_is_seen_as_the_first() {
                let world = World::new();
                for keep_old in [false, true] {
                    run(world.kubelet(keep_old), false, 100, $rig);
                }
            }
        }
    };
}

conformance!(mtime, |files| Rig::polling(files, certsource::detect::Mtime::new()));
conformance!(sha256, |files| Rig::polling(files, certsource::detect::Sha256::new()));
#[cfg(feature = "notify")]
conformance!(notify, |files| Rig::watching(files, certsource::detect::Notify::new()));
// Without an engine that has watches it polls.
#[cfg(feature = "notify")]
conformance!(notify_without_watches, |files| Rig::polling(files, certsource::detect::Notify::new()));
