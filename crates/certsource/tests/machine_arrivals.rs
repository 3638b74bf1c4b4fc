//! How a change arrived decides how long its content must stand still: which arrivals are adopted at once, and what
//! several of them amount to together. The other rules of the machine are in `machine_rules.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use certsource::Origin;
use certsource::source::{Armed, Arrival, Look};
use certsource_testkit::Ca;
use machine_support::*;

#[test]
fn a_rename_is_adopted_at_once_only_when_it_leaves_the_source_whole() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    // One file.
    let mut world = World::new(trust(&[&one]));
    world.push(Arrival::Renamed, trust(&[&two]));
    assert_eq!(world.told(), ["generation 1", "generation 2"]);
    // A pair: the certificate, then its new key.
    let (a, b) = (one.issue("a"), one.issue("b"));
    let renewed = one.leaf("b").with_key_of(&b).issue();
    let mut world = World::new(pair(&a, &a));
    world.told();
    world.push(Arrival::Renamed, pair(&b, &a));
    assert_eq!(world.told(), ["pending key_mismatch"]);
    world.push(Arrival::Renamed, pair(&b, &b));
    assert_eq!(world.told(), ["generation 2"]);
    // As before, but the time has come to read once more while the key is waited for.
    let mut slow = World::new(pair(&a, &a));
    slow.told();
    slow.push(Arrival::Renamed, pair(&b, &a));
    slow.push(Arrival::Recheck, pair(&b, &a));
    assert_eq!(slow.told(), ["pending key_mismatch"]);
    slow.push(Arrival::Renamed, pair(&b, &b));
    assert_eq!(slow.told(), ["generation 2"]);
    // Renewed with the same key: the other file could still be to come.
    world.push(Arrival::Renamed, pair(&renewed, &b));
    assert_eq!(world.told(), none());
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 3"]);
}

/// The bundle, or the list, that belongs to a new pair may be renamed into place after it: publishing the pair at once
/// would publish it with the old one.
#[test]
fn a_new_pair_beside_trust_or_lists_stands_still_first() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (a, b) = (one.issue("a"), two.issue("b"));
    let mut world = World::new(full(&[&one], &a));
    world.told();
    world.push(Arrival::Renamed, full(&[&one], &b));
    world.pass(SEC - 10 * MS);
    assert_eq!(world.told(), none(), "the pair is new, the bundle is old");
    world.push(Arrival::Renamed, full(&[&two], &b));
    world.pass(SEC - 10 * MS);
    assert_eq!(world.told(), none());
    world.pass(10 * MS);
    assert_eq!(world.told(), ["generation 2"], "both, and never one without the other");

    let with_list = |id, number| {
        let (parts, list) = (pair(id, id), one.crl_builder().number(number).sign().der());
        move || Ok(parts()?.with_crls(&Origin::named("crl"), [list.clone()]))
    };
    let mut world = World::new(with_list(&a, 1));
    world.told();
    world.push(Arrival::Renamed, with_list(&b, 1));
    world.pass(SEC - 10 * MS);
    assert_eq!(world.told(), none(), "the list may be to come");
    world.pass(10 * MS);
    assert_eq!(world.told(), ["generation 2"]);
    // What comes to be an identity alone, or ceases to be one, is no new pair either.
    world.push(Arrival::Renamed, pair(&a, &a));
    assert_eq!(world.told(), none());
}

#[test]
fn a_change_that_was_seen_before_its_event_is_explained_by_it() {
    let cas = [Ca::new("one"), Ca::new("two"), Ca::new("three"), Ca::new("four")];
    let mut world = World::new(trust(&[&cas[0]]));
    world.told();
    // Without its event it settles like any other.
    world.push(Arrival::Unannounced, trust(&[&cas[1]]));
    assert_eq!(world.told(), none());
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 2"]);

    let (unannounced, renamed, closed) = (Arrival::Unannounced, Arrival::Renamed, Arrival::Closed);
    let cases: &[(&[Arrival], bool)] = &[
        (&[unannounced, renamed], true),
        (&[renamed, unannounced, renamed], true),
        (&[closed, unannounced, renamed], true),
        (&[unannounced, Arrival::Swapped], true),
        // One event explains one change.
        (&[unannounced, unannounced, renamed], false),
        (&[Arrival::Unknown, unannounced, renamed], false),
        (&[unannounced, Arrival::Unknown, renamed], false),
        (&[closed, renamed], false),
    ];
    for (round, (arrivals, at_once)) in cases.iter().enumerate() {
        let (last, before) = arrivals.split_last().unwrap();
        for (at, arrival) in before.iter().enumerate() {
            // Not the content that counts yet. A rename that comes first is adopted by itself.
            world.push(*arrival, trust(&[&cas[2 + at % 2]]));
        }
        world.told();
        world.push(*last, trust(&[&cas[round % 2]]));
        let is_published = world.told().iter().any(|told| told.starts_with("generation"));
        assert_eq!(is_published, *at_once, "{arrivals:?}");
        world.pass(20 * SEC);
        world.told();
    }
}

/// The safety poll is a minute away: what was adopted before its signature could be trusted is looked at again when the
/// detector asks for it.
#[test]
fn a_look_that_was_asked_for_is_made_although_watches_are_armed() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.script.0.lock().unwrap().armed = Armed::Watching;
    world.pass(61 * SEC);
    world.count();
    let again = world.now.mono + 2 * SEC;
    world.change(Arrival::Renamed, trust(&[&two]));
    world.script.0.lock().unwrap().looks.push(Look::SameUntil(again));
    world.driver.wake(world.now);
    world.pass(SEC);
    assert_eq!(world.count(), [2, 1], "the look, the read, and the look that confirms it");
    world.pass(SEC + 10 * MS);
    assert_eq!(world.count(), [1, 0]);
}

/// As when the thread that follows the source was stalled for seconds between a look and the one that confirms it.
#[test]
fn a_recheck_between_a_look_and_its_confirmation_costs_nothing_unless_the_content_is_another() {
    let cas = [Ca::new("one"), Ca::new("two"), Ca::new("three")];
    for arrival in [Arrival::Swapped, Arrival::Renamed] {
        let mut world = World::new(trust(&[&cas[0]]));
        world.told();
        world.change(arrival, trust(&[&cas[1]]));
        world.script.0.lock().unwrap().looks.push(Look::Changed(Arrival::Recheck));
        world.driver.wake(world.now);
        world.pass(10 * MS);
        assert_eq!(world.told(), ["generation 2"], "{arrival:?}");
        // Another content at that read: nobody knows how it came.
        let reads = std::sync::atomic::AtomicUsize::new(0);
        let (first, then) = (trust(&[&cas[2]]), trust(&[&cas[0]]));
        world.change(arrival, move || {
            if reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 { first() } else { then() }
        });
        world.script.0.lock().unwrap().looks.push(Look::Changed(Arrival::Recheck));
        world.driver.wake(world.now);
        world.pass(SEC - 10 * MS);
        assert_eq!(world.told(), none(), "{arrival:?}");
        world.pass(10 * MS);
        assert_eq!(world.told()[0], "generation 3", "{arrival:?}");
    }
}
