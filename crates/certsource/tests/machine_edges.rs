//! The machine's rules at their edges: the very moment at which one begins to hold, what is remembered from one change to
//! the next, and rests that keep whatever says "again" from being asked without a pause.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use certsource::clock::Now;
use certsource::machine::{Machine, Policy, Todo, Verdict};
use certsource::source::{Armed, Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

fn slow() -> Policy {
    Policy::every(3600 * SEC)
}

fn overlapping() -> Policy {
    let mut policy = slow();
    policy.overlap = 100 * SEC;
    policy
}

#[test]
fn an_identity_is_good_up_to_the_very_moment_of_its_end() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let short = ca.leaf("short").not_before(now - 10 * SEC).not_after(now + 90 * SEC).issue();
    let mut world = World::with(full(&[&ca], &short), slow(), |_| Verdict::Accept);
    let end = world.driver.machine().current().unwrap().1.identity_not_after().unwrap();
    world.told();
    world.pass(end.duration_since(world.now.wall).unwrap());
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), none(), "at its end");
    world.pass(SEC);
    assert_eq!(world.told(), ["expired"]);
}

#[test]
fn a_first_identity_whose_time_has_not_come_is_served_and_told() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let early = ca.leaf("early").not_before(now + 3600 * SEC).not_after(now + 7200 * SEC).issue();
    assert_eq!(World::new(full(&[&ca], &early)).told(), ["degraded", "generation 1"]);
    assert_eq!(World::new(full(&[&ca], &ca.issue("good"))).told(), ["generation 1"]);
}

#[test]
fn a_file_that_is_closed_twice_stands_still_as_long_as_after_the_last_time() {
    let cas = [Ca::new("one"), Ca::new("two"), Ca::new("three")];
    let mut world = World::new(trust(&[&cas[0]]));
    world.told();
    world.push(Arrival::Closed, trust(&[&cas[1]]));
    world.pass(50 * MS);
    world.push(Arrival::Closed, trust(&[&cas[2]]));
    world.pass(99 * MS);
    assert_eq!(world.told(), none());
    world.pass(2 * MS);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn content_that_is_read_once_more_and_is_the_same_is_known_to_be_closed_as_before() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    world.push(Arrival::Closed, trust(&[&two]));
    world.pass(50 * MS);
    world.push(Arrival::Recheck, trust(&[&two]));
    world.pass(60 * MS);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn of_several_files_a_closed_one_says_nothing() {
    let ca = Ca::new("ca");
    let mut world = World::new(full(&[&ca], &ca.issue("one")));
    world.told();
    world.push(Arrival::Closed, full(&[&ca], &ca.issue("two")));
    world.pass(SEC - MS);
    assert_eq!(world.told(), none());
    world.pass(2 * MS);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn a_poll_is_made_within_the_interval_although_the_detector_asks_for_a_later_one() {
    let mut world = World::new(trust(&[&Ca::new("one")]));
    world.script.0.lock().unwrap().always = Box::new(|now| Look::SameUntil(now.mono + 90_000 * SEC));
    world.pass(10 * SEC);
    world.count();
    world.pass(100 * SEC);
    let [looks, _] = world.count();
    assert!((9..=11).contains(&looks), "{looks} looks in 100 s, at an interval of 10 s");
}

#[test]
fn a_poll_is_made_when_the_detector_asks_for_it_before_the_interval_is_over() {
    let mut world = World::new(trust(&[&Ca::new("one")]));
    world.pass(10 * SEC);
    world.count();
    world.script.0.lock().unwrap().looks.push(Look::SameUntil(world.now.mono + 12 * SEC));
    world.pass(11 * SEC);
    assert_eq!(world.count(), [1, 0]);
    world.pass(2 * SEC);
    assert_eq!(world.count(), [1, 0]);
}

#[test]
fn slow_policies_have_more_patience_before_content_is_told_as_unstable() {
    let cas: Vec<Ca> = (0..12).map(|n| Ca::new(&n.to_string())).collect();
    let mut policy = Policy::default();
    policy.settle = 20 * SEC;
    let mut world = World::with(trust(&[&cas[0]]), policy, |_| Verdict::Accept);
    world.told();
    for ca in &cas[1..=5] {
        world.push(Arrival::Unknown, trust(&[ca]));
        world.pass(15 * SEC);
    }
    assert_eq!(world.told(), none(), "75 s, which is less than four times the time to settle");
    for ca in &cas[6..] {
        world.push(Arrival::Unknown, trust(&[ca]));
        world.pass(15 * SEC);
    }
    assert_eq!(world.told(), ["failed unstable"]);
}

#[test]
fn a_pair_that_does_not_match_is_told_as_pending_also_after_another_failure() {
    let ca = Ca::new("ca");
    let (a, b) = (ca.issue("a"), ca.issue("b"));
    let mut world = World::new(full(&[&ca], &a));
    world.told();
    world.push(Arrival::Unknown, broken(Reason::Io));
    world.pass(50 * MS);
    world.push(Arrival::Unknown, mixed(&[&ca], &b, &a));
    assert_eq!(world.told(), ["pending key_mismatch"]);
}

// What is withdrawn.

#[test]
fn an_overlap_ends_at_its_very_moment() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = World::with(trust(&[&old]), overlapping(), |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.told();
    world.pass(200 * SEC);
    assert_eq!(world.told_at(), [(100 * SEC, "generation 3".to_owned())]);
}

#[test]
fn an_overlap_that_is_over_is_not_given_again_after_another_withdrawal() {
    let (a, b, c) = (Ca::new("a"), Ca::new("b"), Ca::new("c"));
    let mut world = World::with(trust(&[&a, &b, &c]), overlapping(), |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&b, &c]));
    world.pass(101 * SEC);
    assert_eq!(served(&world), 2);
    world.push(Arrival::Swapped, trust(&[&a, &b, &c]));
    world.push(Arrival::Swapped, trust(&[&a, &c]));
    assert_eq!(served(&world), 3, "the second one overlaps");
    world.push(Arrival::Swapped, trust(&[&c]));
    assert_eq!(served(&world), 2, "the first has had its time");
}

#[test]
fn every_anchor_that_was_withdrawn_is_remembered_and_its_return_is_said_in_words() {
    let (a, b, c) = (Ca::new("a"), Ca::new("b"), Ca::new("c"));
    let mut policy = slow();
    policy.refuse_regressed = true;
    let mut world = World::with(trust(&[&a, &b, &c]), policy, |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&b, &c]));
    world.push(Arrival::Swapped, trust(&[&c]));
    world.told();
    for back in [&a, &b] {
        world.push(Arrival::Swapped, trust(&[&c, back]));
        let (error, _) = world.driver.machine().trouble().unwrap();
        assert!(error.message().contains("was withdrawn and is back"), "{error}");
        world.push(Arrival::Swapped, trust(&[&c]));
        assert_eq!(world.told(), ["refused rejected", "recovered"]);
    }
}

#[test]
fn a_withdrawal_that_changes_while_it_is_held_back_stands_still_anew() {
    let cas = [Ca::new("one"), Ca::new("two"), Ca::new("three")];
    let (a, b) = (cas[0].issue("a"), cas[0].issue("b"));
    let mut world = World::new(full(&[&cas[0], &cas[1], &cas[2]], &a));
    world.push(Arrival::Unknown, mixed(&[&cas[0], &cas[1]], &b, &a));
    world.pass(29 * SEC);
    world.push(Arrival::Unknown, mixed(&[&cas[0]], &b, &a));
    world.told();
    world.pass(4 * SEC);
    assert_eq!(world.told(), ["failed key_mismatch"], "four of five seconds");
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["degraded generation 2"]);
    assert_eq!(served(&world), 1);
}

// Rests.

/// How often the gates are asked in ten seconds after the first publication, when they say this.
fn asked_in_ten_seconds(verdict: impl Fn() -> Verdict + Send + 'static) -> usize {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let mut world = World::with(trust(&[&one]), Policy::default(), move |candidate| {
        count.fetch_add(1, Ordering::Relaxed);
        if candidate.current.is_none() { Verdict::Accept } else { verdict() }
    });
    world.push(Arrival::Swapped, trust(&[&two]));
    asked.store(0, Ordering::Relaxed);
    world.pass(10 * SEC);
    assert_eq!(world.driver.machine().current().unwrap().0, 1);
    asked.load(Ordering::Relaxed)
}

#[test]
fn gates_that_want_to_be_asked_again_at_once_are_asked_after_a_pause() {
    let start = std::time::Instant::now();
    let again = asked_in_ten_seconds(move || Verdict::AskAgain {
        at: start,
        error: Error::new(Reason::Rejected, "not now"),
    });
    assert_eq!(again, 9, "a pause of 100 ms, and a second in which it stands still");
    let unusable = asked_in_ten_seconds(|| Verdict::Unusable(Error::new(Reason::Rejected, "no")));
    assert_eq!(unusable, 5, "a pause that doubles, and that second");
}

/// A part of the source is no content that could be refused: what can not use it is told as a failure, and asked again.
#[test]
fn a_withdrawal_alone_that_can_not_be_used_fails_and_is_not_refused() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (a, b) = (one.issue("a"), one.issue("b"));
    let fails = Arc::new(AtomicUsize::new(1));
    let flag = Arc::clone(&fails);
    let mut world = World::with(full(&[&one, &two], &a), Policy::every(10 * SEC), move |candidate| {
        if candidate.degraded.is_some() && flag.load(Ordering::Relaxed) > 0 {
            Verdict::Unusable(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.told();
    world.push(Arrival::Unknown, mixed(&[&one], &b, &a));
    world.pass(60 * SEC);
    let told = world.told();
    assert!(told.contains(&"failed rejected".to_owned()), "{told:?}");
    assert!(!told.iter().any(|told| told.starts_with("refused") || told.contains("generation")), "{told:?}");
    fails.store(0, Ordering::Relaxed);
    world.pass(60 * SEC);
    assert!(world.told().contains(&"degraded generation 2".to_owned()));
}

/// Nobody may take a read for what a look saw: if what was broken comes back, the next look says "same" of it.
#[test]
fn what_got_well_behind_the_back_of_a_look_is_read_once_more_and_nothing_else_is() {
    let ca = Ca::new("ca");
    let set = |world: &World, good| {
        let (good_parts, bad) = (trust(&[&ca]), broken(Reason::Malformed));
        world.script.0.lock().unwrap().make = Box::new(move || if good { good_parts() } else { bad() });
    };
    let mut world = World::new(trust(&[&ca]));
    world.push(Arrival::Unknown, broken(Reason::Malformed));
    world.pass(5 * SEC);
    world.told();
    set(&world, true);
    world.pass(7 * SEC);
    assert_eq!(world.told(), ["recovered"]);
    set(&world, false);
    world.pass(12 * SEC);
    assert_eq!(world.told(), ["failed malformed"]);
    // A look asked for what is read now, so nothing is behind its back.
    world.push(Arrival::Unknown, trust(&[&ca]));
    assert_eq!(world.told(), ["recovered"]);
    world.count();
    world.pass(35 * SEC);
    assert_eq!(world.count(), [3, 0]);
    // Nor was anything wrong here.
    world.push(Arrival::Recheck, trust(&[&ca]));
    assert_eq!(world.count(), [1, 1]);
    world.pass(35 * SEC);
    assert_eq!(world.count(), [3, 0]);
}

/// The same of what was only new: content that was being followed, and was not there for one read that no look had asked for.
#[test]
fn what_was_followed_and_was_away_for_one_read_is_read_once_more() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    // Content that must stand still, and content that is confirmed by one more look.
    for (first, second) in
        [(Arrival::Unknown, Look::Same), (Arrival::Swapped, Look::Changed(Arrival::Recheck))]
    {
        let mut world = World::new(trust(&[&one]));
        let (served, new, reads) = (trust(&[&one]), trust(&[&two]), AtomicUsize::new(0));
        world.change(first, move || {
            let is_away = reads.fetch_add(1, Ordering::Relaxed) == 1;
            if is_away { served() } else { new() }
        });
        world.script.0.lock().unwrap().looks.push(second);
        world.told();
        world.driver.wake(world.now);
        world.pass(20 * SEC);
        assert_eq!(world.told(), ["generation 2"]);
        world.count();
        world.pass(35 * SEC);
        assert_eq!(world.count()[1], 0, "and all is well after that");
    }
}

/// The same of content that is ready and waits for its turn.
#[test]
fn what_waits_for_its_turn_and_was_away_for_one_read_is_read_once_more() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut policy = Policy::every(10 * SEC);
    policy.jitter = 0.0;
    policy.adopt_within = 5 * SEC;
    let mut world = World::with(trust(&[&one]), policy, |_| Verdict::Accept);
    let (served, new, reads) = (trust(&[&one]), trust(&[&one, &two]), AtomicUsize::new(0));
    // The second read, when its turn has come, finds what is served; then the new content is back.
    world.push(Arrival::Swapped, move || {
        let is_away = reads.fetch_add(1, Ordering::Relaxed) == 1;
        if is_away { served() } else { new() }
    });
    world.told();
    world.pass(600 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

/// A machine without a driver, at rest, with its first generation to tell.
fn loaded(policy: Policy, now: Now) -> Machine {
    let ca = Ca::new("ca");
    let mut machine = Machine::new(policy, Origin::named("test"));
    machine.armed(Armed::Watching);
    let mut looks = vec![Look::Same, Look::Changed(Arrival::Still)];
    for _ in 0..STEPS {
        match machine.next(now) {
            Todo::Look => machine.looked(now, Ok(looks.pop().unwrap())),
            Todo::Read => machine.read(now, now, trust(&[&ca])().unwrap().assemble()),
            Todo::Judge(_) => machine.judged(now, Verdict::Accept),
            Todo::Wait(_) => return machine,
        }
    }
    panic!("the machine never rests");
}

#[test]
fn a_look_at_a_watched_source_may_be_early_by_its_share_unless_that_is_now() {
    let mut policy = Policy::default();
    (policy.jitter, policy.safety) = (0.0, 60 * SEC);
    // A watched source is looked at when it asks for it, be that later than all others are.
    for (asked, from) in [(90, Some(75)), (60, Some(45)), (16, Some(1)), (15, None), (5, None)] {
        let now = Now::read();
        let mut machine = loaded(policy.clone(), now);
        machine.woken(now);
        assert!(matches!(machine.next(now), Todo::Look));
        let due = now.after(asked * SEC).mono;
        machine.looked(now, Ok(Look::SameUntil(due)));
        assert!(matches!(machine.next(now), Todo::Wait(Some(until)) if until == due), "{asked}");
        assert_eq!(machine.look_from(), from.map(|from| now.after(from * SEC).mono), "{asked}");
    }
}

#[test]
fn there_is_something_to_tell_until_all_of_it_was_taken() {
    let mut machine = loaded(Policy::default(), Now::read());
    assert!(machine.has_told());
    assert_eq!(std::iter::from_fn(|| machine.tell()).count(), 1);
    assert!(!machine.has_told());
}
