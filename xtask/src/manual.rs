//! `cargo xtask manual`: the program's man pages and its completions for shells, written by the program itself from the
//! definitions of its help.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::workspace::Workspace;

/// Where to write.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The directory; without it `manual` in the target directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    let out = options.out.clone().unwrap_or_else(|| workspace.target_directory.join("manual"));
    let mut command = Command::new(cargo::program());
    cargo::scrub(&mut command);
    command.args(["run", "--quiet", "--package", "certsource-cli", "--features", "manual", "--", "manual"]);
    let status = command.arg(&out).status().context("starting cargo")?;
    if !status.success() {
        bail!("the program could not write its manual");
    }
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}
