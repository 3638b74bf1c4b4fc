//! A table of cells: what one is, how a table is run, and how its end is told. What stands in a table is decided by
//! the commands `test`, `ci` and `features`.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo;
use crate::judge::Judge;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// How a table is run.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    /// Print the cells and what each one runs, and run none of them
    #[arg(long)]
    list: bool,
    /// Run only the cells whose name contains this; may be given again
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// A cell whose tools are missing is a failure, not skipped
    #[arg(long)]
    strict: bool,
}

impl Options {
    /// Whether a test run inside a cell goes on after a failed test program.
    pub(crate) fn keeps_going(&self) -> bool {
        self.keep_going
    }
}

/// One line of a table: one thing that is run and judged.
#[derive(Debug)]
pub(crate) struct Cell {
    /// `package/what`, for people and for `--only`.
    pub(crate) name: String,
    /// What must be installed besides Rust.
    pub(crate) needs: Vec<Tool>,
    pub(crate) work: Work,
    pub(crate) judge: Judge,
    /// The package and the features of it that this cell builds, for the check that every feature is in a cell.
    pub(crate) covers: Option<(String, BTreeSet<String>)>,
}

/// What a cell does.
#[derive(Debug)]
pub(crate) enum Work {
    /// A program, its arguments, and variables to set.
    Run(Step),
    /// A check of our own. It prints what it found and says whether that is good.
    Call(fn() -> Result<bool>),
}

/// A program to run.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    program: OsString,
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
}

impl Step {
    /// Cargo with these arguments.
    pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::program(cargo::program(), arguments)
    }

    /// Any program with these arguments.
    pub(crate) fn program<'a>(program: OsString, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        Self { program, arguments, variables: Vec::new() }
    }

    /// Sets a variable for it.
    pub(crate) fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn to_line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.variables {
            let _ = write!(line, "{name}='{value}' ");
        }
        let program = Path::new(&self.program).file_name().unwrap_or(&self.program);
        line.push_str(&program.to_string_lossy());
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is good; the number of tests, if it runs tests.
    Passed(Option<usize>),
    /// It compiles; there is nothing to run in it.
    Built,
    /// Why it is not good; the number of tests, if it ran any.
    Failed(String, Option<usize>),
    /// Why it was not run.
    Skipped(String),
}

#[derive(Debug)]
struct Row {
    name: String,
    verdict: Verdict,
    took: Duration,
}

/// Runs a table and prints its end.
pub(crate) fn run(cells: &[Cell], options: &Options, workspace: &Workspace) -> Result<ExitCode> {
    let chosen: Vec<&Cell> = cells.iter().filter(|cell| is_chosen(&cell.name, &options.only)).collect();
    if chosen.is_empty() {
        bail!("no cell has {} in its name; --list prints them", options.only.join(" or "));
    }
    if options.list {
        print!("{}", list(&chosen));
        return Ok(ExitCode::SUCCESS);
    }
    let missing = |tool: Tool| tool.find(workspace).err();
    let path = env::join_paths(tools::search_path(&tools::own_folder(workspace))).context("building PATH")?;
    let mut number = 0;
    let rows = schedule(&chosen, options, missing, |cell| {
        number += 1;
        println!("\n━━ {} ━━ {number} of {}", cell.name, chosen.len());
        execute(cell, workspace, &path)
    });
    println!("\n{}", report(&rows));
    let failed = rows.iter().any(|row| matches!(row.verdict, Verdict::Failed(..)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_chosen(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
}

/// Decides what is run, what is skipped and when to stop; `execute` does the work.
fn schedule(
    cells: &[&Cell],
    options: &Options,
    missing: impl Fn(Tool) -> Option<String>,
    mut execute: impl FnMut(&Cell) -> Verdict,
) -> Vec<Row> {
    let mut stopped = false;
    let mut rows = Vec::new();
    for cell in cells {
        let start = Instant::now();
        let lacks: Vec<String> = cell.needs.iter().filter_map(|tool| missing(*tool)).collect();
        let verdict = if stopped {
            Verdict::Skipped("not reached".to_owned())
        } else if lacks.is_empty() {
            execute(cell)
        } else if options.strict {
            Verdict::Failed(lacks.join(", "), None)
        } else {
            Verdict::Skipped(lacks.join(", "))
        };
        stopped |= matches!(verdict, Verdict::Failed(..)) && !options.keep_going;
        rows.push(Row { name: cell.name.clone(), verdict, took: start.elapsed() });
    }
    rows
}

fn execute(cell: &Cell, workspace: &Workspace, path: &OsString) -> Verdict {
    match &cell.work {
        Work::Call(check) => match check() {
            Ok(true) => Verdict::Passed(None),
            Ok(false) => Verdict::Failed("see above".to_owned(), None),
            Err(error) => Verdict::Failed(format!("{error:#}"), None),
        },
        Work::Run(step) => {
            println!("$ {}", step.to_line());
            match run_step(step, workspace, path) {
                Ok((success, output)) => cell.judge.verdict(success, &output),
                Err(error) => Verdict::Failed(format!("{error:#}"), None),
            }
        }
    }
}

/// Runs a program, passes its output on as it comes, and returns what it wrote to its standard output.
fn run_step(step: &Step, workspace: &Workspace, path: &OsString) -> Result<(bool, String)> {
    let mut command = Command::new(&step.program);
    cargo::scrub(&mut command);
    command.args(&step.arguments).envs(step.variables.iter().copied()).env("PATH", path);
    if std::io::stderr().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command.current_dir(&workspace.workspace_root).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", step.to_line()))?;
    let stdout = child.stdout.take().context("a child with a piped output has one")?;
    let reader = thread::spawn(move || tee(stdout));
    let status = child.wait().context("waiting for it to end")?;
    let output = reader.join().unwrap_or_default();
    Ok((status.success(), output))
}

fn tee(from: impl Read) -> String {
    let mut from = BufReader::new(from);
    let mut all = String::new();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let _ = std::io::stdout().write_all(&line);
        all.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    all
}

fn list(cells: &[&Cell]) -> String {
    let width = cells.iter().map(|cell| cell.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for cell in cells {
        let work = match &cell.work {
            Work::Run(step) => step.to_line(),
            Work::Call(_) => "(a check of xtask's own)".to_owned(),
        };
        let _ = write!(text, "{:width$}  {work}", cell.name);
        if !cell.needs.is_empty() {
            let names: Vec<&str> = cell.needs.iter().map(|tool| tool.name()).collect();
            let _ = write!(text, "   [needs {}]", names.join(", "));
        }
        text.push('\n');
    }
    text
}

/// How many of the slowest cells the end of a table names.
const SLOWEST: usize = 5;

fn report(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max("cell".len());
    let mut text = format!("{:width$}  {:7}  {:>7}  {:>5}\n", "cell", "result", "seconds", "tests");
    let (mut passed, mut failed, mut skipped, mut tests) = (0, 0, 0, 0);
    for row in rows {
        let (word, count, why) = match &row.verdict {
            Verdict::Passed(count) => ("passed", *count, ""),
            Verdict::Built => ("built", None, ""),
            Verdict::Failed(why, count) => ("FAILED", *count, why.as_str()),
            Verdict::Skipped(why) => ("skipped", None, why.as_str()),
        };
        match row.verdict {
            Verdict::Passed(_) | Verdict::Built => passed += 1,
            Verdict::Failed(..) => failed += 1,
            Verdict::Skipped(_) => skipped += 1,
        }
        tests += count.unwrap_or(0);
        let count = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let seconds = row.took.as_secs_f64();
        let line = format!("{:width$}  {word:7}  {seconds:7.1}  {count:>5}  {why}", row.name);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if tests > 0 {
        let _ = writeln!(text, "{tests} tests were run");
    }
    let _ = write!(text, "{}", slowest(rows));
    let _ = write!(text, "{passed} passed, {failed} failed, {skipped} skipped");
    for row in rows {
        // Last, where a reader of a long log looks first.
        if let Verdict::Failed(why, _) = &row.verdict {
            let _ = write!(text, "\nFAILED: {}: {why}", row.name);
        }
    }
    text
}

/// Where the time goes: a line for each of the slowest cells.
fn slowest(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().filter(|row| row.took >= Duration::from_secs(1)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.took));
    let mut text = String::new();
    if rows.len() > SLOWEST {
        text.push_str("the slowest:\n");
        for row in &rows[..SLOWEST] {
            let _ = writeln!(text, "  {:7.1} s  {}", row.took.as_secs_f64(), row.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, needs: &[Tool]) -> Cell {
        Cell {
            name: name.to_owned(),
            needs: needs.to_vec(),
            work: Work::Call(|| Ok(true)),
            judge: Judge::Exit,
            covers: None,
        }
    }

    fn verdicts(options: &Options, cells: &[Cell]) -> Vec<Verdict> {
        let cells: Vec<&Cell> = cells.iter().collect();
        let missing = |tool: Tool| (tool == Tool::Nginx).then(|| "needs nginx".to_owned());
        let execute = |cell: &Cell| match cell.name.as_str() {
            "bad" => Verdict::Failed("broken".to_owned(), Some(3)),
            _ => Verdict::Passed(Some(2)),
        };
        schedule(&cells, options, missing, execute).into_iter().map(|row| row.verdict).collect()
    }

    #[test]
    fn the_first_failure_stops_a_run() {
        let cells = [cell("good", &[]), cell("bad", &[]), cell("good", &[])];
        let seen = verdicts(&Options::default(), &cells);
        assert_eq!(seen[0], Verdict::Passed(Some(2)));
        assert!(matches!(seen[1], Verdict::Failed(..)));
        assert_eq!(seen[2], Verdict::Skipped("not reached".to_owned()));
    }

    #[test]
    fn keep_going_reaches_every_cell() {
        let cells = [cell("bad", &[]), cell("good", &[])];
        let seen = verdicts(&Options { keep_going: true, ..Options::default() }, &cells);
        assert_eq!(seen[1], Verdict::Passed(Some(2)));
    }

    #[test]
    fn a_missing_tool_skips_and_strict_makes_it_a_failure() {
        let cells = [cell("e2e", &[Tool::Openssl, Tool::Nginx]), cell("good", &[Tool::Openssl])];
        let seen = verdicts(&Options::default(), &cells);
        assert_eq!(seen[0], Verdict::Skipped("needs nginx".to_owned()));
        assert_eq!(seen[1], Verdict::Passed(Some(2)));
        let strict = Options { strict: true, ..Options::default() };
        assert_eq!(verdicts(&strict, &cells)[0], Verdict::Failed("needs nginx".to_owned(), None));
    }

    #[test]
    fn only_takes_any_of_its_parts() {
        assert!(is_chosen("certsource/default", &[]));
        assert!(is_chosen("certsource/default", &["nginx".to_owned(), "default".to_owned()]));
        assert!(!is_chosen("certsource/default", &["nginx".to_owned()]));
    }

    #[test]
    fn the_report_adds_the_tests_up_and_ends_with_what_failed() {
        let row = |verdict| Row { name: "x/y".to_owned(), verdict, took: Duration::from_millis(1250) };
        let text = report(&[
            row(Verdict::Passed(Some(40))),
            row(Verdict::Built),
            row(Verdict::Failed("1 test failed".to_owned(), Some(2))),
            row(Verdict::Skipped("needs nginx".to_owned())),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "x/y   passed       1.2     40");
        assert_eq!(lines[3], "x/y   FAILED       1.2      2  1 test failed");
        assert_eq!(lines[5], "42 tests were run");
        assert_eq!(lines[6], "2 passed, 1 failed, 1 skipped");
        assert_eq!(lines[7], "FAILED: x/y: 1 test failed");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn the_slowest_are_named_where_there_are_many() {
        let row = |seconds| Row {
            name: format!("cell/{seconds}"),
            verdict: Verdict::Built,
            took: Duration::from_secs(seconds),
        };
        let rows: Vec<Row> = [3, 9, 0, 4, 8, 5, 7].map(row).into();
        let text = slowest(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "      9.0 s  cell/9",
                "      8.0 s  cell/8",
                "      7.0 s  cell/7",
                "      5.0 s  cell/5",
                "      4.0 s  cell/4"
            ]
        );
        assert_eq!(slowest(&rows[..5]), "");
    }

    #[test]
    fn a_step_prints_as_a_person_would_type_it() {
        let step = Step::program("/some/bin/cargo".into(), ["doc", "--no-deps"])
            .variable("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(step.to_line(), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }
}
