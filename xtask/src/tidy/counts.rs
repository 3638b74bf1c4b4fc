//! How many packages a user of each crate has to build. The numbers are kept in a file, so that a new dependency is
//! a line in a commit that says why, and never an accident.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use crate::cargo::{TreeQuery, normal_tree};
use crate::workspace::Workspace;

const FILE: &str = "xtask/deps.txt";

/// Counts are for one platform, so that they are the same wherever they are taken.
const TARGET: &str = "x86_64-unknown-linux-gnu";

const HEAD: &str = "\
# Packages below each published crate on x86_64-unknown-linux-gnu: normal dependencies, direct and not, itself left out.
# Written by `cargo xtask tidy --bless`. When a number changes, the commit says what is worth it.
# crate, with default features, with all features
";

type Counts = BTreeMap<String, (usize, usize)>;

/// Compares today's counts with the file, or writes the file.
pub(super) fn check(workspace: &Workspace, bless: bool) -> Result<Vec<String>> {
    let mut today = Counts::new();
    for package in workspace.members().into_iter().filter(|package| package.is_published()) {
        let count = |all_features| {
            normal_tree(TreeQuery { package: &package.name, all_features, target: TARGET })
                .map(|tree| tree.len())
        };
        today.insert(package.name.clone(), (count(false)?, count(true)?));
    }
    let path = workspace.workspace_root.join(FILE);
    if bless {
        fs::write(&path, write(&today)).with_context(|| format!("writing {FILE}"))?;
        return Ok(Vec::new());
    }
    Ok(compare(&read(&fs::read_to_string(&path).unwrap_or_default()), &today))
}

fn write(counts: &Counts) -> String {
    let mut text = HEAD.to_owned();
    for (package, (default, all)) in counts {
        let _ = writeln!(text, "{package:20} {default:4} {all:4}");
    }
    text
}

fn read(text: &str) -> Counts {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let package = words.next()?.to_owned();
            Some((package, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
        })
        .collect()
}

fn compare(blessed: &Counts, today: &Counts) -> Vec<String> {
    let mut problems = Vec::new();
    for (package, counts) in today {
        match blessed.get(package) {
            None => problems.push(format!("{FILE} has no line for {package}")),
            Some(known) if known == counts => {}
            Some((default, all)) => problems.push(format!(
                "{package}: {default} → {} packages by default, {all} → {} with all features; see cargo tree -p {package} -e normal",
                counts.0, counts.1
            )),
        }
    }
    let gone = blessed.keys().filter(|package| !today.contains_key(*package));
    problems
        .extend(gone.map(|package| format!("{FILE} has a line for {package}, which is no published crate")));
    if !problems.is_empty() {
        problems.push("if that is meant: cargo xtask tidy --bless".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[(&str, usize, usize)]) -> Counts {
        lines.iter().map(|(name, default, all)| ((*name).to_owned(), (*default, *all))).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let today = counts(&[("certsource", 28, 41), ("certsource-reload", 36, 50)]);
        assert_eq!(read(&write(&today)), today);
        assert!(compare(&read(&write(&today)), &today).is_empty());
    }

    #[test]
    fn every_difference_is_told() {
        let blessed = counts(&[("certsource", 28, 41), ("certsource-old", 1, 1)]);
        let today = counts(&[("certsource", 28, 42), ("certsource-new", 3, 3)]);
        let problems = compare(&blessed, &today);
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems[0].contains("28 → 28") && problems[0].contains("41 → 42"));
        assert!(problems[1].contains("certsource-new"));
        assert!(problems[2].contains("certsource-old"));
    }
}
