//! Rules in schemas (`x-kubernetes-validations`).

use super::created;
use crate::support::definition::{DEFINITIONS, defined, definition};
use crate::support::https::{Https, JSON, MERGE};
use serde_json::{Value, json};

const RULERS: &str = "/apis/rules.example.com/v1/namespaces/default/rulers";

fn ruler(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "rules.example.com/v1", "kind": "Ruler", "metadata": {"name": name}, "spec": spec})
}

fn schema(spec_rules: &Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": spec_rules,
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string", "maxLength": 20},
            "marks": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["at"],
                "items": {"type": "object", "required": ["at"], "properties": {"at": {"type": "integer"}, "label": {"type": "string", "maxLength": 10}},
                    "x-kubernetes-validations": [{"rule": "self.label == oldSelf.label", "message": "labels stay"}]}}}}}})
}

fn message(answer: (u16, Value)) -> String {
    assert_eq!(answer.0, 422, "{}", answer.1);
    answer.1["message"].as_str().unwrap().to_owned()
}

pub(super) fn all(https: &Https) {
    let rules = json!([
        {"rule": "self.min <= self.max", "message": "min must not exceed max", "fieldPath": ".min"},
        {"rule": "self.max >= oldSelf.max", "messageExpression": "'max may only grow from %d'.format([oldSelf.max])",
            "reason": "FieldValueForbidden"},
        {"rule": "!has(self.name) || self.name.startsWith('r')"},
        {"rule": "oldSelf.hasValue() || self.max < 100", "optionalOldSelf": true, "message": "small at first"}]);
    defined(https, &definition("rules.example.com", "rulers", "Ruler", &schema(&rules)));
    evaluated(https);
    ratcheted(https);
    refused(https);
}

fn evaluated(https: &Https) {
    let post = |spec: Value| https.send("POST", RULERS, JSON, &ruler("r", spec));
    let all = message(post(json!({"min": 500, "max": 300, "name": "x"})));
    assert_eq!(
        all,
        "Ruler.rules.example.com \"r\" is invalid: [spec.min: Invalid value: min must not exceed max, spec: Invalid value: failed rule: !has(self.name) || self.name.startsWith('r'), spec: Invalid value: small at first]"
    );
    let missing = message(post(json!({"max": 3})));
    assert_eq!(
        missing,
        "Ruler.rules.example.com \"r\" is invalid: spec: Invalid value: \"object\": no such key: min evaluating rule: min must not exceed max"
    );
    let ill = message(post(json!({"min": 1, "max": "x"})));
    assert!(ill.contains("some validation rules were not checked because the object was invalid"), "{ill}");
    created(https, RULERS, &ruler("r", json!({"min": 1, "max": 9, "marks": [{"at": 1, "label": "a"}]})));
    let patch = |spec: Value| https.send("PATCH", &format!("{RULERS}/r"), MERGE, &json!({"spec": spec}));
    assert_eq!(
        message(patch(json!({"max": 8}))),
        "Ruler.rules.example.com \"r\" is invalid: spec: Forbidden: max may only grow from 9"
    );
    assert_eq!(
        message(patch(json!({"marks": [{"at": 2, "label": "b"}, {"at": 1, "label": "c"}]}))),
        "Ruler.rules.example.com \"r\" is invalid: spec.marks[1]: Invalid value: labels stay"
    );
    assert_eq!(patch(json!({"max": 200})).0, 200);
}

/// What was wrong before a rule came may stay, and is warned of.
fn ratcheted(https: &Https) {
    let path = format!("{DEFINITIONS}/rulers.rules.example.com");
    let (_, mut definition) = https.call("GET", &path);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.max < 100", "message": "too long"}]);
    assert_eq!(https.send("PUT", &path, JSON, &definition).0, 200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let answer = https.ask("PATCH", &format!("{RULERS}/r")).object(MERGE, &label).send();
    assert_eq!(
        (answer.code, answer.header("warning")),
        (200, "299 - \"spec: Invalid value: too long\"".to_owned())
    );
    let (code, refused) = https.send("PATCH", &format!("{RULERS}/r"), MERGE, &json!({"spec": {"max": 300}}));
    assert_eq!(code, 422, "{refused}");
}

/// Definitions whose rules do not compile, or could cost too much.
fn refused(https: &Https) {
    let post = |rules: Value| {
        message(https.send(
            "POST",
            DEFINITIONS,
            JSON,
            &definition("bad.example.com", "bads", "Bad", &schema(&rules)),
        ))
    };
    let unknown = post(json!([{"rule": "self.nope > 1"}]));
    assert!(unknown.contains("compilation failed: ERROR: <input>:1:5: undefined field 'nope'"), "{unknown}");
    let no_bool = post(json!([{"rule": "self.min"}]));
    assert!(no_bool.contains("cel expression must evaluate to a bool"), "{no_bool}");
    let unbounded = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}});
    let costly = message(https.send(
        "POST",
        DEFINITIONS,
        JSON,
        &definition("bad.example.com", "bads", "Bad", &unbounded),
    ));
    assert!(costly.contains("estimated rule cost exceeds budget by factor of more than 100x"), "{costly}");
    let lost = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 5, "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let lost =
        message(https.send("POST", DEFINITIONS, JSON, &definition("bad.example.com", "bads", "Bad", &lost)));
    assert!(lost.contains("oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[l]"), "{lost}");
}
