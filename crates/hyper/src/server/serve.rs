//! [`serve`]: an accept loop that ends the connections of older generations.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use super::accepted::TlsStream;
use super::guard::Guard;
use super::listener::TlsListener;
use super::peer::{Peer, Standing};
use crate::follow::Call;

type BoxError = Box<dyn StdError + Send + Sync>;
type Builder = auto::Builder<TokioExecutor>;

/// Serves HTTP/1 and HTTP/2 with this application: an axum `Router`, tonic's `Routes`, any `tower::Service`. Each request
/// has its [`Peer`] in its extensions.
///
/// When a newer generation is published, on each open connection of an older one:
/// * if the client is not let in any more (its certificate is verified again), no further request reaches the application:
///   it is answered with `403 Forbidden`. What has begun finishes, and then the connection is closed; an idle one at once;
/// * else HTTP/2 is told to go elsewhere (`GOAWAY`), and HTTP/1 by `connection: close` in the next response. Requests on
///   their way are served: a rotation fails none;
/// * if there is none to replace it ([`Closed`](certsource_reload::Closed)), every connection ends that way, idle ones at once;
/// * after the [drain deadline](super::ListenerBuilder::drain), if one is set, the connection is cut.
///
/// What has begun may last: an open stream, and a connection that was upgraded (a WebSocket), which is the application's from
/// then on. After a rotation only the drain deadline ends those, also for a client that is not let in any more.
///
/// An HTTP/1 connection that waits 30 s for the head of a request is closed, an idle one too: see `header_read_timeout` of
/// hyper's settings ([`Serve::http`]).
///
/// # Cancel safety
/// Dropping the future closes the listener and cuts every connection that was not upgraded.
///
/// # Examples
/// ```no_run
/// use axum::{Router, routing::get};
/// use certsource_hyper::certsource_reload::Reloader;
/// use certsource_hyper::{TlsListener, serve};
///
/// # async fn run(reloader: Reloader) -> Result<(), certsource_hyper::Error> {
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// let listener = TlsListener::bind("0.0.0.0:8443", &reloader).await?;
/// serve(listener, app).await;
/// # Ok(())
/// # }
/// ```
pub fn serve<S>(listener: TlsListener, service: S) -> Serve<S> {
    let mut builder = Builder::new(TokioExecutor::new());
    // A client that does not finish the head of its request, or does not begin the next one, is cut after hyper's 30 s, for
    // which it needs a clock.
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).enable_connect_protocol();
    Serve { listener, service, builder, signal: Box::pin(pending()), limit: None }
}

/// A server that is about to run: see [`serve`]. It runs when it is awaited.
#[must_use = "it runs when it is awaited"]
pub struct Serve<S> {
    listener: TlsListener,
    service: S,
    builder: Builder,
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    limit: Option<Duration>,
}

impl<S> Serve<S> {
    /// Changes hyper's settings.
    pub fn http(mut self, change: impl FnOnce(&mut Builder)) -> Self {
        change(&mut self.builder);
        self
    }

    /// Ends when this is done: accepts no more, and waits until the requests that have begun are answered.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.signal = Box::pin(signal);
        self
    }

    /// How long the end waits for requests that have begun. Without it: as long as they take.
    pub fn shutdown_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl<S> fmt::Debug for Serve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<S, B> IntoFuture for Serve<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

async fn run<S, B>(serve: Serve<S>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Serve { mut listener, service, builder, mut signal, limit } = serve;
    let (builder, (closing, closes)) = (Arc::new(builder), watch::channel(false));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut signal => break,
            Some(_) = connections.join_next() => {}
            stream = listener.accept() => {
                connections.spawn(connection(stream, service.clone(), Arc::clone(&builder), closes.clone()));
            }
        }
    }
    drop((listener, closes));
    closing.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    match limit {
        None => all.await,
        // Those that are left are cut when the set is dropped.
        Some(limit) => drop(tokio::time::timeout(limit, all).await),
    }
}

async fn connection<S, B>(
    stream: TlsStream,
    service: S,
    builder: Arc<Builder>,
    mut closing: watch::Receiver<bool>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let peer = stream.peer().clone();
    let mut generations = peer.site().reloader().watch();
    let use_of = Arc::new(Use::default());
    let service = Application { inner: Guard::new(service), peer: peer.clone(), use_of: Arc::clone(&use_of) };
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut retired = pin!(peer.generation().retired().replaced());
    let (mut is_closing, mut is_retired) = (false, false);
    loop {
        // On HTTP/2, a connection that no request has come by yet waits for the first: a client that has just made it has
        // one on the way.
        let ends = match peer.standing() {
            Standing::Current => false,
            Standing::Old => use_of.is_http2.load(Ordering::Acquire) || peer.is_closed(),
            Standing::Withdrawn => true,
        };
        if !is_closing && (ends || *closing.borrow_and_update()) {
            is_closing = true;
            served.as_mut().graceful_shutdown();
        }
        tokio::select! {
            // The client went away, or misbehaved: nothing for the application.
            _ = served.as_mut() => return,
            Some(_) = generations.changed(), if !is_closing => {}
            // Without a newer one, where what is served could not be confirmed.
            () = &mut retired, if !is_closing && !is_retired => is_retired = true,
            () = use_of.first.notified(), if !is_closing => {}
            Ok(()) = closing.changed(), if !is_closing => {}
        }
    }
}

/// What a connection has been used for.
#[derive(Default)]
struct Use {
    is_http2: AtomicBool,
    first: Notify,
}

/// The application for one connection.
struct Application<S> {
    inner: Guard<S>,
    peer: Peer,
    use_of: Arc<Use>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Application<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Call<Guard<S>, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        if request.version() == Version::HTTP_2 && !self.use_of.is_http2.swap(true, Ordering::AcqRel) {
            self.use_of.first.notify_one();
        }
        Call::when_ready(self.inner.clone(), request)
    }
}
