//! Every interleaving of each writer with each detector, on time stamps of each granularity, for invariants 1 and 4
//! to 6. What is bounded, and how to explore more, is in the README.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource::fs::Volume;
use certsource_sim::case::Case;
use certsource_sim::disk::Traits;
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::subject::{Spec, Subject as _};
use certsource_sim::watches::Fate;
use certsource_sim::writers;

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// The first load is served, and its signatures are trusted.
const RESTS: Duration = Duration::from_secs(3);

fn is_full() -> bool {
    std::env::var_os("CERTSOURCE_SIM_FULL").is_some()
}

/// The bounds of a cell: what the writer may do without leaving the stated limits, and how much of it is explored.
fn bounds(engine: &Engine, case: &Case, strategy: Strategy, fate: Fate) -> Bounds {
    let policy = engine.policy();
    // Where a closed file is taken as a hint that its writer is done, the limit for one that opens it again is shorter.
    let is_hinted = strategy == Strategy::Notify && case.reopens && matches!(case.spec, Spec::Trust(_));
    let mut bounds = Bounds::within(if is_hinted { policy.settle_closed } else { policy.settle });
    bounds.fate = fate;
    if case.name.contains("loss") {
        bounds.grace = policy.settle_loss;
    }
    if strategy == Strategy::Notify && fate == Fate::Lost {
        bounds.grace += policy.safety;
    }
    // Walking to every directory again and again makes the states of `Notify` dear.
    let is_dear = strategy == Strategy::Notify;
    bounds.states = number("CERTSOURCE_SIM_STATES").unwrap_or(match (is_full(), is_dear) {
        (true, false) => 100_000,
        (true, true) => 10_000,
        (false, false) => 4_000,
        (false, true) => 1_500,
    });
    bounds.moves = bounds.states * if is_full() { 3 } else { 2 };
    if !is_full() {
        (bounds.preemptions, bounds.start) = (1, 2500 * MS);
        bounds.phases.truncate(1);
    }
    bounds.preemptions = number("CERTSOURCE_SIM_PREEMPTIONS").unwrap_or(bounds.preemptions);
    bounds
}

/// Bounds that most cells are whole within, for those that are cut without them: the writer begins while the reader rests, or at
/// its next look, is away for no longer than the settle time, and moves at one access of a look or read. The newest state is the
/// first to go on, so that ends are reached in any case.
fn bounds_from_rest(engine: &Engine, case: &Case, strategy: Strategy, fate: Fate) -> Bounds {
    let mut bounds = bounds(engine, case, strategy, fate);
    // Where events wake the reader, any moment of its rest is as good as another; where it polls, its next look is waited for.
    let until = match (strategy, fate) {
        (Strategy::Notify, Fate::Lost) => engine.policy().safety,
        (Strategy::Notify, _) => Duration::ZERO,
        _ => engine.policy().interval,
    };
    (bounds.start, bounds.start_after) = (RESTS + until, RESTS - MS);
    bounds.phases.clear();
    (bounds.preemptions, bounds.linger, bounds.deep) = (1, bounds.stall, true);
    // The newest first, a state is cheap: its reader is mostly at hand, and few states wait.
    bounds.states = bounds.states.max(if is_full() { 150_000 } else { 3_000 });
    bounds.moves = bounds.states * if is_full() { 3 } else { 2 };
    bounds
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Explores all writers, prints a line a cell, and fails with the shortest history that breaks a rule.
fn cells(strategy: Strategy, traits: &Traits, fate: Fate, is_wanted: impl Fn(&Case) -> bool) {
    let only = std::env::var("CERTSOURCE_SIM_ONLY").unwrap_or_default();
    let mut failures = Vec::new();
    let (mut states, mut ends_in_all, mut seconds) = (0, 0, 0.0);
    let (mut all, mut whole, mut whole_from_rest) = (0, 0, 0);
    let cases = writers::all(common::kit());
    for case in cases.iter().filter(|case| is_wanted(case) && case.name.contains(&only)) {
        let engine = Engine::new(strategy);
        let what = format!("{strategy:?} {:?} {:?} {fate:?} {}", traits.tick, traits.volume, case.name);
        let wide = explore(&engine, case, traits, &bounds(&engine, case, strategy, fate));
        let mut ends = wide.ends;
        let from_rest = bounds_from_rest(&engine, case, strategy, fate);
        let rest = wide.is_cut.then(|| explore(&engine, case, traits, &from_rest));
        all += 1;
        whole += usize::from(!wide.is_cut);
        whole_from_rest += usize::from(rest.as_ref().is_some_and(|rest| !rest.is_cut));
        for (report, kind) in [(Some(wide), ""), (rest, "  (from rest)")] {
            let Some(report) = report else { continue };
            let cut = if report.is_cut { "  (cut)" } else { "" };
            let took = report.took.as_secs_f64();
            println!(
                "{what:52} {:8} states {:8} moves {:6} ends {took:8.2} s{cut}{kind}",
                report.states, report.moves, report.ends
            );
            (states, seconds, ends) = (states + report.states, seconds + took, ends.max(report.ends));
            ends_in_all += report.ends;
            for (broken, history) in report.broken {
                failures.push(format!("{what}: {broken}\n{history}"));
            }
        }
        if ends == 0 {
            failures.push(format!(
                "{what}: no end was reached, so nothing shows that the last content is served"
            ));
        }
    }
    println!(
        "{strategy:?} {:?} {fate:?}: {all} cells, {whole} whole, {whole_from_rest} more whole from rest; {states} states, \
         {ends_in_all} ends, {seconds:.1} s",
        traits.tick
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn ticking(tick: Duration) -> Traits {
    Traits { tick, ..Traits::default() }
}

/// In the normal run, coarse clocks are explored with the writers to which time stamps matter.
fn is_about_stamps(case: &Case) -> bool {
    is_full() || ["2 ", "3 ", "9 ", "15 ", "22 ", "23 "].iter().any(|row| case.name.starts_with(row))
}

macro_rules! strategies {
    ($($name:ident: $strategy:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn on_a_clock_of_1_ns() {
                cells($strategy, &ticking(Duration::from_nanos(1)), Fate::Prompt, |_| true);
            }

            #[test]
            fn on_a_clock_of_1_ms() {
                cells($strategy, &ticking(MS), Fate::Prompt, is_about_stamps);
            }

            #[test]
            fn on_a_clock_of_1_s() {
                cells($strategy, &ticking(SEC), Fate::Prompt, is_about_stamps);
            }

            #[test]
            fn on_a_clock_of_2_s() {
                cells($strategy, &ticking(2 * SEC), Fate::Prompt, is_about_stamps);
            }
        }
    )*};
}

strategies! {
    mtime: Strategy::Mtime;
    sha256: Strategy::Sha256;
    notify: Strategy::Notify;
}

/// Row 19: attributes are cached for 3 s, and the file system says that it is one of the network.
#[test]
fn mtime_on_a_network_file_system() {
    let traits = Traits { tick: SEC, volume: Volume::Remote, cached_for: 3 * SEC, ..Traits::default() };
    cells(Strategy::Mtime, &traits, Fate::Prompt, |case| is_full() || is_about_stamps(case));
}

/// A read that takes a file in pieces, between which it may be written.
#[test]
fn files_read_in_pieces() {
    let traits = Traits { read_most: 300, ..Traits::default() };
    cells(Strategy::Mtime, &traits, Fate::Prompt, |case| {
        is_full() || ["1 ", "2 ", "15 "].iter().any(|row| case.name.starts_with(row))
    });
}

macro_rules! fates {
    ($($name:ident: $fate:expr;)*) => {$(
        #[test]
        fn $name() {
            cells(Strategy::Notify, &ticking(Duration::from_nanos(1)), $fate, |case| {
                is_full() || ["1 in place, append", "3 ", "9 ", "12 agent, per", "16 directory replaced", "17 ", "20 goes"].iter().any(|row| case.name.starts_with(row))
            });
        }
    )*};
}

fates! {
    events_that_come_late: Fate::Late;
    events_that_are_merged: Fate::Merged;
    events_in_another_order: Fate::Reordered;
    events_that_overflow: Fate::Overflow;
    events_that_are_lost: Fate::Lost;
}

/// Content that changes between a look and the read after it, and comes back, once looked unchanged to `Sha256` for
/// ever. Explored without a bound on states, for a writer that begins with the reader.
#[test]
fn content_that_comes_back_while_it_is_read() {
    let mut bounds = Bounds::within(SEC);
    (bounds.preemptions, bounds.start) = (1, Duration::ZERO);
    bounds.phases.clear();
    let case = writers::update_and_revert(common::kit());
    for strategy in [Strategy::Mtime, Strategy::Sha256] {
        let report = explore(&Engine::new(strategy), &case, &Traits::default(), &bounds);
        println!("{strategy:?} {}: {} states, {:?}", case.name, report.states, report.took);
        assert!(report.broken.is_empty() && !report.is_cut, "{:?}", report.broken);
    }
}
