//! Types as JSON schemas, from the field tables.

use super::Dialect;
use api::kinds::group_versions;
use api::schema::{Field, Merge, Type, TypeDef, field_description, schema, type_description};
use serde_json::{Map, Value, json};

const TIME: &str = "apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "apimachinery.pkg.util.intstr.IntOrString";

/// Types that the field tables do not describe field by field.
pub(super) const OPAQUE: [&str; 11] = [
    QUANTITY,
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "apimachinery.pkg.apis.meta.v1.FieldsV1",
    MICRO_TIME,
    "apimachinery.pkg.apis.meta.v1.Patch",
    TIME,
    "apimachinery.pkg.runtime.RawExtension",
    INT_OR_STRING,
];

/// Types that stand for kinds of every group version.
const EVERYWHERE: [&str; 2] =
    ["apimachinery.pkg.apis.meta.v1.DeleteOptions", "apimachinery.pkg.apis.meta.v1.WatchEvent"];

/// Group versions that Kubernetes knows and does not serve: v2 names them where it lists all.
#[rustfmt::skip]
const NOT_SERVED: [(&str, &str); 24] = [
    ("admission.k8s.io", "v1"), ("admission.k8s.io", "v1beta1"), ("apiextensions.k8s.io", "v1beta1"),
    ("apiregistration.k8s.io", "v1beta1"), ("apps", "v1beta1"), ("apps", "v1beta2"),
    ("authentication.k8s.io", "v1alpha1"), ("authentication.k8s.io", "v1beta1"),
    ("authorization.k8s.io", "v1beta1"), ("batch", "v1beta1"), ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1beta1"), ("extensions", "v1beta1"), ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"), ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("imagepolicy.k8s.io", "v1alpha1"), ("node.k8s.io", "v1alpha1"), ("node.k8s.io", "v1beta1"),
    ("policy", "v1beta1"), ("rbac.authorization.k8s.io", "v1alpha1"),
    ("rbac.authorization.k8s.io", "v1beta1"), ("scheduling.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1alpha1"),
];

impl Dialect {
    /// The type of a name as a schema. `versions` are the group versions whose document this is.
    pub(super) fn named(self, name: &str, versions: &[(&str, &str)]) -> Value {
        match schema().by_name(name) {
            Some(id) => self.definition(schema().get(id), versions),
            None => {
                let mut opaque = self.opaque(name);
                if let Some(text) = type_description(name) {
                    opaque["description"] = json!(text);
                }
                opaque
            }
        }
    }

    fn definition(self, def: &TypeDef, versions: &[(&str, &str)]) -> Value {
        let mut definition = json!({"type": "object"});
        if let Some(text) = type_description(def.name) {
            definition["description"] = json!(text);
        }
        let properties: Map<String, Value> =
            def.fields.iter().map(|field| (field.name.to_owned(), self.property(def, field))).collect();
        if !properties.is_empty() {
            definition["properties"] = Value::Object(properties);
        }
        let required: Vec<&str> =
            def.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        if !required.is_empty() {
            definition["required"] = json!(required);
        }
        let short = def.name.rsplit('.').next().unwrap_or_default();
        let of = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        if EVERYWHERE.contains(&def.name) {
            let all: Vec<Value> = versions.iter().map(|(group, version)| of(group, version, short)).collect();
            definition["x-kubernetes-group-version-kind"] = all.into();
        } else if let Some((group, version, kind)) = def.gvk {
            definition["x-kubernetes-group-version-kind"] = json!([of(group, version, kind)]);
        }
        if def.atomic {
            definition["x-kubernetes-map-type"] = json!("atomic");
        }
        if let Some(union) = def.union {
            definition["x-kubernetes-unions"] = json!([one_of(union)]);
        }
        definition
    }

    fn property(self, owner: &TypeDef, field: &Field) -> Value {
        let mut property = self.typed(&field.ty, field);
        // In v3 a reference cannot have siblings.
        if self == Self::V3 && property.get("$ref").is_some() && !field.is_bare() {
            property = json!({"allOf": [property]});
        }
        let list = matches!(field.ty, Type::List(_) | Type::Bytes);
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
        if let Some(text) = field_description(owner, field.name).filter(|_| !field.is_bare()) {
            property["description"] = json!(text);
        }
        // v2 has never published defaults.
        if let (Self::V3, Some(default)) = (self, default(field)) {
            property["default"] = default;
        }
        property
    }

    /// The type of a value of a field.
    fn typed(self, ty: &Type, field: &Field) -> Value {
        match ty {
            Type::String => match field.fact("enum") {
                Some(values) => json!({"type": "string", "enum": values.split(',').collect::<Vec<_>>()}),
                None => json!({"type": "string"}),
            },
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::List(item) => json!({"type": "array", "items": self.typed(item, field)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.typed(item, field)}),
            ty => type_name(ty, field).map_or_else(|| json!({"type": "object"}), |name| self.reference(name)),
        }
    }

    /// Types that are more than an object of fields.
    fn opaque(self, name: &str) -> Value {
        match (name, self) {
            (INT_OR_STRING, Self::V2) => json!({"type": "string", "format": "int-or-string"}),
            (INT_OR_STRING, Self::V3) => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            (QUANTITY, Self::V2) => json!({"type": "string"}),
            (QUANTITY, Self::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
            // Any JSON at all.
            (name, _) if name.contains(".JSON") => json!({}),
            _ => json!({"type": "object"}),
        }
    }
}

/// `x-kubernetes-unions`.
fn one_of(union: &str) -> Value {
    let (discriminator, fields) = union.split_once(':').unwrap_or(("", union));
    let capital = |field: &str| field[..1].to_ascii_uppercase() + &field[1..];
    let fields: Map<String, Value> =
        fields.split(',').map(|field| (field.to_owned(), capital(field).into())).collect();
    let mut union = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        union["discriminator"] = json!(discriminator);
    }
    union
}

fn default(field: &Field) -> Option<Value> {
    if let Some(stated) = field.fact("default") {
        return serde_json::from_str(stated).ok();
    }
    match field.ty {
        _ if !field.has_zero() => None,
        Type::Ref(_) => Some(json!({})),
        Type::Bool => Some(json!(false)),
        Type::String => Some(json!("")),
        _ => Some(json!(0)),
    }
}

/// The name under which a type that is no plain scalar is published.
fn type_name(ty: &Type, field: &Field) -> Option<&'static str> {
    match ty {
        Type::Ref(id) => Some(schema().get(*id).name),
        Type::Time => Some(TIME),
        Type::MicroTime => Some(MICRO_TIME),
        Type::Quantity => Some(QUANTITY),
        Type::IntOrString => Some(INT_OR_STRING),
        Type::Any => field.fact("as"),
        _ => None,
    }
}

/// The names of the types that a type refers to.
pub(super) fn referred(name: &str) -> Vec<&'static str> {
    let Some(id) = schema().by_name(name) else { return Vec::new() };
    let innermost = |field: &'static Field| {
        let mut ty = &field.ty;
        while let Type::List(item) | Type::Map(item) = ty {
            ty = item;
        }
        type_name(ty, field)
    };
    schema().get(id).fields.iter().filter_map(innermost).collect()
}

/// All group versions that v2 lists.
pub(super) fn known_versions() -> Vec<(&'static str, &'static str)> {
    let mut versions = [group_versions(), NOT_SERVED.to_vec()].concat();
    versions.sort_unstable();
    versions
}
