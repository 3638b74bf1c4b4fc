//! A real Redis that speaks TLS only, and demands client certificates.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use certsource_testkit::{Issued, TestDir};

use crate::guard::Guarded;
use crate::{tool, until};

/// A running `redis-server`.
#[derive(Debug)]
pub struct Redis {
    // Ends before its directory goes.
    _guard: Guarded,
    dir: TestDir,
    address: SocketAddr,
}

impl Redis {
    /// Starts it with this certificate. It lets clients of `client_ca` in.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(server: &Issued, client_ca: &str) -> Self {
        let program = tool::find("redis-server").expect("the test has asked for redis-server");
        let dir = TestDir::new().unwrap();
        material(&dir, server, client_ca);
        for _ in 0..5 {
            // It can not choose a port by itself. Another program may take this one first; then there is another try.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let line = format!(
                "--bind 127.0.0.1 --port 0 --tls-port {port} --save  --appendonly no --daemonize no --tls-auth-clients yes \
                 --tls-cert-file server.crt --tls-key-file server.key --tls-ca-cert-file clients.crt"
            );
            let guard = Guarded::start(&program, line.split(' '), dir.path(), &[], None);
            let is_up = until("Redis to listen or to give up", || {
                let said = fs::read_to_string(dir.join("stdout")).unwrap_or_default();
                if said.contains("Failed listening") {
                    return Some(false);
                }
                let is_ready = said.contains("Ready to accept connections");
                (is_ready && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
                    .then_some(true)
            });
            if is_up {
                return Self { _guard: guard, dir, address };
            }
        }
        panic!("Redis does not start: {}", fs::read_to_string(dir.join("stdout")).unwrap_or_default());
    }

    /// Writes other certificates where it finds its own. It reads them when it is told to, by
    /// `CONFIG SET` with [`Redis::files`].
    ///
    /// # Panics
    /// When they can not be written.
    pub fn write(&self, server: &Issued, client_ca: &str) {
        material(&self.dir, server, client_ca);
    }

    /// The settings that name its files.
    pub fn files(&self) -> [(&'static str, String); 3] {
        [("tls-cert-file", "server.crt"), ("tls-key-file", "server.key"), ("tls-ca-cert-file", "clients.crt")]
            .map(|(setting, file)| (setting, path(self.dir.join(file).as_path())))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn material(dir: &TestDir, server: &Issued, client_ca: &str) {
    dir.write("server.crt", server.chain_pem()).unwrap();
    dir.write("server.key", server.key_pem()).unwrap();
    dir.write("clients.crt", client_ca).unwrap();
}
