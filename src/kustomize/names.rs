//! Prefixes and suffixes of names.

use crate::error::Result;
use crate::fields::{self, Made};
use crate::kustomization::Place;
use crate::resource::{Resource, text_of};
use crate::set::Set;
use serde_json::Value;

/// Which end of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Before it.
    Prefix,
    /// Behind it.
    Suffix,
}

/// Adds to the names of all objects whose names are not given by what they are.
pub(crate) fn extend(set: &mut Set, end: End, text: &str, places: &[Place]) -> Result<()> {
    for resource in &mut set.all {
        let original = resource.original_id().gvk;
        let keeps = matches!(original.kind.as_str(), "CustomResourceDefinition" | "Namespace")
            || (original.kind == "APIService" && original.group == "apiregistration.k8s.io");
        if keeps {
            continue;
        }
        for place in places.iter().filter(|place| original.is_selected(&place.gvk())) {
            extend_one(resource, end, text, place)?;
        }
    }
    Ok(())
}

fn extend_one(resource: &mut Resource, end: End, text: &str, place: &Place) -> Result<()> {
    if place.path == "metadata/name" && !text.is_empty() {
        let parts = if end == End::Prefix { &mut resource.prefixes } else { &mut resource.suffixes };
        parts.push(text.to_owned());
        resource.remember();
    }
    fields::at(resource, place, Made::Scalar, &mut |value| {
        let name = text_of(value);
        *value = Value::from(match end {
            End::Prefix => format!("{text}{name}"),
            End::Suffix => format!("{name}{text}"),
        });
        Ok(())
    })
}
