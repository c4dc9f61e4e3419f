//! What can be done to the objects of a build, and in what order a kustomization does it.

use crate::config::Config;
use crate::error::{Error, Result, configuring};
use crate::images;
use crate::kustomization::{Image, Kustomization, Label, Place, Replacement, Replica};
use crate::labels;
use crate::names::{self, End};
use crate::namespace::Namespace;
use crate::patches::{self, Patch};
use crate::read::Root;
use crate::replace;
use crate::resource::{Id, Resource};
use crate::schema::Schemas;
use crate::set::Set;
use crate::value_add;
use crate::{fields, hash};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One step, with all that it needs read.
#[derive(Debug)]
pub(crate) enum Transformer {
    StrategicMerge(Vec<Resource>),
    Patch(Patch),
    Namespace(Namespace),
    Name(End, String, Vec<Place>),
    Labels(BTreeMap<String, String>, Vec<Place>),
    Annotations(BTreeMap<String, String>, Vec<Place>),
    Json(Patch),
    Replicas(Replica, Vec<Place>),
    Images(Image, Vec<Place>),
    Replacements(Vec<Replacement>),
    ValueAdd(String, Vec<value_add::Target>),
    Hash,
    Both(Vec<Transformer>),
}

impl Transformer {
    /// kustomize's name for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::StrategicMerge(_) => "PatchStrategicMergeTransformer",
            Self::Patch(_) => "PatchTransformer",
            Self::Namespace(_) => "NamespaceTransformer",
            Self::Name(End::Prefix, ..) => "PrefixTransformer",
            Self::Name(End::Suffix, ..) => "SuffixTransformer",
            Self::Labels(..) => "LabelTransformer",
            Self::Annotations(..) => "AnnotationsTransformer",
            Self::Json(_) => "PatchJson6902Transformer",
            Self::Replicas(..) => "ReplicaCountTransformer",
            Self::Images(..) => "ImageTagTransformer",
            Self::Replacements(_) => "ReplacementTransformer",
            Self::ValueAdd(..) => "ValueAddTransformer",
            Self::Hash => "HashTransformer",
            Self::Both(_) => "PrefixSuffixTransformer",
        }
    }

    pub(crate) fn apply(&self, set: &mut Set, schemas: &Schemas) -> Result<()> {
        match self {
            Self::StrategicMerge(all) => patches::apply_strategic(set, all, schemas),
            Self::Patch(patch) => patch.apply(set, schemas),
            Self::Namespace(namespace) => namespace.apply(set),
            Self::Name(end, text, places) => names::extend(set, *end, text, places),
            Self::Labels(texts, places) | Self::Annotations(texts, places) => {
                labels::set_all(set, texts, places)
            }
            Self::Json(patch) => patch.apply_json(set),
            Self::Replicas(replica, places) => replicas(set, replica, places),
            Self::Images(image, places) => images::apply(set, image, places),
            Self::Replacements(all) => replace::apply(set, all),
            Self::ValueAdd(value, targets) => value_add::apply(set, value, targets),
            Self::Hash => add_hashes(set),
            Self::Both(all) => all.iter().try_for_each(|one| one.apply(set, schemas)),
        }
    }
}

/// The steps that the fields of a kustomization mean, in kustomize's order.
pub(crate) fn of(root: &Root<'_>, from: &Kustomization, config: &Config) -> Result<Vec<Transformer>> {
    let mut steps = Vec::new();
    if let Some(entries) = from.patches_strategic_merge.as_ref().filter(|entries| !entries.is_empty()) {
        let config = json!({"paths": entries});
        let all = configuring("PatchStrategicMergeTransformer", &config, merges(root, entries))?;
        steps.push(Transformer::StrategicMerge(all));
    }
    for entry in &from.patches {
        let config = serde_json::to_value(entry).unwrap_or_default();
        let patch = configuring("PatchTransformer", &config, Patch::load(root, entry))?;
        steps.push(Transformer::Patch(patch));
    }
    if !from.namespace.is_empty() {
        steps.push(Transformer::Namespace(Namespace {
            name: from.namespace.clone(),
            places: config.namespace.clone(),
            ..Namespace::default()
        }));
    }
    for (end, text, places) in [
        (End::Prefix, &from.name_prefix, &config.name_prefix),
        (End::Suffix, &from.name_suffix, &config.name_suffix),
    ] {
        if !text.is_empty() {
            steps.push(Transformer::Name(end, text.clone(), places.clone()));
        }
    }
    steps.extend(labelled(from, config)?);
    if !from.common_annotations.is_empty() {
        let texts = from.common_annotations.clone();
        steps.push(Transformer::Annotations(texts, config.common_annotations.clone()));
    }
    for entry in from.patches_json.iter().flatten() {
        let mut config = serde_json::to_value(entry).unwrap_or_default();
        if let Some(fields) = config.as_object_mut()
            && let Some(patch) = fields.remove("patch")
        {
            fields.insert("jsonOp".to_owned(), patch);
        }
        let patch = configuring("PatchJson6902Transformer", &config, Patch::load_json(root, entry))?;
        steps.push(Transformer::Json(patch));
    }
    for replica in &from.replicas {
        steps.push(Transformer::Replicas(replica.clone(), config.replicas.clone()));
    }
    for image in from.images.iter().chain(from.image_tags.iter().flatten()) {
        steps.push(Transformer::Images(image.clone(), config.images.clone()));
    }
    if !from.replacements.is_empty() {
        steps.push(Transformer::Replacements(replace::load(root, &from.replacements)?));
    }
    Ok(steps)
}

fn merges(root: &Root<'_>, entries: &[String]) -> Result<Vec<Resource>> {
    let mut all = Vec::new();
    for entry in entries {
        all.extend(patches::load_strategic(root, entry)?);
    }
    if all.is_empty() {
        let files = entries.join(" ");
        return Err(Error::new(format!("patch appears to be empty; files=[{files}], Patch=")));
    }
    Ok(all)
}

fn labelled(from: &Kustomization, config: &Config) -> Result<Vec<Transformer>> {
    let common = from.common_labels.clone().unwrap_or_default();
    if from.labels.is_empty() && common.is_empty() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for label in &from.labels {
        let places = label_places(label, config).map_err(|error| error.within("failed to merge labels"))?;
        steps.push(Transformer::Labels(label.pairs.clone(), places));
    }
    steps.push(Transformer::Labels(common, config.common_labels.clone()));
    Ok(steps)
}

fn label_places(label: &Label, config: &Config) -> Result<Vec<Place>> {
    let mut places = label.fields.clone();
    let mut add = |more: &[Place]| crate::config::add_all(&mut places, more);
    add(&config.labels)?;
    if label.include_selectors {
        add(&config.common_labels)?;
        return Ok(places);
    }
    if label.include_templates {
        add(&config.template_labels)?;
    }
    if label.include_volume_claim_templates {
        add(&config.claim_labels)?;
    }
    add(&[labels::own("labels")])?;
    Ok(places)
}

fn replicas(set: &mut Set, replica: &Replica, places: &[Place]) -> Result<()> {
    let mut found = false;
    for place in places {
        let meant = |id: &Id| id.name == replica.name && id.gvk.is_selected(&place.gvk());
        for index in set.ever(meant) {
            found = true;
            fields::at(&mut set.all[index], place, fields::Made::Scalar, &mut |value| {
                *value = Value::from(replica.count);
                Ok(())
            })?;
        }
    }
    if found {
        return Ok(());
    }
    let kinds: Vec<String> = places.iter().map(|place| place.gvk().to_string()).collect();
    Err(Error::new(format!(
        "resource with name {} does not match a config with the following GVK [{}]",
        replica.name,
        kinds.join(" ")
    )))
}

/// Ends the names of generated objects with a hash of what they hold.
fn add_hashes(set: &mut Set) -> Result<()> {
    for resource in set.all.iter_mut().filter(|one| one.hashed) {
        let hash = hash::of(resource);
        resource.remember();
        let name = format!("{}-{hash}", resource.name());
        resource.set_metadata("name", &name)?;
    }
    Ok(())
}
