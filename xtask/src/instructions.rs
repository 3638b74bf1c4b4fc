//! `cargo xtask counts`: instructions of the hot paths, counted by valgrind. A count is the same on a busy machine and on
//! an idle one, so it can be a check. What is kept and compared is the ratio to the bare calls in the same build: a
//! compiler that does better or worse changes both. What is counted is in `benches/instructions`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo;
use crate::tools::Tool;
use crate::workspace::Workspace;

/// What is counted, and how often it is called.
const PATHS: [(&str, u32); 5] =
    [("look-mtime", 200), ("look-link", 200), ("current", 2_000), ("load-roots", 3), ("ticket", 2_000)];

/// The ratios that are kept.
const FILE: &str = "benches/counts.txt";

/// By how much a ratio may grow.
const TOLERANCE: f64 = 0.05;

const HEAD: &str = "\
# Instructions of a call, by valgrind: ours, the bare alternative, and the ratio, which may grow by 5 %.
# Written by `cargo xtask counts --bless`. When a ratio grows, the commit says what it is worth.
# path, ours, bare, ratio
";

/// What to do with the ratios.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Options {
    /// Take today's ratios as the right ones
    #[arg(long)]
    bless: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Count {
    path: String,
    ours: f64,
    bare: f64,
}

impl Count {
    fn ratio(&self) -> f64 {
        self.ours / self.bare
    }

    fn line(&self) -> String {
        format!("{:12} {:12.1} {:12.1} {:8.3}", self.path, self.ours, self.bare, self.ratio())
    }
}

/// Counts, and compares or writes.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    Ok(if count(options.bless)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True if no path needs more instructions than it is known to.
pub(crate) fn check() -> Result<bool> {
    count(false)
}

fn count(bless: bool) -> Result<bool> {
    let workspace = Workspace::members_only()?;
    let valgrind = Tool::Valgrind.find(&workspace).map_err(anyhow::Error::msg)?;
    let program = build(&workspace)?;
    let mut today = Vec::new();
    for (path, calls) in PATHS {
        let ours = instructions(&valgrind, &program, &[path, "ours"], calls)?;
        let bare = instructions(&valgrind, &program, &[path, "bare"], calls)?;
        let count = Count { path: path.to_owned(), ours, bare };
        println!("{}", count.line());
        today.push(count);
    }
    let file = workspace.workspace_root.join(FILE);
    if bless {
        fs::write(&file, write(&today)).with_context(|| format!("writing {FILE}"))?;
        return Ok(true);
    }
    let problems = compare(&read(&fs::read_to_string(&file).unwrap_or_default()), &today);
    for problem in &problems {
        println!("  {problem}");
    }
    if !problems.is_empty() {
        println!("if that is meant: cargo xtask counts --bless");
    }
    Ok(problems.is_empty())
}

/// In the profile of `cargo run --release`, whose dependencies are there already.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = cargo::command();
    command.args(["build", "--quiet", "--release", "--locked", "--package", "certsource-instructions"]);
    let status = command.current_dir(&workspace.workspace_root).status().context("starting cargo")?;
    if !status.success() {
        bail!("the hot paths do not compile");
    }
    Ok(workspace.target_directory.join("release/certsource-instructions"))
}

fn instructions(valgrind: &Path, program: &Path, what: &[&str], calls: u32) -> Result<f64> {
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.args(["--toggle-collect=*counted_calls*", "--fair-sched=no"]);
    // Paths are hashed and copied: the counts are of paths of this length.
    command.env("TMPDIR", "/tmp");
    let output =
        command.arg(program).args(what).arg(calls.to_string()).output().context("running valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    match collected(&told) {
        Some(count) if output.status.success() && count > 0.0 => Ok(count / f64::from(calls)),
        _ => bail!("valgrind counted nothing of {}: {}", what.join(" "), told.trim()),
    }
}

/// From `==42== Collected : 1234`.
fn collected(told: &str) -> Option<f64> {
    told.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok())
}

fn write(counts: &[Count]) -> String {
    let mut text = HEAD.to_owned();
    for count in counts {
        let _ = writeln!(text, "{}", count.line());
    }
    text
}

fn read(text: &str) -> Vec<Count> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let path = words.next()?.to_owned();
            Some(Count { path, ours: words.next()?.parse().ok()?, bare: words.next()?.parse().ok()? })
        })
        .collect()
}

fn compare(blessed: &[Count], today: &[Count]) -> Vec<String> {
    let mut problems = Vec::new();
    for count in today {
        let Some(known) = blessed.iter().find(|known| known.path == count.path) else {
            problems.push(format!("{FILE} has no line for {}", count.path));
            continue;
        };
        let (was, is) = (known.ratio(), count.ratio());
        if is > was * (1.0 + TOLERANCE) {
            problems.push(format!(
                "{}: {was:.3} → {is:.3} times the bare calls ({:.0} → {:.0} instructions)",
                count.path, known.ours, count.ours
            ));
        } else if is < was * (1.0 - TOLERANCE) {
            println!("  {}: {was:.3} → {is:.3}: better; --bless keeps it so", count.path);
        }
    }
    let gone = blessed.iter().filter(|known| today.iter().all(|count| count.path != known.path));
    problems.extend(gone.map(|known| format!("{FILE} has a line for {}, which is not counted", known.path)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[(&str, f64, f64)]) -> Vec<Count> {
        lines
            .iter()
            .map(|(path, ours, bare)| Count { path: (*path).to_owned(), ours: *ours, bare: *bare })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let today = counts(&[("current", 41.0, 38.5), ("ticket", 120.0, 90.0)]);
        assert_eq!(read(&write(&today)), today);
        assert!(compare(&today, &today).is_empty());
    }

    #[test]
    fn a_path_that_grew_is_found_and_a_better_compiler_is_not() {
        let known = counts(&[("current", 100.0, 50.0)]);
        assert_eq!(compare(&known, &counts(&[("current", 106.0, 50.0)])).len(), 1);
        assert!(compare(&known, &counts(&[("current", 104.0, 50.0)])).is_empty());
        assert!(compare(&known, &counts(&[("current", 200.0, 100.0)])).is_empty());
        assert!(compare(&known, &counts(&[("current", 50.0, 50.0)])).is_empty());
        assert_eq!(compare(&known, &counts(&[("ticket", 1.0, 1.0)])).len(), 2);
    }

    #[test]
    fn the_closing_line_of_valgrind_is_read() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 12345\n"), Some(12_345.0));
        assert_eq!(collected("==7== oh\n"), None);
    }
}
