//! Files that are no plain files: FIFOs, sockets, devices, `/proc`, names whose file is gone.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use certsource::files::Limits;
use certsource::fs::{Fs, Kind, Opened, RealFs, Volume};
use certsource::{Files, Reason};
use certsource_testkit::{Ca, TestDir};
use rustix::fs::{CWD, FileType, Mode};

fn fifo(dir: &TestDir) -> PathBuf {
    let path = dir.join("fifo");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

#[track_caller]
fn assert_not_regular(path: &Path, what: &str) {
    let error = Files::trust(path).load().unwrap_err();
    assert_eq!(error.reason(), Reason::NotRegularFile, "{error}");
    assert_eq!(error.message(), format!("this is {what}, not a regular file; name a regular file"));
    let key = Files::identity(path, path).load().unwrap_err();
    assert_eq!(key.reason(), Reason::NotRegularFile, "{key}");
}

#[test]
fn a_fifo_is_told_without_waiting_for_its_writer() {
    let dir = TestDir::new().unwrap();
    // Nobody writes: opening it for reading would wait for ever.
    assert_not_regular(&fifo(&dir), "a FIFO");
}

#[test]
fn looking_at_a_fifo_takes_nothing_out_of_it() {
    let dir = TestDir::new().unwrap();
    let path = fifo(&dir);
    let mut ends = fs::OpenOptions::new();
    // Both ends, so that neither waits for the other; without O_NONBLOCK a lost byte would hang the test.
    let mut ends = ends
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&path)
        .unwrap();
    ends.write_all(b"x").unwrap();
    assert_not_regular(&path, "a FIFO");
    let mut byte = [0];
    assert_eq!(ends.read(&mut byte).unwrap(), 1);
    assert_eq!(&byte, b"x");
}

#[test]
fn sockets_and_devices_are_told() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    assert_not_regular(&path, "a socket");
    assert_not_regular(Path::new("/dev/null"), "a device");
    // Endless: if it were read, this would meet a limit, or never end.
    assert_not_regular(Path::new("/dev/zero"), "a device");
}

#[test]
fn a_file_that_says_it_is_empty_is_read_to_its_end() {
    let path = Path::new("/proc/self/limits");
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
    let error = Files::trust(path).load().unwrap_err();
    assert_eq!(error.reason(), Reason::Malformed, "{error}");
    let mut limits = Limits::default();
    limits.file_bytes = 100;
    let error = Files::trust(path).limits(limits).load().unwrap_err();
    assert_eq!(error.reason(), Reason::TooLarge, "{error}");
}

#[test]
fn a_name_whose_file_was_removed_loads_with_a_warning() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Root");
    let path = dir.write("ca.pem", ca.certificate_pem()).unwrap();
    let file = fs::File::open(&path).unwrap();
    // A path that leads to a file without a name, as a bind-mounted file does after it was replaced outside.
    let pinned = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert_eq!(Files::trust(&pinned).load().unwrap().warnings(), []);
    dir.remove("ca.pem").unwrap();
    let material = Files::trust(&pinned).load().unwrap();
    assert_eq!(material.trust().unwrap()[0].der(), &ca.certificate_der());
    let [warning] = material.warnings() else { panic!("{:?}", material.warnings()) };
    assert!(warning.message.contains("can never change again; mount its directory"), "{warning}");
    assert_eq!(warning.origin.as_path(), Some(Path::new(&pinned)));
}

#[test]
fn the_facts_of_a_path_and_of_the_open_file_are_the_same() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a", "content").unwrap();
    let by_path = RealFs.metadata(&path).unwrap();
    let Opened::File(file) = RealFs.open(&path).unwrap() else { panic!("not a file") };
    assert_eq!(file.metadata().unwrap(), by_path);
    let Opened::File(file) = RealFs.open_dir(dir.path()).unwrap().open(Path::new("a")).unwrap() else {
        panic!("not a file")
    };
    assert_eq!(file.metadata().unwrap().signature(), by_path.signature());
    let known = fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((by_path.kind, by_path.inode, by_path.size), (Kind::File, known.ino(), 7));
    assert_eq!((by_path.device, by_path.links), (known.dev(), 1));
    assert_eq!(
        (by_path.modified.secs, i64::from(by_path.modified.nanos)),
        (known.mtime(), known.mtime_nsec())
    );
    assert_eq!((by_path.changed.secs, i64::from(by_path.changed.nanos)), (known.ctime(), known.ctime_nsec()));
    assert_eq!(by_path.mode, known.mode() & 0o7777);
    assert_eq!(by_path.born.is_some(), known.created().is_ok());
}

#[test]
fn what_is_open_is_not_handed_on_to_programs_that_are_started() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a", "content").unwrap();
    let open = (RealFs.open(&path).unwrap(), RealFs.open_dir(dir.path()).unwrap());
    let base = fs::canonicalize(dir.path()).unwrap();
    let mut found = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        // One of another test may be closed by now.
        if !fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&base)) {
            continue;
        }
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & 0o2_000_000, 0, "O_CLOEXEC: {info}");
        found += 1;
    }
    assert_eq!(found, 2);
    drop(open);
    assert!(RealFs.open_dir(&path).is_err(), "a file is no directory");
}

#[test]
fn every_part_of_a_signature_counts() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("a", "content").unwrap();
    let signature = || RealFs.metadata(&path).unwrap().signature();
    let first = signature();
    assert_eq!(signature(), first, "reading facts changes none");
    // Same size, same modification time, same inode: the change time tells.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "CONTENT").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_ne!(signature(), first);
}

#[test]
fn names_are_looked_up_in_the_open_directory_whatever_its_path_means() {
    let dir = TestDir::new().unwrap();
    dir.write("old/a", "old").unwrap();
    dir.write("new/a", "new content").unwrap();
    std::os::unix::fs::symlink("old", dir.join("link")).unwrap();
    let open = RealFs.open_dir(&dir.join("link")).unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    std::os::unix::fs::symlink("new", dir.join("link")).unwrap();
    let Opened::File(file) = open.open(Path::new("a")).unwrap() else { panic!("not a file") };
    assert_eq!(file.metadata().unwrap().size, 3);
    assert_eq!(open.names().unwrap(), ["a"]);
    fs::remove_dir_all(dir.join("old")).unwrap();
    assert_eq!(open.open(Path::new("a")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn links_are_read_and_files_are_no_links() {
    let dir = TestDir::new().unwrap();
    let long = "x".repeat(4000);
    for target in ["a", "../b/../c", &long] {
        let link = dir.join("link");
        std::os::unix::fs::symlink(target, &link).unwrap();
        let mut into = "before".into();
        RealFs.read_link(&link, &mut into).unwrap();
        assert_eq!(into, target);
        fs::remove_file(link).unwrap();
    }
    let file = dir.write("file", "").unwrap();
    let error = RealFs.read_link(&file, &mut "".into()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn unknown_file_systems_count_as_remote() {
    assert_eq!(RealFs.volume(Path::new("/proc/self")).unwrap(), Volume::Remote);
    assert_eq!(RealFs.volume(Path::new("/sys")).unwrap(), Volume::Remote);
    if fs::metadata("/dev/shm").is_ok() {
        assert_eq!(RealFs.volume(Path::new("/dev/shm")).unwrap(), Volume::Local);
    }
    assert!(RealFs.volume(Path::new("/nowhere/at/all")).is_err());
}
