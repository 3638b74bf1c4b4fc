//! An HTTPS server on 127.0.0.1 with a thread and a runtime of its own, so that what it costs is not counted as the
//! client's. It demands client certificates, counts what it did, and its TLS can be replaced.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use certsource_testkit::{Ca, Issued};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The version of HTTP that a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

impl Http {
    /// Both.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// `h1` or `h2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "h1",
            Self::Two => "h2",
        }
    }
}

/// What a server does about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Tickets: later connections resume.
    Resumed,
    /// Every handshake is a full one.
    Full,
}

/// A TLS config that accepts the clients of these authorities.
///
/// # Panics
/// When what was minted can not be used, which would be a fault of the testkit.
pub fn config(identity: &Issued, clients: &[&Ca], http: Http, sessions: Sessions) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in clients {
        roots.add(ca.root_der()).expect("a minted root is whole");
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_client_cert_verifier(verifier.build().expect("there is a root"))
        .with_single_cert(identity.chain_der(), identity.key_der())
        .expect("what is issued is whole");
    config.alpn_protocols = match http {
        Http::One => vec![b"http/1.1".to_vec()],
        Http::Two => vec![b"h2".to_vec()],
    };
    match sessions {
        Sessions::Resumed => config.ticketer = ring::Ticketer::new().expect("there is randomness"),
        Sessions::Full => {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
    }
    Arc::new(config)
}

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    tls: Mutex<Arc<ServerConfig>>,
    handshakes: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    /// When a client with this certificate sent its first request. Only while it is asked for.
    first_seen: Mutex<Option<BTreeMap<Vec<u8>, Instant>>>,
}

impl Server {
    /// Starts a server that answers every request with two bytes.
    ///
    /// # Panics
    /// When this machine gives no port or no thread.
    pub fn start(tls: Arc<ServerConfig>) -> Self {
        let shared = Arc::new(Shared {
            tls: Mutex::new(tls),
            handshakes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            first_seen: Mutex::new(None),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = watch::channel(false);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bench-server".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(accept(listener, of_thread, stopped));
            })
            .expect("a thread");
        Self { shared, stop, address, thread: Some(thread) }
    }

    /// Speaks this from the next connection on.
    pub fn set(&self, tls: Arc<ServerConfig>) {
        *lock(&self.shared.tls) = tls;
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/", self.address.port())
    }

    /// Handshakes that were completed.
    pub fn handshakes(&self) -> u64 {
        self.shared.handshakes.load(Ordering::Relaxed)
    }

    /// Handshakes that failed.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// From now on notes when each client certificate comes with its first request.
    pub fn note_clients(&self) {
        *lock(&self.shared.first_seen) = Some(BTreeMap::new());
    }

    /// When the client with this certificate sent its first request.
    pub fn first_seen(&self, certificate: &CertificateDer<'_>) -> Option<Instant> {
        lock(&self.shared.first_seen).as_ref()?.get(&certificate[..]).copied()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It ended by itself or by a panic that it told already.
            let _ = thread.join();
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = TcpListener::from_std(listener).expect("the runtime takes it");
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        tokio::spawn(serve(Arc::clone(&shared), stream));
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let tls = Arc::clone(&lock(&shared.tls));
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    shared.handshakes.fetch_add(1, Ordering::Relaxed);
    let notes = lock(&shared.first_seen).is_some();
    let client = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let client = client.filter(|_| notes).map(|certificate| certificate.to_vec());
    let service = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if let (Some(client), Some(seen)) = (&client, lock(&shared.first_seen).as_mut()) {
            if !seen.contains_key(client) {
                seen.insert(client.clone(), Instant::now());
            }
        }
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(256);
    // A client that goes away is no failure of the server.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
