//! [`RequestBuilder`]: reqwest's, with a `send` that uses the certificates of the moment it is called.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Request, Response};

use crate::client::Client;

/// A request that is being put together.
///
/// It belongs to no generation: it can wait for days before it is sent.
#[must_use = "nothing is sent before `send`"]
pub struct RequestBuilder {
    client: Client,
    inner: reqwest::RequestBuilder,
}

impl RequestBuilder {
    #[inline]
    pub(crate) fn new(client: Client, inner: reqwest::RequestBuilder) -> Self {
        Self { client, inner }
    }

    /// Adds a header.
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K>,
        <HeaderName as TryFrom<K>>::Error: Into<http::Error>,
        HeaderValue: TryFrom<V>,
        <HeaderValue as TryFrom<V>>::Error: Into<http::Error>,
    {
        self.with(|inner| inner.header(name, value))
    }

    /// Sets these headers; others stay.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.with(|inner| inner.headers(headers))
    }

    /// Signs in with a token (RFC 6750).
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.with(|inner| inner.bearer_auth(token))
    }

    /// Signs in with a name and a password (RFC 7617).
    pub fn basic_auth(self, name: impl fmt::Display, password: Option<impl fmt::Display>) -> Self {
        self.with(|inner| inner.basic_auth(name, password))
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|inner| inner.body(body))
    }

    /// Adds to the query of the URL.
    #[cfg(feature = "query")]
    #[cfg_attr(docsrs, doc(cfg(feature = "query")))]
    pub fn query(self, query: &(impl serde::Serialize + ?Sized)) -> Self {
        self.with(|inner| inner.query(query))
    }

    /// Sets a form as the body.
    #[cfg(feature = "form")]
    #[cfg_attr(docsrs, doc(cfg(feature = "form")))]
    pub fn form(self, form: &(impl serde::Serialize + ?Sized)) -> Self {
        self.with(|inner| inner.form(form))
    }

    /// Sets JSON as the body.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json(self, json: &(impl serde::Serialize + ?Sized)) -> Self {
        self.with(|inner| inner.json(json))
    }

    /// A timeout from the start of the request to the end of its response, over all attempts and redirects. It takes
    /// the place of [`Builder::timeout`](crate::Builder::timeout).
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|inner| inner.timeout(timeout))
    }

    /// Sets the version of HTTP.
    pub fn version(self, version: http::Version) -> Self {
        self.with(|inner| inner.version(version))
    }

    /// Does the rest: anything that reqwest's builder can do. Do not send in there.
    pub fn with(self, change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Self {
        Self { client: self.client, inner: change(self.inner) }
    }

    /// The request, for [`Client::execute`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn build(self) -> Result<Request, reqwest::Error> {
        self.inner.build()
    }

    /// Sends the request with the certificates that are current now.
    ///
    /// # Errors
    /// As reqwest's `send`.
    ///
    /// # Cancel safety
    /// As [`Client::execute`].
    pub fn send(self) -> impl Future<Output = Result<Response, reqwest::Error>> + Send + 'static {
        self.client.send(self.inner.build())
    }

    /// A copy; `None` when the body is a stream.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        Some(Self { client: self.client.clone(), inner: self.inner.try_clone()? })
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBuilder").field(&self.inner).finish()
    }
}
