//! `cargo xtask soak` runs this for an hour: clients under load, writers that rotate and break, faults, short-lived
//! sources. It prints a report in Markdown and ends well only if no request failed, nothing broken was published, no
//! rotation was missed, and memory, descriptors, threads and watches did not grow.

// A command-line program: its output is its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod churn;
#[cfg(target_os = "linux")]
mod dice;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod rest;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod unit;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("certsource-soak: it reads /proc, which only Linux has");
    ExitCode::from(2)
}
