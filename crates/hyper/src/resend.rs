//! [`Resend`]: sends again what no server has looked at.
//!
//! A server that ends an HTTP/2 connection says so while requests may be on their way to it. hyper then gives up those that
//! it has not sent, and the server refuses those that came too late. Both are known to be unread, so any method may be sent
//! again (RFC 9113, section 8.7).

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tower_service::Service;

use crate::stream::Unsent;

/// As often one request is sent again. A server that rotates ends connections at each step of it, and one waiting request
/// can meet several.
const TIMES: u32 = 16;

/// Around a service that sends requests: one that the server has not looked at is sent again, up to 16 times. Whatever else
/// goes wrong is returned.
///
/// A server that rotates tells its clients to go elsewhere. hyper-util's client sends most of the requests again that
/// this meets, and tonic's channel none. Stand it above [`Follow`](crate::Follow): then what is sent again goes to the
/// generation that is current then.
///
/// # Known problems
/// hyper 1.12 loses a request that is handed to an HTTP/2 connection at the very moment at which that connection's task ends
/// on another thread: it is neither sent nor given up, and waits as long as its future is kept. It was seen about once in
/// 50,000 requests, with a server that rotated every 10 ms. A timeout around the call is the remedy.
///
/// # Examples
/// ```no_run
/// use certsource_hyper::{Follow, Resend};
/// use tonic::transport::Channel;
///
/// # fn resend(channel: Follow<Channel>) -> Resend<Follow<Channel>> {
/// let channel = Resend::new(channel);
/// // GreeterClient::new(channel.clone())
/// # channel
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Resend<S> {
    inner: S,
}

impl<S> Resend<S> {
    /// Around this service.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The service.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

/// A request body of which there can be another, as long as no server has read it.
pub trait Resendable: Sized {
    /// What the other one is made of.
    type Spare: Send + 'static;

    /// The body to send, and what is kept.
    fn spare(self) -> (Self, Self::Spare);

    /// Another body. `None` when too much of it was sent already to be kept.
    fn again(spare: &Self::Spare) -> Option<Self>;
}

impl Resendable for Empty<Bytes> {
    type Spare = ();

    fn spare(self) -> (Self, ()) {
        (self, ())
    }

    fn again((): &()) -> Option<Self> {
        Some(Self::new())
    }
}

impl Resendable for Full<Bytes> {
    type Spare = Self;

    fn spare(self) -> (Self, Self) {
        (self.clone(), self)
    }

    fn again(spare: &Self) -> Option<Self> {
        Some(spare.clone())
    }
}

#[cfg(any(feature = "axum", feature = "tonic"))]
macro_rules! resendable {
    ($feature:literal: $body:ty) => {
        #[cfg(feature = $feature)]
        #[cfg_attr(docsrs, doc(cfg(feature = $feature)))]
        impl Resendable for $body {
            type Spare = std::sync::Arc<crate::replay::Kept<Self>>;

            fn spare(self) -> (Self, Self::Spare) {
                let kept = crate::replay::Kept::new(self);
                (Self::new(kept.replay()), kept)
            }

            fn again(spare: &Self::Spare) -> Option<Self> {
                spare.is_whole().then(|| Self::new(spare.replay()))
            }
        }
    };
}

#[cfg(any(feature = "axum", feature = "tonic"))]
resendable!("axum": axum::body::Body);
#[cfg(any(feature = "axum", feature = "tonic"))]
resendable!("tonic": tonic::body::Body);

type Sending<S, R> = Pin<Box<dyn Future<Output = Result<Response<R>, S>> + Send>>;

impl<S, B, R> Service<Request<B>> for Resend<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: StdError + 'static,
    S::Future: Send,
    B: Resendable + Send + 'static,
    B::Spare: Sync,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Sending<S::Error, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes along.
        let other = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, other);
        let (head, body) = request.into_parts();
        let (body, spare) = body.spare();
        let mut response = service.call(Request::from_parts(head.clone(), body));
        Box::pin(async move {
            for _ in 0..TIMES {
                let body = match response.await {
                    Err(error) if is_unread(&error) => match B::again(&spare) {
                        Some(body) => body,
                        None => return Err(error),
                    },
                    done => return done,
                };
                poll_fn(|context| service.poll_ready(context)).await?;
                response = service.call(Request::from_parts(head.clone(), body));
            }
            response.await
        })
    }
}

/// Whether an error says that no server has looked at the request.
fn is_unread(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    // No chain of errors is that long; one that is a ring would be.
    for _ in 0..64 {
        let Some(error) = next else { return false };
        // hyper says "canceled" of requests that it has not sent, and of no others.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if io.is_some_and(|io| io.is::<Unsent>()) {
            return true;
        }
        if let Some(said) = error.downcast_ref::<h2::Error>() {
            let reason = said.reason();
            return said.is_remote()
                && ((said.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                    || (said.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)));
        }
        next = error.source();
    }
    false
}
