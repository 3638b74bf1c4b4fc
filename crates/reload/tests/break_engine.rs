//! What could break the engine: things that hang, panic, re-enter or come at the worst moment.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::machine::{Candidate, Policy};
use certsource::parts::Parts;
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Pusher, Reason, Source, push};
use certsource_reload::{Derived, Event, EventKind, Hub, Reloader};
use certsource_testkit::Ca;

/// Far more than anything here takes; a test that reaches it has failed.
const BOUND: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

fn anchors(cas: &[&Ca]) -> impl Fn() -> Result<Parts, Error> + Send + 'static + use<> {
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    move || Ok(Parts::new().with_trust(&Origin::named("push"), ders.clone()))
}

fn start(ca: &Ca) -> (Pusher, Reloader) {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[ca]));
    (pusher, Reloader::builder(source).hub(Hub::new()).start().unwrap())
}

fn listen() -> (impl Fn(&Event) + Send + Sync + 'static, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    (move |event: &Event| drop(sender.lock().unwrap().send(event.clone())), receiver)
}

fn next(events: &mpsc::Receiver<Event>, name: &str) -> Event {
    loop {
        let event = events.recv_timeout(BOUND).unwrap_or_else(|_| panic!("no event {name}"));
        if event.kind.as_str() == name {
            return event;
        }
    }
}

/// Runs it on a thread of its own and fails when it does not end.
fn bounded<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(body())));
    receiver.recv_timeout(BOUND).unwrap_or_else(|_| panic!("it never ends, or it panicked: {what}"))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !done() {
        assert!(Instant::now() < end, "not reached: {what}");
        thread::sleep(MS);
    }
}

fn deadline(deadline: Duration) -> Policy {
    let mut policy = Policy::default();
    policy.deadline = deadline;
    policy
}

/// Holds a thread until the test lets go.
#[derive(Clone)]
struct Hold(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Hold {
    fn new() -> Self {
        Self(Arc::default())
    }
    fn wait(&self) {
        let mut free = self.0.0.lock().unwrap();
        while !*free {
            free = self.0.1.wait(free).unwrap();
        }
    }
    fn release(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A test that fails leaves no thread behind.
        if thread::panicking() {
            self.release();
        }
    }
}

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
    let reloader =
        Reloader::builder(source).hub(Hub::new()).policy(deadline(2 * 500 * MS)).gate(gate).on_event(hook);
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

/// A source whose steps each take some time, or hang.
struct Slow {
    look: Box<dyn Fn() + Send>,
    read: Box<dyn Fn() + Send>,
    make: Box<dyn Fn() -> Result<Parts, Error> + Send>,
    changed: Arc<AtomicBool>,
}

impl Source for Slow {
    fn origin(&self) -> Origin {
        Origin::named("slow")
    }
    fn look(&mut self, _: Now) -> Result<Look, Error> {
        (self.look)();
        let changed = self.changed.swap(false, Ordering::SeqCst);
        Ok(if changed { Look::Changed(Arrival::Swapped) } else { Look::Same })
    }
    fn read(&mut self) -> Result<Parts, Error> {
        (self.read)();
        (self.make)()
    }
}

#[test]
fn the_deadline_is_for_each_step_not_for_all_of_them() {
    let slow = || thread::sleep(250 * MS);
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
        Reloader::builder(source).hub(Hub::new()).policy(deadline(600 * MS)).gate(gate).on_event(hook);
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
    let reloader = Reloader::builder(source).hub(Hub::new()).policy(deadline(200 * MS)).start().unwrap();
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
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    hold.release();
    bounded("the slow one", move || waits.join().unwrap());
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
                while !ends.load(Ordering::SeqCst) && all.len() < 2_000 {
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
        let reloader = Reloader::builder(source).hub(Hub::new()).policy(deadline(300 * MS)).gate(
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
        Reloader::builder(source).hub(Hub::new()).policy(deadline(300 * MS)).gate(gate).start().unwrap();
    let derived = reloader.derive(|generation| Ok::<_, Error>(generation.trust().unwrap().len())).unwrap();
    pusher.push(anchors(&[&one]));
    let handle = reloader.clone();
    assert_eq!(bounded("a reload", move || handle.reload_blocking().unwrap().number()), 2);
    assert_eq!((*derived.load().value(), derived.load().generation().number()), (1, 2));
    hold.release();
}

#[test]
fn a_withdrawal_that_can_not_be_built_is_tried_again_and_never_half_published() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let (pusher, reloader) = start(&one);
    pusher.push(anchors(&[&one, &two]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    let fails = Arc::new(AtomicBool::new(false));
    let derived = reloader
        .derive({
            let fails = Arc::clone(&fails);
            move |generation| {
                if fails.load(Ordering::SeqCst) { Err("no descriptor left") } else { Ok(generation.number()) }
            }
        })
        .unwrap();
    fails.store(true, Ordering::SeqCst);
    pusher.push(anchors(&[&one]));
    let error = reloader.reload_blocking().unwrap_err();
    assert!(error.to_string().contains("no descriptor left"), "{error}");
    assert_eq!((reloader.current().number(), derived.load().generation().number()), (2, 2));
    assert!(!reloader.current().retired().is_retired());
    fails.store(false, Ordering::SeqCst);
    // By itself: nobody wakes it.
    until("it is published", || derived.load().generation().number() == 3);
    until("as one", || reloader.current().number() == 3);
    pusher.push(anchors(&[&two]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 4, "the numbers are still one apart");
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
