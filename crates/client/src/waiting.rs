//! [`Alarm`]: wakes the attempts that wait when their generation is replaced.
//!
//! tokio's `Notify`, which tells of the retirement, costs twice as much for each attempt, and its future can not be moved.
//! So one future of the lane waits there, and all attempts wait here.
//!
//! `crates/model` runs this very file under a scheduler that tries interleavings; so it names no type of `std::sync`
//! or tokio but those of [`crate::sync`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Mutex, Retired};

/// So many places are kept when nobody waits any more: a peak must not be held for the life of a generation.
const KEPT: usize = 1024;

/// Those of a lane that wait.
#[derive(Default)]
struct Waiting(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// Who waits at each place, if anyone does and was not woken.
    wakers: Vec<Option<Waker>>,
    /// The places that are nobody's.
    free: Vec<usize>,
}

impl Waiting {
    /// A place for who is woken by this.
    fn add(&self, waker: Waker) -> usize {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.free.pop() {
            places.wakers[place] = Some(waker);
            return place;
        }
        places.wakers.push(Some(waker));
        places.wakers.len() - 1
    }

    /// The one at this place is woken by this from now on.
    fn set(&self, place: usize, waker: &Waker) {
        let before = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = &mut places.wakers[place];
            if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                return;
            }
            known.replace(waker.clone())
        };
        drop(before);
    }

    fn remove(&self, place: usize) {
        let waker = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.free.push(place);
            let waker = places.wakers[place].take();
            if places.free.len() == places.wakers.len() && places.wakers.len() > KEPT {
                *places = Places::default();
            }
            waker
        };
        // A waker is someone else's: so under no lock.
        drop(waker);
    }
}

/// Wakes all that wait: [`Alarm`] is polled with this.
impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let wakers = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wakers = Vec::with_capacity(places.wakers.len() - places.free.len());
            wakers.extend(places.wakers.iter_mut().filter_map(Option::take));
            wakers
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Wakes all that wait when the generation is replaced.
pub(crate) struct Alarm {
    waiting: Arc<Waiting>,
    /// It is polled no more. It stays registered.
    _retirement: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Alarm {
    pub(crate) fn set(retired: &Retired) -> Self {
        let waiting = Arc::new(Waiting::default());
        let mut retirement: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(retired.wait());
        // If it is replaced already, who comes to wait sees it.
        let _ = retirement.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waiting))));
        Self { waiting, _retirement: Mutex::new(retirement) }
    }
}

/// Resolves when the generation has been replaced or given up: never, if nobody follows the source any more.
pub(crate) struct Replaced<'a> {
    retired: &'a Retired,
    waiting: &'a Waiting,
    place: Option<usize>,
}

impl<'a> Replaced<'a> {
    /// `alarm` is that of `retired`.
    pub(crate) fn new(retired: &'a Retired, alarm: &'a Alarm) -> Self {
        Self { retired, waiting: &alarm.waiting, place: None }
    }
}

impl Future for Replaced<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Registered before the flag is looked at, so that a signal in between is not lost.
        match self.place {
            Some(place) => self.waiting.set(place, context.waker()),
            None => self.place = Some(self.waiting.add(context.waker().clone())),
        }
        if self.retired.is_retired() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.waiting.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(replaced: &mut Replaced<'_>, count: &Arc<Count>) -> Poll<()> {
        Pin::new(replaced).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    #[test]
    fn who_is_polled_by_another_task_is_woken_by_the_last_and_who_is_gone_is_not() {
        let retired = Retired::default();
        let alarm = Alarm::set(&retired);
        let [first, second, gone] = [(); 3].map(|()| Arc::new(Count::default()));
        let mut moved = Replaced::new(&retired, &alarm);
        let mut dropped = Replaced::new(&retired, &alarm);
        assert!(poll(&mut moved, &first).is_pending() && poll(&mut moved, &second).is_pending());
        assert!(poll(&mut moved, &second).is_pending() && poll(&mut dropped, &gone).is_pending());
        drop(dropped);
        Arc::clone(&alarm.waiting).wake();
        let woken = [&first, &second, &gone].map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1, 0]);
        assert_eq!(Arc::strong_count(&gone), 1, "its waker is gone");
    }

    #[test]
    fn places_are_used_again() {
        let retired = Retired::default();
        let alarm = Alarm::set(&retired);
        let count = Arc::new(Count::default());
        for _ in 0..10 {
            let mut two = [(); 2].map(|()| Replaced::new(&retired, &alarm));
            assert!(two.iter_mut().all(|one| poll(one, &count).is_pending()));
        }
        let count_of = || {
            let places = alarm.waiting.0.lock().unwrap();
            (places.wakers.len(), places.free.len())
        };
        assert_eq!(count_of(), (2, 2));
        let mut peak: Vec<_> = (0..=KEPT).map(|_| Replaced::new(&retired, &alarm)).collect();
        assert!(peak.iter_mut().all(|one| poll(one, &count).is_pending()));
        let last = peak.pop();
        drop(peak);
        assert_eq!(count_of(), (KEPT + 1, KEPT));
        drop(last);
        assert_eq!(count_of(), (0, 0), "a peak is not kept");
    }
}
