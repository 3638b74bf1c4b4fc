//! What the explorer leaves out changes nothing: small cells are explored whole, with all of the reader's and writer's steps one by
//! one and with those together that the reader cannot tell apart; with readers that are kept, and with readers that are led to each
//! state again. All must end with the same publications, and break the same rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use certsource_sim::case::Case;
use certsource_sim::disk::{Call, Traits};
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, Report, explore};
use certsource_sim::watches::Fate;
use certsource_sim::writers;

const MS: Duration = Duration::from_millis(1);
/// The first load is served, and its signatures are trusted.
const RESTS: Duration = Duration::from_secs(3);

/// A writer that begins while the reader rests, and is away for so long.
fn bounds(stall: Duration, fate: Fate) -> Bounds {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.start, bounds.start_after) = (RESTS, RESTS - MS);
    bounds.phases.clear();
    (bounds.preemptions, bounds.stall, bounds.linger, bounds.fate) = (1, stall, stall, fate);
    (bounds.states, bounds.moves) = (40_000, 400_000);
    // Some of these only take certificates away.
    (bounds.grace, bounds.stops_at_first) = (Duration::from_secs(5), false);
    bounds
}

fn kinds(report: &Report) -> BTreeSet<&'static str> {
    report.broken.iter().map(|(broken, _)| broken.kind()).collect()
}

/// Explores with and without the reduction, and without readers that are kept. Gives the rules that were broken, and how many states each took.
fn both(case: &Case, bounds: &Bounds) -> (BTreeSet<&'static str>, usize, usize) {
    let engine = Engine::new(Strategy::Notify);
    let [reduced, plain, led] = [(true, 20_000), (false, 20_000), (true, 0)].map(|(reduces, most_held)| {
        let bounds = Bounds { reduces, most_held, ..bounds.clone() };
        let report = explore(&engine, case, &Traits::default(), &bounds);
        assert!(!report.is_cut, "{}: {} states are not enough", case.name, report.states);
        report
    });
    println!(
        "{:30} {:?} {:4} ms: {:6} states, {:6} without the reduction; {} outcomes, {:?}",
        case.name,
        bounds.fate,
        bounds.stall.as_millis(),
        reduced.states,
        plain.states,
        plain.outcomes.len(),
        kinds(&plain)
    );
    assert_eq!(reduced.outcomes, plain.outcomes, "{}", case.name);
    // A reader that was led to a state again is the same as one that is still in it.
    let counts =
        |report: &Report| (report.states, report.moves, report.ends, report.outcomes.clone(), kinds(report));
    assert_eq!(counts(&reduced), counts(&led), "{}", case.name);
    assert_eq!(kinds(&reduced), kinds(&plain), "{}: {:?}", case.name, plain.broken);
    (kinds(&plain), reduced.states, plain.states)
}

/// The swap and what comes after it.
fn swap() -> Case {
    let mut case = writers::kubelet(common::kit(), 1, false);
    let is_swap = |call: &Call| matches!(call, Call::Rename(_, to) if to.ends_with("..data"));
    let at = case.steps.iter().position(|step| is_swap(&step.call)).unwrap();
    case.setup.extend(case.steps.drain(..at).map(|step| step.call));
    case
}

#[test]
fn whole_cells_end_the_same_way_without_the_reduction() {
    let kit = common::kit();
    let (mut with, mut without) = (0, 0);
    for case in [
        writers::in_place_loss(kit),
        writers::rename_with_backup(kit),
        writers::link_with_backup(kit),
        writers::flip_link(kit),
        writers::mapped(kit),
        writers::flip_directory_link(kit),
        writers::hangs(kit),
        writers::clock_back(kit),
        writers::agent_same_key(kit),
        swap(),
    ] {
        let (broken, reduced, plain) = both(&case, &bounds(999 * MS, Fate::Prompt));
        assert!(broken.is_empty(), "{}: {broken:?}", case.name);
        (with, without) = (with + reduced, without + plain);
    }
    // Two contents that are meant, so that histories differ in what was published.
    both(&writers::rename_twice(kit), &bounds(2 * MS, Fate::Prompt));
    assert!(with < without, "nothing was left out");
}

#[test]
fn the_same_rules_are_broken_without_the_reduction() {
    let kit = common::kit();
    // Longer than the settle time, which is shorter after a file was closed: half of what is meant stands still for too long.
    let mut found = BTreeSet::new();
    for (case, stall) in
        [(writers::in_place_append(kit), 101 * MS), (writers::rename_with_backup(kit), 1_001 * MS)]
    {
        found.extend(both(&case, &bounds(stall, Fate::Prompt)).0);
    }
    assert!(found.contains("not meant"), "{found:?}");
}

#[test]
fn events_that_come_late_end_the_same_way_without_the_reduction() {
    let kit = common::kit();
    for fate in [Fate::Late, Fate::Merged, Fate::Reordered, Fate::Overflow, Fate::Lost] {
        for case in
            [writers::link_with_backup(kit), writers::flip_directory_link(kit), writers::flip_link(kit)]
        {
            let mut bounds = bounds(MS, fate);
            bounds.grace += Duration::from_secs(60);
            both(&case, &bounds);
        }
    }
}
