//! Errors of ours as `reqwest::Error`, and responses made over: reqwest lets nobody else construct either.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body::{Body as HttpBody, Frame};
use reqwest::{Body, Response, ResponseBuilderExt, Url};

type BoxError = Box<dyn StdError + Send + Sync>;

/// An error of ours as reqwest's ([`reqwest::Error::is_body`]), with the URL that it is about. Ours is its source.
pub(crate) fn failed(error: impl Into<BoxError>, url: Url) -> reqwest::Error {
    let mut body = Body::wrap(Failing(Some(error.into())));
    match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Err(error))) => error.with_url(url),
        _ => unreachable!("a body that fails at once fails at once"),
    }
}

/// A body that is an error.
struct Failing(Option<BoxError>);

impl HttpBody for Failing {
    type Data = <Body as HttpBody>::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}

/// As `http::Response`, with the URL in its extensions: reqwest finds it there when it is made a `Response` again.
pub(crate) fn with_url(response: Response) -> http::Response<Body> {
    let url = response.url().clone();
    let mut response = http::Response::<Body>::from(response);
    if let Ok(bare) = http::Response::builder().url(url).body(()) {
        response.extensions_mut().extend(bare.into_parts().0.extensions);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::Superseded;

    #[test]
    fn the_source_is_ours_and_the_url_is_there() {
        let url = Url::parse("https://a.example/x").unwrap();
        let error = failed(Superseded, url.clone());
        assert!(error.is_body() && !error.is_connect() && !error.is_timeout());
        assert_eq!(error.url(), Some(&url));
        assert!(error.source().unwrap().is::<Superseded>());
    }

    #[test]
    fn a_response_keeps_its_url() {
        let url = Url::parse("https://a.example/x").unwrap();
        let first = http::Response::builder().url(url.clone()).status(204).body("").unwrap();
        let again = Response::from(with_url(Response::from(first)));
        assert_eq!((again.url(), again.status().as_u16()), (&url, 204));
    }
}
