//! What a failed handshake says about certificates: whether a rotation would make it fail like that.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What TLS said, if it was TLS that failed. `io::Error` hides what it wraps from `source`, so that is looked into too.
pub(crate) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    // No chain of errors is that long; one that is a ring would be.
    for _ in 0..64 {
        let error = next?;
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether we refused the server's certificate for a reason that newer trust, or newer lists, may mend.
pub(crate) fn is_ours(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::Revoked
                | CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. }
        )
    )
}

/// Whether the server refused our certificate, or missed one.
pub(crate) fn is_theirs(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(
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
        )
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_wrong_name_is_no_rotation() {
        for error in [
            CertificateError::NotValidForName,
            CertificateError::InvalidPurpose,
            CertificateError::NotValidYet,
            CertificateError::BadEncoding,
        ] {
            assert!(!is_ours(&Error::InvalidCertificate(error)));
        }
        assert!(is_ours(&Error::InvalidCertificate(CertificateError::UnknownIssuer)));
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
            assert!(!is_theirs(&Error::AlertReceived(alert)), "{alert:?}");
        }
        assert!(is_theirs(&Error::AlertReceived(AlertDescription::UnknownCA)));
    }

    #[test]
    fn what_io_errors_hide_is_found() {
        let refused = Error::AlertReceived(AlertDescription::UnknownCA);
        let hidden = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused.clone()));
        assert_eq!(tls_error(&hidden), Some(&refused));
        assert_eq!(tls_error(&io::Error::other("x")), None);
    }
}
