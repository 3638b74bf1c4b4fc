//! What time alone does: certificates that near their end, candidates whose time has come, overlaps that end; and steps
//! back, which are found by comparing with what was served before.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::time::{Duration, SystemTime};

use certsource::clock::Now;
use certsource::machine::{Machine, Policy, Threshold, Todo, Verdict};
use certsource::parts::Parts;
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

fn slow() -> Policy {
    // No look of its own comes in between.
    let mut policy = Policy::every(1_000_000 * SEC);
    policy.jitter = 0.0;
    policy
}

fn accept(
    make: impl Fn() -> Result<certsource::parts::Parts, certsource::Error> + Send + 'static,
    policy: Policy,
) -> World {
    World::with(make, policy, |_| Verdict::Accept)
}

// Expiry.

#[test]
fn each_threshold_is_told_once_for_each_certificate_by_time_alone() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let leaf = |name: &str| ca.leaf(name).not_before(now - 100 * SEC).not_after(now + 900 * SEC).issue();
    let (first, second) = (leaf("first"), leaf("second"));
    let mut policy = slow();
    policy.expiring =
        vec![Threshold::Used(0.5), Threshold::Before(100 * SEC), Threshold::Before(Duration::ZERO)];
    let mut world = accept(pair(&first, &first), policy);
    assert_eq!(world.told(), ["generation 1"]);
    world.count();
    world.pass(399 * SEC);
    assert_eq!(world.told(), none());
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["leaf expiring Used(0.5)"]);
    world.pass(398 * SEC);
    assert_eq!(world.told(), none());
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["leaf expiring Before(100s)"]);
    assert_eq!(world.count(), [0, 0], "no look was needed");
    // A new certificate: told anew; what was passed long ago first.
    world.push(Arrival::Swapped, pair(&second, &second));
    assert_eq!(world.told(), ["generation 2", "leaf expiring Used(0.5)", "leaf expiring Before(100s)"]);
    world.pass(110 * SEC);
    assert_eq!(world.told(), ["leaf expiring Before(0ns)", "expired"]);
    world.pass(1000 * SEC);
    assert_eq!(world.told(), none(), "once");
}

#[test]
fn anchors_expire_too_and_odd_thresholds_harm_nobody() {
    let now = SystemTime::now();
    let ca = Ca::builder("ca").not_before(now - 10 * SEC).not_after(now + 90 * SEC).build();
    let other = Ca::new("other");
    let mut policy = slow();
    policy.expiring = vec![
        Threshold::Before(Duration::MAX),
        Threshold::Used(f64::NAN),
        Threshold::Used(-1.0),
        Threshold::Used(7.0),
    ];
    let mut world = accept(trust(&[&ca, &other]), policy);
    let told = world.told();
    assert_eq!(told.len(), 1 + 2 * 2, "two that were passed long ago, for each: {told:?}");
    world.pass(100 * SEC);
    assert_eq!(world.told().len(), 2, "and twice the end of the one that ends");
}

#[test]
fn an_expired_candidate_is_adopted_by_time_alone_once_the_served_one_has_expired_too() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let served = ca.leaf("served").not_before(now - 10 * SEC).not_after(now + 500 * SEC).issue();
    let expired = ca.leaf("expired").not_before(now - 7200 * SEC).not_after(now - 3600 * SEC).issue();
    let mut world = accept(full(&[&ca], &served), slow());
    world.push(Arrival::Swapped, full(&[&ca], &expired));
    assert_eq!(world.told(), ["generation 1", "refused expired"]);
    world.pass(499 * SEC);
    assert_eq!(world.told(), none());
    world.pass(10 * SEC);
    let told = world.told();
    assert!(told.contains(&"generation 2".to_owned()), "no better one is left: {told:?}");
}

#[test]
fn a_candidate_that_is_not_valid_yet_is_adopted_at_the_latest_when_the_served_one_ends() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let served = ca.leaf("served").not_before(now - 10 * SEC).not_after(now + 500 * SEC).issue();
    let early = ca.leaf("early").not_before(now + 5000 * SEC).not_after(now + 9000 * SEC).issue();
    let mut world = accept(full(&[&ca], &served), slow());
    world.push(Arrival::Swapped, full(&[&ca], &early));
    assert_eq!(world.told(), ["generation 1", "refused not_yet_valid"]);
    world.pass(510 * SEC);
    assert!(world.told().contains(&"generation 2".to_owned()));
}

// Overlap.

fn overlapping(by: Duration) -> Policy {
    let mut policy = slow();
    policy.overlap = by;
    policy
}

#[test]
fn a_withdrawn_anchor_overlaps_and_then_goes_by_time_alone() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = accept(trust(&[&old]), overlapping(100 * SEC));
    world.push(Arrival::Swapped, trust(&[&new]));
    assert_eq!(world.told(), ["generation 1", "generation 2"]);
    assert_eq!(served(&world), 2, "both");
    assert!(world.driver.machine().is_overlapping());
    world.pass(99 * SEC);
    assert_eq!(world.told(), none());
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["generation 3"]);
    assert_eq!(served(&world), 1);
    assert!(!world.driver.machine().is_overlapping());
    world.pass(1000 * SEC);
    assert_eq!(world.told(), none());
}

#[test]
fn without_it_what_is_withdrawn_is_gone_at_once() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = accept(trust(&[&old]), slow());
    world.push(Arrival::Swapped, trust(&[&new]));
    assert_eq!(served(&world), 1);
}

#[test]
fn nothing_prolongs_an_overlap() {
    let (old, new, third) = (Ca::new("old"), Ca::new("new"), Ca::new("third"));
    let mut world = accept(trust(&[&old, &new]), overlapping(100 * SEC));
    world.told();
    // Withdrawn; nothing else is new, so nothing is published.
    world.push(Arrival::Swapped, trust(&[&new]));
    assert_eq!(world.told(), none());
    world.pass(40 * SEC);
    // Back, and withdrawn again; and the rest changes.
    world.push(Arrival::Swapped, trust(&[&old, &new]));
    world.pass(20 * SEC);
    world.push(Arrival::Swapped, trust(&[&new, &third]));
    assert_eq!(world.told(), ["generation 2"]);
    assert_eq!(served(&world), 3);
    world.pass(39 * SEC);
    assert_eq!(world.told(), none());
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["generation 3"], "100 s after it was first withdrawn");
    assert_eq!(served(&world), 2);
    // A second time there is nothing left of it.
    world.push(Arrival::Swapped, trust(&[&old, &new, &third]));
    assert_eq!(world.told(), ["generation 4", "regressed anchor"]);
    world.push(Arrival::Swapped, trust(&[&new, &third]));
    assert_eq!(world.told(), ["generation 5"]);
    assert_eq!(served(&world), 2);
}

#[test]
fn an_overlap_is_capped() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = accept(trust(&[&old]), overlapping(Duration::MAX));
    world.push(Arrival::Swapped, trust(&[&new]));
    assert_eq!(served(&world), 2);
    world.pass(7 * 86_400 * SEC + SEC);
    assert_eq!(served(&world), 1);
}

/// Anchors by number, without minting each: they differ in the last bytes of their signature, which nobody checks of an
/// anchor.
fn numbered<I: IntoIterator<Item = usize>>(
    ca: &Ca,
    numbers: I,
) -> impl Fn() -> Result<Parts, Error> + Send + 'static + use<I> {
    let der = ca.certificate_der();
    let anchor = |number: usize| {
        let mut der = der.to_vec();
        let at = der.len() - 2;
        der[at..].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
        der.into()
    };
    let ders: Vec<_> = numbers.into_iter().map(anchor).collect();
    move || Ok(Parts::new().with_trust(&Origin::named("ca"), ders.clone()))
}

/// The numbers of those that are served.
fn served_numbers(world: &World) -> Vec<usize> {
    let (_, material) = world.driver.machine().current().unwrap();
    let number = |der: &[u8]| usize::from(der[der.len() - 2]) << 8 | usize::from(der[der.len() - 1]);
    let mut numbers: Vec<usize> =
        material.trust().unwrap().iter().map(|anchor| number(anchor.der())).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn of_more_than_4096_anchors_that_overlap_those_withdrawn_first_go_before_their_time() {
    const MOST: usize = 4096;
    let ca = Ca::new("many");
    // 0 stays; 1 to 10 are withdrawn first, the others after them.
    let (first, others) = (1..11, 11..MOST + 6);
    let mut world = accept(numbered(&ca, 0..11), overlapping(100 * SEC));
    world.push(Arrival::Swapped, numbered(&ca, std::iter::once(0).chain(others.clone())));
    assert_eq!(served_numbers(&world), (0..MOST + 6).collect::<Vec<_>>(), "ten overlap");
    world.pass(10 * SEC);
    world.push(Arrival::Swapped, numbered(&ca, [0]));
    let served = served_numbers(&world);
    assert_eq!(served.len(), 1 + MOST);
    assert!(others.clone().all(|number| served.binary_search(&number).is_ok()), "the newest are kept");
    let (kept, dropped): (Vec<_>, Vec<_>) = first.partition(|number| served.binary_search(number).is_ok());
    assert_eq!((kept.len(), dropped.len()), (5, 5));
    // What is kept ends when it always would have.
    world.pass(89 * SEC);
    assert_eq!(served_numbers(&world).len(), 1 + MOST);
    world.pass(2 * SEC);
    assert_eq!(served_numbers(&world), std::iter::once(0).chain(others).collect::<Vec<_>>());
    world.pass(10 * SEC);
    assert_eq!(served_numbers(&world), [0]);
    // So many ends are remembered, and no more: who had the whole time has nothing left of it, who was dropped is forgotten.
    for (number, overlaps) in [(kept[0], false), (dropped[0], true)] {
        world.push(Arrival::Swapped, numbered(&ca, [0, number]));
        world.push(Arrival::Swapped, numbered(&ca, [0]));
        assert_eq!(served_numbers(&world).len() == 2, overlaps);
    }
    world.pass(101 * SEC);
    // The memory is full, and the next one overlaps and ends as any other.
    world.push(Arrival::Swapped, numbered(&ca, [0, 60_000]));
    world.push(Arrival::Swapped, numbered(&ca, [0]));
    assert_eq!(served_numbers(&world), [0, 60_000]);
    world.pass(101 * SEC);
    assert_eq!(served_numbers(&world), [0]);
}

#[test]
fn of_more_than_4096_ends_those_that_are_over_longest_are_forgotten() {
    let ca = Ca::new("many");
    let (first, second, third) = (1..2001, 2001..4001, 4001..4201);
    let after_first = || std::iter::once(0).chain(2001..4201);
    let mut world = accept(numbered(&ca, 0..4201), overlapping(100 * SEC));
    world.push(Arrival::Swapped, numbered(&ca, after_first()));
    world.pass(110 * SEC);
    assert_eq!(served_numbers(&world).len(), 4201 - first.len(), "the end of the first is over");
    world.push(Arrival::Swapped, numbered(&ca, std::iter::once(0).chain(third.clone())));
    world.push(Arrival::Swapped, numbered(&ca, after_first()));
    world.pass(10 * SEC);
    // The ends of those that came back are remembered, beside those that are added here.
    world.push(Arrival::Swapped, numbered(&ca, std::iter::once(0).chain(second)));
    world.push(Arrival::Swapped, numbered(&ca, [0]));
    assert_eq!(served_numbers(&world).len(), 2201);
    world.pass(95 * SEC);
    assert_eq!(served_numbers(&world), std::iter::once(0).chain(third).collect::<Vec<_>>());
}

#[test]
fn of_more_than_4096_anchors_withdrawn_at_once_none_stays() {
    const MOST: usize = 4096;
    let ca = Ca::new("many");
    let mut world = accept(numbered(&ca, 0..MOST + 8), overlapping(100 * SEC));
    world.push(Arrival::Swapped, numbered(&ca, [0]));
    assert_eq!(served_numbers(&world).len(), 1 + MOST);
    world.pass(101 * SEC);
    assert_eq!(served_numbers(&world), [0]);
}

#[test]
fn withdraw_now_ends_it_and_covers_what_its_own_read_finds() {
    let (one, two, three) = (Ca::new("one"), Ca::new("two"), Ca::new("three"));
    let mut world = accept(trust(&[&one, &two]), overlapping(1000 * SEC));
    world.push(Arrival::Swapped, trust(&[&two, &three]));
    assert_eq!(served(&world), 3);
    world.told();
    // In the same breath another one is withdrawn, which nobody has looked at yet.
    world.script.0.lock().unwrap().make = Box::new(trust(&[&three]));
    let ticket = world.driver.withdraw_now(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(served(&world), 2, "the overlap is over before anything is read");
    world.pass(10 * SEC);
    assert_eq!(served(&world), 1);
    let told = world.told();
    assert!(told.contains(&format!("concluded {ticket} 4")), "{told:?}");
    // Later withdrawals have theirs.
    world.push(Arrival::Swapped, trust(&[&one]));
    assert_eq!(served(&world), 2);
}

/// A read that is to begin, of a look that was made before, answers it only when the overlap is over.
#[test]
fn withdraw_now_between_a_look_and_its_read_ends_the_overlap_before_it_is_answered() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    for source_is_broken in [false, true] {
        let mut world = accept(trust(&[&old]), overlapping(1000 * SEC));
        world.push(Arrival::Swapped, trust(&[&new]));
        assert_eq!(served(&world), 2);
        world.told();
        if source_is_broken {
            world.change(Arrival::Unknown, broken(Reason::NotFound));
        } else {
            world.change(Arrival::Unknown, trust(&[&new]));
        }
        world.driver.wake(world.now);
        // The look, and no more.
        assert!(world.driver.step(|| world.now).is_none());
        let ticket = world.driver.withdraw_now(world.now);
        world.pass(10 * SEC);
        let told = world.told();
        let answer = if source_is_broken { "not_found" } else { "3" };
        let at = |wanted: &str| told.iter().position(|told| told.ends_with(wanted));
        let (ended, answered) = (at("generation 3"), at(&format!("concluded {ticket} {answer}")));
        assert!(ended.is_some() && answered.is_some() && ended < answered, "{told:?}");
        assert_eq!(served(&world), 1);
    }
}

/// What ends by time while new content has to stand still takes nothing from that, and answers nobody who waits for it.
#[test]
fn an_overlap_that_ends_while_content_settles_does_not_make_it_forgotten() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    for is_asked in [false, true] {
        let mut policy = overlapping(100 * SEC);
        policy.interval = 1000 * SEC;
        let mut world = accept(trust(&[&old]), policy);
        world.push(Arrival::Swapped, trust(&[&new]));
        world.pass(99 * SEC + 900 * MS);
        world.told();
        world.push(Arrival::Unknown, trust(&[&newer]));
        let ticket = is_asked.then(|| world.driver.demand(world.now));
        world.pass(30 * SEC);
        let told = world.told();
        // The end of the first overlap, then the content with an overlap of its own.
        assert_eq!(&told[..2], ["generation 3", "generation 4"], "{told:?}");
        let answered: Vec<_> = ticket.iter().map(|ticket| format!("concluded {ticket} 4")).collect();
        assert_eq!(told[2..], answered);
        assert_eq!(served(&world), 2);
    }
}

/// Where the end can not be used, nobody is told that all is well.
#[test]
fn withdraw_now_whose_end_can_not_be_used_is_answered_by_an_error() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut is_first = true;
    let mut world = World::with(trust(&[&old]), overlapping(1000 * SEC), move |candidate| {
        let is_end = candidate.material.trust().unwrap().len() == 1 && !std::mem::take(&mut is_first);
        if is_end {
            Verdict::Unusable(certsource::Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    world.told();
    let ticket = world.driver.withdraw_now(world.now);
    world.pass(5 * SEC);
    assert_eq!(served(&world), 2);
    let told = world.told();
    assert!(told.contains(&format!("concluded {ticket} rejected")), "{told:?}");
}

#[test]
fn an_overlap_ends_although_the_source_is_broken_and_that_goes_on_being_told() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut policy = overlapping(100 * SEC);
    policy.interval = 10 * SEC;
    let mut world = accept(trust(&[&old]), policy);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.push(Arrival::Unknown, broken(Reason::NotFound));
    world.pass(99 * SEC);
    assert_eq!(world.told(), ["generation 1", "generation 2", "failed not_found"]);
    world.pass(3 * SEC);
    assert_eq!(world.told(), ["degraded generation 3"]);
    assert_eq!(served(&world), 1);
    assert!(world.driver.machine().trouble().is_some());
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(5 * SEC);
    assert_eq!(world.told(), ["recovered"]);
}

#[test]
fn an_end_that_can_not_be_built_is_tried_again_and_does_not_spin() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&fails);
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC), move |_| {
        if flag.load(std::sync::atomic::Ordering::SeqCst) {
            Verdict::Unusable(certsource::Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    // `pass` fails when the machine never rests.
    world.pass(130 * SEC);
    assert_eq!(served(&world), 2);
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    world.pass(40 * SEC);
    assert_eq!(served(&world), 1);
}

// Steps back.

#[test]
fn a_step_back_is_told_or_refused_where_that_was_asked_for() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let now = SystemTime::now();
    let leaf = |age: u32| one.leaf("id").not_before(now - age * SEC).not_after(now + 10_000 * SEC).issue();
    let (old, new) = (leaf(2000), leaf(1000));
    for refuse in [false, true] {
        let mut policy = slow();
        policy.refuse_regressed = refuse;
        let mut world = accept(full(&[&one, &two], &old), policy);
        world.push(Arrival::Swapped, full(&[&one], &new));
        assert_eq!(world.told(), ["generation 1", "generation 2"], "no step back");
        world.push(Arrival::Swapped, full(&[&one, &two], &new));
        let told = world.told();
        if refuse {
            assert_eq!(told, ["refused rejected"]);
            // What loses only is never held back.
            world.push(Arrival::Swapped, full(&[&one], &new));
            assert_eq!(world.told(), ["recovered"]);
        } else {
            assert_eq!(told, ["generation 3", "regressed anchor"]);
        }
        world.push(Arrival::Swapped, full(&[&one], &old));
        let told = world.told();
        if refuse {
            assert_eq!(told, ["refused rejected"]);
        } else {
            assert_eq!(told, ["generation 4", "regressed leaf"]);
        }
    }
}

/// A newer list that revokes no less is published whatever a check says; one that takes a revocation back is not.
#[test]
fn a_newer_list_that_takes_a_revocation_back_is_no_withdrawal() {
    let ca = Ca::new("ca");
    let (bad, worse) = (ca.issue("bad"), ca.issue("worse"));
    let list = |number| {
        let (parts, list) = (trust(&[&ca]), ca.crl_builder().number(number).sign().der());
        move || Ok(parts()?.with_crls(&certsource::Origin::named("crl"), [list.clone()]))
    };
    ca.revoke(&bad);
    let first = list(1);
    ca.revoke(&worse);
    let more = list(2);
    ca.unrevoke(&bad);
    let less = list(3);
    let mut world = World::with(first, slow(), |candidate| {
        if candidate.current.is_some() { no(Reason::Rejected) } else { Verdict::Accept }
    });
    world.told();
    world.push(Arrival::Swapped, more);
    assert_eq!(world.told(), ["degraded", "generation 2"]);
    world.push(Arrival::Swapped, less);
    assert_eq!(world.told(), ["refused rejected"]);
}

// Looks that are made together.

#[test]
fn only_what_is_due_by_the_interval_alone_comes_early_and_never_before_its_spread() {
    let ca = Ca::new("ca");
    let reading = || trust(&[&ca])().unwrap().assemble();
    let cases = [
        (0.0, 750, 1_000, 250),
        (0.02, 980, 1_020, 16),
        (0.1, 900, 1_100, 80),
        (0.2, 800, 1_200, 160),
        (0.5, 500, 1_500, 250),
    ];
    for (jitter, first, last, early_by) in cases {
        let mut policy = Policy::every(SEC);
        policy.jitter = jitter;
        let mut machine = Machine::new(policy, Origin::named("test"));
        let start = Now::read();
        assert!(matches!(machine.next(start), Todo::Look));
        machine.looked(start, Ok(Look::Changed(Arrival::Unknown)));
        assert!(matches!(machine.next(start), Todo::Read));
        machine.read(start, start, reading());
        let settled = start.after(SEC);
        assert!(matches!(machine.next(start), Todo::Wait(Some(until)) if until == settled.mono));
        assert_eq!(machine.look_from(), None, "what must stand still");
        let almost = start.after(SEC - MS);
        machine.bring_forward(almost);
        assert!(matches!(machine.next(almost), Todo::Wait(Some(until)) if until == settled.mono));
        assert!(matches!(machine.next(settled), Todo::Look));
        machine.looked(settled, Ok(Look::Same));
        assert!(matches!(machine.next(settled), Todo::Read));
        machine.read(settled, settled, reading());
        assert!(matches!(machine.next(settled), Todo::Judge(_)));
        machine.judged(settled, Verdict::Accept);
        let (mut now, mut drawn) = (settled, Vec::new());
        for _ in 0..100 {
            let Todo::Wait(Some(until)) = machine.next(now) else { panic!("idle") };
            drawn.push(until - now.mono);
            let from = machine.look_from().unwrap();
            assert!(from >= now.mono + first * MS - MS && until <= now.mono + last * MS + MS, "{jitter}");
            let leeway = until - from;
            assert!(leeway.abs_diff(early_by * MS) < MS, "{jitter}: {leeway:?}");
            let early = now.after(from - now.mono - MS);
            machine.bring_forward(early);
            assert!(matches!(machine.next(early), Todo::Wait(Some(same)) if same == until), "too early");
            now = now.after(from - now.mono);
            assert!(matches!(machine.next(now), Todo::Wait(_)), "nobody has said so");
            machine.bring_forward(now);
            assert!(matches!(machine.next(now), Todo::Look));
            machine.looked(now, Ok(Look::Same));
        }
        // Nor does what moves then come early.
        machine.woken(now);
        assert!(matches!(machine.next(now), Todo::Look));
        machine.looked(now, Ok(Look::Changed(Arrival::Unknown)));
        assert!(matches!(machine.next(now), Todo::Read));
        assert_eq!(machine.look_from(), None);
        // From the earliest, less what a look may be early, to the last.
        let from = (first + early_by).min(last);
        let tenth = (last - from) * MS / 10;
        assert!(*drawn.iter().min().unwrap() <= from * MS + 2 * tenth + MS, "{jitter}: {drawn:?}");
        assert!(*drawn.iter().max().unwrap() + 2 * tenth + MS >= last * MS, "{jitter}: {drawn:?}");
    }
}
