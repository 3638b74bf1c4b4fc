//! `cargo xtask ci`: everything that is checked besides the tests.

use std::process::ExitCode;

use anyhow::Result;

use crate::judge::Judge;
use crate::table::{self, Cell, Options, Step, Work};
use crate::test::{Selection, selections, short};
use crate::tools::Tool;
use crate::workspace::Workspace;
use crate::{api, features, instructions, msrv, package, tidy};

/// Runs the table, or the part of it that was asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    table::run(&cells(&workspace), options, &workspace)
}

/// The quick ones first.
fn cells(workspace: &Workspace) -> Vec<Cell> {
    let mut cells = vec![
        run_cell("fmt", Step::cargo(["fmt", "--all", "--", "--check"])),
        call_cell("tidy", || tidy::check(false)),
        deny_cell(),
        promtool_cell("alerts/check", ["check", "rules", "docs/alerts/certsource.rules.yml"]),
        promtool_cell("alerts/test", ["test", "rules", "docs/alerts/certsource.test.yml"]),
    ];
    // A package at a time: cargo unites the features of packages that are built together, and so hides what one lacks.
    for package in workspace.members() {
        for (selection, features) in selections(package) {
            // What stays of a package without its default features is linted by the cells of `features`.
            if selection == Selection::None {
                continue;
            }
            let mut arguments = vec!["clippy", "--package", &package.name, "--all-targets"];
            arguments.extend(selection.option());
            arguments.extend(["--", "-D", "warnings"]);
            let mut cell =
                run_cell(&format!("clippy/{}/{}", short(package), selection.word()), Step::cargo(arguments));
            cell.covers = Some((package.name.clone(), features));
            cells.push(cell);
        }
    }
    cells.extend(features::ci_cells(workspace));
    cells.push(run_cell(
        "docs",
        Step::cargo(["doc", "--workspace", "--exclude", "xtask", "--all-features", "--no-deps"])
            .variable("RUSTDOCFLAGS", "-D warnings"),
    ));
    cells.push(Cell { needs: vec![Tool::Valgrind], ..call_cell("counts", instructions::check) });
    cells.push(Cell { needs: vec![Tool::RustdocJson], ..call_cell("api", api::check) });
    cells.push(call_cell("package", package::check));
    cells.push(call_cell("msrv/declared", msrv::declared));
    cells.push(Cell { needs: vec![Tool::OldRustc], ..call_cell("msrv/build", msrv::build) });
    cells
}

fn run_cell(name: &str, step: Step) -> Cell {
    Cell { name: name.to_owned(), needs: Vec::new(), work: Work::Run(step), judge: Judge::Exit, covers: None }
}

fn call_cell(name: &str, check: fn() -> Result<bool>) -> Cell {
    Cell {
        name: name.to_owned(),
        needs: Vec::new(),
        work: Work::Call(check),
        judge: Judge::Exit,
        covers: None,
    }
}

fn deny_cell() -> Cell {
    // Without `advisories`: that check fetches its database, and a check must not change from one day to the next.
    let step = Step::cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]);
    Cell { needs: vec![Tool::CargoDeny], ..run_cell("deny", step) }
}

fn promtool_cell(name: &str, arguments: [&str; 3]) -> Cell {
    let step = Step::program("promtool".into(), arguments);
    Cell { needs: vec![Tool::Promtool], ..run_cell(name, step) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_real_table_names_each_cell_once_and_lints_every_member_and_feature() {
        let workspace = Workspace::members_only().unwrap();
        let cells = cells(&workspace);
        let names: BTreeSet<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names.len(), cells.len());
        for package in workspace.members() {
            assert!(
                names.contains(format!("clippy/{}/default", short(package)).as_str()),
                "{}",
                package.name
            );
            let alone: BTreeSet<String> = cells
                .iter()
                .filter(|cell| cell.name.starts_with("features/"))
                .filter_map(|cell| cell.covers.clone())
                .filter(|(name, _)| *name == package.name)
                .flat_map(|(_, features)| features)
                .collect();
            assert_eq!(alone, package.all_features(), "{}", package.name);
        }
    }
}
