//! The system's store of trust anchors: used only when asked for, read with what is broken in it passed over, and looked
//! at again.
//!
//! Where the store is stands in environment variables, and a process should not change its own. So each test runs once
//! more as a process of its own, with a store that was made for it.
#![cfg(feature = "system-roots")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use certsource::clock::Now;
use certsource::files::Limits;
use certsource::source::{Arrival, Look};
use certsource::{Files, Reason, Source};
use certsource_testkit::{Ca, Issued, TestDir};

const STORE: &str = "SSL_CERT_FILE";
const DIRECTORY: &str = "SSL_CERT_DIR";
const IS_CHILD: &str = "CERTSOURCE_TEST_STORE";

/// Runs `test` in a process whose system's store is the bundle `store.pem` of a fresh directory, and hands it that
/// directory. `name` is the test's own name.
fn with_store(name: &str, test: impl FnOnce(&TestDir)) {
    with(name, STORE, "store.pem", test);
}

fn with(name: &str, variable: &str, below: &str, test: impl FnOnce(&TestDir)) {
    if let Some(dir) = env::var_os(IS_CHILD) {
        return test(&TestDir::at(PathBuf::from(dir)).unwrap());
    }
    let dir = TestDir::new().unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_remove(STORE)
        .env_remove(DIRECTORY)
        .env(variable, dir.join(below))
        .env(IS_CHILD, dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("1 passed"), "the test did not run: {shown}");
}

fn names(files: &mut Files) -> Vec<String> {
    let material = files.load().unwrap();
    let mut names: Vec<_> =
        material.trust().unwrap().iter().map(|anchor| anchor.inspection().subject().to_owned()).collect();
    names.sort_unstable();
    names
}

fn failure(mut files: Files) -> (Reason, String) {
    let error = files.load().unwrap_err();
    (error.reason(), error.to_string())
}

fn write(dir: &TestDir, cas: &[&Ca]) -> PathBuf {
    dir.write("store.pem", cas.iter().map(|ca| ca.certificate_pem()).collect::<String>()).unwrap()
}

#[test]
fn the_store_is_used_when_asked_for_and_only_then() {
    with_store("the_store_is_used_when_asked_for_and_only_then", |dir| {
        let (one, two, own) = (Ca::new("One"), Ca::new("Two"), Ca::new("Own"));
        write(dir, &[&one, &two]);
        let bundle = dir.write("own.pem", own.certificate_pem() + &two.certificate_pem()).unwrap();

        let material = Files::system_roots().load().unwrap();
        assert_eq!(material.trust().unwrap().len(), 2);
        assert_eq!(material.trust().unwrap()[0].origin().to_string(), "system trust anchors");
        assert_eq!(material.warnings(), []);
        assert!(!material.is_single_file());
        assert_eq!(Files::system_roots().origin().as_path(), None);

        assert_eq!(names(&mut Files::trust(&bundle)), ["CN=Own", "CN=Two"]);
        let mut both = Files::trust(&bundle).with_system_roots();
        assert_eq!(names(&mut both), ["CN=One", "CN=Own", "CN=Two"]);
        assert!(!both.load().unwrap().is_single_file());
        assert_eq!(both.origin().as_path(), Some(bundle.as_path()));
        assert_eq!(failure(Files::system_roots().without_trust()).0, Reason::Empty);
    });
}

#[test]
fn what_is_broken_in_the_store_is_passed_over_with_a_warning() {
    with_store("what_is_broken_in_the_store_is_passed_over_with_a_warning", |dir| {
        let good = Ca::new("Good").certificate_pem();
        let garbage = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
        let no_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        dir.write("store.pem", format!("{garbage}{good}{no_base64}")).unwrap();
        let material = Files::system_roots().load().unwrap();
        assert_eq!(material.trust().unwrap().len(), 1);
        let warnings: Vec<_> = material.warnings().iter().map(ToString::to_string).collect();
        let [pem, der] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(pem.contains("base64") && pem.ends_with("; passed over"), "{pem}");
        assert!(der.contains("not a certificate") && der.ends_with("; passed over"), "{der}");
        // The same file as a bundle of the user's own is an error.
        let (reason, _) = failure(Files::trust(dir.join("store.pem")));
        assert_eq!(reason, Reason::Malformed);
    });
}

#[test]
fn a_store_that_gives_nothing_is_never_no_roots() {
    with_store("a_store_that_gives_nothing_is_never_no_roots", |dir| {
        let own = dir.write("own.pem", Ca::new("Own").certificate_pem()).unwrap();
        let fails = |reason: Reason, says: &str| {
            for files in [Files::system_roots(), Files::trust(&own).with_system_roots()] {
                let (found, shown) = failure(files);
                assert_eq!(found, reason, "{shown}");
                assert!(shown.contains(says), "{shown}");
            }
        };
        fails(Reason::NotFound, "cannot read the system's trust anchors");
        dir.write("store.pem", "").unwrap();
        fails(Reason::Empty, "ca-certificates");
        dir.write("store.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").unwrap();
        fails(Reason::Malformed, "cannot be read");
        dir.write("store.pem", "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n").unwrap();
        fails(Reason::Malformed, "no certificate among them");

        // Nor does it stand in for anchors of the user's own that are not there.
        write(dir, &[&Ca::new("One")]);
        std::fs::create_dir(dir.join("own")).unwrap();
        assert_eq!(failure(Files::trust(dir.join("own")).with_system_roots()).0, Reason::Empty);
        dir.write("own/key.pem", Issued::key_pem(&Ca::new("x").issue("x"))).unwrap();
        assert_eq!(failure(Files::trust(dir.join("own")).with_system_roots()).0, Reason::Empty);
        assert_eq!(failure(Files::trust(dir.join("no.pem")).with_system_roots()).0, Reason::NotFound);
    });
}

#[test]
fn the_number_of_certificates_is_limited_over_all() {
    with_store("the_number_of_certificates_is_limited_over_all", |dir| {
        let cas: Vec<_> = (0..3).map(|number| Ca::new(&format!("CA {number}"))).collect();
        write(dir, &[&cas[0], &cas[1]]);
        let own = dir.write("own.pem", cas[2].certificate_pem()).unwrap();
        let limited = |certificates| {
            let mut limits = Limits::default();
            limits.certificates = certificates;
            Files::trust(&own).with_system_roots().limits(limits)
        };
        assert_eq!(names(&mut limited(3)).len(), 3);
        let (reason, shown) = failure(limited(2));
        assert_eq!(reason, Reason::TooLarge);
        assert!(shown.contains("trust anchors: the source holds more than 2 certificates"), "{shown}");
    });
}

/// Looks until the detectors have seen that all stands still.
fn rest(files: &mut Files, now: Now) -> Now {
    let (seconds, quiet) = (|secs| now.after(Duration::from_secs(secs)), Duration::from_secs(10));
    files.look(now).unwrap();
    files.look(seconds(3)).unwrap();
    assert_eq!(files.look(now.after(quiet)).unwrap(), Look::Same);
    now.after(quiet)
}

#[test]
fn a_change_of_the_store_is_seen_at_the_next_look() {
    with_store("a_change_of_the_store_is_seen_at_the_next_look", |dir| {
        let (one, two) = (Ca::new("One"), Ca::new("Two"));
        write(dir, &[&one]);
        let own = dir.write("own.pem", Ca::new("Own").certificate_pem()).unwrap();
        for files in [Files::system_roots(), Files::trust(own).with_system_roots()] {
            let mut files = files;
            write(dir, &[&one]);
            let now = rest(&mut files, Now::read());
            let before = names(&mut files);
            write(dir, &[&one, &two]);
            assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
            assert_eq!(names(&mut files).len(), before.len() + 1);
            std::fs::remove_file(dir.join("store.pem")).unwrap();
            assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
            assert_eq!(failure(files).0, Reason::NotFound);
        }
    });
}

#[test]
fn a_store_whose_stamps_do_not_move_is_read_every_five_minutes() {
    with_store("a_store_whose_stamps_do_not_move_is_read_every_five_minutes", |dir| {
        write(dir, &[&Ca::new("One")]);
        // A detector of content, that never asks for a read of what did not change.
        let mut files = Files::system_roots().detect(certsource::detect::Sha256::new());
        let now = rest(&mut files, Now::read());
        let after = |secs| now.after(Duration::from_secs(secs));
        assert_eq!(files.look(after(280)).unwrap(), Look::Same);
        assert_eq!(files.look(after(300)).unwrap(), Look::Changed(Arrival::Unknown));
        assert_eq!(files.look(after(301)).unwrap(), Look::Same);
        assert_eq!(files.look(after(600)).unwrap(), Look::Changed(Arrival::Unknown));
    });
}

#[test]
fn the_first_look_says_whether_the_store_stands_still() {
    with_store("the_first_look_says_whether_the_store_stands_still", |dir| {
        write(dir, &[&Ca::new("One")]);
        let own = dir.write("own.pem", Ca::new("Own").certificate_pem()).unwrap();
        let now = Now::read();
        let later = Now { wall: now.wall + Duration::from_secs(6), ..now };
        let first = |mut files: Files, now| files.look(now).unwrap();
        let is_local = first(Files::trust(&own), later) == Look::Changed(Arrival::Still);
        let still = if is_local { Arrival::Still } else { Arrival::Unknown };
        assert_eq!(first(Files::system_roots(), now), Look::Changed(Arrival::Unknown));
        assert_eq!(first(Files::system_roots(), later), Look::Changed(still));
        let both = || Files::trust(&own).with_system_roots();
        assert_eq!(first(both(), now), Look::Changed(Arrival::Unknown));
        assert_eq!(first(both(), later), Look::Changed(still));
    });
}

#[test]
fn a_directory_is_a_store_too() {
    with("a_directory_is_a_store_too", DIRECTORY, "certs", |dir| {
        std::fs::create_dir(dir.join("certs")).unwrap();
        dir.write("certs/one.crt", Ca::new("One").certificate_pem()).unwrap();
        let mut files = Files::system_roots();
        assert_eq!(names(&mut files), ["CN=One"]);
        let now = rest(&mut files, Now::read());
        dir.write("certs/two.crt", Ca::new("Two").certificate_pem()).unwrap();
        assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
        assert_eq!(names(&mut files), ["CN=One", "CN=Two"]);
    });
}

#[test]
fn this_machine_has_a_store_or_says_that_it_has_none() {
    let store = Files::system_roots().load();
    match store {
        Ok(material) => assert!(!material.trust().unwrap().is_empty()),
        Err(error) => assert!(matches!(error.reason(), Reason::Empty | Reason::NotFound), "{error}"),
    }
}
