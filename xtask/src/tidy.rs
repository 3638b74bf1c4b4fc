//! `cargo xtask tidy`: keeps promises true that are written in prose. Each check is a module and returns problems,
//! one line each; a line says where, what and, if it is not plain, what to do.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::Workspace;

mod architecture;
mod counts;
mod features;
mod figures;
mod layers;
mod links;
mod manifest;
mod named;
mod readme;
mod releases;
mod scenarios;
mod sources;
mod toml;

/// What to do with the dependency counts.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Options {
    /// Take today's dependency counts as the right ones
    #[arg(long)]
    bless: bool,
}

/// Runs every check.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    Ok(if check(options.bless)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every check and prints what is wrong. True if nothing is.
pub(crate) fn check(bless: bool) -> Result<bool> {
    let workspace = Workspace::with_dependencies()?;
    let files = Files::read(&workspace.workspace_root)?;
    let checks = [
        ("layers", layers::check(&workspace)?),
        ("dependency counts", counts::check(&workspace, bless)?),
        ("manifests", manifest::check(&workspace, &files)?),
        ("features", features::check(&workspace, &files)?),
        ("architecture", architecture::check(&workspace, &files)),
        ("readme", readme::check(&workspace, &files)),
        ("scenarios", scenarios::check(&files)),
        ("named", named::check(&workspace, &files)),
        ("releases", releases::check(&workspace, &files)),
        ("links", links::check(&files)),
        ("figures", figures::check(&files)),
        ("sources", sources::check(&files)),
    ];
    let mut count = 0;
    for (name, problems) in checks {
        println!("{:18} {}", name, if problems.is_empty() { "ok" } else { "FAILED" });
        count += problems.len();
        for problem in problems {
            println!("  {problem}");
        }
    }
    match count {
        0 => println!("tidy: nothing to complain about"),
        1 => println!("tidy: 1 problem"),
        _ => println!("tidy: {count} problems"),
    }
    Ok(count == 0)
}

/// The files of the work tree that git tracks, or would track, and that are text.
#[derive(Debug, Default)]
struct Files {
    /// Paths from the root with `/` between their parts, and what is in them.
    files: Vec<(String, String)>,
    /// Paths of files that are not text.
    binaries: Vec<String>,
}

impl Files {
    fn read(root: &Path) -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("running git ls-files")?;
        if !output.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut files = Self::default();
        for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|path| !path.is_empty()) {
            // A file that is tracked and gone is git's business.
            let Ok(bytes) = fs::read(root.join(path)) else { continue };
            match String::from_utf8(bytes) {
                Ok(text) => files.files.push((path.to_owned(), text)),
                Err(_) => files.binaries.push(path.to_owned()),
            }
        }
        Ok(files)
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == path).map(|(_, text)| text)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether this is a file, or a folder that has files.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        self.iter()
            .map(|(known, _)| known)
            .chain(self.binaries.iter().map(String::as_str))
            .any(|known| known == path || known.starts_with(&below))
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { files, binaries: Vec::new() }
    }
}
