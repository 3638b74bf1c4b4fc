//! [`Guard`]: no request of a client that is not let in any more reaches the application.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// `Server::builder().layer(GuardLayer::new())`.
///
/// axum's `layer` is around the routes that are there when it is called: call it after the last of them, or those that come
/// later have no guard.
///
/// A request without a [`Peer`] is answered with `500 Internal Server Error`, and the first one of a layer is told of by
/// `tracing`: where the connect info was forgotten, nobody could be refused. An application that another listener serves too
/// says so by [`GuardLayer::let_others_pass`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    others: Others,
}

/// What becomes of requests that have no [`Peer`].
#[derive(Clone, Debug)]
enum Others {
    /// They are refused. Set once that was told.
    Refused(Arc<AtomicBool>),
    Pass,
}

impl Default for Others {
    fn default() -> Self {
        Self::Refused(Arc::default())
    }
}

impl Others {
    fn are_refused(&self) -> bool {
        let Self::Refused(is_told) = self else { return false };
        if !is_told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "a request is refused, because nothing says who sent it: axum needs \
                 `into_make_service_with_connect_info::<Peer>()`; see `GuardLayer::let_others_pass` for other listeners"
            );
        }
        true
    }
}

impl<S> Guard<S> {
    /// Around this application.
    pub fn new(inner: S) -> Self {
        Self { inner, others: Others::default() }
    }
}

/// Makes a [`Guard`].
#[derive(Clone, Debug, Default)]
pub struct GuardLayer {
    others: Others,
}

impl GuardLayer {
    /// The layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves requests that have no [`Peer`]: for an application that another listener serves too. **Who forgets the connect
    /// info then has no guard at all.**
    #[must_use]
    pub fn let_others_pass(mut self) -> Self {
        self.others = Others::Pass;
        self
    }
}

impl<S> tower_layer::Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, others: self.others.clone() }
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
        let refusal = match &peer {
            Some(peer) if peer.standing() == Standing::Withdrawn => Some(StatusCode::FORBIDDEN),
            None if self.others.are_refused() => Some(StatusCode::INTERNAL_SERVER_ERROR),
            _ => None,
        };
        let answer = match refusal {
            Some(status) => Answer::Refusal { status },
            None => Answer::Served { response: self.inner.call(request) },
        };
        Guarding { answer, peer, is_http1 }
    }
}

pin_project! {
    /// The response of a [`Guard`].
    pub struct Guarding<F> {
        #[pin]
        answer: Answer<F>,
        peer: Option<Peer>,
        is_http1: bool,
    }
}

pin_project! {
    #[project = AnswerProjection]
    enum Answer<F> {
        Served { #[pin] response: F },
        Refusal { status: StatusCode },
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
        let mut response = match this.answer.project() {
            AnswerProjection::Refusal { status } => {
                let mut response = Response::new(B::default());
                *response.status_mut() = *status;
                response
            }
            AnswerProjection::Served { response } => std::task::ready!(response.poll(context))?,
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
