//! The command line: the commands, and the flags that they share.
//!
//! What is not here: the flags of one command alone. They are beside the command.

use std::path::PathBuf;
use std::time::Duration;

use certsource::detect::{Mtime, Notify, Sha256};
use certsource::files::KeyPermissions;
use certsource::machine::Policy;
use certsource::{Files, Reason};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{check, demo, doctor, duration, exporter, get, inspect, watch};

const EXAMPLES: &str = "\
Examples:
  certsource demo
      rotate everything under load, without one failed request
  certsource inspect /etc/tls
      what is in these files, who issued it, until when it is valid
  certsource check --expires-in 30d /etc/tls/tls.crt
      exit code 1 if it expires within 30 days
  certsource doctor --kubernetes /etc/tls
      why does a rotation not arrive? the likeliest cause first
  certsource exporter /etc/tls
      metrics for Prometheus on http://127.0.0.1:9793/metrics
  certsource watch --kubernetes /etc/tls
      a line for each rotation, and for each one that fails, with the reason
  certsource get https://localhost:8443/ --kubernetes /etc/tls --every 100ms
      requests that follow the rotation of these files

Every command explains itself: certsource watch --help
Exit codes: 0 is fine, 1 is a negative answer, 2 is \"could not do it\", with one
line that says why.
Logs go to standard error: RUST_LOG=debug shows more.";

/// Keeps TLS certificates and TLS connections in step: watch, inspect and check what is on disk, and see what a
/// rotation does.
#[derive(Debug, Parser)]
#[command(name = "certsource", version, after_help = EXAMPLES, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),
    Get(get::Args),
    Watch(watch::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Doctor(doctor::Args),
    Exporter(exporter::Args),
    #[cfg(feature = "manual")]
    Manual(crate::manual::Args),
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // No doc comments: with them the help takes a page for each flag.
    Text,
    Json,
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Detect {
    Auto,
    Mtime,
    Sha256,
    Notify,
}

impl Detect {
    /// These files, looked at this way.
    pub(crate) fn of(self, files: Files) -> Files {
        match self {
            // `Notify` falls back to polling by itself, and tells so.
            Self::Auto | Self::Notify => files.detect(Notify::new()),
            Self::Mtime => files.detect(Mtime::new()),
            Self::Sha256 => files.detect(Sha256::new()),
        }
    }
}

/// The files that a command follows.
#[derive(Debug, clap::Args)]
pub(crate) struct Material {
    /// Trust anchors: a file (PEM or DER) or a directory. May be given again
    #[arg(long, value_name = "PATH")]
    pub(crate) ca: Vec<PathBuf>,

    /// The certificate chain, the leaf first
    #[arg(long, value_name = "PATH", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of the certificate
    #[arg(long, value_name = "PATH", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// The certificate chain and its private key in one file
    #[arg(long, value_name = "PATH", conflicts_with = "cert")]
    pub(crate) combined: Option<PathBuf>,

    /// A certificate revocation list. May be given again
    #[arg(long, value_name = "PATH")]
    pub(crate) crl: Vec<PathBuf>,

    /// A mounted Kubernetes TLS secret: ca.crt, tls.crt and tls.key. With --ca, its ca.crt is not used
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cert", "combined"])]
    pub(crate) kubernetes: Option<PathBuf>,

    /// Refuse a private key that others may read, instead of warning of it
    #[arg(long)]
    pub(crate) strict_permissions: bool,

    /// How changes are noticed: by events where they can be had and else by polling (auto, notify), by time stamps
    /// (mtime), by content (sha256)
    #[arg(long, value_enum, default_value_t = Detect::Auto, value_name = "HOW")]
    pub(crate) detect: Detect,

    /// Time between looks when polling
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::positive)]
    pub(crate) interval: Duration,
}

impl Material {
    /// Whether trust anchors are among them.
    pub(crate) fn has_trust(&self) -> bool {
        !self.ca.is_empty() || self.kubernetes.is_some()
    }

    /// The source over these files; `None` if there are none.
    pub(crate) fn files(&self) -> Option<Files> {
        let mut files = self.kubernetes.as_ref().map(Files::kubernetes);
        if !self.ca.is_empty() {
            files = files.map(Files::without_trust);
        }
        for path in &self.ca {
            files = Some(match files {
                Some(files) => files.and_trust(path),
                None => Files::trust(path),
            });
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            files = Some(match files {
                Some(files) => files.with_identity(cert, key),
                None => Files::identity(cert, key),
            });
        }
        if let Some(path) = &self.combined {
            files = Some(match files {
                Some(files) => files.with_combined(path),
                None => Files::combined(path),
            });
        }
        for path in &self.crl {
            files = Some(match files {
                Some(files) => files.with_crl(path),
                None => Files::crl(path),
            });
        }
        if self.strict_permissions {
            files = files.map(|files| files.key_permissions(KeyPermissions::Require));
        }
        files.map(|files| self.detect.of(files))
    }

    /// A failed first load, with what to do about it where `--kubernetes` is the cause: it means a layout.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref::<certsource::Error>().and_then(|error| self.other_layout(error)) {
            Some(explained) => explained.into(),
            None => error,
        }
    }

    fn other_layout(&self, error: &certsource::Error) -> Option<certsource::Error> {
        let directory = self.kubernetes.as_ref()?;
        let missing = error.path().filter(|path| path.parent() == Some(directory))?;
        let names = if self.ca.is_empty() { "ca.crt, tls.crt and tls.key" } else { "tls.crt and tls.key" };
        let otherwise = "name files with --ca, --cert and --key";
        if directory.metadata().is_ok_and(|meta| meta.is_file()) {
            let message = format!(
                "--kubernetes takes the directory that holds {names}, and this is a file; else {otherwise}"
            );
            return Some(certsource::Error::new(Reason::NotRegularFile, message).at(directory));
        }
        if error.reason() != Reason::NotFound || !directory.is_dir() {
            return None;
        }
        let message = if missing.ends_with("ca.crt") && directory.join("tls.crt").exists() {
            String::from(
                "there is no ca.crt beside tls.crt (Secrets of ACME issuers have none): name the CA with --ca",
            )
        } else {
            let missing = missing.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "there is no {missing} in it; --kubernetes needs {names}: check that its volume is mounted, or {otherwise}"
            )
        };
        Some(certsource::Error::new(Reason::NotFound, message).at(directory))
    }

    /// How patient the engine is.
    pub(crate) fn policy(&self, patience: &Patience) -> Policy {
        let mut policy = Policy::every(self.interval);
        policy.max_stale = patience.max_stale;
        policy
    }
}

/// For commands that go on: what becomes of material that nobody can confirm.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Patience {
    /// Use nothing any more when the files could not be confirmed for so long, until they are whole again; without it, the
    /// last good generation stays
    #[arg(long, value_name = "TIME", value_parser = duration::positive)]
    pub(crate) max_stale: Option<Duration>,
}

#[cfg(test)]
#[path = "../tests/common/page.rs"]
mod page;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[track_caller]
    fn is_understood(line: &[String]) {
        if let Err(error) = Cli::try_parse_from(line) {
            panic!("{line:?}: {error}");
        }
    }

    /// Whatever the page shows is a command line that the program would take: each flag, each value, and what must stand
    /// together or must not.
    #[test]
    fn every_command_line_of_the_page_is_understood() {
        let lines = page::command_lines(include_str!("../../../docs/OPERATIONS.md"));
        assert!(lines.len() >= 25, "{lines:#?}");
        for command in ["doctor", "inspect", "check", "watch", "exporter"] {
            assert!(lines.iter().any(|line| line[1] == command), "{command}");
        }
        lines.iter().for_each(|line| is_understood(line));
    }

    /// As are the examples of the help.
    #[test]
    fn every_example_of_the_help_is_understood() {
        for command in Cli::command().get_subcommands() {
            let Some(help) = command.get_after_help().map(ToString::to_string) else { continue };
            let examples = help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            let lines =
                page::command_lines(&format!("```console\n{}\n```", examples.collect::<Vec<_>>().join("\n")));
            assert!(lines.len() >= 3, "{}", command.get_name());
            lines.iter().for_each(|line| is_understood(line));
        }
    }
}
