//! Judging a candidate: the checks are asked and every derived value is built, on an I/O thread, with a deadline and
//! under no lock. What is decided is carried out in the same breath, so that no derived value is left behind: but for
//! those that can not be built from a withdrawal, which are closed, and built later (`entry/mend.rs`).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use certsource::clock::Now;
use certsource::machine::{Candidate, Verdict};

use super::*;
use crate::derived::Built;

/// So many threads may hang in one source's checks, or in its derive closures, before those are not called any more
/// until one comes back.
const HUNG: u32 = 4;

/// The judgement that is out, if one is, and those that were given up.
#[derive(Default)]
pub(super) struct Judging {
    last: u64,
    out: Option<Judgement>,
    /// Threads that hang: in checks, in derive closures.
    hung: [u32; 2],
}

impl Judging {
    pub(super) fn forget(&mut self) {
        self.out = None;
    }
}

struct Judgement {
    number: u64,
    at: Place,
    can_be_refused: bool,
    /// What was built so far. Where a "no" does not count, it is published when the rest hangs.
    prepared: Option<Prepared>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Checks = 0,
    Values = 1,
}

/// A generation and the derived values that were built from it, or why one could not be.
pub(super) struct Prepared {
    pub(super) generation: Arc<Generation>,
    pub(super) built: Vec<(Weak<dyn AnySlot>, Result<Built, Error>)>,
}

impl Prepared {
    fn missing(&self, slots: &[Weak<dyn AnySlot>]) -> Vec<Weak<dyn AnySlot>> {
        // By address: there may be thousands, and this is asked with locks held.
        let address = |slot: &Weak<dyn AnySlot>| slot.as_ptr().cast::<()>();
        let built: HashSet<_> = self.built.iter().map(|(known, _)| address(known)).collect();
        let is_alive = |slot: &&Weak<dyn AnySlot>| slot.strong_count() > 0;
        slots.iter().filter(is_alive).filter(|slot| !built.contains(&address(slot))).cloned().collect()
    }

    /// What is still missing is not waited for.
    fn give_up(&mut self, slots: &[Weak<dyn AnySlot>], error: &Error) {
        let missing = self.missing(slots);
        self.built.extend(missing.into_iter().map(|slot| (slot, Err(error.clone()))));
    }
}

/// The judgement was given up: another thread goes on with the source.
struct GivenUp;

impl Entry {
    /// Judges, reports and carries out. `false`: it was given up meanwhile.
    pub(super) fn judge(&self, candidate: &Candidate) -> bool {
        let number = {
            let mut judging = lock(&self.judging);
            judging.last += 1;
            let (number, can_be_refused) = (judging.last, candidate.can_be_refused);
            judging.out = Some(Judgement { number, at: Place::Checks, can_be_refused, prepared: None });
            number
        };
        let mut place = Place::Checks;
        let done = self
            .ask(number, candidate, &mut place)
            .and_then(|verdict| self.conclude_judgement(number, candidate, verdict, &mut place));
        if done.is_err() {
            lock(&self.judging).hung[place as usize] -= 1;
        }
        done.is_ok()
    }

    /// The checks first, since they are cheap to say no; but where their "no" does not count, the values first, so that
    /// a check that hangs holds back nothing.
    fn ask(&self, number: u64, candidate: &Candidate, place: &mut Place) -> Result<Verdict, GivenUp> {
        if candidate.can_be_refused {
            self.enter(number, place, Place::Checks)?;
            let verdict = self.ask_gates(candidate);
            if !matches!(verdict, Verdict::Accept) {
                return Ok(verdict);
            }
            self.enter(number, place, Place::Values)?;
            return self.prepare(number, candidate);
        }
        self.enter(number, place, Place::Values)?;
        let verdict = self.prepare(number, candidate)?;
        if !matches!(verdict, Verdict::Accept) {
            return Ok(verdict);
        }
        self.enter(number, place, Place::Checks)?;
        Ok(self.ask_gates(candidate))
    }

    fn enter(&self, number: u64, place: &mut Place, at: Place) -> Result<(), GivenUp> {
        let mut judging = lock(&self.judging);
        let out = judging.out.as_mut().filter(|out| out.number == number).ok_or(GivenUp)?;
        out.at = at;
        *place = at;
        Ok(())
    }

    fn hang_too_often(&self, place: Place, what: &str) -> Option<Error> {
        let hung = lock(&self.judging).hung[place as usize];
        (hung >= HUNG).then(|| {
            let message =
                format!("{hung} calls of {what} hang, so it is not called again before one of them returns");
            Error::new(Reason::TimedOut, message).of(self.origin.clone())
        })
    }

    fn ask_gates(&self, candidate: &Candidate) -> Verdict {
        if self.gates.is_empty() {
            return Verdict::Accept;
        }
        if let Some(error) = self.hang_too_often(Place::Checks, "the checks before publishing") {
            return if candidate.can_be_refused { Verdict::Unusable(error) } else { Verdict::Refuse(error) };
        }
        for gate in &self.gates {
            let verdict = catch_unwind(AssertUnwindSafe(|| gate.judge(candidate)))
                .unwrap_or_else(|_| Verdict::Refuse(panicked("a check before publishing")));
            if !matches!(verdict, Verdict::Accept) {
                return verdict;
            }
        }
        Verdict::Accept
    }

    fn prepare(&self, number: u64, candidate: &Candidate) -> Result<Verdict, GivenUp> {
        let slots = lock(&self.slots).clone();
        let next = self.current.load().as_ref().map_or(0, |generation| generation.number()) + 1;
        let (material, degraded) = (Arc::clone(&candidate.material), candidate.degraded.clone());
        let generation = Arc::new(Generation::new(next, material, degraded));
        let built = Vec::with_capacity(slots.len());
        {
            let mut judging = lock(&self.judging);
            let out = judging.out.as_mut().filter(|out| out.number == number).ok_or(GivenUp)?;
            out.prepared = Some(Prepared { generation: Arc::clone(&generation), built });
        }
        self.build(number, candidate, &generation, slots)
    }

    /// Builds these values. One that can not be built refuses the candidate; where that can not be refused, it is said of
    /// that value alone.
    fn build(
        &self,
        number: u64,
        candidate: &Candidate,
        generation: &Arc<Generation>,
        slots: Vec<Weak<dyn AnySlot>>,
    ) -> Result<Verdict, GivenUp> {
        let hung = self.hang_too_often(Place::Values, "the closures that build derived values");
        for weak in slots {
            let Some(slot) = weak.upgrade() else { continue };
            let built = hung.as_ref().map_or_else(|| slot.build(generation), |error| Err(error.clone()));
            let built = built.map_err(|error| self.placed(error));
            discard(slot);
            let mut judging = lock(&self.judging);
            let Some(out) = judging.out.as_mut().filter(|out| out.number == number) else {
                drop(judging);
                discard(built);
                return Err(GivenUp);
            };
            match (built, &mut out.prepared) {
                (Err(error), prepared) if candidate.can_be_refused => {
                    let prepared = prepared.take();
                    drop(judging);
                    discard(prepared);
                    return Ok(Verdict::Unusable(error));
                }
                (built, Some(prepared)) => prepared.built.push((weak, built)),
                (built, None) => {
                    drop(judging);
                    discard(built);
                    return Ok(Verdict::Unusable(panicked("judging")));
                }
            }
        }
        Ok(Verdict::Accept)
    }

    fn placed(&self, error: Error) -> Error {
        if error.origin().is_none() { error.of(self.origin.clone()) } else { error }
    }

    /// Reports the verdict and carries out what the machine makes of it. Values that were derived meanwhile are built
    /// first: then none can come in between, as the list is held until the generation is published.
    fn conclude_judgement(
        &self,
        number: u64,
        candidate: &Candidate,
        mut verdict: Verdict,
        place: &mut Place,
    ) -> Result<(), GivenUp> {
        loop {
            let telling = lock(&self.telling);
            let slots = lock(&self.slots);
            let mut judging = lock(&self.judging);
            let out = judging.out.as_mut().filter(|out| out.number == number).ok_or(GivenUp)?;
            let late = out.prepared.as_ref().map(|prepared| {
                let missing = prepared.missing(&slots);
                (Arc::clone(&prepared.generation), missing)
            });
            let late = late.filter(|(_, missing)| !missing.is_empty());
            let Some((generation, missing)) = late else {
                let prepared = judging.out.take().and_then(|out| out.prepared);
                drop(judging);
                if prepared.is_none() && matches!(verdict, Verdict::Accept) {
                    verdict = Verdict::Unusable(panicked("judging"));
                }
                lock(&self.machine).judged(Now::read(), verdict);
                self.tell(telling, Some((slots, prepared)));
                return Ok(());
            };
            drop((judging, slots, telling));
            self.enter(number, place, Place::Values)?;
            let built = self.build(number, candidate, &generation, missing)?;
            if !matches!(built, Verdict::Accept) {
                verdict = built;
            }
        }
    }

    /// Gives up the judgement that is out, if one is. What may not be held back is published: without the values that hang,
    /// if it is those.
    pub(super) fn give_up_judgement(&self) -> bool {
        let telling = lock(&self.telling);
        let slots = lock(&self.slots);
        let mut judging = lock(&self.judging);
        let Some(mut out) = judging.out.take() else { return false };
        judging.hung[out.at as usize] += 1;
        drop(judging);
        let message = match out.at {
            Place::Checks => "a check before publishing took too long; it counts as a no",
            Place::Values => "building a derived value took too long; it counts as a failure",
        };
        let error = Error::new(Reason::TimedOut, message).of(self.origin.clone());
        let verdict = match (&mut out.prepared, out.at) {
            (Some(prepared), at) if !out.can_be_refused => {
                prepared.give_up(&slots, &error);
                if at == Place::Checks { Verdict::Refuse(error) } else { Verdict::Accept }
            }
            _ => Verdict::Unusable(error),
        };
        lock(&self.machine).judged(Now::read(), verdict);
        self.tell(telling, Some((slots, out.prepared)));
        true
    }
}
