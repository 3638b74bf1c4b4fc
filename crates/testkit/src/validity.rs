//! When a certificate begins and ends to be valid.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Clocks differ a little between machines, so issuers date certificates back; so do we.
const BACKDATED: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Validity {
    not_before: Option<SystemTime>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    At(SystemTime),
    After(Duration),
}

impl Validity {
    pub(crate) fn not_before(&mut self, at: SystemTime) {
        self.not_before = Some(at);
    }

    pub(crate) fn not_after(&mut self, at: SystemTime) {
        self.end = Some(End::At(at));
    }

    pub(crate) fn valid_for(&mut self, time: Duration) {
        self.end = Some(End::After(time));
    }

    /// (not_before, not_after). A not_after in the past pulls a not_before that was not set along.
    pub(crate) fn resolve(self, default: Duration) -> (SystemTime, SystemTime) {
        let now = SystemTime::now();
        let not_after = match self.end.unwrap_or(End::After(default)) {
            End::At(at) => at,
            // Certificates know whole seconds: round up, so that the time asked for is really there.
            End::After(time) => self.not_before.unwrap_or(now) + time + Duration::from_nanos(999_999_999),
        };
        let not_before = self.not_before.unwrap_or_else(|| (now - BACKDATED).min(not_after - BACKDATED));
        (not_before, not_after)
    }
}

pub(crate) fn to_x509(time: SystemTime) -> OffsetDateTime {
    // X.509 has no fractions; cut them here so that every encoder agrees.
    OffsetDateTime::from(time).replace_nanosecond(0).expect("0 is a valid nanosecond")
}
