//! Request bodies that tell when a connection takes the request, and that come back untouched when none did.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};
use reqwest::Body;

use crate::lane::Pulse;

/// One attempt, counted in its lane from the moment it picked the lane until a connection takes it or it ends.
pub(crate) struct Ticket {
    pulse: Arc<Pulse>,
    state: AtomicU8,
    counted: AtomicBool,
    returned: Mutex<Option<Body>>,
}

/// No connection took the request yet.
const WAITING: u8 = 0;
/// One did.
const COMMITTED: u8 = 1;
/// None will: the attempt was taken back.
const WITHDRAWN: u8 = 2;

impl Ticket {
    /// A ticket of this lane; `None` when the lane is closed.
    pub(crate) fn take(pulse: &Arc<Pulse>) -> Option<Arc<Self>> {
        pulse.enter().then(|| {
            Arc::new(Self {
                pulse: Arc::clone(pulse),
                state: AtomicU8::new(WAITING),
                counted: AtomicBool::new(true),
                returned: Mutex::new(None),
            })
        })
    }

    /// A connection took the request, or may have.
    fn commit(&self) {
        // The usual case is a second call, and costs no write.
        if !self.is_committed() && self.advance(COMMITTED) {
            self.leave();
        }
    }

    /// Takes the attempt back, if no connection took it. Its future must be dropped then.
    ///
    /// hyper looks whether a request was given up right before it asks the body. A request that is given up between
    /// the two is sent all the same, so this is only for methods that may be repeated.
    pub(crate) fn withdraw(&self) -> bool {
        self.advance(WITHDRAWN)
    }

    /// Cannot tell when a connection takes it: it stays counted until it ends, and counts as taken after an error.
    pub(crate) fn go_blind(&self) {
        self.state.store(COMMITTED, Ordering::Release);
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.state.load(Ordering::Acquire) == COMMITTED
    }

    fn advance(&self, to: u8) -> bool {
        self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The attempt is over.
    pub(crate) fn end(&self) {
        self.leave();
    }

    /// The streaming body, if no byte of it was asked for.
    pub(crate) fn returned_body(&self) -> Option<Body> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn leave(&self) {
        if self.counted.swap(false, Ordering::AcqRel) {
            self.pulse.leave();
        }
    }
}

/// Ends the attempt of a ticket, also when the future that makes it is dropped.
pub(crate) struct Open(pub(crate) Arc<Ticket>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A body around the user's.
///
/// hyper asks `is_end_stream` when a connection takes the request, and never before (1.x, HTTP/1 and HTTP/2; a test
/// holds that). An attempt that is given up before only drops the body.
pub(crate) struct Parcel {
    body: Option<Body>,
    /// Whether the body goes back to the ticket when nothing of it was asked for.
    comes_back: bool,
    ticket: Arc<Ticket>,
}

impl Parcel {
    pub(crate) fn wrap(body: Body, ticket: &Arc<Ticket>) -> Body {
        let comes_back = body.as_bytes().is_none();
        Body::wrap(Self { body: Some(body), comes_back, ticket: Arc::clone(ticket) })
    }
}

impl HttpBody for Parcel {
    type Data = <Body as HttpBody>::Data;
    type Error = reqwest::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        this.ticket.commit();
        this.comes_back = false;
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ticket.commit();
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if self.comes_back {
            *self.ticket.returned.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streaming() -> Body {
        Body::wrap(Body::from("streamed"))
    }

    #[test]
    fn an_untouched_stream_comes_back() {
        let pulse = Arc::new(Pulse::default());
        let ticket = Ticket::take(&pulse).unwrap();
        let parcel = Parcel::wrap(streaming(), &ticket);
        assert_eq!(HttpBody::size_hint(&parcel).exact(), Some(8));
        assert!(!ticket.is_committed());
        drop(parcel);
        assert!(!ticket.is_committed());
        assert!(ticket.returned_body().is_some());
    }

    #[test]
    fn a_question_about_the_end_commits() {
        let pulse = Arc::new(Pulse::default());
        let ticket = Ticket::take(&pulse).unwrap();
        let parcel = Parcel::wrap(Body::default(), &ticket);
        assert!(parcel.is_end_stream());
        assert!(ticket.is_committed());
        drop(parcel);
        assert!(ticket.returned_body().is_none(), "bytes are cloned, they need not come back");
    }

    #[test]
    fn what_was_taken_back_is_not_committed_and_the_other_way_round() {
        let pulse = Arc::new(Pulse::default());
        let (first, second) = (Ticket::take(&pulse).unwrap(), Ticket::take(&pulse).unwrap());
        assert!(first.withdraw());
        first.commit();
        assert!(!first.is_committed() && !first.withdraw());
        second.commit();
        assert!(second.is_committed() && !second.withdraw());
    }

    #[test]
    fn a_stream_that_was_read_does_not_come_back() {
        let pulse = Arc::new(Pulse::default());
        let ticket = Ticket::take(&pulse).unwrap();
        let mut parcel = Parcel::wrap(streaming(), &ticket);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut parcel).poll_frame(&mut context).is_ready());
        drop(parcel);
        assert!(ticket.is_committed());
        assert!(ticket.returned_body().is_none());
    }
}
