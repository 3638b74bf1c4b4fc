//! `cargo xtask soak --proof`: the proofs that `cargo xtask test` runs in a size of seconds, in their full size. What came of
//! them is in docs/PROOFS.md, of the fuzz targets in fuzz/README.md.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cargo;
use crate::workspace::Workspace;

/// What of it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Proof {
    /// 100,000 random histories for each property of the simulator: five minutes
    Histories,
    /// Every interleaving of each writer and the reader, up to 100,000 states a cell: an hour of one processor
    Explorer,
    /// 100,000 rotations of each kind under file watches, of which none may be lost: ten minutes
    Watches,
    /// 200,000 interleavings of each case of the client's protocol: ten minutes
    Model,
    /// 10,000 attempts after what they need was withdrawn, with nginx and OpenSSL
    Withdrawn,
    /// 1,000 requests whose identity is refused at the moment of a rotation, over each HTTP and TLS: two minutes
    Crowd,
    /// 1,000 rotations under 64 endless loops of requests, for each kind of client: hours
    Endless,
    /// 10,000,000 executions of each fuzz target; needs a nightly compiler and cargo-fuzz
    Fuzz,
}

impl Proof {
    /// The lines to be run, one after another, each with the size in its environment.
    pub(super) fn lines(self) -> Vec<String> {
        let test = |size: &str, arguments: &str| vec![format!("{size} cargo test {arguments} --nocapture")];
        match self {
            Self::Histories => histories(100_000),
            Self::Explorer => test(
                "CERTSOURCE_SIM_FULL=1",
                "--release --package certsource-sim --test explore --test prompt --test overlap --",
            ),
            Self::Watches => test(
                "CERTSOURCE_ROTATIONS=100000",
                "--package certsource --all-features --test detect_lost -- --test-threads 1",
            ),
            Self::Model => test("CERTSOURCE_MODEL_RUNS=100000", "--release --package certsource-model --"),
            Self::Withdrawn => test(
                "CERTSOURCE_ATTEMPTS=10000",
                "--package certsource-tests --all-features --test withdrawn -- --test-threads 2",
            ),
            Self::Crowd => test(
                "CERTSOURCE_CROWD=1000",
                "--package certsource-client --all-features --test reactive -- many_whose_identity_is_refused_share_a_look",
            ),
            Self::Endless => test(
                "CERTSOURCE_ROTATIONS=1000",
                "--package certsource-tests --all-features --test endless -- --test-threads 2",
            ),
            Self::Fuzz => {
                let seeds = "cargo run --manifest-path fuzz/seeds/Cargo.toml".to_owned();
                let target = |name: &str, dictionary: &str| {
                    format!(
                        "rustup run nightly cargo fuzz run -s none --target-dir fuzz/target/none {name} -- \
                         -dict=fuzz/{dictionary}.dict -runs=10000000 -max_len=16384 -timeout=1 -rss_limit_mb=256"
                    )
                };
                vec![seeds, target("pem", "pem"), target("source", "pem"), target("inspect", "der")]
            }
        }
    }
}

/// So many random histories for each property of the simulator.
pub(super) fn histories(cases: u32) -> Vec<String> {
    vec![format!(
        "CERTSOURCE_SIM_CASES={cases} cargo test --release --package certsource-sim --test properties -- --nocapture"
    )]
}

/// Runs these one after another, and says first of each what it is.
pub(super) fn run(workspace: &Workspace, lines: &[String]) -> Result<ExitCode> {
    for line in lines {
        println!("{line}");
        let status = command(line).current_dir(&workspace.workspace_root).status();
        if !status.with_context(|| format!("starting {line}"))?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line without quotes as a command: what is set comes first, as in a shell.
fn command(line: &str) -> Command {
    let mut words = line.split_whitespace().peekable();
    let mut set = Vec::new();
    while let Some(pair) = words.peek().and_then(|word| word.split_once('=')) {
        set.push(pair);
        words.next();
    }
    let mut command = match words.next() {
        Some("cargo") | None => cargo::command(),
        Some(program) => Command::new(program),
    };
    command.args(words).envs(set);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_run_as_a_shell_would() {
        let command = command("SIZE=12 cargo test --package x -- -dict=y");
        assert_eq!(command.get_program(), cargo::program());
        assert!(command.get_args().eq(["test", "--package", "x", "--", "-dict=y"]));
        assert!(
            command
                .get_envs()
                .any(|(name, value)| name == "SIZE" && value.is_some_and(|value| value == "12"))
        );
    }

    /// A name that no test reads would run the small size, and nobody would notice.
    #[test]
    fn each_size_is_one_that_a_test_reads_in_the_program_that_is_run() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
        for (proof, file) in [
            (Proof::Histories, "crates/sim/tests/properties.rs"),
            (Proof::Explorer, "crates/sim/tests/explore.rs"),
            (Proof::Explorer, "crates/sim/tests/prompt.rs"),
            (Proof::Explorer, "crates/sim/tests/overlap.rs"),
            (Proof::Watches, "crates/certsource/tests/detect_lost.rs"),
            (Proof::Model, "crates/model/tests/protocol.rs"),
            (Proof::Withdrawn, "tests/tests/withdrawn.rs"),
            (Proof::Crowd, "crates/client/tests/reactive.rs"),
            (Proof::Endless, "tests/tests/endless.rs"),
        ] {
            let lines = proof.lines();
            let [line] = &lines[..] else { panic!("{lines:?}") };
            let (name, _) = line.split_once('=').unwrap();
            assert!(read(file).contains(&format!("\"{name}\"")), "{file} does not read {name}");
            assert!(
                line.contains(file.rsplit(['/', '.']).nth(1).unwrap()) || proof == Proof::Model,
                "{line}"
            );
        }
        for line in Proof::Fuzz.lines().iter().skip(1) {
            let target = line.split_whitespace().nth(10).unwrap();
            let readme = read("fuzz/README.md");
            assert!(readme.contains(&format!("fuzz/target/none {target}")), "{target}: {line}");
        }
    }
}
