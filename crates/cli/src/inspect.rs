//! `certsource inspect`: what is in these files, for people and for scripts.
//!
//! What is not here: reading ([`crate::scan`]), asking a server ([`crate::peer`]), the columns of the table
//! (`inspect/table.rs`) and the bars of the time line (`inspect/timeline.rs`).

mod key;
mod pem_text;
mod table;
mod timeline;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use certsource::inspect::{CrlInspection, Inspection};
use certsource::{Error, Fingerprint, Reason};
use clap::ValueEnum;
use pki_types::ServerName;
use serde::Serialize;

use self::key::Verdict;
use self::table::Table;
use self::timeline::TimeLine;
use crate::args::Format;
use crate::duration;
use crate::error;
use crate::output::{self, Output};
use crate::peer::{self, Ask, Target};
use crate::scan::{self, File, Found, Stdin, What};

const EXAMPLES: &str = "\
Examples:
  certsource inspect /etc/tls/tls.crt
      the leaf: who it is for, who issued it, until when
  certsource inspect --all /etc/tls/tls.crt
      the rest of its chain too
  certsource inspect /etc/letsencrypt/live
      everything in a directory and below it
  certsource inspect tls.crt --key tls.key
      does the key belong to the certificate? exit code 1 if it does not
  bao kv get -field=key kv/web | certsource inspect tls.crt --key -
      the key from standard input, so that it need not be in a file; if the
      certificates are there too: certsource inspect - --key -
  certsource inspect --connect localhost:8443
      what a server serves: the chain as it came, whoever it is issued by
  certsource inspect --timeline ca.pem
      every validity window as a bar: now, when to renew, where the old and the
      new CA overlap; drawn unasked on a terminal when there are few
  certsource inspect --all --format pem --connect localhost:8443 > chain.pem
      the same as PEM; private keys are never written
  openssl s_client -connect localhost:443 </dev/null | certsource inspect -
      standard input; what is not PEM in it is passed over
  certsource inspect --format json /etc/tls | jq .not_after
      one JSON object a line: certificate, crl, private_key, key, problem

What is broken is told by file and line on standard error; the rest is shown,
and the exit code is 2.";

/// Show what is in certificate files: who, for what names, by whom, until when.
///
/// PEM or DER. In a file that begins with a leaf, its chain is shown with --all only. Private keys are named, never
/// shown.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Files, directories, or - for standard input
    #[arg(required_unless_present = "connect", value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Show what this server serves. Its chain is shown whether it is trusted or not
    #[arg(long, value_name = "HOST:PORT", value_parser = Target::parse)]
    connect: Option<Target>,

    /// The name to ask the server for (SNI); without it, its host
    #[arg(long, value_name = "NAME", requires = "connect", value_parser = peer::server_name)]
    servername: Option<ServerName<'static>>,

    /// Give up on a server that takes longer, at each step
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::positive)]
    timeout: Duration,

    /// Show the chain behind a leaf too
    #[arg(long)]
    all: bool,

    /// Say whether this private key belongs to one of the certificates; - for standard input, which may hold both
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,

    /// Draw the validity windows as bars, also where it is no terminal
    #[arg(long)]
    timeline: bool,

    /// For people, one JSON object a line, or PEM
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// How `inspect` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
    Pem,
}

/// So many windows are drawn on a terminal unasked.
const FEW: usize = 12;
/// The width of a drawing where there is no terminal.
const WIDTH: usize = 110;

#[derive(Serialize)]
struct Certificate<'a> {
    path: &'a str,
    line: Option<usize>,
    role: &'static str,
    expires_in_seconds: i64,
    #[serde(flatten)]
    inspection: &'a Inspection,
}

#[derive(Serialize)]
struct Crl<'a> {
    path: &'a str,
    line: Option<usize>,
    #[serde(flatten)]
    inspection: &'a CrlInspection,
}

#[derive(Serialize)]
struct PrivateKey<'a> {
    path: &'a str,
    line: Option<usize>,
    format: &'static str,
}

#[derive(Serialize)]
struct Key<'a> {
    path: &'a str,
    matches: bool,
    fingerprint: Option<Fingerprint>,
}

/// Something that could not be read, as the program's JSON tells it.
#[derive(Serialize)]
pub(crate) struct Problem<'a> {
    reason: &'static str,
    path: Option<String>,
    line: Option<usize>,
    message: &'a str,
}

impl<'a> Problem<'a> {
    pub(crate) fn of(error: &'a Error) -> Self {
        Self {
            reason: error.reason().as_str(),
            path: error.path().map(|path| path.to_string_lossy().into_owned()),
            line: error.line(),
            message: error.message(),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let output = Output::buffered(if args.format == Form::Json { Format::Json } else { Format::Text });
    let stdin = Stdin::default();
    let mut key = args.key.as_deref().map(|path| key::Question::ask(path, &stdin)).transpose()?;
    let mut table = Table::new(now);
    let mut line = TimeLine::new(now);
    let line_is_wanted = args.timeline || table.terminal().is_some();
    let (mut problems, mut is_any) = (Vec::new(), false);
    let mut take = |file: File| {
        if let Some(key) = &mut key {
            let shown = Shown::of(&file, args.all);
            let certificates = file.certificates().filter(|(_, found)| shown.shows(found));
            certificates.for_each(|(line, found)| key.compare(&file.path, line, found));
        }
        match args.format {
            Form::Json => json(&output, &file, args.all, now)?,
            Form::Pem => pem_text::write(&output, &file, args.all)?,
            Form::Text => {
                if line_is_wanted {
                    line.add(&file, args.all);
                }
                table.add(&file, args.all);
            }
        }
        is_any |= file.items.iter().any(|item| !matches!(item.what, What::Other));
        problems.extend(file.problems);
        Ok(())
    };
    if let Some(target) = &args.connect {
        take(served(target, args)?)?;
    }
    // The table comes at the end; the other forms come while there is more to read.
    let is_free = args.format == Form::Text || !std::io::stdout().is_terminal();
    scan::each(&args.paths, &stdin, is_free, &mut take)?;
    if !is_any && problems.is_empty() {
        let nothing =
            Error::new(Reason::Empty, "there is nothing to show: no certificate, CRL or key is in it");
        problems.extend(args.paths.first().map(|path| nothing.at(path)));
    }
    if args.format == Form::Text {
        table.write(&output)?;
        if args.timeline || (line_is_wanted && line.len() <= FEW) {
            for line in line.draw(table.terminal().unwrap_or(WIDTH), output::is_colourful()) {
                output.text(&line)?;
            }
        }
    }
    let mut code = ExitCode::SUCCESS;
    if let (Some(question), Some(path)) = (&key, &args.key) {
        let verdict = question.verdict();
        match args.format {
            Form::Json => {
                let (path, matches) = (&*path.to_string_lossy(), verdict.matches());
                let key = Key { path, matches, fingerprint: verdict.fingerprint() };
                output.json(now, "key", &key)?;
            }
            Form::Pem => output.text(&format!("# {verdict}"))?,
            Form::Text => output.text(&verdict.to_string())?,
        }
        if let Verdict::No { .. } = verdict {
            code = ExitCode::from(1);
        }
    }
    output.finish()?;
    for problem in &problems {
        let problem = &named_a_server(problem).unwrap_or_else(|| problem.clone());
        if output.is_json() {
            output.json(now, "problem", &Problem::of(problem))?;
        }
        output::stderr(&format!("error: {}", error::chain(problem)));
        code = ExitCode::from(2);
    }
    output.finish()?;
    Ok(code)
}

/// What is named is no file, but reads as a server.
fn named_a_server(problem: &Error) -> Option<Error> {
    let path = problem.path().filter(|_| problem.reason() == Reason::NotFound)?;
    let target = Target::parse(path.to_str()?).ok()?;
    let message = format!("there is no such file; what a server serves is shown by --connect {target}");
    Some(Error::new(Reason::NotFound, message).at(path))
}

/// What a server serves, as if it were a file.
fn served(target: &Target, args: &Args) -> anyhow::Result<File> {
    let ask = Ask {
        name: args.servername.clone(),
        verifier: None,
        identity: None,
        http: false,
        // What the server makes of us is of no interest here.
        verdict: false,
        timeout: args.timeout,
    };
    let peer = peer::ask(target, &ask)?;
    if peer.chain.is_empty() {
        bail!("{target} served no certificate; is this its TLS port? {}", peer.theirs);
    }
    Ok(scan::served(target.to_string().into(), peer.chain))
}

fn json(output: &Output, file: &File, all: bool, now: SystemTime) -> anyhow::Result<()> {
    let path = &*file.path.to_string_lossy();
    let shown = Shown::of(file, all);
    for item in &file.items {
        let line = item.line;
        match &item.what {
            What::Certificate(found) if shown.shows(found) => {
                let inspection = &found.inspection;
                let expires_in_seconds = seconds(now, inspection.not_after());
                let record = Certificate { path, line, role: found.role(), expires_in_seconds, inspection };
                output.json(now, "certificate", &record)?;
            }
            What::Certificate(_) | What::Other => {}
            What::Crl(found) => {
                output.json(now, "crl", &Crl { path, line, inspection: &found.inspection })?
            }
            What::Key(format) => output.json(now, "private_key", &PrivateKey { path, line, format })?,
        }
    }
    Ok(())
}

/// Seconds from `now` to `at`; negative when it is over.
pub(crate) fn seconds(now: SystemTime, at: SystemTime) -> i64 {
    match at.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(over) => i64::try_from(over.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// Which certificates of a file are shown.
#[derive(Clone, Copy)]
struct Shown {
    leaves_only: bool,
}

impl Shown {
    /// In a file that begins with a leaf the others are its chain. Elsewhere, a bundle of anchors, all are shown.
    fn of(file: &File, all: bool) -> Self {
        let begins_with_leaf = file.certificates().next().is_some_and(|(_, first)| !first.inspection.is_ca());
        Self { leaves_only: begins_with_leaf && !all }
    }

    fn shows(self, found: &Found) -> bool {
        !self.leaves_only || !found.inspection.is_ca()
    }
}
