//! Whole sources over hostile files: each is read or refused with one line that says why, within a second and within a
//! memory that the limits bound, and nothing hostile is shown.
//!
//! What is not here: flaws of PEM by themselves (`pem_flaws`), ordinary mistakes in files (`files_read`), paths that are
//! no files (`files_special`), and the cost of encrypted keys with a password (`key_password`).
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod spent_support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certsource::files::{KeyPermissions, Limits};
use certsource::{Error, Files, Material, Reason, Source as _};
use certsource_testkit::{Ca, Issued, TestDir};

use spent_support::spent;

/// The most that any of these may take. Without the optimizer all of it takes ten times as long.
const BOUND: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// The most memory at a time, besides the bytes of the files themselves, which are held twice at the most: as they were read,
/// and decoded. What is made of 20,000 certificates is the largest of it.
const MEMORY: u64 = 24 * MIB as u64;
/// The longest message: about what fits on two lines of a terminal, with a path in it.
const LONGEST: usize = 300;

const MIB: usize = 1 << 20;

struct Scene {
    dir: TestDir,
    ca: Ca,
    issued: Issued,
}

impl Scene {
    fn new() -> Self {
        let ca = Ca::new("Root");
        let issued = ca.intermediate("Issuing").issue("localhost");
        let dir = TestDir::new().unwrap();
        dir.write_issued(&issued).unwrap();
        Self { dir, ca, issued }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.dir.write(name, content).unwrap()
    }

    fn trust(&self, content: impl AsRef<[u8]>) -> Files {
        Files::trust(self.write("ca.crt", content))
    }

    fn chain(&self, content: impl AsRef<[u8]>) -> Files {
        Files::identity(self.write("tls.crt", content), self.write("tls.key", self.issued.key_pem()))
    }

    fn key(&self, content: impl AsRef<[u8]>) -> Files {
        let chain = self.write("tls.crt", self.issued.chain_pem());
        Files::identity(chain, self.write("tls.key", content)).key_permissions(KeyPermissions::Ignore)
    }

    fn crl(&self, content: impl AsRef<[u8]>) -> Files {
        Files::crl(self.write("ca.crl", content))
    }
}

/// What a terminal or a log acts on.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202e}' | '\u{200b}' | '\u{feff}')
}

/// What a page acts on, too.
fn is_hostile(c: char) -> bool {
    is_control(c) || matches!(c, '<' | '>' | '&')
}

/// Loads, shows everything there is to show, and holds what is true of every source.
#[track_caller]
fn load(name: &str, mut files: Files) -> Result<Arc<Material>, Error> {
    let (loaded, took_to_load) = spent(|| {
        let mut loaded = None;
        let used = allocation_counter::measure(|| loaded = Some(files.load())).bytes_max;
        let most = MEMORY + 2 * bytes_of(&files).min(Limits::default().file_bytes);
        assert!(used <= most, "{name}: {used} bytes of memory, more than {most}");
        loaded.unwrap()
    });
    let ((shown, debug), took_to_show) = spent(|| match &loaded {
        Ok(material) => {
            let certificates = material.certificates().map(|(_, c)| c.inspection().to_string());
            let crls = material.crls().into_iter().flatten().map(|crl| crl.inspection().issuer().to_owned());
            let warnings = material.warnings().iter().map(ToString::to_string);
            let shown = certificates.chain(crls).chain(warnings).collect::<Vec<_>>().concat();
            (shown, format!("{material:?}"))
        }
        Err(error) => {
            let length = error.message().len();
            assert!(length <= LONGEST, "{name}: {length} bytes: {:.1000}", error.message());
            (error.to_string(), format!("{error:?}"))
        }
    });
    let took = took_to_load + took_to_show;
    assert!(took < BOUND, "{name}: {took:?}");
    assert!(!shown.contains(is_hostile), "{name}: {:?}", shown.chars().find(|c| is_hostile(*c)));
    assert!(!debug.contains(is_control), "{name}: {:?}", debug.chars().find(|c| is_control(*c)));
    loaded
}

/// The bytes of the files that a source names: of all of them, if it is a directory.
fn bytes_of(files: &Files) -> u64 {
    let Some(path) = files.origin().as_path().map(std::path::Path::to_path_buf) else { return 0 };
    let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    match std::fs::read_dir(&path) {
        Ok(entries) => entries.flatten().map(|entry| size(&entry.path())).sum(),
        Err(_) => size(&path),
    }
}

#[track_caller]
fn loads(name: &str, files: Files) -> Arc<Material> {
    load(name, files).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn fails(name: &str, files: Files, reason: Reason, line: Option<usize>, says: &str) {
    let Err(error) = load(name, files) else { panic!("{name}: it loads") };
    assert_eq!((error.reason(), error.line()), (reason, line), "{name}: {error}");
    assert!(error.message().contains(says), "{name}: {error} does not say {says:?}");
    assert!(error.path().is_some(), "{name}: {error}");
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn section(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
}

/// DER: a tag, a length of four octets where it needs more than one, and content.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u32::try_from(content.len()).unwrap();
    let header = match length {
        0..=0x7f => vec![tag, content.len() as u8],
        0x80..=0xff => vec![tag, 0x81, content.len() as u8],
        0x100..=0xffff => [&[tag, 0x82][..], &length.to_be_bytes()[2..]].concat(),
        0x1_0000..=0xff_ffff => [&[tag, 0x83][..], &length.to_be_bytes()[1..]].concat(),
        _ => [&[tag, 0x84][..], &length.to_be_bytes()].concat(),
    };
    [header, content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

const TIME: &[u8] = b"\x17\x0d300101000000Z";
/// ecdsa-with-SHA256.
const ALGORITHM: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
/// An empty BIT STRING.
const NO_BITS: &[u8] = b"\x03\x01\x00";

/// A certificate by its parts, not signed: with this subject, and this SubjectPublicKeyInfo.
fn certificate(subject: &[u8], spki: &[u8], extensions: &[u8]) -> Vec<u8> {
    let validity = sequence(&[TIME, TIME]);
    let tbs =
        [b"\xa0\x03\x02\x01\x02\x02\x01\x07", ALGORITHM, b"\x30\x00", &validity, subject, spki, extensions];
    sequence(&[&sequence(&tbs), ALGORITHM, NO_BITS])
}

/// Structures in structures, as many as fit into these bytes with long lengths in all of them.
fn nested(tag: u8, depth: usize) -> Vec<u8> {
    let mut der = Vec::with_capacity(5 * depth);
    for level in (0..depth).rev() {
        der.extend([tag, 0x83]);
        der.extend(&u32::try_from(5 * level).unwrap().to_be_bytes()[1..]);
    }
    der
}

#[test]
fn texts_that_are_large_or_odd_around_a_good_bundle() {
    let scene = Scene::new();
    let ca = scene.ca.certificate_pem();
    let comment = "# the authority that signs everything else here, kept for the record\n";
    for (name, text) in [
        ("10 MB of comments before", comment.repeat(10 * MIB / comment.len()) + &ca),
        ("10 MB of comments behind", ca.clone() + &comment.repeat(10 * MIB / comment.len())),
        ("a comment of 2 MB on one line", "x".repeat(2 * MIB) + "\n" + &ca),
        ("2 MB of blank lines", "\n".repeat(2 * MIB) + &ca),
        ("2 MB of carriage returns", "\r".repeat(2 * MIB) + &ca),
        ("2 MB of dashes on one line", "-".repeat(2 * MIB) + "\n" + &ca),
        ("2 MB of lines of one dash", "-\n".repeat(MIB) + &ca),
        ("2 MB of long dashes", "\u{2014}".repeat(2 * MIB / 3) + "\n" + &ca),
        ("2 MB of blanks in the section", ca.replacen('\n', &("\n".to_owned() + &" ".repeat(2 * MIB)), 1)),
        ("no newline at the end", ca.trim_end().to_owned()),
        ("CRLF", ca.replace('\n', "\r\n")),
        ("CR", ca.replace('\n', "\r")),
        ("a byte order mark", format!("\u{feff}{ca}")),
        ("escape codes in comments", format!("\u{1b}[2J\u{202e}<script>\n{ca}")),
        ("one authority a thousand times", ca.repeat(1000)),
        ("100,000 sections of other labels", labels(100_000) + &ca),
    ] {
        let material = loads(name, scene.trust(text));
        let [anchor] = material.trust().unwrap() else { panic!("{name}: not one anchor") };
        assert_eq!(anchor.der(), &scene.ca.certificate_der(), "{name}");
    }
}

/// Sections whose labels mean nothing here, all different.
fn labels(count: usize) -> String {
    (0..count).map(|number| format!("-----BEGIN L{number}-----\n-----END L{number}-----\n")).collect()
}

#[test]
fn texts_that_are_broken() {
    let scene = Scene::new();
    let ca = scene.ca.certificate_pem();
    let (begin, rest) = ca.split_once('\n').unwrap();
    let malformed = |name: &str, text: String, line: usize, says: &str| {
        fails(name, scene.trust(text), Reason::Malformed, Some(line), says);
    };
    malformed("a section that never ends", begin.to_owned() + "\n" + &"MAAA\n".repeat(MIB / 2), 1, "is cut");
    malformed("a second BEGIN inside", format!("{begin}\nMAAA\n{ca}"), 1, "another one begins on line 3");
    malformed("2 MB of BEGIN lines", format!("{begin}\n").repeat(2 * MIB / 28), 1, "another one begins");
    malformed("2 MB of END lines", "-----END CERTIFICATE-----\n".repeat(2 * MIB / 26), 1, "without a BEGIN");
    malformed("2 MB of BEGIN on one line", begin.repeat(2 * MIB / 27), 1, "must read");
    malformed("a header inside", format!("{begin}\nBag: 1\n{rest}"), 1, "a header on line 2");
    malformed("NUL bytes in place of a body", format!("{begin}\n{}\n", "\0".repeat(1000)), 2, "NUL");
    malformed("2 MB of NUL", "\0".repeat(2 * MIB), 1, "NUL");
    malformed(
        "a wrong character behind 2 MB",
        format!("{begin}\n{}*", "MAAA\n".repeat(MIB / 2)) + rest,
        1,
        "base64",
    );
    malformed("a body of 2 MB on one line", format!("{begin}\n{}\n", "AAAA".repeat(MIB)) + rest, 1, "");

    let utf16: Vec<u8> = format!("\u{feff}{ca}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fails("UTF-16", scene.trust(utf16), Reason::Malformed, Some(1), "UTF-16");
    let random: Vec<u8> =
        (0..2 * MIB as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    fails("2 MB of noise", scene.trust(random), Reason::Malformed, None, "neither PEM nor DER");
    fails("17 MB", scene.trust(vec![b'#'; 17 * MIB]), Reason::TooLarge, None, "limit of 16777216 bytes");
}

#[test]
fn a_message_stays_one_line_whatever_the_labels_say() {
    let scene = Scene::new();
    let empty = |name: &str, text: String, says: &str| {
        fails(name, scene.trust(text), Reason::Empty, None, says);
    };
    empty("100,000 labels", labels(100_000), "sections of other kinds");
    let long = "L".repeat(MIB);
    let long = format!("-----BEGIN {long}-----\n-----END {long}-----\n");
    empty("a label of 1 MB", long.clone(), "1 section of another kind");
    empty("a hundred of them", long.repeat(3), "3 sections of other kinds");
    empty("a few", labels(3), "1 section \"L0\", 1 section \"L1\", 1 section \"L2\"");
    let hostile = "-----BEGIN <b>&-----\n-----END <b>&-----\n";
    empty("a label of markup", hostile.to_owned(), "1 section \"\\u{3c}b\\u{3e}\\u{26}\"");
}

#[test]
fn too_many_certificates() {
    let scene = Scene::new();
    // No byte limit is near.
    let many = section("CERTIFICATE", &[0x30, 0]).repeat(100_000);
    fails("100,000 certificates", scene.trust(&many), Reason::TooLarge, None, "more than 20000 certificates");
    fails("100,000 in a chain", scene.chain(&many), Reason::TooLarge, None, "more than 20000 certificates");
    fails("100,000 with the key", scene.key(many), Reason::TooLarge, None, "more than 20000 certificates");
    // And as many as are allowed.
    let most = scene.ca.certificate_pem().repeat(20_000);
    assert_eq!(loads("20,000 certificates", scene.trust(most)).trust().unwrap().len(), 1);
}

#[test]
fn certificates_that_are_large() {
    let scene = Scene::new();
    // 64 KiB of names.
    let names = |leaf, count| {
        (0..count).fold(leaf, |leaf: certsource_testkit::Leaf<'_>, n| {
            leaf.san_dns(&format!("service-{n:05}.of-a-large-mesh.example"))
        })
    };
    let large = names(scene.ca.leaf("localhost"), 1700).issue();
    assert!(large.leaf_der().len() > 64 * 1024);
    let identity = Files::combined(scene.write("all.pem", large.combined_pem()));
    let material = loads("a leaf of 64 KiB", identity.key_permissions(KeyPermissions::Ignore));
    // With the three of `localhost`.
    assert_eq!(material.identity().unwrap().leaf().inspection().sans().len(), 1703);
    loads("an anchor of 64 KiB", scene.trust(large.leaf_pem()));
    loads("the same as DER", scene.trust(large.leaf_der()));

    // As large as a file may be, with everything in one extension, one name, or one key.
    let spki = sequence(&[ALGORITHM, NO_BITS]);
    let filler = vec![b'a'; 2 * MIB];
    let extension = sequence(&[b"\x06\x03\x55\x1d\x11", &tlv(0x04, &[&sequence(&[&tlv(0x82, &[&filler])])])]);
    let extensions = tlv(0xa3, &[&sequence(&[&extension])]);
    loads("a SAN of 2 MB", scene.trust(certificate(b"\x30\x00", &spki, &extensions)));
    let attribute = sequence(&[b"\x06\x03\x55\x04\x03", &tlv(0x0c, &[&filler])]);
    let subject = sequence(&[&tlv(0x31, &[&attribute])]);
    loads("a subject of 2 MB", scene.trust(certificate(&subject, &spki, &[])));
    let oid = tlv(0x06, &[&vec![0x81; MIB], &[1]]);
    let odd = sequence(&[&sequence(&[&oid]), NO_BITS]);
    loads("an algorithm of 1 MB", scene.trust(certificate(b"\x30\x00", &odd, &[])));
    let oids = sequence(&[&oid, b"\x0c\x01x"]);
    let odd = sequence(&[&tlv(0x31, &[&oids])]);
    loads("an attribute type of 1 MB", scene.trust(certificate(&odd, &spki, &[])));
    let rdn = tlv(0x31, &[&sequence(&[b"\x06\x03\x55\x04\x03", b"\x0c\x01x"])]);
    let many = sequence(&[&rdn.repeat(100_000)]);
    loads("a subject of 100,000 parts", scene.trust(certificate(&many, &spki, &[])));
    let extension = sequence(&[b"\x06\x03\x55\x1d\x63", b"\x04\x00"]);
    let extensions = tlv(0xa3, &[&sequence(&[&extension.repeat(100_000)])]);
    loads("100,000 extensions", scene.trust(certificate(b"\x30\x00", &spki, &extensions)));
}

#[test]
fn der_that_is_broken() {
    let scene = Scene::new();
    let der = scene.ca.certificate_der().to_vec();
    let line = Some(1);
    let not_a_certificate = |name: &str, der: &[u8]| {
        let text = section("CERTIFICATE", der);
        fails(name, scene.trust(&text), Reason::Malformed, line, "not a certificate");
        let chain = scene.issued.chain_pem();
        let behind = Some(chain.lines().count() + 1);
        fails(name, scene.chain(chain + &text), Reason::Malformed, behind, "not a certificate");
    };
    not_a_certificate("one octet behind the end", &[&der[..], &[0]].concat());
    not_a_certificate("a certificate twice in one section", &[&der[..], &der].concat());
    not_a_certificate("1 MB behind the end", &[&der[..], &vec![0; MIB]].concat());
    not_a_certificate("one octet short", &der[..der.len() - 1]);
    not_a_certificate("garbage", b"garbage in place of an intermediate");
    not_a_certificate("an empty SEQUENCE", &[0x30, 0]);
    not_a_certificate("a length of 4 GB", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]);
    not_a_certificate("a length of 2^64", &[0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    not_a_certificate("an indefinite length", &[0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0]);
    for depth in [1000, 100_000] {
        not_a_certificate("SEQUENCEs in SEQUENCEs", &nested(0x30, depth));
        not_a_certificate("SETs in SETs", &nested(0x31, depth));
    }
    not_a_certificate("a CRL", &scene.ca.crl().der());
    not_a_certificate("a key", scene.issued.key_der().secret_der());

    // Where DER is skipped and not read, depth is no matter either.
    let deep = nested(0x30, 100_000);
    let spki = sequence(&[ALGORITHM, NO_BITS]);
    loads("a deep subject", scene.trust(certificate(&sequence(&[&deep]), &spki, &[])));
    loads("a deep key", scene.trust(certificate(b"\x30\x00", &sequence(&[&deep]), &[])));

    // Without PEM around it.
    let behind = [&der[..], &[0]].concat();
    fails("a DER file and one octet", scene.trust(behind), Reason::Malformed, None, "bytes behind its end");
    for length in [2, 100, der.len() - 1] {
        fails("a DER file that is cut", scene.trust(&der[..length]), Reason::Malformed, None, "is cut");
    }
    fails(
        "deep DER in a file",
        scene.trust(nested(0x30, 100_000)),
        Reason::Malformed,
        None,
        "not a certificate",
    );
}

#[test]
fn an_identity_with_certificates_twice_keeps_its_order() {
    let scene = Scene::new();
    let (leaf, rest) = (scene.issued.leaf_pem(), scene.issued.intermediates_pem());
    for (name, chain, count) in [
        ("the intermediate twice", format!("{leaf}{rest}{rest}"), 3),
        ("the leaf twice", format!("{leaf}{leaf}{rest}"), 3),
        ("the root too", format!("{leaf}{rest}{}", scene.ca.certificate_pem()), 3),
        ("a thousand intermediates", leaf.clone() + &rest.repeat(1000), 1001),
    ] {
        let material = loads(name, scene.chain(chain));
        let identity = material.identity().unwrap();
        assert_eq!(identity.chain().len(), count, "{name}");
        assert_eq!(identity.leaf().der(), &scene.issued.leaf_der(), "{name}");
    }
    // The other way round, the key belongs to none.
    fails("the leaf last", scene.chain(rest + &leaf), Reason::KeyMismatch, None, "does not belong");
}

#[test]
fn keys_that_are_hostile() {
    let scene = Scene::new();
    let key = scene.issued.key_pem();
    let der = scene.issued.key_der().secret_der().to_vec();
    let broken = "the private key's DER is broken";
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        for (name, der) in [
            ("one octet behind the end", [&der[..], &[0]].concat()),
            ("one octet short", der[..der.len() - 1].to_vec()),
            ("SEQUENCEs in SEQUENCEs", nested(0x30, 100_000)),
            ("2 MB of zeros", vec![0; 2 * MIB]),
        ] {
            fails(name, scene.key(section(label, &der)), Reason::Malformed, None, broken);
        }
    }
    // An RSA key of 8 Mbit, that belongs to nobody.
    let number = tlv(0x02, &[&vec![0x7f; MIB]]);
    let (version, exponent) = (tlv(0x02, &[&[0]]), tlv(0x02, &[&[1, 0, 1]]));
    let parts = [&version, &number, &exponent, &number, &number, &number, &number, &number, &number];
    let rsa = sequence(&parts.map(|part| &part[..]));
    fails("an RSA key of 8 Mbit", scene.key(section("RSA PRIVATE KEY", &rsa)), Reason::KeyMismatch, None, "");
    fails("a thousand keys", scene.key(key.repeat(1000)), Reason::Malformed, Some(4996), "1000 private keys");
    let two = key.clone() + &scene.ca.issue("other").key_pem();
    fails("two keys, the right one first", scene.key(two), Reason::Malformed, Some(6), "2 private keys");
    fails(
        "a key and 17 MB of blanks",
        scene.key(key.clone() + &" ".repeat(17 * MIB)),
        Reason::TooLarge,
        None,
        "",
    );
    loads("a key behind 2 MB of comments", scene.key("#\n".repeat(MIB) + &key));
}

#[test]
fn an_encrypted_key_costs_nothing_without_a_password() {
    let scene = Scene::new();
    // PBES2 with PBKDF2 and AES-256-CBC, a billion rounds.
    let pbkdf2 = sequence(&[&tlv(0x04, &[b"salt"]), b"\x02\x04\x3b\x9a\xca\x00"]);
    let kdf = sequence(&[b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c", &pbkdf2]);
    let cipher = sequence(&[b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a", &tlv(0x04, &[&[0; 16]])]);
    let scheme = sequence(&[b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d", &sequence(&[&kdf, &cipher])]);
    let der = sequence(&[&scheme, &tlv(0x04, &[&[0; 48]])]);
    let text = section("ENCRYPTED PRIVATE KEY", &der);
    fails("a billion rounds", scene.key(&text), Reason::Encrypted, Some(1), "no password");
    fails("the same as DER", scene.key(&der), Reason::Encrypted, None, "no password");
    #[cfg(feature = "encrypted-keys")]
    {
        let with = |content: &[u8]| scene.key(content).key_password(|| Ok(b"horse".to_vec()));
        fails("with a password", with(text.as_bytes()), Reason::TooLarge, Some(1), "1000000000 rounds");
        fails("as DER, with a password", with(&der), Reason::TooLarge, None, "1000000000 rounds");
        let deep = section("ENCRYPTED PRIVATE KEY", &sequence(&[&nested(0x30, 100_000), b"\x04\x00"]));
        fails("deep parameters", with(deep.as_bytes()), Reason::Unsupported, Some(1), "not supported");
    }
}

#[test]
fn revocation_lists_that_are_hostile() {
    let scene = Scene::new();
    let der = scene.ca.crl().der().to_vec();
    let crl = |der: &[u8]| scene.crl(section("X509 CRL", der));
    let broken = "not a revocation list";
    fails("one octet behind the end", crl(&[&der[..], &[0]].concat()), Reason::Malformed, Some(1), broken);
    fails("deep", crl(&nested(0x30, 100_000)), Reason::Malformed, Some(1), broken);
    fails("a certificate", crl(&scene.ca.certificate_der()), Reason::Malformed, Some(1), broken);
    fails("a DER file that is none", scene.crl(scene.ca.certificate_der()), Reason::Malformed, None, broken);
    loads("one list a thousand times", scene.crl(scene.ca.crl().pem().repeat(1000)));

    let entry = sequence(&[b"\x02\x03\x01\x02\x03", TIME]);
    let entries = sequence(&[&entry.repeat(100_000)]);
    let list = |entries: &[u8]| {
        let tbs = sequence(&[b"\x02\x01\x01", ALGORITHM, b"\x30\x00", TIME, TIME, entries]);
        sequence(&[&tbs, ALGORITHM, NO_BITS])
    };
    let material = loads("100,000 entries", scene.crl(list(&entries)));
    assert_eq!(material.crls().unwrap()[0].inspection().entries(), 100_000);
    let half = sequence(&[&entry.repeat(1000), b"\x30\x01\x02"]);
    fails(
        "a broken entry behind 1000",
        scene.crl(list(&half)),
        Reason::Malformed,
        None,
        "an entry is broken",
    );
}

#[test]
fn names_with_escape_codes_are_shown_as_text() {
    let scene = Scene::new();
    let name = "\u{1b}]0;owned\u{7}\u{202e}<script>&\u{200b}\r\n";
    let evil = Ca::new(name);
    let issued = evil.intermediate(name).leaf(name).san_uri("spiffe://a/\u{1b}[2J<b>").issue();
    let identity = Files::combined(scene.write("all.pem", issued.combined_pem()));
    let material = loads("in a chain", identity.with_trust(scene.write("evil.crt", evil.certificate_pem())));
    assert!(material.trust().unwrap()[0].inspection().subject().contains("owned"));
    loads("in a revocation list", scene.crl(evil.crl().pem()));
    let wrong = scene.write("wrong.key", scene.issued.key_pem());
    let files = Files::identity(scene.write("evil.crt", issued.chain_pem()), wrong);
    fails("where the key is another", files, Reason::KeyMismatch, None, "evil.crt");
}

#[test]
#[cfg(unix)]
fn paths_with_escape_codes_are_shown_as_text() {
    let scene = Scene::new();
    let name = "\u{1b}[2J\u{202e}<script>\n.pem";
    fails("a broken file", Files::trust(scene.write(name, "x")), Reason::Malformed, None, "neither");
    fails("a missing file", Files::trust(scene.dir.join(format!("no{name}"))), Reason::NotFound, None, "");
    scene.write("cert.pem", scene.issued.chain_pem());
    let other = scene.write(name, scene.ca.issue("other").chain_pem());
    let files = Files::identity(other, scene.dir.join("tls.key"));
    fails("a file that another one names", files, Reason::KeyMismatch, None, "script");
    loads("a warning", Files::trust(scene.write(name, scene.ca.certificate_pem() + &scene.issued.key_pem())));
    std::fs::create_dir(scene.dir.join("anchors")).unwrap();
    scene.write("anchors/a.pem", scene.ca.certificate_pem());
    scene.write(&format!("anchors/{name}"), scene.issued.key_pem());
    loads("a file passed over", Files::trust(scene.dir.join("anchors")));
}

#[test]
fn many_small_files() {
    let scene = Scene::new();
    std::fs::create_dir(scene.dir.join("anchors")).unwrap();
    let ca = scene.ca.certificate_pem();
    for number in 0..500 {
        scene.write(&format!("anchors/{number}.pem"), &ca);
    }
    let anchors = scene.dir.join("anchors");
    assert_eq!(loads("500 files", Files::trust(&anchors)).trust().unwrap().len(), 1);
    let mut limits = Limits::default();
    limits.directory_entries = 499;
    fails(
        "one too many",
        Files::trust(&anchors).limits(limits),
        Reason::TooLarge,
        None,
        "more than 499 names",
    );
    let mut limits = Limits::default();
    limits.total_bytes = 100 * ca.len() as u64;
    fails(
        "too much in all",
        Files::trust(&anchors).limits(limits),
        Reason::TooLarge,
        None,
        "the source holds",
    );
}
