//! Request bodies that tell when a connection takes the request, and that come back untouched when none did.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};
use reqwest::Body;

/// An attempt whose body is reqwest's.
pub(crate) type Ticket = crate::ticket::Ticket<Body>;

/// A body around the user's.
///
/// hyper asks `is_end_stream` when a connection takes the request, and never before (1.x, HTTP/1 and HTTP/2; a test
/// holds that). An attempt that is given up before only drops the body: then the ticket is told.
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
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if !this.ticket.commit() {
            return Poll::Ready(Some(Err("the request was taken back before a connection took it".into())));
        }
        this.comes_back = false;
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        // One that was taken back has not ended: so its frame is asked for, and fails.
        self.ticket.commit() && self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // Of one that was taken back no length is known. Else HTTP/1 would send one that is empty without a look at it.
        if self.ticket.is_withdrawn() {
            return SizeHint::default();
        }
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if self.comes_back {
            self.ticket.give_back(self.body.take());
        } else if !self.ticket.is_committed() {
            self.ticket.give_back(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulse::Pulse;

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
        assert!(!first.commit());
        assert!(!first.is_committed() && !first.withdraw());
        assert!(second.commit() && second.commit());
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

    #[test]
    fn what_was_taken_back_can_not_be_sent() {
        for text in ["", "a body"] {
            let pulse = Arc::new(Pulse::default());
            let ticket = Ticket::take(&pulse).unwrap();
            let mut parcel = Parcel::wrap(Body::from(text), &ticket);
            ticket.end();
            assert!(!parcel.is_end_stream());
            assert_eq!(HttpBody::size_hint(&parcel).exact(), None, "it is not known to be empty");
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(matches!(Pin::new(&mut parcel).poll_frame(&mut context), Poll::Ready(Some(Err(_)))));
            assert!(!ticket.is_committed());
        }
    }
}
