//! nginx's access log: what the server itself says about each request and about the connection that it came on.

use std::fs;
use std::path::Path;

/// The log format that [`Line`] reads. In front of it stands `log_format NAME`.
pub(crate) const FORMAT: &str = "'$uri|$ssl_client_serial|$ssl_session_reused|$ssl_protocol|$status|$connection|\
                                 $connection_requests|$server_protocol|$ssl_client_verify'";

/// One request, as nginx saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `$uri`
    pub uri: String,
    /// `$ssl_client_serial`: of the certificate that the client showed, or showed when the session was made.
    pub serial: String,
    /// `$ssl_session_reused` is `r`.
    pub resumed: bool,
    /// `$ssl_protocol`: `TLSv1.3`.
    pub protocol: String,
    /// `$status`
    pub status: u16,
    /// `$connection`: a number that is never used twice.
    pub connection: u64,
    /// `$connection_requests`: which request of its connection this is, from 1.
    pub request_of_connection: u64,
    /// `$server_protocol`: `HTTP/2.0`.
    pub http: String,
    /// `$ssl_client_verify`: `SUCCESS`, `NONE`, or `FAILED:` and why.
    pub verify: String,
}

/// All whole lines of the log. nginx writes a line when a request has ended, which may be after its response was read.
///
/// # Panics
/// When a line is not in [`FORMAT`].
pub(crate) fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not our log format: {line:?}"))).collect()
}

fn parse(line: &str) -> Option<Line> {
    let mut fields = line.split('|');
    let line = Line {
        uri: fields.next()?.to_owned(),
        serial: fields.next()?.to_owned(),
        resumed: match fields.next()? {
            "r" => true,
            "." => false,
            _ => return None,
        },
        protocol: fields.next()?.to_owned(),
        status: fields.next()?.parse().ok()?,
        connection: fields.next()?.parse().ok()?,
        request_of_connection: fields.next()?.parse().ok()?,
        http: fields.next()?.to_owned(),
        verify: fields.next()?.to_owned(),
    };
    fields.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_field_by_field_and_a_strange_one_is_not() {
        let line = parse("/r/0/7|1001|r|TLSv1.3|200|12|3|HTTP/2.0|SUCCESS").unwrap();
        assert_eq!((line.uri.as_str(), line.serial.as_str(), line.resumed), ("/r/0/7", "1001", true));
        assert_eq!((line.status, line.connection, line.request_of_connection), (200, 12, 3));
        assert_eq!(parse("/r/0/7|1001|x|TLSv1.3|200|12|3|HTTP/2.0|SUCCESS"), None);
        assert_eq!(parse("/r/0/7|1001|r|TLSv1.3|200|12|3|HTTP/2.0|SUCCESS|more"), None);
        assert_eq!(parse("/r/0/7|1001"), None);
    }
}
