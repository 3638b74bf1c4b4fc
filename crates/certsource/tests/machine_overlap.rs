//! Overlaps that end beside something else: another end, a source that becomes stale, a withdrawal that is held back, a look
//! that is due.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Machine, Policy, Todo, Verdict};
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

fn overlapping(by: Duration, interval: Duration) -> Policy {
    let mut policy = Policy::every(interval);
    policy.jitter = 0.0;
    policy.overlap = by;
    policy
}

/// No look of its own comes in between.
const NEVER: Duration = Duration::from_secs(1_000_000);

fn served(world: &World) -> usize {
    world.driver.machine().current().unwrap().1.trust().unwrap().len()
}

/// Three anchors, of which two are withdrawn, half a second apart; the first is gone by now.
fn one_end_after_another() -> World {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let mut policy = overlapping(100 * SEC, NEVER);
    policy.settle = 5 * SEC;
    let mut world = World::with(trust(&[&a, &b, &c]), policy, |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&b, &c]));
    world.pass(500 * MS);
    world.push(Arrival::Swapped, trust(&[&c]));
    world.pass(99_600 * MS);
    assert_eq!(served(&world), 2, "the first is over, the second is not");
    world.told();
    world
}

#[test]
fn an_end_soon_after_another_comes_in_time() {
    let mut world = one_end_after_another();
    world.pass(500 * MS);
    assert_eq!(served(&world), 1);
}

#[test]
fn withdraw_now_soon_after_an_end_is_answered_when_nothing_overlaps() {
    let mut world = one_end_after_another();
    let ticket = world.driver.withdraw_now(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), ["generation 3".to_owned(), format!("concluded {ticket} 3")]);
    assert_eq!(served(&world), 1);
}

/// An end that failed is tried again at once by who asks.
#[test]
fn withdraw_now_soon_after_an_end_that_failed_tries_it_again() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&fails);
    let mut policy = overlapping(100 * SEC, NEVER);
    policy.settle = 5 * SEC;
    let mut world = World::with(trust(&[&old]), policy, move |_| {
        if flag.load(std::sync::atomic::Ordering::SeqCst) {
            Verdict::Unusable(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    world.pass(101 * SEC);
    assert_eq!(served(&world), 2);
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    world.told();
    let ticket = world.driver.withdraw_now(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(served(&world), 1);
    let told = world.told();
    assert!(told.contains(&format!("concluded {ticket} 3")), "{told:?}");
}

/// An end that can not be used is told once while it lasts, and takes nothing from content that has to stand still.
#[test]
fn an_end_that_can_not_be_used_is_told_once_and_all_else_goes_on() {
    let [old, new, newer] = ["old", "new", "newer"].map(Ca::new);
    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&fails);
    // Only the end itself: new content can be used, and so can the first of all.
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), move |candidate| {
        let is_end = candidate.current.is_some() && !candidate.can_be_refused;
        if is_end && flag.load(std::sync::atomic::Ordering::SeqCst) {
            Verdict::Unusable(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    world.told();
    world.pass(300 * SEC);
    assert_eq!(world.told(), ["refused rejected"]);
    let machine = world.driver.machine();
    assert!(machine.failing_since().is_some(), "a withdrawn anchor is trusted for longer than it should be");
    assert!(machine.trouble().unwrap().0.to_string().contains("still trusted"));
    // A look that finds nothing new is no end of it.
    let ticket = world.driver.demand(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), [format!("concluded {ticket} 2")]);
    assert!(world.driver.machine().failing_since().is_some());
    // Another anchor comes, in a file that is written in place: it is adopted, and what was to end is over with that.
    world.push(Arrival::Unknown, trust(&[&new, &newer]));
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 3"]);
    assert_eq!(served(&world), 2);
    assert!(world.driver.machine().failing_since().is_none());
}

/// What could not go and is back in the source is no failure any more.
#[test]
fn an_end_that_fails_is_over_when_the_source_holds_the_anchor_again() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), |candidate| {
        if candidate.current.is_some() && !candidate.can_be_refused {
            Verdict::Unusable(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(150 * SEC);
    assert_eq!(world.told(), ["generation 1", "generation 2", "refused rejected"]);
    world.push(Arrival::Swapped, trust(&[&new, &old]));
    assert_eq!(world.told(), ["recovered"]);
    assert!(world.driver.machine().failing_since().is_none());
    world.pass(150 * SEC);
    assert_eq!(world.told(), none());
    assert_eq!(served(&world), 2);
}

/// What is wrong with the source and an end that can not be used are two things: all is well when both are over.
#[test]
fn an_end_that_fails_beside_a_broken_source_is_over_when_both_are() {
    for end_first in [true, false] {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = std::sync::Arc::clone(&fails);
        let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), move |_| {
            if flag.load(std::sync::atomic::Ordering::SeqCst) {
                Verdict::Unusable(Error::new(Reason::Rejected, "no"))
            } else {
                Verdict::Accept
            }
        });
        world.push(Arrival::Swapped, trust(&[&new]));
        world.push(Arrival::Unknown, broken(Reason::NotFound));
        fails.store(true, std::sync::atomic::Ordering::SeqCst);
        world.pass(150 * SEC);
        assert_eq!(world.told(), ["generation 1", "generation 2", "failed not_found", "refused rejected"]);
        for of_the_end in [end_first, !end_first] {
            assert!(world.driver.machine().failing_since().is_some());
            assert!(!world.told().contains(&"recovered".to_owned()));
            if of_the_end {
                fails.store(false, std::sync::atomic::Ordering::SeqCst);
            } else {
                world.push(Arrival::Swapped, trust(&[&new]));
            }
            world.pass(50 * SEC);
        }
        let told = world.told();
        assert_eq!(told.iter().filter(|told| *told == "recovered").count(), 1, "{told:?}");
        assert!(world.driver.machine().failing_since().is_none());
        assert_eq!(served(&world), 1);
    }
}

/// Does what is due at this moment, until there is something to judge if that is asked for.
fn work(machine: &mut Machine, now: Now, look: Look, make: &Make, until_judged: bool) {
    let mut look = Some(look);
    for _ in 0..STEPS {
        match machine.next(now) {
            Todo::Look => machine.looked(now, Ok(look.take().unwrap_or(Look::Same))),
            Todo::Read => machine.read(now, now, make().map_or_else(Into::into, |parts| parts.assemble())),
            Todo::Judge(_) if until_judged => return,
            Todo::Judge(_) => machine.judged(now, Verdict::Accept),
            Todo::Wait(_) => return,
        }
    }
    panic!("the machine never rests");
}

fn told(machine: &mut Machine) -> Vec<String> {
    std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect()
}

/// The end confirms nothing: what was given up while it was judged stays given up until a read finds it.
#[test]
fn what_becomes_stale_while_an_end_is_judged_is_not_served_again_by_it() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut policy = overlapping(100 * SEC, 10 * SEC);
    policy.max_stale = Some(60 * SEC);
    let mut machine = Machine::new(policy, Origin::named("x"));
    let now = Now::read();
    let (before, after): (Make, Make) = (Box::new(trust(&[&old])), Box::new(trust(&[&new])));
    work(&mut machine, now, Look::Changed(Arrival::Still), &before, false);
    work(&mut machine, now.after(20 * SEC), Look::Changed(Arrival::Swapped), &after, false);
    assert_eq!(told(&mut machine), ["generation 1", "generation 2"]);
    // Confirmed for the last time before the end.
    for at in [70 * SEC, 110 * SEC] {
        work(&mut machine, now.after(at), Look::Same, &after, false);
    }
    assert_eq!(told(&mut machine), none());
    let ends = now.after(120 * SEC);
    work(&mut machine, ends, Look::Same, &after, true);
    let late = now.after(180 * SEC);
    machine.watch_stale(late);
    assert_eq!(told(&mut machine), ["stale"]);
    machine.judged(late, Verdict::Accept);
    assert_eq!(told(&mut machine), none(), "nothing is published by it");
    // The source is broken now.
    let gone: Make = Box::new(broken(Reason::NotFound));
    work(&mut machine, late.after(SEC), Look::Same, &gone, false);
    assert!(machine.is_stale());
    assert!(!told(&mut machine).iter().any(|told| told.contains("generation")));
    work(&mut machine, late.after(30 * SEC), Look::Changed(Arrival::Swapped), &after, false);
    let back = told(&mut machine);
    assert_eq!(back.iter().filter(|told| told.contains("generation")).count(), 1, "{back:?}");
    assert!(!machine.is_stale());
    assert_eq!(machine.current().unwrap().1.trust().unwrap().len(), 1, "without what overlapped");
}

/// A withdrawal that waits for its grace beside an identity that is refused comes, although an overlap ended in between.
#[test]
fn an_end_takes_nothing_from_a_withdrawal_that_is_held_back() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let (good, bad) = (c.issue("good"), c.issue("bad"));
    let refused = bad.leaf_der();
    let mut world =
        World::with(full(&[&a, &b, &c], &good), overlapping(100 * SEC, 10 * SEC), move |candidate| {
            let is_bad =
                candidate.material.identity().is_some_and(|identity| identity.leaf().der() == &refused);
            if is_bad { no(Reason::Rejected) } else { Verdict::Accept }
        });
    world.push(Arrival::Swapped, full(&[&b, &c], &good));
    world.pass(97 * SEC);
    world.push(Arrival::Swapped, full(&[&c], &bad));
    world.pass(10 * SEC);
    assert_eq!(served(&world), 2, "the first is over, the second is held back");
    assert!(world.driver.machine().is_withdrawal_pending());
    // Its grace, and its own overlap.
    world.pass(200 * SEC);
    assert_eq!(served(&world), 1);
}

/// A look that is due is not put off by an end.
#[test]
fn an_end_does_not_put_off_the_look_that_is_due() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    let policy = overlapping(99_900 * MS, 10 * SEC);
    let mut world = World::with(trust(&[&old]), policy, |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(95 * SEC);
    // Nobody wakes the engine: the look at 100 s is to find it.
    world.change(Arrival::Swapped, trust(&[&new, &newer]));
    world.told();
    world.pass(6 * SEC);
    assert_eq!(world.told(), ["generation 3", "generation 4"]);
}
