//! Objects follow their definition when they are written, also by a write that changes nothing: so people
//! bring all of them into a new storage version.

use super::created;
use crate::support::definition::{DEFINITIONS, defined, definition};
use crate::support::https::{Https, JSON};
use serde_json::{Value, json};

const CRATES: &str = "/apis/cargo.example.com/v1/namespaces/default/crates";
const NAME: &str = "crates.cargo.example.com";

pub(super) fn all(https: &Https) {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"weight": {"type": "integer"}}}}});
    defined(https, &definition("cargo.example.com", "crates", "Crate", &schema));
    let made = json!({"apiVersion": "cargo.example.com/v1", "kind": "Crate", "metadata": {"name": "a"},
        "spec": {"weight": 1}});
    let made = created(https, CRATES, &made);
    let same = rewritten(https);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "nothing to write");

    redefine(https, |versions| {
        versions[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["sealed"] =
            json!({"type": "boolean", "default": true});
    });
    let (_, shown) = https.call("GET", &format!("{CRATES}/a"));
    assert_eq!(shown["spec"], json!({"weight": 1, "sealed": true}));
    assert_eq!(shown["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    followed(https, &shown);

    redefine(https, |versions| {
        let mut next = versions[0].clone();
        next["name"] = json!("v2");
        versions[0]["storage"] = json!(false);
        versions.as_array_mut().unwrap().push(next);
    });
    let (_, shown) = https.call("GET", &format!("{CRATES}/a"));
    followed(https, &shown);
}

/// A write of what is shown stores it once as it is stored now.
fn followed(https: &Https, shown: &Value) {
    let written = rewritten(https);
    assert_eq!(written["spec"], shown["spec"]);
    assert_ne!(written["metadata"]["resourceVersion"], shown["metadata"]["resourceVersion"], "{written}");
    assert_eq!(written["metadata"]["generation"], shown["metadata"]["generation"]);
    let again = rewritten(https);
    assert_eq!(again, written);
}

/// Writes an object as it is shown.
fn rewritten(https: &Https) -> Value {
    let path = format!("{CRATES}/a");
    let (_, shown) = https.call("GET", &path);
    let (code, written) = https.send("PUT", &path, JSON, &shown);
    assert_eq!(code, 200, "{written}");
    written
}

fn redefine(https: &Https, change: impl FnOnce(&mut Value)) {
    let path = format!("{DEFINITIONS}/{NAME}");
    let (_, mut definition) = https.call("GET", &path);
    change(&mut definition["spec"]["versions"]);
    let (code, answer) = https.send("PUT", &path, JSON, &definition);
    assert_eq!(code, 200, "{answer}");
}
