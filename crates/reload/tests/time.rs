//! What time brings through the engine: certificates that near their end, overlaps that end, steps back, and the end of
//! the engine itself.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use certsource::machine::{Policy, Threshold};
use certsource::push;
use certsource::{Error, Origin};
use certsource_reload::{Hub, Reloader};
use certsource_testkit::Ca;

use support::*;

const SEC: Duration = Duration::from_secs(1);

#[test]
fn each_hook_of_expiry_is_told_its_own_thresholds_by_time_alone() {
    let now = SystemTime::now();
    let ends_at = now + 3600 * SEC;
    let ca = |name: &str| Ca::builder(name).not_before(now - 3600 * SEC).not_after(ends_at).build();
    // Half of its life is used in some seconds; no look comes in between.
    let soon = ends_at.duration_since(SystemTime::now()).unwrap() - 6 * SEC;
    let (sender, told) = mpsc::channel();
    let tell = move |which: &'static str| {
        let sender = std::sync::Mutex::new(sender.clone());
        move |expiring: &certsource_reload::Expiring| {
            let fingerprint = expiring.certificate.fingerprint();
            sender.lock().unwrap().send((which, expiring.threshold, fingerprint)).unwrap();
        }
    };
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&ca("one")]));
    let reloader = Reloader::builder(source)
        .hub(Hub::new())
        .policy(Policy::every(100_000 * SEC))
        .on_expiry([soon], tell("soon"))
        .on_expiry([Threshold::Used(0.1)], tell("used"))
        .start()
        .unwrap();
    let first = reloader.current().trust().unwrap()[0].fingerprint();
    let next = || told.recv_timeout(BOUND).unwrap();
    assert_eq!(next(), ("used", Threshold::Used(0.1), first), "passed before the first load");
    assert_eq!(next(), ("soon", Threshold::Before(soon), first), "by time alone");
    pusher.push(anchors(&[&ca("two")]));
    let second = reloader.reload_blocking().unwrap().trust().unwrap()[0].fingerprint();
    let mut both = [next(), next()];
    both.sort_by_key(|(which, ..)| *which);
    assert_eq!(both, [("soon", Threshold::Before(soon), second), ("used", Threshold::Used(0.1), second)]);
    assert!(told.try_recv().is_err(), "once for each");
}

#[test]
fn an_overlap_is_served_by_derived_values_too_and_withdraw_now_ends_it() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (hook, events) = listen();
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&old]));
    let reloader = Reloader::builder(source)
        .hub(Hub::new())
        .overlap(3600 * SEC)
        .gate(|candidate: &certsource::machine::Candidate| {
            let is_withdrawal = candidate.current.is_some() && !candidate.can_be_refused;
            if is_withdrawal { Err(Error::new(certsource::Reason::Rejected, "never")) } else { Ok(()) }
        })
        .on_event(hook)
        .start()
        .unwrap();
    let count = |generation: &certsource_reload::Generation| generation.trust().unwrap().len();
    let derived = reloader.derive(move |generation| Ok::<_, Error>(count(generation))).unwrap();
    pusher.push(anchors(&[&new]));
    assert_eq!(count(&pollster::block_on(reloader.reload()).unwrap()), 2, "both are trusted");
    assert_eq!(*derived.load().value(), 2);
    // A check can not veto it.
    let after = pollster::block_on(reloader.withdraw_now()).unwrap();
    assert_eq!((count(&after), *derived.load().value()), (1, 1));
    assert_eq!(after.trust().unwrap()[0].der(), &new.certificate_der());
    // Back again: a step back, which is told.
    pusher.push(anchors(&[&old, &new]));
    assert_eq!(next(&events, "regressed").kind.as_str(), "regressed");
    // It has no overlap any more.
    pusher.push(anchors(&[&new]));
    assert_eq!(count(&pollster::block_on(reloader.reload()).unwrap()), 1);
}

#[test]
fn an_overlap_ends_by_time_alone() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&old]));
    let reloader = Reloader::builder(source)
        .hub(Hub::new())
        .policy(Policy::every(100_000 * SEC))
        .overlap(3 * SEC)
        .start()
        .unwrap();
    pusher.push(anchors(&[&new]));
    assert_eq!(reloader.reload_blocking().unwrap().trust().unwrap().len(), 2);
    until("the end of the overlap", || reloader.current().trust().unwrap().len() == 1);
    assert_eq!(reloader.current().number(), 3);
}

#[test]
fn who_waits_for_a_retirement_is_released_when_the_engine_ends() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let first = reloader.current();
    pusher.push(anchors(&[&Ca::new("two")]));
    let last = reloader.reload_blocking().unwrap();
    bounded("replaced", {
        let replaced = (first.retired().wait(), first.retired().replaced());
        move || pollster::block_on(async { (replaced.0.await, replaced.1.await) })
    });
    let waiting = last.retired().wait();
    let waiter = std::thread::spawn(move || pollster::block_on(waiting));
    drop(reloader);
    until("the waiter", || waiter.is_finished());
    waiter.join().unwrap();
    assert!(!last.retired().is_retired(), "it ended, and was not replaced");
    bounded("later too", {
        let wait = last.retired().wait();
        move || pollster::block_on(wait)
    });
}

#[test]
fn a_reload_waits_for_no_turn_and_what_nobody_asks_for_does() {
    let cas: Vec<_> = (0..24).map(|n| Ca::new(&n.to_string())).collect();
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&cas[0]]));
    let reloader = Reloader::builder(source)
        .hub(Hub::new())
        .policy(Policy::every(100_000 * SEC))
        .adopt_within(5 * SEC)
        .start()
        .unwrap();
    let begun = std::time::Instant::now();
    let mut number = 1;
    for count in 2..=12 {
        pusher.push(anchors(&cas[..count].iter().collect::<Vec<_>>()));
        number += 1;
        assert_eq!(reloader.reload_blocking().unwrap().number(), number);
    }
    for count in 13..=24 {
        pusher.push(anchors(&cas[..count].iter().collect::<Vec<_>>()));
        // As a failed handshake does.
        reloader.wake();
        number += 1;
        until("the next one", || reloader.current().number() == number);
    }
    // Twenty turns would take a minute.
    assert!(begun.elapsed() < 20 * SEC, "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    for count in (13..=16).rev() {
        // A withdrawal, at once; then what was withdrawn is back, and nobody asks for it.
        pusher.push(anchors(&cas[..count - 1].iter().collect::<Vec<_>>()));
        until("the withdrawal", || reloader.current().trust().unwrap().len() == count - 1);
        let withdrawn = begun.elapsed();
        pusher.push(anchors(&cas[..count].iter().collect::<Vec<_>>()));
        until("its turn", || reloader.current().trust().unwrap().len() == count);
        if begun.elapsed() - withdrawn > 200 * MS {
            return;
        }
    }
    panic!("four turns were all at once");
}
