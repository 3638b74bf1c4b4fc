//! The help teaches by examples, and a wrong command line is one line.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use crate::common::run;

const COMMANDS: [&str; 7] = ["demo", "get", "watch", "inspect", "check", "doctor", "exporter"];

#[test]
fn every_command_explains_itself_by_examples() {
    let main = run(["--help"]);
    assert_eq!((main.code, &*main.stderr), (Some(0), ""));
    for command in COMMANDS {
        assert!(main.stdout.contains(&format!("\n  {command} ")), "{command} is in the list");
        assert!(main.stdout.contains(&format!("\n  certsource {command}")), "{command} has an example");
        for flag in ["--help", "-h"] {
            let help = run([command, flag]);
            assert_eq!((help.code, &*help.stderr), (Some(0), ""));
            let (_, examples) = help.stdout.split_once("\nExamples:\n").expect(command);
            let own = examples.lines().filter(|line| line.contains(&format!("certsource {command}"))).count();
            assert!(own >= 3, "{command}: {own} examples");
            // Wrapped by us: clap would not keep the indent.
            assert!(examples.lines().all(|line| line.chars().count() <= 80), "{examples}");
        }
    }
}

/// Every example parses, so that help and program do not drift apart.
#[test]
fn examples_are_command_lines_that_are_understood() {
    for command in COMMANDS {
        let help = run([command, "--help"]).stdout;
        let (_, examples) = help.split_once("\nExamples:\n").unwrap();
        for line in examples.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
            let start = line.find("certsource ").unwrap_or_else(|| panic!("{line}"));
            let words: Vec<&str> = line[start..].split_whitespace().skip(1).collect();
            let words = words.split(|word| ["|", "&&"].contains(word)).next().unwrap();
            // With --help at its end nothing is done, and what stands before it is still checked.
            let takes_the_rest = words.contains(&"--exec");
            let words = words.iter().copied().take_while(|word| !takes_the_rest || *word != "--exec");
            let run = run(words.chain(["--help"]));
            assert_eq!(run.code, Some(0), "{line}: {}", run.stderr);
        }
    }
}

#[test]
fn a_wrong_command_line_is_one_line_with_exit_code_2() {
    for words in [
        &["wach"][..],
        &["watch", "--inverval", "5s"],
        &["watch", "--interval", "5"],
        &["watch", "--ca"],
        &["watch", "--cert", "x"],
        &["watch", "--cert", "x", "--key", "y", "--combined", "z"],
        &["watch", "--detect", "magic"],
        &["inspect"],
        &["check", "x"],
        &["get"],
        &["get", "http://localhost/"],
        &["get", "localhost"],
        &["get", "https://localhost/", "--every", "0s"],
        &["demo", "--rotations", "0"],
        &["demo", "--concurrency", "0"],
        &["demo", "--rate", "-1"],
    ] {
        let run = run(words);
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{words:?}");
        let line = run.error_line();
        assert!(line.starts_with("error: ") && line.ends_with("try --help"), "{line}");
    }
}

#[test]
fn no_command_shows_what_there_is() {
    let run = run::<&str>([]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("Examples:"));
    let version = common::run(["--version"]);
    assert_eq!(version.stdout.trim(), concat!("certsource ", env!("CARGO_PKG_VERSION")));
}
