//! A `GET` on a connection that is open, many times: `certsource-get h1 ours 1000`. Run by hand under
//! valgrind (docs/PROOFS.md has the command), which counts the instructions inside [`counted_calls`], on this thread: client
//! and connection, not the server.

// A command-line program: its errors are its result.
#![allow(clippy::print_stderr)]

use std::hint::black_box;
use std::process::ExitCode;

use certsource_bench::rig::Rig;
use certsource_bench::server::{Http, Sessions};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [http, side, calls] = arguments.as_slice() else {
        eprintln!("certsource-get h1|h2 ours|bare CALLS");
        return ExitCode::from(2);
    };
    let http = Http::ALL.into_iter().find(|known| known.name() == http);
    let (Some(http), Ok(calls)) = (http, calls.parse()) else { return ExitCode::from(2) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rig = runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder));
    // Sends first what is done once in the life of a connection.
    for _ in 0..WARM {
        match side.as_str() {
            "ours" => ours(&runtime, &rig),
            "bare" => bare(&runtime, &rig),
            _ => return ExitCode::from(2),
        }
    }
    counted_calls(calls, &mut || if side == "ours" { ours(&runtime, &rig) } else { bare(&runtime, &rig) });
    ExitCode::SUCCESS
}

/// So many requests are sent before the first that is counted.
const WARM: u32 = 50;

fn ours(runtime: &Runtime, rig: &Rig) {
    black_box(runtime.block_on(rig.send_ours()).expect("no request fails"));
}

fn bare(runtime: &Runtime, rig: &Rig) {
    black_box(runtime.block_on(rig.send_bare()).expect("no request fails"));
}

/// What valgrind counts, by this name.
#[inline(never)]
fn counted_calls(calls: u32, call: &mut dyn FnMut()) {
    for _ in 0..calls {
        call();
    }
}
