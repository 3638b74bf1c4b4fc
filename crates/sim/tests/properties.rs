//! Random histories of several writers, faults and clocks, against a model of a few lines. The properties are the
//! design's invariants, by number. `CERTSOURCE_SIM_CASES` sets the number of cases.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod common;

use certsource_sim::engine::Strategy;
use certsource_sim::watches::Fate;
use common::world::{Act, Delay, Doing, Layout, Plan, run};
use proptest::prelude::{Just, any, prop_assert, prop_oneof, proptest};
use proptest::strategy::Strategy as Strategy_;
use proptest::test_runner::{Config, FileFailurePersistence};

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
