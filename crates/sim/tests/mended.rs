//! Faults that the explorer found in the library and that are mended: each with the history that showed it.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::disk::Traits;
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::writers;

/// Two equal reads, a settle time apart, were taken as content that stood still, although a look in between said that
/// it changed: here the key's file was cut and written again with the same bytes. The bundle comes last, and is old.
/// No pause of this writer is as long as the settle time.
#[test]
fn equal_reads_are_not_standing_still_when_a_file_was_cut_in_between() {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.preemptions, bounds.start, bounds.phases) = (1, Duration::ZERO, Vec::new());
    bounds.states = 20_000;
    let case = writers::in_place_same_key(common::kit());
    let report = explore(&Engine::new(Strategy::Mtime), &case, &Traits::default(), &bounds);
    assert!(report.broken.is_empty(), "{:?}", report.broken);
}
