//! ApplySets (KEP-3659): the objects that belong together have a label, and a parent object says of which kinds and in
//! which namespaces they are.

use super::prune::{Seen, remove};
use super::{Apply, Wanted, Work, server_side};
use crate::commands::version::CLIENT;
use crate::discovery::Resource;
use crate::error::Error;
use crate::session::{Session, with_query};
use crate::wait_gone::Gone;
use base64::Engine;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ID: &str = "applyset.kubernetes.io/id";
const PART_OF: &str = "applyset.kubernetes.io/part-of";
const PARENT_TYPE: &str = "applyset.kubernetes.io/is-parent-type";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// What stood in the place of [`KINDS`] before kubectl 1.28: resources.
const RESOURCES: &str = "applyset.kubernetes.io/contains-group-resources";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
const TOOL: &str = "kubectl";
const MANAGER: &str = "kubectl-applyset";

/// A set, as its parent has it and as it is to be.
pub(super) struct ApplySet {
    resource: Resource,
    name: String,
    namespace: String,
    /// By `Deployment.apps`.
    former: BTreeMap<String, Resource>,
    former_namespaces: BTreeSet<String>,
    kinds: BTreeMap<String, Resource>,
    namespaces: BTreeSet<String>,
}

/// The set that `--applyset` names.
pub(super) async fn of(session: &Session, args: &Apply) -> Result<Option<ApplySet>, Error> {
    let Some(word) = &args.applyset else { return Ok(None) };
    if !std::env::var("KUBECTL_APPLYSET")
        .is_ok_and(|value| matches!(value.as_str(), "true" | "TRUE" | "True" | "1" | "t" | "T"))
    {
        return Err(Error::plain("unknown flag: --applyset\nSee 'kubectl apply --help' for usage."));
    }
    let (kind, name) = word.split_once('/').unwrap_or(("secrets", word));
    let invalid = |reason: &str| Error::plain(format!("invalid parent reference {word:?}: {reason}"));
    if name.is_empty() {
        return Err(invalid("name cannot be blank"));
    }
    if name.contains('/') {
        return Err(invalid(&format!("invalid resource name {name:?}: [may not contain '/']")));
    }
    let resource = session.resource(kind).await.map_err(|error| invalid(&error.message()))?.clone();
    let namespace = if resource.namespaced && session.namespace_given {
        session.namespace.clone()
    } else {
        String::new()
    };
    Ok(Some(ApplySet {
        resource,
        name: name.to_owned(),
        namespace,
        former: BTreeMap::new(),
        former_namespaces: BTreeSet::new(),
        kinds: BTreeMap::new(),
        namespaces: BTreeSet::new(),
    }))
}

fn group_kind(resource: &Resource) -> String {
    if resource.group.is_empty() {
        resource.kind.clone()
    } else {
        format!("{}.{}", resource.kind, resource.group)
    }
}

impl ApplySet {
    /// `applyset-<digest of name, namespace, kind and group>-v1`.
    fn id(&self) -> String {
        let text = [self.name.as_str(), &self.namespace, &self.resource.kind, &self.resource.group].join(".");
        let digest = base::hex::sha256(text.as_bytes());
        let bytes: Vec<u8> = (0..digest.len() / 2)
            .filter_map(|place| u8::from_str_radix(&digest[2 * place..2 * place + 2], 16).ok())
            .collect();
        format!("applyset-{}-v1", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
    }

    fn shown(&self) -> String {
        format!("{}.{}/{}", self.resource.plural, self.resource.group, self.name)
    }

    fn is_builtin(&self) -> bool {
        self.resource.group.is_empty() && matches!(self.resource.plural.as_str(), "secrets" | "configmaps")
    }

    /// Whether there may be a parent of the kind in the place.
    pub(super) async fn validate(&self, session: &Session) -> Result<(), Error> {
        let mut wrong = Vec::new();
        if self.resource.namespaced && self.namespace.is_empty() {
            wrong.push(Error::plain("namespace is required to use namespace-scoped ApplySet"));
        }
        if !self.is_builtin() {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let list = session.get(&with_query(path, &[("labelSelector", PARENT_TYPE)])).await?;
            let qualified = self.resource.qualified();
            let mut names = list["items"].as_array().into_iter().flatten();
            if !names.any(|item| item["metadata"]["name"] == qualified) {
                let Resource { group, version, plural, .. } = &self.resource;
                wrong.push(Error::plain(format!(
                    "resource \"{group}/{version}, Resource={plural}\" is not permitted as an ApplySet parent"
                )));
            }
        }
        crate::choice::failed(wrong)
    }

    /// Makes an object a member.
    pub(super) fn label(&self, object: &mut Value) -> Result<(), Error> {
        if !object["metadata"]["labels"][PART_OF].is_null() {
            return Err(Error::plain(format!("ApplySet label {PART_OF:?} already set in input data")));
        }
        object["metadata"]["labels"][PART_OF] = json!(self.id());
        Ok(())
    }

    /// Reads the parent, and has it say what the set had and will have, before anything is applied.
    pub(super) async fn begin(&mut self, work: &Work<'_>, all: &[Wanted<'_>]) -> Result<(), Error> {
        match work.session.get(&self.resource.object(&self.namespace, &self.name)).await {
            Ok(parent) => self.read(work.session, &parent).await?,
            Err(error) if error.is_not_found() && self.is_builtin() => {}
            Err(error) if error.is_not_found() => {
                return Err(Error::plain("custom resource ApplySet parents cannot be created automatically"));
            }
            Err(error) => {
                return Err(
                    error.behind(&format!("failed to fetch ApplySet parent object {:?}: ", self.shown()))
                );
            }
        }
        for wanted in all {
            self.kinds.insert(group_kind(&wanted.resource), wanted.resource.clone());
            if wanted.resource.namespaced {
                self.namespaces.insert(wanted.namespace.clone());
            }
        }
        let kinds = self.former.keys().chain(self.kinds.keys()).cloned().collect();
        let namespaces = self.former_namespaces.union(&self.namespaces).cloned().collect();
        self.update(work, &kinds, &namespaces).await
    }

    async fn read(&mut self, session: &Session, parent: &Value) -> Result<(), Error> {
        let shown = self.shown();
        let annotation = |name: &str| parent["metadata"]["annotations"][name].as_str();
        let Some(tool) = annotation(TOOLING) else {
            return Err(Error::plain(format!(
                "ApplySet parent object {shown:?} already exists and is missing required annotation {TOOLING:?}"
            )));
        };
        let tool = tool.rsplit_once('/').map_or(tool, |(name, _)| name);
        if tool != TOOL {
            return Err(Error::plain(format!(
                "ApplySet parent object {shown:?} already exists and is managed by tooling {tool:?} instead of {TOOL:?}"
            )));
        }
        let id = self.id();
        match parent["metadata"]["labels"][ID].as_str() {
            None => {
                return Err(Error::plain(format!(
                    "ApplySet parent object {shown:?} exists and does not have required label {ID}"
                )));
            }
            Some(other) if other != id => {
                return Err(Error::plain(format!(
                    "ApplySet parent object {shown:?} exists and has incorrect value for label {ID:?} (got: {other}, want: {id})"
                )));
            }
            Some(_) => {}
        }
        let wrong =
            |reason: String| Error::plain(format!("parsing ApplySet annotation on {shown:?}: {reason}"));
        let (name, words) = match (annotation(KINDS), annotation(RESOURCES)) {
            (Some(words), _) => (KINDS, words),
            (None, Some(words)) if !words.is_empty() => (RESOURCES, words),
            _ => {
                return Err(wrong(format!(
                    "kubectl requires the {KINDS:?} annotation to be set on all ApplySet parent objects"
                )));
            }
        };
        let discovery = session.discovery().await?;
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let resource = discovery.find(word).map_err(|error| {
                wrong(format!("could not find mapping for kind in {name:?} annotation: {}", error.message()))
            })?;
            self.former.insert(group_kind(resource), resource.clone());
        }
        let namespaces = annotation(NAMESPACES).unwrap_or_default();
        self.former_namespaces =
            namespaces.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        if self.resource.namespaced {
            self.former_namespaces.insert(self.namespace.clone());
        }
        Ok(())
    }

    /// Has the parent say which kinds there are, and where.
    async fn update(
        &self,
        work: &Work<'_>,
        kinds: &BTreeSet<String>,
        namespaces: &BTreeSet<String>,
    ) -> Result<(), Error> {
        if work.writer.is_client() {
            return Ok(());
        }
        let joined = |words: &mut dyn Iterator<Item = &String>| words.cloned().collect::<Vec<_>>().join(",");
        let mut parent = json!({"apiVersion": self.resource.api_version(), "kind": self.resource.kind, "metadata": {
            "name": self.name,
            "labels": {ID: self.id()},
            "annotations": {
                TOOLING: format!("{TOOL}/{CLIENT}"),
                KINDS: joined(&mut kinds.iter()),
                NAMESPACES: joined(&mut namespaces.iter().filter(|namespace| **namespace != self.namespace)),
            },
        }});
        if !self.namespace.is_empty() {
            parent["metadata"]["namespace"] = json!(self.namespace);
        }
        let path = work.writer.path_as(&self.resource.object(&self.namespace, &self.name), MANAGER);
        let mut sent = server_side::send(work.session, &path, &parent, false).await;
        if let Err(error) = &sent
            && error.is_conflict()
        {
            eprintln!(
                "WARNING: failed to update ApplySet: {}\nApplySet field manager {MANAGER} should own these fields. Retrying with conflicts forced.",
                error.message()
            );
            sent = server_side::send(work.session, &path, &parent, true).await;
        }
        sent.map(drop).map_err(|error| error.behind("failed to update ApplySet: "))
    }

    /// Deletes members that were not applied, and has the parent forget kinds and places that have none.
    pub(super) async fn prune(&self, work: &Work<'_>, seen: &Seen) -> Result<Vec<Gone>, Error> {
        let selector = format!("{PART_OF}={}", self.id());
        let mut left = Vec::new();
        for resource in self.former.values() {
            let everywhere = BTreeSet::from([String::new()]);
            let places = if resource.namespaced { &self.former_namespaces } else { &everywhere };
            for namespace in places {
                let path = with_query(&resource.path(namespace), &[("labelSelector", &selector)]);
                let listed = work.session.get(&path).await.map_err(|error| {
                    error.behind(&format!("listing {} objects for pruning: ", group_kind(resource)))
                })?;
                for item in listed["items"].as_array().into_iter().flatten().filter(|item| !seen.has(item)) {
                    let mut item = item.clone();
                    item["kind"] = json!(resource.kind);
                    item["apiVersion"] = json!(resource.api_version());
                    left.push((resource.clone(), item));
                }
            }
        }
        let gone = remove(work, left).await?;
        let kinds = self.kinds.keys().cloned().collect();
        let updated = self.update(work, &kinds, &self.namespaces).await;
        updated.map_err(|error| {
            Error::plain(format!(
                "apply and prune succeeded, but ApplySet update failed: {}",
                error.message()
            ))
        })?;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_named_by_its_parent() {
        let resource = crate::manifests::unasked(&json!({"apiVersion": "v1", "kind": "Secret"}));
        let set = ApplySet {
            resource,
            name: "test".to_owned(),
            namespace: "default".to_owned(),
            former: BTreeMap::new(),
            former_namespaces: BTreeSet::new(),
            kinds: BTreeMap::new(),
            namespaces: BTreeSet::new(),
        };
        assert!(set.is_builtin());
        assert_eq!(set.shown(), "secrets./test");
        assert_eq!(set.id().len(), "applyset-".len() + 43 + "-v1".len());
        let mut object = json!({"metadata": {}});
        set.label(&mut object).unwrap();
        assert_eq!(object["metadata"]["labels"][PART_OF], set.id());
        assert!(set.label(&mut object).unwrap_err().to_string().contains("already set in input data"));
    }
}
