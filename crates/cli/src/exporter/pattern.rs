//! Paths with `*` and `?` in them, as a shell would expand them; for when no shell does, and for files that come later.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether a path is a pattern. One that exists under this very name is not.
pub(super) fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?']) && !path.exists()
}

/// Everything that the pattern means now, in the order of the names.
pub(super) fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = part.as_os_str();
        let text = name.to_string_lossy();
        if !text.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(name));
            continue;
        }
        let mut next = Vec::new();
        for directory in &found {
            let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let entries = fs::read_dir(here).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            let mut names: Vec<_> = names.filter(|name| matches(&text, &name.to_string_lossy())).collect();
            names.sort_unstable();
            next.extend(names.into_iter().map(|name| directory.join(name)));
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found
}

/// One name. A leading dot is matched by a dot only, as in shells.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*.crt", "a.crt"),
            ("*", "x"),
            ("a*b*c", "a-b-b-c"),
            ("?.pem", "ü.pem"),
            (".*", ".x"),
            ("a*", "a"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.crt", "a.pem"), ("*", ".x"), ("?", ""), ("?", "ab"), ("a*b", "a"), ("a*b*c", "a-c-b")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_are_expanded_on_every_level() {
        let dir = certsource_testkit::TestDir::new().unwrap();
        for name in ["a/tls.crt", "b/tls.crt", "b/ca.crt", "c/other"] {
            dir.write(name, "").unwrap();
        }
        let found = |pattern: &str| -> Vec<PathBuf> {
            expand(&dir.join(pattern))
                .iter()
                .map(|path| path.strip_prefix(dir.path()).unwrap().to_owned())
                .collect()
        };
        assert_eq!(found("*/tls.crt"), [Path::new("a/tls.crt"), Path::new("b/tls.crt")]);
        assert_eq!(found("?/*.crt"), [Path::new("a/tls.crt"), Path::new("b/ca.crt"), Path::new("b/tls.crt")]);
        assert!(found("*/none").is_empty());
        assert!(is_pattern(&dir.join("*")) && !is_pattern(&dir.join("a")));
    }
}
