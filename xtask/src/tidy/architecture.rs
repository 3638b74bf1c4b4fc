//! docs/ARCHITECTURE.md against the tree: its code map names every crate and every module, whatever it names is
//! there, and each invariant names a test that exists.

use std::collections::{BTreeMap, BTreeSet};

use super::Files;
use crate::workspace::Workspace;

const FILE: &str = "docs/ARCHITECTURE.md";

/// Checks the document, if there is one; that there is none is a problem, too.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Vec<String> {
    let Some(text) = files.get(FILE) else { return vec![format!("{FILE} is missing")] };
    let members: Vec<String> =
        workspace.members().into_iter().map(|package| workspace.folder(package)).collect();
    let mut problems = unnamed(text, &members, files);
    problems.extend(gone(text, files));
    problems.extend(invariants(text, files));
    problems
}

fn invariants(text: &str, files: &Files) -> Vec<String> {
    tested(FILE, "invariant", 0, text, files)
}

/// Members and modules that the map leaves out. A module is named by its file, its folder or its bare name.
fn unnamed(text: &str, members: &[String], files: &Files) -> Vec<String> {
    let spans: BTreeSet<&str> = code_spans(text).map(|(_, span)| span.trim_end_matches('/')).collect();
    let mut problems = Vec::new();
    for member in members {
        if !spans.contains(member.as_str()) {
            problems.push(format!("{FILE} does not name `{member}`"));
        }
        if !member.starts_with("crates/") {
            continue;
        }
        for module in modules(member, files) {
            let named = spans.iter().any(|span| {
                let last = span.rsplit('/').next().unwrap_or(span);
                last.strip_suffix(".rs").unwrap_or(last) == module
            });
            if !named {
                problems.push(format!("{FILE} does not name the module `{module}` of {member}"));
            }
        }
    }
    problems
}

/// The modules right below a crate's root: files and folders of `src` but the root itself.
fn modules<'a>(member: &str, files: &'a Files) -> BTreeSet<&'a str> {
    let source = format!("{member}/src/");
    files
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(source.as_str()))
        .filter_map(|path| {
            path.split_once('/').map(|(folder, _)| folder).or_else(|| path.strip_suffix(".rs"))
        })
        .filter(|module| !matches!(*module, "lib" | "main" | "bin"))
        .collect()
}

/// Paths that the document names and the tree does not have.
fn gone(text: &str, files: &Files) -> Vec<String> {
    code_spans(text)
        .filter(|(_, span)| {
            let known =
                ["crates/", "tests/", "xtask/", "docs/", ".ci/"].iter().any(|top| span.starts_with(top));
            // Not a pattern, not a command, and the part before `::` of a test's name.
            known && !span.contains(['*', '<', '{', ' ', '…'])
        })
        .map(|(line, span)| (line, span.split("::").next().unwrap_or(span)))
        .filter(|(_, path)| !files.has(path))
        .map(|(line, path)| format!("{FILE}:{line}: there is no {path}"))
        .collect()
}

/// Rows such as ``| 4 | Publish only when … | `crates/reload/tests/publish.rs::touch_publishes_nothing` |``: one at the least
/// for each number from 1 to `last`, or to the last one that has a row; and each names a test that exists.
pub(super) fn tested(file: &str, what: &str, last: usize, text: &str, files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    let mut tests_of: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some(number) = row_number(line) else { continue };
        let tests = tests_of.entry(number).or_default();
        for (_, span) in code_spans(line) {
            let Some((path, name)) = span.split_once("::") else { continue };
            *tests += 1;
            let name = name.rsplit("::").next().unwrap_or(name);
            let line = index + 1;
            match files.get(path) {
                None => problems.push(format!("{file}:{line}: {what} {number}: there is no {path}")),
                Some(source) if has_function(source, name) => {}
                Some(_) => problems.push(format!("{file}:{line}: {what} {number}: {path} has no fn {name}")),
            }
        }
    }
    if tests_of.is_empty() {
        problems.push(format!("{file} has no table of {what}s: | number | {what} | `path.rs::test` |"));
    }
    let last = tests_of.keys().last().copied().unwrap_or(0).max(last);
    for number in 1..=last {
        match tests_of.get(&number) {
            None => problems.push(format!("{file}: {what} {number} has no row")),
            Some(0) => problems.push(format!("{file}: {what} {number} names no test")),
            Some(_) => {}
        }
    }
    problems
}

pub(super) fn row_number(line: &str) -> Option<usize> {
    line.trim().strip_prefix('|')?.split('|').next()?.trim().parse().ok()
}

/// Whether a source has a function of this name, outside of comments.
pub(super) fn has_function(source: &str, name: &str) -> bool {
    let start = format!("fn {name}");
    source.lines().map(str::trim_start).filter(|line| !line.starts_with("//")).any(|line| {
        line.match_indices(&start).any(|(at, _)| line[at + start.len()..].starts_with(['(', '<', ' ']))
    })
}

/// What stands between single backticks outside fenced blocks, with its line.
pub(super) fn code_spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().flat_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let spans: Vec<&str> = if fenced { Vec::new() } else { line.split('`').skip(1).step_by(2).collect() };
        spans.into_iter().map(move |span| (index + 1, span))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Files {
        Files::of(&[
            ("crates/reload/src/lib.rs", ""),
            ("crates/reload/src/hub.rs", ""),
            ("crates/reload/src/events/mod.rs", ""),
            ("crates/reload/tests/publish.rs", "#[test]\nfn touch_publishes_nothing() {}\n// fn gone() {}\n"),
        ])
    }

    #[test]
    fn the_map_must_name_crates_and_modules() {
        let members = ["crates/reload".to_owned()];
        assert!(unnamed("`crates/reload/`: `hub`, `events/`", &members, &tree()).is_empty());
        assert!(
            unnamed("`crates/reload`, `crates/reload/src/hub.rs`, `events`", &members, &tree()).is_empty()
        );
        assert_eq!(
            unnamed("crates/reload and `hub`", &members, &tree()),
            [
                "docs/ARCHITECTURE.md does not name `crates/reload`",
                "docs/ARCHITECTURE.md does not name the module `events` of crates/reload"
            ]
        );
    }

    #[test]
    fn what_the_document_names_must_be_there() {
        assert!(gone("`crates/reload/src/hub.rs` and `crates/reload` and `crates/*`", &tree()).is_empty());
        assert_eq!(
            gone("a\n`crates/reload/src/old.rs`", &tree()),
            ["docs/ARCHITECTURE.md:2: there is no crates/reload/src/old.rs"]
        );
        assert!(gone("```\n`crates/old`\n```\n", &tree()).is_empty());
    }

    #[test]
    fn an_invariant_must_name_a_test_that_exists() {
        let row = |number: usize, test: &str| format!("| {number} | It holds. | `{test}` |\n");
        let good = "crates/reload/tests/publish.rs::touch_publishes_nothing";
        assert!(invariants(&row(1, good), &tree()).is_empty());
        assert_eq!(
            invariants(&(row(1, good) + &row(3, good)), &tree()),
            ["docs/ARCHITECTURE.md: invariant 2 has no row"]
        );
        for bad in [
            "crates/reload/tests/publish.rs::gone",
            "crates/reload/tests/publish.rs::touch",
            "a.rs::b",
            "nothing",
        ] {
            assert_eq!(invariants(&row(1, bad), &tree()).len(), 1, "{bad}");
        }
        assert_eq!(invariants("no table", &tree()).len(), 1);
    }
}
