//! Looks into sources for what cargo does not tell: whether a library has documentation tests, or tests at all. So no
//! cell is listed that has nothing to run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Whether `cargo test --doc` would find something below this folder.
pub(crate) fn has_doctests(folder: &Path) -> Result<bool> {
    any_below(folder, &|path, source| Ok(in_source(source) || in_included_pages(path, source)?))
}

/// Whether a source below this folder has a test function.
pub(crate) fn has_tests(folder: &Path) -> Result<bool> {
    any_below(folder, &|_, source| Ok(has_test(source)))
}

fn any_below(folder: &Path, has: &dyn Fn(&Path, &str) -> Result<bool>) -> Result<bool> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        let found = if path.is_dir() {
            any_below(&path, has)?
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            has(&path, &read(&path)?)?
        } else {
            false
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_test(source: &str) -> bool {
    source.lines().map(str::trim).any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
}

fn in_included_pages(path: &Path, source: &str) -> Result<bool> {
    for line in source.lines().filter(|line| line.contains("doc = include_str!(")) {
        let page = line.split('"').nth(1).unwrap_or_default();
        if in_markdown(read(&path.with_file_name("").join(page))?.lines()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn in_source(source: &str) -> bool {
    in_markdown(source.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
    }))
}

/// Whether a fenced block of Markdown is Rust in rustdoc's eyes: no language, or only words that rustdoc knows.
fn in_markdown<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    let mut inside = false;
    for line in lines {
        let Some(language) = line.trim().strip_prefix("```") else { continue };
        inside = !inside;
        if inside && language.split([',', ' ']).all(is_rust) {
            return true;
        }
    }
    false
}

fn is_rust(word: &str) -> bool {
    matches!(word, "" | "rust" | "no_run" | "should_panic" | "compile_fail") || word.starts_with("edition")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_blocks_in_doc_comments_are_doctests() {
        assert!(in_source("/// Adds.\n///\n/// ```\n/// assert_eq!(1 + 1, 2);\n/// ```\npub fn add() {}\n"));
        assert!(in_source("//! ```rust,no_run\n//! loop {}\n//! ```\n"));
        assert!(in_source("//! ```text\n//! a\n//! ```\n//! ```\n//! let a = 1;\n//! ```\n"));
    }

    #[test]
    fn test_functions_are_seen() {
        assert!(has_test("mod tests {\n    #[test]\n    fn a() {}\n}\n"));
        assert!(has_test("#[tokio::test(flavor = \"multi_thread\")]\nasync fn a() {}\n"));
        assert!(!has_test("// #[test]\nfn a() {}\n"));
    }

    #[test]
    fn other_blocks_and_plain_comments_are_not() {
        assert!(!in_source("//! ```text\n//! a table\n//! ```\n"));
        assert!(!in_source("//! ```json\n//! {}\n//! ```\n"));
        assert!(!in_source("// ```\n// not documentation\n// ```\nfn f() {}\n"));
    }
}
