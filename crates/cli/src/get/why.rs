//! Why there is no answer, in one line that says what to do. The libraries below tell it in four steps, and name their
//! own parts.

use std::error::Error as StdError;
use std::fmt::{Display, Write};
use std::io;
use std::time::Duration;

use certsource_client::{Stale, Unsaved};
use reqwest::Url;
use rustls::{AlertDescription, CertificateError};

use crate::error::{below, chain, safe};
use crate::peer::alert_name;

/// Why a request has no answer. `timeout` is the time that it had.
pub(super) fn of(error: &(dyn StdError + 'static), url: &Url, timeout: Duration) -> String {
    let request = error.downcast_ref::<reqwest::Error>();
    // After a redirect it is another server that is spoken of.
    let at = place(request.and_then(reqwest::Error::url).unwrap_or(url));
    // What our client says is said well, and what to do depends on it.
    if find::<Stale>(error).is_some() || request.is_some_and(|request| Unsaved::of(request).is_some()) {
        return words(error);
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return safe(&of_tls(tls, &at));
    }
    if steps(error).any(is_about_name) {
        let advice = "check the name, or give an address";
        return safe(&format!("cannot find the host of {at}; {advice}: {}", last(error)));
    }
    // A kernel that gave up has its own number; what took longer than `timeout` has none.
    // The innermost: hyper-rustls puts what TLS says of the connection into an `io::Error` of no kind.
    let ended = steps(error).filter_map(|step| step.downcast_ref::<io::Error>()).last();
    let system = ended.filter(|error| error.get_ref().is_none());
    match system.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => {
            format!(
                "cannot connect to {at}: connection refused; is it running, and is this its address and port?"
            )
        }
        Some(kind @ (io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)) => {
            format!("cannot connect to {at}: {kind}; is there a way to it from here?")
        }
        // reqwest calls both a timeout, and it was not ours that ended this one.
        Some(io::ErrorKind::TimedOut) if system.is_some_and(|error| error.raw_os_error().is_some()) => {
            format!(
                "no answer from {at}: the system gave up before the {timeout:?} of --timeout were over; it is down, or a \
                 firewall drops what is sent to it"
            )
        }
        _ if request.is_some_and(reqwest::Error::is_timeout) => late(&at, timeout),
        Some(
            kind @ (io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe),
        ) => closed(&at, &kind),
        _ => match ended {
            Some(ended) if ended.kind() == io::ErrorKind::UnexpectedEof => closed(&at, &last(error)),
            _ => safe(&format!("no answer from {at}: {}", words(error))),
        },
    }
}

/// It took too long.
pub(super) fn late(at: &str, timeout: Duration) -> String {
    format!(
        "no answer from {at} within {timeout:?} (--timeout): it is busy or hangs, or a firewall drops what is sent to it"
    )
}

/// The host and the port of a URL, safe to show.
pub(super) fn place(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", safe(url.host_str().unwrap_or_default()))
}

/// The whole chain on one line, without the steps that name parts of the program only.
pub(super) fn words(error: &(dyn StdError + 'static)) -> String {
    let says_something =
        |step: &&(dyn StdError + 'static)| !step.is::<reqwest::Error>() && !is_of_client(*step);
    let mut text = String::new();
    for step in steps(error).filter(says_something) {
        let said = step.to_string();
        if !text.contains(&said) {
            let colon = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{colon}{said}");
        }
    }
    if text.is_empty() { chain(error) } else { safe(&text) }
}

fn of_tls(error: &rustls::Error, at: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(wrong) => {
            let advice = match wrong {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    return format!(
                        "we refuse {at}: {error}; name the CA of its certificate with --ca: certsource inspect --connect {at} shows who issued it"
                    );
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "issue a new certificate for it; if there is one, it did not reload"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "compare the clocks of this machine and of the issuer"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "use a name in the URL that its certificate holds"
                }
                CertificateError::Revoked => "issue a new certificate for it",
                _ => return format!("we refuse {at}: {error}; certsource doctor --connect {at} says more"),
            };
            format!("we refuse {at}: {error}; {advice}")
        }
        rustls::Error::AlertReceived(alert) => {
            let advice = match alert {
                AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                    String::from("it demands a client certificate: give one with --cert and --key")
                }
                _ => format!("certsource doctor --connect {at}, with the same files, says more"),
            };
            format!("{at} refuses us: it sent the alert {}; {advice}", alert_name(*alert))
        }
        rustls::Error::InvalidMessage(_) => {
            format!("{at} does not speak TLS as we do: {error}; is this its TLS port?")
        }
        _ => format!("no TLS with {at}: {error}; certsource doctor --connect {at} says more"),
    }
}

fn closed(at: &str, how: &dyn Display) -> String {
    safe(&format!(
        "{at} closed the connection ({how}); is this its TLS port, and does it take our certificate? certsource doctor --connect {at} says more"
    ))
}

/// hyper-util says which of its parts failed, and not why.
fn is_of_client(step: &(dyn StdError + 'static)) -> bool {
    step.to_string().starts_with("client error (")
}

/// The resolver's errors have no kind of their own: what the connector says, and what the standard library says.
fn is_about_name(step: &(dyn StdError + 'static)) -> bool {
    let said = step.to_string();
    said == "dns error" || said.starts_with("failed to lookup address information")
}

fn steps<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    steps(error).find_map(|step| step.downcast_ref())
}

/// What lies at the bottom.
fn last(error: &(dyn StdError + 'static)) -> String {
    steps(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: &(dyn StdError + 'static)) -> String {
        of(error, &Url::parse("https://a.example/x").unwrap(), Duration::from_secs(3))
    }

    #[test]
    fn each_cause_says_what_to_do() {
        let tls = |error: rustls::Error| said(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, part) in [
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "with --ca"),
            (rustls::Error::InvalidCertificate(CertificateError::NotValidForName), "name in the URL"),
            (rustls::Error::InvalidCertificate(CertificateError::NotValidYet), "clocks"),
            (rustls::Error::InvalidCertificate(CertificateError::Expired), "issue a new certificate"),
            (
                rustls::Error::InvalidCertificate(CertificateError::BadEncoding),
                "doctor --connect a.example:443",
            ),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRequired), "--cert and --key"),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "the alert unknown_ca"),
            (rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "TLS port"),
            (rustls::Error::HandshakeNotComplete, "no TLS with a.example:443"),
        ] {
            let line = tls(error.clone());
            assert!(line.contains(part) && line.contains("a.example:443"), "{error:?}: {line}");
        }
        for (kind, part) in [
            (io::ErrorKind::ConnectionRefused, "is it running"),
            (io::ErrorKind::HostUnreachable, "is there a way"),
            (io::ErrorKind::ConnectionReset, "closed the connection"),
            (io::ErrorKind::UnexpectedEof, "closed the connection"),
            (io::ErrorKind::Other, "no answer from a.example:443"),
        ] {
            for error in [io::Error::from(kind), io::Error::other(io::Error::from(kind))] {
                let line = said(&error);
                assert!(line.contains(part), "{kind:?}: {line}");
            }
        }
        let name = io::Error::other("failed to lookup address information: Name or service not known");
        assert!(said(&name).starts_with("cannot find the host of a.example:443; check the name"));
    }

    /// A body that fails with this number of the system.
    #[cfg(target_os = "linux")]
    struct Fails(i32);

    #[cfg(target_os = "linux")]
    impl hyper::body::Body for Fails {
        type Data = &'static [u8];
        type Error = io::Error;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, io::Error>>> {
            std::task::Poll::Ready(Some(Err(io::Error::from_raw_os_error(self.0))))
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_system_that_gives_up_is_not_our_timeout() {
        const ETIMEDOUT: i32 = 110;
        // Nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let tls = rustls::ClientConfig::builder_with_provider(certsource_rustls::default_provider().unwrap());
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let sent = client.post(&url).body(reqwest::Body::wrap(Fails(ETIMEDOUT))).send().await;
        let error = sent.unwrap_err();
        assert!(error.is_timeout(), "reqwest makes no difference: {error:?}");
        for line in [said(&error), said(&io::Error::from_raw_os_error(ETIMEDOUT))] {
            assert!(line.contains("the system gave up before the 3s of --timeout"), "{line}");
            assert!(!line.contains("within"), "{line}");
        }
        let ours = client.post(&url).timeout(Duration::from_millis(50)).send().await.unwrap_err();
        assert!(said(&ours).contains("within 3s (--timeout)"), "{}", said(&ours));
    }

    #[test]
    fn parts_of_the_program_are_not_named() {
        let wrapped = io::Error::other(io::Error::other("deep\nbelow"));
        assert_eq!(words(&wrapped), "deep below");
        assert_eq!(words(&io::Error::other("client error (Connect)")), "client error (Connect)");
    }
}
