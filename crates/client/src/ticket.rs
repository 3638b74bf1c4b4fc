//! [`Ticket`]: one attempt between "picked a generation" and "a connection took it".
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`].

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use crate::pulse::Pulse;
use crate::sync::{AtomicBool, AtomicU8, Mutex, Notify, Ordering};

/// One attempt, counted in its lane from the moment it picked the lane until a connection takes it or it ends.
pub(crate) struct Ticket<B> {
    pulse: Arc<Pulse>,
    /// One of the states below, and [`COUNTED`]: so that a state and the end of the count are one step.
    state: AtomicU8,
    returned: Mutex<Option<B>>,
    /// Nobody has the request any more.
    is_back: AtomicBool,
    came_back: Notify,
}

/// No connection took the request yet.
const WAITING: u8 = 0;
/// One did.
const COMMITTED: u8 = 1;
/// None will: the attempt was taken back.
const WITHDRAWN: u8 = 2;
/// Nobody tells whether one did.
const BLIND: u8 = 3;
/// It was taken back, and a connection that was about to take it at that moment may have sent its head.
const TOUCHED: u8 = 4;

/// Set beside a state as long as the attempt is counted in its lane.
const COUNTED: u8 = 1 << 7;

/// What comes back of an attempt that was taken back.
pub(crate) struct Back<B> {
    /// The body, if it is a stream.
    pub(crate) body: Option<B>,
    /// Whether a server may have seen the head of the request, and no body.
    pub(crate) is_touched: bool,
}

impl<B> Ticket<B> {
    /// A ticket of this lane; `None` when the lane is closed.
    pub(crate) fn take(pulse: &Arc<Pulse>) -> Option<Arc<Self>> {
        pulse.enter().then(|| {
            Arc::new(Self {
                pulse: Arc::clone(pulse),
                state: AtomicU8::new(WAITING | COUNTED),
                returned: Mutex::new(None),
                is_back: AtomicBool::new(false),
                came_back: Notify::default(),
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
        let (from, to) = (WAITING | COUNTED, COMMITTED);
        if self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.pulse.leave();
            return true;
        }
        let is_committed = self.is_committed();
        if !is_committed {
            self.advance(WITHDRAWN, TOUCHED);
        }
        is_committed
    }

    /// Takes the attempt back, if no connection is known to have taken it. Its future must be dropped then.
    ///
    /// hyper looks whether a request was given up right before it asks the body. Of one that is given up between the two
    /// the body fails at once: over HTTP/1 nothing is sent then, but an HTTP/2 server sees the head, and a reset.
    /// [`Ticket::back`] tells whether that was so.
    pub(crate) fn withdraw(&self) -> bool {
        self.advance(WAITING, WITHDRAWN)
    }

    /// Cannot tell when a connection takes it: it stays counted until it ends, counts as taken, and is not taken back.
    pub(crate) fn go_blind(&self) {
        self.state.store(BLIND | COUNTED, Ordering::Release);
    }

    /// Whether a connection took it, or may have.
    pub(crate) fn is_committed(&self) -> bool {
        matches!(self.state(), COMMITTED | BLIND)
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        matches!(self.state(), WITHDRAWN | TOUCHED)
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire) & !COUNTED
    }

    /// The count stays as it is.
    fn advance(&self, from: u8, to: u8) -> bool {
        self.update(|state| (state & !COUNTED == from).then_some(to | state & COUNTED))
    }

    /// Whether there was something to be changed.
    fn update(&self, change: impl FnMut(u8) -> Option<u8>) -> bool {
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    /// The attempt is over: a connection that did not take it yet must not.
    pub(crate) fn end(&self) {
        // Mostly a connection took it: then nothing is counted, and nothing written.
        let ends = self.update(|state| {
            let ended = |state| if state == WAITING { WITHDRAWN } else { state };
            (state & COUNTED != 0).then(|| ended(state & !COUNTED))
        });
        if ends {
            self.pulse.leave();
        }
    }

    /// The streaming body, if no byte of it was asked for.
    pub(crate) fn returned_body(&self) -> Option<B> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until nobody has an attempt any more that was taken back, and whose future was dropped. Mostly that is so at
    /// once. A connection that has it in its queue drops it when it comes to it, which is after the end of another stream if
    /// it is full; what hyper never looks at again (docs/decisions/0018) goes when the pool of its generation does.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn back(&self) -> Back<B> {
        loop {
            let mut came_back = pin!(self.came_back.notified());
            // Registered before the flag is looked at, so that it does not come in between.
            came_back.as_mut().enable();
            if self.is_back.load(Ordering::Acquire) {
                return Back { body: self.returned_body(), is_touched: self.state() == TOUCHED };
            }
            came_back.await;
        }
    }

    /// Nobody has the request any more. A streaming body comes back, if nothing of it was asked for.
    pub(crate) fn give_back(&self, body: Option<B>) {
        if body.is_some() {
            *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = body;
        }
        self.is_back.store(true, Ordering::Release);
        self.came_back.notify_waiters();
    }
}

/// Ends the attempt of a ticket, also when the future that makes it is dropped.
pub(crate) struct Open<B>(pub(crate) Arc<Ticket<B>>);

impl<B> Drop for Open<B> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Makes an attempt, or gives it up (`None`) when its generation is replaced before a connection took it.
pub(crate) fn until_retired<F, R, B>(
    mut attempt: F,
    mut retired: R,
    ticket: &Ticket<B>,
) -> impl Future<Output = Option<F::Output>>
where
    F: Future + Unpin,
    R: Future<Output = ()> + Unpin,
{
    let mut is_settled = false;
    poll_fn(move |context| {
        is_settled = is_settled || ticket.is_committed();
        // First, so that a connection that is ready at the same moment is not used.
        if !is_settled && Pin::new(&mut retired).poll(context).is_ready() {
            is_settled = true;
            if ticket.withdraw() {
                return Poll::Ready(None);
            }
        }
        Pin::new(&mut attempt).poll(context).map(Some)
    })
}
