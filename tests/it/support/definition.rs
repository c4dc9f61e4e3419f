//! Definitions of custom resources.

use super::cluster::SOON;
use super::https::{Https, JSON};
use super::process::wait_for;
use serde_json::{Value, json};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A version that is served.
pub(crate) fn version(name: &str, stored: bool, schema: &Value) -> Value {
    json!({"name": name, "served": true, "storage": stored, "schema": {"openAPIV3Schema": schema}})
}

/// A definition of a group, with one version that has this schema.
pub(crate) fn definition(group: &str, plural: &str, kind: &str, schema: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [version("v1", true, schema)]}})
}

/// An object whose every field is taken.
pub(crate) fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The status of a definition's condition.
pub(crate) fn condition(definition: &Value, of: &str) -> Option<String> {
    let conditions = definition["status"]["conditions"].as_array()?;
    let own = conditions.iter().find(|own| own["type"] == of)?;
    own["status"].as_str().map(str::to_owned)
}

/// Makes a definition and waits until its objects are served; gives its path.
#[track_caller]
pub(crate) fn defined(https: &Https, definition: &Value) -> String {
    let (code, made) = https.send("POST", DEFINITIONS, JSON, definition);
    assert_eq!(code, 201, "{made}");
    let path = format!("{DEFINITIONS}/{}", definition["metadata"]["name"].as_str().unwrap());
    wait_for("a definition that is served", SOON, || {
        condition(&https.call("GET", &path).1, "Established").map(|status| assert_eq!(status, "True"))
    });
    path
}

/// A definition for as long as it is held.
pub(crate) struct Defined<'a> {
    https: &'a Https,
    pub(crate) path: String,
}

#[track_caller]
pub(crate) fn define<'a>(https: &'a Https, definition: &Value) -> Defined<'a> {
    Defined { https, path: defined(https, definition) }
}

impl Drop for Defined<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.https.ask("DELETE", &self.path).try_send() {
            return eprintln!("{} stays: {error}", self.path);
        }
        wait_for("the definition's end", SOON, || {
            (self.https.call("GET", &self.path).0 == 404).then_some(())
        });
    }
}
