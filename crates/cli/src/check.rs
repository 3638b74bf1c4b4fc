//! `certsource check`: does a certificate expire soon? An exit code for scripts, or a line for monitoring plugins.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use certsource::machine::Threshold;
use certsource::{Error, Reason};
use serde::Serialize;

use crate::args::Format;
use crate::duration;
use crate::error;
use crate::inspect::Problem;
use crate::output::{self, Closed, Output};
use crate::scan::{self, File, Stdin, What, place};

const EXAMPLES: &str = "\
Examples:
  certsource check --expires-in 30d /etc/tls/tls.crt
      exit code 1 if it expires within 30 days
  certsource check --expires-in 75% /etc/tls/*.crt
      exit code 1 if three quarters of its life are used: for short lives
  certsource check --expires-in 7d /etc/tls && systemctl reload web
      a directory and everything below it
  certsource check --nagios --expires-in 14d /etc/tls/tls.crt
      one line with performance data; 0 OK, 1 WARNING, 2 CRITICAL (expired),
      3 UNKNOWN

Every certificate counts, chains and anchors too, and a CRL that is past its
next update.
Exit codes: 0 fine, 1 something expires or has expired, 2 it cannot be told: a
file is missing, broken or empty.";

/// Tell by exit code whether a certificate expires soon.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files, directories, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// What is soon: a time left (30d), or a share of the whole life used (75%)
    #[arg(long, value_name = "TIME|SHARE", value_parser = Soon::parse)]
    expires_in: Soon,

    /// Output and exit codes of a monitoring plugin
    #[arg(long, conflicts_with = "format")]
    nagios: bool,

    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// When a certificate counts as expiring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Soon {
    /// When no more than this is left.
    Left(Duration),
    /// When this share of its life, 0.0 to 1.0, is used.
    Used(f64),
}

impl Soon {
    /// Reads `30d` or `75%`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix('%') else { return duration::parse(text).map(Self::Left) };
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Used(percent / 100.0)),
            _ => Err(String::from("a share is between 0% and 100%")),
        }
    }

    /// The same, as the engine knows it.
    pub(crate) fn threshold(self) -> Threshold {
        match self {
            Self::Left(left) => Threshold::Before(left),
            Self::Used(share) => Threshold::Used(share),
        }
    }

    fn is_reached(self, from: SystemTime, until: SystemTime, now: SystemTime) -> bool {
        match self {
            Self::Left(left) => until.duration_since(now).map_or(true, |rest| rest <= left),
            Self::Used(share) => {
                let whole = until.duration_since(from).unwrap_or_default();
                now.duration_since(from).is_ok_and(|used| used >= whole.mul_f64(share))
            }
        }
    }
}

/// How one certificate or CRL fares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Fine,
    Expiring,
    Expired,
}

struct Checked {
    state: State,
    until: SystemTime,
    record: Record,
}

#[derive(Serialize)]
struct Record {
    state: &'static str,
    path: String,
    line: Option<usize>,
    role: &'static str,
    subject: String,
    not_after: String,
    expires_in_seconds: i64,
    fingerprint: Option<String>,
}

impl Checked {
    /// `tls.crt:1: leaf CN=localhost expires in 12 d, at 2026-05-01T12:00:00Z`
    fn line(&self, now: SystemTime) -> String {
        let Record { path, line, role, subject, not_after, .. } = &self.record;
        let place = place(path.as_ref(), *line);
        let when = match (self.until.duration_since(now), *role) {
            (Ok(left), "crl") => format!("is due for its next update in {}", duration::rough(left)),
            (Err(over), "crl") => format!("is stale since {}", duration::rough(over.duration())),
            (Ok(left), _) => format!("expires in {}", duration::rough(left)),
            (Err(over), _) => format!("has expired {} ago", duration::rough(over.duration())),
        };
        format!("{place}: {role} {subject} {when}, at {not_after}")
    }
}

#[derive(Serialize)]
struct Summary {
    state: &'static str,
    certificates: usize,
    expiring: usize,
    expired: usize,
    problems: usize,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let (mut checked, mut problems) = (Vec::new(), Vec::new());
    scan::each(&args.paths, &Stdin::default(), true, |file| {
        look(&file, args.expires_in, now, &mut checked);
        if file.problems.is_empty() && !file.items.iter().any(counts) {
            let nothing = Error::new(Reason::Empty, "there is no certificate in it");
            problems.push(nothing.at(&file.path));
        }
        problems.extend(file.problems);
        Ok(())
    })?;
    if checked.is_empty() && problems.is_empty() {
        let nothing = Error::new(Reason::Empty, "there is no file with a certificate in it");
        problems.push(nothing.at(&args.paths[0]));
    }
    // The first to end comes first.
    checked.sort_by_key(|checked| checked.until);
    let (code, told) = if args.nagios {
        nagios(&checked, &problems, now)
    } else {
        (code(&checked, &problems), tell(args.format, &checked, &problems, now))
    };
    match told {
        // The exit code is the answer, also when nobody reads the words.
        Err(error) if !error.is::<Closed>() => Err(error),
        _ => Ok(ExitCode::from(code)),
    }
}

fn worst(checked: &[Checked]) -> State {
    checked.iter().map(|checked| checked.state).max().unwrap_or(State::Fine)
}

fn code(checked: &[Checked], problems: &[Error]) -> u8 {
    match (problems, worst(checked)) {
        ([_, ..], _) => 2,
        ([], State::Fine) => 0,
        ([], _) => 1,
    }
}

fn counts(item: &scan::Item) -> bool {
    matches!(item.what, What::Certificate(_) | What::Crl(_))
}

fn look(file: &File, soon: Soon, now: SystemTime, checked: &mut Vec<Checked>) {
    for item in &file.items {
        let (role, subject, until, is_soon, not_after, fingerprint) = match &item.what {
            What::Certificate(found) => {
                let inspection = &found.inspection;
                let subject = match (inspection.subject(), inspection.sans().first()) {
                    ("", Some(name)) => name.to_string(),
                    ("", None) => String::from("(no subject)"),
                    (subject, _) => subject.to_owned(),
                };
                let (from, until) = (inspection.not_before(), inspection.not_after());
                let fingerprint = Some(inspection.fingerprint().to_string());
                let is_soon = soon.is_reached(from, until, now);
                (found.role(), subject, until, is_soon, inspection.not_after_text(), fingerprint)
            }
            What::Crl(found) => {
                let crl = &found.inspection;
                match (crl.next_update(), crl.next_update_text()) {
                    // CRLs are renewed every few days by design: one that is not stale is fine.
                    (Some(next), Some(text)) => ("crl", crl.issuer().to_owned(), next, false, text, None),
                    _ => continue,
                }
            }
            What::Key(_) | What::Other => continue,
        };
        let state = match (now > until, is_soon) {
            (true, _) => State::Expired,
            (false, true) => State::Expiring,
            (false, false) => State::Fine,
        };
        let record = Record {
            state: word(state),
            path: file.path.to_string_lossy().into_owned(),
            line: item.line,
            role,
            subject,
            not_after,
            expires_in_seconds: crate::inspect::seconds(now, until),
            fingerprint,
        };
        checked.push(Checked { state, until, record });
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Fine => "fine",
        State::Expiring => "expiring",
        State::Expired => "expired",
    }
}

fn count(checked: &[Checked], state: State) -> usize {
    checked.iter().filter(|checked| checked.state == state).count()
}

fn tell(format: Format, checked: &[Checked], problems: &[Error], now: SystemTime) -> anyhow::Result<()> {
    for problem in problems {
        output::stderr(&format!("error: {}", error::chain(problem)));
    }
    let output = Output::buffered(format);
    let worst = worst(checked);
    for checked in checked {
        if output.is_json() {
            output.json(now, "certificate", &checked.record)?;
        } else if checked.state != State::Fine {
            output.text(&checked.line(now))?;
        }
    }
    let (expiring, expired) = (count(checked, State::Expiring), count(checked, State::Expired));
    if output.is_json() {
        for problem in problems {
            output.json(now, "problem", &Problem::of(problem))?;
        }
        let state = if problems.is_empty() { word(worst) } else { "unknown" };
        let summary =
            Summary { state, certificates: checked.len(), expiring, expired, problems: problems.len() };
        output.json(now, "summary", &summary)?;
    } else if let (State::Fine, [], Some(first)) = (worst, problems, checked.first()) {
        output.text(&format!("fine: {}; first to end: {}", number(checked.len()), first.line(now)))?;
    }
    output.finish()
}

fn number(certificates: usize) -> String {
    match certificates {
        1 => String::from("1 certificate"),
        more => format!("{more} certificates"),
    }
}

/// One line, with the codes and the performance data of the Monitoring Plugins guidelines. Something expired is
/// told before something that cannot be read: it is certain, and it is worse.
fn nagios(checked: &[Checked], problems: &[Error], now: SystemTime) -> (u8, anyhow::Result<()>) {
    let (code, word) = match (worst(checked), problems) {
        (State::Expired, _) => (2, "CRITICAL"),
        (_, [_, ..]) => (3, "UNKNOWN"),
        (State::Expiring, []) => (1, "WARNING"),
        (State::Fine, []) => (0, "OK"),
    };
    let detail = match (code, problems, checked) {
        (3, [problem, ..], _) => error::chain(problem),
        (_, _, [first, ..]) => first.line(now),
        _ => String::from("nothing to check"),
    };
    // A bar would begin the performance data.
    let mut line = format!("CERTIFICATES {word} - {}", detail.replace('|', "/"));
    let (expiring, expired) = (count(checked, State::Expiring), count(checked, State::Expired));
    let _ = write!(line, " | certificates={} expiring={expiring} expired={expired}", checked.len());
    if let Some(first) = checked.first() {
        let _ = write!(line, " first_expiry={}s", first.record.expires_in_seconds);
    }
    (code, Output::new(Format::Text).text(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn soon_is_a_time_or_a_share() {
        assert_eq!(Soon::parse("30d"), Ok(Soon::Left(30 * 24 * HOUR)));
        assert_eq!(Soon::parse("75%"), Ok(Soon::Used(0.75)));
        assert!(Soon::parse("101%").is_err() && Soon::parse("-1%").is_err() && Soon::parse("30").is_err());
    }

    #[test]
    fn the_borders_count_as_reached() {
        let (from, now) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + 75 * HOUR);
        let until = from + 100 * HOUR;
        assert!(Soon::Left(25 * HOUR).is_reached(from, until, now));
        assert!(!Soon::Left(24 * HOUR).is_reached(from, until, now));
        assert!(Soon::Used(0.75).is_reached(from, until, now));
        assert!(!Soon::Used(0.76).is_reached(from, until, now));
        assert!(Soon::Left(Duration::ZERO).is_reached(from, until, until + HOUR));
    }
}
