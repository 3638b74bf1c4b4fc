//! Certificates from the `openssl` command: an issuer whose files owe nothing to our own crates.

use std::path::{Path, PathBuf};
use std::process::Command;

use certsource_testkit::TestDir;

use crate::tool;

/// A certificate authority of the `openssl` command, with its files in a directory of its own.
#[derive(Debug)]
pub struct OpensslCa {
    openssl: PathBuf,
    dir: TestDir,
}

/// A certificate with its key, as `openssl` wrote them.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// Its serial number as nginx writes it: hexadecimal, upper case.
    pub serial: String,
}

impl OpensslCa {
    /// A new self-signed authority.
    pub fn new(name: &str) -> Self {
        let openssl = tool::find("openssl").expect("the test has asked for openssl");
        let ca = Self { openssl, dir: TestDir::new().unwrap() };
        ca.generate_key("ca");
        ca.run(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-sha256",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        ca
    }

    /// The authority's own certificate: what its clients trust.
    pub fn certificate(&self) -> String {
        self.read("ca.pem")
    }

    /// Where [`OpensslCa::certificate`] is.
    pub fn path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for a server on this machine.
    pub fn server(&self, serial: u64) -> Minted {
        self.issue("localhost", "serverAuth", "DNS:localhost,IP:127.0.0.1", serial)
    }

    /// A certificate for a client.
    pub fn client(&self, serial: u64) -> Minted {
        self.issue("client", "clientAuth", "DNS:client.test", serial)
    }

    fn issue(&self, name: &str, usage: &str, names: &str, serial: u64) -> Minted {
        let stem = format!("{serial:X}");
        let file = |extension: &str| format!("{stem}.{extension}");
        self.generate_key(&stem);
        let extensions = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage={usage}\nsubjectAltName={names}\nauthorityKeyIdentifier=keyid\n"
        );
        self.dir.write(file("ext"), extensions).unwrap();
        self.run(&[
            "req",
            "-new",
            "-key",
            &file("key"),
            "-out",
            &file("csr"),
            "-subj",
            &format!("/CN={name}"),
        ]);
        self.run(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-set_serial",
            &serial.to_string(),
            "-days",
            "1",
            "-sha256",
            "-extfile",
            &file("ext"),
            "-out",
            &file("pem"),
        ]);
        Minted { certificate: self.read(file("pem")), key: self.read(file("key")), serial: stem }
    }

    fn generate_key(&self, stem: &str) {
        let out = format!("{stem}.key");
        self.run(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &out]);
    }

    fn read(&self, name: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let output =
            Command::new(&self.openssl).args(arguments).current_dir(self.dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    }
}
