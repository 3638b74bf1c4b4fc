//! Spreading over a fleet: what only adds waits for a random moment, so that not every process connects anew at once.
//!
//! What is not here: anything that is withdrawn, which never waits.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Now;
use crate::digest::ContentId;
use crate::machine::Machine;
use crate::machine::memory::Step;
use crate::material::Material;

/// Content that is ready and waits for its moment. Other content draws another one.
pub(super) struct Turn {
    content: ContentId,
    at: Instant,
}

impl Machine {
    /// Something may have changed, and somebody needs it: the next content waits for no turn.
    pub fn hurry(&mut self, now: Now) {
        self.woken(now);
        self.hurried = true;
    }

    /// Goes on with content that may be published, as read from `began` on, or lets it wait for its turn. When that has come,
    /// it is read once more: what moved meanwhile begins anew.
    pub(super) fn take_turn(
        &mut self,
        began: Now,
        now: Now,
        material: Arc<Material>,
        next: fn(Arc<Material>) -> Step,
    ) {
        if let Some(at) = self.turn(now, &material).filter(|at| began.mono < *at) {
            self.must_read = true;
            self.step = Step::Rest(at);
        } else {
            self.step = next(material);
        }
    }

    fn turn(&mut self, now: Now, material: &Material) -> Option<Instant> {
        let within = self.policy.adopt_within;
        let is_wanted = self.demands > self.concluded || self.hurried || self.is_stale();
        let only_adds = |current: &Material| material.only_adds(current, now.wall, now.wall + within);
        if within.is_zero()
            || is_wanted
            || !self.current.as_ref().is_some_and(|current| only_adds(&current.plain))
        {
            self.turn = None;
            return None;
        }
        let content = material.content_id();
        let known = self.turn.as_ref().filter(|turn| turn.content == content).map(|turn| turn.at);
        let at = known.unwrap_or_else(|| now.mono + self.spread.within(within));
        self.turn = Some(Box::new(Turn { content, at }));
        Some(at)
    }
}
