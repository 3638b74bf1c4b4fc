//! [`Lane`]: what the client has for one generation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::drain::Drain;
use crate::pulse::Pulse;
use crate::waiting::Alarm;
use certsource_reload::Retired;

/// The client of one generation.
pub(crate) struct Lane {
    pub(crate) client: reqwest::Client,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) retired: Retired,
    pub(crate) alarm: Alarm,
    pub(crate) http: Http,
    /// When what still runs here is cut, if it ever is.
    pub(crate) drain: Option<Arc<Drain>>,
    /// What the user's closure set by itself.
    pub(crate) timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) referer: bool,
}

/// What its connections may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
    /// What a server chooses by ALPN. Without TLS that is HTTP/1.
    Either,
}

impl Lane {
    /// Whether a request to such a URL goes by HTTP/1.
    pub(crate) fn is_http1(&self, scheme: &str) -> bool {
        self.http == Http::One || (self.http == Http::Either && scheme == "http")
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("retired", &self.retired).finish_non_exhaustive()
    }
}
