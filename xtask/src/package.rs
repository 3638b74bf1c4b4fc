//! `cargo xtask package`: what goes to crates.io builds without this repository around it. Each published crate is
//! packaged, unpacked elsewhere and built, and then a program of five lines that a user could have written is built
//! against it. Those programs are in `package/`; a program that has no library (`certsource-cli`) is built alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::workspace::{Package, Workspace};

/// A user's program for each library. Its opening comment holds the lines of `[dependencies]`.
const PROGRAMS: [(&str, &str); 6] = [
    ("certsource", include_str!("package/certsource.rs")),
    ("certsource-reload", include_str!("package/reload.rs")),
    ("certsource-rustls", include_str!("package/rustls.rs")),
    ("certsource-hyper", include_str!("package/hyper.rs")),
    ("certsource-client", include_str!("package/client.rs")),
    ("certsource-testkit", include_str!("package/testkit.rs")),
];

/// What every package must bring besides its sources, the same as at the root where there is one.
const BRINGS: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Packages and builds, and says what was built.
pub(crate) fn run() -> Result<ExitCode> {
    Ok(if check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True if every package is whole and builds alone.
pub(crate) fn check() -> Result<bool> {
    let workspace = Workspace::members_only()?;
    let members = workspace.members();
    let published: Vec<&Package> = members.into_iter().filter(|package| package.is_published()).collect();
    let place = workspace.target_directory.join("unpacked");
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    }
    pack(&published, &place)?;
    let mut problems = Vec::new();
    for package in &published {
        let folder = unpack(package, &place)?;
        problems.extend(lacks(package, &folder, &workspace.workspace_root));
        match program(&package.name) {
            Some(source) => write_user(&package.name, source, &place)?,
            None if package.library().is_none() => {}
            None => problems.push(format!("{} has no program in xtask/src/package", package.name)),
        }
    }
    fs::write(place.join("Cargo.toml"), manifest(&published, &["crates/*", "users/*"]))
        .context("writing the manifest")?;
    // The versions that we test with, and nothing to download that was not needed before.
    fs::copy(workspace.workspace_root.join("Cargo.lock"), place.join("Cargo.lock"))
        .context("copying Cargo.lock")?;
    for package in &published {
        let mut builds = vec![vec!["--package", package.name.as_str()]];
        if !package.all_features().is_empty() {
            builds.push(vec!["--package", package.name.as_str(), "--all-features"]);
        }
        let user = user_name(&package.name);
        if program(&package.name).is_some() {
            builds.push(vec!["--package", user.as_str()]);
        }
        for arguments in builds {
            println!("unpacked: cargo check {}", arguments.join(" "));
            if !build(&place, &workspace.target_directory, &arguments)? {
                problems.push(format!("does not build: {}", arguments.join(" ")));
            }
        }
    }
    for problem in &problems {
        println!("  {problem}");
    }
    if problems.is_empty() {
        println!("package: {} crates, unpacked, build alone and below a user's program", published.len());
    }
    Ok(problems.is_empty())
}

/// All in one call: cargo then takes the members that are not published yet from each other.
pub(crate) fn pack(published: &[&Package], place: &Path) -> Result<()> {
    let mut command = cargo::command();
    command.args(["package", "--quiet", "--no-verify", "--allow-dirty", "--target-dir"]).arg(place);
    for package in published {
        command.args(["--package", &package.name]);
    }
    let status = command.status().context("running cargo package")?;
    if !status.success() {
        bail!("cargo package failed");
    }
    Ok(())
}

/// Unpacks what [`pack`] made, and returns the package's folder.
pub(crate) fn unpack(package: &Package, place: &Path) -> Result<PathBuf> {
    let name = format!("{}-{}", package.name, package.version);
    let folder = place.join("crates");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let file = place.join("package").join(format!("{name}.crate"));
    let mut command = Command::new("tar");
    let status = command.arg("-xzf").arg(&file).arg("-C").arg(&folder).status().context("running tar")?;
    if !status.success() {
        bail!("{} can not be unpacked", file.display());
    }
    Ok(folder.join(name))
}

fn lacks(package: &Package, folder: &Path, root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for name in BRINGS {
        match fs::read(folder.join(name)) {
            Err(_) => problems.push(format!("the package {} has no {name}", package.name)),
            Ok(text)
                if name.starts_with("LICENSE") && fs::read(root.join(name)).ok().as_ref() != Some(&text) =>
            {
                problems.push(format!("the {name} in the package {} is not ours", package.name));
            }
            Ok(_) => {}
        }
    }
    problems
}

/// A workspace that gives its members nothing: it only lets them find each other, as a registry would.
pub(crate) fn manifest(published: &[&Package], members: &[&str]) -> String {
    // The profile is ours, so that what was built for other cells serves here too.
    let mut text = format!(
        "[workspace]\nresolver = \"3\"\nmembers = {members:?}\n\n[profile.dev]\ndebug = \"line-tables-only\"\n\n\
         [patch.crates-io]\n"
    );
    for package in published {
        let _ = writeln!(text, "{0} = {{ path = \"crates/{0}-{1}\" }}", package.name, package.version);
    }
    text
}

fn program(package: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(name, _)| *name == package).map(|(_, source)| *source)
}

fn user_name(package: &str) -> String {
    format!("user-of-{package}")
}

fn write_user(package: &str, source: &str, place: &Path) -> Result<()> {
    let name = user_name(package);
    let folder = place.join("users").join(&name);
    fs::create_dir_all(folder.join("src")).with_context(|| format!("creating {}", folder.display()))?;
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n{}",
        dependencies(source)
    );
    fs::write(folder.join("Cargo.toml"), manifest).context("writing a user's manifest")?;
    fs::write(folder.join("src/main.rs"), source).context("writing a user's program")
}

/// The lines of a program's opening comment that are a manifest's.
fn dependencies(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(str::trim).filter(|line| line.contains(" = ")).map(|line| format!("{line}\n")).collect()
}

fn build(place: &Path, target: &Path, arguments: &[&str]) -> Result<bool> {
    let mut command = cargo::command();
    command.args(["check", "--quiet", "--manifest-path"]).arg(place.join("Cargo.toml"));
    command.arg("--target-dir").arg(target).args(arguments);
    Ok(command.status().context("running cargo check")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_published_library_has_a_program_that_depends_on_it() {
        let workspace = Workspace::members_only().unwrap();
        for package in workspace.members() {
            if package.is_published() && package.library().is_some() {
                let source = program(&package.name).unwrap_or_else(|| panic!("{}", package.name));
                let minor = package.version.rsplit_once('.').unwrap().0;
                let own = dependencies(source);
                assert!(own.starts_with(&format!("{} = ", package.name)) && own.contains(minor), "{own}");
            }
        }
        assert!(PROGRAMS.iter().all(|(name, _)| workspace.members().iter().any(|p| p.name == *name)));
    }

    #[test]
    fn a_package_without_a_licence_is_found() {
        let workspace = Workspace::members_only().unwrap();
        let members = workspace.members();
        let folder = workspace.workspace_root.join("xtask");
        let problems = lacks(members[0], &folder, &workspace.workspace_root);
        assert_eq!(problems.len(), BRINGS.len(), "{problems:?}");
    }
}
