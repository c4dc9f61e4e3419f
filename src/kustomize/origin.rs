//! Where an object came from and what changed it, which annotations can tell.

use crate::resource::Resource;
use serde_json::Value;
use std::fmt::Write;

const ORIGIN: &str = "config.kubernetes.io/origin";
const TRANSFORMATIONS: &str = "alpha.config.kubernetes.io/transformations";

/// Annotations that only mean something during a build.
const OF_BUILDS: [&str; 18] = [
    "internal.config.kubernetes.io/previousKinds",
    "internal.config.kubernetes.io/previousNames",
    "internal.config.kubernetes.io/previousNamespaces",
    "internal.config.kubernetes.io/prefixes",
    "internal.config.kubernetes.io/suffixes",
    "internal.config.kubernetes.io/allowNameChange",
    "internal.config.kubernetes.io/allowKindChange",
    "internal.config.kubernetes.io/refBy",
    "internal.config.kubernetes.io/generatorBehavior",
    "internal.config.kubernetes.io/needsHashSuffix",
    "internal.config.kubernetes.io/path",
    "internal.config.kubernetes.io/index",
    "internal.config.kubernetes.io/seqindent",
    "internal.config.kubernetes.io/id",
    "internal.config.kubernetes.io/annotations-migration-resource-id",
    "config.kubernetes.io/path",
    "config.kubernetes.io/index",
    "config.k8s.io/id",
];

/// Where something came from: a file, or the kustomization and what it configures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Relative to the folder that is built.
    pub(crate) path: String,
    pub(crate) configured_in: String,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Of a generator or transformer in a file of its own.
    pub(crate) name: String,
    pub(crate) namespace: String,
}

impl Origin {
    /// Of something that a kustomization itself configures.
    pub(crate) fn builtin(file: String, kind: &str) -> Self {
        let (api_version, kind) = ("builtin".to_owned(), kind.to_owned());
        Self { configured_in: file, api_version, kind, ..Self::default() }
    }

    /// Of what an object in a file configures.
    pub(crate) fn configured(resource: &Resource) -> Option<Self> {
        let origin = resource.origin.as_ref()?;
        Some(Self {
            path: String::new(),
            configured_in: origin.path.clone(),
            api_version: resource.text("/apiVersion").to_owned(),
            kind: resource.kind().to_owned(),
            name: resource.name().to_owned(),
            namespace: resource.namespace().to_owned(),
        })
    }

    fn write(&self, indent: &str) -> String {
        let mut out = String::new();
        let lines = [("path", &self.path), ("configuredIn", &self.configured_in)];
        for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
            line(&mut out, indent, name, value);
        }
        let by = [
            ("apiVersion", &self.api_version),
            ("kind", &self.kind),
            ("name", &self.name),
            ("namespace", &self.namespace),
        ];
        if by.iter().any(|(_, value)| !value.is_empty()) {
            out.push_str(indent);
            out.push_str("configuredBy:\n");
            for (name, value) in by.iter().filter(|(_, value)| !value.is_empty()) {
                line(&mut out, &format!("{indent}  "), name, value);
            }
        }
        out
    }
}

fn line(out: &mut String, indent: &str, name: &str, value: &str) {
    let text = api::yaml::render(&Value::from(value));
    // Writing to a text does not fail.
    write!(out, "{indent}{name}: {text}").unwrap_or_default();
}

/// What annotations are to tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) origins: bool,
    pub(crate) transformations: bool,
}

/// The object as it is handed out.
pub(crate) fn finish(mut resource: Resource, shown: Shown) -> Value {
    let mut told: Vec<(&str, String)> = Vec::new();
    if shown.origins
        && let Some(origin) = &resource.origin
    {
        told.push((ORIGIN, origin.write("")));
    }
    if shown.transformations && !resource.transformations.is_empty() {
        let one = |origin: &Origin| origin.write("  ").replacen("  ", "- ", 1);
        told.push((TRANSFORMATIONS, resource.transformations.iter().map(one).collect()));
    }
    let Ok(annotations) = resource.metadata("annotations") else { return resource.object };
    annotations.retain(|key, _| {
        !OF_BUILDS.contains(&key.as_str()) && ![ORIGIN, TRANSFORMATIONS].contains(&key.as_str())
    });
    for value in annotations.values_mut().filter(|value| !value.is_string()) {
        *value = Value::from(crate::resource::text_of(value));
    }
    for (key, text) in told {
        annotations.insert(key.to_owned(), Value::from(text));
    }
    if annotations.is_empty()
        && let Some(metadata) = resource.object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("annotations");
    }
    resource.object
}
