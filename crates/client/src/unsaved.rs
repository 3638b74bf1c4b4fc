//! [`Unsaved`]: why a request failed although newer certificates are there now.

use std::error::Error as StdError;
use std::fmt;

use crate::causes::find;
use crate::failure::failed;

/// A request failed as a rotation makes it fail, newer certificates came of the look that followed, and still it could
/// not be sent again. This says why.
///
/// The next request uses the newer certificates. To send this one again is for the application, which knows what it
/// does.
///
/// The error is one of reqwest's ([`reqwest::Error::is_body`]), and the error that it was at first is among its sources.
/// When no newer certificates came of the look (the server is simply bad, or it rotated before the files did), nothing
/// is added: then the error is the one that the attempt met.
///
/// ```no_run
/// use certsource_client::Unsaved;
///
/// # async fn run(client: certsource_client::Client, file: Vec<u8>) -> Result<(), certsource_client::reqwest::Error> {
/// let upload = || client.post("https://localhost:8443/").body(file.clone());
/// let response = match upload().send().await {
///     // Here, an upload may happen twice.
///     Err(error) if Unsaved::of(&error).is_some() => upload().send().await?,
///     other => other?,
/// };
/// # drop(response);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsaved {
    /// The body is a stream, and something of it was read: there is only one of it. Nobody says whether the server
    /// looked at the request; one that refused our certificate did not.
    StreamAlreadyRead,
    /// A connection took the request, and its method may not be repeated (RFC 9110, section 9.2.2): the server may have
    /// done what it asks. With [`Builder::confirm_identity`](crate::Builder::confirm_identity) that is rare.
    ///
    /// Once in a great while also without a failed handshake or a look: when its generation was replaced while an HTTP/2
    /// connection was about to take it. Then a server saw its head at the most, and a reset.
    MayHaveBeenSeen,
}

impl Unsaved {
    /// What an error of a request says about this, if anything.
    #[must_use]
    pub fn of(error: &reqwest::Error) -> Option<Self> {
        let mut why = None;
        find(error, &mut |error| {
            why = error.downcast_ref::<NotSentAgain>().map(|error| error.why);
            why.is_some()
        });
        why
    }

    /// The error of the attempt, with this in front.
    pub(crate) fn about(self, cause: reqwest::Error) -> reqwest::Error {
        match cause.url().cloned() {
            Some(url) => failed(NotSentAgain { why: self, cause }, url),
            // Every error of an attempt names its URL; one without is still an error.
            None => cause,
        }
    }
}

impl fmt::Display for Unsaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StreamAlreadyRead => "its body is a stream that was read from already",
            Self::MayHaveBeenSeen => {
                "a connection took it, so the server may have seen it, and its method may not be repeated"
            }
        })
    }
}

/// The error of an attempt, and why there was no other attempt.
#[derive(Debug)]
struct NotSentAgain {
    why: Unsaved,
    cause: reqwest::Error,
}

impl fmt::Display for NotSentAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "newer certificates are there now, but this request can not be sent again: {}", self.why)
    }
}

impl StdError for NotSentAgain {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::*;
    use crate::connector::Superseded;

    #[test]
    fn it_is_found_and_keeps_the_first_error() {
        let url = Url::parse("https://a.example/x").unwrap();
        let first = || failed(Superseded, url.clone());
        assert_eq!(Unsaved::of(&first()), None);
        for why in [Unsaved::StreamAlreadyRead, Unsaved::MayHaveBeenSeen] {
            let error = why.about(first());
            assert_eq!(Unsaved::of(&error), Some(why));
            assert_eq!(error.url(), Some(&url));
            assert!(find(&error, &mut |error| error.is::<Superseded>()));
            assert!(error.source().unwrap().to_string().ends_with(&why.to_string()));
        }
    }
}
