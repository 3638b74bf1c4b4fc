//! The PEM reader over random input: it agrees with rustls-pemfile on good texts, tells every cut, never panics, and
//! takes time in proportion to the text.

use std::fmt::Write;
use std::time::{Duration, Instant};

use certsource::pem::{self, Content};
use proptest::prelude::*;
use rustls_pemfile::Item;

#[derive(Clone, Debug)]
struct Piece {
    label: &'static str,
    der: Vec<u8>,
    comment: String,
    width: usize,
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

impl Piece {
    fn write(&self, text: &mut String) {
        let body = base64(&self.der);
        let lines: Vec<&str> = body
            .as_bytes()
            .chunks(self.width)
            .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
            .collect();
        let (label, comment) = (self.label, &self.comment);
        write!(text, "{comment}-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
            .expect("a String takes everything");
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    let label = prop::sample::select(vec![
        "CERTIFICATE",
        "X509 CRL",
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "EC PARAMETERS",
        "DH PARAMETERS",
    ]);
    let comment = prop::sample::select(vec![
        "",
        "\n",
        "# Issuer: CN=a - b\n",
        "subject=CN = \u{e9}\u{e8}\n\n",
        "Bag Attributes: <No Attributes>\n\n",
        "----------\n=====\n",
    ]);
    (label, prop::collection::vec(any::<u8>(), 1..200), comment, 1..90_usize)
        .prop_map(|(label, der, comment, width)| Piece { label, der, comment: comment.to_owned(), width })
}

fn bundle() -> impl Strategy<Value = (Vec<Piece>, String)> {
    let ending = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    (prop::collection::vec(piece(), 0..8), ending, any::<bool>()).prop_map(
        |(pieces, ending, ends_with_it)| {
            let mut text = String::new();
            pieces.iter().for_each(|piece| piece.write(&mut text));
            if !ends_with_it {
                text.pop();
            }
            let text = text.replace('\n', ending);
            (pieces, text)
        },
    )
}

fn ours(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    pem::sections(text)
        .map(|section| section.expect("the text is well formed"))
        .filter_map(|section| match section.content {
            Content::Certificate(der) => Some(("certificate", der.to_vec())),
            Content::Crl(der) => Some(("crl", der.to_vec())),
            Content::PrivateKey(key) => Some((format_name(key.format()), key.secret_der().to_vec())),
            _ => None,
        })
        .collect()
}

fn format_name(format: certsource::KeyFormat) -> &'static str {
    match format {
        certsource::KeyFormat::Pkcs8 => "pkcs8",
        certsource::KeyFormat::Pkcs1 => "pkcs1",
        certsource::KeyFormat::Sec1 => "sec1",
        _ => unreachable!(),
    }
}

fn theirs(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    rustls_pemfile::read_all(&mut &*text)
        .filter_map(|item| match item.expect("the text is well formed") {
            Item::X509Certificate(der) => Some(("certificate", der.to_vec())),
            Item::Crl(der) => Some(("crl", der.to_vec())),
            Item::Pkcs8Key(key) => Some(("pkcs8", key.secret_pkcs8_der().to_vec())),
            Item::Pkcs1Key(key) => Some(("pkcs1", key.secret_pkcs1_der().to_vec())),
            Item::Sec1Key(key) => Some(("sec1", key.secret_sec1_der().to_vec())),
            _ => None,
        })
        .collect()
}

proptest! {
    #[test]
    fn good_texts_are_read_as_rustls_pemfile_reads_them((pieces, text) in bundle()) {
        let found = ours(text.as_bytes());
        prop_assert_eq!(&found, &theirs(text.as_bytes()));
        let known = pieces.iter().filter(|piece| !piece.label.ends_with("PARAMETERS")).map(|piece| &piece.der);
        prop_assert!(found.iter().map(|(_, der)| der).eq(known));
    }

    #[test]
    fn lines_are_those_of_the_begin_lines((_, text) in bundle()) {
        // CR alone is a line end to us; `str::lines` knows the others.
        let text = if text.contains('\n') { text } else { text.replace('\r', "\n") };
        let expected: Vec<usize> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.starts_with("-----BEGIN") && !line.contains("EC PARAMETERS"))
            .map(|(at, _)| at + 1)
            .collect();
        let found: Vec<usize> = pem::sections(text.as_bytes()).map(|section| section.unwrap().line).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_cut_inside_a_section_is_told((_, text) in bundle(), at in any::<prop::sample::Index>()) {
        prop_assume!(!text.is_empty());
        let at = at.index(text.len());
        prop_assume!(text.is_char_boundary(at));
        let cut = &text[..at];
        let begins = text.match_indices("-----BEGIN").map(|(start, _)| start);
        let ends = text.match_indices("-----END").map(|(start, _)| start + text[start..].find("-----\r").map_or_else(
            || text[start..].find("-----\n").map_or(text.len() - start, |length| length + 5), |length| length + 5));
        let is_inside = begins.zip(ends).any(|(start, end)| start < at && at < end);
        let has_flaw = pem::sections(cut.as_bytes()).any(|section| section.is_err());
        // A comment that is cut to dashes looks as a cut BEGIN does.
        let is_cut_dashes = cut.rsplit(['\n', '\r']).next().is_some_and(|line| !line.is_empty() && "-----".starts_with(line));
        prop_assert_eq!(has_flaw, is_inside || is_cut_dashes, "{:?}", cut);
    }

    #[test]
    fn a_lost_line_is_told((_, text) in bundle(), at in any::<prop::sample::Index>()) {
        let boundaries: Vec<usize> = text.match_indices("-----BEGIN").chain(text.match_indices("-----END")).map(|(start, _)| start).collect();
        prop_assume!(!boundaries.is_empty());
        let start = boundaries[at.index(boundaries.len())];
        let length = text[start..].find(['\n', '\r']).map_or(text.len() - start, |length| length + 1);
        let without = format!("{}{}", &text[..start], &text[start + length..]);
        prop_assert!(pem::sections(without.as_bytes()).any(|section| section.is_err()), "{}", without);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let sections = pem::sections(&bytes).count();
        prop_assert!(sections <= bytes.len());
        pem::looks_like_der(&bytes);
    }

    #[test]
    fn arbitrary_pieces_of_pem_never_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "-----", "-", "BEGIN ", "END ", "CERTIFICATE", "PRIVATE KEY", "EC PARAMETERS", "X", " ", "\n", "\r", "\r\n", "=", "AAAA", "A", "*",
        "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----\n", "\n-----END PRIVATE KEY-----",
        "Proc-Type: 4,ENCRYPTED", "\u{feff}", "\u{2014}", "\\n", ":", "\t",
    ]), 0..60)) {
        let text = pieces.concat();
        let mut last = 0;
        let lines = text.replace("\r\n", "\n").replace('\r', "\n").split('\n').count();
        for section in pem::sections(text.as_bytes()) {
            let line = match &section {
                Ok(section) => section.line,
                Err(flaw) => {
                    let _ = flaw.to_string();
                    flaw.line()
                }
            };
            prop_assert!(last <= line && line <= lines, "{} after {} in {:?}", line, last, text);
            last = line;
        }
    }
}

/// The best of some runs: other work on the machine only adds time.
fn best(text: &[u8]) -> Duration {
    (0..3)
        .map(|_| {
            let start = Instant::now();
            pem::sections(text).count();
            start.elapsed()
        })
        .min()
        .expect("there are runs")
}

#[test]
fn time_grows_as_the_text_does() {
    let section = "-----BEGIN CERTIFICATE-----\nMIIBAAEC\n-----END CERTIFICATE-----\n";
    for part in [
        section.to_owned(),
        section.trim_end().to_owned(),
        section.replace("AAEC", "AA*C"),
        "-----BEGIN CERTIFICATE-----\n".to_owned(),
        "-----END CERTIFICATE-----\n".to_owned(),
        "-----BEGIN CERTIFICATE-----\nA: b\n".to_owned(),
        "# a comment between sections, as long as they are in bundles\n".to_owned(),
        "-----------------\n".to_owned(),
        "\u{2014}".to_owned(),
        "-----BEGIN CERTIFICATE-----".to_owned(),
    ] {
        let (small, large) = (part.repeat(5_000), part.repeat(100_000));
        let (short, long) = (best(small.as_bytes()), best(large.as_bytes()));
        // Twenty times the text. Quadratic time would be four hundred times as long.
        assert!(long < short * 150 + Duration::from_millis(5), "{short:?}, then {long:?}: {part}");
    }
    let many = section.repeat(100_000);
    assert_eq!(pem::sections(many.as_bytes()).filter(Result::is_ok).count(), 100_000);
}
