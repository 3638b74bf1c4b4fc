//! A program that ends with the test: also when the test is killed, and with all that it started itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a program until standard input ends. It ends when the test lets go of it, and also when the test is killed.
const GUARD: &str =
    r#""$@" </dev/null & server=$!; cat >/dev/null; kill -TERM "$server" 2>/dev/null; wait "$server""#;

/// A running program. Dropping it ends it and waits for that.
#[derive(Debug)]
pub struct Guarded {
    name: String,
    guard: Child,
    lifeline: Option<ChildStdin>,
}

impl Guarded {
    /// Starts this program with these arguments, in this directory. Its standard error goes to `stderr` there, and its
    /// standard output to `stdout` there unless `output` says otherwise.
    ///
    /// # Panics
    /// When the shell does not start. A program that ends at once is noticed by whoever waits for what it does.
    pub fn start<S: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        dir: &Path,
        variables: &[(&str, &OsStr)],
        output: Option<Stdio>,
    ) -> Self {
        let file = |name: &str| File::create(dir.join(name)).unwrap();
        let mut guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "guard"])
            .arg(program)
            .args(arguments)
            .current_dir(dir)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(output.unwrap_or_else(|| file("stdout").into()))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        let lifeline = guard.stdin.take();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, guard, lifeline }
    }

    /// The number of the guard's process. The program is a child of it.
    pub fn id(&self) -> u32 {
        self.guard.id()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> io::Result<()> {
        drop(self.lifeline.take());
        let end = Instant::now() + Duration::from_secs(20);
        while self.guard.try_wait()?.is_none() {
            if Instant::now() > end {
                return Err(io::Error::other(format!("{} does not end", self.name)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let stopped = self.stop();
        if !std::thread::panicking() {
            stopped.unwrap();
        }
    }
}
