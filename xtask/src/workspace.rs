//! The workspace as `cargo metadata` describes it. Nothing here knows a package by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cargo;

/// What `cargo metadata` prints, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Members only, or every package of the tree, depending on how it was loaded.
    pub(crate) packages: Vec<Package>,
    workspace_members: Vec<String>,
    /// The folder of the root manifest.
    pub(crate) workspace_root: PathBuf,
    /// Where cargo builds.
    pub(crate) target_directory: PathBuf,
    /// Who depends on whom; only when it was loaded with its dependencies.
    pub(crate) resolve: Option<Resolve>,
}

/// One package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) rust_version: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) targets: Vec<Target>,
    publish: Option<Vec<String>>,
}

/// A dependency as a manifest declares it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// None for a normal dependency, otherwise `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// A library, a program, an integration test, an example.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

/// The resolved graph, with the features of all members at once.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

/// One package in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Edge>,
}

/// One dependency in the graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// Why a dependency is there.
#[derive(Debug, Deserialize)]
pub(crate) struct EdgeKind {
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// Reads the members alone: fast, and needs no network.
    pub(crate) fn members_only() -> Result<Self> {
        Self::load(&["--no-deps"])
    }

    /// Reads the whole tree with every feature on, and insists that Cargo.lock is in step.
    pub(crate) fn with_dependencies() -> Result<Self> {
        Self::load(&["--all-features", "--locked"])
    }

    fn load(arguments: &[&str]) -> Result<Self> {
        let output = cargo::command()
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .output()
            .context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("reading the output of cargo metadata")
    }

    /// The members, in the order of the root manifest.
    pub(crate) fn members(&self) -> Vec<&Package> {
        self.workspace_members
            .iter()
            .filter_map(|id| self.packages.iter().find(|package| package.id == *id))
            .collect()
    }

    /// A member's folder, seen from the root, with `/` between its parts.
    pub(crate) fn folder(&self, package: &Package) -> String {
        let folder = package.manifest_path.parent().unwrap_or(&self.workspace_root);
        folder.strip_prefix(&self.workspace_root).unwrap_or(folder).to_string_lossy().replace('\\', "/")
    }
}

impl Package {
    /// Whether it may go to crates.io.
    pub(crate) fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }

    /// The library target, if it has one.
    pub(crate) fn library(&self) -> Option<&Target> {
        self.targets_of("lib").next()
    }

    /// Its targets of one kind: `bin`, `test`, `example`.
    pub(crate) fn targets_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(move |target| target.kind.iter().any(|k| k == kind))
    }

    /// The features that are on when `start` is asked for. `default` itself is not one of them: it changes no build.
    pub(crate) fn closure<'a>(&self, start: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let mut on = BTreeSet::new();
        let mut open: Vec<String> = start.into_iter().map(str::to_owned).collect();
        while let Some(name) = open.pop() {
            if let Some(implied) = self.features.get(&name) {
                if on.insert(name) {
                    open.extend(implied.iter().cloned());
                }
            }
        }
        on.remove("default");
        on
    }

    /// Every feature but `default`.
    pub(crate) fn all_features(&self) -> BTreeSet<String> {
        self.closure(self.features.keys().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(features: &[(&str, &[&str])]) -> Package {
        Package {
            id: String::new(),
            name: "p".into(),
            version: "1.0.0".into(),
            manifest_path: PathBuf::new(),
            rust_version: None,
            dependencies: Vec::new(),
            features: features
                .iter()
                .map(|(name, on)| ((*name).to_owned(), on.iter().map(|f| (*f).to_owned()).collect()))
                .collect(),
            targets: Vec::new(),
            publish: None,
        }
    }

    #[test]
    fn a_closure_follows_features_of_its_own_only() {
        let package = package(&[
            ("default", &["ring", "http2"]),
            ("ring", &["other/ring"]),
            ("http2", &["dep:h2"]),
            ("full", &["http2", "json"]),
            ("json", &[]),
        ]);
        assert_eq!(package.closure(["default"]), BTreeSet::from(["http2".into(), "ring".into()]));
        assert_eq!(package.closure(["full"]), ["full", "http2", "json"].map(String::from).into());
        assert!(package.closure([]).is_empty());
        assert_eq!(package.all_features().len(), 4);
    }

    #[test]
    fn only_an_empty_list_of_registries_means_unpublished() {
        let mut package = package(&[]);
        assert!(package.is_published());
        package.publish = Some(Vec::new());
        assert!(!package.is_published());
        package.publish = Some(vec!["crates-io".into()]);
        assert!(package.is_published());
    }
}
