//! Reactive reload: a failed handshake asks for a look at the source, within limits, and shares it with all who wait.
//!
//! What is not here: which errors ask ([`refusal`](crate::refusal)), and whether something may be tried again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certsource_reload::{Error, Generation, Reason, Reloader};
use tokio::time::Instant;

/// A look a second, over all hosts; so many may come at once after a quiet time.
const EVERY: Duration = Duration::from_secs(1);
const BURST: u32 = 4;
/// A host whose looks find nothing new may ask again after this; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many hosts are remembered. Past that, the one that may ask soonest is forgotten.
const HOSTS: usize = 1024;

/// Scheme, host and port: whose budget a look is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) scheme: String,
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Asks for looks on behalf of connections.
pub(crate) struct Reactive {
    limit: Duration,
    /// Held by the one that looks. Those who wait for it take its result when it began after they failed.
    last: tokio::sync::Mutex<Last>,
    hosts: Mutex<HashMap<Host, Pause>>,
}

struct Last {
    began: Option<Instant>,
    /// What came of it, if it was not a new generation.
    error: Option<Error>,
    count: u64,
    tokens: u32,
    filled: Instant,
}

#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
    /// The look that this pause is for: those who share one do not double it.
    look: u64,
}

impl Reactive {
    pub(crate) fn new(limit: Duration) -> Self {
        let last = Last { began: None, error: None, count: 0, tokens: BURST, filled: Instant::now() };
        Self { limit, last: tokio::sync::Mutex::new(last), hosts: Mutex::default() }
    }

    /// Looks for a generation newer than `used`, after a handshake with `host` failed with that, and waits for a
    /// writer to finish. `None` when there is none within the limits.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place to the next one that waits.
    pub(crate) async fn newer(&self, reloader: &Reloader, host: &Host, used: u64) -> Option<Arc<Generation>> {
        let is_newer = |generation: Arc<Generation>| (generation.number() > used).then_some(generation);
        if let Some(newer) = is_newer(reloader.current()) {
            return Some(newer);
        }
        if !self.may_ask(host) {
            return None;
        }
        let end = Instant::now() + self.limit;
        let mut generations = reloader.watch();
        let looked = tokio::time::timeout_at(end, self.look(reloader, used)).await;
        if let Some(newer) = is_newer(reloader.current()) {
            self.hosts().remove(host);
            return Some(newer);
        }
        if let Ok((look, error)) = looked {
            // A writer is at work: what it writes is what this waits for.
            let is_being_written =
                error.is_some_and(|error| error.is_transient() || error.reason() == Reason::KeyMismatch);
            if is_being_written {
                if let Ok(Some(newer)) = tokio::time::timeout_at(end, generations.changed()).await {
                    self.hosts().remove(host);
                    return Some(newer);
                }
            }
            self.pause(host, look);
        }
        None
    }

    /// Asks for a look within the limits, without waiting for what comes of it.
    pub(crate) fn nudge(&self, reloader: &Reloader, host: &Host) {
        // When another one looks, that will do.
        let Ok(mut last) = self.last.try_lock() else { return };
        last.refill(Instant::now());
        if last.tokens > 0 && self.may_ask(host) {
            last.tokens -= 1;
            last.count += 1;
            self.pause(host, last.count);
            reloader.wake();
        }
    }

    /// Looks, or shares a look that began after this was called. The number of the look, and what it met.
    async fn look(&self, reloader: &Reloader, used: u64) -> (u64, Option<Error>) {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if reloader.current().number() > used || last.began.is_some_and(|began| began >= asked) {
            return (last.count, last.error.clone());
        }
        last.refill(Instant::now());
        if last.tokens == 0 {
            tokio::time::sleep_until(last.filled + EVERY).await;
            last.refill(Instant::now());
        }
        last.tokens = last.tokens.saturating_sub(1);
        last.count += 1;
        last.began = Some(Instant::now());
        last.error = None;
        last.error = reloader.reload().await.err();
        crate::metrics::looked(reloader.current().number() > used);
        (last.count, last.error.clone())
    }

    fn may_ask(&self, host: &Host) -> bool {
        self.hosts().get(host).is_none_or(|pause| pause.until <= Instant::now())
    }

    /// The look found nothing new for this host.
    fn pause(&self, host: &Host, look: u64) {
        let mut hosts = self.hosts();
        let now = Instant::now();
        let length = match hosts.get(host) {
            Some(pause) if pause.look == look => return,
            Some(pause) if now < pause.until + pause.length => (pause.length * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        if hosts.len() >= HOSTS && !hosts.contains_key(host) {
            if let Some(soonest) =
                hosts.iter().min_by_key(|(_, pause)| pause.until).map(|(host, _)| host.clone())
            {
                hosts.remove(&soonest);
            }
        }
        hosts.insert(host.clone(), Pause { until: now + length, length, look });
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Host, Pause>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Last {
    fn refill(&mut self, now: Instant) {
        let whole = now.saturating_duration_since(self.filled).as_secs() / EVERY.as_secs();
        if whole > 0 {
            let whole = u32::try_from(whole).unwrap_or(BURST);
            self.tokens = self.tokens.saturating_add(whole).min(BURST);
            self.filled = if self.tokens == BURST { now } else { self.filled + EVERY * whole };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn host(name: &str) -> Host {
        Host { scheme: "https".into(), name: name.into(), port: 443 }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_one_a_second_up_to_the_burst() {
        let mut last = Last { began: None, error: None, count: 0, tokens: 0, filled: Instant::now() };
        for (after, tokens) in [(0, 0), (999, 0), (1, 1), (1_500, 2), (500, 3), (60_000, BURST)] {
            tokio::time::advance(Duration::from_millis(after)).await;
            last.refill(Instant::now());
            assert_eq!(last.tokens, tokens, "after {after} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_in_vain_asks_ever_less_often() {
        let reactive = Reactive::new(Duration::from_secs(3));
        let (bad, good) = (host("bad.example"), host("good.example"));
        let mut looks = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3600) {
            if reactive.may_ask(&bad) {
                looks += 1;
                reactive.pause(&bad, looks);
                // Others that shared the look do not double the pause.
                reactive.pause(&bad, looks);
            }
            assert!(reactive.may_ask(&good));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((60..80).contains(&looks), "{looks} looks in an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_are_capped() {
        let reactive = Reactive::new(Duration::from_secs(3));
        for n in 0..2 * HOSTS {
            reactive.pause(&host(&format!("{n}.example")), n as u64);
        }
        assert_eq!(reactive.hosts().len(), HOSTS);
    }
}
