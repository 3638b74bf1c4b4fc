//! Real servers that are not ours: nginx and `openssl s_server`. Each has a directory and a port of its own, and is gone
//! with all of its processes when the test is, also when that is killed.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use certsource_testkit::{Issued, TestDir};

use super::{BOUND, not_run};

/// Runs a program until standard input ends, which it does with the test.
const GUARD: &str =
    r#""$@" </dev/null & server=$!; cat >/dev/null; kill -TERM "$server" 2>/dev/null; wait "$server""#;

/// The program of this name: on the PATH, or where servers are kept that an ordinary user has not on the PATH.
#[track_caller]
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(servers).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        not_run(&format!("needs {name}: cargo xtask setup"));
    }
    found
}

/// A running server.
pub(crate) struct RealServer {
    program: PathBuf,
    guard: Child,
    lifeline: Option<ChildStdin>,
    dir: TestDir,
    address: SocketAddr,
}

impl RealServer {
    /// nginx with this chain. `listen`: what stands behind the address, such as `ssl http2`; `lines`: more of its server
    /// block. Files that they name are looked for in its directory, where `files` are written to.
    pub(crate) fn nginx(
        program: &Path,
        issued: &Issued,
        listen: &str,
        lines: &str,
        files: &[(&str, String)],
    ) -> Self {
        let dir = staged(issued, files);
        // nginx knows no port 0, and a port that was free a moment ago may be taken now. So it inherits a socket that
        // listens already, as a new nginx does when the program is upgraded: by its number, in `NGINX`.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // As nginx leaves it for its successor.
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        // As root the workers would be another user, who may not enter a private directory.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let (at, paths) = (dir.path().display(), ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]);
        let paths: String = paths.iter().map(|name| format!("{name}_temp_path {at}/{name};\n")).collect();
        let configuration = format!(
            "daemon off; master_process on; worker_processes 1; {user}\n\
             pid {at}/nginx.pid; error_log {at}/error.log notice; worker_shutdown_timeout 1s;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n{paths}access_log off;\n\
             server {{\nlisten {address} {listen}; server_name localhost;\n\
             ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key;\n{lines}\n\
             location / {{ return 200 'hello'; }}\n}}\n}}\n"
        );
        dir.write("nginx.conf", configuration).unwrap();
        let (program, variables) = (program.to_owned(), [("NGINX", OsStr::new("1;"))]);
        let (guard, lifeline) =
            start(&program, &arguments(&dir), &dir, &variables, OwnedFd::from(listener).into());
        Self { program, guard, lifeline, dir, address }
    }

    /// `openssl s_server` with this leaf and with these arguments, which may name `files`.
    pub(crate) fn s_server(program: &Path, issued: &Issued, more: &str, files: &[(&str, String)]) -> Self {
        let dir = staged(issued, files);
        let first = "s_server -accept 127.0.0.1:0 -cert server.pem -key server.key -www";
        let arguments: Vec<PathBuf> = first.split(' ').chain(more.split(' ')).map(PathBuf::from).collect();
        let said = File::create(dir.join("stdout")).unwrap();
        let (guard, lifeline) = start(program, &arguments, &dir, &[], said.into());
        let mut server = Self {
            program: program.to_owned(),
            guard,
            lifeline,
            dir,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        server.address = until("s_server to listen", || {
            let said = fs::read_to_string(server.dir.join("stdout")).unwrap_or_default();
            let whole = said.rfind('\n').map_or("", |end| &said[..end]);
            whole.lines().find_map(|line| line.strip_prefix("ACCEPT ")).map(|at| at.parse().unwrap())
        });
        server
    }

    /// `localhost:PORT`.
    pub(crate) fn target(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// nginx' own way: what is in its files now is served when this returns, and by nobody else.
    pub(crate) fn reload(&self, issued: &Issued, files: &[(&str, String)]) {
        write(&self.dir, issued, files);
        let workers = |what: &str| self.log().lines().filter(|line| line.contains(what)).count();
        until("nginx to start", || (workers("start worker process ") > 0).then_some(()));
        let (started, ended) = (workers("start worker process "), workers(" exited with code 0"));
        let command =
            Command::new(&self.program).args(arguments(&self.dir)).args(["-s", "reload"]).output().unwrap();
        assert!(command.status.success(), "{}", String::from_utf8_lossy(&command.stderr));
        until("nginx to reload", || {
            let is_new = workers("start worker process ") > started;
            (is_new && workers(" exited with code 0") > ended).then_some(())
        });
    }

    /// What the server says about itself.
    fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("stderr") + &read("error.log")
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The guard ends when its server has.
        let ended = self.guard.wait();
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.log().as_bytes());
        } else {
            ended.unwrap();
        }
    }
}

fn staged(issued: &Issued, files: &[(&str, String)]) -> TestDir {
    let dir = TestDir::new().unwrap();
    write(&dir, issued, files);
    dir
}

fn write(dir: &TestDir, issued: &Issued, files: &[(&str, String)]) {
    dir.write("server.pem", issued.chain_pem()).unwrap();
    dir.write("server.key", issued.key_pem()).unwrap();
    for (name, content) in files {
        dir.write(name, content).unwrap();
    }
}

fn start(
    program: &Path,
    arguments: &[PathBuf],
    dir: &TestDir,
    variables: &[(&str, &OsStr)],
    stdout: Stdio,
) -> (Child, Option<ChildStdin>) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GUARD, "guard"]).arg(program).args(arguments).current_dir(dir.path());
    command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(stdout);
    let mut guard = command.stderr(File::create(dir.join("stderr")).unwrap()).spawn().unwrap();
    let lifeline = guard.stdin.take();
    (guard, lifeline)
}

fn arguments(dir: &TestDir) -> [PathBuf; 6] {
    // `-e`: else the log file that was compiled in is opened before the configuration is read.
    ["-p".into(), dir.path().into(), "-e".into(), dir.join("error.log"), "-c".into(), dir.join("nginx.conf")]
}

#[track_caller]
fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(5));
    }
}
