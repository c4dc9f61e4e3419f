//! Tells the API what claims get and for whom they are reserved, and takes it back.

use super::requests::path;
use super::{Binding, DeviceCaches, Reserved, allocation, binding, binds, is_reserved_for, overdue};
use crate::binder::now;
use api::Object;
use api::resource::{ResourceClaim, ResourceClaimConsumerReference};
use api::slim::Pod;
use base::clock;
use client::{Client, Error, Patch};
use serde_json::json;
use std::time::Duration;

/// Keeps a claim that has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a write is tried against others who write.
const TRIES: usize = 5;

/// Writes what a pod's claims get and that they are reserved for it.
pub(crate) async fn reserve(
    client: &Client,
    caches: &DeviceCaches,
    pod: &Pod,
    reserved: &[Reserved],
) -> Result<(), String> {
    for one in reserved {
        let current = caches.claims.get(one.claim.namespace(), one.claim.name());
        let known = current.filter(|current| current.uid() == one.claim.uid());
        if one.allocation.is_none() && known.as_ref().is_some_and(|known| is_reserved_for(known, pod)) {
            continue;
        }
        let mut claim = known.map_or_else(|| (*one.claim).clone(), |known| (*known).clone());
        for left in (0..TRIES).rev() {
            match reserve_one(client, claim, pod, one).await {
                Ok(written) => {
                    caches.claims.reached(written.revision()).await;
                    break;
                }
                Err(Failed { again: true, .. }) if left > 0 => {
                    let (namespace, name) = (one.claim.namespace(), one.claim.name());
                    claim = client.get(namespace, name).await.map_err(|error| {
                        format!("get updated claim {} after conflict: {error}", path(&one.claim))
                    })?;
                }
                Err(failed) => return Err(failed.why),
            }
        }
        caches.settle(one.claim.uid());
    }
    Ok(())
}

struct Failed {
    why: String,
    /// Somebody else wrote meanwhile.
    again: bool,
}

impl Failed {
    fn at(what: &str, claim: &str, error: &Error) -> Self {
        Self { why: format!("{what} claim {claim}: {error}"), again: error.is_conflict() }
    }

    fn ended(why: String) -> Self {
        Self { why, again: false }
    }
}

async fn reserve_one(
    client: &Client,
    mut claim: ResourceClaim,
    pod: &Pod,
    one: &Reserved,
) -> Result<ResourceClaim, Failed> {
    let path = path(&claim);
    if claim.is_deleting() || claim.uid() != one.claim.uid() {
        return Err(Failed::ended(format!("claim {path} got deleted in the meantime")));
    }
    match (&one.allocation, allocation(&claim)) {
        (Some(_), Some(_)) => {
            return Err(Failed::ended(format!("claim {path} got allocated elsewhere in the meantime")));
        }
        (None, None) => {
            return Err(Failed::ended(format!("claim {path} got deallocated elsewhere in the meantime")));
        }
        _ => {}
    }
    let what =
        if one.allocation.is_some() { "add allocation and reservation to" } else { "add reservation to" };
    if one.allocation.is_some() && !claim.metadata.finalizers.iter().flatten().any(|own| own == FINALIZER) {
        claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        claim = client.update(&claim).await.map_err(|error| Failed::at("add finalizer to", &path, &error))?;
    }
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = &one.allocation {
        status.allocation = Some((**allocation).clone());
    }
    if let Some(allocation) = &mut status.allocation {
        allocation.allocation_timestamp.get_or_insert_with(now);
    }
    status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
    });
    client.update_status(&claim).await.map_err(|error| Failed::at(what, &path, &error))
}

/// Some of the devices have to be bound by others first.
pub(crate) fn have_to_be_bound(caches: &DeviceCaches, reserved: &[Reserved]) -> bool {
    reserved.iter().any(|one| {
        caches.claims.get(one.claim.namespace(), one.claim.name()).is_some_and(|claim| binds(&claim))
    })
}

/// Waits until all devices are bound.
pub(crate) async fn bound(
    caches: &DeviceCaches,
    reserved: &[Reserved],
    limit: Duration,
) -> Result<(), String> {
    for one in reserved {
        let name = one.claim.name();
        loop {
            let changed = caches.claims.changed();
            let claim = caches.claims.get(one.claim.namespace(), name);
            let claim = claim.ok_or_else(|| format!("resourceclaims.resource.k8s.io {name:?} not found"))?;
            match binding(&claim) {
                Binding::Ready => break,
                Binding::Failed(why) => return Err(why),
                Binding::Pending => {}
            }
            let left = overdue(&claim, limit).map_or(limit, |end| {
                Duration::try_from(end.duration_since(clock::now())).unwrap_or_default()
            });
            if tokio::time::timeout(left, changed).await.is_err() {
                return Err(format!("device binding timeout: claim={name}"));
            }
        }
    }
    Ok(())
}

/// The pod will not run there: its claims are not reserved for it any more.
pub(crate) async fn unreserve(client: &Client, caches: &DeviceCaches, pod: &Pod, reserved: &[Reserved]) {
    for one in reserved {
        caches.settle(one.claim.uid());
        let (namespace, name) = (one.claim.namespace(), one.claim.name());
        let current = caches.claims.get(namespace, name).filter(|current| current.uid() == one.claim.uid());
        if !current.is_some_and(|current| is_reserved_for(&current, pod)) {
            continue;
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": one.claim.uid()},
            "status": {"reservedFor": [{"$patch": "delete", "uid": pod.uid()}]}}));
        if let Err(error) = client.patch_status::<ResourceClaim>(namespace, name, &patch).await {
            tracing::warn!(%error, claim = name, "a claim stays reserved for a pod that does not run");
        }
    }
}

/// Takes the devices of a claim away that nobody uses.
pub(crate) async fn deallocate(client: &Client, claim: &ResourceClaim) -> Result<(), Error> {
    let mut claim = claim.clone();
    if let Some(status) = &mut claim.status {
        (status.allocation, status.reserved_for, status.devices) = (None, None, None);
    }
    client.update_status(&claim).await.map(drop)
}
