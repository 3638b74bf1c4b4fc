//! Results on standard output: lines of text, or JSON objects with `ts` and `event`. A reader that goes away ends the
//! program quietly.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;

use crate::args::Format;

/// Nobody reads standard output any more.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for Closed {}

/// Standard output in the format that was asked for.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    flush: bool,
    stdout: Mutex<BufWriter<Stdout>>,
}

impl Output {
    /// Each line goes out at once.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, flush: true, stdout: Mutex::new(BufWriter::with_capacity(64 * 1024, io::stdout())) }
    }

    /// Lines go out in large pieces; [`Output::finish`] sends the rest.
    pub(crate) fn buffered(format: Format) -> Self {
        Self { flush: false, ..Self::new(format) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes one line of text.
    pub(crate) fn text(&self, line: &str) -> anyhow::Result<()> {
        self.write(line.as_bytes())
    }

    /// Writes one JSON object: `ts`, `event`, and the fields of `record`.
    pub(crate) fn json(&self, at: SystemTime, event: &str, record: &impl Serialize) -> anyhow::Result<()> {
        let line = Line { ts: rfc3339(at), event, record };
        let mut bytes = Vec::with_capacity(256);
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii))?;
        self.write(&bytes)
    }

    /// Writes bytes as they are, without a line end.
    pub(crate) fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout.write_all(bytes).map_err(broken)
    }

    /// Sends what is still buffered.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).flush().map_err(broken)
    }

    fn write(&self, line: &[u8]) -> anyhow::Result<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = || {
            stdout.write_all(line)?;
            stdout.write_all(b"\n")?;
            if self.flush { stdout.flush() } else { Ok(()) }
        };
        write().map_err(broken)
    }
}

fn broken(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        anyhow::Error::new(Closed)
    } else {
        anyhow::Error::new(error).context("cannot write to standard output")
    }
}

#[derive(Serialize)]
struct Line<'a, T> {
    ts: String,
    event: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// JSON in ASCII: what could act on a terminal is escaped, and a parser still gets the exact text.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !c.is_ascii() || *c == '\u{7f}') {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

/// Resolves when standard output is a pipe that nobody reads any more: who tells nothing for hours would not notice.
pub(crate) async fn unread() {
    #[cfg(unix)]
    if let Some(pipe) = pipe() {
        // Nothing is written by it, so it need not be made non-blocking.
        if pipe.ready(tokio::io::Interest::ERROR).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

/// Standard output, if it is a pipe.
#[cfg(unix)]
fn pipe() -> Option<tokio::net::unix::pipe::Sender> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;

    let file = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned().ok()?);
    if !file.metadata().ok()?.file_type().is_fifo() {
        return None;
    }
    // Not `from_file`: that would make it non-blocking for all who write to it.
    tokio::net::unix::pipe::Sender::from_file_unchecked(file).ok()
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// One line on standard error. That it cannot be written can be told nobody.
pub(crate) fn stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether colour is welcome on standard output: a terminal, and no `NO_COLOR` (<https://no-color.org>).
pub(crate) fn is_colourful() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_ascii_and_exact() {
        let text = "a\u{202e}\u{1b}\u{7f}\u{1f600}\"<'ü";
        let mut bytes = Vec::new();
        text.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii)).unwrap();
        assert!(bytes.is_ascii() && bytes.iter().all(|byte| (0x20..0x7f).contains(byte)));
        assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
    }

    #[test]
    fn times_have_milliseconds() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_042);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.042Z");
    }
}
