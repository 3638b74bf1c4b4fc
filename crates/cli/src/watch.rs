//! `certsource watch`: follows files and tells every event, and runs a command or sends a signal after each reload.
//!
//! What is not here: how an event is written (`watch/event.rs`) and how the command runs (`watch/exec.rs`).

pub(crate) mod event;
mod exec;

use std::ffi::OsString;
#[cfg(unix)]
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use certsource_reload::{Event, EventKind, Reload, Reloader};
use certsource_rustls::TlsGate;
use serde::Serialize;
use tokio::sync::mpsc;

use self::exec::{Exec, Facts};
use crate::args::{Format, Material, Patience};
use crate::check::Soon;
use crate::duration;
use crate::output::{self, Output};
use crate::signals::{self, Ending};

const EXAMPLES: &str = "\
Examples:
  certsource watch --kubernetes /etc/tls
      ca.crt, tls.crt and tls.key of a mounted secret: a line for each event
  certsource watch --ca ca.pem --cert tls.crt --key tls.key --format json | jq .
      loaded, reloaded, failed and more, one JSON object a line
  certsource watch --ca ca.pem --wait 60s --once
      wait until the material is there and good, then end: for init containers
  certsource watch --cert tls.crt --key tls.key --exec systemctl reload nginx
      a command after each reload, without a shell; all that follows --exec
      belongs to it. Its environment holds CERTSOURCE_EVENT, _GENERATION,
      _DIGEST, _ORIGIN, _FINGERPRINT, _NOT_AFTER, _ADDED and _REMOVED
  certsource watch --kubernetes /etc/tls --signal HUP --pid-file /run/nginx.pid
      a signal after each reload
  certsource watch --ca ca.pem --exec-on-load --exec systemctl reload nginx
      after the first load too: what rotated while nobody watched is not lost
  certsource watch --kubernetes /etc/tls --expiring 30d --expiring 75%
      tells when a certificate has 30 days left, or three quarters of its life
      used
  certsource watch --kubernetes /etc/tls --max-stale 6h
      fails closed: tells stale when nothing confirmed the files for six hours

While files are missing, torn or broken, that is told as failed, and the last
good generation stays.
Ends with 0 on SIGTERM and SIGINT, with 2 and one line if the first load fails,
or with --once if the command or the signal for it failed.";

/// Follow TLS files and tell each rotation, and each failed one with its reason.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    material: Material,

    #[command(flatten)]
    patience: Patience,

    /// Wait so long for a first load that works, instead of failing at once
    #[arg(long, value_name = "TIME", value_parser = duration::positive)]
    wait: Option<Duration>,

    /// End with 0 after the first load, and after the command or signal for it
    #[arg(long)]
    once: bool,

    /// Run this command after each reload. Takes the rest of the line, so it comes last
    #[arg(long, num_args = 1.., value_name = "CMD", allow_hyphen_values = true)]
    exec: Vec<OsString>,

    /// End a command that takes longer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::positive)]
    exec_timeout: Duration,

    /// Run the command, or send the signal, after the first load too
    #[arg(long)]
    exec_on_load: bool,

    /// Send this signal after each reload: HUP, USR1, ...
    #[cfg(unix)]
    #[arg(long, value_name = "NAME", requires = "pid_file", value_parser = signals::send::parse)]
    signal: Option<rustix::process::Signal>,

    /// The file with the number of the process that gets the signal
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", requires = "signal")]
    pid_file: Option<PathBuf>,

    /// Tell when a certificate nears its end: a time left (30d), or a share of its life used (75%). May be given again
    #[arg(long, value_name = "TIME|SHARE", value_parser = Soon::parse)]
    expiring: Vec<Soon>,

    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = signals::runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let result = runtime.block_on(follow(args));
    // A thread that hangs on a dead disk must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn follow(args: Args) -> anyhow::Result<ExitCode> {
    let Some(files) = args.material.files() else {
        bail!("nothing to watch: name files with --ca, --cert and --key, --combined, --crl or --kubernetes");
    };
    if args.exec_on_load && !args.has_reaction() {
        bail!("--exec-on-load needs what to do: --exec, or --signal with --pid-file");
    }
    let mut policy = args.material.policy(&args.patience);
    policy.expiring = args.expiring.iter().map(|soon| soon.threshold()).collect();
    let mut ending = Ending::new().context("cannot wait for signals")?;
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut builder = Reloader::builder(files)
        .policy(policy)
        .gate(TlsGate::new()?)
        // Told as results, so not logged too.
        .on_failure(|_| ())
        .on_event(move |event| drop(sender.send(event.clone())));
    if let Some(wait) = args.wait {
        builder = builder.wait_for_initial(wait);
    }
    let mut teller = Teller::new(args);

    let unread = output::unread();
    tokio::pin!(unread);
    let start = builder.start_async();
    tokio::pin!(start);
    let reloader = loop {
        tokio::select! {
            biased;
            () = ending.wait() => return Ok(ExitCode::SUCCESS),
            () = &mut unread, if !teller.args.once => return Ok(ExitCode::SUCCESS),
            started = &mut start => match started {
                Ok(reloader) => break reloader,
                Err(error) => return teller.first_load_failed(error),
            },
            // Without --wait the first failure is the end: it is told once, as such.
            Some(event) = events.recv(), if teller.args.wait.is_some() => teller.tell(&event)?,
        }
    };
    loop {
        if teller.is_done() {
            break;
        }
        tokio::select! {
            biased;
            () = ending.wait() => break,
            // With --once it is the exit code that is waited for.
            () = &mut unread, if !teller.args.once => break,
            ended = teller.command_ends() => teller.command_ended(ended)?,
            Some(event) = events.recv() => teller.tell(&event)?,
        }
    }
    drop(reloader);
    // A command that is at work may end its work; a second signal ends that too.
    tokio::select! {
        () = ending.wait() => {
            if teller.args.once && teller.exec.as_ref().is_some_and(Exec::is_at_work) {
                bail!("ended by a signal while the command was at work");
            }
        }
        result = teller.finish() => result?,
    }
    // Whoever runs it once waits for the command: its failure is the answer.
    match teller.failed.take().filter(|_| teller.args.once) {
        Some(why) => Err(anyhow::anyhow!(why)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Tells events and sees to what follows from them.
struct Teller {
    args: Args,
    output: Output,
    exec: Option<Exec>,
    is_loaded: bool,
    failure_told: bool,
    /// Why the command or the signal failed last, in words.
    failed: Option<String>,
}

impl Args {
    fn has_reaction(&self) -> bool {
        #[cfg(unix)]
        let has_signal = self.signal.is_some();
        #[cfg(not(unix))]
        let has_signal = false;
        has_signal || !self.exec.is_empty()
    }
}

#[derive(Serialize)]
struct SignalFailed<'a> {
    generation: u64,
    path: &'a str,
    message: &'a str,
}

impl Teller {
    fn new(args: Args) -> Self {
        let exec = (!args.exec.is_empty()).then(|| Exec::new(args.exec.clone(), args.exec_timeout));
        Self {
            output: Output::new(args.format),
            exec,
            args,
            is_loaded: false,
            failure_told: false,
            failed: None,
        }
    }

    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        event::tell(&self.output, event)?;
        match &event.kind {
            EventKind::Loaded(reload) => {
                self.is_loaded = true;
                if self.args.once || self.args.exec_on_load {
                    self.react("loaded", event, reload)?;
                }
            }
            EventKind::Reloaded(reload) if !self.args.once => self.react("reloaded", event, reload)?,
            EventKind::Failed(_) | EventKind::Rejected(_) => self.failure_told = true,
            _ => {}
        }
        Ok(())
    }

    /// One line: on standard error for people, and as an event where events are read.
    fn first_load_failed(&self, error: certsource::Error) -> anyhow::Result<ExitCode> {
        if self.output.is_json() && !self.failure_told {
            event::failed(&self.output, SystemTime::now(), &error)?;
        }
        Err(self.args.material.explain(error.into()))
    }

    fn react(&mut self, name: &'static str, event: &Event, reload: &Reload) -> anyhow::Result<()> {
        if let Some(exec) = &mut self.exec {
            exec.start(Facts::of(name, event, reload));
        }
        #[cfg(unix)]
        if let (Some(signal), Some(path)) = (self.args.signal, &self.args.pid_file) {
            if let Err(error) = signals::send::to_pid_file(signal, path) {
                let (path, message) = (path.to_string_lossy(), crate::error::one_line(&error));
                let generation = reload.generation.number();
                let failed = SignalFailed { generation, path: &path, message: &message };
                let words = format!("generation {generation} {}: {message}", crate::error::safe(&path));
                event::line(&self.output, SystemTime::now(), "signal_failed", &failed, || words.clone())?;
                self.failed =
                    Some(format!("the signal was not sent: {}: {message}", crate::error::safe(&path)));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.args.once && self.is_loaded
    }

    async fn command_ends(&mut self) -> Result<(), exec::Failed> {
        match &mut self.exec {
            Some(exec) => exec.ended().await,
            None => std::future::pending().await,
        }
    }

    fn command_ended(&mut self, result: Result<(), exec::Failed>) -> anyhow::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(failed) => {
                self.failed = Some(format!("the command failed: {failed}"));
                event::line(&self.output, SystemTime::now(), "exec_failed", &failed, || failed.to_string())
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        while self.exec.as_ref().is_some_and(Exec::is_at_work) {
            let result = self.command_ends().await;
            self.command_ended(result)?;
        }
        Ok(())
    }
}
