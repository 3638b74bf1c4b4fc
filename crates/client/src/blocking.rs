//! The client for code without a runtime (feature `blocking`).
//!
//! ```no_run
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = certsource_client::Client::builder()
//!     .root_certificate("/etc/tls/ca.pem")
//!     .identity("/etc/tls/tls.crt", "/etc/tls/tls.key")
//!     .blocking()?;
//! let text = client.get("https://localhost:8443/").send()?.text()?;
//! # drop(text);
//! # Ok(())
//! # }
//! ```
//!
//! Each client has one thread of its own, whatever becomes of its generations: connections live there. It ends when the
//! last handle and the last response are gone. Nothing waits for it, so handles and responses can be dropped anywhere,
//! also in async code.
//!
//! What waits must not be called in async code: it would block a thread that other tasks need. There it returns an error
//! that says so ([`BlockedInAsync`] is among its sources). Within `spawn_blocking` and `block_in_place` it is fine. Only
//! tokio's tasks can be told; in those of other executors it blocks.
//!
//! What is not here: what a request goes through ([`crate::Client`] does that).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use certsource::{Certificate, Error, Reason, Role};
use certsource_reload::{Events, Generation, Reloader, Status};
use http::Method;
use reqwest::{IntoUrl, Request};

use crate::builder::Builder;

mod body;
mod context;
mod request;
mod runtime;

pub use self::body::Body;
pub use self::context::BlockedInAsync;
pub use self::request::RequestBuilder;
pub use reqwest::blocking::Response;

use self::runtime::Runtime;

impl Builder {
    /// Loads everything and builds a [`blocking::Client`](Client): blocks this thread until the first load.
    ///
    /// # Errors
    /// Why the first load failed, what the options contradict, or that this is async code.
    #[cfg_attr(docsrs, doc(cfg(feature = "blocking")))]
    pub fn blocking(self) -> Result<Client, Error> {
        context::check().map_err(|error| Error::new(Reason::Unsupported, error.to_string()))?;
        let runtime = Runtime::start()?;
        Ok(Client { inner: self.build_blocking()?, runtime })
    }
}

/// An HTTP client that follows certificate rotation, for code without a runtime.
///
/// Cheap to clone; clones share everything, and all of them follow. See the [module](self) for where it may be used.
#[derive(Clone)]
pub struct Client {
    inner: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Begins to build a client: end with [`Builder::blocking`].
    pub fn builder() -> Builder {
        Builder::new()
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
        RequestBuilder::new(self.clone(), self.inner.request(method, url))
    }

    /// Sends a request, and waits for the head of its response. It may have been built at any time: it uses the
    /// certificates that are current now.
    ///
    /// # Errors
    /// As reqwest's `execute`, and that this is async code.
    pub fn execute(&self, request: Request) -> Result<Response, reqwest::Error> {
        self.runtime.send(&self.inner, request, None)
    }

    /// Reads the source now, and returns the generation that matches it: see [`crate::Client::reload`].
    ///
    /// # Errors
    /// Why the source could not be followed, or that this is async code. The last good generation stays in use.
    pub fn reload(&self) -> Result<Arc<Generation>, Error> {
        context::check().map_err(|error| Error::new(Reason::Unsupported, error.to_string()))?;
        let client = self.inner.clone();
        let reloaded = self.runtime.wait(async move { client.reload().await });
        reloaded.unwrap_or_else(|| Err(Error::new(Reason::Io, "the client's thread is gone")))
    }

    /// Ends every overlap, and reads the source now: see [`crate::Client::withdraw_now`].
    ///
    /// # Errors
    /// Why the source could not be followed, or that this is async code.
    pub fn withdraw_now(&self) -> Result<Arc<Generation>, Error> {
        context::check().map_err(|error| Error::new(Reason::Unsupported, error.to_string()))?;
        let client = self.inner.clone();
        let withdrawn = self.runtime.wait(async move { client.withdraw_now().await });
        withdrawn.unwrap_or_else(|| Err(Error::new(Reason::Io, "the client's thread is gone")))
    }

    /// See [`crate::Client::certificates`].
    pub fn certificates(&self) -> Vec<(Role, Certificate)> {
        self.inner.certificates()
    }

    /// See [`crate::Client::expires_at`].
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at()
    }

    /// The state at one glance.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The generation that requests use now. Never blocks.
    pub fn generation(&self) -> Arc<Generation> {
        self.inner.generation()
    }

    /// The reloader that this client follows.
    pub fn reloader(&self) -> &Reloader {
        self.inner.reloader()
    }

    /// The events from now on; [`Events::try_next`] does not wait.
    pub fn subscribe(&self) -> Events {
        self.inner.subscribe()
    }

    /// A handle that does not keep the client followed: for hooks. It gives the async client.
    pub fn downgrade(&self) -> crate::WeakClient {
        self.inner.downgrade()
    }

    fn send(&self, request: Request, body: Option<body::Reading>) -> Result<Response, reqwest::Error> {
        self.runtime.send(&self.inner, request, body)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::Client").field(&self.inner).finish()
    }
}
