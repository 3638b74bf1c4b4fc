//! Mints the seeds of the fuzz targets into `corpus/`: small certificates, keys and texts of every kind. They are made
//! anew each time, so no key is kept anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use certsource_testkit::{Ca, Issued, KeyKind};
use pkcs5::der::Encode as _;
use pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf, ScryptParams};

#[path = "../../src/layout.rs"]
#[allow(dead_code, reason = "the targets read, the seeds write")]
mod layout;

use layout::{COMBINED, CRL, DIRECTORY, LIMITED, Layout, MARK, PAIR, PASSWORD, TRUST, VOLUME, WITH_PASSWORD};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut seeds = Seeds { corpus, count: 0 };
    let ca = Ca::new("Root");
    let kinds = [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Ed25519];
    for kind in kinds {
        let issued = ca.leaf("localhost").key(kind).issue();
        let below = ca.intermediate("Issuing").leaf("spiffe://example/a").key(kind).issue();
        pem(&mut seeds, &ca, &issued, &below)?;
        inspect(&mut seeds, &ca, &issued, &below)?;
        source(&mut seeds, &ca, &issued, &below)?;
    }
    println!("{} seeds", seeds.count);
    Ok(())
}

struct Seeds {
    corpus: PathBuf,
    count: usize,
}

impl Seeds {
    fn write(&mut self, target: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        let folder = self.corpus.join(target);
        fs::create_dir_all(&folder)?;
        self.count += 1;
        fs::write(folder.join(format!("seed-{:03}", self.count)), content)
    }
}

fn pem(seeds: &mut Seeds, ca: &Ca, issued: &Issued, below: &Issued) -> io::Result<()> {
    let key = issued.key_pem();
    let mut texts = vec![
        ca.certificate_pem(),
        below.chain_pem(),
        format!("\u{feff}# comment\r\n{}", issued.combined_pem().replace('\n', "\r\n")),
        issued.leaf_pem().trim_end().to_owned() + &key,
        ca.crl().pem(),
        key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
        key.replace(
            "PRIVATE KEY-----\n",
            "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
        ),
        key.replace("PRIVATE KEY", "DH PARAMETERS"),
        issued.leaf_pem().replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        issued.leaf_pem().replace('\n', "\\n"),
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n".to_owned(),
        "\u{2014}BEGIN CERTIFICATE\u{2014}\n".to_owned(),
    ];
    texts.extend(issued.key_sec1_pem());
    texts.into_iter().try_for_each(|text| seeds.write("pem", text))
}

fn inspect(seeds: &mut Seeds, ca: &Ca, issued: &Issued, below: &Issued) -> io::Result<()> {
    let (leaf, key) = (issued.leaf_der(), issued.key_der());
    ca.revoke(issued);
    seeds.write("inspect", ca.certificate_der())?;
    seeds.write("inspect", ca.crl().der())?;
    for der in below.chain_der() {
        seeds.write("inspect", der)?;
    }
    seeds.write("inspect", [&leaf, MARK, key.secret_der()].concat())?;
    seeds.write("inspect", [&below.leaf_der(), MARK, key.secret_der()].concat())?;
    if let Some(sec1) = issued.key_sec1_pem() {
        seeds.write("inspect", [&leaf, MARK, &body(&sec1)].concat())?;
    }
    seeds.write("inspect", rsa())?;
    for parameters in [pbkdf2(), scrypt()] {
        seeds.write("inspect", encrypted(&parameters, key.secret_der()))?;
    }
    Ok(())
}

fn source(seeds: &mut Seeds, ca: &Ca, issued: &Issued, below: &Issued) -> io::Result<()> {
    let (root, crl, key) = (ca.certificate_pem(), ca.crl().pem(), below.key_pem());
    let (chain, combined) = (below.chain_pem(), below.combined_pem());
    let encrypted = encrypted(&pbkdf2(), below.key_der().secret_der());
    let (leaf, der) = (issued.leaf_der(), issued.key_der());
    let mut write = |choices: u8, contents: [&[u8]; 5]| {
        seeds.write("source", Layout { choices, contents: contents.map(Some) }.write())
    };
    let all: [&[u8]; 5] =
        [root.as_bytes(), chain.as_bytes(), key.as_bytes(), crl.as_bytes(), root.as_bytes()];
    write(TRUST | PAIR | CRL, all)?;
    write(TRUST | PAIR | CRL | VOLUME, all)?;
    write(TRUST | DIRECTORY | PAIR | VOLUME, all)?;
    write(TRUST | DIRECTORY | LIMITED, all)?;
    write(COMBINED, [b"", combined.as_bytes(), b"", b"", b""])?;
    write(PAIR, [b"", &leaf, der.secret_der(), b"", b""])?;
    write(PAIR | WITH_PASSWORD, [b"", chain.as_bytes(), &encrypted, b"", b""])?;
    write(CRL | LIMITED, [b"", b"", b"", &ca.crl().der(), b""])
}

/// The DER in a text of one section.
fn body(pem: &str) -> Vec<u8> {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut der = Vec::new();
    for byte in pem.lines().filter(|line| !line.starts_with('-')).flat_map(str::bytes) {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            der.push((bits >> count) as u8);
        }
    }
    der
}

/// An RSAPrivateKey (RFC 8017, appendix A.1.2) of the textbook: p = 61, q = 53.
fn rsa() -> Vec<u8> {
    let integers: [&[u8]; 9] =
        [&[0], &[0x0c, 0xa1], &[0x11], &[0x0a, 0xc1], &[61], &[53], &[53], &[49], &[38]];
    let fields: Vec<u8> = integers.iter().flat_map(|integer| tlv(0x02, integer)).collect();
    tlv(0x30, &fields)
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("seeds are small");
    let header = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&header, content].concat()
}

fn pbkdf2() -> Parameters<'static> {
    let prf = Pbkdf2Prf::HmacWithSha256;
    let kdf = Pbkdf2Params { salt: b"saltsalt", iteration_count: 2, key_length: None, prf };
    Parameters { kdf: Kdf::Pbkdf2(kdf), encryption: EncryptionScheme::Aes256Cbc { iv: &[7; 16] } }
}

fn scrypt() -> Parameters<'static> {
    let (cost_parameter, block_size, parallelization, key_length) = (4, 1, 1, Some(16));
    let kdf = ScryptParams { salt: b"saltsalt", cost_parameter, block_size, parallelization, key_length };
    Parameters { kdf: Kdf::Scrypt(kdf), encryption: EncryptionScheme::Aes128Cbc { iv: &[7; 16] } }
}

/// An EncryptedPrivateKeyInfo (RFC 5958, section 3).
fn encrypted(parameters: &Parameters<'_>, plain: &[u8]) -> Vec<u8> {
    let mut buffer = [plain, &[0; 16]].concat();
    let ciphertext = parameters
        .encrypt_in_place(PASSWORD, &mut buffer, plain.len())
        .expect("the parameters are good and the buffer has room");
    let mut scheme = [0; 256];
    let scheme = pkcs5::EncryptionScheme::from(parameters.clone())
        .encode_to_slice(&mut scheme)
        .expect("the parameters are short");
    let content = [scheme, &long(0x04, ciphertext)].concat();
    long(0x30, &content)
}

/// As [`tlv`], for content of any length.
fn long(tag: u8, content: &[u8]) -> Vec<u8> {
    match u16::try_from(content.len()).expect("seeds are small") {
        0..=0xff => tlv(tag, content),
        length => [&[tag, 0x82], &length.to_be_bytes()[..], content].concat(),
    }
}
