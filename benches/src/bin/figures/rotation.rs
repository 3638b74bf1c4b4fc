//! Rotations under load: how soon the next request uses the new generation, and what a rotation costs the others.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use certsource_bench::rig::{Rig, builder, tls};
use certsource_bench::rounds::{Pair, Sample};
use certsource_bench::row::{Bar, Row, time};
use certsource_bench::server::{Http, Sessions};
use certsource_testkit::Issued;

use crate::client::{runtime, send_for};

const SWAPS: usize = 1_000;
const SEGMENT: Duration = Duration::from_secs(10);
const PAIRS: usize = 4;

/// From publication to the first request on the new generation: to where it begins, and to where the server sees it, its
/// handshake included.
pub(crate) fn first_request() -> Vec<Row> {
    let mut rows = Vec::new();
    let ids =
        [["first-request-h1-began", "first-request-h1"], ["first-request-h2-began", "first-request-h2"]];
    for (http, ids) in Http::ALL.into_iter().zip(ids) {
        let runtime = runtime();
        let rig = runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder));
        rig.server.note_clients();
        let by_hand = Arc::new(Mutex::new(rig.bare.clone()));
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for number in 0..SWAPS {
            ours.push(runtime.block_on(ours_after_swap(&rig, &rig.ca.issue("client"))));
            bare.push(runtime.block_on(bare_after_swap(&rig, &by_hand, &rig.ca.issue("client"), http)));
            std::thread::sleep(Duration::from_micros(500 + (number as u64 * 397) % 1_000));
        }
        let to = |part: fn(&First) -> f64| {
            Pair::new(ours.iter().map(part).collect(), bare.iter().map(part).collect())
        };
        let parts = [to(|first| first.began), to(|first| first.seen)];
        let whats = [
            ("publication to the start of the first request on the new generation", BEGAN),
            ("publication to that request's arrival, with its connect and full handshake", SEEN),
        ];
        for ((pair, id), (what, note)) in parts.into_iter().zip(ids).zip(whats) {
            let text = |of: &Sample| format!("p50 {}, p99 {}", time(of.median()), time(of.quantile(0.99)));
            rows.push(Row {
                id,
                what: format!("{what}, {}", http.name()),
                ours: text(&pair.ours),
                bare: text(&pair.bare),
                result: text(&pair.ours),
                bar: "p99 ≤ 1 ms".to_owned(),
                is_met: pair.ours.quantile(0.99) <= 1e6,
                note: note.to_owned(),
            });
        }
    }
    rows
}

const BEGAN: &str = "one loop of requests: nearly all of it is what was left of the request at hand, which stays on the old client; \
                     bare: a pointer to a reqwest client that another thread swaps";
const SEEN: &str = "the same requests, until the server has read their head: nearly all of it is the connect and the full mutual \
                    handshake, both sides of it; bare: the same";

/// Nanoseconds after the publication at which the first request on what is new began, and at which the server saw it. Less than
/// zero, if it began before and was taken up by what is new all the same.
struct First {
    began: f64,
    seen: f64,
}

/// One loop of requests goes on while what it uses is replaced; the first request that shows the new identity counts.
async fn after_swap<E: Debug>(
    rig: &Rig,
    identity: &Issued,
    swap: impl Future<Output = Instant>,
    send: impl AsyncFn() -> Result<(), E>,
) -> First {
    let shown = identity.leaf_der();
    let requests = async {
        loop {
            let began = Instant::now();
            send().await.expect("no request fails");
            if let Some(seen) = rig.server.first_seen(&shown) {
                return (began, seen);
            }
        }
    };
    let (published, (began, seen)) = tokio::join!(swap, requests);
    let since = |from: Instant, to: Instant| to.saturating_duration_since(from).as_nanos() as f64;
    let after = |moment: Instant| since(published, moment) - since(moment, published);
    First { began: after(began), seen: after(seen) }
}

async fn ours_after_swap(rig: &Rig, identity: &Issued) -> First {
    rig.dir.swap(identity).expect("a swap");
    let swap = async { rig.ours.reload().await.expect("what was issued loads").published() };
    after_swap(rig, identity, swap, async || rig.send_ours().await.map(drop)).await
}

/// What the best hand-written reload does: a thread builds a new client, then swaps the pointer. Counted from there.
async fn bare_after_swap(
    rig: &Rig,
    current: &Arc<Mutex<reqwest::Client>>,
    identity: &Issued,
    http: Http,
) -> First {
    let lock =
        |current: &Mutex<reqwest::Client>| current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let swap = tokio::task::spawn_blocking({
        let (current, config) = (Arc::clone(current), tls(&rig.ca, identity, http));
        move || {
            let client = builder(http).tls_backend_preconfigured(config).build();
            let client = client.expect("reqwest takes the config");
            let published = Instant::now();
            let old = std::mem::replace(&mut *current.lock().unwrap_or_else(PoisonError::into_inner), client);
            drop(old);
            published
        }
    });
    let swap = async { swap.await.expect("the thread swaps") };
    let send = async || lock(current).get(rig.server.url()).send().await?.bytes().await.map(drop);
    after_swap(rig, identity, swap, send).await
}

/// 64 loops, with a rotation in the middle of every 10 s, and without.
pub(crate) fn throughput() -> Vec<Row> {
    let mut rows = Vec::new();
    for (http, id) in Http::ALL.into_iter().zip(["throughput-h1", "throughput-h2"]) {
        let runtime = runtime();
        let rig = Arc::new(runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder)));
        let segment = || {
            let rig = Arc::clone(&rig);
            send_for(&runtime, SEGMENT, 64, move || {
                let rig = Arc::clone(&rig);
                async move { rig.send_ours().await }
            })
            .rate
        };
        segment();
        let (mut with, mut without, mut handshakes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            without.push(segment());
            let before = rig.server.handshakes();
            let rotating = std::thread::spawn({
                let (rig, identity) = (Arc::clone(&rig), rig.ca.issue("client"));
                move || {
                    std::thread::sleep(SEGMENT / 2);
                    rig.dir.swap(identity).expect("a swap");
                    rig.ours.reloader().reload_blocking().expect("what was issued loads");
                }
            });
            with.push(segment());
            rotating.join().expect("the rotation works");
            handshakes.push((rig.server.handshakes() - before) as f64);
        }
        let (pair, handshakes) = (Pair::new(with, without), Sample::new(handshakes));
        let bar = Bar::AtLeast(0.95);
        rows.push(Row {
            id,
            what: format!(
                "requests a second with a rotation every 10 s and with none, {}, 64 at once",
                http.name()
            ),
            ours: format!("{:.0}/s", pair.ours.median()),
            bare: format!("{:.0}/s", pair.bare.median()),
            result: format!("{} ×", pair.ratio_beside(bar)),
            bar: format!("{bar} ×"),
            is_met: bar.is_met_by(pair.ratio.median()),
            note: format!(
                "handshakes for each swap: {:.0}, at the most {:.0}; no request failed",
                handshakes.median(),
                handshakes.max()
            ),
        });
    }
    rows
}
