//! `cargo xtask minimal`: the lower bounds of our dependencies are true. The published crates, packaged and unpacked, are
//! built with the oldest version of each direct dependency that their manifests allow.
//!
//! A command for releases and not a cell of `ci`: what is below the direct dependencies is taken as new as can be had, so
//! the outcome may change from one day to the next.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::package;
use crate::workspace::Workspace;

/// Resolves and builds.
pub(crate) fn run() -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    // Not the tree's own Cargo.lock: this one is made of the packages.
    let place = workspace.target_directory.join("minimal");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    }
    let published: Vec<_> = workspace.members().into_iter().filter(|p| p.is_published()).collect();
    package::pack(&published, &place)?;
    for package in &published {
        package::unpack(package, &place)?;
    }
    let manifest = place.join("Cargo.toml");
    fs::write(&manifest, package::manifest(&published, &["crates/*"])).context("writing the manifest")?;
    let run = |command: &mut Command| -> Result<bool> {
        let status = command.arg("--manifest-path").arg(&manifest).status().context("running cargo")?;
        Ok(status.success())
    };
    let mut update = cargo::command();
    // The option is unstable, and only used to choose versions: the build sees nothing of it.
    update.args(["generate-lockfile", "-Z", "direct-minimal-versions"]).env("RUSTC_BOOTSTRAP", "1");
    if !run(&mut update)? {
        bail!(
            "no set of versions has every direct dependency at its lower bound: raise the one that is named above"
        );
    }
    for features in [None, Some("--all-features")] {
        println!("minimal: building the published crates, {}", features.unwrap_or("default features"));
        let mut check = cargo::command();
        check.args(["check", "--workspace", "--locked", "--target-dir"]).arg(&workspace.target_directory);
        if !run(check.args(features))? {
            println!("a lower bound in the root Cargo.toml is too low");
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("minimal: every lower bound of a direct dependency holds");
    Ok(ExitCode::SUCCESS)
}
