//! A deliberately naive reader: what people write by hand. It compares modification times with `>`, reads once, and
//! does not wait. The rules must find its faults; if they do not, they would not find ours.

use std::sync::Arc;
use std::time::Duration;

use certsource::fs::{Fs as _, Opened, Stamp};
use certsource::machine::Policy;

use crate::disk::Disk;
use crate::fs::SimFs;
use crate::subject::{Live, Next, Published, Reading, Spec, Subject, hash};
use crate::watches::SimWatches;

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    policy: Policy,
}

impl Subject for Naive {
    fn start(&self, spec: &Spec, fs: &SimFs, _: Arc<SimWatches>) -> Box<dyn Live> {
        let latest = Stamp { secs: i64::MIN, nanos: 0 };
        Box::new(Running {
            spec: spec.clone(),
            fs: fs.clone(),
            interval: self.policy.interval,
            latest,
            step: Next::Look,
            served: None,
            number: 0,
            told: Vec::new(),
        })
    }

    fn read(&self, spec: &Spec, fs: &SimFs) -> Reading {
        Reading::Bytes(spec.paths().iter().map(|path| read(fs, path)).collect())
    }

    fn tag(&self, spec: &Spec, disk: &Arc<Disk>) -> Option<u64> {
        let Reading::Bytes(bytes) = self.read(spec, &SimFs::new(Arc::clone(disk))) else { return None };
        whole(&bytes)
    }

    fn takes_events(&self) -> bool {
        false
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }
}

struct Running {
    spec: Spec,
    fs: SimFs,
    interval: Duration,
    latest: Stamp,
    step: Next,
    served: Option<u64>,
    number: u64,
    told: Vec<Published>,
}

impl Live for Running {
    fn next(&mut self) -> Next {
        match self.step {
            Next::Wait(Some(until)) if until > self.fs.disk().mono() => self.step,
            Next::Wait(_) => Next::Look,
            step => step,
        }
    }

    fn look(&mut self) -> u64 {
        let modified =
            self.spec.paths().iter().filter_map(|path| Some(self.fs.metadata(path).ok()?.modified)).max();
        self.step = match modified {
            Some(modified) if modified > self.latest => {
                self.latest = modified;
                Next::Read
            }
            _ => Next::Wait(Some(self.fs.disk().mono() + self.interval)),
        };
        hash(&modified)
    }

    fn read(&mut self, _: Duration, reading: &Reading) {
        self.step = Next::Wait(Some(self.fs.disk().mono() + self.interval));
        let Reading::Bytes(bytes) = reading else { return };
        // "It parses": a certificate that is cut in the middle is seen even by this one.
        let Some(tag) = whole(bytes) else { return };
        if self.served != Some(tag) {
            self.served = Some(tag);
            self.number += 1;
            self.told.push(Published { number: self.number, tag });
        }
    }

    fn judge(&mut self) {}

    fn published(&mut self) -> Vec<Published> {
        std::mem::take(&mut self.told)
    }
}

fn read(fs: &SimFs, path: &std::path::Path) -> Option<Vec<u8>> {
    let Ok(Opened::File(mut file)) = fs.open(path) else { return None };
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// What stands for these files, if each holds whole sections and no other.
fn whole(files: &[Option<Vec<u8>>]) -> Option<u64> {
    let is_whole = |file: &Option<Vec<u8>>| {
        let sections = certsource::pem::sections(file.as_deref().unwrap_or_default());
        let all: Vec<_> = sections.collect();
        !all.is_empty() && all.iter().all(Result::is_ok)
    };
    files.iter().all(is_whole).then(|| hash(&files))
}
