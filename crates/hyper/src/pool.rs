//! [`Pooled`]: keeps a pool from handing out connections of an older generation.
//!
//! A connection in a pool is marked through what hyper-util tells of the connection that a request took
//! (`capture_connection`): there is no other way to reach it. The marking happens while the generation is being replaced, not
//! some time after: so whoever sees the new generation sees no old connection.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

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
            signal: Mutex::new(None),
        });
        let waker = Waker::from(Arc::new(Poisoner(Arc::downgrade(&pool))));
        let mut signal: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(generation.retired().wait());
        if signal.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *lock(&pool.signal) = Some(signal);
        }
        pool
    }

    fn add(&self, id: u64, captured: CaptureConnection) {
        let mut pooled = lock(&self.pooled);
        // Under the lock: either this sees the signal, or the signal sees this.
        if self.retired.is_retired() {
            poison(&captured);
        } else {
            pooled.insert(id, captured);
        }
    }

    fn poison(&self) {
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
}

impl Place {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        let id = pool.next.fetch_add(1, Ordering::Relaxed);
        Self { pool: Arc::clone(pool), id, is_taken: AtomicBool::new(false) }
    }

    /// Remembers the connection, once.
    fn take(&self, captured: &CaptureConnection) {
        if !self.is_taken.swap(true, Ordering::AcqRel) {
            self.pool.add(self.id, captured.clone());
        }
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
/// generation. What an old connection has taken finishes. An idle one stays open until the pool's idle timeout, unused; with
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
        let connection = Box::pin({
            let mut captured = captured.clone();
            async move {
                drop(captured.wait_for_connection_metadata().await);
            }
        });
        Noticing { response: self.inner.call(request), captured, connection: Some(connection) }
    }
}

/// The response of [`Pooled`].
pub struct Noticing<F> {
    response: F,
    captured: CaptureConnection,
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<F: Future + Unpin> Future for Noticing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let response = Pin::new(&mut this.response).poll(context);
        // After the response: a connection that is taken now is noticed now.
        if let Some(connection) = &mut this.connection {
            if connection.as_mut().poll(context).is_ready() {
                this.connection = None;
                notice(&this.captured);
            }
        }
        response
    }
}

impl<F> fmt::Debug for Noticing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noticing")
    }
}

fn notice(captured: &CaptureConnection) {
    let mut told = Extensions::new();
    if let Some(connected) = captured.connection_metadata().as_ref() {
        connected.get_extras(&mut told);
    }
    if let Some(info) = told.get::<ConnectionInfo>() {
        info.place.take(captured);
    }
}
