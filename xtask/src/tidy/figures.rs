//! The figures: README and the page in docs say what `cargo xtask bench` measured, and nothing else.

use serde_json::Value;

use super::Files;
use crate::bench::page;

/// Compares both with the data file.
pub(super) fn check(files: &Files) -> Vec<String> {
    compare(files.get(page::DATA), files.get(page::PAGE), files.get(page::README))
}

fn compare(data: Option<&str>, shown: Option<&str>, readme: Option<&str>) -> Vec<String> {
    let Some(data) = data.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return vec![format!("{} is missing or no JSON: cargo xtask bench", page::DATA)];
    };
    let faults = page::faults(&data).into_iter();
    let mut problems: Vec<String> = faults.map(|fault| format!("{}: {fault}", page::DATA)).collect();
    if shown != Some(page::page(&data).as_str()) {
        problems.push(format!(
            "{} is not what {} makes of it: cargo xtask bench --render",
            page::PAGE,
            page::DATA
        ));
    }
    match readme.map(|text| (text, page::put_into_readme(text, &data))) {
        Some((text, Some(new))) if text == new => {}
        Some((_, Some(_))) => problems.push(format!(
            "the figures of {} are not those of {}: cargo xtask bench --render",
            page::README,
            page::DATA
        )),
        _ => problems.push(format!("{} has no place for figures", page::README)),
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_written_by_hand_is_found() {
        let data = r#"{ "machine": [], "rows": [{ "id": "look-mtime", "ours": "2 µs" }] }"#;
        let value: Value = serde_json::from_str(data).unwrap();
        let shown = page::page(&value);
        let marks: Vec<&str> = shown.lines().filter(|line| line.starts_with("<!--")).collect();
        let empty = format!("{}\n{}\n", marks[0], marks[1]);
        let readme = page::put_into_readme(&empty, &value).unwrap();
        assert!(compare(Some(data), Some(&shown), Some(&readme)).is_empty());
        let wrong = readme.replace("2 µs", "1 µs");
        assert_eq!(compare(Some(data), Some(&shown), Some(&wrong)).len(), 1);
        assert_eq!(compare(Some(data), Some("# Figures"), Some("")).len(), 2);
        assert_eq!(compare(None, None, None).len(), 1);
    }
}
