//! [`ConnectError`]: why a connection could not be made.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::reactive::Host;
use crate::refusal;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a connection could not be made. [`source`](StdError::source) has what TLS or the network said.
#[derive(Debug)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    host: String,
    source: Option<BoxError>,
}

/// What kind of [`ConnectError`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The URI names no host, a name that no certificate can have, or a scheme that was not allowed.
    Uri,
    /// There is no connection to the host: name resolution, TCP.
    Connect,
    /// The handshake took longer than its timeout.
    TimedOut,
    /// We refuse the server's certificate, also with the newest trust that there is.
    ServerCertificate,
    /// The server refuses our certificate, or misses one, also the newest that there is. Or it ended the connection right
    /// after it was shown it: see [`confirm_identity`](crate::Builder::confirm_identity).
    ClientCertificate,
    /// Another failure of TLS.
    Tls,
    /// The server does not speak the protocol that was asked for by ALPN.
    Protocol,
    /// Newer certificates were published again and again while the connection was being made.
    Superseded,
    /// No config could be made from the current generation.
    Config,
    /// Nothing may be used now: the source could not be confirmed for too long, or a withdrawal was published that no config
    /// could be made from. A [`Closed`](certsource_reload::Closed) is the source of this error, and says which.
    Closed,
}

impl ConnectError {
    pub(crate) fn new(kind: ConnectErrorKind, host: impl fmt::Display) -> Self {
        Self { kind, host: host.to_string(), source: None }
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error of a handshake that failed.
    pub(crate) fn of_handshake(host: &Host, error: io::Error) -> Self {
        let kind = match refusal::tls_error(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => ConnectErrorKind::ServerCertificate,
            Some(said) if refusal::is_theirs(said) => ConnectErrorKind::ClientCertificate,
            _ => ConnectErrorKind::Tls,
        };
        Self::new(kind, host).caused_by(error)
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// The host and port that were to be reached, or the URI if it names none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What TLS said, if it was TLS that failed.
    pub fn tls(&self) -> Option<&rustls::Error> {
        self.source.as_deref().and_then(|source| refusal::tls_error(source))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ConnectErrorKind::Uri => "not a URI that can be connected to by TLS",
            ConnectErrorKind::Connect => "no connection",
            ConnectErrorKind::TimedOut => "the TLS handshake took too long",
            ConnectErrorKind::ServerCertificate => "the server's certificate is refused",
            ConnectErrorKind::ClientCertificate => "the server refuses our certificate",
            ConnectErrorKind::Tls => "the TLS handshake failed",
            ConnectErrorKind::Protocol => "the server does not speak the protocol that is needed",
            ConnectErrorKind::Superseded => {
                "newer certificates were published again and again while the connection was being made"
            }
            ConnectErrorKind::Config => "no TLS config can be made",
            ConnectErrorKind::Closed => "no certificates may be used now",
        };
        write!(f, "connecting to {}: {what}", self.host)
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
