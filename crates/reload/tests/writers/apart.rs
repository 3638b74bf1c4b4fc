//! Rows that need surroundings of their own: a mount namespace, or few descriptors. The test runs itself again in a child
//! that has them, and there this row alone.
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
}

/// A row, and where it is performed.
pub type Apart = (Surroundings, fn(Strategy) -> Row);

/// Whether this process is such a child; then its row is performed.
pub fn is_performed(strategy: Strategy, apart: &[Apart]) -> bool {
    let Some(number) = std::env::var_os(ROW) else { return false };
    let number: usize = number.to_str().unwrap().parse().unwrap();
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let place = Place::new(directory.join("here"), directory.join("other"));
    perform(&(apart[number].1)(strategy), strategy, Hub::new(), &place);
    true
}

/// Has the row of this number performed by a child, for the test of this name.
pub fn have_performed(test: &str, number: usize, surroundings: Surroundings, directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    let command = || {
        let mut command = match surroundings {
            Surroundings::Mounts => {
                let mut unshare = Command::new("unshare");
                unshare.args(["--mount", "--propagation", "private"]);
                if !is_superuser() {
                    unshare.args(["--user", "--map-root-user"]);
                }
                unshare
            }
            Surroundings::Descriptors(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-ec", &format!("ulimit -n {most}; exec \"$@\""), "sh"]);
                shell
            }
        };
        command.current_dir(directory).stdin(Stdio::null());
        command
    };
    if matches!(surroundings, Surroundings::Mounts) {
        let may_mount = command().args(["mount", "--bind", ".", "."]).stderr(Stdio::null()).status();
        if !may_mount.is_ok_and(|status| status.success()) {
            eprintln!("a row is left out: no mount in a namespace is allowed here");
            return;
        }
    }
    let child = std::env::current_exe().unwrap();
    let output = command()
        .arg(child)
        .args(["--exact", test, "--nocapture"])
        .env(ROW, number.to_string())
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{surroundings:?}: {said}");
}
