//! Reactive reload: a failed handshake asks for a look at the source, within limits, and shares it with all who wait.
//!
//! What is not here: which errors ask ([`crate::refusal`]), and whether a request may be sent again
//! ([`crate::send`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certsource::{Error, Reason};
use certsource_reload::{Generation, Reloader};
use reqwest::Url;
use tokio::time::Instant;

/// A look a second, over all origins; so many may come at once after a quiet time.
const EVERY: Duration = Duration::from_secs(1);
const BURST: u32 = 4;
/// An origin whose looks find nothing new may ask again after this; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many origins are remembered. Past that, the one that may ask soonest is forgotten.
const ORIGINS: usize = 1024;

/// Asks for looks on behalf of requests.
pub(crate) struct Reactive {
    limit: Duration,
    /// Held by the one that looks. Those who wait for it take its result when it began after they failed.
    last: tokio::sync::Mutex<Last>,
    origins: Mutex<HashMap<Authority, Pause>>,
}

/// Scheme, host and port: whose budget it is.
type Authority = (String, String, u16);

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
        Self { limit, last: tokio::sync::Mutex::new(last), origins: Mutex::default() }
    }

    /// Looks for a generation newer than `used`, after a request to `url` failed with that. `None` when there is
    /// none within the limits. With `patience`, waits for a writer to finish, and for its turn.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place to the next one that waits.
    pub(crate) async fn newer(
        &self,
        reloader: &Reloader,
        url: &Url,
        used: u64,
        patience: bool,
        deadline: Option<std::time::Instant>,
    ) -> Option<Arc<Generation>> {
        let is_newer = |generation: Arc<Generation>| (generation.number() > used).then_some(generation);
        if let Some(newer) = is_newer(reloader.current()) {
            return Some(newer);
        }
        let origin = authority(url);
        if !self.may_ask(&origin) {
            return None;
        }
        let mut end = Instant::now() + self.limit;
        if let Some(deadline) = deadline {
            end = end.min(deadline.into());
        }
        let mut generations = reloader.watch();
        let looked = tokio::time::timeout_at(end, self.look(reloader, used, patience)).await;
        if let Some(newer) = is_newer(reloader.current()) {
            self.origins().remove(&origin);
            return Some(newer);
        }
        if let Ok(Some((look, Some(error)))) = looked {
            // A writer is at work: what it writes is what this waits for.
            let is_being_written = error.is_transient() || error.reason() == Reason::KeyMismatch;
            if patience && is_being_written {
                if let Ok(Some(newer)) = tokio::time::timeout_at(end, generations.changed()).await {
                    self.origins().remove(&origin);
                    return Some(newer);
                }
            }
            self.pause(origin, look);
        } else if let Ok(Some((look, None))) = looked {
            self.pause(origin, look);
        }
        None
    }

    /// Looks, or shares a look that began after this was called. The number of the look, and what it met.
    async fn look(&self, reloader: &Reloader, used: u64, patience: bool) -> Option<(u64, Option<Error>)> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if reloader.current().number() > used || last.began.is_some_and(|began| began >= asked) {
            return Some((last.count, last.error.clone()));
        }
        last.refill(Instant::now());
        if last.tokens == 0 {
            if !patience {
                return None;
            }
            tokio::time::sleep_until(last.filled + EVERY).await;
            last.refill(Instant::now());
        }
        last.tokens = last.tokens.saturating_sub(1);
        last.count += 1;
        let began = Instant::now();
        let error = reloader.reload().await.err();
        // Not before: one that was given up on the way found nothing that others could share.
        (last.began, last.error) = (Some(began), error);
        crate::trace::looked(reloader, used, last.error.as_ref());
        #[cfg(feature = "metrics")]
        {
            let result = if reloader.current().number() > used { "newer" } else { "nothing_new" };
            metrics::counter!("certsource_reactive_reloads_total", "result" => result).increment(1);
        }
        Some((last.count, last.error.clone()))
    }

    fn may_ask(&self, origin: &Authority) -> bool {
        self.origins().get(origin).is_none_or(|pause| pause.until <= Instant::now())
    }

    /// The look found nothing new for this origin.
    fn pause(&self, origin: Authority, look: u64) {
        let mut origins = self.origins();
        let now = Instant::now();
        let length = match origins.get(&origin) {
            Some(pause) if pause.look == look => return,
            Some(pause) if now < pause.until + pause.length => (pause.length * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        };
        if origins.len() >= ORIGINS && !origins.contains_key(&origin) {
            if let Some(soonest) =
                origins.iter().min_by_key(|(_, pause)| pause.until).map(|(origin, _)| origin.clone())
            {
                origins.remove(&soonest);
            }
        }
        origins.insert(origin, Pause { until: now + length, length, look });
    }

    fn origins(&self) -> MutexGuard<'_, HashMap<Authority, Pause>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
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

fn authority(url: &Url) -> Authority {
    (
        url.scheme().to_owned(),
        url.host_str().unwrap_or_default().to_owned(),
        url.port_or_known_default().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> Last {
        Last { began: None, error: None, count: 0, tokens: 0, filled: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_one_a_second_up_to_the_burst() {
        let mut last = last();
        for (after, tokens) in [(0, 0), (999, 0), (1, 1), (1_500, 2), (500, 3), (60_000, BURST)] {
            tokio::time::advance(Duration::from_millis(after)).await;
            last.refill(Instant::now());
            assert_eq!(last.tokens, tokens, "after {after} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_asks_in_vain_asks_ever_less_often() {
        let reactive = Reactive::new(Duration::from_secs(3));
        let origin = authority(&Url::parse("https://bad.example/").unwrap());
        let good = authority(&Url::parse("https://good.example/").unwrap());
        let mut looks = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3600) {
            if reactive.may_ask(&origin) {
                looks += 1;
                reactive.pause(origin.clone(), looks);
                // Others that shared the look do not double the pause.
                reactive.pause(origin.clone(), looks);
            }
            assert!(reactive.may_ask(&good));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((60..80).contains(&looks), "{looks} looks in an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn origins_are_capped() {
        let reactive = Reactive::new(Duration::from_secs(3));
        for n in 0..2 * ORIGINS {
            reactive.pause(("https".into(), format!("{n}.example"), 443), n as u64);
        }
        assert_eq!(reactive.origins().len(), ORIGINS);
    }
}
