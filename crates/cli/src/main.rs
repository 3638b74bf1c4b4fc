//! The program `certsource`: it reads the command line, runs one command and turns what came of it into an exit code.
//!
//! What is not here: the commands. Each has a module of its own.

mod args;
mod check;
mod demo;
mod doctor;
mod duration;
mod error;
mod exporter;
mod get;
mod inspect;
mod latency;
#[cfg(feature = "manual")]
mod manual;
mod output;
mod pace;
mod peer;
mod progress;
mod scan;
mod signals;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::output::Closed;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log();
    let result = match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Get(args) => get::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Exporter(args) => exporter::run(args),
        #[cfg(feature = "manual")]
        Command::Manual(args) => manual::run(&args),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::stderr(&format!("error: {}", error::one_line(&error)));
            ExitCode::from(2)
        }
    }
}

/// Logs go to standard error, and only what `RUST_LOG` asks for: the commands tell events as results.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::ERROR.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Help and version are results; a wrong command line is an error of one line.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that is gone has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            output::stderr(&error::usage_line(&error.to_string()));
            ExitCode::from(2)
        }
    }
}
