//! `certsource inspect`: what is in these files, for people and for scripts.
//!
//! What is not here: reading ([`crate::scan`]) and the columns of the table (`inspect/table.rs`).

mod key;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use certsource::inspect::{CrlInspection, Inspection};
use certsource::{Error, Fingerprint};
use serde::Serialize;

use self::key::Verdict;
use self::table::Table;
use crate::args::Format;
use crate::error;
use crate::output::{self, Output};
use crate::scan::{self, File, Found, What};

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
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Show the chain behind a leaf too
    #[arg(long)]
    all: bool,

    /// Say whether this private key belongs to one of the certificates
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,

    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

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
    let output = Output::buffered(args.format);
    let mut key = args.key.as_deref().map(key::Question::ask).transpose()?;
    let mut table = Table::new(now);
    let mut problems = Vec::new();
    scan::each(&args.paths, |file| {
        if let Some(key) = &mut key {
            let shown = Shown::of(&file, args.all);
            let certificates = file.certificates().filter(|(_, found)| shown.shows(found));
            certificates.for_each(|(line, found)| key.compare(&file.path, line, found));
        }
        if output.is_json() {
            json(&output, &file, args.all, now)?
        } else {
            table.add(&file, args.all)
        }
        problems.extend(file.problems);
        Ok(())
    })?;
    if !output.is_json() {
        table.write(&output)?;
    }
    let mut code = ExitCode::SUCCESS;
    if let (Some(question), Some(path)) = (&key, &args.key) {
        let verdict = question.verdict();
        if output.is_json() {
            let key = Key {
                path: &path.to_string_lossy(),
                matches: verdict.matches(),
                fingerprint: verdict.fingerprint(),
            };
            output.json(now, "key", &key)?;
        } else {
            output.text(&verdict.to_string())?;
        }
        if let Verdict::No { .. } = verdict {
            code = ExitCode::from(1);
        }
    }
    output.finish()?;
    for problem in &problems {
        if output.is_json() {
            output.json(now, "problem", &Problem::of(problem))?;
        }
        output::stderr(&format!("error: {}", error::chain(problem)));
        code = ExitCode::from(2);
    }
    output.finish()?;
    Ok(code)
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
            What::Crl(inspection) => output.json(now, "crl", &Crl { path, line, inspection })?,
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
