//! Hooks: closures that are told events, in order, one at a time, on threads of the hub; never under a lock.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::event::Event;

/// So many events wait for slow hooks; past that the oldest are left out and counted.
const QUEUE: usize = 64;

pub(crate) type Hook = Box<dyn Fn(&Event) + Send + Sync>;

/// The hooks of one source and the events that wait for them.
pub(crate) struct Hooks {
    hooks: Vec<Hook>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    skipped: u64,
    running: bool,
}

impl Hooks {
    pub(crate) fn new(hooks: Vec<Hook>) -> Self {
        Self { hooks, queue: Mutex::default() }
    }

    /// Queues an event. Returns whether [`Hooks::run`] must be called on some thread.
    #[must_use]
    pub(crate) fn push(&self, event: Event) -> bool {
        if self.hooks.is_empty() {
            return false;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.events.len() >= QUEUE {
            queue.events.pop_front();
            queue.skipped += 1;
        }
        queue.events.push_back(event);
        !std::mem::replace(&mut queue.running, true)
    }

    /// Tells the hooks everything that is queued.
    pub(crate) fn run(&self) {
        loop {
            let event = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(mut event) = queue.events.pop_front() else {
                    queue.running = false;
                    return;
                };
                event.skipped = std::mem::take(&mut queue.skipped);
                event
            };
            for hook in &self.hooks {
                if catch_unwind(AssertUnwindSafe(|| hook(&event))).is_err() {
                    tracing::error!(origin = %event.origin, event = event.kind.as_str(), "a hook panicked");
                }
            }
        }
    }
}
