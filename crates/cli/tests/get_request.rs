//! `certsource get`: what a request is made of, where its answer goes, and what -v shows of its handshake.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::path::PathBuf;

use certsource::Fingerprint;
use certsource_testkit::{Ca, TestDir};

use crate::common::server::{Server, config};
use crate::common::{Finished, run, run_with};

struct Stage {
    dir: TestDir,
    ca: PathBuf,
    server: Server,
    print: String,
}

impl Stage {
    fn new() -> Self {
        let dir = TestDir::new().unwrap();
        let ca = Ca::new("Example root");
        let path = dir.write("ca.pem", ca.certificate_pem()).unwrap();
        let issued = ca.intermediate("Example issuing CA").issue("localhost");
        let server = Server::start(config(&issued, &[]), "x-seen: yes\r\n");
        Self { dir, ca: path, server, print: Fingerprint::of(&issued.leaf_der()).to_string() }
    }

    fn args<'a>(&'a self, url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        ["get", url, "--ca", self.ca.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect()
    }

    fn get(&self, more: &[&str]) -> Finished {
        run(self.args(&self.server.url(), more))
    }
}

#[test]
fn method_headers_and_body_are_sent() {
    let stage = Stage::new();
    for verbose in [&[][..], &["-v"]] {
        let more = [&["-X", "PUT", "-H", "X-A: one", "-H", "x-b:two", "-d", "hello=world"], verbose].concat();
        assert_eq!(stage.get(&more).code, Some(0));
        let request = stage.server.requests().pop().unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("PUT / HTTP/1.1\r\n"), "{head}");
        let lower = head.to_ascii_lowercase();
        for line in [
            "x-a: one",
            "x-b: two",
            "content-type: application/x-www-form-urlencoded",
            "content-length: 11",
            "host: localhost:",
        ] {
            assert!(lower.contains(line), "{line}: {head}");
        }
        assert_eq!(body, "hello=world");
    }
    let file = stage.dir.write("body.json", "{}").unwrap();
    let data = format!("@{}", file.display());
    assert_eq!(stage.get(&["-d", &data, "-H", "Content-Type: application/json"]).code, Some(0));
    let request = stage.server.requests().pop().unwrap();
    assert!(request.starts_with("POST / ") && request.ends_with("\r\n\r\n{}"), "{request}");
    assert!(!request.contains("urlencoded"), "{request}");

    assert_eq!(run_with(stage.args(&stage.server.url(), &["-d", "@-"]), b"from stdin").code, Some(0));
    assert!(stage.server.requests().pop().unwrap().ends_with("from stdin"));
}

#[test]
fn the_answer_goes_to_a_file() {
    let stage = Stage::new();
    let out = stage.dir.join("out");
    for more in [&[][..], &["-v"], &["--format=json"]] {
        let shown = stage.get(&[&["-o", out.to_str().unwrap()], more].concat());
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "hello\n");
        assert_eq!(shown.stdout.is_empty(), more != ["--format=json"], "{}", shown.stdout);
    }
    let before = stage.server.requests().len();
    let none = stage.get(&["-o", "/no/such/directory/out"]);
    assert_eq!(none.code, Some(2));
    assert!(
        none.error_line().starts_with("error: /no/such/directory/out: cannot write the body"),
        "{}",
        none.stderr
    );
    assert_eq!(stage.server.requests().len(), before, "nothing was asked for");
}

#[test]
fn the_handshake_is_shown() {
    let stage = Stage::new();
    let shown = stage.get(&["-v"]);
    assert_eq!((shown.code, &*shown.stdout), (Some(0), "hello\n"));
    let lines: Vec<_> = shown.stderr.lines().collect();
    assert!(
        lines[0].starts_with("* connected to 127.0.0.1:") || lines[0].starts_with("* connected to [::1]:"),
        "{}",
        lines[0]
    );
    assert!(
        lines[0].contains(", TLSv1.3 TLS13_") && lines[0].contains(" http/1.1, full handshake in "),
        "{}",
        lines[0]
    );
    assert_eq!(lines[1], "* our certificates: generation 1");
    assert!(
        lines[2].starts_with("* server: CN=localhost, issued by CN=Example issuing CA, until "),
        "{}",
        lines[2]
    );
    assert!(lines[2].ends_with(&format!("sha256 {}", &stage.print[..16])), "{}", lines[2]);
    assert!(
        lines[3].starts_with("* server: CN=Example issuing CA, issued by CN=Example root"),
        "{}",
        lines[3]
    );
    assert!(
        lines.contains(&"> GET /")
            && lines.contains(&"< HTTP/1.1 200 OK")
            && lines.contains(&"< x-seen: yes"),
        "{lines:#?}"
    );

    // The second connection of a generation resumes the session of the first.
    let json = stage.get(&["-v", "--count=2", "--format=json"]).json();
    let tls: Vec<_> =
        json.iter().filter(|line| line["event"] == "request").map(|line| line["tls"].clone()).collect();
    assert_eq!(
        (tls[0]["resumed"].as_bool(), tls[1]["resumed"].as_bool()),
        (Some(false), Some(true)),
        "{json:#?}"
    );
    assert_eq!(tls[0]["chain"][0]["fingerprint"], stage.print);
    assert_eq!(tls[0]["alpn"], "http/1.1");
}

#[test]
fn a_repeated_run_ends_with_percentiles() {
    let stage = Stage::new();
    let shown = stage.get(&["--count=20"]);
    let last = shown.stdout.lines().last().unwrap();
    assert!(last.contains("20 requests, 0 failed, 0 reloads in "), "{last}");
    for word in ["p50 ", "p90 ", "p99 ", "p99.9 ", "at most "] {
        assert!(last.contains(word), "{last}");
    }
    assert_eq!(shown.stdout.lines().count(), 21, "a line each where it is no terminal");
    let json = stage.get(&["--count=3", "--format=json"]).json();
    let summary = json.last().unwrap();
    let micros = |name: &str| summary[name].as_u64().unwrap();
    assert!(
        micros("latency_us_p50") <= micros("latency_us_p90")
            && micros("latency_us_p99") <= micros("latency_us_p999")
    );
    assert!(micros("latency_us_p999") <= micros("latency_us_max"));
}

#[test]
fn what_is_wrong_is_one_line() {
    let stage = Stage::new();
    for more in
        [&["-H", "no colon"][..], &["-X", "P T"], &["-d", "@/no/such/file"], &["-o", "x", "--count=2"]]
    {
        let shown = stage.get(more);
        assert_eq!((shown.code, &*shown.stdout), (Some(2), ""), "{more:?}");
        assert!(shown.error_line().starts_with("error: "), "{}", shown.stderr);
    }
    // A server of another CA, with -v: refused in words, as without.
    let other = stage.dir.write("other.pem", Ca::new("other").certificate_pem()).unwrap();
    let url = stage.server.url();
    let refused = run(["get", &url, "-v", "--ca", other.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.error_line().contains("UnknownIssuer"), "{}", refused.stderr);
}
