//! A source that is followed as an application follows it, for its generation, its reloads and its readiness.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use certsource::Files;
use certsource::machine::Policy;
use certsource_reload::{Event, EventKind, Reloader, Status};
use certsource_rustls::TlsGate;

use super::collect::Item;

/// The label `source` of what is followed.
pub(super) const NAME: &str = "followed";
/// As long as the program runs: material may come late, and that is what is to be seen.
const LONG: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Counts of what happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) reloads: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
    /// Why it fails now, in words.
    pub(super) problem: Option<String>,
}

pub(super) struct Followed {
    reloader: OnceLock<Reloader>,
    counts: Mutex<Counts>,
    show_paths: bool,
}

impl Followed {
    pub(super) fn start(files: Files, policy: Policy, show_paths: bool) -> Arc<Self> {
        let followed = Arc::new(Self { reloader: OnceLock::new(), counts: Mutex::default(), show_paths });
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
            EventKind::Loaded(_) | EventKind::Reloaded(_) => {
                counts.reloads += 1;
                counts.problem = None;
            }
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

    pub(super) fn status(&self) -> Option<Status> {
        self.reloader.get().map(Reloader::status)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| status.is_ready_at(SystemTime::now()))
    }

    /// The certificates and lists of the generation that is served.
    pub(super) fn items(&self) -> Vec<Item> {
        let Some(reloader) = self.reloader.get() else { return Vec::new() };
        let generation = reloader.current();
        let mut items: Vec<Item> = Vec::new();
        for (role, certificate) in generation.material().certificates() {
            let path = certificate.origin().as_path().filter(|_| self.show_paths).map(Path::to_owned);
            let item = Item::certificate(NAME, &role.to_string(), certificate.inspection(), path.as_deref());
            if items.iter().all(|known| known.id != item.id) {
                items.push(item);
            }
        }
        for crl in generation.material().crls().into_iter().flatten() {
            let inspection = crl.inspection();
            let Some(next) = inspection.next_update() else { continue };
            items.push(Item {
                labels: super::text::crl_labels(NAME, inspection, None),
                id: format!("crl {}", inspection.issuer()),
                not_before: inspection.this_update(),
                not_after: next,
                is_crl: true,
            });
        }
        items
    }
}
