//! What goes to `tracing`: one event for each thing that happens to a source, and a span around each step of following it.
//!
//! Target `certsource`, and the names of the fields, are a contract; the words of a message are not.
//!
//! What is not here: metrics (feature `metrics`), and events for hooks and subscribers.

use certsource::Origin;

use crate::event::EventKind;

/// The target of every event and span.
const TARGET: &str = "certsource";

/// One event of a source. `is_told`: a hook hears of failures, so they are no warnings here.
pub(crate) fn event(origin: &Origin, kind: &EventKind, is_told: bool) {
    let event = kind.as_str();
    match kind {
        EventKind::Failed(failure) | EventKind::Rejected(failure) if !is_told => tracing::warn!(
            target: TARGET,
            %origin,
            event,
            reason = failure.reason().as_str(),
            path = failure.error.path().map(|path| tracing::field::debug(path.to_owned())),
            line = failure.error.line(),
            serving = failure.serving(),
            withdrawal_pending = failure.withdrawal_pending,
            "cannot follow a source: {failure}"
        ),
        EventKind::Failed(failure) | EventKind::Rejected(failure) | EventKind::Pending(failure) => {
            tracing::debug!(
                target: TARGET,
                %origin,
                event,
                reason = failure.reason().as_str(),
                serving = failure.serving(),
                withdrawal_pending = failure.withdrawal_pending,
                "{failure}"
            );
        }
        EventKind::Stale(stale) if !is_told => tracing::warn!(
            target: TARGET,
            %origin,
            event,
            reason = certsource::Reason::Stale.as_str(),
            generation = stale.generation,
            "nothing is served any more: {stale}"
        ),
        EventKind::Stale(stale) => {
            let (reason, generation) = (certsource::Reason::Stale.as_str(), stale.generation);
            tracing::debug!(target: TARGET, %origin, event, reason, generation, "{stale}");
        }
        EventKind::Degraded(why) => tracing::warn!(target: TARGET, %origin, event, "{why}"),
        EventKind::Expired(generation) => tracing::warn!(
            target: TARGET,
            %origin,
            event,
            generation = generation.number(),
            "the served identity has expired"
        ),
        EventKind::Expiring(expiring) => tracing::warn!(
            target: TARGET,
            %origin,
            event,
            generation = expiring.generation,
            subject = expiring.certificate.inspection().subject(),
            not_after = %certsource::clock::Utc(expiring.certificate.not_after()),
            "a certificate that is served is near its end"
        ),
        EventKind::Regressed(regressed) => tracing::warn!(target: TARGET, %origin, event, "{regressed}"),
        EventKind::Loaded(reload) | EventKind::Reloaded(reload) => tracing::info!(
            target: TARGET,
            %origin,
            event,
            generation = reload.generation.number(),
            digest = %reload.generation.digest(),
            added = reload.diff.added.len(),
            removed = reload.diff.removed.len(),
            "a generation is served"
        ),
        EventKind::Retired(generation) => {
            tracing::debug!(target: TARGET, %origin, event, generation, "a generation is served no more");
        }
        EventKind::Recovered => {
            tracing::info!(target: TARGET, %origin, event, "the source can be followed again")
        }
    }
}

/// A look at the source: it may block on the disk.
pub(crate) fn look(origin: &Origin) -> tracing::Span {
    tracing::trace_span!(target: TARGET, "look", %origin)
}

/// A read of the source and the check of its parts.
pub(crate) fn read(origin: &Origin) -> tracing::Span {
    tracing::debug_span!(target: TARGET, "read", %origin)
}

/// The gates, and building what is derived.
pub(crate) fn judge(origin: &Origin) -> tracing::Span {
    tracing::debug_span!(target: TARGET, "judge", %origin)
}
