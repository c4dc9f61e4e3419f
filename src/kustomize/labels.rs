//! Labels and annotations for all objects.

use crate::error::{Error, Result};
use crate::fields::{self, Made};
use crate::kustomization::Place;
use crate::set::Set;
use serde_json::Value;
use std::collections::BTreeMap;

/// What kustomize calls itself within kubectl, which has no version of it.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kustomize-(devel)");

/// Sets texts in the maps at these places.
pub(crate) fn set_all(set: &mut Set, texts: &BTreeMap<String, String>, places: &[Place]) -> Result<()> {
    for resource in &mut set.all {
        for place in places {
            for (key, text) in texts {
                fields::at(resource, place, Made::Map, &mut |value| {
                    let map = value.as_object_mut().ok_or_else(|| Error::new("expected a map of texts"))?;
                    map.insert(key.clone(), Value::from(text.as_str()));
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

/// Labels all objects as kustomize's.
pub(crate) fn managed_by(set: &mut Set) -> Result<()> {
    let texts = BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())]);
    set_all(set, &texts, &[own("labels")])
}

/// A map of an object's own metadata.
pub(crate) fn own(field: &str) -> Place {
    Place { path: format!("metadata/{field}"), create: true, ..Place::default() }
}
