//! Signals: those that end the program, and the names of those that it can send.

use std::io;

use anyhow::Context as _;

/// More than a runtime opens at its start.
#[cfg(unix)]
const PAIRS: usize = 5;

/// Starts a runtime, which also waits for signals.
///
/// # Errors
/// Where tokio would panic: among the descriptors that it opens are two for signals, and there may be none left.
pub(crate) fn runtime(builder: &mut tokio::runtime::Builder) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut start = || -> io::Result<tokio::runtime::Runtime> {
        #[cfg(unix)]
        {
            let pair = |_| std::os::unix::net::UnixStream::pair();
            (0..PAIRS).map(pair).collect::<io::Result<Vec<_>>>()?;
        }
        builder.enable_all().build()
    };
    start().context("cannot start; if the limit of open files is reached, raise it (ulimit -n)")
}

/// Waits for SIGINT or SIGTERM (elsewhere: Ctrl-C).
pub(crate) struct Ending {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Ending {
    /// From now on these signals no longer end the program by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Resolves at the next signal. Dropping the future loses none.
    pub(crate) async fn wait(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Sends signals to the process of a PID file.
#[cfg(unix)]
pub(crate) mod send {
    use std::path::Path;

    use anyhow::{Context as _, bail};
    use rustix::process::{Pid, Signal, kill_process};

    const NAMES: &[(&str, Signal)] = &[
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("WINCH", Signal::WINCH),
    ];

    /// Reads `HUP` or `SIGHUP`.
    pub(crate) fn parse(name: &str) -> Result<Signal, String> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES.iter().find(|(known, _)| *known == bare).map(|(_, signal)| *signal).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("use one of {}", names.join(", "))
        })
    }

    /// Sends `signal` to the process whose number is in the file.
    pub(crate) fn to_pid_file(signal: Signal, path: &Path) -> anyhow::Result<i32> {
        let text = std::fs::read_to_string(path).context(
            "cannot read the PID file; is the process running, and does it write its number there?",
        )?;
        // 0 and 1, and negative numbers, mean groups of processes or init.
        let number: Option<i32> = text.trim().parse().ok().filter(|number| *number > 1);
        let Some((number, pid)) = number.and_then(|number| Some((number, Pid::from_raw(number)?))) else {
            bail!(
                "the PID file does not hold the number of a process; name the file that the process writes"
            );
        };
        kill_process(pid, signal).with_context(|| {
            format!(
                "cannot send a signal to process {number}; is it still running, and may this user signal it?"
            )
        })?;
        Ok(number)
    }
}
