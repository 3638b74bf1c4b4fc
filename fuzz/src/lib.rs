//! What the fuzz targets share: a file system in memory, the layout of inputs, and what must hold for everything that is
//! shown.
#![forbid(unsafe_code)]

use certsource::{Error, Material, text::Escaped};

pub mod layout;
pub mod memory;

/// The longest message of an error, in bytes: it stays one line whatever stands in a file.
const LONGEST: usize = 300;

/// Panics if text that is shown holds something that a terminal, a log or a page acts on.
pub fn assert_harmless(shown: &str) {
    // What is escaped already holds backslashes, and nothing else that would be escaped again.
    let plain = shown.replace('\\', "");
    assert!(Escaped::new(&plain).to_string() == plain, "hostile text is shown: {shown:?}");
}

/// Panics if an error is not one harmless line.
pub fn assert_one_line(error: &Error) {
    assert!(error.message().len() <= LONGEST, "{} bytes: {error}", error.message().len());
    // Messages quote labels and commands, so quotes are theirs.
    assert_harmless(&error.to_string().replace(['"', '\'', '`'], ""));
}

/// Shows everything of a material, and panics if something hostile is shown.
pub fn show(material: &Material) {
    for (_, certificate) in material.certificates() {
        assert_harmless(&certificate.inspection().to_string());
    }
    for crl in material.crls().into_iter().flatten() {
        assert_harmless(crl.inspection().issuer());
    }
    for warning in material.warnings() {
        assert_harmless(&warning.to_string().replace(['"', '\'', '`'], ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use certsource::Reason;

    #[test]
    fn plain_and_escaped_text_is_harmless() {
        assert_harmless("CN=a\\1b\\,b uri:\\u{1b}[2J (no subject) sha256 00ff");
        assert_one_line(&Error::new(Reason::Empty, "no section \"x\"; try `this`").at("/etc/tls/\u{1b}<b>"));
    }

    #[test]
    #[should_panic = "hostile text is shown"]
    fn a_control_character_is_not() {
        assert_harmless("CN=a\u{1b}[2J");
    }

    #[test]
    #[should_panic = "hostile text is shown"]
    fn markup_in_a_message_is_not() {
        assert_one_line(&Error::new(Reason::Empty, "no <b> in it"));
    }

    #[test]
    #[should_panic = "301 bytes"]
    fn a_long_message_is_not_one_line() {
        assert_one_line(&Error::new(Reason::Empty, "x".repeat(301)));
    }

    #[test]
    fn a_layout_is_read_as_it_was_written() {
        use layout::{FILES, Layout, PAIR, TRUST};
        let contents = [Some(&b"a"[..]), Some(b""), Some(b"c\n==="), Some(b"\n"), Some(b"e")];
        let written = Layout { choices: TRUST | PAIR, contents }.write();
        let read = Layout::read(&written).unwrap();
        assert_eq!(read.contents, contents);
        assert!(read.has(TRUST) && read.has(TRUST | PAIR) && !read.has(layout::CRL));
        // A part that is cut off is not there.
        let cut = Layout::read(&written[..3]).unwrap();
        assert_eq!(cut.contents.iter().flatten().count(), 1);
        assert_eq!(FILES.len(), contents.len());
        assert!(Layout::read(b"").is_none());
    }
}
