//! What could break the machine: odd policies, odd sources, and several things that are wrong at once. Scripted
//! source, simulated time; no file, no thread, no waiting.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use certsource::clock::Now;
use certsource::machine::{Candidate, Machine, Policy, Todo, Verdict};
use certsource::parts::{Part, Parts};
use certsource::source::{Arrival, Look};
use certsource::{Error, KeyFormat, Origin, PrivateKey, Reason};
use certsource_testkit::Ca;
use pki_types::CertificateRevocationListDer;
use zeroize::Zeroizing;

use machine_support::*;

// What hangs.

#[test]
fn a_look_that_hung_and_found_nothing_is_over_when_it_comes_back() {
    let ca = Ca::new("ca");
    let mut machine = Machine::new(Policy::default(), Origin::named("nfs"));
    let now = Now::read();
    let run = |machine: &mut Machine, now: Now| {
        for _ in 0..STEPS {
            match machine.next(now) {
                Todo::Look => machine.looked(now, Ok(Look::Same)),
                Todo::Read => machine.read(now, now, trust(&[&ca])().unwrap().assemble()),
                Todo::Judge(_) => machine.judged(now, Verdict::Accept),
                Todo::Wait(_) => {
                    return std::iter::from_fn(|| machine.tell()).map(|t| name(&t)).collect::<Vec<_>>();
                }
            }
        }
        panic!("the machine never rests");
    };
    run(&mut machine, now);
    let now = now.after(2 * SEC);
    assert_eq!(run(&mut machine, now), ["generation 1"]);

    let now = now.after(20 * SEC);
    assert!(matches!(machine.next(now), Todo::Look));
    let now = now.after(20 * SEC);
    machine.overdue(now);
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|t| name(&t)).collect();
    assert_eq!(told, ["failed timed_out"]);
    machine.looked(now, Ok(Look::Same));
    assert_eq!(run(&mut machine, now), ["recovered"]);
    assert!(machine.trouble().is_none());
}

#[test]
fn a_demand_on_a_source_that_hangs_is_answered() {
    let mut machine = Machine::new(Policy::default(), Origin::named("nfs"));
    let now = Now::read();
    machine.demand(now);
    assert!(matches!(machine.next(now), Todo::Look));
    let now = now.after(10 * SEC);
    machine.overdue(now);
    while machine.tell().is_some() {}
    for _ in 0..3 {
        let ticket = machine.demand(now);
        let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|t| name(&t)).collect();
        assert_eq!(told, [format!("concluded {ticket} timed_out")]);
    }
}

#[test]
fn a_job_is_overdue_from_when_that_was_told_until_it_comes_back() {
    let mut machine = Machine::new(Policy::default(), Origin::named("nfs"));
    let now = Now::read();
    machine.overdue(now);
    assert!(!machine.is_overdue(), "nothing is out");
    assert!(matches!(machine.next(now), Todo::Look));
    assert!(!machine.is_overdue(), "it is not told yet");
    let now = now.after(10 * SEC);
    machine.overdue(now);
    assert!(machine.is_overdue());
    machine.looked(now, Ok(Look::Same));
    assert!(!machine.is_overdue(), "it is back");
}

// Revocation lists.

#[test]
fn a_list_with_a_lower_number_is_refused_also_when_nothing_else_changed() {
    let ca = Ca::new("ca");
    let mut world = World::new(with_crls(&[&ca], &[5]));
    assert_eq!(world.told(), ["generation 1"]);
    world.push(Arrival::Swapped, with_crls(&[&ca], &[4]));
    assert_eq!(world.told(), ["refused rejected"]);
    world.push(Arrival::Swapped, with_crls(&[&ca], &[6]));
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn two_lists_of_one_issuer_hold_back_no_later_change() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(with_crls(&[&one], &[5, 7]));
    world.told();
    world.push(Arrival::Swapped, with_crls(&[&one, &two], &[5, 7]));
    assert_eq!(world.told(), ["generation 2"]);
    // The newest of an issuer must stay.
    world.push(Arrival::Swapped, with_crls(&[&one, &two], &[5, 6]));
    assert_eq!(world.told(), ["refused rejected"]);
}

#[test]
fn lists_that_go_are_no_withdrawal() {
    let ca = Ca::new("ca");
    let judge = |candidate: &Candidate| {
        if candidate.current.is_some() && candidate.can_be_refused {
            no(Reason::Rejected)
        } else {
            Verdict::Accept
        }
    };
    let mut world = World::with(with_crls(&[&ca], &[5, 7]), Policy::default(), judge);
    world.told();
    world.push(Arrival::Swapped, with_crls(&[&ca], &[5]));
    assert_eq!(world.told(), ["refused rejected"], "a check can say no");
    world.push(Arrival::Swapped, trust(&[&ca]));
    assert_eq!(world.told(), ["refused rejected"], "no list at all");
    world.push(Arrival::Swapped, with_crls(&[&ca], &[8]));
    assert_eq!(world.told(), ["recovered", "generation 2"], "a newer list is one: no check can hold it back");
}

#[test]
fn a_bundle_of_lists_that_lost_one_stands_still_longer() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let both = [one.crl().der(), two.crl().der()];
    let lists = |ders: &[CertificateRevocationListDer<'static>]| {
        let (trust, ders) = (trust(&[&one]), ders.to_vec());
        move || Ok(trust()?.with_crls(&Origin::named("crl"), ders.clone()))
    };
    let mut world = World::new(lists(&both));
    world.told();
    world.push(Arrival::Unknown, lists(&both[..1]));
    world.pass(4 * SEC);
    assert_eq!(world.told(), none(), "it looks like a file that is being written");
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

// Withdrawals, while something else is wrong (invariant 12).

#[test]
fn a_withdrawal_is_not_held_back_by_an_identity_that_is_refused() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (a, b) = (one.issue("a"), one.issue("b"));
    let later = SystemTime::now() + 10 * 3600 * SEC;
    let early = one.leaf("early").not_before(later).not_after(later + 3600 * SEC).issue();
    for (reason, id) in [(Reason::NotYetValid, &early), (Reason::Rejected, &b), (Reason::KeyMismatch, &b)] {
        let bad = id.leaf_der().to_vec();
        let judge = move |candidate: &Candidate| {
            let is_bad = candidate.material.identity().unwrap().leaf().der().to_vec() == bad;
            if is_bad && reason != Reason::NotYetValid { no(reason) } else { Verdict::Accept }
        };
        let mut world = World::with(full(&[&one, &two], &a), Policy::every(10 * SEC), judge);
        assert_eq!(world.told(), ["generation 1"]);
        world.push(Arrival::Swapped, full(&[&one], id));
        world.pass(29 * SEC);
        assert!(world.driver.machine().is_withdrawal_pending(), "{reason}");
        assert!(!world.told().iter().any(|told| told.contains("generation")), "{reason}: within the grace");
        world.pass(20 * SEC);
        assert!(world.told().contains(&"degraded generation 2".to_owned()), "{reason}");
        let (_, material) = world.driver.machine().current().unwrap();
        assert_eq!(material.trust().unwrap().len(), 1);
        assert_eq!(**material.identity().unwrap().leaf().der(), *a.leaf_der());
        assert!(!world.driver.machine().is_withdrawal_pending());
        world.pass(600 * SEC);
        assert!(!world.told().iter().any(|told| told.contains("generation")), "{reason}: once");
        assert_eq!(world.driver.machine().trouble().unwrap().0.reason(), reason);
        // The identity is good at last.
        let good = one.issue("good");
        world.push(Arrival::Swapped, full(&[&one], &good));
        assert_eq!(world.told(), ["recovered", "generation 3"], "{reason}");
    }
}

#[test]
fn a_withdrawal_is_not_held_back_by_a_list_that_is_broken() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(with_crls(&[&one, &two], &[5]));
    world.told();
    let less = trust(&[&one]);
    world.push(Arrival::Unknown, move || {
        let mut parts = less()?;
        parts.crls = Part::Broken(Error::new(Reason::NotFound, "gone"));
        Ok(parts)
    });
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["failed not_found", "degraded generation 2"]);
    let (_, material) = world.driver.machine().current().unwrap();
    assert_eq!((material.trust().unwrap().len(), material.crls().unwrap().len()), (1, 1), "the list stays");
}

#[test]
fn a_new_list_is_not_held_back_by_trust_that_is_broken() {
    let ca = Ca::new("ca");
    let mut world = World::new(with_crls(&[&ca], &[5]));
    world.told();
    let new = with_crls(&[&ca], &[6]);
    world.push(Arrival::Unknown, move || {
        let mut parts = new()?;
        parts.trust = Part::Broken(Error::new(Reason::Malformed, "garbage"));
        Ok(parts)
    });
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["failed malformed", "degraded generation 2"]);
}

#[test]
fn trust_that_is_gone_altogether_is_no_withdrawal() {
    // "No trust" would mean that nobody checks: invariant 3.
    let ca = Ca::new("ca");
    let id = ca.issue("id");
    let judge = |candidate: &Candidate| {
        if candidate.material.trust().is_none() {
            assert!(candidate.can_be_refused);
            return no(Reason::Rejected);
        }
        Verdict::Accept
    };
    let mut world = World::with(full(&[&ca], &id), Policy::default(), judge);
    world.told();
    let (chain, key) = (id.chain_der(), id.key_der().secret_der().to_vec());
    world.push(Arrival::Swapped, move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, Zeroizing::new(key.clone()));
        Ok(Parts::new().with_identity(&Origin::named("id"), chain.clone(), key))
    });
    world.pass(120 * SEC);
    assert_eq!(world.told(), ["refused rejected"]);
}

// What never rests.

#[test]
fn a_source_that_always_says_swapped_is_loaded_and_rests() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::unstarted(trust(&[&one]), Policy::every(10 * SEC), |_| Verdict::Accept);
    world.script.0.lock().unwrap().always = Box::new(|_| Look::Changed(Arrival::Swapped));
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), ["generation 1"]);
    world.script.0.lock().unwrap().make = Box::new(trust(&[&two]));
    world.pass(11 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn a_source_that_is_swapped_at_every_look_is_told_as_unstable() {
    let cas: Vec<Ca> = (0..3).map(|n| Ca::new(&n.to_string())).collect();
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    let count = Mutex::new(0);
    let make = move || {
        let mut count = count.lock().unwrap();
        *count += 1;
        Ok(Parts::new().with_trust(&Origin::named("ca"), [ders[*count % 3].clone()]))
    };
    let mut world = World::unstarted(make, Policy::every(10 * SEC), |_| Verdict::Accept);
    world.script.0.lock().unwrap().always = Box::new(|_| Look::Changed(Arrival::Swapped));
    let ticket = world.driver.demand(world.now);
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["failed unstable".to_owned(), format!("concluded {ticket} unstable")]);
    assert!(world.count()[1] < 200);
}

#[test]
fn no_policy_and_no_source_makes_it_spin() {
    let cas = [Ca::new("a"), Ca::new("b")];
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    let restless = move || {
        let count = Mutex::new(0);
        let ders = ders.clone();
        move || {
            let mut count = count.lock().unwrap();
            *count += 1;
            Ok(Parts::new().with_trust(&Origin::named("ca"), [ders[*count % 2].clone()]))
        }
    };
    let zero = || {
        let mut policy = Policy::every(Duration::ZERO);
        policy.safety = Duration::ZERO;
        policy.settle = Duration::ZERO;
        policy.settle_closed = Duration::ZERO;
        policy.settle_loss = Duration::ZERO;
        policy.pair_grace = Duration::ZERO;
        policy.backoff = Duration::ZERO;
        policy.backoff_max = Duration::ZERO;
        policy.unstable_after = Duration::ZERO;
        policy.skew = Duration::ZERO;
        policy
    };
    let accept = |_: &Candidate| Verdict::Accept;
    let past = |candidate: &Candidate| match &candidate.current {
        None => Verdict::Accept,
        Some(_) => {
            Verdict::AskAgain { at: Now::read().mono - SEC, error: Error::new(Reason::Rejected, "later") }
        }
    };
    let worlds = [
        ("zero, quiet", World::with(trust(&[&cas[0]]), zero(), accept)),
        ("zero, failing", World::with(broken(Reason::Io), zero(), accept)),
        ("zero, restless", World::with(restless(), zero(), accept)),
        ("zero, asked again in the past", {
            let mut world = World::with(trust(&[&cas[0]]), zero(), past);
            world.push(Arrival::Swapped, trust(&[&cas[1]]));
            world
        }),
        ("a look that wants one in the past", {
            let world = World::with(trust(&[&cas[0]]), Policy::default(), accept);
            world.script.0.lock().unwrap().always = Box::new(|now| Look::SameUntil(now.mono - MS));
            world
        }),
    ];
    for (what, mut world) in worlds {
        world.count();
        world.pass(10 * SEC);
        let [looks, reads] = world.count();
        assert!(looks <= 2_100 && reads <= 2_100, "{what}: {looks} looks and {reads} reads in 10 s");
        assert!(looks > 0, "{what}");
    }
}

#[test]
fn a_source_that_wakes_itself_is_slowed_down() {
    let ca = Ca::new("ca");
    let mut world = World::new(trust(&[&ca]));
    world.count();
    let end = world.now.after(10 * SEC);
    while world.now.mono < end.mono {
        // As a file watch does that answers every read with an event.
        world.driver.wake(world.now);
        world.pass(MS / 2);
    }
    let [looks, _] = world.count();
    assert!((20..2_000).contains(&looks), "{looks} looks in 10 s");
}

#[test]
fn odd_numbers_in_a_policy_panic_nowhere() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut huge = Policy::every(Duration::MAX);
    huge.safety = Duration::MAX;
    huge.settle = Duration::MAX;
    huge.settle_closed = Duration::MAX;
    huge.settle_loss = Duration::MAX;
    huge.pair_grace = Duration::MAX;
    huge.backoff = Duration::MAX;
    huge.backoff_max = Duration::MAX;
    huge.unstable_after = Duration::MAX;
    huge.deadline = Duration::MAX;
    huge.skew = Duration::MAX;
    for jitter in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
        huge.jitter = jitter;
        let mut world = World::with(full(&[&one], &one.issue("id")), huge.clone(), |_| Verdict::Accept);
        assert_eq!(world.told(), ["generation 1"]);
        world.push(Arrival::Unknown, full(&[&two], &two.issue("id")));
        world.pass(SEC);
        world.push(Arrival::Unknown, broken(Reason::Io));
        world.pass(SEC);
        world.push(Arrival::Swapped, full(&[&two], &two.issue("id")));
        world.pass(SEC);
        assert_eq!(world.told(), ["generation 2"]);
        let mut every = Policy::every(10 * SEC);
        every.jitter = jitter;
        let mut world = World::with(trust(&[&one]), every, |_| Verdict::Accept);
        world.count();
        world.pass(100 * SEC);
        assert!((5..25).contains(&world.count()[0]), "jitter {jitter}");
    }
}

// What is told, and who is answered.

#[test]
fn a_refusal_is_recovered_from_also_when_a_read_failed_after_it() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let judge = |candidate: &Candidate| {
        if candidate.current.is_some() { no(Reason::Rejected) } else { Verdict::Accept }
    };
    let mut world = World::with(trust(&[&one]), Policy::default(), judge);
    world.push(Arrival::Swapped, trust(&[&two]));
    assert_eq!(world.told(), ["generation 1", "refused rejected"]);
    world.push(Arrival::Unknown, broken(Reason::Io));
    world.push(Arrival::Unknown, trust(&[&one]));
    world.pass(20 * SEC);
    assert_eq!(world.told(), ["recovered"]);
}

#[test]
fn who_demands_while_the_gates_are_asked_has_them_asked_again() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let now = Now::read();
    let mut machine = Machine::new(Policy::default(), Origin::named("m"));
    let mut content = &one;
    let mut looks = vec![Look::Changed(Arrival::Still)];
    let mut judged = 0;
    let mut demanded = None;
    for _ in 0..100 {
        match machine.next(now) {
            Todo::Look => machine.looked(now, Ok(looks.pop().unwrap_or(Look::Same))),
            Todo::Read => machine.read(now, now, trust(&[content])().unwrap().assemble()),
            Todo::Judge(candidate) if candidate.current.is_none() => machine.judged(now, Verdict::Accept),
            Todo::Judge(_) => {
                judged += 1;
                // The network of a probe came back just after the probe failed.
                demanded.get_or_insert_with(|| machine.demand(now));
                machine.judged(now, if judged == 1 { no(Reason::Rejected) } else { Verdict::Accept });
            }
            Todo::Wait(_) if machine.current().is_some() && looks.is_empty() && judged == 0 => {
                content = &two;
                looks.push(Look::Changed(Arrival::Swapped));
                machine.woken(now);
            }
            Todo::Wait(_) => break,
        }
    }
    let later = now.after(2 * SEC);
    loop {
        match machine.next(later) {
            Todo::Look => machine.looked(later, Ok(Look::Same)),
            Todo::Read => machine.read(later, later, trust(&[&two])().unwrap().assemble()),
            Todo::Judge(_) => {
                judged += 1;
                machine.judged(later, Verdict::Accept);
            }
            Todo::Wait(_) => break,
        }
    }
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|t| name(&t)).collect();
    let ticket = demanded.unwrap();
    assert_eq!(judged, 2);
    assert_eq!(
        told[1..],
        ["refused rejected", "recovered", "generation 2", &format!("concluded {ticket} 2")]
    );
}

#[test]
fn a_check_that_says_later_each_second_is_told_once() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let moment = Arc::new(Mutex::new(Now::read()));
    let (clock, asked) = (Arc::clone(&moment), Arc::new(Mutex::new(0)));
    let count = Arc::clone(&asked);
    let judge = move |candidate: &Candidate| {
        if candidate.current.is_none() {
            return Verdict::Accept;
        }
        *count.lock().unwrap() += 1;
        Verdict::AskAgain {
            at: clock.lock().unwrap().mono + 5 * SEC,
            error: Error::new(Reason::Rejected, "later"),
        }
    };
    let mut world = World::with(trust(&[&one]), Policy::default(), judge);
    world.told();
    *moment.lock().unwrap() = world.now;
    world.push(Arrival::Swapped, trust(&[&two]));
    for _ in 0..60 {
        *moment.lock().unwrap() = world.now;
        world.pass(SEC);
    }
    assert_eq!(world.told(), ["refused rejected"]);
    assert!((5..15).contains(&*asked.lock().unwrap()), "asked {} times", asked.lock().unwrap());
}

#[test]
fn a_clock_that_is_set_right_lets_the_refused_candidate_in() {
    let ca = Ca::new("ca");
    let start = SystemTime::now();
    // The device's clock is ten hours behind the issuer's.
    let a = ca.leaf("a").not_before(start - 3600 * SEC).not_after(start + 100 * 3600 * SEC).issue();
    let b = ca.leaf("b").not_before(start + 9 * 3600 * SEC).not_after(start + 100 * 3600 * SEC).issue();
    let mut world = World::new(full(&[&ca], &a));
    world.push(Arrival::Swapped, full(&[&ca], &b));
    assert_eq!(world.told(), ["generation 1", "refused not_yet_valid"]);
    world.pass(60 * SEC);
    world.now.wall += 10 * 3600 * SEC;
    world.pass(15 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"], "within the interval, not ten hours later");
}

// What stands still, and what only looks like it.

#[test]
fn content_that_a_look_saw_move_starts_to_stand_still_anew() {
    // The key's file was cut and written again with the same bytes between the two reads: the writer is still at work.
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    world.push(Arrival::Unknown, trust(&[&two]));
    world.pass(900 * MS);
    world.script.0.lock().unwrap().looks.push(Look::Changed(Arrival::Unknown));
    world.pass(200 * MS);
    assert_eq!(world.told(), none(), "a second after the first read, and not after the last change");
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn equal_content_is_published_in_the_end_although_every_look_says_changed() {
    // An agent that writes the same bytes all the time, or a source that cannot look cheaply.
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::unstarted(trust(&[&one]), Policy::every(10 * SEC), |_| Verdict::Accept);
    world.script.0.lock().unwrap().always = Box::new(|_| Look::Changed(Arrival::Unknown));
    world.pass(6 * SEC);
    assert_eq!(world.told(), ["generation 1"]);
    world.script.0.lock().unwrap().make = Box::new(trust(&[&two]));
    world.pass(17 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn a_detector_that_has_the_content_read_once_more_delays_no_withdrawal() {
    // As Mtime does, 2 s after a change.
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one, &two]));
    world.told();
    world.push(Arrival::Unknown, trust(&[&one]));
    let again = world.now.after(2 * SEC).mono;
    let said = std::sync::atomic::AtomicBool::new(false);
    world.script.0.lock().unwrap().always = Box::new(move |now| {
        if now.mono >= again && !said.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Look::Changed(Arrival::Recheck);
        }
        Look::Same
    });
    world.pass(4900 * MS);
    assert_eq!(world.told(), none());
    world.pass(100 * MS);
    assert_eq!(world.told(), ["generation 2"]);
}
