//! The PEM reader over any bytes: it ends, its lines and messages are right, and what it reads is what rustls-pemfile
//! reads from a text that is written well.
#![no_main]

use std::fmt::Write as _;
use std::io::BufReader;

use certsource::pem::{self, Content, Section};
use certsource_fuzz::{assert_harmless, assert_one_line};
use libfuzzer_sys::fuzz_target;
use rustls_pemfile::Item;

fuzz_target!(|text: &[u8]| {
    let breaks = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    let mut line = 0;
    let mut sections = Vec::new();
    // At most one item a byte: it ends.
    for item in pem::sections(text).take(text.len() + 1).collect::<Vec<_>>() {
        let at = match &item {
            Ok(section) => section.line,
            Err(flaw) => flaw.line(),
        };
        // Counted from 1, never past the end, and never back but to a section that a flaw before it began.
        assert!((1..=breaks + 1).contains(&at), "line {at} of {}", breaks + 1);
        assert!(at >= line, "line {at} after {line}");
        line = at;
        match item {
            Ok(section) => {
                if let Content::Other(label) = &section.content {
                    assert_harmless(&label.to_string());
                }
                sections.push(section);
            }
            Err(flaw) => assert_one_line(&flaw.at("/f.pem")),
        }
    }
    assert!(pem::sections(text).count() <= text.len());

    // The same sections, written well.
    let mut clean = String::new();
    let mut contents = Vec::new();
    for section in &sections {
        if let Some(der) = der_of(section) {
            let label = section.label();
            let _ = write!(clean, "-----BEGIN {label}-----\n{}-----END {label}-----\n", base64(der));
            contents.push((label.to_owned(), der.to_vec()));
        }
    }
    let ours: Vec<_> = pem::sections(clean.as_bytes())
        .map(|section| section.expect("a text that is written well has no flaw"))
        .map(|section| (section.label().to_owned(), der_of(&section).expect("it is decoded").to_vec()))
        .collect();
    assert_eq!(ours, contents);
    let theirs: Vec<_> = rustls_pemfile::read_all(&mut BufReader::new(clean.as_bytes()))
        .map(|item| bytes(item.expect("a text that is written well has no flaw")))
        .collect();
    // It knows no encrypted keys.
    contents.retain(|(label, _)| label != "ENCRYPTED PRIVATE KEY");
    assert_eq!(theirs, contents.into_iter().map(|(_, der)| der).collect::<Vec<_>>());
});

fn der_of(section: &Section) -> Option<&[u8]> {
    match &section.content {
        Content::Certificate(der) => Some(der),
        Content::Crl(der) => Some(der),
        Content::PrivateKey(key) => Some(key.secret_der()),
        Content::EncryptedKey(der) => Some(der),
        _ => None,
    }
}

fn bytes(item: Item) -> Vec<u8> {
    match item {
        Item::X509Certificate(der) => der.to_vec(),
        Item::Crl(der) => der.to_vec(),
        Item::Pkcs1Key(der) => der.secret_pkcs1_der().to_vec(),
        Item::Pkcs8Key(der) => der.secret_pkcs8_der().to_vec(),
        Item::Sec1Key(der) => der.secret_sec1_der().to_vec(),
        other => panic!("nobody wrote {other:?}"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for line in bytes.chunks(48) {
        for chunk in line.chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
            let bits = bits << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
            }
        }
        text.push('\n');
    }
    text
}
