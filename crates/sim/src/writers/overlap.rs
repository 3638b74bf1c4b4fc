//! Two writers at once: every order in which the calls of one can fall between those of the other, as a case of its own.
//!
//! Neither knows of the other, and each means what it writes. So what is meant is: in every file one of the contents that
//! somebody meant for it, and a certificate with its key.

use super::{CA, CERT, KEY, Kit, full, kubelet, pair, trust};
use crate::case::{Case, create, overwrite};
use crate::disk::{Blob, Call, Traits};

/// A pair of writers over the files of `scene`, with what each file may hold.
struct Two {
    scene: Case,
    one: Vec<Call>,
    other: Vec<Call>,
    /// For each path.
    meant: Vec<Vec<Blob>>,
}

/// All orders of all pairs of writers.
pub fn overlapping(kit: &Kit) -> Vec<Case> {
    let pairs = [
        renames_of_one_file(kit),
        in_place_under_a_rename(kit),
        both_in_place(kit),
        unlinked_and_in_place(kit),
        pairs_by_renames(kit),
        an_agent_and_a_bundle(kit),
        two_kubelets(kit),
    ];
    pairs.iter().flat_map(Two::cases).collect()
}

/// The same file, renamed into place by both.
fn renames_of_one_file(kit: &Kit) -> Two {
    let scene = trust("two renames", kit)
        .with_setup(create(1, "/etc/tls/one", &[kit.bundles[1].clone()]))
        .with_setup(create(2, "/etc/tls/two", &[kit.two()]));
    Two {
        scene,
        one: vec![Call::Rename("/etc/tls/one".into(), CA.into())],
        other: vec![Call::Rename("/etc/tls/two".into(), CA.into())],
        meant: vec![vec![kit.bundles[0].clone(), kit.bundles[1].clone(), kit.two()]],
    }
}

/// One writes a bundle in place, piece by piece; the other renames its own over that.
fn in_place_under_a_rename(kit: &Kit) -> Two {
    let scene = trust("in place under a rename", kit)
        .with_setup(create(2, "/etc/tls/two", &[kit.bundles[0].clone()]))
        .reopening();
    Two {
        scene,
        one: overwrite(1, CA, &kit.in_pieces()),
        other: vec![Call::Rename("/etc/tls/two".into(), CA.into())],
        meant: vec![vec![kit.bundles[0].clone(), kit.two()]],
    }
}

/// Both in place, in one piece each.
fn both_in_place(kit: &Kit) -> Two {
    Two {
        scene: trust("both in place", kit).reopening(),
        one: overwrite(1, CA, &[kit.bundles[1].clone()]),
        other: overwrite(2, CA, &[kit.bundles[2].clone()]),
        meant: vec![kit.bundles.to_vec()],
    }
}

/// One removes the file and makes it anew, the other writes in place.
fn unlinked_and_in_place(kit: &Kit) -> Two {
    let mut one = vec![Call::Unlink(CA.into())];
    one.extend(create(1, CA, &[kit.bundles[1].clone()]));
    Two {
        scene: trust("unlinked and in place", kit).reopening(),
        one,
        other: overwrite(2, CA, &[kit.bundles[2].clone()]),
        meant: vec![kit.bundles.to_vec()],
    }
}

/// Certificate and key by renames, by both. Their keys are equal, so that each of the mixtures is a pair.
fn pairs_by_renames(kit: &Kit) -> Two {
    let mut scene = pair("two agents", kit);
    for (number, (cert, key)) in kit.pairs[1..].iter().enumerate() {
        scene = scene
            .with_setup(create(1, &format!("/etc/tls/cert{number}"), std::slice::from_ref(cert)))
            .with_setup(create(2, &format!("/etc/tls/key{number}"), std::slice::from_ref(key)));
    }
    let renames = |number: usize| {
        [(format!("/etc/tls/cert{number}"), CERT), (format!("/etc/tls/key{number}"), KEY)]
            .map(|(from, to)| Call::Rename(from.into(), to.into()))
            .to_vec()
    };
    let meant = |of: fn(&(Blob, Blob)) -> Blob| kit.pairs.iter().map(of).collect();
    Two {
        scene,
        one: renames(0),
        other: renames(1),
        meant: vec![meant(|p| p.0.clone()), meant(|p| p.1.clone())],
    }
}

/// One renews the pair by renames, the other writes the bundle in place.
fn an_agent_and_a_bundle(kit: &Kit) -> Two {
    let (cert, key) = &kit.pairs[1];
    let scene = full("an agent and a bundle", kit)
        .with_setup(create(1, "/etc/tls/cert", std::slice::from_ref(cert)))
        .with_setup(create(2, "/etc/tls/key", std::slice::from_ref(key)));
    Two {
        scene,
        one: vec![
            Call::Rename("/etc/tls/cert".into(), CERT.into()),
            Call::Rename("/etc/tls/key".into(), KEY.into()),
        ],
        other: overwrite(3, CA, &kit.in_pieces()),
        meant: vec![
            vec![kit.bundles[0].clone(), kit.two()],
            vec![kit.pairs[0].0.clone(), cert.clone()],
            vec![kit.pairs[0].1.clone(), key.clone()],
        ],
    }
}

/// Two volumes' worth of versions below one link, swapped by both; one removes the first version afterwards.
fn two_kubelets(kit: &Kit) -> Two {
    let mut scene = kubelet(kit, 0, false);
    scene.name = "two kubelets".to_owned();
    for number in 1..3 {
        let (dir, (cert, key)) = (format!("/etc/tls/..v{number}"), &kit.pairs[number]);
        scene = scene.with_setup([Call::Mkdir(dir.clone().into())]);
        for (name, blob) in [("ca.crt", &kit.bundles[number]), ("tls.crt", cert), ("tls.key", key)] {
            scene = scene.with_setup(create(1, &format!("{dir}/{name}"), std::slice::from_ref(blob)));
        }
        let (target, link) = (format!("..v{number}"), format!("/etc/tls/..data_tmp{number}"));
        scene = scene.with_setup([Call::Symlink(target.into(), link.into())]);
    }
    let swap =
        |number: usize| Call::Rename(format!("/etc/tls/..data_tmp{number}").into(), "/etc/tls/..data".into());
    let mut one = vec![swap(1)];
    one.extend(
        ["ca.crt", "tls.crt", "tls.key"].map(|name| Call::Unlink(format!("/etc/tls/..v0/{name}").into())),
    );
    one.push(Call::Rmdir("/etc/tls/..v0".into()));
    let pairs = |of: fn(&(Blob, Blob)) -> Blob| kit.pairs.iter().map(of).collect();
    Two {
        scene,
        one,
        other: vec![swap(2)],
        meant: vec![kit.bundles.to_vec(), pairs(|p| p.0.clone()), pairs(|p| p.1.clone())],
    }
}

impl Two {
    /// A case for each order. Those that end with something that nobody meant are left out, and those in which a call
    /// fails, as when one writer took away the file of the other.
    fn cases(&self) -> Vec<Case> {
        let mut orders = Vec::new();
        merge(&self.one, &self.other, &mut Vec::new(), &mut orders);
        let cases = orders.into_iter().enumerate().filter_map(|(number, calls)| self.case(number, calls));
        let cases: Vec<Case> = cases.collect();
        assert!(!cases.is_empty(), "{}: no order is possible", self.scene.name);
        cases
    }

    fn case(&self, number: usize, calls: Vec<Call>) -> Option<Case> {
        let mut case = self.scene.clone();
        case.name = format!("{} {number}", case.name);
        let paths = case.paths();
        let mut disk = (*case.disk(Traits::default())).clone();
        let mut ends_meant = false;
        for call in &calls {
            disk.call(call).ok()?;
            let visible = disk.visible(&paths);
            ends_meant = self.is_meant(&visible);
            if ends_meant && !case.versions.contains(&visible) {
                case.versions.push(visible);
            }
        }
        ends_meant.then(|| case.then(calls))
    }

    fn is_meant(&self, visible: &[Option<Blob>]) -> bool {
        let is_whole = |(blob, meant): (&Option<Blob>, &Vec<Blob>)| {
            blob.as_ref().is_some_and(|blob| meant.contains(blob))
        };
        if !visible.iter().zip(&self.meant).all(is_whole) {
            return false;
        }
        // The last two are a certificate and its key: the first pair is alone, the others share theirs.
        let [.., cert, key] = visible else { return true };
        let is_first = |blob: &Option<Blob>, meant: &Vec<Blob>| blob.as_ref() == meant.first();
        let [.., certs, keys] = &self.meant[..] else { return true };
        is_first(cert, certs) == is_first(key, keys)
    }
}

/// Every order of two lists that keeps the order of each.
fn merge(one: &[Call], other: &[Call], so_far: &mut Vec<Call>, all: &mut Vec<Vec<Call>>) {
    if one.is_empty() && other.is_empty() {
        all.push(so_far.clone());
    }
    for (from, rest) in [(one, other), (other, one)] {
        if let [first, after @ ..] = from {
            so_far.push(first.clone());
            merge(after, rest, so_far, all);
            so_far.pop();
        }
    }
}
