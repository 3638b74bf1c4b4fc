//! Is a withdrawn CA really gone: from the files, from what the server presents and asks for, from whom it lets in?

use std::path::Path;
use std::sync::Arc;

use certsource::{Files, Identity, Material};
use certsource_rustls::ClientTls;
use pki_types::{ServerName, UnixTime};

use super::server::{certified, names};
use super::{Args, Findings, rank};
use crate::peer::{self, Ask, Peer, Theirs, alert_name};

/// What was withdrawn.
pub(super) struct Old {
    pub(super) trust: Option<Arc<Material>>,
    pub(super) identity: Option<Arc<Material>>,
}

/// The withdrawn CA.
///
/// # Errors
/// When the file cannot be loaded.
pub(super) fn load_trust(path: &Path) -> anyhow::Result<Arc<Material>> {
    Ok(Files::trust(path).load()?)
}

/// A certificate of it.
///
/// # Errors
/// When the files cannot be loaded.
pub(super) fn load_identity(cert: &Path, key: &Path) -> anyhow::Result<Arc<Material>> {
    Ok(Files::identity(cert, key).load()?)
}

pub(super) fn examine(
    old: &Old,
    args: &Args,
    material: Option<&Material>,
    peer: Option<&Peer>,
    found: &mut Findings,
) -> anyhow::Result<()> {
    let before = found.list.len();
    if let (Some(old), Some(trust)) = (&old.trust, material.and_then(Material::trust)) {
        on_disk(old, trust, found);
    }
    let Some(peer) = peer else { return Ok(()) };
    if let Some(trust) = &old.trust {
        presented(trust, args, peer, found)?;
        asked_for(trust, material, peer, found);
    }
    match old.identity.as_deref().and_then(Material::identity) {
        Some(identity) => let_in(identity, args, found)?,
        None if peer.asked.is_some() && found.list.len() == before => found.note(
            rank::WITHDRAWN,
            "withdrawn_ca_untested",
            "whether the server lets certificates of the withdrawn CA in was not tried: give one with --old-cert and --old-key",
        ),
        None => {}
    }
    Ok(())
}

fn on_disk(old: &Material, trust: &[certsource::Certificate], found: &mut Findings) {
    for gone in old.trust().into_iter().flatten() {
        if trust.iter().any(|anchor| anchor.public_key_der() == gone.public_key_der()) {
            found.problem(
                rank::WITHDRAWN,
                "withdrawn_ca_on_disk",
                format!(
                    "the withdrawn CA {} is still among the trust anchors on disk",
                    gone.inspection().subject()
                ),
                "take it out of the bundle: whoever follows this file trusts it",
            );
        }
    }
}

fn presented(old: &Material, args: &Args, peer: &Peer, found: &mut Findings) -> anyhow::Result<()> {
    let Some((leaf, rest)) = peer.chain.split_first() else { return Ok(()) };
    let Some(target) = &args.connect else { return Ok(()) };
    let name = args.servername.clone().map_or_else(|| ServerName::try_from(target.host.clone()), Ok)?;
    let verifier = ClientTls::new()?.verifier(old)?;
    if verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).is_ok() {
        found.problem(
            rank::WITHDRAWN,
            "withdrawn_ca_presented",
            "the server still presents a certificate of the withdrawn CA",
            "give the server its new certificate, and let it reload",
        );
    }
    Ok(())
}

fn asked_for(old: &Material, material: Option<&Material>, peer: &Peer, found: &mut Findings) {
    let asked = names(peer.asked.as_deref().unwrap_or_default());
    let trust = material.and_then(Material::trust).unwrap_or_default();
    for gone in old.trust().into_iter().flatten() {
        let subject = gone.inspection().subject();
        if !asked.iter().any(|name| name == subject) {
            continue;
        }
        // A CA that was renewed under its old name: names cannot tell the two apart.
        if trust.iter().any(|anchor| anchor.inspection().subject() == subject) {
            found.note(
                rank::WITHDRAWN,
                "withdrawn_ca_same_name",
                format!("the server asks for {subject}, which is the name of the old and of the new CA: --old-cert and --old-key tell which"),
            );
        } else {
            found.problem(
                rank::WITHDRAWN,
                "withdrawn_ca_asked_for",
                format!("the server still asks for certificates of the withdrawn CA {subject}"),
                "take it out of the server's client CA file, and let it reload",
            );
        }
    }
}

fn let_in(identity: &Identity, args: &Args, found: &mut Findings) -> anyhow::Result<()> {
    let Some(target) = &args.connect else { return Ok(()) };
    let ask = Ask {
        name: args.servername.clone(),
        verifier: None,
        identity: Some(certified(identity)?),
        http: true,
        verdict: true,
        timeout: args.timeout,
    };
    let peer = peer::ask(target, &ask)?;
    let who = identity.leaf().inspection().subject().to_owned();
    match (&peer.theirs, &peer.asked) {
        (_, None) => found.note(
            rank::WITHDRAWN,
            "withdrawn_ca_untested",
            "the server asks for no client certificate: it lets everybody in, whatever CA is withdrawn",
        ),
        (Theirs::Accepts | Theirs::Silent, _) if peer.status != Some(400) => found.problem(
            rank::WITHDRAWN,
            "withdrawn_ca_accepted",
            format!("the server still lets in {who}, a certificate of the withdrawn CA"),
            "take the CA out of the server's client CA file, and restart the server if a reload does not help",
        ),
        (Theirs::Alert(alert), _) => found.note(
            rank::WITHDRAWN,
            "withdrawn_ca_refused",
            format!("the server refuses {who}, a certificate of the withdrawn CA, with the alert {}", alert_name(*alert)),
        ),
        _ => found.note(
            rank::WITHDRAWN,
            "withdrawn_ca_refused",
            format!("the server refuses {who}, a certificate of the withdrawn CA"),
        ),
    }
    Ok(())
}
