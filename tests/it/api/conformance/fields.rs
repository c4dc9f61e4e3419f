//! Behaviours of `fieldValidation` with custom resources.

use crate::support::definition::{Defined, anything, define, definition};
use crate::support::https::{APPLY, Https, JSON, YAML};
use serde_json::{Value, json};

const FORMS: &str = "/apis/fields.knarr.test/v1/namespaces/conformance/forms";
const STRICT: &str = "fieldValidation=Strict&fieldManager=test";

fn forms<'a>(https: &'a Https, schema: &Value) -> Defined<'a> {
    define(https, &definition("fields.knarr.test", "forms", "Form", schema))
}

fn form(name: &str, more: Value) -> Value {
    let mut form = json!({"apiVersion": "fields.knarr.test/v1", "kind": "Form", "metadata": {"name": name}});
    ::api::patch::merge(&mut form, &more).unwrap();
    form
}

/// What becomes of a text that is created, and of the same applied under another name.
fn written(https: &Https, text: impl Fn(&str) -> String) -> [(u16, Value); 2] {
    let created = https.ask("POST", &format!("{FORMS}?{STRICT}")).body(JSON, text("created")).parts();
    let applied =
        https.ask("PATCH", &format!("{FORMS}/applied?{STRICT}")).body(APPLY, text("applied")).parts();
    [created, applied]
}

fn objects(https: &Https, more: &Value) -> [(u16, Value); 2] {
    written(https, |name| form(name, more.clone()).to_string())
}

#[track_caller]
fn taken(answers: [(u16, Value); 2], spec: &Value) {
    for (code, answer) in answers {
        assert_eq!((code, &answer["spec"]), (201, spec), "{answer}");
    }
}

#[track_caller]
fn refused(answers: [(u16, Value); 2], why: &[&str]) {
    for (code, answer) in answers {
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code >= 400 && why.iter().all(|part| message.contains(part)), "{answer}");
    }
}

fn cron() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port", "protocol"], "properties": {
                "port": {"type": "integer"}, "protocol": {"type": "string"}}}},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}}}}}})
}

pub(super) fn fields_without_schema(https: &Https) {
    let _defined = forms(https, &anything());
    let spec = json!({"foo": "foo1", "list": [{"unknown": 1}]});
    taken(objects(https, &json!({"spec": spec})), &spec);
}

pub(super) fn fields_of_a_schema(https: &Https) {
    let _defined = forms(https, &cron());
    let spec = json!({"cronSpec": "* * * * */5", "ports": [{"port": 8081, "protocol": "TCP"}]});
    taken(objects(https, &json!({"spec": spec})), &spec);
}

pub(super) fn fields_beyond_a_schema(https: &Https) {
    let _defined = forms(https, &cron());
    let port = json!({"port": 8081, "protocol": "TCP", "extra": 1});
    for spec in [json!({"cronSpec": "* * * * */5", "extra": 1}), json!({"ports": [port]})] {
        refused(objects(https, &json!({"spec": spec})), &[".extra"]);
    }
}

pub(super) fn fields_given_twice(https: &Https) {
    let _defined = forms(https, &anything());
    let text = |name: &str| {
        format!(
            "{{\"apiVersion\":\"fields.knarr.test/v1\",\"kind\":\"Form\",\"metadata\":{{\"name\":{name:?}}},\
                 \"spec\":{{\"foo\":\"1\",\"foo\":\"2\",\"unknown\":3}}}}"
        )
    };
    let [(code, created), applied] = written(https, text);
    let message = created["message"].as_str().unwrap();
    assert!(
        code == 400 && message.ends_with("strict decoding error: duplicate field \"spec.foo\""),
        "{created}"
    );
    // An applied text is YAML, in which no key may be there twice.
    let yaml =
        "apiVersion: fields.knarr.test/v1\nkind: Form\nmetadata: {name: yaml}\nspec:\n  foo: 1\n  foo: 2\n";
    let created = https.ask("POST", &format!("{FORMS}?{STRICT}")).body(YAML, yaml).parts();
    for (code, answer) in [applied, created] {
        let message = answer["message"].as_str().unwrap();
        assert!(code == 400 && message.contains("key \"foo\" already set in map"), "{answer}");
    }
}

pub(super) fn unknown_metadata_of_fields(https: &Https) {
    let _defined = forms(https, &cron());
    let more = json!({"metadata": {"unknownMeta": "x"}, "spec": {"embedded": {"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "inner", "unknownSubMeta": "x"}}}});
    refused(objects(https, &more), &["metadata.unknownMeta", "spec.embedded.metadata.unknownSubMeta"]);
}
