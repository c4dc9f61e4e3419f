//! Deleting what was applied before and is not said any more: objects of some kinds that have the annotation of an
//! apply and were not among those that were applied now.

use super::{Wanted, Work};
use crate::deleting::delete;
use crate::discovery::Resource;
use crate::error::Error;
use crate::session::{Session, with_query};
use crate::wait_gone::Gone;
use crate::writing::{Dry, LAST_APPLIED};
use serde_json::Value;
use std::collections::BTreeSet;

/// The kinds that are pruned unless others are named.
const KINDS: &[(&str, &str)] = &[
    ("v1", "ConfigMap"),
    ("v1", "Endpoints"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
    ("v1", "ReplicationController"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("networking.k8s.io/v1", "Ingress"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "StatefulSet"),
    ("v1", "Namespace"),
    ("v1", "PersistentVolume"),
];

/// What was applied, which is not pruned, and where.
#[derive(Default)]
pub(crate) struct Seen {
    uids: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl Seen {
    pub(crate) fn namespace(&mut self, wanted: &Wanted<'_>) {
        if wanted.resource.namespaced {
            self.namespaces.insert(wanted.namespace.clone());
        }
    }

    pub(crate) fn object(&mut self, object: &Value) {
        self.uids.extend(object["metadata"]["uid"].as_str().map(str::to_owned));
    }

    pub(super) fn has(&self, object: &Value) -> bool {
        object["metadata"]["uid"].as_str().is_some_and(|uid| self.uids.contains(uid))
    }
}

/// The kinds to prune: those of a list of GROUP/VERSION/KIND, or the usual ones.
pub(crate) async fn kinds(session: &Session, list: &[String], prune: bool) -> Result<Vec<Resource>, Error> {
    if !prune {
        return Ok(Vec::new());
    }
    let mut kinds = Vec::new();
    for word in list {
        let [group, version, kind] = word.split('/').collect::<Vec<_>>()[..] else {
            return Err(Error::plain(format!(
                "invalid GroupVersionKind format: {word}, please follow <group/version/kind>"
            )));
        };
        let version =
            if matches!(group, "" | "core") { version.to_owned() } else { format!("{group}/{version}") };
        kinds.push((version, kind.to_owned()));
    }
    if kinds.is_empty() {
        kinds = KINDS.iter().map(|(version, kind)| ((*version).to_owned(), (*kind).to_owned())).collect();
    }
    let mut found = Vec::new();
    for (version, kind) in &kinds {
        let unknown = || Error::plain(format!("no matches for kind {kind:?} in version {version:?}"));
        found.push(session.resource_of(version, kind).await?.cloned().ok_or_else(unknown)?);
    }
    Ok(found)
}

/// What of these kinds was applied before and not now.
pub(crate) async fn left(
    session: &Session,
    kinds: &[Resource],
    seen: &Seen,
    selector: &str,
) -> Result<Vec<(Resource, Value)>, Error> {
    let mut all = Vec::new();
    let places = kinds.iter().filter(|kind| kind.namespaced);
    let places = seen
        .namespaces
        .iter()
        .flat_map(|namespace| places.clone().map(move |kind| (kind, namespace.as_str())));
    let cluster = kinds.iter().filter(|kind| !kind.namespaced).map(|kind| (kind, ""));
    for (kind, namespace) in places.chain(cluster) {
        let list = session.get(&with_query(&kind.path(namespace), &[("labelSelector", selector)])).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            if item["metadata"]["annotations"].get(LAST_APPLIED).is_none() || seen.has(item) {
                continue;
            }
            let mut item = item.clone();
            item["kind"] = kind.kind.clone().into();
            item["apiVersion"] = kind.api_version().into();
            all.push((kind.clone(), item));
        }
    }
    Ok(all)
}

pub(super) async fn prune(work: &Work<'_>, kinds: &[Resource], seen: &Seen) -> Result<Vec<Gone>, Error> {
    if work.args.prune_allowlist.is_empty() {
        eprintln!(
            "Warning: kubectl apply will no longer prune non-namespaced resources by default when used with the --namespace flag in a future release. To preserve the current behaviour, list the resources you want to target explicitly in the --prune-allowlist flag."
        );
    }
    remove(work, left(work.session, kinds, seen, &work.args.selector).await?).await
}

/// Deletes objects and says so.
pub(super) async fn remove(work: &Work<'_>, objects: Vec<(Resource, Value)>) -> Result<Vec<Gone>, Error> {
    let deleting = &work.args.deleting;
    let options = deleting.options(deleting.grace_period, work.writer.dry == Dry::Server)?;
    let mut gone = Vec::new();
    for (resource, object) in objects {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        if !work.writer.is_client() {
            let (namespace, name) = (text("namespace"), text("name"));
            let deleted = delete(work.session, (&resource, namespace, name), &options).await;
            gone.push(
                deleted
                    .map_err(|error| error.when(format!("pruning {} {namespace}/{name}", resource.kind)))?,
            );
        }
        work.writer.done(&resource, &object, "pruned")?;
    }
    Ok(gone)
}
