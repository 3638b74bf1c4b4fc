//! The command of `--exec`: an argv without a shell, one at a time, ended when it takes too long.

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use certsource::{Certificate, Role};
use certsource_reload::{Event, Reload};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

/// Runs one command after another.
pub(super) struct Exec {
    argv: Vec<OsString>,
    timeout: Duration,
    running: Option<Running>,
    /// The newest facts that came while the command ran: older ones are no longer true.
    next: Option<Facts>,
}

struct Running {
    child: Result<Child, std::io::Error>,
    deadline: Instant,
    generation: u64,
}

/// What the command is told, in its environment.
pub(super) struct Facts {
    generation: u64,
    variables: Vec<(&'static str, String)>,
}

impl Facts {
    pub(super) fn of(name: &'static str, event: &Event, reload: &Reload) -> Self {
        let material = reload.generation.material();
        let generation = reload.generation.number();
        let mut variables = vec![
            ("CERTSOURCE_EVENT", name.to_owned()),
            ("CERTSOURCE_GENERATION", generation.to_string()),
            ("CERTSOURCE_DIGEST", material.digest().to_string()),
            ("CERTSOURCE_ORIGIN", event.origin.to_string()),
            ("CERTSOURCE_ADDED", fingerprints(&reload.diff.added)),
            ("CERTSOURCE_REMOVED", fingerprints(&reload.diff.removed)),
        ];
        if let Some(identity) = material.identity() {
            variables.push(("CERTSOURCE_FINGERPRINT", identity.leaf().fingerprint().to_string()));
            variables.push(("CERTSOURCE_NOT_AFTER", identity.leaf().inspection().not_after_text()));
        }
        Self { generation, variables }
    }
}

fn fingerprints(list: &[(Role, Certificate)]) -> String {
    let list: Vec<_> = list.iter().map(|(_, certificate)| certificate.fingerprint().to_string()).collect();
    list.join(" ")
}

/// A command that could not be run, or did not end well.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    generation: u64,
    command: String,
    /// Its exit code, if it ended by itself.
    code: Option<i32>,
    message: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} {}: {}", self.generation, crate::error::safe(&self.command), self.message)
    }
}

impl Exec {
    pub(super) fn new(argv: Vec<OsString>, timeout: Duration) -> Self {
        Self { argv, timeout, running: None, next: None }
    }

    /// Starts the command, or has it start when the one that runs has ended.
    pub(super) fn start(&mut self, facts: Facts) {
        if self.running.is_some() {
            self.next = Some(facts);
            return;
        }
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).envs(facts.variables).stdin(Stdio::null()).kill_on_drop(true);
        // Our standard output is for events.
        command.stdout(stderr());
        // With its own group, so that what it started ends with it.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn();
        self.running =
            Some(Running { child, deadline: Instant::now() + self.timeout, generation: facts.generation });
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.running.is_some()
    }

    /// Resolves when the command has ended, and starts the next one. Never while there is none.
    pub(super) async fn ended(&mut self) -> Result<(), Failed> {
        let result = match &mut self.running {
            None => std::future::pending().await,
            Some(Running { child: Err(error), .. }) => Err((None, cannot_run(&self.argv, error))),
            Some(Running { child: Ok(child), deadline, .. }) => {
                tokio::select! {
                    status = child.wait() => judge(status),
                    () = sleep_until(*deadline) => {
                        kill(child).await;
                        Err((None, format!("ended because it took longer than {:?}", self.timeout)))
                    }
                }
            }
        };
        let generation = self.running.take().map_or(0, |running| running.generation);
        if let Some(facts) = self.next.take() {
            self.start(facts);
        }
        let command = self.argv[0].to_string_lossy().into_owned();
        result.map_err(|(code, message)| Failed { generation, command, code, message })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if let Some(Running { child: Ok(child), .. }) = &mut self.running {
            kill_group(child);
        }
    }
}

/// Why there is no process, and what to do.
fn cannot_run(argv: &[OsString], error: &std::io::Error) -> String {
    let program = argv[0].to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound if argv.len() == 1 && program.contains(' ') => String::from(
            "cannot run it: there is no program of this name; there is no shell, so write its words without quotes around all of them",
        ),
        ErrorKind::NotFound => String::from(
            "cannot run it: there is no such program; name its path, or set PATH where this runs",
        ),
        ErrorKind::PermissionDenied => {
            String::from("cannot run it: permission denied; make it executable (chmod +x) for this user")
        }
        _ => format!("cannot run it: {error}"),
    }
}

fn judge(status: std::io::Result<ExitStatus>) -> Result<(), (Option<i32>, String)> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err((status.code(), status.to_string())),
        Err(error) => Err((None, format!("cannot wait for it: {error}"))),
    }
}

async fn kill(child: &mut Child) {
    kill_group(child);
    // It is gone already, or it goes now.
    let _ = child.kill().await;
}

/// Ends the command and what it started.
fn kill_group(child: &Child) {
    #[cfg(unix)]
    if let Some(pid) =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        // Its group may be empty already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    #[cfg(not(unix))]
    let _ = child;
}

fn stderr() -> Stdio {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        std::io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from)
    }
    #[cfg(not(unix))]
    Stdio::null()
}
