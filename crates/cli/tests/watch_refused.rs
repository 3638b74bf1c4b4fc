//! `certsource watch` on files that cannot be loaded: what is wrong with each of its flags' files, told at once.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certsource_testkit::{Ca, Damage, Issued, TestDir, damage};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{assert_ts, run};

/// It looks once and does not wait for a writer; the rest is for a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Every first load that fails: one line with the reason, exit code 2, and no wait for a writer.
#[track_caller]
fn refused(args: &[OsString], reason: &str, path: &Path) {
    let mut args: Vec<OsString> = std::iter::once("watch".into()).chain(args.iter().cloned()).collect();
    let text = run(&args);
    assert_eq!((text.code, &*text.stdout), (Some(2), ""), "{text:?}");
    let line = text.error_line();
    assert!(line.starts_with("error: ") && line.ends_with(&format!("[{reason}]")), "{line}");
    assert!(line.contains(path.to_str().unwrap()), "{line}");

    args.push("--format=json".into());
    let json = run(&args);
    assert_eq!(json.code, Some(2), "{json:?}");
    json.error_line();
    // The better of the two: the machine may be busy once.
    let took = text.took.min(json.took);
    assert!(took < AT_ONCE, "{took:?}");
    let [failed] = &json.json()[..] else { panic!("{}", json.stdout) };
    assert_ts(failed);
    assert_eq!(failed["event"], "failed");
    assert_eq!(failed["reason"], reason);
    assert_eq!(failed["path"], path.to_str().unwrap());
    assert_eq!(failed["serving"], 0);
    assert_eq!(failed["withdrawal_pending"], false);
    assert!(failed["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert!(failed["origin"].is_string());
}

/// A directory with good files of all kinds, to break one of.
struct Stage {
    dir: TestDir,
    ca: Ca,
    issued: Issued,
}

impl Stage {
    fn new() -> Self {
        let (dir, ca) = (TestDir::new().unwrap(), Ca::new("a"));
        let issued = ca.issue("localhost");
        dir.write("ca.pem", ca.certificate_pem()).unwrap();
        dir.write("cert.pem", issued.chain_pem()).unwrap();
        dir.write("crl.pem", ca.crl_builder().sign().pem()).unwrap();
        for (name, content) in [("key.pem", issued.key_pem()), ("combined.pem", issued.combined_pem())] {
            let path = dir.write(name, content).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { dir, ca, issued }
    }

    fn path(&self, flag: &str) -> PathBuf {
        self.dir.join(format!("{flag}.pem"))
    }

    /// A command line in which this flag has a part.
    fn args(&self, flag: &str) -> Vec<OsString> {
        let flags: &[&str] = match flag {
            "cert" | "key" => &["cert", "key"],
            "crl" => &["ca", "crl"],
            other => &[other],
        };
        flags.iter().flat_map(|flag| [format!("--{flag}").into(), self.path(flag).into_os_string()]).collect()
    }

    /// Puts something else in place of the flag's file.
    #[track_caller]
    fn with(flag: &str, reason: &str, put: impl Fn(&Self, &Path)) {
        let stage = Self::new();
        let path = stage.path(flag);
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        put(&stage, &path);
        refused(&stage.args(flag), reason, &path);
    }
}

const FLAGS: [&str; 5] = ["ca", "cert", "key", "combined", "crl"];

/// The control: with nothing broken, each of these command lines works.
#[test]
fn what_is_good_is_loaded() {
    let stage = Stage::new();
    for flag in FLAGS {
        let args = stage.args(flag);
        let good = run(std::iter::once("watch".into()).chain(args).chain(["--once".into()]));
        assert_eq!((good.code, &*good.stderr), (Some(0), ""), "{flag}");
    }
}

#[test]
fn a_path_that_does_not_exist() {
    FLAGS.iter().for_each(|flag| Stage::with(flag, "not_found", |_, _| ()));
}

#[test]
fn a_garbage_file() {
    for flag in FLAGS {
        Stage::with(flag, "malformed", |_, path| std::fs::write(path, "not a certificate\n").unwrap());
    }
}

#[test]
fn a_file_that_is_cut() {
    for flag in FLAGS {
        let good = Stage::new().path(flag).file_name().unwrap().to_owned();
        Stage::with(flag, "malformed", |_, path| {
            std::fs::copy(Stage::new().dir.join(&good), path).unwrap();
            damage(path, Damage::Half).unwrap();
        });
    }
}

#[test]
fn an_empty_file() {
    FLAGS.iter().for_each(|flag| Stage::with(flag, "empty", |_, path| std::fs::write(path, "").unwrap()));
}

#[test]
fn a_key_of_another_certificate() {
    Stage::with("key", "key_mismatch", |stage, path| {
        std::fs::write(path, stage.ca.issue("localhost").key_pem()).unwrap();
    });
    Stage::with("combined", "key_mismatch", |stage, path| {
        let other = stage.ca.issue("localhost");
        std::fs::write(path, stage.issued.chain_pem() + &other.key_pem()).unwrap();
    });
}

/// A directory is fine for `--ca`, if there are anchors in it.
#[test]
fn a_directory_in_place_of_a_file() {
    for flag in FLAGS {
        let reason = if flag == "ca" { "empty" } else { "not_regular_file" };
        Stage::with(flag, reason, |_, path| std::fs::create_dir(path).unwrap());
    }
}

#[test]
fn a_fifo_in_place_of_a_file() {
    for flag in FLAGS {
        Stage::with(flag, "not_regular_file", |_, path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        });
    }
}

#[test]
fn a_socket_in_place_of_a_file() {
    for flag in FLAGS {
        Stage::with(flag, "not_regular_file", |_, path| drop(UnixListener::bind(path).unwrap()));
    }
}

#[test]
fn a_key_that_others_may_read_is_refused_if_asked() {
    for flag in ["key", "combined"] {
        let stage = Stage::new();
        let path = stage.path(flag);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut args = stage.args(flag);
        args.push("--strict-permissions".into());
        refused(&args, "permission_insecure", &path);
    }
}
