//! The primitives that the included files name, as the scheduler has them; and a `Notify` that behaves as tokio's.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

pub(crate) use crate::generation::Retired;
pub(crate) use shuttle::sync::Mutex;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

thread_local! {
    /// Whether a waiter is registered only when it is first polled, and misses what came before. A fault: tokio promises
    /// more, and the files rest on that. One test has this thread, and everything that shuttle runs runs on it.
    pub(crate) static REGISTERS_LATE: Cell<bool> = const { Cell::new(false) };
}

/// As tokio's (1.47), as far as it is used here: `notify_waiters` wakes every `Notified` that exists, and none that was dropped.
#[derive(Debug, Default)]
pub(crate) struct Notify(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// How often the waiters were notified.
    calls: u64,
    /// Whose each is, by number.
    wakers: Vec<(u64, Waker)>,
    last_number: u64,
}

impl Notify {
    pub(crate) fn notified(&self) -> Notified<'_> {
        let since = (!REGISTERS_LATE.get()).then(|| self.lock().calls);
        Notified { notify: self, since, number: None }
    }

    pub(crate) fn notify_waiters(&self) {
        let wakers = {
            let mut waiting = self.lock();
            waiting.calls += 1;
            std::mem::take(&mut waiting.wakers)
        };
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn lock(&self) -> shuttle::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    since: Option<u64>,
    /// Set once it waits.
    number: Option<u64>,
}

impl Notified<'_> {
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        self.since.is_some_and(|since| self.notify.lock().calls > since)
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.notify.lock();
        let calls = waiting.calls;
        let is_notified = self.since.is_some_and(|since| calls > since);
        let mut number = self.number;
        if !is_notified {
            waiting.wakers.retain(|(known, _)| Some(*known) != number);
            if number.is_none() {
                waiting.last_number += 1;
                number = Some(waiting.last_number);
            }
            waiting.wakers.extend(number.map(|number| (number, context.waker().clone())));
        }
        drop(waiting);
        self.number = number;
        self.since.get_or_insert(calls);
        if is_notified { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // A run that has failed is taken down by the panic, and schedules nothing more.
        if let (Some(number), false) = (self.number, std::thread::panicking()) {
            self.notify.lock().wakers.retain(|(known, _)| *known != number);
        }
    }
}
