//! `KubeletDir` leaves on disk what the kubelet leaves, at every step and after any number of writes.
#![cfg(unix)] // symbolic links and modes; on Windows links need rights that tests may not have

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use certsource_testkit::{Ca, KubeletDir, Part, Steps, TestDir};

/// Name → target for links, name → "dir" or "file" for the rest.
fn listing(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let kind = |entry: &fs::DirEntry| {
        let kind = entry.file_type().expect("a type");
        if kind.is_symlink() {
            fs::read_link(entry.path()).expect("a link").display().to_string()
        } else {
            if kind.is_dir() { "dir" } else { "file" }.to_owned()
        }
    };
    entries.map(|entry| (entry.file_name().into_string().expect("a name"), kind(&entry))).collect()
}

/// The names of steps with the version's name replaced, which holds the time and a random number.
fn names(steps: &Steps) -> Vec<String> {
    let shorten = |name: &str| match name.split_once("..2") {
        Some((verb, _)) => format!("{verb}VERSION"),
        None => name.to_owned(),
    };
    steps.upcoming().map(shorten).collect()
}

fn empty() -> KubeletDir {
    KubeletDir::from_dir(TestDir::new().expect("a temporary directory"))
}

#[test]
fn the_layout_is_the_kubelets() {
    let issued = Ca::new("root").issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let version = dir.version_dir().unwrap().unwrap();
    let name = version.file_name().unwrap().to_str().unwrap().to_owned();

    let digits: String = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(digits.starts_with("..0000_00_00_00_00_00.0"), "{name}");
    let expected = [
        (name.as_str(), "dir"),
        ("..data", name.as_str()),
        ("ca.crt", "..data/ca.crt"),
        ("tls.crt", "..data/tls.crt"),
        ("tls.key", "..data/tls.key"),
    ];
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(listing(dir.path()), BTreeMap::from(expected));
    assert_eq!(fs::read_to_string(dir.ca_path()).unwrap(), issued.root_pem());
    assert_eq!(fs::read_to_string(dir.cert_path()).unwrap(), issued.chain_pem());
    assert_eq!(fs::read_to_string(dir.key_path()).unwrap(), issued.key_pem());

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&version), 0o755);
    assert_eq!(mode(&dir.key_path()), 0o600);
    assert_eq!(mode(&dir.cert_path()), 0o644);
}

#[test]
fn the_steps_are_the_kubelets() {
    let dir = empty();
    let steps = dir.write_steps([("b", "1"), ("a", "1"), ("old", "1")]).unwrap();
    let first = [
        "mkdir VERSION",
        "write a",
        "write b",
        "write old",
        "symlink ..data_tmp",
        "rename ..data_tmp ..data",
        "link a",
        "link b",
        "link old",
    ];
    assert_eq!(names(&steps), first);
    steps.finish().unwrap();

    let steps = dir.write_steps([("b", "2"), ("a", "2"), ("new", "2")]).unwrap();
    let second = [
        "mkdir VERSION",
        "write a",
        "write b",
        "write new",
        "symlink ..data_tmp",
        "rename ..data_tmp ..data",
        "link new",
        "unlink old",
        "remove VERSION",
    ];
    assert_eq!(names(&steps), second);
    steps.finish().unwrap();
    let visible: Vec<_> = listing(dir.path()).into_keys().filter(|name| !name.starts_with("..")).collect();
    assert_eq!(visible, ["a", "b", "new"]);
}

#[test]
fn readers_see_one_version_at_every_step() {
    let dir = empty();
    dir.write([("a", "1"), ("b", "1")]).unwrap();
    let mut steps = dir.write_steps([("a", "2"), ("b", "2")]).unwrap();
    let mut seen = Vec::new();
    loop {
        let read = |name| fs::read_to_string(dir.join(name)).unwrap();
        let (a, b) = (read("a"), read("b"));
        assert_eq!(a, b, "after {} steps", seen.len());
        seen.push(a);
        if steps.step().unwrap().is_none() {
            break;
        }
    }
    // mkdir, a, b, symlink; then the rename makes it version 2.
    assert_eq!(seen.concat(), "1111122");
}

#[test]
fn the_hundredth_swap_is_as_the_first() {
    let ca = Ca::new("root");
    let (one, two) = (ca.issue("localhost"), ca.issue("localhost"));
    let dir = KubeletDir::new(&one).unwrap();
    let link = fs::symlink_metadata(dir.cert_path()).unwrap().ino();
    let mut versions = vec![dir.version_dir().unwrap().unwrap()];
    for round in 1..=100 {
        let issued = if round % 2 == 0 { &one } else { &two };
        dir.swap(issued).unwrap();
        assert_eq!(fs::read_to_string(dir.key_path()).unwrap(), issued.key_pem());
        versions.push(dir.version_dir().unwrap().unwrap());
    }
    assert_eq!(listing(dir.path()).len(), 5, "one version, `..data`, three links");
    assert_eq!(fs::symlink_metadata(dir.cert_path()).unwrap().ino(), link, "links of files are not touched");
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 101, "each version has a directory of its own");
}

#[test]
fn old_versions_may_stay() {
    let ca = Ca::new("root");
    let dir = KubeletDir::new(ca.issue("localhost")).unwrap().keep_old(true);
    let first = dir.version_dir().unwrap().unwrap();
    for _ in 0..3 {
        dir.swap(ca.issue("localhost")).unwrap();
    }
    dir.rewrite().unwrap();
    let versions = listing(dir.path()).into_values().filter(|kind| kind == "dir").count();
    assert_eq!(versions, 5);
    assert!(first.join("tls.key").exists());
}

#[test]
fn a_ca_bundle_of_ones_own() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("localhost")).unwrap();
    let issued = new.issue("localhost");
    let both = old.certificate_pem() + &new.certificate_pem();
    dir.swap_all(both.as_str(), &issued).unwrap();
    assert_eq!(fs::read_to_string(dir.ca_path()).unwrap(), both);
    assert_eq!(fs::read_to_string(dir.cert_path()).unwrap(), issued.chain_pem());
    dir.swap(&issued).unwrap();
    assert_eq!(fs::read_to_string(dir.ca_path()).unwrap(), new.certificate_pem());
}

#[test]
fn equal_content_is_not_written_but_missing_links_are_made() {
    let dir = empty();
    dir.write([("a", "1"), ("b", "1")]).unwrap();
    let version = dir.version_dir().unwrap();
    assert_eq!(dir.write_steps([("a", "1"), ("b", "1")]).unwrap().remaining(), 0);

    fs::remove_file(dir.join("b")).unwrap();
    let steps = dir.write_steps([("a", "1"), ("b", "1")]).unwrap();
    assert_eq!(names(&steps), ["link b"]);
    steps.finish().unwrap();
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "1");
    assert_eq!(dir.version_dir().unwrap(), version);

    let steps = dir.write_steps([("a", "1")]).unwrap();
    assert!(steps.remaining() > 0, "a file less is a change");
    steps.finish().unwrap();
    assert_ne!(dir.version_dir().unwrap(), version);
    assert!(!dir.join("b").is_symlink());
}

#[test]
fn rewriting_gives_new_files_with_equal_content() {
    let dir = empty();
    assert_eq!(dir.rewrite().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    dir.write([("a", "1"), ("sub/b", "1")]).unwrap();
    let old = fs::metadata(dir.join("sub/b")).unwrap();
    let kept = fs::File::open(dir.join("sub/b")).unwrap(); // so that its inode is not used again
    dir.rewrite().unwrap();
    assert_ne!(fs::metadata(dir.join("sub/b")).unwrap().ino(), old.ino());
    assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "1");
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
    assert_eq!(kept.metadata().unwrap().nlink(), 0, "the old version is gone");
}

#[test]
fn names_may_have_directories() {
    let dir = empty();
    dir.write([("etc/tls/a", "1"), ("etc/b", "1"), ("top", "1")]).unwrap();
    assert_eq!(listing(dir.path())["etc"], "..data/etc");
    assert_eq!(fs::read_to_string(dir.join("etc/tls/a")).unwrap(), "1");
    dir.write([("etc/b", "2")]).unwrap();
    assert_eq!(fs::read_to_string(dir.join("etc/b")).unwrap(), "2");
    assert!(!dir.join("etc/tls").exists() && !dir.join("top").is_symlink());
    dir.write([("other", "3")]).unwrap();
    assert_eq!(listing(dir.path()).len(), 3, "a version, `..data`, `other`");
}

#[test]
fn names_that_the_kubelet_refuses() {
    let dir = empty();
    for name in ["", "/etc/x", "../x", "a/../b", "..x", "..data"] {
        let error = dir.write([(name, "1")]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name:?}");
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    assert!(listing(dir.path()).is_empty());
    assert_eq!(dir.version_dir().unwrap(), None);
}

/// However far a write came before it was killed, files are whole, and the next write works.
#[test]
fn a_killed_writer() {
    let total = {
        let dir = empty();
        dir.write([("a", "1"), ("old", "1")]).unwrap();
        dir.write_steps([("a", "2"), ("new", "2")]).unwrap().remaining()
    };
    assert_eq!(total, 8);
    for steps_done in 0..=total {
        let dir = empty();
        dir.write([("a", "1"), ("old", "1")]).unwrap();
        let mut steps = dir.write_steps([("a", "2"), ("new", "2")]).unwrap();
        for _ in 0..steps_done {
            steps.step().unwrap();
        }
        drop(steps);
        let swapped = steps_done >= 5;
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), if swapped { "2" } else { "1" });

        dir.write([("a", "3"), ("new", "3")]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3", "killed after {steps_done}");
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "3", "killed after {steps_done}");
        assert!(!dir.join("..data_tmp").is_symlink(), "killed after {steps_done}");
    }
}

#[test]
fn two_plans_may_be_run_one_after_the_other() {
    let dir = empty();
    let one = dir.write_steps([("a", "1")]).unwrap();
    let two = dir.write_steps([("a", "2")]).unwrap();
    one.finish().unwrap();
    two.finish().unwrap();
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2");
}

#[test]
fn torn_parts_are_repaired_by_the_next_swap() {
    let issued = Ca::new("root").issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    for part in Part::ALL {
        let path = dir.join(part.file_name());
        let whole = fs::read(&path).unwrap();
        dir.torn_write(part).unwrap();
        let torn = fs::read(&path).unwrap();
        assert!(!torn.is_empty() && torn.len() < whole.len() && whole.starts_with(&torn), "{part:?}");
        assert!(path.is_symlink(), "damaged behind the link");
        dir.swap(&issued).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole, "{part:?}");
    }
}

/// `..data` can be resolved at every moment, and what is read through it is whole and of one version.
#[test]
fn a_reader_beside_two_hundred_swaps() {
    let dir = empty().keep_old(true); // else a reader on a resolved path may rightly meet ENOENT
    let texts = |round: u32| [("a", round.to_string().repeat(1000)), ("b", round.to_string().repeat(1000))];
    dir.write(texts(1)).unwrap();
    let (start, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut versions = Vec::new();
            start.wait();
            loop {
                let last = done.load(Ordering::SeqCst);
                let version = dir.version_dir().unwrap().expect("`..data` is always there");
                let (a, b) = (
                    fs::read_to_string(version.join("a")).unwrap(),
                    fs::read_to_string(version.join("b")).unwrap(),
                );
                assert!(a == b && a.len() >= 1000, "{} and {} bytes", a.len(), b.len());
                fs::read_to_string(dir.join("a")).expect("the link of a file always leads to one");
                if versions.last() != Some(&version) {
                    versions.push(version);
                }
                if last {
                    return versions;
                }
            }
        });
        start.wait();
        for round in 2..=200 {
            dir.write(texts(round)).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        let seen = reader.join().unwrap();
        assert_eq!(seen.last(), dir.version_dir().unwrap().as_ref());
    });
}

/// The same with old versions removed: the link itself is never missing.
#[test]
fn the_link_is_there_while_old_versions_go() {
    let dir = empty();
    dir.write([("a", "0")]).unwrap();
    let (start, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            start.wait();
            while !done.load(Ordering::SeqCst) {
                assert!(dir.version_dir().unwrap().is_some());
            }
        });
        start.wait();
        for round in 1..=200 {
            dir.write([("a", round.to_string())]).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}

#[test]
fn temporary_directories_vanish_and_named_ones_stay() {
    let issued = Ca::new("root").issue("localhost");
    let dir = KubeletDir::new(&issued).unwrap();
    let path = dir.path().to_owned();
    drop(dir);
    assert!(!path.exists());

    let outer = TestDir::new().unwrap();
    let named = KubeletDir::from_dir(TestDir::at(outer.join("a/b")).unwrap());
    named.swap(&issued).unwrap();
    let path = named.path().to_owned();
    drop(named);
    assert!(path.join("tls.crt").exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}
