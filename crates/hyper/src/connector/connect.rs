//! One connect: attempt by attempt, each with the generation that is current then.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use certsource_reload::Generation;
use http::Uri;
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::{BoxError, Connector, Current, HttpUris, NoConfig, Options};
use crate::confirm;
use crate::error::{ConnectError, ConnectErrorKind};
use crate::reactive::Host;
use crate::refusal;
use crate::stream::{Late, Stream};

/// As often a connect begins again because of newer generations. More than that is no rotation.
const ROUNDS: u32 = 16;

/// Where to, and who must be there.
struct Target {
    host: Host,
    /// `None`: without TLS.
    name: Option<ServerName<'static>>,
}

impl Target {
    fn of(uri: &Uri, options: &Options) -> Result<Self, ConnectError> {
        let wrong = |why: &str| ConnectError::new(ConnectErrorKind::Uri, uri).caused_by(why);
        let is_tls = match (uri.scheme_str(), options.http_uris) {
            (Some("https"), _) | (Some("http"), HttpUris::Tls) => true,
            (Some("http"), HttpUris::Plain) => false,
            (Some("http"), HttpUris::Refused) => {
                return Err(wrong("http:// is not allowed; see plain_http of the connector's builder"));
            }
            _ => return Err(wrong("the scheme is neither https nor http")),
        };
        let name = uri.host().ok_or_else(|| wrong("it names no host"))?;
        // An IPv6 address stands in brackets there, and not in a certificate.
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let scheme = uri.scheme_str().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let host = Host { scheme: scheme.to_owned(), name: name.to_owned(), port };
        let name = match &options.server_name {
            _ if !is_tls => None,
            Some(name) => Some(name.clone()),
            None => Some(
                ServerName::try_from(name.to_owned())
                    .map_err(|error| ConnectError::new(ConnectErrorKind::Uri, uri).caused_by(error))?,
            ),
        };
        Ok(Self { host, name })
    }
}

/// How one attempt ended.
enum Attempt<T> {
    Made(Stream<T>),
    /// The generation was replaced meanwhile.
    Superseded,
    Failed(Arc<Generation>, ConnectError),
}

/// Why no TLS came of a connection.
enum Failure {
    /// No generation would help.
    Final(ConnectError),
    /// Another one may.
    OfGeneration(ConnectError),
}

impl<C> Connector<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + Connection + Unpin + Send + 'static,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    pub(super) async fn connect(self, uri: Uri) -> Result<Stream<C::Response>, ConnectError> {
        let Target { host, name } = Target::of(&uri, &self.shared.options)?;
        let Some(name) = name else {
            return Ok(Stream::plain(self.reach(uri, &host).await?));
        };
        for _ in 0..ROUNDS {
            let tcp = self.reach(uri.clone(), &host).await?;
            match self.handshake(tcp, &host, name.clone()).await? {
                Attempt::Made(stream) => return Ok(stream),
                Attempt::Superseded => {}
                Attempt::Failed(used, error) => {
                    if !self.is_mended(&used, &host, &error).await {
                        return Err(error);
                    }
                }
            }
        }
        Err(ConnectError::new(ConnectErrorKind::Superseded, &host))
    }

    /// The connection below TLS.
    async fn reach(&self, uri: Uri, host: &Host) -> Result<C::Response, ConnectError> {
        let failed = |error: C::Error| ConnectError::new(ConnectErrorKind::Connect, host).caused_by(error);
        let mut inner = self.inner.clone();
        poll_fn(|context| inner.poll_ready(context)).await.map_err(failed)?;
        inner.call(uri).await.map_err(failed)
    }

    /// A handshake with the generation that is current now. `Err`: no generation would help.
    async fn handshake(
        &self,
        tcp: C::Response,
        host: &Host,
        name: ServerName<'static>,
    ) -> Result<Attempt<C::Response>, ConnectError> {
        let current = self.current().map_err(|why| match why {
            NoConfig::Closed(closed) => ConnectError::new(ConnectErrorKind::Closed, host).caused_by(closed),
            NoConfig::Failed(error) => ConnectError::new(ConnectErrorKind::Config, host).caused_by(error),
        })?;
        let made = until_retired(self.secure(tcp, host, name, &current), &current.generation).await;
        let Current { generation, pool, .. } = current;
        let (tls, is_http2) = match made {
            None => return Ok(Attempt::Superseded),
            Some(Err(Failure::Final(error))) => return Err(error),
            Some(Err(Failure::OfGeneration(error))) => return Ok(Attempt::Failed(generation, error)),
            Some(Ok(made)) => made,
        };
        // The derived config is replaced before the signal comes.
        if self.is_over(&generation) {
            return Ok(Attempt::Superseded);
        }
        let has_identity = generation.identity().is_some();
        let late = self.shared.reactive.is_some() && has_identity;
        let late = late.then(|| self.late(host.clone()));
        Ok(Attempt::Made(Stream::tls(tls, is_http2, &pool, generation, late)))
    }

    /// TLS with what one generation has, confirmed if that was asked for; and whether HTTP/2 was agreed on.
    async fn secure(
        &self,
        tcp: C::Response,
        host: &Host,
        name: ServerName<'static>,
        current: &Current,
    ) -> Result<(TlsStream<TokioIo<C::Response>>, bool), Failure> {
        let options = &self.shared.options;
        let connect = TlsConnector::from(Arc::clone(&current.config)).connect(name, TokioIo::new(tcp));
        let handshake = tokio::time::timeout(options.handshake_timeout, confirm::watched(connect));
        let Ok((made, is_shown)) = handshake.await else {
            return Err(Failure::Final(ConnectError::new(ConnectErrorKind::TimedOut, host)));
        };
        let mut tls = made.map_err(|error| Failure::OfGeneration(ConnectError::of_handshake(host, error)))?;
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        if options.http2_only && !is_http2 {
            let why = "HTTP/2 is needed, and the server did not choose it by ALPN";
            let error = ConnectError::new(ConnectErrorKind::Protocol, host).caused_by(why);
            return Err(Failure::Final(error));
        }
        match options.confirm_identity {
            Some(timeout) if is_shown && confirm::is_open(&tls) && !current.silent.holds(host) => {
                current.silent.confirm(&mut tls, host, timeout).await.map_err(|refused| {
                    let error = ConnectError::new(ConnectErrorKind::ClientCertificate, host);
                    Failure::OfGeneration(error.caused_by(refused))
                })?;
            }
            _ => {}
        }
        Ok((tls, is_http2))
    }

    /// Whether newer certificates came of a failure that a rotation causes.
    async fn is_mended(&self, used: &Arc<Generation>, host: &Host, error: &ConnectError) -> bool {
        let is_about_certificates =
            error.kind() == ConnectErrorKind::ClientCertificate || error.tls().is_some_and(refusal::is_ours);
        if !is_about_certificates {
            return false;
        }
        let Some(reactive) = &self.shared.reactive else {
            return self.shared.current.load().generation().number() > used.number();
        };
        reactive.newer(self.reloader(), host, used.number()).await.is_some()
    }

    /// What a connection does when the server refuses our certificate after the handshake.
    fn late(&self, host: Host) -> Late {
        let shared = Arc::downgrade(&self.shared);
        Late::new(move |error: &io::Error| {
            let is_theirs = refusal::tls_error(error).is_some_and(refusal::is_theirs);
            let Some(shared) = shared.upgrade().filter(|_| is_theirs) else { return };
            if let Some(reactive) = &shared.reactive {
                reactive.nudge(shared.current.reloader(), &host);
            }
        })
    }
}

/// `None` when the generation is replaced first.
async fn until_retired<F: Future>(future: F, generation: &Generation) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut retired = pin!(generation.retired().replaced());
    poll_fn(|context| {
        // First, so that a connection that is ready at the same moment is not used.
        if retired.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::time::Duration;

    use super::*;

    fn target(uri: &'static str, http_uris: HttpUris) -> Result<Target, ConnectError> {
        let options = Options {
            handshake_timeout: Duration::from_secs(1),
            server_name: None,
            http_uris,
            http2_only: false,
            confirm_identity: None,
        };
        Target::of(&Uri::from_static(uri), &options)
    }

    #[test]
    fn a_uri_says_where_and_who() {
        let of = |uri, http_uris| {
            let target = target(uri, http_uris).unwrap();
            (target.host.to_string(), target.name.map(|name| name.to_str().into_owned()))
        };
        let refused = HttpUris::Refused;
        assert_eq!(of("https://a.example/x", refused), ("a.example:443".into(), Some("a.example".into())));
        assert_eq!(of("https://[::1]:8443", refused), ("::1:8443".into(), Some("::1".into())));
        assert_eq!(of("https://127.0.0.1:1", refused), ("127.0.0.1:1".into(), Some("127.0.0.1".into())));
        assert_eq!(of("http://a.example", HttpUris::Plain), ("a.example:80".into(), None));
        assert_eq!(of("http://a.example", HttpUris::Tls), ("a.example:80".into(), Some("a.example".into())));
    }

    #[test]
    fn what_can_not_be_connected_to_is_said() {
        for uri in ["http://a.example", "ftp://a.example", "/path", "https://a_b..c/"] {
            let error = target(uri, HttpUris::Refused).err().unwrap();
            assert_eq!(error.kind(), ConnectErrorKind::Uri, "{uri}");
        }
    }
}
