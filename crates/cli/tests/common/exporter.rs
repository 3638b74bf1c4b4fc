//! The exporter at work, and scrapes of it.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::{BOUND, Running};

pub(crate) struct Exporter {
    pub(crate) running: Running,
    address: String,
}

impl Exporter {
    #[track_caller]
    pub(crate) fn start(args: &[&OsStr]) -> Self {
        let first = ["exporter", "--listen", "127.0.0.1:0"].map(AsRef::<OsStr>::as_ref);
        let mut running = Running::start(first.into_iter().chain(args.iter().copied()));
        let line = running.line();
        let address =
            line.strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix("/metrics"));
        let address = address.expect(&line).to_owned();
        Self { running, address }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, &self.address)
    }

    pub(crate) fn metrics(&self) -> String {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        text
    }

    pub(crate) fn request(&self, method: &str, path: &str, host: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

/// The value of the first sample of this name whose labels hold all of these.
pub(crate) fn value(text: &str, name: &str, parts: &[&str]) -> Option<f64> {
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "))
        .find(|(labels, _)| parts.iter().all(|part| labels.contains(part)))
        .map(|(_, value)| value.parse().unwrap())
}
