//! A CustomResourceDefinition (`apiextensions.k8s.io/v1`) as the server needs it.

use super::structural::{list, text};
use crate::kinds::columns::Printed;
use serde_json::{Value, json};
use std::cmp::Reverse;

/// A definition.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The API group.
    pub group: String,
    /// What objects are called.
    pub names: Names,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// Nothing is pruned, in any version.
    pub preserve_unknown_fields: bool,
    /// In the order of the definition.
    pub versions: Vec<Version>,
    /// How objects of one version become objects of another.
    pub conversion: Conversion,
}

/// `spec.names`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The resource in paths.
    pub plural: String,
    /// One of it.
    pub singular: String,
    /// `kind` of objects.
    pub kind: String,
    /// `kind` of lists.
    pub list_kind: String,
    /// What people type instead.
    pub short_names: Vec<String>,
    /// Groups of kinds that are asked for at once.
    pub categories: Vec<String>,
}

impl Names {
    /// Reads `spec.names` or `status.acceptedNames`.
    pub fn of(names: &Value) -> Self {
        let one = |field: &str| text(names, field).to_owned();
        let all =
            |field: &str| list(&names[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            plural: one("plural"),
            singular: one("singular"),
            kind: one("kind"),
            list_kind: one("listKind"),
            short_names: all("shortNames"),
            categories: all("categories"),
        }
    }
}

/// A version of a definition, without its schema.
#[derive(Clone, Debug)]
pub struct Version {
    /// Such as `v1beta1`.
    pub name: String,
    /// Clients may use it.
    pub served: bool,
    /// Objects are stored in it.
    pub storage: bool,
    /// The warning to give to clients, if it is deprecated.
    pub deprecation: Option<String>,
    /// What is printed besides the name.
    pub columns: Vec<Printed>,
    /// Objects have a `status` subresource.
    pub has_status: bool,
    /// Objects have a `scale` subresource.
    pub scale: Option<Scale>,
    /// JSON paths of fields that a field selector may name, without the leading dot.
    pub selectable_fields: Vec<String>,
}

/// `subresources.scale`: JSON paths as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Where the wanted number of replicas stands.
    pub spec_replicas: String,
    /// Where the number of replicas stands.
    pub status_replicas: String,
    /// Where the selector of pods stands, as text.
    pub label_selector: Option<String>,
}

/// `spec.conversion`.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook converts.
    Webhook {
        /// `clientConfig`.
        client: Value,
        /// `conversionReviewVersions`, the preferred one first.
        review_versions: Vec<String>,
    },
}

impl Definition {
    /// Reads a definition that passed validation.
    pub fn of(definition: &Value) -> Option<Self> {
        let spec = definition.get("spec")?;
        let group = spec["group"].as_str()?.to_owned();
        let names = Names::of(&spec["names"]);
        let all = list(&spec["versions"]);
        let versions = all.iter().map(|one| version(one, all, &group, &names.kind)).collect();
        let webhook = &spec["conversion"]["webhook"];
        let reviewed = list(&webhook["conversionReviewVersions"]).iter().filter_map(Value::as_str);
        Some(Self {
            group,
            names,
            namespaced: text(spec, "scope") == "Namespaced",
            preserve_unknown_fields: spec["preserveUnknownFields"] == true,
            versions,
            conversion: match text(&spec["conversion"], "strategy") {
                "Webhook" => Conversion::Webhook {
                    client: webhook["clientConfig"].clone(),
                    review_versions: reviewed.map(str::to_owned).collect(),
                },
                _ => Conversion::None,
            },
        })
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> Option<&Version> {
        self.versions.iter().find(|version| version.storage)
    }

    /// A version that is served.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }
}

/// The schema of a version (`openAPIV3Schema`), if the definition has one.
pub fn schema_of<'v>(definition: &'v Value, version: &str) -> Option<&'v Value> {
    let own = list(&definition["spec"]["versions"]).iter().find(|one| one["name"] == version)?;
    Some(&own["schema"]["openAPIV3Schema"]).filter(|schema| schema.is_object())
}

fn version(version: &Value, all: &[Value], group: &str, kind: &str) -> Version {
    let yes = |field: &str| version[field] == true;
    let subresources = &version["subresources"];
    let fields = list(&version["selectableFields"]).iter();
    Version {
        name: text(version, "name").to_owned(),
        served: yes("served"),
        storage: yes("storage"),
        deprecation: yes("deprecated").then(|| match version["deprecationWarning"].as_str() {
            Some(warning) => warning.to_owned(),
            None => deprecation(text(version, "name"), all, group, kind),
        }),
        columns: columns(&version["additionalPrinterColumns"]),
        has_status: subresources["status"].is_object(),
        scale: Some(&subresources["scale"]).filter(|scale| scale.is_object()).map(|scale| Scale {
            spec_replicas: text(scale, "specReplicasPath").to_owned(),
            status_replicas: text(scale, "statusReplicasPath").to_owned(),
            label_selector: scale["labelSelectorPath"]
                .as_str()
                .filter(|path| !path.is_empty())
                .map(str::to_owned),
        }),
        selectable_fields: fields
            .map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned())
            .collect(),
    }
}

/// The printed columns; without any, the age.
fn columns(given: &Value) -> Vec<Printed> {
    match list(given) {
        [] => Printed::of(&json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "How long ago the object was made."}))
        .into_iter()
        .collect(),
        given => given.iter().filter_map(Printed::of).collect(),
    }
}

/// What is said of a deprecated version: which is the best newer one.
fn deprecation(name: &str, all: &[Value], group: &str, kind: &str) -> String {
    let better = all.iter().filter(|one| one["served"] == true && one["deprecated"] != true);
    let better = better.map(|one| text(one, "name")).filter(|other| version_rank(other) > version_rank(name));
    let hint = better.max_by_key(|name| version_rank(name));
    let hint = hint.map(|better| format!("; use {group}/{better} {kind}")).unwrap_or_default();
    format!("{group}/{name} {kind} is deprecated{hint}")
}

/// Orders versions as Kubernetes does: `v2`, `v1`, `v2beta1`, `v1alpha1`, then others by the alphabet; the
/// greatest is the first choice.
pub fn version_rank(name: &str) -> impl Ord + use<> {
    let parsed = || {
        let rest = name.strip_prefix('v')?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (major, rest) = rest.split_at(digits);
        let number =
            |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0 && !text.starts_with('0'));
        let (stage, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => (2, number(minor)?),
            (_, Some(minor)) => (1, number(minor)?),
            _ => (if rest.is_empty() { Some(3) } else { None }?, 0),
        };
        Some((stage, number(major)?, minor))
    };
    match parsed() {
        Some((stage, major, minor)) => (stage, major, minor, Reverse(String::new())),
        None => (0, 0, 0, Reverse(name.to_owned())),
    }
}
