//! An HTTPS server that demands client certificates and follows files of its own: what `certsource-rustls` makes of
//! them, under hyper. It echoes bodies.
//!
//! A connection of an older generation is retired without a cut: HTTP/1.1 by `Connection: close` on its next response,
//! HTTP/2 by GOAWAY. A server that closes idle HTTP/1.1 connections instead takes requests with it that it never read,
//! rotation or not. So would GOAWAY, if the socket were closed with such a request unread in it: see [`Orderly`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use certsource::Files;
use certsource_reload::{Derived, Reloader};
use certsource_rustls::{ClientAuth, ServerTls};
use certsource_testkit::{Issued, KubeletDir};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::orderly::Orderly;

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    dir: KubeletDir,
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    http2: bool,
    config: Derived<Arc<ServerConfig>>,
    /// The number of the newest generation.
    newest: watch::Sender<u64>,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Server {
    /// Starts a server with this certificate, which takes clients of the CAs of this bundle.
    ///
    /// # Panics
    /// When it can not.
    pub async fn start(http2: bool, clients: &str, identity: &Issued) -> Self {
        let dir = KubeletDir::from_dir(certsource_testkit::TestDir::new().unwrap());
        dir.swap_all(clients, identity).unwrap();
        let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let tls = ServerTls::new().unwrap().client_auth(ClientAuth::Required).alpn([protocol]);
        let reloader =
            Reloader::builder(Files::kubernetes(dir.path()).detect(certsource::detect::Notify::new()))
                .start_async()
                .await
                .unwrap();
        let config =
            reloader.derive(move |generation| tls.config(generation.material()).map(Arc::new)).unwrap();
        // Room for every loop of a load, and for the connects that a rotation made it give up: what finds none is tried
        // again by the kernel after seconds, and ever later.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            http2,
            config,
            newest: watch::Sender::new(1),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(());
        tokio::spawn(accept(listener, Arc::clone(&shared), stopped));
        Self { dir, shared, address, stop }
    }

    /// Gives it other material, by a swap of its volume. When this returns, every handshake that begins uses that, and
    /// connections of older material are being retired.
    ///
    /// # Panics
    /// When it does not load.
    pub async fn rotate(&self, clients: &str, identity: &Issued) {
        self.dir.swap_all(clients, identity).unwrap();
        let generation = self.shared.config.reloader().reload().await.unwrap();
        self.shared.newest.send_replace(generation.number());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path here. The name must be resolved to [`Server::address`].
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// The requests that it answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The handshakes that did not end well.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (shared, mut stopped) = (Arc::clone(&shared), stopped.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = stopped.changed() => {}
                () = shared.serve(stream) => {}
            }
        });
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let config = self.config.load();
        let generation = config.generation().number();
        let Ok(stream) = TlsAcceptor::from(Arc::clone(config.value())).accept(stream).await else {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return;
        };
        let mut newest = self.newest.subscribe();
        let is_old = {
            let newest = newest.clone();
            move || *newest.borrow() > generation
        };
        let shared = Arc::clone(&self);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (shared, is_old) = (Arc::clone(&shared), is_old.clone());
            async move {
                let body =
                    request.into_body().collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
                shared.requests.fetch_add(1, Ordering::SeqCst);
                let mut response = Response::new(Full::new(body));
                if !shared.http2 && is_old() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(Orderly::new(stream));
        // A client that goes away is no failure of the server.
        if !self.http2 {
            let _ = http1::Builder::new().serve_connection(io, service).await;
            return;
        }
        let mut connection = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = newest.wait_for(|newest| *newest > generation) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
