//! Cargo as a child process, and `cargo tree` read into sets. What to run is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A cargo command with the environment that a person's shell would give it.
pub(crate) fn command() -> Command {
    let mut command = Command::new(program());
    scrub(&mut command);
    command
}

/// The cargo that started us.
pub(crate) fn program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Removes what `cargo run` set for us. Build scripts (ring's is one) watch some of these variables, and would run
/// again each time a person changes between `cargo test` and `cargo xtask test`.
pub(crate) fn scrub(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let known = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|p| name.starts_with(p))
        });
        if known {
            command.env_remove(name);
        }
    }
}

/// Which packages `cargo tree` shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TreeQuery<'a> {
    pub(crate) package: &'a str,
    pub(crate) all_features: bool,
    /// A target triple, or `all`.
    pub(crate) target: &'a str,
}

/// A package's normal dependencies, direct and not, itself left out: (name, version) → features that are on.
pub(crate) fn normal_tree(query: TreeQuery<'_>) -> Result<BTreeMap<(String, String), BTreeSet<String>>> {
    let mut command = command();
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{f}"]);
    command.args(["--package", query.package, "--target", query.target]);
    if query.all_features {
        command.arg("--all-features");
    }
    let output = command.output().context("running cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree of {} failed: {}", query.package, String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut tree = read_tree(&String::from_utf8_lossy(&output.stdout));
    tree.retain(|(name, _), _| name != query.package);
    Ok(tree)
}

fn read_tree(text: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut tree: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        // A package seen before ends in ` (*)`.
        let line = line.trim_end_matches(" (*)");
        let Some((package, features)) = line.split_once('|') else { continue };
        let mut words = package.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        tree.entry((name.to_owned(), version.to_owned()))
            .or_default()
            .extend(features.split(',').filter(|feature| !feature.is_empty()).map(str::to_owned));
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_a_set_of_packages_with_their_features() {
        let tree = read_tree(
            "certsource v0.1.0 (/somewhere/crates/certsource)|\n\
             tokio v1.44.0|sync\n\
             pin-project-lite v0.2.0|\n\
             tokio v1.44.0|sync (*)\n\
             \n\
             syn v2.0.1 (proc-macro)|default,full\n",
        );
        let key = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(tree.len(), 4);
        assert_eq!(tree[&key("tokio", "v1.44.0")], BTreeSet::from(["sync".to_owned()]));
        assert!(tree[&key("pin-project-lite", "v0.2.0")].is_empty());
        assert_eq!(tree[&key("syn", "v2.0.1")].len(), 2);
    }
}
