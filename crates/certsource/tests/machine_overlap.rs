//! Overlaps that end beside something else: another end, a source that becomes stale, a withdrawal that is held back, content
//! that settles, a look that is due, a job that is out; and ends that can not be used.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Machine, Policy, Todo, Told, Verdict};
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

/// No look of its own comes in between.
const NEVER: Duration = Duration::from_secs(1_000_000);

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
    let mut policy = overlapping(100 * SEC, NEVER);
    policy.settle = 5 * SEC;
    let (mut world, fails) = fallible(&[&old], policy);
    world.push(Arrival::Swapped, trust(&[&new]));
    fails.store(true, Ordering::SeqCst);
    world.pass(101 * SEC);
    assert_eq!(served(&world), 2);
    fails.store(false, Ordering::SeqCst);
    world.told();
    let ticket = world.driver.withdraw_now(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(served(&world), 1);
    let told = world.told();
    assert!(told.contains(&format!("concluded {ticket} 3")), "{told:?}");
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
    work(&mut machine, now, Look::Changed(Arrival::Still), &before, Until::Rest);
    work(&mut machine, now.after(20 * SEC), Look::Changed(Arrival::Swapped), &after, Until::Rest);
    assert_eq!(told(&mut machine), ["generation 1", "generation 2"]);
    // Confirmed for the last time before the end.
    for at in [70 * SEC, 110 * SEC] {
        work(&mut machine, now.after(at), Look::Same, &after, Until::Rest);
    }
    assert_eq!(told(&mut machine), none());
    let ends = now.after(120 * SEC);
    work(&mut machine, ends, Look::Same, &after, Until::Judge);
    let late = now.after(180 * SEC);
    machine.watch_stale(late);
    assert_eq!(told(&mut machine), ["stale"]);
    machine.judged(late, Verdict::Accept);
    assert_eq!(told(&mut machine), none(), "nothing is published by it");
    // The source is broken now.
    let gone: Make = Box::new(broken(Reason::NotFound));
    work(&mut machine, late.after(SEC), Look::Same, &gone, Until::Rest);
    assert!(machine.is_stale());
    assert!(!told(&mut machine).iter().any(|told| told.contains("generation")));
    work(&mut machine, late.after(30 * SEC), Look::Changed(Arrival::Swapped), &after, Until::Rest);
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

/// A world whose gate can not use anything while the flag is set.
fn fallible(cas: &[&Ca], policy: Policy) -> (World, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&fails);
    let world = World::with(trust(cas), policy, move |_| {
        if flag.load(Ordering::SeqCst) { unusable() } else { Verdict::Accept }
    });
    (world, fails)
}

fn unusable() -> Verdict {
    Verdict::Unusable(Error::new(Reason::Rejected, "no"))
}

/// A machine that serves the first and trusts it no more, but for its overlap; and what the source holds now.
fn overlapping_machine(policy: Policy, now: Now) -> (Machine, Make) {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (before, after): (Make, Make) = (Box::new(trust(&[&old])), Box::new(trust(&[&new])));
    let mut machine = Machine::new(policy, Origin::named("x"));
    work(&mut machine, now, Look::Changed(Arrival::Still), &before, Until::Rest);
    machine.woken(now);
    work(&mut machine, now, Look::Changed(Arrival::Swapped), &after, Until::Rest);
    assert_eq!(told(&mut machine), ["generation 1", "generation 2"]);
    assert!(machine.is_overlapping());
    (machine, after)
}

/// What is judged while it is asked for was made with an overlap: that ends at once.
#[test]
fn withdraw_now_while_a_withdrawal_is_judged_leaves_that_no_overlap() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (before, after): (Make, Make) = (Box::new(trust(&[&old])), Box::new(trust(&[&new])));
    let mut machine = Machine::new(overlapping(1000 * SEC, NEVER), Origin::named("x"));
    let now = Now::read();
    work(&mut machine, now, Look::Changed(Arrival::Still), &before, Until::Rest);
    machine.woken(now);
    work(&mut machine, now, Look::Changed(Arrival::Swapped), &after, Until::Judge);
    let ticket = machine.withdraw_now(now);
    machine.judged(now, Verdict::Accept);
    work(&mut machine, now, Look::Same, &after, Until::Rest);
    assert!(!machine.is_overlapping());
    let expected = ["generation 1", "generation 2", "generation 3", &format!("concluded {ticket} 3")];
    assert_eq!(told(&mut machine), expected);
}

/// The read that is out answers those before it: for them all is well while something overlaps.
#[test]
fn withdraw_now_during_a_read_does_not_spoil_the_answer_of_that_read() {
    let now = Now::read();
    let (mut machine, after) = overlapping_machine(overlapping(1000 * SEC, NEVER), now);
    let demand = machine.demand(now);
    work(&mut machine, now, Look::Same, &after, Until::Read);
    let withdrawal = machine.withdraw_now(now);
    read(&mut machine, now, &after);
    work(&mut machine, now, Look::Same, &after, Until::Rest);
    let expected =
        [format!("concluded {demand} 2"), "generation 3".to_owned(), format!("concluded {withdrawal} 3")];
    assert_eq!(told(&mut machine), expected);
}

/// Once it is answered, what is withdrawn later overlaps again, and a demand is told that all is well.
#[test]
fn a_demand_long_after_withdraw_now_is_answered_although_something_overlaps() {
    let now = Now::read();
    let (mut machine, after) = overlapping_machine(overlapping(1000 * SEC, NEVER), now);
    machine.withdraw_now(now);
    work(&mut machine, now, Look::Same, &after, Until::Rest);
    let newer = Ca::new("newer");
    let newer: Make = Box::new(trust(&[&newer]));
    machine.woken(now);
    work(&mut machine, now, Look::Changed(Arrival::Swapped), &newer, Until::Rest);
    assert!(machine.is_overlapping());
    told(&mut machine);
    let ticket = machine.demand(now);
    work(&mut machine, now, Look::Same, &newer, Until::Rest);
    assert_eq!(told(&mut machine), [format!("concluded {ticket} 4")]);
}

/// What has been read is not thrown away for the end: it is judged without the overlap, as one generation.
#[test]
fn withdraw_now_between_a_read_and_its_judgement_is_one_generation() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    // Of content that was replaced whole: a look and a read, and a look that confirms it.
    for steps in [2, 3] {
        let mut world = World::with(trust(&[&old]), overlapping(1000 * SEC, NEVER), |_| Verdict::Accept);
        world.push(Arrival::Swapped, trust(&[&new]));
        world.told();
        world.change(Arrival::Swapped, trust(&[&newer]));
        world.driver.wake(world.now);
        for _ in 0..steps {
            assert!(world.driver.step(|| world.now).is_none());
        }
        let ticket = world.driver.withdraw_now(world.now);
        world.pass(Duration::ZERO);
        assert_eq!(world.told(), ["generation 3".to_owned(), format!("concluded {ticket} 3")]);
        assert_eq!(served(&world), 1);
    }
}

#[test]
fn the_error_of_withdraw_now_whose_end_can_not_be_used_names_the_source() {
    let now = Now::read();
    let (mut machine, after) = overlapping_machine(overlapping(1000 * SEC, NEVER), now);
    machine.withdraw_now(now);
    work(&mut machine, now, Look::Same, &after, Until::Judge);
    machine.judged(now, unusable());
    // The pause after it is over, and it is not tried again yet.
    let later = now.after(500 * MS);
    work(&mut machine, later, Look::Same, &after, Until::Rest);
    let answers = std::iter::from_fn(|| machine.tell()).filter_map(|told| match told {
        Told::Concluded { result, .. } => Some(result),
        _ => None,
    });
    let answers: Vec<_> = answers.collect();
    let [Err(error)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(error.origin(), Some(&Origin::named("x")));
}

/// What an end serves was read before anybody asked; what is read for a demand answers it.
#[test]
fn the_publication_of_an_end_answers_no_demand() {
    let newer = Ca::new("newer");
    let start = Now::read();
    let (mut machine, _) = overlapping_machine(overlapping(100 * SEC, NEVER), start);
    let newer: Make = Box::new(trust(&[&newer]));
    let ticket = machine.demand(start);
    work(&mut machine, start.after(99_900 * MS), Look::Changed(Arrival::Unknown), &newer, Until::Rest);
    for at in [100 * SEC, 102 * SEC] {
        work(&mut machine, start.after(at), Look::Same, &newer, Until::Rest);
    }
    let published = std::iter::from_fn(|| machine.tell()).filter_map(|told| match told {
        Told::Published(publication) => Some((publication.number, publication.ticket)),
        _ => None,
    });
    assert_eq!(published.collect::<Vec<_>>(), [(3, 0), (4, ticket)]);
}

/// The end stays an end whatever is asked while it is judged: what settles has stood still since it was first read.
#[test]
fn what_is_asked_while_an_end_is_judged_takes_nothing_from_what_settles() {
    let newer = Ca::new("newer");
    let start = Now::read();
    let (mut machine, _) = overlapping_machine(overlapping(100 * SEC, NEVER), start);
    let newer: Make = Box::new(trust(&[&newer]));
    let changed = start.after(99_900 * MS);
    machine.woken(changed);
    work(&mut machine, changed, Look::Changed(Arrival::Unknown), &newer, Until::Rest);
    let ends = start.after(100 * SEC);
    work(&mut machine, ends, Look::Same, &newer, Until::Judge);
    assert!(matches!(machine.next(ends), Todo::Wait(None)));
    let ticket = machine.withdraw_now(ends);
    machine.judged(ends, Verdict::Accept);
    work(&mut machine, ends, Look::Same, &newer, Until::Rest);
    assert_eq!(told(&mut machine), ["generation 3"]);
    work(&mut machine, changed.after(SEC), Look::Same, &newer, Until::Rest);
    assert_eq!(told(&mut machine), ["generation 4".to_owned(), format!("concluded {ticket} 4")]);
    assert!(!machine.is_overlapping());
}

/// A pause after an end that failed is no end of its own.
#[test]
fn after_an_end_that_failed_another_overlap_has_its_whole_time() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let (mut world, fails) = fallible(&[&a, &b, &c], overlapping(100 * SEC, 10 * SEC));
    world.push(Arrival::Swapped, trust(&[&b, &c]));
    world.pass(50 * SEC);
    world.push(Arrival::Swapped, trust(&[&c]));
    fails.store(true, Ordering::SeqCst);
    world.pass(50_500 * MS);
    fails.store(false, Ordering::SeqCst);
    world.told();
    // The one whose end failed comes back.
    world.push(Arrival::Swapped, trust(&[&a, &c]));
    world.pass(49 * SEC);
    assert_eq!(served(&world), 3);
    assert!(!world.told().iter().any(|told| told.contains("generation")), "nothing has changed");
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 2"]);
    assert_eq!(served(&world), 2);
}

/// The same as of a source that is well: the end serves nothing again.
#[test]
fn what_becomes_stale_while_the_end_of_a_broken_source_is_judged_is_not_served_again_by_it() {
    let start = Now::read();
    let mut policy = overlapping(100 * SEC, 10 * SEC);
    policy.max_stale = Some(60 * SEC);
    let (mut machine, after) = overlapping_machine(policy, start);
    for at in [50 * SEC, 90 * SEC] {
        work(&mut machine, start.after(at), Look::Same, &after, Until::Rest);
    }
    let gone: Make = Box::new(broken(Reason::NotFound));
    let late = start.after(99 * SEC);
    machine.woken(late);
    work(&mut machine, late, Look::Changed(Arrival::Unknown), &gone, Until::Rest);
    work(&mut machine, start.after(100 * SEC), Look::Same, &gone, Until::Judge);
    let late = start.after(151 * SEC);
    machine.watch_stale(late);
    assert_eq!(told(&mut machine), ["stale"]);
    machine.judged(late, Verdict::Accept);
    assert_eq!(told(&mut machine), none(), "nothing is published by it");
    assert!(machine.is_stale());
}

/// A broken source has its pause, whatever ends meanwhile.
#[test]
fn the_end_of_a_broken_source_has_that_looked_at_no_sooner() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 10 * SEC), |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.push(Arrival::Unknown, broken(Reason::NotFound));
    world.pass(99_990 * MS);
    world.told();
    world.count();
    world.pass(20 * MS);
    assert_eq!(world.told(), ["degraded generation 3"]);
    assert_eq!(world.count(), [0, 0]);
}

#[test]
fn a_withdrawal_that_was_held_back_is_not_pending_once_it_overlaps() {
    let [a, b] = ["a", "b"].map(Ca::new);
    let (good, bad) = (b.issue("good"), b.issue("bad"));
    let refused = bad.leaf_der();
    let mut world = World::with(full(&[&a, &b], &good), overlapping(100 * SEC, NEVER), move |candidate| {
        let is_bad = candidate.material.identity().is_some_and(|identity| identity.leaf().der() == &refused);
        if is_bad { no(Reason::Rejected) } else { Verdict::Accept }
    });
    world.push(Arrival::Swapped, full(&[&b], &bad));
    world.pass(29_990 * MS);
    assert!(world.driver.machine().is_withdrawal_pending());
    assert!(!world.driver.machine().is_overlapping());
    world.pass(20 * MS);
    assert!(!world.driver.machine().is_withdrawal_pending());
    assert!(world.driver.machine().is_overlapping());
}

/// What settled when an end failed is read at the next look, and not after the pause only. Nothing else is read before it.
#[test]
fn in_the_pause_after_an_end_that_failed_only_what_settled_is_read() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    for settles in [false, true] {
        let mut policy = overlapping(100 * SEC, NEVER);
        policy.backoff = 20 * SEC;
        let (mut world, fails) = fallible(&[&old], policy);
        world.push(Arrival::Swapped, trust(&[&new]));
        world.pass(99_900 * MS);
        if settles {
            world.push(Arrival::Unknown, trust(&[&newer]));
        }
        fails.store(true, Ordering::SeqCst);
        world.pass(500 * MS);
        fails.store(false, Ordering::SeqCst);
        assert_eq!(served(&world), 2);
        world.count();
        world.driver.wake(world.now);
        world.pass(Duration::ZERO);
        assert_eq!(world.count(), [1, usize::from(settles)]);
        world.pass(60 * SEC);
        assert_eq!(served(&world), if settles { 2 } else { 1 });
        assert_eq!(world.driver.machine().is_overlapping(), settles, "the content has an overlap of its own");
    }
}

#[test]
fn what_can_not_be_used_is_not_read_again_in_its_pause() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut policy = overlapping(Duration::ZERO, NEVER);
    policy.backoff = 20 * SEC;
    let (mut world, fails) = fallible(&[&old], policy);
    fails.store(true, Ordering::SeqCst);
    world.push(Arrival::Swapped, trust(&[&old, &new]));
    world.pass(500 * MS);
    assert_eq!(served(&world), 1);
    world.count();
    world.driver.wake(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.count(), [1, 0]);
}
