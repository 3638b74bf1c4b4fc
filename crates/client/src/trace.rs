//! What goes to `tracing` from requests: why one is made again, and what was refused. Only failed attempts and rotations come
//! here; where nobody listens at `debug`, nothing is formatted.
//!
//! Target `certsource` and the names of events and fields are a contract; the words of a message are not. A URL is told as
//! scheme, host and port: the rest of it may hold secrets.

use certsource::Error;
use certsource_reload::{Generation, Reloader};
use reqwest::Url;

use crate::refusal::Refusal;

/// The target of every event.
const TARGET: &str = "certsource";

/// Why a request is sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Because {
    /// An HTTP/2 server said that it did not look at it.
    Unread,
    /// A certificate was refused, and a newer generation is served.
    Refused,
    /// The user's own `reactive_on` took the response for a refusal, and a newer generation is served.
    Response,
}

/// A request that no connection had taken leaves a generation that was replaced.
pub(crate) fn bounced(reloader: &Reloader, url: &Url, used: &Generation) {
    tracing::debug!(
        target: TARGET,
        origin = %reloader.origin(),
        event = "bounced",
        server = server(url),
        generation = used.number(),
        "no connection took the request, and its generation was replaced: it moves to the new one"
    );
}

/// A request is sent again that a connection may have taken.
pub(crate) fn resent(reloader: &Reloader, url: &Url, used: &Generation, because: Because) {
    let because = match because {
        Because::Unread => "unread",
        Because::Refused => "refused",
        Because::Response => "response",
    };
    tracing::debug!(
        target: TARGET,
        origin = %reloader.origin(),
        event = "resent",
        server = server(url),
        generation = used.number(),
        because,
        "the request is sent again"
    );
}

/// An attempt failed as a rotation makes it fail.
pub(crate) fn refused(
    reloader: &Reloader,
    url: &Url,
    used: &Generation,
    refusal: Refusal,
    error: &reqwest::Error,
) {
    tracing::debug!(
        target: TARGET,
        origin = %reloader.origin(),
        event = "handshake_refused",
        server = server(url),
        generation = used.number(),
        certain = refusal == Refusal::Certificate,
        cause = crate::causes::last(error),
        "a certificate was refused, or a connection broke as if it had been"
    );
}

/// A look that a refusal asked for is over.
pub(crate) fn looked(reloader: &Reloader, used: u64, error: Option<&Error>) {
    tracing::debug!(
        target: TARGET,
        origin = %reloader.origin(),
        event = "reactive",
        generation = used,
        newer = reloader.current().number() > used,
        reason = error.map(|error| error.reason().as_str()),
        "a refusal asked for a look at the source"
    );
}

fn server(url: &Url) -> String {
    url.origin().ascii_serialization()
}
