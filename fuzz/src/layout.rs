//! How one input of the target `source` describes a whole source: one octet of choices, then the contents of its files
//! with a mark between them. The seeds are written by the same rules.

/// Stands between two files. Short, so that a mutation makes one now and then, and in no DER or PEM by chance.
pub const MARK: &[u8] = b"\n====\n";

/// Everything behind `..data`, as in a Kubernetes volume.
pub const VOLUME: u8 = 1;
/// The anchors as a directory of two files.
pub const DIRECTORY: u8 = 2;
/// Anchors are asked for.
pub const TRUST: u8 = 4;
/// A certificate and a key in two files.
pub const PAIR: u8 = 8;
/// A certificate and a key in one file.
pub const COMBINED: u8 = 16;
/// A revocation list is asked for.
pub const CRL: u8 = 32;
/// There is a password: [`PASSWORD`].
pub const WITH_PASSWORD: u8 = 64;
/// Small limits.
pub const LIMITED: u8 = 128;

/// The one password.
pub const PASSWORD: &[u8] = b"horse";

/// The files of a source: anchors, chain, key, revocation list, more anchors.
pub const FILES: [&str; 5] = ["ca.crt", "tls.crt", "tls.key", "ca.crl", "more.pem"];

/// One input.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    /// Of the choices above.
    pub choices: u8,
    /// What is in each of [`FILES`]. `None`: it is not there.
    pub contents: [Option<&'a [u8]>; FILES.len()],
}

impl<'a> Layout<'a> {
    /// Reads an input. `None`: it is empty.
    pub fn read(input: &'a [u8]) -> Option<Self> {
        let (&choices, mut rest) = input.split_first()?;
        let mut contents = [None; FILES.len()];
        for content in &mut contents {
            match rest.windows(MARK.len()).position(|window| window == MARK) {
                Some(at) => {
                    *content = Some(&rest[..at]);
                    rest = &rest[at + MARK.len()..];
                }
                None => {
                    *content = Some(rest);
                    break;
                }
            }
        }
        Some(Self { choices, contents })
    }

    /// Writes an input.
    pub fn write(&self) -> Vec<u8> {
        let contents: Vec<_> = self.contents.iter().map(|content| content.unwrap_or_default()).collect();
        [&[self.choices][..], &contents.join(MARK)].concat()
    }

    /// Whether all of this is chosen.
    pub fn has(&self, choices: u8) -> bool {
        self.choices & choices == choices
    }
}
