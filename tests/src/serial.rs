//! Serial numbers of certificates, written by programs that do not agree on how.

use std::path::Path;

use x509_parser::pem::parse_x509_pem;

/// The number in upper-case hexadecimal digits, without colons and without zeros in front: `05:aB` is `5AB`.
pub fn plain(serial: &str) -> String {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = digits.trim_start_matches('0').to_uppercase();
    if digits.is_empty() { "0".to_owned() } else { digits }
}

/// The serial number of the first certificate in this text, as [`plain`] writes it.
pub fn of_pem(pem: &[u8]) -> Option<String> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    of_der(&pem.contents)
}

/// The serial number of this certificate, as [`plain`] writes it.
pub fn of_der(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(plain(&certificate.raw_serial_as_string()))
}

/// The serial number of the first certificate in this file. None while there is no file or no whole certificate.
pub fn of_file(path: &Path) -> Option<String> {
    of_pem(&std::fs::read(path).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_write_a_number_are_one() {
        for written in ["05:aB", "5ab", "00 05 AB", "5AB"] {
            assert_eq!(plain(written), "5AB");
        }
        assert_eq!(plain("00"), "0");
    }

    #[test]
    fn a_certificate_has_its_number_and_half_of_one_has_none() {
        let issued = certsource_testkit::Ca::new("CA").issue("localhost");
        let pem = issued.leaf_pem();
        assert_eq!(of_pem(pem.as_bytes()), Some(plain(&issued.serial_hex())));
        assert_eq!(of_pem(&pem.as_bytes()[..pem.len() / 2]), None);
        assert_eq!(of_file(Path::new("/nothing/here")), None);
    }
}
