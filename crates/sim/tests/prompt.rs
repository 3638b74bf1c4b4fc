//! Invariant 5 under notify: what was replaced in one step is served at once, without settling, however late its events
//! come, and whether they come before or after the look that sees their effect. Each is explored whole.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::case::Case;
use certsource_sim::disk::{Call, Traits};
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::watches::Fate;
use certsource_sim::writers;

const MS: Duration = Duration::from_millis(1);
/// Events come 50 ms late; the settle time is 1 s.
const AT_ONCE: Duration = Duration::from_millis(120);

fn is_at_once(case: &Case) {
    // When the reader is at rest, and when it makes the look of its safety poll.
    for begin in [Duration::from_secs(3), Duration::from_secs(62)] {
        for fate in [Fate::Prompt, Fate::Late, Fate::Merged, Fate::Reordered] {
            let mut bounds = Bounds::within(Duration::from_secs(1));
            (bounds.fate, bounds.end_within) = (fate, Some(AT_ONCE));
            (bounds.start_after, bounds.start) = (begin - MS, begin);
            (bounds.stall, bounds.linger, bounds.phases) = (MS, MS, Vec::new());
            let is_full = std::env::var_os("CERTSOURCE_SIM_FULL").is_some();
            (bounds.preemptions, bounds.states) = if is_full { (3, 200_000) } else { (1, 20_000) };
            let report = explore(&Engine::new(Strategy::Notify), case, &Traits::default(), &bounds);
            let what = format!("{begin:?} {fate:?} {}", case.name);
            println!("{what}: {} states, {} ends, {:?}", report.states, report.ends, report.took);
            assert!(report.broken.is_empty(), "{what}: {:?}", report.broken);
            assert!(!report.is_cut, "{what}: not explored whole");
            assert!(report.ends > 0, "{what}: no end was reached");
        }
    }
}

/// The swap and what comes after it; what comes before it is in nobody's way.
fn swap(keeps_old: bool) -> Case {
    let mut case = writers::kubelet(common::kit(), 1, keeps_old);
    let is_swap = |call: &Call| matches!(call, Call::Rename(_, to) if to.ends_with("..data"));
    let at = case.steps.iter().position(|step| is_swap(&step.call)).unwrap();
    case.setup.extend(case.steps.drain(..at).map(|step| step.call));
    case
}

#[test]
fn swaps_with_old_versions_removed() {
    is_at_once(&swap(false));
}

#[test]
fn swaps_with_old_versions_kept() {
    is_at_once(&swap(true));
}

#[test]
fn renames_of_one_file() {
    is_at_once(&writers::rename_twice(common::kit()));
}

#[test]
fn a_certificate_then_its_key() {
    is_at_once(&writers::agent(common::kit()));
}
