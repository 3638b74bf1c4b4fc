//! `cargo xtask`: the project's own commands. This file only reads the command line; each command is a module.

// A command-line program: its output is its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod api;
mod bench;
mod cargo;
mod ci;
mod features;
mod instructions;
mod judge;
mod machine;
mod manual;
mod minimal;
mod msrv;
mod package;
mod scan;
mod setup;
mod soak;
mod table;
mod test;
mod tidy;
mod tools;
mod workspace;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the tests: a table of cells, package by feature set, doctests, end-to-end tests and the demo.
    Test(table::Options),
    /// Check everything but the tests: format, lints, documentation, promises, licences, the lowest compiler.
    Ci(table::Options),
    /// Check what prose promises: layers, dependency counts, the code map, invariants, manifests, sources.
    Tidy(tidy::Options),
    /// Build each feature of each library alone, and with `--depth 2` each pair of them, with warnings as errors.
    Features(features::Options),
    /// Check that no dependency needs a newer compiler than we promise; build with that compiler if it is there.
    Msrv,
    /// Package each published crate, unpack it, and build it and a small program against it.
    Package,
    /// Compare the public items of each library with those that are kept in `xtask/api`.
    Api(api::Options),
    /// Build the published crates with the oldest dependencies that their manifests allow.
    Minimal,
    /// Write the program's man pages and its completions for bash, zsh, fish and PowerShell.
    Manual(manual::Options),
    /// Measure every figure beside the bare alternative, and write README's table and docs/BENCHMARKS.md.
    Bench(bench::Options),
    /// Count the instructions of the hot paths by valgrind, beside the bare calls, and compare with those that are kept.
    Counts(instructions::Options),
    /// Run clients, writers and faults for an hour, and write docs/SOAK.md.
    Soak(soak::Options),
    /// Install what `test --strict` and `ci --strict` need: Debian packages as root, the rest below `target/`.
    Setup,
}

fn main() -> ExitCode {
    if let Some(code) = api::as_rustdoc() {
        return code;
    }
    let outcome = match Arguments::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Ci(options) => ci::run(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Features(options) => features::run(&options),
        Command::Msrv => msrv::run(),
        Command::Api(options) => api::run(&options),
        Command::Package => package::run(),
        Command::Minimal => minimal::run(),
        Command::Manual(options) => manual::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Counts(options) => instructions::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Setup => setup::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        Arguments::try_parse_from(["xtask", "features", "--depth", "2", "--only", "hyper"]).unwrap();
    }
}
