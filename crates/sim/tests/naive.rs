//! The negative control: the same explorer and the same rules on a naive reader must find its faults. They are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::case::Case;
use certsource_sim::disk::Traits;
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::naive::Naive;
use certsource_sim::writers;

fn found(case: &Case, tick: Duration) -> Vec<&'static str> {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.stops_at_first, bounds.states) = (false, 20_000);
    let report = explore(&Naive::default(), case, &Traits { tick, ..Traits::default() }, &bounds);
    for (broken, history) in &report.broken {
        println!("naive, {} on a clock of {tick:?}: {broken}\n{history}", case.name);
    }
    report.broken.iter().map(|(broken, _)| broken.kind()).collect()
}

const FINE: Duration = Duration::from_nanos(1);

#[test]
fn a_torn_write_is_found() {
    assert!(found(&writers::in_place(common::kit()), FINE).contains(&"not meant"));
}

#[test]
fn a_time_that_goes_back_is_found() {
    // With the clock at rest the naive reader sees no change that has an older time.
    assert!(found(&writers::in_place_backwards(common::kit()), FINE).contains(&"late"));
    assert!(found(&writers::clock_back(common::kit()), FINE).contains(&"late"));
}

#[test]
fn two_changes_in_one_tick_are_found() {
    assert!(found(&writers::rename_thrice(common::kit()), Duration::from_secs(1)).contains(&"late"));
}

#[test]
fn a_mixed_pair_is_found() {
    assert!(found(&writers::agent(common::kit()), FINE).contains(&"not meant"));
}

#[test]
fn a_link_to_a_file_with_the_same_time_is_found() {
    assert!(found(&writers::flip_link(common::kit()), Duration::from_secs(1)).contains(&"late"));
}
