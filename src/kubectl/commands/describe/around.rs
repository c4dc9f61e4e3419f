//! What pages show of other objects: it is asked for here.

use super::node::{self, Around as AroundNode};
use super::page::Page;
use super::{ingress, kind, limits, service, signing, storage, text, workloads};
use crate::args::Selection;
use crate::choice::{Found, members};
use crate::controlled::controlled;
use crate::discovery::Resource;
use crate::error::Error;
use crate::parts;
use crate::session::{Session, with_query};
use crate::target::Target;
use serde_json::Value;
use std::collections::BTreeMap;

/// Kinds whose pages are made of more than the object.
pub(super) const KINDS: &[&str] = &[
    "Namespace",
    "Node",
    "PersistentVolumeClaim",
    "ReplicationController",
    "Service",
    "DaemonSet.apps",
    "Deployment.apps",
    "ReplicaSet.apps",
    "StatefulSet.apps",
    "CertificateSigningRequest.certificates.k8s.io",
    "Ingress.networking.k8s.io",
];

/// A mirror pod's events are of the pod that it mirrors, whose uid this says.
const MIRRORED: &str = "kubernetes.io/config.mirror";

/// A list in as many parts of this size as it takes; all at once with 0.
async fn whole(session: &Session, path: &str, size: u64) -> Result<Value, Error> {
    let size = if size == 0 { String::new() } else { size.to_string() };
    let part =
        async |rest: &str| session.get(&with_query(path, &[("limit", &size), ("continue", rest)])).await;
    parts::whole(part).await
}

/// The object that a target names, or all that there are.
pub(super) async fn objects(
    session: &Session,
    target: &Target,
    selection: &Selection,
    size: u64,
) -> Result<Vec<Found>, Error> {
    let path = target.path(selection);
    match &target.name {
        None => Ok(members(target, &whole(session, &path, size).await?)),
        Some(name) => Ok(vec![Found {
            object: session.get(&path).await?,
            resource: target.resource.clone(),
            namespace: target.namespace.clone(),
            name: name.clone(),
        }]),
    }
}

/// Who asks, and for how much.
pub(super) struct Around<'a> {
    session: &'a Session,
    size: u64,
    pub(super) shows_events: bool,
}

impl<'a> Around<'a> {
    pub(super) fn new(session: &'a Session, size: u64, shows_events: bool) -> Self {
        Self { session, size, shows_events }
    }

    async fn list(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Vec<Value>, Error> {
        let mut list = whole(self.session, &with_query(path, parameters), self.size).await?;
        Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// The object in the version that its page is written for, if it was read in another one and the server has that.
    pub(super) async fn versioned(&self, found: &Found) -> Option<Found> {
        let wanted = if found.resource.kind == "HorizontalPodAutoscaler" { "v2" } else { "v1" };
        if found.resource.version == wanted {
            return None;
        }
        let resource = Resource { version: wanted.to_owned(), ..found.resource.clone() };
        let object = self.session.get(&resource.object(&found.namespace, &found.name)).await.ok()?;
        Some(Found { resource, namespace: found.namespace.clone(), name: found.name.clone(), object })
    }

    /// The page of an object of one of [`KINDS`].
    pub(super) async fn write(&self, page: &mut Page, found: &Found) -> Result<(), Error> {
        let object = &found.object;
        match kind(&found.resource).as_str() {
            "Deployment.apps" => {
                // Without a right to see them kubectl leaves them out.
                let sets = self.controlled(object, "/apis/apps/v1", "replicasets").await.unwrap_or_default();
                workloads::deployment(page, object, &sets);
            }
            "ReplicaSet.apps" => {
                let pods = self.pods(object).await.map_err(|error| error.message());
                workloads::replica_set(page, object, pods.as_deref());
            }
            "StatefulSet.apps" => workloads::stateful_set(page, object, &self.pods(object).await?),
            "DaemonSet.apps" => workloads::daemon_set(page, object, &self.pods(object).await?),
            "ReplicationController" => {
                workloads::replication_controller(page, object, &self.pods(object).await?);
            }
            "Service" => {
                let slices = self.slices(&found.namespace, &found.name).await.unwrap_or_default();
                service::write(page, object, &slices);
            }
            "Ingress.networking.k8s.io" => {
                let mut behind = BTreeMap::new();
                for name in ingress::services(object) {
                    let found = self.behind(&found.namespace, &name).await;
                    behind.insert(name, found.map_err(|error| error.message()));
                }
                ingress::write(page, object, &behind);
            }
            "PersistentVolumeClaim" => {
                let pods = self.list(&place(object, "/api/v1", "pods"), &[]).await?;
                storage::claim(page, object, &pods);
            }
            "Namespace" => {
                let place = format!("/api/v1/namespaces/{}", found.name);
                let quotas = self.list(&format!("{place}/resourcequotas"), &[]).await?;
                let ranges = self.list(&format!("{place}/limitranges"), &[]).await?;
                limits::namespace(page, object, &quotas, &ranges);
            }
            "Node" => node::write(page, object, &self.of_node(&found.name).await?),
            _ => signing::write(page, object)
                .map_err(|error| Error::plain(format!("Error parsing CSR: {error}")))?,
        }
        Ok(())
    }

    /// What of a kind an object controls.
    async fn controlled(&self, object: &Value, api: &str, plural: &str) -> Result<Vec<Value>, Error> {
        controlled(object, async |query| self.list(&place(object, api, plural), query).await).await
    }

    async fn pods(&self, object: &Value) -> Result<Vec<Value>, Error> {
        self.controlled(object, "/api/v1", "pods").await
    }

    async fn slices(&self, namespace: &str, service: &str) -> Result<Vec<Value>, Error> {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        self.list(&path, &[("labelSelector", &format!("kubernetes.io/service-name={service}"))]).await
    }

    async fn behind(&self, namespace: &str, service: &str) -> Result<(Value, Vec<Value>), Error> {
        let slices = self.slices(namespace, service).await?;
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        Ok((self.session.get(&path).await?, slices))
    }

    async fn of_node(&self, name: &str) -> Result<AroundNode, Error> {
        let running = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
        let pods = match self.list("/api/v1/pods", &[("fieldSelector", &running)]).await {
            Ok(pods) => Some(pods),
            Err(error) if error.is_forbidden() => None,
            Err(error) => return Err(error),
        };
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let lease = self.session.get(&lease).await.map_err(|error| error.message());
        // Not every server knows of devices.
        let own = format!("spec.nodeName={name}");
        let slices = self.list("/apis/resource.k8s.io/v1/resourceslices", &[("fieldSelector", &own)]).await;
        Ok(AroundNode { pods, lease, slices: slices.unwrap_or_default() })
    }

    /// The events of an object. That they may not be seen is said and no mistake.
    pub(super) async fn events(&self, found: &Found) -> Result<Vec<Value>, Error> {
        let metadata = &found.object["metadata"];
        let (namespace, name) = (&found.namespace, &found.name);
        let mut about = format!("involvedObject.name={name},involvedObject.namespace={namespace}");
        let kind = kind(&found.resource);
        if kind != "Pod" {
            about.push_str(&format!(",involvedObject.kind={}", found.resource.kind));
        }
        // Of nodes some give the name as uid, too.
        let uid = match &metadata["annotations"][MIRRORED] {
            Value::String(mirrored) if kind == "Pod" => mirrored,
            _ => text(metadata, "/uid"),
        };
        if kind != "Node" {
            about.push_str(&format!(",involvedObject.uid={uid}"));
        }
        let place = match namespace.as_str() {
            "" => "/api/v1/events".to_owned(),
            namespace => format!("/api/v1/namespaces/{namespace}/events"),
        };
        match self.list(&place, &[("fieldSelector", &about)]).await {
            Ok(mut events) => {
                let of = |event: &Value, uid: &str| text(event, "/involvedObject/uid") == uid;
                events.retain(|event| kind != "Node" || of(event, uid) || of(event, name));
                events.sort_by_key(|event| !of(event, uid));
                Ok(events)
            }
            Err(error) if kind == "ConfigMap" => Err(error),
            Err(error) => {
                eprintln!("Warning: events cannot be shown: {}", error.message());
                Ok(Vec::new())
            }
        }
    }
}

/// Where objects of a kind are in an object's namespace.
fn place(object: &Value, api: &str, plural: &str) -> String {
    format!("{api}/namespaces/{}/{plural}", text(object, "/metadata/namespace"))
}
