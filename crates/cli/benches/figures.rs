//! The program's figures: `cargo bench -p certsource-cli`. Ends with 1 when one is above its limit.
//!
//! * `inspect` of a directory with 10,000 certificates, beside bare reads and x509-parser over the same files in the
//!   same run: at most twice that;
//! * a scrape of 10,000 certificates: at most 50 ms;
//! * `check` of one file, from start to end: at most 10 ms;
//! * the size of the program.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark talks to its reader, and may panic"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use certsource_testkit::{Ca, TestDir};

const CERTIFICATES: usize = 10_000;
const ROUNDS: usize = 7;
const PROGRAM: &str = env!("CARGO_BIN_EXE_certsource");

fn main() -> ExitCode {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root");
    let first = ca.issue("leaf-0.example.org");
    for at in 0..CERTIFICATES {
        // One key for all: making keys is not what is measured.
        let issued = ca.leaf(&format!("leaf-{at}.example.org")).with_key_of(&first).issue();
        dir.write(format!("certs/{at:05}.pem"), issued.leaf_pem()).unwrap();
    }
    let certs = dir.join("certs");
    let one = certs.join("00000.pem");
    let mut is_good = true;

    // In turns, so that what else the machine does falls on both.
    let (mut bare, mut text, mut json) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(timed(|| assert_eq!(parse_all(&certs), CERTIFICATES)));
        text.push(timed(|| run(&["inspect".as_ref(), certs.as_os_str()])));
        json.push(timed(|| run(&["inspect".as_ref(), "--format=json".as_ref(), certs.as_os_str()])));
    }
    let (bare, text, json) = (median(bare), median(text), median(json));
    println!("bare reads and x509-parser, {CERTIFICATES} files   {bare:>10.1?}");
    for (name, took) in [("inspect, a table", text), ("inspect, JSON", json)] {
        let ratio = took.as_secs_f64() / bare.as_secs_f64();
        println!("{name:<40} {took:>10.1?}   {ratio:.2} times   (limit 2)");
        is_good &= ratio <= 2.0;
    }

    let scrape = scrape(&certs);
    println!("scrape of {CERTIFICATES} certificates             {scrape:>10.1?}   (limit 50 ms)");
    is_good &= scrape <= Duration::from_millis(50);

    let check = median(
        (0..50)
            .map(|_| timed(|| run(&["check".as_ref(), "--expires-in=1d".as_ref(), one.as_os_str()])))
            .collect(),
    );
    println!("check of one file, start to end          {check:>10.1?}   (limit 10 ms)");
    is_good &= check <= Duration::from_millis(10);

    let size = std::fs::metadata(PROGRAM).unwrap().len() as f64 / (1024.0 * 1024.0);
    println!("size of the program                      {size:>7.1} MiB");
    ExitCode::from(u8::from(!is_good))
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn run(args: &[&std::ffi::OsStr]) {
    let status = Command::new(PROGRAM).args(args).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// The least that anybody must do: list, read, decode, parse.
fn parse_all(directory: &Path) -> usize {
    let mut parsed = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for pem in x509_parser::pem::Pem::iter_from_buffer(&bytes) {
            let pem = pem.unwrap();
            let certificate = pem.parse_x509().unwrap();
            assert!(certificate.validity().not_after.timestamp() > 0);
            parsed += 1;
        }
    }
    parsed
}

/// From the first byte of the request to the last of the answer.
fn scrape(certs: &Path) -> Duration {
    let mut exporter = Command::new(PROGRAM)
        .args(["exporter", "--listen", "127.0.0.1:0"])
        .arg(certs)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(exporter.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().strip_suffix("/metrics").unwrap();
    let scrape = |_| {
        let mut answer = Vec::with_capacity(16 << 20);
        let took = timed(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
            stream.read_to_end(&mut answer).unwrap();
        });
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.matches("\nx509_cert_not_after{").count(), CERTIFICATES);
        took
    };
    let times = median((0..20).map(scrape).collect());
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    times
}
