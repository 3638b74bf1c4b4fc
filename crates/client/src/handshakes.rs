//! [`Handshakes`]: what the TLS handshakes of a generation tell about its requests: which of them no connection can have
//! been given yet. Such a request moves to the next generation whatever its method is, for nobody has seen it.
//!
//! reqwest does not say how far a request is, and a layer around its connector, which would know, costs each request a
//! dozen allocations. So it is inferred from the parts that a config calls in each handshake, and nowhere else: a request
//! that finds a connection in the pool pays nothing.
//!
//! What is not here: whether a request may move although a connection may have it ([`crate::send`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use certsource_reload::Retired;
use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, NamedGroup, OtherError, SignatureScheme,
};

use crate::connector::Superseded;
use crate::made::Made;

/// As many sessions as rustls keeps by default.
const SESSIONS: usize = 256;
/// So many names of servers are remembered.
const NAMES: usize = 1024;

thread_local! {
    /// Whether a handshake began in the poll that runs on this thread.
    static BEGAN: Cell<bool> = const { Cell::new(false) };
}

/// The handshakes of one generation.
pub(crate) struct Handshakes {
    retired: Retired,
    made: Made,
    names: Mutex<Names>,
}

/// When the last handshake with a server of a name came so far that a connection may have come of it.
#[derive(Default)]
struct Names {
    last: HashMap<String, Instant>,
    /// There were too many: of a name that is not here, nothing is known.
    is_full: bool,
}

impl Handshakes {
    pub(crate) fn new(retired: Retired) -> Arc<Self> {
        let made = Made::new(retired.clone());
        Arc::new(Self { retired, made, names: Mutex::default() })
    }

    /// Lets a config tell of its handshakes. It must be one that nobody has used yet, and its verifier that of
    /// [`Handshakes::verifier`].
    pub(crate) fn watch(self: &Arc<Self>, config: &mut ClientConfig) {
        let sessions = ClientSessionMemoryCache::new(SESSIONS);
        config.resumption = Resumption::store(Arc::new(Sessions { sessions, all: Arc::clone(self) }));
    }

    /// The verifier of a config, which also ends handshakes of a generation that was replaced meanwhile.
    pub(crate) fn verifier(
        self: &Arc<Self>,
        inner: Arc<dyn ServerCertVerifier>,
    ) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Verifier { inner, all: Arc::clone(self) })
    }

    /// Whether no connection can have been given a request to this URL that began then: because none was ever made to a
    /// server of that name, or because the request makes one itself, which is in its handshake (`is_connecting`), and no
    /// other came of a handshake since. Without TLS nothing is known.
    pub(crate) fn exclude(&self, url: &Url, began: Instant, is_connecting: bool) -> bool {
        let (true, Some(host)) = (url.scheme() == "https", url.host_str()) else { return false };
        let names = self.names();
        match names.last.get(host.trim_matches(['[', ']'])) {
            Some(last) => is_connecting && *last < began,
            None => !names.is_full,
        }
    }

    fn note(&self, name: &ServerName<'_>) {
        let (name, now) = (name.to_str(), Instant::now());
        let mut names = self.names();
        if let Some(last) = names.last.get_mut(&*name) {
            *last = now;
        } else if names.last.len() < NAMES {
            names.last.insert(name.into_owned(), now);
        } else {
            names.is_full = true;
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.all.retired.is_retired() {
            return Err(Error::Other(OtherError(Arc::new(Superseded))));
        }
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        // On TLS 1.2 nothing else may tell that the handshake ended.
        self.all.note(server_name);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

struct Sessions {
    sessions: ClientSessionMemoryCache,
    all: Arc<Handshakes>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    /// rustls calls this when a handshake of TLS 1.3 has ended, and never for TLS 1.2 (0.23; tests hold both).
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.all.made.one_more();
        self.all.note(&name);
        self.sessions.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(name)
    }

    /// And this when one of TLS 1.2 has, if the server lets it be resumed.
    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.all.made.one_more();
        self.all.note(&name);
        self.sessions.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(name, value);
    }

    /// And this, first of all, when one begins.
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        BEGAN.set(true);
        self.sessions.take_tls13_ticket(name)
    }
}

/// An attempt that tells when a handshake began while it was polled: then it is the one of its own connect.
pub(crate) struct Noted<'a, F> {
    attempt: F,
    is_connecting: &'a AtomicBool,
}

impl<'a, F> Noted<'a, F> {
    pub(crate) fn new(attempt: F, is_connecting: &'a AtomicBool) -> Self {
        Self { attempt, is_connecting }
    }
}

impl<F: Future + Unpin> Future for Noted<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        /// Puts back what was there, also after a panic: a poll can run within another one.
        struct Restore(bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                BEGAN.set(self.0);
            }
        }
        let _restore = Restore(BEGAN.replace(false));
        let polled = Pin::new(&mut self.attempt).poll(context);
        if BEGAN.get() {
            self.is_connecting.store(true, Ordering::Relaxed);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn name(text: &str) -> ServerName<'static> {
        ServerName::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_request_is_free_until_a_connection_may_have_it() {
        let handshakes = Handshakes::new(Retired::default());
        for host in ["a.example", "127.0.0.1", "[::1]"] {
            let url = url(&format!("https://{host}:8443/x"));
            let before = Instant::now();
            assert!(handshakes.exclude(&url, before, false), "{host}: none was ever made");
            std::thread::sleep(Duration::from_millis(1));
            handshakes.note(&name(host.trim_matches(['[', ']'])));
            assert!(!handshakes.exclude(&url, before, true), "{host}: it may have that one");
            std::thread::sleep(Duration::from_millis(1));
            assert!(!handshakes.exclude(&url, Instant::now(), false), "{host}: it may be in its queue");
            assert!(handshakes.exclude(&url, Instant::now(), true), "{host}: that one was not there for it");
        }
        assert!(handshakes.exclude(&url("https://b.example/"), Instant::now(), false));
        assert!(
            !handshakes.exclude(&url("http://b.example/"), Instant::now(), false),
            "it shows no handshake"
        );
    }

    #[test]
    fn names_are_capped_and_then_nothing_is_known_of_others() {
        let handshakes = Handshakes::new(Retired::default());
        for number in 0..=NAMES {
            handshakes.note(&name(&format!("{number}.example")));
        }
        assert_eq!(handshakes.names().last.len(), NAMES);
        assert!(!handshakes.exclude(&url("https://other.example/"), Instant::now(), true));
    }

    #[test]
    fn only_the_attempt_in_whose_poll_a_handshake_begins_is_marked() {
        let (outer, inner) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut nested = Noted::new(
            std::future::poll_fn(|context| {
                let mut within = Noted::new(
                    std::future::poll_fn(|_| {
                        BEGAN.set(true);
                        Poll::<()>::Pending
                    }),
                    &inner,
                );
                Pin::new(&mut within).poll(context)
            }),
            &outer,
        );
        assert!(Pin::new(&mut nested).poll(&mut context).is_pending());
        assert!(inner.load(Ordering::Relaxed) && !outer.load(Ordering::Relaxed));
        assert!(!BEGAN.get());
    }
}
