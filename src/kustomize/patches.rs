//! Patches: strategic merges and JSON patches, and which objects they are for.

use crate::error::{Error, Result, Within};
use crate::kustomization::{PatchOptions, Selector};
use crate::merge;
use crate::read::{self, Root};
use crate::resource::{Resource, check_size};
use crate::schema::Schemas;
use crate::selector::Chooser;
use crate::set::Set;
use serde_json::Value;

/// A patch with its text read.
#[derive(Debug)]
pub(crate) enum Patch {
    /// Strategic merges; with a target there is one.
    Strategic { patches: Vec<Resource>, target: Option<Selector>, source: String },
    /// A JSON patch (RFC 6902).
    Json { patch: Vec<u8>, target: Selector },
}

impl Patch {
    /// Reads an entry of `patches`, which may be either.
    pub(crate) fn load(root: &Root<'_>, entry: &crate::kustomization::Patch) -> Result<Self> {
        let inline = entry.patch.trim();
        let (bytes, source) = match (inline, entry.path.as_str()) {
            ("", "") => return Err(Error::new("must specify one of patch and path in a patch")),
            (inline, "") => (inline.as_bytes().to_vec(), format!("[patch: {inline:?}]")),
            ("", path) => {
                let read = root.load(path);
                let bytes = read.within(|| format!("failed to get the patch file from path({path})"))?;
                (bytes, format!("[path: {path:?}]"))
            }
            _ => return Err(Error::new("patch and path can't be set at the same time")),
        };
        let strategic = read::objects(&bytes);
        let json = operations(&bytes);
        match (strategic, json) {
            (Ok(patches), Ok(_)) if !patches.is_empty() => {
                Err(Error::new(format!("illegally qualifies as both an SM and JSON patch: {source}")))
            }
            (Err(_), Err(_)) => Err(Error::new(format!("unable to parse SM or JSON patch from {source}"))),
            (Ok(patches), _) => {
                Ok(Self::strategic(patches, entry.options.unwrap_or_default(), entry.target.clone(), source))
            }
            (Err(_), Ok(patch)) => match &entry.target {
                Some(target) => Ok(Self::Json { patch, target: target.clone() }),
                None => Err(Error::new(format!("must specify a target for JSON patch {source}"))),
            },
        }
    }

    fn strategic(
        mut patches: Vec<Resource>,
        options: PatchOptions,
        target: Option<Selector>,
        source: String,
    ) -> Self {
        for patch in &mut patches {
            patch.renames = options.allow_name_change;
            patch.changes_kind = options.allow_kind_change;
        }
        Self::Strategic { patches, target, source }
    }

    /// Reads an entry of `patchesJson6902`.
    pub(crate) fn load_json(root: &Root<'_>, entry: &crate::kustomization::Patch) -> Result<Self> {
        let target = entry.target.clone().unwrap_or_default();
        if target.name.is_empty() {
            return Err(Error::new("must specify the target name"));
        }
        let bytes = match (entry.path.as_str(), entry.patch.as_str()) {
            ("", "") => return Err(Error::new("empty file path and empty jsonOp")),
            ("", inline) => inline.as_bytes().to_vec(),
            (path, "") => root.load(path)?,
            _ => return Err(Error::new("must specify a file path or jsonOp, not both")),
        };
        Ok(Self::Json { patch: operations(&bytes)?, target })
    }

    pub(crate) fn apply(&self, set: &mut Set, schemas: &Schemas) -> Result<()> {
        match self {
            Self::Strategic { patches, target: Some(target), source } => {
                let [patch] = patches.as_slice() else {
                    return if patches.is_empty() {
                        Ok(())
                    } else {
                        Err(Error::new(format!(
                            "Multiple Strategic-Merge Patches in one `patches` entry is not allowed to set `patches.target` field: {source}"
                        )))
                    };
                };
                let chooser = Chooser::new(target).within(|| "unable to find patch target in `resources`")?;
                for index in chooser.choose(set)? {
                    let resource = &mut set.all[index];
                    let mut patch = patch.clone();
                    let api_version = resource.text("/apiVersion").to_owned();
                    patch.fields()?.insert("apiVersion".to_owned(), Value::from(api_version));
                    strategic(resource, &patch, schemas)?;
                }
                unique(set)
            }
            Self::Strategic { patches, target: None, .. } => {
                for patch in patches {
                    let id = patch.original_id();
                    let index = set
                        .one(&id)
                        .within(|| format!("no resource matches strategic merge patch \"{id}\""))?;
                    strategic(&mut set.all[index], patch, schemas)?;
                }
                Ok(())
            }
            Self::Json { patch, target } => {
                for index in Chooser::new(target)?.choose(set)? {
                    let resource = &mut set.all[index];
                    resource.remember();
                    json(resource, patch)?;
                }
                Ok(())
            }
        }
    }

    /// As [`Self::apply`], for an entry of `patchesJson6902`.
    pub(crate) fn apply_json(&self, set: &mut Set) -> Result<()> {
        let Self::Json { patch, target } = self else { return Ok(()) };
        for index in Chooser::new(target)?.choose(set)? {
            json(&mut set.all[index], patch)?;
        }
        Ok(())
    }
}

/// Reads an entry of `patchesStrategicMerge`: objects, or a file with such.
pub(crate) fn load_strategic(root: &Root<'_>, entry: &str) -> Result<Vec<Resource>> {
    match read::objects(entry.as_bytes()) {
        Ok(patches) => Ok(patches),
        Err(_) => root.objects(entry),
    }
}

/// Applies strategic merges to the objects they name.
pub(crate) fn apply_strategic(set: &mut Set, patches: &[Resource], schemas: &Schemas) -> Result<()> {
    for patch in patches {
        let index = set.one(&patch.original_id())?;
        strategic(&mut set.all[index], patch, schemas)?;
        set.drop_gone();
        unique(set)?;
    }
    Ok(())
}

/// No two objects may have become the same.
fn unique(set: &Set) -> Result<()> {
    match set.double() {
        Some(id) => Err(Error::new(format!("may not add resource with an already registered id: {id}"))),
        None => Ok(()),
    }
}

/// Merges a patch into an object, whose name, namespace and kind stay unless the patch may change them.
fn strategic(resource: &mut Resource, patch: &Resource, schemas: &Schemas) -> Result<()> {
    let before = resource.id();
    if patch.renames || patch.changes_kind {
        resource.remember();
    }
    let object = std::mem::take(&mut resource.object);
    let Some(object) = merge::strategic(object, &patch.object, schemas)? else { return Ok(()) };
    resource.object = object;
    if !patch.changes_kind {
        resource.fields()?.insert("kind".to_owned(), Value::from(before.gvk.kind));
    }
    if !patch.renames {
        resource.set_metadata("name", &before.name)?;
    }
    resource.set_metadata("namespace", &before.namespace)
}

fn json(resource: &mut Resource, patch: &[u8]) -> Result<()> {
    // What is noted of objects is among their annotations in kustomize, so that these are always there then.
    let noted = resource.is_noted();
    if noted {
        resource.metadata("annotations")?;
    }
    for step in steps(patch)? {
        let step = fitted(step, &resource.object)?;
        let patched = api::patch::json(&mut resource.object, Value::from(vec![step]).to_string().as_bytes());
        patched.map_err(|error| Error::new(error.to_string()))?;
        check_size(&resource.object)?;
    }
    if noted
        && resource
            .object
            .pointer("/metadata/annotations")
            .and_then(Value::as_object)
            .is_some_and(|map| map.is_empty())
    {
        resource
            .fields()?
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .map(|map| map.remove("annotations"));
    }
    Ok(())
}

fn steps(patch: &[u8]) -> Result<Vec<Value>> {
    serde_json::from_slice(patch).map_err(|error| Error::new(error.to_string()))
}

/// A step as it is meant: kustomize's library counts negative places in lists from the end, and replaces also
/// fields that are not there.
fn fitted(mut step: Value, object: &Value) -> Result<Value> {
    for field in ["path", "from"] {
        if let Some(path) = step.get(field).and_then(Value::as_str) {
            let path = counted(path, object);
            step[field] = Value::from(path);
        }
    }
    let path = step["path"].as_str().unwrap_or_default();
    let op = step["op"].as_str().unwrap_or_default();
    let Some((parent, _)) = path.rsplit_once('/') else {
        return Err(Error::new(format!(
            "{op} operation does not apply: doc is missing path: {path:?}: missing value"
        )));
    };
    let from = step["from"].as_str().filter(|_| op == "move").unwrap_or(path);
    if let (Some((above, last)), "remove" | "move") = (from.rsplit_once('/'), op) {
        let why = match object.pointer(above) {
            Some(Value::Array(items)) => match last.parse::<usize>() {
                Ok(place) if place >= items.len() => {
                    format!("Unable to access invalid index: {place}: invalid index referenced")
                }
                _ => String::new(),
            },
            Some(Value::Object(fields)) if op == "move" && !fields.contains_key(last) => {
                format!("Unable to remove nonexistent key: {last}: missing value")
            }
            _ => String::new(),
        };
        if !why.is_empty() {
            let shown = if op == "move" { last } else { path };
            return Err(Error::new(format!("error in {op} for path: '{shown}': {why}")));
        }
    }
    if op == "replace" && object.pointer(parent).is_some_and(Value::is_object) {
        step["op"] = Value::from("add");
    }
    Ok(step)
}

fn counted(path: &str, object: &Value) -> String {
    let mut out = String::new();
    for part in path.split('/').skip(1) {
        let length = object.pointer(&out).and_then(Value::as_array).map(Vec::len);
        let back = part.strip_prefix('-').and_then(|digits| digits.parse::<usize>().ok());
        out.push('/');
        match length.zip(back).and_then(|(length, back)| length.checked_sub(back)) {
            Some(place) => out.push_str(&place.to_string()),
            None => out.push_str(part),
        }
    }
    if path.starts_with('/') { out } else { path.to_owned() }
}

/// The operations of a JSON patch, written in JSON or YAML.
fn operations(bytes: &[u8]) -> Result<Vec<u8>> {
    let document = api::yaml::first(bytes).map_err(|error| Error::new(error.to_string()))?;
    match document.value {
        Value::Array(items) if items.iter().all(Value::is_object) => {
            Ok(Value::Array(items).to_string().into_bytes())
        }
        other => Err(Error::new(format!("a JSON patch has to be a list of operations, but is {other}"))),
    }
}
