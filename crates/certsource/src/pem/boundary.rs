//! The `BEGIN` and `END` lines of PEM, and lines that were meant as one.

/// What a line is, if it bounds a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary<'a> {
    /// `-----BEGIN LABEL-----`, alone.
    Begin(&'a str),
    /// `-----END LABEL-----`, alone or right before a `BEGIN`.
    End { label: &'a str, rest: &'a [u8] },
    /// Not one, but nobody writes this as a comment.
    Misspelt(Spelling),
}

/// How a line that was meant to bound a section is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A `BEGIN` with the wrong dashes, a broken label, or more behind it.
    Begin,
    /// A section, or its start, on one line with `\n` in it as two characters.
    EscapedBreaks,
    /// An `END` with the wrong dashes or a broken label.
    End,
    /// An `END` and other text behind it.
    TextBehindEnd,
}

const DASHES: &[u8] = b"-----";
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
/// The same without a label: a trimmed line ends before the blank.
const BARE_BEGIN: &[u8] = b"-----BEGIN";
const BARE_END: &[u8] = b"-----END";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The labels that are looked for in lines with the wrong dashes, case or blanks.
const LABELS: &[&str] = &[
    "CERTIFICATE",
    "X509 CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "X509 CRL",
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
];

/// A line without the whitespace around it, and without a byte order mark: joined files have it in the middle.
pub(super) fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    trim_blanks(line)
}

fn trim_blanks(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | 0x0b | 0x0c, rest @ ..] = line {
        line = rest;
    }
    while let [rest @ .., b' ' | b'\t' | 0x0b | 0x0c] = line {
        line = rest;
    }
    line
}

/// What a trimmed line is. Cheap for lines that are nothing.
pub(super) fn read(line: &[u8]) -> Option<Boundary<'_>> {
    match line.first() {
        Some(&b'-') => {}
        Some(&first) if !first.is_ascii() => return misspelt(line),
        _ => return None,
    }
    if let Some(rest) = line.strip_prefix(BEGIN) {
        return Some(match rest.strip_suffix(DASHES).and_then(label) {
            Some(label) => Boundary::Begin(label),
            None if rest.windows(2).any(|pair| pair == br"\n") => Boundary::Misspelt(Spelling::EscapedBreaks),
            None => Boundary::Misspelt(Spelling::Begin),
        });
    }
    if let Some(rest) = line.strip_prefix(END) {
        let dashes = rest.windows(DASHES.len()).position(|window| window == DASHES);
        let Some((name, rest)) = dashes.map(|at| (&rest[..at], trim_blanks(&rest[at + DASHES.len()..])))
        else {
            return Some(Boundary::Misspelt(Spelling::End));
        };
        return Some(match label(name) {
            Some(label) if rest.is_empty() || rest.starts_with(BEGIN) => Boundary::End { label, rest },
            Some(_) => Boundary::Misspelt(Spelling::TextBehindEnd),
            None => Boundary::Misspelt(Spelling::End),
        });
    }
    match line {
        BARE_BEGIN => Some(Boundary::Misspelt(Spelling::Begin)),
        BARE_END => Some(Boundary::Misspelt(Spelling::End)),
        _ => misspelt(line),
    }
}

/// Whether a last line without a line end may be the start of a `BEGIN` that was cut.
pub(super) fn is_cut_begin(line: &[u8]) -> bool {
    !line.is_empty() && BEGIN.starts_with(line)
}

/// A label as RFC 7468 has it: printable ASCII, words apart by one blank or one dash. The empty one is refused.
fn label(text: &[u8]) -> Option<&str> {
    let edge = |byte: &u8| matches!(byte, b' ' | b'-');
    let text = std::str::from_utf8(text).ok()?;
    let bytes = text.as_bytes();
    let is_printable = bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let is_apart = !bytes.windows(2).any(|pair| pair.iter().all(edge));
    (is_printable && is_apart && !edge(bytes.first()?) && !edge(bytes.last()?)).then_some(text)
}

/// A line that says BEGIN or END and one of the labels that matter between dashes of some kind: too few, too many,
/// the long ones of a word processor, or in small letters.
fn misspelt(line: &[u8]) -> Option<Boundary<'_>> {
    let edge = |byte: &u8| matches!(byte, b'-' | b' ' | b'\t') || !byte.is_ascii();
    let start = line.iter().position(|byte| !edge(byte))?;
    let end = line.iter().rposition(|byte| !edge(byte))? + 1;
    let words = std::str::from_utf8(&line[start..end]).ok()?;
    if words.len() > 40 {
        return None;
    }
    let (first, label) = words.split_once([' ', '\t'])?;
    let label = label.trim_start();
    if !LABELS.iter().any(|known| known.eq_ignore_ascii_case(label)) {
        return None;
    }
    if first.eq_ignore_ascii_case("BEGIN") {
        Some(Boundary::Misspelt(Spelling::Begin))
    } else if first.eq_ignore_ascii_case("END") {
        Some(Boundary::Misspelt(Spelling::End))
    } else {
        None
    }
}
