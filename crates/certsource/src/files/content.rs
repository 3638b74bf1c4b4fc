//! The bytes of the files made into parts: which section of which file is what.
//!
//! What is not here: the meaning of a certificate or key, and whether they fit ([`Parts::assemble`]).

use std::collections::{BTreeMap, HashSet};

use pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use super::der::{Guess, guess};
use super::password::Password;
use super::plan::{Place, Plan};
use super::system::Store;
use super::view::{Outcome, Taken};
use super::{KeyPermissions, Limits};
use crate::error::{Error, Reason};
use crate::key::PrivateKey;
use crate::origin::Origin;
use crate::parts::{FoundCertificate, FoundCrl, FoundIdentity, Part, Parts, Warning};
use crate::pem::{self, Content};

/// Makes parts of what was read. A part that is broken leaves the others as they are.
pub(super) fn parts(
    plan: Plan,
    outcomes: Vec<Outcome>,
    limits: &Limits,
    key_permissions: KeyPermissions,
    password: &mut Password,
    system: Option<&Store>,
) -> Parts {
    let certificates_left = limits.certificates;
    let mut reader = Reader { limits, certificates_left, key_permissions, password, warnings: Vec::new() };
    let mut by_role: [Vec<(Place, Outcome)>; 5] = Default::default();
    for (place, outcome) in plan.places.into_iter().zip(outcomes) {
        by_role[place.role as usize].push((place, outcome));
    }
    let has_directory = !plan.directories.is_empty();
    let [trust, chain, key, combined, crls] = by_role;
    let mut parts = Parts::new();
    if !trust.is_empty() || has_directory || system.is_some() {
        parts.trust = match plan.broken.into_iter().next() {
            Some(error) => Part::Broken(error),
            None => reader.trust(trust, system).into(),
        };
    }
    if let Some((place, outcome)) = combined.into_iter().next() {
        parts.identity = reader.combined(&place, outcome).into();
    } else if let (Some(chain), Some(key)) = (chain.into_iter().next(), key.into_iter().next()) {
        parts.identity = reader.pair(chain, key).into();
    }
    if !crls.is_empty() {
        parts.crls = reader.crls(crls).into();
    }
    parts.warnings = reader.warnings;
    parts.single_file = plan.is_single_file && system.is_none();
    parts
}

/// How many labels of other sections a message names, and how long they may be: it stays one line whatever stands in
/// the file.
const LABELS: usize = 3;
const LABEL_LENGTH: usize = 40;

/// What stands in one file.
#[derive(Default)]
struct Holds {
    certificates: Vec<(CertificateDer<'static>, Option<usize>)>,
    keys: Vec<(PrivateKey, Option<usize>)>,
    encrypted: Vec<(Zeroizing<Vec<u8>>, Option<usize>)>,
    crls: Vec<(CertificateRevocationListDer<'static>, Option<usize>)>,
    /// Sections that nothing is made of, by their labels.
    others: BTreeMap<String, usize>,
    /// Those whose labels are not named.
    unnamed: usize,
}

impl Holds {
    /// All of it in words, for a message about what is missing.
    fn in_words(&self) -> String {
        let mut words = Vec::new();
        let mut add = |count: usize, one: &str, many: &str| match count {
            0 => {}
            1 => words.push(format!("1 {one}")),
            count => words.push(format!("{count} {many}")),
        };
        add(self.certificates.len(), "certificate", "certificates");
        add(self.keys.len(), "private key", "private keys");
        add(self.encrypted.len(), "encrypted private key", "encrypted private keys");
        add(self.crls.len(), "revocation list", "revocation lists");
        for (label, count) in &self.others {
            add(*count, &format!("section \"{label}\""), &format!("sections \"{label}\""));
        }
        add(self.unnamed, "section of another kind", "sections of other kinds");
        words.join(", ")
    }

    fn count_other(&mut self, label: String) {
        let is_named =
            self.others.contains_key(&label) || self.others.len() < LABELS && label.len() <= LABEL_LENGTH;
        let count = if is_named { self.others.entry(label).or_default() } else { &mut self.unnamed };
        *count += 1;
    }

    fn is_nothing(&self) -> bool {
        self.certificates.is_empty()
            && self.keys.is_empty()
            && self.encrypted.is_empty()
            && self.crls.is_empty()
            && self.others.is_empty()
            && self.unnamed == 0
    }
}

struct Reader<'a> {
    limits: &'a Limits,
    certificates_left: usize,
    key_permissions: KeyPermissions,
    password: &'a mut Password,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn trust(
        &mut self,
        files: Vec<(Place, Outcome)>,
        system: Option<&Store>,
    ) -> Result<Vec<FoundCertificate>, Error> {
        let mut anchors = Vec::new();
        let mut passed_over = None;
        for (place, outcome) in files {
            let Some(taken) = self.taken(&place, outcome)? else { continue };
            let holds = self.holds(&place, &taken)?;
            if holds.certificates.is_empty() {
                let missing = missing("certificate", &holds, &place);
                if !place.is_listed {
                    return Err(missing);
                }
                self.warn(&place, format!("{}; the file is passed over", missing.message()));
                passed_over = Some(missing);
                continue;
            }
            if !holds.keys.is_empty() || !holds.encrypted.is_empty() {
                self.warn(
                    &place,
                    "a private key stands among the trust anchors; keep it in a file of its own",
                );
            }
            anchors.extend(found(holds.certificates, &place));
        }
        // What is asked for is there: the system's anchors do not stand in for a directory that gave none.
        if let Some(system) = system.filter(|_| passed_over.is_none() || !anchors.is_empty()) {
            let found = system.read(&mut self.warnings)?;
            self.count_certificates(found.len()).map_err(|error| error.of(system.origin()))?;
            anchors.extend(found);
        }
        match passed_over {
            Some(missing) if anchors.is_empty() => Err(missing),
            _ if anchors.is_empty() => Err(Error::new(Reason::Empty, "no trust anchor was found")),
            _ => Ok(distinct(anchors)),
        }
    }

    fn pair(&mut self, chain: (Place, Outcome), key: (Place, Outcome)) -> Result<FoundIdentity, Error> {
        let (chain_place, outcome) = chain;
        let chain_taken = self.file(&chain_place, outcome);
        let (key_place, outcome) = key;
        // Both are looked at before either fails, so that the warnings are complete.
        let key_taken = self.file(&key_place, outcome);
        let holds = self.holds(&chain_place, &chain_taken?)?;
        let chain = certificates(holds, &chain_place)?;
        let key_taken = key_taken?;
        self.check_permissions(&key_place, &key_taken)?;
        let holds = self.holds(&key_place, &key_taken)?;
        let key = self.one_key(holds, &key_place)?;
        Ok(FoundIdentity { chain, key, key_origin: Origin::file(&key_place.shown) })
    }

    fn combined(&mut self, place: &Place, outcome: Outcome) -> Result<FoundIdentity, Error> {
        let taken = self.file(place, outcome)?;
        self.check_permissions(place, &taken)?;
        let mut holds = self.holds(place, &taken)?;
        let chain = std::mem::take(&mut holds.certificates);
        if chain.is_empty() {
            return Err(missing("certificate", &holds, place));
        }
        let chain = found(chain, place).collect();
        let key = self.one_key(holds, place)?;
        Ok(FoundIdentity { chain, key, key_origin: Origin::file(&place.shown) })
    }

    fn crls(&mut self, files: Vec<(Place, Outcome)>) -> Result<Vec<FoundCrl>, Error> {
        let mut crls = Vec::new();
        for (place, outcome) in files {
            let taken = self.file(&place, outcome)?;
            let der = pem::looks_like_der(&taken.bytes);
            if der {
                let der = CertificateRevocationListDer::from(taken.bytes.to_vec());
                crls.push(FoundCrl { der, origin: Origin::file(&place.shown), line: None });
                continue;
            }
            let holds = self.holds(&place, &taken)?;
            if holds.crls.is_empty() {
                return Err(missing("revocation list", &holds, &place));
            }
            crls.extend(holds.crls.into_iter().map(|(der, line)| FoundCrl {
                der,
                origin: Origin::file(&place.shown),
                line,
            }));
        }
        Ok(crls)
    }

    /// The file's bytes; `None` if it is passed over.
    fn taken(&mut self, place: &Place, outcome: Outcome) -> Result<Option<Taken>, Error> {
        let taken = match outcome {
            Outcome::Taken(taken) => taken,
            Outcome::PassedOver => return Ok(None),
            Outcome::Failed(error) => return Err(error),
        };
        if taken.meta.links == 0 {
            self.warn(
                place,
                "no directory holds this file any more: it is a mount of a single file that was replaced outside, \
                 and can never change again; mount its directory instead",
            );
        }
        if taken.bytes.is_empty() {
            let message = "the file is empty; a writer may be at work";
            return Err(Error::new(Reason::Empty, message).at(&place.shown));
        }
        Ok(Some(taken))
    }

    fn file(&mut self, place: &Place, outcome: Outcome) -> Result<Taken, Error> {
        // Only a sub-directory that a directory lists is passed over, and only anchors come from directories.
        self.taken(place, outcome)?
            .ok_or_else(|| Error::new(Reason::NotRegularFile, "this is a directory").at(&place.shown))
    }

    /// Reads a file of any content.
    fn holds(&mut self, place: &Place, taken: &Taken) -> Result<Holds, Error> {
        let mut holds = Holds::default();
        if pem::looks_like_der(&taken.bytes) {
            match guess(&taken.bytes) {
                Guess::Key(format) => {
                    let der = Zeroizing::new(taken.bytes.to_vec());
                    holds.keys.push((PrivateKey::new(format, der), None));
                }
                Guess::EncryptedKey => holds.encrypted.push((Zeroizing::new(taken.bytes.to_vec()), None)),
                Guess::Other => {
                    self.count_certificates(1).map_err(|error| error.at(&place.shown))?;
                    holds.certificates.push((CertificateDer::from(taken.bytes.to_vec()), None));
                }
            }
            return Ok(holds);
        }
        // No text begins so: a zero, and an octet that no text has.
        if let [0x30, 0x81..=0x84, ..] = **taken.bytes {
            let message = "DER that is cut, or has bytes behind its end; a writer may be at work";
            return Err(Error::new(Reason::Malformed, message).at(&place.shown));
        }
        for section in pem::sections(&taken.bytes) {
            let section = section.map_err(|flaw| flaw.at(&place.shown))?;
            let line = Some(section.line);
            match section.content {
                Content::Certificate(der) => {
                    self.count_certificates(1).map_err(|error| error.at(&place.shown))?;
                    holds.certificates.push((der, line));
                }
                Content::Crl(der) => holds.crls.push((der, line)),
                Content::PrivateKey(key) => holds.keys.push((key, line)),
                Content::EncryptedKey(der) => holds.encrypted.push((der, line)),
                Content::Other(label) => holds.count_other(label.to_string()),
            }
        }
        if holds.is_nothing() {
            let message = "neither PEM nor DER: no section begins in this file; is it the right one, and written whole?";
            return Err(Error::new(Reason::Malformed, message).at(&place.shown));
        }
        Ok(holds)
    }

    /// The error has no place yet.
    fn count_certificates(&mut self, count: usize) -> Result<(), Error> {
        match self.certificates_left.checked_sub(count) {
            Some(left) => {
                self.certificates_left = left;
                Ok(())
            }
            None => {
                let limit = self.limits.certificates;
                let message = format!(
                    "the source holds more than {limit} certificates; if this is meant, raise `Limits::certificates`"
                );
                Err(Error::new(Reason::TooLarge, message))
            }
        }
    }

    /// The one private key of a file.
    fn one_key(&mut self, mut holds: Holds, place: &Place) -> Result<PrivateKey, Error> {
        let count = holds.keys.len() + holds.encrypted.len();
        let (error, line) = match (holds.keys.pop(), holds.encrypted.pop()) {
            (None, None) => return Err(missing("private key", &holds, place)),
            (Some((key, _)), None) if count == 1 => return Ok(key),
            (None, Some((der, line))) if count == 1 => match self.password.decrypt(&der) {
                Ok(key) => return Ok(key),
                // What the password comes from may have named a place of its own.
                Err(error) if error.path().is_some() => return Err(error),
                Err(error) => (error, line),
            },
            (last, encrypted) => {
                let message =
                    format!("{count} private keys in one file; keep the one that belongs to the certificate");
                let line = last.map(|(_, line)| line).or(encrypted.map(|(_, line)| line)).flatten();
                (Error::new(Reason::Malformed, message), line)
            }
        };
        let error = error.at(&place.shown);
        Err(match line {
            Some(line) => error.on_line(line),
            None => error,
        })
    }

    fn check_permissions(&mut self, place: &Place, taken: &Taken) -> Result<(), Error> {
        let open = taken.meta.mode & 0o077;
        if open == 0 || taken.in_volume {
            return Ok(());
        }
        let mode = taken.meta.mode;
        let message = format!(
            "users other than its owner have access to this private key (mode {mode:04o}); `chmod 600` it"
        );
        match self.key_permissions {
            KeyPermissions::Ignore => Ok(()),
            KeyPermissions::Warn => {
                self.warn(place, message);
                Ok(())
            }
            KeyPermissions::Require => Err(Error::new(Reason::PermissionInsecure, message).at(&place.shown)),
        }
    }

    fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push(Warning { origin: Origin::file(&place.shown), message: message.into() });
    }
}

fn found(
    certificates: Vec<(CertificateDer<'static>, Option<usize>)>,
    place: &Place,
) -> impl Iterator<Item = FoundCertificate> {
    let origin = Origin::file(&place.shown);
    certificates.into_iter().map(move |(der, line)| FoundCertificate { der, origin: origin.clone(), line })
}

/// Each anchor once, where it was found first: directories made by `openssl rehash` hold every file under two names,
/// and often a bundle of all beside them.
fn distinct(anchors: Vec<FoundCertificate>) -> Vec<FoundCertificate> {
    let mut seen = HashSet::new();
    let is_first: Vec<bool> = anchors.iter().map(|anchor| seen.insert(anchor.der.as_ref())).collect();
    anchors.into_iter().zip(is_first).filter_map(|(anchor, is_first)| is_first.then_some(anchor)).collect()
}

fn certificates(holds: Holds, place: &Place) -> Result<Vec<FoundCertificate>, Error> {
    if holds.certificates.is_empty() {
        return Err(missing("certificate", &holds, place));
    }
    Ok(found(holds.certificates, place).collect())
}

/// There is content, but not what was looked for.
fn missing(what: &str, holds: &Holds, place: &Place) -> Error {
    let there = holds.in_words();
    let message =
        if there.is_empty() { format!("no {what} in it") } else { format!("no {what} in it, but {there}") };
    Error::new(Reason::Empty, message).at(&place.shown)
}
