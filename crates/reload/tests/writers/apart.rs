//! Surroundings that a test has not by itself: a mount namespace, few descriptors, or a user that may not do everything. The test runs
//! itself again in a child that has them, and there one row alone, or all of them on an overlay.
#![allow(unreachable_pub, reason = "a part of one test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use certsource_reload::Hub;

use crate::scene::{Place, Row, Strategy, is_superuser, perform};

/// In the child: which row it performs, and in which directory.
const ROW: &str = "CERTSOURCE_WRITERS_ROW";
const DIRECTORY: &str = "CERTSOURCE_WRITERS_IN";

/// What a row needs.
#[derive(Clone, Copy, Debug)]
pub enum Surroundings {
    /// It may mount, and nobody else sees that.
    Mounts,
    /// So many descriptors, and no more.
    Descriptors(u32),
    /// The superuser's rights over files are not there.
    Ordinary,
}

/// A row, and where it is performed.
pub type Apart = (Surroundings, fn(Strategy) -> Row);

/// What this machine cannot perform is said; where `CERTSOURCE_STRICT` is set, it fails.
#[track_caller]
#[allow(clippy::print_stderr, reason = "what is passed over is said")]
pub fn not_run(why: &str) {
    assert!(std::env::var_os("CERTSOURCE_STRICT").is_none(), "{why}");
    eprintln!("NOT RUN: {why}");
}

/// In such a child: what it performs, and where.
pub fn is_child() -> Option<(String, PathBuf)> {
    let row = std::env::var_os(ROW)?.into_string().unwrap();
    Some((row, std::env::var_os(DIRECTORY).unwrap().into()))
}

/// Whether this process is such a child; then its row is performed.
pub fn is_performed(strategy: Strategy, apart: &[Apart]) -> bool {
    let Some((number, directory)) = is_child() else { return false };
    let number: usize = number.parse().unwrap();
    let place = Place::new(directory.join("here"), directory.join("other"));
    perform(&(apart[number].1)(strategy), strategy, Hub::new(), &place);
    true
}

/// A command line that is run in these surroundings.
fn within(surroundings: Surroundings) -> Command {
    let mut command;
    match surroundings {
        Surroundings::Mounts => {
            command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private"]);
            if !is_superuser() {
                command.args(["--user", "--map-root-user"]);
            }
        }
        Surroundings::Descriptors(most) => {
            command = Command::new("sh");
            command.args(["-ec", &format!("ulimit -n {most}; exec \"$@\""), "sh"]);
        }
        // As the same user, so that it can go wherever the test can.
        Surroundings::Ordinary if is_superuser() => {
            command = Command::new("setpriv");
            command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        }
        Surroundings::Ordinary => command = Command::new("env"),
    }
    command
}

/// Has this performed by a child, for the test of this name: a row's number, or another word that the test knows.
pub fn have_performed(test: &str, row: &str, surroundings: Surroundings, directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    let command = || {
        let mut command = within(surroundings);
        command.current_dir(directory).stdin(Stdio::null());
        command
    };
    let attempt: &[&str] = match surroundings {
        Surroundings::Mounts => &["mount", "--bind", ".", "."],
        Surroundings::Descriptors(_) => &["true"],
        Surroundings::Ordinary => &["sh", "-ec", ": > no && chmod 000 no && ! cat no"],
    };
    let may = command().args(attempt).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        not_run(&format!("{test}, {row}: {surroundings:?} is not to be had here"));
        return;
    }
    let child = std::env::current_exe().unwrap();
    let output = command()
        .arg(child)
        .args(["--exact", test, "--nocapture"])
        .env(ROW, row)
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{surroundings:?}: {said}");
}
