//! The writers, each as a list of system calls: the rows of the project's list of writers that a file system of its
//! own can show. Two of them at once are in `writers/overlap.rs`. What is not here: the contents, which are handed in as
//! a [`Kit`].
//!
//! Row 18 (a bind mount of one file) is a case of rows 1 and 15, the only writers that it can see; row 19 (NFS) is
//! [`Traits`](crate::disk::Traits) with any writer; row 22 (quick succession, revert) is in
//! [`rename_thrice`] and [`update_and_revert`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use certsource::fs::Stamp;

use crate::case::{Case, create, overwrite, replace};
use crate::disk::{BEGIN, Blob, Call, Fault, errno};
use crate::subject::Spec;

mod overlap;

pub use overlap::overlapping;

/// Contents for writers: PEM text.
#[derive(Clone, Debug)]
pub struct Kit {
    /// Bundles of one anchor each, all of the same size.
    pub bundles: [Blob; 3],
    /// Certificates and their keys. The second and the third share their key; sizes are equal.
    pub pairs: [(Blob, Blob); 3],
}

impl Kit {
    /// A bundle of the second and third anchor in pieces: one, half of the other, the other half.
    fn in_pieces(&self) -> [Blob; 3] {
        let (whole, cut) = (&self.bundles[1], self.bundles[2].bytes());
        let half = cut.len() / 2;
        [whole.clone(), Blob::new(&cut[..half]), Blob::new(&cut[half..])]
    }

    fn two(&self) -> Blob {
        join(&self.in_pieces())
    }
}

/// One after the other.
pub fn join(pieces: &[Blob]) -> Blob {
    Blob::new(pieces.iter().flat_map(|piece| piece.bytes().to_vec()).collect::<Vec<_>>())
}

const CA: &str = "/etc/tls/ca.crt";
const CERT: &str = "/etc/tls/tls.crt";
const KEY: &str = "/etc/tls/tls.key";

fn trust(name: &str, kit: &Kit) -> Case {
    Case::new(name, Spec::Trust(CA.into())).with_file(CA, &kit.bundles[0]).meaning([&kit.bundles[0]])
}

fn pair(name: &str, kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[0];
    let case = Case::new(name, Spec::Pair(CERT.into(), KEY.into()));
    case.with_file(CERT, cert).with_file(KEY, key).meaning([cert, key])
}

fn full(name: &str, kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[0];
    let case = Case::new(name, Spec::Full(CA.into(), CERT.into(), KEY.into()));
    let case = case.with_file(CA, &kit.bundles[0]).with_file(CERT, cert).with_file(KEY, key);
    case.meaning([&kit.bundles[0], cert, key])
}

/// An hour before the hour before the simulation: older than all that stands there.
fn old(hours: i64) -> Stamp {
    Stamp { secs: BEGIN as i64 - 3600 * hours, nanos: 0 }
}

/// Row 1: a bundle in place, one whole certificate first.
pub fn in_place(kit: &Kit) -> Case {
    trust("1 in place", kit).then(overwrite(1, CA, &kit.in_pieces())).meaning([&kit.two()])
}

/// Row 1, without cutting the file first: the old bytes stand until they are written over.
pub fn in_place_uncut(kit: &Kit) -> Case {
    let open = Call::Open {
        fd: 1,
        path: CA.into(),
        create: false,
        exclusive: false,
        truncate: false,
        append: false,
    };
    let writes = kit.in_pieces().map(|bytes| Call::Write { fd: 1, bytes });
    trust("1 in place, uncut", kit)
        .then(std::iter::once(open).chain(writes).chain([Call::Close { fd: 1 }]))
        .meaning([&kit.two()])
}

/// Row 1: `cat a > bundle; cat b >> bundle`.
pub fn in_place_append(kit: &Kit) -> Case {
    let mut append = overwrite(2, CA, slice::from_ref(&kit.bundles[2]));
    if let Call::Open { truncate, append, .. } = &mut append[0] {
        (*truncate, *append) = (false, true);
    }
    trust("1 in place, append", kit)
        .then(overwrite(1, CA, slice::from_ref(&kit.bundles[1])))
        .then(append)
        .meaning([&join(&kit.bundles[1..])])
        .reopening()
}

/// Row 1, to a bundle that only loses a certificate.
pub fn in_place_loss(kit: &Kit) -> Case {
    let both = join(&kit.bundles[..2]);
    Case::new("1 in place, a loss", Spec::Trust(CA.into()))
        .with_file(CA, &both)
        .meaning([&both])
        .then(overwrite(1, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1]])
}

/// Row 1, to a bundle that only loses certificates, in two writes.
pub fn in_place_loss_in_pieces(kit: &Kit) -> Case {
    Case::new("1 in place, a loss in pieces", Spec::Trust(CA.into()))
        .with_file(CA, &join(&kit.bundles))
        .meaning([&join(&kit.bundles)])
        .then(overwrite(1, CA, &kit.bundles[..2]))
        .meaning([&join(&kit.bundles[..2])])
}

/// Row 2: `cp -p` of an older file.
pub fn in_place_backwards(kit: &Kit) -> Case {
    trust("2 cp -p", kit)
        .then(overwrite(1, CA, slice::from_ref(&kit.bundles[1])))
        .then([Call::SetModified(CA.into(), Some(old(24)))])
        .meaning([&kit.bundles[1]])
}

/// Row 3: a file renamed over, twice, back to back, with the same size; the inode's number is used again.
pub fn rename_twice(kit: &Kit) -> Case {
    trust("3 rename, twice", kit)
        .then(replace(1, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1]])
        .then_lingering(replace(2, CA, slice::from_ref(&kit.bundles[2])))
        .meaning([&kit.bundles[2]])
}

/// Row 22: three updates by rename in quick succession.
pub fn rename_thrice(kit: &Kit) -> Case {
    let mut case = trust("22 rename, thrice", kit);
    for (number, bundle) in [&kit.bundles[1], &kit.bundles[2], &kit.two()].into_iter().enumerate() {
        case = case.then(replace(number as u32, CA, slice::from_ref(bundle))).meaning([bundle]);
    }
    case
}

/// Row 22: an update and its revert, in place.
pub fn update_and_revert(kit: &Kit) -> Case {
    trust("22 update and revert", kit)
        .then(overwrite(1, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1]])
        .then(overwrite(2, CA, slice::from_ref(&kit.bundles[0])))
        .meaning([&kit.bundles[0]])
        .reopening()
}

/// Row 4: `mv` across file systems; row 5: `install`, `tar x`, with a mode and an old time.
pub fn unlink_and_create(kit: &Kit) -> Case {
    let mut calls = create(1, CA, &kit.in_pieces());
    calls.insert(0, Call::Unlink(CA.into()));
    calls.extend([Call::Chmod(CA.into(), 0o644), Call::SetModified(CA.into(), Some(old(24)))]);
    trust("5 unlink, create", kit).then(calls).meaning([&kit.two()])
}

/// Row 7: `sed -i.bak`.
pub fn rename_with_backup(kit: &Kit) -> Case {
    let mut calls = create(1, "/etc/tls/new", slice::from_ref(&kit.bundles[1]));
    calls.push(Call::Rename(CA.into(), "/etc/tls/ca.crt.bak".into()));
    calls.push(Call::Rename("/etc/tls/new".into(), CA.into()));
    trust("7 rename with backup", kit).then(calls).meaning([&kit.bundles[1]])
}

/// Row 8: a hard link as backup, then a rename.
pub fn link_with_backup(kit: &Kit) -> Case {
    let link = Call::Link(CA.into(), "/etc/tls/ca.crt.bak".into());
    let case = trust("8 link as backup", kit).then([link]);
    case.then(replace(1, CA, slice::from_ref(&kit.bundles[1]))).meaning([&kit.bundles[1]])
}

/// Row 9: `ln -sf` between files with equal times.
pub fn flip_link(kit: &Kit) -> Case {
    Case::new("9 ln -sf", Spec::Trust(CA.into()))
        .with_file("/etc/tls/one", &kit.bundles[0])
        .with_file("/etc/tls/two", &kit.bundles[1])
        .with_setup([Call::Symlink("one".into(), CA.into())])
        .meaning([&kit.bundles[0]])
        .then([
            Call::Symlink("two".into(), "/etc/tls/tmp".into()),
            Call::Rename("/etc/tls/tmp".into(), CA.into()),
        ])
        .meaning([&kit.bundles[1]])
}

/// Row 10: the kubelet, `swaps` times; the old directory goes, or stays.
pub fn kubelet(kit: &Kit, swaps: usize, keeps_old: bool) -> Case {
    let files = |number: usize| {
        let (cert, key) = &kit.pairs[number % 3];
        [("ca.crt", kit.bundles[number % 3].clone()), ("tls.crt", cert.clone()), ("tls.key", key.clone())]
    };
    let version = |number: usize| format!("/etc/tls/..v{number}");
    let write = |number: usize| {
        let mut calls = vec![Call::Mkdir(version(number).into())];
        for (fd, (name, bytes)) in files(number).into_iter().enumerate() {
            calls.extend(create(fd as u32, &format!("{}/{name}", version(number)), &[bytes]));
        }
        calls.push(Call::Symlink(format!("..v{number}").into(), "/etc/tls/..data_tmp".into()));
        calls.push(Call::Rename("/etc/tls/..data_tmp".into(), "/etc/tls/..data".into()));
        calls
    };
    let links = files(0)
        .map(|(name, _)| Call::Symlink(format!("..data/{name}").into(), format!("/etc/tls/{name}").into()));
    let kept = if keeps_old { ", old kept" } else { "" };
    let contents = |number: usize| files(number).map(|(_, bytes)| bytes);
    let mut case = Case::new(&format!("10 kubelet{kept}"), Spec::Full(CA.into(), CERT.into(), KEY.into()))
        .with_setup(write(0))
        .with_setup(links)
        .meaning(contents(0).iter());
    for number in 1..=swaps {
        case = case.then_lingering(write(number)).meaning(contents(number).iter());
        if !keeps_old {
            let old = version(number - 1);
            let files = files(0).map(|(name, _)| Call::Unlink(format!("{old}/{name}").into()));
            case = case.then_lingering(files.into_iter().chain([Call::Rmdir(old.into())]));
        }
    }
    case
}

/// Row 11: certbot, which flips the links of its `live` directory one by one.
pub fn certbot(kit: &Kit) -> Case {
    let names = ["fullchain", "privkey"];
    let archive = |name: &str, number: usize| format!("/etc/tls/archive/{name}{number}.pem");
    let live = |name: &str| format!("/etc/tls/live/{name}.pem");
    let write = |number: usize| {
        let (cert, key) = kit.pairs[number - 1].clone();
        let mut calls = create(1, &archive("privkey", number), &[key]);
        calls.extend(create(2, &archive("fullchain", number), &[cert]));
        calls
    };
    let link = |name: &str, number: usize| {
        Call::Symlink(format!("../archive/{name}{number}.pem").into(), live(name).into())
    };
    let (old, new) = (&kit.pairs[0], &kit.pairs[1]);
    Case::new("11 certbot", Spec::Pair(live("fullchain").into(), live("privkey").into()))
        .with_setup([Call::Mkdir("/etc/tls/archive".into()), Call::Mkdir("/etc/tls/live".into())])
        .with_setup(write(1))
        .with_setup(names.map(|name| link(name, 1)))
        .meaning([&old.0, &old.1])
        .then(write(2))
        // The links to the certificate alone and to the chain are others, and between these two.
        .then([Call::Unlink(live("privkey").into())])
        .then_lingering([link("privkey", 2), Call::Unlink(live("fullchain").into()), link("fullchain", 2)])
        .meaning([&new.0, &new.1])
}

/// Row 12: an agent that renders each file by itself, seconds apart.
pub fn agent(kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[1];
    pair("12 agent, per file", kit)
        .then(replace(1, CERT, slice::from_ref(cert)))
        .then_lingering(replace(2, KEY, slice::from_ref(key)))
        .meaning([cert, key])
}

/// Row 12, with a bundle too, each within the settle time of the one before.
pub fn agent_full(kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[1];
    full("12 agent, three files", kit)
        .then(replace(1, CERT, slice::from_ref(cert)))
        .then(replace(2, KEY, slice::from_ref(key)))
        .then(replace(3, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1], cert, key])
}

/// Row 12, where the new certificate has the old key: the pair that stands between matches.
pub fn agent_same_key(kit: &Kit) -> Case {
    let (old, new) = (&kit.pairs[1], &kit.pairs[2]);
    let case = Case::new("12 agent, same key", Spec::Full(CA.into(), CERT.into(), KEY.into()));
    case.with_file(CA, &kit.bundles[0])
        .with_file(CERT, &old.0)
        .with_file(KEY, &old.1)
        .meaning([&kit.bundles[0], &old.0, &old.1])
        .then(replace(1, CERT, slice::from_ref(&new.0)))
        .then(replace(3, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1], &new.0, &new.1])
}

/// Row 13: certificate, key and bundle in place, one after the other.
pub fn in_place_full(kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[1];
    full("13 in place, three files", kit)
        .then(overwrite(1, CERT, slice::from_ref(cert)))
        .then(overwrite(2, KEY, slice::from_ref(key)))
        .then(overwrite(3, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1], cert, key])
}

/// Row 13, where the new certificate has the old key, which is written again all the same.
pub fn in_place_same_key(kit: &Kit) -> Case {
    let (old, new) = (&kit.pairs[1], &kit.pairs[2]);
    Case::new("13 in place, same key", Spec::Full(CA.into(), CERT.into(), KEY.into()))
        .with_file(CA, &kit.bundles[0])
        .with_file(CERT, &old.0)
        .with_file(KEY, &old.1)
        .meaning([&kit.bundles[0], &old.0, &old.1])
        .then(overwrite(1, CERT, slice::from_ref(&new.0)))
        .then(overwrite(2, KEY, slice::from_ref(&new.1)))
        .then(overwrite(3, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1], &new.0, &new.1])
}

/// Row 14: the same bytes again, a touch, a chmod.
pub fn same_again(kit: &Kit) -> Case {
    trust("14 the same again", kit)
        .then(overwrite(1, CA, slice::from_ref(&kit.bundles[0])))
        .then([Call::SetModified(CA.into(), None), Call::Chmod(CA.into(), 0o640)])
        .then(replace(2, CA, slice::from_ref(&kit.bundles[0])))
        .reopening()
}

/// Row 15: stores through a mapping, of which the first moves time stamps.
pub fn mapped(kit: &Kit) -> Case {
    let new = kit.bundles[1].bytes();
    let third = new.len() / 3;
    let open = Call::Open {
        fd: 1,
        path: CA.into(),
        create: false,
        exclusive: false,
        truncate: false,
        append: false,
    };
    let store = |from: usize, to: usize| Call::Store { fd: 1, at: from, bytes: Blob::new(&new[from..to]) };
    trust("15 mmap", kit)
        .then([open, store(0, third), store(third, 2 * third), store(2 * third, new.len())])
        .then([Call::Close { fd: 1 }])
        .meaning([&kit.bundles[1]])
}

/// Row 16: the whole directory is renamed away and another takes its place.
pub fn replace_directory(kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[1];
    let case = full("16 directory replaced", kit).then([Call::Mkdir("/etc/new".into())]);
    case.then(create(1, "/etc/new/ca.crt", slice::from_ref(&kit.bundles[1])))
        .then(create(2, "/etc/new/tls.crt", slice::from_ref(cert)))
        .then(create(3, "/etc/new/tls.key", slice::from_ref(key)))
        .then([Call::Rename("/etc/tls".into(), "/etc/old".into())])
        .then_lingering([Call::Rename("/etc/new".into(), "/etc/tls".into())])
        .meaning([&kit.bundles[1], cert, key])
}

/// Row 16: `rm -r`, then all anew.
pub fn rebuild_directory(kit: &Kit) -> Case {
    let (cert, key) = &kit.pairs[1];
    pair("16 directory rebuilt", kit)
        .then([Call::Unlink(CERT.into()), Call::Unlink(KEY.into())])
        .then_lingering([Call::Rmdir("/etc/tls".into()), Call::Mkdir("/etc/tls".into())])
        .then_lingering(create(2, CERT, slice::from_ref(cert)))
        .then_lingering(create(3, KEY, slice::from_ref(key)))
        .meaning([cert, key])
}

/// Row 17: a link two levels up is pointed elsewhere.
pub fn flip_directory_link(kit: &Kit) -> Case {
    let (old, new) = (&kit.pairs[0], &kit.pairs[1]);
    let paths = ["/srv/now/tls/tls.crt", "/srv/now/tls/tls.key"].map(PathBuf::from);
    let [cert, key] = paths;
    let mut case =
        Case::new("17 link above re-pointed", Spec::Pair(cert, key)).with_setup([Call::Mkdir("/srv".into())]);
    for (name, pair) in [("a", old), ("b", new)] {
        let dir = format!("/srv/{name}");
        case = case
            .with_setup([Call::Mkdir(dir.clone().into()), Call::Mkdir(format!("{dir}/tls").into())])
            .with_file(&format!("{dir}/tls/tls.crt"), &pair.0)
            .with_file(&format!("{dir}/tls/tls.key"), &pair.1);
    }
    case.with_setup([Call::Symlink("a".into(), "/srv/now".into())])
        .meaning([&old.0, &old.1])
        .then([
            Call::Symlink("b".into(), "/srv/tmp".into()),
            Call::Rename("/srv/tmp".into(), "/srv/now".into()),
        ])
        .meaning([&new.0, &new.1])
}

/// Row 20: nothing there at the beginning, not even the directory; then it appears.
pub fn appears(kit: &Kit) -> Case {
    let mut case = Case::new("20 appears later", Spec::Trust("/etc/tls/late/ca.crt".into()));
    case.versions.push(vec![None]);
    case.then([Call::Mkdir("/etc/tls/late".into())])
        .then_lingering(create(1, "/etc/tls/late/ca.crt", &kit.in_pieces()[..1]))
        .meaning([&kit.bundles[1]])
}

/// Row 20: removed, and back after a while with other content.
pub fn goes_and_comes(kit: &Kit) -> Case {
    let mut calls = create(1, CA, &kit.in_pieces()).into_iter();
    trust("20 goes and comes", kit)
        .then([Call::Unlink(CA.into())])
        .then_lingering(calls.by_ref().take(1))
        .then(calls)
        .meaning([&kit.two()])
}

/// Row 21: no permission, an input error, no descriptor left; meanwhile a new version comes.
pub fn faults(kit: &Kit) -> Case {
    let name = Some(OsString::from("ca.crt"));
    trust("21 faults", kit)
        .then([Call::Break(name.clone(), Fault::Open(errno::EACCES))])
        .then_lingering(replace(1, CA, slice::from_ref(&kit.bundles[1])))
        .then_lingering([
            Call::Break(name.clone(), Fault::Read(errno::EIO)),
            Call::Mend(name),
            Call::Break(None, Fault::Open(errno::EMFILE)),
            Call::Mend(None),
        ])
        .meaning([&kit.bundles[1]])
}

/// Row 21: opening hangs for longer than an engine waits; meanwhile a new version comes.
pub fn hangs(kit: &Kit) -> Case {
    hangs_at("21 hangs", Fault::Hang(HANG), kit)
}

/// The same, where `stat` hangs.
pub fn hangs_looking(kit: &Kit) -> Case {
    hangs_at("21 hangs, stat", Fault::HangLook(HANG), kit)
}

/// The same, where `read` hangs.
pub fn hangs_reading(kit: &Kit) -> Case {
    hangs_at("21 hangs, read", Fault::HangRead(HANG), kit)
}

/// Longer than an engine waits.
const HANG: Duration = Duration::from_secs(30);

fn hangs_at(name: &str, hang: Fault, kit: &Kit) -> Case {
    let file = Some(OsString::from("ca.crt"));
    trust(name, kit)
        .then([Call::Break(file.clone(), hang)])
        .then_lingering(replace(1, CA, slice::from_ref(&kit.bundles[1])))
        .then_lingering([Call::Mend(file)])
        .meaning([&kit.bundles[1]])
}

/// Row 23: the clock is set back to before the file was written, and the file is written anew with the same size.
pub fn clock_back(kit: &Kit) -> Case {
    trust("23 clock set back", kit)
        .then([Call::SetClock(-7200)])
        .then_lingering(overwrite(1, CA, slice::from_ref(&kit.bundles[1])))
        .meaning([&kit.bundles[1]])
}

/// Row 23: the clock jumps forward in the middle of a write.
pub fn clock_forward(kit: &Kit) -> Case {
    let mut calls = overwrite(1, CA, &kit.in_pieces());
    calls.insert(2, Call::SetClock(3600));
    trust("23 clock jumps forward", kit).then(calls).meaning([&kit.two()])
}

/// All of them.
pub fn all(kit: &Kit) -> Vec<Case> {
    vec![
        in_place(kit),
        in_place_uncut(kit),
        in_place_append(kit),
        in_place_loss(kit),
        in_place_backwards(kit),
        rename_twice(kit),
        rename_thrice(kit),
        update_and_revert(kit),
        unlink_and_create(kit),
        rename_with_backup(kit),
        link_with_backup(kit),
        flip_link(kit),
        kubelet(kit, 2, false),
        kubelet(kit, 2, true),
        certbot(kit),
        agent(kit),
        agent_full(kit),
        agent_same_key(kit),
        in_place_full(kit),
        same_again(kit),
        mapped(kit),
        replace_directory(kit),
        rebuild_directory(kit),
        flip_directory_link(kit),
        appears(kit),
        goes_and_comes(kit),
        faults(kit),
        hangs(kit),
        hangs_looking(kit),
        hangs_reading(kit),
        clock_back(kit),
        clock_forward(kit),
    ]
}
