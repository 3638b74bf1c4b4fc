//! A TLS server in memory: no port, no thread, no time. It tells what a client showed.

use std::sync::Arc;

use certsource_testkit::{Ca, Issued};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

/// A server that remembers sessions, for TLS 1.3 and 1.2.
#[derive(Clone, Debug)]
pub struct Peer {
    config: Arc<ServerConfig>,
}

/// A connection that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Whether a session was resumed, so that nobody verified a certificate.
    pub resumed: bool,
    /// The certificates that the client showed, now or when the session was made.
    pub shown: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// A server with this certificate. With `clients`, it takes clients with a certificate of one of these and no
    /// others; without, it asks for none.
    pub fn new(identity: &Issued, clients: &[&Ca]) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(clients.iter().map(|ca| ca.certificate_der()));
        let verifier = if clients.is_empty() {
            Arc::new(NoClientAuth)
        } else {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap()
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain_der(), identity.key_der())
            .unwrap();
        config.ticketer = ring::Ticketer::new().unwrap();
        Self { config: Arc::new(config) }
    }

    /// A connection of this client, with a byte each way, so that it has read the tickets.
    ///
    /// # Errors
    /// Why one of the two refused.
    pub fn meet(&self, client: &Arc<ClientConfig>) -> Result<Met, String> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client =
            ClientConnection::new(Arc::clone(client), name).map_err(|error| error.to_string())?;
        let mut server = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        std::io::Write::write_all(&mut client.writer(), b"?").unwrap();
        std::io::Write::write_all(&mut server.writer(), b"!").unwrap();
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets().map_err(|error| format!("the server refuses: {error}"))?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets().map_err(|error| format!("the client refuses: {error}"))?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking(), "neither has more to say");
        let shown = server.peer_certificates().unwrap_or_default();
        Ok(Met {
            resumed: client.handshake_kind() == Some(HandshakeKind::Resumed),
            shown: shown.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(ca: &Ca, identity: Option<&Issued>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate_der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match identity {
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain_der(), identity.key_der()).unwrap()
            }
            None => builder.with_no_client_auth(),
        })
    }

    #[test]
    fn sessions_are_resumed_and_strangers_refused() {
        let (ca, stranger) = (Ca::new("CA"), Ca::new("stranger"));
        let identity = ca.issue("client");
        let peer = Peer::new(&ca.issue("localhost"), &[&ca]);
        let known = client(&ca, Some(&identity));
        let shown = identity.chain_der();
        assert_eq!(peer.meet(&known), Ok(Met { resumed: false, shown: shown.clone() }));
        assert_eq!(peer.meet(&known), Ok(Met { resumed: true, shown }));
        assert!(peer.meet(&client(&ca, None)).unwrap_err().starts_with("the server refuses"));
        assert!(
            peer.meet(&client(&ca, Some(&stranger.issue("client")))).unwrap_err().starts_with("the server")
        );
        assert!(peer.meet(&client(&stranger, None)).unwrap_err().starts_with("the client refuses"));
    }
}
