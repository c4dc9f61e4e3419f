//! Follows names that objects use for one another, when names have changed.

use crate::config::Config;
use crate::error::{Error, Result, Within};
use crate::fields::{self, Made};
use crate::kustomization::Place;
use crate::resource::{Gvk, Id, Resource, text_of};
use crate::set::Set;
use serde_json::Value;

/// Who may be meant by a name: what is needed of an object while others are changed.
struct Candidate {
    now: Id,
    first: Id,
    previous: Vec<Id>,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
}

impl Candidate {
    fn of(resource: &Resource) -> Self {
        Self {
            now: resource.id(),
            first: resource.original_id(),
            previous: resource.previous_ids().collect(),
            prefixes: resource.prefixes.clone(),
            suffixes: resource.suffixes.clone(),
        }
    }

    /// Its names were extended as another's were.
    fn is_extended_like(&self, other: &Self, or_not: bool) -> bool {
        let alike = |one: &[String], other: &[String]| {
            (or_not && (one.is_empty() || other.is_empty())) || end_alike(one, other)
        };
        alike(&self.prefixes, &other.prefixes) && alike(&self.suffixes, &other.suffixes)
    }
}

/// The shorter is the end of the longer; nothing is the end of nothing alone.
fn end_alike(one: &[String], other: &[String]) -> bool {
    if one.is_empty() || other.is_empty() {
        one.len() == other.len()
    } else {
        one.ends_with(other) || other.ends_with(one)
    }
}

/// Puts the new names wherever old ones are used.
pub(crate) fn follow(set: &mut Set, config: &Config) -> Result<()> {
    let candidates: Vec<Candidate> = set.all.iter().map(Candidate::of).collect();
    // Where no name has changed no reference has to.
    if candidates.iter().all(|one| one.previous.is_empty()) {
        return Ok(());
    }
    for (index, resource) in set.all.iter_mut().enumerate() {
        let referrer = &candidates[index];
        let near = near(resource, referrer, &candidates);
        for references in &config.name_reference {
            for place in &references.field_specs {
                if referrer.first.gvk.is_selected(&place.gvk()) {
                    let search = Search {
                        referrer,
                        near: &near,
                        meant: references.gvk(),
                        role: role(resource, place),
                    };
                    search.at(resource, place)?;
                }
            }
        }
    }
    Ok(())
}

/// Whom an object can refer to: of its namespace, of the cluster, and accounts that a role binding names.
fn near<'c>(resource: &Resource, referrer: &Candidate, candidates: &'c [Candidate]) -> Vec<&'c Candidate> {
    if referrer.now.gvk.is_cluster_scoped() {
        return candidates.iter().collect();
    }
    let mut namespaces: Vec<&str> = Vec::new();
    if resource.kind() == "RoleBinding" {
        let subjects = resource.object["subjects"].as_array().into_iter().flatten();
        let accounts = subjects.filter(|one| one["kind"] == "ServiceAccount");
        namespaces.extend(accounts.filter_map(|one| one["namespace"].as_str()));
    }
    let namespace = referrer.now.effective_namespace();
    candidates
        .iter()
        .filter(|one| {
            one.now.gvk.is_cluster_scoped()
                || one.now.effective_namespace() == namespace
                || namespaces.contains(&one.now.namespace.as_str())
        })
        .collect()
}

/// The kind of role that a binding's `roleRef` says, where that is the place in question.
fn role(resource: &Resource, place: &Place) -> Option<Gvk> {
    if !place.path.ends_with("roleRef/name") {
        return None;
    }
    let text = |field: &str| resource.object.pointer(&format!("/roleRef/{field}")).and_then(Value::as_str);
    Some(Gvk { group: text("apiGroup")?.to_owned(), version: String::new(), kind: text("kind")?.to_owned() })
}

/// One kind of objects that fields of another may name.
struct Search<'s> {
    referrer: &'s Candidate,
    near: &'s [&'s Candidate],
    meant: Gvk,
    role: Option<Gvk>,
}

impl Search<'_> {
    fn at(&self, resource: &mut Resource, place: &Place) -> Result<()> {
        // Which kinds have the field was decided by what the object was when it was read.
        let gvk = resource.gvk();
        let own = Place { group: gvk.group, version: gvk.version, kind: gvk.kind, ..place.clone() };
        let found = fields::at(resource, &Place { create: false, ..own }, Made::Nothing, &mut |value| {
            self.set(value)
        });
        found.within(|| {
            format!("updating name reference in '{}' field of '{}'", place.path, self.referrer.now)
        })
    }

    fn set(&self, value: &mut Value) -> Result<()> {
        match value {
            Value::Null => Ok(()),
            Value::Object(_) => self.set_map(value),
            Value::Array(items) => items.iter_mut().try_for_each(|item| match item {
                Value::Null => Ok(()),
                Value::Object(_) => self.set_map(item),
                Value::Array(_) => Err(Error::new("a list in a list names nothing")),
                _ => self.set_scalar(item),
            }),
            _ => self.set_scalar(value),
        }
    }

    fn set_scalar(&self, value: &mut Value) -> Result<()> {
        let same = |all: &[&Candidate]| all.iter().all(|one| one.now.name == all[0].now.name);
        if let Some(found) = self.choose(&text_of(value), self.near.to_vec(), same)?
            && found.now.name != text_of(value)
        {
            *value = Value::from(found.now.name.as_str());
        }
        Ok(())
    }

    /// A map with a name and, perhaps, a namespace.
    fn set_map(&self, value: &mut Value) -> Result<()> {
        let Some(name) = value.get("name").map(text_of) else {
            return Err(Error::new("path config error; no 'name' field in node"));
        };
        let candidates = match value.get("namespace").map(text_of) {
            None => self.near.to_vec(),
            Some(namespace) => {
                let of = |id: fn(&Candidate) -> &Id| -> Vec<&Candidate> {
                    let within = |one: &&Candidate| {
                        let id = id(one);
                        !id.gvk.is_cluster_scoped() && id.effective_namespace() == namespace
                    };
                    self.near.iter().copied().filter(within).collect()
                };
                let first = of(|one| &one.first);
                if first.is_empty() { of(|one| &one.now) } else { first }
            }
        };
        let same = |all: &[&Candidate]| {
            all.iter().all(|one| one.now.name == all[0].now.name && one.now.namespace == all[0].now.namespace)
        };
        let Some(found) = self.choose(&name, candidates, same)? else { return Ok(()) };
        let Some(fields) = value.as_object_mut() else { return Ok(()) };
        if found.now.name == name && found.now.namespace.is_empty() {
            return Ok(());
        }
        fields.insert("name".to_owned(), Value::from(found.now.name.as_str()));
        if !found.now.namespace.is_empty() {
            fields.insert("namespace".to_owned(), Value::from(found.now.namespace.as_str()));
        }
        Ok(())
    }

    /// The one that a name means.
    fn choose<'c>(
        &self,
        name: &str,
        mut candidates: Vec<&'c Candidate>,
        same: impl Fn(&[&Candidate]) -> bool,
    ) -> Result<Option<&'c Candidate>> {
        candidates.retain(|one| {
            one.previous.iter().any(|id| id.name == name)
                && one.previous.iter().any(|id| id.gvk.is_selected(&self.meant))
                && self
                    .role
                    .as_ref()
                    .is_none_or(|role| one.previous.iter().any(|id| id.gvk.is_selected(role)))
                && self.is_reachable(one)
        });
        if candidates.len() > 1 {
            candidates.retain(|one| one.is_extended_like(self.referrer, true));
        }
        if candidates.len() > 1 {
            candidates.retain(|one| one.is_extended_like(self.referrer, false));
        }
        if candidates.len() > 1 && !same(&candidates) {
            let ids: Vec<String> = candidates.iter().map(|one| one.now.to_string()).collect();
            return Err(Error::new(format!("found multiple possible referrals: {}", ids.join(", "))));
        }
        Ok(candidates.first().copied())
    }

    fn is_reachable(&self, candidate: &Candidate) -> bool {
        self.referrer.now.gvk.is_cluster_scoped()
            || candidate.now.gvk.is_cluster_scoped()
            || candidate.now.gvk.kind == "ServiceAccount"
            || candidate.now.effective_namespace() == self.referrer.now.effective_namespace()
    }
}
