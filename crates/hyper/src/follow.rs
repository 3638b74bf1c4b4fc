//! [`Follow`]: a service that switches with the generation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use certsource_reload::{Derived, Reloader, Version};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

/// A service that is built anew for every generation: a tonic channel, a hyper client with its pool. Each call goes to the
/// one of the generation that is current when it is made.
///
/// Calls that were made before finish on the old one, open streams included; it is dropped when they have. So is its pool
/// of idle connections.
///
/// While nothing may be used ([`Closed`](certsource_reload::Closed)), no call reaches a pool that was made before: the service
/// is built once more, above a [`Connector`](crate::Connector) that refuses every connect, and the error says why. (One that
/// was not built above such a connector must ask [`Derived::get`] by itself.) If even that can not be built, calls wait until it
/// can.
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
    ready: Option<(Arc<Version<S>>, S)>,
    /// Set while there is none.
    pause: Option<Pin<Box<Sleep>>>,
}

/// What was built once and can not be built again, is tried again after this.
const BREATH: Duration = Duration::from_millis(500);

impl<S: Clone + Send + Sync + 'static> Follow<S> {
    /// Follows this value.
    pub fn new(derived: Derived<S>) -> Self {
        Self { derived, ready: None, pause: None }
    }

    /// The newest service that there is, also while it must not be used, and its generation.
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
        Self { derived: self.derived.clone(), ready: None, pause: None }
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
        let current = loop {
            if let Ok(current) = self.derived.get_or_anew() {
                break current;
            }
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(BREATH)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        };
        let service = match &mut self.ready {
            Some((ready, service)) if Arc::ptr_eq(ready, &current) => service,
            other => {
                let service = current.value().clone();
                &mut other.insert((current, service)).1
            }
        };
        service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Call<S, R> {
        match (self.derived.get_or_anew(), self.ready.take()) {
            (Ok(current), Some((ready, mut service))) if Arc::ptr_eq(&ready, &current) => {
                Call { state: State::Made { response: service.call(request) } }
            }
            // A newer generation came after it was asked whether it is ready.
            (Ok(current), _) => Call::when_ready(current.value().clone(), request),
            (Err(_), _) => {
                let derived = self.derived.clone();
                let again =
                    Box::new(move || derived.get_or_anew().ok().map(|current| current.value().clone()));
                let pause = Box::pin(tokio::time::sleep(BREATH));
                Call { state: State::Waiting { again, pause, request: Some(request) } }
            }
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

/// The service that may be used, if there is one.
type Again<S> = Box<dyn Fn() -> Option<S> + Send + Sync>;

pin_project! {
    #[project = StateProjection]
    enum State<S, R> where S: Service<R> {
        Made { #[pin] response: S::Future },
        Moved { service: S, request: Option<R> },
        Waiting { again: Again<S>, pause: Pin<Box<Sleep>>, request: Option<R> },
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
                StateProjection::Waiting { again, pause, request } => {
                    ready!(pause.as_mut().poll(context));
                    if let Some(service) = again() {
                        let request = request.take();
                        this.state.set(State::Moved { service, request });
                    } else {
                        pause.set(tokio::time::sleep(BREATH));
                    }
                    continue;
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
