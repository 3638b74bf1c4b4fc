//! `cargo xtask bench`: measures every figure and writes it to docs. What is measured is in the member `benches`, and for
//! the program in `crates/cli/benches`; how the tables look is in `bench/page.rs`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cargo;
use crate::machine;
use crate::workspace::Workspace;

pub(crate) mod page;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Measure only figures with this in their name, and keep the others as they were; may be given again
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Rotations of each kind for the latencies of file events
    #[arg(long, default_value_t = 1_000)]
    rotations: usize,
    /// Print the table and write nothing
    #[arg(long)]
    dry: bool,
    /// Measure nothing, and write the page and README's table again from what was measured last
    #[arg(long)]
    render: bool,
}

/// Measures, prints and writes.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    let root = &workspace.workspace_root;
    let path = root.join(page::DATA);
    let old: Value = fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null);
    if options.render {
        return write(root, &old);
    }
    let facts = machine::facts();
    let programs = build(&workspace)?;
    let mut figures = Command::new(programs.join("certsource-figures"));
    figures.args(["--rotations", &options.rotations.to_string()]);
    let mut rows = measure(figures, options)?;
    rows.extend(measure(Command::new(programs.join("certsource-counts")), options)?);
    rows.extend(measure(program(root), options)?);
    if rows.is_empty() {
        bail!("no figure has {} in its name", options.only.join(" or "));
    }
    let commit = machine::commit(root);
    for row in &mut rows {
        row["commit"] = json!(commit);
    }
    println!("{}", page::table(&rows));
    if options.dry {
        return Ok(ExitCode::SUCCESS);
    }
    let data = merge(old, rows, &facts);
    let text = serde_json::to_string_pretty(&data).context("writing JSON")? + "\n";
    fs::write(&path, text).with_context(|| format!("writing {}", page::DATA))?;
    write(root, &data)
}

/// Writes what people read.
fn write(root: &Path, data: &Value) -> Result<ExitCode> {
    fs::write(root.join(page::PAGE), page::page(data)).with_context(|| format!("writing {}", page::PAGE))?;
    let readme = root.join(page::README);
    let text = fs::read_to_string(&readme).context("reading the README")?;
    let text = page::put_into_readme(&text, data).context("the README has no place for figures")?;
    fs::write(readme, text).context("writing the README")?;
    println!("{} and {} say what {} does", page::PAGE, page::README, page::DATA);
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs the way a user's release build is made, and returns the folder that they are in.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = cargo::command();
    command.args(["build", "--profile", "bench", "--package", "certsource-bench", "--bins"]);
    let status = command.current_dir(&workspace.workspace_root).status().context("starting cargo")?;
    if !status.success() {
        bail!("the benchmarks do not compile");
    }
    Ok(workspace.target_directory.join("release"))
}

/// The program's own figures. Its size counts too, so this is the very build that users get.
fn program(root: &Path) -> Command {
    let mut command = cargo::command();
    command.args(["bench", "--quiet", "--profile", "release", "--package", "certsource-cli"]);
    command.args(["--bench", "figures", "--"]).current_dir(root);
    command
}

fn measure(mut command: Command, options: &Options) -> Result<Vec<Value>> {
    for part in &options.only {
        command.args(["--only", part]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting the measurement")?;
    let output = child.stdout.take().context("a child with a piped output has one")?;
    let mut rows = Vec::new();
    for line in BufReader::new(output).lines() {
        let row: Value =
            serde_json::from_str(&line.context("reading a figure")?).context("reading a figure")?;
        println!("{}", page::line(&row));
        rows.push(row);
    }
    let status = child.wait().context("waiting for the measurement")?;
    // 2: none of this program's figures was asked for.
    if !status.success() && status.code() != Some(2) {
        bail!("the measurement failed");
    }
    Ok(rows)
}

/// New rows take the place of the old ones with the same name.
fn merge(old: Value, new: Vec<Value>, facts: &[(&'static str, String)]) -> Value {
    let mut rows: Vec<Value> = old["rows"].as_array().cloned().unwrap_or_default();
    for row in new {
        match rows.iter_mut().find(|known| known["id"] == row["id"]) {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
    rows.sort_by_key(|row| page::place(row["id"].as_str().unwrap_or_default()));
    let facts: Vec<Value> =
        facts.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "machine": facts, "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_figure_takes_the_place_of_its_old_one() {
        let old =
            json!({ "rows": [{ "id": "load-roots", "ours": "1" }, { "id": "look-mtime", "ours": "2" }] });
        let merged =
            merge(old, vec![json!({ "id": "load-roots", "ours": "3" })], &[("cores", "2".to_owned())]);
        let rows = merged["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["id"], "look-mtime", "in the order of the page");
        assert_eq!(rows[1]["ours"], "3");
        assert_eq!(merged["machine"][0]["value"], "2");
    }
}
