//! Redirects, hop by hop: each hop is an attempt of its own, on the generation that is served then.
//!
//! The rules are those of reqwest 0.13 (which are tower-http's), with one difference: a header that was taken off
//! because a hop led to another origin stays off.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, LOCATION,
    PROXY_AUTHORIZATION, REFERER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode, Uri};
use reqwest::Url;
use reqwest::redirect::Policy;

/// How redirects are followed.
///
/// # Defaults
/// At most ten, as in reqwest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirects {
    limit: Option<usize>,
}

impl Redirects {
    /// Follows at most so many; one more is an error ([`reqwest::Error::is_redirect`]).
    #[must_use]
    pub const fn limited(most: usize) -> Self {
        Self { limit: Some(most) }
    }

    /// Follows none: the response of the redirect is returned.
    #[must_use]
    pub const fn none() -> Self {
        Self { limit: None }
    }

    /// At most so many; `None` when none is followed.
    pub(crate) fn limit(self) -> Option<usize> {
        self.limit
    }

    pub(crate) fn are_followed(self) -> bool {
        self.limit.is_some()
    }

    /// Whether a redirect after so many hops is one too many.
    pub(crate) fn ends_after(self, hops: usize) -> bool {
        self.limit.is_some_and(|most| hops >= most)
    }
}

impl Default for Redirects {
    fn default() -> Self {
        Self::limited(10)
    }
}

/// Where a response sends us.
#[derive(Debug, PartialEq)]
pub(crate) struct Hop {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Whether the body goes along.
    pub(crate) keeps_body: bool,
}

/// The hop that a response asks for; `None` when it is no redirect, or one without a usable `Location`.
pub(crate) fn hop(method: &Method, url: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Hop> {
    let (method, keeps_body) = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND if *method == Method::POST => (Method::GET, false),
        StatusCode::SEE_OTHER if *method == Method::HEAD => (Method::HEAD, false),
        StatusCode::SEE_OTHER => (Method::GET, false),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => (method.clone(), true),
        _ => return None,
    };
    let location = std::str::from_utf8(headers.get(LOCATION)?.as_bytes()).ok()?;
    let mut url = url.join(location).ok()?;
    url.set_fragment(None);
    // What has no form on the wire can not be followed.
    url.as_str().parse::<Uri>().ok()?;
    Some(Hop { method, url, keeps_body })
}

/// Changes the headers of a request for a hop. `headers` never hold a `Referer` of ours: see [`referer`].
pub(crate) fn adapt(headers: &mut HeaderMap, from: &Url, hop: &Hop) {
    if !hop.keeps_body {
        for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING] {
            headers.remove(name);
        }
    }
    let is_other_origin = hop.url.host_str() != from.host_str()
        || hop.url.port_or_known_default() != from.port_or_known_default()
        || hop.url.scheme() != from.scheme();
    if is_other_origin {
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE] {
            headers.remove(name);
        }
        headers.remove("cookie2");
    }
}

/// The `Referer` (RFC 9110, section 10.1.3) for a hop; none from https to http.
pub(crate) fn referer(from: &Url, to: &Url) -> Option<HeaderValue> {
    if from.scheme() == "https" && to.scheme() == "http" {
        return None;
    }
    let mut from = from.clone();
    // Fails for URLs that can have no name, and those have none.
    let _ = from.set_username("");
    let _ = from.set_password(None);
    from.set_fragment(None);
    HeaderValue::from_str(from.as_str()).ok()
}

/// Sets `Referer` for a hop on the headers of one attempt.
pub(crate) fn set_referer(headers: &mut HeaderMap, from: &Url, to: &Url) {
    if let Some(value) = referer(from, to) {
        headers.insert(REFERER, value);
    }
}

thread_local! {
    /// Whether the attempt that is polled on this thread may not be redirected any more.
    static IS_LAST: Cell<bool> = const { Cell::new(false) };
}

/// The policy of the client of each generation: it follows nothing by itself. On the last attempt it makes the error
/// that users know, which only reqwest can make.
pub(crate) fn policy() -> Policy {
    Policy::custom(
        |attempt| {
            if IS_LAST.get() { Policy::limited(0).redirect(attempt) } else { attempt.stop() }
        },
    )
}

/// An attempt, with [`policy`] told whether it is the last one. reqwest asks its policy while it is polled.
pub(crate) struct Attempt<F> {
    future: F,
    is_last: bool,
}

impl<F> Attempt<F> {
    pub(crate) fn new(future: F, is_last: bool) -> Self {
        Self { future, is_last }
    }
}

impl<F: Future + Unpin> Future for Attempt<F> {
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        /// Puts back what was there, also after a panic.
        struct Restore(bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                IS_LAST.set(self.0);
            }
        }
        // Mostly it is told already.
        let _restore = (self.is_last != IS_LAST.get()).then(|| Restore(IS_LAST.replace(self.is_last)));
        Pin::new(&mut self.future).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn location(to: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(to))])
    }

    /// RFC 9110, section 15.4, as browsers and reqwest read it.
    #[test]
    fn methods_and_bodies() {
        let all = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
        for method in &all {
            for status in [301, 302, 303, 307, 308] {
                let status = StatusCode::from_u16(status).unwrap();
                let hop = hop(method, &url("https://a.example/x"), status, &location("/y")).unwrap();
                let expected = match (status.as_u16(), method) {
                    (301 | 302, &Method::POST) => (&Method::GET, false),
                    (303, &Method::HEAD) => (&Method::HEAD, false),
                    (303, _) => (&Method::GET, false),
                    (_, method) => (method, true),
                };
                assert_eq!((&hop.method, hop.keeps_body), expected, "{status} {method}");
                assert_eq!(hop.url.as_str(), "https://a.example/y");
            }
        }
    }

    #[test]
    fn what_is_no_redirect() {
        let from = url("https://a.example/");
        for status in [200, 300, 304, 305, 400] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(hop(&Method::GET, &from, status, &location("/y")), None, "{status}");
        }
        assert_eq!(hop(&Method::GET, &from, StatusCode::FOUND, &HeaderMap::new()), None);
        assert_eq!(hop(&Method::GET, &from, StatusCode::FOUND, &location("https://[")), None);
    }

    #[test]
    fn a_fragment_does_not_go_on() {
        let hop = hop(&Method::GET, &url("https://a.example/x#f"), StatusCode::FOUND, &location("y?q=1#g"))
            .unwrap();
        assert_eq!(hop.url.as_str(), "https://a.example/y?q=1");
    }

    #[test]
    fn sensitive_headers_stay_within_their_origin() {
        let from = url("https://a.example/x");
        for (to, stay) in [
            ("https://a.example:443/y", true),
            ("https://a.example:444/y", false),
            ("http://a.example/y", false),
            ("https://b.example/y", false),
        ] {
            let mut headers = HeaderMap::new();
            for name in
                ["authorization", "cookie", "cookie2", "proxy-authorization", "www-authenticate", "accept"]
            {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            adapt(&mut headers, &from, &Hop { method: Method::GET, url: url(to), keeps_body: true });
            assert_eq!(headers.len(), if stay { 6 } else { 1 }, "{to}");
            assert!(headers.contains_key("accept"));
        }
    }

    #[test]
    fn headers_of_a_body_go_with_it() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let to = url("https://a.example/y");
        adapt(&mut headers, &to, &Hop { method: Method::GET, url: to.clone(), keeps_body: true });
        assert!(headers.contains_key(CONTENT_TYPE));
        adapt(&mut headers, &to, &Hop { method: Method::GET, url: to.clone(), keeps_body: false });
        assert!(headers.is_empty());
    }

    #[test]
    fn a_referer_holds_no_secret_and_does_not_leave_tls() {
        let from = url("https://name:secret@a.example/x?q=1#f");
        assert_eq!(referer(&from, &url("https://b.example/")).unwrap(), "https://a.example/x?q=1");
        assert_eq!(referer(&from, &url("http://b.example/")), None);
        assert_eq!(
            referer(&url("http://a.example/"), &url("https://b.example/")).unwrap(),
            "http://a.example/"
        );
    }
}
