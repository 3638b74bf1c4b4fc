//! A source with one detector, and a tiny engine around it that the test steps by hand.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use certsource::clock::Now;
use certsource::parts::{Part, Parts};
use certsource::source::{Alarm, Armed, Detector, Look, Sink, Wake, Watch, Watches};
use certsource::{Error, Files, Source};
use certsource_testkit::TestDir;

pub(crate) const SEC: Duration = Duration::from_secs(1);
/// The longest wait for something that is sure to come.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// File watches, and a way to know that every event so far was delivered.
///
/// Events of one watcher are delivered in order. So when an event of a file of ours has come, all before it have.
pub(crate) struct Events {
    pub(crate) watches: Arc<dyn Watches>,
    dir: TestDir,
    arrived: Receiver<Option<PathBuf>>,
    _watch: Watch,
    count: usize,
}

impl Events {
    pub(crate) fn new(watches: Arc<dyn Watches>) -> Self {
        let dir = TestDir::new().unwrap();
        let (sender, arrived) = channel();
        let sink: Sink = Arc::new(move |event| {
            let _ = sender.send(event.path.clone());
        });
        let watch = watches.watch(dir.path(), sink).unwrap();
        Self { watches, dir, arrived, _watch: watch, count: 0 }
    }

    /// Returns when every event of what was done before this call was delivered.
    pub(crate) fn deliver(&mut self) {
        self.count += 1;
        let path = self.dir.join(self.count.to_string());
        fs::create_dir(&path).unwrap();
        // By its name: the directory that holds it may be told of too, by a watch above.
        while self.arrived.recv_timeout(BOUND).expect("an event of the fence").as_ref() != Some(&path) {}
    }
}

/// A source, its detector, and the clock of the test.
pub(crate) struct Rig {
    pub(crate) files: Files,
    pub(crate) now: Now,
    pub(crate) events: Option<Events>,
    pub(crate) alarm: Alarm,
    pub(crate) wakes: Receiver<()>,
    pub(crate) armed: Armed,
    /// What the last read gave.
    pub(crate) read: Option<Result<Parts, Error>>,
    pub(crate) looks: Vec<Look>,
}

impl Rig {
    /// Polls by the hand of the test.
    pub(crate) fn polling(files: Files, detector: impl Detector + 'static) -> Self {
        Self::new(files.detect(detector), None)
    }

    /// Looks when it is woken, and never otherwise.
    #[cfg(feature = "notify")]
    pub(crate) fn watching(files: Files, detector: impl Detector + 'static) -> Self {
        let watches = Arc::new(certsource::watch::OsWatches::new());
        Self::new(files.detect(detector), Some(Events::new(watches)))
    }

    fn new(files: Files, events: Option<Events>) -> Self {
        let (sender, wakes) = channel();
        let mut alarm = Alarm::new(Wake::new(move || {
            // Nobody waits any more when the rig is gone.
            let _ = sender.send(());
        }));
        if let Some(events) = &events {
            alarm = alarm.with_watches(Arc::clone(&events.watches));
        }
        let armed = Armed::PollOnly;
        let mut rig =
            Self { files, now: Now::read(), events, alarm, wakes, armed, read: None, looks: Vec::new() };
        rig.step();
        rig
    }

    /// Arms, looks, and reads if it is told to.
    pub(crate) fn step(&mut self) -> Look {
        self.armed = self.files.arm(&self.alarm);
        let look = self.files.look(self.now).unwrap();
        if let Look::Changed(_) = look {
            self.read = Some(self.files.read());
        }
        self.looks.push(look);
        look
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Lets the detector come to rest.
    pub(crate) fn rest(&mut self) {
        if self.events.is_some() {
            self.react();
            return;
        }
        for _ in 0..5 {
            self.pass(3 * SEC);
            if self.step() == Look::Same {
                self.looks.clear();
                return;
            }
        }
        panic!("no rest: {:?}", self.looks);
    }

    /// Does what an engine does after something was written: a look an interval later, or when woken.
    pub(crate) fn react(&mut self) {
        if self.events.is_none() {
            self.pass(10 * SEC);
            self.step();
            return;
        }
        for _ in 0..100 {
            if !self.is_woken() {
                return;
            }
            self.step();
        }
        panic!("it wakes itself: {:?}", &self.looks[self.looks.len() - 10..]);
    }

    /// Whether anything that happened so far led to a wake-up since the last call.
    pub(crate) fn is_woken(&mut self) -> bool {
        if let Some(events) = &mut self.events {
            events.deliver();
        }
        self.wakes.try_iter().count() > 0
    }

    /// The trust anchors of the last read.
    pub(crate) fn anchors(&self) -> Result<Vec<Vec<u8>>, String> {
        match &self.read.as_ref().expect("it was read").as_ref().map_err(|error| error.to_string())?.trust {
            Part::Found(found) => Ok(found.iter().map(|anchor| anchor.der.to_vec()).collect()),
            Part::Broken(error) => Err(error.to_string()),
            Part::Absent => Err("absent".to_owned()),
        }
    }

    pub(crate) fn parts(&self) -> Option<&Parts> {
        self.read.as_ref()?.as_ref().ok()
    }
}

/// The same text, made this many bytes long by a comment, so that two versions differ in nothing but content.
pub(crate) fn padded(pem: &str, size: usize) -> String {
    assert!(pem.len() < size);
    let mut text = "#".repeat(size - pem.len() - 1);
    text.push('\n');
    text + pem
}

pub(crate) fn link(target: impl Into<PathBuf>, path: impl Into<PathBuf>) {
    std::os::unix::fs::symlink(target.into(), path.into()).unwrap();
}
