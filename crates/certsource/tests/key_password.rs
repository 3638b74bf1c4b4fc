//! Encrypted private keys: what OpenSSL wrote is read, a wrong password is told as such, and what a key asks for is
//! bounded before anything is computed.
#![cfg(feature = "encrypted-keys")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

mod spent_support;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certsource::parts::Part;
use certsource::pem::{self, Content};
use certsource::{Error, Files, KeyFormat, PrivateKey, Reason, Source, WrongPassword};
use certsource_testkit::{Ca, Issued, TestDir};
use pkcs5::der::Encode as _;
use pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf, ScryptParams};

use spent_support::spent;

const PASSWORD: &[u8] = b"horse";

/// What OpenSSL 3.0 made of the key of RFC 8032, section 7.1, test 1, with the password `horse`.
const BY_OPENSSL: [(&str, &str); 4] = [
    (
        "openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256",
        "\
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgM1YNq+tJqlgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAKiHm3/JHcnnNquTYMvDPEEQIwv
GIdLRTmiXmVwbQ3Zny6BxE8rv2Fk4Y9mTOh2Gs06PuaIPhL82lSHJexBRkIYH7Aj
KD2urUAh17rxbRsVf6I=
",
    ),
    (
        "openssl pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1 -iter 4000",
        "\
MIGNMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAjDVzDWdQB1UgICD6Aw
HQYJYIZIAWUDBAECBBDsNm9UAOs9+TGrvF5MJhxqBEBtoNUdVPxrlctKdUgkLp5+
HZu1qRi5kEGvxoYjQljXkN+ex1xPyPg/F0hNp9LVvot1xfLjXirATjBK/JMdgZZX
",
    ),
    (
        "openssl pkcs8 -topk8 -v2 aes-192-cbc -v2prf hmacWithSHA512 -iter 1000",
        "\
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhEsz+HcAhW7wICA+gw
DAYIKoZIhvcNAgsFADAdBglghkgBZQMEARYEEGoNDD6vk2IEXLWqhU3Rx9EEQOU1
RTOyqcNrMIeEDZx1TXmh9Ex4dtX0nQo1R8NNega1oCiOC7Rd/EO728NT952aFr/N
4P729lQtu/2CJyKAYDY=
",
    ),
    (
        "openssl pkcs8 -topk8 -scrypt -scrypt_N 1024 -scrypt_r 4 -scrypt_p 2",
        "\
MIGTME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAilZMU6WYkQUAICBAAC
AQQCAQIwHQYJYIZIAWUDBAEqBBACQrpiVpIgTgJQj+/i7KHrBEAFZm069yhiWcwW
BG/6NPvIHLMiEl7d1SmrkL2Z0vFq0oe07joGEsue4U0pMnyBVErrSigf48myIrrZ
CDa7Ygx6
",
    ),
];

/// RFC 8032, section 7.1, test 1: the secret key.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44,
    0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];

const SALT: &[u8] = b"saltsalt";
const IV: &[u8; 16] = b"initialisation!!";

fn armour(body: &str) -> String {
    format!(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{}\n-----END ENCRYPTED PRIVATE KEY-----\n",
        body.trim_end()
    )
}

fn der_of(body: &str) -> Vec<u8> {
    match pem::sections(armour(body).as_bytes()).next().unwrap().unwrap().content {
        Content::EncryptedKey(der) => der.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        short @ 0..=0x7f => vec![tag, u8::try_from(short).unwrap()],
        0x80..=0xff => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [header, content].concat()
}

/// An EncryptedPrivateKeyInfo.
fn info(parameters: &Parameters<'_>, ciphertext: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 512];
    let scheme = pkcs5::EncryptionScheme::from(parameters.clone());
    let scheme = scheme.encode_to_slice(&mut buffer).unwrap();
    tlv(0x30, &[scheme, &tlv(0x04, &[ciphertext])])
}

fn encrypt(parameters: &Parameters<'_>, plain: &[u8]) -> Vec<u8> {
    let mut buffer = [plain, &[0; 16]].concat();
    let length = parameters.encrypt_in_place(PASSWORD, &mut buffer, plain.len()).unwrap().len();
    info(parameters, &buffer[..length])
}

fn pbkdf2(rounds: u32) -> Parameters<'static> {
    let kdf = Pbkdf2Params {
        salt: SALT,
        iteration_count: rounds,
        key_length: None,
        prf: Pbkdf2Prf::HmacWithSha256,
    };
    Parameters { kdf: Kdf::Pbkdf2(kdf), encryption: EncryptionScheme::Aes256Cbc { iv: IV } }
}

fn scrypt(cost_parameter: u64, block_size: u16, parallelization: u16) -> Parameters<'static> {
    let kdf = ScryptParams { salt: SALT, cost_parameter, block_size, parallelization, key_length: None };
    Parameters { kdf: Kdf::Scrypt(kdf), encryption: EncryptionScheme::Aes128Cbc { iv: IV } }
}

fn refused(der: &[u8]) -> Error {
    let mut decrypted = None;
    let (used, took) = spent(|| {
        allocation_counter::measure(|| decrypted = Some(PrivateKey::from_encrypted_der(der, PASSWORD)))
    });
    let error = decrypted.unwrap().expect_err("this should not decrypt");
    assert!(took < Duration::from_secs(1), "{error}: {took:?}");
    assert!(used.bytes_max < 64 * 1024, "{error}: {} bytes of memory", used.bytes_max);
    error
}

#[test]
fn keys_that_openssl_encrypted_are_read() {
    for (how, body) in BY_OPENSSL {
        let key = PrivateKey::from_encrypted_der(&der_of(body), PASSWORD).expect(how);
        assert_eq!(key.format(), KeyFormat::Pkcs8, "{how}");
        // RFC 8410, section 7: the key is the last OCTET STRING.
        assert!(key.secret_der().ends_with(&[&[0x04, 0x20][..], &SEED].concat()), "{how}");
        assert_eq!(key.secret_der().len(), 48, "{how}");
    }
}

#[test]
fn a_wrong_password_is_told_as_such_whatever_it_decrypts_to() {
    let parameters = pbkdf2(1);
    let ciphertext = [0; 48];
    let der = info(&parameters, &ciphertext);
    let mut looked_right = 0;
    for number in 0..1200 {
        let guess = format!("guess {number}");
        // One in 256 gives what looks like padding, and is no key.
        looked_right += usize::from(parameters.decrypt_in_place(&guess, &mut ciphertext.clone()).is_ok());
        let error = PrivateKey::from_encrypted_der(&der, guess.as_bytes()).unwrap_err();
        assert_eq!(error.reason(), Reason::Encrypted);
        assert!(error.source().unwrap().is::<WrongPassword>());
        assert!(error.message().contains("the password does not decrypt"), "{error}");
    }
    assert!(looked_right > 0);
    let error = PrivateKey::from_encrypted_der(&der, b"").unwrap_err();
    assert!(error.source().unwrap().is::<WrongPassword>());
}

#[test]
fn what_asks_for_too_much_is_refused_at_once() {
    let block = [0; 16];
    let limit = PrivateKey::MAX_PBKDF2_ROUNDS;
    for (parameters, says) in [
        (pbkdf2(1_000_000_000), "1000000000 rounds of PBKDF2, over the limit of 2000000"),
        (pbkdf2(limit + 1), "2000001 rounds"),
        (pbkdf2(u32::MAX), "4294967295 rounds"),
        // 1 GiB.
        (scrypt(1 << 20, 8, 1), "1024 MiB of memory"),
        (scrypt(1 << 18, 8, 1), "256 MiB of memory for scrypt, over the limit of 128 MiB"),
        (scrypt(1 << 63, u16::MAX, u16::MAX), "MiB of memory"),
        (scrypt(2, 64, u16::MAX), "MiB of memory"),
        (scrypt(1 << 17, 8, 3), "3145728 steps of scrypt, over the limit of 2097152"),
    ] {
        let error = refused(&info(&parameters, &block));
        assert_eq!(error.reason(), Reason::TooLarge, "{error}");
        assert!(error.message().contains(says), "{error}");
        assert!(error.message().contains("openssl pkcs8 -topk8"), "{error}");
    }
}

#[test]
fn a_number_of_rounds_that_no_number_holds_is_refused() {
    // The OID of PBKDF2 and its parameters, written by hand: 2^40 rounds.
    let rounds = tlv(0x02, &[&[1, 0, 0, 0, 0, 0]]);
    let kdf = tlv(
        0x30,
        &[&[0x06, 9, 42, 134, 72, 134, 247, 13, 1, 5, 12], &tlv(0x30, &[&tlv(4, &[SALT]), &rounds])],
    );
    let cipher = tlv(0x30, &[&[0x06, 9, 96, 134, 72, 1, 101, 3, 4, 1, 42], &tlv(4, &[IV])]);
    let scheme = tlv(0x30, &[&[0x06, 9, 42, 134, 72, 134, 247, 13, 1, 5, 13], &tlv(0x30, &[&kdf, &cipher])]);
    let error = refused(&tlv(0x30, &[&scheme, &tlv(4, &[&[0; 16]])]));
    assert_eq!(error.reason(), Reason::TooLarge, "{error}");
}

#[test]
fn costs_up_to_the_limits_are_paid() {
    let plain = Ca::new("Root").issue("localhost").key_der().secret_der().to_vec();
    for parameters in [pbkdf2(1), pbkdf2(2048), scrypt(2, 1, 1), scrypt(1024, 8, 2)] {
        let key = PrivateKey::from_encrypted_der(&encrypt(&parameters, &plain), PASSWORD).unwrap();
        assert_eq!(key.secret_der(), plain);
    }
    // The limits themselves are inside: the refusal is of the block that is not one, and comes after them.
    for parameters in [pbkdf2(PrivateKey::MAX_PBKDF2_ROUNDS), scrypt(1 << 17, 8, 1), scrypt(1 << 17, 8, 2)] {
        let error = refused(&info(&parameters, &[0; 15]));
        assert_eq!(error.reason(), Reason::Malformed, "{error}");
    }
}

#[test]
fn what_is_broken_or_of_another_kind_is_refused_and_never_computed() {
    let block = [0; 16];
    for der in [
        info(&pbkdf2(0), &block),
        info(&scrypt(0, 8, 1), &block),
        info(&scrypt(1, 8, 1), &block),
        info(&scrypt(1000, 8, 1), &block),
        info(&scrypt(1024, 0, 1), &block),
        info(&scrypt(1024, 8, 0), &block),
        // RFC 7914, section 2: N < 2^(16 r).
        info(&scrypt(1 << 16, 1, 1), &block),
        info(&pbkdf2(1), &[]),
        info(&pbkdf2(1), &[0; 17]),
        info(&pbkdf2(1), &block)[..40].to_vec(),
        [info(&pbkdf2(1), &block), vec![0]].concat(),
        b"no DER at all".to_vec(),
        Vec::new(),
    ] {
        let error = refused(&der);
        assert_eq!(error.reason(), Reason::Malformed, "{error}: {der:02x?}");
    }
    for (how, body) in [
        (
            "-v2 des3",
            "\
MIGKME4GCSqGSIb3DQEFDTBBMCkGCSqGSIb3DQEFDDAcBAjsELCY5Uw2bgICCAAw
DAYIKoZIhvcNAgkFADAUBggqhkiG9w0DBwQIzT5Z2NJr/rgEODq5VXCoFeebB2Cn
ASAuu3bkqzfwj92+xpvRmj96KnnsflllXtNPilof2C1YT1xhYTos2G6+eXz7
",
        ),
        (
            "-v1 PBE-MD5-DES",
            "\
MFcwGwYJKoZIhvcNAQUDMA4ECBMwfK6K6OUBAgIIAAQ4wJo78zGD2cbWtTZg/6/1
U6w4NZlU+YS4EGhn9A1mTBLp2fBJXghQQPLG9UgV04ewGh0P1W4Rlug=
",
        ),
        (
            "-v1 PBE-SHA1-3DES",
            "\
MFgwHAYKKoZIhvcNAQwBAzAOBAitnVLJzxVxUQICCAAEODwszlGVsFusybiXevoq
VfIxnOsORkU3cVNj7rnEOEPRKA/LdK+0rmvupZjKRVKA+fvJG72zktfE
",
        ),
    ] {
        let error = refused(&der_of(body));
        assert_eq!(error.reason(), Reason::Unsupported, "{how}: {error}");
        assert!(error.message().contains("openssl pkcs8 -topk8 -v2 aes-256-cbc"), "{how}: {error}");
    }
}

#[test]
fn arbitrary_damage_never_panics() {
    let whole = encrypt(&pbkdf2(1), &[7; 40]);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut der = whole.clone();
            der[at] ^= 1 << bit;
            refused(&der);
        }
        refused(&whole[..at]);
    }
}

struct Scene {
    dir: TestDir,
    issued: Issued,
}

impl Scene {
    /// An identity whose key is encrypted, in PEM with a line of text before it.
    fn new() -> Self {
        let issued = Ca::new("Root").issue("localhost");
        let dir = TestDir::new().unwrap();
        dir.write_issued(&issued).unwrap();
        let scene = Self { dir, issued };
        scene.write_key(&pbkdf2(1000));
        scene
    }

    fn write_key(&self, parameters: &Parameters<'_>) {
        let der = encrypt(parameters, self.issued.key_der().secret_der());
        self.dir.write("tls.key", format!("# the key\n{}", armour(&base64(&der)))).unwrap();
    }

    fn files(&self) -> Files {
        Files::identity(self.dir.join("tls.crt"), self.dir.join("tls.key"))
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
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

#[test]
fn an_identity_with_an_encrypted_key_loads_from_pem_der_and_one_file() {
    let scene = Scene::new();
    let ask = || Ok(PASSWORD.to_vec());
    let check = |mut files: Files| {
        let material = files.load().unwrap();
        let identity = material.identity().unwrap();
        assert!(identity.is_key_match_known());
        assert_eq!(identity.key().secret_der(), scene.issued.key_der().secret_der());
    };
    check(scene.files().key_password(ask));
    let der = encrypt(&scrypt(16, 8, 1), scene.issued.key_der().secret_der());
    let combined = scene.issued.chain_pem() + &armour(&base64(&der));
    check(Files::combined(scene.dir.write("all.pem", combined).unwrap()).key_password(ask));
    let path = scene.dir.write("tls.der", der).unwrap();
    check(Files::identity(scene.dir.join("tls.crt"), path).key_password(ask));
    // A key that is not encrypted needs no password.
    scene.dir.write("tls.key", scene.issued.key_pem()).unwrap();
    check(scene.files().key_password(|| -> Result<Vec<u8>, _> { panic!("nobody needs it") }));
}

#[test]
fn the_password_is_asked_for_at_each_read() {
    let scene = Scene::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let mut files = scene.files().key_password(move || {
        // The first one is the one of yesterday.
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if is_first { b"donkey".to_vec() } else { PASSWORD.to_vec() })
    });
    let error = files.load().unwrap_err();
    assert!(error.source().unwrap().is::<WrongPassword>(), "{error}");
    files.load().unwrap();
    files.load().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn what_is_wrong_is_said_with_path_and_line_and_leaves_the_trust_alone() {
    let scene = Scene::new();
    let failure = |files: Files| {
        let parts = { files }.read().unwrap();
        let (Part::Found(_), Part::Broken(error)) = (parts.trust, parts.identity) else {
            panic!("not broken")
        };
        assert_eq!(error.path(), Some(scene.dir.join("tls.key").as_path()), "{error}");
        error
    };
    let files = || scene.files().with_trust(scene.dir.join("ca.crt"));

    let error = failure(files());
    assert_eq!((error.reason(), error.line()), (Reason::Encrypted, Some(2)));
    assert!(error.message().contains("there is no password"), "{error}");
    assert!(error.source().is_none());

    let error = failure(files().key_password(|| Ok(b"donkey".to_vec())));
    assert_eq!((error.reason(), error.line()), (Reason::Encrypted, Some(2)));
    assert!(error.source().unwrap().is::<WrongPassword>());

    let error =
        failure(files().key_password(|| -> Result<Vec<u8>, _> { Err("the vault\n is sealed".into()) }));
    assert_eq!((error.reason(), error.line()), (Reason::Encrypted, Some(2)));
    assert!(error.message().ends_with("the vault\\u{a} is sealed"), "{error}");

    let own =
        || -> Result<Vec<u8>, _> { Err(Error::new(Reason::TimedOut, "no answer from the vault").into()) };
    let error = failure(files().key_password(own));
    assert_eq!((error.reason(), error.line()), (Reason::TimedOut, Some(2)));

    scene.write_key(&pbkdf2(1));
    let costly = info(&pbkdf2(1_000_000_000), &[0; 48]);
    scene.dir.write("tls.key", armour(&base64(&costly))).unwrap();
    let (error, took) = spent(|| failure(files().key_password(|| Ok(PASSWORD.to_vec()))));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!((error.reason(), error.line()), (Reason::TooLarge, Some(1)));
}

#[test]
fn a_failure_that_has_a_path_of_its_own_keeps_it() {
    let scene = Scene::new();
    let path = scene.dir.join("no-password");
    let wanted = path.clone();
    let mut files = scene.files().key_password(move || -> Result<Vec<u8>, _> {
        Ok(std::fs::read(&path).map_err(|error| Error::io("read the password", &path, error))?)
    });
    let error = files.load().unwrap_err();
    assert_eq!(
        (error.reason(), error.path(), error.line()),
        (Reason::NotFound, Some(wanted.as_path()), None)
    );
}

#[test]
fn several_keys_are_told_before_any_password_is_asked_for() {
    let scene = Scene::new();
    let encrypted = std::fs::read_to_string(scene.dir.join("tls.key")).unwrap();
    for (content, line) in [
        (format!("{encrypted}{encrypted}"), 6),
        (format!("{encrypted}{}", scene.issued.key_pem()), 5),
        (format!("{}{encrypted}", scene.issued.key_pem()), 1),
    ] {
        scene.dir.write("tls.key", content).unwrap();
        let mut files = scene.files().key_password(|| -> Result<Vec<u8>, _> { panic!("too early") });
        let error = files.load().unwrap_err();
        assert_eq!((error.reason(), error.line()), (Reason::Malformed, Some(line)), "{error}");
        assert!(error.message().contains("2 private keys"), "{error}");
    }
}

#[test]
fn neither_password_nor_key_is_shown() {
    let scene = Scene::new();
    let mut files = scene.files().key_password(|| Ok(PASSWORD.to_vec()));
    let mut wrong = scene.files().key_password(|| Ok(b"donkey".to_vec()));
    let error = wrong.load().unwrap_err();
    let shown =
        format!("{files:?} {:?} {:?} {error} {error:?}", files.read().unwrap(), files.load().unwrap());
    for secret in ["horse", "donkey", &base64(&scene.issued.key_der().secret_der()[..30])] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let bytes = format!("{:?}", &scene.issued.key_der().secret_der()[..8]);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}
