//! Ends of overlaps that can not be used, and what else goes on meanwhile. And what `withdraw_now` finds beside something broken.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Candidate, Machine, Policy, Todo, Verdict};
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

fn served(world: &World) -> usize {
    world.driver.machine().current().unwrap().1.trust().unwrap().len()
}

fn unusable() -> Verdict {
    Verdict::Unusable(Error::new(Reason::Rejected, "no"))
}

/// While the flag is set, material with exactly these anchors can not be used.
fn can_not_use(
    anchors: &[&Ca],
    flag: &Arc<AtomicBool>,
) -> impl FnMut(&Candidate) -> Verdict + Send + 'static {
    let ders: Vec<_> = anchors.iter().map(|ca| ca.certificate_der()).collect();
    let flag = Arc::clone(flag);
    move |candidate| {
        let trust = candidate.material.trust().unwrap();
        let is_it = trust.len() == ders.len() && trust.iter().all(|anchor| ders.contains(anchor.der()));
        if is_it && flag.load(Ordering::SeqCst) { unusable() } else { Verdict::Accept }
    }
}

/// An end that can not be used is told once while it lasts, and takes nothing from content that has to stand still.
#[test]
fn an_end_that_can_not_be_used_is_told_once_and_all_else_goes_on() {
    let [old, new, newer] = ["old", "new", "newer"].map(Ca::new);
    let fails = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&fails);
    // Only the end itself: new content can be used, and so can the first of all.
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), move |candidate| {
        let is_end = candidate.current.is_some() && !candidate.can_be_refused;
        if is_end && flag.load(Ordering::SeqCst) { unusable() } else { Verdict::Accept }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    fails.store(true, Ordering::SeqCst);
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
        if candidate.current.is_some() && !candidate.can_be_refused { unusable() } else { Verdict::Accept }
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
        let fails = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&fails);
        let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), move |_| {
            if flag.load(Ordering::SeqCst) { unusable() } else { Verdict::Accept }
        });
        world.push(Arrival::Swapped, trust(&[&new]));
        world.push(Arrival::Unknown, broken(Reason::NotFound));
        fails.store(true, Ordering::SeqCst);
        world.pass(150 * SEC);
        assert_eq!(world.told(), ["generation 1", "generation 2", "failed not_found", "refused rejected"]);
        for of_the_end in [end_first, !end_first] {
            assert!(world.driver.machine().failing_since().is_some());
            assert!(!world.told().contains(&"recovered".to_owned()));
            if of_the_end {
                fails.store(false, Ordering::SeqCst);
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

/// What the source holds now can be used, and the end of what it held before can not.
#[test]
fn an_end_that_fails_again_and_again_does_not_keep_new_content_out() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    let fails = Arc::new(AtomicBool::new(true));
    let gate = can_not_use(&[&new], &fails);
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), gate);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(103 * SEC);
    world.change(Arrival::Unknown, trust(&[&new, &newer]));
    world.told();
    world.count();
    world.pass(600 * SEC);
    let told = world.told();
    let [looks, _] = world.count();
    assert!(looks >= 59, "looks in 600 s at an interval of 10 s: {looks}; {told:?}");
    assert!(told.iter().any(|told| told.contains("generation")), "{told:?}");
}

#[test]
fn an_end_that_fails_again_and_again_does_not_hold_back_a_withdrawal() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let (good, bad) = (c.issue("good"), c.issue("bad"));
    let refused = bad.leaf_der();
    let fails = Arc::new(AtomicBool::new(true));
    let mut can_be_used = can_not_use(&[&b, &c], &fails);
    let gate = move |candidate: &Candidate| {
        let identity = candidate.material.identity().unwrap();
        if identity.leaf().der() == &refused { no(Reason::Rejected) } else { can_be_used(candidate) }
    };
    let mut world = World::with(full(&[&a, &b, &c], &good), overlapping(100 * SEC, 10 * SEC), gate);
    // The overlap of `b` is over before that of `a`.
    world.push(Arrival::Swapped, full(&[&a, &c], &good));
    world.pass(SEC);
    world.push(Arrival::Swapped, full(&[&a, &b, &c], &good));
    world.pass(50 * SEC);
    world.push(Arrival::Swapped, full(&[&b, &c], &good));
    world.pass(90 * SEC);
    assert_eq!(served(&world), 3);
    world.push(Arrival::Swapped, full(&[&c], &bad));
    world.pass(500 * SEC);
    assert_eq!(served(&world), 1, "{:?}", world.told());
}

/// The end failed, the content that was asked for stands and is published a moment later.
#[test]
fn an_end_that_fails_answers_nobody_who_waits_for_content_that_settles() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    let fails = Arc::new(AtomicBool::new(true));
    let gate = can_not_use(&[&new], &fails);
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 1000 * SEC), gate);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(99_900 * MS);
    world.told();
    world.push(Arrival::Unknown, trust(&[&newer]));
    let ticket = world.driver.demand(world.now);
    world.pass(500 * MS);
    fails.store(false, Ordering::SeqCst);
    world.pass(30 * SEC);
    let told = world.told();
    assert!(told.contains(&format!("concluded {ticket} 3")), "{told:?}");
}

/// Does what is due at this moment. Ends can not be used; in the read, somebody asks for the end once more.
fn withdraw_in_the_read(machine: &mut Machine, now: Now, make: &Make) {
    let mut is_asked = false;
    for _ in 0..STEPS {
        match machine.next(now) {
            Todo::Look => machine.looked(now, Ok(Look::Same)),
            Todo::Read => {
                if !std::mem::replace(&mut is_asked, true) {
                    machine.withdraw_now(now);
                }
                machine.read(now, now, make().unwrap().assemble());
            }
            Todo::Judge(_) => machine.judged(now, unusable()),
            Todo::Wait(_) => return,
        }
    }
    panic!("the machine never rests");
}

#[test]
fn withdraw_now_whose_end_failed_is_answered_by_an_error_although_it_was_asked_for_again_meanwhile() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut machine = Machine::new(overlapping(1000 * SEC, 10 * SEC), Origin::named("x"));
    let now = Now::read();
    let (before, after): (Make, Make) = (Box::new(trust(&[&old])), Box::new(trust(&[&new])));
    for (make, arrival) in [(&before, Arrival::Still), (&after, Arrival::Swapped)] {
        machine.woken(now);
        let mut look = Some(Look::Changed(arrival));
        loop {
            match machine.next(now) {
                Todo::Look => machine.looked(now, Ok(look.take().unwrap_or(Look::Same))),
                Todo::Read => machine.read(now, now, make().unwrap().assemble()),
                Todo::Judge(_) => machine.judged(now, Verdict::Accept),
                Todo::Wait(_) => break,
            }
        }
    }
    while machine.tell().is_some() {}
    assert!(machine.is_overlapping());
    let ticket = machine.withdraw_now(now);
    withdraw_in_the_read(&mut machine, now, &after);
    assert!(machine.is_overlapping());
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect();
    assert!(!told.contains(&format!("concluded {ticket} 2")), "nobody is told that all is well: {told:?}");
}

/// What its read finds withdrawn has no overlap, also where the rest of what it finds can not be used.
#[test]
fn what_withdraw_now_finds_withdrawn_beside_a_bad_identity_has_no_overlap() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let (good, bad) = (c.issue("good"), c.issue("bad"));
    let refused = bad.leaf_der();
    let gate = move |candidate: &Candidate| {
        let identity = candidate.material.identity().unwrap();
        if identity.leaf().der() == &refused { no(Reason::Rejected) } else { Verdict::Accept }
    };
    let mut world = World::with(full(&[&a, &b, &c], &good), overlapping(1000 * SEC, 10 * SEC), gate);
    world.change(Arrival::Swapped, full(&[&c], &bad));
    world.driver.withdraw_now(world.now);
    // Its grace is over long since.
    world.pass(100 * SEC);
    assert_eq!(served(&world), 1, "{:?}", world.told());
}

/// A pause after failed reads is none after an end: with a long one, a source whose identity is refused is looked at as before.
#[test]
fn an_end_beside_a_refused_identity_does_not_put_off_the_looks_by_a_long_pause() {
    let [a, b] = ["a", "b"].map(Ca::new);
    let (good, bad) = (b.issue("good"), b.issue("bad"));
    let refused = bad.leaf_der();
    let gate = move |candidate: &Candidate| {
        let identity = candidate.material.identity().unwrap();
        if identity.leaf().der() == &refused { no(Reason::Rejected) } else { Verdict::Accept }
    };
    let mut policy = overlapping(99_900 * MS, 10 * SEC);
    policy.backoff = 60 * SEC;
    let mut world = World::with(full(&[&a, &b], &good), policy, gate);
    world.push(Arrival::Swapped, full(&[&b], &good));
    world.push(Arrival::Swapped, full(&[&b], &bad));
    world.pass(95 * SEC);
    world.count();
    world.pass(40 * SEC);
    let [looks, _] = world.count();
    assert!(looks >= 3, "looks in 40 s at an interval of 10 s: {looks}; {:?}", world.told());
}
