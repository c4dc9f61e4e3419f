//! Sets a value in fields, or as a part of a path in them.

use crate::error::{Error, Result};
use crate::fields::{self, Made};
use crate::kustomization::{Place, Selector};
use crate::namespace::Namespace;
use crate::resource::text_of;
use crate::selector::Chooser;
use crate::set::Set;
use serde::Deserialize;
use serde_json::Value;

/// Where to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) selector: Option<Selector>,
    pub(crate) field_path: String,
    /// From 1: the part of a path before which the value comes; 0 for the whole field.
    pub(crate) file_path_position: usize,
}

/// Sets the value at all targets.
pub(crate) fn apply(set: &mut Set, value: &str, targets: &[Target]) -> Result<()> {
    for target in targets {
        if target.field_path.is_empty() {
            return Err(Error::new("fieldPath cannot be empty"));
        }
        let chooser = Chooser::new(&target.selector.clone().unwrap_or_default())?;
        for index in chooser.choose(set)? {
            let resource = &mut set.all[index];
            if target.field_path == "metadata/namespace" {
                let namespace = Namespace { name: value.to_owned(), ..Namespace::default() };
                namespace.one(resource)?;
                continue;
            }
            let place = Place { path: target.field_path.clone(), create: true, ..Place::default() };
            fields::at(resource, &place, Made::Scalar, &mut |field| {
                *field = Value::from(inserted(&text_of(field), value, target.file_path_position));
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn inserted(old: &str, value: &str, position: usize) -> String {
    let Some(at) = position.checked_sub(1) else { return value.to_owned() };
    let absolute = old.starts_with('/');
    let mut parts: Vec<&str> = old.split('/').filter(|part| !part.is_empty()).collect();
    parts.insert(at.min(parts.len()), value);
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
}
