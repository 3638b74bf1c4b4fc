//! Times of certificates: read leniently, because a time that is only oddly written must not stop a rotation; shown
//! as RFC 3339.

use std::time::{Duration, SystemTime};

use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, Time};

use super::der::{GENERALIZED_TIME, Reader, UTC_TIME};

/// Seconds since 1970 of the years 0 and 9999: outside of them neither X.509 nor RFC 3339 has a text.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

/// The next value as a time. `None`: it is not one.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<SystemTime> {
    let value = reader.value()?;
    from_text(value.tag, value.content)
}

/// The next value as a time, if there is one and it is of a time's tag. The outer `None`: it is broken.
pub(super) fn read_optional(reader: &mut Reader<'_>) -> Option<Option<SystemTime>> {
    let mut ahead = reader.clone();
    match ahead.value() {
        Some(value) if matches!(value.tag, UTC_TIME | GENERALIZED_TIME) => {
            *reader = ahead;
            from_text(value.tag, value.content).map(Some)
        }
        _ => Some(None),
    }
}

/// Reads `YYMMDDHHMM[SS]` (UTCTime) or `YYYYMMDDHHMM[SS[.F]]` (GeneralizedTime) with `Z`, an offset or nothing behind
/// it. RFC 5280, section 4.1.2.5, allows seconds and `Z` only.
fn from_text(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let mut digits = Digits(text);
    let year = if tag == UTC_TIME {
        let year = digits.number(2)?;
        // RFC 5280, section 4.1.2.5.1.
        if year >= 50 { 1900 + year } else { 2000 + year }
    } else if tag == GENERALIZED_TIME {
        digits.number(4)?
    } else {
        return None;
    };
    let month = Month::try_from(u8::try_from(digits.number(2)?).ok()?).ok()?;
    let day = u8::try_from(digits.number(2)?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, day).ok()?;
    let hour = u8::try_from(digits.number(2)?).ok()?;
    let minute = u8::try_from(digits.number(2)?).ok()?;
    // A leap second has no SystemTime: the second before it.
    let second = u8::try_from(digits.number(2).unwrap_or(0)).ok()?;
    let second = if second == 60 { 59 } else { second };
    digits.fraction();
    let offset = digits.offset()?;
    let utc = OffsetDateTime::new_utc(date, Time::from_hms(hour, minute, second).ok()?);
    Some(from_unix(utc.unix_timestamp() - offset))
}

struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn number(&mut self, count: usize) -> Option<u16> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = digits.iter().try_fold(0_u16, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
        })?;
        self.0 = rest;
        Some(number)
    }

    /// Passes over a fraction of a second.
    fn fraction(&mut self) {
        if let [b'.' | b',', rest @ ..] = self.0 {
            let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            self.0 = &rest[count..];
        }
    }

    /// The seconds that the text is ahead of UTC; it must end with them.
    fn offset(&mut self) -> Option<i64> {
        let sign = match *self.0 {
            [] | [b'Z'] => return Some(0),
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return None,
        };
        self.0 = &self.0[1..];
        let seconds = i64::from(self.number(2)?) * 3600 + i64::from(self.number(2)?) * 60;
        self.0.is_empty().then_some(sign * seconds)
    }
}

/// Some systems cannot hold all of these years. What a system cannot hold is long past or far ahead either way.
pub(super) fn from_unix(seconds: i64) -> SystemTime {
    let seconds = seconds.clamp(FIRST, LAST);
    let span = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// RFC 3339 in UTC, to the second.
pub(super) fn to_text(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(LAST),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(FIRST, |seconds| -seconds),
    };
    OffsetDateTime::from_unix_timestamp(seconds.clamp(FIRST, LAST))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .expect("every second of the years 0 to 9999 has an RFC 3339 text")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{FIRST, GENERALIZED_TIME, LAST, UTC_TIME, from_text, from_unix, to_text};

    #[test]
    fn times_are_read_and_shown() {
        for (tag, text, shown) in [
            (UTC_TIME, "250131120000Z", "2025-01-31T12:00:00Z"),
            (UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z"),
            (UTC_TIME, "500101000000Z", "1950-01-01T00:00:00Z"),
            (UTC_TIME, "700101000000Z", "1970-01-01T00:00:00Z"),
            (UTC_TIME, "240229000000Z", "2024-02-29T00:00:00Z"),
            (GENERALIZED_TIME, "20500101000000Z", "2050-01-01T00:00:00Z"),
            (GENERALIZED_TIME, "99991231235959Z", "9999-12-31T23:59:59Z"),
            (GENERALIZED_TIME, "00000101000000Z", "0000-01-01T00:00:00Z"),
            // Odd ones that RFC 5280 does not allow.
            (UTC_TIME, "2501311200Z", "2025-01-31T12:00:00Z"),
            (UTC_TIME, "250131120000", "2025-01-31T12:00:00Z"),
            (UTC_TIME, "250131120000+0130", "2025-01-31T10:30:00Z"),
            (UTC_TIME, "250131233000-0100", "2025-02-01T00:30:00Z"),
            (UTC_TIME, "2501311200+0000", "2025-01-31T12:00:00Z"),
            (UTC_TIME, "161231235960Z", "2016-12-31T23:59:59Z"),
            (GENERALIZED_TIME, "20250131120000.75Z", "2025-01-31T12:00:00Z"),
            (GENERALIZED_TIME, "99991231235959-2300", "9999-12-31T23:59:59Z"),
            (GENERALIZED_TIME, "00000101000000+2300", "0000-01-01T00:00:00Z"),
        ] {
            let time = from_text(tag, text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(to_text(time), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (tag, text) in [
            (UTC_TIME, ""),
            (UTC_TIME, "Z"),
            (UTC_TIME, "2501311Z"),
            (UTC_TIME, "251331120000Z"),
            (UTC_TIME, "250230120000Z"),
            (UTC_TIME, "250131240000Z"),
            (UTC_TIME, "250131126000Z"),
            (UTC_TIME, "250131120061Z"),
            (UTC_TIME, "250131120000ZZ"),
            (UTC_TIME, "250131120000z"),
            (UTC_TIME, "250131120000+01"),
            (UTC_TIME, "25013112000 Z"),
            (UTC_TIME, "+50131120000Z"),
            (UTC_TIME, "20250131120000Z"),
            (GENERALIZED_TIME, "250131120000Z"),
            (GENERALIZED_TIME, "2025013112\u{e9}00Z"),
            (0x16, "250131120000Z"),
        ] {
            assert_eq!(from_text(tag, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_time_has_a_text() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(from_unix(1), epoch + Duration::from_secs(1));
        for seconds in [i64::MIN, FIRST - 1, FIRST, -1, 0, 1, LAST, LAST + 1, i64::MAX] {
            assert_eq!(to_text(from_unix(seconds)).len(), "2025-01-31T12:00:00Z".len(), "{seconds}");
        }
        let far = epoch + Duration::from_secs(1 << 40);
        assert_eq!(to_text(far), "9999-12-31T23:59:59Z");
    }
}
