//! The public roots as one PEM file, and how such a file is loaded without certsource.

use std::hint::black_box;
use std::path::Path;

use pki_types::CertificateDer;
use pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// The roots of the crate `webpki-root-certs` (Mozilla's), as PEM.
pub fn pem() -> String {
    let mut text = String::new();
    for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64(der);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Loads a bundle by hand: read, PEM, every certificate parsed and its fingerprint taken. Returns how many there are.
///
/// # Panics
/// When the file is no bundle of certificates.
pub fn load_bare(path: &Path) -> usize {
    let bytes = std::fs::read(path).expect("the bundle is there");
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().expect("the bundle is whole");
    for certificate in &certificates {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).expect("the roots are well formed");
        black_box(&parsed);
        black_box(Sha256::digest(certificate));
    }
    certificates.len()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let all =
            group.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let index = (all >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= group.len() { ALPHABET[index] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn the_bundle_is_read_alike_by_hand_and_by_us() {
        let dir = certsource_testkit::TestDir::new().expect("a directory");
        let path = dir.write("roots.pem", pem()).expect("a file");
        let ours = certsource::Files::trust(&path).load().expect("the roots load");
        assert_eq!(ours.trust().map(<[_]>::len), Some(load_bare(&path)));
        assert!(load_bare(&path) > 100);
    }
}
