//! `certsource inspect`: what it shows, of good files and of broken ones.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use certsource::Fingerprint;
use certsource_testkit::{Ca, Damage, KubeletDir, TestDir, damage};

use crate::common::server::{Server, config};
use crate::common::{Finished, assert_ts, run, run_with};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The columns of a table's row: two spaces or more part them.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn a_leaf_at_a_glance() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root").intermediate("Example issuing CA");
    // Not a whole number of days, so that the test may take its time.
    let issued = ca.leaf("localhost").valid_for(DAY * 12 + DAY / 2).issue();
    let path = dir.write("tls.crt", issued.chain_pem()).unwrap();
    let shown = run(["inspect".as_ref(), path.as_os_str()]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert_eq!(
        cells(lines[0]),
        ["ROLE", "SUBJECT", "NAMES", "ISSUER", "NOT AFTER", "KEY", "SHA-256", "FILE"]
    );
    let until = time::OffsetDateTime::from(issued.not_after());
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let print = Fingerprint::of(&issued.leaf_der()).to_string();
    assert_eq!(
        cells(lines[1]),
        [
            "leaf",
            "CN=localhost",
            "dns:localhost ip:127.0.0.1 ip:::1",
            "CN=Example issuing CA",
            &until,
            "in 12 d",
            "ECDSA P-256",
            &print,
            &format!("{}:1", path.display()),
        ]
    );
    assert_eq!(lines[2..], ["1 more certificate in a chain: --all shows it"]);

    let all = run(["inspect".as_ref(), "--all".as_ref(), path.as_os_str()]);
    let roles: Vec<_> = all.stdout.lines().map(|line| cells(line)[0]).collect();
    assert_eq!(roles, ["ROLE", "leaf", "intermediate"]);
}

/// Standard input can be read once: as the key, or as what holds both.
#[test]
fn a_key_may_come_from_standard_input() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let (issued, other) = (ca.issue("localhost"), ca.issue("other"));
    let cert = dir.write("tls.crt", issued.chain_pem()).unwrap();
    let cert = cert.to_str().unwrap();
    let key = issued.key_pem();
    let shown = run_with(["inspect", cert, "--key", "-"], key.as_bytes());
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    let last = |shown: &Finished| shown.stdout.lines().last().unwrap().to_owned();
    assert_eq!(last(&shown), format!("key - belongs to leaf CN=localhost ({cert}:1)"));
    let shown = run_with(["inspect", cert, "--key", "-"], issued.key_der().secret_der());
    assert_eq!(
        (shown.code, shown.stdout.contains("key - belongs to leaf")),
        (Some(0), true),
        "DER: {shown:?}"
    );
    let shown = run_with(["inspect", cert, "--key", "-"], other.key_pem().as_bytes());
    assert_eq!((shown.code, &*last(&shown)), (Some(1), "key - does NOT belong to this certificate"));

    let shown = run_with(["inspect", "-", "--key", "-"], issued.combined_pem().as_bytes());
    assert_eq!((shown.code, &*last(&shown)), (Some(0), "key - belongs to leaf CN=localhost (-:1)"));
    let first = run_with(["inspect", "-", "--key", "-"], (key + &issued.chain_pem()).as_bytes());
    assert!(
        first.code == Some(0) && last(&first).starts_with("key - belongs to leaf CN=localhost (-:"),
        "{first:?}"
    );

    let shown = run_with(["inspect", "-", "--key", "-"], issued.chain_pem().as_bytes());
    let without =
        "error: -: there is no private key on standard input; with --key - it is read from there [empty]";
    assert_eq!((shown.code, shown.error_line(), &*shown.stdout), (Some(2), without, ""));
}

#[test]
fn a_bundle_is_shown_whole() {
    let dir = TestDir::new().unwrap();
    let bundle = Ca::new("first").certificate_pem() + &Ca::new("second").certificate_pem();
    let path = dir.write("ca.pem", bundle).unwrap();
    let shown = run(["inspect".as_ref(), path.as_os_str()]);
    let rows: Vec<_> = shown.stdout.lines().skip(1).map(|line| cells(line)[..2].join(" ")).collect();
    assert_eq!(rows, ["root CN=first", "root CN=second"]);
}

#[test]
fn json_is_a_record_a_line() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root");
    let issued = ca.issue("localhost");
    ca.revoke(&issued);
    let cert = dir.write("tls.crt", issued.combined_pem()).unwrap();
    let crl = dir.write("ca.crl", ca.crl().pem()).unwrap();
    let shown = run(["inspect".as_ref(), "--format=json".as_ref(), cert.as_os_str(), crl.as_os_str()]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    let lines = shown.json();
    lines.iter().for_each(assert_ts);
    let [certificate, key, crl] = &lines[..] else { panic!("{}", shown.stdout) };
    assert_eq!(certificate["event"], "certificate");
    assert_eq!(certificate["role"], "leaf");
    assert_eq!(certificate["path"], cert.to_str().unwrap());
    assert_eq!(certificate["line"], 1);
    assert_eq!(certificate["subject"], "CN=localhost");
    assert_eq!(certificate["fingerprint"], Fingerprint::of(&issued.leaf_der()).to_string());
    assert_eq!(certificate["serial"], issued.serial_hex());
    let left = certificate["expires_in_seconds"].as_i64().unwrap();
    assert!((left - 90 * 86_400).abs() < 600, "{left}");
    assert_eq!((&key["event"], &key["format"]), (&"private_key".into(), &"PKCS#8".into()));
    assert_eq!((&crl["event"], &crl["entries"]), (&"crl".into(), &1.into()));
    assert!(!shown.stdout.contains(&issued.key_pem().lines().nth(1).unwrap()[..20]), "no byte of the key");
}

#[test]
fn der_and_standard_input() {
    let dir = TestDir::new().unwrap();
    let issued = Ca::new("a").issue("localhost");
    let der = dir.write("leaf.der", issued.leaf_der()).unwrap();
    let shown = run(["inspect".as_ref(), der.as_os_str()]);
    assert_eq!(shown.code, Some(0));
    assert!(shown.stdout.trim_end().ends_with("leaf.der"), "no line number: {}", shown.stdout);
    let shown = run_with(["inspect", "-"], issued.chain_pem().as_bytes());
    assert_eq!(shown.code, Some(0));
    assert!(
        shown.stdout.contains("CN=localhost") && shown.stdout.trim_end().ends_with("-:1"),
        "{}",
        shown.stdout
    );
}

#[test]
fn a_directory_is_read_once_and_below() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let volume = KubeletDir::from_dir(TestDir::at(dir.join("volume")).unwrap());
    volume.swap(ca.issue("localhost")).unwrap();
    dir.write("below/deep/x.pem", ca.issue("example.org").chain_pem()).unwrap();
    dir.write("notes.txt", "no certificate").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", dir.join("below/round")).unwrap();
    let shown = run(["inspect".as_ref(), "--format=json".as_ref(), dir.path().as_os_str()]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    let found: Vec<_> =
        shown.json().iter().map(|line| line["subject"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found, ["CN=example.org", "CN=a", "CN=localhost"]);
}

/// What is broken is told by file and line; the rest is shown all the same.
#[test]
fn broken_input_hides_nothing() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let good = ca.issue("localhost").chain_pem();
    let cut: String = good.lines().take(4).map(|line| format!("{line}\n")).collect();
    let mixed = dir.write("mixed.pem", cut + &good).unwrap();
    let half = dir.write("half.pem", ca.issue("example.org").chain_pem()).unwrap();
    damage(&half, Damage::Half).unwrap();
    let missing = dir.join("missing.pem");
    let paths: [&OsStr; 3] = [mixed.as_os_str(), half.as_os_str(), missing.as_os_str()];
    let shown = run(["inspect".as_ref()].into_iter().chain(paths));
    assert_eq!(shown.code, Some(2));
    assert_eq!(shown.stdout.lines().count(), 2, "{}", shown.stdout);
    assert!(shown.stdout.contains(&format!("{}:5", mixed.display())), "{}", shown.stdout);
    let errors: Vec<_> = shown.stderr.lines().collect();
    let [first, second, third] = errors[..] else { panic!("{}", shown.stderr) };
    assert!(first.starts_with(&format!("error: {}:1: ", mixed.display())) && first.ends_with("[malformed]"));
    assert!(second.starts_with(&format!("error: {}:1: ", half.display())) && second.ends_with("[malformed]"));
    assert!(third.starts_with(&format!("error: {}: ", missing.display())) && third.ends_with("[not_found]"));

    let json = run(["inspect".as_ref(), "--format=json".as_ref()].into_iter().chain(paths));
    let problems: Vec<_> = json.json().into_iter().filter(|line| line["event"] == "problem").collect();
    assert_eq!(problems.len(), 3);
    assert_eq!((&problems[0]["reason"], &problems[0]["line"]), (&"malformed".into(), &1.into()));
}

#[test]
fn the_verdict_about_a_key() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let (issued, other) = (ca.issue("localhost"), ca.issue("localhost"));
    let cert = dir.write("tls.crt", issued.chain_pem()).unwrap();
    let ask = |key: &std::path::Path, format: &str| {
        run([
            "inspect".as_ref(),
            cert.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
            "--format".as_ref(),
            format.as_ref(),
        ])
    };
    for (name, pem) in [("pkcs8.key", issued.key_pem()), ("sec1.key", issued.key_sec1_pem().unwrap())] {
        let key = dir.write(name, pem).unwrap();
        let yes = ask(&key, "text");
        assert_eq!(yes.code, Some(0), "{yes:?}");
        assert!(yes.stdout.contains(&format!("{name} belongs to leaf CN=localhost (")), "{}", yes.stdout);
    }
    let der = dir.write("der.key", issued.key_der().secret_der()).unwrap();
    assert_eq!(ask(&der, "text").code, Some(0));

    let wrong = dir.write("other.key", other.key_pem()).unwrap();
    let no = ask(&wrong, "text");
    assert_eq!((no.code, &*no.stderr), (Some(1), ""));
    assert!(no.stdout.contains("does NOT belong to this certificate"), "{}", no.stdout);
    let json = ask(&wrong, "json").json();
    let verdict = json.last().unwrap();
    assert_eq!((&verdict["event"], &verdict["matches"]), (&"key".into(), &false.into()));
    assert!(verdict["fingerprint"].is_null());

    let none = dir.write("none.key", issued.chain_pem()).unwrap();
    let none = ask(&none, "text");
    assert_eq!(none.code, Some(2));
    assert!(none.error_line().ends_with("[empty]"), "{}", none.stderr);
}

/// OpenSSL writes Ed25519 keys without their public half: the TLS library must tell.
#[test]
fn the_verdict_about_a_key_without_its_public_half() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let issued = ca.leaf("localhost").key(certsource_testkit::KeyKind::Ed25519).issue();
    let other = ca.leaf("localhost").key(certsource_testkit::KeyKind::Ed25519).issue();
    let cert = dir.write("tls.crt", issued.chain_pem()).unwrap();
    for (key, code) in [(&issued, 0), (&other, 1)] {
        // RFC 8410: the seed is 32 bytes behind this prefix; what rcgen appends to it is the public half.
        let whole = key.key_der();
        let whole = whole.secret_der();
        let prefix = [0x04, 0x22, 0x04, 0x20];
        let seed = whole.windows(4).position(|four| four == prefix).unwrap() + 4;
        let mut bare = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
        bare.extend(prefix);
        bare.extend(&whole[seed..seed + 32]);
        let path = dir.write("bare.key", &bare).unwrap();
        let shown = run(["inspect".as_ref(), cert.as_os_str(), "--key".as_ref(), path.as_os_str()]);
        assert_eq!(shown.code, Some(code), "{shown:?}");
    }
}

#[test]
fn expired_and_not_yet_valid_are_told() {
    let dir = TestDir::new().unwrap();
    let (ca, now) = (Ca::new("a"), SystemTime::now());
    let old = ca.leaf("old").not_after(now - DAY * 5 - DAY / 2).issue();
    let new = ca.leaf("new").not_before(now + DAY * 3 + DAY / 2).valid_for(DAY * 30).issue();
    let path = dir.write("two.pem", old.leaf_pem() + &new.leaf_pem()).unwrap();
    let shown = run(["inspect".as_ref(), path.as_os_str()]);
    let lines: Vec<_> = shown.stdout.lines().collect();
    assert!(lines[1].contains("EXPIRED 5 d ago"), "{}", lines[1]);
    assert!(lines[2].contains("valid in 3 d"), "{}", lines[2]);
    assert!(!shown.stdout.contains('\u{1b}'), "no colour in a pipe");
}

#[test]
fn hostile_names_are_escaped() {
    let dir = TestDir::new().unwrap();
    let issued = Ca::new("\u{1b}[31mred\u{202e}\n<b>").leaf("a\u{7}b").issue();
    let path = dir.write("tls.crt", issued.chain_pem() + &issued.root_pem()).unwrap();
    for format in ["text", "json"] {
        let shown = run([
            "inspect".as_ref(),
            "--all".as_ref(),
            path.as_os_str(),
            "--format".as_ref(),
            format.as_ref(),
        ]);
        assert_eq!(shown.code, Some(0));
        let hostile = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '<' | '>'));
        assert!(!shown.stdout.contains(hostile), "{:?}", shown.stdout);
        assert_eq!(shown.stdout.lines().count(), if format == "text" { 3 } else { 2 });
    }
}

/// What it writes as PEM is what was there, and nothing secret.
#[test]
fn pem_is_read_back() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example\nroot").intermediate("b");
    let issued = ca.issue("localhost");
    ca.revoke(&issued);
    let cert = dir.write("tls.pem", issued.combined_pem()).unwrap();
    let crl = dir.write("ca.crl", ca.crl().pem()).unwrap();
    let args = ["inspect", "--all", "--format=pem"].map(AsRef::<OsStr>::as_ref);
    let shown = run(args.into_iter().chain([cert.as_os_str(), crl.as_os_str()]));
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    assert_eq!(shown.stdout.matches("BEGIN").count(), 3, "{}", shown.stdout);
    assert!(!shown.stdout.contains("PRIVATE"), "{}", shown.stdout);
    let again = run_with(["inspect", "--all", "--format=json", "-"], shown.stdout.as_bytes());
    let first = run(["inspect", "--all", "--format=json"]
        .map(AsRef::<OsStr>::as_ref)
        .into_iter()
        .chain([cert.as_os_str(), crl.as_os_str()]));
    let prints = |finished: &common::Finished| -> Vec<_> {
        let lines = finished.json().into_iter().filter(|line| line["event"] != "private_key");
        lines.map(|line| (line["fingerprint"].clone(), line["number"].clone())).collect()
    };
    assert_eq!(prints(&again).len(), 3);
    assert_eq!(prints(&again), prints(&first));
}

#[test]
fn a_server_shows_its_chain_whoever_issued_it() {
    let ca = Ca::new("nobody's root").intermediate("nobody's issuing CA");
    let issued = ca.issue("localhost");
    let server = Server::start(config(&issued, &[]), "");
    let shown = run(["inspect", "--connect", &server.target()]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    assert!(shown.stdout.contains(&Fingerprint::of(&issued.leaf_der()).to_string()), "{}", shown.stdout);
    assert!(shown.stdout.contains("1 more certificate in a chain"), "{}", shown.stdout);
    let all =
        run(["inspect", "--all", "--format=json", "--connect", &server.target(), "--servername", "other"]);
    let roles: Vec<_> = all.json().iter().map(|line| line["role"].as_str().unwrap().to_owned()).collect();
    assert_eq!(roles, ["leaf", "intermediate"]);
    assert_eq!(all.json()[0]["path"], server.target());

    // One that demands a client certificate shows its chain before that.
    let strict = Server::start(config(&issued, &[&ca]), "");
    assert_eq!(run(["inspect", "--connect", &strict.target()]).code, Some(0));

    let key = TestDir::new().unwrap();
    let path = key.write("tls.key", issued.key_pem()).unwrap();
    let verdict = run([
        "inspect".as_ref(),
        "--connect".as_ref(),
        server.target().as_ref(),
        "--key".as_ref(),
        path.as_os_str(),
    ]);
    assert!(verdict.stdout.contains("belongs to leaf CN=localhost (localhost:"), "{}", verdict.stdout);
}

#[test]
fn a_server_that_is_not_there_or_speaks_no_tls_is_one_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let shown = run(["inspect", "--connect", &format!("127.0.0.1:{port}")]);
    plain.join().unwrap();
    assert_eq!((shown.code, &*shown.stdout), (Some(2), ""));
    assert!(shown.error_line().contains("served no certificate"), "{}", shown.stderr);
    // Nobody is given this port by port 0. That of the listener, which is gone, may be another test's now.
    let gone = run(["inspect", "--connect", "127.0.0.1:1"]);
    assert_eq!(gone.code, Some(2));
    assert!(
        gone.error_line().starts_with("error: cannot connect to 127.0.0.1:1; is it running"),
        "{}",
        gone.stderr
    );
}

/// What people type at night.
#[test]
fn a_server_may_be_named_as_a_url_and_a_path_that_reads_as_one_is_told() {
    let ca = Ca::new("a");
    let server = Server::start(config(&ca.issue("localhost"), &[]), "");
    let shown = run(["inspect", "--connect", &format!("https://{}/path?query", server.target())]);
    assert!(shown.code == Some(0) && shown.stdout.contains("CN=localhost"), "{shown:?}");
    for (named, target) in [
        (server.target(), server.target()),
        (String::from("https://localhost"), String::from("localhost:443")),
        (String::from("https://[::1]/"), String::from("[::1]:443")),
    ] {
        let wrong = run(["inspect", &named]);
        let line = format!(
            "error: {named}: there is no such file; what a server serves is shown by --connect {target} [not_found]"
        );
        assert_eq!((wrong.code, wrong.error_line()), (Some(2), &*line));
    }
}

#[test]
fn the_time_line_shows_now_renewal_and_overlap() {
    let dir = TestDir::new().unwrap();
    let now = SystemTime::now();
    let old = Ca::builder("Example root").not_before(now - DAY * 300).not_after(now + DAY * 65).build();
    let new = Ca::builder("Example root").not_before(now - DAY * 5).not_after(now + DAY * 360).build();
    let bundle = dir.write("ca.pem", old.certificate_pem() + &new.certificate_pem()).unwrap();
    let leaf = new.leaf("localhost").not_before(now - DAY).not_after(now + DAY * 89).issue();
    let leaf = dir.write("tls.crt", leaf.chain_pem()).unwrap();
    let shown = run(["inspect".as_ref(), "--timeline".as_ref(), bundle.as_os_str(), leaf.as_os_str()]);
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""));
    let row = |begin: &str| shown.stdout.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
    assert!(row("leaf CN=localhost  ").ends_with("88 d left, renew in 58 d"), "{}", shown.stdout);
    assert!(row("  overlap").ends_with("both valid, 64 d left"), "{}", shown.stdout);
    assert!(row("┣━┫ valid").contains("◆ renew"), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\u{1b}'), "no colour in a pipe");
    // Not in a pipe unasked: other programs read it.
    let bare = run(["inspect".as_ref(), bundle.as_os_str()]);
    assert!(!bare.stdout.contains('━'), "{}", bare.stdout);
}

#[test]
fn a_directory_without_certificates_is_told() {
    let dir = TestDir::new().unwrap();
    dir.write("readme.txt", "nothing").unwrap();
    let none = run(["inspect".as_ref(), dir.path().as_os_str()]);
    assert_eq!((none.code, &*none.stdout), (Some(2), ""));
    assert!(
        none.error_line().contains("there is nothing to look at") && none.error_line().ends_with("[empty]")
    );
    let good = TestDir::new().unwrap();
    good.write("ca.pem", Ca::new("a").certificate_pem()).unwrap();
    let one = run(["inspect".as_ref(), good.path().as_os_str(), dir.path().as_os_str()]);
    assert!(
        one.code == Some(2) && one.stdout.contains("CN=a") && one.error_line().contains("nothing to look at")
    );
}
