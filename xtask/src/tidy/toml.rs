//! Manifests read line by line: keys, where they stand, and the comments above them. A TOML parser would throw the
//! comments away, and the comments are what is checked.

/// A key of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The table it is in, such as `workspace.dependencies`.
    pub(crate) table: String,
    /// The key up to its `=`, such as `rustls` or `rustls.workspace`.
    pub(crate) name: String,
    /// All of its value, over several lines if need be.
    pub(crate) value: String,
    /// Whether a comment stands right above it.
    pub(crate) commented: bool,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// Every key of a manifest.
pub(crate) fn keys(text: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    let mut table = String::new();
    let mut commented = false;
    let mut depth = 0;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if depth > 0 {
            if let Some(key) = keys.last_mut() {
                key.value.push('\n');
                key.value.push_str(line);
            }
            depth += balance(line);
        } else if line.starts_with('#') {
            commented = true;
            continue;
        } else if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((name, value)) = line.split_once('=') {
            let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
            depth = balance(&value);
            keys.push(Key { table: table.clone(), name, value, commented, line: index + 1 });
        }
        commented = false;
    }
    keys
}

/// The strings of an array that is written an item a line, and whether a comment stands right above each.
pub(crate) fn items(value: &str) -> Vec<(String, bool)> {
    let mut items = Vec::new();
    let mut commented = false;
    for line in value.lines().map(str::trim) {
        if line.starts_with('#') {
            commented = true;
            continue;
        }
        if let Some(item) = line.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
            items.push((item.to_owned(), commented));
        }
        commented = false;
    }
    items
}

/// Whether a table holds dependencies: normal, dev or build, for every target or for some.
pub(crate) fn holds_dependencies(table: &str) -> bool {
    let last = table.rsplit('.').next().unwrap_or(table);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
        && !table.starts_with("workspace.")
}

/// How many brackets a line opens more than it closes, strings and comments left out.
fn balance(line: &str) -> i32 {
    let mut balance = 0;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (None, '#') => break,
            (None, '[' | '{') => balance += 1,
            (None, ']' | '}') => balance -= 1,
            _ => {}
        }
    }
    balance
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "\
[workspace]
members = [
    # The core.
    \"crates/certsource\",
    \"xtask\",
]

[features]
default = [\"ring\"]
# Crypto # from ring.
ring = [
    \"rustls/ring\",
]

[target.'cfg(unix)'.dependencies]
rustix.workspace = true
# Far above

serde = { workspace = true, optional = true }
";

    #[test]
    fn keys_know_their_table_value_and_comment() {
        let keys = keys(MANIFEST);
        let seen: Vec<_> =
            keys.iter().map(|key| (key.table.as_str(), key.name.as_str(), key.commented)).collect();
        assert_eq!(
            seen,
            [
                ("workspace", "members", false),
                ("features", "default", false),
                ("features", "ring", true),
                ("target.'cfg(unix)'.dependencies", "rustix.workspace", false),
                ("target.'cfg(unix)'.dependencies", "serde", false),
            ]
        );
        assert_eq!(keys[2].value, "[\n\"rustls/ring\",\n]");
        assert_eq!(keys[2].line, 11);
    }

    #[test]
    fn items_know_their_comment() {
        let members = keys(MANIFEST).remove(0).value;
        assert_eq!(items(&members), [("crates/certsource".to_owned(), true), ("xtask".to_owned(), false)]);
    }

    #[test]
    fn dependencies_are_told_from_the_workspace_list() {
        assert!(holds_dependencies("dependencies"));
        assert!(holds_dependencies("dev-dependencies"));
        assert!(holds_dependencies("target.'cfg(unix)'.dependencies"));
        assert!(!holds_dependencies("workspace.dependencies"));
        assert!(!holds_dependencies("features"));
    }

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        assert_eq!(balance("[ # ["), 1);
        assert_eq!(balance("{ path = \"a]b\" }"), 0);
        assert_eq!(balance("check-cfg = ['cfg(loom)']"), 0);
    }
}
