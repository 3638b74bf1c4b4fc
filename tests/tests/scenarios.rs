//! What happens to files, by the number of the scenario, and what the
//! next connection then does, on certsource with both polling detectors, and on the forty lines that people write by
//! hand: those must fail it, for the reason that stands beside it. The numbers are those of docs/SCENARIOS.md.
//! Real files, the system calls of real writers, handshakes in memory, simulated time: nothing here waits.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use certsource::{Reason, detect};
use certsource_testkit::{AgentFiles, Ca, Issued, KubeletDir, TestDir, write};
use certsource_tests::follower::{ByHand, Certsource, Follower, Paths};
use certsource_tests::peer::{Met, Peer};

/// Makes a follower of these paths.
type Make<'a> = &'a dyn Fn(Paths) -> Box<dyn Follower>;
/// Why a follower failed a scenario.
type Outcome = Result<(), String>;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// The default.
const INTERVAL: Duration = Duration::from_secs(10);
/// An interval, its jitter, the longest settling, and a little.
const SETTLED: Duration = Duration::from_secs(18);

macro_rules! scenarios {
    ($($name:ident: by hand $by_hand:literal;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn by_mtime() {
                super::$name(&|paths| Box::new(Certsource::new(&paths, detect::Mtime::new()))).unwrap();
            }

            #[test]
            fn by_sha256() {
                super::$name(&|paths| Box::new(Certsource::new(&paths, detect::Sha256::new()))).unwrap();
            }

            #[test]
            fn by_hand_fails() {
                let why = super::$name(&|paths| Box::new(ByHand::new(&paths))).expect_err("it tests something");
                assert!(why.contains($by_hand), "it fails for another reason: {why}");
            }
        }
    )*};
}

macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

scenarios! {
    scenario_02_a_removed_ca_is_refused: by hand "the removed CA is accepted, resumed: true";
    scenario_04_a_bundle_cut_inside_a_block: by hand "B is refused while the bundle is cut";
    scenario_04_a_bundle_cut_between_blocks_by_a_writer_at_work: by hand "B is refused while the bundle is written";
    scenario_05_empty_then_full: by hand "A is refused while the bundle is empty";
    scenario_06_garbage: by hand "A is refused while the bundle is garbage";
    scenario_07_removed_and_back: by hand "B is refused after the file is back";
    scenario_09_same_size_and_time: by hand "B is refused after the change";
    scenario_10_kubelet_swaps: by hand "swap 1 (old directory removed): the old identity is shown";
    scenario_11_a_link_to_a_target_that_stays: by hand "B is refused after the link was turned";
    scenario_12_certificate_then_key: by hand "a handshake fails between certificate and key";
    scenario_13_renewed_with_the_same_key: by hand "the old certificate is shown";
    scenario_14_the_intermediate_changed: by hand "the old intermediate is shown";
    scenario_19_ca_and_identity_in_one_swap: by hand "neither generation is served";
    scenario_20_touched_and_rewritten: by hand "touch is a new generation";
    scenario_22_three_updates_in_a_row: by hand "an update that was taken back is a new generation";
    scenario_23_an_expired_candidate: by hand "the expired certificate is in use";
    scenario_24_a_read_error_that_is_over_soon: by hand "B is refused a second after the file is readable";
    scenario_32_a_withdrawal_while_the_identity_is_broken: by hand "the removed CA is accepted, resumed: true";
    scenario_33_names_with_escape_codes: by hand "a name is shown as it is";
}

fn scenario_02_a_removed_ca_is_refused(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a, &b]);
    let mut follower = make(bundle.paths(INTERVAL));
    let server = Peer::new(&a.issue("localhost"), &[]);
    server.meet(&follower.config())?;
    ensure!(server.meet(&follower.config())?.resumed, "no session is resumed, so this tests little");
    bundle.write(&[&b]);
    follower.pass(SETTLED);
    refused_for_good(&*follower, &server)
}

fn scenario_04_a_bundle_cut_inside_a_block(make: Make<'_>) -> Outcome {
    let [a, b, c] = ["A", "B", "C"].map(Ca::new);
    let bundle = Bundle::new(&[&a, &b]);
    let mut follower = make(bundle.paths(INTERVAL));
    let mut steps = write::in_place(bundle.path(), pem(&[&a, &b, &c]), 2);
    steps.run_through("write ca.pem 1/2").unwrap();
    // The writer has died. Half of three blocks ends inside the second.
    for _ in 0..60 {
        follower.pass(SECOND);
        ensure!(accepts(&*follower, &a), "A is refused while the bundle is cut");
        ensure!(accepts(&*follower, &b), "B is refused while the bundle is cut");
    }
    ensure!(follower.told() == [Reason::Malformed], "{:?} was told", follower.told());
    steps.finish().unwrap();
    follower.pass(SETTLED);
    ensure!(accepts(&*follower, &c), "C is refused after the writer is done");
    Ok(())
}

fn scenario_04_a_bundle_cut_between_blocks_by_a_writer_at_work(make: Make<'_>) -> Outcome {
    let [a, b, c] = ["A", "B", "C"].map(Ca::new);
    let bundle = Bundle::new(&[&a, &b]);
    let mut follower = make(bundle.paths(SECOND));
    // The writer pauses for three seconds between two blocks: what is there is whole, and holds less.
    bundle.write(&[&a]);
    for _ in 0..30 {
        follower.pass(100 * MILLISECOND);
        ensure!(accepts(&*follower, &b), "B is refused while the bundle is written");
    }
    bundle.write(&[&a, &b, &c]);
    follower.pass(SETTLED);
    for ca in [&a, &b, &c] {
        ensure!(accepts(&*follower, ca), "{} is refused after the writer is done", ca.name());
    }
    ensure!(follower.reloads() == 1, "{} generations came of one change", follower.reloads());
    Ok(())
}

fn scenario_05_empty_then_full(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let mut follower = make(bundle.paths(INTERVAL));
    let mut steps = write::in_place(bundle.path(), pem(&[&b]), 1);
    steps.run_through("truncate").unwrap();
    for _ in 0..60 {
        follower.pass(SECOND);
        ensure!(accepts(&*follower, &a), "A is refused while the bundle is empty");
    }
    ensure!(follower.told() == [Reason::Empty], "{:?} was told", follower.told());
    steps.finish().unwrap();
    follower.pass(SETTLED);
    ensure!(accepts(&*follower, &b) && !accepts(&*follower, &a), "the full bundle is not in use");
    ensure!(!follower.is_failing(), "still failing");
    Ok(())
}

fn scenario_06_garbage(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let good = pem(&[&b]);
    let kinds: [(&str, Vec<u8>, Reason); 5] = [
        ("noise", (0..2000_u32).map(|n| (n * 167 % 251) as u8).collect(), Reason::Malformed),
        ("a page of a proxy", b"<html><body>502 Bad Gateway</body></html>\n".to_vec(), Reason::Malformed),
        ("base64 that is none", good.replacen('M', "!", 1).into_bytes(), Reason::Malformed),
        ("no certificate in the block", good.replacen("MII", "AAA", 1).into_bytes(), Reason::Malformed),
        ("a key", a.issue("a").key_pem().into_bytes(), Reason::Empty),
    ];
    for (kind, content, reason) in kinds {
        let bundle = Bundle::new(&[&a]);
        let mut follower = make(bundle.paths(INTERVAL));
        fs::write(bundle.path(), content).unwrap();
        for _ in 0..30 {
            follower.pass(SECOND);
            ensure!(accepts(&*follower, &a), "A is refused while the bundle is garbage: {kind}");
        }
        ensure!(follower.told() == [reason], "{kind}: {:?} was told", follower.told());
        ensure!(follower.is_failing() && follower.reloads() == 0, "{kind}: taken");
        bundle.write(&[&b]);
        follower.pass(2 * INTERVAL + SETTLED);
        ensure!(accepts(&*follower, &b), "{kind}: B is refused after the repair");
    }
    Ok(())
}

fn scenario_07_removed_and_back(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let mut follower = make(bundle.paths(SECOND));
    // What comes back is a file that was made before the one that went.
    let other = bundle.dir.write("other.pem", pem(&[&b])).unwrap();
    write::set_modified(&other, SystemTime::now() - 3600 * SECOND).finish().unwrap();
    fs::remove_file(bundle.path()).unwrap();
    for _ in 0..50 {
        follower.pass(100 * MILLISECOND);
        ensure!(accepts(&*follower, &a), "A is refused while the file is gone");
    }
    ensure!(follower.is_failing(), "nobody is told that the file is gone");
    fs::rename(other, bundle.path()).unwrap();
    follower.pass(SETTLED);
    ensure!(accepts(&*follower, &b), "B is refused after the file is back");
    ensure!(!accepts(&*follower, &a), "A is accepted after the file is back");
    ensure!(follower.told() == [Reason::NotFound], "{:?} was told", follower.told());
    Ok(())
}

fn scenario_09_same_size_and_time(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let padded = |ca: &Ca| format!("{:\n<2000}", ca.certificate_pem());
    let bundle = Bundle::new(&[&a]);
    fs::write(bundle.path(), padded(&a)).unwrap();
    let mut follower = make(bundle.paths(INTERVAL));
    let before = fs::metadata(bundle.path()).unwrap();
    fs::write(bundle.path(), padded(&b)).unwrap();
    write::set_modified(bundle.path(), before.modified().unwrap()).finish().unwrap();
    let after = fs::metadata(bundle.path()).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
    follower.pass(SETTLED);
    ensure!(accepts(&*follower, &b), "B is refused after the change");
    ensure!(!accepts(&*follower, &a), "A is accepted after the change");
    Ok(())
}

fn scenario_10_kubelet_swaps(make: Make<'_>) -> Outcome {
    let ca = Ca::new("CA");
    for (keep, words) in [(false, "removed"), (true, "kept")] {
        let dir = KubeletDir::new(ca.issue("first")).unwrap().keep_old(keep);
        let server = Peer::new(&ca.issue("localhost"), &[&ca]);
        let mut follower = make(pair(dir.path(), INTERVAL));
        server.meet(&follower.config())?;
        for number in 1..=3 {
            let renewed = ca.issue("renewed");
            dir.swap(&renewed).unwrap();
            // Adopted at once: no settling.
            follower.pass(11 * SECOND + 100 * MILLISECOND);
            let shown = shows(&*follower, &server, &renewed)?;
            ensure!(shown, "swap {number} (old directory {words}): the old identity is shown");
            ensure!(follower.reloads() == number, "swap {number}: {} generations", follower.reloads());
        }
        ensure!(follower.told().is_empty(), "{:?} was told", follower.told());
    }
    Ok(())
}

fn scenario_11_a_link_to_a_target_that_stays(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let dir = TestDir::new().unwrap();
    // The version that is gone back to is the older one.
    let older = dir.write("v1/ca.pem", pem(&[&b])).unwrap();
    write::set_modified(&older, SystemTime::now() - 3600 * SECOND).finish().unwrap();
    dir.write("v2/ca.pem", pem(&[&a])).unwrap();
    let current = dir.join("current");
    write::flip_symlink(&current, "v2").finish().unwrap();
    let mut follower = make(Paths { trust: current.join("ca.pem"), identity: None, interval: INTERVAL });
    write::flip_symlink(&current, "v1").finish().unwrap();
    follower.pass(SETTLED);
    ensure!(accepts(&*follower, &b), "B is refused after the link was turned");
    ensure!(!accepts(&*follower, &a), "A is accepted after the link was turned");
    Ok(())
}

fn scenario_12_certificate_then_key(make: Make<'_>) -> Outcome {
    let ca = Ca::new("CA");
    let old = ca.issue("old");
    // Looks at every place between the two renames.
    for interval in [100, 170, 300, 450].map(|n| n * MILLISECOND) {
        let files = AgentFiles::new(&old).unwrap();
        let mut follower = make(pair(files.path(), interval));
        let renewed = ca.issue("renewed");
        let mut steps = files.swap_steps(&renewed).unwrap();
        steps.run_through("rename tls.crt").unwrap();
        for _ in 0..10 {
            follower.pass(50 * MILLISECOND);
            let met = fresh(&ca).meet(&follower.config());
            let met =
                met.map_err(|error| format!("a handshake fails between certificate and key: {error}"))?;
            ensure!(met.shown == old.chain_der(), "half of the new identity is shown");
        }
        steps.finish().unwrap();
        // Prompt: the settle time, and two looks.
        follower.pass(SECOND + 3 * interval);
        let met = fresh(&ca).meet(&follower.config())?;
        ensure!(met.shown == renewed.chain_der(), "the old identity is shown after the key came");
        ensure!(follower.reloads() == 1, "{} generations came of one renewal", follower.reloads());
        // A writer at work is pending at the most, never a failure.
        let other = follower.told().iter().find(|reason| **reason != Reason::KeyMismatch);
        ensure!(other.is_none() && !follower.is_failing(), "{other:?} was told");
    }
    Ok(())
}

fn scenario_13_renewed_with_the_same_key(make: Make<'_>) -> Outcome {
    let ca = Ca::new("CA");
    let old = ca.issue("client");
    let files = AgentFiles::new(&old).unwrap();
    let server = Peer::new(&ca.issue("localhost"), &[&ca]);
    let mut follower = make(pair(files.path(), INTERVAL));
    server.meet(&follower.config())?;
    let renewed = ca.leaf("client").with_key_of(&old).issue();
    let steps = files.swap_steps(&renewed).unwrap();
    assert!(steps.upcoming().all(|step| step.ends_with("tls.crt")), "{steps:?}");
    steps.finish().unwrap();
    follower.pass(SETTLED);
    ensure!(shows(&*follower, &server, &renewed)?, "the old certificate is shown");
    ensure!(follower.reloads() == 1, "{} generations", follower.reloads());
    Ok(())
}

fn scenario_14_the_intermediate_changed(make: Make<'_>) -> Outcome {
    let (first, second) = (Ca::new("root 1"), Ca::new("root 2"));
    let issuing = first.intermediate("issuing");
    let cross_signed = issuing.renew().signed_by(&second).build();
    let client = issuing.issue("client");
    let files = AgentFiles::from_dir(TestDir::new().unwrap());
    let chain = |intermediate: &Ca| client.leaf_pem() + &intermediate.certificate_pem();
    let render = |intermediate: &Ca| {
        let parts = [
            ("ca.crt", first.certificate_pem()),
            ("tls.crt", chain(intermediate)),
            ("tls.key", client.key_pem()),
        ];
        files.render(parts).unwrap();
    };
    render(&issuing);
    let server = Peer::new(&first.issue("localhost"), &[&first, &second]);
    let new_only = || Peer::new(&first.issue("localhost"), &[&second]);
    let mut follower = make(pair(files.path(), INTERVAL));
    ensure!(
        new_only().meet(&follower.config()).is_err(),
        "accepted before the change, so this tests nothing"
    );
    // Last before the change: another server of this name uses up a ticket.
    server.meet(&follower.config())?;
    render(&cross_signed);
    follower.pass(SETTLED);
    for _ in 0..3 {
        let met = server.meet(&follower.config())?;
        ensure!(met.shown.get(1) == Some(&cross_signed.certificate_der()), "the old intermediate is shown");
    }
    new_only().meet(&follower.config()).map_err(|error| format!("the new chain does not help: {error}"))?;
    ensure!(follower.reloads() == 1, "{} generations", follower.reloads());
    Ok(())
}

fn scenario_19_ca_and_identity_in_one_swap(make: Make<'_>) -> Outcome {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("client")).unwrap();
    let mut follower = make(pair(dir.path(), 200 * MILLISECOND));
    // Each server takes clients of its own CA only. So one of them is reached by a whole generation, and none by half
    // of one and half of the other.
    let reached = |follower: &dyn Follower| [&old, &new].map(|ca| fresh(ca).meet(&follower.config()).is_ok());
    let mut steps = dir.swap_steps(new.issue("client")).unwrap();
    while let Some(step) = steps.step().unwrap() {
        for _ in 0..3 {
            follower.pass(70 * MILLISECOND);
            let reached = reached(&*follower);
            ensure!(
                reached == [true, false] || reached == [false, true],
                "neither generation is served after `{step}`"
            );
        }
    }
    follower.pass(SECOND);
    ensure!(reached(&*follower) == [false, true], "the new generation is not in use");
    ensure!(follower.reloads() == 1, "{} generations came of one swap", follower.reloads());
    Ok(())
}

fn scenario_20_touched_and_rewritten(make: Make<'_>) -> Outcome {
    let ca = Ca::new("CA");
    let agent = AgentFiles::new(ca.issue("client")).unwrap();
    let mut follower = make(pair(agent.path(), INTERVAL));
    let path = agent.ca_path();
    let content = fs::read_to_string(&path).unwrap();
    let later = || SystemTime::now() + 2 * SECOND;
    let mode = |mode| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let changes: [(&str, &dyn Fn()); 5] = [
        ("touch", &|| write::set_modified(&path, later()).finish().unwrap()),
        ("chmod", &|| mode(0o600)),
        ("the same bytes in place", &|| write::in_place(&path, content.clone(), 3).finish().unwrap()),
        ("the same bytes renamed over", &|| write::rename_over(&path, content.clone()).finish().unwrap()),
        ("another comment", &|| fs::write(&path, format!("# written today\n{content}")).unwrap()),
    ];
    for (name, change) in changes {
        change();
        follower.pass(2 * SETTLED);
        ensure!(follower.reloads() == 0, "{name} is a new generation");
    }
    ensure!(follower.told().is_empty(), "{:?} was told", follower.told());

    // The kubelet writes a new directory when a volume is mounted again.
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let mut follower = make(pair(dir.path(), INTERVAL));
    dir.rewrite().unwrap();
    follower.pass(2 * SETTLED);
    ensure!(follower.reloads() == 0, "a rewritten volume is a new generation");
    Ok(())
}

fn scenario_22_three_updates_in_a_row(make: Make<'_>) -> Outcome {
    let [a, b, c, d] = ["A", "B", "C", "D"].map(Ca::new);
    // Between two looks: one generation, and the last content.
    let bundle = Bundle::new(&[&a]);
    let mut follower = make(bundle.paths(INTERVAL));
    for ca in [&b, &c, &d] {
        bundle.write(&[ca]);
    }
    follower.pass(SETTLED);
    ensure!(follower.reloads() == 1, "{} generations came of updates between two looks", follower.reloads());
    ensure!(accepts(&*follower, &d) && !accepts(&*follower, &c), "the last content is not in use");

    // The last one takes the others back.
    for ca in [&b, &c, &d] {
        bundle.write(&[ca]);
    }
    follower.pass(SETTLED);
    ensure!(follower.reloads() == 1, "an update that was taken back is a new generation");

    // With looks between them: in order, and nothing twice.
    let mut seen = Vec::new();
    for ca in [&a, &b, &c] {
        bundle.write(&[ca]);
        for _ in 0..SETTLED.as_secs() {
            follower.pass(SECOND);
            let accepted = [&a, &b, &c, &d].into_iter().filter(|ca| accepts(&*follower, ca));
            let names: Vec<_> = accepted.map(Ca::name).collect();
            ensure!(names.len() == 1, "{names:?} are trusted at once");
            seen.push(names[0].to_owned());
        }
    }
    seen.dedup();
    ensure!(seen == ["D", "A", "B", "C"], "in this order: {seen:?}");
    Ok(())
}

fn scenario_23_an_expired_candidate(make: Make<'_>) -> Outcome {
    let ca = Ca::new("CA");
    let good = ca.issue("good");
    let dir = KubeletDir::new(&good).unwrap();
    let mut follower = make(pair(dir.path(), INTERVAL));
    let hour_ago = SystemTime::now() - 3600 * SECOND;
    dir.swap(ca.leaf("expired").not_after(hour_ago).issue()).unwrap();
    follower.pass(SETTLED);
    let met = fresh(&ca)
        .meet(&follower.config())
        .map_err(|why| format!("the expired certificate is in use: {why}"))?;
    ensure!(met.shown == good.chain_der(), "another certificate is shown");
    ensure!(follower.told() == [Reason::Expired], "{:?} was told", follower.told());

    // One that is not valid yet waits for its time, and needs no change of a file then.
    let soon = ca.leaf("soon").not_before(SystemTime::now() + 1200 * SECOND).issue();
    dir.swap(&soon).unwrap();
    follower.pass(300 * SECOND);
    ensure!(
        fresh(&ca).meet(&follower.config())?.shown == good.chain_der(),
        "a certificate is shown before its time"
    );
    ensure!(follower.told() == [Reason::Expired, Reason::NotYetValid], "{:?} was told", follower.told());
    let adopted = follower.reloads();
    follower.pass(1200 * SECOND);
    ensure!(follower.reloads() == adopted + 1, "its time has come and it is not in use");
    Ok(())
}

fn scenario_24_a_read_error_that_is_over_soon(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let mut follower = make(bundle.paths(60 * SECOND));
    fs::remove_file(bundle.path()).unwrap();
    // Until a look meets the gap.
    for _ in 0..700 {
        if follower.is_failing() {
            break;
        }
        follower.pass(100 * MILLISECOND);
    }
    ensure!(follower.is_failing(), "no look in 70 s");
    follower.pass(200 * MILLISECOND);
    bundle.write(&[&b]);
    // A second for the next try, and one to settle; not a minute.
    follower.pass(2 * SECOND);
    ensure!(accepts(&*follower, &b), "B is refused a second after the file is readable");
    ensure!(!follower.is_failing(), "still failing");
    Ok(())
}

fn scenario_32_a_withdrawal_while_the_identity_is_broken(make: Make<'_>) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let client = b.issue("client");
    let files = AgentFiles::from_dir(TestDir::new().unwrap());
    let render = |trust: &[&Ca], key: String| {
        files.render([("ca.crt", pem(trust)), ("tls.crt", client.chain_pem()), ("tls.key", key)]).unwrap();
    };
    render(&[&a, &b], client.key_pem());
    let mut follower = make(pair(files.path(), INTERVAL));
    let server = Peer::new(&a.issue("localhost"), &[&b]);
    server.meet(&follower.config())?;
    ensure!(server.meet(&follower.config())?.resumed, "no session is resumed, so this tests little");
    let half = client.key_pem().len() / 2;
    render(&[&b], client.key_pem()[..half].to_owned());
    // The grace of an identity, the settling of a loss, and the interval.
    follower.pass(60 * SECOND);
    refused_for_good(&*follower, &server)?;
    // The rest goes on: what is still trusted, with the last good identity.
    let met = fresh(&b).meet(&follower.config())?;
    ensure!(met.shown == client.chain_der(), "the last good identity is not shown");
    ensure!(
        follower.told() == [Reason::Malformed] && follower.is_failing(),
        "{:?} was told",
        follower.told()
    );
    Ok(())
}

fn scenario_33_names_with_escape_codes(make: Make<'_>) -> Outcome {
    // Clears the screen, sets the title, writes backwards, ends the line, ends the element.
    let hostile = "CA\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\u{2066}\r\n</td><script>";
    let (first, second) = (Ca::new(hostile), Ca::new(&format!("{hostile} 2")));
    let root = TestDir::new().unwrap();
    let dir = TestDir::at(root.join("\u{1b}[31m\u{202e}dir")).unwrap();
    let dir = KubeletDir::from_dir(dir);
    dir.swap(first.issue(hostile)).unwrap();
    let mut follower = make(pair(dir.path(), INTERVAL));
    dir.swap(second.issue(hostile)).unwrap();
    follower.pass(SETTLED);
    ensure!(follower.reloads() > 0, "nothing was loaded, so nothing was shown");
    // Failures name paths.
    dir.torn_write(certsource_testkit::Part::Certificate).unwrap();
    follower.pass(2 * SETTLED);
    fs::remove_file(dir.ca_path()).unwrap();
    follower.pass(60 * SECOND);
    let shown = follower.shown();
    ensure!(shown.contains("owned") && shown.contains("dir"), "names are not shown at all");
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let line = shown.lines().find(|line| line.chars().any(is_hostile));
    ensure!(line.is_none(), "a name is shown as it is: {line:?}");
    Ok(())
}

/// A bundle of trust anchors in a file, written in place.
struct Bundle {
    dir: TestDir,
}

impl Bundle {
    fn new(cas: &[&Ca]) -> Self {
        let bundle = Self { dir: TestDir::new().unwrap() };
        bundle.write(cas);
        bundle
    }

    fn write(&self, cas: &[&Ca]) {
        self.dir.write("ca.pem", pem(cas)).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn paths(&self, interval: Duration) -> Paths {
        Paths { trust: self.path(), identity: None, interval }
    }
}

fn pem(cas: &[&Ca]) -> String {
    cas.iter().map(|ca| ca.certificate_pem()).collect()
}

/// The files of a Kubernetes secret.
fn pair(dir: &Path, interval: Duration) -> Paths {
    let identity = Some((dir.join("tls.crt"), dir.join("tls.key")));
    Paths { trust: dir.join("ca.crt"), identity, interval }
}

/// A server of this CA that takes clients of it, and that no client has a session with.
fn fresh(ca: &Ca) -> Peer {
    Peer::new(&ca.issue("localhost"), &[ca])
}

/// Whether a server of this CA is accepted by a full handshake.
fn accepts(follower: &dyn Follower, ca: &Ca) -> bool {
    let met = Peer::new(&ca.issue("localhost"), &[]).meet(&follower.config());
    assert!(!met.as_ref().is_ok_and(|met| met.resumed), "a stranger has no session");
    met.is_ok()
}

/// Refused now and at each later try, with whatever sessions there are.
fn refused_for_good(follower: &dyn Follower, server: &Peer) -> Outcome {
    for _ in 0..3 {
        if let Ok(Met { resumed, .. }) = server.meet(&follower.config()) {
            return Err(format!("the removed CA is accepted, resumed: {resumed}"));
        }
    }
    Ok(())
}

/// Whether a server sees this identity, now and each time, with whatever sessions there are.
fn shows(follower: &dyn Follower, server: &Peer, identity: &Issued) -> Result<bool, String> {
    for _ in 0..3 {
        if server.meet(&follower.config())?.shown != identity.chain_der() {
            return Ok(false);
        }
    }
    Ok(true)
}
