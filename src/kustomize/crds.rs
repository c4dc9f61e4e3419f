//! What schemas of custom resources (`crds`) tell about their fields: which name other objects, select by
//! labels, or are annotations.

use crate::config::{Config, References};
use crate::error::{Error, Result, Within};
use crate::kustomization::Place;
use crate::read::Root;
use serde_json::{Map, Value};

/// How deep schemas may refer to one another.
const DEPTH: usize = 32;

/// Reads the files.
pub(crate) fn load(root: &Root<'_>, files: &[String]) -> Result<Config> {
    let mut config = Config::default();
    for file in files {
        let document = api::yaml::first(&root.load(file)?)
            .map_err(|error| Error::new(error.to_string()))
            .within(|| format!("unable to parse open API definition from '{file}'"))?;
        let types = document.value.as_object().cloned().unwrap_or_default();
        for name in types.keys() {
            let has = |field: &str| properties(&types, name).is_some_and(|own| own.contains_key(field));
            if has("kind") && has("apiVersion") && has("metadata") {
                let kind = name.rsplit('.').next().unwrap_or(name);
                add(&mut config, kind, &types, name, &[])?;
            }
        }
    }
    Ok(config)
}

fn properties<'t>(types: &'t Map<String, Value>, name: &str) -> Option<&'t Map<String, Value>> {
    types.get(name)?.get("Schema")?.get("properties")?.as_object()
}

fn add(
    config: &mut Config,
    kind: &str,
    types: &Map<String, Value>,
    name: &str,
    above: &[&str],
) -> Result<()> {
    if above.len() > DEPTH {
        return Err(Error::new(format!("the schema of {kind} is nested deeper than {DEPTH}")));
    }
    for (field, property) in properties(types, name).into_iter().flatten() {
        let path: Vec<&str> = above.iter().copied().chain([field.as_str()]).collect();
        let place = |path: &[&str]| Place { kind: kind.to_owned(), path: path.join("/"), ..Place::default() };
        let fact = |name: &str| property.get(name).and_then(Value::as_str);
        let lists = [
            ("x-kubernetes-annotation", &mut config.common_annotations),
            ("x-kubernetes-label-selector", &mut config.common_labels),
            ("x-kubernetes-identity", &mut config.name_prefix),
        ];
        for (name, list) in lists {
            if fact(name).is_some() {
                crate::config::add_all(list, &[place(&path)])?;
            }
        }
        if let (Some(version), Some(of)) =
            (fact("x-kubernetes-object-ref-api-version"), fact("x-kubernetes-object-ref-kind"))
        {
            let key = fact("x-kubernetes-object-ref-name-key").unwrap_or("name");
            let path: Vec<&str> = path.iter().copied().chain([key]).collect();
            config.refer(&References {
                group: String::new(),
                version: version.to_owned(),
                kind: of.to_owned(),
                field_specs: vec![place(&path)],
            })?;
        }
        if let Some(reference) = fact("$ref") {
            add(config, kind, types, reference, &path)?;
        }
    }
    Ok(())
}
