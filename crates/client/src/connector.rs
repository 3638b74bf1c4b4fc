//! The connector layer that ends a connect when its generation is replaced, and the mark by which that is known. It is there
//! only beside `confirm_identity`, which needs a layer anyway: docs/decisions/0018.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use certsource_reload::Retired;
use tower_layer::Layer;
use tower_service::Service;

use crate::made::Made;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A newer generation was published while a connection was being made: the connect failed for that reason only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("newer certificates were published while the connection was being made")
    }
}

impl StdError for Superseded {}

/// Races each connect against the retirement of its generation.
///
/// It is the outermost layer but for `connect_timeout`. Every waiter of the old pool hangs on such a connect, so it
/// is woken too: an old connection that becomes idle later does not get the request. Without a layer, requests leave by
/// themselves ([`crate::handshakes`]); here the time in which the server confirms our certificate is part of the connect.
#[derive(Clone, Debug)]
pub(crate) struct Bounce {
    retired: Retired,
    made: Arc<Made>,
}

impl Bounce {
    pub(crate) fn new(retired: Retired) -> Self {
        let made = Arc::new(Made::new(retired.clone()));
        Self { retired, made }
    }
}

impl<S> Layer<S> for Bounce {
    type Service = Bounced<S>;

    fn layer(&self, inner: S) -> Bounced<S> {
        let (retired, made) = (self.retired.clone(), Arc::clone(&self.made));
        Bounced(Arc::new(Shared { inner, retired, made }))
    }
}

/// A connector with [`Bounce`] around it.
///
/// reqwest and hyper-util clone their connector six times for each request, and only seldom connect. What is inside
/// costs two allocations each time, so a clone of this one shares it.
#[derive(Debug)]
pub(crate) struct Bounced<S>(Arc<Shared<S>>);

#[derive(Debug)]
struct Shared<S> {
    inner: S,
    retired: Retired,
    made: Arc<Made>,
}

impl<S> Clone for Bounced<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, R> Service<R> for Bounced<S>
where
    S: Service<R, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    /// The inner connector is asked in [`call`](Self::call): there is a copy of it for each connect.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let shared = Arc::clone(&self.0);
        let mut inner = shared.inner.clone();
        Box::pin(async move {
            let connect = async {
                poll_fn(|context| inner.poll_ready(context)).await?;
                inner.call(request).await
            };
            let mut retired = pin!(shared.retired.replaced());
            let mut connect = pin!(connect);
            poll_fn(|context| {
                // First, so that a connection that is ready at the same moment is not used.
                if retired.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(Superseded.into()));
                }
                let connected = connect.as_mut().poll(context);
                if matches!(connected, Poll::Ready(Ok(_))) {
                    shared.made.one_more();
                }
                connected
            })
            .await
        })
    }
}

/// Refuses every connect: for a client that only drafts requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nowhere;

impl<S> Layer<S> for Nowhere {
    type Service = Refusing<S>;

    fn layer(&self, inner: S) -> Refusing<S> {
        Refusing(inner)
    }
}

/// A connector with [`Nowhere`] around it.
#[derive(Clone, Debug)]
pub(crate) struct Refusing<S>(S);

impl<S, R> Service<R> for Refusing<S>
where
    S: Service<R, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = std::future::Ready<Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, _: R) -> Self::Future {
        std::future::ready(Err(
            "this request was drafted by certsource's client; send it by that client".into()
        ))
    }
}
