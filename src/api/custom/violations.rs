//! The rules of schemas in definitions (`apiextensions/validation`). Of rules in CEL only the form is
//! checked here: what they mean, and what they cost, is checked where they are compiled.

use super::embedded::{Coercion, Malformed, coerce};
use super::fieldpath;
use super::structural::{Structural, list, text};
use super::structure::structural;
use crate::schema::strict::Place;
use crate::validate::{At, Error, aggregate, check};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// How many fields a field selector may name (KEP-4358).
const MOST_SELECTABLE: usize = 8;

/// What may stand at the root of a schema whose `status` is checked by itself, in the words of messages.
const AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";

/// Reports what is wrong with a schema (`openAPIV3Schema`); `status` says that objects have a `status`
/// subresource.
pub fn violations(schema: &At, status: bool) {
    if !schema.present() {
        return;
    }
    let before = schema.errors();
    if status {
        root_with_status(schema);
    }
    if schema.value()["nullable"] == true {
        schema.field("nullable").forbidden("nullable cannot be true at the root");
    }
    let read = Structural::of(schema.value());
    if let Ok(read) = &read {
        let sound = schema.errors();
        structural(schema);
        if schema.errors() == sound {
            let root = Defaults { root: read, is_root: true, place: Vec::new(), in_meta: false };
            defaults(schema, read, &root);
        }
    }
    openapi(schema, &Scope { root: true, ..Scope::default() });
    if let Err(why) = read
        && schema.errors() == before
    {
        schema.invalid_as("", why.to_string());
    }
}

fn root_with_status(schema: &At) {
    let of_type = schema.field("type");
    if !["", "object"].contains(&of_type.text()) {
        return of_type.invalid(
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        );
    }
    let allowed = |name: &str| {
        let name = name.strip_prefix("x-kubernetes-").map_or(name.to_owned(), |name| format!("x{name}"));
        let plain = name.replace('-', "").to_ascii_lowercase();
        AT_ROOT.trim_matches(['[', ']']).split(' ').any(|known| known.to_ascii_lowercase() == plain)
    };
    let said = |value: &Value| !value.is_null() && *value != false && *value != json!("");
    let mut fields = schema.value().as_object().into_iter().flatten();
    if fields.any(|(name, value)| said(value) && !allowed(name)) {
        schema.invalid(format!(
            "only {AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        ));
    }
}

/// Where defaults are checked.
#[derive(Clone)]
struct Defaults<'s> {
    /// The schema of the object around.
    root: &'s Structural,
    /// That object is the resource itself, whose schema does not say that it is an object.
    is_root: bool,
    /// The steps from that object, `None` for an item of a list.
    place: Vec<Option<String>>,
    /// Below `apiVersion`, `kind` or `metadata` of it.
    in_meta: bool,
}

impl<'s> Defaults<'s> {
    fn below(&self, step: Option<&str>, in_meta: bool) -> Self {
        let mut place = self.place.clone();
        place.push(step.map(str::to_owned));
        Self { place, in_meta, ..*self }
    }

    /// The least object in which a value stands here.
    fn around(&self, value: &Value) -> Value {
        let inner = self.place.iter().rev().fold(value.clone(), |inner, step| match step {
            Some(name) => Value::Object(Map::from_iter([(name.clone(), inner)])),
            None => Value::Array(vec![inner]),
        });
        let mut object = json!({"apiVersion": "validation/v1", "kind": "Validation"});
        if let (Value::Object(all), Value::Object(own)) = (&mut object, inner) {
            all.extend(own);
        }
        object
    }
}

/// Default values are valid themselves and have no fields that would be pruned.
fn defaults(at: &At, schema: &Structural, around: &Defaults<'_>) {
    let own;
    let around = if schema.embedded && !around.place.is_empty() {
        own = Defaults { root: schema, is_root: false, place: Vec::new(), in_meta: false };
        &own
    } else {
        around
    };
    if let Some(value) = schema.default.as_deref() {
        let default = at.field("default");
        if around.in_meta {
            default_of_meta(&default, schema, value, around)
        } else {
            default_of(&default, schema, value)
        }
    }
    if let Some(items) = schema.items() {
        defaults(&at.field("items"), items, &around.below(None, around.in_meta));
    }
    let object = around.place.is_empty() && (around.is_root || schema.embedded);
    for (name, inner) in schema.properties() {
        let in_meta = around.in_meta || (object && super::fit::META.contains(&name));
        let properties = at.field("properties");
        defaults(&properties.key(name), inner, &around.below(Some(name), in_meta));
    }
}

fn default_of(at: &At, schema: &Structural, value: &Value) {
    let mut pruned = value.clone();
    if schema.prunes(&mut pruned) {
        at.invalid("must not have unknown fields");
    }
    let mut copy = value.clone();
    if let Err(error) = coerced(&mut copy, schema, schema.embedded) {
        return at.pass_on(vec![error]);
    }
    let before = at.errors();
    schema.validate_part(at);
    if at.errors() == before {
        schema.validate_at(&at.path(), value, None).into_iter().for_each(|error| at.report(|_| error));
    }
}

fn default_of_meta(at: &At, schema: &Structural, value: &Value, around: &Defaults<'_>) {
    let mut object = around.around(value);
    let problems = match coerced(&mut object, around.root, true) {
        Err(error) => vec![error],
        Ok(()) => check(&object, |object| around.root.validate_object(object)),
    };
    if !problems.is_empty() {
        return at.invalid(format!("must result in valid metadata: {}", aggregate(&problems)));
    }
    schema.validate_at(&at.path(), value, None).into_iter().for_each(|error| at.report(|_| error));
}

fn coerced(value: &mut Value, schema: &Structural, embedded: bool) -> Result<(), Error> {
    let mut how = Coercion { malformed: Malformed::Refused, unknown: &mut Vec::new() };
    coerce(value, schema, embedded, &Place::Root, &mut how)
}

/// Where a part of a schema stands.
#[derive(Clone, Copy, Default)]
struct Scope<'a> {
    root: bool,
    /// Below the `metadata` of an object.
    in_meta: bool,
    /// Why there may be no defaults.
    no_defaults: Option<&'a str>,
}

fn openapi(at: &At, scope: &Scope<'_>) {
    if !at.value().is_object() {
        return;
    }
    unsupported(at, scope);
    let inner = Scope { root: false, ..*scope };
    if at.value()["uniqueItems"] == true {
        at.field("uniqueItems")
            .forbidden("uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    at.on("additionalProperties", |extra| {
        if !at.field("properties").empty() && *extra.value() != true {
            extra.forbidden("additionalProperties and properties are mutual exclusive");
        }
        const WHY: &str = "inside additionalProperties applying to object metadata";
        openapi(
            extra,
            &Scope { no_defaults: if scope.in_meta { Some(WHY) } else { scope.no_defaults }, ..inner },
        );
    });
    let is_object = scope.root || at.value()["x-kubernetes-embedded-resource"] == true;
    at.field("properties").entries(|name, property| {
        let why = format!("in top-level {name}");
        let is_meta = is_object && super::fit::META.contains(&name);
        let no_defaults = if is_meta && scope.root { Some(why.as_str()) } else { scope.no_defaults };
        openapi(property, &Scope { in_meta: scope.in_meta || is_meta, no_defaults, ..inner });
    });
    at.on("not", |part| openapi(part, &inner));
    for field in ["allOf", "oneOf", "anyOf"] {
        at.field(field).each(|part| openapi(part, &inner));
    }
    at.field("definitions").entries(|_, part| openapi(part, &inner));
    at.on("items", |items| {
        openapi(items, &inner);
        items.each(|item| openapi(item, &inner));
    });
    at.field("dependencies").entries(|_, part| openapi(part, &inner));
    if at.value()["x-kubernetes-preserve-unknown-fields"] == false {
        at.field("x-kubernetes-preserve-unknown-fields").invalid("must be true or undefined");
    }
    map_type(at);
    list_type(at);
    list_keys(at);
    let rules = at.field("x-kubernetes-validations");
    rules.each(|rule| rule_form(rule, at.value()));
}

fn unsupported(at: &At, scope: &Scope<'_>) {
    const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
    let of_type = at.field("type");
    if !of_type.empty() {
        of_type.one_of(&TYPES);
    }
    if let Some(why) = scope.no_defaults {
        at.field("default").never(&format!("must not be set {why}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let is_set = !at.field(field).empty()
            || (["additionalItems", "dependencies", "$ref"].contains(&field) && at.field(field).present());
        if is_set {
            at.field(field).forbidden(format!("{field} is not supported"));
        }
    }
    if of_type.is("null") {
        of_type.forbidden("type cannot be set to null, use nullable as an alternative");
    }
    let items = at.field("items");
    if !items.items().is_empty() {
        items.forbidden("items must be a schema object and not an array");
    }
    if scope.in_meta && at.value()["x-kubernetes-embedded-resource"] == true {
        at.field("x-kubernetes-embedded-resource").forbidden("must not be used inside of resource meta");
    }
}

/// An extension that is of one type.
fn of_type(at: &At, wanted: &str, extension: &str) -> bool {
    let of_type = at.field("type");
    let detail = format!("must be {wanted} if {extension} is specified");
    match of_type.text() {
        "" => of_type.required(&detail),
        text if text != wanted => of_type.invalid(detail),
        _ => return true,
    }
    false
}

fn map_type(at: &At) {
    const NAME: &str = "x-kubernetes-map-type";
    at.on(NAME, |map| {
        of_type(at, "object", NAME);
        map.one_of(&["atomic", "granular"]);
    });
}

fn list_type(at: &At) {
    const NAME: &str = "x-kubernetes-list-type";
    let (list, items) = (at.field(NAME), at.field("items"));
    if !list.present() {
        return;
    }
    if of_type(at, "array", NAME) && list.is("set") {
        const ATOMIC: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (inner_list, inner_map) = (items.field(NAME), items.field("x-kubernetes-map-type"));
        match items.field("type").text() {
            "array" if inner_list.present() && !inner_list.is("atomic") => inner_list.invalid(ATOMIC),
            // The message shows the other extension.
            "object" if !inner_map.is("atomic") => inner_map.invalid_as(inner_list.value().clone(), ATOMIC),
            _ => {}
        }
    }
    list.one_of(&["atomic", "set", "map"]);
}

fn list_keys(at: &At) {
    let (list, keys) = (at.field("x-kubernetes-list-type"), at.field("x-kubernetes-list-map-keys"));
    if !keys.empty() && !list.is("map") {
        const NOT_MAP: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.present() { list.invalid(NOT_MAP) } else { list.required(NOT_MAP) }
    }
    let items = at.field("items");
    if list.is("map") {
        if keys.empty() {
            keys.required("must not be empty if x-kubernetes-list-type is map");
        }
        match items.value() {
            Value::Null => items.required("must have a schema if x-kubernetes-list-type is map"),
            Value::Array(_) => {
                items.invalid("must only have a single schema if x-kubernetes-list-type is map")
            }
            _ if !items.field("type").is("object") => items.field("type").invalid_as(
                items.field("type").text(),
                "must be object if parent array's x-kubernetes-list-type is map",
            ),
            _ => keys_of_items(&items, &keys),
        }
    }
    if items.value().is_object() && (list.is("map") || list.is("set")) {
        if items.value()["nullable"] == true {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {}", list.text());
            items.field("nullable").forbidden(detail);
        }
        if list.is("map") {
            keys_are_said(&items, &keys);
        }
    }
}

fn keys_of_items(items: &At, keys: &At) {
    let mut seen = HashSet::new();
    for key in keys.items().iter().filter_map(Value::as_str) {
        let properties = items.field("properties");
        let property = properties.key(key);
        if !property.present() {
            keys.invalid("entries must all be names of item properties");
        } else if ["array", "object"].contains(&text(property.value(), "type")) {
            property.field("type").invalid_as(
                "object",
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            );
        }
        if !seen.insert(key) {
            keys.invalid("must not contain duplicate entries");
        }
    }
}

/// Each item has its keys.
fn keys_are_said(items: &At, keys: &At) {
    let required = list(&items.value()["required"]);
    for key in keys.items().iter().filter_map(Value::as_str) {
        let properties = items.field("properties");
        let property = properties.key(key);
        if !property.present() {
            continue;
        }
        if !required.contains(&Value::from(key)) && !property.field("default").present() {
            property.field("default").required(
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if property.value()["nullable"] == true {
            property
                .field("nullable")
                .forbidden("this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}

/// The form of a rule; the schema is that of the place where it stands.
fn rule_form(at: &At, schema: &Value) {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    const LINES: [char; 2] = ['\n', '\r'];
    let [rule, message, expression, path] =
        ["rule", "message", "messageExpression", "fieldPath"].map(|field| text(at.value(), field));
    if rule.trim().is_empty() {
        at.field("rule").required("rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        at.field("message").invalid("must be non-empty if specified");
    } else if message.trim().contains(LINES) {
        at.field("message").invalid("must not contain line breaks");
    } else if rule.trim().contains(LINES) && message.is_empty() {
        at.field("message").required("message must be specified if rule contains line breaks");
    }
    if !expression.is_empty() && expression.trim().is_empty() {
        at.field("messageExpression").required("messageExpression must be non-empty if specified");
    }
    at.on("reason", |reason| reason.one_of(&REASONS));
    if !path.is_empty() && path.trim().is_empty() {
        at.field("fieldPath").invalid("must be non-empty if specified");
    }
    if path.contains(LINES) {
        at.field("fieldPath").invalid("must not contain line breaks");
    }
    if !path.is_empty() && fieldpath::resolve(path, schema, true).is_err() {
        at.field("fieldPath").invalid("must be a valid path");
    }
}

/// Reports what is wrong with `selectableFields`, which name fields of a schema.
pub fn selectable(fields: &At, schema: &Value) {
    let mut seen = HashSet::new();
    fields.each(|field| {
        let path = field.field("jsonPath");
        if !path.need() {
            return;
        }
        let (steps, found) = match fieldpath::resolve(path.text(), schema, false) {
            Ok(found) => found,
            Err(why) => return path.invalid(format!("is an invalid path: {why}")),
        };
        if steps.first().is_some_and(|step| step == "metadata") {
            path.invalid("must not point to fields in metadata");
        }
        let of_type = found.map_or("", |schema| text(schema, "type"));
        if !["string", "boolean", "integer"].contains(&of_type) {
            path.invalid(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            );
        }
        if !seen.insert(steps) {
            path.duplicate();
        }
    });
    if seen.len() > MOST_SELECTABLE {
        fields.report(|path| Error::too_many(path, seen.len(), MOST_SELECTABLE));
    }
}
