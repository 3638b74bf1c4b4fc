//! `cargo xtask features`: each feature of each package compiles alone, and none at all does, without a warning; with
//! `--depth 2` each pair of features, too. In `cargo xtask ci` the pairs of the client are in fewer, larger sets. Tests of
//! feature sets are in the table of `cargo xtask test`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::judge::Judge;
use crate::table::{self, Cell, Step, Work};
use crate::test::short;
use crate::workspace::{Package, Workspace};

/// Packages whose pairs are in larger sets in `cargo xtask ci`: the client has more pairs than all others together, and many
/// of them build reqwest anew. Each pair by itself is a command: `cargo xtask features --depth 2`.
const IN_LARGER_SETS: [&str; 1] = ["certsource-client"];

/// Which sets of features are built, and how.
#[derive(Clone, Debug, Args)]
// The table's options are a group of this name already.
#[group(skip)]
pub(crate) struct Options {
    /// How many features are on at once: each alone, or each pair too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    depth: u8,
    #[command(flatten)]
    table: table::Options,
}

/// Builds the sets that were asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    table::run(&cells(&workspace, |_| options.depth > 1), &options.table, &workspace)
}

/// The cells of `cargo xtask ci`.
pub(crate) fn ci_cells(workspace: &Workspace) -> Vec<Cell> {
    let in_larger_sets = |package: &Package| IN_LARGER_SETS.contains(&package.name.as_str());
    let mut cells = cells(workspace, |package| !in_larger_sets(package));
    for package in workspace.members().into_iter().filter(|package| in_larger_sets(package)) {
        let features: Vec<String> = package.all_features().into_iter().collect();
        for (number, names) in larger_sets(&features).into_iter().enumerate() {
            let on = package.closure(names.iter().map(String::as_str));
            let what = format!("pairs-{}", number + 1);
            cells.push(cell(package, &what, &names, on));
        }
    }
    cells
}

/// A cell for each feature of each package that has some, one for none, and one for each pair where pairs are wanted.
fn cells(workspace: &Workspace, wants_pairs: impl Fn(&Package) -> bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    for package in workspace.members() {
        cells.extend(sets(package, wants_pairs(package)).into_iter().map(|(names, on)| {
            let what = if names.is_empty() { "none".to_owned() } else { names.join("+") };
            cell(package, &what, &names, on)
        }));
    }
    cells
}

/// The sets that differ: what is asked for, and what is on then. Empty for a package without features.
fn sets(package: &Package, pairs: bool) -> Vec<(Vec<String>, BTreeSet<String>)> {
    let features: Vec<String> = package.all_features().into_iter().collect();
    if features.is_empty() {
        return Vec::new();
    }
    let mut asked: Vec<Vec<String>> = vec![Vec::new()];
    asked.extend(features.iter().map(|feature| vec![feature.clone()]));
    if pairs {
        for (place, first) in features.iter().enumerate() {
            asked.extend(features[place + 1..].iter().map(|second| vec![first.clone(), second.clone()]));
        }
    }
    let mut built = BTreeSet::new();
    asked
        .into_iter()
        .map(|names| (package.closure(names.iter().map(String::as_str)), names))
        .filter(|(on, _)| built.insert(on.clone()))
        .map(|(on, names)| (names, on))
        .collect()
}

/// Few sets in which every two features meet: both are on in one of them, and each is on in one where the other is off.
///
/// Each feature is in more than half of the sets, and no two are in the same ones. So two features share a set, and for
/// each there is one without the other (Kleitman and Spencer, 1973).
fn larger_sets(features: &[String]) -> Vec<Vec<String>> {
    let choices = |sets: u32| (0..1_u32 << sets).filter(move |choice| choice.count_ones() == sets / 2 + 1);
    let Some(sets) = (1..16).find(|sets| choices(*sets).count() >= features.len()) else { return Vec::new() };
    let chosen: Vec<(&String, u32)> = features.iter().zip(choices(sets)).collect();
    let is_in = |set: u32, choice: u32| choice >> set & 1 == 1;
    (0..sets)
        .map(|set| {
            let members = chosen.iter().filter(|(_, choice)| is_in(set, *choice));
            members.map(|(feature, _)| (*feature).clone()).collect()
        })
        .collect()
}

fn cell(package: &Package, what: &str, features: &[String], on: BTreeSet<String>) -> Cell {
    let target = if package.library().is_some() { "--lib" } else { "--bins" };
    let mut arguments = vec!["clippy", "--package", &package.name, target, "--no-default-features"];
    for feature in features {
        arguments.extend(["--features", feature]);
    }
    // Clippy and not check: the warnings of a feature set that nobody else builds are seen here or never.
    arguments.extend(["--", "-D", "warnings"]);
    Cell {
        name: format!("features/{}/{what}", short(package)),
        needs: Vec::new(),
        work: Work::Run(Step::cargo(arguments)),
        judge: Judge::Build,
        covers: Some((package.name.clone(), on)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_larger_sets_every_two_features_meet_and_each_is_without_the_other() {
        for count in 1..=20 {
            let features: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
            let sets = larger_sets(&features);
            assert!(sets.len() < 8, "{count} features in {} sets", sets.len());
            for first in &features {
                for second in features.iter().filter(|second| *second != first) {
                    let is = |set: &&Vec<String>, on| set.contains(first) && set.contains(second) == on;
                    assert!(sets.iter().any(|set| is(&set, true)), "{first} and {second}");
                    assert!(sets.iter().any(|set| is(&set, false)), "{first} without {second}");
                }
            }
        }
        let workspace = Workspace::members_only().unwrap();
        let cells = ci_cells(&workspace);
        let client = cells.iter().filter(|cell| cell.name.starts_with("features/client/pairs-"));
        assert_eq!(client.count(), 6);
    }

    #[test]
    fn pairs_are_all_pairs_and_none_is_built_twice() {
        let workspace = Workspace::members_only().unwrap();
        for package in workspace.members() {
            let sets = sets(package, true);
            let distinct: BTreeSet<_> = sets.iter().map(|(_, on)| on.clone()).collect();
            assert_eq!(distinct.len(), sets.len(), "{}", package.name);
            let features = package.all_features();
            for first in &features {
                for second in &features {
                    let on = package.closure([first.as_str(), second.as_str()]);
                    assert!(distinct.contains(&on), "{}: {first} and {second}", package.name);
                }
            }
        }
    }
}
