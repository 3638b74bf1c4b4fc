//! Rotations under load: how soon the next request uses the new generation, and what a rotation costs the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certsource_bench::rig::{Rig, builder, tls};
use certsource_bench::rounds::{Pair, Sample};
use certsource_bench::row::{Bar, Row, time};
use certsource_bench::server::{Http, Sessions};
use certsource_testkit::Issued;

use crate::client::{runtime, send_for};

const SWAPS: usize = 300;
const SEGMENT: Duration = Duration::from_secs(10);
const PAIRS: usize = 4;

/// From publication to the first request that the server sees with the new certificate, its handshake included.
pub(crate) fn first_request() -> Vec<Row> {
    let mut rows = Vec::new();
    for (http, id) in Http::ALL.into_iter().zip(["first-request-h1", "first-request-h2"]) {
        let runtime = runtime();
        let rig = runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder));
        rig.server.note_clients();
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for number in 0..SWAPS {
            let identity = rig.ca.issue("client");
            ours.push(runtime.block_on(ours_after_swap(&rig, &identity)));
            let identity = rig.ca.issue("client");
            bare.push(runtime.block_on(bare_after_swap(&rig, &identity, http)));
            std::thread::sleep(Duration::from_micros(500 + (number as u64 * 397) % 1_000));
        }
        let pair = Pair::new(ours, bare);
        let text = |of: &Sample| format!("p50 {}, p99 {}", time(of.median()), time(of.quantile(0.99)));
        rows.push(Row {
            id,
            what: format!("publication to the first request on the new generation, {}", http.name()),
            ours: text(&pair.ours),
            bare: text(&pair.bare),
            result: text(&pair.ours),
            bar: "p99 ≤ 1 ms".to_owned(),
            is_met: pair.ours.quantile(0.99) <= 1e6,
            note: "with the connect and the full mutual handshake, to the moment at which the server sees the request; \
                   bare: a pointer to a reqwest client swapped by hand, the same way"
                .to_owned(),
        });
    }
    rows
}

async fn seen(rig: &Rig, identity: &Issued) -> Instant {
    loop {
        if let Some(at) = rig.server.first_seen(&identity.leaf_der()) {
            return at;
        }
        tokio::task::yield_now().await;
    }
}

/// One loop of requests goes on while the files are swapped; the request that comes next counts.
async fn ours_after_swap(rig: &Rig, identity: &Issued) -> f64 {
    rig.dir.swap(identity).expect("a swap");
    let reload = rig.ours.reload();
    let requests = async {
        while rig.server.first_seen(&identity.leaf_der()).is_none() {
            rig.send_ours().await.expect("no request fails");
        }
    };
    let (generation, ()) = tokio::join!(reload, requests);
    let published = generation.expect("what was issued loads").published();
    seen(rig, identity).await.saturating_duration_since(published).as_nanos() as f64
}

/// What the best hand-written reload does: a new client is built, then the pointer is swapped. Counted from there.
async fn bare_after_swap(rig: &Rig, identity: &Issued, http: Http) -> f64 {
    let config = tls(&rig.ca, identity, http);
    let client = builder(http).tls_backend_preconfigured(config).build().expect("reqwest takes the config");
    rig.send_bare().await.expect("no request fails");
    let published = Instant::now();
    client.get(rig.server.url()).send().await.expect("no request fails");
    seen(rig, identity).await.saturating_duration_since(published).as_nanos() as f64
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
