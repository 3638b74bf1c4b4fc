//! What a failed attempt says about certificates: whether a rotation would make it fail like that.

use rustls::{AlertDescription, CertificateError, Error};

use crate::causes::find;
use crate::confirm::IdentityRefused;

/// Why a rotation may be behind an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A certificate was refused, the server's by us or ours by the server.
    Certificate,
    /// A connection broke before the response, with our certificate in play: on TLS 1.3 the server refuses it after
    /// the handshake, and its alert is often lost.
    Suspect,
}

/// Reads an error. `has_identity`: whether we have a certificate that a server may have refused.
pub(crate) fn read(error: &reqwest::Error, has_identity: bool) -> Option<Refusal> {
    if find(error, &mut |error| error.downcast_ref::<Error>().is_some_and(is_about_certificates)) {
        return Some(Refusal::Certificate);
    }
    // The connection ended without an alert, which says little; but it ended in answer to our certificate.
    if find(error, &mut |error| error.is::<IdentityRefused>()) {
        return Some(Refusal::Suspect);
    }
    // Before a connection was there, the cause is known: it is no refusal of ours.
    let broke = error.is_request() && !error.is_connect() && !error.is_timeout();
    (has_identity && broke).then_some(Refusal::Suspect)
}

fn is_about_certificates(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(error) => matches!(
            error,
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::Revoked
                | CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. }
        ),
        Error::AlertReceived(alert) => matches!(
            alert,
            // A server on TLS 1.2 that misses our certificate says no more than this (RFC 5246, section 7.4.6).
            AlertDescription::HandshakeFailure
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::CertificateRequired
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_no_rotation() {
        for error in [
            CertificateError::NotValidForName,
            CertificateError::InvalidPurpose,
            CertificateError::NotValidYet,
            CertificateError::BadEncoding,
        ] {
            assert!(!is_about_certificates(&Error::InvalidCertificate(error)));
        }
        assert!(is_about_certificates(&Error::InvalidCertificate(CertificateError::UnknownIssuer)));
    }

    #[test]
    fn an_alert_about_something_else_is_no_rotation() {
        for alert in [
            AlertDescription::CloseNotify,
            AlertDescription::ProtocolVersion,
            AlertDescription::UnrecognisedName,
            AlertDescription::NoApplicationProtocol,
            AlertDescription::InternalError,
        ] {
            assert!(!is_about_certificates(&Error::AlertReceived(alert)), "{alert:?}");
        }
        assert!(is_about_certificates(&Error::AlertReceived(AlertDescription::UnknownCA)));
    }
}
