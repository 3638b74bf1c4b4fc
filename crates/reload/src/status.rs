//! The state of a source at one glance, for readiness probes and debug endpoints.

use std::time::SystemTime;

use certsource::{Digest, Origin, Reason};

/// The state of a source. With the feature `serde` it serializes, times as RFC 3339 UTC.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// Of which source.
    pub origin: Origin,
    /// The number of the served generation, or of the last one when nothing is served (`stale`); 0 before the first load.
    pub generation: u64,
    /// The digest of the served generation, over its public parts.
    pub digest: Option<Digest>,
    /// When the served generation was published.
    #[cfg_attr(feature = "serde", serde(serialize_with = "rfc3339"))]
    pub published_at: Option<SystemTime>,
    /// Seconds since the served generation was published.
    pub age_seconds: f64,
    /// Seconds since the source began to hold something that is not adopted yet: it must stand still first, or a
    /// certificate and a key do not match and a writer is probably between its two files. `None` when there is no such
    /// thing, and once it was told as a failure.
    pub pending_seconds: Option<f64>,
    /// Seconds since the source stopped being loadable; `None` while all is well, and before that was told: what is
    /// wrong has a grace first.
    pub failing_seconds: Option<f64>,
    /// Why the source is not loadable now, or an overlap can not end. Here while `failing_seconds` is.
    pub reason: Option<Reason>,
    /// The same, in words.
    pub message: Option<String>,
    /// Whether nothing is served any more, because the source could not be confirmed for longer than
    /// [`Policy::max_stale`](certsource::machine::Policy::max_stale).
    pub stale: bool,
    /// Whether a withdrawn trust anchor is still trusted, because the identity's files are broken, or because its overlap is over and
    /// it can not be left out.
    pub withdrawal_pending: bool,
    /// What an operator should see to, while everything is served as it should be.
    pub degraded: Option<String>,
    /// Whether changes wake the engine, or it polls only.
    pub watching: bool,
    /// The end of validity that comes first: of the identity, or of an anchor when there is no identity.
    #[cfg_attr(feature = "serde", serde(serialize_with = "rfc3339"))]
    pub expires_at: Option<SystemTime>,
    /// The end of the identity alone.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) identity_ends: Option<SystemTime>,
}

impl Status {
    /// Whether a generation is served and its identity, if it has one, has not expired at `now`: for readiness
    /// probes. A source that can not be loaded any more stays ready while what is served is valid, unless
    /// [`Policy::max_stale`](certsource::machine::Policy::max_stale) ends that. An anchor that has expired makes nothing
    /// unready: the others are still trusted.
    pub fn is_ready_at(&self, now: SystemTime) -> bool {
        self.generation > 0 && !self.stale && self.identity_ends.is_none_or(|end| now <= end)
    }
}

#[cfg(feature = "serde")]
fn rfc3339<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_some(&certsource::clock::Utc(*time)),
        None => serializer.serialize_none(),
    }
}
