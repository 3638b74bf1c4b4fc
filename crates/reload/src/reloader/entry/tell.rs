//! Carrying out what the machine decided: publishing, telling, answering.

use certsource::machine::{Publication, Told};

use super::judge::Prepared;
use super::*;
use crate::closed::Unbuilt;
use crate::derived::Built;

pub(super) type Answer = Box<dyn FnOnce(Result<Arc<Generation>, Error>) + Send>;

/// Who waits for what.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) first: Option<First>,
    pub(super) demands: Vec<(u64, Answer)>,
}

pub(super) struct First {
    pub(super) until: Option<Instant>,
    pub(super) last: Option<Error>,
    pub(super) answer: Answer,
}

/// What an operator should see to, in words: of the served generation, and since.
#[derive(Default)]
pub(super) struct Notes {
    serving: Option<String>,
    since: Option<String>,
}

impl Notes {
    pub(super) fn newest(&self) -> Option<String> {
        self.since.clone().or_else(|| self.serving.clone())
    }
}

pub(super) fn degraded_by(error: &Error) -> String {
    format!("what was withdrawn is gone; the rest is the last good one, because something is broken: {error}")
}

/// What is left to do after a generation was published, where the list of derived values is not held any more.
enum Act {
    Emit(EventKind),
    Published { previous: Option<Arc<Generation>>, reload: Reload, unbuilt: Option<Unbuilt> },
    Close(Arc<Generation>, Stale),
    AnswerFirst(Option<Error>),
    Conclude(u64, Result<u64, Error>),
}

type Slots<'a> = MutexGuard<'a, Vec<Weak<dyn AnySlot>>>;

impl Entry {
    pub(super) fn carry_out(&self) {
        self.tell(lock(&self.telling), None);
    }

    /// Carries out what the machine decided, in its order. `publishing`: what a publication among it needs.
    pub(super) fn tell(
        &self,
        telling: MutexGuard<'_, ()>,
        publishing: Option<(Slots<'_>, Option<Prepared>)>,
    ) {
        let (mut slots, mut prepared) = publishing.map_or((None, None), |(slots, p)| (Some(slots), p));
        let (mut acts, mut replaced) = (Vec::new(), Vec::new());
        loop {
            let told = lock(&self.machine).tell();
            let Some(told) = told else { break };
            match told {
                Told::Published(publication) => {
                    let (Some(slots), Some(prepared)) = (slots.as_mut(), prepared.take()) else {
                        // Cannot be: the machine publishes what was judged, and that is reported with both in hand.
                        tracing::error!(origin = %self.origin, "a generation that was not built is not published");
                        continue;
                    };
                    acts.push(self.publish(slots, prepared, publication, &mut replaced));
                    acts.push(Act::AnswerFirst(None));
                    if let Some(error) = self.current.load().as_ref().and_then(|g| g.degraded().cloned()) {
                        acts.push(Act::Emit(EventKind::Degraded(degraded_by(&error))));
                    }
                }
                Told::Pending(error) => acts.push(Act::Emit(EventKind::Pending(self.failure(error)))),
                Told::Failed(error) => {
                    acts.push(Act::Emit(EventKind::Failed(self.failure(error.clone()))));
                    acts.push(Act::AnswerFirst(Some(error)));
                }
                Told::Refused(error) => {
                    acts.push(Act::Emit(EventKind::Rejected(self.failure(error.clone()))));
                    acts.push(Act::AnswerFirst(Some(error)));
                }
                Told::Recovered => acts.push(Act::Emit(EventKind::Recovered)),
                Told::Degraded(why) => {
                    // What the arming says is read from the machine, which knows when it is over.
                    let is_arming = *lock(&self.machine).arming() == Armed::Degraded(why.clone());
                    if !is_arming {
                        lock(&self.notes).since = Some(why.clone());
                    }
                    acts.push(Act::Emit(EventKind::Degraded(why)));
                }
                Told::Stale(stale) => {
                    // Before the signal: who has seen that finds the reason.
                    self.stale.store(Some(Arc::new(stale.clone())));
                    acts.extend(self.current().map(|last| Act::Close(last, stale)));
                }
                Told::Expired => acts.extend(self.current().map(EventKind::Expired).map(Act::Emit)),
                Told::Expiring(expiring) => acts.push(Act::Emit(EventKind::Expiring(expiring))),
                Told::Regressed(regressed) => acts.push(Act::Emit(EventKind::Regressed(regressed))),
                Told::Concluded { ticket, result } => acts.push(Act::Conclude(ticket, result)),
                _ => {}
            }
        }
        drop(slots);
        for act in acts {
            match act {
                Act::Emit(kind) => self.emit(kind),
                Act::Published { previous, reload, unbuilt } => {
                    self.announce(previous, reload);
                    if let Some(unbuilt) = unbuilt {
                        self.emit(EventKind::Degraded(unbuilt.to_string()));
                        self.mend_later(self.first_pause);
                    }
                }
                Act::Close(last, stale) => {
                    last.retired().retire();
                    self.emit(EventKind::Stale(stale));
                    self.emit(EventKind::Retired(last.number()));
                }
                Act::AnswerFirst(error) => self.answer_first(error),
                Act::Conclude(ticket, result) => self.conclude(ticket, &result),
            }
        }
        drop(telling);
        discard(prepared);
        replaced.into_iter().for_each(discard);
    }

    /// Replaces the generation and every derived value.
    fn publish(
        &self,
        slots: &mut Vec<Weak<dyn AnySlot>>,
        prepared: Prepared,
        publication: Publication,
        replaced: &mut Vec<Built>,
    ) -> Act {
        slots.retain(|slot| slot.strong_count() > 0);
        let Prepared { generation, built } = prepared;
        debug_assert_eq!(generation.number(), publication.number);
        debug_assert!(Arc::ptr_eq(generation.material(), &publication.material));
        generation.publish();
        // The derived values first: whoever has seen the new generation finds every value built from it. The other way
        // round, for a moment a generation would be current that nothing was made from yet.
        let mut unbuilt = None;
        for (slot, value) in built {
            match (slot.upgrade(), value) {
                (Some(slot), Ok(value)) => replaced.push(slot.publish(value)),
                (Some(slot), Err(error)) => {
                    let is_missed = Unbuilt { generation: generation.number(), error };
                    unbuilt.get_or_insert_with(|| is_missed.clone());
                    slot.miss(is_missed);
                }
                (None, Ok(value)) => replaced.push(value),
                (None, Err(_)) => {}
            }
        }
        let previous = self.current.swap(Some(Arc::clone(&generation)));
        self.stale.store(None);
        let mut notes = lock(&self.notes);
        notes.serving = notes.since.take();
        Act::Published { previous, reload: Reload { generation, diff: publication.diff }, unbuilt }
    }

    /// The signals come when everything is replaced.
    fn announce(&self, previous: Option<Arc<Generation>>, reload: Reload) {
        if let Some(numbers) = self.numbers.get() {
            let new = reload.generation.number();
            // Who began to watch since it became current has seen it.
            numbers.send_if_modified(|number| std::mem::replace(number, new) != new);
        }
        match previous {
            None => self.emit(EventKind::Loaded(reload)),
            Some(previous) => {
                // One that was given up as stale has been told.
                let was_served = !previous.retired().is_retired();
                previous.retired().retire();
                self.emit(EventKind::Reloaded(reload));
                if was_served {
                    self.emit(EventKind::Retired(previous.number()));
                }
            }
        }
    }

    fn failure(&self, error: Error) -> Failure {
        let served = self.current.load();
        let serving = served.as_ref().filter(|_| self.stale.load().is_none()).map(|served| served.number());
        Failure { error, serving, withdrawal_pending: lock(&self.machine).is_withdrawal_pending() }
    }

    /// Tells an event to subscribers, hooks and, where nobody else hears of it, to `tracing`.
    pub(super) fn emit(&self, kind: EventKind) {
        crate::trace::event(&self.origin, &kind, self.failures_are_hooked);
        let at = SystemTime::now();
        #[cfg(feature = "metrics")]
        crate::metrics::event(&self.origin, &kind);
        self.show();
        let event = Event { at, origin: self.origin.clone(), kind, skipped: 0 };
        if self.hooks.push(event.clone()) {
            let hooks = Arc::clone(&self.hooks);
            self.hub.run(move || hooks.run());
        }
        if let Some(events) = self.events.get() {
            // An error means that nobody is subscribed any more.
            let _ = events.send(event);
        }
    }

    fn conclude(&self, ticket: u64, result: &Result<u64, Error>) {
        let due: Vec<(u64, Answer)> = {
            let mut waiting = lock(&self.waiting);
            let (due, left) =
                std::mem::take(&mut waiting.demands).into_iter().partition(|(of, _)| *of <= ticket);
            waiting.demands = left;
            due
        };
        let result = result.clone().and_then(|_| self.current().ok_or_else(|| gone(self)));
        for (_, answer) in due {
            answer(result.clone());
        }
        self.answer_first(result.err());
    }

    /// Answers whoever waits for the first load, if it is decided: a generation, or an error past the deadline.
    pub(super) fn answer_first(&self, error: Option<Error>) {
        let mut waiting = lock(&self.waiting);
        let Some(first) = &mut waiting.first else { return };
        first.last = error.or_else(|| first.last.take());
        let result = match (self.current(), &first.last) {
            (Some(generation), _) => Ok(generation),
            (None, last) if first.until.is_none_or(|until| until <= Instant::now()) => match last {
                Some(error) => Err(error.clone()),
                None if first.until.is_some() => Err(Error::new(
                    Reason::TimedOut,
                    "the first load did not end in time: the content did not stand still yet, or the disk hangs",
                )
                .of(self.origin.clone())),
                None => return,
            },
            _ => return,
        };
        let first = waiting.first.take();
        drop(waiting);
        if let Some(first) = first {
            (first.answer)(result);
        }
    }

    /// There will be no first load.
    pub(super) fn refuse_first(&self, error: Error) {
        let first = lock(&self.waiting).first.take();
        if let Some(first) = first {
            (first.answer)(Err(error));
        }
    }
}
