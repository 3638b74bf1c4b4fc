//! A source that counts how often it is read: each look that was asked for is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certsource_client::certsource_reload::certsource::clock::Now;
use certsource_client::certsource_reload::certsource::parts::Parts;
use certsource_client::certsource_reload::certsource::source::{Alarm, Armed, Look};
use certsource_client::certsource_reload::certsource::{Origin, Source};
use certsource_client::{Builder, Client, Error, Files};
use certsource_testkit::KubeletDir;

use super::NEVER;

struct Counting {
    files: Files,
    reads: Arc<AtomicUsize>,
}

impl Source for Counting {
    fn origin(&self) -> Origin {
        self.files.origin()
    }
    fn look(&mut self, now: Now) -> Result<Look, Error> {
        self.files.look(now)
    }
    fn read(&mut self) -> Result<Parts, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.files.read()
    }
    fn arm(&mut self, alarm: &Alarm) -> Armed {
        self.files.arm(alarm)
    }
}

/// A client of this directory that looks only when it is asked to, and the count of its reads.
pub fn counting(dir: &KubeletDir) -> (Builder, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let source = Counting { files: Files::kubernetes(dir.path()), reads: Arc::clone(&reads) };
    (Client::builder().source(source).reload_every(NEVER).no_proxy(), reads)
}
