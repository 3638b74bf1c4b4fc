//! The figures as text: the page in docs and the table in README. Pure functions of the data file, so that `tidy` can
//! tell whether somebody wrote a figure by hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

/// What was measured.
pub(crate) const DATA: &str = "docs/benchmarks.json";
/// All of it, for people.
pub(crate) const PAGE: &str = "docs/BENCHMARKS.md";
/// A part of it, for people in a hurry.
pub(crate) const README: &str = "README.md";

const BEGIN: &str = "<!-- Written by `cargo xtask bench`. Do not edit. -->";
const END: &str = "<!-- End of what `cargo xtask bench` wrote. -->";

/// The order of the page. What README shows is marked.
const ORDER: [(&str, bool); 39] = [
    ("look-mtime", true),
    ("look-link-calls", false),
    ("look-link", false),
    ("look-sha256", false),
    ("load-roots", true),
    ("many-cpu", true),
    ("many-drift", false),
    ("many-memory", true),
    ("many-idle", true),
    ("nothing-left", false),
    ("event-file", true),
    ("event-pair", false),
    ("event-swap", true),
    ("event-swap-kept", false),
    ("requests-h1-1", false),
    ("requests-h1-64", true),
    ("requests-h2-1", false),
    ("requests-h2-64", true),
    ("handshakes-h1", true),
    ("handshakes-h1-64", false),
    ("handshakes-h2", false),
    ("handshakes-h2-64", false),
    ("allocations-h1", false),
    ("allocations-h2", true),
    ("first-request-h1-began", false),
    ("first-request-h1", false),
    ("first-request-h2-began", false),
    ("first-request-h2", true),
    ("throughput-h1", false),
    ("throughput-h2", true),
    ("snapshot", false),
    ("listener-handshakes", false),
    ("listener-requests", false),
    ("follow-unary", false),
    ("cli-inspect", true),
    ("cli-inspect-json", false),
    ("cli-scrape", true),
    ("cli-check", true),
    ("cli-size", false),
];

/// Where a figure stands on the page.
pub(crate) fn place(id: &str) -> usize {
    ORDER.iter().position(|(known, _)| *known == id).unwrap_or(ORDER.len())
}

/// The figures that the data lacks, in the order of the page.
fn missing(data: &Value) -> Vec<&'static str> {
    let rows = data["rows"].as_array().map_or(&[][..], Vec::as_slice);
    ORDER.iter().map(|(id, _)| *id).filter(|id| rows.iter().all(|row| row["id"] != *id)).collect()
}

/// What is wrong with the data: figures of several commits can not be compared, and one that is not in the order of the
/// page would be shown nowhere. What is missing is no fault here: the page and README say so by themselves.
pub(crate) fn faults(data: &Value) -> Vec<String> {
    let rows = data["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let commits: BTreeSet<&str> = rows.iter().map(|row| text(row, "commit")).collect();
    let mut faults = Vec::new();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        faults.push(format!("figures of different commits: {}: cargo xtask bench", commits.join(", ")));
    }
    let strangers = rows.iter().map(|row| text(row, "id")).filter(|id| place(id) == ORDER.len());
    faults.extend(strangers.map(|id| format!("{id} is not in the ORDER of xtask/src/bench/page.rs")));
    faults
}

/// A figure as a line for the terminal.
pub(crate) fn line(row: &Value) -> String {
    let verdict = verdict(row, "MISSED");
    format!("{}: {} (bar: {}, {verdict})", text(row, "what"), text(row, "result"), text(row, "bar"))
}

/// Whether the bar is met, for people. A figure that was missed by less than its digits show says so; else it reads as met.
/// Ratios of today get the digits that they need when they are measured; older data, and the program's figures, may not have.
fn verdict(row: &Value, missed: &str) -> String {
    if row["met"] == true {
        return "met".to_owned();
    }
    match (number(text(row, "result")), number(text(row, "bar"))) {
        (Some(result), Some(bar)) if result == bar => format!("{missed}, by less than is shown"),
        _ => missed.to_owned(),
    }
}

/// The first number in a text.
fn number(text: &str) -> Option<f64> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.split(|c| !is_part(c)).find_map(|part| part.parse().ok())
}

/// Figures as a Markdown table.
pub(crate) fn table(rows: &[Value]) -> String {
    let mut page = String::from(
        "| figure | certsource | bare | result | bar | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let verdict = verdict(row, "**missed**");
        let cells = ["what", "ours", "bare", "result", "bar"].map(|name| text(row, name).replace('|', "\\|"));
        let _ = writeln!(page, "| {} | {verdict} |", cells.join(" | "));
    }
    page
}

/// The page in docs.
pub(crate) fn page(data: &Value) -> String {
    let rows = data["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let mut page = format!("# Figures\n\n{BEGIN}\n\n");
    page.push_str(
        "Where there is a bare alternative, a figure is measured beside it, in turns, in one run; a ratio is the median of\n\
         the rounds' ratios. A figure that nothing bare stands beside is held against its bar alone. `cargo xtask bench`\n\
         measures them all in some twenty minutes, `--only NAME` one of them. What a figure is made of is in\n\
         `benches/src/bin` and `crates/cli/benches`.\n\n",
    );
    for fact in data["machine"].as_array().into_iter().flatten() {
        let _ = writeln!(page, "- {}: {}", text(fact, "name"), text(fact, "value"));
    }
    page.push('\n');
    page.push_str(&table(rows));
    let missing: Vec<String> = missing(data).iter().map(|id| format!("`{id}`")).collect();
    if !missing.is_empty() {
        let _ = writeln!(page, "\nNot measured in this run: {}.", missing.join(", "));
    }
    page.push_str("\n## Notes\n\n");
    for row in rows {
        let note = text(row, "note");
        let commit = text(row, "commit");
        let colon = if note.is_empty() { "" } else { ": " };
        let _ = writeln!(page, "- `{}` (commit {commit}){colon}{note}", text(row, "id"));
    }
    let _ = writeln!(page, "\n{END}");
    page
}

/// README with these figures, if it has a place for them.
pub(crate) fn put_into_readme(readme: &str, data: &Value) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let shown: Vec<Value> = data["rows"]
        .as_array()?
        .iter()
        .filter(|row| ORDER.iter().any(|(id, is_shown)| *is_shown && row["id"] == *id))
        .cloned()
        .collect();
    let mut table = table(&shown);
    let missing = missing(data).len();
    if missing > 0 {
        let _ = writeln!(table, "\n{missing} of {} figures were not measured in this run.", ORDER.len());
    }
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> Value {
        let row = |id: &str, met| json!({ "id": id, "what": "a look", "ours": "2", "bare": "1", "result": "2 ×", "bar": "≤ 1 ×", "met": met, "note": "n", "commit": "c" });
        json!({ "machine": [{ "name": "cores", "value": "2" }], "rows": [row("look-mtime", true), row("look-link", false)] })
    }

    #[test]
    fn the_page_holds_every_figure_and_says_what_was_missed() {
        let page = page(&data());
        assert!(
            page.contains("- cores: 2\n") && page.contains("| a look | 2 | 1 | 2 × | ≤ 1 × | met |"),
            "{page}"
        );
        assert!(page.contains("**missed**") && page.contains("- `look-link` (commit c): n"), "{page}");
    }

    #[test]
    fn what_was_missed_by_less_than_is_shown_does_not_read_as_met() {
        let row = |result: &str, bar: &str, met| {
            let row = json!({ "what": "requests", "result": result, "bar": bar, "met": met });
            line(&row)
        };
        let close = "0.98 (quartiles 0.93–1.07) ×";
        assert!(row(close, "≥ 0.98 ×", false).ends_with("(bar: ≥ 0.98 ×, MISSED, by less than is shown)"));
        assert!(row("0.080 s, 1.10 ×", "≤ 0.08 s", false).ends_with("by less than is shown)"));
        assert!(row(close, "≥ 0.98 ×", true).ends_with(", met)"));
        assert!(row("0.977 (quartiles 0.93–1.07) ×", "≥ 0.98 ×", false).ends_with(", MISSED)"));
        assert!(row("p50 1.39 ms, p99 3.71 ms", "p99 ≤ 1 ms", false).ends_with(", MISSED)"));
    }

    #[test]
    fn the_page_says_that_a_bare_side_is_not_everywhere() {
        let mut alone = data();
        alone["rows"][0]["bare"] = json!("–");
        let page = page(&alone);
        assert!(!page.contains("Each figure is measured beside"), "{page}");
        assert!(page.contains("Where there is a bare alternative, a figure is measured beside it"), "{page}");
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let page = page(&data());
        assert!(page.contains("Not measured in this run: `look-link-calls`, `look-sha256`"), "{page}");
        let readme = put_into_readme(&format!("{BEGIN}\n{END}"), &data()).unwrap();
        let said = format!("{} of {} figures were not measured", ORDER.len() - 2, ORDER.len());
        assert!(readme.contains(&said), "{readme}");
    }

    #[test]
    fn figures_of_two_commits_and_unknown_ones_are_faults() {
        assert!(faults(&data()).is_empty());
        let mut mixed = data();
        mixed["rows"][1]["commit"] = json!("d");
        assert_eq!(faults(&mixed), ["figures of different commits: c, d: cargo xtask bench"]);
        let mut stranger = data();
        stranger["rows"][1]["id"] = json!("look-up");
        assert_eq!(faults(&stranger).len(), 1);
    }

    #[test]
    fn readme_gets_its_part_and_keeps_the_rest() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = put_into_readme(&readme, &data()).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("after\n") && !new.contains("old"));
        assert_eq!(new.matches("a look").count(), 1, "only what is marked: {new}");
        assert_eq!(put_into_readme(&new, &data()).unwrap(), new, "writing it again changes nothing");
        assert!(put_into_readme("no place", &data()).is_none());
    }
}
