//! What a reload would make of the files: load them as the library does, judge them as its gate does, and say what would
//! be published or why not.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource::clock::Utc;
use certsource::{Error, Files, Identity, Material, Reason};
use certsource_rustls::TlsGate;

use super::disk::Looked;
use super::{Findings, ago, rank, writer};
use crate::args;
use crate::error;

/// What is not valid yet by less than this is likelier a matter of clocks than of plans.
const CLOCKS: Duration = Duration::from_secs(24 * 3600);
/// A clock before this is not set: 2026-01-01, before this program was written.
const WRITTEN: Duration = Duration::from_secs(1_767_225_600);
/// The two files of a pair, written by one writer, are closer together than this.
const PAIR: Duration = Duration::from_secs(60);

/// The material, if a reload would publish it.
pub(super) fn examine(
    args: &args::Material,
    looked: &[Looked],
    found: &mut Findings,
) -> Option<Arc<Material>> {
    if found.now.duration_since(SystemTime::UNIX_EPOCH + WRITTEN).is_err() {
        found.problem(
            rank::CLOCK,
            "clock_skew",
            format!("this clock says {}: it is not set", Utc(found.now)),
            "set the clock: every certificate is judged by it",
        );
    }
    let mut files = args.files()?;
    let material = match load(&mut files) {
        Ok(material) => material,
        Err(error) => {
            refused(&error, found);
            return None;
        }
    };
    for warning in material.warnings() {
        // Those of mounts are told with more beside them.
        if !found.has("replaced_outside") || !warning.message.contains("never change again") {
            let (code, advice) = if warning.message.contains("have access to this private key") {
                ("permission_insecure", "take the rights away: chmod 600; --strict-permissions refuses it")
            } else {
                ("warning", "see to it before it becomes a problem")
            };
            found.warning(rank::SLOW, code, warning.to_string(), advice);
        }
    }
    if let Some(identity) = material.identity() {
        validity(identity, found);
        chain(identity, &material, found);
    }
    anchors(&material, found);
    for crl in material.crls().into_iter().flatten() {
        if let Some(next) = crl.next_update().filter(|next| *next < found.now) {
            let issuer = crl.inspection().issuer();
            found.problem(
                rank::CONTENT,
                "crl_stale",
                format!(
                    "the revocation list of {issuer} should have been replaced {}, at {}",
                    ago(next, found.now),
                    Utc(next)
                ),
                "look at what fetches it: what was revoked since is not known here",
            );
        }
    }
    pair(args, looked, found);
    first_expiry(&material, found);
    // While what is served is valid, such a one is refused.
    if !found.has("expired") && !found.has("not_yet_valid") {
        would_publish(&material, found);
    }
    Some(material)
}

fn load(files: &mut Files) -> Result<Arc<Material>, Error> {
    let material = files.load()?;
    TlsGate::new()?.check(&material)?;
    Ok(material)
}

fn refused(error: &Error, found: &mut Findings) {
    let (reason, text) = (error.reason(), error::chain(error));
    // By these names the look at the disk has told it, with more beside it.
    let known: &[&str] = match reason {
        Reason::NotFound | Reason::PermissionDenied => &[reason.as_str()],
        Reason::Io => &["io", "link_loop", "not_a_directory"],
        _ => &[],
    };
    let (level_rank, advice) = match reason {
        _ if known.iter().any(|code| found.has(code)) => {
            return found.note(
                rank::FACTS,
                "would_fail",
                format!("a reload would keep what is served: {text}"),
            );
        }
        Reason::KeyMismatch => (
            rank::CONTENT,
            "is a writer between its two files? then it ends by itself within seconds; else put the key of this certificate there",
        ),
        Reason::Empty => (
            rank::CONTENT,
            "is a writer at work? else write the file again: an empty one never means \"no roots\"",
        ),
        Reason::Malformed => {
            (rank::CONTENT, "write the file again, whole: certsource inspect shows what is good in it")
        }
        Reason::Encrypted => {
            (rank::CONTENT, "give the program the password, or decrypt the key: openssl pkey")
        }
        Reason::Unstable => {
            (rank::CONTENT, "find out who writes these files all the time: certsource watch tells when")
        }
        Reason::TooLarge => {
            (rank::CONTENT, "name less; only a program of yours may take more, by certsource::files::Limits")
        }
        _ => (rank::CONTENT, "see to what it says; until then the last good generation is served"),
    };
    found.problem(
        level_rank,
        reason.as_str(),
        format!("a reload would be refused, and what is served stays: {text}"),
        advice,
    );
}

/// The whole chain, as the engine judges it: one certificate of it that is over, or not yet valid, holds up the rotation.
fn validity(identity: &Identity, found: &mut Findings) {
    for certificate in identity.chain() {
        let who = certificate.inspection().subject();
        let (begins, ends) = (certificate.not_before(), certificate.not_after());
        if let Ok(ahead) = begins.duration_since(found.now) {
            let near = ahead < CLOCKS;
            found.problem(
                if near { rank::CLOCK } else { rank::CONTENT },
                "not_yet_valid",
                format!(
                    "{who} is valid {}, from {}; this clock says {}: a reload waits for that",
                    ago(begins, found.now),
                    Utc(begins),
                    Utc(found.now)
                ),
                if near {
                    "set this clock, or the issuer's: they differ"
                } else {
                    "wait, or issue it with an earlier begin"
                },
            );
        } else if found.now > ends {
            found.problem(
                rank::CONTENT,
                "expired",
                format!("{who} expired {}, at {}", ago(ends, found.now), Utc(ends)),
                "issue a new one; if that was done, find out why it did not arrive in this file",
            );
        }
    }
}

/// rustls does not look at the validity of an anchor; most others do.
fn anchors(material: &Material, found: &mut Findings) {
    for anchor in material.trust().into_iter().flatten() {
        let ends = anchor.not_after();
        if found.now > ends {
            found.warning(
                rank::SLOW,
                "anchor_expired",
                format!(
                    "the trust anchor {} expired {}, at {}",
                    anchor.inspection().subject(),
                    ago(ends, found.now),
                    Utc(ends)
                ),
                "take it out of the bundle, or renew it: OpenSSL and others refuse what it issued",
            );
        }
    }
}

/// Whether each certificate of the chain is issued by the next, and the whole leads somewhere.
fn chain(identity: &Identity, material: &Material, found: &mut Findings) {
    let chain = identity.chain();
    for pair in chain.windows(2) {
        let (below, above) = (pair[0].inspection(), pair[1].inspection());
        if below.issuer() != above.subject() {
            found.warning(
                rank::CONTENT,
                "chain_order",
                format!(
                    "the chain is broken: {} is issued by {}, but next comes {}",
                    below.subject(),
                    below.issuer(),
                    above.subject()
                ),
                "put the certificates in the order leaf, its issuer, the issuer of that one",
            );
        }
    }
    let last = chain.last().unwrap_or(identity.leaf()).inspection();
    let is_self_issued = last.issuer() == last.subject();
    let is_anchored = material
        .trust()
        .is_some_and(|trust| trust.iter().any(|anchor| anchor.inspection().subject() == last.issuer()));
    if material.trust().is_some() && !is_self_issued && !is_anchored {
        found.note(
            rank::FACTS,
            "chain_end",
            format!(
                "the chain ends at an issuer that is not among the trust anchors here: {}",
                last.issuer()
            ),
        );
    }
}

/// Certificate and key that were written far apart, by no atomic swap.
fn pair(args: &args::Material, looked: &[Looked], found: &mut Findings) {
    let (cert, key) = match (&args.cert, &args.key, &args.kubernetes) {
        (Some(cert), Some(key), _) => (cert.clone(), key.clone()),
        (_, _, Some(directory)) => (directory.join("tls.crt"), directory.join("tls.key")),
        _ => return,
    };
    let change = |path: &Path| looked.iter().find(|looked| looked.path == path).and_then(writer::last);
    if let (Some(key), Some(cert)) = (change(&key), change(&cert)) {
        let apart =
            key.at.duration_since(cert.at).or_else(|_| cert.at.duration_since(key.at)).unwrap_or_default();
        if apart > PAIR {
            found.note(
                rank::FACTS,
                "written_apart",
                format!(
                    "certificate and key were changed {} apart; the same key was kept, or one of them is yet to come",
                    crate::duration::rough(apart)
                ),
            );
        }
    }
}

fn first_expiry(material: &Material, found: &mut Findings) {
    let first = material.certificates().min_by_key(|(_, certificate)| certificate.not_after());
    let Some((role, certificate)) = first else { return };
    let inspection = certificate.inspection();
    let who = match (inspection.subject(), inspection.sans().first()) {
        ("", Some(name)) => name.to_string(),
        (subject, _) => subject.to_owned(),
    };
    let at = certificate.not_after();
    found.note(
        rank::FACTS - 2,
        "expires_first",
        format!("{role} {who} is the first to expire: {}, at {}", ago(at, found.now), Utc(at)),
    );
}

fn would_publish(material: &Material, found: &mut Findings) {
    let mut parts = Vec::new();
    if let Some(trust) = material.trust() {
        parts.push(super::number(trust.len(), "trust anchor"));
    }
    if let Some(identity) = material.identity() {
        let leaf = identity.leaf();
        let print = leaf.fingerprint().to_string();
        parts.push(format!(
            "the identity {} (sha256 {}, until {})",
            leaf.inspection().subject(),
            &print[..16],
            Utc(leaf.not_after())
        ));
    }
    if let Some(crls) = material.crls() {
        parts.push(super::number(crls.len(), "revocation list"));
    }
    found.note(
        rank::FACTS - 3,
        "would_publish",
        format!("a reload would publish {} as {}", parts.join(", "), material.digest()),
    );
}
