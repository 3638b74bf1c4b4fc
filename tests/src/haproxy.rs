//! A real HAProxy that demands client certificates and answers each request itself. Its own certificate is
//! replaced while it runs, by its admin socket: no connection ends for that.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use certsource_testkit::TestDir;

use crate::guard::Guarded;
use crate::openssl::Minted;
use crate::{serial, tool, until};

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    // Ends before its directory goes.
    _guard: Guarded,
    dir: TestDir,
    address: SocketAddr,
}

/// One request, as HAProxy logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The path.
    pub path: String,
    /// Of the certificate that the client showed, or showed when the session was made. As [`serial::plain`] writes it.
    pub serial: String,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// `TLSv1.3`
    pub protocol: String,
    /// The status that it answered with.
    pub status: u16,
}

impl Haproxy {
    /// Starts it with this certificate. It takes clients with a certificate of `client_ca` and no others.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(server: &Minted, client_ca: &str) -> Self {
        let program = tool::find("haproxy").expect("the test has asked for haproxy");
        let dir = TestDir::new().unwrap();
        // It does not say which port it was given. So it inherits a socket that listens already, as its standard output.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        dir.write("server.pem", pair(server)).unwrap();
        dir.write("clients.pem", client_ca).unwrap();
        dir.write("haproxy.cfg", CONFIGURATION).unwrap();
        let guard = Guarded::start(
            &program,
            ["-db", "-f", "haproxy.cfg"],
            dir.path(),
            &[],
            Some(OwnedFd::from(listener).into()),
        );
        let haproxy = Self { _guard: guard, dir, address };
        until("HAProxy to start", || {
            assert!(!haproxy.said().contains("[ALERT]"), "HAProxy does not start:\n{}", haproxy.said());
            UnixStream::connect(haproxy.dir.join("admin")).ok()
        });
        haproxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of everything below it. The name must be resolved to [`Haproxy::address`].
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Handshakes from now on show this certificate.
    ///
    /// The CA of its clients stays: HAProxy 2.6 can replace that as well, but not both in one run. It then shows the
    /// old certificate, or ends.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn replace_certificate(&self, server: &Minted) {
        // An empty line ends the content.
        self.admin(&format!("set ssl cert server.pem <<\n{}\n\n", pair(server).trim_end()));
        let said = self.admin("commit ssl cert server.pem\n");
        assert!(said.contains("Success!"), "{said}");
    }

    fn admin(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.dir.join("admin")).unwrap();
        socket.write_all(command.as_bytes()).unwrap();
        // It closes when it has answered, and gives up on who closes before.
        let mut said = String::new();
        socket.read_to_string(&mut said).unwrap();
        said
    }

    /// The requests that it logged, once there are `expected` of them whose path begins with `prefix`.
    pub fn requests(&self, prefix: &str, expected: usize) -> Vec<Line> {
        until(&format!("{expected} requests in HAProxy's log"), || {
            let said = self.said();
            let whole = said.rfind('\n').map_or("", |end| &said[..end]);
            let lines = whole.lines().filter_map(parse).filter(|line| line.path.starts_with(prefix));
            let lines: Vec<_> = lines.collect();
            (lines.len() >= expected).then_some(lines)
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }
}

/// Paths are relative to the directory that it was started in.
const CONFIGURATION: &str = r#"
global
    log stderr format raw local0 info
    stats socket unix@admin mode 600 level admin
    maxconn 400
    # One thread: of two that log at the same moment, one drops its line.
    nbthread 1
defaults
    mode http
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    # Else it answers before it has read a body, and must then close the connection.
    option http-buffer-request
frontend tests
    bind fd@1 ssl crt server.pem ca-file clients.pem verify required alpn h2,http/1.1
    log-format "request|%HPO|%[ssl_c_serial,hex]|%[ssl_fc_is_resumed]|%[ssl_fc_protocol]|%ST"
    http-request return status 200 content-type text/plain lf-string "%[ssl_c_serial,hex]"
"#;

fn pair(minted: &Minted) -> String {
    format!("{}{}", minted.certificate, minted.key)
}

/// A line of the log, or none if it is about something else.
fn parse(line: &str) -> Option<Line> {
    let mut fields = line.strip_prefix("request|")?.split('|');
    let line = Line {
        path: fields.next()?.to_owned(),
        serial: serial::plain(fields.next()?),
        resumed: fields.next()? == "1",
        protocol: fields.next()?.to_owned(),
        status: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_a_strange_one_is_not() {
        let line = parse("request|/r/0/7|1001|1|TLSv1.3|200").unwrap();
        assert_eq!(
            (line.path.as_str(), line.serial.as_str(), line.resumed, line.status),
            ("/r/0/7", "1001", true, 200)
        );
        assert_eq!(parse("<6>127.0.0.1:1 tests/1: SSL handshake failure"), None);
        assert_eq!(parse("request|/r/0/7|1001|1|TLSv1.3"), None);
    }
}
