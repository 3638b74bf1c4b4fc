//! What time alone does to the served material: certificates that near their end, and an identity that is past it.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Now;
use crate::digest::Fingerprint;
use crate::machine::{Expiring, Machine, Told};
use crate::material::Certificate;

/// When a certificate counts as expiring.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Threshold {
    /// So long before its end. Zero is the end itself.
    Before(Duration),
    /// When this share of its lifetime is used, 0.0 to 1.0; what is out of range counts as the nearest value in it.
    Used(f64),
}

impl From<Duration> for Threshold {
    fn from(before: Duration) -> Self {
        Self::Before(before)
    }
}

impl Threshold {
    /// The moment at which this certificate passes it.
    pub fn moment(self, certificate: &Certificate) -> SystemTime {
        let (begin, end) = (certificate.not_before(), certificate.not_after());
        match self {
            Self::Before(before) => end.checked_sub(before).unwrap_or(begin),
            Self::Used(share) => {
                let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
                // A certificate that ends before it begins has no life to use.
                end.duration_since(begin).map_or(end, |life| begin + life.mul_f64(share))
            }
        }
    }
}

/// What of it has been told, and when there will be more to tell.
// In this order: each look asks for the moments.
#[derive(Default)]
#[repr(C)]
pub(super) struct Expiry {
    /// The next moment at which a threshold is passed; found when something was published or told.
    next: Option<SystemTime>,
    /// The end of the served identity; `None` once that is told.
    end: Option<SystemTime>,
    /// Certificate and number of the threshold.
    told: BTreeSet<(Fingerprint, usize)>,
}

impl Machine {
    /// To be called when other material is served.
    pub(super) fn begin_expiry(&mut self) {
        let Some(current) = &self.current else { return };
        self.expiry.end = current.material.identity_not_after();
        let served: HashSet<_> = current.material.certificates().map(|(_, c)| c.fingerprint()).collect();
        self.expiry.told.retain(|(fingerprint, _)| served.contains(fingerprint));
        self.plan_expiry();
    }

    fn plan_expiry(&mut self) {
        let Some(current) = &self.current else { return };
        let (told, thresholds) = (&self.expiry.told, &self.policy.expiring);
        let moments = current.material.certificates().flat_map(|(_, certificate)| {
            let left = thresholds.iter().enumerate();
            let left = left.filter(|(number, _)| !told.contains(&(certificate.fingerprint(), *number)));
            left.map(|(_, threshold)| threshold.moment(certificate))
        });
        self.expiry.next = if thresholds.is_empty() { None } else { moments.min() };
    }

    /// Tells what the clock has brought.
    pub(super) fn watch_expiry(&mut self, now: Now) {
        if self.expiry.next.is_some_and(|next| next <= now.wall) {
            self.tell_expiring(now);
        }
        if self.expiry.end.is_some_and(|end| end < now.wall) {
            self.expiry.end = None;
            self.told.push_back(Told::Expired);
        }
    }

    fn tell_expiring(&mut self, now: Now) {
        let Some(current) = &self.current else { return };
        for (role, certificate) in current.material.certificates() {
            let mut passed = Vec::new();
            for (number, threshold) in self.policy.expiring.iter().enumerate() {
                let moment = threshold.moment(certificate);
                if moment <= now.wall && self.expiry.told.insert((certificate.fingerprint(), number)) {
                    passed.push((moment, *threshold));
                }
            }
            // Several at once, as after a start: the most pressing one last.
            passed.sort_by_key(|(moment, _)| *moment);
            for (_, threshold) in passed {
                let (certificate, generation) = (certificate.clone(), current.number);
                self.told.push_back(Told::Expiring(Expiring { certificate, role, threshold, generation }));
            }
        }
        self.plan_expiry();
    }

    /// The earlier of `until` and the next moment at which time alone has something to do.
    pub(super) fn expiry_wake(&self, now: Now, until: Instant) -> Instant {
        let moments = [self.expiry.next, self.expiry.end.map(|end| end + Duration::from_secs(1))];
        let left = moments.into_iter().flatten().filter_map(|moment| moment.duration_since(now.wall).ok());
        let wakes = left.filter_map(|left| now.mono.checked_add(left)).chain(self.overlap_ends());
        wakes.fold(until, Instant::min)
    }
}
