//! OpenAPI v2 and v3, made from the field tables and the table of kinds. The documents are megabytes:
//! they are written path by path and type by type, and are never in memory as values.

mod definitions;
mod parameters;
mod paths;

use super::swagger::{self, Swagger};
use crate::catalogue::{Added, Custom};
use api::custom::Form;
use api::schema::schema;
use definitions::{OPAQUE, known_versions, referred};
use parameters::Parameter;
pub(super) use paths::documents;
use paths::{Answer, Body, Operation, PathItem, TypeName};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

/// Which of the two documents is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// Where types are, in a reference.
    fn place(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A reference to one of Kubernetes' own types.
    fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("{}io.k8s.{name}", self.place())})
    }

    fn named_reference(self, name: TypeName) -> Value {
        json!({"$ref": format!("{}{name}", self.place())})
    }

    fn answer(self, answer: Answer) -> Value {
        match answer {
            Answer::Type(name) => self.named_reference(name),
            Answer::Text => json!({"type": "string"}),
        }
    }

    /// A schema for each media type.
    fn contents(self, media: &[&str], schema: &Value) -> Value {
        media
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": schema})))
            .collect::<Map<_, _>>()
            .into()
    }

    fn responses(self, operation: &Operation) -> Value {
        let schema = self.answer(operation.answer);
        let mut responses = json!({"401": {"description": "Unauthorized"}});
        for code in operation.codes {
            let description = match code {
                200 => "OK",
                201 => "Created",
                _ => "Accepted",
            };
            responses[code.to_string()] = match self {
                Self::V2 => json!({"description": description, "schema": schema}),
                Self::V3 => {
                    json!({"description": description, "content": self.contents(operation.produces, &schema)})
                }
            };
        }
        responses
    }

    /// A parameter where it is used.
    fn parameter(self, parameter: &Parameter) -> Value {
        match (self, parameter.shared_name()) {
            (Self::V2, Some(shared)) => json!({"$ref": format!("#/parameters/{shared}")}),
            _ => self.described(parameter),
        }
    }

    fn described(self, parameter: &Parameter) -> Value {
        let mut described = json!({"name": parameter.name, "in": parameter.place});
        if parameter.place == "path" {
            described["required"] = json!(true);
        }
        match self {
            Self::V2 => {
                described["type"] = json!(parameter.ty);
                described["uniqueItems"] = json!(true);
            }
            Self::V3 => described["schema"] = json!({"type": parameter.ty, "uniqueItems": true}),
        }
        described
    }

    /// The body as v2's parameter.
    fn body_parameter(self, body: Body) -> Option<Value> {
        let mut parameter =
            json!({"name": "body", "in": "body", "schema": self.named_reference(body.type_name()?)});
        if body.is_required() {
            parameter["required"] = json!(true);
        }
        Some(parameter)
    }

    fn operation(self, operation: &Operation, tag: &str) -> Value {
        let mut value =
            json!({"operationId": operation.id, "responses": self.responses(operation), "tags": [tag]});
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|parameter| self.parameter(parameter)).collect();
        let body = self.body_parameter(operation.body);
        match self {
            Self::V2 => {
                let shared = |name: &str| json!({"$ref": format!("#/parameters/{name}")});
                let body = operation.body.shared_name().map(shared).or(body);
                body.into_iter().for_each(|body| parameters.insert(0, body));
                value["schemes"] = json!(["https"]);
                value["produces"] = json!(operation.produces);
                if !operation.consumes.is_empty() {
                    value["consumes"] = json!(operation.consumes);
                }
            }
            Self::V3 => {
                if let Some(mut body) = body {
                    let content = self.contents(operation.consumes, &body["schema"]);
                    value["requestBody"] = json!({"content": content});
                    if operation.body.is_required() {
                        value["requestBody"]["required"] = body["required"].take();
                    }
                }
            }
        }
        if !parameters.is_empty() {
            value["parameters"] = Value::Array(parameters);
        }
        if !operation.action.is_empty() {
            let (group, version, kind) = &operation.concerns;
            value["x-kubernetes-action"] = json!(operation.action);
            value["x-kubernetes-group-version-kind"] =
                json!({"group": group, "version": version, "kind": kind});
        }
        value
    }

    fn item(self, item: &PathItem) -> Value {
        let operations = item.operations.iter();
        let mut value: Map<String, Value> = operations
            .map(|operation| (operation.method.to_owned(), self.operation(operation, &item.tag)))
            .collect();
        if !item.parameters.is_empty() {
            let parameters = item.parameters.iter().map(|parameter| self.parameter(parameter));
            value.insert("parameters".to_owned(), parameters.collect());
        }
        Value::Object(value)
    }
}

/// Writes an object entry by entry.
fn entries(out: &mut dyn Write, entries: impl Iterator<Item = (String, Value)>) -> io::Result<()> {
    out.write_all(b"{")?;
    for (index, (name, value)) in entries.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(out, "{comma}{}:{value}", Value::from(name))?;
    }
    out.write_all(b"}")
}

fn info(version: &str) -> Value {
    json!({"title": "Kubernetes", "version": version})
}

fn bearer() -> Value {
    json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}})
}

/// Parameters that many operations of v2 refer to.
fn shared_parameters() -> Map<String, Value> {
    let dialect = Dialect::V2;
    let bodies = [Body::Patch, Body::DeleteOptions].into_iter();
    let bodies =
        bodies.filter_map(|body| Some((body.shared_name()?.to_owned(), dialect.body_parameter(body)?)));
    let shared = parameters::all()
        .filter_map(|parameter| Some((parameter.shared_name()?, dialect.described(parameter))));
    shared.chain(bodies).collect()
}

/// `/openapi/v2`.
pub(super) fn v2(
    out: &mut dyn Write,
    added: &Added,
    others: &[Arc<Swagger>],
    version: &str,
) -> io::Result<()> {
    let dialect = Dialect::V2;
    let names = || schema().published().iter().map(|def| def.name).chain(OPAQUE);
    let others = swagger::merged(others, |name| {
        let own = name.strip_prefix("io.k8s.");
        let custom = || added.customs().iter().flat_map(|custom| types_of(custom, Form::V2));
        own.is_some_and(|own| names().any(|known| known == own)) || custom().any(|(known, _)| known == name)
    });
    let mut parameters = others.parameters;
    parameters.extend(shared_parameters());
    let parameters = Value::Object(parameters);
    write!(
        out,
        "{{\"swagger\":\"2.0\",\"info\":{},\"security\":[{{\"BearerToken\":[]}}],\"securityDefinitions\":{},\"parameters\":{parameters},\"paths\":",
        info(version),
        bearer()
    )?;
    let items = documents(added).into_iter().filter_map(|name| paths::document(added, &name)).flatten();
    let items = items.filter(|item| !others.paths.contains_key(&item.path));
    let items = items.map(|item| (item.path.clone(), dialect.item(&item)));
    entries(out, items.chain(others.paths.clone()))?;
    out.write_all(b",\"definitions\":")?;
    let versions = known_versions();
    let own = names().map(|name| (format!("io.k8s.{name}"), dialect.named(name, &versions)));
    let customs = added.customs().iter().flat_map(|custom| types_of(custom, Form::V2));
    entries(out, own.chain(customs).chain(others.definitions))?;
    out.write_all(b"}")
}

/// One document of `/openapi/v3`: the paths of a group version and all types they use. `false` if there
/// is none of the name.
pub(super) fn v3(out: &mut dyn Write, added: &Added, name: &str, version: &str) -> io::Result<bool> {
    let dialect = Dialect::V3;
    let Some(items) = paths::document(added, name) else { return Ok(false) };
    write!(out, "{{\"openapi\":\"3.0.0\",\"info\":{},\"paths\":", info(version))?;
    entries(out, items.iter().map(|item| (item.path.clone(), dialect.item(item))))?;
    write!(out, ",\"components\":{{\"securitySchemes\":{}", bearer())?;
    let used = used(&items);
    if !used.is_empty() {
        out.write_all(b",\"schemas\":")?;
        let versions = versions_of(name);
        let customs = added.customs().iter();
        let customs = customs.filter(|custom| used.contains(&TypeName::Custom(custom.kind.types[0])));
        let own = used.iter().filter_map(|name| match name {
            TypeName::Own(own) => Some((name.to_string(), dialect.named(own, &versions))),
            TypeName::Custom(_) => None,
        });
        entries(out, customs.flat_map(|custom| types_of(custom, Form::V3)).chain(own))?;
    }
    out.write_all(b"}}")?;
    Ok(true)
}

/// Group versions that the options and events of a document belong to: the core's and its own.
fn versions_of(name: &str) -> Vec<(&str, &str)> {
    let own = name.strip_prefix("apis/").and_then(|rest| rest.split_once('/'));
    [("", "v1")].into_iter().chain(own).collect()
}

/// The types of a custom kind.
fn types_of(custom: &Custom, form: Form) -> [(String, Value); 2] {
    let [object, list] = custom.kind.types.map(str::to_owned);
    let published = custom.published(form);
    [(object, published.object), (list, published.list)]
}

/// The types that paths use, and the types those use. Custom ones use the metadata of objects and lists.
fn used(items: &[PathItem]) -> BTreeSet<TypeName> {
    let mut used = BTreeSet::new();
    let operations = items.iter().flat_map(|item| &item.operations);
    let mut wanted: Vec<TypeName> = operations
        .flat_map(|operation| {
            let answer = match operation.answer {
                Answer::Type(name) => Some(name),
                Answer::Text => None,
            };
            answer.into_iter().chain(operation.body.type_name())
        })
        .collect();
    while let Some(name) = wanted.pop() {
        if used.insert(name) {
            let referred = match name {
                TypeName::Own(name) => referred(name),
                TypeName::Custom(_) => METADATA.to_vec(),
            };
            wanted.extend(referred.into_iter().map(TypeName::Own));
        }
    }
    used
}

/// The metadata of objects and of lists.
const METADATA: [&str; 2] =
    ["apimachinery.pkg.apis.meta.v1.ObjectMeta", "apimachinery.pkg.apis.meta.v1.ListMeta"];
