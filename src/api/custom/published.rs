//! What OpenAPI says of a custom resource. Made from the definition's own schema when documents are
//! written: a [`Structural`](super::Structural) has no descriptions, which are most of a schema.

use super::definition::{Definition, Version};
use super::structural::{list, text};
use crate::kinds::Kind;
use crate::schema::Everywhere;
use serde_json::{Map, Value, json};

/// The version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 2.0, which has no alternatives and no nulls: kubectl is told less, never something wrong.
    V2,
    /// 3.0, which has all of it.
    V3,
}

/// The two types of a version.
#[derive(Clone, Debug)]
pub struct Published {
    /// The schema of objects.
    pub object: Value,
    /// The schema of lists.
    pub list: Value,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The types of a version, whose schema in the definition (`openAPIV3Schema`) is given.
pub fn published(
    kind: &Kind,
    definition: &Definition,
    version: &Version,
    schema: Option<&Value>,
    form: Form,
) -> Published {
    let names = &definition.names;
    let gvk = |kind: &str| json!([{"group": definition.group, "version": version.name, "kind": kind}]);
    let mut object = whole(schema, definition.preserve_unknown_fields, form);
    object["x-kubernetes-group-version-kind"] = gvk(&names.kind);
    let item = format!("{}{}", form.place(), kind.types[0]);
    let mut list = json!({"type": "object", "required": ["items"],
        "properties": {"items": {"type": "array", "items": {"$ref": item},
            "description": Everywhere::List.description("items")}},
        "x-kubernetes-group-version-kind": gvk(&names.list_kind)});
    add_meta(&mut list, form, Everywhere::List);
    let fields = version.selectable_fields.iter().map(|path| json!({"fieldPath": path}));
    if fields.len() > 0 {
        let fields: Value = fields.collect();
        list["x-kubernetes-selectable-fields"] = fields.clone();
        object["x-kubernetes-selectable-fields"] = fields;
    }
    Published { object, list }
}

impl Form {
    fn place(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A reference beside which a description may stand, which 3.0 has to wrap.
    fn reference(self, name: &str) -> Value {
        let bare = json!({"$ref": format!("{}{META}.{name}", self.place())});
        match self {
            Self::V2 => bare,
            Self::V3 => json!({"allOf": [bare]}),
        }
    }
}

/// The schema of objects. One that could be anything says nothing of its fields: kubectl would take those
/// that it names for all.
fn whole(schema: Option<&Value>, preserves: bool, form: Form) -> Value {
    let free = |schema: &Value| preserves || keeps_unknown(schema);
    let Some(schema) = schema.filter(|schema| form == Form::V3 || !free(schema)) else {
        return json!({"type": "object"});
    };
    let mut object = part(schema, form);
    add_meta(&mut object, form, Everywhere::Object);
    object
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Adds the fields that every object has, or every list of them.
fn add_meta(schema: &mut Value, form: Form, whose: Everywhere) {
    let text = json!({"type": "string"});
    let metadata = form.reference(match whose {
        Everywhere::Object => "ObjectMeta",
        Everywhere::List => "ListMeta",
    });
    for (name, mut own) in [("apiVersion", text.clone()), ("kind", text), ("metadata", metadata)] {
        own["description"] = whose.description(name).into();
        schema["properties"][name] = own;
    }
}

/// An object within another says what it is.
fn require_kind(schema: &mut Value) {
    let stated = list(&schema["required"]);
    let missing = ["kind", "apiVersion"].map(Value::from).into_iter().filter(|name| !stated.contains(name));
    schema["required"] = stated.iter().cloned().chain(missing).collect();
}

fn part(schema: &Value, form: Form) -> Value {
    let mut own = schema.as_object().cloned().unwrap_or_default();
    own.retain(|_, value| !value.is_null() && *value != false);
    // `false` says something only here.
    if schema["additionalProperties"] == false {
        own.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    if own.get("x-kubernetes-int-or-string").is_some() && !says_int_or_string(schema) {
        let both = json!([{"type": "integer"}, {"type": "string"}]);
        match own.get_mut("anyOf") {
            None => drop(own.insert("anyOf".to_owned(), both)),
            Some(_) => {
                let others = list(&schema["allOf"]).iter().cloned();
                own.insert(
                    "allOf".to_owned(),
                    std::iter::once(json!({"anyOf": both})).chain(others).collect(),
                );
            }
        }
    }
    if form == Form::V2 {
        lossy(&mut own, schema);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = own.get_mut(field).filter(|inner| inner.is_object()) {
            *inner = part(inner, form);
        }
    }
    if let Some(Value::Object(properties)) = own.get_mut("properties") {
        properties.values_mut().for_each(|inner| *inner = part(inner, form));
    }
    let mut own = Value::Object(own);
    if own["x-kubernetes-embedded-resource"] == true && !(form == Form::V2 && keeps_unknown(&own)) {
        add_meta(&mut own, form, Everywhere::Object);
        require_kind(&mut own);
    }
    own
}

fn says_int_or_string(schema: &Value) -> bool {
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    schema["anyOf"] == both || schema["allOf"][0]["anyOf"] == both
}

/// What OpenAPI 2.0 cannot say, and what kubectl cannot read, is left out.
fn lossy(own: &mut Map<String, Value>, schema: &Value) {
    let mut without = |fields: &[&str]| fields.iter().for_each(|field| drop(own.remove(*field)));
    without(&["allOf", "anyOf", "oneOf", "not"]);
    let nullable = schema["nullable"] == true;
    let of_type = text(schema, "type");
    if nullable {
        without(&["type", "nullable", "items", "properties"]);
    }
    if keeps_unknown(schema) {
        without(&["items", "properties"]);
    }
    if (keeps_unknown(schema) && of_type == "object") || (of_type == "array" && !own.contains_key("items")) {
        own.remove("type");
    }
    if schema["additionalProperties"]["nullable"] == true {
        own.remove("required");
    }
    if let Some(Value::Array(required)) = own.get_mut("required") {
        required.retain(|name| schema["properties"][name.as_str().unwrap_or_default()]["nullable"] != true);
        if required.is_empty() {
            own.remove("required");
        }
    }
}
