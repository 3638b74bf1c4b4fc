//! Failing closed through the engine: what could not be confirmed for `max_stale` is given up, by time alone, also while
//! the disk hangs; and comes back as a new generation.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use certsource::machine::Policy;
use certsource::{Error, Origin, Pusher, Reason, push};
use certsource_reload::{Builder, Closed, EventKind, Generation, Hub, Reloader};
use certsource_testkit::Ca;

use support::*;

/// A machine that stands still for a second must not look like files that nobody can confirm.
const LIMIT: Duration = Duration::from_secs(3);

fn closing() -> Policy {
    let mut policy = Policy::every(100 * MS);
    // A failure is told after this.
    policy.settle = 20 * MS;
    policy.max_stale = Some(LIMIT);
    policy
}

fn pushed(ca: &Ca) -> (Pusher, Builder) {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[ca]));
    (pusher, Reloader::builder(source).hub(Hub::new()).policy(closing()))
}

fn gone() -> Error {
    Error::new(Reason::NotFound, "gone")
}

fn number(generation: &Arc<Generation>) -> Result<u64, Error> {
    Ok(generation.number())
}

#[test]
fn broken_files_close_it_by_time_alone_and_whole_ones_open_it_again() {
    let (hook, events) = listen();
    let (failed, failures) = mpsc::channel();
    let failed = std::sync::Mutex::new(failed);
    let (pusher, builder) = pushed(&Ca::new("one"));
    let reloader = builder
        .on_event(hook)
        .on_failure(move |failure| {
            failed.lock().unwrap().send((failure.reason(), failure.serving)).unwrap();
        })
        .start()
        .unwrap();
    let derived = reloader.derive(number).unwrap();
    assert_eq!(*derived.get().unwrap().value(), 1);
    let first = reloader.current();
    let (begun, given_up) = (Instant::now(), first.retired().replaced());
    // Confirmed just now, however long ago the last look of its own was.
    reloader.reload_blocking().unwrap();
    pusher.fail(gone());
    next(&events, "failed");
    assert!(reloader.status().is_ready_at(SystemTime::now()), "it is still served");
    let EventKind::Stale(stale) = next(&events, "stale").kind else { unreachable!() };
    assert!(begun.elapsed() >= LIMIT / 2);
    assert_eq!((stale.generation, stale.error.as_ref().unwrap().reason()), (1, Reason::NotFound));
    assert!(matches!(next(&events, "retired").kind, EventKind::Retired(1)));
    assert_eq!(failures.recv_timeout(BOUND).unwrap(), (Reason::NotFound, Some(1)));
    assert_eq!(failures.recv_timeout(BOUND).unwrap(), (Reason::Stale, None));
    bounded("whoever waits for its end", move || pollster::block_on(given_up));
    assert!(first.retired().is_retired());

    let Err(Closed::Stale(said)) = derived.get() else { panic!("a value that nobody can confirm") };
    assert_eq!(said.to_string(), stale.to_string());
    assert_eq!(reloader.stale().unwrap().generation, 1);
    let status = reloader.status();
    assert!(status.stale && !status.is_ready_at(SystemTime::now()));
    assert_eq!((status.generation, status.reason), (1, Some(Reason::NotFound)));
    assert_eq!(reloader.reload_blocking().unwrap_err().reason(), Reason::NotFound);
    pusher.fail(Error::new(Reason::Io, "another failure"));
    let EventKind::Failed(failure) = next(&events, "failed").kind else { unreachable!() };
    assert_eq!((failure.reason(), failure.serving), (Reason::Io, None), "nothing is served by now");
    // What is derived now is closed too.
    let later = reloader.derive(number).unwrap();
    assert!(later.get().is_err());

    pusher.push(anchors(&[&Ca::new("two"), &Ca::new("three")]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    assert_eq!((*derived.get().unwrap().value(), *later.get().unwrap().value()), (2, 2));
    assert!(reloader.stale().is_none() && !reloader.status().stale);
    assert!(reloader.status().is_ready_at(SystemTime::now()));
    next(&events, "recovered");
    next(&events, "reloaded");
    assert!(events.try_iter().all(|event| event.kind.as_str() != "retired"), "that was told before");
}

#[test]
fn a_disk_that_hangs_closes_it_in_time_whatever_the_deadline_and_the_same_content_opens_it() {
    for deadline in [100 * MS, Duration::from_secs(10)] {
        let hold = Hold::new();
        let hangs = Arc::new(AtomicBool::new(false));
        let ca = Ca::new("one");
        let source = Slow {
            look: Box::new({
                let (hold, hangs) = (hold.clone(), Arc::clone(&hangs));
                move || {
                    if hangs.load(Ordering::SeqCst) {
                        hold.wait();
                    }
                }
            }),
            read: Box::new(|| ()),
            make: Box::new(anchors(&[&ca])),
            changed: Arc::new(AtomicBool::new(true)),
        };
        let mut policy = closing();
        policy.deadline = deadline;
        let (hook, events) = listen();
        let builder = Reloader::builder(source).hub(Hub::new()).policy(policy).on_event(hook);
        // Where the machine stands still, the first look may come to the short deadline.
        let reloader = builder.wait_for_initial(BOUND).start().unwrap();
        let derived = reloader.derive(number).unwrap();
        thread::sleep(LIMIT * 3 / 2);
        assert!(derived.get().is_ok(), "looks that find it the same confirm it");
        let begun = Instant::now();
        hangs.store(true, Ordering::SeqCst);
        let EventKind::Stale(stale) = next(&events, "stale").kind else { unreachable!() };
        let took = begun.elapsed();
        assert!(took < LIMIT + Duration::from_secs(4), "in time, and not at the deadline: {took:?}");
        assert_eq!(stale.error.unwrap().reason(), Reason::TimedOut);
        assert!(derived.get().is_err() && reloader.status().stale);
        hold.release();
        next(&events, "reloaded");
        assert_eq!(*derived.get().unwrap().value(), 2, "the same content, and nothing of before");
        assert_eq!(reloader.current().digest(), derived.get().unwrap().generation().digest());
    }
}

#[test]
fn nobody_gets_a_value_that_is_given_up_however_often_it_comes_back() {
    let (pusher, builder) = pushed(&Ca::new("one"));
    let reloader = builder.start().unwrap();
    let derived = reloader.derive(number).unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let closed = Arc::new(AtomicUsize::new(0));
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (derived, ends, closed) = (derived.clone(), Arc::clone(&ends), Arc::clone(&closed));
            thread::spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    let was_given_up = derived.load().generation().clone();
                    let is_over = was_given_up.retired().is_retired();
                    match derived.get() {
                        Ok(version) if is_over => {
                            assert!(version.generation().number() > was_given_up.number());
                        }
                        Ok(_) => {}
                        Err(_) => drop(closed.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            })
        })
        .collect();
    for round in 1..=3 {
        pusher.fail(gone());
        until("closed", || derived.get().is_err());
        let before = closed.load(Ordering::SeqCst);
        until("some user sees it", || closed.load(Ordering::SeqCst) > before);
        pusher.push(anchors(&[&Ca::new("one")]));
        until("open", || derived.get().is_ok());
        assert_eq!(reloader.current().number(), round + 1);
    }
    ends.store(true, Ordering::SeqCst);
    for user in users {
        bounded("a user", move || user.join().unwrap());
    }
}

#[test]
fn a_value_that_asks_by_itself_is_built_once_more_while_it_is_closed() {
    let (pusher, builder) = pushed(&Ca::new("one"));
    let reloader = builder.start().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let derived = reloader
        .derive({
            let made = Arc::clone(&made);
            move |_| Ok::<_, Error>(made.fetch_add(1, Ordering::SeqCst))
        })
        .unwrap();
    assert_eq!(*derived.get_or_anew().unwrap().value(), 0);
    pusher.fail(gone());
    until("closed", || derived.get().is_err());
    assert_eq!(*derived.get_or_anew().unwrap().value(), 1, "nothing of before");
    assert_eq!(*derived.get_or_anew().unwrap().value(), 1, "once");
    assert_eq!(*derived.load().value(), 0);
    pusher.push(anchors(&[&Ca::new("two")]));
    assert_eq!(reloader.reload_blocking().unwrap().number(), 2);
    assert_eq!(*derived.get_or_anew().unwrap().value(), 2);
}
