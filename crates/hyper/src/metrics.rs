//! The feature `metrics`: what the connector and the server count, for whatever recorder the application has installed for
//! the facade of that name. Names and labels are a contract.

use certsource_reload::Retired;

/// Whose end of a connection it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    #[cfg(feature = "server")]
    Server,
}

/// A connection has ended. It counts if its generation was replaced before, and not if its source is followed no more.
#[cfg(feature = "metrics")]
pub(crate) fn ended(side: Side, retired: &Retired) {
    if retired.is_retired() {
        let side = match side {
            Side::Client => "client",
            #[cfg(feature = "server")]
            Side::Server => "server",
        };
        metrics::counter!("certsource_connections_retired_total", "side" => side).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn ended(_: Side, _: &Retired) {}

/// A look that a refused handshake asked for is over.
#[cfg(feature = "metrics")]
pub(crate) fn looked(is_newer: bool) {
    let result = if is_newer { "newer" } else { "nothing_new" };
    metrics::counter!("certsource_reactive_reloads_total", "result" => result).increment(1);
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn looked(_: bool) {}
