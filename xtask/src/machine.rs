//! The facts of this machine that a reader of a measurement needs. No name of a host, and no path.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::Result;

use crate::cargo;

/// `name: value`, a line each.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let cores = available_parallelism().map_or_else(|_| "unknown".to_owned(), |cores| cores.to_string());
    vec![
        ("processor", processor().unwrap_or_else(|| "unknown".to_owned())),
        ("cores", cores),
        ("kernel", first_line("/proc/sys/kernel/osrelease")),
        ("compiler", compiler().unwrap_or_else(|_| "unknown".to_owned())),
        ("load at the start", first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
    ]
}

/// The commit of the work tree, and whether anything was changed since.
pub(crate) fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| text.is_empty());
    if is_clean { commit } else { format!("{commit}+") }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn compiler() -> Result<String> {
    let output = cargo::command().arg("--version").arg("--verbose").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
    Ok(format!("Rust {}, {}", field("release:"), field("host:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_name_no_folder() {
        for (name, value) in facts() {
            assert!(!value.is_empty() && !value.contains("/home"), "{name}: {value}");
        }
    }
}
