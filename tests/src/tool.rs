//! Where the programs are that a test needs and that Rust does not bring.
//!
//! `cargo xtask test` reads `//! needs:` and skips such a test, or fails it with `--strict`, before it runs. This is for
//! a plain `cargo test`.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The program of this name: on the PATH, or where servers are kept that an ordinary user has not on the PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    // Debian keeps each version of PostgreSQL by itself.
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = versions.map(|version| version.path().join("bin"));
    env::split_paths(&path)
        .chain(servers)
        .chain(versions)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// Whether all of these are here. If not, that is said on standard error, where the test runner does not hide it.
///
/// # Panics
/// When one is missing and the variable `CERTSOURCE_STRICT` is set: then a test that was not run is a failure.
#[track_caller]
pub fn are_here(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(" and ");
    assert!(env::var_os("CERTSOURCE_STRICT").is_none(), "needs {missing}: cargo xtask setup");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln`: the runner would keep it for itself.
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test} needs {missing}: cargo xtask setup");
    false
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.with_extension("exe").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_and_a_missing_one_is_not() {
        assert!(find("cargo").is_some());
        assert_eq!(find("no-such-program-here"), None);
        assert!(are_here(&["cargo"]));
    }
}
