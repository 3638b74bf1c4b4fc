//! The program's figures, for `cargo xtask bench`: a line of JSON each. By hand:
//! `cargo bench --profile release -p certsource-cli --bench figures`. Ends with 2 when `--only` names none of them.
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
use clap::Parser;

const CERTIFICATES: usize = 10_000;
const ROUNDS: usize = 7;
const PROGRAM: &str = env!("CARGO_BIN_EXE_certsource");

/// Measures the program, beside the bare alternative.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only figures with this in their name; may be given again
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_chosen =
        |id: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| id.contains(&**part));
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("Example root");
    let first = ca.issue("leaf-0.example.org");
    let many = if ["cli-inspect", "cli-inspect-json", "cli-scrape"].into_iter().any(is_chosen) {
        CERTIFICATES
    } else {
        1
    };
    for at in 0..many {
        // One key for all: making keys is not what is measured.
        let issued = ca.leaf(&format!("leaf-{at}.example.org")).with_key_of(&first).issue();
        dir.write(format!("certs/{at:05}.pem"), issued.leaf_pem()).unwrap();
    }
    let certs = dir.join("certs");
    let mut any = false;
    for (id, what, format) in [
        ("cli-inspect", "`inspect` of 10,000 certificates, a table", "--format=text"),
        ("cli-inspect-json", "`inspect` of 10,000 certificates, JSON", "--format=json"),
    ] {
        if is_chosen(id) {
            any = true;
            print(&inspect(id, what, format, &certs));
        }
    }
    if is_chosen("cli-scrape") {
        any = true;
        let took = scrape(&certs);
        print(&Row {
            id: "cli-scrape",
            what: "a scrape of 10,000 certificates from `exporter`",
            ours: milliseconds(took),
            bare: String::from("–"),
            result: milliseconds(took),
            bar: "≤ 50 ms",
            is_met: took <= Duration::from_millis(50),
            note: "median of 20; from the connect to the last byte of the answer",
        });
    }
    if is_chosen("cli-check") {
        any = true;
        let one = certs.join("00000.pem");
        let check = || run(&["check".as_ref(), "--expires-in=1d".as_ref(), one.as_os_str()]);
        let took = median((0..50).map(|_| timed(check)).collect());
        print(&Row {
            id: "cli-check",
            what: "`check` of one file, from start to end",
            ours: milliseconds(took),
            bare: String::from("–"),
            result: milliseconds(took),
            bar: "≤ 10 ms",
            is_met: took <= Duration::from_millis(10),
            note: "median of 50; a process each",
        });
    }
    if is_chosen("cli-size") {
        any = true;
        let size = std::fs::metadata(PROGRAM).unwrap().len() as f64 / (1024.0 * 1024.0);
        print(&Row {
            id: "cli-size",
            what: "the program, built for release",
            ours: format!("{size:.1} MiB"),
            bare: String::from("–"),
            result: format!("{size:.1} MiB"),
            bar: "reported",
            is_met: true,
            note: "without debug information; everything is in it, the demonstration too",
        });
    }
    if any { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// What `cargo xtask bench` reads: the same as the rows of the member `benches`.
struct Row {
    id: &'static str,
    what: &'static str,
    ours: String,
    bare: String,
    result: String,
    bar: &'static str,
    is_met: bool,
    note: &'static str,
}

fn print(row: &Row) {
    let row = serde_json::json!({
        "id": row.id,
        "what": row.what,
        "ours": row.ours,
        "bare": row.bare,
        "result": row.result,
        "bar": row.bar,
        "met": row.is_met,
        "note": row.note,
    });
    println!("{row}");
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

fn milliseconds(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1e3)
}

/// In turns with the bare alternative, so that what else the machine does falls on both.
fn inspect(id: &'static str, what: &'static str, format: &str, certs: &Path) -> Row {
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let theirs = timed(|| assert_eq!(parse_all(certs), CERTIFICATES));
        let took = timed(|| run(&["inspect".as_ref(), format.as_ref(), certs.as_os_str()]));
        ratios.push(took.as_secs_f64() / theirs.as_secs_f64());
        ours.push(took);
        bare.push(theirs);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    Row {
        id,
        what,
        ours: milliseconds(median(ours)),
        bare: milliseconds(median(bare)),
        result: format!("{ratio:.2} ×"),
        bar: "≤ 2 ×",
        is_met: ratio <= 2.0,
        note: "a process, beside bare reads and x509-parser over the same files in a thread of ours",
    }
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
