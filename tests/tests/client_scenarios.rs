//! What happens to files, by the number of the scenario, and what a client's next request then does: certsource's client
//! and its connector over real TLS and in real time, and reqwest over the forty lines that people write by hand. Those must
//! fail it, for the reason that stands beside it. The numbers are those of docs/SCENARIOS.md.
//!
//! What is not here: what happens to connections, and at the start (`client_connections.rs`), and what needs simulated time
//! (`scenarios.rs`).
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../crates/client/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use certsource_client::rustls::pki_types::CertificateDer;
use certsource_testkit::{AgentFiles, Ca, Issued, KubeletDir, TestDir, write};
use certsource_tests::ensure;
use certsource_tests::subject::{ByHand, Connected, HOUR, Ours, Outcome, Setup, Subject};

use common::{Server, Tls};

const SECOND: Duration = Duration::from_secs(1);

macro_rules! scenarios {
    ($($name:ident: by hand $by_hand:literal;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn with_certsource() {
                super::$name::<Ours>().await.unwrap();
            }

            #[tokio::test]
            async fn with_the_connector() {
                super::$name::<Connected>().await.unwrap();
            }

            #[tokio::test]
            async fn with_the_connector_over_tls_1_2() {
                super::$name::<Connected<true>>().await.unwrap();
            }

            #[tokio::test]
            async fn by_hand_fails() {
                let why = super::$name::<ByHand>().await.expect_err("it tests something");
                assert!(why.contains($by_hand), "it fails for another reason: {why}");
            }
        }
    )*};
}

scenarios! {
    s01_a_replaced_ca_is_trusted_at_the_first_request: by hand "B is refused at the first request";
    s02_a_removed_ca_is_refused_at_the_next_connection_resumed_or_not: by hand "the removed CA is accepted, resumed: true";
    s04_a_bundle_cut_inside_a_block: by hand "B is refused while the bundle is cut";
    s04_a_bundle_cut_between_blocks_by_a_writer_at_work: by hand "B is refused while the bundle is written";
    s05_empty_then_full: by hand "A is refused while the bundle is empty";
    s06_garbage: by hand "A is refused while the bundle is garbage";
    s07_removed_and_back: by hand "B is refused after the file is back";
    s09_same_size_and_time: by hand "B is refused after the change";
    s10_kubelet_swaps: by hand "swap 1 (old directory removed): the old identity is shown";
    s11_a_link_to_a_target_that_stays: by hand "B is refused after the link was turned";
    s12_certificate_then_key: by hand "a request fails between certificate and key";
    s13_renewed_with_the_same_key: by hand "the old certificate is shown";
    s14_the_intermediate_changed: by hand "the new chain does not help";
    s19_ca_and_identity_in_one_swap: by hand "neither generation is served";
    s20_touched_and_rewritten: by hand "touch is a new generation";
    s22_three_updates_in_a_row: by hand "an update that was taken back is a new generation";
    s23_an_expired_candidate: by hand "the expired certificate is in use";
    s24_a_read_error_that_is_over_soon: by hand "B is refused although the file is readable again";
    s32_a_withdrawal_while_the_identity_is_broken: by hand "the removed CA is accepted, resumed: true";
    s33_names_with_escape_codes: by hand "a name is shown as it is";
    s34_a_garbage_ca_for_a_whole_fleet: by hand "a pod of the fleet does not serve";
}

/// Neither waits for its timer: ours looks because the server was refused.
async fn s01_a_replaced_ca_is_trusted_at_the_first_request<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let setup = Setup::trust(bundle.path()).reactive().policy(|policy| policy.interval = HOUR);
    let subject = S::start(&setup).await?;
    ensure!(accepts(&subject, &a).await, "A is refused at the start");
    bundle.write(&[&b]);
    ensure!(accepts(&subject, &b).await, "B is refused at the first request");
    ensure!(!accepts(&subject, &a).await, "A is accepted after the change");
    Ok(())
}

async fn s02_a_removed_ca_is_refused_at_the_next_connection_resumed_or_not<S: Subject>() -> Outcome {
    for version in S::versions() {
        let (a, b) = (Ca::new("A"), Ca::new("B"));
        let bundle = Bundle::new(&[&a, &b]);
        let subject = S::start(&Setup::trust(bundle.path())).await?;
        let leaf = a.issue("localhost");
        let server = Server::start(Tls::of(&leaf).versions(&[version])).await;
        for _ in 0..2 {
            subject.get(server.url("/")).await?;
        }
        ensure!(server.last().is_resumed, "no session is resumed, so this tests little");
        bundle.write(&[&b]);
        ensure!(
            subject.comes(async || !accepts(&subject, &a).await).await,
            "A is accepted by a full handshake"
        );
        refused_for_good(&subject, &server).await?;
        ensure!(accepts(&subject, &b).await, "B is refused");
    }
    Ok(())
}

async fn s04_a_bundle_cut_inside_a_block<S: Subject>() -> Outcome {
    let [a, b, c] = ["A", "B", "C"].map(Ca::new);
    let bundle = Bundle::new(&[&a, &b]);
    let subject = S::start(&Setup::trust(bundle.path())).await?;
    let mut steps = write::in_place(bundle.path(), pem(&[&a, &b, &c]), 2);
    // The writer has died. Half of three blocks ends inside the second.
    steps.run_through("write ca.pem 1/2").unwrap();
    for _ in 0..3 {
        let looked = subject.look().await;
        ensure!(accepts(&subject, &a).await, "A is refused while the bundle is cut");
        ensure!(accepts(&subject, &b).await, "B is refused while the bundle is cut");
        ensure!(looked.is_err(), "nobody is told");
    }
    steps.finish().unwrap();
    ensure!(
        subject.comes(async || accepts(&subject, &c).await).await,
        "C is refused after the writer is done"
    );
    Ok(())
}

async fn s04_a_bundle_cut_between_blocks_by_a_writer_at_work<S: Subject>() -> Outcome {
    let [a, b, c] = ["A", "B", "C"].map(Ca::new);
    let bundle = Bundle::new(&[&a, &b]);
    // As without a test: five seconds for what only loses certificates.
    let setup = Setup::trust(bundle.path()).policy(|policy| policy.settle_loss = 5 * SECOND);
    let subject = S::start(&setup).await?;
    // The writer pauses between two blocks: what is there is whole, and holds less.
    bundle.write(&[&a]);
    let paused = Instant::now();
    while paused.elapsed() < SECOND {
        subject.tick().await;
        ensure!(accepts(&subject, &b).await, "B is refused while the bundle is written");
    }
    bundle.write(&[&a, &b, &c]);
    ensure!(
        subject.comes(async || accepts(&subject, &c).await).await,
        "C is refused after the writer is done"
    );
    ensure!(accepts(&subject, &b).await, "B is refused after the writer is done");
    ensure!(subject.reloads() == 1, "{} generations came of one change", subject.reloads());
    Ok(())
}

async fn s05_empty_then_full<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let subject = S::start(&Setup::trust(bundle.path())).await?;
    let mut steps = write::in_place(bundle.path(), pem(&[&b]), 1);
    steps.run_through("truncate").unwrap();
    for _ in 0..3 {
        let looked = subject.look().await;
        ensure!(accepts(&subject, &a).await, "A is refused while the bundle is empty");
        ensure!(looked.is_err() && subject.is_failing(), "nobody is told");
    }
    steps.finish().unwrap();
    ensure!(subject.comes(async || accepts(&subject, &b).await).await, "the full bundle is not in use");
    ensure!(!accepts(&subject, &a).await && !subject.is_failing(), "something of the old one is left");
    Ok(())
}

async fn s06_garbage<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let good = pem(&[&b]);
    let kinds: [(&str, Vec<u8>); 5] = [
        ("noise", (0..2000_u32).map(|n| (n * 167 % 251) as u8).collect()),
        ("a page of a proxy", b"<html><body>502 Bad Gateway</body></html>\n".to_vec()),
        ("base64 that is none", good.replacen('M', "!", 1).into_bytes()),
        ("no certificate in the block", good.replacen("MII", "AAA", 1).into_bytes()),
        ("a key", a.issue("a").key_pem().into_bytes()),
    ];
    for (kind, content) in kinds {
        let bundle = Bundle::new(&[&a]);
        let subject = S::start(&Setup::trust(bundle.path())).await?;
        fs::write(bundle.path(), content).unwrap();
        let looked = subject.look().await;
        ensure!(accepts(&subject, &a).await, "A is refused while the bundle is garbage: {kind}");
        ensure!(looked.is_err() && subject.is_failing() && subject.reloads() == 0, "{kind}: taken");
        bundle.write(&[&b]);
        ensure!(
            subject.comes(async || accepts(&subject, &b).await).await,
            "{kind}: B is refused after the repair"
        );
    }
    Ok(())
}

async fn s07_removed_and_back<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let subject = S::start(&Setup::trust(bundle.path())).await?;
    // What comes back is a file that was made before the one that went.
    let other = bundle.dir.write("other.pem", pem(&[&b])).unwrap();
    write::set_modified(&other, SystemTime::now() - HOUR).finish().unwrap();
    fs::remove_file(bundle.path()).unwrap();
    for _ in 0..5 {
        let looked = subject.look().await;
        ensure!(looked.is_err() && subject.is_failing(), "nobody is told that the file is gone");
        ensure!(accepts(&subject, &a).await, "A is refused while the file is gone");
    }
    fs::rename(other, bundle.path()).unwrap();
    let is_back = subject.comes(async || accepts(&subject, &b).await).await;
    ensure!(is_back, "B is refused after the file is back");
    ensure!(!accepts(&subject, &a).await, "A is accepted after the file is back");
    Ok(())
}

async fn s09_same_size_and_time<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let padded = |ca: &Ca| format!("{:\n<2000}", ca.certificate_pem());
    let bundle = Bundle::new(&[&a]);
    fs::write(bundle.path(), padded(&a)).unwrap();
    let subject = S::start(&Setup::trust(bundle.path())).await?;
    let before = fs::metadata(bundle.path()).unwrap();
    fs::write(bundle.path(), padded(&b)).unwrap();
    write::set_modified(bundle.path(), before.modified().unwrap()).finish().unwrap();
    let after = fs::metadata(bundle.path()).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
    ensure!(subject.comes(async || accepts(&subject, &b).await).await, "B is refused after the change");
    ensure!(!accepts(&subject, &a).await, "A is accepted after the change");
    Ok(())
}

async fn s10_kubelet_swaps<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    for (keep, words) in [(false, "removed"), (true, "kept")] {
        let dir = KubeletDir::new(ca.issue("first")).unwrap().keep_old(keep);
        let server = demanding(&ca).await;
        let subject = S::start(&Setup::pair(dir.path())).await?;
        subject.get(server.url("/")).await?;
        for number in 1..=3 {
            let renewed = ca.issue("renewed");
            dir.swap(&renewed).unwrap();
            let shown = subject.comes(async || shows(&subject, &server, &renewed).await).await;
            ensure!(shown, "swap {number} (old directory {words}): the old identity is shown");
            ensure!(subject.reloads() == number, "swap {number}: {} generations", subject.reloads());
        }
    }
    Ok(())
}

async fn s11_a_link_to_a_target_that_stays<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let dir = TestDir::new().unwrap();
    // The version that is gone back to is the older one.
    let older = dir.write("v1/ca.pem", pem(&[&b])).unwrap();
    write::set_modified(&older, SystemTime::now() - HOUR).finish().unwrap();
    dir.write("v2/ca.pem", pem(&[&a])).unwrap();
    let current = dir.join("current");
    write::flip_symlink(&current, "v2").finish().unwrap();
    let subject = S::start(&Setup::trust(current.join("ca.pem"))).await?;
    write::flip_symlink(&current, "v1").finish().unwrap();
    let is_turned = subject.comes(async || accepts(&subject, &b).await).await;
    ensure!(is_turned, "B is refused after the link was turned");
    ensure!(!accepts(&subject, &a).await, "A is accepted after the link was turned");
    Ok(())
}

async fn s12_certificate_then_key<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let old = ca.issue("old");
    let files = AgentFiles::new(&old).unwrap();
    let subject = S::start(&Setup::pair(files.path())).await?;
    let renewed = ca.issue("renewed");
    let mut steps = files.swap_steps(&renewed).unwrap();
    steps.run_through("rename tls.crt").unwrap();
    let paused = Instant::now();
    while paused.elapsed() < SECOND / 2 {
        subject.tick().await;
        let server = demanding(&ca).await;
        let sent = subject.get(server.url("/")).await;
        sent.map_err(|error| format!("a request fails between certificate and key: {error}"))?;
        ensure!(server.last().client == Some(old.leaf_der()), "half of the new identity is shown");
    }
    steps.finish().unwrap();
    let server = demanding(&ca).await;
    let shown = subject.comes(async || shows(&subject, &server, &renewed).await).await;
    ensure!(shown, "the old identity is shown after the key came");
    ensure!(subject.reloads() == 1, "{} generations came of one renewal", subject.reloads());
    Ok(())
}

async fn s13_renewed_with_the_same_key<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let old = ca.issue("client");
    let files = AgentFiles::new(&old).unwrap();
    let server = demanding(&ca).await;
    let subject = S::start(&Setup::pair(files.path())).await?;
    subject.get(server.url("/")).await?;
    let renewed = ca.leaf("client").with_key_of(&old).issue();
    files.swap(&renewed).unwrap();
    let shown = subject.comes(async || shows(&subject, &server, &renewed).await).await;
    ensure!(shown, "the old certificate is shown");
    ensure!(subject.reloads() == 1, "{} generations", subject.reloads());
    Ok(())
}

/// A server that trusts only what the new intermediate leads to.
async fn s14_the_intermediate_changed<S: Subject>() -> Outcome {
    let (first, second) = (Ca::new("root 1"), Ca::new("root 2"));
    let issuing = first.intermediate("issuing");
    let cross_signed = issuing.renew().signed_by(&second).build();
    let client = issuing.issue("client");
    let files = AgentFiles::from_dir(TestDir::new().unwrap());
    let render = |intermediate: &Ca, modified: SystemTime| {
        let chain = client.leaf_pem() + &intermediate.certificate_pem();
        let parts = [("ca.crt", first.certificate_pem()), ("tls.crt", chain), ("tls.key", client.key_pem())];
        files.render(parts).unwrap();
        write::set_modified(files.cert_path(), modified).finish().unwrap();
    };
    let now = SystemTime::now();
    render(&issuing, now);
    let leaf = first.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&second])).await;
    let subject = S::start(&Setup::pair(files.path())).await?;
    ensure!(subject.get(server.url("/")).await.is_err(), "accepted before, so this tests nothing");
    // A backup that is put back has the time that it had.
    render(&cross_signed, now - HOUR);
    let helps = subject.comes(async || subject.get(server.url("/")).await.is_ok()).await;
    ensure!(helps, "the new chain does not help");
    ensure!(subject.reloads() == 1, "{} generations", subject.reloads());
    Ok(())
}

async fn s19_ca_and_identity_in_one_swap<S: Subject>() -> Outcome {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let dir = KubeletDir::new(old.issue("client")).unwrap();
    let subject = S::start(&Setup::pair(dir.path())).await?;
    // Each server takes clients of its own CA only. So one of them is reached by a whole generation, and none by half
    // of one and half of the other.
    let reached = async || [reaches(&subject, &old).await, reaches(&subject, &new).await];
    // While this goes on one may be asked before the change and the other one after it.
    let is_whole = |[old, new]: [bool; 2], before: u64, after: u64| before != after || old != new;
    let mut steps = dir.swap_steps(new.issue("client")).unwrap();
    while let Some(step) = steps.step().unwrap() {
        for _ in 0..3 {
            subject.tick().await;
            let before = subject.reloads();
            let reached = reached().await;
            let is_whole = is_whole(reached, before, subject.reloads());
            ensure!(is_whole, "neither generation is served after `{step}`");
        }
    }
    ensure!(
        subject.comes(async || reached().await == [false, true]).await,
        "the new generation is not in use"
    );
    ensure!(subject.reloads() == 1, "{} generations came of one swap", subject.reloads());
    Ok(())
}

async fn s20_touched_and_rewritten<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let agent = AgentFiles::new(ca.issue("client")).unwrap();
    let subject = S::start(&Setup::pair(agent.path())).await?;
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
        subject.look().await?;
        ensure!(subject.reloads() == 0, "{name} is a new generation");
    }
    // The kubelet writes a new directory when a volume is mounted again.
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let subject = S::start(&Setup::pair(dir.path())).await?;
    dir.rewrite().unwrap();
    subject.look().await?;
    ensure!(subject.reloads() == 0, "a rewritten volume is a new generation");
    Ok(())
}

async fn s22_three_updates_in_a_row<S: Subject>() -> Outcome {
    let [a, b, c, d] = ["A", "B", "C", "D"].map(Ca::new);
    let bundle = Bundle::new(&[&a]);
    // Longer than three writes take on any machine.
    let setup = Setup::trust(bundle.path()).policy(|policy| policy.settle = 2 * SECOND);
    let subject = S::start(&setup).await?;
    let write = || [&b, &c, &d].into_iter().for_each(|ca| bundle.write(&[ca]));
    write();
    ensure!(subject.comes(async || accepts(&subject, &d).await).await, "the last content is not in use");
    ensure!(!accepts(&subject, &c).await, "another content is in use");
    ensure!(subject.reloads() == 1, "{} generations came of three updates in a row", subject.reloads());
    // The last one takes the others back.
    write();
    subject.look().await?;
    ensure!(subject.reloads() == 1, "an update that was taken back is a new generation");
    // Slower ones arrive in order, each once.
    for (number, ca) in (2..).zip([&a, &b]) {
        bundle.write(&[ca]);
        ensure!(subject.comes(async || accepts(&subject, ca).await).await, "an update does not arrive");
        ensure!(subject.reloads() == number, "{} generations of {number} updates", subject.reloads());
    }
    Ok(())
}

async fn s23_an_expired_candidate<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let good = ca.issue("good");
    let dir = KubeletDir::new(&good).unwrap();
    let subject = S::start(&Setup::pair(dir.path()).policy(|policy| policy.skew = Duration::ZERO)).await?;
    dir.swap(ca.leaf("expired").not_after(SystemTime::now() - HOUR).issue()).unwrap();
    let looked = subject.look().await;
    let server = demanding(&ca).await;
    let sent = subject.get(server.url("/")).await;
    sent.map_err(|error| format!("the expired certificate is in use: {error}"))?;
    ensure!(looked.is_err() && server.last().client == Some(good.leaf_der()), "nobody is told");
    // One that is not valid yet waits for its time, and needs no change of a file then.
    let at = SystemTime::now() + 4 * SECOND;
    let soon = ca.leaf("soon").not_before(at).issue();
    dir.swap(&soon).unwrap();
    let _ = subject.look().await;
    if SystemTime::now() < at - 2 * SECOND {
        ensure!(shows(&subject, &server, &good).await, "a certificate is shown before its time");
    }
    let shown = subject.comes(async || shows(&subject, &server, &soon).await).await;
    ensure!(shown, "its time has come and it is not in use");
    Ok(())
}

async fn s24_a_read_error_that_is_over_soon<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let bundle = Bundle::new(&[&a]);
    let subject = S::start(&Setup::trust(bundle.path()).policy(|policy| policy.interval = HOUR)).await?;
    fs::remove_file(bundle.path()).unwrap();
    ensure!(subject.look().await.is_err(), "a look meets the gap");
    tokio::time::sleep(Duration::from_millis(200)).await;
    bundle.write(&[&b]);
    // The next look of the timer is in an hour.
    let is_read = subject.comes(async || accepts(&subject, &b).await).await;
    ensure!(is_read, "B is refused although the file is readable again");
    ensure!(!subject.is_failing(), "still failing");
    Ok(())
}

async fn s32_a_withdrawal_while_the_identity_is_broken<S: Subject>() -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let client = b.issue("client");
    let files = AgentFiles::from_dir(TestDir::new().unwrap());
    let render = |trust: &[&Ca], key: String| {
        files.render([("ca.crt", pem(trust)), ("tls.crt", client.chain_pem()), ("tls.key", key)]).unwrap();
    };
    render(&[&a, &b], client.key_pem());
    let setup = Setup::pair(files.path()).policy(|policy| policy.pair_grace = SECOND / 2);
    let subject = S::start(&setup).await?;
    let leaf = a.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&b])).await;
    for _ in 0..2 {
        subject.get(server.url("/")).await?;
    }
    ensure!(server.last().is_resumed, "no session is resumed, so this tests little");
    render(&[&b], client.key_pem()[..client.key_pem().len() / 2].to_owned());
    ensure!(subject.comes(async || !accepts(&subject, &a).await).await, "A is accepted by a full handshake");
    refused_for_good(&subject, &server).await?;
    // The rest goes on: what is still trusted, with the last good identity.
    let other = demanding(&b).await;
    ensure!(shows(&subject, &other, &client).await, "the last good identity is not shown");
    ensure!(subject.is_failing(), "nobody is told");
    Ok(())
}

async fn s33_names_with_escape_codes<S: Subject>() -> Outcome {
    // Clears the screen, sets the title, writes backwards, ends the line, ends the element.
    let hostile = "CA\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\u{2066}\r\n</td><script>";
    let (first, second) = (Ca::new(hostile), Ca::new(&format!("{hostile} 2")));
    let root = TestDir::new().unwrap();
    let dir = KubeletDir::from_dir(TestDir::at(root.join("\u{1b}[31m\u{202e}dir")).unwrap());
    dir.swap(first.issue(hostile)).unwrap();
    let subject = S::start(&Setup::pair(dir.path())).await?;
    dir.swap(second.issue(hostile)).unwrap();
    subject.look().await?;
    ensure!(subject.reloads() > 0, "nothing was loaded, so nothing was shown");
    // Failures name paths.
    fs::remove_file(dir.version_dir().unwrap().unwrap().join("ca.crt")).unwrap();
    ensure!(subject.look().await.is_err(), "the file is gone");
    let shown = subject.shown();
    ensure!(shown.contains("owned"), "names are not shown at all");
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let line = shown.lines().find(|line| line.chars().any(is_hostile));
    ensure!(line.is_none(), "a name is shown as it is: {line:?}");
    Ok(())
}

async fn s34_a_garbage_ca_for_a_whole_fleet<S: Subject>() -> Outcome {
    let ca = Ca::new("CA");
    let mut fleet = Vec::new();
    for _ in 0..10 {
        let dir = KubeletDir::new(ca.issue("client")).unwrap();
        fleet.push((S::start(&Setup::pair(dir.path())).await?, dir));
    }
    for garbage in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\0\0\0"] {
        for (_, dir) in &fleet {
            dir.swap_all(garbage, ca.issue("client")).unwrap();
        }
        for (pod, _) in &fleet {
            let looked = pod.look().await;
            ensure!(reaches(pod, &ca).await, "a pod of the fleet does not serve");
            ensure!(looked.is_err() && pod.reloads() == 0, "garbage was taken: {garbage:?}");
        }
    }
    for (pod, dir) in &fleet {
        let next = Ca::new("next");
        dir.swap(next.issue("client")).unwrap();
        ensure!(pod.comes(async || reaches(pod, &next).await).await, "a pod does not follow what comes next");
    }
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
}

fn pem(cas: &[&Ca]) -> String {
    cas.iter().map(|ca| ca.certificate_pem()).collect()
}

/// A server of this CA that takes clients of it only, and that nobody has a session with.
async fn demanding(ca: &Ca) -> Server {
    let leaf = ca.issue("localhost");
    Server::start(Tls::of(&leaf).clients(&[ca])).await
}

/// Whether such a server is reached.
async fn reaches(subject: &impl Subject, ca: &Ca) -> bool {
    subject.get(demanding(ca).await.url("/")).await.is_ok()
}

/// Whether a server of this CA is accepted by a full handshake.
async fn accepts(subject: &impl Subject, ca: &Ca) -> bool {
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let sent = subject.get(server.url("/")).await;
    assert!(!server.seen().iter().any(|seen| seen.is_resumed), "a stranger has no session");
    sent.is_ok()
}

/// Refused now and at each later try, with whatever sessions there are.
async fn refused_for_good(subject: &impl Subject, server: &Server) -> Outcome {
    for _ in 0..3 {
        let sent = subject.get(server.url("/")).await;
        ensure!(sent.is_err(), "the removed CA is accepted, resumed: {}", server.last().is_resumed);
    }
    Ok(())
}

/// Whether a server sees this identity, now and each time, with whatever sessions there are.
async fn shows(subject: &impl Subject, server: &Server, identity: &Issued) -> bool {
    let expected: Option<CertificateDer<'static>> = Some(identity.leaf_der());
    for _ in 0..3 {
        if subject.get(server.url("/")).await.is_err() || server.last().client != expected {
            return false;
        }
    }
    true
}
