//! Hostile text made safe to show: names in certificates and paths can hold anything.

use std::fmt;

/// Shows text with everything escaped that could act on a terminal, a log or a web page: control characters,
/// bidirectional and invisible characters, and the quotes and brackets of labels and HTML.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a str);

impl<'a> Escaped<'a> {
    /// Escapes `text` when it is shown.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in self.0.char_indices() {
            if is_hostile(c) {
                f.write_str(&self.0[plain..at])?;
                write!(f, "\\u{{{:x}}}", u32::from(c))?;
                plain = at + c.len_utf8();
            }
        }
        f.write_str(&self.0[plain..])
    }
}

/// Whether a character is escaped. The sets: C0 and C1 controls; Unicode's bidirectional controls (UAX #9) and
/// invisible format characters; line and paragraph separators; private use, tags, and non-characters; `"`, `'`, `<`,
/// `>`, `&`, `` ` `` and the backslash that would make escapes ambiguous.
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '"' | '\'' | '<' | '>' | '&' | '`' | '\\')
        || matches!(u32::from(c),
            0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f
            | 0xfeff | 0xffa0 | 0xfff0..=0xffff | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
            | 0xe000..=0xf8ff | 0xe0000..=0xe0fff | 0xf0000..=0x10ffff)
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn controls_bidi_and_markup_are_escaped() {
        for (raw, shown) in [
            ("plain ü 名", "plain ü 名"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\nb\r\tc\0", "a\\u{a}b\\u{d}\\u{9}c\\u{0}"),
            ("\u{202e}gpj", "\\u{202e}gpj"),
            ("<b>&\"'", "\\u{3c}b\\u{3e}\\u{26}\\u{22}\\u{27}"),
            ("a\\u{1b}", "a\\u{5c}u{1b}"),
            ("\u{9b}31m\u{feff}", "\\u{9b}31m\\u{feff}"),
        ] {
            assert_eq!(Escaped::new(raw).to_string(), shown);
        }
    }
}
