//! The drain deadline: what still runs on a replaced generation is cut when it has passed. Off by default: then
//! nothing is ever cut.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use certsource_reload::Retired;
use http_body::{Body as HttpBody, Frame, SizeHint};
use reqwest::{Body, Response};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::failure::with_url;
use crate::flow::Flow;

/// A response was cut, because its certificates were replaced and the
/// [`Builder::drain_deadline`](crate::Builder::drain_deadline) has passed since.
///
/// It is among the sources of the [`reqwest::Error`]. The server may have seen the request, and done what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainDeadlinePassed {
    /// The generation that the response was on.
    pub generation: u64,
    /// How long it was let run after that generation was replaced.
    pub deadline: Duration,
}

impl fmt::Display for DrainDeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cut on purpose: the certificates of generation {} were replaced {:?} ago, and that is the drain deadline",
            self.generation, self.deadline
        )
    }
}

impl StdError for DrainDeadlinePassed {}

/// The drain deadline of one generation.
pub(crate) struct Drain {
    generation: u64,
    deadline: Duration,
    retired: Retired,
    /// When the retirement was first noticed. Whatever runs waits for it, so that is at once.
    since: OnceLock<Instant>,
}

impl Drain {
    pub(crate) fn new(generation: u64, deadline: Duration, retired: Retired) -> Arc<Self> {
        Arc::new(Self { generation, deadline, retired, since: OnceLock::new() })
    }

    pub(crate) fn error(&self) -> DrainDeadlinePassed {
        DrainDeadlinePassed { generation: self.generation, deadline: self.deadline }
    }

    /// So long after the retirement, and no longer than `most`, a request that no connection has taken may wait where it is.
    pub(crate) fn patience(&self, most: Duration) -> Duration {
        most.min(self.deadline / 2)
    }

    /// Resolves when the deadline has passed: never, when the generation stays.
    pub(crate) fn passed(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let this = Arc::clone(self);
        async move {
            this.retired.replaced().await;
            let since = *this.since.get_or_init(Instant::now);
            // One that is too far away to be counted never comes.
            match since.checked_add(this.deadline) {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        }
    }

    /// The response with a body that ends in an error at the deadline, whether it is being read or not.
    pub(crate) fn watch(self: &Arc<Self>, response: Response) -> Response {
        let (parts, body) = with_url(response).into_parts();
        let flow = Arc::new(Flow::new(body));
        let weak = Arc::downgrade(&flow);
        let passed = self.passed();
        let watch = tokio::spawn(async move {
            passed.await;
            if let Some(flow) = weak.upgrade() {
                flow.cut();
            }
        });
        let body = Watched { flow, drain: Arc::clone(self), watch: watch.abort_handle(), is_over: false };
        http::Response::from_parts(parts, Body::wrap(body)).into()
    }
}

/// A body that can be cut from outside.
struct Watched {
    flow: Arc<Flow<Body>>,
    drain: Arc<Drain>,
    watch: AbortHandle,
    is_over: bool,
}

impl HttpBody for Watched {
    type Data = <Body as HttpBody>::Data;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = match self.flow.poll(context, |body, context| Pin::new(body).poll_frame(context)) {
            None => Poll::Ready(Some(Err(self.drain.error().into()))),
            Some(polled) => polled.map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.is_over = true;
            self.watch.abort();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.flow.ask(HttpBody::is_end_stream).unwrap_or(false)
    }

    fn size_hint(&self) -> SizeHint {
        self.flow.ask(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// An attempt that ends when the deadline of its generation has passed: then with `None`, and given up.
pub(crate) struct Until<F> {
    attempt: Option<F>,
    passed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<F> Until<F> {
    #[inline]
    pub(crate) fn passed(attempt: F, drain: Option<&Arc<Drain>>) -> Self {
        let passed = drain.map(|drain| Box::pin(drain.passed()) as Pin<Box<dyn Future<Output = ()> + Send>>);
        Self { attempt: Some(attempt), passed }
    }
}

impl<F: Future + Unpin> Future for Until<F> {
    type Output = Option<F::Output>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(attempt) = &mut this.attempt else { return Poll::Ready(None) };
        if let Poll::Ready(output) = Pin::new(attempt).poll(context) {
            return Poll::Ready(Some(output));
        }
        let has_passed = this.passed.as_mut().is_some_and(|passed| passed.as_mut().poll(context).is_ready());
        if !has_passed {
            return Poll::Pending;
        }
        this.attempt = None;
        Poll::Ready(None)
    }
}
