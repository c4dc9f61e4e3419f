//! Tells the API what claims get and for whom they are reserved, and takes it back.

use super::requests::path;
use super::{Binding, DeviceCaches, Obstacle, Reserved};
use super::{allocation, binding, binds, extended, is_reserved_for, overdue};
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

/// Writes what a pod's claims get and that they are reserved for it; the claims as they are then.
pub(crate) async fn reserve(
    client: &Client,
    caches: &DeviceCaches,
    pod: &Pod,
    reserved: &[Reserved],
) -> Result<Vec<ResourceClaim>, String> {
    let mut all = Vec::with_capacity(reserved.len());
    for one in reserved {
        let current = caches.claims.get(one.claim.namespace(), one.claim.name());
        let known = current.filter(|current| current.uid() == one.claim.uid());
        let claim = match known {
            _ if !one.mappings.is_empty() => make(client, caches, pod, &one.claim).await?,
            Some(known) if one.allocation.is_none() && is_reserved_for(&known, pod) => {
                all.push((*known).clone());
                continue;
            }
            Some(known) => (*known).clone(),
            None => (*one.claim).clone(),
        };
        let written = written(client, claim, pod, one).await?;
        caches.claims.reached(written.revision()).await;
        if !one.mappings.is_empty() {
            tell(client, pod, &written, one).await?;
        }
        caches.settle(one.claim.uid());
        all.push(written);
    }
    Ok(all)
}

/// Makes the claim that stands for resources of a pod.
async fn make(
    client: &Client,
    caches: &DeviceCaches,
    pod: &Pod,
    claim: &ResourceClaim,
) -> Result<ResourceClaim, String> {
    let made = client.create(&extended::to_make(claim, pod)).await;
    let made =
        made.map_err(|error| format!("create claim for extended resources {}: {error}", path(claim)))?;
    // Whoever takes it back finds it there.
    caches.claims.reached(made.revision()).await;
    Ok(made)
}

/// Tells in a pod's status which claim stands for its resources.
async fn tell(client: &Client, pod: &Pod, claim: &ResourceClaim, one: &Reserved) -> Result<(), String> {
    let status = json!({"resourceClaimName": claim.name(), "requestMappings": one.mappings});
    let patch = Patch::Strategic(
        json!({"metadata": {"uid": pod.uid()}, "status": {"extendedResourceClaimStatus": status}}),
    );
    let told = client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.map(drop);
    told.map_err(|error| {
        format!("update pod {}/{} ExtendedResourceClaimStatus: {error}", pod.namespace(), pod.name())
    })
}

/// Writes what one claim gets, against others who write.
async fn written(
    client: &Client,
    mut claim: ResourceClaim,
    pod: &Pod,
    one: &Reserved,
) -> Result<ResourceClaim, String> {
    let uid = claim.uid().to_owned();
    for _ in 1..TRIES {
        let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
        match reserve_one(client, claim, pod, (&uid, one)).await {
            Err(Failed { again: true, .. }) => {
                claim = client.get(&namespace, &name).await.map_err(|error| {
                    format!("get updated claim {namespace}/{name} after conflict: {error}")
                })?;
            }
            other => return other.map_err(|failed| failed.why),
        }
    }
    reserve_one(client, claim, pod, (&uid, one)).await.map_err(|failed| failed.why)
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
    (uid, one): (&str, &Reserved),
) -> Result<ResourceClaim, Failed> {
    let path = path(&claim);
    if claim.is_deleting() || claim.uid() != uid {
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
pub(crate) fn have_to_be_bound(claims: &[ResourceClaim]) -> bool {
    claims.iter().any(binds)
}

/// Waits until all devices are bound.
pub(crate) async fn bound(
    caches: &DeviceCaches,
    claims: &[ResourceClaim],
    limit: Duration,
) -> Result<(), String> {
    for claim in claims {
        let name = claim.name();
        loop {
            let changed = caches.claims.changed();
            let claim = caches.claims.get(claim.namespace(), name);
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
        if let Some(made) = caches.extended(pod).filter(|_| !one.mappings.is_empty()) {
            if let Err(error) = delete(client, &made).await {
                tracing::warn!(%error, claim = made.name(), "a claim stays for a pod that does not run");
            }
            continue;
        }
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

/// Takes the devices of a claim away that nobody uses, or the claim itself.
pub(crate) async fn clear(client: &Client, obstacle: &Obstacle) -> Result<(), Error> {
    let mut claim = match obstacle {
        Obstacle::LeftOver(claim) => return delete(client, claim).await,
        Obstacle::Allocated(claim) => (**claim).clone(),
    };
    if let Some(status) = &mut claim.status {
        (status.allocation, status.reserved_for, status.devices) = (None, None, None);
    }
    client.update_status(&claim).await.map(drop)
}

/// Deletes a claim, which its devices do not keep.
async fn delete(client: &Client, claim: &ResourceClaim) -> Result<(), Error> {
    let (namespace, name) = (claim.namespace(), claim.name());
    let keeps = json!({"metadata": {"uid": claim.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    let deleted = match client.patch::<ResourceClaim>(namespace, name, &Patch::Strategic(keeps)).await {
        Ok(_) => client.delete::<ResourceClaim>(namespace, name, &Default::default()).await,
        Err(error) => Err(error),
    };
    deleted.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}
