//! A real `openssl s_server` that demands client certificates and gives out tickets. It answers each request with what
//! it knows of the connection, and closes it.

use std::fs;
use std::net::SocketAddr;

use certsource_testkit::TestDir;

use crate::guard::Guarded;
use crate::openssl::Minted;
use crate::{tool, until};

/// A running `openssl s_server`.
#[derive(Debug)]
pub struct SServer {
    // Ends before its directory goes.
    _guard: Guarded,
    _dir: TestDir,
    address: SocketAddr,
}

/// What `s_server` says about a connection, on the page that it answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The serial of the certificate that the client showed, or showed when the session was made: hexadecimal, upper
    /// case.
    pub serial: String,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// `TLSv1.3`
    pub protocol: String,
    /// How many connections got so far in the life of this server, this one included.
    pub handshakes: u64,
}

impl SServer {
    /// Starts it with this certificate and with one of `-tls1_2` and `-tls1_3`. It takes clients with a certificate of
    /// `client_ca` and no others.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(version: &str, server: &Minted, client_ca: &str) -> Self {
        let program = tool::find("openssl").expect("the test has asked for openssl");
        let dir = TestDir::new().unwrap();
        dir.write("server.pem", &server.certificate).unwrap();
        dir.write("server.key", &server.key).unwrap();
        dir.write("clients.pem", client_ca).unwrap();
        // `-Verify`: a client without a certificate is refused.
        let arguments = "s_server -accept 127.0.0.1:0 -cert server.pem -key server.key -CAfile clients.pem \
                         -Verify 2 -verify_return_error -www";
        let guard =
            Guarded::start(&program, arguments.split_whitespace().chain([version]), dir.path(), &[], None);
        let address = until("s_server to listen", || {
            let said = fs::read_to_string(dir.join("stdout")).unwrap_or_default();
            let whole = said.rfind('\n').map_or("", |end| &said[..end]);
            whole.lines().find_map(|line| line.strip_prefix("ACCEPT ")).map(|at| at.parse().unwrap())
        });
        Self { _guard: guard, _dir: dir, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of everything below it. The name must be resolved to [`SServer::address`].
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Page {
    /// Reads the page that `-www` answers with.
    ///
    /// # Errors
    /// What is missing on it.
    pub fn read(page: &str) -> Result<Self, String> {
        let said = |line: &str| -> Option<(bool, String)> {
            let (how, rest) = line.split_once(", ")?;
            let resumed = match how {
                "New" => false,
                "Reused" => true,
                _ => return None,
            };
            Some((resumed, rest.strip_suffix(rest.get(rest.find(", Cipher is ")?..)?)?.to_owned()))
        };
        let (resumed, protocol) = page.lines().find_map(said).ok_or("no line about the session")?;
        let handshakes = page
            .lines()
            .find_map(|line| line.trim().strip_suffix(" server accepts that finished"))
            .and_then(|count| count.parse().ok())
            .ok_or("no count of handshakes")?;
        // `Serial Number: 4096 (0x1000)`; a long one stands in the next line, byte by byte.
        let (_, client) = page.split_once("Client certificate").ok_or("no client certificate")?;
        let serial = client
            .split_once("Serial Number: ")
            .and_then(|(_, rest)| rest.split_once("(0x"))
            .and_then(|(_, rest)| rest.split_once(')'))
            .map(|(serial, _)| serial.to_uppercase())
            .ok_or("no short serial number")?;
        Ok(Self { serial, resumed, protocol, handshakes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_half_of_one_is_not() {
        let page = "<pre>\n---\nReused, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384\nSSL-Session:\n    Protocol  : TLSv1.3\n\
                    ---\n   7 server accepts (SSL_accept())\n   6 server accepts that finished\n---\n\
                    Client certificate\nCertificate:\n        Serial Number: 4096 (0x1000)\n</pre>";
        let expected =
            Page { serial: "1000".into(), resumed: true, protocol: "TLSv1.3".into(), handshakes: 6 };
        assert_eq!(Page::read(page), Ok(expected));
        assert!(Page::read(&page.replace("Reused", "Renewed")).is_err());
        assert_eq!(Page::read(&page[..page.find("Client").unwrap()]).unwrap_err(), "no client certificate");
    }
}
