//! `certsource doctor`: one look at files, mounts, clocks and a server; what is wrong is told with the likeliest cause
//! first.
//!
//! What is not here: the examinations. Each has a module: the files and what they sit behind (`doctor/disk.rs`,
//! `doctor/mounts.rs`, `doctor/writer.rs`), what a reload would make of them (`doctor/content.rs`), the server
//! (`doctor/server.rs`) and a withdrawn CA (`doctor/withdrawn.rs`).

mod content;
mod disk;
mod mounts;
mod server;
mod withdrawn;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use pki_types::ServerName;
use serde::Serialize;

use crate::args::{Format, Material};
use crate::duration;
use crate::error::safe;
use crate::output::Output;
use crate::peer::{self, Target};

const EXAMPLES: &str = "\
Examples:
  certsource doctor --kubernetes /etc/tls
      why does it not reload? files, links, mounts, permissions, pair, clock
  certsource doctor --cert tls.crt --key tls.key --connect localhost:8443
      does the server serve what is on disk, and since when?
  certsource doctor --ca ca.pem --cert c.crt --key c.key --connect localhost:443
      who refuses whom, with which alert, and which CAs does it ask for?
  certsource doctor --ca ca.pem --connect localhost:443 --old-ca old-ca.pem
      is a withdrawn CA still presented or asked for?
  certsource doctor --connect localhost:443 --old-cert old.crt --old-key old.key
      does the server still let in who was issued by a withdrawn CA?
  certsource doctor --kubernetes /etc/tls --format json | jq .code
      one JSON object a line: finding, summary

Run it as the user of the service, and where the service runs: permissions and
mounts are those that this process sees.
With --connect the identity is shown to the server, if it asks for one.
Exit codes: 0 nothing is wrong, 1 something is, 2 it could not look.";

/// Find out why a rotation does not arrive: the likeliest cause first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    material: Material,

    /// Ask this server too: what it serves, whom it refuses, which CAs it asks for
    #[arg(long, value_name = "HOST:PORT", value_parser = Target::parse)]
    connect: Option<Target>,

    /// The name to ask the server for (SNI); without it, its host
    #[arg(long, value_name = "NAME", requires = "connect", value_parser = peer::server_name)]
    servername: Option<ServerName<'static>>,

    /// A withdrawn CA: is it still trusted on disk, presented or asked for by the server?
    #[arg(long, value_name = "PATH")]
    old_ca: Option<PathBuf>,

    /// A certificate of the withdrawn CA, and its key: does the server still let it in?
    #[arg(long, value_name = "PATH", requires_all = ["old_key", "connect"])]
    old_cert: Option<PathBuf>,

    /// The private key of --old-cert
    #[arg(long, value_name = "PATH", requires = "old_cert")]
    old_key: Option<PathBuf>,

    /// Give up on a server that takes longer, at each step
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::positive)]
    timeout: Duration,

    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Problem,
    Warning,
    Note,
}

/// One thing that was found out.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    level: Level,
    /// A stable name, for scripts.
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// Causes come before what follows from them: lower is told first.
    #[serde(skip)]
    rank: u8,
}

/// Everything that was found out.
struct Findings {
    now: SystemTime,
    list: Vec<Finding>,
}

impl Findings {
    fn problem(
        &mut self,
        rank: u8,
        code: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Problem, rank, code, message.into(), Some(advice.into()));
    }

    fn warning(
        &mut self,
        rank: u8,
        code: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Warning, rank, code, message.into(), Some(advice.into()));
    }

    fn note(&mut self, rank: u8, code: &'static str, message: impl Into<String>) {
        self.add(Level::Note, rank, code, message.into(), None);
    }

    /// The same thing about several files is told once.
    fn add(&mut self, level: Level, rank: u8, code: &'static str, message: String, advice: Option<String>) {
        if self.list.iter().all(|known| (known.code, &known.message) != (code, &message)) {
            self.list.push(Finding { level, code, message, advice, rank });
        }
    }

    fn has(&self, code: &str) -> bool {
        self.list.iter().any(|finding| finding.code == code)
    }

    fn count(&self, level: Level) -> usize {
        self.list.iter().filter(|finding| finding.level == level).count()
    }
}

/// The order in which causes are told. Whoever adds one says here what it may be the cause of.
mod rank {
    /// Nothing can be read: all else follows.
    pub(super) const ACCESS: u8 = 10;
    /// The clock is wrong: validity is judged by it.
    pub(super) const CLOCK: u8 = 20;
    /// The file can not change any more.
    pub(super) const FROZEN: u8 = 25;
    /// What is on disk would be refused.
    pub(super) const CONTENT: u8 = 30;
    /// A server that does not follow its files.
    pub(super) const STALE: u8 = 40;
    /// Somebody refuses somebody.
    pub(super) const REFUSED: u8 = 50;
    pub(super) const WITHDRAWN: u8 = 55;
    /// Slower than it could be, or a danger for later.
    pub(super) const SLOW: u8 = 60;
    /// Facts.
    pub(super) const FACTS: u8 = 80;
}

#[derive(Serialize)]
struct Summary<'a> {
    problems: usize,
    warnings: usize,
    /// The code of the likeliest cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<&'a str>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.material.files().is_none() && args.connect.is_none() {
        bail!(
            "nothing to look at: name files with --ca, --cert and --key, --combined, --crl or --kubernetes, or a \
             server with --connect"
        );
    }
    let old = args.old_ca.as_deref().map(withdrawn::load_trust).transpose()?;
    let old_identity = match (&args.old_cert, &args.old_key) {
        (Some(cert), Some(key)) => Some(withdrawn::load_identity(cert, key)?),
        _ => None,
    };
    let mut found = Findings { now: SystemTime::now(), list: Vec::new() };
    let disk = disk::examine(&args.material, &mut found);
    let material = content::examine(&args.material, &disk, &mut found);
    let mut peer = None;
    if let Some(target) = &args.connect {
        peer = server::examine(target, args, material.as_deref(), &disk, &mut found)?;
    }
    if old.is_some() || old_identity.is_some() {
        let old = withdrawn::Old { trust: old, identity: old_identity };
        withdrawn::examine(&old, args, material.as_deref(), peer.as_ref(), &mut found)?;
    }
    tell(&found, args.format)
}

fn tell(found: &Findings, format: Format) -> anyhow::Result<ExitCode> {
    let output = Output::buffered(format);
    let mut list: Vec<_> = found.list.iter().collect();
    list.sort_by_key(|finding| (finding.level, finding.rank));
    let (problems, warnings) = (found.count(Level::Problem), found.count(Level::Warning));
    for finding in &list {
        if output.is_json() {
            output.json(found.now, "finding", finding)?;
            continue;
        }
        let word = match finding.level {
            Level::Problem => "PROBLEM",
            Level::Warning => "WARNING",
            Level::Note => "note   ",
        };
        output.text(&format!("{word} {}: {}", finding.code, safe(&finding.message)))?;
        if let Some(advice) = &finding.advice {
            output.text(&format!("        do: {}", safe(advice)))?;
        }
    }
    let first = list.first().filter(|finding| finding.level != Level::Note).map(|finding| finding.code);
    if output.is_json() {
        output.json(found.now, "summary", &Summary { problems, warnings, first })?;
    } else {
        let words = match (problems, warnings) {
            (0, 0) => String::from("nothing is wrong"),
            (0, warnings) => format!("nothing is wrong; {}", number(warnings, "warning")),
            (problems, 0) => number(problems, "problem"),
            (problems, warnings) => {
                format!("{}, {}", number(problems, "problem"), number(warnings, "warning"))
            }
        };
        output.text(&words)?;
    }
    output.finish()?;
    Ok(ExitCode::from(u8::from(problems > 0)))
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `3 min ago`, or `in 3 min` for what is ahead.
fn ago(at: SystemTime, now: SystemTime) -> String {
    match (now.duration_since(at), at.duration_since(now)) {
        (Ok(past), _) => format!("{} ago", duration::rough(past)),
        (_, Ok(ahead)) => format!("in {}", duration::rough(ahead)),
        _ => String::from("now"),
    }
}
