//! The strict PEM reader (RFC 7468): sections with their line, or what is wrong and on which line.
//!
//! It never skips silently what may have been meant: a section that is cut, or begins inside another, or ends as
//! something else is a [`Flaw`], not a certificate fewer. It goes over the text once.
//!
//! What is not here: the meaning of the DER ([`crate::inspect`]), which sections a file must hold ([`crate::files`]),
//! and limits on size (the reader of the bytes has them).
//!
//! It stands beside `pki_types::pem`, not on it, for two reasons seen in rustls-pki-types 1.16: its line reader lets
//! through a section inside another, and its decoder leaves copies of a key's text in memory.

mod base64;
mod boundary;
mod flaw;

use std::fmt;

use memchr::{memchr, memchr2};
use pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use self::boundary::Boundary;
use crate::key::{KeyFormat, PrivateKey};
use crate::text::Escaped;

pub use self::flaw::Flaw;

/// One section of a PEM text.
#[derive(Debug)]
pub struct Section {
    /// The line of its `BEGIN`, counted from 1.
    pub line: usize,
    /// What it holds.
    pub content: Content,
}

impl Section {
    /// What it holds, in the words of its label, for messages.
    pub fn label(&self) -> &str {
        match &self.content {
            Content::Certificate(_) => "CERTIFICATE",
            Content::Crl(_) => "X509 CRL",
            Content::PrivateKey(key) => match key.format() {
                KeyFormat::Pkcs8 => "PRIVATE KEY",
                KeyFormat::Pkcs1 => "RSA PRIVATE KEY",
                KeyFormat::Sec1 => "EC PRIVATE KEY",
            },
            Content::EncryptedKey(_) => "ENCRYPTED PRIVATE KEY",
            Content::Other(label) => label.as_str(),
        }
    }
}

/// What a section holds. The DER is as it stands: nothing is checked but the PEM around it.
#[non_exhaustive]
pub enum Content {
    /// `CERTIFICATE`, or `X509 CERTIFICATE` as old programs write it.
    Certificate(CertificateDer<'static>),
    /// `X509 CRL`.
    Crl(CertificateRevocationListDer<'static>),
    /// `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`.
    PrivateKey(PrivateKey),
    /// `ENCRYPTED PRIVATE KEY`: PKCS#8 that needs a password.
    EncryptedKey(Zeroizing<Vec<u8>>),
    /// Any other label. Its content is not decoded.
    Other(Label),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(der) => f.debug_tuple("Certificate").field(&Length(der.len())).finish(),
            Self::Crl(der) => f.debug_tuple("Crl").field(&Length(der.len())).finish(),
            Self::PrivateKey(key) => f.debug_tuple("PrivateKey").field(key).finish(),
            Self::EncryptedKey(_) => f.debug_tuple("EncryptedKey").finish_non_exhaustive(),
            Self::Other(label) => f.debug_tuple("Other").field(label).finish(),
        }
    }
}

struct Length(usize);

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// The label of a section that is neither a certificate, nor a CRL, nor a key that can be read.
///
/// Shown escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label(Box<str>);

impl Label {
    /// The label as it stands: hostile text, printable ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped::new(&self.0).fmt(f)
    }
}

/// Reads the sections of a PEM text, in order.
///
/// - Lines end with LF, CRLF or CR. A byte order mark, and whitespace around lines, are passed over.
/// - Text between sections is comment. `EC PARAMETERS`, which OpenSSL writes before a key, is passed over.
/// - A `BEGIN` right behind an `END` on the same line, as when files without a newline at the end are joined, is read.
///
/// The iterator goes on after a flaw, at the next place where a section may begin; most callers stop at the first.
///
/// # Examples
///
/// ```
/// use certsource::pem;
///
/// let flaw = pem::sections(b"-----BEGIN CERTIFICATE-----\nMAAA\n").next().unwrap().unwrap_err();
/// assert_eq!(flaw.line(), 1);
/// ```
pub fn sections(text: &[u8]) -> Sections<'_> {
    Sections { text, at: 0, line: 1 }
}

/// Whether the bytes are one DER structure and nothing else, as far as the outermost length tells. PEM never is.
///
/// For readers that take both forms: PEM is text and never begins as a `SEQUENCE` that is as long as the file.
pub fn looks_like_der(bytes: &[u8]) -> bool {
    let (header, length) = match *bytes {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(length)),
        [0x30, octets @ 0x81..=0x84, ref rest @ ..] => {
            let octets = usize::from(octets & 0x7f);
            let Some(length) = rest.get(..octets) else { return false };
            (2 + octets, length.iter().fold(0_usize, |sum, &octet| sum << 8 | usize::from(octet)))
        }
        _ => return false,
    };
    bytes.len().checked_sub(header) == Some(length)
}

/// The sections of a PEM text. Made by [`sections`].
#[derive(Clone)]
pub struct Sections<'a> {
    text: &'a [u8],
    /// Everything before this offset is done.
    at: usize,
    /// The number of the line that `at` is on.
    line: usize,
}

/// A line without the whitespace around it.
struct Line<'a> {
    number: usize,
    /// Where the line begins, with its whitespace.
    start: usize,
    text: &'a [u8],
}

impl fmt::Debug for Sections<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the text: it may hold a key.
        f.debug_struct("Sections").field("line", &self.line).finish_non_exhaustive()
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == 0 {
            if let Some(flaw) = not_text(self.text) {
                self.at = self.text.len();
                return Some(Err(flaw));
            }
        }
        while let Some(line) = self.next_line() {
            match boundary::read(line.text) {
                None if self.at_cut_line() && boundary::is_cut_begin(line.text) => {
                    return Some(Err(flaw::cut_begin(line.number)));
                }
                None => {}
                Some(Boundary::Begin(label)) => match self.section(label, line.number) {
                    Ok(None) => {}
                    Ok(Some(content)) => return Some(Ok(Section { line: line.number, content })),
                    Err(flaw) => return Some(Err(flaw)),
                },
                Some(Boundary::End { .. }) => return Some(Err(flaw::end_alone(line.number))),
                Some(Boundary::Misspelt(how)) => return Some(Err(flaw::misspelt(how, line.number))),
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Sections<'_> {}

impl<'a> Sections<'a> {
    fn next_line(&mut self) -> Option<Line<'a>> {
        let start = self.at;
        let rest = &self.text[start..];
        if rest.is_empty() {
            return None;
        }
        let length = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let number = self.line;
        self.at = start + length;
        if let Some(&first) = rest.get(length) {
            let is_crlf = first == b'\r' && rest.get(length + 1) == Some(&b'\n');
            self.at += if is_crlf { 2 } else { 1 };
            self.line += 1;
        }
        Some(Line { number, start, text: boundary::trim(&rest[..length]) })
    }

    /// Whether the line before `at` is the last one and has no line end.
    fn at_cut_line(&self) -> bool {
        self.at == self.text.len() && !matches!(self.text.last(), Some(b'\n' | b'\r'))
    }

    /// Reads on behind a `BEGIN` line. `None`: a section to pass over.
    fn section(&mut self, label: &'a str, begin: usize) -> Result<Option<Content>, Flaw> {
        let kind = Kind::of(label);
        let body = self.body(label, begin)?;
        let content = match kind {
            Kind::Parameters => return Ok(None),
            Kind::Trusted => return Err(flaw::trusted(begin)),
            Kind::Other => Content::Other(Label(label.into())),
            Kind::Certificate => Content::Certificate(public(body, label, begin)?.into()),
            Kind::Crl => Content::Crl(public(body, label, begin)?.into()),
            Kind::Key(format) => Content::PrivateKey(PrivateKey::new(format, secret(body, label, begin)?)),
            Kind::EncryptedKey => Content::EncryptedKey(secret(body, label, begin)?),
        };
        Ok(Some(content))
    }

    /// The text between a `BEGIN` line and its `END` line.
    fn body(&mut self, label: &str, begin: usize) -> Result<&'a [u8], Flaw> {
        let start = self.at;
        while let Some(line) = self.next_line() {
            match boundary::read(line.text) {
                None => {}
                Some(Boundary::Begin(_)) => {
                    // Whatever this one is, it may be whole: go on with it.
                    self.at = line.start;
                    self.line = line.number;
                    return Err(flaw::cut_by_another(label, begin, line.number));
                }
                Some(Boundary::End { label: end, rest }) => {
                    if !rest.is_empty() {
                        self.at = offset(self.text, rest);
                        self.line = line.number;
                    }
                    return if end == label {
                        Ok(&self.text[start..line.start])
                    } else {
                        Err(flaw::other_end(label, begin, end, line.number))
                    };
                }
                Some(Boundary::Misspelt(how)) => {
                    return Err(flaw::misspelt_inside(label, begin, how, line.number));
                }
            }
        }
        Err(flaw::cut(label, begin))
    }
}

/// Where a part of a text begins in it.
fn offset(text: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// What a label means here.
#[derive(Clone, Copy)]
enum Kind {
    Certificate,
    Crl,
    Key(KeyFormat),
    EncryptedKey,
    Trusted,
    Parameters,
    Other,
}

impl Kind {
    fn of(label: &str) -> Self {
        match label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "X509 CRL" => Self::Crl,
            "PRIVATE KEY" => Self::Key(KeyFormat::Pkcs8),
            "RSA PRIVATE KEY" => Self::Key(KeyFormat::Pkcs1),
            "EC PRIVATE KEY" => Self::Key(KeyFormat::Sec1),
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            "TRUSTED CERTIFICATE" => Self::Trusted,
            "EC PARAMETERS" => Self::Parameters,
            _ => Self::Other,
        }
    }
}

fn public(body: &[u8], label: &str, begin: usize) -> Result<Vec<u8>, Flaw> {
    let mut der = vec![0; base64::capacity(body.len())];
    let length = base64::decode(body, &mut der).map_err(|broken| flaw::body(body, broken, label, begin))?;
    filled(length, label, begin)?;
    der.truncate(length);
    Ok(der)
}

/// As [`public`], in memory that is wiped, also when it fails.
fn secret(body: &[u8], label: &str, begin: usize) -> Result<Zeroizing<Vec<u8>>, Flaw> {
    let mut der = Zeroizing::new(vec![0; base64::capacity(body.len())]);
    let length =
        base64::decode_secret(body, &mut der).map_err(|broken| flaw::body(body, broken, label, begin))?;
    filled(length, label, begin)?;
    der.truncate(length);
    Ok(der)
}

fn filled(length: usize, label: &str, begin: usize) -> Result<(), Flaw> {
    if length == 0 { Err(flaw::hollow(label, begin)) } else { Ok(()) }
}

/// Why these bytes are no PEM text at all, if so.
fn not_text(bytes: &[u8]) -> Option<Flaw> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Some(flaw::utf16());
    }
    memchr(0, bytes).map(|at| flaw::nul(flaw::line_of(bytes, at)))
}
