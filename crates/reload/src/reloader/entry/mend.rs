//! Building later what could not be built from a withdrawal. The withdrawal is published all the same, and the value is closed
//! until it is mended: by itself, after a growing pause, each on a thread of its own, so that one that hangs delays no other.

use super::*;
use crate::closed::Unbuilt;

impl Entry {
    /// The first value that is closed because it could not be built.
    pub(super) fn unbuilt(&self) -> Option<Unbuilt> {
        let slots = lock(&self.slots).clone();
        slots.iter().find_map(|slot| slot.upgrade()?.unbuilt())
    }

    /// Tries again after this pause.
    pub(super) fn mend_later(&self, pause: Duration) {
        let at = Instant::now() + pause;
        let me = self.me.clone();
        let id = self.hub.at(at, move || {
            if let Some(entry) = me.upgrade() {
                entry.mend(pause);
            }
        });
        // The pause begins anew with each generation that leaves a value behind.
        if let Some((at, id)) = lock(&self.mending).replace((at, id)) {
            self.hub.forget(at, id);
        }
    }

    fn mend(&self, pause: Duration) {
        let slots = lock(&self.slots).clone();
        let is_unbuilt =
            |slot: &Weak<dyn AnySlot>| slot.upgrade().is_some_and(|slot| slot.unbuilt().is_some());
        let unbuilt: Vec<_> = slots.into_iter().filter(is_unbuilt).collect();
        if unbuilt.is_empty() {
            return;
        }
        for slot in unbuilt {
            let me = self.me.clone();
            self.hub.run(move || {
                if let (Some(entry), Some(slot)) = (me.upgrade(), slot.upgrade()) {
                    entry.mend_value(&*slot);
                    discard(slot);
                }
            });
        }
        self.mend_later((pause * 2).min(self.longest_pause));
    }

    fn mend_value(&self, slot: &dyn AnySlot) {
        let Some(generation) = self.current() else { return };
        // A thread that hangs in it keeps others away, and comes back here if it returns.
        let Some(built) = slot.build_alone(&generation) else { return };
        let Ok(built) = built else { return };
        let (is_mended, replaced) = {
            // No generation is published between this look and its place.
            let _slots = lock(&self.slots);
            let is_current =
                self.current.load().as_ref().is_some_and(|now| now.number() == generation.number());
            let is_mended = is_current && slot.unbuilt().is_some();
            (is_mended, if is_mended { slot.publish(built) } else { built })
        };
        discard(replaced);
        if is_mended && self.unbuilt().is_none() {
            let _telling = lock(&self.telling);
            self.emit(EventKind::Recovered);
        }
    }
}
