//! Faults of the library that the explorer found and that are not mended yet. Each test asserts that the fault is there
//! and prints the shortest history; when it fails, the fault is mended, and its exception goes from the other tests.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::disk::Traits;
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::writers;

/// Two equal reads, a settle time apart, are taken as content that stood still, although a look in between said that
/// it changed: here the key's file was cut and written again with the same bytes. The bundle comes last, and is old.
/// No pause of this writer is as long as the settle time.
#[test]
fn two_equal_reads_are_taken_as_standing_still_although_a_file_was_cut_in_between() {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.preemptions, bounds.start, bounds.phases) = (1, Duration::ZERO, Vec::new());
    let case = writers::in_place_same_key(common::kit());
    let report = explore(&Engine::new(Strategy::Mtime), &case, &Traits::default(), &bounds);
    let (broken, history) = report.broken.first().unwrap();
    println!("the same key: {broken}\n{history}");
    assert_eq!(broken.kind(), "not meant");
}
