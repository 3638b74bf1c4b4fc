//! A source that is followed as an application follows it, for its generation, its reloads and its readiness.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use certsource::machine::Policy;
use certsource::{Files, Reason};
use certsource_reload::{Event, EventKind, Generation, Reloader, Status};
use certsource_rustls::TlsGate;

use super::collect::Item;

/// The label `source` of what is followed.
pub(super) const NAME: &str = "followed";
/// As long as the program runs: material may come late, and that is what is to be seen.
const LONG: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Counts of what happened.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) reloads: u64,
    /// Every reason, from the start: a series that is born with its first count shows no increase.
    pub(super) failures: BTreeMap<&'static str, u64>,
    /// Why it failed last, in words.
    problem: Option<String>,
}

impl Default for Counts {
    fn default() -> Self {
        let failures = Reason::ALL.iter().map(|reason| (reason.as_str(), 0)).collect();
        Self { reloads: 0, failures, problem: None }
    }
}

/// What is followed, at one moment.
pub(super) struct Seen {
    pub(super) counts: Counts,
    /// `None` before the first load.
    pub(super) status: Option<Status>,
    /// The certificates and lists of the generation that is served.
    pub(super) items: Arc<Vec<Item>>,
}

/// What hooks told.
#[derive(Default)]
struct Told {
    counts: Counts,
    /// Loads that were told before the generation could be seen: a hook does not wait for those who start a source.
    early: u64,
    is_started: bool,
}

pub(super) struct Followed {
    reloader: OnceLock<Reloader>,
    told: Mutex<Told>,
    /// Of which generation, and what is told of it.
    items: Mutex<(u64, Arc<Vec<Item>>)>,
    show_paths: bool,
}

impl Followed {
    fn empty(show_paths: bool) -> Arc<Self> {
        let (reloader, told, items) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Arc::new(Self { reloader, told, items, show_paths })
    }

    pub(super) fn start(files: Files, policy: Policy, show_paths: bool) -> Arc<Self> {
        let followed = Self::empty(show_paths);
        let weak = Arc::downgrade(&followed);
        let builder =
            Reloader::builder(files).policy(policy).wait_for_initial(LONG).on_failure(|_| ()).on_event(
                move |event| {
                    if let Some(followed) = weak.upgrade() {
                        followed.count(event);
                    }
                },
            );
        let weak = Arc::downgrade(&followed);
        tokio::spawn(async move {
            let Ok(gate) = TlsGate::new() else { return };
            let started = builder.gate(gate).start_async().await;
            if let (Some(followed), Ok(reloader)) = (weak.upgrade(), started) {
                followed.started(reloader);
            }
        });
        followed
    }

    /// From now on what is served can be seen, so its loads count.
    fn started(&self, reloader: Reloader) {
        // It is started once.
        let _ = self.reloader.set(reloader);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.is_started = true;
        told.counts.reloads += std::mem::take(&mut told.early);
    }

    fn count(&self, event: &Event) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told { counts, early, is_started } = &mut *told;
        match &event.kind {
            // Not the end of a problem: of a source that is half broken, the other half is still published.
            EventKind::Loaded(_) | EventKind::Reloaded(_) if *is_started => counts.reloads += 1,
            EventKind::Loaded(_) | EventKind::Reloaded(_) => *early += 1,
            EventKind::Failed(failure) | EventKind::Rejected(failure) => {
                *counts.failures.entry(failure.reason().as_str()).or_default() += 1;
                counts.problem = Some(crate::error::chain(&failure.error));
            }
            EventKind::Recovered => counts.problem = None,
            _ => {}
        }
    }

    /// Everything of one moment: no load is counted whose generation is not seen, and no certificates are those of
    /// another generation than the rest.
    pub(super) fn seen(&self) -> Seen {
        // First: hooks are told of what is published already.
        let counts = self.told.lock().unwrap_or_else(PoisonError::into_inner).counts.clone();
        let Some(reloader) = self.reloader.get() else {
            return Seen { counts, status: None, items: Arc::default() };
        };
        loop {
            let (generation, status) = (reloader.current(), reloader.status());
            // Else there was a reload in between.
            if status.generation == generation.number() {
                // Of what is used no more, none is told.
                let items = if status.stale { Arc::default() } else { self.items(&generation) };
                return Seen { counts, status: Some(status), items };
            }
        }
    }

    fn status(&self) -> Option<Status> {
        self.reloader.get().map(Reloader::status)
    }

    /// Why it fails now, in words.
    pub(super) fn problem(&self) -> Option<String> {
        let Seen { counts, status, .. } = self.seen();
        counts.problem.filter(|_| status.is_none_or(|status| status.reason.is_some()))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| status.is_ready_at(SystemTime::now()))
    }

    /// Made once for each generation.
    fn items(&self, generation: &Generation) -> Arc<Vec<Item>> {
        let mut made = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != generation.number() {
            *made = (generation.number(), Arc::new(self.make_items(generation)));
        }
        Arc::clone(&made.1)
    }

    fn make_items(&self, generation: &Generation) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut known = HashSet::new();
        for (role, certificate) in generation.material().certificates() {
            let path = certificate.origin().as_path().filter(|_| self.show_paths).map(Path::to_owned);
            let item = Item::certificate(NAME, &role.to_string(), certificate.inspection(), path.as_deref());
            if known.insert(item.id.clone()) {
                items.push(item);
            }
        }
        // Of several lists of an issuer, the one that ends first: a fresh one beside it must not hide that.
        let mut crls: Vec<_> = generation.material().crls().into_iter().flatten().collect();
        crls.sort_by_key(|crl| crl.inspection().next_update());
        for crl in crls {
            let inspection = crl.inspection();
            let Some(next) = inspection.next_update() else { continue };
            let id = format!("crl {}", inspection.issuer());
            if !known.insert(id.clone()) {
                continue;
            }
            items.push(Item {
                labels: super::text::crl_labels(NAME, inspection, None),
                id,
                not_before: inspection.this_update(),
                not_after: next,
                is_crl: true,
            });
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use certsource_testkit::{Ca, KubeletDir};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_problem_outlives_a_withdrawal_that_is_published_beside_it() {
        let (ca, old) = (Ca::new("a"), Ca::new("old"));
        let (leaf, other) = (ca.issue("localhost"), ca.issue("localhost"));
        let volume = KubeletDir::new(&leaf).unwrap();
        let write = |trust: String, key: String| {
            volume.write([("ca.crt", trust), ("tls.crt", leaf.chain_pem()), ("tls.key", key)]).unwrap();
        };
        write(ca.certificate_pem() + &old.certificate_pem(), leaf.key_pem());
        let mut policy = Policy::default();
        policy.pair_grace = Duration::from_millis(500);
        policy.settle_loss = Duration::from_millis(200);
        policy.interval = Duration::from_millis(50);
        let followed = Followed::start(Files::kubernetes(volume.path()), policy, false);
        let until = async |what: &str, is: &dyn Fn(&Seen) -> bool| {
            let end = std::time::Instant::now() + Duration::from_secs(60);
            loop {
                let seen = followed.seen();
                if is(&seen) {
                    return seen;
                }
                assert!(std::time::Instant::now() < end, "never: {what}; {:?}", followed.status());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let generation = |seen: &Seen| seen.status.as_ref().map_or(0, |status| status.generation);
        let loaded = until("loaded", &|seen| seen.counts.reloads == 1).await;
        assert_eq!((generation(&loaded), loaded.items.len(), followed.problem()), (1, 3, None));
        assert!(Arc::ptr_eq(&loaded.items, &followed.seen().items), "made once");

        write(ca.certificate_pem(), other.key_pem());
        let withdrawn = until("the withdrawal", &|seen| seen.counts.reloads == 2).await;
        assert_eq!(generation(&withdrawn), 2, "no load is counted whose generation is not seen");
        assert_eq!(withdrawn.items.len(), 2, "what is told is that of the new generation");
        assert!(
            followed.problem().is_some_and(|problem| problem.contains("match")),
            "{:?}",
            withdrawn.counts
        );

        write(ca.certificate_pem(), leaf.key_pem());
        until("well again", &|_| followed.problem().is_none()).await;
    }

    /// A hook may be told of the first load before those who start the source are told that it has begun.
    #[tokio::test]
    async fn a_load_counts_when_its_generation_can_be_seen() {
        let volume = KubeletDir::new(Ca::new("a").issue("localhost")).unwrap();
        let followed = Followed::empty(false);
        let reloader = Reloader::builder(Files::kubernetes(volume.path())).start_async().await.unwrap();
        let mut events = reloader.subscribe();
        volume.swap(Ca::new("b").issue("localhost")).unwrap();
        reloader.reload().await.unwrap();
        let event = loop {
            let event = events.next().await.unwrap().unwrap();
            if matches!(event.kind, EventKind::Reloaded(_)) {
                break event;
            }
        };
        followed.count(&event);
        let seen = followed.seen();
        assert_eq!((seen.counts.reloads, seen.items.len(), seen.status.is_none()), (0, 0, true));
        followed.started(reloader);
        let seen = followed.seen();
        assert_eq!((seen.counts.reloads, seen.items.len()), (1, 2));
        followed.count(&event);
        assert_eq!(followed.seen().counts.reloads, 2);
    }
}
