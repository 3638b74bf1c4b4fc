//! The layers: which crate of ours may depend on which, and which foreign crates must not be below one. Direct users
//! of foreign crates are deny.toml's business.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::cargo::{TreeQuery, normal_tree};
use crate::workspace::Workspace;

/// What one crate may see. Tests may see more: only normal and build dependencies count.
struct Layer {
    package: &'static str,
    /// Crates of ours that it may name.
    may_use: &'static [&'static str],
    /// Foreign crates that must not be below it, whatever the features and the platform.
    never: &'static [&'static str],
    /// Foreign crates that may be below it with these features only.
    only_with: &'static [(&'static str, &'static [&'static str])],
}

/// From the bottom to the top. A member that is not listed is a problem, so this list stays whole.
const LAYERS: [Layer; 15] = [
    Layer {
        package: "certsource",
        may_use: &[],
        never: &["tokio", "rustls", "rustls-webpki", "hyper", "http", "reqwest", "anyhow"],
        only_with: &[],
    },
    Layer {
        package: "certsource-reload",
        may_use: &["certsource"],
        never: &["rustls", "rustls-webpki", "hyper", "http", "reqwest", "anyhow"],
        // Its channels, and nothing that needs a tokio runtime.
        only_with: &[("tokio", &["sync"])],
    },
    Layer {
        package: "certsource-rustls",
        may_use: &["certsource", "certsource-reload"],
        never: &["hyper", "http", "reqwest", "anyhow"],
        only_with: &[("tokio", &["sync"])],
    },
    Layer {
        package: "certsource-hyper",
        may_use: &["certsource", "certsource-reload", "certsource-rustls"],
        never: &["reqwest", "native-tls", "openssl-sys", "anyhow"],
        only_with: &[],
    },
    Layer {
        package: "certsource-client",
        may_use: &["certsource", "certsource-reload", "certsource-rustls"],
        // reqwest-middleware, behind the feature `middleware`, brings anyhow; deny.toml keeps it out of our own hands.
        never: &["native-tls", "openssl-sys"],
        only_with: &[],
    },
    Layer {
        package: "certsource-cli",
        may_use: &[
            "certsource",
            "certsource-reload",
            "certsource-rustls",
            "certsource-client",
            "certsource-testkit",
        ],
        never: &["native-tls", "openssl-sys"],
        only_with: &[],
    },
    Layer {
        package: "certsource-sim",
        may_use: &["certsource"],
        never: &["tokio", "rustls", "hyper", "http", "reqwest"],
        only_with: &[],
    },
    // Includes files of reload and client; of their crates it knows nothing.
    Layer {
        package: "certsource-model",
        may_use: &["certsource"],
        never: &["tokio", "rustls", "hyper", "http", "reqwest", "anyhow"],
        only_with: &[],
    },
    Layer {
        package: "certsource-examples",
        may_use: &[
            "certsource",
            "certsource-reload",
            "certsource-rustls",
            "certsource-hyper",
            "certsource-client",
            "certsource-testkit",
        ],
        never: &["native-tls", "openssl-sys"],
        only_with: &[],
    },
    // Its documents' code uses everything, as development dependencies.
    Layer { package: "certsource-docs", may_use: &[], never: &[], only_with: &[] },
    Layer {
        package: "certsource-testkit",
        may_use: &[],
        never: &["tokio", "rustls", "rustls-webpki", "hyper", "http", "reqwest", "anyhow"],
        only_with: &[],
    },
    Layer {
        package: "certsource-tests",
        may_use: &[
            "certsource",
            "certsource-reload",
            "certsource-rustls",
            "certsource-hyper",
            "certsource-client",
            "certsource-testkit",
        ],
        never: &[],
        only_with: &[],
    },
    Layer {
        package: "certsource-bench",
        may_use: &[
            "certsource",
            "certsource-reload",
            "certsource-rustls",
            "certsource-hyper",
            "certsource-client",
            "certsource-testkit",
        ],
        never: &["native-tls", "openssl-sys"],
        only_with: &[],
    },
    Layer {
        package: "certsource-instructions",
        may_use: &["certsource", "certsource-reload", "certsource-testkit"],
        // Few, so that a count costs seconds.
        never: &["rustls", "hyper", "http", "reqwest", "anyhow"],
        only_with: &[("tokio", &["sync"])],
    },
    Layer { package: "xtask", may_use: &[], never: &["tokio", "rustls", "reqwest"], only_with: &[] },
];

/// Checks each member against its layer.
pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let members: BTreeSet<&str> = workspace.members().iter().map(|package| package.name.as_str()).collect();
    for package in workspace.members() {
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == package.name) else {
            problems
                .push(format!("{} has no layer: add it to LAYERS in xtask/src/tidy/layers.rs", package.name));
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .map(|dependency| dependency.name.as_str())
            .filter(|name| members.contains(name));
        problems.extend(upward(layer, ours));
        let query = TreeQuery { package: &package.name, all_features: true, target: "all" };
        for ((name, version), features) in normal_tree(query)? {
            problems.extend(foreign(layer, &name, &version, &features));
        }
    }
    Ok(problems)
}

fn upward<'a>(layer: &Layer, ours: impl Iterator<Item = &'a str>) -> Vec<String> {
    ours.filter(|name| !layer.may_use.contains(name))
        .map(|name| format!("{} must not depend on {name}", layer.package))
        .collect()
}

fn foreign(layer: &Layer, name: &str, version: &str, features: &BTreeSet<String>) -> Option<String> {
    if layer.never.contains(&name) {
        return Some(format!(
            "{} must not have {name} below it; see cargo tree -p {} -e normal --all-features --target all -i {name}@{}",
            layer.package,
            layer.package,
            version.trim_start_matches('v'),
        ));
    }
    let (_, allowed) = layer.only_with.iter().find(|(known, _)| *known == name)?;
    let more: Vec<&str> =
        features.iter().map(String::as_str).filter(|feature| !allowed.contains(feature)).collect();
    if more.is_empty() {
        return None;
    }
    Some(format!(
        "{} may have {name} below it with {} only, not {}",
        layer.package,
        allowed.join(", "),
        more.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(package: &str) -> &'static Layer {
        LAYERS.iter().find(|layer| layer.package == package).unwrap()
    }

    fn set(features: &[&str]) -> BTreeSet<String> {
        features.iter().map(|feature| (*feature).to_owned()).collect()
    }

    #[test]
    fn a_lower_crate_must_not_name_a_higher_one() {
        assert!(
            upward(layer("certsource-rustls"), ["certsource", "certsource-reload"].into_iter()).is_empty()
        );
        assert_eq!(upward(layer("certsource"), ["certsource-reload"].into_iter()).len(), 1);
        assert_eq!(upward(layer("certsource-testkit"), ["certsource"].into_iter()).len(), 1);
    }

    #[test]
    fn the_core_has_no_runtime_and_the_engine_only_its_channels() {
        assert!(foreign(layer("certsource"), "tokio", "v1.44.0", &set(&["sync"])).is_some());
        assert!(foreign(layer("certsource-reload"), "tokio", "v1.44.0", &set(&["sync"])).is_none());
        let more = foreign(layer("certsource-reload"), "tokio", "v1.44.0", &set(&["rt", "sync"])).unwrap();
        assert!(more.ends_with("with sync only, not rt"), "{more}");
        assert!(foreign(layer("certsource-reload"), "rustls", "v0.23.0", &set(&[])).is_some());
        assert!(foreign(layer("certsource-rustls"), "rustls", "v0.23.0", &set(&[])).is_none());
        assert!(foreign(layer("certsource-rustls"), "http", "v1.0.0", &set(&[])).is_some());
    }

    #[test]
    fn each_layer_uses_only_layers_that_use_not_it() {
        for one in &LAYERS {
            for other in one.may_use {
                assert!(!layer(other).may_use.contains(&one.package), "{} and {other}", one.package);
            }
        }
    }
}
