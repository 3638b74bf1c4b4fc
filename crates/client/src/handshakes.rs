//! [`Handshakes`]: what hangs on the TLS handshakes of a generation. Once that was replaced, no server is accepted any more,
//! no session is offered, and nothing is signed with its key; and handshakes are counted, for the feature `metrics`. A layer
//! around reqwest's connector could do both, and costs each request a dozen allocations (docs/decisions/0018). A
//! connection that is there makes no handshake again, so what runs on one notices nothing.
//!
//! What is not here: requests that wait for such a connection; they leave by themselves ([`crate::send`]).

use std::sync::Arc;

use certsource::{Error as Refused, Material};
use certsource_reload::Retired;
use certsource_rustls::ClientTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{Signer, SigningKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, OtherError,
    SignatureAlgorithm, SignatureScheme,
};

use crate::connector::Superseded;
use crate::made::Made;

/// As many sessions as rustls keeps by default.
const SESSIONS: usize = 256;

/// The handshakes of one generation.
pub(crate) struct Handshakes {
    retired: Retired,
    made: Made,
}

impl Handshakes {
    pub(crate) fn new(retired: Retired) -> Arc<Self> {
        let made = Made::new(retired.clone());
        Arc::new(Self { retired, made })
    }

    /// A config of this generation.
    ///
    /// # Errors
    /// As [`ClientTls::config`].
    pub(crate) fn config(
        self: &Arc<Self>,
        tls: &ClientTls,
        material: &Material,
    ) -> Result<ClientConfig, Refused> {
        let mut config = tls.config_with(
            material,
            |inner| Arc::new(Verifier { inner, all: Arc::clone(self) }),
            |inner| Arc::new(Key { inner, all: Arc::clone(self) }),
        )?;
        let sessions = ClientSessionMemoryCache::new(SESSIONS);
        config.resumption = Resumption::store(Arc::new(Sessions { sessions, all: Arc::clone(self) }));
        Ok(config)
    }

    /// # Errors
    /// When the generation was replaced.
    fn check(&self) -> Result<(), Error> {
        if self.is_over() { Err(Error::Other(OtherError(Arc::new(Superseded)))) } else { Ok(()) }
    }

    fn is_over(&self) -> bool {
        self.retired.is_retired()
    }
}

struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.all.check()?;
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

/// The private key. The verifier is asked before the server has said its last: so a server that pauses there could be shown
/// our certificate long after the generation was replaced. What goes out with it is signed at that moment.
struct Key {
    inner: Arc<dyn SigningKey>,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let inner = self.inner.choose_scheme(offered)?;
        Some(Box::new(Signing { inner, all: Arc::clone(&self.all) }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.inner.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
}

struct Signing {
    inner: Box<dyn Signer>,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.all.check()?;
        self.inner.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.inner.scheme()
    }
}

/// A server that resumes a session is verified by nobody, and nothing is signed for it. So no session is offered any more.
struct Sessions {
    sessions: ClientSessionMemoryCache,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    /// rustls calls this when a handshake of TLS 1.3 has ended, and never for TLS 1.2 (0.23.46; tests hold both). 0.23.37
    /// does when the server's hello is there: then one that fails after that is counted too.
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.all.made.one_more();
        self.sessions.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(name)
    }

    /// And this when one of TLS 1.2 has, if the server lets it be resumed.
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.all.made.one_more();
        self.sessions.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        if self.all.is_over() { None } else { self.sessions.tls12_session(name) }
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if self.all.is_over() { None } else { self.sessions.take_tls13_ticket(name) }
    }
}

#[cfg(test)]
#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
mod tests {
    use std::time::Duration;

    use certsource::Files;
    use certsource::machine::Policy;
    use certsource_reload::Reloader;
    use certsource_testkit::{Ca, KubeletDir};
    use rustls::server::WebPkiClientVerifier;
    use rustls::version::{TLS12, TLS13};
    use rustls::{
        ClientConnection, Connection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
        SupportedProtocolVersion,
    };

    use super::*;

    /// A CA, a server, which may ask for certificates, and a source that rotates.
    struct Setting {
        ca: Ca,
        dir: KubeletDir,
        reloader: Reloader,
        tls: ClientTls,
        server: Arc<ServerConfig>,
    }

    impl Setting {
        fn new(version: &'static SupportedProtocolVersion, asks: bool) -> Self {
            let ca = Ca::new("ca");
            let dir = KubeletDir::new(ca.issue("client")).unwrap();
            let never = Policy::every(Duration::from_secs(24 * 3600));
            let reloader = Reloader::builder(Files::kubernetes(dir.path())).policy(never).start().unwrap();
            let tls = ClientTls::new().unwrap().versions(&[version]);
            let mut roots = RootCertStore::empty();
            roots.add(ca.root_der()).unwrap();
            let clients =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(tls.provider()));
            let clients =
                if asks { clients.build().unwrap() } else { WebPkiClientVerifier::no_client_auth() };
            let leaf = ca.issue("localhost");
            let mut server = ServerConfig::builder_with_provider(Arc::clone(tls.provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(clients)
                .with_single_cert(leaf.chain_der(), leaf.key_der())
                .unwrap();
            // Its answer comes in pieces, so small that even its last message is in more than one.
            server.max_fragment_size = Some(48);
            Self { ca, dir, reloader, tls, server: Arc::new(server) }
        }

        /// A config of the current generation.
        fn config(&self) -> Arc<ClientConfig> {
            let generation = self.reloader.current();
            let handshakes = Handshakes::new(generation.retired().clone());
            Arc::new(handshakes.config(&self.tls, generation.material()).unwrap())
        }

        fn rotate(&self) {
            self.dir.swap(self.ca.issue("client")).unwrap();
            self.reloader.reload_blocking().unwrap();
        }

        fn pair(&self, config: &Arc<ClientConfig>) -> (Connection, Connection) {
            let name = ServerName::try_from("localhost").unwrap();
            (
                ClientConnection::new(Arc::clone(config), name).unwrap().into(),
                ServerConnection::new(Arc::clone(&self.server)).unwrap().into(),
            )
        }

        /// One whole connection, and what comes right behind its handshake.
        fn connect(&self, config: &Arc<ClientConfig>) -> Result<HandshakeKind, Error> {
            let (mut client, mut server) = self.pair(config);
            for _ in 0..4 {
                read(&mut server, &written(&mut client))?;
                read(&mut client, &written(&mut server))?;
            }
            assert!(!client.is_handshaking() && !server.is_handshaking());
            Ok(client.handshake_kind().unwrap())
        }
    }

    fn written(connection: &mut Connection) -> Vec<u8> {
        let mut wire = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn read(connection: &mut Connection, mut wire: &[u8]) -> Result<(), Error> {
        while !wire.is_empty() {
            connection.read_tls(&mut wire).unwrap();
            connection.process_new_packets()?;
        }
        Ok(())
    }

    /// TLS records: a head of five bytes, the last two of which are the length of the rest (RFC 8446, section 5.1).
    fn records(mut wire: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        while let [_, _, _, high, low, ..] = *wire {
            let (record, rest) = wire.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
            records.push(record);
            wire = rest;
        }
        records
    }

    fn is_superseded(ended: &Result<impl Sized, Error>) -> bool {
        matches!(ended, Err(Error::Other(OtherError(why))) if why.is::<Superseded>())
    }

    /// Wherever a server pauses in its answer while the generation is replaced: the old certificate is not shown to it.
    #[test]
    fn a_handshake_during_which_its_generation_is_replaced_shows_no_identity() {
        for version in [&TLS12, &TLS13] {
            let setting = Setting::new(version, true);
            for before in 0.. {
                let (mut client, mut server) = setting.pair(&setting.config());
                read(&mut server, &written(&mut client)).unwrap();
                let answer = written(&mut server);
                let answer = records(&answer);
                // A signature is one byte longer or shorter each time: the last round may have a record less.
                let before = before.min(answer.len());
                assert!(answer.len() >= 5, "{version:?}: {} records", answer.len());
                for record in &answer[..before] {
                    read(&mut client, record).unwrap();
                }
                setting.rotate();
                let ended = answer[before..].iter().try_for_each(|record| read(&mut client, record));
                // The client's alert, if it ended it.
                let _ = read(&mut server, &written(&mut client));
                let is_shown = server.peer_certificates().is_some();
                if before == answer.len() {
                    assert!(ended.is_ok() && is_shown, "it was signed before: {ended:?}");
                    break;
                }
                assert!(is_superseded(&ended), "{version:?}, {before} records: {ended:?}");
                assert!(!is_shown && server.is_handshaking(), "{version:?}, {before} records");
            }
        }
    }

    /// Nor is a server believed that asks for none: the old trust is over as well.
    #[test]
    fn a_generation_that_was_replaced_believes_no_server() {
        for version in [&TLS12, &TLS13] {
            let setting = Setting::new(version, false);
            assert_eq!(setting.connect(&setting.config()), Ok(HandshakeKind::Full));
            let fresh = setting.config();
            setting.rotate();
            assert!(is_superseded(&setting.connect(&fresh)), "{version:?}");
        }
    }

    /// Nor is a session of it offered: that would be as good as the certificate, and no verifier would be asked.
    #[test]
    fn a_generation_that_was_replaced_resumes_nothing() {
        for version in [&TLS12, &TLS13] {
            let setting = Setting::new(version, true);
            let config = setting.config();
            assert_eq!(setting.connect(&config), Ok(HandshakeKind::Full));
            assert_eq!(setting.connect(&config), Ok(HandshakeKind::Resumed));
            setting.rotate();
            assert!(is_superseded(&setting.connect(&config)), "{version:?}");
            assert_eq!(setting.connect(&setting.config()), Ok(HandshakeKind::Full));
        }
    }
}
