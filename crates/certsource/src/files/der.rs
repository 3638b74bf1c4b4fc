//! Which structure of a private key a DER file is in: a file without PEM around it does not say.
//!
//! What is not here: whether the key is sound ([`crate::key`]).

use crate::key::KeyFormat;

/// What a DER structure may be, judged by its first two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    Key(KeyFormat),
    EncryptedKey,
    /// Anything else: a certificate, a CRL, something unknown.
    Other,
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Judges a structure by the tags it begins with.
///
/// - PKCS#8 (RFC 5958): version, then an AlgorithmIdentifier
/// - encrypted PKCS#8 (RFC 5958 section 3): an AlgorithmIdentifier, then an OCTET STRING; nothing behind it
/// - PKCS#1 (RFC 8017 section A.1.2): version, then the modulus
/// - SEC1 (RFC 5915): version, then an OCTET STRING
pub(super) fn guess(der: &[u8]) -> Guess {
    let Some((SEQUENCE, content, _)) = element(der) else { return Guess::Other };
    let Some((first, _, rest)) = element(content) else { return Guess::Other };
    let Some((second, _, rest)) = element(rest) else { return Guess::Other };
    match (first, second) {
        (INTEGER, SEQUENCE) => Guess::Key(KeyFormat::Pkcs8),
        (INTEGER, INTEGER) => Guess::Key(KeyFormat::Pkcs1),
        (INTEGER, OCTET_STRING) => Guess::Key(KeyFormat::Sec1),
        (SEQUENCE, OCTET_STRING) if rest.is_empty() => Guess::EncryptedKey,
        _ => Guess::Other,
    }
}

/// Tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&length, der) = der.split_first()?;
    let (length, der) = match length {
        0..=0x7f => (usize::from(length), der),
        0x81..=0x84 => {
            let (octets, der) = der.split_at_checked(usize::from(length & 0x7f))?;
            (
                octets
                    .iter()
                    .try_fold(0_usize, |sum, &octet| Some(sum.checked_mul(256)? + usize::from(octet)))?,
                der,
            )
        }
        _ => return None,
    };
    let (content, rest) = der.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::{Guess, guess};
    use crate::key::KeyFormat;

    #[test]
    fn structures_are_told_apart_by_their_first_tags() {
        for (der, expected) in [
            (&[0x30, 0x07, 0x02, 0x01, 0x00, 0x30, 0x00, 0x04, 0x00][..], Guess::Key(KeyFormat::Pkcs8)),
            (&[0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x05], Guess::Key(KeyFormat::Pkcs1)),
            (&[0x30, 0x05, 0x02, 0x01, 0x01, 0x04, 0x00], Guess::Key(KeyFormat::Sec1)),
            (&[0x30, 0x04, 0x30, 0x00, 0x04, 0x00], Guess::EncryptedKey),
            // A certificate: two sequences and a bit string.
            (&[0x30, 0x06, 0x30, 0x00, 0x30, 0x00, 0x03, 0x00], Guess::Other),
            (&[0x30, 0x81, 0x05, 0x02, 0x01, 0x01, 0x04, 0x00], Guess::Key(KeyFormat::Sec1)),
            // Cut, endless, empty.
            (&[0x30, 0x05, 0x02, 0x01, 0x01, 0x04], Guess::Other),
            (&[0x30, 0x85, 0xff, 0xff, 0xff, 0xff, 0xff], Guess::Other),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], Guess::Other),
            (&[0x30, 0x80], Guess::Other),
            (&[0x30], Guess::Other),
            (&[], Guess::Other),
        ] {
            assert_eq!(guess(der), expected, "{der:02x?}");
        }
    }
}
