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
