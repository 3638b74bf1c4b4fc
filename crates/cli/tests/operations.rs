//! docs/OPERATIONS.md: its scripts are run against files that are written as each place writes them, and its unit is judged
//! by systemd.
//!
//! What is not here: whether each command line is understood (`src/args.rs`), the manifests (`docs/tests/manifests.rs`) and
//! the agent's template (`tests/tests/openbao.rs`).
//! needs: unshare systemd-analyze

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::Command;

use certsource_testkit::{AgentFiles, Ca, CertbotLive, KubeletDir, Method, PlainDir, TestDir};

use crate::common::{not_run, page};

const TEXT: &str = include_str!("../../../docs/OPERATIONS.md");

fn blocks() -> Vec<(&'static str, String)> {
    page::blocks(TEXT)
}

/// Runs the scripts of one place, with the paths of the text replaced by those of the stage.
#[track_caller]
fn scripts(place: &str, paths: &[(&str, &Path)], variables: &[(&str, &Path)]) {
    scripts_after(None, place, paths, variables);
}

/// The same, each after these commands in a mount namespace of its own.
#[track_caller]
fn scripts_after(mounts: Option<&str>, place: &str, paths: &[(&str, &Path)], variables: &[(&str, &Path)]) {
    let wanted = format!("sh tested={place}");
    let scripts: Vec<_> = blocks().into_iter().filter(|(kind, _)| *kind == wanted).collect();
    assert!(!scripts.is_empty(), "no script of {place}");
    let program = Path::new(env!("CARGO_BIN_EXE_certsource")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(program.to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).unwrap();
    for (_, mut script) in scripts {
        for (from, to) in paths {
            assert!(script.contains(from) || !variables.is_empty(), "{from} is not in {script}");
            script = script.replace(from, &to.to_string_lossy());
        }
        let mut command = Command::new(if mounts.is_some() { "unshare" } else { "sh" });
        if let Some(mounts) = mounts {
            script = format!("{mounts}\n{script}");
            command.args(["-Urm", "sh"]);
        }
        command.args(["-euxc", &script]).env("PATH", &path).env_remove("RUST_LOG");
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}");
        assert!(!said.contains("WARNING") && !said.contains("PROBLEM"), "{script}\n{said}");
    }
}

#[test]
fn kubernetes_volumes() {
    let volume = KubeletDir::new(Ca::new("a").issue("web.example.org")).unwrap();
    scripts("kubernetes", &[("/etc/tls", volume.path())], &[]);
    #[cfg(target_os = "linux")]
    {
        let below = volume.path().strip_prefix("/").unwrap();
        scripts("proc", &[("/proc/1/root", Path::new("/proc/self/root")), ("etc/tls", below)], &[]);
    }
    let trust = TestDir::new().unwrap();
    let bundle = Ca::new("old").certificate_pem() + &Ca::new("new").certificate_pem();
    let trust = KubeletDir::from_dir(trust);
    trust.write([("ca-bundle.crt", bundle)]).unwrap();
    scripts("trust", &[("/etc/trust", trust.path()), ("/etc/tls", volume.path())], &[]);
}

/// As the kubelet mounts a `subPath`: one file of the version that was there at the start.
#[test]
fn a_sub_path_is_found() {
    if !has_namespaces() {
        return;
    }
    let volume = KubeletDir::new(Ca::new("a").issue("web.example.org")).unwrap();
    let dir = TestDir::new().unwrap();
    let mounted = dir.write("ca.crt", "").unwrap();
    let version = volume.path().join("..data/ca.crt").canonicalize().unwrap();
    let mount = format!("mount --bind '{}' '{}'", version.display(), mounted.display());
    scripts_after(Some(&mount), "subpath", &[("/etc/web/ca.crt", &mounted)], &[]);
}

fn has_namespaces() -> bool {
    let has =
        Command::new("unshare").args(["-Urm", "true"]).output().is_ok_and(|output| output.status.success());
    if !has {
        not_run("this system allows no user namespaces, or has no unshare(1)");
    }
    has
}

#[test]
fn plain_files_of_systemd() {
    let plain = PlainDir::new(Method::Rename, Ca::new("a").issue("web.example.org")).unwrap();
    let root = plain.cert_path().parent().unwrap().to_owned();
    scripts("plain", &[("/etc/tls", &root)], &[]);
}

/// A directory that is mounted shows what is replaced outside.
#[test]
fn docker_bind_mounts() {
    let dir = TestDir::new().unwrap();
    let ca = Ca::new("a");
    let (first, next) = (ca.issue("web.example.org"), ca.issue("web.example.org"));
    for (at, issued) in [("outside", &first), ("next", &next)] {
        dir.write(format!("{at}/tls.crt"), issued.chain_pem()).unwrap();
        private(&dir.write(format!("{at}/tls.key"), issued.key_pem()).unwrap());
    }
    let outside = dir.join("outside");
    scripts("docker", &[("/etc/tls", &outside)], &[]);
    if !has_namespaces() {
        return;
    }
    dir.write("inside/.keep", "").unwrap();
    let inside = dir.join("inside");
    let mounts = format!(
        "cd '{}'\nmount --bind outside inside\ncp -p next/* .\nmv tls.crt outside/tls.crt\nmv tls.key outside/tls.key\n\
         cmp next/tls.crt inside/tls.crt",
        dir.path().display()
    );
    scripts_after(Some(&mounts), "docker", &[("/etc/tls", &inside)], &[]);
}

#[test]
fn certbot() {
    let certbot = CertbotLive::new(Ca::new("a").issue("example.org")).unwrap();
    certbot.renew(Ca::new("b").issue("example.org")).unwrap();
    let live = certbot.path();
    scripts("certbot", &[("/etc/letsencrypt/live/example.org", &live)], &[("RENEWED_LINEAGE", &live)]);
}

#[test]
fn agents() {
    let ca = Ca::new("a");
    let agent = AgentFiles::from_dir(TestDir::new().unwrap());
    agent.render([("web.pem", ca.issue("web.example.org").combined_pem())]).unwrap();
    private(&agent.join("web.pem"));
    scripts("combined", &[("/run/agent", agent.path())], &[]);

    let helper = TestDir::new().unwrap();
    let issued = ca.issue("web.example.org");
    helper.write("svid.pem", issued.chain_pem()).unwrap();
    private(&helper.write("svid_key.pem", issued.key_pem()).unwrap());
    helper.write("svid_bundle.pem", issued.root_pem()).unwrap();
    scripts("spiffe", &[("/run/spiffe", helper.path())], &[]);
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Every place that has scripts is staged above, so that a new one is not forgotten.
#[test]
fn every_script_is_run() {
    let staged =
        ["kubernetes", "subpath", "trust", "proc", "plain", "docker", "certbot", "combined", "spiffe"];
    for (kind, text) in blocks() {
        let place = kind.strip_prefix("sh tested=");
        assert!(place.is_none_or(|place| staged.contains(&place)), "{kind}");
        assert!(place.is_some() || !kind.starts_with("sh"), "a script that nobody runs: {text}");
    }
}

/// The names of alerts in the text are those of the rules.
#[test]
fn every_alert_is_explained() {
    let rules = include_str!("../../../docs/alerts/certsource.rules.yml");
    let names: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10);
    for name in names {
        assert!(TEXT.contains(&format!("`{name}`")), "{name}");
    }
}

/// The units, judged by systemd's own checker where there is one: it says nothing about what is right.
#[test]
fn units_are_understood_by_systemd() {
    let is_here =
        Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_here {
        return not_run("there is no systemd-analyze");
    }
    let dir = TestDir::new().unwrap();
    let units: Vec<_> = blocks().into_iter().filter(|(kind, _)| *kind == "ini").collect();
    assert!(!units.is_empty());
    for (at, (_, unit)) in units.into_iter().enumerate() {
        // The program need not be installed where the test runs.
        let unit = unit.replace("/usr/bin/certsource", env!("CARGO_BIN_EXE_certsource"));
        let path = dir.write(format!("unit-{at}.service"), unit).unwrap();
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Of other units of the machine it may say what it likes.
        let ours: Vec<_> = said.lines().filter(|line| line.contains("unit-")).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
}

/// Rules and dashboard ask for what the exporter or the libraries tell, and for nothing else.
#[test]
fn rules_and_dashboard_name_metrics_that_exist() {
    let dashboard = include_str!("../../../docs/dashboard/certsource.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() > 8);
    let rules = include_str!("../../../docs/alerts/certsource.rules.yml");
    let rules: String = rules
        .lines()
        .filter(|line| !line.contains("description:") && !line.contains('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let told = [
        include_str!("../src/exporter/text.rs"),
        include_str!("../../reload/src/metrics.rs"),
        include_str!("../../client/src/made.rs"),
        include_str!("../../client/src/reactive.rs"),
        include_str!("../../hyper/src/metrics.rs"),
    ]
    .join("\n");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut seen = 0;
    for text in [dashboard, &rules] {
        for word in text
            .split(|c| !is_name(c))
            .filter(|word| word.starts_with("x509_") || word.starts_with("certsource_"))
        {
            assert!(told.contains(&format!("\"{word}\"")), "nothing tells {word}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
    for word in
        ["certsource_connections_retired_total", "certsource_reactive_reloads_total", "certsource_ready"]
    {
        assert!(dashboard.contains(word), "the dashboard shows {word}");
    }
    // And each that is told is explained.
    for word in told.split('"').filter(|word| word.starts_with("x509_") || word.starts_with("certsource_")) {
        let name = word.split(|c| !is_name(c)).next().unwrap();
        assert!(TEXT.contains(&format!("`{name}`")), "{name} is not explained");
    }
}
