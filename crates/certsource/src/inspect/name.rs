//! Distinguished names as RFC 4514 text that is safe to show anywhere.

use std::fmt::Write;

use x509_parser::asn1_rs::Oid;

use super::der::{OID, Reader, SEQUENCE, SET};
use crate::text::is_hostile;

/// The attributes that have a short name: those of RFC 4514, section 3, and what OpenSSL calls some others.
const SHORT: &[(&[u8], &str)] = &[
    (&[0x55, 0x04, 0x03], "CN"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x0c], "title"),
    (&[0x55, 0x04, 0x11], "postalCode"),
    (&[0x55, 0x04, 0x2a], "GN"),
    (&[0x55, 0x04, 0x61], "organizationIdentifier"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], "emailAddress"),
];

/// The text of a Name, given with its tag: the last part first, parts apart by commas.
///
/// Everything that [`crate::text::Escaped`] would escape is written as RFC 4514 escapes it, by a backslash and the
/// hex of its UTF-8. So the text is one that other programs read, and holds nothing hostile. Values that are not text
/// are `#` and hex. `None`: it is not a Name.
pub(super) fn text(name: &[u8]) -> Option<String> {
    let mut parts = Reader::within(SEQUENCE, name)?;
    let mut texts = Vec::new();
    while !parts.is_empty() {
        texts.push(part(parts.expect(SET)?)?);
    }
    texts.reverse();
    Some(texts.join(","))
}

fn part(set: &[u8]) -> Option<String> {
    let mut attributes = Reader::new(set);
    let mut text = String::new();
    while !attributes.is_empty() {
        let mut attribute = Reader::new(attributes.expect(SEQUENCE)?);
        let oid = attribute.expect(OID)?;
        let value = attribute.value()?;
        if !text.is_empty() {
            text.push('+');
        }
        let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
        match short {
            Some(short) => text.push_str(short),
            None => text.push_str(&Oid::new(oid.into()).to_id_string()),
        }
        text.push('=');
        match decode(value.tag, value.content) {
            // Section 2.4: only a type with a name has a value that is written as text.
            Some(value) if short.is_some() => escape(&value, &mut text),
            _ => {
                text.push('#');
                hex(value.whole, &mut text);
            }
        }
    }
    Some(text)
}

/// The text of a string type, if it is one and its bytes are what they should be.
fn decode(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, NumericString, PrintableString, IA5String, VisibleString
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(content.to_vec()).ok(),
        // TeletexString: in practice Latin-1.
        0x14 => Some(content.iter().map(|&byte| char::from(byte)).collect()),
        // BMPString
        0x1e if content.len() % 2 == 0 => {
            let units = content.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        // UniversalString
        0x1c if content.len() % 4 == 0 => content
            .chunks_exact(4)
            .map(|unit| char::from_u32(u32::from_be_bytes([unit[0], unit[1], unit[2], unit[3]])))
            .collect(),
        _ => None,
    }
}

fn escape(value: &str, text: &mut String) {
    let last = value.len() - value.chars().next_back().map_or(0, char::len_utf8);
    for (at, c) in value.char_indices() {
        match c {
            ',' | '+' | ';' => text.extend(['\\', c]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            _ if is_hostile(c) => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    text.push('\\');
                    hex(&[byte], text);
                }
            }
            _ => text.push(c),
        }
    }
}

pub(super) fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
}
