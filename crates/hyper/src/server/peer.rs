//! [`Peer`]: who is at the other end of a connection, and whether newer material still lets it in.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use certsource_reload::{Closed, Generation};
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConnection};

use super::site::{Site, SiteTls};

/// Who is at the other end of a connection. [`serve`](super::serve) and tonic's server put it into the extensions of
/// each request; with axum's `serve` it is `ConnectInfo<Peer>`. Cheap to clone.
///
/// A server with several identities should look at [`Peer::server_name`]: HTTP's host is chosen by the client, request by
/// request, and the identity that was asked for here may want no client certificate where that host's does.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    certificates: Option<Vec<CertificateDer<'static>>>,
    is_resumed: bool,
    generation: Arc<Generation>,
    site: Arc<Site>,
    /// What came of the last judgement: twice the generation's number, and one more if it is out.
    judged: AtomicU64,
}

/// What the generation that is current now means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// Its handshake was made with that generation.
    Current,
    /// Its handshake was made with an older one. The client would be let in by the current one too. So is every connection
    /// that would be current, while nothing is served because the source could not be confirmed for too long
    /// ([`Stale`](certsource_reload::Stale)).
    Old,
    /// Its handshake was made with an older one, and the current one would not let this client in: its CA was withdrawn,
    /// it was revoked, it has no certificate and needs one. So is every connection, while a withdrawal was published that
    /// nothing could be made from ([`Unbuilt`](certsource_reload::Unbuilt)): nobody can be verified then.
    Withdrawn,
}

impl Peer {
    pub(super) fn new(
        address: SocketAddr,
        connection: &ServerConnection,
        generation: Arc<Generation>,
        site: Arc<Site>,
    ) -> Self {
        let certificates = connection.peer_certificates();
        let certificates =
            certificates.map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect());
        Self(Arc::new(Inner {
            address,
            server_name: connection.server_name().map(str::to_owned),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            certificates,
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            judged: AtomicU64::new(generation.number() * 2),
            generation,
            site,
        }))
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The name that it asked for in its hello (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The protocol that was agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// Its certificate, and the chain it sent, as it was verified. `None` when it showed none.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.0.certificates.as_deref()
    }

    /// Whether a TLS session was resumed: one of the same generation.
    pub fn is_resumed(&self) -> bool {
        self.0.is_resumed
    }

    /// The generation that its handshake was made with.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.0.generation
    }

    /// What the generation that is current now means for this connection. The client's certificate is verified again, once
    /// for each generation.
    pub fn standing(&self) -> Standing {
        let (current, is_stale) = match self.0.site.current.get() {
            Ok(current) => (current, false),
            // Who was let in last is judged by what was served last.
            Err(Closed::Stale(_)) => (self.0.site.current.load(), true),
            Err(_) => return Standing::Withdrawn,
        };
        let number = current.generation().number();
        if number == self.0.generation.number() {
            return if is_stale { Standing::Old } else { Standing::Current };
        }
        let judged = self.0.judged.load(Ordering::Acquire);
        let is_in = if judged / 2 == number {
            judged % 2 == 0
        } else {
            let is_in = self.is_let_in_by(current.value());
            self.0.judged.fetch_max(number * 2 + u64::from(!is_in), Ordering::AcqRel);
            is_in
        };
        if is_in { Standing::Old } else { Standing::Withdrawn }
    }

    fn is_let_in_by(&self, tls: &SiteTls) -> bool {
        let Some(verifier) = &tls.verifier else { return true };
        match self.0.certificates.as_deref() {
            Some([leaf, intermediates @ ..]) => {
                // By the clock of the handshakes. One that knows no time lets nobody in.
                let now = tls.config.time_provider.current_time();
                now.is_some_and(|now| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
            }
            _ => !verifier.client_auth_mandatory(),
        }
    }

    /// Whether nothing is served any more by which it could be judged.
    pub(super) fn is_closed(&self) -> bool {
        self.0.site.current.get().is_err()
    }

    pub(super) fn site(&self) -> &Site {
        &self.0.site
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.0.address)
            .field("server_name", &self.0.server_name)
            .field("certificates", &self.0.certificates.as_ref().map(Vec::len))
            .field("generation", &self.0.generation.number())
            .finish_non_exhaustive()
    }
}
