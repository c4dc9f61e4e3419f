//! Makes ConfigMaps and Secrets of texts and files.

use crate::error::{Error, Result, Within};
use crate::kustomization::{Generator, GeneratorOptions};
use crate::read::Root;
use crate::resource::{Behavior, Resource};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Lines of base64 are no longer than this.
const LINE: usize = 70;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

/// Makes one.
pub(crate) fn make(root: &Root<'_>, kind: Kind, from: &Generator) -> Result<Resource> {
    if from.name.is_empty() {
        return Err(Error::new("a configmap must have a name"));
    }
    let data = data(root, from)?;
    let mut object = match kind {
        Kind::ConfigMap => config_map(data),
        Kind::Secret => secret(data, &from.kind),
    };
    let mut metadata = json!({"name": from.name});
    if !from.namespace.is_empty() {
        metadata["namespace"] = json!(from.namespace);
    }
    let options = from.options.clone().unwrap_or_default();
    for (field, texts) in [("labels", &options.labels), ("annotations", &options.annotations)] {
        if !texts.is_empty() {
            metadata[field] = json!(texts);
        }
    }
    object.insert("apiVersion".to_owned(), json!("v1"));
    object.insert("metadata".to_owned(), metadata);
    if options.immutable {
        object.insert("immutable".to_owned(), json!(true));
    }
    let behavior = match from.behavior.as_str() {
        "create" => Behavior::Create,
        "replace" => Behavior::Replace,
        "merge" => Behavior::Merge,
        _ => Behavior::Unspecified,
    };
    let hashed = !options.disable_name_suffix_hash;
    Ok(Resource { behavior: Some(behavior), hashed, ..Resource::new(Value::Object(object)) })
}

/// What is said for one generator, completed by what is said for all.
pub(crate) fn options(
    own: Option<GeneratorOptions>,
    all: Option<&GeneratorOptions>,
) -> Option<GeneratorOptions> {
    let Some(all) = all else { return own };
    let mut own = own.unwrap_or_default();
    for (into, from) in [(&mut own.labels, &all.labels), (&mut own.annotations, &all.annotations)] {
        for (key, value) in from {
            into.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    own.disable_name_suffix_hash |= all.disable_name_suffix_hash;
    own.immutable |= all.immutable;
    Some(own)
}

fn config_map(data: BTreeMap<String, Vec<u8>>) -> Map<String, Value> {
    let mut object = Map::from_iter([("kind".to_owned(), json!("ConfigMap"))]);
    let (mut texts, mut bytes) = (Map::new(), Map::new());
    for (key, value) in data {
        match String::from_utf8(value) {
            Ok(text) => texts.insert(key, Value::from(text)),
            Err(other) => bytes.insert(key, Value::from(in_lines(other.as_bytes()))),
        };
    }
    for (field, map) in [("data", texts), ("binaryData", bytes)] {
        if !map.is_empty() {
            object.insert(field.to_owned(), Value::Object(map));
        }
    }
    object
}

fn secret(data: BTreeMap<String, Vec<u8>>, kind: &str) -> Map<String, Value> {
    let kind = if kind.is_empty() { "Opaque" } else { kind };
    let mut object = Map::from_iter([("kind".to_owned(), json!("Secret")), ("type".to_owned(), json!(kind))]);
    let data: Map<String, Value> =
        data.into_iter().map(|(key, value)| (key, Value::from(in_lines(&value)))).collect();
    // There even if it is empty, unlike with ConfigMaps.
    object.insert("data".to_owned(), Value::Object(data));
    object
}

/// Base64; what is long comes in lines.
fn in_lines(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    if encoded.len() < LINE {
        return encoded;
    }
    let mut out = String::with_capacity(encoded.len() + encoded.len() / LINE + 1);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out
}

/// All keys with their values.
fn data(root: &Root<'_>, from: &Generator) -> Result<BTreeMap<String, Vec<u8>>> {
    let shown = |list: &[String]| format!("[{}]", list.join(" "));
    let mut pairs = Vec::new();
    for file in &from.envs {
        let read = root.load(file).and_then(|bytes| variables(&bytes));
        pairs.extend(read.within(|| format!("loading KV pairs: env source files: {}", shown(&from.envs)))?);
    }
    for literal in &from.literals {
        let pair = literal_pair(literal);
        pairs.push(pair.within(|| format!("loading KV pairs: literal sources {}", shown(&from.literals)))?);
    }
    for file in &from.files {
        let pair = file_pair(root, file);
        pairs.push(pair.within(|| format!("loading KV pairs: file sources: {}", shown(&from.files)))?);
    }
    let mut all = BTreeMap::new();
    for (key, value) in pairs {
        if all.insert(key.clone(), value).is_some() {
            return Err(Error::new(format!("configmap {} illegally repeats the key `{key}`", from.name)));
        }
    }
    Ok(all)
}

type Pair = (String, Vec<u8>);

fn literal_pair(literal: &str) -> Result<Pair> {
    let invalid = || Error::new(format!("invalid literal source {literal}, expected key=value"));
    let (key, value) = literal.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(invalid)?;
    let quoted = ['"', '\'']
        .into_iter()
        .find_map(|sign| value.strip_prefix(sign).and_then(|rest| rest.strip_suffix(sign)));
    Ok((key.to_owned(), quoted.unwrap_or(value).as_bytes().to_vec()))
}

fn file_pair(root: &Root<'_>, source: &str) -> Result<Pair> {
    let (key, path) = match source.matches('=').count() {
        0 => (source.rsplit('/').next().unwrap_or(source), source),
        1 => source.split_once('=').unwrap_or_default(),
        _ => return Err(Error::new(format!("source {source:?} key name or file path contains '='"))),
    };
    if key.is_empty() {
        return Err(Error::new(format!("missing key name for file path {path:?} in source {source:?}")));
    }
    if path.is_empty() {
        return Err(Error::new(format!("missing file path for key name {key:?} in source {source:?}")));
    }
    Ok((key.to_owned(), root.load(path)?))
}

/// `NAME=value` lines, without comments and empty ones.
fn variables(bytes: &[u8]) -> Result<Vec<Pair>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Error::new(format!("byte {} is invalid utf8", error.valid_up_to())))?;
    let mut pairs = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        pairs.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    Ok(pairs)
}
