//! Manifests: lints inherited, versions in one place with a reason each, members explained, a README for each crate.

use anyhow::{Context, Result};

use super::Files;
use super::toml::{Key, holds_dependencies, items, keys};
use crate::workspace::Workspace;

/// Checks the root manifest and each member's.
pub(super) fn check(workspace: &Workspace, files: &Files) -> Result<Vec<String>> {
    let root = keys(files.get("Cargo.toml").context("there is no Cargo.toml at the root")?);
    let mut problems = members(&root);
    problems.extend(reasons(&root));
    let mut used: Vec<String> = Vec::new();
    for package in workspace.members() {
        let folder = workspace.folder(package);
        let path = format!("{folder}/Cargo.toml");
        let manifest = keys(files.get(&path).with_context(|| format!("{path} is not in git's sight"))?);
        problems.extend(lints(&path, &manifest));
        let dependencies = manifest.iter().filter(|key| holds_dependencies(&key.table));
        for key in dependencies {
            let name = key.name.split('.').next().unwrap_or(&key.name).to_owned();
            if !inherits(key) {
                problems.push(format!("{path}:{}: {name} must say `workspace = true`", key.line));
            }
            used.push(name);
        }
        if package.is_published()
            && files.get(&format!("{folder}/README.md")).is_none_or(|t| t.trim().is_empty())
        {
            problems.push(format!("{folder} has no README.md"));
        }
        if package.is_published() {
            problems.extend(licences(&folder, files));
        }
    }
    problems.extend(unused(&root, &used));
    Ok(problems)
}

/// `cargo package` takes what is in the crate's own folder: links to the files at the root.
fn licences(folder: &str, files: &Files) -> Vec<String> {
    let is_ours = |name: &&str| {
        let own = files.get(&format!("{folder}/{name}"));
        own.is_some() && own == files.get(name)
    };
    ["LICENSE-APACHE", "LICENSE-MIT"]
        .into_iter()
        .filter(|name| !is_ours(name))
        .map(|name| format!("{folder}/{name} is not that of the root: ln -s ../../{name} {folder}/"))
        .collect()
}

fn members(root: &[Key]) -> Vec<String> {
    let list = root.iter().find(|key| key.table == "workspace" && key.name == "members");
    let list = list.map(|key| items(&key.value)).unwrap_or_default();
    list.into_iter()
        .filter(|(_, commented)| !commented)
        .map(|(member, _)| format!("Cargo.toml: no comment above the member {member}"))
        .collect()
}

/// A comment above each dependency says why it is there. One comment serves a family: `tower`, then `tower-layer`.
fn reasons(root: &[Key]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut family: Option<&str> = None;
    for key in foreign_dependencies(root) {
        let relative = family.is_some_and(|head| key.name.starts_with(head));
        if key.commented {
            family = Some(&key.name);
        } else if !relative {
            problems
                .push(format!("Cargo.toml:{}: no comment above {} says why it is there", key.line, key.name));
        }
    }
    problems
}

fn unused(root: &[Key], used: &[String]) -> Vec<String> {
    foreign_dependencies(root)
        .filter(|key| !used.contains(&key.name))
        .map(|key| format!("Cargo.toml:{}: no member uses {}", key.line, key.name))
        .collect()
}

fn foreign_dependencies(root: &[Key]) -> impl Iterator<Item = &Key> {
    root.iter().filter(|key| key.table == "workspace.dependencies" && !key.value.contains("path ="))
}

fn lints(path: &str, manifest: &[Key]) -> Option<String> {
    let inherited = manifest.iter().any(|key| {
        (key.table == "lints" && key.name == "workspace" || key.name == "lints.workspace")
            && key.value == "true"
    });
    (!inherited).then(|| format!("{path}: the workspace's lints are not inherited: [lints] workspace = true"))
}

fn inherits(key: &Key) -> bool {
    if key.name.ends_with(".workspace") {
        key.value == "true"
    } else {
        key.value.contains("workspace = true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_a_comment_is_found() {
        let root = keys(
            "[workspace]\nmembers = [\n    # The core.\n    \"crates/certsource\",\n    \"xtask\",\n]\n",
        );
        assert_eq!(members(&root), ["Cargo.toml: no comment above the member xtask"]);
    }

    #[test]
    fn one_comment_serves_a_family_and_no_stranger() {
        let root = keys(
            "[workspace.dependencies]\n\
             certsource = { path = \"crates/certsource\" }\n\
             # Layers.\n\
             tower = \"0.5\"\n\
             tower-layer = \"0.3\"\n\
             serde = \"1\"\n",
        );
        let problems = reasons(&root);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("Cargo.toml:6: no comment above serde"), "{problems:?}");
    }

    #[test]
    fn a_dependency_that_nobody_uses_is_found() {
        let root = keys("[workspace.dependencies]\n# A.\nserde = \"1\"\n# B.\ntower = \"0.5\"\n");
        assert_eq!(unused(&root, &["serde".to_owned()]), ["Cargo.toml:5: no member uses tower"]);
    }

    #[test]
    fn a_crate_without_the_licences_of_the_root_is_found() {
        let files = Files::of(&[
            ("LICENSE-APACHE", "a"),
            ("LICENSE-MIT", "m"),
            ("crates/x/LICENSE-APACHE", "a"),
            ("crates/x/LICENSE-MIT", "../../LICENSE-MIT"),
        ]);
        assert_eq!(licences("crates/x", &files).len(), 1);
        assert_eq!(licences("crates/y", &files).len(), 2);
    }

    #[test]
    fn lints_must_be_inherited() {
        assert!(lints("a", &keys("[lints]\nworkspace = true\n")).is_none());
        assert!(lints("a", &keys("[package]\nname = \"a\"\n")).is_some());
        assert!(lints("a", &keys("[package]\nworkspace = true\n")).is_some());
    }

    #[test]
    fn a_version_in_a_member_is_found() {
        let manifest = keys(
            "[dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\nc = \"1\"\n",
        );
        let seen: Vec<bool> = manifest.iter().map(inherits).collect();
        assert_eq!(seen, [true, true, false]);
    }
}
