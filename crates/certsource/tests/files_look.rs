//! What `Files` adds to its detector: how the first content arrived, and directories that gain or lose files.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certsource::clock::Now;
use certsource::detect::{Mtime, Sha256};
use certsource::fs::{Dir, Fs, Meta, Opened, RealFs, Volume};
use certsource::source::{Alarm, Arrival, Detector, Look, Wake};
use certsource::{Error, Files, Source};
use certsource_testkit::{Ca, KubeletDir, TestDir};

const SEC: Duration = Duration::from_secs(1);

/// Says that nothing changed, and keeps the paths it was asked about.
#[derive(Clone, Default)]
struct Blind(Arc<Mutex<Vec<PathBuf>>>);

impl Detector for Blind {
    fn look(&mut self, _: &dyn Fs, paths: &[PathBuf], _: Now) -> Result<Look, Error> {
        *self.0.lock().unwrap() = paths.to_vec();
        Ok(Look::Same)
    }
}

/// Calls every volume remote.
#[derive(Debug)]
struct Remote;

impl Fs for Remote {
    fn metadata(&self, path: &Path) -> std::io::Result<Meta> {
        RealFs.metadata(path)
    }
    fn read_link(&self, path: &Path, into: &mut std::ffi::OsString) -> std::io::Result<()> {
        RealFs.read_link(path, into)
    }
    fn open(&self, path: &Path) -> std::io::Result<Opened> {
        RealFs.open(path)
    }
    fn open_dir(&self, path: &Path) -> std::io::Result<Box<dyn Dir>> {
        RealFs.open_dir(path)
    }
    fn volume(&self, _: &Path) -> std::io::Result<Volume> {
        Ok(Volume::Remote)
    }
}

fn wall(now: Now, by: i64) -> Now {
    let step = Duration::from_secs(by.unsigned_abs());
    Now { mono: now.mono, wall: if by < 0 { now.wall - step } else { now.wall + step } }
}

#[test]
fn the_first_look_says_how_the_content_arrived() {
    let issued = Ca::new("Root").issue("localhost");
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let now = Now::read();
    let first = |files: Files, now: Now| { files }.look(now).unwrap();
    let files = || Files::kubernetes(dir.path());

    assert_eq!(first(files(), now), Look::Changed(Arrival::Unknown), "written just now");
    assert_eq!(first(files(), wall(now, 3)), Look::Changed(Arrival::Unknown), "3 s ago");
    assert_eq!(first(files(), wall(now, 6)), Look::Changed(Arrival::Still), "6 s ago");
    assert_eq!(first(files(), wall(now, -3600)), Look::Changed(Arrival::Unknown), "in an hour");
    assert_eq!(first(files().detect(Sha256::new()), wall(now, 6)), Look::Changed(Arrival::Still));
    assert_eq!(first(files().detect(Blind::default()), wall(now, 6)), Look::Changed(Arrival::Unknown));

    let remote = files().filesystem(Arc::new(Remote));
    assert_eq!(first(remote, wall(now, 6)), Look::Changed(Arrival::Unknown), "stamps of a remote volume");
    dir.remove("ca.crt").unwrap();
    assert_eq!(first(files(), wall(now, 6)), Look::Changed(Arrival::Unknown), "one is missing");

    let volume = KubeletDir::new(&issued).unwrap();
    for detector in [Box::new(Mtime::new()) as Box<dyn Detector>, Box::new(Sha256::new())] {
        let files = Files::kubernetes(volume.path()).detect(Boxed(detector));
        assert_eq!(first(files, now), Look::Changed(Arrival::Swapped));
    }
    assert_eq!(first(Files::trust(volume.path()), now), Look::Changed(Arrival::Swapped), "as a directory");
    let mixed = Files::trust(dir.path().join("tls.crt")).with_identity(volume.cert_path(), volume.key_path());
    assert_eq!(first(mixed, now), Look::Changed(Arrival::Unknown), "half of it in the volume");
}

#[test]
fn a_directory_that_stood_still_is_adopted_at_once() {
    let dir = TestDir::new().unwrap();
    dir.write("a.pem", Ca::new("Root").certificate_pem()).unwrap();
    let now = Now::read();
    assert_eq!(Files::trust(dir.path()).look(wall(now, 6)).unwrap(), Look::Changed(Arrival::Still));
    assert_eq!(Files::trust(dir.path()).look(now).unwrap(), Look::Changed(Arrival::Unknown), "just now");
}

#[test]
fn the_first_look_says_changed_whatever_the_detector_says_and_also_after_arming() {
    let dir = TestDir::new().unwrap();
    dir.write_issued(Ca::new("Root").issue("localhost")).unwrap();
    let mut files = Files::kubernetes(dir.path()).detect(Blind::default());
    files.arm(&Alarm::new(Wake::new(|| {})));
    let now = Now::read();
    assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
    assert_eq!(files.look(now).unwrap(), Look::Same);
}

#[test]
fn a_file_counts_once_for_each_use() {
    let issued = Ca::new("Root").issue("localhost");
    let dir = TestDir::new().unwrap();
    let path = dir.write("all.pem", issued.chain_pem() + &issued.key_pem()).unwrap();
    let twice = Files::trust(&path).and_trust(&path);
    assert_eq!(twice.origin().to_string(), Files::trust(&path).origin().to_string());
    let material = Files::trust(&path).with_combined(&path).load().unwrap();
    assert!(material.trust().is_some() && material.identity().is_some());
}

struct Boxed(Box<dyn Detector>);

impl Detector for Boxed {
    fn look(&mut self, fs: &dyn Fs, paths: &[PathBuf], now: Now) -> Result<Look, Error> {
        self.0.look(fs, paths, now)
    }
}

#[test]
fn an_idle_look_at_named_files_allocates_nothing() {
    let dir = TestDir::new().unwrap();
    dir.write_issued(Ca::new("Root").issue("localhost")).unwrap();
    let mut files = Files::kubernetes(dir.path());
    let mut now = Now::read();
    for _ in 0..3 {
        files.look(now).unwrap();
        now = now.after(3 * SEC);
    }
    let allocations = allocation_counter::measure(|| assert_eq!(files.look(now).unwrap(), Look::Same));
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn only_the_first_look_is_special() {
    let dir = TestDir::new().unwrap();
    dir.write_issued(Ca::new("Root").issue("localhost")).unwrap();
    let mut files = Files::kubernetes(dir.path()).detect(Blind::default());
    let now = Now::read();
    assert!(matches!(files.look(now).unwrap(), Look::Changed(_)));
    assert_eq!(files.look(now.after(SEC)).unwrap(), Look::Same);
}

#[test]
fn a_directory_that_gains_or_loses_a_file_has_changed_whatever_the_detector_says() {
    let dir = TestDir::new().unwrap();
    let pem = Ca::new("Root").certificate_pem();
    dir.write("a.pem", &pem).unwrap();
    let blind = Blind::default();
    let mut files = Files::trust(dir.path()).detect(blind.clone());
    let now = Now::read();
    files.look(now).unwrap();
    let paths = |blind: &Blind| blind.0.lock().unwrap().clone();
    assert_eq!(paths(&blind), [dir.path().to_owned(), dir.join("a.pem")]);

    dir.write("notes.txt", "").unwrap();
    assert_eq!(files.look(now).unwrap(), Look::Same, "a name that is passed over");
    dir.write("b.pem", &pem).unwrap();
    assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
    assert_eq!(paths(&blind), [dir.path().to_owned(), dir.join("a.pem"), dir.join("b.pem")]);
    assert_eq!(files.look(now).unwrap(), Look::Same);
    dir.remove("a.pem").unwrap();
    assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
    assert_eq!(files.look(now).unwrap(), Look::Same);
}

#[test]
fn a_path_that_becomes_a_directory_is_listed() {
    let dir = TestDir::new().unwrap();
    let pem = Ca::new("Root").certificate_pem();
    let path = dir.write("roots", &pem).unwrap();
    let mut files = Files::trust(&path);
    let mut now = Now::read();
    files.look(now).unwrap();
    assert!(files.load().unwrap().is_single_file());
    dir.remove("roots").unwrap();
    dir.write("roots/a.pem", &pem).unwrap();
    now = now.after(SEC);
    assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
    assert!(!files.load().unwrap().is_single_file());
    // From here on its files count.
    now = now.after(SEC);
    files.look(now).unwrap();
    dir.write("roots/b.pem", Ca::new("Other").certificate_pem()).unwrap();
    now = now.after(SEC);
    assert_eq!(files.look(now).unwrap(), Look::Changed(Arrival::Unknown));
    assert_eq!(files.load().unwrap().trust().unwrap().len(), 2);
}
