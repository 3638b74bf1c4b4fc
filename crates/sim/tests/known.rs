//! Faults of the library that the explorer found and that are not mended yet. Each test asserts that the fault is there
//! and prints the shortest history; when it fails, the fault is mended, and its exception goes from the other tests.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::disk::Traits;
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::writers;

/// The detector compares with what it saw at its look, not with what was read after it. Content that changes between
/// the two and comes back is adopted, and then never looks changed: invariant 5 is broken for ever.
#[test]
fn sha256_serves_for_ever_what_stood_only_while_it_was_read() {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.preemptions, bounds.start, bounds.phases) = (1, Duration::ZERO, Vec::new());
    let case = writers::update_and_revert(common::kit());
    // Not six looks later either.
    bounds.grace = Duration::from_secs(60);
    let report = explore(&Engine::new(Strategy::Sha256), &case, &Traits::default(), &bounds);
    let (broken, history) = report.broken.first().unwrap();
    println!("sha256: {broken}\n{history}");
    assert_eq!(broken.kind(), "late");
    // Of as many states none breaks a rule where time stamps tell such a change apart.
    bounds.states = report.states;
    let report = explore(&Engine::new(Strategy::Mtime), &case, &Traits::default(), &bounds);
    assert!(report.broken.is_empty(), "{:?}", report.broken);
}

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
