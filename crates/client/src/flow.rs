//! [`Flow`]: a body that is read by one and can be cut by another.
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`].

use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// A body that is on its way, and who waits for its next frame.
pub(crate) struct Flow<B>(Mutex<Inner<B>>);

/// Without a body it was cut.
struct Inner<B> {
    body: Option<B>,
    waker: Option<Waker>,
}

impl<B> Flow<B> {
    pub(crate) fn new(body: B) -> Self {
        Self(Mutex::new(Inner { body: Some(body), waker: None }))
    }

    /// Polls the body; `None` when it was cut. Who gets "pending" is woken by the body, or by the cut.
    pub(crate) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut B, &mut Context<'_>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = poll(inner.body.as_mut()?, context);
        if polled.is_pending() {
            // Under the lock, so that no cut comes between the two.
            inner.waker = Some(context.waker().clone());
        }
        Some(polled)
    }

    /// Asks the body; `None` when it was cut.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&B) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).body.as_ref().map(ask)
    }

    /// Drops the body, which closes its connection, or resets its stream.
    pub(crate) fn cut(&self) {
        let (body, waker) = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (inner.body.take(), inner.waker.take())
        };
        drop(body);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
