//! Makes the client of a generation: the user's own reqwest options first, then what must hold.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certsource::{Error, Reason};
use certsource_reload::Generation;
use certsource_rustls::ClientTls;
use http::HeaderMap;
use rustls::{ClientConfig, RootCertStore};

use crate::asked::{self, Asked};
use crate::confirm::{self, Confirm};
use crate::connector::{Bounce, Nowhere};
use crate::drain::Drain;
use crate::handshakes::Handshakes;
use crate::lane::{Http, Lane};
use crate::proxy::{Proxy, tls_proxy_in_environment};
use crate::pulse::{Lanes, Pulse};
use crate::redirect::{self, Redirects};
use crate::waiting::Alarm;

pub(crate) type Customize = Box<dyn Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync>;

/// What becomes of attempts that began before a new generation was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retire {
    /// A request that no connection has taken yet moves to the new generation, and so does each redirect hop. What a
    /// connection has taken finishes.
    #[default]
    Strict,
    /// A request stays on the generation that it began with, with its redirect hops. Requests that begin later use
    /// the new one, and so does an attempt that no connection takes for 250 ms while its generation is replaced.
    Lazy,
}

/// What proxies are used.
#[derive(Debug)]
pub(crate) enum Proxies {
    /// What the environment and the system name, as in reqwest.
    System,
    /// These, or none.
    These(Vec<Proxy>),
}

/// Everything about clients that does not change with a generation.
pub(crate) struct Factory {
    pub(crate) tls: ClientTls,
    pub(crate) http1_only: bool,
    pub(crate) customize: Customize,
    /// What outlives generations and is shared by all of them: a cookie jar, a resolver.
    pub(crate) shared: Customize,
    pub(crate) proxies: Proxies,
    pub(crate) identity_to_proxy: bool,
    pub(crate) redirects: Redirects,
    pub(crate) retire: Retire,
    pub(crate) drain_deadline: Option<Duration>,
    pub(crate) confirm_identity: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) referer: bool,
    pub(crate) default_headers: HeaderMap,
}

impl Factory {
    /// The lane of a generation.
    ///
    /// # Errors
    /// When rustls or reqwest do not accept what is asked of them.
    pub(crate) fn lane(&self, generation: &Arc<Generation>, lanes: &Lanes) -> Result<Lane, Error> {
        // A layer around the connector costs each request a dozen allocations: it is there only where it is needed.
        let (is_strict, confirms) = (self.retire == Retire::Strict, self.confirms(generation));
        let handshakes =
            (is_strict && confirms.is_none()).then(|| Handshakes::new(generation.retired().clone()));
        let (builder, asked) = self.prepare(generation, handshakes.as_ref())?;
        let mut builder = builder.redirect(redirect::policy()).retry(reqwest::retry::never());
        // As a first attempt needs it; a later one has what is left of it.
        if let Some(timeout) = self.timeout {
            builder = builder.timeout(timeout);
        }
        if let Some(timeout) = confirms {
            builder = builder.connector_layer(Confirm::new(timeout));
            if is_strict {
                builder = builder.connector_layer(Bounce::new(generation.retired().clone()));
            }
        }
        let client = built(builder)?;
        let read_timeout = asked::read_timeout(&client);
        let pulse = Arc::new(Pulse::default());
        lanes.add(generation.number(), &pulse);
        Ok(Lane {
            client,
            pulse,
            drain: self
                .drain_deadline
                .map(|deadline| Drain::new(generation.number(), deadline, generation.retired().clone())),
            retired: generation.retired().clone(),
            alarm: Alarm::set(generation.retired()),
            http: self.http(&asked),
            timeout: asked.timeout,
            read_timeout,
            referer: self.referer && asked.referer,
        })
    }

    /// A plain client with the certificates of a generation, which follows nothing.
    pub(crate) fn snapshot(&self, generation: &Arc<Generation>) -> Result<reqwest::Client, Error> {
        let (mut builder, _) = self.prepare(generation, None)?;
        if let Some(timeout) = self.timeout {
            builder = builder.timeout(timeout);
        }
        builder = builder.default_headers(self.default_headers.clone()).referer(self.referer);
        builder = match self.redirects.limit() {
            Some(most) => builder.redirect(reqwest::redirect::Policy::limited(most)),
            None => builder.redirect(reqwest::redirect::Policy::none()),
        };
        built(builder)
    }

    /// A client that drafts requests: it trusts nobody, knows no key, and can connect nowhere. So a draft holds nothing
    /// of a generation.
    pub(crate) fn drafts(&self) -> Result<reqwest::Client, Error> {
        let config = ClientConfig::builder_with_provider(Arc::clone(self.tls.provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| {
                let what = format!("the crypto provider does not have these versions of TLS: {error}");
                Error::new(Reason::Unsupported, what).caused_by(error)
            })?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        built(
            reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().connector_layer(Nowhere),
        )
    }

    /// How long connections wait for the server's answer to our certificate, if they do.
    fn confirms(&self, generation: &Generation) -> Option<Duration> {
        self.confirm_identity.filter(|_| generation.identity().is_some())
    }

    fn prepare(
        &self,
        generation: &Arc<Generation>,
        handshakes: Option<&Arc<Handshakes>>,
    ) -> Result<(reqwest::ClientBuilder, Asked), Error> {
        let mut builder = (self.customize)(reqwest::Client::builder());
        let asked = Asked::of(&builder);
        asked.check()?;
        builder = (self.shared)(builder);
        if let (Some(name), true) = (asked.sensitive_header, self.redirects.are_followed()) {
            return Err(Error::new(
                Reason::Unsupported,
                format!(
                    "in Builder::reqwest: the default header `{name}` would go along when a redirect leads to another \
                     host; set it by Builder::default_headers"
                ),
            ));
        }
        let has_identity = generation.identity().is_some();
        builder = match &self.proxies {
            Proxies::System => {
                if let (true, false, Some(name)) =
                    (has_identity, self.identity_to_proxy, tls_proxy_in_environment())
                {
                    return Err(shown(&format!("the proxy of the environment variable {name}")));
                }
                builder
            }
            Proxies::These(proxies) => {
                if has_identity && !self.identity_to_proxy && proxies.iter().any(Proxy::is_tls) {
                    return Err(shown("an https:// proxy"));
                }
                proxies.iter().fold(builder.no_proxy(), |builder, proxy| builder.proxy(proxy.to_reqwest()))
            }
        };
        let config = self.config(generation, &asked, handshakes)?;
        Ok((builder.tls_backend_preconfigured(config), asked))
    }

    fn http(&self, asked: &Asked) -> Http {
        if self.http1_only || asked.http1_only {
            Http::One
        } else if asked.http2_only {
            Http::Two
        } else if cfg!(feature = "http2") {
            Http::Either
        } else {
            Http::One
        }
    }

    fn config(
        &self,
        generation: &Arc<Generation>,
        asked: &Asked,
        handshakes: Option<&Arc<Handshakes>>,
    ) -> Result<ClientConfig, Error> {
        // reqwest leaves ALPN to whoever brings the config.
        let protocols: &[&[u8]] = match self.http(asked) {
            Http::One => &[b"http/1.1"],
            Http::Two => &[b"h2"],
            Http::Either => &[b"h2", b"http/1.1"],
        };
        let tls = self.tls.clone().alpn(protocols.iter().copied());
        let mut config = match handshakes {
            Some(handshakes) => handshakes.config(&tls, generation.material())?,
            None => tls.config(generation.material())?,
        };
        config.enable_sni = asked.sni;
        if self.confirms(generation).is_some() {
            confirm::observe(&mut config);
        }
        if asked.key_log {
            config.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        Ok(config)
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory")
            .field("proxies", &self.proxies)
            .field("redirects", &self.redirects)
            .field("retire", &self.retire)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn shown(to: &str) -> Error {
    Error::new(
        Reason::Unsupported,
        format!(
            "{to} would be shown the client certificate; allow it by Builder::identity_to_proxy, or set proxies by \
             Builder::proxy or Builder::no_proxy"
        ),
    )
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
    builder.build().map_err(|error| {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        Error::new(Reason::Unsupported, format!("reqwest can not build a client with these options: {why}"))
            .caused_by(error)
    })
}
