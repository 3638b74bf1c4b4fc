//! [`Guard`]: no request of a client that is not let in any more reaches the application.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::peer::{Peer, Standing};

/// Around an application: looks at the [`Peer`] of each request.
///
/// * [`Standing::Withdrawn`]: the request is answered with `403 Forbidden`, and the application does not see it.
/// * [`Standing::Old`]: it is served, and on HTTP/1 that is the last request of the connection.
///
/// [`serve`](super::serve) does this by itself. It is for `axum::serve`, with
/// `app.layer(GuardLayer::new()).into_make_service_with_connect_info::<Peer>()`, and for tonic's server, with
/// `Server::builder().layer(GuardLayer::new())`. A request without a [`Peer`] is served: it came by another listener.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
}

impl<S> Guard<S> {
    /// Around this application.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

/// Makes a [`Guard`].
#[derive(Clone, Copy, Debug, Default)]
pub struct GuardLayer;

impl GuardLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> tower_layer::Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard::new(inner)
    }
}

fn peer<B>(request: &Request<B>) -> Option<Peer> {
    let extensions = request.extensions();
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(peer)) = extensions.get::<axum::extract::ConnectInfo<Peer>>() {
        return Some(peer.clone());
    }
    extensions.get::<Peer>().cloned()
}

impl<S, A, B> Service<Request<A>> for Guard<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Guarding<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let peer = peer(&request);
        let is_http1 = request.version() < Version::HTTP_2;
        if peer.as_ref().is_some_and(|peer| peer.standing() == Standing::Withdrawn) {
            return Guarding { response: None, peer, is_http1 };
        }
        Guarding { response: Some(self.inner.call(request)), peer, is_http1 }
    }
}

pin_project! {
    /// The response of a [`Guard`].
    pub struct Guarding<F> {
        // None: the client is not let in any more.
        #[pin]
        response: Option<F>,
        peer: Option<Peer>,
        is_http1: bool,
    }
}

impl<F, B, E> Future for Guarding<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = match this.response.as_pin_mut() {
            None => {
                let mut response = Response::new(B::default());
                *response.status_mut() = StatusCode::FORBIDDEN;
                response
            }
            Some(response) => std::task::ready!(response.poll(context))?,
        };
        // Now, not when the request came: the generation may have been replaced meanwhile.
        let is_last =
            *this.is_http1 && this.peer.as_ref().is_some_and(|peer| peer.standing() != Standing::Current);
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for Guarding<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarding")
    }
}
