//! Files: every source opens with what it is about, stays readable, has no unfinished work and no ignored test; no
//! file names a machine's folders, and no certificate or key is checked in.

use super::Files;

/// No file of a crate is longer. Near this, it is two files.
const LONGEST: usize = 600;

/// Folders of one machine. In parts, so that this file does not hold them.
const MACHINE: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Work that was not done, and tests that are not run.
const UNFINISHED: [&str; 4] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("#[ign", "ore"),
    concat!(", ign", "ore)]"),
];

/// Ways to silence the lint that keeps our own use of the standard library within the lowest compiler.
const SILENCED: [&str; 2] = [concat!("clippy::incompat", "ible_msrv"), concat!("incompat", "ible_msrv =")];

/// Certificates are minted by the tests that need them: one that is checked in expires some day.
const MATERIAL: [&str; 8] = [".pem", ".crt", ".cer", ".der", ".key", ".p12", ".pfx", ".crl"];

/// Checks every file.
pub(super) fn check(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.iter() {
        problems.extend(machine(path, text));
        if path.ends_with(".rs") || path.ends_with(".toml") {
            problems.extend(find(
                path,
                text.lines(),
                &SILENCED,
                "may silence a lint that `cargo xtask msrv` relies on",
            ));
        }
        if path.ends_with(".rs") {
            problems.extend(opening(path, text));
            problems.extend(length(path, text));
            problems.extend(unfinished(path, text));
        }
    }
    let paths = files.iter().map(|(path, _)| path).chain(files.binaries.iter().map(String::as_str));
    problems.extend(paths.filter_map(material));
    problems
}

fn machine(path: &str, text: &str) -> Vec<String> {
    find(path, text.lines(), &MACHINE, "names a folder of one machine")
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    // A comment may speak of them. Emptied and not left out, so that the lines keep their numbers.
    let code = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    find(path, code, &UNFINISHED, "is unfinished work or a test that never runs")
}

fn find<'a>(path: &str, lines: impl Iterator<Item = &'a str>, words: &[&str], what: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in lines.enumerate() {
        for word in words.iter().filter(|word| line.contains(**word)) {
            problems.push(format!("{path}:{}: `{word}` {what}", index + 1));
        }
    }
    problems
}

fn opening(path: &str, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // A crate's root may take its words from a page.
    let good = first.starts_with("//!") || first.starts_with("#![doc = include_str!(");
    (!good).then(|| format!("{path} does not open with a //! paragraph that says what lives there"))
}

fn length(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LONGEST).then(|| format!("{path} has {lines} lines: over {LONGEST}, it is two files"))
}

fn material(path: &str) -> Option<String> {
    MATERIAL
        .iter()
        .any(|extension| path.ends_with(extension))
        .then(|| format!("{path}: certificates and keys are minted in tests, never checked in"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_folder_is_found_with_its_line() {
        let text = format!("a\nsee {}src\n", MACHINE[0]);
        assert_eq!(machine("a.md", &text).len(), 1);
        assert!(machine("a.md", &text)[0].starts_with("a.md:2: "));
        assert!(machine("a.md", "etc/tls and work/ and home").is_empty());
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_not_in_comments() {
        for word in UNFINISHED {
            assert_eq!(unfinished("a.rs", &format!("fn f() {{ {word}) }}\n")).len(), 1, "{word}");
            assert!(unfinished("a.rs", &format!("    // {word}) is banned\n")).is_empty(), "{word}");
        }
        assert!(unfinished("a.rs", "fn f() {}\n").is_empty());
    }

    #[test]
    fn a_source_opens_with_what_it_is_about() {
        assert!(opening("a.rs", "\n//! Reads files.\nuse std::fs;\n").is_none());
        assert!(opening("a.rs", "#![doc = include_str!(\"../README.md\")]\n").is_none());
        assert!(opening("a.rs", "use std::fs;\n//! Late.\n").is_some());
        assert!(opening("a.rs", "").is_some());
    }

    #[test]
    fn a_long_file_and_a_key_are_found() {
        assert!(length("a.rs", &"\n".repeat(LONGEST)).is_none());
        assert!(length("a.rs", &"\n".repeat(LONGEST + 1)).is_some());
        assert!(material("tests/ca.pem").is_some());
        assert!(material("src/pem.rs").is_none());
    }
}
