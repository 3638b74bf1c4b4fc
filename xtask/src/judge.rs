//! How the output of a cell is judged. An exit status alone is not enough: a run of no tests exits well, too.

use serde_json::Value;

use crate::table::Verdict;

/// What makes a cell good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    /// Tests ran, at least one, and none failed or was ignored.
    Tests,
    /// It compiles. Nothing is run.
    Build,
    /// The program ended well.
    Exit,
    /// The demo ended well, and its summary says that requests were made and none failed, that the client saw every
    /// rotation that was asked for, and that the withdrawn CA was refused.
    Demo,
}

impl Judge {
    /// Judges a run by its end and by what it wrote to its standard output.
    pub(crate) fn verdict(self, success: bool, output: &str) -> Verdict {
        match self {
            Self::Tests => tests(success, output),
            Self::Build if success => Verdict::Built,
            Self::Build => Verdict::Failed("does not compile".to_owned(), None),
            Self::Exit if success => Verdict::Passed(None),
            Self::Exit => Verdict::Failed("see above".to_owned(), None),
            Self::Demo => match demo(success, output) {
                Ok(()) => Verdict::Passed(None),
                Err(why) => Verdict::Failed(why, None),
            },
        }
    }
}

fn tests(success: bool, output: &str) -> Verdict {
    let counts = Counts::read(output);
    let run = counts.passed + counts.failed;
    let count = Some(run);
    if counts.failed > 0 {
        Verdict::Failed(format!("{} failed", counts.failed), count)
    } else if !success {
        Verdict::Failed("did not end well".to_owned(), count)
    } else if counts.ignored > 0 {
        Verdict::Failed(format!("{} ignored: a test that never runs proves nothing", counts.ignored), count)
    } else if run == 0 {
        Verdict::Failed("ran no test".to_owned(), count)
    } else {
        Verdict::Passed(count)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    /// Adds up the closing lines of every test program: `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn read(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            let Some(result) = line.trim_start().strip_prefix("test result: ") else { continue };
            let numbers = result.split_once(". ").map_or("", |(_, numbers)| numbers);
            for part in numbers.split("; ") {
                let Some((number, what)) = part.split_once(' ') else { continue };
                let Ok(number) = number.parse::<usize>() else { continue };
                match what {
                    "passed" => counts.passed += number,
                    "failed" => counts.failed += number,
                    "ignored" => counts.ignored += number,
                    _ => {}
                }
            }
        }
        counts
    }
}

fn demo(success: bool, output: &str) -> Result<(), String> {
    if !success {
        return Err("the demo did not end well".to_owned());
    }
    let last = output.lines().rev().find(|line| !line.trim().is_empty()).ok_or("the demo printed nothing")?;
    let last: Value =
        serde_json::from_str(last).map_err(|error| format!("its last line is not JSON: {error}"))?;
    if last["event"] != "summary" {
        return Err("its last line is not the summary".to_owned());
    }
    let number =
        |name: &str| last[name].as_u64().ok_or_else(|| format!("its summary has no number `{name}`"));
    match (number("requests")?, number("failed")?) {
        (0, _) => return Err("it made no request".to_owned()),
        (_, 0) => {}
        (requests, failed) => return Err(format!("{failed} of {requests} requests failed")),
    }
    match (number("rotations_seen")?, number("rotations_asked")?) {
        (_, 0) => return Err("it was asked for no rotation".to_owned()),
        (seen, asked) if seen == asked => {}
        (seen, asked) => return Err(format!("the client saw {seen} of {asked} rotations")),
    }
    match last["withdrawn_ca_refused"].as_bool() {
        Some(true) => Ok(()),
        Some(false) => Err("the withdrawn CA was not always refused".to_owned()),
        None => Err("its summary does not say `withdrawn_ca_refused`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GOOD: &str = "running 2 tests\ntest a ... ok\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.00s\n\
        test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s\n";

    #[test]
    fn tests_of_every_program_are_added_up() {
        assert_eq!(Judge::Tests.verdict(true, GOOD), Verdict::Passed(Some(7)));
    }

    #[test]
    fn no_test_is_a_failure() {
        let empty = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Judge::Tests.verdict(true, empty), Verdict::Failed("ran no test".to_owned(), Some(0)));
        assert_eq!(Judge::Tests.verdict(true, ""), Verdict::Failed("ran no test".to_owned(), Some(0)));
    }

    #[test]
    fn failed_and_ignored_tests_are_failures() {
        let failed = "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Judge::Tests.verdict(false, failed), Verdict::Failed("1 failed".to_owned(), Some(3)));
        let ignored = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";
        assert!(matches!(Judge::Tests.verdict(true, ignored), Verdict::Failed(_, Some(2))));
    }

    #[test]
    fn a_bad_end_is_a_failure_whatever_was_counted() {
        assert_eq!(
            Judge::Tests.verdict(false, GOOD),
            Verdict::Failed("did not end well".to_owned(), Some(7))
        );
        assert!(matches!(Judge::Build.verdict(false, ""), Verdict::Failed(..)));
        assert!(matches!(Judge::Exit.verdict(false, ""), Verdict::Failed(..)));
        assert_eq!(Judge::Build.verdict(true, ""), Verdict::Built);
    }

    #[test]
    fn the_demo_is_judged_by_its_summary() {
        let summary = |changes: &[(&str, Value)]| {
            let mut summary = json!({
                "event": "summary", "requests": 900, "failed": 0, "rotations_asked": 20, "rotations_seen": 20,
                "withdrawn_ca_refused": true,
            });
            for (name, value) in changes {
                summary[*name] = value.clone();
            }
            format!("{{\"event\":\"rotation\"}}\n{summary}\n\n")
        };
        let good = summary(&[]);
        assert_eq!(Judge::Demo.verdict(true, &good), Verdict::Passed(None));
        let why = |success, output: &str| match Judge::Demo.verdict(success, output) {
            Verdict::Failed(why, None) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(false, &good), "the demo did not end well");
        assert_eq!(why(true, ""), "the demo printed nothing");
        assert_eq!(why(true, "{\"event\":\"reloaded\"}"), "its last line is not the summary");
        let with = |name: &str, value: Value| why(true, &summary(&[(name, value)]));
        assert_eq!(with("failed", json!(1)), "1 of 900 requests failed");
        assert_eq!(with("requests", json!(0)), "it made no request");
        assert_eq!(with("failed", Value::Null), "its summary has no number `failed`");
        assert_eq!(with("rotations_seen", json!(19)), "the client saw 19 of 20 rotations");
        assert_eq!(with("rotations_seen", Value::Null), "its summary has no number `rotations_seen`");
        assert_eq!(with("rotations_asked", json!(0)), "it was asked for no rotation");
        assert_eq!(with("withdrawn_ca_refused", json!(false)), "the withdrawn CA was not always refused");
        assert!(with("withdrawn_ca_refused", Value::Null).contains("does not say"));
        assert!(why(true, "done").starts_with("its last line is not JSON"));
    }
}
