//! [`Proxy`]: a proxy whose scheme is known, so that the identity is not handed to it by accident.

use std::fmt;

use certsource::{Error, Reason};
use reqwest::Url;

/// A proxy for some or all requests.
///
/// An `https://` proxy is spoken to by TLS with the same settings as servers are. It would be shown the client
/// certificate if it asked for one, so [`Builder::identity_to_proxy`](crate::Builder::identity_to_proxy) must allow
/// that first.
#[derive(Clone)]
pub struct Proxy {
    inner: reqwest::Proxy,
    is_tls: bool,
}

impl Proxy {
    /// A proxy for all requests.
    ///
    /// # Errors
    /// When `url` is not the URL of a proxy.
    pub fn all(url: &str) -> Result<Self, Error> {
        Self::new(reqwest::Proxy::all(url), url)
    }

    /// A proxy for `http://` requests.
    ///
    /// # Errors
    /// When `url` is not the URL of a proxy.
    pub fn http(url: &str) -> Result<Self, Error> {
        Self::new(reqwest::Proxy::http(url), url)
    }

    /// A proxy for `https://` requests.
    ///
    /// # Errors
    /// When `url` is not the URL of a proxy.
    pub fn https(url: &str) -> Result<Self, Error> {
        Self::new(reqwest::Proxy::https(url), url)
    }

    /// Signs in at the proxy with this name and password.
    #[must_use]
    pub fn basic_auth(mut self, name: &str, password: &str) -> Self {
        self.inner = self.inner.basic_auth(name, password);
        self
    }

    /// Not for these hosts: a list as in `NO_PROXY`, divided by commas.
    #[must_use]
    pub fn except(mut self, hosts: &str) -> Self {
        self.inner = self.inner.no_proxy(reqwest::NoProxy::from_string(hosts));
        self
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(crate) fn to_reqwest(&self) -> reqwest::Proxy {
        self.inner.clone()
    }

    fn new(proxy: reqwest::Result<reqwest::Proxy>, url: &str) -> Result<Self, Error> {
        match proxy {
            Ok(inner) => Ok(Self { inner, is_tls: is_tls(url) }),
            // Not the URL itself: it may hold a password.
            Err(error) => {
                Err(Error::new(Reason::Unsupported, "this is not the URL of a proxy").caused_by(error))
            }
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Proxy").field("is_tls", &self.is_tls).finish_non_exhaustive()
    }
}

fn is_tls(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == "https")
}

/// The environment variable that names an `https://` proxy, if one does. reqwest reads these by itself.
pub(crate) fn tls_proxy_in_environment() -> Option<&'static str> {
    const NAMES: [&str; 6] =
        ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
    NAMES.into_iter().find(|name| std::env::var(name).is_ok_and(|url| is_tls(url.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_known() {
        assert!(Proxy::all("https://proxy.example:8443").unwrap().is_tls());
        assert!(Proxy::https("HTTPS://proxy.example").unwrap().is_tls());
        assert!(!Proxy::all("http://proxy.example:3128").unwrap().is_tls());
        assert!(!Proxy::all("proxy.example:3128").unwrap().is_tls());
    }

    #[test]
    fn a_password_is_not_shown() {
        let proxy = Proxy::all("http://name:secret@proxy.example").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
        let error = Proxy::all("http://name:secret@[").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}
