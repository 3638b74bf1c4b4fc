//! Sends one request: attempt by attempt, hop by hop, each on the generation that is served then.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use certsource_reload::Closed;
use http::header::{CONTENT_LENGTH, Entry};
use http::{Method, Version};
use reqwest::{Body, Request, Response, Url};
use tokio::time::Sleep;
use tower_service::Service;

use crate::body::{Parcel, Ticket};
use crate::client::Inner;
use crate::connector::Superseded;
use crate::drain::Until;
use crate::factory::Retire;
use crate::failure::failed;
use crate::lane::Lane;
use crate::payload::Payload;
use crate::redirect::{self, Attempt};
use crate::refusal::{self, Refusal};
use crate::served::ServedBy;
use crate::ticket::{Open, until_retired};
use crate::trace::{self, Because};
use crate::unread;
use crate::unsaved::Unsaved;
use crate::waiting::Replaced;

/// As often a request is sent again that an HTTP/2 server refused unread, or that a connection closed upon before it took
/// it. reqwest does so twice; a server that rotates closes connections at each step of it, and one waiting request can
/// meet several.
const REFUSALS: u32 = 16;

/// So long after the retirement a request is left in its place that may not be repeated, unless it goes by HTTP/1, and each one
/// of a lazy client. If it is in
/// the queue of an HTTP/2 connection, that takes it in microseconds; to take it back in that very moment could show its head
/// to the server, and then it could not be sent again (docs/decisions/0018).
const PATIENCE: Duration = Duration::from_millis(250);

/// Sends a request, or says what was wrong with it. Nothing is done before the first poll.
///
/// What every request does is in this one future, and what few do is in a box of its own: each future around another is
/// copied with the request in it, and copies the response.
#[expect(
    clippy::manual_async_fn,
    reason = "that would move the request once more, into a second place in the future"
)]
#[inline]
pub(crate) fn send(
    client: Arc<Inner>,
    mut request: Result<Request, reqwest::Error>,
) -> impl Future<Output = Result<Response, reqwest::Error>> + Send + 'static {
    async move {
        if request.as_ref().is_ok_and(|request| request.version() == Version::HTTP_3) {
            // Its connections would pass by everything that is done here. That client fails, and says why.
            let failing = match request {
                Ok(request) => client.drafts.execute(request),
                Err(error) => return Err(error),
            };
            return failing.await;
        }
        let mut course = match &mut request {
            // Where it is: moved into the course it would be here twice.
            Ok(request) => Course::new(&client, request),
            Err(_) => return Err(request.expect_err("it is one")),
        };
        let course = &mut course;
        course.begin();
        loop {
            let (lane, ticket) = match course.enter() {
                Ok(entered) => entered,
                Err(closed) => return Err(refused(closed, course.request.url().clone())),
            };
            // reqwest limits the attempt by it, and with the attempt that limit goes.
            let read_by = lane.read_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            // Ends the ticket, also when this future is dropped.
            let open = Open(ticket);
            let attempt = course.attempt(&lane, &open.0);
            // The result is gone before the next `await`: else this future would have room for it as well.
            let rest = match until_retired(attempt, Leaving::new(course, &lane), &open.0).await {
                Some(Some(Ok(mut response))) if course.is_plain(&lane, &response) => {
                    mark(&lane, &mut response);
                    return Ok(response);
                }
                result => Box::pin(course.after(lane, open, read_by, result)),
            };
            if let Next::Done(result) = rest.await {
                return result;
            }
        }
    }
}

/// A lane with its generation.
type Current = certsource_reload::Version<Lane>;

/// A response that reqwest waits for.
type Pending = <reqwest::Client as Service<Request>>::Future;

/// A request on its way.
struct Course<'a> {
    client: &'a Inner,
    /// What is sent, but for its body and for a `Referer` of ours.
    request: &'a mut Request,
    payload: Payload,
    /// The URL before the last redirect.
    from: Option<Box<Url>>,
    hops: usize,
    refusals: u32,
    started: Option<Instant>,
    /// The next attempt is the first, and the timeout is the lane's own: then it need not be set.
    is_timed_by_lane: bool,
    has_timeout: bool,
    deadline: Option<Instant>,
    /// The lane that a lazy client stays on.
    lane: Option<Arc<Current>>,
}

/// Resolves when an attempt that no connection has taken is to leave its lane.
struct Leaving<'a> {
    replaced: Replaced<'a>,
    course: &'a Course<'a>,
    lane: &'a Lane,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<'a> Leaving<'a> {
    fn new(course: &'a Course<'a>, lane: &'a Lane) -> Self {
        Self { replaced: Replaced::new(&lane.retired, &lane.alarm), course, lane, patience: None }
    }
}

impl Future for Leaving<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let patience = match &mut this.patience {
            Some(patience) => patience,
            none => {
                ready!(Pin::new(&mut this.replaced).poll(context));
                let patience = this.course.patience(this.lane);
                if patience.is_zero() {
                    return Poll::Ready(());
                }
                none.insert(Box::pin(tokio::time::sleep(patience)))
            }
        };
        patience.as_mut().poll(context)
    }
}

enum Next {
    Done(Result<Response, reqwest::Error>),
    Again,
}

/// What came of a look after an attempt failed.
enum Mended {
    No,
    /// There are newer certificates, and the request can be sent again.
    Yes,
    /// There are newer certificates, and it can not.
    TooLate(Unsaved),
}

impl<'a> Course<'a> {
    fn new(client: &'a Inner, request: &'a mut Request) -> Self {
        Self {
            client,
            request,
            payload: Payload::default(),
            from: None,
            hops: 0,
            refusals: 0,
            started: None,
            is_timed_by_lane: false,
            has_timeout: false,
            deadline: None,
            lane: None,
        }
    }

    fn begin(&mut self) {
        let defaults = &self.client.factory.default_headers;
        let defaults = (!defaults.is_empty()).then_some(defaults);
        for (name, value) in defaults.into_iter().flatten() {
            if let Entry::Vacant(entry) = self.request.headers_mut().entry(name) {
                entry.insert(value.clone());
            }
        }
        if let Some(body) = self.request.body_mut().take() {
            self.payload = Payload::new(body);
        }
        let own_timeout = self.request.timeout().copied();
        self.is_timed_by_lane = own_timeout.is_none();
        // Reading the clock is not for nothing, so without a timeout that is not done.
        if let Some(timeout) = own_timeout.or(self.client.factory.timeout) {
            self.has_timeout = true;
            self.deadline = self.start().checked_add(timeout);
        }
    }

    /// When the request was begun: the moment of the first call.
    fn start(&mut self) -> Instant {
        *self.started.get_or_insert_with(Instant::now)
    }

    /// An attempt on this lane, to be polled.
    fn attempt(&mut self, lane: &Lane, ticket: &Arc<Ticket>) -> Until<Attempt<Pending>> {
        let is_last = self.client.factory.redirects.ends_after(self.hops);
        let request = self.request_for(lane, ticket, is_last);
        let attempt = Attempt::new((&lane.client).call(request), is_last);
        Until::passed(attempt, lane.drain.as_ref())
    }

    /// So long after the retirement of its lane an attempt is left there that no connection has taken.
    fn patience(&self, lane: &Lane) -> Duration {
        // A lazy client's stay where they are, if they can: hyper may have lost one, so it does not stay for ever.
        if self.is_strict() && (self.is_repeatable() || self.leaves_no_trace(lane)) {
            return Duration::ZERO;
        }
        // It has to be gone before a drain deadline would cut it.
        lane.drain.as_ref().map_or(PATIENCE, |drain| drain.patience(PATIENCE))
    }

    /// Whether nothing is left to be done with such a response.
    fn is_plain(&self, lane: &Lane, response: &Response) -> bool {
        !response.status().is_redirection() && self.client.reactive_on.is_empty() && lane.drain.is_none()
    }

    /// Goes on after an attempt: it has a result, or the drain deadline passed, or it was taken back.
    async fn after(
        &mut self,
        lane: Arc<Current>,
        open: Open<Body>,
        read_by: Option<Instant>,
        result: Option<Option<Result<Response, reqwest::Error>>>,
    ) -> Next {
        let ticket = &open.0;
        ticket.end();
        let Some(result) = result else { return self.taken_back(lane, ticket, read_by).await };
        let Some(result) = result else {
            // It may have been seen, so it is not sent again, whatever is known of it.
            let error = lane.drain.as_ref().map(|drain| drain.error());
            let error = error.expect("only a drain deadline ends an attempt");
            return Next::Done(Err(failed(error, self.request.url().clone())));
        };
        self.payload.restore(ticket.returned_body());
        match result {
            Ok(response) => {
                let is_refused = self.client.reactive_on.iter().any(|is_refusal| is_refusal(&response));
                if is_refused
                    && self.payload.is_whole()
                    && self.found_newer(&lane, Refusal::Certificate).await
                {
                    self.tell_resent(&lane, Because::Response);
                    return Next::Again;
                }
                self.hop(&lane, response)
            }
            Err(error) => {
                // A failed connect took nothing, whatever is known of the body.
                let is_committed = ticket.is_committed() && !error.is_connect();
                if self.moves_on(&lane, is_committed) || self.was_unread(&lane, &error) {
                    return Next::Again;
                }
                match self.mend(&lane, &error, is_committed).await {
                    Mended::Yes => Next::Again,
                    Mended::No => Next::Done(Err(error)),
                    Mended::TooLate(why) => Next::Done(Err(why.about(error))),
                }
            }
        }
    }

    /// Goes on after an attempt was taken back, and dropped, because its generation was replaced before a connection took it.
    async fn taken_back(&mut self, lane: Arc<Current>, ticket: &Ticket, read_by: Option<Instant>) -> Next {
        self.lane = None;
        self.tell_bounced(&lane);
        if self.is_repeatable() {
            return Next::Again;
        }
        // It can be in a queue still; and once in a great while a connection was looking at it at that very moment, and has
        // sent its head. What hyper has lost goes only with the pool: so this must not hold on to it.
        let is_harmless = self.request.method().is_idempotent() || self.leaves_no_trace(&lane);
        drop(lane);
        let limit = self.deadline.into_iter().chain(read_by).min();
        let Some(back) = within(limit, ticket.back()).await else {
            return Next::Done(Err(
                self.failed(io::Error::new(io::ErrorKind::TimedOut, "operation timed out"))
            ));
        };
        self.payload.restore(back.body);
        if back.is_touched && !is_harmless {
            return Next::Done(Err(Unsaved::MayHaveBeenSeen.about(self.failed(Superseded))));
        }
        if !self.payload.is_whole() {
            return Next::Done(Err(Unsaved::StreamAlreadyRead.about(self.failed(Superseded))));
        }
        Next::Again
    }

    fn failed(&self, why: impl std::error::Error + Send + Sync + 'static) -> reqwest::Error {
        failed(why, self.request.url().clone())
    }

    /// Whether it may be sent twice: its method may be repeated (RFC 9110, section 9.2.2), and there is another body.
    fn is_repeatable(&self) -> bool {
        self.request.method().is_idempotent() && !self.payload.is_stream()
    }

    /// Whether nothing of it is sent when it is taken back at the moment at which a connection takes it: its body fails before
    /// the head goes out. HTTP/1 asks no body whose length is 0: by the user's own header, or as HTTP/1.0 or `CONNECT` because
    /// of one that was taken back no length is known.
    fn leaves_no_trace(&self, lane: &Lane) -> bool {
        let mut lengths = self.request.headers().get_all(CONTENT_LENGTH).iter();
        lane.is_http1(self.request.url().scheme())
            && self.request.version() != Version::HTTP_10
            && self.request.method() != Method::CONNECT
            && lengths.all(|length| length.as_bytes().iter().any(|digit| (b'1'..=b'9').contains(digit)))
    }

    /// Picks the lane of an attempt, and counts the attempt in it.
    ///
    /// # Errors
    /// While no certificates may be used: also for a lazy client, whose lane is then as little to be trusted.
    fn enter(&mut self) -> Result<(Arc<Current>, Arc<Ticket>), Closed> {
        let (lane, ticket) = loop {
            let current = self.client.derived.get()?;
            let lane = self.lane.take().unwrap_or(current);
            // A lane is closed only after a newer one was published: then that one is loaded.
            if let Some(ticket) = Ticket::take(&lane.pulse) {
                break (lane, ticket);
            }
        };
        if !self.is_strict() {
            self.lane = Some(Arc::clone(&lane));
        }
        if let (false, Some(timeout)) = (self.has_timeout, lane.timeout) {
            // One that the user's own closure set: it spans all attempts too.
            self.deadline = self.start().checked_add(timeout);
            self.has_timeout = self.deadline.is_some();
        }
        Ok((lane, ticket))
    }

    /// The request of one attempt, with a body that tells when a connection takes it.
    #[inline]
    fn request_for(&mut self, lane: &Lane, ticket: &Arc<Ticket>, is_last: bool) -> Request {
        // Not `try_clone`: that makes a map of extensions each time, for a timeout that is set anew anyway.
        let mut request = Request::new(self.request.method().clone(), self.request.url().clone());
        // A copy of an empty map is cheap, but not for nothing.
        if !self.request.headers().is_empty() {
            request.headers_mut().clone_from(self.request.headers());
        }
        *request.version_mut() = self.request.version();
        if let (Some(from), true) = (&self.from, lane.referer) {
            redirect::set_referer(request.headers_mut(), from, self.request.url());
        }
        // A timeout of the request's own costs three allocations.
        let is_timed = std::mem::replace(&mut self.is_timed_by_lane, false);
        if let (Some(deadline), false) = (self.deadline, is_timed) {
            *request.timeout_mut() = Some(deadline.saturating_duration_since(Instant::now()));
        }
        // reqwest says "too many redirects" to a 307 only if it could clone the body. So on the last hop it gets the
        // bare one, and that attempt stays counted until its response is there.
        let is_bare = is_last && self.payload.has_bytes();
        let body = self.payload.next();
        *request.body_mut() = Some(if is_bare {
            ticket.go_blind();
            body
        } else {
            Parcel::wrap(body, ticket)
        });
        request
    }

    /// Whether an attempt failed while its generation was replaced, and before a connection took it: then it is made
    /// again on the new one.
    fn moves_on(&self, lane: &Current, is_committed: bool) -> bool {
        // Mostly the error is `Superseded`. A waiter of the old pool may be told something else; no connection took
        // its request either, so nobody can have seen it.
        let moves = self.is_strict() && !self.is_over() && !is_committed && lane.retired.is_retired();
        if moves {
            self.tell_bounced(lane);
        }
        moves
    }

    /// Whether an HTTP/2 server said that it did not look at the request, or its connection closed with the request still
    /// in its queue: then it is sent again, on the generation that is served now. reqwest would do so by itself, on the
    /// old one; and for the second it needs a connection that was used before.
    fn was_unread(&mut self, lane: &Current, error: &reqwest::Error) -> bool {
        let is_unread = unread::by_the_server(error) || unread::in_its_queue(error);
        let again = is_unread && !self.is_over() && self.refusals < REFUSALS;
        self.refusals += u32::from(again);
        if again {
            self.tell_resent(lane, Because::Unread);
        }
        again
    }

    /// Whether an error that a rotation causes is mended by newer certificates, and the request can be sent again: no
    /// connection took it, or its method may be repeated (RFC 9110, section 9.2.2).
    async fn mend(&mut self, lane: &Current, error: &reqwest::Error, is_committed: bool) -> Mended {
        let has_identity = lane.generation().identity().is_some();
        let Some(refusal) = refusal::read(error, has_identity) else { return Mended::No };
        trace::refused(self.client.derived.reloader(), self.request.url(), lane.generation(), refusal, error);
        let too_late = if !self.payload.is_whole() {
            Some(Unsaved::StreamAlreadyRead)
        } else if is_committed && !self.request.method().is_idempotent() {
            Some(Unsaved::MayHaveBeenSeen)
        } else {
            None
        };
        // Also when it is too late: whoever comes next has use of a look, and the user learns that it helps.
        if !self.found_newer(lane, refusal).await {
            return Mended::No;
        }
        if let Some(too_late) = too_late {
            return Mended::TooLate(too_late);
        }
        self.tell_resent(lane, Because::Refused);
        Mended::Yes
    }

    fn tell_bounced(&self, lane: &Current) {
        trace::bounced(self.client.derived.reloader(), self.request.url(), lane.generation());
    }

    fn tell_resent(&self, lane: &Current, because: Because) {
        trace::resent(self.client.derived.reloader(), self.request.url(), lane.generation(), because);
    }

    /// Whether there is a generation newer than this lane's, or one comes of a look.
    async fn found_newer(&mut self, lane: &Current, refusal: Refusal) -> bool {
        let Some(reactive) = &self.client.reactive else { return false };
        if self.is_late() {
            return false;
        }
        let (reloader, url) = (self.client.derived.reloader(), self.request.url());
        let (used, is_patient) = (lane.generation().number(), refusal == Refusal::Certificate);
        let newer = reactive.newer(reloader, url, used, is_patient, self.deadline).await;
        if newer.is_none() || self.is_late() {
            return false;
        }
        self.lane = None;
        true
    }

    /// Goes on to the next hop, if the response is a redirect that can be followed.
    fn hop(&mut self, lane: &Current, response: Response) -> Next {
        let from = self.request.url();
        let hop = match redirect::hop(self.request.method(), from, response.status(), response.headers()) {
            Some(hop) if self.client.factory.redirects.are_followed() => hop,
            _ => return done(lane, response),
        };
        if hop.keeps_body && self.payload.is_stream() {
            return done(lane, response);
        }
        let from = from.clone();
        redirect::adapt(self.request.headers_mut(), &from, &hop);
        if !hop.keeps_body {
            self.payload.clear();
        }
        *self.request.method_mut() = hop.method;
        *self.request.url_mut() = hop.url;
        self.from = Some(Box::new(from));
        self.hops += 1;
        self.refusals = 0;
        Next::Again
    }

    fn is_strict(&self) -> bool {
        self.client.factory.retire == Retire::Strict
    }

    /// Whether it can not be sent again: its time is up, or its body is gone.
    fn is_over(&self) -> bool {
        self.is_late() || !self.payload.is_whole()
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// What comes of a future before a deadline, if there is one.
async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), future).await.ok(),
        None => Some(future.await),
    }
}

/// Nothing was sent, because no certificates may be used. What says why is the first source of the error.
fn refused(closed: Closed, url: Url) -> reqwest::Error {
    match closed {
        Closed::Stale(stale) => failed(stale, url),
        Closed::Unbuilt(unbuilt) => failed(unbuilt, url),
        closed => failed(closed, url),
    }
}

/// The response is the user's.
fn done(lane: &Current, mut response: Response) -> Next {
    mark(lane, &mut response);
    Next::Done(Ok(match &lane.drain {
        Some(drain) => drain.watch(response),
        None => response,
    }))
}

fn mark(lane: &Current, response: &mut Response) {
    response.extensions_mut().insert(ServedBy { generation: lane.generation().number() });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is moved twice before it is polled, into the caller's future and with that: what it has room for is copied each time.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<F>(_: impl FnOnce(Arc<Inner>, Result<Request, reqwest::Error>) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(send) <= 2 * size_of::<Request>() + 64, "{} bytes", size(send));
    }
}
