//! [`Pooled`]: keeps a pool from handing out connections of an older generation.
//!
//! A connection in a pool is marked through what hyper-util tells of the connection that a request took
//! (`capture_connection`): there is no other way to reach it. The marking happens while the generation is being replaced, not
//! some time after: so whoever sees the new generation sees no old connection.
//!
//! hyper-util also pools connections that no request has taken yet: one was begun, and another became free first. Those can
//! not be poisoned. The first request that takes one is told of before it is handed over; if it began after the
//! generation was replaced, the connection plays dead, and hyper-util sends the request by another one.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use certsource_reload::{Generation, Retired};
use http::{Extensions, Request};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tower_service::Service;

use crate::stream::ConnectionInfo;

/// The connections of one generation that a pool may hold.
pub(crate) struct Pool {
    retired: Retired,
    next: AtomicU64,
    pooled: Mutex<HashMap<u64, CaptureConnection>>,
    /// When the signal came.
    retired_at: OnceLock<Instant>,
    /// Set when a request came too late for a connection: then they all do, for those that none has taken yet.
    is_late: AtomicBool,
    /// Holds the waker where the signal finds it.
    signal: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

/// Wakes nobody: it poisons, on the thread that gives the signal.
struct Poisoner(Weak<Pool>);

impl Wake for Poisoner {
    fn wake(self: Arc<Self>) {
        if let Some(pool) = self.0.upgrade() {
            pool.poison();
        }
    }
}

impl Pool {
    pub(crate) fn new(generation: &Generation) -> Arc<Self> {
        let pool = Arc::new(Self {
            retired: generation.retired().clone(),
            next: AtomicU64::new(0),
            pooled: Mutex::default(),
            retired_at: OnceLock::new(),
            is_late: AtomicBool::new(false),
            signal: Mutex::new(None),
        });
        let waker = Waker::from(Arc::new(Poisoner(Arc::downgrade(&pool))));
        let mut signal: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(generation.retired().wait());
        if signal.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *lock(&pool.signal) = Some(signal);
        } else {
            pool.poison();
        }
        pool
    }

    /// Whether a request that began then may use the connection.
    fn add(&self, id: u64, captured: CaptureConnection, begun: Instant) -> bool {
        let mut pooled = lock(&self.pooled);
        // Under the lock: either this sees the signal, or the signal sees this.
        if self.retired.is_retired() {
            poison(&captured);
            self.retired_at.get().is_none_or(|at| begun < *at)
        } else {
            pooled.insert(id, captured);
            true
        }
    }

    fn poison(&self) {
        let _ = self.retired_at.set(Instant::now());
        let pooled = std::mem::take(&mut *lock(&self.pooled));
        pooled.values().for_each(poison);
    }
}

fn poison(captured: &CaptureConnection) {
    if let Some(connected) = captured.connection_metadata().as_ref() {
        connected.poison();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place in the pool of its generation.
pub(crate) struct Place {
    pool: Arc<Pool>,
    id: u64,
    is_taken: AtomicBool,
    is_refused: AtomicBool,
}

impl Place {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        let id = pool.next.fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(pool),
            id,
            is_taken: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
        }
    }

    /// Remembers the connection, once. The request began then.
    fn take(&self, captured: &CaptureConnection, begun: Instant) {
        if !self.is_taken.swap(true, Ordering::AcqRel) && !self.pool.add(self.id, captured.clone(), begun) {
            self.is_refused.store(true, Ordering::Release);
            self.pool.is_late.store(true, Ordering::Release);
        }
    }

    /// Whether no request may be sent by the connection: the first that took it began after its generation was replaced.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Acquire)
            || (self.pool.is_late.load(Ordering::Acquire) && !self.is_taken.load(Ordering::Acquire))
    }

    /// The connection is gone.
    pub(crate) fn leave(&self) {
        // Also for one that comes here before its first request has told of it.
        self.is_taken.store(true, Ordering::Release);
        lock(&self.pool.pooled).remove(&self.id);
    }
}

/// A hyper-util client above a [`Connector`](crate::Connector) whose pool gives no request to a connection of an older
/// generation: those are poisoned ([`Connected::poison`](hyper_util::client::legacy::connect::Connected::poison)) while the
/// newer one is being published.
///
/// A request that begins after [`Reloader::reload`](certsource_reload::Reloader::reload) has returned uses the new
/// generation. So does one that meets a connection that was pooled unused before; on HTTP/1 hyper-util sends it again by another,
/// unless [`retry_canceled_requests`](hyper_util::client::legacy::Builder::retry_canceled_requests) is off. What an old connection has taken finishes. An idle one stays open until the pool's idle timeout, unused; with
/// [`Follow`](crate::Follow) it closes at once.
///
/// # Examples
/// ```no_run
/// use certsource_hyper::{Connector, Pooled};
/// use certsource_hyper::certsource_reload::{Error, Reloader};
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
///
/// # fn client(reloader: &Reloader) -> Result<(), Error> {
/// let connector = Connector::new(reloader)?;
/// let client = Pooled::new(Client::builder(TokioExecutor::new()).build(connector));
/// # let _: Pooled<Client<Connector, String>> = client;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Pooled<S> {
    inner: S,
}

impl<S> Pooled<S> {
    /// Around a client whose connector is a [`Connector`](crate::Connector).
    pub fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The client. What is sent by it directly is not noticed here.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S, B> Service<Request<B>> for Pooled<S>
where
    S: Service<Request<B>>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Noticing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let captured = capture_connection(&mut request);
        let noticer = Arc::new(Noticer { captured: captured.clone(), begun: Instant::now() });
        let mut connection: Taking = Box::pin(tokio::task::unconstrained(async move {
            let mut captured = captured;
            drop(captured.wait_for_connection_metadata().await);
        }));
        // Before the call: so the signal finds it. It is never polled again.
        let _ = connection.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&noticer))));
        Noticing { response: self.inner.call(request), noticer, _connection: connection }
    }
}

type Taking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wakes nobody: it notices, on the thread that gives the request its connection, before the request is handed over.
struct Noticer {
    captured: CaptureConnection,
    begun: Instant,
}

impl Wake for Noticer {
    fn wake(self: Arc<Self>) {
        self.notice();
    }
}

impl Noticer {
    fn notice(&self) {
        let mut told = Extensions::new();
        if let Some(connected) = self.captured.connection_metadata().as_ref() {
            connected.get_extras(&mut told);
        }
        if let Some(info) = told.get::<ConnectionInfo>() {
            info.place.take(&self.captured, self.begun);
        }
    }
}

/// The response of [`Pooled`].
pub struct Noticing<F> {
    response: F,
    noticer: Arc<Noticer>,
    _connection: Taking,
}

impl<F: Future + Unpin> Future for Noticing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let response = Pin::new(&mut this.response).poll(context);
        // The signal is of the first connection only. hyper-util may have sent the request again, by another.
        this.noticer.notice();
        response
    }
}

impl<F> fmt::Debug for Noticing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noticing")
    }
}
