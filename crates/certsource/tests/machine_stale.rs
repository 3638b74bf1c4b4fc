//! Failing closed: what could not be confirmed for `max_stale` is served no more, and comes back by itself.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use certsource::clock::Now;
use certsource::machine::{Machine, Policy, Todo, Told, Verdict};
use certsource::parts::Parts;
use certsource::source::{Armed, Arrival, Look};
use certsource::{Error, Origin, Reason};
use certsource_testkit::Ca;
use machine_support::*;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

fn closing() -> Policy {
    let mut policy = Policy::every(10 * SEC);
    policy.max_stale = Some(LIMIT);
    policy
}

/// When it was told, if it was.
fn stale_at(world: &mut World) -> Option<u64> {
    world.told_at().into_iter().find(|(_, told)| told == "stale").map(|(at, _)| at.as_secs())
}

type Make = Box<dyn Fn() -> Result<Parts, Error> + Send>;

#[test]
fn whatever_keeps_a_source_from_being_confirmed_closes_it_at_the_moment_that_was_asked_for() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let (one, two) = (ca.issue("one"), ca.issue("two"));
    let moving = {
        let cas: Vec<_> = (0..40).map(|n| Ca::new(&n.to_string())).collect();
        let makes: Vec<_> = cas.iter().map(|ca| trust(&[ca])).collect();
        let count = AtomicU64::new(0);
        move || makes[usize::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap() % 40]()
    };
    let early = ca.leaf("early").not_before(std::time::SystemTime::now() + 9000 * SEC).issue();
    let rows: Vec<(&str, Make)> = vec![
        ("gone", Box::new(broken(Reason::NotFound))),
        ("unreadable", Box::new(broken(Reason::Io))),
        ("a pair that never matches", Box::new(mixed(&[&ca], &one, &two))),
        ("never stands still", Box::new(moving)),
        ("refused by a check", Box::new(full(&[&other], &other.issue("other")))),
        ("not valid yet", Box::new(full(&[&ca], &early))),
    ];
    for (name, make) in rows {
        let refused = other.certificate_der();
        let mut world = World::with(full(&[&ca], &one), closing(), move |candidate| {
            let is_refused = candidate.material.trust().unwrap()[0].der() == &refused;
            if is_refused { no(Reason::Rejected) } else { Verdict::Accept }
        });
        world.pass(34 * SEC);
        assert_eq!(world.told(), ["generation 1"], "{name}");
        // The look at 30 s found it the same; everything after does not.
        world.script.0.lock().unwrap().always =
            Box::new(
                move |_| {
                    if name == "never stands still" { Look::Changed(Arrival::Unknown) } else { Look::Same }
                },
            );
        world.change(Arrival::Unknown, make);
        world.pass(200 * SEC);
        assert_eq!(stale_at(&mut world), Some(90), "{name}");
        assert!(world.driver.machine().is_stale(), "{name}");
        // Mended: the same as before, as a new generation, and that at once.
        world.push(Arrival::Unknown, full(&[&ca], &one));
        let told = world.told();
        assert_eq!(told, ["recovered", "generation 2"], "{name}");
        assert!(!world.driver.machine().is_stale());
    }
}

#[test]
fn it_is_told_once_with_the_generation_and_the_cause_and_other_content_ends_it_too() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let mut world = World::with(trust(&[&ca]), closing(), |_| Verdict::Accept);
    assert_eq!(world.told(), ["generation 1"]);
    world.change(Arrival::Unknown, broken(Reason::NotFound));
    let mut told = Vec::new();
    for _ in 0..5_000 {
        world.now = world.now.after(100 * MS);
        while world.driver.step(|| world.now).is_none() {}
        told.extend(world.driver.drain());
    }
    let stale: Vec<_> = told
        .into_iter()
        .filter_map(|told| if let Told::Stale(stale) = told { Some(stale) } else { None })
        .collect();
    let [stale] = &stale[..] else { panic!("once: {stale:?}") };
    assert_eq!((stale.generation, stale.limit), (1, LIMIT));
    assert_eq!(stale.error.as_ref().unwrap().reason(), Reason::NotFound);
    let cause = std::error::Error::source(stale).unwrap().downcast_ref::<Error>().unwrap();
    assert_eq!(cause.reason(), Reason::NotFound);
    let text = stale.to_string();
    assert!(
        text.contains("for 60s") && text.contains("broken by the test") && !text.contains('\n'),
        "{text}"
    );
    let error = Error::from(stale.clone());
    assert_eq!(error.reason().as_str(), "stale");
    assert!(std::error::Error::source(&error).unwrap().is::<certsource::machine::Stale>());
    // New content must stand still as ever.
    world.push(Arrival::Unknown, trust(&[&ca, &other]));
    assert!(world.driver.machine().is_stale());
    world.pass(3 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn it_is_off_unless_asked_for_and_a_source_that_is_well_is_never_stale() {
    let ca = Ca::new("ca");
    let mut world = World::new(trust(&[&ca]));
    world.change(Arrival::Unknown, broken(Reason::NotFound));
    world.pass(1_000_000 * SEC);
    assert!(!world.told().contains(&"stale".to_owned()));

    // Whatever the interval, the spread, and when a watching detector wants to look again.
    for (armed, jitter) in [(Armed::PollOnly, 0.5), (Armed::Watching, 0.0), (Armed::Watching, 0.5)] {
        let mut policy = Policy::every(100_000 * SEC);
        (policy.safety, policy.jitter, policy.max_stale) = (100_000 * SEC, jitter, Some(LIMIT));
        let mut world = World::unstarted(trust(&[&ca]), policy, |_| Verdict::Accept);
        {
            let mut script = world.script.0.lock().unwrap();
            script.armed = armed;
            script.looks.push(Look::Changed(Arrival::Still));
            script.always = Box::new(|now| Look::SameUntil(now.mono + 90_000 * SEC));
        }
        world.pass(100_000 * SEC);
        assert_eq!(world.told(), ["generation 1"]);
        let [looks, _] = world.count();
        assert!((2_000..7_000).contains(&looks), "{looks} looks");
    }
}

#[test]
fn a_job_that_hangs_closes_it_too_and_its_return_opens_it_again() {
    let ca = Ca::new("ca");
    let material = || trust(&[&ca])().map(Parts::assemble).unwrap();
    let start = Now::read();
    let mut machine = Machine::new(closing(), Origin::named("script"));
    let drain = |machine: &mut Machine| -> Vec<_> {
        std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect()
    };
    assert!(matches!(machine.next(start), Todo::Look));
    assert_eq!(machine.watch_stale(start.after(LIMIT)), None, "nothing is served that could be stale");
    machine.looked(start, Ok(Look::Changed(Arrival::Still)));
    assert!(matches!(machine.next(start), Todo::Read));
    machine.read(start, start, material());
    assert!(matches!(machine.next(start), Todo::Look));
    machine.looked(start, Ok(Look::Same));
    assert!(matches!(machine.next(start), Todo::Judge(_)));
    machine.judged(start, Verdict::Accept);
    assert_eq!(drain(&mut machine), ["generation 1"]);
    let at = |seconds: u32| start.after(SEC * seconds);
    assert!(matches!(machine.next(at(12)), Todo::Look));
    // It hangs from here on.
    assert_eq!(machine.watch_stale(at(20)), Some(at(60).mono));
    machine.overdue(at(20));
    assert_eq!(drain(&mut machine), ["failed timed_out"]);
    assert_eq!(machine.watch_stale(at(59)), Some(at(60).mono));
    assert_eq!(drain(&mut machine), none());
    assert_eq!(machine.watch_stale(at(60)), None);
    assert_eq!(drain(&mut machine), ["stale"]);
    assert_eq!(machine.demand(at(70)), 1);
    assert_eq!(drain(&mut machine), ["concluded 1 timed_out"], "who asks is not kept waiting");
    // It comes back and found nothing new: that is read, and published again.
    machine.looked(at(100), Ok(Look::Same));
    assert!(matches!(machine.next(at(100)), Todo::Read));
    machine.read(at(100), at(100), material());
    let Todo::Judge(candidate) = machine.next(at(100)) else { panic!() };
    assert!(!candidate.can_be_refused);
    machine.judged(at(100), Verdict::Accept);
    assert_eq!(drain(&mut machine), ["recovered", "generation 2"]);
    assert_eq!(machine.watch_stale(at(100)), Some(at(160).mono));
}

#[test]
fn a_check_that_says_no_by_now_does_not_keep_it_closed_but_another_key_is_judged() {
    let ca = Ca::new("ca");
    let (id, other) = (ca.issue("a"), ca.issue("b"));
    let is_down = Arc::new(AtomicBool::new(false));
    let gate = {
        let is_down = Arc::clone(&is_down);
        move |_: &certsource::machine::Candidate| {
            if is_down.load(Ordering::Relaxed) { no(Reason::Rejected) } else { Verdict::Accept }
        }
    };
    let mut world = World::with(full(&[&ca], &id), closing(), gate);
    world.change(Arrival::Unknown, broken(Reason::Io));
    world.pass(100 * SEC);
    is_down.store(true, Ordering::Relaxed);
    // The certificate is the same and the key is not: nobody has accepted that.
    world.push(Arrival::Unknown, mixed(&[&ca], &id, &other));
    world.pass(50 * SEC);
    assert!(world.driver.machine().is_stale());
    world.told();
    world.push(Arrival::Unknown, full(&[&ca], &id));
    assert_eq!(world.told(), ["degraded", "recovered", "generation 2"]);
}

#[test]
fn a_part_of_the_source_confirms_nothing_and_ends_nothing() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let id = new.issue("a");
    let other = new.issue("b");
    let mut world = World::with(full(&[&old, &new], &id), closing(), |_| Verdict::Accept);
    // One CA is withdrawn, and the pair beside it never matches again.
    world.change(Arrival::Unknown, mixed(&[&new], &id, &other));
    world.pass(55 * SEC);
    let told = world.told();
    assert!(told.contains(&"degraded generation 2".to_owned()), "{told:?}");
    world.pass(1_000 * SEC);
    let told = world.told();
    assert_eq!(told, ["stale"]);
    // Another one goes: nothing is served from which it could be withdrawn.
    world.push(Arrival::Unknown, mixed(&[&old], &id, &other));
    world.pass(1_000 * SEC);
    assert!(world.driver.machine().is_stale() && !world.driver.machine().is_withdrawal_pending());
    world.told();
    world.push(Arrival::Unknown, full(&[&new], &other));
    world.pass(10 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 3"]);
}

#[test]
fn an_overlap_that_ends_while_it_is_closed_stays_ended() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut policy = closing();
    policy.overlap = 80 * SEC;
    let mut world = World::with(trust(&[&old]), policy, |_| Verdict::Accept);
    world.push(Arrival::Swapped, trust(&[&new]));
    assert_eq!(world.told(), ["generation 1", "generation 2"]);
    let count = |world: &World| world.driver.machine().current().unwrap().1.trust().unwrap().len();
    assert_eq!(count(&world), 2);
    world.change(Arrival::Unknown, broken(Reason::Io));
    world.pass(200 * SEC);
    assert_eq!(stale_at(&mut world), Some(60));
    world.push(Arrival::Unknown, trust(&[&new]));
    assert_eq!(world.told(), ["recovered", "generation 3"]);
    assert_eq!(count(&world), 1);
}

#[test]
fn a_check_that_says_no_to_other_content_keeps_it_closed() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let refused = other.certificate_der();
    let mut world = World::with(trust(&[&ca]), closing(), move |candidate| {
        let is_refused = candidate.material.trust().unwrap().iter().any(|anchor| anchor.der() == &refused);
        if is_refused { no(Reason::Rejected) } else { Verdict::Accept }
    });
    world.change(Arrival::Unknown, broken(Reason::NotFound));
    world.pass(100 * SEC);
    assert!(world.driver.machine().is_stale());
    world.told();
    world.push(Arrival::Swapped, trust(&[&ca, &other]));
    world.pass(10 * SEC);
    assert_eq!(world.told(), ["refused rejected"]);
    assert!(world.driver.machine().is_stale());
}
