//! `confirm_identity`: on TLS 1.3 a server refuses our certificate after the handshake, when a request may already be
//! on its way. A connection whose handshake showed it waits for the server's first message, so that a refusal is a failed
//! connect: then no request was given to that connection, and any may be sent again. That is so for each of them, and not
//! only for the first of a generation: a server may have rotated since. A server that said nothing to the first is not
//! waited for again in that generation.
//!
//! A connection of reqwest's shows nothing of its TLS. What happens in a handshake is learned from the parts that the
//! config calls, while the connect is polled on the same thread.

use std::cell::RefCell;
use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, NamedGroup, SignatureScheme};
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn StdError + Send + Sync>;

/// As many sessions as rustls keeps by default.
const SESSIONS: usize = 256;

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

/// What was seen of one handshake.
#[derive(Debug, Default)]
struct Seen {
    /// The server asked for our certificate.
    asked: AtomicBool,
    /// The handshake was one of TLS 1.3, and has ended.
    done: AtomicBool,
    /// A session ticket came: the server accepted what we showed it (RFC 8446, section 4.6.1).
    ticket: AtomicBool,
}

impl Seen {
    fn is_open(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.done.load(Ordering::Relaxed) && !self.has_ticket()
    }

    fn has_ticket(&self) -> bool {
        self.ticket.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// The handshake that is polled on this thread.
    static NOW: RefCell<Option<Arc<Seen>>> = const { RefCell::new(None) };
}

fn note(what: impl FnOnce(&Seen) -> &AtomicBool) {
    NOW.with_borrow(|now| {
        if let Some(seen) = now {
            what(seen).store(true, Ordering::Relaxed);
        }
    });
}

/// Polls with a handshake as the one of this thread.
fn watched<T>(seen: &Arc<Seen>, poll: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also after a panic.
    struct Restore(Option<Arc<Seen>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            NOW.set(self.0.take());
        }
    }
    let _restore = Restore(NOW.replace(Some(Arc::clone(seen))));
    poll()
}

/// Lets a config tell what it sees. It must be one that nobody has used yet.
pub(crate) fn observe(config: &mut ClientConfig) {
    config.client_auth_cert_resolver = Arc::new(Resolver(Arc::clone(&config.client_auth_cert_resolver)));
    config.resumption = Resumption::store(Arc::new(Sessions(ClientSessionMemoryCache::new(SESSIONS))));
}

#[derive(Debug)]
struct Resolver(Arc<dyn ResolvesClientCert>);

impl ResolvesClientCert for Resolver {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        note(|seen| &seen.asked);
        self.0.resolve(hints, schemes)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.0.has_certs()
    }
}

#[derive(Debug)]
struct Sessions(ClientSessionMemoryCache);

impl ClientSessionStore for Sessions {
    /// rustls calls this when a handshake of TLS 1.3 has ended, and never for TLS 1.2 (0.23; tests hold both).
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        note(|seen| &seen.done);
        self.0.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.0.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        note(|seen| &seen.ticket);
        self.0.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(name)
    }
}

/// Waits on connections. One for each generation.
#[derive(Clone, Debug)]
pub(crate) struct Confirm {
    timeout: Duration,
    /// The origins that said nothing in time, as the connector names them.
    silent: Arc<Mutex<HashSet<String>>>,
}

impl Confirm {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, silent: Arc::default() }
    }

    fn silent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Confirm {
    type Service = Confirming<S>;

    fn layer(&self, inner: S) -> Confirming<S> {
        Confirming { inner, confirm: self.clone() }
    }
}

/// A connector with [`Confirm`] around it.
#[derive(Clone, Debug)]
pub(crate) struct Confirming<S> {
    inner: S,
    confirm: Confirm,
}

impl<S, R> Service<R> for Confirming<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: Read + Unpin + Send,
    // reqwest's requests to connect show their origin in no other way.
    R: fmt::Debug,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let origin = format!("{request:?}");
        let connect = self.inner.call(request);
        if self.confirm.silent().contains(&origin) {
            return Box::pin(connect);
        }
        let confirm = self.confirm.clone();
        Box::pin(async move {
            let seen = Arc::new(Seen::default());
            let mut connect = pin!(connect);
            let mut connection = poll_fn(|context| watched(&seen, || connect.as_mut().poll(context))).await?;
            if seen.is_open() {
                let first =
                    poll_fn(|context| watched(&seen, || first_message(&mut connection, &seen, context)));
                match tokio::time::timeout(confirm.timeout, first).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(IdentityRefused(error).into()),
                    // A server that says nothing in time is taken as one that has nothing to say.
                    Err(_) => {
                        confirm.silent().insert(origin);
                    }
                }
            }
            Ok(connection)
        })
    }
}

/// Resolves when the server said something: data, or a ticket, or that it ends the connection. Reads no data.
fn first_message<C: Read + Unpin>(
    connection: &mut C,
    seen: &Seen,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    // A read of no bytes still reads what TLS has to say, and is pending while there is no data.
    let mut nothing = ReadBuf::new(&mut []);
    let read = Pin::new(connection).poll_read(context, nothing.unfilled());
    if read.is_pending() && seen.has_ticket() { Poll::Ready(Ok(())) } else { read }
}
