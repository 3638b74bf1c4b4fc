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

/// Whether a character is escaped. The sets, of Unicode 16:
///
/// - the controls C0, DEL and C1;
/// - the bidirectional controls (UAX #9, table 2): U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069;
/// - every other format character (category Cf), and what is ignored when shown (Default_Ignorable_Code_Point);
/// - line and paragraph separators;
/// - private use and non-characters;
/// - `"`, `'`, `<`, `>`, `&`, `` ` ``, and the backslash that would make escapes ambiguous.
pub(crate) fn is_hostile(c: char) -> bool {
    let code = u32::from(c);
    if code < 0x80 {
        return c.is_ascii_control() || matches!(c, '"' | '\'' | '<' | '>' | '&' | '`' | '\\');
    }
    matches!(code,
        0x80..=0x9f | 0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
        | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
        | 0xfff0..=0xfffb | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff | 0xf0000..=0x10ffff)
        || code & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::{Escaped, is_hostile};

    #[test]
    fn controls_bidi_and_markup_are_escaped() {
        for (raw, shown) in [
            ("plain ü 名", "plain ü 名"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\nb\r\tc\0", "a\\u{a}b\\u{d}\\u{9}c\\u{0}"),
            ("\u{202e}gpj", "\\u{202e}gpj"),
            ("<b>&\"'`", "\\u{3c}b\\u{3e}\\u{26}\\u{22}\\u{27}\\u{60}"),
            ("a\\u{1b}", "a\\u{5c}u{1b}"),
            ("\u{9b}31m\u{feff}", "\\u{9b}31m\\u{feff}"),
            ("\u{7f}", "\\u{7f}"),
            ("", ""),
            ("\u{2066}\u{2069}", "\\u{2066}\\u{2069}"),
        ] {
            assert_eq!(Escaped::new(raw).to_string(), shown);
        }
    }

    #[test]
    fn every_bidirectional_control_of_uax_9_is_hostile() {
        // Table 2 of UAX #9: ALM, LRM, RLM, LRE, RLE, PDF, LRO, RLO, LRI, RLI, FSI, PDI.
        for code in
            [0x61c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069]
        {
            assert!(is_hostile(char::from_u32(code).unwrap()), "{code:#x}");
        }
    }

    #[test]
    fn every_format_character_is_hostile() {
        // The category Cf of Unicode 16.
        for range in [
            0xad..=0xad,
            0x600..=0x605,
            0x61c..=0x61c,
            0x6dd..=0x6dd,
            0x70f..=0x70f,
            0x890..=0x891,
            0x8e2..=0x8e2,
            0x180e..=0x180e,
            0x200b..=0x200f,
            0x202a..=0x202e,
            0x2060..=0x2064,
            0x2066..=0x206f,
            0xfeff..=0xfeff,
            0xfff9..=0xfffb,
            0x110bd..=0x110bd,
            0x110cd..=0x110cd,
            0x13430..=0x1343f,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0001..=0xe0001,
            0xe0020..=0xe007f,
        ] {
            for code in range {
                assert!(is_hostile(char::from_u32(code).unwrap()), "{code:#x}");
            }
        }
    }

    #[test]
    fn every_non_character_is_hostile() {
        let ends = (0..=0x10_u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
        for code in ends.chain(0xfdd0..=0xfdef) {
            assert!(is_hostile(char::from_u32(code).unwrap()), "{code:#x}");
        }
    }

    #[test]
    fn letters_digits_and_emoji_are_not() {
        for c in "az09 .,:;/-_+*=@#%()[]{}|~^!?$ßéЖאبक名가😀€\u{a0}\u{3000}\u{fdcf}\u{fdf0}\u{fffc}\u{fffd}"
            .chars()
        {
            assert!(!is_hostile(c), "{c:?}");
        }
    }

    #[test]
    fn shown_text_holds_no_hostile_character_and_is_read_back() {
        // Every character of three planes and of the last two.
        let all: String = (0..0x3_0000)
            .chain(0xe_0000..0xe_1000)
            .chain(0x10_ff00..=0x10_ffff)
            .filter_map(char::from_u32)
            .collect();
        let shown = Escaped::new(&all).to_string();
        assert!(shown.chars().all(|c| c == '\\' || !is_hostile(c)));
        let mut back = String::new();
        let mut rest = shown.as_str();
        while let Some((plain, escaped)) = rest.split_once("\\u{") {
            let (code, after) = escaped.split_once('}').unwrap();
            back.push_str(plain);
            back.push(u32::from_str_radix(code, 16).ok().and_then(char::from_u32).unwrap());
            rest = after;
        }
        assert_eq!(back + rest, all);
    }
}
