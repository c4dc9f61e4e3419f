//! What discovery lists, and the documents that objects are made of.

use crate::support::https::{Answer, Https};
use crate::support::root;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Where all objects are.
pub(super) const NAMESPACE: &str = "suite";
/// Bytes of addresses are smaller than this.
const BYTES: usize = 250;

/// A resource in one version.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) kind: String,
    pub(super) namespaced: bool,
    pub(super) verbs: Vec<String>,
    pub(super) subresources: Vec<Subresource>,
}

#[derive(Debug)]
pub(super) struct Subresource {
    pub(super) name: String,
    pub(super) verbs: Vec<String>,
}

impl Kind {
    pub(super) fn id(&self) -> String {
        format!("{}/{}/{}", self.group, self.version, self.resource)
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As messages name it.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn root(&self) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}", self.api_version())
    }

    /// The collection in the suite's namespace.
    pub(super) fn collection(&self) -> String {
        self.collection_in(NAMESPACE)
    }

    pub(super) fn collection_in(&self, namespace: &str) -> String {
        let place = if self.namespaced { format!("namespaces/{namespace}/") } else { String::new() };
        format!("{}/{place}{}", self.root(), self.resource)
    }

    /// The collection across namespaces.
    pub(super) fn everywhere(&self) -> String {
        format!("{}/{}", self.root(), self.resource)
    }

    pub(super) fn path_of(&self, object: &Value) -> String {
        self.path(super::name(object))
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.collection())
    }

    /// The group whose objects these are: both of events' are the core's.
    pub(super) fn home(&self) -> &str {
        if self.resource == "events" { "" } else { &self.group }
    }

    /// `details` of a refusal.
    pub(super) fn details(&self, name: &str) -> Value {
        let mut details = json!({"kind": self.resource});
        if !self.group.is_empty() {
            details["group"] = json!(self.group);
        }
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        details
    }
}

/// Every kind in every version.
pub(super) fn of_discovery(https: &Https) -> Vec<Kind> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let roots = ["/api", "/apis"].map(|path| https.ask("GET", path).header("accept", accept).send().value());
    let lists = roots.iter().flat_map(|root| root["items"].as_array().unwrap());
    lists.flat_map(of_group).collect()
}

fn of_group(group: &Value) -> Vec<Kind> {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    let versions = group["versions"].as_array().unwrap().iter();
    let resources = versions.flat_map(|version| {
        let own = version["version"].as_str().unwrap();
        version["resources"].as_array().into_iter().flatten().map(move |resource| (own, resource))
    });
    resources.map(|(version, resource)| kind(name, version, resource)).collect()
}

fn kind(group: &str, version: &str, resource: &Value) -> Kind {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let texts = |value: &Value| value.as_array().unwrap().iter().map(text).collect();
    let subresource =
        |one: &Value| Subresource { name: text(&one["subresource"]), verbs: texts(&one["verbs"]) };
    Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: text(&resource["resource"]),
        kind: text(&resource["responseKind"]["kind"]),
        namespaced: resource["scope"] == "Namespaced",
        verbs: texts(&resource["verbs"]),
        subresources: resource["subresources"].as_array().into_iter().flatten().map(subresource).collect(),
    }
}

/// A document of `tests/data/objects.yaml`, which says what its fields are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) object: Value,
    #[serde(default)]
    change: Value,
    #[serde(default)]
    pub(super) status: Value,
    #[serde(default)]
    pub(super) fixed: bool,
    #[serde(default)]
    wants: Value,
    #[serde(default)]
    pub(super) versioned: bool,
    #[serde(default)]
    pub(super) made_by_update: bool,
    #[serde(default)]
    labels_count: bool,
    generation: Option<i64>,
    #[serde(default)]
    pub(super) unnamed: bool,
    #[serde(default)]
    pub(super) rewritten: bool,
    #[serde(default)]
    pub(super) unmanaged: bool,
    pub(super) acted_on: Option<String>,
}

impl Document {
    pub(super) fn group(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group)
    }

    /// An object in a version, with its own name.
    pub(super) fn make(&self, kind: &Kind, number: usize) -> Value {
        let mut object = filled(&self.object, number);
        object["apiVersion"] = json!(kind.api_version());
        object
    }

    pub(super) fn change(&self) -> Option<Value> {
        (!self.change.is_null()).then(|| self.change.clone())
    }

    /// The generation of an object with another label.
    pub(super) fn generation_labelled(&self, before: &Value) -> Value {
        if self.labels_count { next(before) } else { before.clone() }
    }

    /// The generation of an object whose desire was changed.
    pub(super) fn generation_changed(&self, before: &Value) -> Value {
        match self.generation {
            _ if self.change.is_null() => self.generation_labelled(before),
            Some(own) => json!(own),
            None => next(before),
        }
    }

    /// What has to be there before.
    pub(super) fn wanted(&self, number: usize) -> Option<Value> {
        (!self.wants.is_null()).then(|| filled(&self.wants, number))
    }
}

/// The generation after another one; kinds that count none have none.
pub(super) fn next(generation: &Value) -> Value {
    generation.as_i64().map_or(Value::Null, |before| json!(before + 1))
}

fn filled(template: &Value, number: usize) -> Value {
    let bytes = format!("{}.{}", number / BYTES % BYTES + 1, number % BYTES + 1);
    let text = template.to_string().replace("$(name)", &format!("s{number}"));
    let text = text.replace("$(n)", &bytes).replace("$(namespace)", NAMESPACE);
    serde_json::from_str(&text).unwrap()
}

pub(super) fn documents() -> Vec<Document> {
    let text = std::fs::read_to_string(root().join("tests/data/objects.yaml")).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Document::deserialize(document).unwrap())
        .collect()
}

/// Objects without what a server writes to them on its own.
pub(super) fn without_acts(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_acts).collect(),
        Value::Object(_) => {
            let mut object = value.clone();
            object.as_object_mut().unwrap().remove("status");
            for field in ["managedFields", "resourceVersion"] {
                object["metadata"].as_object_mut().and_then(|meta| meta.remove(field));
            }
            object
        }
        other => other.clone(),
    }
}

/// Where two values differ.
pub(super) fn differences(path: &str, (got, wanted): (&Value, &Value), found: &mut Vec<String>) {
    match (got, wanted) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                differences(&format!("{path}.{name}"), (&got[name], &wanted[name]), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, pair) in one.iter().zip(other).enumerate() {
                differences(&format!("{path}[{index}]"), pair, found);
            }
        }
        _ if got == wanted => {}
        _ => found.push(format!("{path} is {got} and not {wanted}")),
    }
}

/// An answer without what is another one each time: names, identifiers, times, versions.
pub(super) fn without_chance(answer: &Answer) -> String {
    let mut value = answer.value();
    level(&mut value);
    let warnings = answer.header("warning");
    let names = value.to_string();
    format!("  {} {} {warnings}\n  {}", answer.code, answer.header("content-type"), numberless(&names))
}

fn level(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            level_fields(fields);
            fields.values_mut().for_each(level);
        }
        Value::Array(items) => items.iter_mut().for_each(level),
        _ => {}
    }
}

const CHANCE: [&str; 12] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "clusterIP",
    "clusterIPs",
    "token",
    "expirationTimestamp",
    "continue",
    "lastTransitionTime",
    "age",
];

fn level_fields(fields: &mut Map<String, Value>) {
    for name in CHANCE {
        if fields.get(name).is_some_and(|value| !value.is_null() && value != "") {
            fields.insert(name.to_owned(), json!("?"));
        }
    }
}

/// The text without the numbers of names and addresses.
fn numberless(text: &str) -> String {
    let mut out = String::new();
    let mut last = ' ';
    for letter in text.chars() {
        match (letter.is_ascii_digit(), last) {
            (true, '#') => continue,
            (true, 's' | 'S' | '.') => {
                last = '#';
                out.push('#');
                continue;
            }
            _ => {}
        }
        last = letter;
        out.push(letter);
    }
    out
}
