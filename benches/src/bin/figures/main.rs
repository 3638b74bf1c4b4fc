//! `cargo xtask bench` runs this: every figure, ours and the bare alternative in turns. A line of JSON each on the
//! standard output; how they are shown is decided by xtask. Allocations are counted by `bin/counts.rs`: a counting
//! allocator would slow these down.

// A command-line program: its output is its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod looks;
#[cfg(target_os = "linux")]
mod many;
#[cfg(target_os = "linux")]
mod rotation;
#[cfg(target_os = "linux")]
mod servers;

#[cfg(target_os = "linux")]
mod table {
    use std::process::{Command, ExitCode};

    use certsource_bench::row::Row;
    use clap::Parser;

    use crate::{client, latency, looks, many, rotation, servers};

    /// Measures what README claims, beside the bare alternative.
    #[derive(Debug, Parser)]
    #[command(name = "certsource-figures")]
    struct Arguments {
        /// Only figures with this in their name; may be given again
        #[arg(long, value_name = "SUBSTRING")]
        only: Vec<String>,
        /// Rotations of each kind for the latencies of file events
        #[arg(long, default_value_t = 1_000)]
        rotations: usize,
        /// For our own use: measures one figure in this process
        #[arg(long, hide = true)]
        figure: Option<String>,
        /// For our own use: measures a part of a figure in a process of its own
        #[arg(long, hide = true)]
        child: Option<String>,
    }

    type Figure = (&'static str, fn(usize) -> Vec<Row>);

    const FIGURES: [Figure; 19] = [
        ("look-mtime", |_| looks::mtime()),
        ("look-link", |_| looks::link()),
        ("look-sha256", |_| looks::sha256()),
        ("load-roots", |_| looks::load()),
        ("many-cpu", |_| many::looks_of_all()),
        ("many-memory", |_| many::memory()),
        ("many-idle", |_| many::idle()),
        ("nothing-left", |_| many::nothing_left()),
        ("event-file", |rotations| vec![latency::one_file(rotations)]),
        ("event-pair", |rotations| vec![latency::pair(rotations)]),
        ("event-swap", |rotations| vec![latency::volume(rotations, false)]),
        ("event-swap-kept", |rotations| vec![latency::volume(rotations, true)]),
        ("requests", |_| client::requests()),
        ("handshakes", |_| client::handshakes()),
        ("first-request", |_| rotation::first_request()),
        ("throughput", |_| rotation::throughput()),
        ("snapshot", |_| client::load_generation()),
        ("listener", |_| servers::listener()),
        ("follow", |_| servers::follow()),
    ];

    /// Measures a figure in a process of its own: what an earlier one left, in the heap above all, must not count. Whether
    /// it was measured.
    fn measure_apart(id: &str, rotations: usize) -> bool {
        let Ok(program) = std::env::current_exe() else { return false };
        let mut command = Command::new(program);
        command.args(["--figure", id, "--rotations", &rotations.to_string()]);
        command.status().is_ok_and(|status| status.success())
    }

    pub(crate) fn main() -> ExitCode {
        let arguments = Arguments::parse();
        if let Some(what) = &arguments.child {
            println!("{}", many::child(what));
            return ExitCode::SUCCESS;
        }
        if let Some(figure) = &arguments.figure {
            let rows = FIGURES
                .iter()
                .filter(|(id, _)| id == figure)
                .flat_map(|(_, measure)| measure(arguments.rotations));
            rows.for_each(|row| println!("{}", row.to_json()));
            return ExitCode::SUCCESS;
        }
        let is_chosen = |id: &str| {
            arguments.only.is_empty() || arguments.only.iter().any(|part| id.contains(part.as_str()))
        };
        let mut any = false;
        for (id, _) in FIGURES.into_iter().filter(|(id, _)| is_chosen(id)) {
            any = true;
            eprintln!("measuring {id}");
            if !measure_apart(id, arguments.rotations) {
                eprintln!("error: {id} was not measured");
                return ExitCode::FAILURE;
            }
        }
        if any { ExitCode::SUCCESS } else { ExitCode::from(2) }
    }
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    table::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("certsource-figures: it reads /proc, which only Linux has");
    ExitCode::from(2)
}
