//! [`Connector`]: makes connections with the certificates that are current, each with those of one generation.
//!
//! How one is made, and made again, is in `connector/connect.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use certsource_reload::{Closed, Derived, Error, Generation, Reloader};
use certsource_rustls::ClientTls;
use http::Uri;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::runtime::Handle;
use tower_service::Service;

use crate::confirm::{self, Silent};
use crate::error::ConnectError;
#[cfg(doc)]
use crate::error::ConnectErrorKind;
use crate::pool::Pool;
use crate::reactive::Reactive;
use crate::stream::Stream;

mod connect;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Connects by TLS with the certificates that are current: for hyper-util's client, for tonic's `Channel`, and for
/// whatever takes a `tower::Service<Uri>`.
///
/// Each connection uses one generation: its trust, its revocation lists, its identity, its sessions. If a newer one is
/// published while a connection is being made, it is made again with that one. If a handshake fails as a rotation makes it
/// fail, the source is looked at, and the handshake is made again with what came of it: see [`Builder::reactive`].
/// While nothing may be used ([`Closed`]), every connect fails at once with [`ConnectErrorKind::Closed`].
///
/// What was made stays as it is. A pool above goes on with its old connections, until:
/// * a [`Pooled`](crate::Pooled) poisons them (for hyper-util's client), or
/// * a [`Follow`](crate::Follow) switches to a new pool or channel ([`Connector::derive`]).
///
/// # Cancel safety
/// Dropping the future of a connect closes what was made so far. A look that it asked for goes on.
pub struct Connector<C = HttpConnector> {
    shared: Arc<Shared>,
    inner: C,
    /// Set by [`Connector::derive`]: no older generation is used than this, which is about to be published.
    least: Option<Arc<Generation>>,
}

/// What clones share.
struct Shared {
    tls: ClientTls,
    options: Options,
    reactive: Option<Reactive>,
    current: Derived<Tls>,
}

/// What is made of a generation.
struct Tls {
    config: Arc<ClientConfig>,
    pool: Arc<Pool>,
    silent: Arc<Silent>,
}

impl Tls {
    fn new(tls: &ClientTls, generation: &Arc<Generation>) -> Result<Self, Error> {
        let mut config = tls.config(generation.material())?;
        confirm::observe(&mut config);
        Ok(Self { config: Arc::new(config), pool: Pool::new(generation), silent: Arc::default() })
    }
}

#[derive(Clone, Debug)]
struct Options {
    handshake_timeout: Duration,
    server_name: Option<ServerName<'static>>,
    http_uris: HttpUris,
    http2_only: bool,
    confirm_identity: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpUris {
    Refused,
    Plain,
    Tls,
}

impl Connector {
    /// A connector with the defaults of [`Builder`].
    ///
    /// # Errors
    /// When no crypto provider is there, or no config can be made from the current generation.
    pub fn new(reloader: &Reloader) -> Result<Self, Error> {
        Self::builder(reloader).build()
    }

    /// Begins to build a connector.
    pub fn builder(reloader: &Reloader) -> Builder {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        Builder {
            reloader: reloader.clone(),
            tls: None,
            alpn: Alpn::Both,
            options: Options {
                handshake_timeout: Duration::from_secs(10),
                server_name: None,
                http_uris: HttpUris::Refused,
                http2_only: false,
                confirm_identity: None,
            },
            reactive: Some(Duration::from_secs(3)),
            inner: tcp,
        }
    }
}

impl<C> Connector<C> {
    /// The reloader that it follows.
    pub fn reloader(&self) -> &Reloader {
        self.shared.current.reloader()
    }

    /// Builds something on top of this connector, such as a channel or a client with its pool, now and for every later
    /// generation: for [`Follow`](crate::Follow).
    ///
    /// The connector that `build` gets never uses an older generation than the one it is called for. `build` runs inside
    /// of the tokio runtime from which this was called, so it may spawn.
    ///
    /// # Errors
    /// When `build` fails for the current generation. When it fails for a later one, the last good generation stays.
    ///
    /// # Examples
    /// See [`Follow`](crate::Follow).
    pub fn derive<T, E>(
        &self,
        build: impl Fn(Self) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Derived<T>, Error>
    where
        C: Clone + Send + Sync + 'static,
        T: Send + Sync + 'static,
        E: Into<BoxError>,
    {
        let (connector, runtime) = (self.clone(), Handle::try_current().ok());
        self.reloader().derive(move |generation| {
            let _inside = runtime.as_ref().map(Handle::enter);
            build(Self { least: Some(Arc::clone(generation)), ..connector.clone() })
        })
    }

    /// What a connect uses now.
    fn current(&self) -> Result<Current, NoConfig> {
        let current = self.shared.current.load();
        // It is built before it is published: what connects at once comes here, and what was built where this connector's
        // own config could not be.
        let least = self.least.as_ref().filter(|least| least.number() > current.generation().number());
        if let Some(least) = least.filter(|least| !least.retired().is_retired()) {
            let Tls { config, pool, silent } = Tls::new(&self.shared.tls, least).map_err(NoConfig::Failed)?;
            return Ok(Current { generation: Arc::clone(least), config, pool, silent });
        }
        let current = self.shared.current.get().map_err(NoConfig::Closed)?;
        Ok(Current {
            generation: Arc::clone(current.generation()),
            config: Arc::clone(&current.config),
            pool: Arc::clone(&current.pool),
            silent: Arc::clone(&current.silent),
        })
    }

    /// Whether this generation must not be used any more.
    fn is_over(&self, generation: &Generation) -> bool {
        generation.retired().is_retired()
            || self.shared.current.load().generation().number() > generation.number()
    }
}

/// Why nothing can be connected to.
enum NoConfig {
    Closed(Closed),
    Failed(Error),
}

/// A generation, and what is made of it.
struct Current {
    generation: Arc<Generation>,
    config: Arc<ClientConfig>,
    pool: Arc<Pool>,
    silent: Arc<Silent>,
}

impl<C: Clone> Clone for Connector<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), inner: self.inner.clone(), least: self.least.clone() }
    }
}

impl<C> fmt::Debug for Connector<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("reloader", self.reloader())
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<Stream<T>, ConnectError>> + Send>>;

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + Connection + Unpin + Send + 'static,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    type Response = Stream<C::Response>;
    type Error = ConnectError;
    type Future = Connecting<C::Response>;

    /// Always ready: each connect waits for the inner connector by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Builds a [`Connector`].
///
/// # Defaults
/// * TLS: [`ClientTls::new`]
/// * ALPN: `h2`, then `http/1.1`
/// * below TLS: hyper-util's `HttpConnector`, with 10 s for TCP
/// * handshake timeout: 10 s
/// * name that the server must prove: the host of the URI
/// * `http://` URIs: refused
/// * reactive reload: on, waits 3 s
/// * confirmation of our certificate: off
#[must_use]
pub struct Builder<C = HttpConnector> {
    reloader: Reloader,
    tls: Option<ClientTls>,
    alpn: Alpn,
    options: Options,
    reactive: Option<Duration>,
    inner: C,
}

#[derive(Clone, Copy, Debug)]
enum Alpn {
    Both,
    Http1,
    Http2,
    AsIs,
}

impl<C> Builder<C> {
    /// How configs are made: crypto provider, versions of TLS, revocation. Its ALPN is not used, unless
    /// [`Builder::own_alpn`] is called.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Offers HTTP/2 only, and refuses a server that does not choose it: for tonic, and for clients that are
    /// `http2_only`.
    pub fn http2_only(mut self) -> Self {
        self.alpn = Alpn::Http2;
        self
    }

    /// Offers HTTP/1.1 only.
    pub fn http1_only(mut self) -> Self {
        self.alpn = Alpn::Http1;
        self
    }

    /// Offers what the [`ClientTls`] of [`Builder::tls`] says, also nothing: for protocols other than HTTP.
    pub fn own_alpn(mut self) -> Self {
        self.alpn = Alpn::AsIs;
        self
    }

    /// The name that the server's certificate must have, whatever the URI says.
    pub fn server_name(mut self, name: ServerName<'static>) -> Self {
        self.options.server_name = Some(name);
        self
    }

    /// How long a handshake may take, from the TCP connection on.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.handshake_timeout = timeout;
        self
    }

    /// Connects without TLS where the URI begins with `http://`.
    pub fn plain_http(mut self) -> Self {
        self.options.http_uris = HttpUris::Plain;
        self
    }

    /// Connects by TLS also where the URI begins with `http://`. For tonic's `Endpoint::connect_with_connector`, which
    /// refuses `https://` when tonic's own TLS is compiled in and not set up.
    pub fn tls_for_http(mut self) -> Self {
        self.options.http_uris = HttpUris::Tls;
        self
    }

    /// Whether a handshake that fails as a rotation makes it fail asks for a look at the source, and how long it waits
    /// for what comes of it. `None`: it does not.
    ///
    /// Such failures are: we do not know the server's issuer, its certificate is expired or revoked or badly signed, or the
    /// server's alert is about our certificate. Looks are shared by all who wait, and limited for each host (it may ask
    /// again after a second, which doubles up to a minute) and over all hosts (about one a second).
    ///
    /// On TLS 1.3 the server refuses our certificate after the handshake. Then the source is looked at too, but nothing is
    /// made again: the protocol above sees the error, and its next connection uses what came of the look. With
    /// [`Builder::confirm_identity`] such a refusal is one of the handshake's, too.
    pub fn reactive(mut self, wait: Option<Duration>) -> Self {
        self.reactive = wait;
        self
    }

    /// Waits so long for a server's first message after it was shown our certificate in a handshake. Off by default.
    ///
    /// On TLS 1.3 a server judges our certificate after the handshake. Without this, a refusal meets what the protocol above
    /// sends first, which is lost if it may not be repeated. With this, a refusal is a failed connect
    /// ([`ConnectErrorKind::ClientCertificate`]), before anything was given to the connection; and the connect is made
    /// again when newer certificates come of the look that follows.
    ///
    /// It costs half a round trip on those connections. A server that sends nothing (no session ticket, and a protocol in
    /// which the client speaks first, as in HTTP/1.1) costs the whole `timeout`, once in each generation, and is not waited
    /// for after that. Nothing is waited for on TLS 1.2, nor where the server did not ask for a certificate, nor when a
    /// session is resumed. What the server says first stays for the protocol above.
    pub fn confirm_identity(mut self, timeout: Duration) -> Self {
        self.options.confirm_identity = Some(timeout);
        self
    }

    /// What makes the connections below TLS: another `HttpConnector`, a Unix socket, a proxy's tunnel.
    pub fn over<D>(self, inner: D) -> Builder<D> {
        let Self { reloader, tls, alpn, options, reactive, .. } = self;
        Builder { reloader, tls, alpn, options, reactive, inner }
    }

    /// Makes the connector.
    ///
    /// # Errors
    /// When no crypto provider is there, or no config can be made from the current generation.
    pub fn build(self) -> Result<Connector<C>, Error> {
        let Self { reloader, tls, alpn, mut options, reactive, inner } = self;
        let tls = match tls {
            Some(tls) => tls,
            None => ClientTls::new()?,
        };
        let tls = match alpn {
            Alpn::Both => tls.alpn(["h2", "http/1.1"]),
            Alpn::Http1 => tls.alpn(["http/1.1"]),
            Alpn::Http2 => tls.alpn(["h2"]),
            Alpn::AsIs => tls,
        };
        options.http2_only = matches!(alpn, Alpn::Http2);
        let current = reloader.derive({
            let tls = tls.clone();
            move |generation| Tls::new(&tls, generation)
        })?;
        let reactive = reactive.map(Reactive::new);
        Ok(Connector { shared: Arc::new(Shared { tls, options, reactive, current }), inner, least: None })
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("reloader", &self.reloader)
            .field("tls", &self.tls)
            .field("alpn", &self.alpn)
            .field("options", &self.options)
            .field("reactive", &self.reactive)
            .finish_non_exhaustive()
    }
}
