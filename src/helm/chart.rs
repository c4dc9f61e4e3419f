//! Charts: what is in their archives.

use crate::functions::clean;
use crate::semver::Version;
use crate::tar;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How deep charts stand in one another.
const DEPTH: usize = 20;

/// One file: its path in the chart, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
}

/// `Chart.yaml` (<https://helm.sh/docs/topics/charts/>), as releases keep it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    home: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    sources: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "texts")]
    pub(crate) version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    keywords: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    maintainers: Vec<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    icon: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    condition: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    tags: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "texts")]
    pub(crate) app_version: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deprecated: bool,
    #[serde(skip_serializing_if = "Map::is_empty")]
    annotations: Map<String, Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kube_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
}

/// A chart that another one needs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "texts")]
    pub(crate) version: String,
    repository: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) condition: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) tags: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) import_values: Vec<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) alias: String,
}

/// YAML's numbers where a version is meant: `appVersion: 1.2`.
fn texts<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        other => Ok(other.to_string()),
    }
}

/// A list that may be null.
fn list<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Metadata {
    /// As templates see it (`.Chart`), with Go's names of the fields.
    pub(crate) fn shown(&self, is_root: bool) -> Value {
        let dependencies: Vec<Value> = self.dependencies.iter().map(Dependency::shown).collect();
        let maintainers = self.maintainers.iter().map(|one| {
            json!({"Name": or_empty(&one["name"]), "Email": or_empty(&one["email"]), "URL": or_empty(&one["url"])})
        });
        json!({"Name": self.name, "Home": self.home, "Sources": self.sources, "Version": self.version,
            "Description": self.description, "Keywords": self.keywords, "Maintainers": maintainers.collect::<Vec<_>>(),
            "Icon": self.icon, "APIVersion": self.api_version, "Condition": self.condition, "Tags": self.tags,
            "AppVersion": self.app_version, "Deprecated": self.deprecated, "Annotations": self.annotations,
            "KubeVersion": self.kube_version, "Dependencies": dependencies, "Type": self.kind, "IsRoot": is_root})
    }
}

impl Dependency {
    fn shown(&self) -> Value {
        json!({"Name": self.name, "Version": self.version, "Repository": self.repository, "Condition": self.condition,
            "Tags": self.tags, "Enabled": self.enabled, "ImportValues": self.import_values, "Alias": self.alias})
    }
}

fn or_empty(value: &Value) -> Value {
    if value.is_null() { json!("") } else { value.clone() }
}

/// A chart with those in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chart {
    pub(crate) metadata: Metadata,
    pub(crate) lock: Value,
    pub(crate) values: Map<String, Value>,
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) templates: Vec<File>,
    pub(crate) files: Vec<File>,
    pub(crate) dependencies: Vec<Chart>,
}

impl Chart {
    /// Reads a chart's archive. An error is a sentence.
    pub(crate) fn unpack(archive: &[u8]) -> Result<Self, String> {
        Self::unpack_at(archive, 0)
    }

    fn unpack_at(archive: &[u8], depth: usize) -> Result<Self, String> {
        let mut files = Vec::new();
        for (name, data) in tar::unpack(archive)? {
            let name = inside(&name)?;
            let data = data.strip_prefix(b"\xef\xbb\xbf").map_or(data.clone(), <[u8]>::to_vec);
            files.push(File { name, data });
        }
        if files.is_empty() {
            return Err("no files in chart archive".to_owned());
        }
        Self::load(files, depth)
    }

    /// The chart of these files.
    #[cfg(test)]
    pub(crate) fn of(files: Vec<File>) -> Result<Self, String> {
        Self::load(files, 0)
    }

    fn load(files: Vec<File>, depth: usize) -> Result<Self, String> {
        if depth > DEPTH {
            return Err(format!("charts stand more than {DEPTH} deep in one another"));
        }
        let mut chart = Self { metadata: metadata(&files)?, ..Self::default() };
        let mut inner: BTreeMap<String, Vec<File>> = BTreeMap::new();
        for file in files {
            match file.name.as_str() {
                "Chart.yaml" => {}
                "Chart.lock" | "requirements.lock" => chart.lock = yaml(&file)?,
                "values.yaml" => chart.values = all_values(&file)?,
                "values.schema.json" => chart.schema = Some(file.data),
                "requirements.yaml" => {
                    let listed = yaml(&file)?;
                    let listed = serde_json::from_value(listed["dependencies"].clone());
                    let listed: Option<Vec<Dependency>> =
                        listed.map_err(|error| format!("cannot load requirements.yaml: {error}"))?;
                    chart.metadata.dependencies.extend(listed.unwrap_or_default());
                    if chart.metadata.api_version == "v1" {
                        chart.files.push(file);
                    }
                }
                name if name.starts_with("templates/") => chart.templates.push(file),
                name if name.starts_with("charts/") && !name.ends_with(".prov") => {
                    let rest = name["charts/".len()..].to_owned();
                    let first = rest.split('/').next().unwrap_or_default().to_owned();
                    inner.entry(first).or_default().push(File { name: rest, data: file.data });
                }
                _ => chart.files.push(file),
            }
        }
        chart.check()?;
        for (name, files) in inner {
            chart.dependencies.extend(subchart(&name, files, depth).map_err(|why| {
                format!("error unpacking subchart {name} in {}: {why}", chart.metadata.name)
            })?);
        }
        Ok(chart)
    }

    fn check(&self) -> Result<(), String> {
        let Metadata { name, version, kind, .. } = &self.metadata;
        let refuse = |why: String| Err(format!("validation: chart.metadata.{why}"));
        if name.is_empty() {
            return refuse("name is required".to_owned());
        }
        if name == "." || name == ".." || name.contains('/') {
            return refuse(format!("name {name:?} is invalid"));
        }
        if version.is_empty() {
            return refuse("version is required".to_owned());
        }
        if Version::parse(version).is_none() {
            return refuse(format!("version {version:?} is invalid"));
        }
        if !matches!(kind.as_str(), "" | "application" | "library") {
            return refuse("type must be application or library".to_owned());
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    pub(crate) fn is_library(&self) -> bool {
        self.metadata.kind == "library"
    }

    /// The definitions in `crds/`, of the charts in it as well, with the place each is from.
    pub(crate) fn crds(&self) -> Vec<(String, &File)> {
        let own = self.files.iter().filter(|file| {
            file.name.starts_with("crds/")
                && [".yaml", ".yml", ".json"].iter().any(|ending| file.name.ends_with(ending))
        });
        let own = own.map(|file| (format!("{}/{}", self.name(), file.name), file));
        let inner = self.dependencies.iter().flat_map(|chart| {
            chart.crds().into_iter().map(|(place, file)| (format!("{}/charts/{place}", self.name()), file))
        });
        own.chain(inner).collect()
    }
}

/// The path of an archive's file within the chart.
fn inside(name: &str) -> Result<String, String> {
    let name = name.replace('\\', "/");
    let Some((first, rest)) = name.split_once('/') else {
        if name == "Chart.yaml" {
            return Err("chart yaml not in base directory".to_owned());
        }
        return Err(format!("chart illegally contains content outside the base directory: {name:?}"));
    };
    if first == "Chart.yaml" {
        return Err("chart yaml not in base directory".to_owned());
    }
    if rest.starts_with('/') {
        return Err("chart illegally contains absolute paths".to_owned());
    }
    match clean(rest) {
        rest if rest == "." => {
            Err(format!("chart illegally contains content outside the base directory: {name:?}"))
        }
        rest if rest.starts_with("..") => Err("chart illegally references parent directory".to_owned()),
        rest => Ok(rest),
    }
}

fn yaml(file: &File) -> Result<Value, String> {
    let read = api::yaml::first(&file.data).map_err(|error| format!("cannot load {}: {error}", file.name))?;
    Ok(read.value)
}

fn metadata(files: &[File]) -> Result<Metadata, String> {
    let file = files.iter().find(|file| file.name == "Chart.yaml").ok_or("Chart.yaml file is missing")?;
    let mut metadata: Metadata =
        serde_json::from_value(yaml(file)?).map_err(|error| format!("cannot load Chart.yaml: {error}"))?;
    if metadata.api_version.is_empty() {
        metadata.api_version = "v1".to_owned();
    }
    Ok(metadata)
}

/// The values of all documents of a file, those of later ones laid over.
fn all_values(file: &File) -> Result<Map<String, Value>, String> {
    let failed = |why: String| format!("cannot load {}: {why}", file.name);
    let text = std::str::from_utf8(&file.data).map_err(|_| failed("it is not UTF-8".to_owned()))?;
    let mut values = Map::new();
    let all: Result<Vec<_>, _> = api::yaml::documents(text).collect();
    for document in all.map_err(|error| failed(error.to_string()))? {
        match document.value {
            Value::Object(fields) => crate::values::lay_over(&mut values, fields),
            Value::Null => {}
            _ => return Err(failed("it is no map".to_owned())),
        }
    }
    Ok(values)
}

fn subchart(name: &str, files: Vec<File>, depth: usize) -> Result<Option<Chart>, String> {
    if name.starts_with(['_', '.']) {
        return Ok(None);
    }
    if name.ends_with(".tgz") {
        return match files.as_slice() {
            [file] if file.name == name => Chart::unpack_at(&file.data, depth + 1).map(Some),
            _ => Err(format!("expected an archive called {name}")),
        };
    }
    let within = |file: File| {
        let (_, rest) = file.name.split_once('/')?;
        Some(File { name: rest.to_owned(), data: file.data })
    };
    let files: Vec<File> = files.into_iter().filter_map(within).collect();
    // A file beside the charts is none.
    if files.is_empty() { Ok(None) } else { Chart::load(files, depth + 1).map(Some) }
}
