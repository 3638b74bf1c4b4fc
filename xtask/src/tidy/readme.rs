//! The README's first program is compiled as a documentation test of certsource-client. That only helps if it is the
//! same program, and if it is included.

use super::Files;
use crate::workspace::Workspace;

const ROOT: &str = "README.md";
const CRATE: &str = "certsource-client";

/// Compares the two, and looks for the line that includes the crate's README.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Vec<String> {
    let members = workspace.members();
    let Some(package) = members.iter().find(|package| package.name == CRATE) else {
        return vec![format!("there is no {CRATE}")];
    };
    let folder = workspace.folder(package);
    let mut problems = Vec::new();
    let page = format!("{folder}/README.md");
    problems.extend(compare(files.get(ROOT), files.get(&page), &page));
    let library = format!("{folder}/src/lib.rs");
    if !includes_readme(files.get(&library).unwrap_or_default()) {
        problems.push(format!("{library} does not include the README, so its program is not compiled"));
    }
    problems
}

fn compare(root: Option<&str>, page: Option<&str>, path: &str) -> Option<String> {
    let root = root.and_then(first_program);
    let page = page.and_then(first_program);
    match (root, page) {
        (None, _) => Some(format!("{ROOT} has no ```rust block")),
        (_, None) => Some(format!("{path} has no ```rust block")),
        (Some(root), Some(page)) if root != page => {
            Some(format!("the first ```rust blocks of {ROOT} and {path} differ"))
        }
        _ => None,
    }
}

fn first_program(text: &str) -> Option<Vec<&str>> {
    let mut lines = text.lines().skip_while(|line| !line.trim().starts_with("```rust"));
    lines.next()?;
    Some(lines.take_while(|line| line.trim() != "```").map(str::trim_end).collect())
}

fn includes_readme(library: &str) -> bool {
    library
        .lines()
        .map(str::trim)
        .any(|line| !line.starts_with("//") && line.contains("doc = include_str!(\"../README.md\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "# A\n```sh\ncargo run\n```\n```rust,no_run\nlet a = 1;\n```\n```rust\nlet b = 2;\n```\n";

    #[test]
    fn the_first_program_is_the_first_rust_block() {
        assert_eq!(first_program(ONE).unwrap(), ["let a = 1;"]);
        assert!(first_program("```text\na\n```\n").is_none());
    }

    #[test]
    fn programs_that_differ_are_found() {
        assert!(compare(Some(ONE), Some("```rust\nlet a = 1;\n```\n"), "p").is_none());
        assert!(compare(Some(ONE), Some("```rust\nlet a = 2;\n```\n"), "p").unwrap().contains("differ"));
        assert!(compare(Some(ONE), Some("none"), "p").is_some());
        assert!(compare(None, Some(ONE), "p").is_some());
    }

    #[test]
    fn the_readme_must_be_included() {
        assert!(includes_readme("#![doc = include_str!(\"../README.md\")]\n"));
        assert!(includes_readme(
            "#[cfg(doctest)]\n#[doc = include_str!(\"../README.md\")]\nstruct Readme;\n"
        ));
        assert!(!includes_readme("// #![doc = include_str!(\"../README.md\")]\n"));
    }
}
