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

pub(super) struct Followed {
    reloader: OnceLock<Reloader>,
    counts: Mutex<Counts>,
    /// Of which generation, and what is told of it.
    items: Mutex<(u64, Arc<Vec<Item>>)>,
    show_paths: bool,
}

impl Followed {
    pub(super) fn start(files: Files, policy: Policy, show_paths: bool) -> Arc<Self> {
        let followed = Arc::new(Self {
            reloader: OnceLock::new(),
            counts: Mutex::default(),
            items: Mutex::default(),
            show_paths,
        });
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
                // It is started once.
                let _ = followed.reloader.set(reloader);
            }
        });
        followed
    }

    fn count(&self, event: &Event) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match &event.kind {
            // Not the end of a problem: of a source that is half broken, the other half is still published.
            EventKind::Loaded(_) | EventKind::Reloaded(_) => counts.reloads += 1,
            EventKind::Failed(failure) | EventKind::Rejected(failure) => {
                *counts.failures.entry(failure.reason().as_str()).or_default() += 1;
                counts.problem = Some(crate::error::chain(&failure.error));
            }
            EventKind::Recovered => counts.problem = None,
            _ => {}
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it fails now, in words.
    pub(super) fn problem(&self) -> Option<String> {
        let is_failing = self.status().is_none_or(|status| status.reason.is_some());
        self.counts().problem.filter(|_| is_failing)
    }

    pub(super) fn status(&self) -> Option<Status> {
        self.reloader.get().map(Reloader::status)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| status.is_ready_at(SystemTime::now()))
    }

    /// The certificates and lists of the generation that is served. Made once for each.
    pub(super) fn items(&self) -> Arc<Vec<Item>> {
        let Some(reloader) = self.reloader.get() else { return Arc::default() };
        let generation = reloader.current();
        let mut made = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != generation.number() {
            *made = (generation.number(), Arc::new(self.make_items(&generation)));
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
        for crl in generation.material().crls().into_iter().flatten() {
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
        let until = async |what: &str, is: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while !is() {
                assert!(std::time::Instant::now() < end, "never: {what}; {:?}", followed.status());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let generation = || followed.status().map_or(0, |status| status.generation);
        until("loaded", &|| followed.counts().reloads == 1).await;
        assert_eq!((followed.problem(), followed.items().len()), (None, 3));
        assert!(Arc::ptr_eq(&followed.items(), &followed.items()), "made once");

        write(ca.certificate_pem(), other.key_pem());
        until("the withdrawal", &|| generation() == 2 && followed.counts().reloads == 2).await;
        assert_eq!(followed.items().len(), 2, "what is told is that of the new generation");
        assert!(
            followed.problem().is_some_and(|problem| problem.contains("match")),
            "{:?}",
            followed.counts()
        );

        write(ca.certificate_pem(), leaf.key_pem());
        until("well again", &|| followed.problem().is_none()).await;
    }
}
