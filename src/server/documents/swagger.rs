//! OpenAPI v2 of other API servers as a part of this server's own.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Where what is shared stands in a document.
const PLACES: [&str; 2] = ["#/definitions/", "#/parameters/"];

/// What another server describes: paths, and the definitions and parameters that they use.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Swagger {
    pub(super) paths: Map<String, Value>,
    pub(super) definitions: Map<String, Value>,
    pub(super) parameters: Map<String, Value>,
}

/// A document as it comes; what nobody wants of it stays text.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document<'a> {
    #[serde(borrow)]
    paths: HashMap<String, &'a RawValue>,
    #[serde(borrow)]
    definitions: HashMap<String, &'a RawValue>,
    #[serde(borrow)]
    parameters: HashMap<String, &'a RawValue>,
}

fn read(text: &RawValue) -> Value {
    serde_json::from_str(text.get()).unwrap_or_default()
}

/// The references in a value.
fn references(value: &mut Value, found: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(reference) if name == "$ref" => found(reference),
            field => references(field, found),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| references(item, found)),
        _ => {}
    }
}

impl Swagger {
    /// The part of a document that is about paths below a prefix.
    pub(crate) fn of(document: &[u8], prefix: &str) -> Result<Self, serde_json::Error> {
        let document: Document<'_> = serde_json::from_slice(document)?;
        let below = |path: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (mut own, mut wanted) = (Self::default(), Vec::new());
        let mut note = |reference: &mut String| wanted.push(reference.clone());
        for (path, text) in document.paths.iter().filter(|(path, _)| below(path)) {
            let mut item = read(text);
            references(&mut item, &mut note);
            own.paths.insert(path.clone(), item);
        }
        while let Some(reference) = wanted.pop() {
            for (place, from, into) in [
                (PLACES[0], &document.definitions, &mut own.definitions),
                (PLACES[1], &document.parameters, &mut own.parameters),
            ] {
                let Some(name) = reference.strip_prefix(place).filter(|name| !into.contains_key(*name))
                else {
                    continue;
                };
                let mut value = from.get(name).map_or(Value::Null, |text| read(text));
                references(&mut value, &mut |reference| wanted.push(reference.clone()));
                into.insert(name.to_owned(), value);
            }
        }
        Ok(own)
    }
}

/// Whether a value refers to one of these definitions.
fn uses(value: &Value, names: &HashSet<&str>) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| match field {
            Value::String(to) if name == "$ref" => {
                to.strip_prefix(PLACES[0]).is_some_and(|to| names.contains(to))
            }
            field => uses(field, names),
        }),
        Value::Array(items) => items.iter().any(|item| uses(item, names)),
        _ => false,
    }
}

/// The definitions of one that are not what is there by their names, and those that refer to them.
fn apart<'a>(there: &Map<String, Value>, other: &'a [(&'a String, &'a Value)]) -> HashSet<&'a str> {
    let differs = |(name, value): &&(&String, &Value)| there.get(*name).is_some_and(|own| own != *value);
    let mut found: HashSet<&str> = other.iter().filter(differs).map(|(name, _)| name.as_str()).collect();
    loop {
        let more = other.iter().filter(|(name, value)| {
            there.contains_key(*name) && !found.contains(name.as_str()) && uses(value, &found)
        });
        let more: Vec<&str> = more.map(|(name, _)| name.as_str()).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// All as one. Types that this server has as well are its own; others of the same name that differ are told apart
/// by a suffix.
pub(super) fn merged(others: &[Arc<Swagger>], is_own: impl Fn(&str) -> bool) -> Swagger {
    let mut all = Swagger::default();
    for other in others {
        let theirs: Vec<_> = other.definitions.iter().filter(|(name, _)| !is_own(name)).collect();
        let apart = apart(&all.definitions, &theirs);
        let free = |name: &str| {
            let mut names = (2..).map(|number| format!("{name}_v{number}"));
            names.find(|name| !all.definitions.contains_key(name) && !other.definitions.contains_key(name))
        };
        let renamed: HashMap<&str, String> =
            apart.iter().filter_map(|name| Some((*name, free(name)?))).collect();
        let moved = |value: &Value| {
            let mut value = value.clone();
            references(&mut value, &mut |to| {
                let chosen = to.strip_prefix(PLACES[0]).and_then(|to| renamed.get(to));
                if let Some(chosen) = chosen {
                    *to = format!("{}{chosen}", PLACES[0]);
                }
            });
            value
        };
        for (name, value) in &theirs {
            let chosen = renamed.get(name.as_str()).unwrap_or(*name);
            all.definitions.entry(chosen).or_insert_with(|| moved(value));
        }
        for (from, into) in [(&other.paths, &mut all.paths), (&other.parameters, &mut all.parameters)] {
            for (name, value) in from {
                into.entry(name).or_insert_with(|| moved(value));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(group: &str, color: &str) -> Arc<Swagger> {
        let of = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let path = format!("/apis/{group}/v1/fruits");
        let document = json!({
            "paths": {&path: {"get": {"schema": of("Fruit"), "parameters": [{"$ref": "#/parameters/p"}]}}, "/other": {"get": of("Other")}},
            "definitions": {"Fruit": {"properties": {"color": of("Color"), "meta": of("io.k8s.Meta")}}, "Color": {"type": color},
                "Other": {}, "io.k8s.Meta": {"theirs": true}},
            "parameters": {"p": {"in": "query"}, "q": {}},
        });
        Swagger::of(document.to_string().as_bytes(), &format!("/apis/{group}/v1")).unwrap().into()
    }

    #[test]
    fn only_what_paths_use_is_taken() {
        let own = document("a.example", "string");
        assert_eq!(own.paths.keys().collect::<Vec<_>>(), ["/apis/a.example/v1/fruits"]);
        let mut names: Vec<&String> = own.definitions.keys().collect();
        names.sort();
        assert_eq!(names, ["Color", "Fruit", "io.k8s.Meta"]);
        assert_eq!(own.parameters.keys().collect::<Vec<_>>(), ["p"]);
    }

    #[test]
    fn types_of_the_same_name_are_told_apart() {
        let own = |name: &str| name.starts_with("io.k8s.");
        let same = merged(&[document("a.example", "string"), document("b.example", "string")], own);
        assert_eq!((same.paths.len(), same.definitions.len()), (2, 2));
        let other = merged(&[document("a.example", "string"), document("b.example", "number")], own);
        assert_eq!(other.definitions["Color_v2"], json!({"type": "number"}));
        assert_eq!(other.definitions["Color"], json!({"type": "string"}));
        // What refers to one that was renamed is another one as well.
        assert_eq!(other.definitions["Fruit_v2"]["properties"]["color"]["$ref"], "#/definitions/Color_v2");
        let path = &other.paths["/apis/b.example/v1/fruits"];
        assert_eq!(path["get"]["schema"]["$ref"], "#/definitions/Fruit_v2");
    }
}
