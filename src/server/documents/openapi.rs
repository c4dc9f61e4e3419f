//! OpenAPI v2 and v3, made from the field tables and the table of kinds.

use api::kinds::{Kind, group_versions, served};
use api::schema::{Field, Merge, Type, TypeDef, schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Which of the two documents is written: they refer to types differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/io.k8s.{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/io.k8s.{name}")}),
        }
    }

    /// The type of a value.
    fn typed(self, ty: &Type) -> Value {
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Time => self.reference("apimachinery.pkg.apis.meta.v1.Time"),
            Type::MicroTime => self.reference("apimachinery.pkg.apis.meta.v1.MicroTime"),
            Type::Quantity => self.reference("apimachinery.pkg.api.resource.Quantity"),
            Type::IntOrString => self.reference("apimachinery.pkg.util.intstr.IntOrString"),
            Type::Any => json!({"type": "object"}),
            Type::List(item) => json!({"type": "array", "items": self.typed(item)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.typed(item)}),
            Type::Ref(id) => self.reference(schema().get(*id).name),
        }
    }

    fn property(self, field: &Field) -> Value {
        let mut property = self.typed(&field.ty);
        // In v3 a reference cannot have siblings.
        if self == Self::V3 && property.get("$ref").is_some() {
            property = json!({"allOf": [property]});
        }
        let list = matches!(field.ty, Type::List(_));
        match &field.merge {
            Merge::Unsaid => {}
            Merge::Atomic if list => property["x-kubernetes-list-type"] = json!("atomic"),
            Merge::Atomic => property["x-kubernetes-map-type"] = json!("atomic"),
            Merge::Granular => property["x-kubernetes-map-type"] = json!("granular"),
            Merge::Set => property["x-kubernetes-list-type"] = json!("set"),
            Merge::Keyed(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
        if !field.patch_strategy.is_empty() {
            property["x-kubernetes-patch-strategy"] = json!(field.patch_strategy);
        }
        if !field.patch_key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = json!(field.patch_key);
        }
        property
    }

    fn definition(self, def: &TypeDef) -> Value {
        let mut definition = json!({"type": "object"});
        let properties: Map<String, Value> =
            def.fields.iter().map(|field| (field.name.to_owned(), self.property(field))).collect();
        if !properties.is_empty() {
            definition["properties"] = Value::Object(properties);
        }
        let required: Vec<&str> =
            def.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        if !required.is_empty() {
            definition["required"] = json!(required);
        }
        if let Some((group, version, kind)) = def.gvk {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": kind}]);
        }
        if def.atomic {
            definition["x-kubernetes-map-type"] = json!("atomic");
        }
        definition
    }

    /// Types that are more than an object of fields.
    fn scalars(self) -> [(&'static str, Value); 4] {
        let int_or_string = match self {
            Self::V2 => json!({"type": "string", "format": "int-or-string"}),
            Self::V3 => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
        };
        let quantity = match self {
            Self::V2 => json!({"type": "string"}),
            Self::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        };
        [
            ("apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
            ("apimachinery.pkg.apis.meta.v1.MicroTime", json!({"type": "string", "format": "date-time"})),
            ("apimachinery.pkg.api.resource.Quantity", quantity),
            ("apimachinery.pkg.util.intstr.IntOrString", int_or_string),
        ]
    }

    fn operation(self, kind: &Kind, verb: &str, method: &str) -> Value {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let name = schema().of(kind).map_or("", |ty| schema().get(ty).name);
        let body = self.reference(name);
        let json_body = json!({"application/json": {"schema": body}});
        let mut operation = json!({
            "operationId": operation_id(kind, verb),
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": gvk,
            "responses": {"200": {"description": "OK"}},
        });
        match self {
            Self::V2 => operation["responses"]["200"]["schema"] = body.clone(),
            Self::V3 => operation["responses"]["200"]["content"] = json_body.clone(),
        }
        if matches!(method, "post" | "put" | "patch") {
            match self {
                Self::V2 => {
                    operation["parameters"] =
                        json!([{"name": "body", "in": "body", "required": true, "schema": body}])
                }
                Self::V3 => operation["requestBody"] = json!({"content": json_body}),
            }
            let parameter = match self {
                Self::V2 => json!({"name": "fieldValidation", "in": "query", "type": "string"}),
                Self::V3 => json!({"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}),
            };
            let dry_run = match self {
                Self::V2 => json!({"name": "dryRun", "in": "query", "type": "string"}),
                Self::V3 => json!({"name": "dryRun", "in": "query", "schema": {"type": "string"}}),
            };
            let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            parameters.extend([dry_run, parameter]);
            operation["parameters"] = Value::Array(parameters);
        }
        operation
    }

    /// The paths of a kind.
    fn paths(self, kind: &Kind, paths: &mut Map<String, Value>) {
        const COLLECTION: [(&str, &str, &str); 3] = [
            ("get", "list", "list"),
            ("post", "create", "post"),
            ("delete", "deletecollection", "deletecollection"),
        ];
        const OBJECT: [(&str, &str, &str); 4] = [
            ("get", "get", "get"),
            ("put", "update", "put"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ];
        let base = kind.path(if kind.namespaced { "{namespace}" } else { "" });
        let served = |rows: &[(&str, &str, &str)]| -> Map<String, Value> {
            let rows = rows.iter().filter(|(_, verb, _)| kind.verbs.contains(verb));
            rows.map(|(method, _, action)| ((*method).to_owned(), self.operation(kind, action, method)))
                .collect()
        };
        paths.insert(base.clone(), Value::Object(served(&COLLECTION)));
        let object = served(&OBJECT);
        if !object.is_empty() {
            paths.insert(format!("{base}/{{name}}"), Value::Object(object));
        }
        for subresource in kind.subresources {
            let methods: Map<String, Value> = subresource
                .verbs
                .iter()
                .map(|verb| {
                    let method = match *verb {
                        "create" => "post",
                        "update" => "put",
                        verb => verb,
                    };
                    (method.to_owned(), self.operation(kind, verb, method))
                })
                .collect();
            paths.insert(format!("{base}/{{name}}/{}", subresource.name), Value::Object(methods));
        }
    }
}

fn operation_id(kind: &Kind, verb: &str) -> String {
    let group = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let capital = |text: &str| {
        text.chars()
            .enumerate()
            .map(|(i, c)| if i == 0 { c.to_ascii_uppercase() } else { c })
            .collect::<String>()
    };
    let place = if kind.namespaced { "Namespaced" } else { "" };
    format!("{verb}{}{}{place}{}", capital(group), capital(kind.version), kind.kind)
}

fn info(version: &str) -> Value {
    json!({"title": "Kubernetes", "version": version})
}

/// `/openapi/v2`.
pub(super) fn v2(version: &str) -> Value {
    let dialect = Dialect::V2;
    let mut definitions: Map<String, Value> = schema()
        .types()
        .iter()
        .map(|def| (format!("io.k8s.{}", def.name), dialect.definition(def)))
        .collect();
    definitions.extend(dialect.scalars().map(|(name, scalar)| (format!("io.k8s.{name}"), scalar)));
    let mut paths = Map::new();
    served().for_each(|kind| dialect.paths(kind, &mut paths));
    json!({"swagger": "2.0", "info": info(version), "paths": paths, "definitions": definitions})
}

/// `/openapi/v3`: where each group version's document is.
pub(super) fn v3_index() -> Value {
    let paths: Map<String, Value> = group_versions()
        .into_iter()
        .map(|(group, version)| {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // The documents change with the executable alone.
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/apis/GROUP/VERSION`: the kinds of a group version and all types they use.
pub(super) fn v3(group: &str, version: &str, server_version: &str) -> Option<Value> {
    let dialect = Dialect::V3;
    let kinds: Vec<&Kind> = served().filter(|kind| kind.group == group && kind.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut used = BTreeSet::new();
    for kind in &kinds {
        for name in [kind.kind.to_owned(), format!("{}List", kind.kind)] {
            let def = schema()
                .types()
                .iter()
                .find(|def| def.gvk == Some((kind.group, kind.version, name.as_str())));
            if let Some(def) = def {
                collect(def, &mut used);
            }
        }
    }
    let mut schemas: Map<String, Value> = used
        .iter()
        .filter_map(|name| schema().by_name(name))
        .map(|id| schema().get(id))
        .map(|def| (format!("io.k8s.{}", def.name), dialect.definition(def)))
        .collect();
    schemas.extend(dialect.scalars().map(|(name, scalar)| (format!("io.k8s.{name}"), scalar)));
    let mut paths = Map::new();
    kinds.iter().for_each(|kind| dialect.paths(kind, &mut paths));
    Some(
        json!({"openapi": "3.0.0", "info": info(server_version), "paths": paths, "components": {"schemas": schemas}}),
    )
}

/// The type and all it refers to.
fn collect(def: &'static TypeDef, used: &mut BTreeSet<&'static str>) {
    if !used.insert(def.name) {
        return;
    }
    for field in &def.fields {
        let mut ty = &field.ty;
        while let Type::List(item) | Type::Map(item) = ty {
            ty = item;
        }
        if let Type::Ref(id) = ty {
            collect(schema().get(*id), used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_resolves() {
        let document = v3("apps", "v1", "v1.36.0").unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = &part[..part.find('"').unwrap()];
            assert!(schemas.contains_key(name), "{name}");
        }
        assert!(schemas.contains_key("io.k8s.api.apps.v1.Deployment"));
        assert!(v3("apps", "v2", "").is_none());
    }
}
