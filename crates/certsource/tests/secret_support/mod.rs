//! Looks for a private key in everything that is shown: its bytes in each form that print has. And counts the types that
//! were shown, so that none of the public ones is forgotten.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::any::type_name;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::path::Path;

use certsource_testkit::Issued;

/// Octets of a key in a row that no output holds by chance, and that no output may hold.
const RUN: usize = 6;
/// The same in letters of base64.
const LETTERS: usize = 10;

/// The private half of a key.
pub struct Secret {
    scalar: Vec<u8>,
    /// The lines of the PEM text that hold nothing but the private half.
    base64: Vec<String>,
}

impl Secret {
    /// Of a P-256 or Ed25519 key.
    pub fn of(issued: &Issued) -> Self {
        let der = issued.key_der().secret_der().to_vec();
        // The first OCTET STRING of 32 octets.
        let start = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap() + 2;
        let text: String = issued.key_pem().lines().filter(|line| !line.starts_with('-')).collect();
        let secret = &text[start.div_ceil(3) * 4..(start + 32) / 3 * 4];
        let base64 = (0..=secret.len() - LETTERS).map(|at| secret[at..at + LETTERS].to_owned()).collect();
        Self { scalar: der[start..start + 32].to_vec(), base64 }
    }

    /// In which form a piece of the key stands in the text, if it does.
    pub fn found_in(&self, text: &str) -> Option<&'static str> {
        let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let decimal = |run: &[u8]| run.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let hex = |run: &[u8]| run.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let escaped = |run: &[u8]| run.escape_ascii().to_string();
        let digits = bare.to_lowercase().replace("0x", "").replace("\\x", "").replace([':', '-', ','], "");
        let holds = |text: &str, form: &dyn Fn(&[u8]) -> String| {
            self.scalar.windows(RUN).any(|run| text.contains(&form(run)))
        };
        // Where it is cut, an octet may have belonged to a character.
        let lossy = String::from_utf8_lossy(&self.scalar);
        let lossy = lossy.trim_matches('\u{fffd}');
        if self.base64.iter().any(|letters| bare.contains(letters)) {
            Some("base64")
        } else if holds(&bare, &decimal) {
            Some("decimal numbers")
        } else if holds(&digits, &hex) {
            Some("hexadecimal digits")
        } else if holds(text, &escaped) {
            Some("escaped bytes")
        } else if text.contains(lossy) {
            Some("its bytes")
        } else {
            None
        }
    }

    /// Fails if a piece of the key stands in the text. The text is not told: it would be the next leak.
    #[track_caller]
    pub fn is_not_in(&self, what: &str, text: &str) {
        if let Some(form) = self.found_in(text) {
            panic!("{what} shows the private key as {form}, in {} characters", text.len());
        }
    }
}

/// What was shown so far.
pub struct Shown {
    secret: Secret,
    types: BTreeSet<String>,
}

impl Shown {
    pub fn of(issued: &Issued) -> Self {
        Self { secret: Secret::of(issued), types: BTreeSet::new() }
    }

    /// A value as `Debug` shows it, on one line and on many.
    #[track_caller]
    pub fn debug<T: Debug>(&mut self, value: &T) {
        let name = type_name::<T>();
        self.types.insert(last(name).to_owned());
        self.secret.is_not_in(name, &format!("{value:?}\n{value:#?}"));
    }

    /// The same, and as `Display` shows it.
    #[track_caller]
    pub fn display<T: Debug + Display>(&mut self, value: &T) {
        self.debug(value);
        self.secret.is_not_in(type_name::<T>(), &format!("{value}\n{value:#}"));
    }

    /// The same, and every cause.
    #[track_caller]
    pub fn error<T: Error>(&mut self, error: &T) {
        self.display(error);
        let mut cause = error.source();
        while let Some(error) = cause {
            self.secret.is_not_in("a cause", &format!("{error}\n{error:?}"));
            cause = error.source();
        }
    }

    #[track_caller]
    pub fn text(&self, what: &str, text: &str) {
        self.secret.is_not_in(what, text);
    }

    /// Every type of the library that shows itself was shown, or is one of `others`, which can hold no key: as the list
    /// of its public items says, where that is at hand.
    pub fn is_all_of(&self, library: &str, others: &[&str]) {
        let list =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/api").join(format!("{library}.txt"));
        let Ok(list) = std::fs::read_to_string(list) else { return };
        let all: BTreeSet<&str> = list
            .lines()
            .filter_map(|line| line.split_once("fmt::Debug for "))
            .map(|(_, name)| last(name))
            .collect();
        assert!(all.len() > 5, "{library}: {all:?}");
        let missing: Vec<_> =
            all.iter().filter(|name| !self.types.contains(**name) && !others.contains(name)).collect();
        assert!(missing.is_empty(), "{library}: these were not shown: {missing:?}");
        let odd: Vec<_> = others.iter().filter(|name| !all.contains(**name)).collect();
        assert!(odd.is_empty(), "{library} has none of these: {odd:?}");
    }
}

/// The last name of a path, without what is in brackets.
fn last(path: &str) -> &str {
    let path = path.split('<').next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default()
}
