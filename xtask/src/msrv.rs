//! `cargo xtask msrv`: the lowest compiler that we promise. What dependencies declare is one check, and can be made
//! anywhere; a build with that compiler is another, and needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Error, Result, bail};

use crate::cargo;
use crate::tools;
use crate::workspace::{Node, Package, Workspace};

/// Names a compiler of that version, for machines where `setup` can find none.
const VARIABLE: &str = "CERTSOURCE_MSRV_RUSTC";

/// Both checks.
pub(crate) fn run() -> Result<ExitCode> {
    Ok(if declared()? && build()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True if nothing says that it needs more than we promise.
pub(crate) fn declared() -> Result<bool> {
    let workspace = Workspace::with_dependencies()?;
    let promised = promised(&workspace)?;
    let mut problems = Vec::new();
    let wanted = promised.1.to_string();
    for package in workspace.members() {
        if package.rust_version.as_deref() != Some(&wanted) {
            problems.push(format!("{} does not inherit rust-version {wanted}", package.name));
        }
    }
    let below = below_published(&workspace)?;
    for package in &below {
        problems.extend(too_new(package, promised.0));
    }
    for problem in &problems {
        println!("  {problem}");
    }
    if !problems.is_empty() {
        return Ok(false);
    }
    let declared = below.iter().filter(|package| package.rust_version.is_some()).count();
    println!(
        "msrv {wanted}: of {} packages below the published crates, on any feature and platform, {declared} declare a \
         rust-version and none a newer one",
        below.len()
    );
    Ok(true)
}

type Version = (u64, u64, u64);

/// The workspace's rust-version, as a number and as it is written: that of its first published member.
fn promised(workspace: &Workspace) -> Result<(Version, &str)> {
    let members = workspace.members();
    let package = members.iter().find(|package| package.is_published()).context("no member is published")?;
    let text = workspace
        .packages
        .iter()
        .find(|known| known.id == package.id)
        .and_then(|package| package.rust_version.as_deref())
        .with_context(|| format!("{} has no rust-version", package.name))?;
    Ok((parse(text).with_context(|| format!("{text} is no version"))?, text))
}

fn parse(text: &str) -> Option<Version> {
    // A pre-release tells nothing more about what it compiles.
    let mut numbers = text.split(['-', '+']).next()?.split('.').map(|number| number.parse().ok());
    let major = numbers.next()??;
    Some((major, numbers.next().unwrap_or(Some(0))?, numbers.next().unwrap_or(Some(0))?))
}

fn too_new(package: &Package, promised: Version) -> Option<String> {
    let text = package.rust_version.as_deref()?;
    let needed = parse(text)?;
    (needed > promised).then(|| format!("{} {} needs Rust {text}", package.name, package.version))
}

/// Everything that a user of a published crate may have to compile: normal and build dependencies, not dev ones.
fn below_published(workspace: &Workspace) -> Result<Vec<&Package>> {
    let resolve = workspace.resolve.as_ref().context("cargo metadata gave no graph")?;
    let nodes: BTreeMap<&str, &Node> = resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut open: Vec<&str> = workspace
        .members()
        .into_iter()
        .filter(|package| package.is_published())
        .map(|package| package.id.as_str())
        .collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("the graph lacks {id}"))?;
        let compiled = |edge: &&crate::workspace::Edge| {
            edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
        };
        open.extend(node.deps.iter().filter(compiled).map(|edge| edge.pkg.as_str()));
    }
    Ok(workspace.packages.iter().filter(|package| seen.contains(package.id.as_str())).collect())
}

/// True if the published crates compile with it, with all their features: fewer of them take a part of the same code and
/// the same dependencies, and a second build takes as long again.
pub(crate) fn build() -> Result<bool> {
    let workspace = Workspace::members_only()?;
    let wanted = wanted(&workspace)?;
    let rustc = find_compiler(&workspace).map_err(Error::msg)?;
    let output = Command::new(&rustc)
        .arg("--version")
        .output()
        .with_context(|| format!("running {}", rustc.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !is_version(&version, &wanted) {
        bail!("{} is not Rust {wanted} but says `{version}`", rustc.display());
    }
    println!("msrv: building the published crates, all features, with {version}");
    let mut command = cargo::command();
    command.args(["check", "--locked", "--all-features"]).env("RUSTC", &rustc).env_remove("RUSTC_WRAPPER");
    // A folder of its own: otherwise the two compilers would throw each other's work away.
    command.arg("--target-dir").arg(workspace.target_directory.join("msrv"));
    for package in workspace.members().into_iter().filter(|package| package.is_published()) {
        command.args(["--package", &package.name]);
    }
    Ok(command.status().context("running cargo check")?.success())
}

/// Where that compiler is, or why not.
pub(crate) fn find_compiler(workspace: &Workspace) -> Result<PathBuf, String> {
    let wanted = wanted(workspace).map_err(|error| format!("{error:#}"))?;
    compiler(workspace, &wanted)
        .ok_or_else(|| format!("needs Rust {wanted}: cargo xtask setup, or name its rustc in {VARIABLE}"))
}

/// The one that was named, or the one that `setup` found.
fn compiler(workspace: &Workspace, wanted: &str) -> Option<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE) {
        return Some(named.into());
    }
    let own = own_compiler(&tools::own_folder(workspace), wanted);
    own.is_file().then_some(own)
}

/// Where `setup` puts a compiler of that version.
pub(crate) fn own_compiler(tools: &Path, wanted: &str) -> PathBuf {
    tools.join(format!("rust-{wanted}")).join("rustc")
}

/// The version that the workspace promises, as it is written.
pub(crate) fn wanted(workspace: &Workspace) -> Result<String> {
    promised(workspace).map(|(_, text)| text.to_owned())
}

fn is_version(said: &str, wanted: &str) -> bool {
    let said = said.strip_prefix("rustc ").and_then(|rest| rest.split(' ').next()).and_then(parse);
    match (said, parse(wanted)) {
        (Some(said), Some(wanted)) => (said.0, said.1) == (wanted.0, wanted.1),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse("1.85"), Some((1, 85, 0)));
        assert_eq!(parse("1.85.1"), Some((1, 85, 1)));
        assert_eq!(parse("1.96.0-nightly"), Some((1, 96, 0)));
        assert_eq!(parse("x"), None);
        assert!(parse("1.9") < parse("1.85"));
    }

    #[test]
    fn a_compiler_must_be_of_the_promised_version() {
        assert!(is_version("rustc 1.85.0 (4d91de4e4 2025-02-17) (built from a source tarball)", "1.85"));
        assert!(is_version("rustc 1.85.1 (4eb161250 2025-03-15)", "1.85"));
        assert!(!is_version("rustc 1.95.0 (59807616e 2026-04-14)", "1.85"));
        assert!(!is_version("", "1.85"));
    }

    #[test]
    fn the_real_tree_has_more_below_it_than_its_members() {
        let workspace = Workspace::with_dependencies().unwrap();
        let below = below_published(&workspace).unwrap();
        let names: BTreeSet<&str> = below.iter().map(|package| package.name.as_str()).collect();
        assert!(names.contains("certsource") && names.contains("rustls"), "{names:?}");
        assert!(!names.contains("xtask") && !names.contains("proptest"), "{names:?}");
    }
}
