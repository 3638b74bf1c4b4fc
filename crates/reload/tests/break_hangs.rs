//! What could break the engine: things that hang, and things that panic.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::machine::Candidate;
use certsource::parts::Parts;
use certsource::source::Look;
use certsource::{Error, Origin, Reason, Source, push};
use certsource_reload::{EventKind, Hub, Reloader};
use certsource_testkit::Ca;

use support::*;

// What hangs.

#[test]
fn the_late_verdict_of_a_check_that_was_given_up_is_ignored() {
    let (one, two, three) = (Ca::new("one"), Ca::new("two"), Ca::new("three"));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&one]));
    let (hook, events) = listen();
    let (first, second) = (Hold::new(), Hold::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let gate = {
        let (first, second, asked) = (first.clone(), second.clone(), Arc::clone(&asked));
        move |_: &Candidate| match asked.fetch_add(1, Ordering::SeqCst) {
            1 => {
                first.wait();
                Ok(())
            }
            2 => {
                second.wait();
                Err(Error::new(Reason::Rejected, "no"))
            }
            _ => Ok(()),
        }
    };
    let mut policy = deadline(PATIENCE);
    // Nobody asks about the first candidate again by itself.
    policy.backoff = Duration::from_secs(3600);
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(policy).gate(gate).on_event(hook);
    let reloader = reloader.start().unwrap();
    pusher.push(anchors(&[&two]));
    let EventKind::Rejected(failure) = next(&events, "rejected").kind else { unreachable!() };
    assert_eq!(failure.reason(), Reason::TimedOut);
    // The second candidate is being judged when the first one's "yes" comes in.
    pusher.push(anchors(&[&two, &three]));
    until("the second check", || asked.load(Ordering::SeqCst) == 3);
    first.release();
    thread::sleep(100 * MS);
    assert_eq!(reloader.current().number(), 1, "a yes for another candidate");
    second.release();
    let EventKind::Rejected(failure) = next(&events, "rejected").kind else { unreachable!() };
    assert_eq!(failure.reason(), Reason::Rejected, "its own verdict counts");
    assert_eq!(reloader.current().number(), 1);
    pusher.push(anchors(&[&three]));
    bounded("followed on", move || assert_eq!(reloader.reload_blocking().unwrap().number(), 2));
}

#[test]
fn the_deadline_is_for_each_step_not_for_all_of_them() {
    // Three of them take longer than the deadline, and one is far from it.
    let slow = || thread::sleep(PATIENCE * 3 / 8);
    let source = Slow {
        look: Box::new(slow),
        read: Box::new(slow),
        make: Box::new(anchors(&[&Ca::new("ca")])),
        changed: Arc::new(AtomicBool::new(true)),
    };
    let gate = move |_: &Candidate| {
        slow();
        Ok(())
    };
    let (hook, events) = listen();
    let reloader =
        Reloader::builder(source).hub(Hub::new()).policy(deadline(PATIENCE)).gate(gate).on_event(hook);
    assert_eq!(reloader.start().unwrap().current().number(), 1);
    let told: Vec<_> = events.try_iter().map(|event| event.kind.as_str()).collect();
    assert!(!told.contains(&"failed") && !told.contains(&"rejected"), "{told:?}");
}

#[test]
fn every_reload_of_a_source_that_hangs_is_answered() {
    let hold = Hold::new();
    let hangs = Arc::new(AtomicBool::new(false));
    let read = {
        let (hold, hangs) = (hold.clone(), Arc::clone(&hangs));
        move || {
            if hangs.load(Ordering::SeqCst) {
                hold.wait()
            }
        }
    };
    let source = Slow {
        look: Box::new(|| ()),
        read: Box::new(read),
        make: Box::new(anchors(&[&Ca::new("ca")])),
        changed: Arc::new(AtomicBool::new(true)),
    };
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(deadline(PATIENCE)).start().unwrap();
    hangs.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let reloader = reloader.clone();
        let error =
            bounded("a reload of a source that hangs", move || reloader.reload_blocking().unwrap_err());
        assert_eq!(error.reason(), Reason::TimedOut);
    }
    hold.release();
    let follows = || reloader.reload_blocking().is_ok_and(|generation| generation.number() == 1);
    until("a reload after that", follows);
}

#[test]
fn many_sources_that_hang_stop_no_other() {
    let hub = Hub::new();
    let hold = Hold::new();
    let mut hung = Vec::new();
    for _ in 0..80 {
        let wait = hold.clone();
        let source = Slow {
            look: Box::new(|| ()),
            read: Box::new(move || wait.wait()),
            make: Box::new(|| Err(Error::new(Reason::Io, "never"))),
            changed: Arc::new(AtomicBool::new(true)),
        };
        let hub = hub.clone();
        hung.push(thread::spawn(move || {
            Reloader::builder(source)
                .hub(hub)
                .policy(deadline(300 * MS))
                .start()
                .map(drop)
                .unwrap_err()
                .reason()
        }));
    }
    for thread in hung {
        assert_eq!(bounded("a start that hangs", move || thread.join().unwrap()), Reason::TimedOut);
    }
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("good")]));
    bounded("the good one", move || Reloader::builder(source).hub(hub).start().unwrap());
    hold.release();
}

/// Two are asked for in one moment, while two threads are idle: one signal may do for both, and the first hangs for a while.
#[test]
fn what_is_asked_for_together_does_not_wait_for_one_another() {
    let hub = Hub::new();
    let ca = Ca::new("ca");
    let (began, told) = mpsc::channel();
    let slow_for = Arc::new(AtomicUsize::new(0));
    let start = |of: usize| {
        let (began, slow_for) = (began.clone(), Arc::clone(&slow_for));
        let look = move || {
            let _ = began.send((of, Instant::now()));
            if of == 0 {
                thread::sleep(slow_for.load(Ordering::SeqCst) as u32 * MS);
            }
        };
        let source = Slow {
            look: Box::new(look),
            read: Box::new(|| ()),
            make: Box::new(anchors(&[&ca])),
            changed: Arc::new(AtomicBool::new(true)),
        };
        Reloader::builder(source).hub(hub.clone()).start().unwrap()
    };
    let reloaders = [start(0), start(1)];
    slow_for.store(30, Ordering::SeqCst);
    let mut context = Context::from_waker(Waker::noop());
    let mut in_time = 0;
    for _ in 0..120 {
        if in_time == 10 {
            break;
        }
        while told.try_recv().is_ok() {}
        let asked = Instant::now();
        let mut answers: Vec<_> = reloaders.iter().map(|reloader| Box::pin(reloader.reload())).collect();
        answers.retain_mut(|answer| answer.as_mut().poll(&mut context).is_pending());
        until("both are answered", || {
            answers.retain_mut(|answer| answer.as_mut().poll(&mut context).is_pending());
            answers.is_empty()
        });
        let (_, looked) = told.try_iter().find(|(of, _)| *of == 1).unwrap();
        // Much sooner than a guard notices that the first one hangs.
        in_time += usize::from(looked.saturating_duration_since(asked) < 4 * MS);
    }
    assert!(in_time == 10, "{in_time} of 120");
}

#[test]
fn many_hooks_that_hang_stop_no_source() {
    let hub = Hub::new();
    let hold = Hold::new();
    let mut pushers = Vec::new();
    let mut reloaders = Vec::new();
    for _ in 0..80 {
        let wait = hold.clone();
        let (pusher, source) = push(Origin::named("push"));
        pusher.push(anchors(&[&Ca::new("one")]));
        let hub = hub.clone();
        let start =
            move || Reloader::builder(source).hub(hub).on_reload(move |_| wait.wait()).start().unwrap();
        reloaders.push(bounded("a start", start));
        pushers.push(pusher);
    }
    pushers[79].push(anchors(&[&Ca::new("two")]));
    let last = reloaders[79].clone();
    assert_eq!(bounded("a reload", move || last.reload_blocking().unwrap().number()), 2);
    hold.release();
}

#[test]
fn a_slow_source_delays_none_that_was_woken_with_it() {
    let hub = Hub::new();
    let slow = Arc::new(AtomicBool::new(false));
    let hold = Hold::new();
    let read = {
        let (slow, hold) = (Arc::clone(&slow), hold.clone());
        move || {
            if slow.swap(false, Ordering::SeqCst) {
                hold.wait()
            }
        }
    };
    let source = Slow {
        look: Box::new(|| ()),
        read: Box::new(read),
        make: Box::new(anchors(&[&Ca::new("slow")])),
        changed: Arc::new(AtomicBool::new(true)),
    };
    let slow_one = Reloader::builder(source).hub(hub.clone()).start().unwrap();
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("quick")]));
    let quick = Reloader::builder(source).hub(hub.clone()).start().unwrap();
    until("one idle thread", || hub.threads() <= 1);
    slow.store(true, Ordering::SeqCst);
    // Two jobs, one idle thread, and the first job hangs.
    let waits = thread::spawn({
        let slow_one = slow_one.clone();
        move || slow_one.reload_blocking().unwrap()
    });
    until("the slow one at work", || !slow.load(Ordering::SeqCst));
    let begun = Instant::now();
    bounded("the quick one", move || quick.reload_blocking().unwrap());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    hold.release();
    bounded("the slow one", move || waits.join().unwrap());
}

/// Whether the guards of all hubs of this process sleep.
#[cfg(target_os = "linux")]
fn guards_sleep() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    // The system cuts names after 15 bytes.
    let guards: Vec<String> = stats.filter(|stat| stat.contains("(certsource-guar)")).collect();
    assert!(!guards.is_empty(), "a hub has a guard");
    guards.iter().all(|stat| stat.contains("(certsource-guar) S "))
}

/// Here the system does not tell.
#[cfg(not(target_os = "linux"))]
fn guards_sleep() -> bool {
    thread::sleep(50 * MS);
    true
}

/// Two that must stand still until the same moment. The first of them hangs then, and nothing has told the guard that the
/// second is due: when it last looked, both were being read.
#[test]
fn a_read_that_hangs_delays_none_that_is_due_with_it() {
    let hub = Hub::new();
    let phase = Arc::new(AtomicUsize::new(0));
    let (at_once, second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (both, first) = (Hold::new(), Hold::new());
    let start = |names: [&'static str; 2]| {
        let read = {
            let (phase, at_once, second) = (Arc::clone(&phase), Arc::clone(&at_once), Arc::clone(&second));
            let (both, first) = (both.clone(), first.clone());
            move || match phase.load(Ordering::SeqCst) {
                0 => {}
                1 => {
                    at_once.fetch_add(1, Ordering::SeqCst);
                    both.wait();
                }
                _ if second.fetch_add(1, Ordering::SeqCst) == 0 => first.wait(),
                _ => {}
            }
        };
        let (phase, contents) = (Arc::clone(&phase), names.map(|name| anchors(&[&Ca::new(name)])));
        let source = Slow {
            look: Box::new(|| ()),
            read: Box::new(read),
            make: Box::new(move || contents[phase.load(Ordering::SeqCst).min(1)]()),
            changed: Arc::new(AtomicBool::new(true)),
        };
        Reloader::builder(source).hub(hub.clone()).start().unwrap()
    };
    let sources = [start(["one", "two"]), start(["three", "four"])];
    phase.store(1, Ordering::SeqCst);
    let waits = sources.map(|source| thread::spawn(move || source.reload_blocking().unwrap().number()));
    until("both are read", || at_once.load(Ordering::SeqCst) == 2);
    // Twice: one that waits for a lock looks as if it slept.
    for _ in 0..2 {
        until("the guard sleeps", guards_sleep);
        thread::sleep(5 * MS);
    }
    phase.store(2, Ordering::SeqCst);
    both.release();
    until("the first is read again", || second.load(Ordering::SeqCst) > 0);
    let begun = Instant::now();
    until("the second, too", || second.load(Ordering::SeqCst) > 1);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    first.release();
    for waits in waits {
        assert_eq!(bounded("it is published", move || waits.join().unwrap()), 2);
    }
}

// What panics.

#[derive(Debug)]
struct PanicsWhenShown;
impl fmt::Display for PanicsWhenShown {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("on purpose")
    }
}
impl std::error::Error for PanicsWhenShown {}

struct PanicsWhenDropped(u64);
impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("on purpose")
        }
    }
}

#[test]
fn an_error_that_panics_when_shown_ends_nothing() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let fails = Arc::new(AtomicBool::new(false));
    let derived = reloader.derive({
        let fails = Arc::clone(&fails);
        move |generation| {
            if fails.load(Ordering::SeqCst) { Err(PanicsWhenShown) } else { Ok(generation.number()) }
        }
    });
    let derived = derived.unwrap();
    fails.store(true, Ordering::SeqCst);
    pusher.push(anchors(&[&Ca::new("two")]));
    let handle = reloader.clone();
    assert_eq!(bounded("a reload", move || handle.reload_blocking().unwrap_err().reason()), Reason::Rejected);
    fails.store(false, Ordering::SeqCst);
    bounded("a reload", move || assert_eq!(reloader.reload_blocking().unwrap().number(), 2));
    assert_eq!(*derived.load().value(), 2);
}

#[test]
fn a_derived_value_that_panics_when_dropped_ends_nothing() {
    let (pusher, reloader) = start(&Ca::new("one"));
    let derived =
        reloader.derive(|generation| Ok::<_, Error>(PanicsWhenDropped(generation.number()))).unwrap();
    for number in 2..=4 {
        pusher.push(anchors(&[&Ca::new("next")]));
        let reloader = reloader.clone();
        assert_eq!(bounded("a reload", move || reloader.reload_blocking().unwrap().number()), number);
        assert_eq!(derived.load().value().0, number);
    }
    std::mem::forget(derived.load());
    std::mem::forget(derived);
}

#[test]
fn a_source_that_panics_everywhere_ends_nothing() {
    struct Panics(Arc<AtomicUsize>);
    impl Source for Panics {
        fn origin(&self) -> Origin {
            Origin::named("panics")
        }
        fn look(&mut self, _: Now) -> Result<Look, Error> {
            panic!("on purpose")
        }
        fn read(&mut self) -> Result<Parts, Error> {
            panic!("on purpose")
        }
        fn arm(&mut self, _: &certsource::source::Alarm) -> certsource::source::Armed {
            panic!("on purpose")
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            if !thread::panicking() {
                panic!("on purpose")
            }
        }
    }
    let hub = Hub::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let (dropped, hub) = (Arc::clone(&dropped), hub.clone());
        let tried = thread::spawn(move || Reloader::builder(Panics(dropped)).hub(hub).start().map(drop));
        if let Ok(result) = bounded("a start", move || tried.join()) {
            assert_eq!(result.unwrap_err().reason(), Reason::Rejected);
        }
    }
    until("every source is dropped", || dropped.load(Ordering::SeqCst) == 3);
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("good")]));
    bounded("a good one on the same hub", move || Reloader::builder(source).hub(hub).start().unwrap());
}
