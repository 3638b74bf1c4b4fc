//! Random histories of several writers, faults and clocks, against a model of a few lines. The properties are the
//! design's invariants, by number. `CERTSOURCE_SIM_CASES` sets the number of cases.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "only tests live here")]

mod common;

use certsource::Error;
use certsource::clock::Now;
use certsource::fs::{Fs, Stamp};
use certsource::source::{Arrival, Detector, Look};
use certsource_sim::engine::Strategy;
use certsource_sim::watches::Fate;
use common::world::{Act, Delay, Doing, Layout, Plan, run, run_with};
use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};
use proptest::strategy::{Strategy as Strategy_, ValueTree as _};
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

fn config() -> Config {
    let cases =
        std::env::var("CERTSOURCE_SIM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256);
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 3000,
        ..Config::default()
    }
}

fn delay() -> impl Strategy_<Value = Delay> {
    prop_oneof![
        4 => (0u8..40).prop_map(Delay::Accesses),
        2 => prop_oneof![Just(0u32), 1u32..2500, Just(999), Just(1001), 2500u32..13_000].prop_map(Delay::Millis),
    ]
}

fn doing() -> impl Strategy_<Value = Doing> {
    prop_oneof![
        4 => (1u8..4).prop_map(Doing::InPlace),
        2 => (1u8..4).prop_map(Doing::Uncut),
        4 => Just(Doing::Rename),
        2 => Just(Doing::UnlinkCreate),
        1 => (1u8..4).prop_map(Doing::Mapped),
        1 => Just(Doing::CopyWithOldTime),
        1 => Just(Doing::Touch),
        1 => Just(Doing::Chmod),
        1 => Just(Doing::Remove),
        1 => Just(Doing::ReplaceDirectory),
        1 => prop_oneof![Just(-3600i64), Just(-1), Just(1), Just(7), Just(3600)].prop_map(Doing::SetClock),
        2 => (0u8..6).prop_map(Doing::Fault),
        1 => Just(Doing::Mend),
    ]
}

fn plan() -> impl Strategy_<Value = Plan> {
    let act = (doing(), 0usize..5, any::<u8>(), proptest::collection::vec(delay(), 1..4));
    let act = act.prop_map(|(doing, version, order, delays)| Act { doing, version, order, delays });
    (
        prop_oneof![Just(Strategy::Mtime), Just(Strategy::Sha256), Just(Strategy::Notify)],
        prop_oneof![Just(Layout::Trust), Just(Layout::Pair), Just(Layout::Full), Just(Layout::Volume)],
        prop_oneof![Just(0u64), Just(1), Just(1000), Just(2000)],
        prop_oneof![
            3 => Just(Fate::Prompt),
            1 => Just(Fate::Late),
            1 => Just(Fate::Merged),
            1 => Just(Fate::Reordered),
            1 => Just(Fate::Overflow),
            1 => Just(Fate::Lost)
        ],
        prop_oneof![3 => Just(None), 1 => (0usize..3).prop_map(Some)],
        prop_oneof![3 => Just(usize::MAX), 1 => 100usize..700],
        proptest::collection::vec(act, 1..6),
    )
        .prop_map(|(strategy, layout, tick, fate, most_watches, read_most, acts)| Plan {
            strategy,
            layout,
            tick,
            fate,
            most_watches,
            read_most,
            acts,
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn invariants_1_to_6_hold_in_random_histories(plan in plan()) {
        let log = run(&plan);
        prop_assert!(log.broken.is_none(), "{}\n{}", log.broken.as_deref().unwrap_or_default(), log.lines.join("\n"));
    }
}

/// What people write by hand: a file is new when its modification time is later, and what is new is taken as it is.
#[derive(Default)]
struct Naive(Option<Stamp>);

impl Detector for Naive {
    fn look(&mut self, fs: &dyn Fs, paths: &[std::path::PathBuf], _: Now) -> Result<Look, Error> {
        let latest = paths.iter().filter_map(|path| Some(fs.metadata(path).ok()?.modified)).max();
        if latest.map(|at| (at.secs, at.nanos)) > self.0.map(|at| (at.secs, at.nanos)) {
            self.0 = latest;
            return Ok(Look::Changed(Arrival::Swapped));
        }
        Ok(Look::Same)
    }
}

/// The negative control: the same histories and the same properties find the faults of a naive detector. Its content is
/// parsed and its pairs are checked by the library all the same, so these are the faults that parsing can not hide.
#[test]
fn the_same_properties_find_the_faults_of_a_naive_detector() {
    let mut runner = TestRunner::deterministic();
    let mut found = std::collections::BTreeMap::<String, (usize, String)>::new();
    for _ in 0..256 {
        let plan = plan().new_tree(&mut runner).unwrap().current();
        if let Some(broken) = run_with(&plan, |files| files.detect(Naive::default())).broken {
            let number = broken.split(':').next().unwrap().to_owned();
            found.entry(number).or_insert((0, broken)).0 += 1;
        }
    }
    for (count, example) in found.values() {
        println!("naive: {count} of 256 histories: {example}");
    }
    let count = |number: &str| found.get(number).map_or(0, |(count, _)| *count);
    assert!(count("5") > 0, "content that is never served: {found:?}");
    assert!(count("6") > 0, "content that nobody meant: {found:?}");
}
