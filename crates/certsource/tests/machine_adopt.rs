//! Spreading a fleet: what only adds waits for a random moment within `adopt_within`, and nothing else does.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::time::{Duration, SystemTime};

use certsource::machine::{Policy, Verdict};
use certsource::parts::Parts;
use certsource::source::Arrival;
use certsource::{Error, Origin};
use certsource_testkit::Ca;
use machine_support::*;

type Make = Box<dyn Fn() -> Result<Parts, Error> + Send>;

fn spread(within: Duration) -> Policy {
    let mut policy = Policy::every(1_000_000 * SEC);
    (policy.jitter, policy.adopt_within) = (0.0, within);
    policy
}

/// How long after it was there the second generation was published, if it was within ten seconds.
fn waited(
    before: impl Fn() -> Result<Parts, Error> + Send + 'static,
    after: Make,
    within: Duration,
) -> Option<Duration> {
    let mut world = World::with(before, spread(within), |_| Verdict::Accept);
    world.told();
    world.push(Arrival::Swapped, after);
    world.pass(10 * SEC);
    let told = world.told_at();
    told.into_iter().find(|(_, told)| told == "generation 2").map(|(at, _)| at)
}

#[test]
fn what_only_adds_waits_for_a_moment_within_the_time_and_what_does_not_is_published_at_once() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let now = SystemTime::now();
    let (one, two) = (ca.issue("one"), ca.issue("two"));
    let ending = ca.leaf("ending").not_before(now - 100 * SEC).not_after(now + 3 * SEC).issue();
    let ended = ca.leaf("ended").not_before(now - 100 * SEC).not_after(now - 50 * SEC).issue();
    let listed = |numbers: &[u64]| -> Make { Box::new(with_crls(&[&ca], numbers)) };
    let rows: Vec<(&str, bool, Make, Make)> = vec![
        ("an anchor comes", true, Box::new(trust(&[&ca])), Box::new(trust(&[&ca, &other]))),
        ("an identity is renewed", true, Box::new(full(&[&ca], &one)), Box::new(full(&[&ca], &two))),
        ("both", true, Box::new(full(&[&ca], &one)), Box::new(full(&[&ca, &other], &two))),
        ("an identity comes", true, Box::new(trust(&[&ca])), Box::new(full(&[&ca], &one))),
        ("an anchor goes", false, Box::new(trust(&[&ca, &other])), Box::new(trust(&[&ca]))),
        ("an anchor is replaced", false, Box::new(trust(&[&ca])), Box::new(trust(&[&other]))),
        (
            "one goes, and an identity comes",
            false,
            Box::new(trust(&[&ca, &other])),
            Box::new(full(&[&ca], &one)),
        ),
        ("the identity goes", false, Box::new(full(&[&ca], &one)), Box::new(trust(&[&ca]))),
        ("the identity has ended", false, Box::new(full(&[&ca], &ended)), Box::new(full(&[&ca], &two))),
        ("the identity ends soon", false, Box::new(full(&[&ca], &ending)), Box::new(full(&[&ca], &two))),
        ("a newer list", false, listed(&[1]), listed(&[2])),
        ("a list comes", false, Box::new(trust(&[&ca])), listed(&[1])),
    ];
    for (name, waits, before, after) in rows {
        let took = waited(before, after, 5 * SEC).unwrap_or_else(|| panic!("{name}: not published"));
        if waits {
            assert!(took > Duration::ZERO && took <= 5 * SEC + MS, "{name}: {took:?}");
        } else {
            assert_eq!(took, Duration::ZERO, "{name}");
        }
    }
}

#[test]
fn the_moments_are_spread_over_the_whole_time_which_is_five_seconds_at_most() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    for (asked, most) in [(2 * SEC, 2 * SEC), (3600 * SEC, 5 * SEC)] {
        let moments: Vec<_> = (0..200)
            .map(|_| waited(trust(&[&ca]), Box::new(trust(&[&ca, &other])), asked).unwrap())
            .collect();
        assert!(moments.iter().all(|moment| *moment <= most + MS));
        for part in 0..4 {
            let (from, to) = (most * part / 4, most * (part + 1) / 4);
            let count = moments.iter().filter(|moment| (from..to).contains(*moment)).count();
            assert!((20..90).contains(&count), "{count} of 200 in {from:?}..{to:?}");
        }
    }
}

#[test]
fn off_by_default_and_a_first_load_never_waits() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    assert_eq!(waited(trust(&[&ca]), Box::new(trust(&[&ca, &other])), Duration::ZERO), Some(Duration::ZERO));
    let mut world = World::with(trust(&[&ca]), spread(5 * SEC), |_| Verdict::Accept);
    assert_eq!(world.told(), ["generation 1"]);
}

/// A world in which the moment that was drawn is not the first.
fn waiting(after: impl Fn() -> Result<Parts, Error> + Send + Clone + 'static, ca: &Ca) -> World {
    for _ in 0..100 {
        let mut world = World::with(trust(&[ca]), spread(5 * SEC), |_| Verdict::Accept);
        world.push(Arrival::Swapped, after.clone());
        world.pass(SEC);
        if world.told() == ["generation 1"] {
            return world;
        }
    }
    panic!("a hundred moments within the first second");
}

#[test]
fn what_is_asked_for_ends_the_wait() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.driver.demand(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), ["generation 2", "concluded 1 2"]);

    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.driver.wake(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), none(), "an event of the file system is no reason");
    world.driver.hurry(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), ["generation 2"]);
    // That was for once.
    let more = Ca::new("more");
    let waits = (0..20).any(|_| {
        let mut world = waiting(trust(&[&ca, &other]), &ca);
        world.driver.hurry(world.now);
        world.pass(Duration::ZERO);
        world.told();
        world.push(Arrival::Swapped, trust(&[&ca, &other, &more]));
        world.told() == none()
    });
    assert!(waits);
}

#[test]
fn content_that_moves_meanwhile_starts_over_and_a_withdrawal_waits_for_nothing() {
    let (ca, other, third) = (Ca::new("ca"), Ca::new("other"), Ca::new("third"));
    // Withdrawn again before anybody used it: what is served is what is there.
    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.push(Arrival::Swapped, trust(&[&ca]));
    world.pass(20 * SEC);
    assert_eq!(world.told(), none());
    // Replaced by something that takes away: at once.
    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.push(Arrival::Swapped, trust(&[&other]));
    assert_eq!(world.told(), ["generation 2"]);
    // By something else that only adds: once, and that.
    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.push(Arrival::Swapped, trust(&[&ca, &other, &third]));
    world.pass(20 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
    assert_eq!(world.driver.machine().current().unwrap().1.trust().unwrap().len(), 3);
    // Changed without a word: it is read once more before it is adopted.
    let mut world = waiting(trust(&[&ca, &other]), &ca);
    world.script.0.lock().unwrap().make = Box::new(|| Ok(Parts::new().with_trust(&Origin::named("ca"), [])));
    world.pass(20 * SEC);
    assert!(world.told().iter().all(|told| told.starts_with("failed")));
}

#[test]
fn what_must_stand_still_first_does_so_and_then_waits() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    for _ in 0..50 {
        let mut world = World::with(trust(&[&ca]), spread(2 * SEC), |_| Verdict::Accept);
        world.told();
        world.push(Arrival::Unknown, trust(&[&ca, &other]));
        world.pass(10 * SEC);
        let told = world.told_at();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!((SEC..=3 * SEC + MS).contains(&told[0].0), "{told:?}");
    }
}
