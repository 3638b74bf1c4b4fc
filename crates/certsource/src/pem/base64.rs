//! Base64 (RFC 4648, section 4) as it stands in PEM: whitespace anywhere, padding required.
//!
//! There are two alphabets for one decoder: a table for public bytes, and arithmetic for secret ones, so that neither
//! a branch nor a memory address depends on a key. Decoders that are at hand keep copies of the text of a key that
//! nobody wipes, also when they fail; this one writes into one buffer that the caller wipes.

/// What a byte is, where it is not one of the 64 digits.
const SPACE: u8 = 0x40;
const PAD: u8 = 0x41;
const OTHER: u8 = 0x42;

/// Why a text is not base64. Holds no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A byte that does not belong here, at this offset.
    Byte(usize),
    /// The text ends in the middle of a group of four.
    Cut,
}

/// The most bytes that a text of this length can hold.
pub(super) const fn capacity(text: usize) -> usize {
    text / 4 * 3
}

/// Decodes public text into `out`, which holds at least [`capacity`] bytes. Gives the number of bytes written.
pub(super) fn decode(text: &[u8], out: &mut [u8]) -> Result<usize, Broken> {
    decode_with(text, out, |byte| TABLE[usize::from(byte)])
}

/// Decodes secret text into `out`. What can be told from outside: lengths, and where whitespace and padding are.
pub(super) fn decode_secret(text: &[u8], out: &mut [u8]) -> Result<usize, Broken> {
    decode_with(text, out, digit)
}

fn decode_with(text: &[u8], out: &mut [u8], digit: impl Fn(u8) -> u8) -> Result<usize, Broken> {
    let mut at = 0;
    let mut written = 0;
    let mut group = 0_u32;
    let mut held = 0;
    loop {
        if held == 0 {
            // Whole groups without whitespace: nearly everything.
            while let Some(&[a, b, c, d]) = text.get(at..).and_then(|rest| rest.first_chunk()) {
                let [a, b, c, d] = [digit(a), digit(b), digit(c), digit(d)];
                if (a | b | c | d) >= SPACE {
                    break;
                }
                let bits = u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d);
                out[written..written + 3].copy_from_slice(&bits.to_be_bytes()[1..]);
                written += 3;
                at += 4;
            }
        }
        let Some(&byte) = text.get(at) else { break };
        match digit(byte) {
            SPACE => {}
            PAD if held >= 2 => {
                return padding(&text[at..], at, group, held, &mut out[written..], digit)
                    .map(|n| written + n);
            }
            PAD | OTHER => return Err(Broken::Byte(at)),
            value => {
                group = group << 6 | u32::from(value);
                held += 1;
                if held == 4 {
                    out[written..written + 3].copy_from_slice(&group.to_be_bytes()[1..]);
                    written += 3;
                    group = 0;
                    held = 0;
                }
            }
        }
        at += 1;
    }
    if held == 0 { Ok(written) } else { Err(Broken::Cut) }
}

/// The end of a text, from its first `=`: as many as fill the group of four, then only whitespace.
fn padding(
    text: &[u8],
    offset: usize,
    group: u32,
    held: usize,
    out: &mut [u8],
    digit: impl Fn(u8) -> u8,
) -> Result<usize, Broken> {
    let mut pads = 0;
    for (at, &byte) in text.iter().enumerate() {
        match digit(byte) {
            SPACE => {}
            PAD if held + pads < 4 => pads += 1,
            _ => return Err(Broken::Byte(offset + at)),
        }
    }
    if held + pads < 4 {
        return Err(Broken::Cut);
    }
    let bytes = (group << (6 * pads)).to_be_bytes();
    let count = held - 1;
    out[..count].copy_from_slice(&bytes[1..=count]);
    Ok(count)
}

const TABLE: [u8; 256] = {
    let mut table = [OTHER; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256")]
        let value = digit(byte as u8);
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The value of a digit, or what the byte is instead; without a branch or a look-up.
const fn digit(byte: u8) -> u8 {
    let upper = within(byte, b'A', b'Z');
    let lower = within(byte, b'a', b'z');
    let number = within(byte, b'0', b'9');
    let plus = within(byte, b'+', b'+');
    let slash = within(byte, b'/', b'/');
    let pad = within(byte, b'=', b'=');
    let space = within(byte, b'\t', b'\r') | within(byte, b' ', b' ');
    let known = upper | lower | number | plus | slash | pad | space;
    (upper & byte.wrapping_sub(b'A'))
        | (lower & byte.wrapping_sub(b'a').wrapping_add(26))
        | (number & byte.wrapping_sub(b'0').wrapping_add(52))
        | (plus & 62)
        | (slash & 63)
        | (pad & PAD)
        | (space & SPACE)
        | (!known & OTHER)
}

/// 0xff if `low <= byte <= high`, else 0.
const fn within(byte: u8, low: u8, high: u8) -> u8 {
    let below = (byte as i16) - (low as i16);
    let above = (high as i16) - (byte as i16);
    // Both are negative exactly when out of range, and a negative number's high byte is 0xff.
    !(((below | above) >> 8) as u8)
}

#[cfg(test)]
mod tests {
    use super::{Broken, OTHER, PAD, SPACE, TABLE, capacity, decode, decode_secret};

    fn both(text: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut public = vec![0; capacity(text.len())];
        let mut secret = public.clone();
        let found = decode(text, &mut public);
        assert_eq!(found, decode_secret(text, &mut secret));
        assert_eq!(public, secret);
        found.map(|length| public[..length].to_vec())
    }

    #[test]
    fn the_alphabet_is_that_of_rfc_4648() {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for byte in 0..=255_u8 {
            let expected = match digits.iter().position(|&d| d == byte) {
                Some(value) => u8::try_from(value).unwrap(),
                None if byte == b'=' => PAD,
                None if byte == b' ' || (9..=13).contains(&byte) => SPACE,
                None => OTHER,
            };
            assert_eq!(TABLE[usize::from(byte)], expected, "{byte:#x}");
        }
    }

    #[test]
    fn the_vectors_of_rfc_4648_section_10() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
            (" Z m\r\n9\tvY\n\nmE = \n", "fooba"),
            ("Z\ng\n=\n=\n", "f"),
        ] {
            assert_eq!(both(text.as_bytes()).unwrap(), bytes.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn no_more_room_is_asked_for_than_a_text_can_fill() {
        for (text, bytes) in [(0, 0), (3, 0), (4, 3), (7, 3), (8, 6), (4000, 3000)] {
            assert_eq!(capacity(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_after_its_padding_is_refused() {
        for (text, broken) in [
            ("Z", Broken::Cut),
            ("Zg", Broken::Cut),
            ("Zg=", Broken::Cut),
            ("Zm9", Broken::Cut),
            ("Zm9vYm", Broken::Cut),
            ("=", Broken::Byte(0)),
            ("Z=", Broken::Byte(1)),
            ("Zm8==", Broken::Byte(4)),
            ("Zm9v=", Broken::Byte(4)),
            ("Zg===", Broken::Byte(4)),
            ("Zg==Zg==", Broken::Byte(4)),
            ("Zg== x", Broken::Byte(5)),
            ("Zm8=\nZm9v", Broken::Byte(5)),
            ("Zm9v\0m9v", Broken::Byte(4)),
            ("Zm-_", Broken::Byte(2)),
            ("Zm9v\u{a0}", Broken::Byte(4)),
        ] {
            assert_eq!(both(text.as_bytes()), Err(broken), "{text:?}");
        }
    }
}
