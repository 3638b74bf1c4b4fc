//! Requests and handshakes a second, ours and bare reqwest with a config that never changes.

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certsource_bench::rig::Rig;
use certsource_bench::rounds::{Pair, in_turns};
use certsource_bench::row::{Bar, Row, time};
use certsource_bench::server::{Http, Sessions};
use certsource_bench::usage::thread_cpu;
use certsource_testkit::Ca;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

/// Many short rounds: what disturbs a machine lasts for longer than one, so it meets both sides of it.
#[derive(Clone, Copy)]
struct Rounds {
    number: usize,
    slice: Duration,
}

const REQUESTS: Rounds = Rounds { number: 800, slice: Duration::from_millis(25) };
/// In a shorter slice 64 loops would have time for one handshake each.
const HANDSHAKES: Rounds = Rounds { number: 200, slice: Duration::from_millis(100) };

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What a slice of time gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Requests a second.
    pub(crate) rate: f64,
    /// CPU of the client's thread for a request, nanoseconds.
    pub(crate) cost: f64,
}

/// Sends for a while, with so many loops at once, all on this thread.
pub(crate) fn send_for<F, R>(runtime: &Runtime, time: Duration, loops: usize, send: F) -> Done
where
    F: Fn() -> R + 'static,
    R: Future<Output = Result<usize, reqwest::Error>> + 'static,
{
    let local = LocalSet::new();
    let (send, done) = (Rc::new(send), Rc::new(Cell::new(0_u64)));
    let (start, cpu) = (Instant::now(), thread_cpu());
    for _ in 0..loops {
        let (send, done) = (Rc::clone(&send), Rc::clone(&done));
        local.spawn_local(async move {
            while start.elapsed() < time {
                let length = send().await.expect("no request fails");
                assert_eq!(length, 2, "the server answers with two bytes");
                done.set(done.get() + 1);
            }
        });
    }
    runtime.block_on(local);
    let count = done.get() as f64;
    Done { rate: count / start.elapsed().as_secs_f64(), cost: (thread_cpu() - cpu) as f64 / count }
}

fn beside(runtime: &Runtime, rig: &Arc<Rig>, rounds: Rounds, loops: usize) -> (Pair, Pair) {
    let costs = (std::cell::RefCell::new(Vec::new()), std::cell::RefCell::new(Vec::new()));
    let rates = in_turns(
        rounds.number,
        || {
            let rig = Arc::clone(rig);
            let done = send_for(runtime, rounds.slice, loops, move || {
                let rig = Arc::clone(&rig);
                async move { rig.send_ours().await }
            });
            costs.0.borrow_mut().push(done.cost);
            done.rate
        },
        || {
            let rig = Arc::clone(rig);
            let done = send_for(runtime, rounds.slice, loops, move || {
                let rig = Arc::clone(&rig);
                async move { rig.send_bare().await }
            });
            costs.1.borrow_mut().push(done.cost);
            done.rate
        },
    );
    (rates, Pair::new(costs.0.into_inner(), costs.1.into_inner()))
}

fn row(id: &'static str, what: String, rates: &Pair, costs: &Pair) -> Row {
    let bar = Bar::AtLeast(0.98);
    Row {
        id,
        what,
        ours: format!("{:.0}/s", rates.ours.median()),
        bare: format!("{:.0}/s", rates.bare.median()),
        result: format!("{} ×", rates.ratio_beside(bar)),
        bar: format!("{bar} ×"),
        is_met: bar.is_met_by(rates.ratio.median()),
        note: format!(
            "{} rounds, the middle ratio is {} at 95 %; CPU of the client's thread: {} and {} each, {:.3} × ({})",
            rates.ratio.len(),
            rates.ratio.interval_text(),
            time(costs.ours.median()),
            time(costs.bare.median()),
            costs.ratio.median(),
            costs.ratio.interval_text()
        ),
    }
}

/// Requests on connections that are open.
pub(crate) fn requests() -> Vec<Row> {
    let mut rows = Vec::new();
    for (http, ids) in
        Http::ALL.into_iter().zip([["requests-h1-1", "requests-h1-64"], ["requests-h2-1", "requests-h2-64"]])
    {
        let runtime = runtime();
        let rig = Arc::new(runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder)));
        for (loops, id) in [1, 64].into_iter().zip(ids) {
            let (rates, costs) = beside(&runtime, &rig, REQUESTS, loops);
            rows.push(row(
                id,
                format!("requests a second, {}, {loops} at once", http.name()),
                &rates,
                &costs,
            ));
        }
    }
    rows
}

/// A new connection, with a full handshake, for each request.
pub(crate) fn handshakes() -> Vec<Row> {
    let mut rows = Vec::new();
    for (http, ids) in Http::ALL
        .into_iter()
        .zip([["handshakes-h1", "handshakes-h1-64"], ["handshakes-h2", "handshakes-h2-64"]])
    {
        let runtime = runtime();
        let options = |builder: reqwest::ClientBuilder| builder.pool_max_idle_per_host(0);
        let rig = Arc::new(runtime.block_on(Rig::new(http, Sessions::Full, options)));
        for (loops, id) in [1, 64].into_iter().zip(ids) {
            let before = (rig.server.handshakes(), rig.server.requests());
            let (rates, costs) = beside(&runtime, &rig, HANDSHAKES, loops);
            let (handshakes, requests) =
                (rig.server.handshakes() - before.0, rig.server.requests() - before.1);
            assert_eq!(handshakes, requests, "each request has a handshake of its own");
            let what = format!("new handshakes a second, {}, {loops} at once", http.name());
            rows.push(row(id, what, &rates, &costs));
        }
    }
    rows
}

/// What a generation costs, from the files to a client, and the same by hand.
pub(crate) fn load_generation() -> Vec<Row> {
    let runtime = runtime();
    let rig = runtime.block_on(Rig::new(Http::Two, Sessions::Resumed, |builder| builder));
    let ca = Ca::new("by hand");
    let identity = ca.issue("client");
    let ours = || {
        let before = thread_cpu();
        black_box(rig.ours.snapshot().expect("reqwest takes the config"));
        (thread_cpu() - before) as f64
    };
    let bare = || {
        let before = thread_cpu();
        let config = certsource_bench::rig::tls(&ca, &identity, Http::Two);
        let client = certsource_bench::rig::builder(Http::Two).tls_backend_preconfigured(config).build();
        black_box(client.expect("reqwest takes the config"));
        (thread_cpu() - before) as f64
    };
    let pair = in_turns(201, ours, bare);
    vec![Row {
        id: "snapshot",
        what: "a client built from material that is loaded".to_owned(),
        ours: time(pair.ours.median()),
        bare: time(pair.bare.median()),
        result: format!("{} ×", pair.ratio_text()),
        bar: "none set".to_owned(),
        is_met: true,
        note: "once for each generation; bare: rustls and reqwest, from DER".to_owned(),
    }]
}
