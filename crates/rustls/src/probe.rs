//! [`Probe`]: the gate that tries a candidate on a real server before it is published.

use std::fmt;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use certsource_reload::certsource::Material;
use certsource_reload::certsource::machine::{Candidate, Verdict};
use certsource_reload::{Error, Gate, Reason};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ProtocolVersion, SignatureScheme};

use crate::client::ClientTls;

/// A candidate that failed is tried again after this, also when no file changes: the server may have been down.
const AGAIN: Duration = Duration::from_secs(10);
/// On TLS 1.3 a server judges our certificate after the handshake: so long it may take to say no.
const ANSWER: Duration = Duration::from_secs(1);

/// The check that a server can be reached with the candidate: its certificate is trusted, and it accepts ours.
///
/// A candidate that fails is refused, is told as `rejected`, and is tried again every 10 s.
///
/// It is not asked about a first load, when there is nothing better to go on serving; nor about a pure withdrawal, which
/// must not be held back, not even for as long as a handshake takes.
///
/// # Defaults
/// * timeout: 3 s for everything: name, connection, handshake, answer. The engine's own deadline for all checks together
///   is 10 s (`Policy::deadline`)
/// * straight to the server, through no proxy
#[derive(Clone)]
pub struct Probe {
    tls: ClientTls,
    host: String,
    port: u16,
    name: ServerName<'static>,
    timeout: Duration,
}

impl Probe {
    /// Tries candidates on this host (a name or an address) and port.
    ///
    /// # Errors
    /// When `host` is neither a DNS name nor an IP address.
    pub fn new(tls: ClientTls, host: &str, port: u16) -> Result<Self, Error> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|error| {
            let what = format!("cannot probe {host:?}: neither a host name nor an IP address");
            Error::new(Reason::Unsupported, what).caused_by(error)
        })?;
        Ok(Self { tls, host, port, name, timeout: Duration::from_secs(3) })
    }

    /// How long one try may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes one handshake with this material, and waits for the server's answer to our certificate if it asked for
    /// one. Blocks this thread, for the timeout at the most (a resolver that hangs is not in our hands).
    ///
    /// # Errors
    /// Why there was no handshake: [`Reason::Rejected`] when one side refused the other, [`Reason::TimedOut`] and
    /// [`Reason::Io`] when there was none to speak of.
    pub fn handshake(&self, material: &Material) -> Result<(), Error> {
        let end = Instant::now() + self.timeout;
        let mut config = self.tls.config(material)?;
        let asked = Arc::new(Asked { by: config.client_auth_cert_resolver, flag: AtomicBool::new(false) });
        config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
        let mut tls = ClientConnection::new(Arc::new(config), self.name.clone())
            .map_err(|error| self.failed(io::Error::other(error)))?;
        let mut socket = self.connect(end).map_err(|error| self.failed(error))?;
        while tls.is_handshaking() || tls.wants_write() {
            step(&mut tls, &mut socket, end).map_err(|error| self.failed(error))?;
        }
        let is_judged_later = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if is_judged_later && asked.flag.load(Ordering::Relaxed) {
            match step(&mut tls, &mut socket, end.min(Instant::now() + ANSWER)) {
                // A server that says nothing has no objection.
                Err(error) if is_timeout(&error) => {}
                result => result.map_err(|error| self.failed(error))?,
            }
        }
        tls.send_close_notify();
        // A courtesy: the handshake is what counts.
        let _ = tls.write_tls(&mut socket);
        Ok(())
    }

    fn connect(&self, end: Instant) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(end)?) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn failed(&self, error: io::Error) -> Error {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        let reason = if is_tls {
            Reason::Rejected
        } else if is_timeout(&error) {
            Reason::TimedOut
        } else {
            Reason::Io
        };
        let what = format!("the probe of {}:{} failed: {error}", self.host, self.port);
        Error::new(reason, what).caused_by(error)
    }
}

impl Gate for Probe {
    fn judge(&self, candidate: &Candidate) -> Verdict {
        if candidate.current.is_none() || !candidate.can_be_refused {
            return Verdict::Accept;
        }
        match self.handshake(&candidate.material) {
            Ok(()) => Verdict::Accept,
            Err(error) => Verdict::AskAgain { at: Instant::now() + AGAIN, error },
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Writes what there is to write; if there is nothing, reads once.
fn step(tls: &mut ClientConnection, socket: &mut TcpStream, end: Instant) -> io::Result<()> {
    if tls.wants_write() {
        socket.set_write_timeout(Some(left(end)?))?;
        return tls.write_tls(socket).map(drop);
    }
    socket.set_read_timeout(Some(left(end)?))?;
    if tls.read_tls(&mut socket.by_ref())? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match tls.process_new_packets() {
        Ok(_) => Ok(()),
        Err(error) => {
            // The server is told why.
            let _ = tls.write_tls(socket);
            Err(io::Error::other(error))
        }
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// A read that times out says `WouldBlock` on Unix, `TimedOut` on Windows.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Notes whether the server asked for our certificate. Also when there is none: then it may say that it needs one.
#[derive(Debug)]
struct Asked {
    by: Arc<dyn ResolvesClientCert>,
    flag: AtomicBool,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.flag.store(true, Ordering::Relaxed);
        self.by.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.by.has_certs()
    }
}
