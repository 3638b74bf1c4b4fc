//! From a writer's last rename to the event, with file events of the operating system; and watches that get lost.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use certsource::Files;
use certsource::detect::Notify;
use certsource_bench::rounds::Sample;
use certsource_bench::row::{Row, time};
use certsource_reload::{Hub, Reloader};
use certsource_testkit::write::rename_over;
use certsource_testkit::{Ca, Issued, KubeletDir, Steps, TestDir};

/// A change that is not told by then was missed: the next to find it is the look that comes two seconds after the last
/// change, to trust its signature.
const LOST_AFTER: Duration = Duration::from_secs(1);
const FOUND_WITHIN: Duration = Duration::from_secs(90);

/// One file.
pub(crate) fn one_file(rotations: usize) -> Row {
    let dir = TestDir::new().expect("a directory");
    let path = dir.write("ca.pem", Ca::new("first").certificate_pem()).expect("a file");
    let mut watched = Watched::start(Files::trust(&path));
    let mut number = 0;
    let row = watched.measure(rotations, || {
        number += 1;
        rename_over(&path, Ca::new(&format!("ca {number}")).certificate_pem())
    });
    finish("event-file", "rename to event, notify: one file", rotations, row)
}

/// A certificate, then its key: an identity alone. With a bundle beside it, it would have to stand still first.
pub(crate) fn pair(rotations: usize) -> Row {
    let ca = Ca::new("ca");
    let dir = TestDir::new().expect("a directory");
    dir.write_issued(ca.issue("client")).expect("three files");
    let mut watched = Watched::start(Files::identity(dir.join("tls.crt"), dir.join("tls.key")));
    let row = watched.measure(rotations, || {
        let issued: Issued = ca.issue("client");
        let certificate = rename_over(dir.join("tls.crt"), issued.chain_pem());
        certificate.then(rename_over(dir.join("tls.key"), issued.key_pem()))
    });
    finish("event-pair", "rename to event, notify: certificate then key, from the second", rotations, row)
}

/// A volume whose old directory is removed, or kept.
pub(crate) fn volume(rotations: usize, is_kept: bool) -> Row {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).expect("a directory").keep_old(is_kept);
    let mut watched = Watched::start(Files::kubernetes(dir.path()));
    let row = watched.measure(rotations, || dir.swap_steps(ca.issue("client")).expect("the plan of a swap"));
    if is_kept {
        finish(
            "event-swap-kept",
            "rename to event, notify: `..data` swap, old directory kept",
            rotations,
            row,
        )
    } else {
        finish("event-swap", "rename to event, notify: `..data` swap, old directory removed", rotations, row)
    }
}

struct Watched {
    _reloader: Reloader,
    events: Receiver<Instant>,
}

struct Measured {
    latencies: Vec<f64>,
    lost: usize,
}

impl Watched {
    fn start(files: Files) -> Self {
        let (sender, events) = channel();
        let reloader = Reloader::builder(files.detect(Notify::new()))
            .hub(Hub::new())
            .on_reload(move |_| {
                // The last event may come when nobody waits any more.
                let _ = sender.send(Instant::now());
            })
            .start()
            .expect("the files load");
        events.recv_timeout(FOUND_WITHIN).expect("the first load is told");
        // Signatures are trusted after two seconds; until then looks come by themselves.
        sleep(Duration::from_secs(3));
        Self { _reloader: reloader, events }
    }

    /// Runs each writer up to and through its last rename, and takes the time from there to the event.
    fn measure(&mut self, rotations: usize, mut writer: impl FnMut() -> Steps) -> Measured {
        let (mut latencies, mut lost) = (Vec::with_capacity(rotations), 0);
        for number in 0..rotations {
            let mut steps = writer();
            let renames = steps.upcoming().filter(|name| name.starts_with("rename")).count();
            let mut seen = 0;
            loop {
                let is_rename = steps.upcoming().next().is_some_and(|name| name.starts_with("rename"));
                seen += usize::from(is_rename);
                if seen == renames {
                    break;
                }
                steps.step().expect("a writer's step");
            }
            let start = Instant::now();
            steps.step().expect("the last rename");
            steps.finish().expect("a writer's last steps");
            let told = match self.events.recv_timeout(LOST_AFTER) {
                Ok(at) => at,
                Err(RecvTimeoutError::Timeout) => {
                    lost += 1;
                    let found = self.events.recv_timeout(FOUND_WITHIN);
                    found.expect("a later look finds what a watch missed")
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the reloader is held"),
            };
            latencies.push(told.saturating_duration_since(start).as_nanos() as f64);
            // Not in step with anything, and not so fast that wake-ups are slowed down on purpose.
            sleep(Duration::from_micros(30_000 + (number as u64 * 977) % 40_000));
        }
        Measured { latencies, lost }
    }
}

fn finish(id: &'static str, what: &str, rotations: usize, measured: Measured) -> Row {
    let all = Sample::new(measured.latencies);
    let (p50, p99, lost) = (all.median(), all.quantile(0.99), measured.lost);
    Row {
        id,
        what: what.to_owned(),
        ours: format!("p50 {}, p99 {}", time(p50), time(p99)),
        bare: String::new(),
        result: format!("p50 {}, p99 {}; {lost} of {rotations} missed", time(p50), time(p99)),
        bar: "p50 ≤ 1 ms, p99 ≤ 5 ms, none missed".to_owned(),
        is_met: p50 <= 1e6 && p99 <= 5e6 && lost == 0,
        note: format!("longest {}", time(all.max())),
    }
}
