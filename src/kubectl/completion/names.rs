//! Names that only the cluster and the kubeconfig know.

use crate::globals::Global;
use crate::kubeconfig::{Kubeconfig, names};
use crate::session::{Call, JSON, Session, with_query};
use http::Method;
use serde_json::Value;

/// Only what objects are called.
const AS_METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// How many names are asked for: nobody chooses among more.
const MOST: &str = "500";

/// Whom to ask, and the word that is completed. Whatever fails completes nothing: a shell has no place for errors.
pub(super) struct Asked<'a> {
    session: Option<Session>,
    global: &'a Global,
    pub(super) word: &'a str,
}

impl<'a> Asked<'a> {
    pub(super) fn new(global: &'a Global, word: &'a str) -> Self {
        Self { session: Session::open(global).ok(), global, word }
    }

    /// The names of contexts, clusters or users.
    pub(super) fn configured(&self, list: &str) -> Vec<String> {
        Kubeconfig::load_raw(self.global).map(|config| names(&config.content, list)).unwrap_or_default()
    }

    /// Kinds as they are typed; those that two groups have with their group.
    pub(super) async fn kinds(&self) -> Vec<String> {
        let Some(session) = &self.session else { return Vec::new() };
        let Ok(discovery) = session.discovery().await else { return Vec::new() };
        let all = discovery.0.iter().filter(|resource| resource.preferred && resource.can("list"));
        let mut kinds: Vec<String> = all
            .map(|resource| match discovery.find(&resource.plural) {
                Ok(found) if found == resource => resource.plural.clone(),
                _ => resource.qualified(),
            })
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// The names of a kind's objects in the namespace.
    pub(super) async fn names(&self, kind: &str) -> Vec<String> {
        let Some(session) = &self.session else { return Vec::new() };
        let mut found = Vec::new();
        for kind in kind.split(',') {
            let Ok(resource) = session.resource(kind).await else { continue };
            let namespace = if resource.namespaced { session.namespace.as_str() } else { "" };
            let path = with_query(&resource.path(namespace), &[("limit", MOST)]);
            let call = Call { method: Method::GET, path: &path, content_type: JSON, accept: AS_METADATA };
            let Ok(list) = session.send(call, None).await else { continue };
            let items = list["items"].as_array().into_iter().flatten();
            found.extend(items.filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned));
        }
        found
    }

    /// The containers of a pod, or of what makes pods.
    pub(super) async fn containers(&self, subject: &str) -> Vec<String> {
        let Some((_, object)) = self.object(subject).await else { return Vec::new() };
        let spec = template(&object);
        let named = |list: &str| -> Vec<String> {
            let all = spec[list].as_array().into_iter().flatten();
            all.filter_map(|one: &Value| one["name"].as_str()).map(str::to_owned).collect()
        };
        ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(named).collect()
    }

    /// The ports that can be forwarded: `8080:8080`.
    pub(super) async fn ports(&self, subject: &str) -> Vec<String> {
        let Some((kind, object)) = self.object(subject).await else { return Vec::new() };
        let (ports, key) = match kind == "Service" {
            true => (object["spec"]["ports"].as_array().cloned().unwrap_or_default(), "port"),
            false => {
                let containers = template(&object)["containers"].as_array().into_iter().flatten();
                (
                    containers.flat_map(|one| one["ports"].as_array().cloned().unwrap_or_default()).collect(),
                    "containerPort",
                )
            }
        };
        ports.iter().filter_map(|port| port[key].as_i64()).map(|port| format!("{port}:{port}")).collect()
    }

    /// An object named by `POD` or `KIND/NAME`, and its kind.
    async fn object(&self, subject: &str) -> Option<(String, Value)> {
        let session = self.session.as_ref()?;
        let (kind, name) = subject.split_once('/').unwrap_or(("pods", subject));
        let resource = session.resource(kind).await.ok()?;
        let object = session.get(&resource.object(&session.namespace, name)).await.ok()?;
        Some((resource.kind.clone(), object))
    }
}

/// The specification of pods: an object's own, or of those that it makes.
fn template(object: &Value) -> &Value {
    let spec = &object["spec"];
    let spec = if spec["jobTemplate"].is_object() { &spec["jobTemplate"]["spec"] } else { spec };
    if spec["template"].is_object() { &spec["template"]["spec"] } else { spec }
}
