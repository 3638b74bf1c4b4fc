//! The exporter's text, judged by Prometheus' own promtool: its format, its names, its help.
//!
//! Without promtool it says so and passes, unless the variable `CERTSOURCE_STRICT` is set.
//! needs: promtool

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

mod common;

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use certsource_testkit::{Ca, KubeletDir, TestDir};

use crate::common::exporter::Exporter;
use crate::common::not_run;

#[test]
fn promtool_finds_nothing_wrong() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return not_run("needs promtool: cargo xtask setup");
    }
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("quoted \" and \\ and \u{1b}[31m\u{202e}\nx509_cert_expired 1").intermediate("b");
    let issued = ca.issue("localhost");
    ca.revoke(&issued);
    let volume = dir.join("v");
    KubeletDir::from_dir(TestDir::at(&volume).unwrap()).swap(issued.clone()).unwrap();
    dir.write("c/one.pem", issued.chain_pem() + &issued.root_pem()).unwrap();
    dir.write("c/two.pem", issued.chain_pem()).unwrap();
    dir.write("c/ca.crl", ca.crl().pem()).unwrap();
    dir.write("c/broken.pem", "-----BEGIN CERTIFICATE-----").unwrap();
    dir.write("c/hostile\n\u{1b}\u{202e}\"\\.pem", issued.leaf_pem()).unwrap();
    for details in [None, Some(OsStr::new("--show-details"))] {
        let (path, kubernetes) = (dir.join("c"), volume.as_os_str());
        let args = [OsStr::new("--kubernetes"), kubernetes, path.as_os_str()];
        let args: Vec<_> = args.into_iter().chain(details).collect();
        let text = Exporter::start(&args).metrics();
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
}
