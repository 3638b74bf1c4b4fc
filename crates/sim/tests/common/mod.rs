//! What the tests share: contents, minted once for each process.
#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod acts;
pub(crate) mod model;
pub(crate) mod overlap;
pub(crate) mod world;

use std::sync::OnceLock;
use std::time::Duration;

use certsource_sim::case::Case;
use certsource_sim::disk::{Blob, Traits, wall};
use certsource_sim::explore::{Bounds, Report, explore};
use certsource_sim::subject::Subject;
use certsource_sim::writers::Kit;
use certsource_testkit::{Ca, Issued};

/// Contents for writers.
pub(crate) fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let (before, after) = (wall(Duration::ZERO) - 1000 * DAY, wall(Duration::ZERO) + 1000 * DAY);
        let ca = |name: &str| Ca::builder(name).not_before(before).not_after(after).build();
        let cas = ["a", "b", "c"].map(ca);
        let leaf = |name: &str| cas[0].leaf(name).not_before(before).not_after(after);
        let one = leaf("one").issue();
        let two = leaf("two").issue();
        let three = leaf("six").with_key_of(&two).issue();
        let bundles = even(cas.each_ref().map(Ca::certificate_pem));
        let certs = even([&one, &two, &three].map(Issued::leaf_pem));
        let keys = even([&one, &two, &three].map(Issued::key_pem));
        let [k0, k1, k2] = keys;
        let [c0, c1, c2] = certs;
        Kit { bundles, pairs: [(c0, k0), (c1, k1), (c2, k2)] }
    })
}

const DAY: Duration = Duration::from_secs(86_400);

/// Explores, and what is cut before an end was reached once more with the newest state first: so ends are reached with few
/// states.
pub(crate) fn explore_to_ends(
    subject: &dyn Subject,
    case: &Case,
    traits: &Traits,
    bounds: &Bounds,
) -> Vec<Report> {
    let mut reports = vec![explore(subject, case, traits, bounds)];
    if reports[0].is_cut && reports[0].ends == 0 && !bounds.deep {
        // So a state is cheap: its reader is mostly at hand.
        let (states, moves) = (bounds.states.max(1_000), bounds.moves.max(2_000));
        reports.push(explore(subject, case, traits, &Bounds { deep: true, states, moves, ..bounds.clone() }));
    }
    reports
}

/// The same texts with equal sizes, so that no size tells them apart.
fn even<const N: usize>(texts: [String; N]) -> [Blob; N] {
    let size = texts.iter().map(String::len).max().unwrap();
    texts.map(|text| Blob::new(format!("{text}{}", "\n".repeat(size - text.len())).into_bytes()))
}
