//! The machine's rules, one by one, with a scripted source and simulated time. No file, no thread, no waiting.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine_support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use certsource::clock::Now;
use certsource::machine::{Candidate, Policy, Verdict};
use certsource::parts::{Part, Parts};
use certsource::source::{Armed, Arrival, Look};
use certsource::{Error, KeyFormat, Origin, PrivateKey, Reason};
use certsource_testkit::{Ca, Issued};
use zeroize::Zeroizing;

use machine_support::*;

#[test]
fn a_quiet_file_is_served_at_once_and_a_young_one_after_it_settled() {
    let ca = Ca::new("one");
    let mut world = World::new(trust(&[&ca]));
    assert_eq!(world.told(), ["generation 1"]);

    let mut world = World::arriving(Arrival::Unknown, trust(&[&ca]), Policy::default(), |_| Verdict::Accept);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(SEC - 2 * MS);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(2 * MS);
    assert_eq!(world.told(), ["generation 1"]);
}

#[test]
fn a_first_load_that_fails_is_told_at_once() {
    for reason in [Reason::NotFound, Reason::Malformed, Reason::KeyMismatch, Reason::Empty] {
        let mut world = World::new(broken(reason));
        assert_eq!(world.told(), [format!("failed {reason}")]);
    }
}

#[test]
fn a_change_is_found_within_the_interval_and_needs_two_equal_reads() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    world.change(Arrival::Unknown, trust(&[&one, &two]));
    world.pass(11 * SEC);
    assert_eq!(world.told_at(), [(11 * SEC, "generation 2".to_owned())]);
}

#[test]
fn content_that_moves_between_two_reads_is_never_published() {
    let cas: Vec<Ca> = (0..6).map(|n| Ca::new(&n.to_string())).collect();
    let all: Vec<&Ca> = cas.iter().collect();
    let mut world = World::new(trust(&all[..1]));
    world.told();
    for n in 2..=5 {
        world.push(Arrival::Unknown, trust(&all[..n]));
        world.pass(SEC / 2);
    }
    assert_eq!(world.told(), Vec::<String>::new(), "each was replaced before it had settled");
    world.push(Arrival::Unknown, trust(&all));
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn content_that_never_stands_still_is_told_as_unstable() {
    let cas = [Ca::new("a"), Ca::new("b"), Ca::new("c")];
    let mut world = World::new(trust(&[&cas[0]]));
    world.told();
    for n in 0..80 {
        world.push(Arrival::Unknown, trust(&[&cas[0], &cas[1 + n % 2]]));
        world.pass(SEC / 2);
    }
    assert_eq!(world.told(), ["failed unstable"], "told once");
    world.pass(SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn a_swap_is_adopted_at_once_unless_it_moved_again() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    world.push(Arrival::Swapped, trust(&[&two]));
    assert_eq!(world.told(), ["generation 2"]);

    // The look after the read says that something moved: then it has to settle.
    world.change(Arrival::Swapped, trust(&[&one]));
    world.script.0.lock().unwrap().looks.push(Look::Changed(Arrival::Unknown));
    world.driver.wake(world.now);
    world.pass(SEC / 2);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 3", "regressed anchor"]);
}

#[test]
fn what_only_loses_certificates_stands_still_longer() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one, &two]));
    world.told();
    for arrival in [Arrival::Unknown, Arrival::Closed, Arrival::Renamed] {
        world.push(arrival, trust(&[&one]));
        world.pass(5 * SEC - 10 * MS);
        assert_eq!(world.told(), Vec::<String>::new(), "{arrival:?}");
        world.push(arrival, trust(&[&one, &two]));
        world.pass(10 * SEC);
        assert_eq!(world.told(), Vec::<String>::new(), "{arrival:?}: back to what is served");
    }
    world.push(Arrival::Unknown, trust(&[&one]));
    world.pass(5 * SEC);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn a_closed_single_file_settles_quickly() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    world.push(Arrival::Closed, trust(&[&two]));
    world.pass(99 * MS);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(MS);
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn nothing_is_published_without_a_change_of_material() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let id = one.issue("id");
    let mut world = World::new(full(&[&one, &two], &id));
    world.told();
    for _ in 0..3 {
        world.push(Arrival::Unknown, full(&[&two, &one], &id));
        world.pass(2 * SEC);
        world.push(Arrival::Swapped, full(&[&one, &two, &one], &id));
        world.pass(2 * SEC);
    }
    assert_eq!(world.told(), Vec::<String>::new());
}

#[test]
fn a_failed_read_keeps_what_is_served_and_is_told_once_it_lasts() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    // Gone after 200 ms: nothing to tell.
    world.push(Arrival::Unknown, broken(Reason::Io));
    world.pass(200 * MS);
    world.change(Arrival::Unknown, trust(&[&one]));
    world.pass(SEC);
    assert_eq!(world.told(), Vec::<String>::new());
    // Lasting.
    world.push(Arrival::Unknown, broken(Reason::Malformed));
    world.pass(999 * MS);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["failed malformed"], "told once");
    assert_eq!(world.driver.machine().current().unwrap().0, 1);
    world.count();
    world.pass(60 * SEC);
    let [_, reads] = world.count();
    assert!(reads <= 8, "the pause grows to the interval: {reads}");
    world.push(Arrival::Unknown, trust(&[&two]));
    world.pass(SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn a_pair_that_does_not_match_is_pending_then_failed() {
    let ca = Ca::new("ca");
    let (a, b) = (ca.issue("a"), ca.issue("b"));
    let mut world = World::new(full(&[&ca], &a));
    world.told();
    world.push(Arrival::Unknown, mixed(&[&ca], &b, &a));
    assert_eq!(world.told(), ["pending key_mismatch"]);
    world.pass(30 * SEC - 10 * MS);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(20 * MS);
    assert_eq!(world.told(), ["failed key_mismatch"]);
    world.change(Arrival::Unknown, full(&[&ca], &b));
    world.pass(20 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn a_withdrawal_is_published_although_the_identity_is_broken() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (a, b) = (one.issue("a"), one.issue("b"));
    let mut world = World::new(full(&[&one, &two], &a));
    world.told();
    world.push(Arrival::Unknown, mixed(&[&one], &b, &a));
    world.pass(29 * SEC);
    assert_eq!(world.told(), ["pending key_mismatch"]);
    assert!(world.driver.machine().is_withdrawal_pending());
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["failed key_mismatch", "degraded generation 2"]);
    let (_, material) = world.driver.machine().current().unwrap();
    assert_eq!(material.trust().unwrap().len(), 1);
    assert_eq!(**material.identity().unwrap().leaf().der(), *a.leaf_der());
    // The identity is whole again.
    world.change(Arrival::Unknown, full(&[&one], &b));
    world.pass(20 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 3"]);
}

#[test]
fn new_trust_is_not_published_while_the_identity_is_broken() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (a, b) = (one.issue("a"), one.issue("b"));
    let mut world = World::new(full(&[&one], &a));
    world.told();
    world.push(Arrival::Unknown, mixed(&[&one, &two], &b, &a));
    world.pass(120 * SEC);
    assert_eq!(world.told(), ["pending key_mismatch", "failed key_mismatch"]);
}

#[test]
fn an_identity_that_is_gone_does_not_hold_back_a_withdrawal_either() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let a = one.issue("a");
    let mut world = World::new(full(&[&one, &two], &a));
    world.told();
    let only_trust = trust(&[&one]);
    world.push(Arrival::Unknown, move || {
        let mut parts = only_trust()?;
        parts.identity = Part::Broken(Error::new(Reason::NotFound, "gone"));
        Ok(parts)
    });
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["failed not_found", "degraded generation 2"]);
}

#[test]
fn a_refusal_is_told_once_and_asked_again_on_demand() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let gate = move |candidate: &Candidate| {
        *count.lock().unwrap() += 1;
        if candidate.current.is_some() {
            Verdict::Refuse(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    };
    let mut world = World::with(trust(&[&one]), Policy::default(), gate);
    world.told();
    world.push(Arrival::Swapped, trust(&[&one, &two]));
    world.pass(60 * SEC);
    world.push(Arrival::Unknown, trust(&[&one, &two]));
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["refused rejected"]);
    assert_eq!(*asked.lock().unwrap(), 2, "the same content is not judged twice");
    let ticket = world.driver.demand(world.now);
    world.pass(2 * SEC);
    assert_eq!(world.told(), ["refused rejected".to_owned(), format!("concluded {ticket} rejected")]);
    assert_eq!(*asked.lock().unwrap(), 3);
    // A withdrawal can not be vetoed.
    world.push(Arrival::Swapped, trust(&[&one]));
    world.pass(SEC);
    assert_eq!(world.told(), ["recovered"], "what is served is on disk again");
    let three = Ca::new("three");
    let mut world = World::with(trust(&[&one, &two, &three]), Policy::default(), |candidate| {
        if candidate.current.is_some() {
            assert!(!candidate.can_be_refused);
            Verdict::Refuse(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    });
    world.told();
    world.push(Arrival::Swapped, trust(&[&one]));
    assert_eq!(world.told(), ["degraded", "generation 2"]);
}

#[test]
fn a_candidate_that_is_not_valid_yet_is_adopted_by_time_alone() {
    let ca = Ca::new("ca");
    let a = ca.issue("a");
    let start = SystemTime::now();
    let later = ca.leaf("b").not_before(start + 3600 * SEC).not_after(start + 7200 * SEC).issue();
    let mut world = World::new(full(&[&ca], &a));
    world.told();
    world.push(Arrival::Swapped, full(&[&ca], &later));
    assert_eq!(world.told(), ["refused not_yet_valid"]);
    world.pass(3590 * SEC);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(30 * SEC);
    assert_eq!(world.told(), ["recovered", "generation 2"]);
}

#[test]
fn an_expired_candidate_is_refused_while_the_current_one_is_good() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let good = ca.issue("good");
    let old = ca.leaf("old").not_before(now - 7200 * SEC).not_after(now - 3600 * SEC).issue();
    let mut world = World::new(full(&[&ca], &good));
    world.push(Arrival::Swapped, full(&[&ca], &old));
    assert_eq!(world.told(), ["generation 1", "refused expired"]);
    // At start there is nothing better.
    let mut world = World::new(full(&[&ca], &old));
    assert_eq!(world.told(), ["degraded", "generation 1", "expired"]);
    world.push(Arrival::Swapped, full(&[&ca], &good));
    assert_eq!(world.told(), ["generation 2"]);
}

#[test]
fn the_end_of_the_served_identity_is_told_without_any_look() {
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    let short = ca.leaf("short").not_before(now - 10 * SEC).not_after(now + 90 * SEC).issue();
    let mut policy = Policy::every(3600 * SEC);
    policy.jitter = 0.0;
    let mut world = World::with(full(&[&ca], &short), policy, |_| Verdict::Accept);
    world.told();
    world.pass(89 * SEC);
    assert_eq!(world.told(), Vec::<String>::new());
    world.pass(5 * SEC);
    assert_eq!(world.told(), ["expired"]);
    assert_eq!(world.count()[1], 1);
}

#[test]
fn a_demand_reads_although_the_look_says_same() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let mut world = World::new(trust(&[&one]));
    world.told();
    let first = world.driver.demand(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), [format!("concluded {first} 1")]);
    // Changed behind the detector's back.
    world.script.0.lock().unwrap().make = Box::new(trust(&[&two]));
    let second = world.driver.demand(world.now);
    world.pass(SEC);
    assert_eq!(world.told(), ["generation 2".to_owned(), format!("concluded {second} 2")]);
    // Failing: answered when it is told.
    world.script.0.lock().unwrap().make = Box::new(broken(Reason::NotFound));
    let third = world.driver.demand(world.now);
    world.pass(SEC + 100 * MS);
    assert_eq!(world.told(), ["failed not_found".to_owned(), format!("concluded {third} not_found")]);
    let fourth = world.driver.demand(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.told(), [format!("concluded {fourth} not_found")]);
}

#[test]
fn a_job_that_hangs_is_told_and_goes_on_when_it_comes_back() {
    let ca = Ca::new("ca");
    let now = Now::read();
    let mut machine = certsource::machine::Machine::new(Policy::default(), Origin::named("nfs"));
    let ticket = machine.demand(now);
    assert!(matches!(machine.next(now), certsource::machine::Todo::Look));
    let later = now.after(10 * SEC);
    assert!(matches!(machine.next(later), certsource::machine::Todo::Wait(None)));
    machine.overdue(later);
    machine.overdue(later);
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect();
    assert_eq!(told, ["failed timed_out".to_owned(), format!("concluded {ticket} timed_out")]);
    machine.looked(later, Ok(Look::Changed(Arrival::Still)));
    assert!(matches!(machine.next(later), certsource::machine::Todo::Read));
    machine.read(later, later, trust(&[&ca])().unwrap().assemble());
    machine.next(later);
    machine.looked(later, Ok(Look::Same));
    machine.next(later);
    machine.judged(later, Verdict::Accept);
    let told: Vec<_> = std::iter::from_fn(|| machine.tell()).map(|told| name(&told)).collect();
    assert_eq!(told, ["recovered", "generation 1"]);
}

#[test]
fn a_detector_that_can_not_watch_is_told_once() {
    let ca = Ca::new("ca");
    let mut world = World::new(trust(&[&ca]));
    world.told();
    world.script.0.lock().unwrap().armed = Armed::Degraded("no watch left".into());
    world.pass(60 * SEC);
    assert_eq!(world.told(), ["degraded"]);
}

#[test]
fn the_same_certificate_with_another_key_is_not_adopted_in_silence() {
    // The public parts are equal, the key's bytes are not, and nobody here can tell whether it belongs.
    let ca = Ca::new("ca");
    let (a, other) = (
        ca.leaf("a").key(certsource_testkit::KeyKind::Ed25519).issue(),
        ca.leaf("b").key(certsource_testkit::KeyKind::Ed25519).issue(),
    );
    let v1 = |issued: &Issued| {
        // PKCS#8 version 1 holds the seed only, as OpenSSL writes it (RFC 8410 section 7).
        let der = issued.key_der().secret_der().to_vec();
        let seed = der.windows(4).position(|w| w == [0x04, 0x22, 0x04, 0x20]).unwrap();
        let mut v1 = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
        v1.extend_from_slice(&der[seed..seed + 36]);
        v1
    };
    let make = |cert: &Issued, key_of: &Issued| {
        let (chain, key) = (cert.chain_der(), v1(key_of));
        move || {
            let key = PrivateKey::new(KeyFormat::Pkcs8, Zeroizing::new(key.clone()));
            Ok(Parts::new().with_identity(&Origin::named("id"), chain.clone(), key))
        }
    };
    let judged = Arc::new(Mutex::new(0));
    let count = Arc::clone(&judged);
    let mut world = World::with(make(&a, &a), Policy::default(), move |_| {
        *count.lock().unwrap() += 1;
        if *count.lock().unwrap() == 1 {
            Verdict::Accept
        } else {
            Verdict::Refuse(Error::new(Reason::KeyMismatch, "the crypto library says so"))
        }
    });
    assert_eq!(world.told(), ["generation 1"]);
    world.push(Arrival::Unknown, make(&a, &other));
    assert_eq!(world.told(), ["pending key_mismatch"]);
    world.push(Arrival::Unknown, make(&a, &a));
    world.pass(60 * SEC);
    assert_eq!(world.told(), Vec::<String>::new());
    assert_eq!(*judged.lock().unwrap(), 2);
}

#[test]
fn a_policy_is_taken_as_it_is_up_to_a_hundred_years() {
    let long = Duration::from_secs(100 * 365 * 86_400);
    let mut policy = Policy::every(long);
    (policy.safety, policy.settle_loss, policy.pair_grace, policy.deadline) = (long, long, long, long);
    policy.max_stale = Some(long);
    let machine = certsource::machine::Machine::new(policy.clone(), Origin::named("slow"));
    assert_eq!(*machine.policy(), policy);
}

#[test]
fn an_overlap_is_taken_as_it_is_up_to_seven_days() {
    const WEEK: Duration = Duration::from_secs(7 * 86_400);
    for (asked, taken) in [(WEEK, WEEK), (WEEK + SEC, WEEK), (Duration::MAX, WEEK), (SEC, SEC)] {
        let mut policy = Policy::default();
        policy.overlap = asked;
        let machine = certsource::machine::Machine::new(policy, Origin::named("slow"));
        assert_eq!(machine.policy().overlap, taken, "{asked:?}");
    }
}
