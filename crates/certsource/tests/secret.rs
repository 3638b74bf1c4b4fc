//! Invariant 10: no private byte is shown by anything that this crate can print. Every public type that prints itself is
//! here, or said to be one that can hold no key; the list of public items says which there are.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod secret_support;

use std::error::Error as _;
use std::time::Duration;

use certsource::clock::Now;
use certsource::detect::{Mtime, Sha256};
use certsource::files::{KeyPermissions, Limits};
use certsource::machine::{Candidate, Machine, Policy, Todo, Told, Verdict};
use certsource::parts::{Part, Parts};
use certsource::pem::{self, Content};
use certsource::{Driver, Error, Files, KeyFormat, Origin, PrivateKey, Reason, Source, push};
use certsource_testkit::{Ca, Issued, KeyKind, TestDir};

use secret_support::{Secret, Shown};

/// The control: each form of print is found.
#[test]
fn the_search_finds_a_key_in_each_form_of_print() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Ed25519] {
        let issued = Ca::new("ca").leaf("client").key(kind).issue();
        let secret = Secret::of(&issued);
        let der = issued.key_der().secret_der().to_vec();
        let (pem, spaced) =
            (issued.key_pem(), der.iter().map(|byte| format!("{byte:02X} ")).collect::<String>());
        let part = &der[der.len() / 2 - 8..der.len() / 2 + 2];
        for (form, text) in [
            ("base64", pem.clone()),
            ("base64", pem.replace('\n', "\\n")),
            ("decimal numbers", format!("{der:?}")),
            ("decimal numbers", format!("{der:#?}")),
            ("hexadecimal digits", spaced.clone()),
            ("hexadecimal digits", spaced.replace(' ', ":")),
            ("hexadecimal digits", format!("{der:02x?}")),
            ("hexadecimal digits", format!("{der:#04x?}")),
            ("its bytes", String::from_utf8_lossy(&der).into_owned()),
        ] {
            // By which of the forms is chance: some bytes of a key are letters.
            assert!(secret.found_in(&text).is_some(), "{form}: {kind:?}");
        }
        // Letters stand for themselves there; most octets have an escape, which is hexadecimal.
        assert!(secret.found_in(&der.escape_ascii().to_string()).is_some());
        assert!(kind == KeyKind::EcdsaP256 || secret.found_in(&format!("{part:?}")).is_some());
        assert_eq!(secret.found_in(&issued.chain_pem()), None);
    }
}

fn scene() -> (TestDir, Issued, Files) {
    let issued = Ca::new("ca").issue("client");
    let dir = TestDir::new().unwrap();
    dir.write_issued(&issued).unwrap();
    let files = Files::kubernetes(dir.path());
    (dir, issued, files)
}

#[test]
fn no_public_type_shows_a_key() {
    let (dir, issued, mut files) = scene();
    let mut shown = Shown::of(&issued);
    let now = Now::read();

    // The text, its sections, and the key by itself.
    let text = issued.combined_pem();
    shown.debug(&pem::sections(text.as_bytes()));
    for section in pem::sections(text.as_bytes()) {
        let section = section.unwrap();
        shown.debug(&section);
        shown.text("a label", section.label());
        shown.debug(&section.content);
        if let Content::PrivateKey(key) = &section.content {
            shown.debug(key);
            shown.debug(&key.format());
        }
    }
    shown.debug(&Content::EncryptedKey(issued.key_der().secret_der().to_vec().into()));

    // The source, before and after it looked and read.
    shown.debug(&files);
    files.look(now).unwrap();
    let parts = files.read().unwrap();
    shown.debug(&files);
    shown.debug(&parts);
    shown.debug(&parts.identity);
    if let Part::Found(found) = &parts.identity {
        shown.debug(found);
        found.chain.iter().for_each(|found| shown.debug(found));
    }
    let reading = parts.assemble();
    shown.debug(&reading);
    let material = reading.whole.unwrap();
    shown.debug(&*material);
    shown.debug(&material.content_id());
    shown.display(&material.digest());
    let identity = material.identity().unwrap();
    shown.debug(identity);
    shown.display(&identity.leaf().fingerprint());
    for (role, certificate) in material.certificates() {
        shown.debug(&role);
        shown.debug(certificate);
        shown.debug(certificate.inspection());
    }
    shown.debug(&material.diff(&material));
    let (pusher, mut source) = push(Origin::named("push"));
    let der = issued.key_der().secret_der().to_vec();
    let chain = issued.chain_der();
    pusher.push(move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, der.clone().into());
        Ok(Parts::new().with_identity(&Origin::named("push"), chain.clone(), key))
    });
    shown.debug(&pusher);
    shown.debug(&source.read().unwrap());

    // A part of a source: what is whole while the key is not.
    dir.write("tls.key", Ca::new("ca").issue("another").key_pem()).unwrap();
    let partial = files.read().unwrap().assemble();
    shown.debug(&partial);
    shown.debug(partial.partial.as_ref().unwrap());
    shown.error(partial.whole.as_ref().unwrap_err());

    // Detectors that have seen the key.
    dir.write_issued(&issued).unwrap();
    let paths = ["ca.crt", "tls.crt", "tls.key"].map(|name| dir.join(name));
    let (mut mtime, mut sha256) = (Mtime::new(), Sha256::new());
    let fs = certsource::fs::RealFs::new();
    for seconds in [0, 3, 6] {
        use certsource::source::Detector as _;
        let at = now.after(Duration::from_secs(seconds));
        mtime.look(&fs, &paths, at).unwrap();
        sha256.look(&fs, &paths, at).unwrap();
        shown.debug(&mtime);
        shown.debug(&sha256);
    }
    #[cfg(feature = "notify")]
    {
        use certsource::source::{Alarm, Detector as _, Wake};
        let watches = std::sync::Arc::new(certsource::watch::OsWatches::new());
        let alarm = Alarm::new(Wake::new(|| ())).with_watches(watches.clone());
        let mut notify = certsource::detect::Notify::new();
        notify.arm(&fs, &paths, &alarm);
        notify.look(&fs, &paths, now).unwrap();
        shown.debug(&notify);
        shown.debug(&*watches);
        shown.debug(&alarm);
    }
    machine_and_driver(&mut shown, &issued, &dir);

    shown.is_all_of(
        "certsource",
        &[
            // Places, times and choices.
            "Origin",
            "Now",
            "Utc",
            "KeyPermissions",
            "Limits",
            "Kind",
            "Meta",
            "Signature",
            "Stamp",
            "Volume",
            "Policy",
            "Threshold",
            "Reason",
            "Arrival",
            "Look",
            "Armed",
            "RealFs",
            "Opened",
            // What is public by nature.
            "Crl",
            "FoundCrl",
            "CrlInspection",
            "San",
            "Expiring",
            "Regressed",
            "Stale",
            "Warning",
            "Escaped",
            // Which bytes are wrong is never said, only on which line; labels are no content.
            "Flaw",
            "Label",
            "WrongPassword",
            // Of the operating system.
            "FileEvent",
            "FileEventKind",
            "Wake",
            "Watch",
            "WatchError",
            #[cfg(not(feature = "notify"))]
            "Notify",
            #[cfg(not(feature = "notify"))]
            "OsWatches",
            #[cfg(not(feature = "notify"))]
            "Alarm",
        ],
    );
}

/// Everything that goes into a machine and comes out of it, from a first load to a failure.
fn machine_and_driver(shown: &mut Shown, issued: &Issued, dir: &TestDir) {
    let now = Now::read();
    let mut files = Files::kubernetes(dir.path());
    let mut machine = Machine::new(Policy::default(), files.origin());
    for step in 0..40 {
        let at = now.after(Duration::from_secs(step));
        let todo = machine.next(at);
        shown.debug(&todo);
        match todo {
            Todo::Look => machine.looked(at, files.look(at)),
            Todo::Read => {
                machine.read(at, at, files.read().map_or_else(certsource::Reading::from, Parts::assemble))
            }
            Todo::Judge(candidate) => {
                let candidate: Candidate = candidate;
                shown.debug(&candidate);
                machine.judged(at, Verdict::Accept);
            }
            Todo::Wait(_) => {}
        }
        if step == 20 {
            dir.write("tls.key", issued.key_pem() + &issued.key_pem()).unwrap();
        }
        shown.debug(&machine);
        while let Some(told) = machine.tell() {
            shown.debug(&told);
            if let Told::Published(publication) = &told {
                shown.debug(publication);
            }
        }
    }
    assert!(machine.trouble().is_some(), "the second key was seen");
    dir.write_issued(issued).unwrap();
    let mut driver = Driver::new(Files::kubernetes(dir.path()), Policy::default());
    driver.run(|| now);
    shown.debug(&driver);
    shown.debug(&Verdict::Refuse(Error::new(Reason::Rejected, "no")));
}

/// Whatever is wrong with a file that holds a key, what is said of it holds no piece of it.
#[test]
fn no_error_shows_a_key() {
    let (dir, issued, _) = scene();
    let mut shown = Shown::of(&issued);
    let (key, der) = (issued.key_pem(), issued.key_der().secret_der().to_vec());
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let texts: [(&str, Vec<u8>); 16] = [
        ("cut before its end", key.split("-----END").next().unwrap().into()),
        ("cut in a line", key[..key.len() / 2].into()),
        ("a wrong letter", key.replace("\n-----END", "!\n-----END").into()),
        ("a header", key.replacen('\n', &format!("\nKey: {body}\n"), 1).into()),
        (
            "the body as the label of the end",
            key.replace("-----END PRIVATE KEY", &format!("-----END {body}")).into(),
        ),
        ("the body on the line of BEGIN", key.replacen('\n', "", 1).into()),
        ("no boundaries", body.clone().into()),
        ("a NUL", (key.clone() + "\0").into()),
        ("twice", (key.clone() + &key).into()),
        ("one inside another", (key.split("-----END").next().unwrap().to_owned() + &key).into()),
        ("mislabelled", key.replace("PRIVATE KEY", "CERTIFICATE").into()),
        ("another kind of key", key.replace("PRIVATE", "RSA PRIVATE").into()),
        ("an encrypted one", key.replace("PRIVATE", "ENCRYPTED PRIVATE").into()),
        ("an unknown kind", key.replace("PRIVATE", "SECRET").into()),
        ("DER and more", [&der[..], b"more"].concat()),
        ("DER that is cut", der[..der.len() - 1].into()),
    ];
    for (name, text) in texts {
        dir.write("tls.key", &text).unwrap();
        let as_key = Files::kubernetes(dir.path()).load();
        let path = dir.join("tls.key");
        let others =
            [Files::trust(&path), Files::combined(&path), Files::crl(&path), Files::identity(&path, &path)];
        for mut files in others {
            if let Err(error) = files.load() {
                shown.error(&error);
            }
        }
        let error = as_key.expect_err(name);
        shown.error(&error);
        assert!(error.source().is_none_or(|cause| !cause.to_string().is_empty()), "{name}");
        for section in pem::sections(&text) {
            match section {
                Ok(section) => {
                    shown.debug(&section);
                    if !matches!(section.content, Content::Other(_)) {
                        shown.text(name, section.label());
                    }
                }
                Err(flaw) => shown.error(&flaw),
            }
        }
        if let Err(error) = PrivateKey::from_der(text.clone().into()) {
            shown.error(&error);
        }
        #[cfg(feature = "encrypted-keys")]
        if let Err(error) = PrivateKey::from_encrypted_der(&text, body.as_bytes()) {
            shown.error(&error);
        }
    }
    // A bundle with a key in it, and a key that others can read, are warned of.
    dir.write("bundle.pem", issued.root_pem() + &key).unwrap();
    let material = Files::trust(dir.join("bundle.pem")).load().unwrap();
    for warning in material.warnings() {
        shown.display(warning);
    }
    assert_eq!(material.warnings().len(), 1);
    let mut limits = Limits::default();
    limits.file_bytes = 100;
    dir.write_issued(&issued).unwrap();
    let files = || Files::kubernetes(dir.path()).key_permissions(KeyPermissions::Require);
    shown.error(&files().limits(limits).load().unwrap_err());
}
