//! The places of the hub's sources. A number leads straight to its place: with thousands of sources, each look would
//! otherwise wait for the memory of a table's index too.

use std::sync::Weak;
use std::time::{Duration, Instant};

use crate::reloader::Entry;

/// What of a number is the index of a place; above it is counted how many sources there have been.
const INDEX: u32 = u32::BITS;
/// Numbers of tasks have this bit, those of sources never have it.
const TASK: u64 = 1 << 63;

/// One source, as the hub sees it.
pub(super) struct Slot {
    pub(super) entry: Weak<Entry>,
    pub(super) deadline: Duration,
    pub(super) run: Run,
    /// A wake-up came since a thread last took it up.
    pub(super) woken: bool,
    pub(super) next: Option<Instant>,
    /// Grows when a thread that hangs is given up: what it reports late is then ignored.
    pub(super) turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Idle,
    /// Queued because something asked for it.
    Asked,
    /// Queued because it is due. It may be asked for meanwhile, and is then queued once more.
    Due,
    Running,
    /// Running, and asked for again.
    Again,
}

impl Slot {
    pub(super) fn new(entry: Weak<Entry>, deadline: Duration) -> Self {
        Self { entry, deadline, run: Run::Idle, woken: false, next: None, turn: 0 }
    }

    /// Something asks for it. Returns whether it goes into the queue.
    pub(super) fn ask(&mut self) -> bool {
        let (run, grows) = match self.run {
            // What is due stands behind all that is due with it.
            Run::Idle | Run::Due => (Run::Asked, true),
            Run::Running => (Run::Again, false),
            other => (other, false),
        };
        self.run = run;
        grows
    }

    /// It is due. Returns whether it goes into the queue.
    pub(super) fn fall_due(&mut self) -> bool {
        let (run, grows) = match self.run {
            Run::Idle => (Run::Due, true),
            Run::Running => (Run::Again, false),
            other => (other, false),
        };
        self.run = run;
        grows
    }

    /// A thread takes a job of it from the queue. `false`: another one has been done for it.
    pub(super) fn take_up(&mut self) -> bool {
        let is_queued = matches!(self.run, Run::Asked | Run::Due);
        if is_queued {
            self.run = Run::Running;
        }
        is_queued
    }
}

/// All sources of a hub.
pub(super) type Slots = Places<Slot>;

/// Things by number.
pub(super) struct Places<T> {
    places: Vec<(u64, Option<T>)>,
    free: Vec<u32>,
    last: u64,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), last: 0 }
    }
}

impl<T> Places<T> {
    /// A number of which there is no second, and a place for it until it is removed.
    pub(super) fn reserve(&mut self) -> u64 {
        self.last += 1;
        let count = self.last << INDEX & !TASK;
        if let Some(index) = self.free.pop() {
            let number = count | u64::from(index);
            if let Some(place) = self.places.get_mut(index as usize) {
                *place = (number, None);
            }
            return number;
        }
        let number = count | self.places.len() as u64;
        self.places.push((number, None));
        number
    }

    /// A number of which there is no second, without a place.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last | TASK
    }

    /// Puts something into the place that was reserved.
    pub(super) fn put(&mut self, number: u64, value: T) {
        if let Some(place) = self.place(number) {
            place.1 = Some(value);
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        if number & TASK != 0 {
            return None;
        }
        self.places.get(number as u32 as usize).filter(|place| place.0 == number)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.place(number)?.1.as_mut()
    }

    /// Frees the place.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let place = self.place(number)?;
        let value = std::mem::take(place).1;
        self.free.push(number as u32);
        if self.free.len() == self.places.len() {
            *self = Self { last: self.last, ..Self::default() };
        }
        value
    }

    pub(super) fn len(&self) -> usize {
        self.places.iter().filter(|(_, value)| value.is_some()).count()
    }

    fn place(&mut self, number: u64) -> Option<&mut (u64, Option<T>)> {
        if number & TASK != 0 {
            return None;
        }
        self.places.get_mut(number as u32 as usize).filter(|place| place.0 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_and_then_asked_for_is_queued_again_and_driven_once() {
        let mut slot = Slot::new(Weak::new(), Duration::from_secs(1));
        assert!(slot.fall_due() && !slot.fall_due(), "a job among what is due");
        assert!(slot.ask() && !slot.ask(), "and one that comes sooner");
        assert!(slot.take_up() && !slot.take_up(), "the first that is taken does for both");
        assert!(!slot.fall_due() && !slot.ask(), "it runs, and runs again");
        assert!(slot.run == Run::Again);
        slot.run = Run::Idle;
        assert!(!slot.take_up(), "a job that was left over");
    }

    #[test]
    fn a_number_leads_to_its_own_value_only_and_to_none_once_it_is_removed() {
        let mut places = Places::default();
        let get = |places: &mut Places<&'static str>, number| places.get_mut(number).copied();
        let (one, two, task) = (places.reserve(), places.reserve(), places.number());
        assert_eq!(get(&mut places, one), None);
        places.put(one, "one");
        places.put(two, "two");
        places.put(task, "task");
        assert_eq!((get(&mut places, one), get(&mut places, two)), (Some("one"), Some("two")));
        assert_eq!((get(&mut places, task), places.len()), (None, 2));
        assert_eq!((places.remove(one), places.remove(one)), (Some("one"), None));
        // Its place is given away again, and the old number does not lead there.
        let three = places.reserve();
        places.put(three, "three");
        places.put(one, "late");
        assert_eq!((get(&mut places, one), get(&mut places, three)), (None, Some("three")));
        assert_eq!(places.places.len(), 2);
        assert_eq!((places.remove(two), places.remove(three)), (Some("two"), Some("three")));
        assert_eq!((get(&mut places, three), places.places.len()), (None, 0));
        // No number comes back, also after all places were given up.
        let four = places.reserve();
        assert!(![one, two, three, task].contains(&four));
    }
}
