//! What pages name as proof is in the tree: tests (`path.rs::name`), files, and the tests and examples of commands. Where a page
//! owes a test, it names one: each row of a table whose last column is "held by", and each section of docs/PROOFS.md.
//! The numbered tables of docs/ARCHITECTURE.md and docs/SCENARIOS.md have rules of their own besides.

use super::Files;
use super::architecture::{code_spans, has_function};
use crate::workspace::Workspace;

const PROOFS: &str = "docs/PROOFS.md";

/// Folders of ours. A path of another project, in a list of sources, begins with none of them.
const OURS: [&str; 7] = ["crates/", "tests/tests/", "tests/src/", "examples/", "benches/", "xtask/", "fuzz/"];

/// The words at the top of a column that names tests.
const HELD_BY: &str = "held by";

/// Checks every page.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Vec<String> {
    let members: Vec<(String, String)> = workspace
        .members()
        .into_iter()
        .map(|package| (package.name.clone(), workspace.folder(package)))
        .collect();
    let mut problems = Vec::new();
    for (page, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        problems.extend(spans(page, text, files));
        problems.extend(commands(page, text, &members, files));
        problems.extend(owed(page, text));
    }
    problems.extend(sections(files.get(PROOFS).unwrap_or_default()));
    problems
}

/// Tests and files between backticks.
fn spans(page: &str, text: &str, files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, span) in code_spans(text) {
        let (path, test) = split(span);
        let is_ours = OURS.iter().any(|folder| path.starts_with(folder));
        if !path.ends_with(".rs") || !is_ours || path.contains(['*', '<', '{', ' ']) {
            continue;
        }
        match (files.get(path), test) {
            (None, _) => problems.push(format!("{page}:{line}: there is no {path}")),
            (Some(source), Some(name)) if !has_function(source, name) => {
                problems.push(format!("{page}:{line}: {path} has no fn {name}"));
            }
            _ => {}
        }
    }
    problems
}

/// `path.rs::module::name` as path and name.
fn split(span: &str) -> (&str, Option<&str>) {
    match span.split_once("::") {
        Some((path, name)) => (path, Some(name.rsplit("::").next().unwrap_or(name))),
        None => (span, None),
    }
}

/// `-p PACKAGE … --test NAME`, and `--example NAME`, in code of any kind.
fn commands(page: &str, text: &str, members: &[(String, String)], files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.contains("cargo ")) {
        let words: Vec<&str> = line.split([' ', '`']).collect();
        let after = |word: &str| words.iter().position(|other| *other == word).map(|at| words.get(at + 1));
        let package = after("-p").or_else(|| after("--package")).flatten();
        if let (Some(package), Some(Some(test))) = (package, after("--test")) {
            let folder = members.iter().find(|(name, _)| name == package).map(|(_, folder)| folder);
            let path = folder.map(|folder| format!("{folder}/tests/{test}.rs"));
            if path.as_ref().is_none_or(|path| files.get(path).is_none()) {
                problems.push(format!("{page}:{}: {package} has no test {test}", index + 1));
            }
        }
        if let Some(Some(example)) = after("--example") {
            let is_name = example.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_name && files.get(&format!("examples/{example}.rs")).is_none() {
                problems.push(format!("{page}:{}: there is no example {example}", index + 1));
            }
        }
    }
    problems
}

/// Rows of a table whose last column is "held by" and that name no test in it.
fn owed(page: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut owes = false;
    for (index, line) in text.lines().enumerate() {
        let Some(row) = line.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            owes = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        let is_line = last.trim_matches(['-', ':']).is_empty();
        if last == HELD_BY {
            owes = true;
        } else if owes && !is_line && !last.contains(".rs::") {
            problems.push(format!("{page}:{}: names no test that holds it", index + 1));
        }
    }
    problems
}

/// Sections of the page of proofs that do not say what was run.
fn sections(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for section in text.split("\n## ").skip(1) {
        if !section.contains(".rs::") {
            let title = section.lines().next().unwrap_or_default();
            problems.push(format!("{PROOFS}: the section \"{title}\" names no test: `path.rs::name`"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Files {
        Files::of(&[
            ("crates/a/tests/b.rs", "fn it_holds() {}\n"),
            ("tests/tests/c.rs", "async fn it_goes_on(cell: Cell) {}\n"),
            ("examples/by_hand.rs", "fn main() {}\n"),
        ])
    }

    #[test]
    fn tests_and_files_that_are_named_must_be_there() {
        let good = "`crates/a/tests/b.rs::it_holds`, `tests/tests/c.rs::cell::it_goes_on`, `examples/by_hand.rs`, `src/x.rs`";
        assert!(spans("p.md", good, &tree()).is_empty());
        assert_eq!(
            spans("p.md", "a\n`crates/a/tests/b.rs::it_is_gone` `crates/a/tests/gone.rs`", &tree()),
            [
                "p.md:2: crates/a/tests/b.rs has no fn it_is_gone",
                "p.md:2: there is no crates/a/tests/gone.rs"
            ]
        );
    }

    #[test]
    fn the_tests_and_examples_of_commands_must_be_there() {
        let members = [("certsource-tests".to_owned(), "tests".to_owned())];
        let check = |text: &str| commands("p.md", text, &members, &tree());
        assert!(
            check("X=1 cargo test -p certsource-tests --all-features --test c -- --nocapture").is_empty()
        );
        assert!(check("`cargo run --example by_hand`, `cargo run --example NAME`").is_empty());
        assert_eq!(check("cargo test -p certsource-tests --test d").len(), 1);
        assert_eq!(check("cargo test -p gone --test c").len(), 1);
        assert_eq!(check("`cargo run --example gone` shows").len(), 1);
    }

    #[test]
    fn a_row_that_owes_a_test_names_one() {
        let table = "| what | held by |\n| --- | --- |\n| this | `crates/a/tests/b.rs::it_holds` |\n";
        assert!(owed("p.md", table).is_empty());
        let problems = owed("p.md", &format!("{table}| that | us |\n\n| other | table |\n| a | b |\n"));
        assert_eq!(problems, ["p.md:4: names no test that holds it"]);
    }

    #[test]
    fn a_section_of_proofs_names_a_test() {
        assert!(sections("# Runs\n\nWords.\n\n## One\n\n`crates/a/tests/b.rs::it_holds`\n").is_empty());
        assert_eq!(sections("# Runs\n\n## One\n\nWords.\n\n## Two\n\n`a.rs::b`\n").len(), 1);
    }
}
