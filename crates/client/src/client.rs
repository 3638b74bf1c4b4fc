//! [`Client`]: sends requests with the certificates that are current.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::SystemTime;

use certsource::{Certificate, Error, Role};
use certsource_reload::{Derived, Events, Generation, Reloader, Status};
use http::Method;
use reqwest::{IntoUrl, Request, Response};
use tower_service::Service;

use crate::builder::Builder;
use crate::factory::Factory;
use crate::lane::Lane;
use crate::pulse::Lanes;
use crate::reactive::Reactive;
use crate::request::RequestBuilder;
use crate::send;

/// An HTTP client that follows certificate rotation.
///
/// Cheap to clone; clones share everything, and all of them follow. When the last one is gone, so is the work in the
/// background.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What clones share.
pub(crate) struct Inner {
    pub(crate) derived: Derived<Lane>,
    pub(crate) factory: Arc<Factory>,
    pub(crate) reactive: Option<Reactive>,
    pub(crate) reactive_on: Vec<IsRefusal>,
    /// Makes requests that belong to no generation.
    pub(crate) drafts: reqwest::Client,
    lanes: Arc<Lanes>,
}

/// Whether a response says that the server refused our certificate.
pub(crate) type IsRefusal = Box<dyn Fn(&Response) -> bool + Send + Sync>;

impl Client {
    /// Begins to build a client.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(
        derived: Derived<Lane>,
        factory: Arc<Factory>,
        lanes: Arc<Lanes>,
        drafts: reqwest::Client,
        reactive: Option<Reactive>,
        reactive_on: Vec<IsRefusal>,
    ) -> Self {
        Self { inner: Arc::new(Inner { derived, factory, reactive, reactive_on, lanes, drafts }) }
    }

    /// Begins a `GET` request.
    pub fn get(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::GET, url)
    }

    /// Begins a `POST` request.
    pub fn post(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::POST, url)
    }

    /// Begins a `PUT` request.
    pub fn put(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::PUT, url)
    }

    /// Begins a `PATCH` request.
    pub fn patch(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::PATCH, url)
    }

    /// Begins a `DELETE` request.
    pub fn delete(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::DELETE, url)
    }

    /// Begins a `HEAD` request.
    pub fn head(&self, url: impl IntoUrl) -> RequestBuilder {
        self.request(Method::HEAD, url)
    }

    /// Begins a request. A wrong `url` is told when it is sent.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        RequestBuilder::new(self.clone(), self.inner.drafts.request(method, url))
    }

    /// Sends a request. It may have been built at any time: it uses the certificates that are current now.
    ///
    /// # Errors
    /// As reqwest's `execute`.
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up, at any step: while a connection is made, while a look is waited for (the
    /// next one that needs it gets one), while it is sent again. The server may have seen it. It holds up no rotation, and
    /// no connection of an older generation takes it later.
    pub fn execute(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Response, reqwest::Error>> + Send + 'static {
        send::send(Arc::clone(&self.inner), Ok(request))
    }

    /// As [`Client::execute`], if it could be built.
    #[inline]
    pub(crate) fn send(
        self,
        request: Result<Request, reqwest::Error>,
    ) -> impl Future<Output = Result<Response, reqwest::Error>> + Send + 'static {
        send::send(self.inner, request)
    }

    /// The certificates that are in use now, each with its role. [`Certificate::inspection`] has the details.
    pub fn certificates(&self) -> Vec<(Role, Certificate)> {
        let generation = self.generation();
        generation.material().certificates().map(|(role, certificate)| (role, certificate.clone())).collect()
    }

    /// The end of validity that comes first: of the identity, or of a trust anchor when there is no identity.
    pub fn expires_at(&self) -> Option<SystemTime> {
        let generation = self.generation();
        let material = generation.material();
        material.identity_not_after().or_else(|| material.earliest_not_after())
    }

    /// The state at one glance.
    pub fn status(&self) -> Status {
        self.reloader().status()
    }

    /// The generation that requests use now. Never blocks; some nanoseconds.
    pub fn generation(&self) -> Arc<Generation> {
        Arc::clone(self.inner.derived.load().generation())
    }

    /// Reads the source now, whatever its detector says, and returns the generation that matches it.
    ///
    /// When it returns, every request uses that generation. What a connection of an older one has taken finishes;
    /// nothing more is given to it. (Not so with [`Retire::Lazy`](crate::Retire::Lazy).)
    ///
    /// So it waits, for 250 ms at the most, for a request that may not be repeated and that no connection has taken: it may
    /// be in the queue of an HTTP/2 connection. After that no connection takes it any more, and it moves to the new
    /// generation when the old connection lets go of it: one that is full does so when one of its streams ends. Longer
    /// `reload` waits only for the last redirect hop that is followed, if that has a body:
    /// until the head of its response is there, or it has failed. A timeout of the request or
    /// [`Builder::drain_deadline`](crate::Builder::drain_deadline) limits that.
    ///
    /// A request that no connection has taken leaves the old generation when its future is polled or dropped. So do not await
    /// `reload` in a task that holds a `send()` which it has polled and does not poll meanwhile, as in the body of a `select!`:
    /// the two would wait for each other. Spawn one of them.
    ///
    /// # Errors
    /// Why the source could not be followed. The last good generation stays in use.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the read goes on.
    pub async fn reload(&self) -> Result<Arc<Generation>, Error> {
        let generation = self.reloader().reload().await?;
        self.drained(&generation).await;
        Ok(generation)
    }

    /// Ends every overlap (see [`Builder::overlap`]), and reads the source now. When it returns `Ok`, nothing is trusted
    /// that the source does not hold, and every request uses that generation, as after [`Client::reload`].
    ///
    /// # Errors
    /// Why the source could not be followed. What overlapped is gone all the same, for requests that begin later. Two cases
    /// are excepted: see [`certsource_reload::Reloader::withdraw_now`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the withdrawal goes on.
    pub async fn withdraw_now(&self) -> Result<Arc<Generation>, Error> {
        let generation = self.reloader().withdraw_now().await?;
        self.drained(&generation).await;
        Ok(generation)
    }

    /// Waits until no request is left that an older generation's connection may still take.
    async fn drained(&self, generation: &Generation) {
        if self.inner.factory.retire == crate::Retire::Strict {
            self.inner.lanes.drain_before(generation.number()).await;
        }
    }

    /// The reloader that this client follows: for more values of the same source, to wait for generations, or to
    /// [`derive`](Reloader::derive) what reqwest is not for.
    pub fn reloader(&self) -> &Reloader {
        self.inner.derived.reloader()
    }

    /// The events from now on.
    pub fn subscribe(&self) -> Events {
        self.reloader().subscribe()
    }

    /// A plain [`reqwest::Client`] with the certificates of this moment: for code that wants that type.
    ///
    /// It keeps the options of this client and loses all that follows: it is never replaced, so withdrawn
    /// certificates stay in use, and an identity ends when it expires.
    ///
    /// # Errors
    /// When reqwest can not build it, or when no certificates may be used now ([`Stale`](crate::Stale)).
    pub fn snapshot(&self) -> Result<reqwest::Client, Error> {
        self.inner.factory.snapshot(self.inner.derived.get()?.generation())
    }

    /// One `rustls::ClientConfig` that reads the current generation at every handshake: for code that takes that type
    /// once and for all. What it keeps and loses: [`ClientTls::following`](certsource_rustls::ClientTls::following).
    ///
    /// It offers no ALPN; set its `alpn_protocols` to what the code speaks. It keeps the source followed, also after
    /// this client is gone.
    ///
    /// # Errors
    /// When rustls does not accept the current generation.
    pub fn following_config(&self) -> Result<rustls::ClientConfig, Error> {
        self.inner.factory.tls.following(self.reloader())
    }

    #[cfg(feature = "middleware")]
    pub(crate) fn drafts(&self) -> &reqwest::Client {
        &self.inner.drafts
    }

    /// A handle that does not keep the client alive: for hooks.
    pub fn downgrade(&self) -> WeakClient {
        WeakClient { inner: Arc::downgrade(&self.inner) }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("origin", self.reloader().origin())
            .field("generation", &self.generation().number())
            .finish_non_exhaustive()
    }
}

/// A handle that does not keep the client alive.
#[derive(Clone)]
pub struct WeakClient {
    inner: Weak<Inner>,
}

impl WeakClient {
    /// The client, if it is still in use.
    pub fn upgrade(&self) -> Option<Client> {
        self.inner.upgrade().map(|inner| Client { inner })
    }
}

impl fmt::Debug for WeakClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakClient")
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<Response, reqwest::Error>> + Send>>;

/// The same as [`Client::execute`]: each call uses the certificates that are current then.
///
/// # Cancel safety
/// Dropping the future of [`Service::call`] does what it does for [`Client::execute`]. A service is always ready, and
/// nothing is reserved by asking.
impl Service<Request> for Client {
    type Response = Response;
    type Error = reqwest::Error;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Sending {
        Box::pin(self.execute(request))
    }
}

/// As for [`Client`] itself, its cancel safety too.
impl Service<Request> for &Client {
    type Response = Response;
    type Error = reqwest::Error;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Sending {
        Box::pin(self.execute(request))
    }
}
