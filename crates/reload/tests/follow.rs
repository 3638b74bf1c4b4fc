//! A reloader on real files and real threads: what is published, told, answered and ended.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use certsource::files::Files;
use certsource::machine::{Candidate, Policy};
use certsource::parts::Parts;
use certsource::{Error, Origin, Reason, push};
use certsource_reload::{EventKind, Hub, Reloader};
use certsource_testkit::{Ca, KubeletDir, TestDir};

use support::*;

fn quick() -> Policy {
    let mut policy = Policy::every(Duration::from_millis(50));
    policy.settle = Duration::from_millis(60);
    policy.settle_loss = Duration::from_millis(80);
    policy
}

#[test]
fn five_lines_follow_a_kubernetes_volume() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let dir = KubeletDir::new(one.issue("localhost")).unwrap();
    let (hook, events) = listen();
    let reloader =
        Reloader::builder(Files::kubernetes(dir.path())).policy(quick()).on_event(hook).start().unwrap();
    let first = reloader.current();
    assert_eq!(first.number(), 1);
    for number in 2..=20 {
        let ca = if number % 2 == 0 { &two } else { &one };
        dir.swap(ca.issue("localhost")).unwrap();
        let event = next(&events, "reloaded");
        let EventKind::Reloaded(reload) = event.kind else { unreachable!() };
        assert_eq!(reload.generation.number(), number);
        assert_eq!(**reload.generation.trust().unwrap()[0].der(), *ca.certificate_der());
        assert_eq!(reload.diff.added.len(), 2, "an anchor and a leaf");
        assert_eq!(reload.diff.removed.len(), 2);
        assert_eq!(reloader.current().number(), number);
    }
    assert!(first.retired().is_retired());
    assert!(!reloader.current().retired().is_retired());
}

#[test]
fn a_missing_file_fails_at_once_or_is_waited_for() {
    let dir = TestDir::new().unwrap();
    let path = dir.join("ca.pem");
    let begun = Instant::now();
    let mut policy = quick();
    policy.settle = Duration::from_secs(60);
    let error = Reloader::builder(Files::trust(&path)).policy(policy).start().unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound);
    assert_eq!(error.path(), Some(&*path));
    assert!(begun.elapsed() < Duration::from_secs(20), "at once, not after settling");

    let error = Reloader::builder(Files::trust(&path))
        .policy(quick())
        .wait_for_initial(PATIENCE)
        .start()
        .unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound);

    let write = std::thread::spawn({
        let pem = Ca::new("late").certificate_pem();
        move || dir.write("ca.pem", pem).map(|_| dir).unwrap()
    });
    let reloader =
        Reloader::builder(Files::trust(&path)).policy(quick()).wait_for_initial(BOUND).start().unwrap();
    assert_eq!(reloader.current().number(), 1);
    drop(write.join().unwrap());
}

#[test]
fn reload_returns_when_everything_is_replaced() {
    let (pusher, source) = push(Origin::named("push"));
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    pusher.push(anchors(&[&one]));
    let reloader = Reloader::builder(source).start().unwrap();
    let derived = reloader.derive(|generation| Ok::<_, Error>(generation.number() * 10)).unwrap();
    assert_eq!(*derived.load().value(), 10);
    pusher.push(anchors(&[&two]));
    // Works without any runtime.
    let generation = pollster::block_on(reloader.reload()).unwrap();
    assert_eq!(generation.number(), 2);
    assert_eq!(*derived.load().value(), 20);
    assert_eq!(derived.load().generation().number(), 2);
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2, "nothing new");
    pusher.fail(Error::new(Reason::Io, "the stream broke"));
    assert_eq!(reloader.reload_blocking().unwrap_err().reason(), Reason::Io);
    assert_eq!(reloader.current().number(), 2);
    let status = reloader.status();
    assert_eq!((status.generation, status.reason), (2, Some(Reason::Io)));
    assert!(status.is_ready_at(std::time::SystemTime::now()), "what is served is valid");
}

#[test]
fn it_outlives_the_runtime_it_was_started_in() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let reloader = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Reloader::builder(source).start_async()).unwrap()
    };
    pusher.push(anchors(&[&Ca::new("two")]));
    until("the second generation", || reloader.current().number() == 2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(reloader.reload()).unwrap().number(), 2);
}

#[test]
fn a_derived_value_that_can_not_be_built_keeps_the_last_good_generation() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let (hook, events) = listen();
    let reloader = Reloader::builder(source).on_event(hook).start().unwrap();
    let fail = Arc::new(AtomicUsize::new(0));
    let derived = reloader
        .derive({
            let fail = Arc::clone(&fail);
            move |generation| match fail.load(Ordering::SeqCst) {
                0 => Ok(generation.number()),
                1 => Err("cannot"),
                _ => panic!("on purpose"),
            }
        })
        .unwrap();
    for mode in [1, 2] {
        fail.store(mode, Ordering::SeqCst);
        pusher.push(anchors(&[&Ca::new("two")]));
        let EventKind::Rejected(failure) = next(&events, "rejected").kind else { unreachable!() };
        assert_eq!(failure.reason(), Reason::Rejected);
        assert_eq!(failure.serving(), 1);
        assert_eq!((reloader.current().number(), *derived.load().value()), (1, 1));
    }
    fail.store(0, Ordering::SeqCst);
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    assert_eq!(*derived.load().value(), 2);
}

#[test]
fn hooks_that_panic_sleep_or_reenter_break_nothing() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("zero")]));
    let handle = Arc::new(Mutex::new(None::<certsource_reload::WeakReloader>));
    let reentered = Arc::new(AtomicUsize::new(0));
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (hook, events) = listen();
    let reloader = Reloader::builder(source)
        .on_reload(|_| panic!("on purpose"))
        .on_reload({
            let (handle, reentered) = (Arc::clone(&handle), Arc::clone(&reentered));
            move |reload| {
                let weak = handle.lock().unwrap().clone();
                if let Some(reloader) = weak.and_then(|weak| weak.upgrade()) {
                    // Re-enters everything that could be locked.
                    assert!(reloader.current().number() >= reload.generation.number());
                    let _ = reloader.status();
                    let _ = reloader.derive(|generation| Ok::<_, Error>(generation.number())).unwrap();
                    reloader.reload_blocking().unwrap();
                    reentered.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .on_reload(move |reload| {
            if reload.generation.number() == 2 {
                let _ = held.lock().unwrap().recv_timeout(BOUND);
            }
        })
        .on_event(hook)
        .start()
        .unwrap();
    *handle.lock().unwrap() = Some(reloader.downgrade());
    next(&events, "loaded");
    for number in 2..=5 {
        pusher.push(anchors(&[&Ca::new("more")]));
        assert_eq!(
            reloader.reload_blocking().unwrap().number(),
            number,
            "a hook that hangs holds back no reload"
        );
    }
    release.send(()).unwrap();
    for number in 2..=5 {
        let EventKind::Reloaded(reload) = next(&events, "reloaded").kind else { unreachable!() };
        assert_eq!(reload.generation.number(), number, "in order");
    }
    assert!(reentered.load(Ordering::SeqCst) >= 4);
}

#[test]
fn events_and_generations_can_be_awaited() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let reloader = Reloader::builder(source).start().unwrap();
    let (mut events, mut generations) = (reloader.subscribe(), reloader.watch());
    pusher.push(anchors(&[&Ca::new("two")]));
    assert_eq!(pollster::block_on(generations.changed()).unwrap().number(), 2);
    let event = pollster::block_on(events.next()).unwrap().unwrap();
    assert_eq!(event.kind.as_str(), "reloaded");
    let old = reloader.current();
    let retired = old.retired().wait();
    pusher.push(anchors(&[&Ca::new("three")]));
    pollster::block_on(retired);
    // A subscriber that does not keep up is told how much it lost.
    for _ in 0..100 {
        pusher.push(anchors(&[&Ca::new("many")]));
        reloader.reload_blocking().unwrap();
    }
    let lost = std::iter::from_fn(|| events.try_next()).find_map(Result::err).expect("lagged");
    assert!(lost.0 > 0);
    drop(reloader);
    until("the end", || pollster::block_on(generations.changed()).is_none());
}

#[test]
fn a_gate_refuses_panics_or_hangs() {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let (hook, events) = listen();
    let mode = Arc::new(AtomicUsize::new(0));
    let (hold, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let gate = {
        let mode = Arc::clone(&mode);
        move |_: &Candidate| match mode.load(Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err(Error::new(Reason::Rejected, "not today")),
            2 => panic!("on purpose"),
            _ => {
                let _ = hang.lock().unwrap().recv();
                Ok(())
            }
        }
    };
    let mut policy = Policy::default();
    // Longer than a busy machine takes to print where a gate panicked.
    policy.deadline = PATIENCE;
    let reloader = Reloader::builder(source).policy(policy).gate(gate).on_event(hook).start().unwrap();
    for (refused, reason) in [(1, Reason::Rejected), (2, Reason::Rejected), (3, Reason::TimedOut)] {
        mode.store(refused, Ordering::SeqCst);
        pusher.push(anchors(&[&Ca::new("two")]));
        let EventKind::Rejected(failure) = next(&events, "rejected").kind else { unreachable!() };
        assert_eq!(failure.reason(), reason);
        assert_eq!(reloader.current().number(), 1);
    }
    mode.store(0, Ordering::SeqCst);
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2, "the gate that hangs was given up");
    next(&events, "recovered");
    drop(hold);
    // What it said late is ignored.
    pusher.push(anchors(&[&Ca::new("three")]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 3);
}

/// A source whose disk hangs until the test lets go.
struct Hanging {
    hang: Arc<Mutex<mpsc::Receiver<()>>>,
    make: Box<dyn Fn() -> Result<Parts, Error> + Send>,
}

impl certsource::Source for Hanging {
    fn origin(&self) -> Origin {
        Origin::named("hanging")
    }
    fn look(&mut self, _: certsource::clock::Now) -> Result<certsource::source::Look, Error> {
        Ok(certsource::source::Look::Changed(certsource::source::Arrival::Swapped))
    }
    fn read(&mut self) -> Result<Parts, Error> {
        let _ = self.hang.lock().unwrap().recv();
        (self.make)()
    }
}

#[test]
fn a_disk_that_hangs_delays_no_other_source_and_no_drop() {
    let hub = Hub::new();
    let mut hung = Vec::new();
    let mut holds = Vec::new();
    for _ in 0..8 {
        let (hold, hang) = mpsc::channel();
        holds.push(hold);
        let source =
            Hanging { hang: Arc::new(Mutex::new(hang)), make: Box::new(anchors(&[&Ca::new("hung")])) };
        let hub = hub.clone();
        hung.push(std::thread::spawn(move || {
            Reloader::builder(source).hub(hub).wait_for_initial(Duration::from_millis(300)).start()
        }));
    }
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[&Ca::new("one")]));
    let reloader = Reloader::builder(source).hub(hub.clone()).start().unwrap();
    for _ in 0..20 {
        pusher.push(anchors(&[&Ca::new("two")]));
        reloader.reload_blocking().unwrap();
    }
    assert_eq!(reloader.current().number(), 21);
    for thread in hung {
        assert_eq!(thread.join().unwrap().unwrap_err().reason(), Reason::TimedOut);
    }
    drop(reloader);
    drop(hub);
    drop(holds);
}

#[test]
fn the_last_handle_ends_everything() {
    let hub = Hub::new();
    let dir = KubeletDir::new(Ca::new("ca").issue("localhost")).unwrap();
    let reloaders: Vec<_> = (0..50)
        .map(|_| {
            Reloader::builder(Files::kubernetes(dir.path())).policy(quick()).hub(hub.clone()).start().unwrap()
        })
        .collect();
    let derived = reloaders[0].derive(|generation| Ok::<_, Error>(generation.number())).unwrap();
    let weak = reloaders[0].downgrade();
    drop(reloaders);
    assert!(weak.upgrade().is_some(), "a derived value keeps its source followed");
    dir.swap(Ca::new("two").issue("localhost")).unwrap();
    until("the derived value to follow", || *derived.load().value() == 2);
    drop(derived);
    until("the source to go", || weak.upgrade().is_none());
    assert!(hub.threads() >= 1);
}
