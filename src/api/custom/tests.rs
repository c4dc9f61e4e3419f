//! Golden cases stand in `tests/*.yaml`, in order: what Kubernetes' own validator says of each.

use super::*;
use crate::validate::{At, Error, check};
use crate::yaml;
use proptest::prelude::*;
use serde_json::{Value, json};

fn cases(text: &str) -> Vec<Value> {
    yaml::documents(text).map(|document| document.unwrap().value).collect()
}

fn texts(errors: &[Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn wanted(case: &Value) -> Vec<String> {
    case["says"].as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn values_are_checked_in_kubernetes_words() {
    for case in cases(include_str!("tests/validate.yaml")) {
        let schema = Structural::of(&case["schema"]).unwrap();
        let old = case.get("old");
        assert_eq!(texts(&schema.validate(&case["object"], old)), wanted(&case), "{case}");
    }
}

#[test]
fn objects_are_brought_into_form() {
    for case in cases(include_str!("tests/fit.yaml")) {
        let schema = Structural::of(&case["schema"]).unwrap();
        let mut object = case["object"].clone();
        let mut unknown = schema.prune(&mut object);
        schema.drop_nulls(&mut object);
        unknown.extend(schema.coerce(&mut object, Malformed::Dropped).unwrap());
        schema.default(&mut object);
        assert_eq!(object, case["fits"], "{case}");
        assert_eq!(unknown, wanted(&case), "{case}");
    }
}

#[test]
fn schemas_are_checked_in_kubernetes_words() {
    for case in cases(include_str!("tests/violations.yaml")) {
        let found = check(&case, |at: &At| violations(&at.get("schema"), case["status"] == true));
        assert_eq!(texts(&found), wanted(&case), "{case}");
    }
}

#[test]
fn embedded_objects_and_lists_are_checked() {
    let schema = json!({"type": "object", "properties": {
        "own": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object"}}}});
    let schema = Structural::of(&schema).unwrap();
    let mut object = json!({"own": {"kind": "a b", "metadata": {"labels": {"x": "-"}}},
        "set": ["a", "b", "a", "a"], "map": [{"a": 1, "c": 2}, {"a": 1, "b": 1}, {"a": 1}]});
    let found = check(&object, |at| schema.validate_embedded(at));
    let found = texts(&found);
    assert_eq!(found[0], "own.apiVersion: Required value");
    assert!(
        found[1].starts_with(
            "own.kind: Invalid value: \"a b\": may have mixed case, but should otherwise match: "
        )
    );
    assert!(found[2].starts_with("own.metadata.labels: Invalid value: \"-\": a valid label must be"));
    assert_eq!(
        texts(&schema.list_types(&object)),
        ["map[2]: Duplicate value: {\"a\":1}", "set[2]: Duplicate value: \"a\""]
    );
    object["own"]["metadata"] = json!({"labels": 1});
    let refused = schema.coerce(&mut object.clone(), Malformed::Refused).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "own.metadata: Invalid value: {\"labels\":1}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type map[string]string"
    );
}

#[test]
fn selectable_fields_lead_to_scalars() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"color": {"type": "string"}, "sizes": {"type": "array"}}},
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}}});
    let fields = json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.color"}, {"jsonPath": ""},
        {"jsonPath": ".spec.sizes"}, {"jsonPath": ".spec.none"}, {"jsonPath": "spec"}, {"jsonPath": ".spec['color']"},
        {"jsonPath": ".metadata.name"}]);
    let object = json!({"selectableFields": fields});
    let found = check(&object, |at| selectable(&at.get("selectableFields"), &schema));
    assert_eq!(
        texts(&found),
        [
            "selectableFields[1].jsonPath: Duplicate value: \".spec.color\"",
            "selectableFields[2].jsonPath: Required value",
            "selectableFields[3].jsonPath: Invalid value: \".spec.sizes\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            "selectableFields[4].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field",
            "selectableFields[5].jsonPath: Invalid value: \"spec\": is an invalid path: expected [ or . but got: spec",
            "selectableFields[6].jsonPath: Invalid value: \".spec['color']\": is an invalid path: array notation is not allowed",
            "selectableFields[7].jsonPath: Invalid value: \".metadata.name\": must not point to fields in metadata",
        ]
    );
}

#[test]
fn definitions_are_read() {
    let definition = json!({"spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "wheels", "singular": "wheel", "kind": "Wheel", "listKind": "WheelList"},
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}},
        "versions": [
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true},
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Tags", "type": "string", "jsonPath": ".spec.tags[*]", "priority": 1, "description": "all of them"},
                    {"name": "Ratio", "type": "number", "jsonPath": ".spec.ratio"},
                    {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
                    {"name": "Since", "type": "date", "jsonPath": ".spec.since"}]},
            {"name": "v2alpha1", "served": true, "storage": false, "deprecated": true, "deprecationWarning": "old"}]}});
    let definition = Definition::of(&definition).unwrap();
    let warnings: Vec<_> = definition.versions.iter().map(|version| version.deprecation.as_deref()).collect();
    assert_eq!(
        warnings,
        [Some("example.com/v1beta1 Wheel is deprecated; use example.com/v1 Wheel"), None, Some("old")]
    );
    assert!(
        matches!(&definition.conversion, Conversion::Webhook { review_versions, .. } if review_versions == &["v1"])
    );
    let stored = definition.storage().unwrap();
    assert!(stored.has_status && stored.scale.as_ref().is_some_and(|scale| scale.label_selector.is_none()));
    assert_eq!(
        stored.columns[0].description,
        "Custom resource definition column (in JSONPath format): .spec.size"
    );
    let now = "2024-01-02T00:00:00Z".parse().unwrap();
    let cells =
        |object: Value| -> Value { stored.columns.iter().map(|column| column.cell(&object, now)).collect() };
    assert_eq!(
        cells(
            json!({"spec": {"size": 3.7, "tags": ["a", "b"], "ratio": 2.0, "on": true, "since": "2024-01-01T00:00:00Z"}})
        ),
        json!([3, "a", 2, true, "24h"])
    );
    assert_eq!(
        cells(json!({"spec": {"size": "x", "tags": [{"a": 1}], "on": 1, "since": "x"}})),
        json!([null, "{\"a\":1}", null, null, "<invalid>"])
    );
}

#[test]
fn versions_are_ranked() {
    let mut names = [
        "v1",
        "foo1",
        "v10",
        "v1alpha2",
        "v2beta1",
        "v11beta2",
        "foo10",
        "v2",
        "v1beta0",
        "v12alpha1",
        "v01",
    ];
    names.sort_by_key(|name| std::cmp::Reverse(version_rank(name)));
    assert_eq!(
        names,
        [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v2beta1",
            "v12alpha1",
            "v1alpha2",
            "foo1",
            "foo10",
            "v01",
            "v1beta0"
        ]
    );
}

#[test]
fn documents_say_what_their_form_can_say() {
    let definition = json!({"spec": {"group": "a.example.com", "scope": "Cluster",
        "names": {"plural": "wheels", "singular": "wheel", "kind": "Wheel", "listKind": "WheelList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "selectableFields": [{"jsonPath": ".spec"}]}]}});
    let definition = Definition::of(&definition).unwrap();
    let schema = json!({"type": "object", "required": ["spec", "none"], "properties": {
        "spec": {"x-kubernetes-int-or-string": true, "nullable": false},
        "none": {"type": "string", "nullable": true, "description": "d"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
        "list": {"type": "array", "items": {"type": "string", "anyOf": [{"minLength": 1}]}}}});
    let kind = row(&definition, &definition.versions[0]).unwrap();
    let of = |form| published(kind, &definition, &definition.versions[0], Some(&schema), form);
    let (two, three) = (of(Form::V2), of(Form::V3));
    assert_eq!((kind.types[0], kind.types[1]), ("com.example.a.v1.Wheel", "com.example.a.v1.WheelList"));
    let properties = &two.object["properties"];
    assert_eq!(two.object["required"], json!(["spec"]));
    assert_eq!(properties["none"], json!({"description": "d"}));
    assert_eq!(properties["free"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(properties["list"], json!({"type": "array", "items": {"type": "string"}}));
    assert_eq!(properties["spec"], json!({"x-kubernetes-int-or-string": true}));
    let meta = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(properties["metadata"]["$ref"], meta);
    assert!(properties["apiVersion"]["description"].as_str().unwrap().starts_with("APIVersion defines"));
    let properties = &three.object["properties"];
    assert_eq!(three.object["required"], json!(["spec", "none"]));
    assert_eq!(properties["spec"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(properties["free"], schema["properties"]["free"]);
    assert_eq!(three.object["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec"}]));
    assert_eq!(
        three.list["properties"]["items"]["items"]["$ref"],
        "#/components/schemas/com.example.a.v1.Wheel"
    );
    assert_eq!(of(Form::V3).object["x-kubernetes-group-version-kind"][0]["kind"], "Wheel");
}

#[test]
fn objects_merge_as_their_schemas_say() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ios": {"x-kubernetes-int-or-string": true},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"},
                "protocol": {"type": "string", "default": "TCP"}, "v": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
        "extra": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
        "at": {"type": "string", "format": "date-time"},
        "empty": {"type": "object"},
        "own": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"a": {"type": "string"}}}}}}});
    let object = json!({"metadata": {"labels": {"k": "v"}}, "spec": {"ios": 3, "set": ["a", "b"],
        "map": [{"port": 1, "v": "x"}], "list": [{"a": "x"}], "atomic": {"a": "x"}, "extra": {"k": {"a": "x"}},
        "free": {"a": "b", "c": {"d": 1}, "l": [{"x": 1}]}, "any": {"q": {"r": [1]}}, "empty": {},
        "own": {"apiVersion": "v1", "kind": "A", "a": "x",
            "metadata": {"name": "q", "labels": {"l": "1"}, "finalizers": ["a/b"]}}}});
    let (shapes, root) = Structural::of(&schema).unwrap().shapes();
    let config = json!({"spec": {"at": false, "set": false}});
    let wrong = crate::apply::mutate(shapes.at(root), &json!({}), &config).unwrap_err();
    assert!(wrong.ends_with("typed object: .spec.set: expected list, got &{false}"), "{wrong}");
    let fields = crate::apply::fields_of(shapes.at(root), &object).write();
    assert_eq!(
        fields,
        json!({"f:metadata": {"f:labels": {"f:k": {}}}, "f:spec": {
            "f:any": {"f:q": {".": {}, "f:r": {}}}, "f:atomic": {}, "f:empty": {}, "f:ios": {}, "f:list": {},
            "f:extra": {"f:k": {".": {}, "f:a": {}}},
            "f:free": {"f:a": {}, "f:c": {".": {}, "f:d": {}}, "f:l": {}},
            "f:map": {"k:{\"port\":1,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:v": {}}},
            "f:set": {"v:\"a\"": {}, "v:\"b\"": {}},
            "f:own": {"f:a": {}, "f:apiVersion": {}, "f:kind": {}, "f:metadata": {
                "f:finalizers": {"v:\"a/b\"": {}}, "f:labels": {"f:l": {}}, "f:name": {}}}}})
    );
}

#[test]
fn schemas_are_bounded() {
    let deep =
        (0..=DEEPEST).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    assert_eq!(Structural::of(&deep).unwrap_err(), Unreadable::TooDeep);
    let wide: serde_json::Map<String, Value> =
        (0..=MOST_PLACES).map(|n| (n.to_string(), json!({}))).collect();
    assert_eq!(Structural::of(&json!({"properties": wide})).unwrap_err(), Unreadable::TooLarge);
    assert_eq!(
        Structural::of(&json!({"$ref": "x"})).unwrap_err().to_string(),
        "OpenAPIV3Schema '$ref' is not supported"
    );
}

/// Schemas whose defaults are of their types, so that they are valid as they are.
fn schemas() -> impl Strategy<Value = Value> {
    let default =
        |schema: Value, value: Value| prop_oneof![Just(schema.clone()), Just(with(schema, "default", value))];
    let leaf = prop_oneof![
        default(json!({"type": "string"}), json!("d")),
        default(json!({"type": "integer"}), json!(7)),
        default(json!({"type": "boolean", "nullable": true}), json!(true)),
        default(json!({"x-kubernetes-int-or-string": true}), json!("8")),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let properties = prop::collection::btree_map("[a-d]", inner.clone(), 0..4);
        prop_oneof![
            (properties, any::<bool>()).prop_map(|(properties, keeps)| {
                let schema = json!({"type": "object", "properties": properties});
                if keeps { with(schema, "x-kubernetes-preserve-unknown-fields", json!(true)) } else { schema }
            }),
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.prop_map(|extra| json!({"type": "object", "additionalProperties": extra, "default": {}})),
        ]
    })
}

fn with(mut schema: Value, field: &str, value: Value) -> Value {
    schema[field] = value;
    schema
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-d]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e]", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn forms_are_reached_at_once(schema in schemas(), value in values()) {
        let schema = Structural::of(&schema).unwrap();
        let (mut once, mut again);
        once = value;
        schema.prune(&mut once);
        schema.drop_nulls(&mut once);
        again = once.clone();
        prop_assert!(schema.prune(&mut again).is_empty());
        schema.drop_nulls(&mut again);
        prop_assert_eq!(&again, &once);
        let was_valid = schema.validate(&once, None).is_empty();
        schema.default(&mut once);
        again = once.clone();
        schema.default(&mut again);
        prop_assert_eq!(&again, &once);
        prop_assert!(!was_valid || schema.validate(&once, None).is_empty());
        // What did not change is let pass, but for the root's own faults below fields without a schema.
        prop_assert!(schema.validate(&once, Some(&once)).len() <= schema.validate(&once, None).len());
    }

    #[test]
    fn any_schema_has_shapes(schema in schemas(), value in values()) {
        let read = Structural::of(&schema).unwrap();
        let (shapes, root) = read.shapes();
        crate::apply::fields_of(shapes.at(root), &value);
        // What is found of schemas and values that have nothing to do with each other is never a panic.
        check(&schema, |at| violations(at, true));
        check(&value, |at| read.validate_embedded(at));
        read.list_types(&value);
        read.validate(&value, Some(&schema));
    }
}
