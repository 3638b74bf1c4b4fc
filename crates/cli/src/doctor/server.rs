//! What a server serves and whom it refuses, beside what is on disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certsource::clock::Utc;
use certsource::inspect::{self, Inspection};
use certsource::{Identity, Material};
use certsource_rustls::ClientTls;
use pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError};

use super::disk::Looked;
use super::{Args, Findings, ago, rank, writer};
use crate::error;
use crate::peer::{self, Ask, Peer, Target, Theirs, alert_name};

/// Clocks that differ by less are in step.
const SKEW: Duration = Duration::from_secs(5 * 60);
/// Of more names than this the first are told.
const NAMES: usize = 12;

/// Asks the server. `None` when it cannot be reached.
pub(super) fn examine(
    target: &Target,
    args: &Args,
    material: Option<&Material>,
    disk: &[Looked],
    found: &mut Findings,
) -> anyhow::Result<Option<Peer>> {
    let verifier = match material.filter(|material| material.trust().is_some()) {
        Some(material) => Some(ClientTls::new()?.verifier(material)?),
        None => None,
    };
    let identity = material.and_then(Material::identity).map(certified).transpose()?;
    let has_identity = identity.is_some();
    let ask = Ask {
        name: args.servername.clone(),
        verifier,
        identity,
        http: true,
        verdict: true,
        timeout: args.timeout,
    };
    let peer = match peer::ask(target, &ask) {
        Ok(peer) => peer,
        Err(error) => {
            let message = error::one_line(&error);
            found.problem(
                rank::REFUSED,
                "unreachable",
                message,
                "make it reachable from here, or run the doctor where it is",
            );
            return Ok(None);
        }
    };
    facts(target, &peer, found);
    clock(&peer, found);
    if let Some(identity) = material.and_then(Material::identity) {
        let name = args.servername.clone().map_or_else(|| ServerName::try_from(target.host.clone()), Ok)?;
        compare(&peer, identity, &name, disk, found);
    }
    ours(&peer, material, found);
    theirs(&peer, material, has_identity, found);
    Ok(Some(peer))
}

/// The identity as rustls holds it.
pub(super) fn certified(identity: &Identity) -> anyhow::Result<Arc<CertifiedKey>> {
    let provider = certsource_rustls::default_provider()?;
    let key = provider.key_provider.load_private_key(identity.key().secret_key().clone_key())?;
    let chain = identity.chain().iter().map(|certificate| certificate.der().clone()).collect();
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// The names of CAs, for people.
pub(super) fn names(asked: &[Vec<u8>]) -> Vec<String> {
    asked
        .iter()
        .map(|der| inspect::distinguished_name(der).unwrap_or_else(|| String::from("(not a name)")))
        .collect()
}

fn facts(target: &Target, peer: &Peer, found: &mut Findings) {
    if let (Some(version), Some(cipher)) = (&peer.version, &peer.cipher) {
        let alpn = peer.alpn.as_deref().map_or_else(String::new, |alpn| format!(", {alpn}"));
        found.note(
            rank::FACTS,
            "tls",
            format!("{target} ({}) speaks {version} with {cipher}{alpn}", peer.address),
        );
    }
    let message = match peer.asked.as_deref() {
        None => return,
        Some([]) => String::from("the server asks for a client certificate, of any CA"),
        Some(asked) => {
            let names = names(asked);
            let more = match names.len().saturating_sub(NAMES) {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            format!(
                "the server asks for a client certificate of: {}{more}",
                names[..names.len().min(NAMES)].join("; ")
            )
        }
    };
    found.note(rank::FACTS - 4, "asks_for", message);
}

/// The server's clock beside ours.
fn clock(peer: &Peer, found: &mut Findings) {
    let Some(theirs) = peer.date.as_deref().and_then(http_date) else { return };
    let (off, word) = match theirs.duration_since(found.now) {
        Ok(ahead) => (ahead, "behind"),
        Err(behind) => (behind.duration(), "ahead of"),
    };
    if off > SKEW {
        found.problem(
            rank::CLOCK,
            "clock_skew",
            format!("this clock is {} {word} the server's: here {}, there {}", crate::duration::rough(off), Utc(found.now), Utc(theirs)),
            "set the clock that is wrong (timedatectl, chronyc tracking): both judge certificates by their own",
        );
    }
}

/// `Sun, 22 Nov 2026 20:00:00 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let mut words = text.split(' ').skip(1);
    let (day, month, year, clock) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? + 1;
    let text = format!("{year}-{month:02}-{day:0>2}T{clock}Z");
    let parsed = time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339);
    parsed.ok().map(SystemTime::from)
}

/// Whether the server serves what is on disk, if what is on disk is a server's.
fn compare(peer: &Peer, identity: &Identity, name: &ServerName<'_>, disk: &[Looked], found: &mut Findings) {
    let Some(served) = peer.chain.first() else { return };
    let leaf = identity.leaf();
    let on_disk: Vec<_> = identity.chain().iter().map(|certificate| certificate.der()).collect();
    let since = disk.iter().filter_map(writer::last).map(|change| change.at).max();
    let written =
        since.map_or_else(String::new, |at| format!(", written {} ({})", ago(at, found.now), Utc(at)));
    if *served == *leaf.der() {
        let not_before = leaf.not_before();
        // More behind it harms nobody: OpenSSL adds what it knows, the root too.
        if !(peer.chain.len() >= on_disk.len()
            && peer.chain.iter().zip(on_disk).all(|(sent, ours)| sent == ours))
        {
            return found.problem(
                rank::STALE,
                "serves_other_chain",
                format!("the server serves the leaf that is on disk{written}, but not with the intermediates that are there"),
                "reload or restart the server; if it reads another chain file, name that one",
            );
        }
        return found.note(
            rank::FACTS - 5,
            "serves_disk",
            format!(
                "the server serves what is on disk{written}; it cannot have served it before {}",
                Utc(not_before)
            ),
        );
    }
    let is_servers = ParsedCertificate::try_from(leaf.der())
        .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok());
    if !is_servers {
        return found.note(
            rank::FACTS,
            "is_client",
            "the certificate on disk is not for the server's name: it is taken for a client's, and not compared",
        );
    }
    let Ok(served) = inspect::certificate(served) else { return };
    let age = |inspection: &Inspection| {
        format!("valid from {} to {}", Utc(inspection.not_before()), Utc(inspection.not_after()))
    };
    let print = |text: String| text[..16].to_owned();
    let is_older = served.not_before() < leaf.not_before();
    found.problem(
        rank::STALE,
        if is_older { "serves_old" } else { "serves_other" },
        format!(
            "the server does not serve what is on disk: it serves {} (sha256 {}, {}), on disk is sha256 {} ({}){written}",
            served.subject(),
            print(served.fingerprint().to_string()),
            age(&served),
            print(leaf.fingerprint().to_string()),
            age(leaf.inspection()),
        ),
        if is_older {
            "it did not reload: see the causes above, if there are any; else reload or restart it, and let it follow its files"
        } else {
            "what it serves is newer, or another server's: does it read these files?"
        },
    );
}

/// Whether we refuse the server.
fn ours(peer: &Peer, material: Option<&Material>, found: &mut Findings) {
    let Some(Err(error)) = &peer.ours else { return };
    let (alert, advice) = match error {
        rustls::Error::InvalidCertificate(wrong) => {
            let served = peer.chain.last().and_then(|der| inspect::certificate(der).ok());
            let issuer = served.map_or_else(String::new, |served| served.issuer().to_owned());
            let anchors = material.and_then(Material::trust).unwrap_or_default();
            let advice = match wrong {
                // By name it is the same, so what fails is the signature.
                CertificateError::BadSignature | CertificateError::UnknownIssuer
                    if anchors.iter().any(|anchor| anchor.inspection().subject() == issuer) =>
                {
                    format!(
                        "the CA {issuer} is trusted by name, with another key: it was renewed on one side only; update --ca, or the server's chain"
                    )
                }
                CertificateError::UnknownIssuer => format!(
                    "its chain ends at {issuer}: put that CA into --ca, or let the server send its intermediates"
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => String::from(
                    "issue a new certificate for the server; if there is one, the server did not reload",
                ),
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    String::from("compare the clocks of this machine and of the issuer")
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    String::from("use a name that the certificate holds: --servername")
                }
                // The names of the crate below are shown only.
                CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                    String::from(
                        "the server shows the certificate of a CA as its own, as openssl req -x509 makes one: issue one for it, or add -addext basicConstraints=critical,CA:FALSE",
                    )
                }
                CertificateError::Revoked => String::from("issue a new certificate for the server"),
                _ => String::from("see what the server serves: certsource inspect --all --connect"),
            };
            (Some(AlertDescription::from(wrong.clone())), advice)
        }
        _ => (None, String::from("see what the server serves: certsource inspect --all --connect")),
    };
    let sent =
        alert.map_or_else(String::new, |alert| format!("; a client sends the alert {}", alert_name(alert)));
    found.problem(rank::REFUSED, "we_refuse_server", format!("we refuse the server: {error}{sent}"), advice);
}

/// Whether the server refuses us.
fn theirs(peer: &Peer, material: Option<&Material>, has_identity: bool, found: &mut Findings) {
    let identity = material.and_then(Material::identity);
    let issuers: Vec<_> = identity
        .map(|identity| identity.chain().iter().map(|c| c.inspection().issuer().to_owned()).collect())
        .unwrap_or_default();
    let asked = peer.asked.as_deref().map(names);
    let is_asked_for = asked
        .as_ref()
        .is_none_or(|names| names.is_empty() || names.iter().any(|name| issuers.contains(name)));
    let advice = match (&asked, has_identity, is_asked_for) {
        (Some(_), false, _) => {
            String::from("it demands a client certificate: give one with --cert and --key")
        }
        (Some(names), true, false) => {
            format!(
                "our certificate is issued by {}, but it asks for {}: issue one by these, or let the server trust our CA",
                issuers.join(", "),
                names.join("; ")
            )
        }
        (Some(_), true, true) => {
            String::from("does the server trust our CA, with today's key? has it reloaded its CA file since?")
        }
        (None, ..) => {
            String::from("it asked for no client certificate: look at versions, ciphers and the server's log")
        }
    };
    match &peer.theirs {
        Theirs::Alert(alert) => found.problem(
            rank::REFUSED,
            "server_refuses_us",
            format!("the server refuses us: we received the alert {}", alert_name(*alert)),
            advice,
        ),
        Theirs::Closed(why) if peer.asked.is_some() => found.problem(
            rank::REFUSED,
            "server_refuses_us",
            format!("the server closes the connection after it asked for a certificate, without an alert: {why}"),
            advice,
        ),
        Theirs::Closed(why) | Theirs::Odd(why) if peer.chain.is_empty() => {
            found.problem(rank::REFUSED, "no_tls", format!("there is no TLS handshake: {why}"), "is this the TLS port?");
        }
        Theirs::Accepts if peer.status == Some(400) && peer.asked.is_some() => found.problem(
            rank::REFUSED,
            "server_refuses_us",
            "the server answers 400 after it asked for a certificate: nginx refuses one that way, without an alert",
            advice,
        ),
        Theirs::Accepts if peer.has_sent_identity => {
            found.note(rank::FACTS - 4, "server_accepts_us", "the server takes our certificate");
        }
        Theirs::Accepts | Theirs::Silent | Theirs::Closed(_) | Theirs::Odd(_) => {}
    }
    if has_identity && !is_asked_for && !found.has("server_refuses_us") {
        found.warning(
            rank::REFUSED,
            "not_asked_for",
            format!("our certificate is issued by {}, which the server does not name among the CAs that it asks for", issuers.join(", ")),
            "many clients send no certificate then: let the server name our CA",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let at = http_date("Sun, 22 Nov 2026 20:00:00 GMT").unwrap();
        assert_eq!(Utc(at).to_string(), "2026-11-22T20:00:00Z");
        for text in ["", "Sun", "Sun, 22 Foo 2026 20:00:00 GMT", "Sun, 99 Nov 2026 20:00:00 GMT"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
