//! What a failed attempt says about the request: that nobody has read it, so that it can be sent again.

use std::io;

use crate::causes::find;

/// What hyper-util's pool says of a request that it gave to no connection: because the one that it was to have was closed
/// by then, or the one that it waited for came to nothing. Others see no more of these errors than their words; a test holds
/// them.
const POOL: [&str; 3] =
    ["checked out connection was closed", "request was canceled", "ALPN upgraded to HTTP/2"];

/// Whether a connection was closed in an orderly way before it took the request: hyper gives the request back then, or its
/// pool never gave it away. An HTTP/2 server that rotates does so to a connection that has just been made, when it says so
/// before its first request is there. What says that something broke, a refusal of our certificate above all, is for
/// [`crate::refusal`].
pub(crate) fn in_its_queue(error: &reqwest::Error) -> bool {
    let (mut is_canceled, mut is_of_client) = (false, false);
    let is_broken = find(error, &mut |error| {
        is_canceled |= error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        is_canceled |= is_of_client && POOL.contains(&error.to_string().as_str());
        is_of_client = error.to_string().starts_with("client error (");
        error.is::<io::Error>() || error.is::<rustls::Error>()
    });
    is_canceled && !is_broken
}

/// Whether an HTTP/2 server refused it unread (RFC 9113, section 8.7).
#[cfg(feature = "http2")]
pub(crate) fn by_the_server(error: &reqwest::Error) -> bool {
    find(error, &mut |error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| {
            let reason = error.reason();
            error.is_remote()
                && ((error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                    || (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)))
        })
    })
}

#[cfg(not(feature = "http2"))]
pub(crate) fn by_the_server(_: &reqwest::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::failure::failed;

    /// An error with a cause, in the words of others.
    #[derive(Debug)]
    struct Said(&'static str, Option<Box<Self>>);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Said {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn what_a_pool_gave_to_no_connection_is_known_by_its_words() {
        let is_unread = |outer, inner| {
            let error = Said(outer, Some(Box::new(Said(inner, None))));
            in_its_queue(&failed(error, "https://a.example/".parse().unwrap()))
        };
        for words in POOL {
            assert!(is_unread("client error (Connect)", words), "{words}");
            assert!(!is_unread("someone else's", words), "{words}");
        }
        assert!(!is_unread("client error (Connect)", "no route to host"));
    }
}
