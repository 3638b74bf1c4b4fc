//! Features: each one is explained above its line, and is on in at least one cell of `cargo xtask test`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::Files;
use super::toml::keys;
use crate::table::Cell;
use crate::test;
use crate::workspace::Workspace;

/// Checks every feature of every member.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Result<Vec<String>> {
    let cells = test::cells(workspace, false)?;
    let mut problems = Vec::new();
    for package in workspace.members() {
        let path = format!("{}/Cargo.toml", workspace.folder(package));
        let manifest = files.get(&path).with_context(|| format!("{path} is not in git's sight"))?;
        problems.extend(unexplained(&path, manifest));
        let all = package.all_features();
        problems.extend(
            untested(&package.name, &all, &cells)
                .map(|feature| format!("{path}: no cell of cargo xtask test has the feature {feature} on")),
        );
    }
    Ok(problems)
}

fn unexplained(path: &str, manifest: &str) -> Vec<String> {
    keys(manifest)
        .into_iter()
        // What is on by default is explained where it is defined.
        .filter(|key| key.table == "features" && key.name != "default" && !key.commented)
        .map(|key| format!("{path}:{}: no comment above the feature {}", key.line, key.name))
        .collect()
}

fn untested<'a>(
    package: &str,
    all: &'a BTreeSet<String>,
    cells: &[Cell],
) -> impl Iterator<Item = &'a String> {
    let tested: BTreeSet<String> = cells
        .iter()
        .filter_map(|cell| cell.covers.as_ref())
        .filter(|(name, _)| name == package)
        .flat_map(|(_, features)| features.iter().cloned())
        .collect();
    all.iter().filter(move |feature| !tested.contains(*feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Judge;
    use crate::table::Work;

    #[test]
    fn a_feature_without_a_comment_is_found() {
        let manifest = "[features]\ndefault = []\n# File events.\nnotify = []\nserde = []\n";
        assert_eq!(unexplained("Cargo.toml", manifest), ["Cargo.toml:5: no comment above the feature serde"]);
    }

    #[test]
    fn a_feature_that_no_cell_has_on_is_found() {
        let cell = |package: &str, features: &[&str]| Cell {
            name: String::new(),
            needs: Vec::new(),
            work: Work::Call(|| Ok(true)),
            judge: Judge::Exit,
            covers: Some((package.to_owned(), features.iter().map(|f| (*f).to_owned()).collect())),
        };
        let cells = [cell("a", &["ring"]), cell("b", &["json"])];
        let all = BTreeSet::from(["ring".to_owned(), "json".to_owned()]);
        assert_eq!(untested("a", &all, &cells).collect::<Vec<_>>(), ["json"]);
    }
}
