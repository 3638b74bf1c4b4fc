//! What is read from files, and the one line that is said when it cannot be: every kind of content and of path.
//! needs: setpriv
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::fs;
use std::path::{Path, PathBuf};

use certsource::files::{KeyPermissions, Limits};
use certsource::parts::Part;
use certsource::{Files, KeyFormat, Reason, Source};
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};

struct Scene {
    dir: TestDir,
    ca: Ca,
    issued: Issued,
}

impl Scene {
    /// `ca.crt`, `tls.crt`, `tls.key` as plain files.
    fn new() -> Self {
        let ca = Ca::new("Root");
        let issued = ca.intermediate("Issuing").issue("localhost");
        let dir = TestDir::new().unwrap();
        dir.write_issued(&issued).unwrap();
        Self { dir, ca, issued }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.dir.write(name, content).unwrap()
    }

    fn identity(&self) -> Files {
        Files::identity(self.path("tls.crt"), self.path("tls.key"))
    }
}

/// Loads, and gives reason, path below the directory, line and message of the failure.
fn failure(scene: &Scene, mut files: Files) -> (Reason, String, Option<usize>, String) {
    let error = files.load().expect_err("this should not load");
    let path = error.path().expect("a path is named");
    let path = path.strip_prefix(scene.dir.path()).unwrap_or(path).display().to_string();
    (error.reason(), path, error.line(), error.message().to_owned())
}

#[track_caller]
fn assert_fails(scene: &Scene, files: Files, reason: Reason, path: &str, line: Option<usize>, says: &str) {
    let (found_reason, found_path, found_line, message) = failure(scene, files);
    assert_eq!((found_reason, found_path.as_str(), found_line), (reason, path, line), "{message}");
    assert!(message.contains(says), "{message:?} does not say {says:?}");
}

#[test]
fn the_kubernetes_layout_loads_whole() {
    let scene = Scene::new();
    let material = Files::kubernetes(scene.dir.path()).load().unwrap();
    let anchors = material.trust().unwrap();
    assert_eq!(anchors.len(), 1);
    assert_eq!(anchors[0].der(), &scene.ca.certificate_der());
    assert_eq!(anchors[0].origin().as_path(), Some(scene.path("ca.crt").as_path()));
    assert_eq!(anchors[0].line(), Some(1));
    let identity = material.identity().unwrap();
    let chain: Vec<_> = identity.chain().iter().map(|certificate| certificate.der().clone()).collect();
    assert_eq!(chain, scene.issued.chain_der());
    assert!(identity.is_key_match_known());
    assert!(!material.is_single_file());
    assert_eq!(material.warnings(), []);
}

#[test]
fn without_trust_the_ca_file_may_be_missing() {
    let scene = Scene::new();
    scene.dir.remove("ca.crt").unwrap();
    assert_fails(
        &scene,
        Files::kubernetes(scene.dir.path()),
        Reason::NotFound,
        "ca.crt",
        None,
        "no such file",
    );
    let material = Files::kubernetes(scene.dir.path()).without_trust().load().unwrap();
    assert!(material.trust().is_none() && material.identity().is_some());
}

#[test]
fn a_combined_file_holds_chain_and_key_in_any_order() {
    let scene = Scene::new();
    let key_first = scene.issued.key_pem() + &scene.issued.chain_pem();
    for content in [scene.issued.combined_pem(), key_first] {
        let path = scene.write("tls.pem", content);
        for mut files in [Files::combined(&path), Files::identity(&path, &path)] {
            let material = files.load().unwrap();
            assert_eq!(material.identity().unwrap().leaf().der(), &scene.issued.leaf_der());
            assert!(material.is_single_file());
        }
    }
    // Beside trust it is not the whole source any more.
    let mut files = Files::combined(scene.path("tls.pem")).with_trust(scene.path("ca.crt"));
    assert!(!files.load().unwrap().is_single_file());
}

#[test]
fn every_key_format_is_read_from_pem_and_der() {
    let scene = Scene::new();
    scene.write("sec1.key", scene.issued.key_sec1_pem().unwrap());
    scene.write("pkcs8.der", scene.issued.key_der().secret_der());
    let sec1 = pem_body(&scene.issued.key_sec1_pem().unwrap());
    scene.write("sec1.der", sec1);
    let formats = [
        ("tls.key", KeyFormat::Pkcs8),
        ("sec1.key", KeyFormat::Sec1),
        ("pkcs8.der", KeyFormat::Pkcs8),
        ("sec1.der", KeyFormat::Sec1),
    ];
    for (name, format) in formats {
        let files = Files::identity(scene.path("tls.crt"), scene.path(name));
        let material = files.key_permissions(KeyPermissions::Ignore).load().unwrap();
        let identity = material.identity().unwrap();
        assert_eq!(identity.key().format(), format, "{name}");
        assert!(identity.is_key_match_known(), "{name}");
    }
}

/// The DER of the only section of a PEM text.
fn pem_body(pem: &str) -> Vec<u8> {
    let item = rustls_pemfile::read_one_from_slice(pem.as_bytes()).unwrap().unwrap().0;
    match item {
        rustls_pemfile::Item::Sec1Key(key) => key.secret_sec1_der().to_vec(),
        rustls_pemfile::Item::X509Certificate(der) => der.to_vec(),
        rustls_pemfile::Item::Crl(der) => der.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_and_crls_are_read_from_der() {
    let scene = Scene::new();
    let ca = scene.write("ca.der", scene.ca.certificate_der());
    let crl = scene.write("ca.crl", scene.ca.crl().der());
    let material = Files::trust(ca).with_crl(crl).load().unwrap();
    assert_eq!(material.trust().unwrap()[0].der(), &scene.ca.certificate_der());
    assert_eq!(material.trust().unwrap()[0].line(), None);
    assert_eq!(material.crls().unwrap().len(), 1);
}

#[test]
fn several_bundles_and_crls_add_up() {
    let scene = Scene::new();
    let other = Ca::new("Other");
    scene.write("other.pem", format!("# a comment\n\n{}", other.certificate_pem()));
    let crls = scene.write("all.crl", scene.ca.crl().pem() + &other.crl().pem());
    let files = Files::trust(scene.path("ca.crt")).and_trust(scene.path("other.pem")).with_crl(crls);
    // Asked for twice is asked for once.
    let material = files.and_trust(scene.path("ca.crt")).load().unwrap();
    let lines: Vec<_> = material.trust().unwrap().iter().map(|anchor| anchor.line()).collect();
    assert_eq!(lines, [Some(1), Some(3)]);
    assert_eq!(material.crls().unwrap().len(), 2);
}

#[test]
fn a_directory_of_anchors_gives_its_files_and_nothing_else() {
    let scene = Scene::new();
    let others: Vec<Ca> = ["One", "Two", "Three", "Four"].into_iter().map(Ca::new).collect();
    let names = ["roots/one.pem", "roots/TWO.CRT", "roots/three.cer", "roots/0a1b2c3d.0"];
    for (name, ca) in names.iter().zip(&others) {
        scene.write(name, ca.certificate_pem());
    }
    for passed_over in ["roots/.hidden.pem", "roots/README", "roots/ca.pem.bak", "roots/sub.pem/inner.pem"] {
        scene.write(passed_over, "-----BEGIN CERTIFICATE-----\nbroken");
    }
    let mut files = Files::trust(scene.path("roots"));
    let material = files.load().unwrap();
    let found: Vec<_> = material.trust().unwrap().iter().map(|anchor| anchor.der().clone()).collect();
    assert_eq!(found.len(), 4);
    assert!(others.iter().all(|ca| found.contains(&ca.certificate_der())));
    assert!(!material.is_single_file());
    assert_eq!(material.warnings(), []);

    // A file that is whole and holds no anchor: passed over, and said.
    scene.write("roots/tls.pem", scene.issued.key_pem());
    let material = files.load().unwrap();
    assert_eq!(material.trust().unwrap().len(), 4);
    let [warning] = material.warnings() else { panic!("{:?}", material.warnings()) };
    assert_eq!(warning.origin.as_path(), Some(scene.path("roots/tls.pem").as_path()));
    assert!(warning.message.contains("1 private key"), "{warning}");

    // One that is not whole fails the part: its anchor must not be lost silently.
    let pem = others[0].certificate_pem();
    scene.write("roots/one.pem", &pem[..pem.len() / 2]);
    assert_fails(
        &scene,
        Files::trust(scene.path("roots")),
        Reason::Malformed,
        "roots/one.pem",
        Some(1),
        "cut",
    );
    scene.write("roots/one.pem", "");
    assert_fails(&scene, Files::trust(scene.path("roots")), Reason::Empty, "roots/one.pem", None, "empty");
}

#[test]
fn an_anchor_under_several_names_counts_once() {
    let scene = Scene::new();
    let other = Ca::new("Other");
    scene.write("roots/ca.pem", scene.ca.certificate_pem());
    scene.write("roots/0a1b2c3d.0", scene.ca.certificate_pem());
    scene.write("roots/all.crt", other.certificate_pem() + &scene.ca.certificate_pem());
    let material = Files::trust(scene.path("roots")).load().unwrap();
    let found: Vec<_> = material.trust().unwrap().iter().map(|anchor| anchor.der().clone()).collect();
    assert_eq!(found, [scene.ca.certificate_der(), other.certificate_der()]);
}

#[test]
fn a_directory_without_anchors_is_never_no_roots() {
    let scene = Scene::new();
    fs::create_dir(scene.path("roots")).unwrap();
    assert_fails(&scene, Files::trust(scene.path("roots")), Reason::Empty, "roots", None, "*.pem");
    scene.write("roots/key.pem", scene.issued.key_pem());
    assert_fails(
        &scene,
        Files::trust(scene.path("roots")),
        Reason::Empty,
        "roots/key.pem",
        None,
        "no certificate",
    );
}

#[test]
fn a_kubernetes_volume_as_a_directory_of_anchors_is_read_behind_its_link() {
    let first = Ca::new("First").issue("a");
    let dir = KubeletDir::new(&first).unwrap();
    let mut files = Files::trust(dir.path());
    let material = files.load().unwrap();
    // tls.crt is one of its files too.
    let paths: Vec<_> = material.trust().unwrap().iter().map(|anchor| anchor.origin().to_string()).collect();
    assert_eq!(paths, [dir.ca_path().display().to_string(), dir.cert_path().display().to_string()]);

    // Right after the swap, before the link of a new name is there, and with that of a removed one still there.
    let second = Ca::new("Second");
    let mut steps = dir.write_steps([("new.pem", second.certificate_pem())]).unwrap();
    steps.run_through("rename ..data_tmp").unwrap();
    assert!(!dir.join("new.pem").exists() && dir.cert_path().symlink_metadata().is_ok());
    let material = files.load().unwrap();
    let anchors: Vec<_> = material.trust().unwrap().iter().map(|anchor| anchor.der().clone()).collect();
    assert_eq!(anchors, [second.certificate_der()]);
}

#[test]
fn what_is_wrong_with_a_path_is_said_in_one_line() {
    let scene = Scene::new();
    let missing = || Files::trust(scene.path("none.pem"));
    assert_fails(&scene, missing(), Reason::NotFound, "none.pem", None, "cannot read the trust anchors");
    let shown = missing().load().unwrap_err().to_string();
    assert!(!shown.contains('\n') && shown.contains("none.pem: cannot read"), "{shown}");

    let directory = || Files::identity(scene.dir.path(), scene.path("tls.key"));
    assert_fails(&scene, directory(), Reason::NotRegularFile, "", None, "this is a directory");
    let key = Files::identity(scene.path("tls.crt"), "/dev/null");
    assert_fails(&scene, key, Reason::NotRegularFile, "/dev/null", None, "this is a device");
    let through_a_file = Files::trust(scene.path("ca.crt/x"));
    assert_fails(&scene, through_a_file, Reason::Io, "ca.crt/x", None, "cannot read");
    let crl = Files::trust(scene.path("ca.crt")).with_crl(scene.path("gone.crl"));
    assert_fails(&scene, crl, Reason::NotFound, "gone.crl", None, "revocation list");
}

#[test]
#[cfg(unix)]
fn links_that_lead_nowhere_or_in_a_circle_are_errors() {
    let scene = Scene::new();
    std::os::unix::fs::symlink("nowhere", scene.path("dangling")).unwrap();
    std::os::unix::fs::symlink("circle", scene.path("circle")).unwrap();
    assert_fails(
        &scene,
        Files::trust(scene.path("dangling")),
        Reason::NotFound,
        "dangling",
        None,
        "no such file",
    );
    assert_fails(&scene, Files::trust(scene.path("circle")), Reason::Io, "circle", None, "cannot read");
}

#[test]
fn what_is_wrong_with_a_content_is_said_with_its_line() {
    let scene = Scene::new();
    let chain = scene.issued.chain_pem();
    let ca = scene.ca.certificate_pem();
    let second = ca.lines().count() + 1;
    let trust = |name: &str, content: &str| Files::trust(scene.write(name, content));

    assert_fails(&scene, trust("a.pem", ""), Reason::Empty, "a.pem", None, "a writer may be at work");
    assert_fails(&scene, trust("b.pem", "hello\n"), Reason::Malformed, "b.pem", None, "neither PEM nor DER");
    let key = scene.issued.key_pem();
    assert_fails(
        &scene,
        trust("c.pem", &key),
        Reason::Empty,
        "c.pem",
        None,
        "no certificate in it, but 1 private key",
    );
    let crl = scene.ca.crl().pem();
    assert_fails(&scene, trust("d.pem", &crl), Reason::Empty, "d.pem", None, "1 revocation list");
    let cut = ca.clone() + &ca[..ca.len() / 2];
    assert_fails(&scene, trust("e.pem", &cut), Reason::Malformed, "e.pem", Some(second), "cut");
    let trusted = ca.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    assert_fails(&scene, trust("f.pem", &trusted), Reason::Unsupported, "f.pem", Some(1), "openssl x509");
    let foreign = "-----BEGIN PUBLIC KEY-----\nMAAA\n-----END PUBLIC KEY-----\n";
    assert_fails(&scene, trust("g.pem", foreign), Reason::Empty, "g.pem", None, "section");

    let identity = |name: &str, content: &str| {
        let key = scene.write(name, content);
        Files::identity(scene.path("tls.crt"), key)
    };
    assert_fails(
        &scene,
        identity("a.key", &chain),
        Reason::Empty,
        "a.key",
        None,
        "no private key in it, but 2 certificates",
    );
    let two = key.clone() + &key;
    let line = Some(key.lines().count() + 1);
    assert_fails(&scene, identity("b.key", &two), Reason::Malformed, "b.key", line, "2 private keys");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_fails(&scene, identity("c.key", &encrypted), Reason::Encrypted, "c.key", Some(1), "openssl pkey");
    assert_fails(&scene, identity("d.key", ""), Reason::Empty, "d.key", None, "the file is empty");
    let other = scene.ca.issue("other").key_pem();
    assert_fails(&scene, identity("e.key", &other), Reason::KeyMismatch, "e.key", None, "tls.crt");

    let no_chain = Files::combined(scene.path("tls.key"));
    assert_fails(&scene, no_chain, Reason::Empty, "tls.key", None, "no certificate in it, but 1 private key");
    let no_key = Files::combined(scene.path("tls.crt"));
    assert_fails(&scene, no_key, Reason::Empty, "tls.crt", None, "no private key in it");
    let crl = Files::trust(scene.path("ca.crt")).with_crl(scene.path("tls.crt"));
    assert_fails(&scene, crl, Reason::Empty, "tls.crt", None, "no revocation list in it, but 2 certificates");
}

#[test]
fn other_sections_are_named_as_long_as_the_message_stays_short() {
    let scene = Scene::new();
    let says = |labels: &[&str]| {
        let text: String = labels
            .iter()
            .map(|label| format!("-----BEGIN {label}-----\nMAAA\n-----END {label}-----\n"))
            .collect();
        failure(&scene, Files::trust(scene.write("other.pem", text))).3
    };
    assert_eq!(
        says(&["A", "B", "C", "A", "D"]),
        "no certificate in it, but 2 sections \"A\", 1 section \"B\", 1 section \"C\", 1 section of another kind"
    );
    let (longest, too_long) = ("L".repeat(40), "L".repeat(41));
    assert_eq!(says(&[&longest]), format!("no certificate in it, but 1 section \"{longest}\""));
    assert_eq!(says(&[&too_long, &too_long]), "no certificate in it, but 2 sections of other kinds");
}

#[test]
fn a_broken_identity_does_not_hide_the_trust() {
    let scene = Scene::new();
    scene.write("tls.key", "");
    let parts = Files::kubernetes(scene.dir.path()).read().unwrap();
    assert!(matches!(&parts.trust, Part::Found(anchors) if anchors.len() == 1));
    assert!(matches!(&parts.identity, Part::Broken(error) if error.reason() == Reason::Empty));
    assert!(matches!(parts.crls, Part::Absent));
    scene.dir.remove("ca.crt").unwrap();
    scene.write("tls.key", scene.issued.key_pem());
    let parts = Files::kubernetes(scene.dir.path()).read().unwrap();
    assert!(matches!(&parts.trust, Part::Broken(error) if error.reason() == Reason::NotFound));
    assert!(matches!(parts.identity, Part::Found(_)));
}

#[test]
fn limits_hold_and_are_named() {
    let scene = Scene::new();
    let size = fs::metadata(scene.path("ca.crt")).unwrap().len();
    let at_limit = |file_bytes| {
        let mut limits = Limits::default();
        limits.file_bytes = file_bytes;
        Files::trust(scene.path("ca.crt")).limits(limits)
    };
    at_limit(size).load().unwrap();
    assert_fails(
        &scene,
        at_limit(size - 1),
        Reason::TooLarge,
        "ca.crt",
        None,
        &format!("{} bytes", size - 1),
    );

    let all: u64 = ["ca.crt", "tls.crt", "tls.key"]
        .map(|name| fs::metadata(scene.path(name)).unwrap().len())
        .iter()
        .sum();
    let in_total = |total_bytes| {
        let mut limits = Limits::default();
        limits.total_bytes = total_bytes;
        Files::kubernetes(scene.dir.path()).limits(limits)
    };
    in_total(all).load().unwrap();
    assert_fails(&scene, in_total(all - 1), Reason::TooLarge, "tls.key", None, "the source holds more");

    let certificates = |certificates| {
        let mut limits = Limits::default();
        limits.certificates = certificates;
        Files::kubernetes(scene.dir.path()).limits(limits)
    };
    certificates(3).load().unwrap();
    assert_fails(&scene, certificates(2), Reason::TooLarge, "tls.crt", None, "more than 2 certificates");

    let entries = |directory_entries| {
        let mut limits = Limits::default();
        limits.directory_entries = directory_entries;
        Files::trust(scene.dir.path()).limits(limits)
    };
    entries(3).load().unwrap();
    assert_fails(&scene, entries(2), Reason::TooLarge, "", None, "more than 2 names");
}

#[test]
fn a_hundred_thousand_certificates_are_too_large_by_default() {
    let scene = Scene::new();
    let bundle = scene.ca.certificate_pem().repeat(100_000);
    let files = Files::trust(scene.write("huge.pem", bundle));
    assert_fails(&scene, files, Reason::TooLarge, "huge.pem", None, "limit of 16777216 bytes");
}

#[test]
#[cfg(unix)]
fn a_key_that_others_can_read_is_told_refused_or_ignored() {
    use std::os::unix::fs::PermissionsExt as _;

    let scene = Scene::new();
    let set = |mode| fs::set_permissions(scene.path("tls.key"), fs::Permissions::from_mode(mode)).unwrap();
    for (mode, is_open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
        set(mode);
        let warnings = scene.identity().load().unwrap().warnings().to_vec();
        assert_eq!(!warnings.is_empty(), is_open, "{mode:o}: {warnings:?}");
        if is_open {
            assert!(warnings[0].message.contains(&format!("(mode {mode:04o})")), "{warnings:?}");
            let strict = scene.identity().key_permissions(KeyPermissions::Require);
            assert_fails(&scene, strict, Reason::PermissionInsecure, "tls.key", None, "chmod 600");
            let lax = scene.identity().key_permissions(KeyPermissions::Ignore).load().unwrap();
            assert_eq!(lax.warnings(), []);
        } else {
            scene.identity().key_permissions(KeyPermissions::Require).load().unwrap();
        }
    }
    // The mode of a certificate does not matter; that of a combined file does.
    let combined = scene.write("tls.pem", scene.issued.combined_pem());
    fs::set_permissions(&combined, fs::Permissions::from_mode(0o644)).unwrap();
    let strict = Files::combined(&combined).key_permissions(KeyPermissions::Require);
    assert_fails(&scene, strict, Reason::PermissionInsecure, "tls.pem", None, "mode 0644");

    // In a Kubernetes volume the mode is the volume's.
    let dir = KubeletDir::new(&scene.issued).unwrap();
    let key = dir.key_path();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let files = Files::kubernetes(dir.path()).key_permissions(KeyPermissions::Require);
    assert_eq!({ files }.load().unwrap().warnings(), []);
}

#[test]
#[cfg(unix)]
fn a_file_without_permission_is_that_and_not_missing() {
    use std::os::unix::fs::PermissionsExt as _;

    let scene = Scene::new();
    fs::set_permissions(scene.path("ca.crt"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(scene.path("ca.crt")).is_ok() {
        // Root reads everything.
        return as_an_ordinary_user("a_file_without_permission_is_that_and_not_missing");
    }
    let files = Files::trust(scene.path("ca.crt"));
    assert_fails(&scene, files, Reason::PermissionDenied, "ca.crt", None, "permission denied");
}

/// Has the test of this name run once more by a child without the rights of the superuser. Where there can be none that is said; where
/// the variable `CERTSOURCE_STRICT` is set, it fails.
#[cfg(unix)]
#[allow(clippy::print_stderr, reason = "what is passed over is said")]
fn as_an_ordinary_user(test: &str) {
    const CHILD: &str = "CERTSOURCE_IS_ORDINARY";
    assert!(std::env::var_os(CHILD).is_none(), "the child may read everything too");
    let ordinary = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command
    };
    if !ordinary().arg("true").status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CERTSOURCE_STRICT").is_none(), "needs setpriv(1), of Linux");
        eprintln!("NOT RUN: {test} needs setpriv(1), of Linux");
        return;
    }
    let child = std::env::current_exe().unwrap();
    let output =
        ordinary().arg(child).args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_key_among_the_anchors_is_told() {
    let scene = Scene::new();
    let path = scene.write("mixed.pem", scene.ca.certificate_pem() + &scene.issued.key_pem());
    let material = Files::trust(path).load().unwrap();
    let [warning] = material.warnings() else { panic!("{:?}", material.warnings()) };
    assert!(warning.message.contains("private key"), "{warning}");
}

#[test]
fn nothing_secret_is_shown() {
    let scene = Scene::new();
    let mut files = Files::kubernetes(scene.dir.path());
    let shown = format!("{:?} {:?} {files:?}", files.read().unwrap(), files.load().unwrap());
    let key = scene.issued.key_pem();
    let body: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(body.iter().all(|line| !shown.contains(line)), "{shown}");
    let der = scene.issued.key_der();
    let bytes = format!("{:?}", &der.secret_der()[..8]);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}

#[test]
fn the_origin_names_what_people_know() {
    let shown = |files: Files| files.origin().to_string();
    let path = |text: &str| Path::new(text).display().to_string();
    assert_eq!(shown(Files::trust("/a/ca.pem")), path("/a/ca.pem"));
    assert_eq!(shown(Files::kubernetes("/a/tls")), path("/a/tls"));
    assert_eq!(shown(Files::identity("/a/tls.crt", "/b/tls.key")), path("/a/tls.crt"));
    assert_eq!(shown(Files::identity("tls.crt", "tls.key")), path("tls.crt"));
}
