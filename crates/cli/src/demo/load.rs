//! The load: workers that send requests at a steady rate, and check of each answer that the server and the identity
//! are those that they have to be at that moment.
//!
//! Nothing is sent again here and nothing is excused: what the client does not deliver counts as failed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certsource::Fingerprint;
use certsource_client::Client;
use reqwest::tls::TlsInfo;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::server::SEEN;
use super::stage::Era;
use crate::error;
use crate::latency::Latencies;
use crate::pace::Pace;

/// So many failures are kept in words.
const KEPT: usize = 20;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the load counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) in_flight: AtomicUsize,
    pub(super) latencies: Mutex<Latencies>,
    /// Why requests failed, until somebody takes it.
    failures: Mutex<Vec<String>>,
    told: AtomicUsize,
    /// The era of each certificate that is, or was, in use: by the SHA-256 of its DER.
    eras: Mutex<HashMap<String, usize>>,
    /// A request that begins now must present an identity of this era or a later one.
    pub(super) least_identity: AtomicUsize,
    /// A request that begins now must meet a server certificate of this era or a later one.
    pub(super) least_server: AtomicUsize,
    /// The newest eras that a whole request has been seen with.
    pub(super) seen_identity: AtomicUsize,
    pub(super) seen_server: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// The certificates of this era will be met.
    pub(super) fn expect(&self, era: &Era) {
        let mut eras = lock(&self.eras);
        for leaf in [era.server.leaf_der(), era.client.leaf_der()] {
            eras.insert(Fingerprint::of(&leaf).to_string(), era.number);
        }
    }

    /// Takes why requests failed, as far as it was kept.
    pub(super) fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.failures))
    }

    fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.told.fetch_add(1, Ordering::Relaxed) < KEPT {
            lock(&self.failures).push(why);
        }
    }

    fn era(&self, fingerprint: &str) -> Option<usize> {
        lock(&self.eras).get(fingerprint).copied()
    }
}

/// The workers. They end when this is stopped or dropped.
pub(super) struct Load {
    workers: JoinSet<()>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Begins to send: `rate` requests a second (0: as many as go through), no more than `concurrency` at a time.
    pub(super) fn start(
        client: &Client,
        url: &str,
        rate: f64,
        concurrency: usize,
        tally: &Arc<Tally>,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let every = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO };
        let pace = Arc::new(Pace::new(every));
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (client, url) = (client.clone(), url.to_owned());
            let (tally, over, pace) = (Arc::clone(tally), Arc::clone(&over), Arc::clone(&pace));
            workers.spawn(async move {
                loop {
                    pace.turn().await;
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    request(&client, &url, &tally).await;
                }
            });
        }
        Self { workers, over }
    }

    /// Sends no more, and waits for what is under way.
    pub(super) async fn stop(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
    }
}

async fn request(client: &Client, url: &str, tally: &Tally) {
    let least_identity = tally.least_identity.load(Ordering::Acquire);
    let least_server = tally.least_server.load(Ordering::Acquire);
    tally.in_flight.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let result = exchange(client, url).await;
    let took = began.elapsed();
    tally.in_flight.fetch_sub(1, Ordering::Relaxed);
    tally.requests.fetch_add(1, Ordering::Relaxed);
    lock(&tally.latencies).add(took);
    let met = match result {
        Ok(met) => met,
        Err(why) => return tally.fail(why),
    };
    match (tally.era(&met.identity), tally.era(&met.server)) {
        (None, _) => tally.fail(format!("the server saw an identity that is not ours: {}", met.identity)),
        (_, None) => tally.fail(format!("a server certificate that is not ours: {}", met.server)),
        (Some(era), _) if era < least_identity => {
            tally.fail(format!(
                "presented the identity of CA {era} after that of CA {least_identity} was adopted"
            ));
        }
        (_, Some(era)) if era < least_server => {
            tally.fail(format!("accepted the server certificate of CA {era} after it was withdrawn"));
        }
        (Some(identity), Some(server)) => {
            tally.seen_identity.fetch_max(identity, Ordering::AcqRel);
            tally.seen_server.fetch_max(server, Ordering::AcqRel);
        }
    }
}

/// Who a request met, by the SHA-256 of the certificates.
struct Met {
    identity: String,
    server: String,
}

async fn exchange(client: &Client, url: &str) -> Result<Met, String> {
    let response = client.get(url).timeout(TIMEOUT).send().await.map_err(|error| error::chain(&error))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("the server answered {}", response.status()));
    }
    let identity = response.headers().get(SEEN).and_then(|value| value.to_str().ok());
    let identity = identity.ok_or("the server saw no client certificate")?.to_owned();
    let info = response.extensions().get::<TlsInfo>();
    let server = info.and_then(TlsInfo::peer_certificate).ok_or("the response has no server certificate")?;
    let server = Fingerprint::of(server).to_string();
    let body = response.bytes().await.map_err(|error| error::chain(&error))?;
    if &*body != b"ok\n" {
        return Err(format!("the body was cut: {} bytes of 3", body.len()));
    }
    Ok(Met { identity, server })
}
