//! The programs that some cells need and that Rust does not bring: where they are found, and how one gets them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

use crate::workspace::Workspace;
use crate::{api, msrv};

/// A program that is not part of the Rust toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// The HTTP server, as the peer of end-to-end tests.
    Nginx,
    /// The issuer of certificates that are not minted by our own crates.
    Openssl,
    /// An HTTP client that is not ours.
    Curl,
    /// Judges metrics and alert rules, by the makers of Prometheus.
    Promtool,
    /// Makes mounts and limits that only one process sees.
    Unshare,
    /// Takes the superuser's rights from a process.
    Setpriv,
    /// Stores through a memory map.
    Python3,
    /// Makes a terminal.
    Script,
    /// Judges units, by the makers of systemd.
    SystemdAnalyze,
    /// The database server, for the cell with `clientcert=verify-full`. `initdb` comes with it.
    Postgres,
    /// The key-value server.
    RedisServer,
    /// The proxy, as a peer that demands client certificates.
    Haproxy,
    /// OpenBao: an issuer, and the agent that writes its certificates into files.
    Bao,
    /// The ACME client that writes `live/` links.
    Certbot,
    /// An ACME server for tests, by the makers of Let's Encrypt.
    Pebble,
    /// Counts instructions.
    Valgrind,
    /// Judges licences, bans and sources by deny.toml.
    CargoDeny,
    /// The lowest compiler that we promise. Not in `ALL`: it has no name of its own, and `setup` looks for it by itself.
    OldRustc,
    /// A rustdoc whose JSON we can read. Not in `ALL`: it comes with Rust, in the right version or not.
    RustdocJson,
}

impl Tool {
    /// Those that a cell may name in its opening comment, and that `setup` installs.
    pub(crate) const ALL: [Self; 17] = [
        Self::Nginx,
        Self::Openssl,
        Self::Curl,
        Self::Promtool,
        Self::Unshare,
        Self::Setpriv,
        Self::Python3,
        Self::Script,
        Self::SystemdAnalyze,
        Self::Postgres,
        Self::RedisServer,
        Self::Haproxy,
        Self::Bao,
        Self::Certbot,
        Self::Pebble,
        Self::Valgrind,
        Self::CargoDeny,
    ];

    /// The program's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Openssl => "openssl",
            Self::Curl => "curl",
            Self::Promtool => "promtool",
            Self::Unshare => "unshare",
            Self::Setpriv => "setpriv",
            Self::Python3 => "python3",
            Self::Script => "script",
            Self::SystemdAnalyze => "systemd-analyze",
            Self::Postgres => "postgres",
            Self::RedisServer => "redis-server",
            Self::Haproxy => "haproxy",
            Self::Bao => "bao",
            Self::Certbot => "certbot",
            Self::Pebble => "pebble",
            Self::Valgrind => "valgrind",
            Self::CargoDeny => "cargo-deny",
            Self::OldRustc => "old rustc",
            Self::RustdocJson => "rustdoc",
        }
    }

    /// The Debian package that brings it, if one does.
    pub(crate) fn debian_package(self) -> Option<&'static str> {
        match self {
            // The smallest of the nginx packages; it has the TLS module.
            Self::Nginx => Some("nginx-light"),
            Self::Openssl => Some("openssl"),
            Self::Curl => Some("curl"),
            Self::Postgres => Some("postgresql"),
            Self::RedisServer => Some("redis-server"),
            Self::Promtool => Some("prometheus"),
            Self::Unshare | Self::Setpriv => Some("util-linux"),
            Self::Python3 => Some("python3"),
            Self::Script => Some("bsdutils"),
            Self::SystemdAnalyze => Some("systemd"),
            Self::Haproxy => Some("haproxy"),
            Self::Pebble => Some("pebble"),
            Self::Valgrind => Some("valgrind"),
            Self::Bao | Self::Certbot | Self::CargoDeny | Self::OldRustc | Self::RustdocJson => None,
        }
    }

    /// Where it is, or why not, in words for a person.
    pub(crate) fn find(self, workspace: &Workspace) -> Result<PathBuf, String> {
        match self {
            Self::OldRustc => return msrv::find_compiler(workspace),
            Self::RustdocJson => return api::find_rustdoc(),
            _ => {}
        }
        let found = search_path(&own_folder(workspace))
            .into_iter()
            .map(|folder| folder.join(self.name()))
            .find(|path| path.is_file() && self.is_recent_enough(path));
        found.ok_or_else(|| match self {
            Self::CargoDeny => "needs cargo-deny 0.16 or later: cargo xtask setup".to_owned(),
            _ => format!("needs {}: cargo xtask setup", self.name()),
        })
    }

    fn is_recent_enough(self, path: &Path) -> bool {
        if self != Self::CargoDeny {
            return true;
        }
        // Before 0.16 it does not know the package ids of today's cargo, nor the configuration of deny.toml.
        let version = Command::new(path).arg("--version").output();
        version.is_ok_and(|output| deny_is_usable(&String::from_utf8_lossy(&output.stdout)))
    }
}

impl FromStr for Tool {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|tool| tool.name() == name) {
            Some(tool) => Ok(tool),
            None => {
                let tools = Self::ALL.map(Self::name).join(", ");
                bail!("no tool is called `{name}`; there are {tools}")
            }
        }
    }
}

/// Where `setup` puts programs that it need not install for the whole machine.
pub(crate) fn own_folder(workspace: &Workspace) -> PathBuf {
    workspace.target_directory.join("tools")
}

/// Our own folder first, then PATH, then where Debian keeps servers: not on the PATH of an ordinary user.
pub(crate) fn search_path(own: &Path) -> Vec<PathBuf> {
    let mut folders = vec![own.join("bin")];
    folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    // Debian keeps each version of PostgreSQL by itself.
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders
}

fn deny_is_usable(version: &str) -> bool {
    let Some(version) = version.trim().strip_prefix("cargo-deny ") else { return false };
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (0, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_cargo_deny_counts_as_missing() {
        assert!(deny_is_usable("cargo-deny 0.20.2\n"));
        assert!(deny_is_usable("cargo-deny 1.0.0"));
        assert!(!deny_is_usable("cargo-deny 0.14.2\n"));
        assert!(!deny_is_usable(""));
        assert!(!deny_is_usable("command not found"));
    }

    #[test]
    fn tools_are_known_by_name() {
        for tool in Tool::ALL {
            assert_eq!(tool.name().parse::<Tool>().unwrap(), tool);
        }
        assert!("ngnix".parse::<Tool>().is_err());
    }
}
