//! No watch is lost, rotation after rotation: a source is driven by file events alone, with no look in between that would
//! hide a watch that has ended, while a writer on another thread goes on.
//!
//! `CERTSOURCE_ROTATIONS` sets how many rotations of each kind there are, over all directories; 100,000 is the full size.
#![cfg(all(target_os = "linux", feature = "notify"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use certsource::clock::Now;
use certsource::detect::Notify;
use certsource::machine::{Policy, Told};
use certsource::source::{Alarm, Armed, FileEvent, Sink, Wake, Watch, WatchError, Watches};
use certsource::watch::OsWatches;
use certsource::{Driver, Files};
use certsource_testkit::write::rename_over;
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};

/// Far longer than an event needs on a machine that is busy.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// A machine follows wake-ups that come without end one by one, this far apart at the most.
const PACE: Duration = Duration::from_millis(20);
/// No event is under way any more, also where the machine stood still.
const QUIET: Duration = Duration::from_secs(3);
/// Directories that are watched at once, with one watcher.
const DIRECTORIES: usize = 8;

fn rotations() -> usize {
    std::env::var("CERTSOURCE_ROTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(300)
}

/// A source that looks when an event says so, and again by itself only while it waits for the rest of what a writer does.
struct Watched {
    driver: Driver<Files>,
    events: Receiver<()>,
    next: Option<Instant>,
    lost_after: Duration,
}

impl Watched {
    fn start(files: Files, watches: Arc<dyn Watches>) -> Self {
        let (sender, events) = channel();
        let alarm = Alarm::new(Wake::new(move || {
            let _ = sender.send(());
        }))
        .with_watches(watches);
        let driver = Driver::new(files.detect(Notify::new()), Policy::default()).with_alarm(alarm);
        let mut watched = Self { driver, events, next: None, lost_after: LOST_AFTER };
        let end = Instant::now() + LOST_AFTER;
        while watched.driver.machine().current().is_none() {
            assert!(Instant::now() < end, "the first load: {:?}", watched.driver);
            watched.run();
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(*watched.driver.machine().arming(), Armed::Watching);
        watched
    }

    fn run(&mut self) {
        self.next = self.driver.run(Now::read);
        for told in self.driver.drain() {
            assert!(!matches!(told, Told::Degraded(_)), "{told:?}");
        }
    }

    fn serves(&self, issued: &Issued) -> bool {
        let current = self.driver.machine().current().and_then(|(_, material)| material.identity());
        current.is_some_and(|identity| *identity.leaf().der() == issued.leaf_der())
    }

    /// Waits until this is served. Says whether an event led to it, and not a look that was due anyway.
    fn follow(&mut self, issued: &Issued) -> Result<bool, String> {
        let end = Instant::now() + self.lost_after;
        let (mut by_event, mut owes_look) = (true, false);
        while !self.serves(issued) {
            let machine = self.driver.machine();
            let is_at_work = machine.pending_since().is_some() || machine.failing_since().is_some();
            let is_next = |at: &Instant| is_at_work || owes_look && *at <= Instant::now() + PACE;
            let until = self.next.filter(is_next).unwrap_or(end).min(end);
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {
                    (by_event, owes_look) = (true, true);
                    self.driver.wake(Now::read());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {
                    by_event = std::mem::take(&mut owes_look);
                }
                Err(_) => return Err(format!("no event in {:?}: {:?}", self.lost_after, self.driver)),
            }
            self.run();
        }
        Ok(by_event)
    }

    /// Until no more events come of what is done.
    fn rest(&mut self) {
        while self.events.recv_timeout(QUIET).is_ok() {
            self.driver.wake(Now::read());
            self.run();
            thread::sleep(PACE);
            self.run();
        }
    }
}

/// A directory, its source, and who writes there.
struct Scene {
    files: Files,
    write: Box<dyn FnMut(&Issued) + Send>,
}

/// What came of the rotations of one directory.
#[derive(Default)]
struct Followed {
    took: Vec<Duration>,
    by_timer: usize,
}

/// Lets writers rotate in many directories, each on a thread of its own: each time as soon as the last rotation is served, or
/// a moment later.
fn rotate(kind: &str, scene: impl Fn(&Ca) -> Scene + Sync) {
    let each = rotations().div_ceil(DIRECTORIES);
    let ca = Ca::new("ca");
    // Minting is slow, so the same come again.
    let issued: Vec<Issued> = (0..8).map(|_| ca.issue("client")).collect();
    let watches: Arc<dyn Watches> = Arc::new(OsWatches::new());
    let begin = Instant::now();
    let mut all = Followed::default();
    thread::scope(|scope| {
        let one = |_| {
            let (scene, watches, issued) = (scene(&ca), Arc::clone(&watches), &issued);
            scope.spawn(move || follow_all(scene, watches, issued, each))
        };
        let threads: Vec<_> = (0..DIRECTORIES).map(one).collect();
        for thread in threads {
            let followed = thread.join().unwrap().unwrap_or_else(|lost| panic!("{kind}: {lost}"));
            all.took.extend(followed.took);
            all.by_timer += followed.by_timer;
        }
    });
    let Followed { mut took, by_timer } = all;
    took.sort_unstable();
    let count = took.len();
    println!(
        "{kind}: {count} rotations in {:.0?}, none lost; {by_timer} were found by a look that was due; from the writer's \
         start p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        begin.elapsed(),
        took[count / 2],
        took[count * 99 / 100],
        took[count - 1]
    );
}

fn follow_all(
    scene: Scene,
    watches: Arc<dyn Watches>,
    issued: &[Issued],
    rotations: usize,
) -> Result<Followed, String> {
    let Scene { files, mut write } = scene;
    let of = |number: usize| &issued[number % issued.len()];
    let mut watched = Watched::start(files, watches);
    let mut followed = Followed::default();
    thread::scope(|scope| {
        let (go, gone) = channel::<usize>();
        scope.spawn(move || {
            for number in gone {
                // From nothing to more than it takes to set watches again: not in step with anything.
                thread::sleep(Duration::from_micros((number as u64 * 977) % 3_000));
                write(of(number));
            }
        });
        for number in 1..=rotations {
            let asked = Instant::now();
            go.send(number).unwrap();
            let by_event = watched.follow(of(number));
            let by_event = by_event.map_err(|lost| format!("rotation {number} of {rotations}: {lost}"))?;
            followed.by_timer += usize::from(!by_event);
            followed.took.push(asked.elapsed());
        }
        Ok(followed)
    })
}

fn swaps(kind: &str, keeps_old: bool) {
    rotate(kind, |ca| {
        let dir = KubeletDir::new(ca.issue("first")).unwrap().keep_old(keeps_old);
        Scene {
            files: Files::kubernetes(dir.path()),
            write: Box::new(move |issued| dir.swap(issued).unwrap()),
        }
    });
}

#[test]
fn swaps_with_the_old_directory_removed_lose_no_watch() {
    swaps("swap, old directory removed", false);
}

#[test]
fn swaps_with_the_old_directory_kept_lose_no_watch() {
    swaps("swap, old directory kept", true);
}

#[test]
fn a_certificate_and_its_key_by_renames_lose_no_watch() {
    rotate("certificate, then key", |ca| {
        let dir = TestDir::new().unwrap();
        dir.write_issued(ca.issue("first")).unwrap();
        Scene {
            // An identity alone: with a bundle beside it, it would have to stand still first.
            files: Files::identity(dir.join("tls.crt"), dir.join("tls.key")),
            write: Box::new(move |issued| {
                let certificate = rename_over(dir.join("tls.crt"), issued.chain_pem());
                certificate.then(rename_over(dir.join("tls.key"), issued.key_pem())).finish().unwrap();
            }),
        }
    });
}

/// Watches whose events come until they are told to be deaf.
#[derive(Debug)]
struct Deaf {
    watches: OsWatches,
    is_deaf: Arc<AtomicBool>,
}

impl Watches for Deaf {
    fn watch(&self, directory: &Path, sink: Sink) -> Result<Watch, WatchError> {
        let is_deaf = Arc::clone(&self.is_deaf);
        let hears: Sink = Arc::new(move |event: &FileEvent| {
            if !is_deaf.load(Ordering::SeqCst) {
                sink(event);
            }
        });
        self.watches.watch(directory, hears)
    }
}

/// The control: watches that have ended are noticed here.
#[test]
fn watches_that_have_ended_are_noticed() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("first")).unwrap();
    let is_deaf = Arc::new(AtomicBool::new(false));
    let watches = Deaf { watches: OsWatches::new(), is_deaf: Arc::clone(&is_deaf) };
    let mut watched = Watched::start(Files::kubernetes(dir.path()), Arc::new(watches));
    let issued = ca.issue("second");
    dir.swap(&issued).unwrap();
    watched.follow(&issued).unwrap();
    watched.rest();
    is_deaf.store(true, Ordering::SeqCst);
    watched.lost_after = Duration::from_secs(1);
    let issued = ca.issue("third");
    dir.swap(&issued).unwrap();
    let lost = watched.follow(&issued).unwrap_err();
    assert!(lost.contains("no event"), "{lost}");
}
