//! Links between pages: what they name is in the tree, and the heading that they lead to is on that page. Links to other
//! sites are not followed.

use super::Files;

/// Checks every page.
pub(super) fn check(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (page, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (line, target) in links(text) {
            if let Some(problem) = judge(files, page, text, target) {
                problems.push(format!("{page}:{line}: the link to {target} {problem}"));
            }
        }
    }
    problems
}

fn judge(files: &Files, page: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { page.to_owned() } else { resolve(page, path) };
    if !files.has(&path) {
        return Some("leads to nothing in the tree".to_owned());
    }
    if heading.is_empty() || !path.ends_with(".md") {
        return None;
    }
    let there = if path == page { text } else { files.get(&path).unwrap_or_default() };
    let has_heading = prose(there).any(|(_, line)| {
        let title = line.trim_start_matches('#');
        title.len() < line.len() && anchor(title) == heading
    });
    (!has_heading).then(|| format!("leads to no heading of {path}"))
}

/// The lines outside of fenced code, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        (!inside && !is_fence).then_some((index + 1, line))
    })
}

/// The targets of inline links, with their lines. Code spans hold none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let spans = line.split('`').step_by(2);
        // A link's words may be a code span, so its end can stand at the start of a part.
        for part in spans {
            for target in part.split("](").skip(1) {
                if let Some((target, _)) = target.split_once(')') {
                    found.push((number, target.split(' ').next().unwrap_or_default()));
                }
            }
        }
    }
    found
}

/// The path that `target` means on `page`.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The name that a heading can be linked by.
fn anchor(title: &str) -> String {
    let mut anchor = String::new();
    for letter in title.trim().chars() {
        match letter {
            ' ' => anchor.push('-'),
            letter if letter.is_alphanumeric() || matches!(letter, '-' | '_') => {
                anchor.extend(letter.to_lowercase());
            }
            _ => {}
        }
    }
    anchor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(page: &str) -> Vec<String> {
        check(&Files::of(&[
            ("docs/page.md", page),
            ("docs/other.md", "# Other\n## A `name`, and more\n```\n# no heading\n```\n"),
            ("src/lib.rs", ""),
        ]))
    }

    #[test]
    fn links_that_lead_somewhere_are_good() {
        let page = "# Here\n[a](other.md) [b](other.md#a-name-and-more) [`c`](../src/lib.rs) [d](#here) [e](../src/)\n\
                    [f](https://docs.rs/x#y)\n";
        assert_eq!(problems(page), Vec::<String>::new());
    }

    #[test]
    fn links_that_lead_nowhere_are_told_with_their_line() {
        assert_eq!(
            problems("\n[a](gone.md)"),
            ["docs/page.md:2: the link to gone.md leads to nothing in the tree"]
        );
        assert_eq!(
            problems("[a](other.md#no-heading)"),
            ["docs/page.md:1: the link to other.md#no-heading leads to no heading of docs/other.md"]
        );
        assert_eq!(problems("[`a`](#gone)").len(), 1);
    }

    #[test]
    fn code_holds_no_links() {
        assert_eq!(problems("`[a](gone.md)`\n```text\n[a](gone.md)\n```\n"), Vec::<String>::new());
    }
}
