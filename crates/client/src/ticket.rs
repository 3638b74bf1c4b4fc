//! [`Ticket`]: one attempt between "picked a generation" and "a connection took it".
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use crate::pulse::Pulse;
use crate::sync::{AtomicBool, AtomicU8, Mutex, Ordering};

/// One attempt, counted in its lane from the moment it picked the lane until a connection takes it or it ends.
pub(crate) struct Ticket<B> {
    pulse: Arc<Pulse>,
    state: AtomicU8,
    counted: AtomicBool,
    returned: Mutex<Option<B>>,
}

/// No connection took the request yet.
const WAITING: u8 = 0;
/// One did.
const COMMITTED: u8 = 1;
/// None will: the attempt was taken back.
const WITHDRAWN: u8 = 2;

impl<B> Ticket<B> {
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

    /// A connection takes the request. `false`: it must not, because the attempt was taken back.
    #[must_use]
    pub(crate) fn commit(&self) -> bool {
        // The usual case is a second call, and costs no write.
        if self.is_committed() {
            return true;
        }
        let is_first = self.advance(COMMITTED);
        if is_first {
            self.leave();
        }
        is_first || self.is_committed()
    }

    /// Takes the attempt back, if no connection took it. Its future must be dropped then.
    ///
    /// hyper looks whether a request was given up right before it asks the body. Of one that is given up between the two
    /// the body fails at once: over HTTP/1 nothing is sent then, but an HTTP/2 server sees the head, and a reset. So this is
    /// only for methods that may be repeated.
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

    /// The attempt is over: a connection that did not take it yet must not.
    pub(crate) fn end(&self) {
        self.advance(WITHDRAWN);
        self.leave();
    }

    /// The streaming body, if no byte of it was asked for.
    pub(crate) fn returned_body(&self) -> Option<B> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The streaming body comes back: nothing of it was asked for.
    pub(crate) fn give_back(&self, body: Option<B>) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }

    fn leave(&self) {
        if self.counted.swap(false, Ordering::AcqRel) {
            self.pulse.leave();
        }
    }
}

/// Ends the attempt of a ticket, also when the future that makes it is dropped.
pub(crate) struct Open<B>(pub(crate) Arc<Ticket<B>>);

impl<B> Drop for Open<B> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Makes an attempt, or gives it up when its generation is replaced before a connection took it (`None`). The layer
/// around the connector does so while a connection is being made; this is for a request that waits in the queue of one
/// that is full, which HTTP/2 servers make of more requests than they allow.
pub(crate) async fn until_retired<F: Future + Unpin, B>(
    mut attempt: F,
    retired: impl Future<Output = ()>,
    ticket: &Ticket<B>,
) -> Option<F::Output> {
    let mut retired = pin!(retired);
    let mut is_settled = false;
    poll_fn(move |context| {
        if let Poll::Ready(output) = Pin::new(&mut attempt).poll(context) {
            return Poll::Ready(Some(output));
        }
        is_settled = is_settled || ticket.is_committed();
        if !is_settled && retired.as_mut().poll(context).is_ready() {
            is_settled = true;
            if ticket.withdraw() {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}
