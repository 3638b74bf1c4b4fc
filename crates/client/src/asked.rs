//! What the user's own closure asked of reqwest, as far as it can be told: `ClientBuilder` shows its settings in its
//! `Debug` text only, and with a TLS config that comes from us it ignores several of them in silence.
//!
//! Here they are honoured or refused. If reqwest changed its text, nothing would be found, and the test below would
//! fail.

use std::time::Duration;

use certsource::{Error, Reason};

/// Headers that reqwest takes off a request when a redirect leads to another origin.
const SENSITIVE: [&str; 5] =
    ["authorization", "cookie", "cookie2", "proxy-authorization", "www-authenticate"];

/// What was asked.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) http1_only: bool,
    pub(crate) http2_only: bool,
    pub(crate) sni: bool,
    pub(crate) key_log: bool,
    pub(crate) referer: bool,
    pub(crate) timeout: Option<Duration>,
    /// A default header that must not go to another origin.
    pub(crate) sensitive_header: Option<&'static str>,
    /// What cannot be honoured, and what to do.
    refused: Option<&'static str>,
}

impl Asked {
    pub(crate) fn of(builder: &reqwest::ClientBuilder) -> Self {
        Self::read(&format!("{builder:?}"))
    }

    /// # Errors
    /// When something was asked that would be ignored in silence.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.refused {
            Some(what) => Err(Error::new(Reason::Unsupported, format!("in Builder::reqwest: {what}"))),
            None => Ok(()),
        }
    }

    fn read(text: &str) -> Self {
        let fields = fields(text);
        let value = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
        let is_on = |name: &str| value(name) == Some("true");
        let refused = if value("proxies").is_some() {
            Some("proxies are set by Builder::proxy, which knows whether the identity may be shown to them")
        } else if value("redirect_policy").is_some() {
            Some("redirects are set by Builder::redirect, because each hop uses the newest certificates")
        } else if is_on("cookie_store") {
            Some(
                "cookies are kept by Builder::cookie_jar (feature `cookies`), over all generations: a jar that is made \
                 in the closure is empty after each rotation, and a shared one looks the same",
            )
        } else if is_on("tls_danger_accept_invalid_certs") || is_on("tls_danger_accept_invalid_hostnames") {
            Some(
                "certificates are always verified; trust the server's CA by Builder::root_certificate instead",
            )
        } else if value("tls_version_min").is_some() || value("tls_version_max").is_some() {
            Some("versions of TLS are set by Builder::tls_versions")
        } else {
            None
        };
        let headers = value("default_headers").map(self::fields).unwrap_or_default();
        let is_set = |name: &&str| headers.iter().any(|(header, _)| header.trim_matches('"') == *name);
        Self {
            http1_only: is_on("http1_only"),
            http2_only: is_on("http2_prior_knowledge"),
            sni: value("tls_sni") != Some("false"),
            key_log: is_on("tls_sslkeylogfile"),
            // Shown only when it is on, as by default. Without any field the text is not what we know.
            referer: fields.is_empty() || is_on("referer"),
            timeout: value("timeout").and_then(duration),
            sensitive_header: SENSITIVE.into_iter().find(|name| is_set(name)),
            refused,
        }
    }
}

/// How long this client waits for the head of a response, if it has such a limit. A `ClientBuilder` does not show it; a
/// client does.
pub(crate) fn read_timeout(client: &reqwest::Client) -> Option<Duration> {
    let text = format!("{client:?}");
    let (_, value) = fields(&text).into_iter().find(|(name, _)| *name == "read_timeout")?;
    duration(value)
}

/// The fields of the outermost braces of a `Debug` text.
fn fields(text: &str) -> Vec<(&str, &str)> {
    let Some(open) = text.find('{') else { return Vec::new() };
    let mut fields = Vec::new();
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut start = open + 1;
    for (at, byte) in text.bytes().enumerate().skip(open + 1) {
        if escaped {
            escaped = false;
            continue;
        }
        match byte {
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                if let Some((name, value)) = text[start..at].split_once(": ") {
                    fields.push((name.trim(), value.trim()));
                }
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    fields
}

/// Reads the `Debug` text of a `Duration`, which is exact.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let nanos: u128 = match unit {
        "ns" => 1,
        "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u128>().ok()?.checked_mul(nanos)?;
    let mut place = nanos;
    for digit in fraction.chars() {
        place /= 10;
        total += u128::from(digit.to_digit(10)?) * place;
    }
    let secs = u64::try_from(total / 1_000_000_000).ok()?;
    let rest = u32::try_from(total % 1_000_000_000).ok()?;
    Some(Duration::new(secs, rest))
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
    use reqwest::Client;

    use super::*;

    /// reqwest's text is as we know it: every setting is found.
    #[test]
    fn reqwest_shows_what_was_asked() {
        let plain = Asked::of(&Client::builder());
        assert_eq!(
            plain,
            Asked {
                http1_only: false,
                http2_only: false,
                sni: true,
                key_log: false,
                referer: true,
                timeout: None,
                sensitive_header: None,
                refused: None,
            }
        );
        plain.check().unwrap();
        assert!(Asked::of(&Client::builder().http1_only()).http1_only);
        #[cfg(feature = "http2")]
        assert!(Asked::of(&Client::builder().http2_prior_knowledge()).http2_only);
        assert!(!Asked::of(&Client::builder().tls_sni(false)).sni);
        assert!(Asked::of(&Client::builder().tls_sslkeylogfile(true)).key_log);
        assert!(!Asked::of(&Client::builder().referer(false)).referer);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let proxied = Client::builder().proxy(reqwest::Proxy::all("http://proxy.example").unwrap());
        let redirected = Client::builder().redirect(reqwest::redirect::Policy::none());
        let unverified = Client::builder().tls_danger_accept_invalid_certs(true);
        let unnamed = Client::builder().tls_danger_accept_invalid_hostnames(true);
        let old = Client::builder().tls_version_max(reqwest::tls::Version::TLS_1_2);
        for (builder, name) in [
            (proxied, "Builder::proxy"),
            (redirected, "Builder::redirect"),
            (unverified, "Builder::root_certificate"),
            (unnamed, "Builder::root_certificate"),
            (old, "Builder::tls_versions"),
        ] {
            let error = Asked::of(&builder).check().unwrap_err();
            assert_eq!(error.reason(), Reason::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn timeouts_are_read_exactly() {
        for nanos in [0, 1, 999, 1_000, 1_500, 1_000_001, 2_500_000_000, 10_000_000_000, 86_400_123_456_789] {
            let timeout = Duration::from_nanos(nanos);
            assert_eq!(Asked::of(&Client::builder().timeout(timeout)).timeout, Some(timeout));
        }
        assert_eq!(duration("soon"), None);
        assert_eq!(duration("5"), None);
    }

    #[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
    #[test]
    fn a_client_shows_its_read_timeout() {
        let provider = certsource_rustls::default_provider().unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let builder = || Client::builder().tls_backend_preconfigured(config.clone());
        assert_eq!(read_timeout(&builder().timeout(Duration::from_secs(1)).build().unwrap()), None);
        let limit = Duration::from_nanos(1_500_000_001);
        assert_eq!(read_timeout(&builder().read_timeout(limit).build().unwrap()), Some(limit));
    }

    #[test]
    fn sensitive_headers_are_found_and_others_are_not() {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("a \"quoted, { timeout: 3s, proxies: x"));
        let asked = Asked::of(&Client::builder().default_headers(headers.clone()));
        assert_eq!((asked.sensitive_header, asked.timeout), (None, None));
        asked.check().unwrap();
        let mut token = HeaderValue::from_static("Bearer x");
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
        let asked = Asked::of(&Client::builder().default_headers(headers).timeout(Duration::from_secs(1)));
        assert_eq!(asked.sensitive_header, Some("authorization"));
        assert_eq!(asked.timeout, Some(Duration::from_secs(1)));
    }
}
