//! A real ACME server for tests (pebble), and a real certbot that gets certificates of it and keeps them below `live/`.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use certsource_testkit::{Ca, TestDir};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::guard::Guarded;
use crate::{tool, until};

/// A running pebble. Its issuer is new each time.
#[derive(Debug)]
pub struct Pebble {
    // Ends before its directory goes.
    _guard: Guarded,
    dir: TestDir,
    ca: Ca,
    ports: Ports,
}

/// Where pebble listens, and where it looks for the answer to a challenge.
#[derive(Clone, Copy, Debug)]
struct Ports {
    directory: u16,
    management: u16,
    http: u16,
    tls: u16,
}

impl Pebble {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start() -> Self {
        let (dir, ca) = (TestDir::new().unwrap(), Ca::new("ACME"));
        let own = ca.issue("localhost");
        dir.write("ca.pem", ca.certificate_pem()).unwrap();
        dir.write("server.pem", own.chain_pem()).unwrap();
        dir.write("server.key", own.key_pem()).unwrap();
        // It can not choose ports by itself. Another program may take one first; then there is another try.
        let started = (0..5).find_map(|_| {
            let ports = Ports::free();
            Some((Self::listen(&dir, ports)?, ports))
        });
        let Some((guard, ports)) = started else { panic!("pebble does not start: {}", said(&dir)) };
        Self { _guard: guard, dir, ca, ports }
    }

    fn listen(dir: &TestDir, ports: Ports) -> Option<Guarded> {
        let config = json!({"pebble": {
            "listenAddress": local(ports.directory).to_string(),
            "managementListenAddress": local(ports.management).to_string(),
            "certificate": "server.pem", "privateKey": "server.key",
            "httpPort": ports.http, "tlsPort": ports.tls,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        dir.write("pebble.json", config.to_string()).unwrap();
        let program = tool::find("pebble").expect("the test has asked for pebble");
        // By itself it waits for seconds before it looks at a challenge, and refuses a request now and then.
        let variables = [("PEBBLE_VA_NOSLEEP", "1".as_ref()), ("PEBBLE_WFE_NONCEREJECT", "0".as_ref())];
        let guard = Guarded::start(&program, ["-config", "pebble.json"], dir.path(), &variables, None);
        let is_up = until("pebble to listen or to give up", || {
            // Then it is another program that listens there.
            if said(dir).contains("address already in use") {
                return Some(false);
            }
            [ports.directory, ports.management]
                .iter()
                .all(|port| TcpStream::connect_timeout(&local(*port), Duration::from_secs(1)).is_ok())
                .then_some(true)
        });
        is_up.then_some(guard)
    }

    /// The certificate of the root that it issues by.
    ///
    /// # Panics
    /// When it does not tell.
    pub async fn root(&self) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.certificate_der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap();
        let url = format!("https://localhost:{}/roots/0", self.ports.management);
        client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }
}

impl Ports {
    fn free() -> Self {
        // All are held until all are known.
        let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [directory, management, http, tls] =
            held.each_ref().map(|listener| listener.local_addr().unwrap().port());
        Self { directory, management, http, tls }
    }
}

/// certbot, with all that it keeps in a directory of its own.
#[derive(Debug)]
pub struct Certbot<'a> {
    pebble: &'a Pebble,
    dir: TestDir,
}

impl<'a> Certbot<'a> {
    /// A certbot that has a certificate for `localhost`, by an account that it made for it.
    ///
    /// # Panics
    /// When it gets none, with what it said.
    pub fn certonly(pebble: &'a Pebble) -> Self {
        let certbot = Self { pebble, dir: TestDir::new().unwrap() };
        let server = format!("https://localhost:{}/dir", pebble.ports.directory);
        let port = pebble.ports.http.to_string();
        certbot.run(&[
            "certonly",
            "--standalone",
            "--http-01-address=127.0.0.1",
            "--http-01-port",
            &port,
            "--domain=localhost",
            "--server",
            &server,
            "--agree-tos",
            "--register-unsafely-without-email",
        ]);
        certbot
    }

    /// `certbot renew`, although it is not time yet, with this in its line.
    ///
    /// # Panics
    /// When it does not renew, with what it said.
    pub fn renew(&self, more: &[&str]) {
        // By itself it waits for minutes, so that not everybody comes at once.
        self.run(&[&["renew", "--force-renewal", "--no-random-sleep-on-renew"], more].concat());
    }

    /// The link to the certificate and its intermediates.
    pub fn fullchain(&self) -> PathBuf {
        self.dir.join("config/live/localhost/fullchain.pem")
    }

    /// The link to the key.
    pub fn privkey(&self) -> PathBuf {
        self.dir.join("config/live/localhost/privkey.pem")
    }

    #[track_caller]
    fn run(&self, line: &[&str]) {
        let mut command = Command::new(tool::find("certbot").expect("the test has asked for certbot"));
        command.args(line).args([
            "--non-interactive",
            "--config-dir=config",
            "--work-dir=work",
            "--logs-dir=logs",
        ]);
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).env("NO_PROXY", "localhost");
        // Whom it trusts as an ACME server.
        command.env("REQUESTS_CA_BUNDLE", self.pebble.dir.join("ca.pem"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "certbot {}: {said}\n{}",
            line.join(" "),
            self::said(&self.pebble.dir)
        );
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn said(dir: &TestDir) -> String {
    let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
    read("stdout") + &read("stderr")
}
