//! Steps through DER by tag, over the header parser of asn1-rs.
//!
//! For what must be found even where a full parser gives up, and for keys, where nothing may be copied: every slice
//! borrows from the input.

use x509_parser::asn1_rs::{FromDer, Header};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag `[number]` of the context, primitive.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag `[number]` of the context, constructed.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// One value: its first octet (class, form and number), its content, and both with the length between them.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// The values of one level, in order.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(der: &'a [u8]) -> Self {
        Self { rest: der }
    }

    /// The content of the one value of this tag that `der` is, as a level of its own.
    pub(crate) fn within(tag: u8, der: &'a [u8]) -> Option<Self> {
        let mut outer = Self::new(der);
        let content = outer.expect(tag)?;
        outer.end()?;
        Some(Self::new(content))
    }

    /// The next value. `None`: there is none, or it is broken.
    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        let (rest, header) = Header::from_der(self.rest).ok()?;
        let length = header.length().definite().ok()?;
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.rest[..self.rest.len() - rest.len()];
        let tag = whole[0];
        self.rest = rest;
        Some(Value { tag, content, whole })
    }

    /// The content of the next value, which must be of this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.rest.first() == Some(&tag) { self.value().map(|value| value.content) } else { None }
    }

    /// As [`Reader::expect`], with tag and length.
    pub(crate) fn expect_whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.rest.first() == Some(&tag) { self.value().map(|value| value.whole) } else { None }
    }

    /// The content of the next value, if there is one and it is of this tag. The outer `None`: it is broken.
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.rest.first() == Some(&tag) { self.expect(tag).map(Some) } else { Some(None) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// `None` unless everything was read.
    pub(crate) fn end(&self) -> Option<()> {
        self.is_empty().then_some(())
    }
}

/// The bytes of a BIT STRING that is whole octets.
pub(crate) fn octets(bit_string: &[u8]) -> Option<&[u8]> {
    match bit_string {
        [0, octets @ ..] => Some(octets),
        _ => None,
    }
}

/// The octets of an INTEGER without leading zeros: for numbers that are not negative. Zero has none.
pub(crate) fn magnitude(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|&&octet| octet == 0).count();
    &integer[zeros..]
}

/// Writes DER, for tests of what no library mints.
#[cfg(test)]
pub(crate) mod write {
    pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut der = vec![tag];
        match u8::try_from(content.len()) {
            Ok(short @ 0..=0x7f) => der.push(short),
            Ok(long) => der.extend([0x81, long]),
            Err(_) => {
                der.push(0x82);
                der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        der.extend(content);
        der
    }

    pub(crate) fn seq(parts: &[&[u8]]) -> Vec<u8> {
        tlv(super::SEQUENCE, parts)
    }

    pub(crate) fn int(content: &[u8]) -> Vec<u8> {
        tlv(super::INTEGER, &[content])
    }

    pub(crate) fn object(oid: &[u8]) -> Vec<u8> {
        tlv(super::OID, &[oid])
    }

    /// A BIT STRING of whole octets.
    pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
        tlv(super::BIT_STRING, &[&[0], content])
    }
}
