//! All objects of a build, in order.

use crate::error::{Error, Result};
use crate::origin::{Origin, Shown};
use crate::resource::{Behavior, Id, Resource};
use serde_json::Value;
use std::collections::HashSet;

/// Objects of whom no two are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    pub(crate) all: Vec<Resource>,
}

impl Set {
    /// Adds an object.
    ///
    /// # Errors
    /// There is one like it.
    pub(crate) fn append(&mut self, resource: Resource) -> Result<()> {
        let id = resource.id();
        if self.current(&id).next().is_some() {
            return Err(Error::new(format!("may not add resource with an already registered id: {id}")));
        }
        self.all.push(resource);
        Ok(())
    }

    pub(crate) fn append_all(&mut self, others: impl IntoIterator<Item = Resource>) -> Result<()> {
        self.all.extend(others);
        match self.double() {
            Some(id) => Err(Error::new(format!("may not add resource with an already registered id: {id}"))),
            None => Ok(()),
        }
    }

    /// The first object that there is twice.
    pub(crate) fn double(&self) -> Option<Id> {
        let mut seen: HashSet<(&str, &str, &str, String)> = HashSet::with_capacity(self.all.len());
        let there = self.all.iter().filter(|one| !one.is_gone());
        let mut ids = there.map(|one| (one, one.id()));
        ids.find_map(|(one, id)| {
            let place = id.effective_namespace().to_owned();
            let new = seen.insert((one.text("/apiVersion"), one.kind(), one.name(), place));
            (!new).then_some(id)
        })
    }

    /// The places of objects that are this one now.
    pub(crate) fn current<'s>(&'s self, id: &'s Id) -> impl Iterator<Item = usize> + 's {
        let like = move |one: &Resource| one.name() == id.name && one.id().is(id);
        self.all.iter().enumerate().filter(move |(_, one)| like(one)).map(|(index, _)| index)
    }

    /// The places of objects that are or were one of which this holds.
    pub(crate) fn ever(&self, holds: impl Fn(&Id) -> bool) -> Vec<usize> {
        let places = self.all.iter().enumerate().filter(|(_, one)| !one.is_gone() && one.any_id(&holds));
        places.map(|(index, _)| index).collect()
    }

    /// The one object that is or was this one.
    pub(crate) fn one(&self, id: &Id) -> Result<usize> {
        let found = match self.ever(|other| other.is(id)).as_slice() {
            [one] => return Ok(*one),
            [] => "no",
            _ => "multiple",
        };
        Err(Error::new(format!("{found} matches for Id {id}; failed to find unique target for patch {id}")))
    }

    /// Takes in a generated object, which may add to one that is there.
    pub(crate) fn absorb(&mut self, mut resource: Resource) -> Result<()> {
        let id = resource.id();
        let behavior = resource.behavior.unwrap_or(Behavior::Unspecified);
        let merges = matches!(behavior, Behavior::Merge | Behavior::Replace);
        match self.ever(|other| other.is(&id)).as_slice() {
            [] if merges => Err(Error::new(format!("id {id} does not exist; cannot merge or replace"))),
            [] => self.append(resource),
            [index] if merges => {
                let old = &self.all[*index];
                take_over(&mut resource, old)?;
                if behavior == Behavior::Merge {
                    for field in ["data", "binaryData"] {
                        merge_data(&mut resource, old, field)?;
                    }
                    if old.origin.is_some() {
                        resource.origin.clone_from(&old.origin);
                    }
                }
                self.all[*index] = resource;
                Ok(())
            }
            [_] => Err(Error::new(format!(
                "id {id} exists; can not use behavior: '{behavior}', behavior must be merge or replace"
            ))),
            _ => Err(Error::new(format!("found multiple objects that could accept merge of {id}"))),
        }
    }

    /// Notes by what all objects were changed.
    pub(crate) fn note(&mut self, by: &Origin) {
        for resource in &mut self.all {
            match resource.origin {
                Some(_) => resource.transformations.push(by.clone()),
                None => resource.origin = Some(by.clone()),
            }
        }
    }

    /// Forgets what was deleted.
    pub(crate) fn drop_gone(&mut self) {
        self.all.retain(|one| !one.is_gone());
    }

    /// The objects, without what was remembered of them but for what is to be shown.
    pub(crate) fn into_objects(self, shown: Shown) -> Vec<Value> {
        self.all.into_iter().map(|resource| crate::origin::finish(resource, shown)).collect()
    }
}

/// Gives a generated object the labels, annotations, name and history of the one it adds to.
fn take_over(resource: &mut Resource, old: &Resource) -> Result<()> {
    for field in ["labels", "annotations"] {
        let inherited: Vec<_> = old.texts(field).map(|(key, value)| (key.to_owned(), value)).collect();
        if inherited.is_empty() {
            continue;
        }
        let map = resource.metadata(field)?;
        for (key, value) in inherited {
            map.entry(key).or_insert(Value::from(value));
        }
    }
    resource.set_metadata("name", old.name())?;
    resource.set_metadata("namespace", old.namespace())?;
    resource.previous.clone_from(&old.previous);
    resource.prefixes.clone_from(&old.prefixes);
    resource.suffixes.clone_from(&old.suffixes);
    resource.vars.clone_from(&old.vars);
    resource.behavior = old.behavior;
    resource.hashed = resource.hashed && old.hashed;
    Ok(())
}

fn merge_data(resource: &mut Resource, old: &Resource, field: &str) -> Result<()> {
    let Some(inherited) = old.object.get(field).and_then(Value::as_object) else { return Ok(()) };
    let data = crate::resource::map_of(resource.fields()?, field)?;
    for (key, value) in inherited {
        data.entry(key.as_str()).or_insert_with(|| value.clone());
    }
    Ok(())
}
