//! `confirm_identity`: on TLS 1.3 a server refuses our certificate after the handshake, when a request may already be on
//! its way. A connection whose handshake showed it waits here for the server's first message, so that a refusal is a failed
//! connect. That is so for each of them, and not only for the first of a generation: a server may have rotated since. A
//! server that said nothing to the first is not waited for again in that generation.

use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use crate::reactive::Host;

/// So many silent servers are remembered in a generation. Past that, they are waited for each time.
const SILENT: usize = 1024;

/// The server ended a connection right after it was shown our certificate.
#[derive(Debug)]
pub(crate) struct IdentityRefused(io::Error);

impl fmt::Display for IdentityRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server ended the connection after it was shown the client certificate")
    }
}

impl StdError for IdentityRefused {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

thread_local! {
    /// Whether the handshake that is polled on this thread shows our certificate. A connection does not tell that: it is
    /// learned from the resolver, which TLS asks while the handshake is polled.
    static IS_SHOWN: Cell<bool> = const { Cell::new(false) };
}

/// Lets a config tell when our certificate is shown. It must be one that nobody has used yet.
pub(crate) fn observe(config: &mut ClientConfig) {
    config.client_auth_cert_resolver = Arc::new(Resolver(Arc::clone(&config.client_auth_cert_resolver)));
}

#[derive(Debug)]
struct Resolver(Arc<dyn ResolvesClientCert>);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.resolve(hints, schemes);
        IS_SHOWN.set(shown.is_some());
        shown
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.0.has_certs()
    }
}

/// Polls a handshake with a config that is [observed](observe). With what came of it: whether our certificate was shown.
pub(crate) async fn watched<F: Future>(handshake: F) -> (F::Output, bool) {
    let mut handshake = pin!(handshake);
    let mut is_shown = false;
    poll_fn(|context| {
        IS_SHOWN.set(false);
        let polled = handshake.as_mut().poll(context);
        is_shown |= IS_SHOWN.take();
        polled.map(|made| (made, is_shown))
    })
    .await
}

/// Whether a server that was shown our certificate may still refuse it.
pub(crate) fn is_open<T>(stream: &TlsStream<T>) -> bool {
    let tls = stream.get_ref().1;
    tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) && tls.tls13_tickets_received() == 0
}

/// The servers that said nothing in time. One for each generation.
#[derive(Debug, Default)]
pub(crate) struct Silent(Mutex<HashSet<Host>>);

impl Silent {
    pub(crate) fn holds(&self, host: &Host) -> bool {
        self.hosts().contains(host)
    }

    /// Waits for the server's first message, no longer than that.
    pub(crate) async fn confirm<T>(
        &self,
        stream: &mut TlsStream<T>,
        host: &Host,
        timeout: Duration,
    ) -> Result<(), IdentityRefused>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let first = poll_fn(|context| first_message(stream, context));
        let Ok(said) = tokio::time::timeout(timeout, first).await else {
            // A server that says nothing in time is taken as one that has nothing to say.
            let mut hosts = self.hosts();
            if hosts.len() < SILENT {
                hosts.insert(host.clone());
            }
            return Ok(());
        };
        said.map_err(IdentityRefused)
    }

    fn hosts(&self) -> MutexGuard<'_, HashSet<Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the server said something. Data stays where it is for the protocol above.
///
/// A session ticket says that our certificate is accepted (RFC 8446, section 4.6.1). So does data; a server that sends some
/// before it has judged us, as it may (section 4.4.4), is taken at its word, and its refusal comes later then.
fn first_message<T>(stream: &mut TlsStream<T>, context: &mut Context<'_>) -> Poll<io::Result<()>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let polled = Pin::new(&mut *stream).poll_fill_buf(context).map_ok(|data| !data.is_empty());
    match polled {
        Poll::Ready(Ok(true)) => Poll::Ready(Ok(())),
        // It says goodbye without a word: whatever it means, no request must be given to this connection.
        Poll::Ready(Ok(false)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending if is_open(stream) => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    }
}
