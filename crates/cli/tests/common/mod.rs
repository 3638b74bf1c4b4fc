//! Runs the built program in tests: waits with a bound, and leaves no process behind.

#![allow(dead_code, reason = "each test binary uses a part of this")]

pub(crate) mod exporter;
pub(crate) mod page;
pub(crate) mod party;
#[cfg(target_os = "linux")]
pub(crate) mod peers;
pub(crate) mod server;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No single wait of a test takes longer: far above what is needed, also on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// Each line of standard output as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The only line of standard error.
    #[track_caller]
    pub(crate) fn error_line(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "not one line: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        lines[0]
    }
}

fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certsource"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What the tester's shell sets must not change results.
    command.env_remove("RUST_LOG").env_remove("NO_COLOR").env_remove("COLUMNS").env("RUST_BACKTRACE", "1");
    command
}

/// A test that this machine cannot run says so and passes; where `CERTSOURCE_STRICT` is set, it fails.
#[track_caller]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn not_run(why: &str) {
    assert!(std::env::var_os("CERTSOURCE_STRICT").is_none(), "{why}");
    eprintln!("NOT RUN: {why}");
}

/// Makes command lines of the program as another user, if this is root: as one that may not do everything. The program is
/// put where that one can run it, whatever the build directory allows. `None` where that can not be, which is said.
#[cfg(unix)]
#[track_caller]
pub(crate) fn as_another_user(dir: &certsource_testkit::TestDir) -> Option<impl Fn() -> Command + use<>> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    const NOBODY: u32 = 65_534;
    let (built, program) = (env!("CARGO_BIN_EXE_certsource"), dir.join("certsource"));
    if std::fs::hard_link(built, &program).is_err() {
        // By another process: a child that another test starts just now could hold what this one writes, and nobody can run
        // a file that somebody may write.
        assert!(Command::new("cp").arg(built).arg(&program).status().unwrap().success());
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = move || {
        let mut command = Command::new(&program);
        command.current_dir("/").env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if !command().arg("--version").output().is_ok_and(|output| output.status.success()) {
        not_run("another user cannot run the program from the directory for temporary files");
        return None;
    }
    Some(command)
}

/// Runs the program to its end.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Finished {
    Running::spawn(command(args)).finish()
}

/// Runs it in this directory.
#[track_caller]
pub(crate) fn run_in<S: AsRef<OsStr>>(dir: &std::path::Path, args: impl IntoIterator<Item = S>) -> Finished {
    let mut command = command(args);
    command.current_dir(dir);
    Running::spawn(command).finish()
}

/// Runs it with this on standard input.
#[track_caller]
pub(crate) fn run_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Finished {
    let mut command = command(args);
    command.stdin(Stdio::piped());
    let mut running = Running::spawn(command);
    let mut stdin: ChildStdin = running.child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    running.finish()
}

/// The program at work. Killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    began: Instant,
    lines: Receiver<String>,
    stderr: Option<thread::JoinHandle<String>>,
    /// Lines that were read.
    seen: Vec<String>,
}

impl Running {
    pub(crate) fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::spawn(command(args))
    }

    pub(crate) fn start_with_env<S: AsRef<OsStr>>(
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = command(args);
        command.envs(env.iter().copied());
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program was built");
        let stdout = child.stdout.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    // Nobody listens: the pipe closes, as with `head`.
                    return;
                }
            }
        });
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { child, began: Instant::now(), lines, stderr: Some(stderr), seen: Vec::new() }
    }

    /// The next line of standard output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(BOUND) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(error) => panic!("no line ({error}); before it: {:#?}", self.seen),
        }
    }

    /// The next JSON line with this event; others are passed over.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let line = self.line();
            let value: Value = serde_json::from_str(&line).expect(&line);
            if value["event"] == name {
                return value;
            }
        }
    }

    /// Whether no line comes for a while.
    pub(crate) fn is_quiet(&mut self, time: Duration) -> bool {
        matches!(self.lines.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Nobody reads standard output any more.
    pub(crate) fn close_stdout(&mut self) {
        let (_, nothing) = channel();
        self.lines = nothing;
    }

    #[track_caller]
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + BOUND;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the program does not end; it said {:#?}", self.seen);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.exit();
        let took = self.began.elapsed();
        let mut stdout: String =
            std::mem::take(&mut self.seen).iter().map(|line| format!("{line}\n")).collect();
        while let Ok(line) = self.lines.recv_timeout(BOUND) {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let stderr = self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
        Finished { code: status.code(), stdout, stderr, took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a JSON line has a `ts` that is RFC 3339 in UTC.
#[track_caller]
pub(crate) fn assert_ts(line: &Value) {
    let ts = line["ts"].as_str().expect("every line has ts");
    let parsed = time::OffsetDateTime::parse(ts, &time::format_description::well_known::Rfc3339);
    assert!(parsed.is_ok() && ts.ends_with('Z'), "{ts}");
}
