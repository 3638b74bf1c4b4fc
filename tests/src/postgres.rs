//! A real PostgreSQL that lets in whoever shows a certificate of its clients' CA, with the user's name on it
//! (`clientcert=verify-full`), and nobody else. It refuses to run as root, so then it runs as another user.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use certsource_testkit::{Issued, TestDir};

use crate::guard::Guarded;
use crate::{tool, until};

/// PostgreSQL ends for SIGTERM only when its clients have gone, and at once for SIGINT, which is ignored until it has
/// begun.
const AT_ONCE: &str = r#"trap 'kill -TERM "$server"; kill -INT "$server"' TERM; "$@" & server=$!; wait "$server"; wait "$server""#;

/// A running PostgreSQL, with the user `app` and the database `postgres`.
#[derive(Debug)]
pub struct Postgres {
    // Ends before its directory goes.
    _guard: Guarded,
    dir: TestDir,
    user: Option<&'static str>,
    address: SocketAddr,
}

impl Postgres {
    /// Starts it with this certificate. It lets clients of `client_ca` in.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(server: &Issued, client_ca: &str) -> Self {
        let dir = TestDir::new().unwrap();
        let data = dir.join("data");
        fs::create_dir(&data).unwrap();
        let user = run_as();
        give(&data, user);
        run(command("initdb", user, dir.path()).args([
            "-D",
            "data",
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
        ]));
        let mut single = command("postgres", user, dir.path());
        single.args(["--single", "-D", "data", "postgres"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut single = single.stderr(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut single.stdin.take().unwrap(), b"CREATE ROLE app LOGIN;\n").unwrap();
        assert!(single.wait().unwrap().success());
        // No other way in: no socket file, no line for anybody without a certificate.
        fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 cert clientcert=verify-full\n")
            .unwrap();
        for _ in 0..5 {
            // It can not choose a port by itself. Another program may take this one first; then there is another try.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if let Some(guard) = Self::run(&dir, user, server, client_ca, address) {
                return Self { _guard: guard, dir, user, address };
            }
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(dir.join("stderr")).unwrap_or_default());
    }

    fn run(
        dir: &TestDir,
        user: Option<&'static str>,
        server: &Issued,
        client_ca: &str,
        address: SocketAddr,
    ) -> Option<Guarded> {
        material(&dir.join("data"), user, server, client_ca);
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nfsync = off\n\
             max_connections = 40\nssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n\
             ssl_ca_file = 'clients.crt'\n",
            address.port()
        );
        fs::write(dir.join("data").join("postgresql.conf"), settings).unwrap();
        let postgres = command("postgres", user, dir.path());
        let line = ["-c", AT_ONCE, "at_once"].map(PathBuf::from).into_iter();
        let line = line.chain([PathBuf::from(postgres.get_program())]);
        let line =
            line.chain(postgres.get_args().map(PathBuf::from)).chain(["-D", "data"].map(PathBuf::from));
        let guard = Guarded::start(Path::new("/bin/sh"), line, dir.path(), &[], None);
        let is_up = until("PostgreSQL to listen or to give up", || {
            if fs::read_to_string(dir.join("stderr")).is_ok_and(|log| log.contains("FATAL")) {
                return Some(false);
            }
            let is_ready = fs::read_to_string(dir.join("data/postmaster.pid"))
                .is_ok_and(|file| file.lines().nth(7).is_some_and(|state| state.trim() == "ready"));
            (is_ready && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()).then_some(true)
        });
        is_up.then_some(guard)
    }

    /// Its own certificate, and the CA of the clients that it lets in, are these from now on. Connections that are open
    /// stay: PostgreSQL looks at certificates when a connection is made.
    ///
    /// # Panics
    /// When it does not take them.
    pub fn reload(&self, server: &Issued, client_ca: &str) {
        let data = self.dir.join("data");
        material(&data, self.user, server, client_ca);
        let log = self.dir.join("stderr");
        let reloads = || fs::read_to_string(&log).unwrap_or_default().matches("received SIGHUP").count();
        let before = reloads();
        let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        run(Command::new("kill").arg("-HUP").arg(pid.lines().next().unwrap()));
        until("PostgreSQL to reload", || (reloads() > before).then_some(()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn material(data: &Path, user: Option<&str>, server: &Issued, client_ca: &str) {
    for (name, content) in [
        ("server.crt", server.chain_pem()),
        ("server.key", server.key_pem()),
        ("clients.crt", client_ca.to_owned()),
    ] {
        let (path, new) = (data.join(name), data.join(format!("{name}.new")));
        fs::write(&new, content).unwrap();
        #[cfg(unix)]
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        give(&new, user);
        fs::rename(new, path).unwrap();
    }
}

/// The user to run it as; `None`: as who we are.
fn run_as() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().unwrap();
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return None;
    }
    let is_there = |name| Command::new("id").arg(name).output().is_ok_and(|output| output.status.success());
    Some(if is_there("postgres") { "postgres" } else { "nobody" })
}

fn give(path: &Path, user: Option<&str>) {
    if let Some(user) = user {
        // Its directory is ours alone until now.
        let parent = path.parent().unwrap();
        if path.is_dir() {
            run(Command::new("chmod").arg("711").arg(parent));
        }
        run(Command::new("chown").arg("-R").arg(user).arg(path));
    }
}

fn command(program: &str, user: Option<&str>, dir: &Path) -> Command {
    let program = tool::find(program).expect("the test has asked for it");
    let mut command = match user {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
            command
        }
    };
    // What it says is read: in the one language that we know.
    command.current_dir(dir).env("LC_ALL", "C");
    command
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
