//! The YAML of docs/OPERATIONS.md: it is read, and what Kubernetes itself would read is checked against its types.
//!
//! What is not here: whether the command lines in it are understood. That is a test of the program, which reads lists that
//! stand on one line.

#![allow(clippy::unwrap_used, reason = "a panic in a helper fails the test that called it")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, VolumeMount};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::Value;

const TEXT: &str = include_str!("../OPERATIONS.md");

/// Every document of every block.
fn documents() -> Vec<Value> {
    let blocks = TEXT.split("\n```yaml\n").skip(1).map(|rest| rest.split("\n```\n").next().unwrap());
    let documents = blocks.flat_map(|block| match Yaml::load_from_str(block) {
        Ok(documents) => documents.iter().map(json).collect::<Vec<_>>(),
        Err(error) => panic!("{error} in:\n{block}"),
    });
    documents.collect()
}

/// As kubectl turns it into JSON; but for numbers such as 0440, which are octal to Kubernetes (YAML 1.1) and decimal here.
fn json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(is)) => (*is).into(),
        Yaml::Value(Scalar::Integer(number)) => (*number).into(),
        Yaml::Value(Scalar::String(text)) => text.as_ref().into(),
        Yaml::Sequence(list) => list.iter().map(json).collect(),
        Yaml::Mapping(fields) => {
            fields.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), json(value))).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Reads it as this type. A field that the type does not know would be lost on the way, and is found so.
#[track_caller]
fn typed<T: serde::de::DeserializeOwned + serde::Serialize>(value: &Value) -> T {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
    assert_eq!(serde_json::to_value(&typed).unwrap(), *value, "a field is not known");
    typed
}

fn kinds() -> BTreeMap<String, Value> {
    let all = documents()
        .into_iter()
        .filter_map(|document| Some((document["kind"].as_str()?.to_owned(), document)));
    all.collect()
}

#[test]
fn the_pod_is_one_and_fits_together() {
    let pod: Pod = typed(&kinds()["Pod"]);
    let spec = pod.spec.unwrap();
    let volumes: Vec<_> = spec.volumes.unwrap().into_iter().map(|volume| volume.name).collect();
    let containers: Vec<_> = spec.init_containers.into_iter().flatten().chain(spec.containers).collect();
    let mut programs = 0;
    for container in &containers {
        let mounts = container.volume_mounts.as_ref().unwrap();
        assert!(mounts.iter().all(|mount| volumes.contains(&mount.name)), "{}", container.name);
        let Some(command) = &container.command else { continue };
        programs += 1;
        let at = command.iter().position(|word| word == "--kubernetes").unwrap() + 1;
        assert_eq!(command[at], mounts[0].mount_path, "{}", container.name);
        let port = command.iter().find_map(|word| word.strip_prefix("0.0.0.0:")?.parse().ok());
        for probe in container.readiness_probe.iter().chain(&container.liveness_probe) {
            let asked = probe.http_get.as_ref().unwrap();
            assert_eq!(
                Some(&asked.port),
                port.map(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int).as_ref()
            );
        }
    }
    assert_eq!(programs, 2);
}

#[test]
fn mounts_are_mounts() {
    let lists: Vec<Value> = documents()
        .into_iter()
        .filter(|document| document.get("kind").is_none() && document.get("volumeMounts").is_some())
        .collect();
    let paths = lists
        .iter()
        .flat_map(|list| typed::<Vec<VolumeMount>>(&list["volumeMounts"]))
        .map(|mount| mount.sub_path.is_some());
    assert_eq!(paths.collect::<Vec<_>>(), [true, false], "one that is never updated, and one that is");
}

/// Of these, only that they are YAML and what they are for.
#[test]
fn other_peoples_resources_are_yaml() {
    let kinds = kinds();
    assert_eq!(kinds.keys().collect::<Vec<_>>(), ["Bundle", "Certificate", "Pod"]);
    assert_eq!(kinds["Certificate"]["spec"]["privateKey"]["rotationPolicy"], "Always");
    let compose = documents().into_iter().find(|document| document.get("services").is_some()).unwrap();
    assert_eq!(compose["services"]["web"]["volumes"][0], "/etc/tls:/etc/tls:ro");
}

/// The program's own test finds a command line where it stands on one line. So each of them does.
#[test]
fn every_command_stands_where_the_program_finds_it() {
    fn find(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let ("command" | "args" | "test", Value::Array(list)) = (&**name, value) {
                        let words: Vec<_> = list.iter().map(Value::to_string).collect();
                        found.push(format!("{name}: [{}]\n", words.join(", ")));
                    }
                    find(value, found);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| find(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    documents().iter().for_each(|document| find(document, &mut found));
    assert_eq!(found.len(), 3, "{found:?}");
    for line in found {
        assert!(TEXT.contains(&line) && line.contains("\"certsource\""), "{line}");
    }
}
