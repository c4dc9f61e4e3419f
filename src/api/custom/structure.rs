//! What makes a schema structural: the type of each field is said once, outside of `allOf` and its like,
//! and what those restrict is there.

use super::pattern;
use super::structural::text;
use crate::validate::At;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Reports what is not structural, ordered by the messages.
pub(super) fn structural(schema: &At) {
    schema.sorted(|schema| {
        invariants(schema, Level::Root);
        alternatives(schema, |part| complete(part, schema));
    });
}

fn yes(at: &At, field: &str) -> bool {
    at.value()[field] == true
}

fn invariants(at: &At, level: Level) {
    if text(at.value(), "type") == "array" && at.value()["items"].is_null() {
        at.field("items").required("must be specified");
    }
    at.on("items", |items| invariants(items, Level::Item));
    at.field("properties").entries(|_, field| invariants(field, Level::Field));
    at.on("additionalProperties", |extra| {
        if level == Level::Root {
            extra.forbidden("must not be used at the root");
        }
        if extra.value().is_object() {
            invariants(extra, Level::Field);
        }
    });
    extensions(at);
    let first_of_all = is_int_or_string(&at.value()["allOf"][0]["anyOf"]);
    validations(at, is_int_or_string(&at.value()["anyOf"]), first_of_all);
    types(at, level);
    metadata(at, level);
}

fn extensions(at: &At) {
    for (name, unlike) in [
        ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"),
        ("x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"),
    ] {
        if yes(at, name) && yes(at, unlike) {
            at.field(name).invalid(format!("must be false if {unlike} is true"));
        }
    }
}

fn types(at: &At, level: Level) {
    let of_type = at.field("type");
    let embedded = yes(at, "x-kubernetes-embedded-resource");
    let free = yes(at, "x-kubernetes-int-or-string") || yes(at, "x-kubernetes-preserve-unknown-fields");
    const EMBEDDED: &str = "must be object if x-kubernetes-embedded-resource is true";
    match (of_type.text(), level) {
        ("object", _) => {}
        ("", _) if embedded => of_type.required(EMBEDDED),
        (_, _) if embedded => of_type.invalid(EMBEDDED),
        ("", _) if free => {}
        ("", Level::Root) => of_type.required("must not be empty at the root"),
        ("", Level::Item) => of_type.required("must not be empty for specified array items"),
        ("", Level::Field) => of_type.required("must not be empty for specified object fields"),
        _ => {}
    }
    if embedded {
        at.field("additionalProperties").never("must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !["", "object"].contains(&of_type.text()) {
        of_type.invalid("must be object at the root");
    }
}

/// The fields that every object has may hardly be described.
fn metadata(at: &At, level: Level) {
    let embedded = yes(at, "x-kubernetes-embedded-resource");
    let checked = level == Level::Root || embedded;
    let properties = at.field("properties");
    let must_be = |name: &str, wanted: &str| {
        let property = properties.key(name);
        if checked && property.present() && text(property.value(), "type") != wanted {
            let given = text(property.value(), "type");
            property.field("type").invalid_as(given, format!("must be {wanted}"));
        }
    };
    must_be("kind", "string");
    must_be("apiVersion", "string");
    must_be("metadata", "object");
    let meta = properties.key("metadata");
    if meta.present() && level == Level::Root && says_more_than_names(meta.value()) {
        meta.forbidden(
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
    if embedded && !yes(at, "x-kubernetes-preserve-unknown-fields") && properties.empty() {
        properties.required(
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn says_more_than_names(meta: &Value) -> bool {
    let known = |name: &String| ["name", "generateName"].contains(&name.as_str());
    let properties = meta["properties"].as_object();
    let only_names = properties.is_none_or(|properties| properties.keys().all(known));
    let says = |(name, value): (&String, &Value)| {
        !["properties", "type", "default"].contains(&name.as_str()) && !value.is_null() && *value != false
    };
    !only_names || meta.as_object().is_some_and(|meta| meta.iter().any(says))
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

/// Calls for each part below `allOf` and its like.
fn alternatives(at: &At, each: impl Fn(&At)) {
    at.on("not", &each);
    for field in ["allOf", "anyOf", "oneOf"] {
        at.field(field).each(&each);
    }
}

/// Value validations; of int-or-string, the parts that say so are left out.
fn validations(at: &At, skip_any: bool, skip_first_of_all: bool) {
    if !skip_any {
        at.field("anyOf").each(|part| nested(part, false));
    }
    let all = at.field("allOf");
    for index in 0..all.items().len() {
        nested(&all.index(index), skip_first_of_all && index == 0);
    }
    at.field("oneOf").each(|part| nested(part, false));
    at.on("not", |part| nested(part, false));
    let pattern = at.field("pattern");
    if let Some(Err(why)) = Some(pattern.text()).filter(|text| !text.is_empty()).map(pattern::compile) {
        pattern.invalid(format!("must be a valid regular expression, but isn't: {why}"));
    }
}

/// What a part below `allOf` and its like must not say, and how messages name the lack of it.
const FORBIDDEN: [(&str, &str); 12] = [
    ("type", "empty"),
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("title", "empty"),
    ("description", "empty"),
    ("nullable", "false"),
    ("x-kubernetes-preserve-unknown-fields", "false"),
    ("x-kubernetes-embedded-resource", "false"),
    ("x-kubernetes-int-or-string", "false"),
    ("x-kubernetes-list-map-keys", "empty"),
    ("x-kubernetes-list-type", "undefined"),
    ("x-kubernetes-map-type", "undefined"),
];

/// A part below `allOf` and its like: it restricts values and says nothing of what they are.
fn nested(at: &At, skip_any: bool) {
    validations(at, skip_any, false);
    at.on("items", |items| nested(items, false));
    at.field("properties").entries(|_, property| nested(property, false));
    for (name, wanted) in FORBIDDEN.into_iter().chain([("x-kubernetes-validations", "empty")]) {
        let field = at.field(name);
        let unsaid = field.empty() || *field.value() == false;
        // An empty schema of further properties says that there may be some.
        if !unsaid || (name == "additionalProperties" && field.value().is_object()) {
            field.forbidden(format!("must be {wanted} to be structural"));
        }
    }
    let meta = at.field("properties");
    let meta = meta.key("metadata");
    meta.never("must not be specified in a nested context");
}

/// Whatever a part below `allOf` and its like restricts is there outside of it.
fn complete(part: &At, schema: &At) {
    if !schema.present() {
        return schema.required(&format!("because it is defined in {}", part.path()));
    }
    alternatives(part, |inner| complete(inner, schema));
    part.on("items", |items| complete(items, &schema.field("items")));
    part.field("properties").entries(|name, property| {
        complete(property, &schema.field("properties").key(name));
    });
}
