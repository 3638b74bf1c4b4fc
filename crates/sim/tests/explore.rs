//! Every interleaving of each writer with each detector.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod common;

use std::time::Duration;

use certsource_sim::disk::Traits;
use certsource_sim::engine::{Engine, Strategy};
use certsource_sim::explore::{Bounds, explore};
use certsource_sim::writers;

#[test]
fn trial() {
    let kit = common::kit();
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let only = env("ONLY");
    for strategy in [Strategy::Mtime, Strategy::Sha256, Strategy::Notify] {
        if !format!("{strategy:?}").contains(&env("STRAT")) {
            continue;
        }
        for case in writers::all(kit) {
            if !case.name.contains(&only) {
                continue;
            }
            let engine = Engine::new(strategy);
            let mut traits = Traits::default();
            if let Ok(tick) = env("TICK").parse() {
                traits.tick = Duration::from_millis(tick);
            }
            let mut bounds = Bounds::within(Duration::from_secs(1));
            bounds.states = env("STATES").parse().unwrap_or(20000);
            bounds.preemptions = env("PRE").parse().unwrap_or(2);
            bounds.grace = Duration::from_secs(5);
            let report = explore(&engine, &case, &traits, &bounds);
            println!("{strategy:?} {:28} states {:6} moves {:6} ends {:5} {:?} cut {}", case.name, report.states, report.moves, report.ends, report.took, report.is_cut);
            for (broken, history) in &report.broken {
                println!("{broken}\n{history}");
            }
        }
    }
}
