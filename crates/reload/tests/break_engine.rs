//! What could break the engine: what re-enters, withdrawals, odd numbers, pushes at the worst moment.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use certsource::machine::{Candidate, Policy};
use certsource::parts::Parts;
use certsource::{Error, Origin, Reason, push};
use certsource_reload::{Derived, EventKind, Hub, Reloader};
use certsource_testkit::Ca;

use support::*;

// What re-enters.

#[test]
fn deriving_while_deriving_is_no_deadlock() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let weak = reloader.downgrade();
    let inner: Arc<Mutex<Vec<Derived<u64>>>> = Arc::default();
    let derived = bounded("a derive in a derive", {
        let (reloader, inner) = (reloader.clone(), Arc::clone(&inner));
        move || {
            reloader
                .derive(move |generation| {
                    if let Some(reloader) = weak.upgrade() {
                        let _ =
                            (reloader.status(), reloader.subscribe(), reloader.watch(), reloader.current());
                        reloader.wake();
                        let another = reloader.derive(|generation| Ok::<_, Error>(generation.number()))?;
                        inner.lock().unwrap().push(another);
                    }
                    Ok::<_, Error>(generation.number())
                })
                .unwrap()
        }
    });
    for number in 2..=4 {
        pusher.push(anchors(&[&Ca::new("next")]));
        let reloader = reloader.clone();
        assert_eq!(bounded("a reload", move || reloader.reload_blocking().unwrap().number()), number);
        assert_eq!(*derived.load().value(), number);
        for another in inner.lock().unwrap().iter() {
            assert_eq!(*another.load().value(), number, "what was derived meanwhile is replaced too");
        }
    }
    // The derived values hold the reloader, and the closure holds them: break the circle.
    inner.lock().unwrap().clear();
}

#[test]
fn values_derived_at_any_moment_follow() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let ends = Arc::new(AtomicBool::new(false));
    let derivers: Vec<_> = (0..3)
        .map(|_| {
            let (reloader, ends) = (reloader.clone(), Arc::clone(&ends));
            thread::spawn(move || {
                let mut all = Vec::new();
                while !ends.load(Ordering::SeqCst) {
                    // A generation waits for all of them: no more than these, however long it goes on.
                    if all.len() == 300 {
                        all.swap_remove(0);
                    }
                    all.push(reloader.derive(|generation| Ok::<_, Error>(generation.number())).unwrap());
                    let newest = all.last().unwrap().load();
                    assert_eq!(*newest.value(), newest.generation().number());
                    thread::sleep(MS / 4);
                }
                all
            })
        })
        .collect();
    let mut number = 1;
    for _ in 0..60 {
        pusher.push(anchors(&[&Ca::new("next")]));
        number = reloader.reload_blocking().unwrap().number();
    }
    ends.store(true, Ordering::SeqCst);
    for deriver in derivers {
        for derived in deriver.join().unwrap() {
            assert_eq!(*derived.load().value(), number);
        }
    }
}

#[test]
fn the_last_handle_may_go_anywhere() {
    // In a hook, in a gate, in a derive closure: on a thread of the hub.
    for place in ["hook", "gate", "derive"] {
        let hub = Hub::new();
        let (pusher, source) = push(Origin::named("push"));
        pusher.push(anchors(&[&Ca::new("one")]));
        let handle: Arc<Mutex<Option<Reloader>>> = Arc::default();
        let armed = Arc::new(AtomicBool::new(false));
        let take = {
            let (handle, armed) = (Arc::clone(&handle), Arc::clone(&armed));
            move |at: &str| {
                if at == place && armed.load(Ordering::SeqCst) {
                    drop(handle.lock().unwrap().take());
                }
            }
        };
        let (in_gate, in_derive) = (take.clone(), take.clone());
        let reloader =
            Reloader::builder(source).hub(hub).on_event(move |_| take("hook")).gate(move |_: &Candidate| {
                in_gate("gate");
                Ok(())
            });
        let reloader = reloader.start().unwrap();
        let weak = reloader.downgrade();
        let derived = reloader.derive(move |_| {
            in_derive("derive");
            Ok::<_, Error>(())
        });
        if place == "derive" {
            // The derived value is the last handle's companion: keep its slot, not its handle.
            let derived = derived.unwrap();
            *handle.lock().unwrap() = Some(reloader);
            armed.store(true, Ordering::SeqCst);
            pusher.push(anchors(&[&Ca::new("two")]));
            until("the second generation", || derived.load().generation().number() == 2);
            drop(derived);
        } else {
            drop(derived);
            *handle.lock().unwrap() = Some(reloader);
            armed.store(true, Ordering::SeqCst);
            pusher.push(anchors(&[&Ca::new("two")]));
        }
        until(place, || weak.upgrade().is_none());
    }
}

#[test]
fn a_reload_from_a_check_or_from_a_derive_closure_ends() {
    for place in ["gate", "derive"] {
        let (pusher, source) = push(Origin::named("push"));
        pusher.push(anchors(&[&Ca::new("one")]));
        let weak: Arc<Mutex<Option<certsource_reload::WeakReloader>>> = Arc::default();
        let reenter = {
            let weak = Arc::clone(&weak);
            move |at: &str| {
                let reloader = weak.lock().unwrap().take().and_then(|weak| weak.upgrade());
                if let Some(reloader) = reloader.filter(|_| at == place) {
                    let _ = reloader.reload_blocking();
                }
            }
        };
        let in_gate = reenter.clone();
        let reloader = Reloader::builder(source).hub(Hub::new()).policy(deadline(PATIENCE)).gate(
            move |_: &Candidate| {
                in_gate("gate");
                Ok(())
            },
        );
        let reloader = reloader.start().unwrap();
        let _derived = reloader
            .derive(move |_| {
                reenter("derive");
                Ok::<_, Error>(())
            })
            .unwrap();
        *weak.lock().unwrap() = Some(reloader.downgrade());
        pusher.push(anchors(&[&Ca::new("two")]));
        // It waits for itself until its deadline. Then the candidate is asked about again.
        bounded(place, move || {
            until("the second generation", || {
                reloader.reload_blocking().is_ok_and(|generation| generation.number() == 2)
            });
        });
    }
}

// Withdrawals.

#[test]
fn a_withdrawal_that_a_check_refuses_is_published_and_the_refusal_is_told() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one, &two]));
    let (hook, events) = listen();
    let gate = |candidate: &Candidate| match candidate.current {
        Some(_) => Err(Error::new(Reason::Rejected, "the application says no")),
        None => Ok(()),
    };
    let reloader = Reloader::builder(source).hub(Hub::new()).gate(gate).on_event(hook).start().unwrap();
    pusher.push(anchors(&[&one]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    let EventKind::Degraded(why) = next(&events, "degraded").kind else { unreachable!() };
    assert!(why.contains("the application says no"), "{why}");
    assert!(reloader.status().degraded.unwrap().contains("the application says no"));
    // The next one is fine: over.
    pusher.push(anchors(&[&one, &two]));
    let _ = reloader.reload_blocking();
}

#[test]
fn a_withdrawal_whose_check_hangs_is_published() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one, &two]));
    let hold = Hold::new();
    let gate = {
        let hold = hold.clone();
        move |candidate: &Candidate| {
            if candidate.current.is_some() {
                hold.wait();
            }
            Ok(())
        }
    };
    let reloader =
        Reloader::builder(source).hub(Hub::new()).policy(deadline(PATIENCE)).gate(gate).start().unwrap();
    let derived = reloader.derive(|generation| Ok::<_, Error>(generation.trust().unwrap().len())).unwrap();
    let pushed = Instant::now();
    pusher.push(anchors(&[&one]));
    let handle = reloader.clone();
    assert_eq!(bounded("a reload", move || handle.reload_blocking().unwrap().number()), 2);
    assert_eq!((*derived.load().value(), derived.load().generation().number()), (1, 2));
    // What was derived before the check was published after it.
    let published = reloader.current().published();
    assert!(published >= pushed + PATIENCE && published <= Instant::now());
    hold.release();
}

#[test]
fn a_derived_value_that_fails_once_is_tried_again_by_itself() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let times = Arc::new(AtomicUsize::new(0));
    let derived = reloader
        .derive({
            let times = Arc::clone(&times);
            move |generation| match times.fetch_add(1, Ordering::SeqCst) {
                1 | 2 => Err("no descriptor left"),
                _ => Ok(generation.number()),
            }
        })
        .unwrap();
    pusher.push(anchors(&[&Ca::new("two")]));
    until("the second generation", || *derived.load().value() == 2);
}

/// Many values, so that the moment between the first and the last of them is long enough to be seen.
#[test]
fn a_current_generation_has_all_of_its_derived_values() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let derived: Vec<_> = (0..3_000)
        .map(|_| reloader.derive(|generation| Ok::<_, Error>(generation.number())).unwrap())
        .collect();
    let ends = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (reloader, last, ends) = (reloader.clone(), derived[2_999].clone(), Arc::clone(&ends));
        thread::spawn(move || {
            let mut looks = 0_u64;
            while !ends.load(Ordering::SeqCst) {
                let seen = reloader.current().number();
                let value = *last.load().value();
                assert!(value >= seen, "generation {seen} is current, and a derived value is of {value}");
                looks += 1;
            }
            looks
        })
    };
    let cas = [Ca::new("two"), Ca::new("three")];
    for round in 0..60 {
        pusher.push(anchors(&[&cas[round % 2]]));
        reloader.reload_blocking().unwrap();
    }
    ends.store(true, Ordering::SeqCst);
    assert!(watcher.join().unwrap() > 0);
}

#[test]
fn retired_comes_after_every_derived_value() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let many: Vec<_> = (0..50).map(|_| reloader.derive(|g| Ok::<_, Error>(g.number())).unwrap()).collect();
    let watching: Vec<_> = (0..2)
        .map(|_| {
            let (reloader, many) = (reloader.clone(), many.clone());
            thread::spawn(move || {
                for _ in 0..100 {
                    let current = reloader.current();
                    if current.number() >= 101 {
                        break;
                    }
                    pollster::block_on(current.retired().wait());
                    for derived in &many {
                        assert!(*derived.load().value() > current.number());
                    }
                    assert!(reloader.current().number() > current.number());
                }
            })
        })
        .collect();
    for number in 2..=101 {
        pusher.push(anchors(&[&Ca::new("next")]));
        assert_eq!(reloader.reload_blocking().unwrap().number(), number);
    }
    for thread in watching {
        bounded("the last signal", move || thread.join().unwrap());
    }
}

// Odd numbers, and what grows.

#[test]
fn odd_durations_panic_nowhere() {
    for odd in [Duration::ZERO, Duration::MAX] {
        let mut policy = Policy::every(odd);
        policy.settle = odd;
        policy.safety = odd;
        policy.backoff = odd;
        policy.deadline = odd.max(5 * BOUND);
        let (pusher, source) = push(Origin::named("push"));
        pusher.push(anchors(&[&Ca::new("one")]));
        let builder = Reloader::builder(source).hub(Hub::new()).policy(policy).wait_for_initial(odd);
        let reloader = bounded("a start", move || builder.start());
        let Ok(reloader) = reloader else {
            assert_eq!(odd, Duration::ZERO, "no time to wait at all");
            continue;
        };
        pusher.push(anchors(&[&Ca::new("two")]));
        bounded("a reload", move || assert_eq!(reloader.reload_blocking().unwrap().number(), 2));
    }
}

#[test]
fn a_deadline_of_nothing_does_not_end_everything() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let builder = Reloader::builder(source).hub(Hub::new()).policy(deadline(Duration::ZERO));
    bounded("a start", move || builder.start()).unwrap();
}

#[test]
fn a_warning_stays_in_the_status_while_it_is_true() {
    let (pusher, source) = push(Origin::named("push"));
    let ca = Ca::new("one");
    let warned = |ca: &Ca| {
        let anchors = anchors(&[ca]);
        move || {
            let mut parts = anchors()?;
            let message = "others can read this key".to_owned();
            parts.warnings.push(certsource::parts::Warning { origin: Origin::named("push"), message });
            Ok(parts)
        }
    };
    pusher.push(warned(&ca));
    let reloader = Reloader::builder(source).hub(Hub::new()).start().unwrap();
    assert!(reloader.status().degraded.unwrap().contains("others can read"));
    pusher.push(anchors(&[&Ca::new("two")]));
    reloader.reload_blocking().unwrap();
    assert_eq!(reloader.status().degraded, None, "over");
}

// Sources that are pushed.

#[test]
fn pushing_from_inside_a_push_or_during_a_slow_one_blocks_nobody() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let reloader = Reloader::builder(source).hub(Hub::new()).start().unwrap();
    // The content is made while it is read; what makes it pushes again.
    let inner = pusher.clone();
    let (two, three, four) = (Ca::new("two"), Ca::new("three"), Ca::new("four"));
    let (make_two, three_der) = (anchors(&[&two]), three.certificate_der());
    let once = AtomicBool::new(true);
    pusher.push(move || {
        if once.swap(false, Ordering::SeqCst) {
            let der = three_der.clone();
            inner.push(move || Ok(Parts::new().with_trust(&Origin::named("push"), [der.clone()])));
        }
        make_two()
    });
    let handle = reloader.clone();
    let _ = bounded("a push in a push", move || handle.reload_blocking().map(drop));
    until("the newest content", || *reloader.current().trust().unwrap()[0].der() == three.certificate_der());
    // One that takes long.
    let hold = Hold::new();
    let (reached, wait) = (Arc::new(AtomicBool::new(false)), hold.clone());
    let make = anchors(&[&two]);
    let at = Arc::clone(&reached);
    pusher.push(move || {
        at.store(true, Ordering::SeqCst);
        wait.wait();
        make()
    });
    until("the slow one", || reached.load(Ordering::SeqCst));
    let (another, make) = (pusher.clone(), anchors(&[&four]));
    bounded("a push during a slow one", move || another.push(make));
    hold.release();
    until("the newest content", || *reloader.current().trust().unwrap()[0].der() == four.certificate_der());
}
