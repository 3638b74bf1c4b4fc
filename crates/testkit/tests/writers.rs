//! Every other writer: what a reader meets at each step, and what is left at the end.
#![cfg(unix)] // inodes, modes, symbolic links

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use certsource_testkit::{
    AgentFiles, Ca, CertbotLive, Damage, Issued, KubeletDir, Method, PlainDir, Rotate, Steps, TestDir,
    damage, write,
};

/// What is at a path, at each step, from before the first.
fn watch(path: &Path, mut steps: Steps) -> Vec<Option<String>> {
    let mut seen = vec![fs::read_to_string(path).ok()];
    while steps.step().expect("a step works").is_some() {
        seen.push(fs::read_to_string(path).ok());
    }
    seen
}

fn some(states: &[&str]) -> Vec<Option<String>> {
    states.iter().map(|state| (*state != "gone").then(|| (*state).to_owned())).collect()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a file").ino()
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

#[test]
fn in_place() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "old").unwrap();
    let before = inode(&path);
    let steps = write::in_place(&path, "abcdefg", 3);
    let names: Vec<_> = steps.upcoming().map(str::to_owned).collect();
    assert_eq!(names, ["truncate f", "write f 1/3", "write f 2/3", "write f 3/3", "close f"]);
    assert_eq!(watch(&path, steps), some(&["old", "", "abc", "abcdef", "abcdefg", "abcdefg"]));
    assert_eq!(inode(&path), before);

    // Odd numbers of pieces, no content, no file yet.
    assert_eq!(watch(&path, write::in_place(&path, "ab", 9)), some(&["abcdefg", "", "a", "ab", "ab"]));
    assert_eq!(watch(&path, write::in_place(&path, "ab", 0)), some(&["ab", "", "ab", "ab"]));
    assert_eq!(watch(&path, write::in_place(&path, "", 3)), some(&["ab", "", ""]));
    let missing = dir.join("new");
    assert_eq!(watch(&missing, write::in_place(&missing, "x", 1)), some(&["gone", "", "x", "x"]));
}

#[test]
fn rename_over() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "old").unwrap();
    let before = inode(&path);
    assert_eq!(watch(&path, write::rename_over(&path, "new")), some(&["old", "old", "new"]));
    assert_ne!(inode(&path), before);
    assert_eq!(entries(dir.path()), ["f"]);
}

#[test]
fn unlink_and_create() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "old").unwrap();
    let seen = watch(&path, write::unlink_and_create(&path, "abcd", 2));
    assert_eq!(seen, some(&["old", "gone", "", "ab", "abcd", "abcd"]));
    let missing = dir.join("new");
    write::unlink_and_create(&missing, "x", 1).finish().unwrap();
    assert_eq!(fs::read_to_string(missing).unwrap(), "x");
}

#[test]
fn backups_keep_the_old_inode() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "1").unwrap();
    let backup = dir.join("f.bak");
    let first = inode(&path);
    assert_eq!(watch(&path, write::rename_with_backup(&path, "2")), some(&["1", "1", "gone", "2"]));
    assert_eq!((inode(&backup), fs::read_to_string(&backup).unwrap()), (first, "1".to_owned()));

    let second = inode(&path);
    assert_eq!(watch(&path, write::rename_with_hard_link(&path, "3")), some(&["2", "2", "2", "3"]));
    assert_eq!((inode(&backup), fs::read_to_string(&backup).unwrap()), (second, "2".to_owned()));
    assert_eq!(fs::metadata(&backup).unwrap().nlink(), 1);
    assert_eq!(entries(dir.path()), ["f", "f.bak"]);
}

#[test]
fn links_are_flipped_without_a_gap() {
    let dir = TestDir::new().unwrap();
    dir.write("one/f", "1").unwrap();
    dir.write("two/f", "2").unwrap();
    write::flip_symlink(dir.join("current"), "one").finish().unwrap();
    let path = dir.join("current/f");
    assert_eq!(watch(&path, write::flip_symlink(dir.join("current"), "two")), some(&["1", "1", "2"]));
    assert_eq!(entries(dir.path()), ["current", "one", "two"]);
}

#[test]
fn times_may_go_back() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "old").unwrap();
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    write::in_place(&path, "new", 1).then(write::set_modified(&path, long_ago)).finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[test]
fn directories_are_replaced() {
    let dir = TestDir::new().unwrap();
    dir.write("tls/a", "1").unwrap();
    dir.write("tls/stale", "1").unwrap();
    let (tls, a) = (dir.join("tls"), dir.join("tls/a"));
    let before = inode(&tls);

    let seen = watch(&a, write::replace_dir(&tls, [("a", "2"), ("b", "2")]));
    assert_eq!(seen, some(&["1", "1", "1", "1", "gone", "2", "2"]));
    assert_ne!(inode(&tls), before);
    assert_eq!((entries(&tls), entries(dir.path())), (vec!["a".into(), "b".into()], vec!["tls".into()]));

    let seen = watch(&a, write::rebuild_dir(&tls, [("a", "3")]).unwrap());
    assert_eq!(seen, some(&["2", "gone", "gone", "gone", "gone", "3"]));
    assert_eq!(entries(&tls), ["a"]);
    assert_eq!(fs::metadata(&tls).unwrap().permissions().mode() & 0o777, 0o700);

    // Where there was none, both just make one.
    write::rebuild_dir(dir.join("new1"), [("a", "4")]).unwrap().finish().unwrap();
    write::replace_dir(dir.join("new2"), [("sub/a", "4")]).finish().unwrap();
    assert_eq!(entries(dir.path()), ["new1", "new2", "tls"]);
    assert_eq!(fs::read_to_string(dir.join("new2/sub/a")).unwrap(), "4");
}

#[test]
fn steps_stop_where_they_are_told() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("f", "old").unwrap();
    let mut steps = write::in_place(&path, "abcd", 2);
    steps.run_until("write f 2").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
    assert_eq!(steps.upcoming().next(), Some("write f 2/2"));
    steps.run_through("write f 2").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "abcd");
    assert_eq!((steps.remaining(), steps.len()), (1, 1));
    let error = steps.run_until("rename").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("rename") && error.to_string().contains("close f"), "{error}");
    assert_eq!(format!("{steps:?}"), r#"Steps ["close f"]"#);
    assert_eq!(steps.step().unwrap().as_deref(), Some("close f"));
    assert_eq!(steps.step().unwrap(), None);

    let done: Vec<_> = write::rename_over(&path, "x").map(|step| step.unwrap()).collect();
    assert_eq!(done.len(), 2);
}

#[test]
fn steps_that_fail_say_which_and_leave_the_rest() {
    let dir = TestDir::new().unwrap();
    let mut steps = write::in_place(dir.join("missing/f"), "x", 1);
    let error = steps.step().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with("truncate f: "), "{error}");
    assert_eq!(steps.remaining(), 2, "the failed one counts as done");
    assert!(steps.step().is_err(), "there is nothing to write to");

    let mut own = Steps::new();
    own.push("refuse", || Err(io::Error::other("no")));
    own.push("never", || panic!("a step behind a failed one"));
    assert_eq!(own.finish().unwrap_err().to_string(), "refuse: no");
}

#[test]
fn agents_swap_file_by_file() {
    let ca = Ca::new("root");
    let (one, two) = (ca.issue("localhost"), ca.issue("localhost"));
    let agent = AgentFiles::new(&one).unwrap();
    let mut steps = agent.swap_steps(&two).unwrap();
    let names: Vec<_> = steps.upcoming().map(str::to_owned).collect();
    let expected = ["tls.crt", "tls.key"]
        .map(|file| ["create", "fsync", "chmod", "rename"].map(|verb| format!("{verb} {file}")));
    assert_eq!(names, expected.concat(), "ca.crt does not change, so it is left alone");

    steps.run_through("chmod tls.crt").unwrap();
    assert_eq!(fs::read_to_string(agent.cert_path()).unwrap(), one.chain_pem());
    assert_eq!(entries(agent.path()).len(), 4, "the temporary file is in the same directory");
    steps.run_until("rename tls.key").unwrap();
    assert_eq!(fs::read_to_string(agent.cert_path()).unwrap(), two.chain_pem());
    assert_eq!(fs::read_to_string(agent.key_path()).unwrap(), one.key_pem(), "the pair does not match");
    steps.finish().unwrap();
    assert_eq!(fs::read_to_string(agent.key_path()).unwrap(), two.key_pem());
    assert_eq!(entries(agent.path()), ["ca.crt", "tls.crt", "tls.key"]);
    assert_eq!(agent.swap_steps(&two).unwrap().remaining(), 0);
}

#[test]
fn certbot_moves_its_links_one_by_one() {
    let ca = Ca::new("root").intermediate("issuing");
    let (one, two) = (ca.issue("localhost"), ca.issue("localhost"));
    let live = CertbotLive::new(&one).unwrap();
    let at = |kind: &str| live.path().join(format!("{kind}.pem"));
    assert_eq!(fs::read_link(at("cert")).unwrap(), Path::new("../../archive/example/cert1.pem"));
    assert_eq!(fs::read_to_string(at("cert")).unwrap(), one.leaf_pem());
    assert_eq!(fs::read_to_string(at("chain")).unwrap(), ca.certificate_pem());
    assert_eq!(fs::read_to_string(at("fullchain")).unwrap(), one.chain_pem());
    assert_eq!(fs::read_to_string(at("privkey")).unwrap(), one.key_pem());

    let mut steps = live.renew_steps(&two).unwrap();
    let names: Vec<_> = steps.upcoming().map(str::to_owned).collect();
    let mut expected: Vec<_> =
        ["privkey", "cert", "chain", "fullchain"].iter().map(|kind| format!("write {kind}2.pem")).collect();
    let kinds = ["cert", "privkey", "chain", "fullchain"];
    expected.extend(kinds.iter().map(|kind| format!("symlink previous_{kind}.pem")));
    expected
        .extend(kinds.iter().flat_map(|kind| [format!("unlink {kind}.pem"), format!("symlink {kind}.pem")]));
    expected.extend(kinds.iter().map(|kind| format!("unlink previous_{kind}.pem")));
    assert_eq!(names, expected);

    steps.run_through("unlink privkey.pem").unwrap();
    assert_eq!(fs::read_to_string(at("cert")).unwrap(), two.leaf_pem());
    assert!(!at("privkey").exists(), "the gap");
    assert_eq!(fs::read_to_string(at("fullchain")).unwrap(), one.chain_pem());
    assert_eq!(
        fs::read_link(at("previous_privkey")).unwrap(),
        Path::new("../../archive/example/privkey1.pem")
    );
    steps.run_until("unlink fullchain.pem").unwrap();
    assert_eq!(fs::read_to_string(at("privkey")).unwrap(), two.key_pem());
    assert_eq!(fs::read_to_string(at("fullchain")).unwrap(), one.chain_pem(), "two generations");
    steps.finish().unwrap();
    assert_eq!(fs::read_to_string(at("fullchain")).unwrap(), two.chain_pem());
    let links = ["README", "cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"];
    assert_eq!(entries(&live.path()), links);
}

#[test]
fn certbot_keeps_a_key_as_a_link() {
    let ca = Ca::new("root").intermediate("issuing");
    let one = ca.issue("localhost");
    let live = CertbotLive::in_dir(TestDir::new().unwrap(), "www.example.com", &one).unwrap();
    for round in 2..=12 {
        let next = ca.leaf("localhost").with_key_of(&one).issue();
        live.renew(&next).unwrap();
        let archived = live.path().join("../../archive/www.example.com").join(format!("privkey{round}.pem"));
        assert_eq!(fs::read_link(archived).unwrap(), Path::new("privkey1.pem"));
        assert_eq!(fs::read_to_string(live.cert_path()).unwrap(), next.chain_pem());
        assert_eq!(fs::read_to_string(live.key_path()).unwrap(), one.key_pem());
    }
    let archive = fs::canonicalize(live.path().join("../../archive")).unwrap();
    let again = CertbotLive::in_dir(TestDir::at(archive.parent().unwrap()).unwrap(), "www.example.com", &one);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn damages() {
    let dir = TestDir::new().unwrap();
    let pem = Ca::new("root").issue("localhost").key_pem();
    for kind in Damage::ALL {
        let path = dir.write("f", &pem).unwrap();
        let before = inode(&path);
        damage(&path, kind).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(inode(&path), before);
        match kind {
            Damage::Half => assert_eq!(bytes, &pem.as_bytes()[..pem.len() / 2]),
            Damage::Empty => assert!(bytes.is_empty()),
            Damage::NoEndLine => assert_eq!(bytes, pem.replace("-----END PRIVATE KEY-----\n", "").as_bytes()),
            Damage::Garbage => {
                assert_eq!(bytes.len(), pem.len());
                assert_eq!(bytes.iter().filter(|byte| **byte == 0xff).count(), 16);
                assert!(bytes.starts_with(b"-----BEGIN") && bytes.ends_with(b"-----\n"));
            }
            other => panic!("{other:?} is not tested"),
        }
    }
    let error = damage(dir.join("none"), Damage::Half).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    // Small files must not trip the arithmetic.
    for kind in Damage::ALL {
        let path = dir.write("small", "x").unwrap();
        damage(&path, kind).unwrap();
    }
}

#[test]
fn test_dirs() {
    let dir = TestDir::new().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let issued = Ca::new("root").issue("localhost");
    dir.write_issued(&issued).unwrap();
    assert_eq!(entries(dir.path()), ["ca.crt", "tls.crt", "tls.key"]);
    assert_eq!(
        (mode(dir.path()), mode(&dir.join("tls.key")), mode(&dir.join("ca.crt"))),
        (0o700, 0o600, 0o644)
    );
    // A key is private by its content or by its name.
    assert_eq!(mode(&dir.write("sub/combined.pem", issued.combined_pem()).unwrap()), 0o600);
    assert_eq!(mode(&dir.write("sub/der.key", issued.key_der().secret_der()).unwrap()), 0o600);
    assert_eq!(mode(&dir.join("sub")), 0o700);
    dir.remove("ca.crt").unwrap();
    let error = dir.remove("ca.crt").unwrap_err();
    assert!(error.kind() == io::ErrorKind::NotFound && error.to_string().contains("ca.crt"), "{error}");
    let path = dir.path().to_owned();
    drop(dir);
    assert!(!path.exists());
}

/// Every kind of place that rotates.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Kubelet,
    Agent,
    Certbot,
    Plain(Method),
}

impl Kind {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Kubelet, Self::Agent, Self::Certbot].into_iter().chain(Method::ALL.map(Self::Plain))
    }

    /// A new place, and the directory that everything of it is below.
    fn place(self, first: &Issued) -> (PathBuf, Box<dyn Rotate>) {
        let above = |path: &Path, levels: usize| path.ancestors().nth(levels).expect("a parent").to_owned();
        match self {
            Self::Kubelet => {
                let kubelet = KubeletDir::new(first).expect("a volume");
                (kubelet.path().to_owned(), Box::new(kubelet))
            }
            Self::Agent => {
                let agent = AgentFiles::new(first).expect("an agent");
                (agent.path().to_owned(), Box::new(agent))
            }
            Self::Certbot => {
                let certbot = CertbotLive::new(first).expect("a lineage");
                (above(&certbot.path(), 2), Box::new(certbot))
            }
            Self::Plain(method) => {
                let plain = PlainDir::new(method, first).expect("a directory");
                (above(&plain.path(), 1), Box::new(plain))
            }
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("an entry").file_type();
        if kind.is_dir() {
            files_below(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// At every step of every writer, no file with a byte of a key can be read by others.
#[test]
fn keys_are_private_at_every_step() {
    let ca = Ca::new("root").intermediate("issuing");
    let first = ca.issue("localhost");
    for kind in Kind::all() {
        let (base, place) = kind.place(&first);
        let mut steps = place.swap_steps(&ca.issue("localhost")).unwrap();
        let mut keys = 0;
        loop {
            let mut files = Vec::new();
            files_below(&base, &mut files);
            for path in files {
                let content = fs::read_to_string(&path).unwrap();
                if content.contains("-----BEGIN PRIVATE KEY") {
                    keys += 1;
                    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                    assert_eq!(mode, 0o600, "{kind:?}: {}", path.display());
                }
            }
            if steps.step().unwrap().is_none() {
                break;
            }
        }
        assert!(keys >= 2, "{kind:?}: {keys}");
    }
}

#[test]
fn every_place_rotates_again_and_again() {
    let ca = Ca::new("root").intermediate("issuing");
    let issued: Vec<_> = (0..3).map(|_| ca.issue("localhost")).collect();
    for kind in Kind::all() {
        let (base, place) = kind.place(&issued[0]);
        for round in 1..=20 {
            let next = &issued[round % 3];
            place.swap(next).unwrap();
            assert_eq!(fs::read_to_string(place.cert_path()).unwrap(), next.chain_pem(), "{kind:?} {round}");
            assert_eq!(fs::read_to_string(place.key_path()).unwrap(), next.key_pem(), "{kind:?} {round}");
        }
        drop(place);
        assert!(!base.exists(), "{kind:?} leaves nothing behind");
    }
}

/// A writer that was killed at any step does not stop the next one.
#[test]
fn every_place_recovers_from_a_killed_writer() {
    let ca = Ca::new("root").intermediate("issuing");
    let issued: Vec<_> = (0..3).map(|_| ca.issue("localhost")).collect();
    for kind in Kind::all() {
        let count = kind.place(&issued[0]).1.swap_steps(&issued[1]).unwrap().remaining();
        for done in 0..=count {
            let (_, place) = kind.place(&issued[0]);
            let mut steps = place.swap_steps(&issued[1]).unwrap();
            for _ in 0..done {
                steps.step().unwrap();
            }
            drop(steps);
            place.swap(&issued[2]).unwrap_or_else(|error| panic!("{kind:?}, killed after {done}: {error}"));
            assert_eq!(
                fs::read_to_string(place.cert_path()).unwrap(),
                issued[2].chain_pem(),
                "{kind:?} {done}"
            );
            assert_eq!(fs::read_to_string(place.key_path()).unwrap(), issued[2].key_pem(), "{kind:?} {done}");
        }
    }
}

/// What `Method::is_atomic` promises: a reader of whole directories never meets mixed or missing files.
#[test]
fn atomic_methods_have_no_mixed_states() {
    let ca = Ca::new("root");
    let (one, two) = (ca.issue("localhost"), ca.issue("localhost"));
    for method in Method::ALL {
        let plain = PlainDir::new(method, &one).unwrap();
        let mut steps = plain.swap_steps(&two).unwrap();
        let mut whole = true;
        loop {
            let pair =
                (fs::read_to_string(plain.cert_path()).ok(), fs::read_to_string(plain.key_path()).ok());
            let of = |issued: &Issued| (Some(issued.chain_pem()), Some(issued.key_pem()));
            whole &= pair == of(&one) || pair == of(&two);
            if steps.step().unwrap().is_none() {
                break;
            }
        }
        assert_eq!(whole, method.is_atomic(), "{method:?}");
    }
}

#[test]
fn a_slow_writer_takes_its_time_and_ends_with_the_whole() {
    let dir = TestDir::new().expect("a directory");
    let path = dir.write("tls.crt", "old").expect("a file");
    let steps = write::in_place(&path, "new content", 4);
    let (pause, count) = (Duration::from_millis(5), steps.remaining() as u32);
    let begun = std::time::Instant::now();
    steps.finish_slowly(pause).expect("it is written");
    assert!(begun.elapsed() >= pause * count, "{count} steps in {:?}", begun.elapsed());
    assert_eq!(fs::read_to_string(path).expect("a file"), "new content");
}
