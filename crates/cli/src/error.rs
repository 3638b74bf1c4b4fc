//! Errors as one line: what is wrong and what to do, never a page, never a control character.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write;
use std::io;

use certsource::text::Escaped;

/// The whole chain of an error on one line, with the reason in brackets where there is one.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    chain(error.as_ref())
}

/// The whole chain of an error on one line. What an error repeats of its causes is not said twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        let words = without_limits(&words);
        if !text.contains(&*words) {
            let colon = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{colon}{words}");
        }
        if let Some(ours) = error.downcast_ref::<certsource::Error>() {
            // Its text holds its cause where that says more.
            let _ = write!(text, " [{}]", ours.reason());
            break;
        }
        next = below(error);
    }
    safe(&text)
}

/// The text of an error of the library as this program says it: where that names a limit that a program may raise, this
/// one has no flag for it, and says what helps here.
pub(crate) fn without_limits(text: &str) -> Cow<'_, str> {
    let Some((before, advice)) = text.split_once("; if this is meant, ") else { return Cow::Borrowed(text) };
    match advice.rsplit_once('`') {
        Some((limit, rest)) if limit.contains("`Limits::") => Cow::Owned(format!(
            "{before}; this program takes no more: name fewer or smaller files, or split this one{rest}"
        )),
        _ => Cow::Borrowed(text),
    }
}

/// What caused it. `io::Error` hides what it wraps from `source`, and shows that one's cause instead.
pub(crate) fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// clap's page about a wrong command line, as one line.
pub(crate) fn usage_line(page: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in page.lines().map(str::trim) {
        if line.is_empty() {
            continue;
        }
        if let Some(usage) = line.strip_prefix("Usage: ") {
            parts.push(format!("usage: {usage}"));
        } else if line.starts_with("For more information") {
            parts.push(String::from("try --help"));
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            parts.push(tip.to_owned());
        } else if let Some(last) =
            parts.last_mut().filter(|last| last.ends_with(':') || line.starts_with('['))
        {
            let _ = write!(last, " {line}");
        } else {
            parts.push(line.to_owned());
        }
    }
    safe(&parts.join("; "))
}

/// One line that is safe on a terminal. Quotes, brackets and the like stay: this is no web page.
pub(crate) fn safe(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut buffer = [0; 4];
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            '"' | '\'' | '<' | '>' | '&' | '`' | '\\' => line.push(c),
            _ => {
                let _ = write!(line, "{}", Escaped::new(c.encode_utf8(&mut buffer)));
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let inner = certsource::Error::io("read", "/no\u{1b}where", io::ErrorKind::NotFound.into());
        let error = anyhow::Error::new(inner).context("loading");
        let line = one_line(&error);
        assert!(line.starts_with("loading: /no\\u{1b}where: cannot read"), "{line}");
        assert!(line.ends_with("[not_found]"), "{line}");
        let wrapped = io::Error::other(io::Error::other("deep\nbelow"));
        assert_eq!(chain(&wrapped), "deep below");
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        use clap::Parser;
        for words in [
            &["certsource", "watch", "--inverval", "5s"][..],
            &["certsource", "watch", "--interval", "5"],
            &["certsource", "inspect"],
            &["certsource", "wach"],
            &["certsource", "watch", "--cert", "a"],
            &["certsource", "watch", "--detect", "\u{1b}[31m"],
        ] {
            let error = crate::args::Cli::try_parse_from(words).expect_err("it is wrong");
            let line = usage_line(&error.to_string());
            assert!(line.starts_with("error: ") && line.ends_with("try --help"), "{line}");
            assert!(!line.contains(['\n', '\u{1b}']), "{line}");
        }
    }
}
