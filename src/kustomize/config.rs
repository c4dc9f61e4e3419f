//! Which fields of which kinds hold names, labels, images and so on: what is built in, and what
//! `configurations` and `crds` add.

use crate::error::{Error, Result, Within};
use crate::kustomization::{Place, typed};
use crate::order;
use crate::read::Root;
use crate::resource::Gvk;
use serde::Deserialize;
use serde_json::Value;
use std::rc::Rc;

/// Fields that name objects of a kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct References {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) field_specs: Vec<Place>,
}

impl References {
    pub(crate) fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }
}

/// All such fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) name_prefix: Vec<Place>,
    pub(crate) name_suffix: Vec<Place>,
    pub(crate) namespace: Vec<Place>,
    pub(crate) common_labels: Vec<Place>,
    pub(crate) labels: Vec<Place>,
    pub(crate) template_labels: Vec<Place>,
    #[serde(rename = "volumeClaimTemplateLabels")]
    pub(crate) claim_labels: Vec<Place>,
    pub(crate) common_annotations: Vec<Place>,
    pub(crate) name_reference: Vec<References>,
    pub(crate) var_reference: Vec<Place>,
    pub(crate) images: Vec<Place>,
    pub(crate) replicas: Vec<Place>,
}

impl Config {
    /// What is built in, with what these files add.
    pub(crate) fn load(root: &Root<'_>, files: &[String]) -> Result<Rc<Self>> {
        let builtin = crate::defaults::config();
        if files.is_empty() {
            return Ok(builtin);
        }
        let mut added = Self::default();
        for file in files {
            let bytes = root.load(file)?;
            let document = api::yaml::first(&bytes).map_err(|error| Error::new(error.to_string()))?;
            let one: Self = if document.value.is_null() {
                Self::default()
            } else {
                typed(document.value).within(|| "error unmarshaling JSON: while decoding JSON")?
            };
            added = added.merge(&one)?;
        }
        Ok(Rc::new(builtin.merge(&added)?))
    }

    /// Both.
    pub(crate) fn merge(&self, other: &Self) -> Result<Self> {
        let mut merged = self.clone();
        let lists = [
            (&mut merged.name_prefix, &other.name_prefix, "NamePrefix"),
            (&mut merged.name_suffix, &other.name_suffix, "NameSuffix"),
            (&mut merged.namespace, &other.namespace, "NameSpace"),
            (&mut merged.common_annotations, &other.common_annotations, "CommonAnnotations"),
            (&mut merged.common_labels, &other.common_labels, "CommonLabels"),
            (&mut merged.labels, &other.labels, "Labels"),
            (&mut merged.template_labels, &other.template_labels, "TemplateLabels"),
            (&mut merged.claim_labels, &other.claim_labels, "VolumeClaimTemplateLabels"),
            (&mut merged.var_reference, &other.var_reference, "VarReference"),
            (&mut merged.images, &other.images, "Images"),
            (&mut merged.replicas, &other.replicas, "Replicas"),
        ];
        for (into, from, name) in lists {
            add_all(into, from).map_err(|error| error.within(format!("failed to merge {name} fieldSpec")))?;
            // What is said of all kinds comes last, and does not count where a kind was said before.
            into.sort_by(|a, b| order::compare(&a.gvk(), &b.gvk()));
        }
        for references in &other.name_reference {
            merged.refer(references)?;
        }
        merged.name_reference.sort_by(|a, b| order::compare(&a.gvk(), &b.gvk()));
        Ok(merged)
    }

    /// Adds fields that name objects of a kind.
    pub(crate) fn refer(&mut self, references: &References) -> Result<()> {
        match self.name_reference.iter_mut().find(|one| one.gvk() == references.gvk()) {
            Some(known) => add_all(&mut known.field_specs, &references.field_specs)
                .map_err(|error| error.within("failed to merge NameReference fieldSpec")),
            None => {
                self.name_reference.push(references.clone());
                Ok(())
            }
        }
    }
}

/// Merges shared ones, which mostly are the same; the first one is merged into nothing.
pub(crate) fn merge_shared(one: Option<&Rc<Config>>, other: &Rc<Config>) -> Result<Rc<Config>> {
    let builtin = crate::defaults::config();
    match one {
        None if Rc::ptr_eq(&builtin, other) => Ok(builtin),
        Some(one) if Rc::ptr_eq(one, other) => Ok(Rc::clone(one)),
        one => Ok(Rc::new(one.map(|one| Config::clone(one)).unwrap_or_default().merge(other)?)),
    }
}

/// Adds fields that are not there yet.
///
/// # Errors
/// One is there, but is to be created in one place and not in the other.
pub(crate) fn add_all(into: &mut Vec<Place>, from: &[Place]) -> Result<()> {
    from.iter().try_for_each(|place| add(into, place))
}

fn add(into: &mut Vec<Place>, place: &Place) -> Result<()> {
    match into.iter().find(|one| one.path == place.path && one.gvk().is_selected(&place.gvk())) {
        Some(known) if known.create != place.create => Err(Error::new("conflicting fieldspecs")),
        Some(_) => Ok(()),
        None => {
            into.push(place.clone());
            Ok(())
        }
    }
}

/// Reads the fields that a transformer's own configuration gives; what else is said there is passed over, as
/// kustomize does.
pub(crate) fn places(value: Option<Value>) -> Result<Vec<Place>> {
    let Some(mut value) = value else { return Ok(Vec::new()) };
    for place in value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        place.retain(|key, _| ["group", "version", "kind", "path", "create"].contains(&key.as_str()));
    }
    typed(value)
}
