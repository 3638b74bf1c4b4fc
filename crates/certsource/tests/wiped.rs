//! Key bytes are wiped: what this crate read of a private key is nowhere in the memory of the process once the key is
//! dropped, and never there when reading it failed.
//!
//! Every test searches the memory of a process of its own: [`memory_support`]. Its stack is searched in a build for release.
//! cell: release
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod memory_support;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use certsource::clock::Now;
use certsource::detect::Sha256;
use certsource::files::{KeyPermissions, Limits};
use certsource::fs::{Dir, File, Fs, Meta, Opened, RealFs, Volume};
use certsource::pem;
use certsource::{Files, Reason, Source};
use certsource_testkit::{Ca, Issued, KeyKind, TestDir};

use memory_support::{Memory, Needle, in_a_process_of_its_own, needles_of};

/// Writes `NAME/tls.crt` and `NAME/tls.key`, and gives the needles of the key.
fn pair(dir: &TestDir, name: &str, issued: &Issued, key: &[u8]) -> Vec<Needle> {
    dir.write(format!("{name}/tls.crt"), issued.chain_pem()).unwrap();
    dir.write(format!("{name}/tls.key"), key).unwrap();
    needles_of(name, &issued.key_pem())
}

fn files(dir: &Path, name: &str) -> Files {
    Files::identity(dir.join(name).join("tls.crt"), dir.join(name).join("tls.key"))
}

/// What is held is found; what was dropped, and the text that it came from, is not.
fn assert_wiped(memory: &mut Memory, name: &str, mut source: Files) {
    let material = source.load().unwrap();
    assert!(memory.count(&format!("{name}.der")) > 0, "{name}: a key that is held must be found");
    memory.is_gone(&format!("{name}.text"), "the text of a key");
    drop(material);
    memory.is_gone(name, "a key after its drop");
    drop(source);
    memory.is_gone(name, "a key after its source");
}

#[test]
fn a_key_is_found_while_it_is_held_and_nowhere_after_that() {
    in_a_process_of_its_own(
        "a_key_is_found_while_it_is_held_and_nowhere_after_that",
        |dir| {
            let ca = Ca::new("ca");
            let issued = ca.issue("pkcs8");
            let mut needles = pair(dir, "pkcs8", &issued, issued.key_pem().as_bytes());
            let issued = ca.leaf("ed25519").key(KeyKind::Ed25519).issue();
            needles.extend(pair(dir, "ed25519", &issued, issued.key_pem().as_bytes()));
            let issued = ca.issue("sec1");
            let sec1 = issued.key_sec1_pem().unwrap();
            pair(dir, "sec1", &issued, sec1.as_bytes());
            needles.extend(needles_of("sec1", &sec1));
            let issued = ca.issue("der");
            needles.extend(pair(dir, "der", &issued, issued.key_der().secret_der()));
            let issued = ca.issue("combined");
            dir.write("combined.key", issued.combined_pem()).unwrap();
            needles.extend(needles_of("combined", &issued.key_pem()));
            needles
        },
        |dir, memory| {
            for name in ["pkcs8", "ed25519", "sec1", "der"] {
                assert_wiped(memory, name, files(dir, name));
            }
            assert_wiped(memory, "combined", Files::combined(dir.join("combined.key")));
        },
    );
}

/// The control: the search finds a buffer that was freed as it was.
#[test]
fn what_nobody_wipes_is_found() {
    in_a_process_of_its_own(
        "what_nobody_wipes_is_found",
        |dir| {
            let issued = Ca::new("ca").issue("left");
            pair(dir, "left", &issued, issued.key_pem().as_bytes())
        },
        |dir, memory| {
            let text = std::fs::read(dir.join("left/tls.key")).unwrap();
            assert!(memory.count("left.text") > 0, "while it is held");
            drop(text);
            assert!(memory.count("left.text") > 0, "when it was freed");
        },
    );
}

/// A key that could not be used: its files, its source, and why it was refused.
struct Refusal {
    name: &'static str,
    key: fn(&Issued) -> Vec<u8>,
    source: fn(Files) -> Files,
    reason: Reason,
}

const fn refusal(name: &'static str, key: fn(&Issued) -> Vec<u8>, reason: Reason) -> Refusal {
    Refusal { name, key, source: |files| files, reason }
}

fn plain(issued: &Issued) -> Vec<u8> {
    issued.key_pem().into_bytes()
}

const REFUSALS: [Refusal; 15] = [
    refusal("cut", |issued| issued.key_pem().split("-----END").next().unwrap().into(), Reason::Malformed),
    refusal(
        "letter",
        |issued| issued.key_pem().replace("\n-----END", "!\n-----END").into(),
        Reason::Malformed,
    ),
    refusal("again", |issued| (issued.key_pem() + &issued.key_pem()).into(), Reason::Malformed),
    refusal(
        "inside",
        |issued| {
            let key = issued.key_pem();
            (key.split("-----END").next().unwrap().to_owned() + &key).into()
        },
        Reason::Malformed,
    ),
    refusal("nul", |issued| (issued.key_pem() + "\0").into(), Reason::Malformed),
    refusal(
        "mislabelled",
        |issued| issued.key_pem().replace("PRIVATE", "RSA PRIVATE").into(),
        Reason::Malformed,
    ),
    refusal("unknown", |issued| issued.key_pem().replace("PRIVATE", "SECRET").into(), Reason::Empty),
    refusal("trailing", |issued| [issued.key_der().secret_der(), b"trailing"].concat(), Reason::Malformed),
    refusal("another's", plain, Reason::KeyMismatch),
    refusal("alone", plain, Reason::NotFound),
    Refusal {
        name: "too-large",
        key: plain,
        source: |files| {
            files.limits({
                let mut limits = Limits::default();
                limits.file_bytes = 200;
                limits
            })
        },
        reason: Reason::TooLarge,
    },
    Refusal {
        name: "open",
        key: plain,
        source: |files| files.key_permissions(KeyPermissions::Require),
        reason: Reason::PermissionInsecure,
    },
    Refusal {
        name: "fails",
        key: plain,
        source: |files| files.filesystem(Arc::new(Odd::Fails)),
        reason: Reason::Io,
    },
    Refusal {
        name: "moves",
        key: plain,
        source: |files| files.filesystem(Arc::new(Odd::Moves(Arc::default()))),
        reason: Reason::Unstable,
    },
    Refusal {
        name: "crowded",
        key: plain,
        source: |files| {
            files.limits({
                let mut limits = Limits::default();
                limits.certificates = 0;
                limits
            })
        },
        reason: Reason::TooLarge,
    },
];

#[test]
fn a_key_that_was_refused_is_nowhere() {
    in_a_process_of_its_own(
        "a_key_that_was_refused_is_nowhere",
        |dir| {
            let ca = Ca::new("ca");
            let mut needles = Vec::new();
            for refusal in &REFUSALS {
                let issued = ca.issue(refusal.name);
                needles.extend(pair(dir, refusal.name, &issued, &(refusal.key)(&issued)));
            }
            dir.write("another's/tls.crt", ca.issue("another").chain_pem()).unwrap();
            dir.remove("alone/tls.crt").unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(dir.join("open/tls.key"), open).unwrap();
            needles
        },
        |dir, memory| {
            for Refusal { name, source, reason, .. } in &REFUSALS {
                let mut source = source(files(dir, name));
                let error = source.load().unwrap_err();
                assert_eq!(error.reason(), *reason, "{name}: {error}");
                memory.is_gone(name, &error.to_string());
            }
        },
    );
}

/// Files of `/proc` say that they hold nothing, and files grow: the buffer is moved to a larger one.
#[test]
fn a_buffer_that_had_to_grow_is_wiped() {
    in_a_process_of_its_own(
        "a_buffer_that_had_to_grow_is_wiped",
        |dir| {
            let issued = Ca::new("ca").issue("grows");
            let comment = "a comment of some length, so that the buffer grows more than once\n".repeat(200);
            pair(dir, "grows", &issued, (issued.key_pem() + &comment).as_bytes())
        },
        |dir, memory| {
            assert_wiped(memory, "grows", files(dir, "grows").filesystem(Arc::new(Odd::SaysNothing)))
        },
    );
}

/// A bundle is no place for a key, but there it may be; and a detector reads what it does not parse.
#[test]
fn a_key_that_nobody_asked_for_is_nowhere() {
    in_a_process_of_its_own(
        "a_key_that_nobody_asked_for_is_nowhere",
        |dir| {
            let issued = Ca::new("ca").issue("bundle");
            dir.write("bundle.pem", issued.root_pem() + &issued.key_pem()).unwrap();
            let mut needles = needles_of("bundle", &issued.key_pem());
            let issued = Ca::new("ca").leaf("looked-at").key(KeyKind::Ed25519).issue();
            needles.extend(pair(dir, "looked-at", &issued, issued.key_pem().as_bytes()));
            needles
        },
        |dir, memory| {
            let material = Files::trust(dir.join("bundle.pem")).load().unwrap();
            assert!(material.warnings()[0].message.contains("private key"), "{:?}", material.warnings());
            memory.is_gone("bundle", "a key among anchors");
            let mut source = files(dir, "looked-at").detect(Sha256::new());
            let start = Now::read();
            for seconds in [0, 3, 6, 9] {
                source.look(start.after(Duration::from_secs(seconds))).unwrap();
                memory.is_gone("looked-at", "a key that was only looked at");
            }
        },
    );
}

/// A caller who parses text himself, and stops in the middle.
#[test]
fn sections_that_are_dropped_are_wiped() {
    in_a_process_of_its_own(
        "sections_that_are_dropped_are_wiped",
        |dir| {
            let issued = Ca::new("ca").issue("sections");
            pair(dir, "sections", &issued, issued.key_pem().as_bytes())
        },
        |dir, memory| {
            let text = zeroize::Zeroizing::new(std::fs::read(dir.join("sections/tls.key")).unwrap());
            let section = pem::sections(&text).next().unwrap().unwrap();
            drop(text);
            assert!(memory.count("sections.der") > 0, "while it is held");
            memory.is_gone("sections.text", "the text");
            drop(section);
            memory.is_gone("sections", "a section after its drop");
        },
    );
}

#[cfg(feature = "encrypted-keys")]
mod encrypted {
    use certsource::WrongPassword;
    use pkcs5::der::Encode as _;
    use pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf};

    use super::memory_support::needles_of_bytes;
    use super::*;

    const PASSWORD: &str = "correct horse battery staple, and more";

    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, &content].concat()
    }

    fn encrypted(plain: &[u8]) -> Vec<u8> {
        let kdf = Pbkdf2Params {
            salt: b"saltsalt",
            iteration_count: 10,
            key_length: None,
            prf: Pbkdf2Prf::HmacWithSha256,
        };
        let parameters =
            Parameters { kdf: Kdf::Pbkdf2(kdf), encryption: EncryptionScheme::Aes256Cbc { iv: &[7; 16] } };
        let mut buffer = [plain, &[0; 16]].concat();
        let length = parameters.encrypt_in_place(PASSWORD, &mut buffer, plain.len()).unwrap().len();
        let mut scheme = [0; 512];
        let scheme = pkcs5::EncryptionScheme::from(parameters).encode_to_slice(&mut scheme).unwrap();
        tlv(0x30, &[scheme, &tlv(0x04, &[&buffer[..length]])])
    }

    /// A source that reads its password from a file: this process holds it nowhere else.
    fn source(dir: &Path, password: &str) -> Files {
        let password = dir.join(password);
        files(dir, "encrypted").key_password(move || Ok(std::fs::read(&password)?))
    }

    #[test]
    fn a_decrypted_key_is_wiped_and_so_is_its_password() {
        in_a_process_of_its_own(
            "encrypted::a_decrypted_key_is_wiped_and_so_is_its_password",
            |dir| {
                let issued = Ca::new("ca").issue("encrypted");
                let mut needles = pair(dir, "encrypted", &issued, &encrypted(issued.key_der().secret_der()));
                dir.write("password", PASSWORD).unwrap();
                let wrong = "incorrect donkey capacitor paperclip";
                dir.write("wrong", wrong).unwrap();
                needles.extend(needles_of_bytes("password", PASSWORD.as_bytes()));
                needles.extend(needles_of_bytes("wrong", wrong.as_bytes()));
                needles
            },
            |dir, memory| {
                let error = source(dir, "wrong").load().unwrap_err();
                assert!(std::error::Error::source(&error).unwrap().is::<WrongPassword>(), "{error}");
                memory.is_gone("encrypted", "what was decrypted to nothing");
                let asked = std::fs::read(dir.join("wrong")).unwrap();
                assert!(memory.count("wrong") > 0, "a password that is held must be found");
                drop(zeroize::Zeroizing::new(asked));
                memory.is_gone("wrong", "the wrong password");
                assert_wiped(memory, "encrypted", source(dir, "password"));
                memory.is_gone("password", "the password");
            },
        );
    }
}

/// This machine's file system, but for one oddity of its `.key` files. They are read in small steps.
#[derive(Clone, Debug)]
enum Odd {
    /// The third read fails.
    Fails,
    /// Each read moves the time of the file.
    Moves(Arc<AtomicU32>),
    /// The file says that it is empty.
    SaysNothing,
}

impl Odd {
    fn meta(&self, mut meta: Meta) -> Meta {
        match self {
            Self::SaysNothing => meta.size = 0,
            Self::Moves(reads) => meta.modified.nanos = reads.load(Ordering::SeqCst),
            Self::Fails => {}
        }
        meta
    }
}

fn is_key(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "key")
}

impl Fs for Odd {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        RealFs.metadata(path).map(|meta| if is_key(path) { self.meta(meta) } else { meta })
    }
    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        RealFs.read_link(path, into)
    }
    fn open(&self, path: &Path) -> io::Result<Opened> {
        Ok(match RealFs.open(path)? {
            Opened::File(file) if is_key(path) => {
                Opened::File(Box::new(OddFile { file, odd: self.clone(), reads: 0 }))
            }
            other => other,
        })
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        RealFs.open_dir(path)
    }
    fn volume(&self, path: &Path) -> io::Result<Volume> {
        RealFs.volume(path)
    }
}

struct OddFile {
    file: Box<dyn File>,
    odd: Odd,
    reads: u32,
}

impl File for OddFile {
    fn metadata(&self) -> io::Result<Meta> {
        self.file.metadata().map(|meta| self.odd.meta(meta))
    }
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        match &self.odd {
            Odd::Fails if self.reads == 3 => return Err(io::Error::other("the disk is broken")),
            Odd::Moves(reads) => drop(reads.fetch_add(1, Ordering::SeqCst)),
            Odd::Fails | Odd::SaysNothing => {}
        }
        let length = into.len().min(100);
        self.file.read(&mut into[..length])
    }
}
