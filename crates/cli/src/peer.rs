//! One TLS handshake with a server, to see what it says: which chain it serves, which CAs it asks for, who refuses whom.
//!
//! Nothing of use is sent over it. What to make of what was seen is for the commands.

mod watchers;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use pki_types::{CertificateDer, ServerName};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, ClientConnection};

use self::watchers::{Asked, Noted, Tickets};

/// How much of an answer is read to find its status and its date.
const ANSWER: usize = 4096;

/// `HOST:PORT`, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Target {
    /// Reads `localhost:8443`, `127.0.0.1:8443` or `[::1]:8443`; or takes these of a URL, as it is copied from a browser.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || String::from("write it as HOST:PORT, such as localhost:8443 or [::1]:8443");
        let of_url =
            text.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or(rest));
        let has_port = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let (host, port) = match of_url {
            Some(host) if !has_port(host) => (host, 443),
            other => {
                let (host, port) = other.unwrap_or(text).rsplit_once(':').ok_or_else(wrong)?;
                (host, port.parse().map_err(|_| wrong())?)
            }
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        if port == 0 || ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A name for SNI, from the command line.
pub(crate) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| String::from("this is neither a DNS name nor an address"))
}

/// How to ask.
pub(crate) struct Ask {
    /// The name that is asked for; the host if there is none.
    pub(crate) name: Option<ServerName<'static>>,
    /// What judges the server. The handshake goes on whatever it says.
    pub(crate) verifier: Option<Arc<dyn ServerCertVerifier>>,
    /// Who we are, if the server asks.
    pub(crate) identity: Option<Arc<CertifiedKey>>,
    /// Whether to send a request for `/` when the server speaks HTTP/1.1, for the status and the date of its answer.
    pub(crate) http: bool,
    /// Whether to wait for what the server makes of us: on TLS 1.3 that comes after the handshake.
    pub(crate) verdict: bool,
    /// For each step: connect, handshake, verdict.
    pub(crate) timeout: Duration,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// `TLSv1.3`, if it came so far.
    pub(crate) version: Option<String>,
    /// `TLS13_AES_256_GCM_SHA384`, if it came so far.
    pub(crate) cipher: Option<String>,
    pub(crate) alpn: Option<String>,
    /// The chain that the server sent, the leaf first. Empty when it did not come so far.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The names of the CAs, in DER, whose client certificates the server asks for. `None`: it asks for no certificate.
    pub(crate) asked: Option<Vec<Vec<u8>>>,
    /// Whether we had a certificate to send when it asked.
    pub(crate) has_sent_identity: bool,
    /// What our verifier says about the server; `None` when there is none, or it was not reached.
    pub(crate) ours: Option<Result<(), rustls::Error>>,
    /// What the server says about us.
    pub(crate) theirs: Theirs,
    /// The status of its HTTP answer.
    pub(crate) status: Option<u16>,
    /// The server's clock, by the header `Date` of its answer.
    pub(crate) date: Option<String>,
}

/// What the server says about us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Theirs {
    /// The handshake is done, and the server went on: it sent a ticket or an answer, or TLS 1.2 is done with it.
    Accepts,
    /// The handshake is done; the server said nothing against us in time. On TLS 1.3 a refusal comes after it.
    Silent,
    /// It sent this alert.
    Alert(AlertDescription),
    /// It closed the connection without an alert.
    Closed(String),
    /// It does not speak TLS as we do.
    Odd(String),
}

impl std::fmt::Display for Theirs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepts => f.write_str("it accepts us"),
            Self::Silent => f.write_str("it says nothing"),
            Self::Alert(alert) => write!(f, "it sent the alert {}", alert_name(*alert)),
            Self::Closed(why) | Self::Odd(why) => f.write_str(why),
        }
    }
}

/// The version of TLS that was agreed on: `TLSv1.3`.
pub(crate) fn version_name(tls: &ClientConnection) -> Option<String> {
    Some(tls.protocol_version()?.as_str()?.replace('_', "."))
}

/// The name of an alert as RFC 8446, section 6, writes it: `unknown_ca`.
pub(crate) fn alert_name(alert: AlertDescription) -> String {
    let camel = format!("{alert:?}");
    let mut name = String::new();
    let mut previous = 'A';
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !previous.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
        previous = c;
    }
    name
}

/// Connects and shakes hands.
///
/// # Errors
/// When there is no connection; what happens on a connection is told in the result.
pub(crate) fn ask(target: &Target, ask: &Ask) -> anyhow::Result<Peer> {
    let peer = ask_by(target, ask, &["http/1.1", "h2"])?;
    let is_open = matches!(peer.theirs, Theirs::Accepts | Theirs::Silent);
    if !(ask.http && is_open && peer.alpn.as_deref() == Some("h2")) {
        return Ok(peer);
    }
    // Some servers, nginx for one, say no in an answer, and answers are read here over HTTP/1.1 only. One that does not
    // speak that has said what it has to say.
    match ask_by(target, ask, &["http/1.1"]) {
        Ok(Peer { status: status @ Some(_), date, theirs, .. }) => Ok(Peer { status, date, theirs, ..peer }),
        _ => Ok(peer),
    }
}

/// The same, with these protocols to choose from.
fn ask_by(target: &Target, ask: &Ask, alpn: &[&str]) -> anyhow::Result<Peer> {
    let (mut stream, address) = connect(target, ask.timeout)?;
    let provider = certsource_rustls::default_provider()?;
    let noted = Arc::new(Noted::new(ask.verifier.clone(), Arc::clone(&provider)));
    let asked = Arc::new(Asked::new(ask.identity.clone()));
    let tickets = Arc::new(Tickets::default());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(noted.clone())
        .with_client_cert_resolver(asked.clone());
    config.resumption = Resumption::store(tickets.clone());
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = match &ask.name {
        Some(name) => name.clone(),
        None => ServerName::try_from(target.host.clone())?,
    };
    let mut tls = ClientConnection::new(Arc::new(config), name)?;
    let mut theirs = handshake(&mut tls, &mut stream, ask.timeout);
    let (mut status, mut date) = (None, None);
    let asks_http = ask.http && tls.alpn_protocol() == Some(b"http/1.1");
    // In TLS 1.2 the server's Finished comes after it has judged our certificate: there is no more to wait for.
    let is_judged = tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2);
    if theirs == Theirs::Silent && ask.verdict && (asks_http || !is_judged) {
        if asks_http {
            let request = format!("HEAD / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
            // What becomes of it is seen when reading.
            let _ = tls.writer().write_all(request.as_bytes());
        }
        let answer;
        (theirs, answer) = verdict(&mut tls, &mut stream, &tickets, asks_http, ask.timeout);
        (status, date) = read_head(&answer);
    }
    if theirs == Theirs::Silent && is_judged {
        theirs = Theirs::Accepts;
    }
    Ok(Peer {
        address,
        version: version_name(&tls),
        cipher: tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str().map(str::to_owned)),
        alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        chain: noted.chain(),
        asked: asked.names(),
        has_sent_identity: asked.names().is_some() && ask.identity.is_some(),
        ours: noted.verdict(),
        theirs,
        status,
        date,
    })
}

fn connect(target: &Target, timeout: Duration) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let addresses = (target.host.as_str(), target.port).to_socket_addrs();
    let addresses = addresses
        .with_context(|| format!("cannot find the host of {target}; check the name, or give an address"))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok((stream, address));
            }
            Err(error) => {
                let what = "is it running, and is this its address and port?";
                last = Some(anyhow!(error).context(format!("cannot connect to {target}; {what}")));
            }
        }
    }
    match last {
        Some(error) => Err(error),
        None => bail!("{target} has no address"),
    }
}

/// Until the handshake is done, as we see it.
fn handshake(tls: &mut ClientConnection, stream: &mut TcpStream, timeout: Duration) -> Theirs {
    let end = Instant::now() + timeout;
    while tls.is_handshaking() {
        if let Err(theirs) = step(tls, stream, end) {
            return theirs;
        }
    }
    flush(tls, stream);
    Theirs::Silent
}

/// After the handshake: until the server shows that it goes on, or that it does not.
fn verdict(
    tls: &mut ClientConnection,
    stream: &mut TcpStream,
    tickets: &Tickets,
    waits_for_answer: bool,
    timeout: Duration,
) -> (Theirs, Vec<u8>) {
    let end = Instant::now() + timeout;
    let mut answer = Vec::new();
    loop {
        flush(tls, stream);
        let mut piece = [0; ANSWER];
        while let Ok(read @ 1..) = tls.reader().read(&mut piece) {
            answer.extend_from_slice(&piece[..read]);
        }
        let is_answered = answer.len() >= ANSWER || answer.windows(4).any(|four| four == b"\r\n\r\n");
        if is_answered || (!waits_for_answer && (tickets.any() || !answer.is_empty())) {
            return (Theirs::Accepts, answer);
        }
        match step(tls, stream, end) {
            Ok(()) => {}
            Err(_) if !answer.is_empty() => return (Theirs::Accepts, answer),
            Err(Theirs::Closed(_)) if tickets.any() => return (Theirs::Accepts, answer),
            Err(Theirs::Odd(_)) if Instant::now() >= end => {
                return (if tickets.any() { Theirs::Accepts } else { Theirs::Silent }, answer);
            }
            Err(theirs) => return (theirs, answer),
        }
    }
}

fn flush(tls: &mut ClientConnection, stream: &mut TcpStream) {
    while tls.wants_write() {
        if tls.write_tls(stream).is_err() {
            // What the server said before it closed is still to be read.
            return;
        }
    }
}

/// Sends what there is to send, reads once, and says what ends the conversation.
fn step(tls: &mut ClientConnection, stream: &mut TcpStream, end: Instant) -> Result<(), Theirs> {
    flush(tls, stream);
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Theirs::Odd(String::from("it does not answer in time")));
    }
    let closed = |error: &dyn std::fmt::Display| Theirs::Closed(error.to_string());
    stream.set_read_timeout(Some(left)).map_err(|error| closed(&error))?;
    match tls.read_tls(stream) {
        Ok(0) => Err(closed(&"it closed the connection")),
        Ok(_) => match tls.process_new_packets() {
            Ok(state) if state.peer_has_closed() && tls.is_handshaking() => {
                Err(closed(&"it closed the connection"))
            }
            Ok(_) => Ok(()),
            Err(rustls::Error::AlertReceived(alert)) => Err(Theirs::Alert(alert)),
            Err(error) => {
                flush(tls, stream);
                Err(Theirs::Odd(error.to_string()))
            }
        },
        Err(error) => match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Err(Theirs::Odd(String::from("it does not answer in time")))
            }
            _ => Err(closed(&error)),
        },
    }
}

/// The status and the date of an HTTP answer.
fn read_head(answer: &[u8]) -> (Option<u16>, Option<String>) {
    let head = String::from_utf8_lossy(answer);
    let mut lines = head.lines();
    let status = lines.next().filter(|line| line.starts_with("HTTP/1."));
    let status = status.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let date = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("date"))
        .map(|(_, value)| value.trim().to_owned());
    (status, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        for (text, host, port) in [
            ("localhost:8443", "localhost", 8443),
            ("[::1]:443", "::1", 443),
            ("127.0.0.1:1", "127.0.0.1", 1),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string(), text);
        }
        for text in
            ["localhost", ":443", "localhost:", "localhost:0", "::1:443", "[::1:443", "a b:1", "a:99999"]
        {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn alerts_have_the_names_of_the_standard() {
        for (alert, name) in [
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::CertificateRequired, "certificate_required"),
            (AlertDescription::BadCertificate, "bad_certificate"),
            (AlertDescription::HandshakeFailure, "handshake_failure"),
        ] {
            assert_eq!(alert_name(alert), name);
        }
    }

    #[test]
    fn heads_are_read() {
        let answer = b"HTTP/1.1 400 Bad Request\r\nServer: x\r\ndate:  Sun, 22 Nov 2026 20:00:00 GMT\r\n\r\n";
        assert_eq!(read_head(answer), (Some(400), Some(String::from("Sun, 22 Nov 2026 20:00:00 GMT"))));
        assert_eq!(read_head(b"220 smtp"), (None, None));
        assert_eq!(read_head(b""), (None, None));
    }
}
