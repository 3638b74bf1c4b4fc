//! What the tests of the engine share: pushed and slow sources, and waiting with a bound.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::machine::Policy;
use certsource::parts::Parts;
use certsource::source::{Arrival, Look};
use certsource::{Error, Origin, Pusher, Source, push};
use certsource_reload::{Event, Hub, Reloader};
use certsource_testkit::Ca;

/// Far more than anything here takes; a test that reaches it has failed.
pub const BOUND: Duration = Duration::from_secs(20);
pub const MS: Duration = Duration::from_millis(1);
/// For tests in which something hangs: a deadline that a machine that stands still for a while does not reach.
pub const PATIENCE: Duration = Duration::from_secs(4);

pub fn anchors(cas: &[&Ca]) -> impl Fn() -> Result<Parts, Error> + Send + 'static + use<> {
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate_der()).collect();
    move || Ok(Parts::new().with_trust(&Origin::named("push"), ders.clone()))
}

pub fn start(ca: &Ca) -> (Pusher, Reloader) {
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(&[ca]));
    (pusher, Reloader::builder(source).hub(Hub::new()).start().unwrap())
}

pub fn listen() -> (impl Fn(&Event) + Send + Sync + 'static, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    (move |event: &Event| drop(sender.lock().unwrap().send(event.clone())), receiver)
}

pub fn next(events: &mpsc::Receiver<Event>, name: &str) -> Event {
    loop {
        let event = events.recv_timeout(BOUND).unwrap_or_else(|_| panic!("no event {name}"));
        if event.kind.as_str() == name {
            return event;
        }
    }
}

/// Runs it on a thread of its own and fails when it does not end.
pub fn bounded<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(body())));
    receiver.recv_timeout(BOUND).unwrap_or_else(|_| panic!("it never ends, or it panicked: {what}"))
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !done() {
        assert!(Instant::now() < end, "not reached: {what}");
        thread::sleep(MS);
    }
}

pub fn deadline(deadline: Duration) -> Policy {
    let mut policy = Policy::default();
    policy.deadline = deadline;
    policy
}

/// Holds a thread until the test lets go.
#[derive(Clone)]
pub struct Hold(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Hold {
    pub fn new() -> Self {
        Self(Arc::default())
    }
    pub fn wait(&self) {
        let mut free = self.0.0.lock().unwrap();
        while !*free {
            free = self.0.1.wait(free).unwrap();
        }
    }
    pub fn release(&self) {
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

/// A source whose steps each take some time, or hang.
pub struct Slow {
    pub look: Box<dyn Fn() + Send>,
    pub read: Box<dyn Fn() + Send>,
    pub make: Box<dyn Fn() -> Result<Parts, Error> + Send>,
    pub changed: Arc<AtomicBool>,
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
