//! A real nginx that demands client certificates: with a configuration, a port and a log of its own, and gone with all
//! of its processes when the test is.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use certsource_testkit::TestDir;

use crate::access_log::{self, Line};
use crate::guard::Guarded;
use crate::openssl::Minted;
use crate::{tool, until};

/// How many workers there are. More than one, so that a session is resumed at another worker than made it.
const WORKERS: usize = 2;

/// How long the body of `/slow` takes.
const SLOW_BYTES: usize = 300_000;
/// Bytes of it a second.
const SLOW_RATE: usize = 150_000;

/// What nginx is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The HTTP/2 that nginx offers by ALPN, or HTTP/1.1 alone.
    pub http2: bool,
    /// `ssl_protocols`
    pub protocol: &'static str,
    /// `keepalive_requests`: a connection ends after as many, so that new ones are made and sessions resumed.
    pub requests_per_connection: usize,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    // Ends before its directory goes.
    guard: Guarded,
    program: PathBuf,
    dir: TestDir,
    address: SocketAddr,
    reloads: usize,
}

impl Nginx {
    /// Starts nginx with this certificate. It takes clients with a certificate of `client_ca` and no others.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub fn start(options: Options, server: &Minted, client_ca: &str) -> Self {
        let program = tool::find("nginx").expect("the test has asked for nginx");
        let dir = TestDir::new().unwrap();
        // nginx knows no port 0, and a port that was free a moment ago may be taken now. So it inherits a socket that
        // listens already, the way a new nginx does when the program is upgraded: by its number, in `NGINX`.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // As nginx leaves it for its successor. Else a worker waits in `accept` for what another one has taken.
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        write_material(&dir, server, client_ca);
        dir.write("slow", vec![b's'; SLOW_BYTES]).unwrap();
        dir.write("nginx.conf", configuration(&options, dir.path(), address)).unwrap();
        let guard = Guarded::start(
            &program,
            arguments(dir.path()),
            dir.path(),
            &[("NGINX", OsStr::new("1;"))],
            Some(OwnedFd::from(listener).into()),
        );
        let nginx = Self { guard, program, dir, address, reloads: 0 };
        let started = || nginx.count("start worker process ") >= WORKERS;
        until("nginx to start", || {
            assert!(!nginx.log().contains("[emerg]"), "nginx does not start:\n{}", nginx.log());
            started().then_some(())
        });
        nginx
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path here. The name must be resolved to [`Nginx::address`].
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// How many bytes `/slow` has. They take about two seconds.
    pub fn slow_bytes(&self) -> usize {
        SLOW_BYTES
    }

    /// Gives it other material and lets it reload by `nginx -s reload`. Returns when every old worker has ended: each
    /// has a second for the requests that it has, and then closes its connections. Clients have noticed that.
    pub fn reload(&mut self, server: &Minted, client_ca: &str) {
        write_material(&self.dir, server, client_ca);
        self.reloads += 1;
        let mut command = Command::new(&self.program);
        command.args(arguments(self.dir.path())).args(["-s", "reload"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "nginx -s reload: {}", String::from_utf8_lossy(&output.stderr));
        let old = self.reloads * WORKERS;
        until("the old workers to end", || {
            assert!(!self.log().contains("[emerg]"), "nginx does not reload:\n{}", self.log());
            (self.count(" exited with code 0") >= old).then_some(())
        });
        assert!(self.count("start worker process ") >= old + WORKERS);
        self.wait_for_clients_to_notice();
    }

    /// Waits until no client on this machine has a connection that nginx has closed and the client has not.
    fn wait_for_clients_to_notice(&self) {
        const CLOSE_WAIT: &str = "08";
        let nginx = format!(":{:04X}", self.address.port());
        until("the clients to close what nginx closed", || {
            // proc_pid_net(5): number, local address, remote address, state, and more.
            let table = fs::read_to_string("/proc/net/tcp").unwrap();
            let mut rows = table.lines().map(|row| row.split_whitespace().skip(2));
            let is_half_closed = rows.any(|mut row| {
                row.next().is_some_and(|remote| remote.ends_with(&nginx)) && row.next() == Some(CLOSE_WAIT)
            });
            (!is_half_closed).then_some(())
        });
    }

    /// The requests that it logged, once there are `expected` of them whose path begins with `prefix`.
    pub fn requests(&self, prefix: &str, expected: usize) -> Vec<Line> {
        until(&format!("{expected} requests in the access log"), || {
            let mut lines = access_log::read(&self.dir.join("access.log"));
            lines.retain(|line| line.uri.starts_with(prefix));
            (lines.len() >= expected).then_some(lines)
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The numbers of all of its processes, the guard's too.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.guard.id()];
        let mut at = 0;
        while let Some(parent) = all.get(at) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
            all.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
            at += 1;
        }
        all
    }

    /// What nginx says about itself.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("stderr") + &read("error.log")
    }

    fn count(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("nginx said: …{}\n", &log[from..]).as_bytes(),
            );
        }
    }
}

fn arguments(dir: &Path) -> Vec<PathBuf> {
    // `-e`: else the log file that was compiled in is opened before the configuration is read.
    vec!["-p".into(), dir.into(), "-e".into(), dir.join("error.log"), "-c".into(), dir.join("nginx.conf")]
}

fn write_material(dir: &TestDir, server: &Minted, client_ca: &str) {
    dir.write("server.pem", &server.certificate).unwrap();
    dir.write("server.key", &server.key).unwrap();
    dir.write("clients.pem", client_ca).unwrap();
}

fn configuration(options: &Options, dir: &Path, address: SocketAddr) -> String {
    let Options { http2, protocol, requests_per_connection } = options;
    let (dir, format) = (dir.display(), access_log::FORMAT);
    let http2 = if *http2 { " http2" } else { "" };
    // As root the workers would be another user, who may not enter a private directory.
    let user = if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        "user root;"
    } else {
        ""
    };
    format!(
        r"
daemon off; master_process on; worker_processes {WORKERS}; {user}
# A connection without a request so far is not idle to nginx: an old worker waits a minute for that.
worker_shutdown_timeout 1s;
pid {dir}/nginx.pid; error_log {dir}/error.log notice;
events {{ worker_connections 512; }}
http {{
    log_format checks {format};
    access_log {dir}/access.log checks;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    keepalive_requests {requests_per_connection};
    server {{
        listen {address} ssl{http2};
        server_name localhost;
        ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;
        ssl_protocols {protocol};
        ssl_session_cache shared:sessions:1m; ssl_session_tickets on; ssl_session_timeout 1h;
        ssl_client_certificate {dir}/clients.pem; ssl_verify_client on;
        location / {{ return 200 '$ssl_client_serial'; }}
        location = /slow {{ root {dir}; limit_rate {SLOW_RATE}; }}
    }}
}}
"
    )
}
