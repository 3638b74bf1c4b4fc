//! docs/SCENARIOS.md: each scenario of its list names a test that exists, and a control that fails it: the forty lines, or
//! another test.

use std::collections::BTreeMap;

use super::{Files, architecture};

const FILE: &str = "docs/SCENARIOS.md";

/// Checks the table against the list above it.
pub(super) fn check(files: &Files) -> Vec<String> {
    let Some(text) = files.get(FILE) else { return vec![format!("{FILE} is missing")] };
    let mut problems = architecture::tested(FILE, "scenario", last(text), text, files);
    problems.extend(uncontrolled(text));
    problems
}

/// Numbers of which no row says in its last column that the forty lines fail, or which test fails. A second table, about
/// something else, may say less.
fn uncontrolled(text: &str) -> Vec<String> {
    let mut controlled: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some(number) = architecture::row_number(line) else { continue };
        let control = line.trim().trim_end_matches('|').rsplit(" | ").next().unwrap_or_default();
        let is_one = control.contains("they fail") || control.contains(".rs::");
        controlled.entry(number).or_insert((index + 1, false)).1 |= is_one;
    }
    let bare = controlled.values().filter(|(_, is_controlled)| !is_controlled);
    bare.map(|(line, _)| format!("{FILE}:{line}: names no control that fails it")).collect()
}

/// The last number of the list: lines such as `7. Removed for 5 s, back → served throughout.`
fn last(text: &str) -> usize {
    let numbers = text.lines().filter_map(|line| line.split_once(". ")?.0.parse().ok());
    numbers.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_must_name_a_test() {
        let tests = ("tests/a.rs", "async fn s01_it_is_so<S: Subject>() {}\n");
        let list = "# Scenarios\n\n1. This.\n2. That.\n\n";
        let row = |number: usize, test: &str| format!("| {number} | `tests/a.rs::{test}` | they fail |\n");
        let check = |text: String| check(&Files::of(&[(FILE, text.as_str()), tests]));
        assert!(check(list.to_owned() + &row(1, "s01_it_is_so") + &row(2, "s01_it_is_so")).is_empty());
        let problems = check(list.to_owned() + &row(1, "s01_it_is_so"));
        assert_eq!(problems, ["docs/SCENARIOS.md: scenario 2 has no row"]);
        let problems = check(list.to_owned() + &row(1, "s01_it_is_so") + &row(2, "gone"));
        assert_eq!(problems, ["docs/SCENARIOS.md:7: scenario 2: tests/a.rs has no fn gone"]);
    }

    #[test]
    fn each_scenario_must_name_a_control() {
        let row = |control: &str| format!("| 1 | `tests/a.rs::s01` | {control} |\n");
        assert!(uncontrolled(&row("they fail")).is_empty());
        assert!(uncontrolled(&row("they pass; who fails: `tests/b.rs::s01_by_hand`")).is_empty());
        assert_eq!(uncontrolled(&row("they pass")), ["docs/SCENARIOS.md:1: names no control that fails it"]);
    }
}
