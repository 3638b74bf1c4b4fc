//! What a run counts, and whether anything grew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use certsource_bench::rounds::Sample;
use certsource_bench::usage::Usage;

/// Everything that is counted. Shared by all threads of a run.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) generations: AtomicU64,
    /// Connections to a server of a withdrawn authority, which must all be refused.
    pub(crate) refused: AtomicU64,
    pub(crate) short_lived: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    events: Mutex<BTreeMap<&'static str, u64>>,
    skipped: Mutex<BTreeMap<&'static str, String>>,
    problems: Mutex<Vec<String>>,
    adoptions: Mutex<BTreeMap<&'static str, Vec<f64>>>,
}

fn with<T, R>(mutex: &Mutex<T>, body: impl FnOnce(&mut T) -> R) -> R {
    body(&mut mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Record {
    pub(crate) fn fault(&self, name: &'static str) {
        with(&self.faults, |faults| *faults.entry(name).or_default() += 1);
    }

    pub(crate) fn event(&self, name: &'static str) {
        with(&self.events, |events| *events.entry(name).or_default() += 1);
    }

    /// Something that could not be done on this machine, and why.
    pub(crate) fn skip(&self, name: &'static str, why: &dyn std::fmt::Display) {
        with(&self.skipped, |skipped| {
            skipped.entry(name).or_insert_with(|| why.to_string());
        });
    }

    /// Something that must not happen.
    pub(crate) fn problem(&self, text: String) {
        eprintln!("PROBLEM {text}");
        with(&self.problems, |problems| problems.push(text));
    }

    pub(crate) fn adopted(&self, place: &'static str, took: Duration) {
        with(&self.adoptions, |all| all.entry(place).or_default().push(took.as_secs_f64()));
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        with(&self.problems, |problems| problems.clone())
    }

    /// The counts as Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from("| what | count |\n| --- | ---: |\n");
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (what, count) in [
            ("requests", get(&self.requests)),
            ("requests that failed, and other problems", self.problems().len() as u64),
            ("rotations (each with an overlap: two generations)", get(&self.rotations)),
            ("generations adopted", get(&self.generations)),
            ("connections to servers of a withdrawn authority, all refused", get(&self.refused)),
            ("short-lived sources and clients, made and dropped", get(&self.short_lived)),
        ] {
            let _ = writeln!(text, "| {what} | {count} |");
        }
        for (name, count) in with(&self.faults, |faults| faults.clone()) {
            let _ = writeln!(text, "| fault: {name} | {count} |");
        }
        for (name, why) in with(&self.skipped, |skipped| skipped.clone()) {
            let _ = writeln!(text, "| fault: {name} | not here: {why} |");
        }
        for (name, count) in with(&self.events, |events| events.clone()) {
            let _ = writeln!(text, "| event: {name} | {count} |");
        }
        text.push_str("\nFrom the writer's last call to adoption:\n\n| writer | adoptions | p50 | p99 | longest |\n| --- | ---: | ---: | ---: | ---: |\n");
        for (place, all) in with(&self.adoptions, |all| all.clone()) {
            let count = all.len();
            let all = Sample::new(all);
            let _ = writeln!(
                text,
                "| {place} | {count} | {:.2} s | {:.2} s | {:.2} s |",
                all.median(),
                all.quantile(0.99),
                all.max()
            );
        }
        text
    }
}

/// Something that is counted, and its name.
type Kind = (&'static str, fn(&Usage) -> usize);

/// What the process held, as time went on.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    all: Vec<(Duration, u64, Usage)>,
    /// While nothing ran.
    rests: Vec<(Duration, Usage)>,
}

impl Samples {
    pub(crate) fn push(&mut self, at: Duration, requests: u64) {
        self.all.push((at, requests, Usage::now()));
    }

    pub(crate) fn push_rest(&mut self, at: Duration, held: Usage) {
        self.rests.push((at, held));
    }

    /// What grew.
    ///
    /// Of memory the median of the second fifth of the run (the first warms up) is compared with that of the last. Of
    /// descriptors, threads and watches the most of the first third of the rests with the most of the last third: while
    /// requests run they follow the load.
    pub(crate) fn growth(&self) -> Vec<String> {
        let (fifth, third) = (self.all.len() / 5, self.rests.len() / 3);
        if fifth < 3 || third < 1 {
            return vec!["too short to tell what grows".to_owned()];
        }
        let (early, late) = (&self.all[fifth..2 * fifth], &self.all[4 * fifth..]);
        let memory = |part: &[(Duration, u64, Usage)]| {
            Sample::new(part.iter().map(|(_, _, usage)| usage.memory as f64).collect()).median()
        };
        let most = |part: &[(Duration, Usage)], of: fn(&Usage) -> usize| {
            part.iter().map(|(_, usage)| of(usage)).max().unwrap_or(0)
        };
        let (first, last) = (&self.rests[..third], &self.rests[self.rests.len() - third..]);
        let mut grown = Vec::new();
        let (before, after) = (memory(early), memory(late));
        if after > before * 1.05 + 1024.0 {
            grown.push(format!("memory from {before:.0} KiB to {after:.0} KiB"));
        }
        let kinds: [Kind; 3] = [
            ("descriptors", |usage| usage.descriptors),
            ("threads", |usage| usage.threads),
            ("watches", |usage| usage.watches),
        ];
        for (name, of) in kinds {
            let (before, after) = (most(first, of), most(last, of));
            if after > before {
                grown.push(format!("{name} at rest from {before} to {after}"));
            }
        }
        grown
    }

    /// The rests, and about twenty moments of the run, as Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from(
            "At rest, with no request and no writer at work:\n\n| minute | memory, KiB | descriptors | threads | watches |\n| ---: | ---: | ---: | ---: | ---: |\n",
        );
        for (at, usage) in &self.rests {
            let minute = at.as_secs_f64() / 60.0;
            let Usage { memory, descriptors, threads, watches } = usage;
            let _ = writeln!(text, "| {minute:.1} | {memory} | {descriptors} | {threads} | {watches} |");
        }
        text.push_str(
            "\nWhile everything ran:\n\n| minute | requests | memory, KiB | descriptors | threads | watches |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let step = self.all.len().div_ceil(20).max(1);
        let last = self.all.len().saturating_sub(1);
        for (index, (at, requests, usage)) in self.all.iter().enumerate() {
            if index % step == 0 || index == last {
                let minute = at.as_secs_f64() / 60.0;
                let Usage { memory, descriptors, threads, watches } = usage;
                let _ = writeln!(
                    text,
                    "| {minute:.1} | {requests} | {memory} | {descriptors} | {threads} | {watches} |"
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(usage: impl Fn(u64) -> Usage) -> Samples {
        let all = (0..50).map(|at| (Duration::from_secs(at), at, usage(at))).collect();
        let rests = (1..10).map(|at| (Duration::from_secs(at * 5), usage(at * 5))).collect();
        Samples { all, rests }
    }

    #[test]
    fn what_stays_or_comes_and_goes_has_not_grown() {
        let usage = |at: u64| Usage {
            memory: 20_000 + at % 7,
            descriptors: 30 + (at % 5) as usize,
            threads: 9,
            watches: 4,
        };
        assert!(samples(usage).growth().is_empty());
        let warms_up = |at: u64| Usage { memory: 20_000 + at.min(8) * 5_000, ..Usage::default() };
        assert!(samples(warms_up).growth().is_empty());
    }

    #[test]
    fn what_leaks_has_grown() {
        let leaks = |at: u64| Usage {
            memory: 20_000 + at * 100,
            descriptors: 30 + at as usize / 10,
            threads: 9,
            watches: 4,
        };
        let grown = samples(leaks).growth();
        assert_eq!(grown.len(), 2, "{grown:?}");
        assert!(grown[0].starts_with("memory") && grown[1].starts_with("descriptors"));
    }

    #[test]
    fn a_run_too_short_proves_nothing() {
        assert_eq!(Samples::default().growth().len(), 1);
    }
}
