//! [`TlsListener`]: accepts connections and makes their handshakes, many at a time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use certsource_reload::{Closed, Error, Reason, Reloader};
use certsource_rustls::{ClientAuth, ServerTls};
use futures_core::Stream;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::LazyConfigAcceptor;

use super::accepted::TlsStream;
use super::peer::{Peer, Standing};
use super::site::{Site, Sites};

/// How long it waits when the system has no descriptors left, or the like.
const BREATH: Duration = Duration::from_millis(500);

/// Accepts TLS connections with the certificates that are current: for [`serve`](super::serve), for `axum::serve`
/// (feature `axum`), for tonic's server ([`TlsListener::incoming`], feature `tonic`).
///
/// The generation of a handshake is chosen when the client's hello is there. Each has session storage and ticket keys of
/// its own, so no session of an older one is resumed. If a newer one is published before the connection is handed out,
/// the client's certificate is verified again by that one.
///
/// While nothing may be used ([`Closed`]), handshakes are refused: the connection is closed.
///
/// Handshakes run in tasks of their own: a client that is slow, or says nothing, delays no other. They end after the
/// handshake timeout; when there are too many, the oldest is given up.
///
/// # What becomes of open connections
/// [`serve`](super::serve) ends those of an older generation, and takes no request of a client that is not let in any more.
/// `axum::serve` and tonic's server own their connections: a listener can not tell them to end one. What holds there:
/// * with a [`drain`](ListenerBuilder::drain) deadline, each connection of an older generation is cut that long after it was
///   replaced, in the middle of a response if need be;
/// * with a [`GuardLayer`](super::GuardLayer) around the application, requests of clients that are not let in any more are
///   refused at once, and HTTP/1 connections of an older generation end after their next response;
/// * without both, an open connection goes on as long as its client likes.
pub struct TlsListener {
    tcp: TcpListener,
    sites: Arc<Sites>,
    limits: Limits,
    handshakes: JoinSet<Option<TlsStream>>,
    /// The handshakes, the oldest first; some have ended.
    oldest: VecDeque<AbortHandle>,
    breath: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    timeout: Duration,
    handshakes: usize,
    drain: Option<Duration>,
}

impl TlsListener {
    /// Listens here, with the defaults of [`ListenerBuilder`].
    ///
    /// # Errors
    /// When the address can not be had, no crypto provider is there, or no config can be made from the current generation.
    pub async fn bind(address: impl ToSocketAddrs, reloader: &Reloader) -> Result<Self, Error> {
        Self::builder(reloader).bind(address).await
    }

    /// Begins to build a listener.
    pub fn builder(reloader: &Reloader) -> ListenerBuilder {
        ListenerBuilder {
            reloader: reloader.clone(),
            tls: None,
            client_auth: None,
            named: Vec::new(),
            limits: Limits { timeout: Duration::from_secs(10), handshakes: 1024, drain: None },
        }
    }

    /// The address that it listens at.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection whose handshake is done. Connections are accepted, and their handshakes begun, while this is
    /// waited for.
    ///
    /// # Cancel safety
    /// Dropping the future loses no connection.
    pub async fn accept(&mut self) -> TlsStream {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// [`TlsListener::accept`] for hand-written futures.
    pub fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<TlsStream> {
        loop {
            while let Poll::Ready(Some(done)) = self.handshakes.poll_join_next(context) {
                let Ok(Some(stream)) = done else { continue };
                // It may have waited here for long.
                match refusal(stream.peer()) {
                    None => return Poll::Ready(stream),
                    Some(why) => self.refuse(stream, why),
                }
            }
            if let Some(breath) = &mut self.breath {
                ready!(breath.as_mut().poll(context));
                self.breath = None;
            }
            match ready!(self.tcp.poll_accept(context)) {
                Ok((tcp, address)) => self.begin(tcp, address),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!("cannot accept connections: {error}");
                    self.breath = Some(Box::pin(tokio::time::sleep(BREATH)));
                }
            }
        }
    }

    /// The connections as a stream that never ends, for tonic's `serve_with_incoming`.
    pub fn incoming(self) -> Incoming {
        Incoming(self)
    }

    /// Closes a connection that is not handed out, beside the handshakes.
    fn refuse(&mut self, mut stream: TlsStream, why: io::Error) {
        tracing::debug!(address = %stream.peer().address(), "a connection is refused: {why}");
        let timeout = self.limits.timeout;
        let closing = self.handshakes.spawn(async move {
            let _ = tokio::time::timeout(timeout, stream.shutdown()).await;
            None
        });
        self.oldest.push_back(closing);
    }

    fn begin(&mut self, tcp: TcpStream, address: SocketAddr) {
        while self.oldest.front().is_some_and(AbortHandle::is_finished) {
            self.oldest.pop_front();
        }
        if self.handshakes.len() >= self.limits.handshakes {
            if let Some(oldest) = self.oldest.pop_front() {
                oldest.abort();
            }
        }
        if self.oldest.len() > 2 * self.limits.handshakes {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        // Some systems refuse it for a connection that is gone already; the handshake tells that.
        let _ = tcp.set_nodelay(true);
        let (sites, limits) = (Arc::clone(&self.sites), self.limits);
        let handshake = self.handshakes.spawn(async move {
            match tokio::time::timeout(limits.timeout, handshake(tcp, address, &sites, limits.drain)).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => tracing::debug!(%address, "a TLS handshake failed: {error}"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
            None
        });
        self.oldest.push_back(handshake);
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    sites: &Sites,
    drain: Option<Duration>,
) -> io::Result<TlsStream> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let site = Arc::clone(sites.choose(start.client_hello().server_name()));
    let (config, generation) = {
        let current = site.current.get().map_err(closed)?;
        (Arc::clone(&current.config), Arc::clone(current.generation()))
    };
    let mut io = start.into_stream(config).await?;
    let peer = Peer::new(address, io.get_ref().1, generation, site);
    if let Some(why) = refusal(&peer) {
        let _ = io.shutdown().await;
        return Err(why);
    }
    Ok(TlsStream::new(io, peer, drain))
}

/// Why a connection is not handed out: its client's certificate was verified by a generation that has been replaced
/// meanwhile, or nothing is served any more.
fn refusal(peer: &Peer) -> Option<io::Error> {
    if peer.standing() == Standing::Withdrawn {
        let why = "the client was withdrawn before the connection was used";
        return Some(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    peer.site().current.get().err().map(closed)
}

fn closed(why: Closed) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// Whether an error of `accept` is about that connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

impl fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener")
            .field("tcp", &self.tcp)
            .field("limits", &self.limits)
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl axum::serve::Listener for TlsListener {
    type Io = TlsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream, SocketAddr) {
        let stream = self.accept().await;
        let address = stream.peer().address();
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, TlsListener>) -> Self {
        stream.io().peer().clone()
    }
}

/// The connections of a listener, as a stream.
#[derive(Debug)]
pub struct Incoming(TlsListener);

impl Stream for Incoming {
    type Item = io::Result<TlsStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_accept(context).map(|stream| Some(Ok(stream)))
    }
}

/// Builds a [`TlsListener`].
///
/// # Defaults
/// * TLS: [`ServerTls::new`] with the protocols `h2` and `http/1.1`
/// * client authentication: none
/// * identities: that of the source
/// * handshake timeout: 10 s
/// * handshakes at a time: 1024
/// * drain deadline: none
#[derive(Debug)]
#[must_use]
pub struct ListenerBuilder {
    reloader: Reloader,
    tls: Option<ServerTls>,
    client_auth: Option<ClientAuth>,
    named: Vec<(Vec<String>, Reloader, Option<ServerTls>)>,
    limits: Limits,
}

impl ListenerBuilder {
    /// How configs are made: crypto provider, versions of TLS, ALPN, resumption, revocation.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Whether clients are asked for a certificate. Counts more than what [`ListenerBuilder::tls`] says, and for all
    /// identities that have no [`ServerTls`] of their own.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = Some(client_auth);
        self
    }

    /// Adds an identity, from a source of its own, for clients that ask for one of these names (SNI). `*.example.org` stands
    /// for one label. The trust in that source judges the clients that ask for it.
    pub fn identity_for(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
        reloader: &Reloader,
    ) -> Self {
        self.named.push((names.into_iter().map(Into::into).collect(), reloader.clone(), None));
        self
    }

    /// [`ListenerBuilder::identity_for`] with other settings of TLS, client authentication included.
    pub fn identity_with(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
        reloader: &Reloader,
        tls: ServerTls,
    ) -> Self {
        self.named.push((names.into_iter().map(Into::into).collect(), reloader.clone(), Some(tls)));
        self
    }

    /// How long a handshake may take.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// How many handshakes may be going on; at the least one. When there are more, the oldest is given up.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.limits.handshakes = handshakes.max(1);
        self
    }

    /// How long after its generation was replaced a connection is cut, whatever goes on there.
    pub fn drain(mut self, deadline: Duration) -> Self {
        self.limits.drain = Some(deadline);
        self
    }

    /// Listens here.
    ///
    /// # Errors
    /// As [`TlsListener::bind`].
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<TlsListener, Error> {
        let tcp = TcpListener::bind(address).await.map_err(|error| {
            Error::new(Reason::Io, format!("cannot listen there: {error}")).caused_by(error)
        })?;
        self.listen(tcp)
    }

    /// Listens with a socket that is bound already.
    ///
    /// # Errors
    /// As [`TlsListener::bind`].
    pub fn listen(self, tcp: TcpListener) -> Result<TlsListener, Error> {
        let Self { reloader, tls, client_auth, named, limits } = self;
        let mut tls = match tls {
            Some(tls) => tls,
            None => ServerTls::new()?.alpn(["h2", "http/1.1"]),
        };
        if let Some(client_auth) = client_auth {
            tls = tls.client_auth(client_auth);
        }
        let default = Site::new(&reloader, tls.clone())?;
        let mut sites = HashMap::new();
        for (names, reloader, own) in named {
            let site = Site::new(&reloader, own.unwrap_or_else(|| tls.clone()))?;
            sites.extend(names.into_iter().map(|name| (name.to_ascii_lowercase(), Arc::clone(&site))));
        }
        Ok(TlsListener {
            tcp,
            sites: Arc::new(Sites::new(default, sites)),
            limits,
            handshakes: JoinSet::new(),
            oldest: VecDeque::new(),
            breath: None,
        })
    }
}
