//! The order of a release, as CONTRIBUTING.md tells it: every published crate once, after all of ours that it needs. Tests
//! count: the registry takes a crate only when it has what the crate's tests depend on.

use super::Files;
use crate::workspace::Workspace;

const FILE: &str = "CONTRIBUTING.md";

/// What the line with the order begins with.
const COMMAND: &str = "cargo publish";

/// Checks the order.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Vec<String> {
    let published: Vec<(String, Vec<String>)> = workspace
        .members()
        .into_iter()
        .filter(|package| package.is_published())
        .map(|package| {
            let needs = package.dependencies.iter().map(|dependency| dependency.name.clone()).collect();
            (package.name.clone(), needs)
        })
        .collect();
    compare(files.get(FILE).unwrap_or_default(), &published)
}

fn compare(text: &str, published: &[(String, Vec<String>)]) -> Vec<String> {
    let span = format!("`{COMMAND}");
    let Some((index, line)) = text.lines().enumerate().find(|(_, line)| line.contains(&span)) else {
        return vec![format!("{FILE} does not say in which order crates are published: {span} …`")];
    };
    let place = format!("{FILE}:{}", index + 1);
    let is_published = |name: &&str| published.iter().any(|(known, _)| known == name);
    let order: Vec<&str> = line.split('`').skip(1).step_by(2).filter(is_published).collect();
    let mut problems = Vec::new();
    for (name, needs) in published {
        let places: Vec<usize> = (0..order.len()).filter(|at| order[*at] == name).collect();
        let [at] = places[..] else {
            problems.push(format!("{place}: names {name} {} times in the order of a release", places.len()));
            continue;
        };
        let late =
            order[at..].iter().filter(|other| *other != name && needs.iter().any(|need| need == *other));
        problems.extend(late.map(|other| format!("{place}: {name} needs {other}, which comes later")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_comes_after_what_it_and_its_tests_need() {
        let published =
            [("core", &["testkit", "serde"][..]), ("client", &["core", "testkit"]), ("testkit", &[])];
        let published = published.map(|(name, needs)| {
            (name.to_owned(), needs.iter().map(|need| (*need).to_owned()).collect::<Vec<String>>())
        });
        let check = |order: &str| compare(&format!("# C\n7. `cargo publish`, {order}.\n"), &published);
        assert!(check("`testkit`, `core`, `client`").is_empty());
        assert_eq!(
            check("`core`, `testkit`, `client`"),
            ["CONTRIBUTING.md:2: core needs testkit, which comes later"]
        );
        assert_eq!(check("`testkit`, `core`").len(), 1);
        assert!(check("`testkit`, `core`, `client`, `core`")[0].contains("names core 2 times"));
        assert_eq!(compare("# C\n", &published).len(), 1);
    }
}
