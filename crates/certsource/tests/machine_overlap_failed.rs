//! Ends of overlaps that can not be used, and what else goes on meanwhile. And what `withdraw_now` finds beside something broken.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Candidate, Machine, Todo, Verdict};
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

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

fn ends_fail(candidate: &Candidate) -> Verdict {
    if candidate.current.is_some() && !candidate.can_be_refused { unusable() } else { Verdict::Accept }
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
    let now = Now::read();
    let (mut machine, after) = that_overlaps(now);
    let ticket = machine.withdraw_now(now);
    withdraw_in_the_read(&mut machine, now, &after);
    assert!(machine.is_overlapping());
    let told = told(&mut machine);
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

/// Looks that take longer than the pause after an end that failed.
#[test]
fn an_end_that_fails_lets_the_source_be_read_also_when_looks_are_slow() {
    let (old, new, newer) = (Ca::new("old"), Ca::new("new"), Ca::new("newer"));
    let mut machine = Machine::new(overlapping(10 * SEC, SEC), Origin::named("x"));
    let mut now = Now::read();
    let mut run = |machine: &mut Machine, for_: Duration, make: &Make, first: &mut Option<Look>| {
        let end = now.after(for_);
        let (mut reads, mut ends) = (0, 0);
        while now.mono < end.mono {
            match machine.next(now) {
                Todo::Look => {
                    now = now.after(1200 * MS);
                    machine.looked(now, Ok(first.take().unwrap_or(Look::Same)));
                }
                Todo::Read => {
                    reads += 1;
                    machine.read(now, now, make().map_or_else(Into::into, |parts| parts.assemble()));
                }
                Todo::Judge(candidate) => {
                    let verdict = ends_fail(&candidate);
                    ends += usize::from(!matches!(verdict, Verdict::Accept));
                    machine.judged(now, verdict);
                }
                Todo::Wait(until) => {
                    now = now.after(until.unwrap().saturating_duration_since(now.mono).max(MS))
                }
            }
        }
        (reads, ends)
    };
    let make: Make = Box::new(trust(&[&old]));
    run(&mut machine, 5 * SEC, &make, &mut Some(Look::Changed(Arrival::Still)));
    let make: Make = Box::new(trust(&[&new]));
    run(&mut machine, 5 * SEC, &make, &mut Some(Look::Changed(Arrival::Swapped)));
    // The overlap is over, and its end fails.
    run(&mut machine, 20 * SEC, &make, &mut None);
    assert!(machine.failing_since().is_some());
    while machine.tell().is_some() {}
    // New content comes. It takes the failed end with it.
    let make: Make = Box::new(trust(&[&newer]));
    let counts = run(&mut machine, 600 * SEC, &make, &mut Some(Look::Changed(Arrival::Swapped)));
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect();
    assert!(told.contains(&"generation 3".to_owned()), "{told:?}, reads and failed ends {counts:?}");
}

/// A pair whose second file is late is no failure yet.
#[test]
fn what_is_shown_as_failing_is_what_was_told_and_not_what_has_its_grace() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (a, b) = (new.issue("a"), new.issue("b"));
    let mut world = World::with(full(&[&old, &new], &a), overlapping(100 * SEC, 10 * SEC), ends_fail);
    world.push(Arrival::Swapped, full(&[&new], &a));
    world.pass(150 * SEC);
    assert_eq!(world.told(), ["generation 1", "refused rejected"]);
    // A writer is between its two files: no failure yet, it has 30 s.
    world.push(Arrival::Unknown, mixed(&[&new], &a, &b));
    world.pass(SEC);
    assert_eq!(world.told(), ["pending key_mismatch"]);
    let machine = world.driver.machine();
    assert!(machine.failing_since().is_some());
    let (error, since) = machine.trouble().unwrap();
    assert_eq!(Some(since), machine.failing_since());
    assert!(error.to_string().contains("still trusted"), "{error}");
}

/// What could not go is no failure any more once nothing is served.
#[test]
fn while_nothing_is_served_no_withdrawn_anchor_is_said_to_be_trusted() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut policy = overlapping(100 * SEC, 5 * SEC);
    policy.max_stale = Some(20 * SEC);
    let mut world = World::with(trust(&[&old]), policy, ends_fail);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(110 * SEC);
    world.told();
    // The content never stands still.
    let turn = AtomicUsize::new(0);
    let cas: Vec<_> = (0..100).map(|n| trust(&[&Ca::new(&n.to_string())])).collect();
    world.push(Arrival::Unknown, move || cas[turn.fetch_add(1, Ordering::Relaxed) % 100]());
    world.pass(22 * SEC);
    assert_eq!(world.told(), ["stale"]);
    let machine = world.driver.machine();
    assert!(machine.is_stale());
    if let Some((error, _)) = machine.trouble() {
        assert!(!error.to_string().contains("still trusted"), "{error}");
    }
}

/// With an hour between two looks.
#[test]
fn an_end_that_fails_does_not_hurry_the_looks() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut world = World::with(trust(&[&old]), overlapping(100 * SEC, 3600 * SEC), ends_fail);
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(90 * SEC);
    world.count();
    world.pass(3600 * SEC);
    let count = world.count();
    assert!(count[0] <= 12, "{count:?}");
}

/// With ends that work and that fail; and all is over once they work.
#[test]
fn withdraw_now_at_any_step_is_answered_ok_only_when_nothing_overlaps() {
    for fail in [false, true] {
        for max_stale in [None, Some(30 * SEC)] {
            for at in 0..40 {
                let [old, new, newer] = ["old", "new", "newer"].map(Ca::new);
                let flag = Arc::new(AtomicBool::new(fail));
                let f = Arc::clone(&flag);
                let mut policy = overlapping(100 * SEC, 10 * SEC);
                policy.max_stale = max_stale;
                let mut world = World::with(trust(&[&old]), policy, move |c| {
                    if f.load(Ordering::SeqCst) { ends_fail(c) } else { Verdict::Accept }
                });
                world.push(Arrival::Swapped, trust(&[&old, &new]));
                world.push(Arrival::Swapped, trust(&[&new]));
                world.pass(98 * SEC);
                world.told();
                world.change(Arrival::Swapped, trust(&[&newer]));
                let mut ticket = None;
                for step in 0..60 {
                    if step == at {
                        ticket = Some(world.driver.withdraw_now(world.now));
                    }
                    if world.driver.step(|| world.now).is_some() {
                        world.now = world.now.after(500 * MS);
                    }
                    for told in world.driver.drain().collect::<Vec<_>>() {
                        let text = name(&told);
                        if let (Some(ticket), true) = (ticket, text.starts_with("concluded")) {
                            let mut parts = text.split(' ').skip(1);
                            let of: u64 = parts.next().unwrap().parse().unwrap();
                            let is_ok = parts.next().unwrap().parse::<u64>().is_ok();
                            if of >= ticket && is_ok {
                                assert!(
                                    !world.driver.machine().is_overlapping(),
                                    "{fail} {max_stale:?} {at}"
                                );
                            }
                        }
                    }
                }
                flag.store(false, Ordering::SeqCst);
                world.pass(200 * SEC);
                assert_eq!(served(&world), 1);
                assert!(world.driver.machine().failing_since().is_none());
            }
        }
    }
}

/// One that comes later than the first was tried.
#[test]
fn an_end_that_failed_holds_back_no_other_end() {
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let flag = Arc::new(AtomicBool::new(true));
    let f = Arc::clone(&flag);
    let mut world = World::with(trust(&[&a, &b, &c]), overlapping(100 * SEC, 60 * SEC), move |c| {
        if f.load(Ordering::SeqCst) { ends_fail(c) } else { Verdict::Accept }
    });
    world.push(Arrival::Swapped, trust(&[&b, &c]));
    world.pass(65 * SEC);
    world.push(Arrival::Swapped, trust(&[&c]));
    // 100 s: a fails; tried at 101, 102, 104, 108, 116, 132, 162, 192. All can be used from 163 s on, and b ends at 165 s.
    world.pass(98 * SEC);
    assert_eq!(served(&world), 3);
    flag.store(false, Ordering::SeqCst);
    world.pass(2 * SEC + 500 * MS);
    assert_eq!(served(&world), 1);
}

/// What is to be read by an operator: which anchor, why, and what to do; each once.
#[test]
fn the_error_of_an_end_that_fails_names_the_anchor_and_what_to_do() {
    let [a, b, new] = ["a", "b", "new"].map(Ca::new);
    let mut world = World::with(trust(&[&a, &b]), overlapping(100 * SEC, 10 * SEC), |candidate| {
        let why = "the store is closed; open it";
        match ends_fail(candidate) {
            Verdict::Accept => Verdict::Accept,
            _ => Verdict::Unusable(Error::new(Reason::Rejected, why).of(Origin::named("script"))),
        }
    });
    world.push(Arrival::Swapped, trust(&[&new]));
    world.pass(150 * SEC);
    assert_eq!(
        world.driver.machine().trouble().unwrap().0.to_string(),
        "script: the trust anchor CN=a (and 1 more) was withdrawn and is still trusted, because it can not be left out; it is tried \
         again, restart the program if this lasts: the store is closed; open it"
    );
    assert!(world.driver.machine().is_withdrawal_pending());
}

/// A machine that serves an anchor which the source does not hold any more, for 1000 s.
fn that_overlaps(now: Now) -> (Machine, Make) {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut machine = Machine::new(overlapping(1000 * SEC, 10 * SEC), Origin::named("x"));
    let (before, after): (Make, Make) = (Box::new(trust(&[&old])), Box::new(trust(&[&new])));
    work(&mut machine, now, Look::Changed(Arrival::Still), &before, Until::Rest);
    machine.woken(now);
    work(&mut machine, now, Look::Changed(Arrival::Swapped), &after, Until::Rest);
    assert!(machine.is_overlapping());
    told(&mut machine);
    (machine, after)
}

/// Another thread asks, and its clock is ahead of the moment that the engine read before.
#[test]
fn withdraw_now_of_a_later_moment_ends_the_overlap_before_it_is_answered() {
    let now = Now::read();
    let (mut machine, make) = that_overlaps(now);
    machine.woken(now);
    assert!(matches!(machine.next(now), Todo::Look));
    let ticket = machine.withdraw_now(now.after(MS));
    machine.looked(now, Ok(Look::Same));
    work(&mut machine, now, Look::Same, &make, Until::Rest);
    assert_eq!(told(&mut machine), ["generation 3".to_owned(), format!("concluded {ticket} 3")]);
    assert!(!machine.is_overlapping());
}

/// Also where the job that hangs is a read that began before it was asked for.
#[test]
fn what_withdraw_now_asked_for_while_a_read_hangs_holds_until_the_next_read() {
    for asked_first in [true, false] {
        let now = Now::read();
        let [a, b] = ["a", "b"].map(Ca::new);
        let (before, after): (Make, Make) = (Box::new(trust(&[&a, &b])), Box::new(trust(&[&b])));
        let mut machine = Machine::new(overlapping(1000 * SEC, 10 * SEC), Origin::named("x"));
        work(&mut machine, now, Look::Changed(Arrival::Still), &before, Until::Rest);
        told(&mut machine);
        machine.woken(now);
        assert!(matches!(machine.next(now), Todo::Look));
        machine.looked(now, Ok(Look::Changed(Arrival::Swapped)));
        assert!(matches!(machine.next(now), Todo::Read));
        let late = now.after(20 * SEC);
        let mut ticket = asked_first.then(|| machine.withdraw_now(late));
        machine.overdue(late);
        let ticket = *ticket.get_or_insert_with(|| machine.withdraw_now(late));
        assert_eq!(
            told(&mut machine),
            ["failed timed_out".to_owned(), format!("concluded {ticket} timed_out")]
        );
        // It comes back with what it had read before; the anchor has gone meanwhile, and no look says so.
        let back = now.after(30 * SEC);
        machine.read(now, back, before().unwrap().assemble());
        work(&mut machine, back, Look::Same, &after, Until::Rest);
        let stands = back.after(10 * SEC);
        work(&mut machine, stands, Look::Same, &after, Until::Rest);
        assert!(!machine.is_overlapping());
        assert_eq!(machine.current().unwrap().1.trust().unwrap().len(), 1, "{asked_first}");
        assert!(!told(&mut machine).iter().any(|told| told.starts_with("concluded")), "answered before");
    }
}

/// An anchor whose time was over when an end was handed out is no part of a later one.
#[test]
fn what_ends_while_an_end_is_judged_does_not_wait_for_that_one() {
    let now = Now::read();
    let [a, b, c] = ["a", "b", "c"].map(Ca::new);
    let mut machine = Machine::new(overlapping(100 * SEC, 1000 * SEC), Origin::named("x"));
    let sets: [Make; 3] =
        [Box::new(trust(&[&a, &b, &c])), Box::new(trust(&[&b, &c])), Box::new(trust(&[&c]))];
    for (at, (make, arrival)) in
        sets.iter().zip([Arrival::Still, Arrival::Swapped, Arrival::Swapped]).enumerate()
    {
        machine.woken(now.after(at as u32 * SEC));
        work(&mut machine, now.after(at as u32 * SEC), Look::Changed(arrival), make, Until::Rest);
    }
    told(&mut machine);
    // The first ends at 101 s; that takes 3 s, and can not be used. The second ends at 102 s.
    assert!(matches!(machine.next(now.after(101 * SEC)), Todo::Judge(_)));
    machine.judged(now.after(104 * SEC), unusable());
    let Todo::Judge(candidate) = machine.next(now.after(104 * SEC)) else { panic!("the second is due") };
    assert_eq!(candidate.material.trust().unwrap().len(), 1);
}

/// Withdrawn without an overlap is withdrawn: there is none for it later.
#[test]
fn what_withdraw_now_kept_out_has_no_overlap_when_it_comes_back_and_goes_again() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let mut world = World::with(trust(&[&a, &b]), overlapping(1000 * SEC, 10 * SEC), |_| Verdict::Accept);
    world.change(Arrival::Swapped, trust(&[&b]));
    world.driver.withdraw_now(world.now);
    world.pass(SEC);
    assert_eq!(served(&world), 1);
    world.push(Arrival::Swapped, trust(&[&a, &b]));
    assert_eq!(served(&world), 2);
    world.push(Arrival::Swapped, trust(&[&b]));
    world.pass(SEC);
    assert_eq!(served(&world), 1);
}

/// What was told of an end that took too long is looked at at once, and not when the next look is due.
#[test]
fn an_end_that_took_too_long_is_followed_by_a_look() {
    let now = Now::read();
    let (mut machine, make) = that_overlaps(now);
    let moment = |seconds: u32| now.after(seconds * SEC);
    work(&mut machine, moment(999), Look::Same, &make, Until::Rest);
    assert!(matches!(machine.next(moment(1000)), Todo::Judge(_)));
    machine.overdue(moment(1003));
    machine.judged(moment(1005), Verdict::Accept);
    assert!(matches!(machine.next(moment(1005)), Todo::Look));
}
