//! A withdrawal is never held back by a derived value: one that can not be built from it, or hangs in that, is closed alone,
//! and built later.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use certsource::{Error, Origin, Reason, push};
use certsource_reload::{Closed, Derived, EventKind, Hub, Reloader, Unbuilt};
use certsource_testkit::Ca;

use support::*;

fn unbuilt<T: Send + Sync + 'static>(derived: &Derived<T>) -> Unbuilt {
    match derived.get() {
        Err(Closed::Unbuilt(unbuilt)) => unbuilt,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a value of what was withdrawn is handed out"),
    }
}

/// A value that can not be built while the flag is set.
fn failing(reloader: &Reloader, fails: &Arc<AtomicBool>) -> Derived<u64> {
    let fails = Arc::clone(fails);
    let build = move |generation: &Arc<certsource_reload::Generation>| {
        if fails.load(Ordering::SeqCst) { Err("no descriptor left") } else { Ok(generation.number()) }
    };
    reloader.derive(build).unwrap()
}

#[test]
fn a_value_that_can_not_be_built_is_closed_alone_and_mended_by_itself() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one, &two]));
    let (hook, events) = listen();
    let reloader = Reloader::builder(source).hub(Hub::new()).on_event(hook).start().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let (bad, good) = (failing(&reloader, &fails), failing(&reloader, &Arc::default()));
    let before = bad.get().unwrap();
    fails.store(true, Ordering::SeqCst);
    pusher.push(anchors(&[&one]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2, "nothing holds it back");
    assert!(before.generation().retired().is_retired(), "what was made of it is told");
    assert_eq!(*good.get().unwrap().value(), 2);
    let why = unbuilt(&bad);
    assert_eq!(why.generation, 2);
    assert!(why.to_string().contains("no descriptor left"), "{why}");
    assert_eq!(Error::from(Closed::Unbuilt(why)).reason(), Reason::Rejected);
    assert_eq!(*bad.load().value(), 1, "the old one, for who asks for that");
    let EventKind::Degraded(told) = next(&events, "degraded").kind else { unreachable!() };
    assert!(told.contains("no descriptor left"), "{told}");
    assert!(reloader.status().degraded.unwrap().contains("no descriptor left"));
    // Another change is refused as ever, and changes nothing of that.
    pusher.push(anchors(&[&one, &Ca::new("three")]));
    assert!(reloader.reload_blocking().is_err());
    assert_eq!((reloader.current().number(), unbuilt(&bad).generation), (2, 2));
    // Another withdrawal: still nothing of what is older.
    pusher.push(anchors(&[&one]));
    reloader.reload_blocking().unwrap();
    fails.store(false, Ordering::SeqCst);
    // By itself: nobody wakes it.
    until("it is mended", || bad.get().is_ok());
    assert_eq!(*bad.get().unwrap().value(), 2);
    next(&events, "recovered");
    until("nothing is left to see to", || reloader.status().degraded.is_none());
    pusher.push(anchors(&[&two]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 3, "the numbers are still one apart");
    assert_eq!((*bad.get().unwrap().value(), *good.get().unwrap().value()), (3, 3));
}

#[test]
fn the_next_generation_that_can_be_built_mends_it_too() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one, &two]));
    let mut policy = certsource::machine::Policy::default();
    // No try of its own comes in between.
    policy.backoff = std::time::Duration::from_secs(3600);
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(policy).start().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let bad = failing(&reloader, &fails);
    fails.store(true, Ordering::SeqCst);
    pusher.push(anchors(&[&one]));
    reloader.reload_blocking().unwrap();
    assert_eq!(unbuilt(&bad).generation, 2);
    fails.store(false, Ordering::SeqCst);
    pusher.push(anchors(&[&two]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 3);
    assert_eq!(*bad.get().unwrap().value(), 3);
}

#[test]
fn a_value_that_hangs_delays_a_withdrawal_by_the_deadline_only_and_no_other_value() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one, &two]));
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(deadline(PATIENCE)).start().unwrap();
    let hold = Hold::new();
    let first = failing(&reloader, &Arc::default());
    let hangs = reloader
        .derive({
            let hold = hold.clone();
            move |generation| {
                if generation.number() > 1 {
                    hold.wait();
                }
                Ok::<_, Error>(generation.number())
            }
        })
        .unwrap();
    let last = failing(&reloader, &Arc::default());
    pusher.push(anchors(&[&one]));
    let handle = reloader.clone();
    assert_eq!(bounded("a reload", move || handle.reload_blocking().unwrap().number()), 2);
    assert_eq!(*first.get().unwrap().value(), 2, "it was built before the other one hung");
    assert_eq!(unbuilt(&hangs).error.reason(), Reason::TimedOut);
    // It never had its turn; that comes now, although the other one still hangs.
    until("the last one", || last.get().is_ok_and(|version| *version.value() == 2));
    assert_eq!(unbuilt(&hangs).generation, 2);
    hold.release();
    until("the one that hung", || hangs.get().is_ok_and(|version| *version.value() == 2));
}

#[test]
fn an_overlap_ends_although_no_value_can_be_built_without_it() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&old]));
    let hour = std::time::Duration::from_secs(3600);
    let reloader = Reloader::builder(source).hub(Hub::new()).overlap(hour).start().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let bad = failing(&reloader, &fails);
    pusher.push(anchors(&[&new]));
    assert_eq!(reloader.reload_blocking().unwrap().trust().unwrap().len(), 2);
    fails.store(true, Ordering::SeqCst);
    let handle = reloader.clone();
    let after = bounded("withdraw_now", move || pollster::block_on(handle.withdraw_now()));
    assert_eq!(after.unwrap().trust().unwrap().len(), 1);
    assert_eq!(unbuilt(&bad).generation, 3);
}
