//! `certsource get` against a small HTTPS server.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use certsource_testkit::{Ca, Issued, KubeletDir, TestDir};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Running, assert_ts, run};

/// One request on each connection; `/missing` is a 404. It lives as long as the test binary.
struct Server {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Server {
    fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config));
        let current = Arc::clone(&config);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let config = Arc::clone(&current.lock().unwrap());
                // A client that refuses us is an error here, and right.
                thread::spawn(move || drop(answer(stream, config)));
            }
        });
        Self { address, config }
    }

    fn set(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.address.port())
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let status = if first.contains(" /missing ") { "404 Not Found" } else { "200 OK" };
    let stream = stream.get_mut();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n")?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// With `clients`, a certificate of that CA is demanded.
fn config(issued: &Issued, clients: Option<&Ca>) -> Arc<ServerConfig> {
    let provider = certsource_rustls::default_provider().unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.certificate_der()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap(),
            )
        }
    };
    Arc::new(builder.with_single_cert(issued.chain_der(), issued.key_der()).unwrap())
}

fn get(url: &str, ca: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["get".into(), url.into(), "--ca".into(), ca.into()];
    args.extend(more.iter().map(OsString::from));
    args
}

struct Stage {
    server: Server,
    dir: TestDir,
    ca: Ca,
}

impl Stage {
    fn new() -> Self {
        let (dir, ca) = (TestDir::new().unwrap(), Ca::new("a"));
        dir.write("ca.pem", ca.certificate_pem()).unwrap();
        Self { server: Server::start(config(&ca.issue("localhost"), None)), dir, ca }
    }

    fn ca_path(&self) -> std::path::PathBuf {
        self.dir.join("ca.pem")
    }
}

#[test]
fn one_request_is_its_body() {
    let stage = Stage::new();
    let got = run(get(&stage.server.url("/"), &stage.ca_path(), &[]));
    assert_eq!((got.code, &*got.stdout), (Some(0), "hello\n"), "{}", got.stderr);
    assert!(got.error_line().starts_with("HTTP/1.1 200 OK generation 1 in "), "{}", got.stderr);

    let missing = run(get(&stage.server.url("/missing"), &stage.ca_path(), &[]));
    assert_eq!((missing.code, &*missing.stdout), (Some(1), "hello\n"));
    assert!(missing.error_line().contains(" 404 "), "{}", missing.stderr);
}

#[test]
fn one_request_as_json() {
    let stage = Stage::new();
    let got = run(get(&stage.server.url("/"), &stage.ca_path(), &["--format", "json"]));
    assert_eq!((got.code, &*got.stderr), (Some(0), ""));
    let lines = got.json();
    lines.iter().for_each(assert_ts);
    let [request, summary] = &lines[..] else { panic!("{}", got.stdout) };
    assert_eq!((&request["event"], &request["status"]), (&"request".into(), &200.into()));
    assert_eq!(request["generation"], 1);
    assert!(request["latency_us"].as_u64().unwrap() > 0);
    assert_eq!((&summary["event"], &summary["requests"]), (&"summary".into(), &1.into()));
    assert_eq!((&summary["failed"], &summary["reloads"]), (&0.into(), &0.into()));
}

#[test]
fn a_server_of_another_ca_is_refused_in_words() {
    let stage = Stage::new();
    stage.dir.write("other.pem", Ca::new("b").certificate_pem()).unwrap();
    let got = run(get(&stage.server.url("/"), &stage.dir.join("other.pem"), &[]));
    assert_eq!((got.code, &*got.stdout), (Some(1), ""));
    assert!(got.error_line().contains("UnknownIssuer"), "{}", got.stderr);

    let got =
        run(get(&stage.server.url("/"), &stage.dir.join("other.pem"), &["--count", "2", "--format", "json"]));
    assert_eq!((got.code, &*got.stderr), (Some(1), ""));
    let lines = got.json();
    assert!(lines[0]["error"].as_str().unwrap().contains("UnknownIssuer"), "{}", lines[0]);
    assert!(lines[0]["status"].is_null());
    assert_eq!((&lines[2]["requests"], &lines[2]["failed"]), (&2.into(), &2.into()));
}

#[test]
fn a_count_is_kept_with_any_concurrency() {
    let stage = Stage::new();
    for (concurrency, every) in [("1", None), ("7", None), ("3", Some("1ms"))] {
        let mut more = vec!["--count", "25", "--concurrency", concurrency, "--format", "json"];
        more.extend(every.iter().flat_map(|every| ["--every", every]));
        let got = run(get(&stage.server.url("/"), &stage.ca_path(), &more));
        assert_eq!(got.code, Some(0), "{}", got.stdout);
        let lines = got.json();
        assert_eq!(lines.len(), 26);
        let summary = lines.last().unwrap();
        assert_eq!((&summary["event"], &summary["requests"]), (&"summary".into(), &25.into()));
    }
}

#[test]
fn a_duration_ends_it() {
    let stage = Stage::new();
    let more = ["--every", "20ms", "--duration", "500ms"];
    let got = run(get(&stage.server.url("/"), &stage.ca_path(), &more));
    assert_eq!(got.code, Some(0), "{}", got.stdout);
    let last = got.stdout.lines().last().unwrap();
    assert!(last.contains(" requests, 0 failed, 0 reloads in "), "{last}");
    assert!(got.took >= Duration::from_millis(500));
    assert!(
        got.stdout.lines().all(|line| line.contains("Z request 200 OK ") || line == last),
        "{}",
        got.stdout
    );
}

/// CA, server certificate and identity rotate while requests go on; a signal ends it.
#[cfg(unix)]
#[test]
fn requests_go_on_while_the_files_rotate() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let volume = KubeletDir::new(old.issue("client")).unwrap();
    let server = Server::start(config(&old.issue("localhost"), Some(&old)));
    let mut args: Vec<OsString> = vec!["get".into(), server.url("/").into()];
    args.extend(["--kubernetes".into(), volume.path().into()]);
    args.extend(["--every", "5ms", "--interval", "20ms", "--format", "json"].map(OsString::from));
    let mut running = Running::start(args);
    assert_eq!(running.event("request")["status"], 200);

    // Both are trusted, then everything is of the new CA, then the old one goes.
    let both = old.certificate_pem() + &new.certificate_pem();
    volume.swap_all(both, old.issue("client")).unwrap();
    assert_eq!(running.event("reloaded")["generation"], 2);
    server.set(config(&new.issue("localhost"), Some(&old)));
    volume.swap_all(new.certificate_pem(), old.issue("client")).unwrap();
    assert_eq!(running.event("reloaded")["generation"], 3);
    loop {
        let request = running.event("request");
        assert_eq!(request["status"], 200, "{request}");
        if request["generation"] == 3 {
            break;
        }
    }
    running.signal(rustix::process::Signal::INT);
    let summary = running.event("summary");
    assert_eq!((&summary["failed"], &summary["reloads"]), (&0.into(), &2.into()));
    assert_eq!(running.finish().code, Some(0));
}

/// A request that waits for a handshake moves to the newer certificates: it is told with their number.
#[cfg(unix)]
#[test]
fn a_request_that_moved_is_told_with_the_newer_generation() {
    let ca = Ca::new("a");
    let volume = KubeletDir::new(ca.issue("client")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let mut args: Vec<OsString> = vec!["get".into(), url.into(), "--kubernetes".into(), volume.path().into()];
    args.extend(["--count", "1", "--interval", "20ms", "--format", "json"].map(OsString::from));
    let mut running = Running::start(args);
    // Nobody answers it.
    let (held, _) = listener.accept().unwrap();
    volume.swap(ca.issue("client")).unwrap();
    assert_eq!(running.event("reloaded")["generation"], 2);
    let (stream, _) = listener.accept().unwrap();
    answer(stream, config(&ca.issue("localhost"), Some(&ca))).unwrap();
    let request = running.event("request");
    assert_eq!((&request["status"], &request["generation"]), (&200.into(), &2.into()));
    drop(held);
    assert_eq!(running.finish().code, Some(0));
}

#[test]
fn files_that_cannot_be_loaded_are_one_line() {
    let dir = TestDir::new().unwrap();
    let got = run(get("https://127.0.0.1:1/", &dir.join("missing.pem"), &[]));
    assert_eq!((got.code, &*got.stdout), (Some(2), ""));
    assert!(got.error_line().ends_with("[not_found]"), "{}", got.stderr);
    // The system's roots are not a default.
    let got = run(["get", "https://127.0.0.1:1/"]);
    assert_eq!(got.code, Some(2));
    assert!(got.error_line().contains("--ca"), "{}", got.stderr);
}

#[test]
fn a_server_that_is_not_there_is_one_line() {
    let stage = Stage::new();
    // Nobody is given this port by port 0. One that was free a moment ago may be another test's now.
    let got = run(get("https://127.0.0.1:1/", &stage.ca_path(), &[]));
    assert_eq!((got.code, &*got.stdout), (Some(1), ""));
    let line =
        "error: cannot connect to 127.0.0.1:1: connection refused; is it running, and is this its address";
    assert!(got.error_line().starts_with(line), "{}", got.stderr);
    drop(stage.ca);
}

/// With and without a connection of its own: the server and what to do, and no part of the program.
#[test]
fn what_a_server_does_wrong_is_told_with_what_to_do() {
    let stage = Stage::new();
    let other = Server::start(config(&stage.ca.issue("other.example"), None));
    let demanding = Server::start(config(&stage.ca.issue("localhost"), Some(&stage.ca)));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let of_plain = plain.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in plain.incoming().map_while(Result::ok) {
            // Whether somebody reads it is not asked.
            let _ = stream.write_all(b"220 mail.example ready\r\n");
        }
    });
    for (address, timeout, parts) in [
        (other.address, "30s", ["we refuse", "use a name in the URL that its certificate holds"]),
        (demanding.address, "30s", ["it sent the alert certificate_required", "--cert and --key"]),
        (silent.local_addr().unwrap(), "500ms", ["no answer from", "within 500ms (--timeout)"]),
        (of_plain, "30s", ["does not speak TLS as we do", "is this its TLS port?"]),
    ] {
        for more in [&["--timeout", timeout][..], &["--timeout", timeout, "-v"]] {
            let got = run(get(&format!("https://{address}/"), &stage.ca_path(), more));
            assert_eq!((got.code, &*got.stdout), (Some(1), ""), "{more:?}");
            let line = got.stderr.lines().last().unwrap();
            assert!(line.starts_with("error: ") && line.contains(&address.to_string()), "{more:?}: {line}");
            assert!(parts.iter().all(|part| line.contains(part)), "{more:?}: {line}");
            assert!(!line.contains("client error") && !line.contains("sending request"), "{more:?}: {line}");
        }
    }
}
