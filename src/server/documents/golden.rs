//! Compares the documents with those that Kubernetes 1.36 publishes, in both directions. Every
//! difference has to match a line of `differences.txt`, and every line has to match a difference.

use super::{discovery, openapi};
use crate::catalogue::Added;
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

/// Only the project's own checkout has the reference documents beside it.
fn reference(name: &str) -> Option<Value> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec"));
    folder.exists().then(|| serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap())
}

/// Removes Kubernetes' descriptions: they are texts, while a field that is called so is none.
fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| name != "description" || !value.is_string());
            map.values_mut().for_each(without_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

fn texts(value: &Value) -> Option<BTreeSet<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// Differences as lines: `-` is theirs alone, `+` ours alone, `~` both have and differ in.
fn compare(theirs: &Value, own: &Value, path: &str, found: &mut Vec<String>) {
    if let (Some(theirs), Some(own)) = (texts(theirs), texts(own)) {
        found.extend(theirs.difference(&own).map(|text| format!("- {path} {text:?}")));
        found.extend(own.difference(&theirs).map(|text| format!("+ {path} {text:?}")));
        return;
    }
    match (theirs, own) {
        (Value::Object(theirs), Value::Object(own)) => {
            for name in theirs.keys().chain(own.keys()).collect::<BTreeSet<_>>() {
                let path = format!("{path}|{name}");
                match (theirs.get(name), own.get(name)) {
                    (Some(theirs), Some(own)) => compare(theirs, own, &path, found),
                    (Some(_), None) => found.push(format!("- {path}")),
                    _ => found.push(format!("+ {path}")),
                }
            }
        }
        (Value::Array(theirs), Value::Array(own)) if theirs.len() == own.len() => {
            for (index, (theirs, own)) in theirs.iter().zip(own).enumerate() {
                compare(theirs, own, &format!("{path}|{index}"), found);
            }
        }
        (theirs, own) if theirs != own => found.push(format!("~ {path} {theirs} {own}")),
        _ => {}
    }
}

/// Whether a line is as a pattern says, in which `*` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = pattern.split('*');
    let Some(stripped) = rest.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    rest = stripped;
    for part in parts {
        let Some(at) = rest.rfind(part).filter(|_| part.is_empty()).or_else(|| rest.find(part)) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || pattern.ends_with('*')
}

/// The document's lines of `differences.txt`: patterns, each before a `#` and its reason.
fn allowed(document: &str) -> Vec<&'static str> {
    let lines = include_str!("differences.txt").lines().filter(|line| !line.starts_with('#'));
    let rows = lines.filter_map(|line| line.split_once(": ").filter(|(own, _)| *own == document));
    rows.map(|(_, row)| {
        let (pattern, reason) = row.split_once(" # ").unwrap_or_else(|| panic!("{row} has no reason"));
        assert!(!reason.is_empty());
        pattern
    })
    .collect()
}

fn check(document: &str, mut theirs: Value, mut own: Value) {
    without_descriptions(&mut theirs);
    without_descriptions(&mut own);
    let mut found = Vec::new();
    compare(&theirs, &own, "", &mut found);
    let allowed = allowed(document);
    let unlisted: Vec<&String> =
        found.iter().filter(|line| !allowed.iter().any(|pattern| matches(pattern, line))).collect();
    assert!(unlisted.is_empty(), "{document}: {} differences: {unlisted:#?}", unlisted.len());
    let unused: Vec<&&str> =
        allowed.iter().filter(|pattern| !found.iter().any(|line| matches(pattern, line))).collect();
    assert!(unused.is_empty(), "{document}: no longer different: {unused:#?}");
}

#[test]
fn aggregated_discovery_is_kubernetes() {
    if let Some(theirs) = reference("discovery-aggregated-1.36.json") {
        check("discovery", theirs, discovery::aggregated(&Added::default(), false));
    }
}

#[test]
fn discovery_of_the_core_group_is_kubernetes() {
    if let Some(theirs) = reference("discovery-core-v1-1.36.json") {
        check("core", theirs, discovery::resources(&Added::default(), "", "v1").unwrap());
    }
}

#[test]
fn openapi_v2_is_kubernetes() {
    if let Some(theirs) = reference("openapi-v2-1.36.json") {
        let mut own = Vec::new();
        openapi::v2(&mut own, &Added::default(), &[], "v1.36.2").unwrap();
        check("openapi-v2", theirs, serde_json::from_slice(&own).unwrap());
    }
}

/// All descriptions of a document's types, each as its words.
fn descriptions(value: &Value, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("description") {
                let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
                found.push(words.map(str::to_lowercase).collect());
            }
            map.values().for_each(|value| descriptions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| descriptions(value, found)),
        _ => {}
    }
}

/// What is said of types and fields is written for knarr: nowhere are eight words in a row Kubernetes'.
#[test]
fn descriptions_are_our_own() {
    let Some(theirs) = reference("openapi-v2-1.36.json") else { return };
    let mut document = Vec::new();
    openapi::v2(&mut document, &Added::default(), &[], "").unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let (mut known, mut own) = (Vec::new(), Vec::new());
    descriptions(&theirs["definitions"], &mut known);
    descriptions(&document["definitions"], &mut own);
    let known: HashSet<&[String]> = known.iter().flat_map(|words| words.windows(8)).collect();
    let copied: Vec<String> = own
        .iter()
        .flat_map(|words| words.windows(8))
        .filter(|row| known.contains(row))
        .map(|row| row.join(" "))
        .collect();
    assert!(copied.is_empty(), "{copied:#?}");
}

/// What v3 says of a value in its own words, as v2 says it.
fn as_v2(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("default");
    if let Some(Value::Array(all)) = map.remove("allOf")
        && let [Value::Object(reference)] = &all[..]
    {
        map.extend(reference.clone());
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    for name in ["items", "additionalProperties"] {
        map.get_mut(name).into_iter().for_each(as_v2);
    }
}

/// The types of v3's documents are those of v2, and so are the operations.
#[test]
fn openapi_v3_says_the_same_as_v2() {
    let mut v2 = Vec::new();
    openapi::v2(&mut v2, &Added::default(), &[], "").unwrap();
    let v2: Value = serde_json::from_slice(&v2).unwrap();
    let (mut types, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for name in openapi::documents(&Added::default()) {
        let mut document = Vec::new();
        assert!(openapi::v3(&mut document, &Added::default(), &name, "").unwrap());
        let document: Value = serde_json::from_slice(&document).unwrap();
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let mut schema = schema.clone();
            let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
            properties.into_iter().flat_map(|map| map.values_mut()).for_each(as_v2);
            let theirs = &v2["definitions"][name];
            assert_eq!(&schema["properties"], &theirs["properties"], "{name}");
            assert_eq!(&schema["required"], &theirs["required"], "{name}");
            types.insert(name.clone());
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                assert_eq!(operation["operationId"], v2["paths"][path][method]["operationId"], "{path}");
                ids.insert(operation["operationId"].to_string());
            }
        }
    }
    assert_eq!(types, v2["definitions"].as_object().unwrap().keys().cloned().collect());
    let operations = v2["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    assert_eq!(ids.len(), operations.filter(|(name, _)| *name != "parameters").count(), "ids are unique");
}

#[test]
fn every_reference_of_v3_resolves() {
    let mut document = Vec::new();
    assert!(openapi::v3(&mut document, &Added::default(), "apis/apps/v1", "v1.36.0").unwrap());
    let document: Value = serde_json::from_slice(&document).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for part in document.to_string().split("#/components/schemas/").skip(1) {
        let name = &part[..part.find('"').unwrap()];
        assert!(schemas.contains_key(name), "{name}");
    }
    assert!(schemas.contains_key("io.k8s.api.apps.v1.Deployment"));
    assert!(!openapi::v3(&mut Vec::new(), &Added::default(), "apis/apps/v2", "").unwrap());
}
