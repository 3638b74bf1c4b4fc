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
