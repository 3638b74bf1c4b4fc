//! What the tests share: material that is followed, a bare server that tells what it saw, and plain clients.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certsource_hyper::Connector;
use certsource_hyper::certsource_reload::certsource::{Files, machine::Policy};
use certsource_hyper::certsource_reload::{Generation, Reloader};
use certsource_hyper::certsource_rustls::TlsGate;
use certsource_hyper::rustls::crypto::CryptoProvider;
// What stands beside the library uses the crypto that the library is built with.
#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use certsource_hyper::rustls::crypto::aws_lc_rs as crypto;
#[cfg(feature = "ring")]
use certsource_hyper::rustls::crypto::ring as crypto;
use certsource_hyper::rustls::pki_types::CertificateDer;
use certsource_hyper::rustls::server::WebPkiClientVerifier;
use certsource_hyper::rustls::version::{TLS12, TLS13};
use certsource_hyper::rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use certsource_testkit::{Ca, Issued, KubeletDir};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub mod grpc;

/// No test waits longer than this for something that must come.
pub const SOON: Duration = Duration::from_secs(30);
/// No detector of a test looks by itself: each look is asked for.
const NEVER: Duration = Duration::from_secs(24 * 3600);

pub const TLS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Waits for what must come soon.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("it did not come in time")
}

/// Waits until `is_so`. For what nothing tells: the other side of a connection.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A number from the environment, for runs that are longer than those that everybody waits for.
pub fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::default_provider())
}

pub fn roots<'a>(cas: impl IntoIterator<Item = &'a Ca>) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for ca in cas {
        store.add(ca.root_der()).expect("a minted root is whole");
    }
    Arc::new(store)
}

fn bundle(trust: &[&Ca]) -> String {
    trust.iter().map(|ca| ca.certificate_pem()).collect()
}

/// Files as kubelet writes them, and who follows them.
pub struct Followed {
    pub dir: KubeletDir,
    pub reloader: Reloader,
}

impl Followed {
    pub fn new(trust: &[&Ca], identity: &Issued) -> Self {
        Self::with(trust, identity, |files| files)
    }

    pub fn with(trust: &[&Ca], identity: &Issued, change: impl FnOnce(Files) -> Files) -> Self {
        let dir = KubeletDir::new(identity).expect("a directory");
        dir.swap_all(bundle(trust), identity).expect("a swap");
        let files = change(Files::kubernetes(dir.path()));
        let mut policy = Policy::every(NEVER);
        policy.settle = Duration::from_millis(50);
        let reloader = Reloader::builder(files)
            .policy(policy)
            .gate(TlsGate::with_provider(provider()))
            .start()
            .expect("the first load works");
        Self { dir, reloader }
    }

    /// Changes the files; nobody has looked yet.
    pub fn write(&self, trust: &[&Ca], identity: &Issued) {
        self.dir.swap_all(bundle(trust), identity).expect("a swap");
    }

    /// Changes the files, and publishes them.
    pub async fn set(&self, trust: &[&Ca], identity: &Issued) -> Arc<Generation> {
        self.write(trust, identity);
        soon(self.reloader.reload()).await.expect("it is whole")
    }
}

/// A plain client's config: trust, and perhaps an identity.
pub fn client_config(
    trust: &[&Ca],
    identity: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("every provider has them")
        .with_root_certificates(roots(trust.iter().copied()));
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain_der(), identity.key_der())
            .expect("what is issued is whole"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// A plain TLS connection.
pub async fn dial(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = name.to_owned().try_into().expect("a name");
    TlsConnector::from(Arc::clone(config)).connect(name, tcp).await
}

/// One HTTP/1.1 request on a connection of its own.
pub async fn get_once<T>(io: T) -> Result<(u16, String), hyper::Error>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    get(&mut sender).await
}

pub async fn get(
    sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
) -> Result<(u16, String), hyper::Error> {
    sender.ready().await?;
    let request = Request::get("/").header("host", "localhost").body(Empty::new()).expect("a request");
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A connection as the bare server saw it.
#[derive(Clone, Debug)]
pub struct Met {
    pub is_resumed: bool,
    pub client: Option<CertificateDer<'static>>,
    pub alpn: Option<Vec<u8>>,
    pub requests: usize,
}

/// An HTTPS server that owes nothing to the crate under test. It ends when it is dropped.
pub struct Bare {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    pub address: SocketAddr,
}

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    met: Mutex<Vec<Met>>,
    /// How many of those that are held may go on; `None`: nobody is held.
    hold: watch::Sender<Option<usize>>,
    held: watch::Sender<usize>,
}

/// How the bare server's TLS is made.
pub fn server_config(
    identity: &Issued,
    clients: &[&Ca],
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("every provider has them");
    let builder = if clients.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(clients.iter().copied()), provider());
        builder.with_client_cert_verifier(verifier.build().expect("CAs are there"))
    };
    let mut config =
        builder.with_single_cert(identity.chain_der(), identity.key_der()).expect("what is issued is whole");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ticketer = crypto::Ticketer::new().expect("there is randomness");
    Arc::new(config)
}

impl Bare {
    pub async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            config: Mutex::new(config),
            met: Mutex::default(),
            hold: watch::Sender::new(None),
            held: watch::Sender::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn({
            let (shared, mut stopped) = (Arc::clone(&shared), stopped);
            async move {
                loop {
                    let accepted = tokio::select! {
                        _ = stopped.changed() => return,
                        accepted = listener.accept() => accepted,
                    };
                    let Ok((tcp, _)) = accepted else { continue };
                    let (shared, mut stopped) = (Arc::clone(&shared), stopped.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = stopped.changed() => {}
                            () = shared.serve(tcp) => {}
                        }
                    });
                }
            }
        });
        Self { shared, stop, address }
    }

    pub fn set(&self, config: Arc<ServerConfig>) {
        *lock(&self.shared.config) = config;
    }

    pub fn uri(&self) -> http::Uri {
        format!("https://localhost:{}/", self.address.port()).parse().expect("a URI")
    }

    pub fn met(&self) -> Vec<Met> {
        lock(&self.shared.met).clone()
    }

    /// Lets new connections wait before their handshake, until `release`.
    pub fn hold(&self) {
        self.shared.hold.send_replace(Some(0));
    }

    pub async fn held(&self, count: usize) {
        soon(self.shared.held.subscribe().wait_for(|held| *held >= count)).await.expect("it lives");
    }

    /// The first so many that were held go on.
    pub fn release_first(&self, count: usize) {
        self.shared.hold.send_replace(Some(count));
    }

    pub fn release(&self) {
        self.shared.hold.send_replace(None);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        if self.hold.borrow().is_some() {
            let mut index = 0;
            self.held.send_modify(|held| index = std::mem::replace(held, *held + 1));
            let _ = self.hold.subscribe().wait_for(|hold| hold.is_none_or(|count| index < count)).await;
        }
        let config = Arc::clone(&lock(&self.config));
        let Ok(io) = TlsAcceptor::from(config).accept(tcp).await else { return };
        let tls = io.get_ref().1;
        let is_http2 = tls.alpn_protocol() == Some(b"h2");
        let index = {
            let mut met = lock(&self.met);
            met.push(Met {
                is_resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
                client: tls
                    .peer_certificates()
                    .and_then(|chain| chain.first().map(|c| c.clone().into_owned())),
                alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
                requests: 0,
            });
            met.len() - 1
        };
        let shared = Arc::clone(&self);
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            lock(&shared.met)[index].requests += 1;
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) }
        });
        // Who speaks HTTP/2 speaks first, as real servers do: a server that must find out waits for the client.
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let server = if is_http2 { server.http2_only() } else { server };
        // A client that goes away is no failure of the server.
        let _ = server.serve_connection(TokioIo::new(io), service).await;
    }
}

/// A connection by this connector, and one request on it.
pub async fn get_by(
    connector: &Connector,
    uri: &http::Uri,
) -> Result<(u16, String), certsource_hyper::ConnectError> {
    let stream = soon(connect(connector, uri)).await?;
    Ok(soon(get_once(stream)).await.expect("the server answers"))
}

pub async fn connect(
    connector: &Connector,
    uri: &http::Uri,
) -> Result<certsource_hyper::Stream<TokioIo<TcpStream>>, certsource_hyper::ConnectError> {
    tower_service::Service::call(&mut connector.clone(), uri.clone()).await
}
