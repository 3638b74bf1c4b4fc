//! Certificates, revocation lists and keys in any bytes: the quick parser and the one that shows everything agree on
//! what is one, nothing hostile is shown, and an identity of two such parts is judged.
#![no_main]

use certsource::parts::{FoundCrl, Part, Parts};
use certsource::{Origin, PrivateKey, Reason, inspect};
use certsource_fuzz::layout::{MARK, PASSWORD};
use certsource_fuzz::{assert_harmless, assert_one_line, show};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mark = input.windows(MARK.len()).position(|window| window == MARK);
    let (der, key) = match mark {
        Some(at) => (&input[..at], &input[at + MARK.len()..]),
        None => (input, input),
    };
    certificate(der);
    crl(der);
    encrypted(der);
    identity(der, key);
});

fn certificate(der: &[u8]) {
    let shown = inspect::certificate(der);
    let parts = Parts::new().with_trust(&Origin::named("input"), [der.to_vec().into()]);
    match (parts.assemble().whole, shown) {
        (Ok(material), Ok(shown)) => {
            let anchor = &material.trust().expect("it was asked for")[0];
            assert_eq!(anchor.inspection(), &shown);
            assert_eq!(anchor.not_after(), shown.not_after());
            assert_eq!(anchor.is_ca(), shown.is_ca());
            show(&material);
        }
        (Err(error), Err(_)) => {
            assert_eq!(error.reason(), Reason::Malformed);
            assert_one_line(&error);
        }
        (material, shown) => panic!("{material:?}, but {shown:?}"),
    }
}

fn crl(der: &[u8]) {
    let shown = inspect::crl(der);
    let mut parts = Parts::new();
    let origin = Origin::named("input");
    parts.crls = Part::Found(vec![FoundCrl { der: der.to_vec().into(), origin, line: None }]);
    match (parts.assemble().whole, shown) {
        (Ok(material), Ok(shown)) => {
            assert_eq!(material.crls().expect("it was asked for")[0].inspection(), &shown);
            assert_harmless(shown.issuer());
        }
        (Err(error), shown) => {
            let expected = if shown.is_ok() { Reason::Unsupported } else { Reason::Malformed };
            assert_eq!(error.reason(), expected);
            assert_one_line(&error);
        }
        (material, shown) => panic!("{material:?}, but {shown:?}"),
    }
}

fn encrypted(der: &[u8]) {
    if let Err(error) = PrivateKey::from_encrypted_der(der, PASSWORD) {
        assert_one_line(&error);
    }
}

fn identity(certificate: &[u8], der: &[u8]) {
    let key = match PrivateKey::from_der(der.to_vec().into()) {
        Ok(key) => key,
        Err(error) => {
            assert!(matches!(error.reason(), Reason::Malformed | Reason::Encrypted), "{error}");
            assert_one_line(&error);
            return;
        }
    };
    assert_eq!(key.secret_der(), der);
    let half = key.public_half();
    let origin = Origin::named("input");
    let parts = Parts::new().with_identity(&origin, [certificate.to_vec().into()], key);
    match parts.assemble().whole {
        Ok(material) => {
            let identity = material.identity().expect("it was asked for");
            // A match is known only where the key holds its public half.
            assert!(!identity.is_key_match_known() || half.is_some());
        }
        Err(error) => {
            assert!(matches!(error.reason(), Reason::Malformed | Reason::KeyMismatch), "{error}");
            assert_one_line(&error);
        }
    }
}
