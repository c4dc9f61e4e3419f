//! What an object was before: the ReplicaSets of a Deployment, and the ControllerRevisions of others.

use super::group_kind;
use crate::choice::Found;
use crate::error::Error;
use crate::session::{Session, with_query};
use api::kinds::by_kind;
use api::schema::schema;
use serde_json::Value;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const CAUSE: &str = "kubernetes.io/change-cause";

/// One revision.
pub(super) struct Revision {
    pub(super) number: i64,
    /// Why there is it, "" if nobody said.
    pub(super) cause: String,
    /// The ReplicaSet, or the object as it was then.
    pub(super) object: Value,
    /// What makes the object of today that one; none of a Deployment.
    pub(super) patch: Option<Value>,
}

impl Revision {
    pub(super) fn template(&self) -> &Value {
        &self.object["spec"]["template"]
    }
}

/// All revisions of an object, oldest first. `what` is who asks, for objects that have no history.
pub(super) async fn all(session: &Session, found: &Found, what: &str) -> Result<Vec<Revision>, Error> {
    let mut all = match (found.resource.group.as_str(), found.resource.kind.as_str()) {
        ("apps", "Deployment") => replica_sets(session, found).await?,
        ("apps", "DaemonSet" | "StatefulSet") => controller_revisions(session, found).await?,
        ("batch", "Job" | "CronJob") | ("", "Pod" | "ReplicationController") | ("apps", "ReplicaSet") => {
            return Err(Error::plain(format!("no {what} has been implemented for {:?}", group_kind(found))));
        }
        (group, kind) => {
            let asked = if what == "rollbacker" { what } else { "history" };
            return Err(Error::plain(format!(
                "error retrieving {asked} for {:?}, no visitor method exists for {{{group} {kind}}}",
                group_kind(found)
            )));
        }
    };
    all.sort_by_key(|revision| revision.number);
    Ok(all)
}

/// Objects that an object controls.
async fn controlled(session: &Session, found: &Found, plural: &str) -> Result<Vec<Value>, Error> {
    let path = format!("/apis/apps/v1/namespaces/{}/{plural}", found.namespace);
    let list = async |query: &[(&str, &str)]| {
        let list = session.get(&with_query(&path, query)).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    crate::controlled::controlled(&found.object, list).await
}

async fn replica_sets(session: &Session, found: &Found) -> Result<Vec<Revision>, Error> {
    let sets = controlled(session, found, "replicasets").await?.into_iter().filter_map(|mut set| {
        set["apiVersion"] = "apps/v1".into();
        set["kind"] = "ReplicaSet".into();
        let annotations = &set["metadata"]["annotations"];
        Some(Revision {
            number: annotations[REVISION].as_str()?.parse().ok()?,
            cause: annotations[CAUSE].as_str().unwrap_or_default().to_owned(),
            object: set,
            patch: None,
        })
    });
    Ok(sets.collect())
}

async fn controller_revisions(session: &Session, found: &Found) -> Result<Vec<Revision>, Error> {
    let kind = by_kind(&found.resource.api_version(), &found.resource.kind);
    let ty = kind.and_then(|kind| schema().of(kind));
    let revision = |one: Value| {
        let mut object = found.object.clone();
        if let Some(ty) = ty {
            let failed =
                |error| Error::plain(format!("unable to parse history {}: {error}", one["metadata"]["name"]));
            api::patch::strategic(&mut object, &one["data"], ty).map_err(failed)?;
        }
        let cause = one["metadata"]["annotations"][CAUSE].as_str().unwrap_or_default();
        Ok(Revision {
            number: one["revision"].as_i64().unwrap_or(0),
            cause: cause.to_owned(),
            object,
            patch: Some(one["data"].clone()),
        })
    };
    controlled(session, found, "controllerrevisions").await?.into_iter().map(revision).collect()
}
