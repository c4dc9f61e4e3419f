//! Puts objects into a namespace.

use crate::error::{Error, Result, Within};
use crate::fields::{self, Made};
use crate::kustomization::Place;
use crate::resource::{Resource, text_of};
use crate::set::Set;
use serde_json::Value;

/// The namespace, and what else is set to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) places: Vec<Place>,
    /// Only where there is none yet.
    pub(crate) unset_only: bool,
    pub(crate) subjects: Subjects,
}

/// Which subjects of role bindings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Subjects {
    /// Those named `default`.
    #[default]
    Default,
    /// All service accounts.
    Accounts,
    /// None.
    Nobody,
}

impl Subjects {
    pub(crate) fn read(text: &str) -> Result<Self> {
        match text {
            "" | "defaultOnly" => Ok(Self::Default),
            "allServiceAccounts" => Ok(Self::Accounts),
            "none" => Ok(Self::Nobody),
            other => Err(Error::new(format!(
                "invalid value {other:?} for setRoleBindingSubjects: must be one of \"defaultOnly\", \"none\" or \"allServiceAccounts\""
            ))),
        }
    }
}

impl Namespace {
    pub(crate) fn apply(&self, set: &mut Set) -> Result<()> {
        if self.name.is_empty() {
            return Ok(());
        }
        for resource in set.all.iter_mut().filter(|one| !one.is_gone()) {
            resource.remember();
            self.one(resource)?;
        }
        let Some(id) = set.double() else { return Ok(()) };
        let like: Vec<String> = set.current(&id).map(|at| set.all[at].object.to_string()).collect();
        Err(Error::new(format!("namespace transformation produces ID conflict: [{}]", like.join(" "))))
    }

    /// Sets it in one object, whatever that was before.
    pub(crate) fn one(&self, resource: &mut Resource) -> Result<()> {
        let gvk = resource.gvk();
        if !gvk.is_cluster_scoped() {
            let own = Place { path: "metadata/namespace".to_owned(), create: true, ..Place::default() };
            fields::at(resource, &own, Made::Scalar, &mut |value| self.set(value))?;
        }
        let binds = matches!(gvk.kind.as_str(), "RoleBinding" | "ClusterRoleBinding");
        if binds {
            self.subjects(resource)?;
        }
        for place in &self.places {
            let elsewhere = place.path == "metadata/namespace"
                || (gvk.api_version() != "v1" && place.path == "metadata/name")
                || (binds && place.path == "subjects/namespace");
            if !elsewhere {
                fields::at(resource, place, Made::Scalar, &mut |value| self.set(value))
                    .within(|| "namespace transformation failed")?;
            }
        }
        Ok(())
    }

    fn set(&self, value: &mut Value) -> Result<()> {
        if value.is_object() || value.is_array() {
            return Err(Error::new("namespace field specs must target scalar nodes"));
        }
        if !self.unset_only || text_of(value).is_empty() {
            *value = Value::from(self.name.as_str());
        }
        Ok(())
    }

    fn subjects(&self, resource: &mut Resource) -> Result<()> {
        let subjects = resource.fields()?.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten().filter_map(Value::as_object_mut) {
            let text = |field: &str| subject.get(field).and_then(Value::as_str);
            let meant = match self.subjects {
                Subjects::Default => text("name") == Some("default"),
                Subjects::Accounts => text("kind") == Some("ServiceAccount"),
                Subjects::Nobody => false,
            };
            if meant {
                self.set(subject.entry("namespace").or_insert(Value::Null))?;
            }
        }
        Ok(())
    }
}
