//! The stated limit of invariant 6, exceeded: these tests assert that the explorer FINDS a history that publishes what
//! no writer meant, and print the shortest one, so that the documents can show it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::case::{Case, Step};
use certsource_sim::disk::{Call, Traits};
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, Broken, explore};
use certsource_sim::writers;

const MS: Duration = Duration::from_millis(1);

/// The shortest history with a writer that is away for so long.
fn exceed(title: &str, strategy: Strategy, case: &Case, stall: Duration) -> Option<(Broken, Vec<String>)> {
    let mut bounds = Bounds::within(Duration::from_secs(1));
    (bounds.stall, bounds.preemptions, bounds.states) = (stall, 1, 60_000);
    bounds.grace = Duration::from_secs(5);
    (bounds.start, bounds.phases) = (2500 * MS, Vec::new());
    if stall > Duration::from_secs(2) {
        // Only what was loaded can be lost; the next look after that comes at the interval.
        (bounds.start_after, bounds.start) = (3000 * MS, 12_500 * MS);
    }
    if strategy == Strategy::Notify {
        // After the first load, and the read that makes its signatures trusted: each event wakes it.
        (bounds.start_after, bounds.start) = (3000 * MS, 3000 * MS);
    }
    let report = explore(&Engine::new(strategy), case, &Traits::default(), &bounds);
    println!(
        "{title}, a pause of {stall:?}: {} states, {:?}, {} ends",
        report.states, report.took, report.ends
    );
    // A history that was found is enough. That there is none says something only if all of them were looked at.
    assert!(!report.broken.is_empty() || !report.is_cut, "{title}, a pause of {stall:?}: not explored whole");
    let (broken, history) = report.broken.into_iter().next()?;
    println!("{history}");
    Some((broken, history.lines))
}

/// Two certificates of a bundle: within the settle time nothing is found, beyond it the first half is published.
#[test]
fn a_pause_longer_than_settle_between_two_certificates_of_a_bundle() {
    let case = writers::in_place_append(common::kit());
    assert!(exceed("a bundle", Strategy::Mtime, &case, 999 * MS).is_none());
    let (broken, history) = exceed("a bundle", Strategy::Mtime, &case, 1001 * MS).unwrap();
    assert_eq!(broken, Broken::NotMeant);
    assert!(history.len() <= 16, "{history:?}");
}

/// A bundle that only loses certificates has 5 s: one of three stands, and the second of those that stay comes after it.
#[test]
fn a_pause_longer_than_5_s_between_two_certificates_of_a_bundle_that_only_loses() {
    let case = writers::in_place_loss_in_pieces(common::kit());
    assert!(exceed("a loss", Strategy::Mtime, &case, 4999 * MS).is_none());
    let (broken, _) = exceed("a loss", Strategy::Mtime, &case, 5001 * MS).unwrap();
    assert_eq!(broken, Broken::NotMeant);
}

/// Files renewed with the same key, one by one.
#[test]
fn a_pause_longer_than_settle_between_files_renewed_with_the_same_key() {
    let case = writers::agent_same_key(common::kit());
    assert!(exceed("the same key", Strategy::Sha256, &case, 999 * MS).is_none());
    let (broken, _) = exceed("the same key", Strategy::Sha256, &case, 1001 * MS).unwrap();
    assert_eq!(broken, Broken::NotMeant);
}

/// A new pair that was renamed into place is whole, and the bundle that belongs to it comes after it. With notify too it
/// has the settle time to come: only an identity that stands alone is adopted at once.
#[test]
fn a_pause_longer_than_settle_between_a_new_pair_and_its_bundle() {
    let mut case = writers::agent_full(common::kit());
    // The three renames: what is written under other names is in nobody's way.
    let is_rename = |step: &Step| matches!(step.call, Call::Rename(..));
    let (renames, before): (Vec<_>, Vec<_>) = case.steps.into_iter().partition(is_rename);
    case.setup.extend(before.into_iter().map(|step| step.call));
    case.steps = renames;
    for strategy in [Strategy::Mtime, Strategy::Notify] {
        assert!(exceed("three files", strategy, &case, 999 * MS).is_none());
        let (broken, _) = exceed("three files", strategy, &case, 1001 * MS).unwrap();
        assert_eq!(broken, Broken::NotMeant);
    }
}

/// With notify, closing a source's only file is a hint that its writer is done: it has 100 ms to open it again.
#[test]
fn a_pause_longer_than_100_ms_between_closing_and_opening_again_under_notify() {
    let case = writers::in_place_append(common::kit());
    assert!(exceed("closed", Strategy::Notify, &case, 99 * MS).is_none());
    let (broken, _) = exceed("closed", Strategy::Notify, &case, 101 * MS).unwrap();
    assert_eq!(broken, Broken::NotMeant);
}
