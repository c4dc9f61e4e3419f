//! Behaviours of what is published of definitions: OpenAPI, and what kubectl makes of it.

use super::{get, updated};
use crate::support::cluster::{Cluster, SOON};
use crate::support::definition::{Defined, anything, define, definition, version};
use crate::support::https::{Https, JSON_PATCH};
use crate::support::process::{Output, wait_for};
use serde_json::{Value, json};

/// The schema of a kind in both documents; nothing while they say different things.
fn schema(https: &Https, group: &str, version: &str, kind: &str) -> Option<Option<Value>> {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    let name = format!("{}.{version}.{kind}", reversed.join("."));
    let (_, v2) = get(https, "/openapi/v2");
    let (_, index) = get(https, "/openapi/v3");
    let url = index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"].as_str();
    let v3 = url.map(|url| get(https, url).1["components"]["schemas"][&name].clone());
    let (v2, v3) = (&v2["definitions"][&name], v3.unwrap_or_default());
    match (v2.is_object(), v3.is_object()) {
        (true, true) => Some(Some(v3)),
        (false, false) => Some(None),
        _ => None,
    }
}

#[track_caller]
fn published(https: &Https, group: &str, version: &str, kind: &str) -> Value {
    wait_for("a published schema", SOON, || schema(https, group, version, kind).flatten())
}

#[track_caller]
fn unpublished(https: &Https, group: &str, version: &str, kind: &str) {
    wait_for("the end of a schema", SOON, || schema(https, group, version, kind)?.is_none().then_some(()));
}

const GROUP: &str = "publish.knarr.test";

fn described(text: &str) -> Value {
    json!({"type": "object", "description": text, "properties": {"spec": {"type": "object",
        "properties": {"text": {"type": "string", "description": text}}}}})
}

fn papers<'a>(https: &'a Https, schema: &Value) -> Defined<'a> {
    let defined = define(https, &definition(GROUP, "papers", "Paper", schema));
    published(https, GROUP, "v1", "Paper");
    defined
}

/// Creates, then applies, an object with more fields, and deletes it when that was done.
fn written(cluster: &Cluster, more: &str) -> [Output; 2] {
    let manifest = |label: &str| {
        format!(
            "apiVersion: {GROUP}/v1\nkind: Paper\nmetadata: {{name: one, labels: {{step: {label}}}}}\n{more}\n"
        )
    };
    let words = |verb: &'static str| [verb, "--namespace=conformance", "-f", "-"];
    let created = cluster.kubectl_with(&manifest("created"), &words("create"));
    let applied = cluster.kubectl_with(&manifest("applied"), &words("apply"));
    if applied.code == 0 {
        cluster.kubectl_with(&manifest("applied"), &words("delete")).ok();
    }
    [created, applied]
}

#[track_caller]
fn taken(outputs: [Output; 2]) {
    outputs.into_iter().for_each(|output| drop(output.ok()));
}

#[track_caller]
fn refused(outputs: [Output; 2], why: &str) {
    for output in outputs {
        let complaint = output.err();
        assert!(complaint.contains(why), "{complaint}");
    }
}

/// What is explained, its spaces and breaks as one space.
#[track_caller]
fn explained(cluster: &Cluster, what: &str, parts: &[&str]) {
    let text = cluster.kubectl(&format!("explain {what}"));
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rest = &*words;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part} in {text}"));
        rest = &rest[at + part.len()..];
    }
}

pub(super) fn schema_is_published(cluster: &Cluster, https: &Https) {
    let bars = json!({"type": "array", "description": "List of Bars.", "items": {"type": "object", "required": ["name"],
        "properties": {"name": {"type": "string", "description": "Name of Bar."},
            "age": {"type": "integer", "description": "Age of Bar."},
            "bazs": {"type": "array", "description": "List of Bazs.", "items": {"type": "string"}}}}});
    let schema = json!({"type": "object", "description": "Foo for tests.", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo.", "properties": {"bars": bars}},
        "status": {"type": "object", "description": "Status of Foo."}}});
    let _defined = papers(https, &schema);
    taken(written(cluster, "spec: {bars: [{name: a, age: 10, bazs: [b, c]}]}"));
    refused(written(cluster, "spec: {bars: [{name: a, foo: true}]}"), "unknown field \"spec.bars[0].foo\"");
    refused(written(cluster, "spec: {unknown: 1}"), "unknown field \"spec.unknown\"");
    refused(written(cluster, "spec: {bars: [{age: 10}]}"), "spec.bars[0].name: Required value");
    refused(written(cluster, "spec: {bars: [{name: 5}]}"), "spec.bars[0].name: Invalid value");
    explained(
        cluster,
        "papers",
        &[
            "KIND: Paper",
            "VERSION: v1",
            "DESCRIPTION: Foo for tests. FIELDS:",
            "apiVersion <string> APIVersion defines",
            "spec <Object> Specification of Foo.",
            "status <Object> Status of Foo.",
        ],
    );
    let metadata =
        ["DESCRIPTION: Standard object's metadata", "creationTimestamp <string> CreationTimestamp is"];
    explained(cluster, "papers.metadata", &metadata);
    explained(
        cluster,
        "papers.spec",
        &["DESCRIPTION: Specification of Foo. FIELDS:", "bars <[]Object> List of Bars."],
    );
    let fields = [
        "DESCRIPTION: List of Bars. FIELDS:",
        "age <integer> Age of Bar.",
        "bazs <[]string> List of Bazs.",
        "name <string> -required- Name of Bar.",
    ];
    explained(cluster, "papers.spec.bars", &fields);
    let complaint = cluster.try_kubectl(&["explain", "papers.spec.bars2"]).err();
    assert!(complaint.contains("field \"bars2\" does not exist"), "{complaint}");
}

pub(super) fn no_schema_is_published(cluster: &Cluster, https: &Https) {
    let _defined = papers(https, &anything());
    taken(written(cluster, "a: {b: [1, x]}\nspec: {c: d}"));
    explained(cluster, "papers", &["KIND: Paper", "VERSION: v1", "DESCRIPTION: <empty>"]);
}

pub(super) fn unknown_at_the_root_is_published(cluster: &Cluster, https: &Https) {
    let mut schema = described("Unknown fields at the root.");
    schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    let _defined = papers(https, &schema);
    taken(written(cluster, "a: {b: [1, x]}\nspec: {text: d}"));
    explained(cluster, "papers", &["KIND: Paper", "DESCRIPTION: Unknown fields at the root."]);
}

pub(super) fn unknown_inside_is_published(cluster: &Cluster, https: &Https) {
    let inner = |text: &str| json!({"type": "object", "description": text, "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "description": "Nested fields preserve-unknown-properties.",
        "properties": {"spec": inner("Specification."), "status": inner("Status.")}});
    let _defined = papers(https, &schema);
    taken(written(cluster, "spec: {a: {b: [1, x]}}\nstatus: {c: d}"));
    explained(
        cluster,
        "papers",
        &["KIND: Paper", "DESCRIPTION: Nested fields preserve-unknown-properties.", "spec <Object>"],
    );
    let published = published(https, GROUP, "v1", "Paper");
    assert_eq!(published["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"], true, "{published}");
}

/// Several versions, each with the description of its own.
fn several(group: &str, plural: &str, kind: &str, versions: &[&str]) -> Value {
    let mut definition = definition(group, plural, kind, &json!({}));
    let one =
        |(place, name): (usize, &&str)| version(name, place == 0, &described(&format!("{kind} {name}")));
    definition["spec"]["versions"] = versions.iter().enumerate().map(one).collect();
    definition
}

#[track_caller]
fn all_published(https: &Https, wanted: &[(&str, &str, &str)]) {
    for (group, version, kind) in wanted {
        let text = format!("{kind} {version}");
        let schema = published(https, group, version, kind);
        assert_eq!(schema["description"], text);
        assert_eq!(schema["properties"]["spec"]["properties"]["text"]["description"], text);
    }
}

pub(super) fn groups_are_published(https: &Https) {
    let (a, b) = ("a.publish.knarr.test", "b.publish.knarr.test");
    let _defined =
        [define(https, &several(a, "as", "A", &["v1"])), define(https, &several(b, "bs", "B", &["v2"]))];
    all_published(https, &[(a, "v1", "A"), (b, "v2", "B")]);
}

pub(super) fn versions_are_published(https: &Https) {
    let defined = define(https, &several(GROUP, "as", "A", &["v2", "v3"]));
    all_published(https, &[(GROUP, "v2", "A"), (GROUP, "v3", "A")]);
    drop(defined);
    let two = [several(GROUP, "bs", "B", &["v4"]), several(GROUP, "cs", "C", &["v5"])];
    let _defined = two.map(|definition| define(https, &definition));
    all_published(https, &[(GROUP, "v4", "B"), (GROUP, "v5", "C")]);
}

pub(super) fn kinds_are_published(https: &Https) {
    let two = [several(GROUP, "bs", "B", &["v6"]), several(GROUP, "cs", "C", &["v6"])];
    let _defined = two.map(|definition| define(https, &definition));
    all_published(https, &[(GROUP, "v6", "B"), (GROUP, "v6", "C")]);
}

pub(super) fn renamed_versions_are_published(https: &Https) {
    let defined = define(https, &several(GROUP, "as", "A", &["v2", "v3"]));
    all_published(https, &[(GROUP, "v2", "A"), (GROUP, "v3", "A")]);
    let rename = json!([{"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]);
    let (code, renamed) = https.send("PATCH", &defined.path, JSON_PATCH, &rename);
    assert_eq!(code, 200, "{renamed}");
    assert_eq!(published(https, GROUP, "v4", "A")["description"], "A v3");
    unpublished(https, GROUP, "v3", "A");
    all_published(https, &[(GROUP, "v2", "A")]);
}

pub(super) fn unserved_versions_are_not_published(https: &Https) {
    let defined = define(https, &several(GROUP, "as", "A", &["v5", "v6alpha1"]));
    all_published(https, &[(GROUP, "v5", "A"), (GROUP, "v6alpha1", "A")]);
    updated(https, &defined.path, |definition| definition["spec"]["versions"][1]["served"] = json!(false));
    unpublished(https, GROUP, "v6alpha1", "A");
    all_published(https, &[(GROUP, "v5", "A")]);
}
