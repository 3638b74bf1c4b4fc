//! A real OpenBao with its PKI engine, and its agents: they fetch certificates of seconds and write them into files.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use certsource_testkit::TestDir;
use serde_json::Value;

use crate::guard::Guarded;
use crate::openssl::Minted;
use crate::{serial, tool, until};

const TOKEN: &str = "root";
const ENV: &str = "/usr/bin/env";

/// How long a client's certificate is valid.
pub const TTL: Duration = Duration::from_secs(10);

/// How long OpenBao lends it. An agent fetches the next one when 85 to 95 % of that have passed, and this share can not
/// be set. So with a lease as long as the certificate, one of 10 s would be replaced half a second before its end, or
/// after it; whoever has certificates of hours has minutes there.
pub const LEASE: Duration = Duration::from_secs(6);

/// A running `bao server -dev`, with the role `client` for [`TTL`].
#[derive(Debug)]
pub struct OpenBao {
    // Ends before its directory goes.
    _guard: Guarded,
    dir: TestDir,
    address: SocketAddr,
    root: String,
}

/// A running `bao agent`.
#[derive(Debug)]
pub struct Agent {
    // Ends before its directory goes.
    guard: Guarded,
    dir: TestDir,
}

impl OpenBao {
    /// Starts it, and makes its root and its roles.
    ///
    /// # Panics
    /// When it does not start or refuses something, with what it said.
    pub fn start() -> Self {
        let dir = TestDir::new().unwrap();
        // It does not say which port it was given. Another program may take this one first; then there is another try.
        let started = (0..5).find_map(|_| {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            Some((Self::listen(&dir, free)?, free))
        });
        let Some((guard, address)) = started else { panic!("bao does not start: {}", said(&dir)) };
        let mut bao = Self { _guard: guard, dir, address, root: String::new() };
        bao.run(&["secrets", "enable", "-max-lease-ttl=48h", "pki"]);
        let root = ["common_name=OpenBao root", "key_type=ec", "key_bits=256", "ttl=48h"];
        let generate = ["pki", "root", "generate", "internal"].join("/");
        bao.root = text(&bao.write(&generate, &root), "certificate");
        let server =
            ["allow_localhost=true", "client_flag=false", "key_type=ec", "key_bits=256", "max_ttl=1h"];
        bao.write("pki/roles/server", &server);
        let ttl = format!("ttl={}s", TTL.as_secs());
        let client = [
            "allowed_domains=client.test",
            "allow_bare_domains=true",
            "server_flag=false",
            "key_type=ec",
            "key_bits=256",
            "generate_lease=true",
            &ttl,
            &format!("max_{ttl}"),
        ];
        bao.write("pki/roles/client", &client);
        let web = [
            "allowed_domains=example.org",
            "allow_subdomains=true",
            "key_type=ec",
            "key_bits=256",
            "max_ttl=24h",
        ];
        bao.write("pki/roles/web", &web);
        bao
    }

    fn listen(dir: &TestDir, address: SocketAddr) -> Option<Guarded> {
        let listen = format!("-dev-listen-address={address}");
        let token = format!("-dev-root-token-id={TOKEN}");
        let line = ["server", "-dev", "-dev-no-store-token", &listen, &token];
        let guard = bao(dir.path(), &line);
        // The port above, which is for other members of a cluster, may be taken as well: it goes on without.
        let taken = format!("listen tcp {address}: bind: address already in use");
        let is_up = until("OpenBao to start or to give up", || {
            let log = said(dir);
            let is_up = log.contains("OpenBao server started!");
            (is_up || log.contains(&taken)).then_some(is_up)
        });
        is_up.then_some(guard)
    }

    /// The certificate of its root.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A certificate for a server on this machine, valid for an hour.
    ///
    /// # Panics
    /// When it is refused.
    pub fn server(&self) -> Minted {
        let issued = self.write("pki/issue/server", &["common_name=localhost", "ttl=1h"]);
        Minted {
            certificate: text(&issued, "certificate"),
            key: text(&issued, "private_key"),
            serial: serial::plain(&text(&issued, "serial_number")),
        }
    }

    /// An agent that renders these files, each from a template of its own: what it says of `.Data` of a new
    /// certificate. It returns when all are there.
    ///
    /// # Panics
    /// When they do not come, with what the agent said.
    pub fn agent(&self, files: &[(&str, &str)]) -> Agent {
        // From here on what is lent is lent for so long: the server's certificate was not.
        self.run(&["secrets", "tune", &format!("-max-lease-ttl={}s", LEASE.as_secs()), "pki"]);
        let dir = TestDir::new().unwrap();
        let mut templates = String::new();
        let files: Vec<_> =
            files.iter().map(|(name, template)| (dir.join("tls").join(name), template)).collect();
        for (path, template) in &files {
            // The same call in each template: one certificate for all of them.
            let template = format!(
                r#"{{{{ with secret "pki/issue/client" "common_name=client.test" }}}}{template}{{{{ end }}}}"#
            );
            writeln!(
                templates,
                "template {{\ncontents = {template:?}\ndestination = {path:?}\nperms = \"0600\"\n}}"
            )
            .unwrap();
        }
        self.agent_in(dir, &templates, &files.into_iter().map(|(path, _)| path).collect::<Vec<_>>())
    }

    /// An agent with these `template` blocks, as an administrator writes them, which render this file. In them,
    /// `pki/issue/web` issues for names below `example.org`, for a day at the most.
    ///
    /// # Panics
    /// When the file does not come.
    pub fn agent_of(&self, templates: impl FnOnce(&Path) -> String) -> (Agent, PathBuf) {
        let dir = TestDir::new().unwrap();
        let file = dir.join("tls/web.pem");
        let templates = templates(&file);
        (self.agent_in(dir, &templates, std::slice::from_ref(&file)), file)
    }

    fn agent_in(&self, dir: TestDir, templates: &str, files: &[PathBuf]) -> Agent {
        let token = dir.write("token", TOKEN).unwrap();
        let config = format!(
            "vault {{ address = \"http://{}\" }}\n\
             auto_auth {{ method \"token_file\" {{ config = {{ token_file_path = {token:?} }} }} }}\n{templates}",
            self.address
        );
        dir.write("agent.hcl", config).unwrap();
        let guard = bao(dir.path(), &["agent", "-config=agent.hcl"]);
        let agent = Agent { guard, dir };
        until("the agent's files", || files.iter().all(|path| path.exists()).then_some(()));
        agent
    }

    fn write(&self, path: &str, fields: &[&str]) -> Value {
        let said = self.run(&[&["write", "-format=json", path], fields].concat());
        serde_json::from_str(&said).unwrap()
    }

    fn run(&self, line: &[&str]) -> String {
        let variables = [format!("BAO_ADDR=http://{}", self.address), format!("BAO_TOKEN={TOKEN}")];
        let mut command = Command::new(ENV);
        command.args(bare(self.dir.path(), &variables, line)).current_dir(self.dir.path());
        let output = command.output().unwrap();
        let refusal = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bao {}: {refusal}", line.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Agent {
    /// The directory with its files.
    pub fn path(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        said(&self.dir)
    }

    /// Ends it. Its files stay.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) {
        self.guard.stop().unwrap();
    }
}

fn bao(dir: &Path, line: &[&str]) -> Guarded {
    Guarded::start(Path::new(ENV), bare(dir, &[], line), dir, &[], None)
}

/// What makes `env` run `bao` with this line and these variables, and with no other one that tells it of another server.
fn bare(dir: &Path, variables: &[String], line: &[&str]) -> Vec<String> {
    let program = tool::find("bao").expect("the test has asked for bao");
    // What finds `bao` may be a script, which needs programs itself.
    let path = format!("PATH={}", std::env::var("PATH").unwrap_or_default());
    let mut all = vec!["-i".to_owned(), format!("HOME={}", dir.display()), path];
    all.extend_from_slice(variables);
    all.push(program.display().to_string());
    all.extend(line.iter().map(|&part| part.to_owned()));
    all
}

fn said(dir: &TestDir) -> String {
    let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
    read("stdout") + &read("stderr")
}

fn text(answer: &Value, field: &str) -> String {
    match answer["data"][field].as_str() {
        // It leaves out the end of the last line.
        Some(text) if text.starts_with("-----BEGIN ") => format!("{}\n", text.trim_end()),
        Some(text) => text.to_owned(),
        None => panic!("no {field} in the answer"),
    }
}
