//! `cargo xtask features`: each feature of each package compiles alone, and none at all does, without a warning.
//! Tests of feature sets are in the table of `cargo xtask test`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;

use crate::judge::Judge;
use crate::table::{self, Cell, Options, Step, Work};
use crate::test::short;
use crate::workspace::{Package, Workspace};

/// Builds each feature alone.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    table::run(&cells(&workspace), options, &workspace)
}

/// A cell for each feature of each package that has some, and one for none.
pub(crate) fn cells(workspace: &Workspace) -> Vec<Cell> {
    let mut cells = Vec::new();
    for package in workspace.members() {
        let features = package.all_features();
        if features.is_empty() {
            continue;
        }
        let mut built = BTreeSet::from([BTreeSet::new()]);
        cells.push(cell(package, None, BTreeSet::new()));
        for feature in &features {
            let on = package.closure([feature.as_str()]);
            if built.insert(on.clone()) {
                cells.push(cell(package, Some(feature), on));
            }
        }
    }
    cells
}

fn cell(package: &Package, feature: Option<&str>, on: BTreeSet<String>) -> Cell {
    let target = if package.library().is_some() { "--lib" } else { "--bins" };
    let mut arguments = vec!["clippy", "--package", &package.name, target, "--no-default-features"];
    if let Some(feature) = feature {
        arguments.extend(["--features", feature]);
    }
    // Clippy and not check: the warnings of a feature set that nobody else builds are seen here or never.
    arguments.extend(["--", "-D", "warnings"]);
    Cell {
        name: format!("features/{}/{}", short(package), feature.unwrap_or("none")),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: Judge::Build,
        covers: Some((package.name.clone(), on)),
    }
}
