//! Our server, and clients that owe nothing to us: curl and `openssl s_client`. A client CA is withdrawn, and then nobody of it
//! gets a request through: not by a new handshake, not by a session that was stored, not on a connection that is open.
//! `CERTSOURCE_ATTEMPTS` says how many attempts there are after it; 10,000 is the full size. Client authentication, ALPN and
//! the choice of an identity by name are looked at after the first, the second and the hundredth reload. The server that people
//! write by hand goes through the same withdrawal, and lets the withdrawn client in.
//! needs: curl openssl
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use certsource::machine::Policy;
use certsource_client::Files;
use certsource_hyper::{Peer, TlsListener, serve};
use certsource_reload::Reloader;
use certsource_rustls::rustls::ALL_VERSIONS;
use certsource_rustls::{ClientAuth, TlsGate};
use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};
use certsource_tests::host::App;
use certsource_tests::naive_server::NaiveServer;
use certsource_tests::{BOUND, size, tool};

/// One in so many attempts is by a stored session, and so by a process of its own.
const STORED: u64 = 5;
/// Connections that are open when the CA goes: each is a process. One for twenty attempts, up to this.
const MOST_OPEN: u64 = 100;
/// Requests of one curl.
const BATCH: u64 = 50;

/// A server, and what it saw.
struct Server {
    dir: KubeletDir,
    reloader: Reloader,
    second: Reloader,
    second_dir: KubeletDir,
    address: SocketAddr,
    /// Requests that reached the application, of clients of the CA that goes.
    of_gone: Arc<AtomicU64>,
    runtime: tokio::runtime::Runtime,
}

fn follow(dir: &KubeletDir) -> Reloader {
    let mut policy = Policy::every(Duration::from_secs(3600));
    policy.settle = Duration::from_millis(50);
    let files = Files::kubernetes(dir.path());
    Reloader::builder(files).policy(policy).gate(TlsGate::new().unwrap()).start().unwrap()
}

impl Server {
    fn start(trust: [&str; 2], identity: &Issued, second: &Issued, gone: &Issued) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (dir, second_dir) = (KubeletDir::new(identity).unwrap(), KubeletDir::new(second).unwrap());
        dir.swap_all(trust[0], identity).unwrap();
        second_dir.swap_all(trust[1], second).unwrap();
        let (reloader, second) = (follow(&dir), follow(&second_dir));
        let (of_gone, leaf) = (Arc::new(AtomicU64::new(0)), gone.leaf_der());
        let count = Arc::clone(&of_gone);
        let app = Router::new().route(
            "/",
            get(move |Extension(peer): Extension<Peer>| async move {
                if peer.certificates().is_some_and(|chain| chain[0] == leaf) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                "ok\n"
            }),
        );
        let address = runtime.block_on(async {
            let builder = TlsListener::builder(&reloader).client_auth(ClientAuth::Required);
            let listener = builder.identity_for(["b.test"], &second).bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, app).into_future());
            address
        });
        Self { dir, reloader, second, second_dir, address, of_gone, runtime }
    }

    fn set(&self, trust: &str, identity: &Issued) {
        self.dir.swap_all(trust, identity).unwrap();
        self.runtime.block_on(self.reloader.reload()).unwrap();
    }

    /// At `b.test`.
    fn set_second(&self, trust: &str, identity: &Issued) {
        self.second_dir.swap_all(trust, identity).unwrap();
        self.runtime.block_on(self.second.reload()).unwrap();
    }
}

/// A client's files.
struct Client {
    dir: TestDir,
    address: SocketAddr,
    version: &'static str,
    /// That it is asked for.
    name: &'static str,
    shows_certificate: bool,
}

impl Client {
    fn new(server_ca: &Ca, identity: &Issued, address: SocketAddr, version: &'static str) -> Self {
        let dir = TestDir::new().unwrap();
        dir.write("ca.pem", server_ca.certificate_pem()).unwrap();
        dir.write("client.pem", identity.chain_pem()).unwrap();
        dir.write("client.key", identity.key_pem()).unwrap();
        Self { dir, address, version, name: "localhost", shows_certificate: true }
    }

    /// So many requests by one curl; the answers, `000` where there is none.
    fn curl(&self, requests: u64) -> Vec<String> {
        let mut curl = Command::new(tool::find("curl").unwrap());
        curl.current_dir(self.dir.path()).args(["--silent", "--noproxy", "*", "--max-time", "30"]);
        curl.args(["--cacert", "ca.pem"]);
        if self.shows_certificate {
            curl.args(["--cert", "client.pem", "--key", "client.key"]);
        }
        curl.args(match self.version {
            "-tls1_2" => ["--tlsv1.2", "--tls-max", "1.2"],
            _ => ["--tlsv1.3", "--tls-max", "1.3"],
        });
        let resolve = format!("{}:{}:127.0.0.1", self.name, self.address.port());
        curl.args(["--resolve", &resolve, "--write-out", "%{http_code}\n"]);
        let url = format!("https://{}:{}/", self.name, self.address.port());
        for _ in 0..requests {
            curl.args(["--output", "/dev/null", &url]);
        }
        let said = curl.output().unwrap();
        String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
    }

    fn s_client(&self, more: &[&str]) -> Command {
        let mut command = Command::new(tool::find("openssl").unwrap());
        command.current_dir(self.dir.path()).args(["s_client", "-connect", &self.address.to_string()]);
        command
            .args([self.version, "-CAfile", "ca.pem", "-cert", "client.pem", "-key", "client.key"])
            .args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// A connection by `s_client` with one request, and all that it says.
    fn ask(&self, more: &[&str]) -> String {
        let mut child = self.s_client(&[&["-ign_eof"], more].concat()).spawn().unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        // A server that refuses may be gone before this is written.
        let _ = child.stdin.take().unwrap().write_all(request);
        let said = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}

/// A connection of `s_client` that stays open.
struct Open {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Open {
    fn new(client: &Client) -> Self {
        let mut child = client.s_client(&["-quiet"]).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// A request: the first line of the answer, if there is one.
    fn get(&mut self) -> Option<String> {
        let input = self.input.as_mut()?;
        input.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").and_then(|()| input.flush()).ok()?;
        // The end of the program ends the lines.
        std::iter::from_fn(|| self.lines.recv_timeout(BOUND).ok()).find(|line| line.starts_with("HTTP/1.1 "))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn withdraw(version: &'static str) {
    if !tool::are_here(&["curl", "openssl"]) {
        return;
    }
    let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
    let (kept, withdrawn) = (ca.issue("kept"), gone.issue("withdrawn"));
    let both = ca.certificate_pem() + &gone.certificate_pem();
    let server = Server::start([&both; 2], &ca.issue("localhost"), &ca.issue("b.test"), &withdrawn);
    let kept = Client::new(&ca, &kept, server.address, version);
    let goes = Client::new(&ca, &withdrawn, server.address, version);

    // It is let in, its connection is used again, and its session is resumed.
    assert_eq!(goes.curl(10), vec!["200"; 10]);
    assert!(goes.ask(&["-sess_out", "session.pem"]).contains("200 OK"));
    let resumed = goes.ask(&["-sess_in", "session.pem"]);
    assert!(resumed.contains("Reused, TLSv1") && resumed.contains("200 OK"), "{resumed}");
    let (attempts, mut tried, mut accepted) = (size("CERTSOURCE_ATTEMPTS", 200), 0, 0);
    let mut open: Vec<_> = (0..(attempts / 20).min(MOST_OPEN)).map(|_| Open::new(&goes)).collect();
    for _ in 0..2 {
        for open in &mut open {
            assert_eq!(open.get().as_deref(), Some("HTTP/1.1 200 OK"));
        }
    }

    server.set(&ca.certificate_pem(), &ca.issue("localhost"));
    let before = server.of_gone.load(Ordering::SeqCst);
    for mut open in open {
        let answer = open.get();
        assert!(answer.as_deref().is_none_or(|line| line == "HTTP/1.1 403 Forbidden"), "{answer:?}");
        tried += 1;
    }
    while tried < attempts {
        for _ in 0..BATCH / STORED {
            let said = goes.ask(&["-sess_in", "session.pem"]);
            assert!(!said.contains("Reused, "), "{said}");
            accepted += u64::from(said.contains("200 OK"));
        }
        accepted += goes.curl(BATCH - BATCH / STORED).iter().filter(|code| *code == "200").count() as u64;
        tried += BATCH;
    }
    println!("{version}: {accepted} of {tried} accepted after the CA was withdrawn");
    assert_eq!(accepted, 0);
    assert_eq!(server.of_gone.load(Ordering::SeqCst), before, "the application saw one");
    assert_eq!(kept.curl(10), vec!["200"; 10]);
}

/// The control: the server that people write by hand, by the same steps.
fn by_hand(version: &'static str) {
    if !tool::are_here(&["curl", "openssl"]) {
        return;
    }
    let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
    let withdrawn = gone.issue("withdrawn");
    let dir = KubeletDir::from_dir(TestDir::new().unwrap());
    let own = ca.issue("localhost");
    dir.swap_all(ca.certificate_pem() + &gone.certificate_pem(), &own).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let app = App::default();
    let server = NaiveServer::start(dir.path(), ALL_VERSIONS, true, app.clone());
    let server = runtime.block_on(server).unwrap();
    let goes = Client::new(&ca, &withdrawn, server.address(), version);
    assert_eq!(goes.curl(2), ["200", "200"]);
    assert!(goes.ask(&["-sess_out", "session.pem"]).contains("200 OK"));
    let mut open = Open::new(&goes);
    assert_eq!(open.get().as_deref(), Some("HTTP/1.1 200 OK"));

    dir.swap_all(ca.certificate_pem(), &own).unwrap();
    assert!(server.poll_trust().unwrap());
    assert_eq!(goes.curl(2), ["000", "000"], "it refuses a handshake");
    let before = app.reached(&withdrawn);
    for _ in 0..5 {
        let said = goes.ask(&["-sess_in", "session.pem"]);
        assert!(said.contains("Reused, ") && said.contains("200 OK"), "a session is refused: {said}");
        assert_eq!(open.get().as_deref(), Some("HTTP/1.1 200 OK"), "the open connection is refused");
    }
    assert_eq!(app.reached(&withdrawn), before + 10);
    println!("{version}, by hand: 5 of 5 sessions and 5 of 5 requests on an open connection accepted");
}

#[test]
fn by_hand_the_withdrawn_client_ca_lets_its_clients_in_tls12() {
    by_hand("-tls1_2");
}

#[test]
fn by_hand_the_withdrawn_client_ca_lets_its_clients_in_tls13() {
    by_hand("-tls1_3");
}

#[test]
fn a_withdrawn_client_ca_lets_nobody_in_tls12() {
    withdraw("-tls1_2");
}

#[test]
fn a_withdrawn_client_ca_lets_nobody_in_tls13() {
    withdraw("-tls1_3");
}

/// Without what lines are ended by.
fn squeezed(pem: &str) -> String {
    pem.split_whitespace().collect()
}

/// The two names want clients of two CAs that change places at each reload.
#[test]
fn client_authentication_alpn_and_names_are_kept_and_certificates_are_new() {
    if !tool::are_here(&["curl", "openssl"]) {
        return;
    }
    let (ca, clients) = (Ca::new("CA"), [Ca::new("clients"), Ca::new("other clients")]);
    let issued: Vec<Issued> = clients.iter().map(|ca| ca.issue("client")).collect();
    let trust = clients.each_ref().map(Ca::certificate_pem);
    let (mut first, mut second) = (ca.issue("localhost"), ca.issue("b.test"));
    let server = Server::start([&trust[0], &trust[1]], &first, &second, &ca.issue("nobody"));
    for reload in 0..=100 {
        let (here, there) = (reload % 2, (reload + 1) % 2);
        if reload > 0 {
            (first, second) = (ca.issue("localhost"), ca.issue("b.test"));
            server.set(&trust[here], &first);
            server.set_second(&trust[there], &second);
        }
        if !matches!(reload, 0 | 1 | 2 | 100) {
            continue;
        }
        for version in ["-tls1_2", "-tls1_3"] {
            for (name, its, others, identity, protocols, chosen) in [
                ("localhost", here, there, &first, "h2,http/1.1", "h2"),
                ("b.test", there, here, &second, "http/1.1", "http/1.1"),
            ] {
                let client = |who: usize, shows_certificate| {
                    let client = Client::new(&ca, &issued[who], server.address, version);
                    Client { name, shows_certificate, ..client }
                };
                let known = client(its, true);
                assert_eq!(known.curl(2), ["200", "200"], "{reload} {name}");
                assert_eq!(client(others, true).curl(2), ["000", "000"], "{reload} {name}: a stranger");
                assert_eq!(client(its, false).curl(2), ["000", "000"], "{reload} {name}: nobody");
                let verify = ["-verify_return_error", "-verify_hostname", name];
                let line = [&["-servername", name, "-alpn", protocols][..], &verify].concat();
                let mut child = known.s_client(&line).spawn().unwrap();
                child.stdin.take().unwrap().write_all(b"Q\n").unwrap();
                let said = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&said.stdout);
                assert!(said.contains(&format!("ALPN protocol: {chosen}")), "{reload} {name}: {said}");
                assert!(said.contains("Verify return code: 0 (ok)"), "{reload} {name}: {said}");
                let is_last_issued = squeezed(&said).contains(&squeezed(&identity.leaf_pem()));
                assert!(is_last_issued, "{reload} {name}: {said}");
            }
        }
    }
}
