//! What is wrong with a PEM text is told, with its line, and never as a section fewer. What the sections mean, and
//! agreement with other readers on good texts, are tested elsewhere.

use std::path::Path;

use certsource::pem::{self, Content, Flaw};
use certsource::{Error, KeyFormat, Reason};
use certsource_testkit::Ca;

const BODY: &str = "MIIBAAEC\n";

fn certificate() -> String {
    format!("-----BEGIN CERTIFICATE-----\n{BODY}-----END CERTIFICATE-----\n")
}

fn flaws(text: impl AsRef<[u8]>) -> Vec<(Reason, usize, String)> {
    pem::sections(text.as_ref())
        .filter_map(Result::err)
        .map(|flaw| (flaw.reason(), flaw.line(), flaw.message().to_owned()))
        .collect()
}

/// How many sections rustls-pemfile sees, or `None` if it says that something is wrong.
fn pemfile(text: &[u8]) -> Option<usize> {
    rustls_pemfile::read_all(&mut &*text).collect::<Result<Vec<_>, _>>().ok().map(|sections| sections.len())
}

#[track_caller]
fn assert_one_flaw(text: impl AsRef<[u8]>, line: usize, part: &str) {
    let found = flaws(text.as_ref());
    let [(Reason::Malformed, at, message)] = &found[..] else { panic!("not one flaw: {found:?}") };
    assert_eq!(*at, line, "{message}");
    assert!(message.contains(part), "{message}");
}

#[test]
fn an_unterminated_section_before_a_whole_one_is_a_flaw_and_the_whole_one_is_read() {
    let text = format!("-----BEGIN CERTIFICATE-----\n{BODY}{}", certificate());
    assert_one_flaw(&text, 1, "another one begins on line 3");
    assert_eq!(pem::sections(text.as_bytes()).filter(Result::is_ok).count(), 1);
    // One section, of both bodies, and no error.
    assert_eq!(pemfile(text.as_bytes()), Some(1));
}

#[test]
fn a_cut_last_section_is_a_flaw_wherever_it_is_cut() {
    let one = certificate();
    let text = format!("# the first\n{one}\n{one}");
    let second = text.rfind("-----BEGIN").unwrap();
    for end in second + 1..text.len() - 1 {
        let found = flaws(&text[..end]);
        assert!(matches!(found[..], [(Reason::Malformed, 6, _)]), "cut at {end}: {found:?}");
    }
    // Without the last line end it is whole.
    assert_eq!(flaws(&text[..text.len() - 1]), []);
    // A cut in the BEGIN line is a certificate fewer to others.
    assert_eq!(pemfile(&text.as_bytes()[..second + 8]), Some(1));
}

#[test]
fn an_end_of_something_else_is_a_flaw() {
    let text = format!("\n-----BEGIN CERTIFICATE-----\n{BODY}-----END PRIVATE KEY-----\n");
    assert_one_flaw(&text, 2, "ends on line 4 with the END line of a PRIVATE KEY section");
}

#[test]
fn an_end_alone_is_a_flaw() {
    let text = format!("{BODY}-----END CERTIFICATE-----\n{}", certificate());
    assert_one_flaw(&text, 2, "without a BEGIN");
    assert_eq!(pemfile(text.as_bytes()), Some(1));
}

#[test]
fn files_joined_without_a_line_end_are_read() {
    let one = certificate();
    let one = one.trim_end();
    let text = format!("{one}{one} \t{one}\n");
    assert!(text.contains("-----END CERTIFICATE----------BEGIN CERTIFICATE-----"));
    let lines: Vec<usize> = pem::sections(text.as_bytes()).map(|section| section.unwrap().line).collect();
    assert_eq!(lines, [1, 3, 5]);
    // The certificates behind the first are lost to others, without an error.
    assert_eq!(pemfile(text.as_bytes()), Some(1));
}

#[test]
fn files_joined_without_a_line_end_before_other_text_are_flaws() {
    let one = certificate();
    let one = one.trim_end();
    for other in ["# the next", "-", "MIIB", "-----BEGIN", "-----END CERTIFICATE-----"] {
        assert_one_flaw(format!("{one}{other}\n"), 1, "a line break is missing");
    }
    // The comment of the first file, which has no line end, hides the BEGIN; the END tells.
    assert_one_flaw(format!("# my roots{}", certificate()), 3, "without a BEGIN");
}

#[test]
fn joined_files_whose_first_end_is_wrong_are_a_flaw_and_the_second_is_read() {
    let text = format!("-----BEGIN X509 CRL-----\n{BODY}-----END CERTIFICATE-----{}", certificate());
    assert_one_flaw(&text, 1, "ends on line 3");
    assert_eq!(
        pem::sections(text.as_bytes()).filter_map(Result::ok).map(|section| section.line).collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn boundary_lines_that_are_not_written_right_are_flaws() {
    let end = format!("{BODY}-----END CERTIFICATE-----\n");
    for begin in [
        "-----BEGIN CERTIFICATE",
        "-----BEGIN CERTIFICATE----",
        "-----BEGIN CERTIFICATE------",
        "-----BEGIN CERTIFICATE ----- ",
        "-----BEGIN  CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----MIIB",
        "-----BEGIN CERTIFICATE-----\\nMIIB",
        "-----BEGIN -----",
        "-----BEGIN PUBLIC  KEY-----",
        "-----BEGIN PUBLIC--KEY-----",
        "-----BEGIN",
        "-----BEGIN CERTIF\u{130}CATE-----",
        "----BEGIN CERTIFICATE-----",
        "------BEGIN CERTIFICATE-----",
        "-----begin certificate-----",
        "----- BEGIN CERTIFICATE -----",
        "-----BEGIN\tCERTIFICATE-----",
        "\u{2014}\u{2014}BEGIN CERTIFICATE\u{2014}\u{2014}",
    ] {
        let found = flaws(format!("{begin}\n{end}"));
        // The BEGIN, and then the END that is left alone.
        assert!(
            matches!(found[..], [(Reason::Malformed, 1, _), (Reason::Malformed, 3, _)]),
            "{begin}: {found:?}"
        );
        let says = if begin.contains("\\n") { "write real line breaks" } else { "a BEGIN line must read" };
        assert!(found[0].2.contains(says), "{begin}: {found:?}");
        // Told also where no END gives it away.
        let found = flaws(format!("{}{begin}\n{BODY}", certificate()));
        assert!(matches!(found[..], [(Reason::Malformed, 4, _)]), "{begin}: {found:?}");
    }
    for end in [
        "-----END CERTIFICATE",
        "-----END CERTIFICATE----",
        "-----END CERTIFICATE------",
        "-----END CERTIFICATE ----- ",
        "-----END CERTIFICATE----- and more",
        "-----END -----",
        "-----END",
        "----END CERTIFICATE-----",
        "-----end certificate-----",
        "----- END CERTIFICATE -----",
    ] {
        let found = flaws(format!("-----BEGIN CERTIFICATE-----\n{BODY}{end}\n"));
        assert!(matches!(found[..], [(Reason::Malformed, 1, _)]), "{end}: {found:?}");
        assert!(found[0].2.contains("END line"), "{end}: {found:?}");
        // Also where no section has begun.
        assert_eq!(flaws(end).len(), 1, "{end}");
    }
}

#[test]
fn a_section_on_one_line_is_told_as_such() {
    let text = certificate().replace('\n', "\\n");
    assert_one_flaw(text, 1, "write real line breaks");
}

#[test]
fn text_headers_in_a_section_are_flaws_and_encryption_is_told() {
    let key = |headers: &str| {
        format!(
            "-----BEGIN RSA PRIVATE KEY-----\n{headers}\n{BODY}-----END RSA PRIVATE KEY-----\n{}",
            certificate()
        )
    };
    for headers in [
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n",
        "proc-type: 4,encrypted\n",
        "Comment: a\n folded\nProc-Type: 4,ENCRYPTED\n",
    ] {
        let text = key(headers);
        let found = flaws(&text);
        assert!(matches!(found[..], [(Reason::Encrypted, 1, _)]), "{found:?}");
        assert_eq!(
            pem::sections(text.as_bytes()).filter(Result::is_ok).count(),
            1,
            "the next section is read"
        );
    }
    for plain in ["Comment: a\n", "Proc-Type: 4,MIC-CLEAR\n", "Comment: ENCRYPTED\n"] {
        assert_one_flaw(key(plain), 1, "a header on line 2");
    }
    assert_one_flaw(key("MIIB\nProc-Type: 4,ENCRYPTED\n"), 1, "line 3");
    let text = certificate().replace(BODY, &format!("Bag: x\n\n{BODY}"));
    assert_one_flaw(text, 1, "a header on line 2");
}

#[test]
fn base64_that_is_broken_is_a_flaw_with_its_line() {
    const NOT_BASE64: &str = "a character that is not base64";
    const PADDING: &str = "padding (=) that is not at the end";
    const CUT: &str = "is cut, or lacks its padding";
    for (body, part, body_line) in [
        ("MIIB\nAA*C\n", NOT_BASE64, Some(2)),
        ("MIIB\nAAEC\nAA-C", NOT_BASE64, Some(3)),
        ("MIIB\nAA_C\n", NOT_BASE64, Some(2)),
        ("MIIB\nAAEC\n\u{a0}AAA", NOT_BASE64, Some(3)),
        ("MII\"BAA=", NOT_BASE64, Some(1)),
        ("---\nMIIB", NOT_BASE64, Some(1)),
        ("MIIBAA==\nMIIB", PADDING, Some(2)),
        ("MIIBAA==x", PADDING, Some(1)),
        ("MIIBAA===", PADDING, Some(1)),
        ("MIIB\nAAE\n", CUT, None),
        ("MIIBAA=", CUT, None),
        ("", "holds nothing", None),
        (" \n\n", "holds nothing", None),
    ] {
        for (label, before) in [("X509 CRL", ""), ("PRIVATE KEY", "# a comment\n\n")] {
            let text = format!("{before}-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            let begin = 1 + before.lines().count();
            let part = match body_line {
                Some(line) => format!("{part}, on line {}", begin + line),
                None => part.to_owned(),
            };
            assert_one_flaw(&text, begin, &part);
            assert_one_flaw(text.replace('\n', "\r\n"), begin, &part);
            assert_one_flaw(text.replace('\n', "\r"), begin, &part);
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_flaws() {
    for at in ["# a\n#\0\n", "\0", "# a\n-----BEGIN CERTIFICATE-----\nMI\0B\n-----END CERTIFICATE-----\n"] {
        let line = at[..at.find('\0').unwrap()].lines().count().max(1);
        assert_one_flaw(format!("{at}{}", certificate()), line, "NUL");
        assert!(pem::sections(at.as_bytes()).all(|section| section.is_err()));
    }
    // A torn write: the tail of the file is a hole.
    let mut torn = certificate().repeat(2).into_bytes();
    let end = torn.len();
    torn[end - 20..].fill(0);
    assert_one_flaw(&torn, 6, "NUL");
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(certificate().encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert_one_flaw(&utf16, 1, "UTF-16");
    assert_eq!(pemfile(&utf16), Some(0));
}

#[test]
fn what_is_around_a_section_is_passed_over() {
    let one = certificate();
    let indented = one.lines().map(|line| format!(" \t{line} \x0c\n")).collect::<String>();
    for (text, lines) in [
        (String::new(), vec![]),
        ("\n\r\n\r".to_owned(), vec![]),
        ("Bag Attributes\n    localKeyID: 01 02\n=====\n----------\n-- end --\n---\n".to_owned(), vec![]),
        (format!("BEGIN CERTIFICATE\nend certificate\n{one}"), vec![3]),
        (format!("\u{feff}{one}"), vec![1]),
        (format!("{one}\u{feff}{one}"), vec![1, 4]),
        (format!("{one}\n\n# a - b\n{one}"), vec![1, 7]),
        (indented, vec![1]),
        (one.replace('\n', "\r\n"), vec![1]),
        (one.replace('\n', "\r").repeat(2), vec![1, 4]),
        (one.replace('\n', "\n\n"), vec![1]),
        ("# ".to_owned() + &one.trim_end().replace('\n', "\n# "), vec![]),
        (one.replace("MIIBAAEC", "M I\tI B\nA\n\nA\nEC"), vec![1]),
        (format!("\u{e9}t\u{e9} BEGIN CERTIFICATE, \u{2014} BEGIN of the roots \u{2014}\n{one}"), vec![2]),
    ] {
        let found: Result<Vec<_>, Flaw> = pem::sections(text.as_bytes()).map(|s| Ok(s?.line)).collect();
        assert_eq!(found.unwrap(), lines, "{text:?}");
    }
}

#[test]
fn labels_are_told_apart() {
    let text: String = [
        "X509 CERTIFICATE",
        "CERTIFICATE",
        "X509 CRL",
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PARAMETERS",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PUBLIC KEY",
        "OPENSSH PRIVATE KEY",
        "A <label>",
    ]
    .iter()
    .map(|label| format!("-----BEGIN {label}-----\n{BODY}-----END {label}-----\n"))
    .collect();
    let found: Vec<String> = pem::sections(text.as_bytes())
        .map(|section| match section.unwrap().content {
            Content::Certificate(der) => format!("certificate {}", der.len()),
            Content::Crl(der) => format!("crl {}", der.len()),
            Content::PrivateKey(key) => {
                assert_eq!(key.secret_der().len(), 6);
                format!("key {:?}", key.format())
            }
            Content::EncryptedKey(der) => format!("encrypted {}", der.len()),
            Content::Other(label) => format!("other {label}"),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(
        found,
        [
            "certificate 6",
            "certificate 6",
            "crl 6",
            "key Pkcs8",
            "key Pkcs1",
            "key Sec1",
            "encrypted 6",
            "other PUBLIC KEY",
            "other OPENSSH PRIVATE KEY",
            "other A \\u{3c}label\\u{3e}",
        ]
    );
}

#[test]
fn a_section_says_what_it_is_and_how_long_it_is() {
    for (label, shown) in [
        ("CERTIFICATE", "Certificate(6 bytes)"),
        ("X509 CRL", "Crl(6 bytes)"),
        ("PRIVATE KEY", "PrivateKey("),
        ("RSA PRIVATE KEY", "PrivateKey("),
        ("EC PRIVATE KEY", "PrivateKey("),
        ("ENCRYPTED PRIVATE KEY", "EncryptedKey(.."),
        ("PUBLIC KEY", "Other("),
    ] {
        let text = format!("\n-----BEGIN {label}-----\n{BODY}-----END {label}-----\n");
        let mut sections = pem::sections(text.as_bytes());
        let section = sections.next().unwrap().unwrap();
        assert_eq!((section.label(), section.line), (label, 2));
        let debug = format!("{:?}", section.content);
        assert!(debug.starts_with(shown), "{debug}");
        if let Content::Other(other) = &section.content {
            assert_eq!(other.as_str(), label);
        }
        assert_eq!(format!("{sections:?}"), "Sections { line: 5, .. }");
    }
}

#[test]
fn a_trusted_certificate_is_unsupported_and_says_what_to_do() {
    let text = certificate().replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let found = flaws(text);
    let [(Reason::Unsupported, 1, message)] = &found[..] else { panic!("{found:?}") };
    assert!(message.contains("openssl x509"), "{message}");
}

#[test]
fn a_flaw_becomes_an_error_with_path_and_line() {
    let flaw = pem::sections(b"\n\n-----END CERTIFICATE-----\n").next().unwrap().unwrap_err();
    assert!(flaw.to_string().starts_with("line 3: an END line"), "{flaw}");
    let error: Error = flaw.at("/tls/ca.pem");
    assert_eq!((error.reason(), error.line()), (Reason::Malformed, Some(3)));
    assert_eq!(error.path(), Some(Path::new("/tls/ca.pem")));
    assert!(error.to_string().starts_with("/tls/ca.pem:3: an END line"), "{error}");
}

#[test]
fn no_byte_of_a_key_is_shown() {
    let issued = Ca::new("root").issue("localhost");
    let whole = issued.key_pem();
    let secrets: Vec<&str> = whole.lines().filter(|line| !line.starts_with('-')).collect();
    let broken = [
        whole.clone(),
        whole.replace("-----END", "*-----END"),
        whole.replace("-----END", "=====\n-----END"),
        whole.replace("-----END", "A: b\n-----END"),
        whole[..whole.len() / 2].to_owned(),
        whole.replacen("KEY-----\n", "KEY-----", 1),
        whole.replace('\n', "\\n"),
        whole.replacen("\n-----END", "-----END", 1),
        format!("{}{}", whole.replace("-----END PRIVATE KEY-----\n", ""), whole),
        whole.replace("-----BEGIN", "----BEGIN"),
    ];
    for text in broken {
        let sections = pem::sections(text.as_bytes());
        let mut shown = format!("{sections:?}");
        for section in sections {
            shown += &format!("{section:?}");
            if let Err(flaw) = section {
                shown += &format!("{flaw} {:?}", flaw.clone().at("p"));
            }
        }
        for secret in &secrets {
            assert!(
                !secret.as_bytes().windows(8).any(|part| shown.contains(std::str::from_utf8(part).unwrap())),
                "{shown}"
            );
        }
    }
}

#[test]
fn der_is_told_from_text() {
    let issued = Ca::new("root").issue("localhost");
    let der = issued.leaf_der();
    assert!(pem::looks_like_der(&der));
    assert!(pem::looks_like_der(issued.key_der().secret_der()));
    for bytes in [
        &der[..der.len() - 1],
        &der[1..],
        b"",
        b"0",
        b"0\x82",
        b"0\x80\0\0",
        b"0\x85\0\0\0\0\0",
        certificate().as_bytes(),
    ] {
        assert!(!pem::looks_like_der(bytes));
    }
    assert!(!pem::looks_like_der(&[&der[..], b"\n"].concat()));
    for (length, header) in [
        (0, vec![0x30, 0]),
        (127, vec![0x30, 127]),
        (128, vec![0x30, 0x81, 128]),
        (65536, vec![0x30, 0x83, 1, 0, 0]),
    ] {
        assert!(pem::looks_like_der(&[header, vec![0; length]].concat()), "{length}");
    }
    assert!(pem::looks_like_der(&[0x30, 0]));
}

#[test]
fn every_part_of_an_identity_is_read() {
    let issued = Ca::new("root").intermediate("issuing").issue("localhost");
    let text = format!("{}{}", issued.chain_pem(), issued.key_pem());
    let mut chain = Vec::new();
    let mut keys = Vec::new();
    for section in pem::sections(text.as_bytes()) {
        match section.unwrap().content {
            Content::Certificate(der) => chain.push(der),
            Content::PrivateKey(key) => keys.push(key),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(chain, issued.chain_der());
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].format(), KeyFormat::Pkcs8);
    assert_eq!(keys[0].secret_der(), issued.key_der().secret_der());
}
