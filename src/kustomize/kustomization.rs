//! What a kustomization can say.

use crate::error::{Error, Result};
use crate::resource::Gvk;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fields of a kustomization or component (`kustomize.config.k8s.io`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Kustomization {
    pub(crate) kind: String,
    pub(crate) api_version: String,
    /// Says nothing about what is built.
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    pub(crate) openapi: BTreeMap<String, String>,
    pub(crate) name_prefix: String,
    pub(crate) name_suffix: String,
    pub(crate) namespace: String,
    pub(crate) common_labels: Option<BTreeMap<String, String>>,
    pub(crate) labels: Vec<Label>,
    pub(crate) common_annotations: BTreeMap<String, String>,
    pub(crate) patches_strategic_merge: Option<Vec<String>>,
    #[serde(rename = "patchesJson6902")]
    pub(crate) patches_json: Option<Vec<Patch>>,
    pub(crate) patches: Vec<Patch>,
    pub(crate) images: Vec<Image>,
    pub(crate) image_tags: Option<Vec<Image>>,
    pub(crate) replacements: Vec<Replacement>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) vars: Option<Vec<Var>>,
    pub(crate) sort_options: Option<Order>,
    pub(crate) resources: Vec<String>,
    pub(crate) components: Vec<String>,
    pub(crate) crds: Vec<String>,
    pub(crate) bases: Option<Vec<String>>,
    pub(crate) config_map_generator: Vec<Generator>,
    pub(crate) secret_generator: Vec<Generator>,
    pub(crate) helm_globals: Option<Value>,
    pub(crate) helm_charts: Vec<Value>,
    pub(crate) helm_chart_inflation_generator: Vec<Value>,
    pub(crate) generator_options: Option<GeneratorOptions>,
    pub(crate) configurations: Vec<String>,
    pub(crate) generators: Vec<String>,
    pub(crate) transformers: Vec<String>,
    pub(crate) validators: Vec<String>,
    pub(crate) build_metadata: Vec<String>,
}

/// Labels, and where they go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Label {
    pub(crate) pairs: BTreeMap<String, String>,
    pub(crate) include_selectors: bool,
    pub(crate) include_templates: bool,
    pub(crate) include_volume_claim_templates: bool,
    pub(crate) fields: Vec<Place>,
}

/// A field of some kinds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) create: bool,
}

impl Place {
    pub(crate) fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }
}

/// A patch, and to which objects.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Patch {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) patch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<PatchOptions>,
}

/// What a patch may change.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct PatchOptions {
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_name_change: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_kind_change: bool,
}

/// Some objects: texts are expressions but for those of the source of a replacement.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) annotation_selector: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) label_selector: String,
}

/// Other names, tags and digests for images of a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) new_name: String,
    pub(crate) tag_suffix: String,
    pub(crate) new_tag: String,
    pub(crate) digest: String,
}

/// A value of one object that goes into others, or a file with such.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Replacement {
    pub(crate) path: String,
    pub(crate) source: Option<Source>,
    pub(crate) source_value: Option<String>,
    pub(crate) targets: Option<Vec<Target>>,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) field_path: String,
    pub(crate) options: Option<FieldOptions>,
}

/// Where a value goes to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) select: Option<Selector>,
    pub(crate) reject: Vec<Selector>,
    pub(crate) field_paths: Vec<String>,
    pub(crate) options: Option<FieldOptions>,
}

/// Which part of a field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FieldOptions {
    pub(crate) delimiter: String,
    pub(crate) index: i64,
    /// Taken and, as in kustomize, of no effect.
    #[serde(rename = "encoding")]
    _encoding: String,
    pub(crate) create: bool,
}

/// A number of replicas.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) count: i64,
}

/// A variable: a field that is put where `$(NAME)` stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Var {
    pub(crate) name: String,
    pub(crate) objref: Reference,
    pub(crate) fieldref: FieldReference,
}

/// The object of a variable.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Reference {
    pub(crate) api_version: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// The field of a variable.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct FieldReference {
    pub(crate) field_path: String,
}

/// In what order objects come.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) legacy_sort_options: Option<LegacyOrder>,
}

/// Kinds that come first and last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct LegacyOrder {
    pub(crate) order_first: Vec<String>,
    pub(crate) order_last: Vec<String>,
}

/// A ConfigMap or Secret to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Generator {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) behavior: String,
    pub(crate) literals: Vec<String>,
    pub(crate) files: Vec<String>,
    pub(crate) envs: Vec<String>,
    pub(crate) env: String,
    pub(crate) options: Option<GeneratorOptions>,
    /// Of Secrets alone.
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// What generated objects have beside their data.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct GeneratorOptions {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) disable_name_suffix_hash: bool,
    pub(crate) immutable: bool,
}

impl Kustomization {
    /// Reads one.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let invalid = |why: String| Error::new(format!("invalid Kustomization: {why}"));
        let document = api::yaml::first(bytes).map_err(|error| invalid(error.to_string()))?;
        let mut value = without_nulls(document.value);
        spell(&mut value);
        let given = value.as_object().cloned().unwrap_or_default();
        let mut read: Self = typed(Value::Object(given.clone())).map_err(|error| {
            // Which field it is that cannot be read is found by reading each alone.
            let wrong = given.iter().find_map(|(field, value)| {
                let alone = Map::from_iter([(field.clone(), value.clone())]);
                let error = typed::<Self>(Value::Object(alone)).err()?.to_string();
                let why = error.strip_prefix("json: ").filter(|why| !why.starts_with("unknown field"))?;
                Some(format!("json: cannot unmarshal field Kustomization.{field}: {why}"))
            });
            invalid(wrong.unwrap_or_else(|| error.to_string()))
        })?;
        if given.keys().all(|key| key == "kind" || key == "apiVersion") {
            return Err(Error::new("kustomization.yaml is empty"));
        }
        for generator in read.config_map_generator.iter_mut().chain(&mut read.secret_generator) {
            let env = std::mem::take(&mut generator.env);
            generator.envs.extend(Some(env).filter(|env| !env.is_empty()));
        }
        if read.config_map_generator.iter().any(|one| !one.kind.is_empty()) {
            return Err(invalid("json: unknown field \"type\"".to_owned()));
        }
        if read.kind.is_empty() {
            "Kustomization".clone_into(&mut read.kind);
        }
        Ok(read)
    }

    /// What is wrong with its kind and version, a line each.
    pub(crate) fn misnamed(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !["Kustomization", "Component"].contains(&self.kind.as_str()) {
            wrong.push("kind should be Kustomization or Component".to_owned());
        }
        let version = if self.kind == "Component" { "v1alpha1" } else { "v1beta1" };
        let wanted = format!("kustomize.config.k8s.io/{version}");
        if !self.api_version.is_empty() && self.api_version != wanted {
            wrong.push(format!("apiVersion for {} should be {wanted}", self.kind));
        }
        wrong
    }

    /// What there is to tell about fields that should not be used any more.
    pub(crate) fn deprecated(&self) -> impl Iterator<Item = String> {
        let fields = [
            (self.bases.is_some(), "bases", "resources"),
            (self.common_labels.is_some(), "commonLabels", "labels"),
            (self.image_tags.is_some(), "imageTags", "images"),
            (self.patches_json.is_some(), "patchesJson6902", "patches"),
            (self.patches_strategic_merge.is_some(), "patchesStrategicMerge", "patches"),
            (self.vars.is_some(), "vars", "replacements"),
        ];
        fields.into_iter().filter(|(used, ..)| *used).map(|(_, old, new)| {
            let experimental = if old == "vars" { "[EXPERIMENTAL] " } else { "" };
            format!(
                "# Warning: '{old}' is deprecated. Please use '{new}' instead. {experimental}Run 'kustomize edit fix' to update your Kustomization automatically."
            )
        })
    }
}

/// Reads a value into its type, with errors in the words of Go's library where they are known.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(without_nulls(value)).map_err(|error| {
        let text = error.to_string();
        let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        Error::new(match unknown {
            Some(field) => format!("json: unknown field {field:?}"),
            None => format!("json: {text}"),
        })
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The names of fields; kustomize takes them in any case.
const NAMES: [&str; 81] = [
    "allowKindChange",
    "allowNameChange",
    "annotationSelector",
    "annotations",
    "apiVersion",
    "bases",
    "behavior",
    "buildMetadata",
    "commonAnnotations",
    "commonLabels",
    "components",
    "configMapGenerator",
    "configurations",
    "count",
    "crds",
    "create",
    "delimiter",
    "digest",
    "disableNameSuffixHash",
    "encoding",
    "env",
    "envs",
    "fieldPath",
    "fieldPaths",
    "fieldref",
    "fields",
    "files",
    "generatorOptions",
    "generators",
    "group",
    "helmChartInflationGenerator",
    "helmCharts",
    "helmGlobals",
    "imageTags",
    "images",
    "immutable",
    "includeSelectors",
    "includeTemplates",
    "includeVolumeClaimTemplates",
    "index",
    "kind",
    "labelSelector",
    "labels",
    "legacySortOptions",
    "literals",
    "metadata",
    "name",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "newName",
    "newTag",
    "objref",
    "openapi",
    "options",
    "order",
    "orderFirst",
    "orderLast",
    "pairs",
    "patch",
    "patches",
    "patchesJson6902",
    "patchesStrategicMerge",
    "path",
    "reject",
    "replacements",
    "replicas",
    "resources",
    "secretGenerator",
    "select",
    "sortOptions",
    "source",
    "sourceValue",
    "tagSuffix",
    "target",
    "targets",
    "transformers",
    "type",
    "validators",
    "vars",
    "version",
];

/// Spells the names of fields as they are known; those of labels, annotations and the like are anybody's.
fn spell(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            for (key, mut value) in old {
                let known = NAMES.iter().find(|name| name.eq_ignore_ascii_case(&key));
                let key = known.map_or(key, |name| (*name).to_owned());
                let of_anybody = match key.as_str() {
                    "pairs" | "annotations" | "commonAnnotations" | "commonLabels" => true,
                    "helmGlobals" | "helmCharts" => true,
                    "labels" => value.is_object(),
                    _ => false,
                };
                if !of_anybody {
                    spell(&mut value);
                }
                fields.insert(key, value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(spell),
        _ => {}
    }
}

/// Go leaves what is null as it was.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(key, value)| (key, without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
