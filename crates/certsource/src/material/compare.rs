//! How two materials differ: what came and went, what only withdraws, what looks like a step back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Certificate, Crl, Material, Role};
use crate::digest::Fingerprint;

/// What two materials do not share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff {
    /// Certificates that came, with their role.
    pub added: Vec<(Role, Certificate)>,
    /// Certificates that went, with their role.
    pub removed: Vec<(Role, Certificate)>,
}

impl Material {
    /// What this material has that `older` has not, and the other way round.
    pub fn diff(&self, older: &Self) -> Diff {
        let only_in = |a: &Self, b: &Self| {
            let there: HashSet<_> = b.certificates().map(|(role, c)| (role, c.fingerprint())).collect();
            let mut seen = HashSet::new();
            a.certificates()
                .filter(|(role, c)| {
                    !there.contains(&(*role, c.fingerprint())) && seen.insert((*role, c.fingerprint()))
                })
                .map(|(role, c)| (role, c.clone()))
                .collect()
        };
        Diff { added: only_in(self, older), removed: only_in(older, self) }
    }

    /// Whether certificates or revocation lists went away and none came: what a cut file looks like, and a withdrawal
    /// of anchors too.
    pub(crate) fn only_loses(&self, current: &Self) -> bool {
        let all = |m: &Self| -> HashSet<(Option<Role>, Fingerprint)> {
            let certificates = m.certificates().map(|(role, c)| (Some(role), c.fingerprint()));
            certificates.chain(m.crls.iter().flatten().map(|crl| (None, crl.fingerprint()))).collect()
        };
        let (now, before) = (all(self), all(current));
        now.len() < before.len() && now.is_subset(&before)
    }

    /// Whether nothing is lost: no anchor is gone, the lists are the same, and an identity that makes way for another is valid
    /// at both moments.
    pub(crate) fn only_adds(&self, current: &Self, now: SystemTime, until: SystemTime) -> bool {
        let lists = |m: &Self| -> Option<HashSet<Fingerprint>> {
            m.crls.as_ref().map(|crls| crls.iter().map(Crl::fingerprint).collect())
        };
        let is_valid =
            |certificate: &Certificate| certificate.not_before() <= now && until < certificate.not_after();
        let keeps_identity = match (&current.identity, &self.identity) {
            (Some(old), Some(_)) => old.chain.iter().all(is_valid),
            (old, _) => old.is_none(),
        };
        self.trust.is_some() == current.trust.is_some()
            && self.anchors_missing_from(current).is_empty()
            && lists(self) == lists(current)
            && keeps_identity
    }

    /// Whether nothing is accepted that was not accepted before: the identity is the same, no anchor is new, and every
    /// revocation list is still there or has made way for a newer one of its issuer that revokes no less.
    pub(crate) fn only_withdraws(&self, current: &Self) -> bool {
        let anchors = |m: &Self| -> HashSet<Fingerprint> {
            m.trust.iter().flatten().map(Certificate::fingerprint).collect()
        };
        let chain = |m: &Self| -> Option<Vec<Fingerprint>> {
            m.identity.as_ref().map(|i| i.chain.iter().map(Certificate::fingerprint).collect())
        };
        let stays = |known: &Crl| {
            let mut lists = self.crls.iter().flatten();
            lists.any(|crl| crl.fingerprint() == known.fingerprint() || crl.takes_the_place_of(known))
        };
        self.digest != current.digest
            && self.trust.is_some() == current.trust.is_some()
            && chain(self) == chain(current)
            && anchors(self).is_subset(&anchors(current))
            && current.crls.iter().flatten().all(stays)
    }

    /// A list in `current` whose issuer has only older lists here: it looks like a replay.
    pub(crate) fn replays<'a>(&'a self, current: &Self) -> Option<&'a Crl> {
        current.crls.iter().flatten().find_map(|known| {
            let mut of_issuer = self.crls.iter().flatten().filter(|crl| crl.is_of_issuer_of(known));
            let first = of_issuer.next()?;
            (first.is_older_than(known) && of_issuer.all(|crl| crl.is_older_than(known))).then_some(first)
        })
    }

    /// The anchors of `served` that are not here; none if one of both holds no trust at all.
    pub(crate) fn anchors_missing_from<'a>(&self, served: &'a Self) -> Vec<&'a Certificate> {
        let (Some(new), Some(old)) = (self.trust(), served.trust()) else { return Vec::new() };
        let here: HashSet<_> = new.iter().map(Certificate::fingerprint).collect();
        old.iter().filter(|anchor| !here.contains(&anchor.fingerprint())).collect()
    }

    /// This material with these anchors too.
    pub(crate) fn with_anchors(self: &Arc<Self>, anchors: Vec<Certificate>) -> Arc<Self> {
        if anchors.is_empty() {
            return Arc::clone(self);
        }
        let trust = self.trust.iter().flatten().cloned().chain(anchors).collect();
        let (identity, crls) = (self.identity.clone(), self.crls.clone());
        Arc::new(Self::new(Some(trust), identity, crls, self.warnings.clone(), self.single_file))
    }

    /// Whether this is an identity and nothing else, as `current` is, with a new key that is known to match: then
    /// nothing else of it can still be to come. Beside trust or lists it proves nothing: a bundle that belongs to the
    /// new pair may be written after it.
    pub(crate) fn is_new_pair(&self, current: &Self) -> bool {
        let (Some(new), Some(old)) = (self.identity(), current.identity()) else { return false };
        let is_alone = |material: &Self| material.trust.is_none() && material.crls.is_none();
        new.is_key_match_known()
            && new.leaf().public_key_der() != old.leaf().public_key_der()
            && is_alone(self)
            && is_alone(current)
    }
}

/// The parts of a source in which something can be withdrawn, as far as they are good.
#[derive(Debug)]
pub struct Partial {
    /// `None`: broken.
    pub(super) trust: Option<Option<Vec<Certificate>>>,
    /// `None`: broken.
    pub(super) crls: Option<Option<Vec<Crl>>>,
}

impl Partial {
    /// What these parts withdraw: `current` with the new trust, the new lists or both, so that nothing is accepted that
    /// was not accepted before. `None` when they withdraw nothing.
    pub(crate) fn withdrawal_from(&self, current: &Material) -> Option<Material> {
        let with = |trust: &Option<Vec<Certificate>>, crls: &Option<Vec<Crl>>| {
            let material =
                Material::new(trust.clone(), current.identity.clone(), crls.clone(), Vec::new(), false);
            material.only_withdraws(current).then_some(material)
        };
        let both = self.trust.as_ref().zip(self.crls.as_ref()).and_then(|(trust, crls)| with(trust, crls));
        both.or_else(|| with(self.trust.as_ref()?, &current.crls))
            .or_else(|| with(&current.trust, self.crls.as_ref()?))
    }
}

impl Material {
    /// For when the whole of it is refused.
    pub(crate) fn as_partial(&self) -> Partial {
        Partial { trust: Some(self.trust.clone()), crls: Some(self.crls.clone()) }
    }
}
