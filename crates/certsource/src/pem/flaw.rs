//! What can be wrong with a PEM text, in words. Never a byte of its content.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use super::base64::Broken;
use super::boundary::{Spelling, trim};
use crate::error::{Error, Reason};

/// What is wrong with a PEM text, and on which line. Its text never holds content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    reason: Reason,
    line: usize,
    message: Cow<'static, str>,
}

impl Flaw {
    /// Why: [`Reason::Malformed`], [`Reason::Encrypted`] or [`Reason::Unsupported`].
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The line of the section's `BEGIN`, or of what is wrong where there is none; counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What is wrong and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error for the file at this path.
    pub fn at(self, path: impl Into<PathBuf>) -> Error {
        Error::from(self).at(path)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Flaw {}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Self {
        let line = flaw.line;
        Self::new(flaw.reason, flaw.message).on_line(line)
    }
}

fn malformed(line: usize, message: impl Into<Cow<'static, str>>) -> Flaw {
    Flaw { reason: Reason::Malformed, line, message: message.into() }
}

/// A label for a message: the ones we know by name, others not at all, since they can be long or hostile.
fn named(label: &str) -> &str {
    match label {
        "CERTIFICATE"
        | "X509 CERTIFICATE"
        | "TRUSTED CERTIFICATE"
        | "CERTIFICATE REQUEST"
        | "X509 CRL"
        | "PRIVATE KEY"
        | "RSA PRIVATE KEY"
        | "EC PRIVATE KEY"
        | "ENCRYPTED PRIVATE KEY"
        | "OPENSSH PRIVATE KEY"
        | "PUBLIC KEY"
        | "EC PARAMETERS"
        | "DH PARAMETERS" => label,
        _ => "PEM",
    }
}

pub(super) fn cut(label: &str, begin: usize) -> Flaw {
    let label = named(label);
    let message = format!(
        "this {label} section is cut: the file ends before its END line; if its writer is done, have it written again (a full \
         disk cuts files)"
    );
    malformed(begin, message)
}

pub(super) fn cut_by_another(label: &str, begin: usize, other: usize) -> Flaw {
    let label = named(label);
    malformed(
        begin,
        format!("this {label} section is cut: another one begins on line {other}, before its END line"),
    )
}

pub(super) fn other_end(label: &str, begin: usize, end: &str, line: usize) -> Flaw {
    let (label, end) = (named(label), named(end));
    malformed(begin, format!("this {label} section ends on line {line} with the END line of a {end} section"))
}

pub(super) fn cut_begin(line: usize) -> Flaw {
    malformed(line, "the file ends in the middle of a BEGIN line")
}

pub(super) fn end_alone(line: usize) -> Flaw {
    malformed(line, "an END line without a BEGIN line before it: the start of the section is missing")
}

pub(super) fn misspelt(how: Spelling, line: usize) -> Flaw {
    malformed(line, spelling(how))
}

pub(super) fn misspelt_inside(label: &str, begin: usize, how: Spelling, line: usize) -> Flaw {
    malformed(begin, format!("in this {} section, on line {line}: {}", named(label), spelling(how)))
}

fn spelling(how: Spelling) -> &'static str {
    match how {
        Spelling::Begin => "a BEGIN line must read -----BEGIN LABEL-----, with five dashes, and nothing else",
        Spelling::EscapedBreaks => {
            "the section is on one line, with \\n as text in it: write real line breaks"
        }
        Spelling::End => "an END line must read -----END LABEL-----, with five dashes, and nothing else",
        Spelling::TextBehindEnd => {
            "text follows the END line: a line break is missing, as when files are joined that do not end with one"
        }
    }
}

pub(super) fn trusted(begin: usize) -> Flaw {
    let message = "a TRUSTED CERTIFICATE holds OpenSSL's own trust settings, which are not supported: \
                   convert it with `openssl x509 -in FILE -out NEW`";
    Flaw { reason: Reason::Unsupported, line: begin, message: message.into() }
}

pub(super) fn hollow(label: &str, begin: usize) -> Flaw {
    malformed(begin, format!("this {} section holds nothing", named(label)))
}

pub(super) fn utf16() -> Flaw {
    malformed(1, "the file is UTF-16 text: save it as UTF-8 or ASCII")
}

pub(super) fn nul(line: usize) -> Flaw {
    malformed(line, "a NUL byte: the file is not text, or a write of it was torn")
}

/// Why the text between a `BEGIN` and its `END` is not base64.
pub(super) fn body(body: &[u8], broken: Broken, label: &str, begin: usize) -> Flaw {
    let label = named(label);
    let Broken::Byte(at) = broken else {
        return malformed(begin, format!("the base64 of this {label} section is cut, or lacks its padding"));
    };
    // A body begins with the line after its `BEGIN`.
    let line = begin + line_of(body, at);
    if is_header(line_at(body, at)) {
        return header(body, label, begin, line);
    }
    let what = if body[at] == b'=' || body[..at].contains(&b'=') {
        "padding (=) that is not at the end"
    } else {
        "a character that is not base64"
    };
    malformed(begin, format!("this {label} section is broken: {what}, on line {line}"))
}

/// RFC 1421 headers: OpenSSL's old way to encrypt a key.
fn header(body: &[u8], label: &str, begin: usize, line: usize) -> Flaw {
    let is_encrypted = lines(body)
        .take_while(|line| {
            line.is_empty() || is_header(line) || line.first().is_some_and(u8::is_ascii_whitespace)
        })
        .any(|line| {
            let line = line.to_ascii_uppercase();
            line.starts_with(b"PROC-TYPE:") && line.windows(9).any(|window| window == b"ENCRYPTED")
        });
    if is_encrypted {
        let message = "the private key is encrypted in OpenSSL's old way (Proc-Type: 4,ENCRYPTED): \
                       decrypt it with `openssl pkey -in FILE -out NEW`";
        return Flaw { reason: Reason::Encrypted, line: begin, message: message.into() };
    }
    malformed(begin, format!("this {label} section has a header on line {line}; only base64 may stand in it"))
}

fn is_header(line: &[u8]) -> bool {
    line.contains(&b':')
}

/// The number of the line that an offset is on, if the text begins with line 1.
pub(super) fn line_of(text: &[u8], at: usize) -> usize {
    lines(&text[..at]).count()
}

fn line_at(text: &[u8], at: usize) -> &[u8] {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let start = text[..at].iter().rposition(is_break).map_or(0, |found| found + 1);
    let end = text[at..].iter().position(is_break).map_or(text.len(), |found| at + found);
    trim(&text[start..end])
}

/// The lines, each without what ends it: LF, CRLF or CR. As many as there are line ends, and one more.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let skip = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = Some(&text[end + skip..]);
        Some(&text[..end])
    })
}
