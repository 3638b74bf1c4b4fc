//! The one thread of a blocking client: connections live there, and wait for nobody when they go.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;

use certsource::{Error, Reason};
use http_body::{Body as HttpBody, Frame, SizeHint};
use reqwest::Request;
use reqwest::blocking::Response;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::body::Reading;
use super::context;
use crate::failure::{failed, with_url};

/// What a thread that sends is told.
pub(super) enum Word {
    /// The body wants its next chunk.
    Read,
    Done(Result<Response, reqwest::Error>),
}

/// A runtime on a thread of its own, which ends with the last handle.
pub(super) struct Runtime {
    handle: Handle,
    /// The thread ends when this goes.
    _alive: oneshot::Sender<()>,
}

impl Runtime {
    pub(super) fn start() -> Result<Arc<Self>, Error> {
        let refused = |error: std::io::Error| {
            Error::new(Reason::Io, "cannot start the thread of a blocking client; raise the limit")
                .caused_by(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let handle = runtime.handle().clone();
        let (alive, gone) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("certsource-http".to_owned())
            .spawn(move || {
                // An error only says that the last handle is gone.
                let _ = runtime.block_on(gone);
                // A name that is being resolved may hang; nobody waits for that.
                runtime.shutdown_background();
            })
            .map_err(refused)?;
        Ok(Arc::new(Self { handle, _alive: alive }))
    }

    /// Runs a future there, and waits for what comes of it. `None`: the thread is gone.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move { sender.send(future.await) });
        receiver.recv().ok()
    }

    /// Sends a request there, reads its body here, and waits for the head of the response.
    pub(super) fn send(
        self: &Arc<Self>,
        client: &crate::Client,
        request: Request,
        body: Option<Reading>,
    ) -> Result<Response, reqwest::Error> {
        let url = request.url().clone();
        context::check().map_err(|error| failed(error, url.clone()))?;
        let (client, runtime) = (client.clone(), Arc::clone(self));
        let attempt = async move { client.execute(request).await.map(|response| runtime.response(response)) };
        let done = match body {
            None => self.wait(attempt),
            Some(mut reading) => {
                let word = reading.ask.take();
                self.handle.spawn(async move {
                    let done = Word::Done(attempt.await);
                    if let Some(word) = word {
                        // The thread that sends waits for this.
                        let _ = word.send(done);
                    }
                });
                loop {
                    match reading.asked.recv() {
                        Ok(Word::Read) => reading.next(),
                        Ok(Word::Done(result)) => {
                            let failure = reading.failed.take();
                            break Some(result.map_err(|error| match failure {
                                Some(failure) => failed(failure, url.clone()),
                                None => error,
                            }));
                        }
                        Err(_) => break None,
                    }
                }
            }
        };
        done.unwrap_or_else(|| {
            Err(failed("the request was given up: a hook of it panicked, or its thread is gone", url))
        })
    }

    /// A response that keeps the thread until it is read.
    fn response(self: Arc<Self>, response: reqwest::Response) -> Response {
        let (parts, body) = with_url(response).into_parts();
        let body = reqwest::Body::wrap(Kept { body, _runtime: self });
        Response::from(http::Response::from_parts(parts, body))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// The body of a response: its connection lives on the thread.
struct Kept {
    body: reqwest::Body,
    _runtime: Arc<Runtime>,
}

impl HttpBody for Kept {
    type Data = <reqwest::Body as HttpBody>::Data;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
