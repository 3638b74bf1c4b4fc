//! [`Follow`]: a service that switches with the generation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use certsource_reload::{Derived, Reloader, Version};
use pin_project_lite::pin_project;
use tower_service::Service;

/// A service that is built anew for every generation: a tonic channel, a hyper client with its pool. Each call goes to the
/// one of the generation that is current when it is made.
///
/// Calls that were made before finish on the old one, open streams included; it is dropped when they have. So is its pool
/// of idle connections.
///
/// Stand it **below** redirects and retries: then each hop and each try is a call of its own, on the generation that is
/// current then. Clones share what they follow and hold nothing of a generation while they are idle.
///
/// # Limits
/// A call is made when [`call`](Service::call) is called. What the service below does with it later is its own affair: a
/// tonic channel that has as many streams open as its server allows keeps a call until one ends, on the connection that it
/// has then.
///
/// # Examples
/// ```no_run
/// use certsource_hyper::certsource_reload::{Error, Reloader};
/// use certsource_hyper::{Connector, Follow};
/// use tonic::transport::{Channel, Endpoint};
///
/// # fn channel(reloader: &Reloader) -> Result<Follow<Channel>, Error> {
/// let connector = Connector::builder(reloader).http2_only().build()?;
/// let endpoint = Endpoint::from_static("https://localhost:50051");
/// let channel = Follow::new(connector.derive(move |connector| {
///     Ok::<_, Error>(Channel::new(connector, endpoint.clone()))
/// })?);
/// // GreeterClient::new(channel.clone())
/// # Ok(channel)
/// # }
/// ```
pub struct Follow<S> {
    derived: Derived<S>,
    /// The one that is ready for the next call. Not kept between calls: it would keep an old pool.
    ready: Option<(u64, S)>,
}

impl<S: Clone + Send + Sync + 'static> Follow<S> {
    /// Follows this value.
    pub fn new(derived: Derived<S>) -> Self {
        Self { derived, ready: None }
    }

    /// The service of the generation that is current now, and that generation.
    pub fn current(&self) -> Arc<Version<S>> {
        self.derived.load()
    }

    /// The reloader that it follows.
    pub fn reloader(&self) -> &Reloader {
        self.derived.reloader()
    }
}

impl<S> Clone for Follow<S> {
    fn clone(&self) -> Self {
        Self { derived: self.derived.clone(), ready: None }
    }
}

impl<S> fmt::Debug for Follow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("derived", &self.derived).finish_non_exhaustive()
    }
}

impl<S, R> Service<R> for Follow<S>
where
    S: Service<R> + Clone + Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Call<S, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let current = self.derived.load();
        let number = current.generation().number();
        let service = match &mut self.ready {
            Some((ready, service)) if *ready == number => service,
            other => &mut other.insert((number, current.value().clone())).1,
        };
        service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Call<S, R> {
        let current = self.derived.load();
        let number = current.generation().number();
        match self.ready.take() {
            Some((ready, mut service)) if ready == number => {
                Call { state: State::Made { response: service.call(request) } }
            }
            // A newer generation came after it was asked whether it is ready.
            _ => Call::when_ready(current.value().clone(), request),
        }
    }
}

pin_project! {
    /// The response of a call through [`Follow`].
    pub struct Call<S, R> where S: Service<R> {
        #[pin]
        state: State<S, R>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R> where S: Service<R> {
        Made { #[pin] response: S::Future },
        Moved { service: S, request: Option<R> },
    }
}

impl<S: Service<R>, R> Call<S, R> {
    /// Calls the service once it is ready.
    pub(crate) fn when_ready(service: S, request: R) -> Self {
        Self { state: State::Moved { service, request: Some(request) } }
    }
}

impl<S: Service<R>, R> Future for Call<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let response = match this.state.as_mut().project() {
                StateProjection::Made { response } => return response.poll(context),
                StateProjection::Moved { service, request } => {
                    ready!(service.poll_ready(context))?;
                    let request = request.take().expect("it is taken when the state is left");
                    service.call(request)
                }
            };
            this.state.set(State::Made { response });
        }
    }
}

impl<S: Service<R>, R> fmt::Debug for Call<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}
