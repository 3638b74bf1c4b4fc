//! The files of one party, and what `doctor --connect` says with them.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::path::PathBuf;

use certsource_testkit::{Issued, TestDir};
use serde_json::Value;

use super::run;

/// Files, by the flags that name them.
pub(crate) struct Party {
    dir: TestDir,
    pub(crate) args: Vec<String>,
}

impl Party {
    pub(crate) fn new() -> Self {
        Self { dir: TestDir::new().unwrap(), args: Vec::new() }
    }

    pub(crate) fn with(mut self, flag: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.write(flag, content);
        self.args.extend([flag.to_owned(), path.to_str().unwrap().to_owned()]);
        self
    }

    /// Writes the file of this flag anew.
    pub(crate) fn write(&self, flag: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.write(format!("{}.pem", flag.trim_start_matches('-')), content).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    pub(crate) fn identity(self, issued: &Issued) -> Self {
        self.with("--cert", issued.chain_pem()).with("--key", issued.key_pem())
    }

    /// What it holds against the server at `HOST:PORT`.
    pub(crate) fn ask(&self, target: &str, more: &[&str]) -> Told {
        let first = ["doctor", "--format=json", "--connect", target].into_iter();
        let finished = run(first.chain(self.args.iter().map(String::as_str)).chain(more.iter().copied()));
        assert_eq!(finished.stderr, "", "{}", finished.stdout);
        let mut findings = finished.json();
        assert_eq!(findings.pop().unwrap()["event"], "summary");
        Told { code: finished.code, findings }
    }
}

/// Its exit code and its findings.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    findings: Vec<Value>,
}

impl Told {
    /// The likeliest cause.
    #[track_caller]
    pub(crate) fn first(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:#?}");
        self.findings[0]["code"].as_str().unwrap()
    }

    /// What to do about that.
    #[track_caller]
    pub(crate) fn advice(&self) -> &str {
        self.findings[0]["advice"].as_str().unwrap_or_else(|| panic!("{self:#?}"))
    }

    #[track_caller]
    pub(crate) fn is_fine(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    #[track_caller]
    pub(crate) fn message(&self, code: &str) -> &str {
        self.find(code)["message"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn level(&self, code: &str) -> &str {
        self.find(code)["level"].as_str().unwrap()
    }

    #[track_caller]
    fn find(&self, code: &str) -> &Value {
        let finding = self.findings.iter().find(|finding| finding["code"] == code);
        finding.unwrap_or_else(|| panic!("no {code}: {self:#?}"))
    }

    /// All of them, in the order in which they are told.
    pub(crate) fn codes(&self) -> Vec<&str> {
        self.findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
    }

    pub(crate) fn has(&self, code: &str) -> bool {
        self.findings.iter().any(|finding| finding["code"] == code)
    }
}
