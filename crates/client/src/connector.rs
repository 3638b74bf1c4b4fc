//! The connector layer that ends a connect when its generation is replaced, and the mark by which that is known.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
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
/// is woken too: an old connection that becomes idle later does not get the request.
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
        Bounced { inner, retired: self.retired.clone(), made: Arc::clone(&self.made) }
    }
}

/// A connector with [`Bounce`] around it.
#[derive(Clone, Debug)]
pub(crate) struct Bounced<S> {
    inner: S,
    retired: Retired,
    made: Arc<Made>,
}

impl<S, R> Service<R> for Bounced<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connect = self.inner.call(request);
        let retired = self.retired.replaced();
        let made = Arc::clone(&self.made);
        Box::pin(async move {
            let mut retired = std::pin::pin!(retired);
            let mut connect = std::pin::pin!(connect);
            std::future::poll_fn(move |context| {
                // First, so that a connection that is ready at the same moment is not used.
                if retired.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(Superseded.into()));
                }
                let connected = connect.as_mut().poll(context);
                if matches!(connected, Poll::Ready(Ok(_))) {
                    made.one_more();
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
