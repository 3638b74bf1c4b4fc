//! Sends one request: attempt by attempt, hop by hop, each on the generation that is served then.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use certsource_reload::Version;
use http::header::Entry;
use reqwest::{Body, Request, Response};
use tower_service::Service;

use crate::body::{Open, Parcel, Ticket};
use crate::causes::find;
use crate::client::Inner;
use crate::factory::Retire;
use crate::lane::Lane;
use crate::redirect::{self, Attempt};
use crate::refusal::{self, Refusal};

/// As often a request is sent again that an HTTP/2 server refused unread; reqwest's own number.
const REFUSALS: u32 = 2;

pub(crate) async fn send(client: Arc<Inner>, request: Request) -> Result<Response, reqwest::Error> {
    let mut course = Course::new(&client, request);
    loop {
        match course.attempt(&client).await {
            Next::Done(result) => return result,
            Next::Again => {}
        }
    }
}

/// A request on its way.
struct Course {
    /// What is sent, but for a streaming body and a `Referer` of ours.
    request: Request,
    /// A body that can not be cloned, while it is ours.
    stream: Option<Body>,
    is_streaming: bool,
    /// The URL before the last redirect.
    from: Option<reqwest::Url>,
    hops: usize,
    refusals: u32,
    deadline: Option<Instant>,
    has_deadline: bool,
    started: Instant,
    /// The lane that a lazy client stays on.
    lane: Option<Arc<Version<Lane>>>,
}

enum Next {
    Done(Result<Response, reqwest::Error>),
    Again,
}

impl Course {
    fn new(client: &Inner, mut request: Request) -> Self {
        let started = Instant::now();
        for (name, value) in &client.factory.default_headers {
            if let Entry::Vacant(entry) = request.headers_mut().entry(name) {
                entry.insert(value.clone());
            }
        }
        let is_streaming = request.body().is_some_and(|body| body.as_bytes().is_none());
        let stream = if is_streaming { request.body_mut().take() } else { None };
        let timeout = request.timeout().copied().or(client.factory.timeout);
        Self {
            request,
            stream,
            is_streaming,
            from: None,
            hops: 0,
            refusals: 0,
            deadline: timeout.and_then(|timeout| started.checked_add(timeout)),
            has_deadline: timeout.is_some(),
            started,
            lane: None,
        }
    }

    /// Picks the lane of an attempt, and counts the attempt in it.
    fn enter(&mut self, client: &Inner) -> (Arc<Version<Lane>>, Arc<Ticket>) {
        loop {
            let lane = match &self.lane {
                Some(lane) => Arc::clone(lane),
                None => client.derived.load(),
            };
            // A lane is closed only after a newer one was published: then that one is loaded.
            if let Some(ticket) = Ticket::take(&lane.pulse) {
                return (lane, ticket);
            }
        }
    }

    async fn attempt(&mut self, client: &Inner) -> Next {
        let (lane, ticket) = self.enter(client);
        let open = Open(ticket);
        let ticket = &open.0;
        if client.factory.retire == Retire::Lazy {
            self.lane = Some(Arc::clone(&lane));
        }
        if !self.has_deadline {
            // A timeout that the user's own closure set: also that one spans all attempts.
            self.deadline = lane.timeout.and_then(|timeout| self.started.checked_add(timeout));
            self.has_deadline = self.deadline.is_some();
        }
        let is_last = client.factory.redirects.ends_after(self.hops);
        let request = self.request_for(&lane, ticket, is_last);
        let can_withdraw = client.factory.retire == Retire::Strict
            && !self.is_streaming
            && self.request.method().is_idempotent();
        let attempt = Attempt::new((&lane.client).call(request), is_last);
        let result = if can_withdraw {
            match until_retired(attempt, &lane, ticket).await {
                Some(result) => result,
                None => return Next::Again,
            }
        } else {
            attempt.await
        };
        ticket.end();
        match result {
            Ok(response) => {
                if self.is_refused_by(client, &response)
                    && self.found_newer_after(client, &lane, ticket).await
                {
                    return Next::Again;
                }
                self.after(client, response)
            }
            Err(error) => {
                // A failed connect took nothing, whatever is known of the body.
                let is_committed = ticket.is_committed() && !error.is_connect();
                if self.is_streaming && self.stream.is_none() {
                    self.stream = ticket.returned_body();
                }
                let again = self.can_go_again(client, &lane, &error, is_committed)
                    || self.found_newer(client, &lane, &error, is_committed).await;
                if again { Next::Again } else { Next::Done(Err(error)) }
            }
        }
    }

    /// The request of one attempt, with a body that tells when a connection takes it.
    fn request_for(&mut self, lane: &Lane, ticket: &Arc<Ticket>, is_last: bool) -> Request {
        let mut request = self.request.try_clone().expect("a streaming body was taken out before");
        if let (Some(from), true) = (&self.from, lane.referer) {
            let to = request.url().clone();
            redirect::set_referer(request.headers_mut(), from, &to);
        }
        if let Some(deadline) = self.deadline {
            *request.timeout_mut() = Some(deadline.saturating_duration_since(Instant::now()));
        }
        let body = match self.stream.take() {
            Some(stream) => stream,
            None => request.body_mut().take().unwrap_or_default(),
        };
        // reqwest says "too many redirects" to a 307 only if it could clone the body. So on the last hop it gets the
        // bare one, and that attempt stays counted until its response is there.
        let is_bare = is_last && body.as_bytes().is_some_and(|bytes| !bytes.is_empty());
        *request.body_mut() = Some(if is_bare {
            ticket.go_blind();
            body
        } else {
            Parcel::wrap(body, ticket)
        });
        request
    }

    /// Whether a failed attempt is made again, on the generation that is served then.
    fn can_go_again(
        &mut self,
        client: &Inner,
        lane: &Lane,
        error: &reqwest::Error,
        is_committed: bool,
    ) -> bool {
        if self.is_over() {
            return false;
        }
        if client.factory.retire == Retire::Strict && lane.retired.is_retired() && !is_committed {
            // Mostly this is `Superseded`. A waiter of the old pool may be told something else; no connection took
            // its request either, so nobody can have seen it.
            return true;
        }
        if is_refused_unread(error) && self.refusals < REFUSALS {
            self.refusals += 1;
            return true;
        }
        false
    }

    /// Whether an error that a rotation would cause is over, because newer certificates are there, and the request can
    /// be sent again: no connection took it, or its method may be repeated (RFC 9110, section 9.2.2).
    async fn found_newer(
        &mut self,
        client: &Inner,
        lane: &Version<Lane>,
        error: &reqwest::Error,
        is_committed: bool,
    ) -> bool {
        let Some(reactive) = &client.reactive else { return false };
        let has_identity = lane.generation().identity().is_some();
        let Some(refusal) = refusal::read(error, has_identity) else { return false };
        let is_safe = !is_committed || self.request.method().is_idempotent();
        if self.is_over() || !is_safe {
            // Whoever comes next has use of a look all the same.
            reactive.nudge(client.derived.reloader(), self.request.url());
            return false;
        }
        let used = lane.generation().number();
        let patience = refusal == Refusal::Certificate;
        let newer = reactive
            .newer(client.derived.reloader(), self.request.url(), used, patience, self.deadline)
            .await;
        self.lane = None;
        newer.is_some() && !self.is_over()
    }

    /// Whether the user says that this response is a refusal of our certificate.
    fn is_refused_by(&self, client: &Inner, response: &Response) -> bool {
        client.reactive_on.iter().any(|is_refusal| is_refusal(response))
    }

    /// As `found_newer`, after a response that the user calls a refusal: the request was not looked at.
    async fn found_newer_after(&mut self, client: &Inner, lane: &Version<Lane>, ticket: &Ticket) -> bool {
        let Some(reactive) = &client.reactive else { return false };
        if self.is_streaming && self.stream.is_none() {
            self.stream = ticket.returned_body();
        }
        if self.is_over() {
            return false;
        }
        let used = lane.generation().number();
        let newer =
            reactive.newer(client.derived.reloader(), self.request.url(), used, true, self.deadline).await;
        self.lane = None;
        newer.is_some() && !self.is_over()
    }

    /// Whether it can not be sent again: its time is up, or its body is gone.
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
            || (self.is_streaming && self.stream.is_none())
    }

    /// Goes on to the next hop, if the response is a redirect that can be followed.
    fn after(&mut self, client: &Inner, response: Response) -> Next {
        if !client.factory.redirects.are_followed() {
            return Next::Done(Ok(response));
        }
        let from = self.request.url();
        let Some(hop) = redirect::hop(self.request.method(), from, response.status(), response.headers())
        else {
            return Next::Done(Ok(response));
        };
        if hop.keeps_body && self.is_streaming {
            return Next::Done(Ok(response));
        }
        let from = from.clone();
        redirect::adapt(self.request.headers_mut(), &from, &hop);
        if !hop.keeps_body {
            *self.request.body_mut() = None;
            self.stream = None;
            self.is_streaming = false;
        }
        *self.request.method_mut() = hop.method;
        *self.request.url_mut() = hop.url;
        self.from = Some(from);
        self.hops += 1;
        self.refusals = 0;
        Next::Again
    }
}

/// Makes an attempt, or gives it up when its generation is replaced before a connection took it (`None`). The layer
/// around the connector does so while a connection is being made; this is for a request that waits in the queue of one
/// that is full, which HTTP/2 servers make of more requests than they allow.
async fn until_retired<F: Future + Unpin>(mut attempt: F, lane: &Lane, ticket: &Ticket) -> Option<F::Output> {
    let mut retired = Some(Box::pin(lane.retired.wait()));
    poll_fn(move |context| {
        if let Poll::Ready(output) = Pin::new(&mut attempt).poll(context) {
            return Poll::Ready(Some(output));
        }
        if ticket.is_committed() {
            retired = None;
        }
        if let Some(signal) = &mut retired {
            if signal.as_mut().poll(context).is_ready() {
                retired = None;
                if ticket.withdraw() {
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether an HTTP/2 server said that it did not look at the request (RFC 9113, section 8.7).
#[cfg(feature = "http2")]
fn is_refused_unread(error: &reqwest::Error) -> bool {
    find(error, &mut |error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| {
            let reason = error.reason();
            error.is_remote()
                && ((error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                    || (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)))
        })
    })
}

#[cfg(not(feature = "http2"))]
fn is_refused_unread(_: &reqwest::Error) -> bool {
    false
}
