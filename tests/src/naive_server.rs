//! The server that people write by hand to follow its certificate and the CAs of its clients: the sibling of the forty lines.
//!
//! One `ServerConfig` for ever; inside it a resolver and a verifier, and what they hold is swapped. So its sessions and its
//! ticket keys outlive every rotation. The handshake is made where connections are accepted, and a connection lasts for as
//! long as its client likes. Files are read as the forty lines read them. Each line is seen in code that is in use.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use std::{fs, io};

use arc_swap::ArcSwapOption;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::host::App;

/// A server that follows files in the way that is written most often. It ends when it is dropped.
#[derive(Debug)]
pub struct NaiveServer {
    trust: Mutex<Watched>,
    certificate: Mutex<Watched>,
    key: PathBuf,
    inside: Arc<Inside>,
    address: SocketAddr,
    accepting: AbortHandle,
}

/// What is swapped.
#[derive(Debug)]
struct Inside {
    clients: ArcSwapOption<Arc<dyn ClientCertVerifier>>,
    key: ArcSwapOption<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl NaiveServer {
    /// Serves this application with `tls.crt` and `tls.key` of a directory, to clients of `ca.crt`. With `tickets`, sessions
    /// are kept by the clients, else by the server.
    ///
    /// # Errors
    /// What the system says, or files that rustls does not take.
    pub async fn start(
        dir: &Path,
        versions: &[&'static SupportedProtocolVersion],
        tickets: bool,
        app: App,
    ) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let inside = Arc::new(Inside {
            clients: ArcSwapOption::empty(),
            key: ArcSwapOption::empty(),
            provider: Arc::clone(&provider),
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_client_cert_verifier(inside.clone())
            .with_cert_resolver(inside.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if tickets {
            config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), app));
        let watched = |name| Mutex::new(Watched { path: dir.join(name), seen: SystemTime::UNIX_EPOCH });
        let server = Self {
            trust: watched("ca.crt"),
            certificate: watched("tls.crt"),
            key: dir.join("tls.key"),
            inside,
            address,
            accepting: accepting.abort_handle(),
        };
        server.poll_trust()?;
        server.poll_identity()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its timer does for the CAs of its clients. Returns whether they were read again.
    ///
    /// # Errors
    /// What the system or rustls says. What is in use stays.
    ///
    /// # Panics
    /// Never.
    pub fn poll_trust(&self) -> io::Result<bool> {
        let mut trust = self.trust.lock().unwrap();
        if !trust.is_newer()? {
            return Ok(false);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&trust.path)?);
        let provider = Arc::clone(&self.inside.provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(io::Error::other)?;
        self.inside.clients.store(Some(Arc::new(verifier)));
        Ok(true)
    }

    /// What its other timer does for its own certificate. Returns whether it was read again.
    ///
    /// # Errors
    /// What the system or rustls says. What is in use stays.
    ///
    /// # Panics
    /// Never.
    pub fn poll_identity(&self) -> io::Result<bool> {
        let mut certificate = self.certificate.lock().unwrap();
        if !certificate.is_newer()? {
            return Ok(false);
        }
        let chain = certificates(&certificate.path)?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&self.key)?).map_err(io::Error::other)?;
        let key = self.inside.provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
        self.inside.key.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(true)
    }
}

impl Drop for NaiveServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, app: App) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let Ok(tls) = acceptor.accept(tcp).await else { continue };
        let client = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        let app = app.clone();
        let service = hyper::service::service_fn(move |request| app.answer(request, client.clone()));
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

/// A file and the latest time that was seen on it.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    seen: SystemTime,
}

impl Watched {
    /// Whether the file is to be read. The time is noted before the file is read.
    fn is_newer(&mut self) -> io::Result<bool> {
        let modified = fs::metadata(&self.path)?.modified()?;
        let newer = modified > self.seen;
        self.seen = self.seen.max(modified);
        Ok(newer)
    }
}

/// As `rustls_pemfile::certs(…).filter_map(Result::ok)`.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(&fs::read(path)?).filter_map(Result::ok).collect())
}

impl ResolvesServerCert for Inside {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

impl Inside {
    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(self.clients.load().as_ref().expect("it is set before anybody connects"))
    }
}

impl ClientCertVerifier for Inside {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.now().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
