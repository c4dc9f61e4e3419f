//! Chooses objects by expressions over group, version, kind, name and namespace, and by labels and annotations.

use crate::error::{Error, Result};
use crate::kustomization::Selector;
use crate::resource::{Gvk, Id, Resource};
use crate::set::Set;
use api::selector::Labels;
use regex::Regex;
use std::collections::BTreeMap;

/// A selector, ready to be asked.
pub(crate) struct Chooser {
    group: Option<Regex>,
    version: Option<Regex>,
    kind: Option<Regex>,
    name: Option<Regex>,
    namespace: Option<Regex>,
    labels: Option<Labels>,
    annotations: Option<Labels>,
}

/// An expression for the whole text.
fn whole(pattern: &str) -> Result<Option<Regex>> {
    if pattern.is_empty() {
        return Ok(None);
    }
    Regex::new(&format!("^(?:{pattern})$"))
        .map(Some)
        .map_err(|_| Error::new(format!("error parsing regexp: {pattern:?} is no regular expression")))
}

fn parsed(selector: &str) -> Result<Option<Labels>> {
    if selector.is_empty() {
        return Ok(None);
    }
    Labels::parse(selector).map(Some).map_err(|error| Error::new(error.to_string()))
}

fn holds(pattern: Option<&Regex>, text: &str) -> bool {
    pattern.is_none_or(|pattern| pattern.is_match(text))
}

impl Chooser {
    pub(crate) fn new(selector: &Selector) -> Result<Self> {
        Ok(Self {
            group: whole(&selector.group)?,
            version: whole(&selector.version)?,
            kind: whole(&selector.kind)?,
            name: whole(&selector.name)?,
            namespace: whole(&selector.namespace)?,
            labels: parsed(&selector.label_selector)?,
            annotations: parsed(&selector.annotation_selector)?,
        })
    }

    /// The places of the objects it means, by the names they have or had first.
    pub(crate) fn choose(&self, set: &Set) -> Result<Vec<usize>> {
        let chosen = |resource: &Resource| {
            let (now, first) = (resource.id(), resource.original_id());
            let of_namespace = |id: &Id| holds(self.namespace.as_ref(), id.effective_namespace());
            (of_namespace(&first) || of_namespace(&now))
                && (holds(self.name.as_ref(), &first.name) || holds(self.name.as_ref(), &now.name))
                && self.is_kind(&now.gvk)
                && self.is_marked(resource)
        };
        Ok(set.all.iter().enumerate().filter(|(_, one)| chosen(one)).map(|(index, _)| index).collect())
    }

    fn is_kind(&self, gvk: &Gvk) -> bool {
        holds(self.group.as_ref(), &gvk.group)
            && holds(self.version.as_ref(), &gvk.version)
            && holds(self.kind.as_ref(), &gvk.kind)
    }

    /// Whether an object has the labels and annotations that are asked for.
    pub(crate) fn is_marked(&self, resource: &Resource) -> bool {
        let has = |selector: Option<&Labels>, field: &str| {
            selector.is_none_or(|selector| {
                let texts: BTreeMap<String, String> =
                    resource.texts(field).map(|(key, value)| (key.to_owned(), value)).collect();
                selector.matches(&texts)
            })
        };
        has(self.labels.as_ref(), "labels") && has(self.annotations.as_ref(), "annotations")
    }

    /// Whether labels or annotations are asked for.
    pub(crate) fn asks_for_marks(&self) -> bool {
        self.labels.is_some() || self.annotations.is_some()
    }

    /// Whether anything else is asked for.
    pub(crate) fn asks_for_id(&self) -> bool {
        [&self.group, &self.version, &self.kind, &self.name, &self.namespace].iter().any(|one| one.is_some())
    }

    /// Whether this is an object it means, but for labels and annotations.
    pub(crate) fn is_id(&self, id: &Id) -> bool {
        self.is_kind(&id.gvk)
            && holds(self.name.as_ref(), &id.name)
            && holds(self.namespace.as_ref(), &id.namespace)
    }
}
