//! Allocations that a request through our client adds to those of bare reqwest. In a program of its own: the counting
//! allocator makes everything slower.

// A command-line program: its output is its result.
#![allow(clippy::print_stdout)]

use std::future::Future;
use std::process::ExitCode;

use certsource_bench::rig::Rig;
use certsource_bench::row::Row;
use certsource_bench::server::{Http, Sessions};
use clap::Parser;

/// Counts the allocations of a request, beside bare reqwest's.
#[derive(Debug, Parser)]
#[command(name = "certsource-counts")]
struct Arguments {
    /// Only figures with this in their name; may be given again
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
}

const REQUESTS: u64 = 1_000;

fn main() -> ExitCode {
    let only = Arguments::parse().only;
    let is_chosen = |id: &str| only.is_empty() || only.iter().any(|part| id.contains(part.as_str()));
    let figures = Http::ALL.into_iter().zip(["allocations-h1", "allocations-h2"]);
    let chosen: Vec<_> = figures.filter(|(_, id)| is_chosen(id)).collect();
    if chosen.is_empty() {
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (http, id) in chosen {
        let rig = runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder));
        // The server has a thread of its own, and this thread's allocations are counted alone.
        let count = |sends: &dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>| {
            runtime.block_on(sends());
            let info = allocation_counter::measure(|| {
                for _ in 0..REQUESTS {
                    runtime.block_on(sends());
                }
            });
            (info.count_total as f64 / REQUESTS as f64, info.bytes_total as f64 / REQUESTS as f64)
        };
        let url = rig.server.url();
        let ours = {
            let (client, url) = (rig.ours.clone(), url.clone());
            count(&move || {
                let request = client.get(&url);
                Box::pin(async move {
                    let response = request.send().await.expect("no request fails");
                    response.bytes().await.expect("a body");
                })
            })
        };
        let bare = {
            let (client, url) = (rig.bare.clone(), url.clone());
            count(&move || {
                let request = client.get(&url);
                Box::pin(async move {
                    let response = request.send().await.expect("no request fails");
                    response.bytes().await.expect("a body");
                })
            })
        };
        let row = Row {
            id,
            what: format!("allocations for a GET, {}", http.name()),
            ours: format!("{:.1} ({:.0} bytes)", ours.0, ours.1),
            bare: format!("{:.1} ({:.0} bytes)", bare.0, bare.1),
            result: format!("{:+.1}", ours.0 - bare.0),
            bar: "≤ 4 more".to_owned(),
            is_met: ours.0 - bare.0 <= 4.05,
            note: "more: the attempt's ticket, a copy of the URL, the box around the body, the generation in the response; \
                   less: two of a copy that reqwest makes for a retry"
                .to_owned(),
        };
        println!("{}", row.to_json());
    }
    ExitCode::SUCCESS
}
