//! Durations on the command line (`1500ms`, `5s`, `30d`) and for people (`12 d`).

use std::time::Duration;

const UNITS: &[(&str, f64)] = &[
    ("ms", 0.001),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
    ("w", 604_800.0),
    ("y", 31_557_600.0),
];

/// Longer spans help nobody and overflow clocks.
const LONGEST: f64 = 1000.0 * 31_557_600.0;

/// Reads `1500ms`, `5s`, `1h30m`, `30d`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || String::from("write it with a unit, such as 1500ms, 5s, 10m, 12h or 30d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(wrong)?;
        seconds += number * unit;
        rest = &rest[letters..];
    }
    if seconds > LONGEST {
        return Err(String::from("that is longer than 1000 years"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// As [`parse`], and not zero.
pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err(String::from("it must be longer than 0")),
        time => Ok(time),
    }
}

/// A span in one unit, cut: `12 d`, `3 h`, `45 min`, `20 s`.
pub(crate) fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A share of a second for people: `830 µs`, `12.4 ms`, `1.2 s`.
pub(crate) fn latency(span: Duration) -> String {
    let micros = span.as_micros();
    match micros {
        0..=999 => format!("{micros} µs"),
        1000..=999_999 => format!("{:.1} ms", span.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", span.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("1500ms", 1500),
            ("5s", 5000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
            ("1w", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in
            ["", "5", "s", "5 s", "5x", "-5s", "1..2s", "5s5", "s5", "99999999999y", "NaNs", "5µs", "٣s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(positive("0ms").is_err());
        assert_eq!(positive("1ms"), Ok(Duration::from_millis(1)));
    }

    #[test]
    fn shows_one_unit() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
            (8_640_000, "100 d"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
