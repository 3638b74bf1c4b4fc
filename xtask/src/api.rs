//! `cargo xtask api`: the public items of each published library, one a line, are those in `xtask/api`. So a change of
//! what users may rely on is a line in a commit, and never an accident.
//!
//! rustdoc writes what it knows as JSON, and the crate `public-api` turns that into lines. The JSON is an unstable format
//! of the compiler: a cell of `cargo xtask ci` needs a compiler that writes the one we can read.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::cargo;
use crate::tools::Tool;
use crate::workspace::{Package, Workspace};

/// The folder of the snapshots.
const FOLDER: &str = "xtask/api";

/// The version of rustdoc's JSON that `public-api` reads, and whose it is.
const FORMAT: (u64, &str) = (57, "Rust 1.95");

/// Set for a rustdoc that is started through us: the real one.
const REAL_RUSTDOC: &str = "CERTSOURCE_XTASK_RUSTDOC";

/// Traits that the compiler implements and of which nobody would notice a change, or could.
const UNTOLD: [&str; 6] =
    ["Freeze", "RefUnwindSafe", "StructuralPartialEq", "Unpin", "UnsafeUnpin", "UnwindSafe"];

/// What to do with the snapshots.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Options {
    /// Take today's public items as the right ones
    #[arg(long)]
    bless: bool,
}

/// Compares, or writes.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    if let Err(why) = Tool::RustdocJson.find(&workspace) {
        bail!("{why}");
    }
    Ok(if compare(&workspace, options.bless)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True if every library has the public items that its snapshot says.
pub(crate) fn check() -> Result<bool> {
    compare(&Workspace::members_only()?, false)
}

fn compare(workspace: &Workspace, bless: bool) -> Result<bool> {
    let folder = workspace.workspace_root.join(FOLDER);
    let mut known: Vec<OsString> = Vec::new();
    let mut is_good = true;
    for package in workspace.members() {
        let Some(library) = package.library().filter(|_| package.is_published()) else { continue };
        let today = items(workspace, package, &library.name)?;
        let name = format!("{}.txt", package.name);
        let path = folder.join(&name);
        if bless {
            fs::create_dir_all(&folder).with_context(|| format!("creating {FOLDER}"))?;
            fs::write(&path, &today).with_context(|| format!("writing {FOLDER}/{name}"))?;
        } else {
            let lines = difference(&fs::read_to_string(&path).unwrap_or_default(), &today);
            println!("{FOLDER}/{name}: {} items, {} lines differ", today.lines().count(), lines.len());
            for line in &lines {
                println!("  {line}");
            }
            is_good &= lines.is_empty();
        }
        known.push(name.into());
    }
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {FOLDER}"))? {
        let name = entry.with_context(|| format!("listing {FOLDER}"))?.file_name();
        if !known.contains(&name) {
            println!("{FOLDER}/{} belongs to no published library", name.to_string_lossy());
            is_good = false;
        }
    }
    if !is_good {
        println!("if that is meant: cargo xtask api --bless; CONTRIBUTING.md says what is a break");
    }
    Ok(is_good)
}

/// The public items with every feature on, one a line.
fn items(workspace: &Workspace, package: &Package, library: &str) -> Result<String> {
    let mut command = cargo::command();
    command.args(["rustdoc", "--quiet", "--locked", "--lib", "--all-features", "--package", &package.name]);
    command.args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    // Only rustdoc may use what is unstable. If cargo and its build scripts saw the variable that allows it, much of
    // the tree would be built again, and differently.
    let real = env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    command.env("RUSTDOC", env::current_exe().context("finding ourselves")?).env(REAL_RUSTDOC, real);
    let status = command.status().context("running cargo rustdoc")?;
    if !status.success() {
        bail!("rustdoc failed for {}", package.name);
    }
    let json = workspace.target_directory.join("doc").join(library).with_extension("json");
    read(&json).with_context(|| format!("reading the public items of {}", package.name))
}

fn read(json: &Path) -> Result<String> {
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    let mut text = String::new();
    for line in api.items().map(ToString::to_string).filter(|line| is_told(line)) {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

fn is_told(line: &str) -> bool {
    let Some((head, _)) = line.split_once(" for ") else { return true };
    let name = head.rsplit("::").next().unwrap_or_default();
    !(head.starts_with("impl") && UNTOLD.contains(&name))
}

/// The lines that only one side has, and a word if only their order differs.
fn difference(blessed: &str, today: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (blessed.lines().collect(), today.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    let mut lines: Vec<String> = gone.chain(come).collect();
    if lines.is_empty() && old != new {
        lines.push("the same lines, in another order or number".to_owned());
    }
    lines
}

/// A rustdoc that writes JSON that we can read, or why there is none.
pub(crate) fn find_rustdoc() -> Result<PathBuf, String> {
    // Files, watches and clocks differ between platforms, and so do some public items.
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the snapshots are those of Linux on x86-64".to_owned());
    }
    let (wanted, whose) = FORMAT;
    let rustdoc = PathBuf::from(env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into()));
    match format(&rustdoc) {
        Ok(found) if found == wanted => Ok(rustdoc),
        Ok(found) => Err(format!(
            "needs a rustdoc whose JSON has format {wanted} ({whose}); this one's is {found}: see FORMAT in xtask/src/api.rs"
        )),
        Err(why) => Err(format!("needs rustdoc's JSON: {why:#}")),
    }
}

/// The format of the JSON that this rustdoc writes.
fn format(rustdoc: &Path) -> Result<u64> {
    let mut command = Command::new(rustdoc);
    command.args([
        "-",
        "--crate-name",
        "probe",
        "-Z",
        "unstable-options",
        "--output-format",
        "json",
        "-o",
        "-",
    ]);
    let output =
        command.env("RUSTC_BOOTSTRAP", "1").stdin(Stdio::null()).output().context("running rustdoc")?;
    let json: Value = serde_json::from_slice(&output.stdout).context("it writes none")?;
    json["format_version"].as_u64().context("it does not name its format")
}

/// Where cargo started us in the place of rustdoc: the real one, allowed to use what is unstable.
pub(crate) fn as_rustdoc() -> Option<ExitCode> {
    let real = env::var_os(REAL_RUSTDOC)?;
    let mut command = Command::new(real);
    command.args(env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").env_remove(REAL_RUSTDOC);
    // The libraries that cargo adds for us are those of the toolchain, which rustdoc needs too.
    let is_good = command.env_remove(OsStr::new("RUSTDOC")).status().is_ok_and(|status| status.success());
    Some(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_told() {
        assert!(difference("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(difference("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
        assert_eq!(difference("a\nb\n", "b\na\n").len(), 1);
        assert_eq!(difference("", "a\n"), ["+ a"]);
    }

    #[test]
    fn send_is_told_and_unpin_is_not() {
        assert!(is_told("impl core::marker::Send for certsource::Error"));
        assert!(is_told("impl<T> core::marker::Sync for a::B<T> where T: core::marker::Send"));
        assert!(is_told("pub fn a::UnwindSafe(for i32)"));
        assert!(!is_told("impl core::marker::Unpin for certsource::Error"));
        assert!(!is_told("impl<T> core::panic::unwind_safe::UnwindSafe for a::B<T>"));
        assert!(!is_told("impl !core::panic::unwind_safe::RefUnwindSafe for a::B"));
    }
}
