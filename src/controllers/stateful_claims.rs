//! With what the claims of a StatefulSet's pods go (`spec.persistentVolumeClaimRetentionPolicy`): an owner
//! reference to the set makes them go with it, one to the pod makes them go once that is scaled away.

use crate::stateful_pods::{claim_name, claim_templates, ordinals, spec};
use api::apps::StatefulSet;
use api::core::PersistentVolumeClaim;
use api::meta::OwnerReference;
use api::slim::Pod;
use api::{Object, owner_reference};
use std::sync::Arc;

/// Finds a claim by its name.
pub(crate) type Find<'a> = &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>;

fn deletes(set: &StatefulSet) -> (bool, bool) {
    let policy = spec(set).persistent_volume_claim_retention_policy.as_ref();
    let is = |rule: Option<&String>| rule.is_some_and(|rule| rule == "Delete");
    (
        is(policy.and_then(|policy| policy.when_deleted.as_ref())),
        is(policy.and_then(|policy| policy.when_scaled.as_ref())),
    )
}

fn means<T: Object>(reference: &OwnerReference, name: &str) -> bool {
    (&*reference.api_version, &*reference.kind, &*reference.name) == (T::API_VERSION, T::KIND, name)
}

/// The claims of a pod that another pod of its name left behind, and that go with it: a new pod waits for that.
pub(crate) fn is_stale(set: &StatefulSet, ordinal: i32, find: Find<'_>) -> bool {
    let pod = format!("{}-{ordinal}", set.name());
    let claims = claim_templates(set).iter().filter_map(|template| find(&claim_name(set, template, ordinal)));
    let of_a_pod = |claim: Arc<PersistentVolumeClaim>| {
        claim.metadata.owner_references.iter().flatten().any(|owner| means::<Pod>(owner, &pod))
    };
    deletes(set).1 && claims.into_iter().any(of_a_pod)
}

/// The pod's claims whose owners are not those that the policy wants, with those it wants.
pub(crate) fn misowned(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    find: Find<'_>,
) -> Vec<PersistentVolumeClaim> {
    let claims = claim_templates(set).iter().filter_map(|template| find(&claim_name(set, template, ordinal)));
    let mended = |claim: Arc<PersistentVolumeClaim>| {
        let owners =
            owners(set, pod, ordinal, claim.metadata.owner_references.as_deref().unwrap_or_default())?;
        let mut claim = (*claim).clone();
        claim.metadata.owner_references = Some(owners);
        Some(claim)
    };
    claims.filter_map(mended).collect()
}

/// The owners that a claim should have, if it has others.
fn owners(set: &StatefulSet, pod: &Pod, ordinal: i32, now: &[OwnerReference]) -> Option<Vec<OwnerReference>> {
    let of_set = |owner: &OwnerReference| means::<StatefulSet>(owner, set.name());
    let of_pod = |owner: &OwnerReference| means::<Pod>(owner, pod.name());
    // Owners of an earlier time: the garbage collector has to do with this claim, and nobody else.
    let stale = |owner: &OwnerReference| {
        of_set(owner) && owner.uid != set.uid() || of_pod(owner) && owner.uid != pod.uid()
    };
    if now.iter().any(stale) {
        return None;
    }
    let (when_deleted, when_scaled) = deletes(set);
    let (own, mut wanted): (Vec<_>, Vec<_>) =
        now.iter().cloned().partition(|owner| of_set(owner) || of_pod(owner));
    let controlled = wanted.iter().any(|owner| owner.controller == Some(true));
    let scaled_away = !ordinals(set).contains(&ordinal);
    let of_the_set = when_deleted && !(when_scaled && scaled_away);
    let of_the_pod = when_scaled && scaled_away;
    let allowed = !(controlled && (when_deleted || when_scaled));
    let has = |uid: &str| own.iter().any(|owner| owner.uid == uid);
    let right = has(set.uid()) == (of_the_set && allowed)
        && has(pod.uid()) == (of_the_pod && allowed)
        && own.iter().all(|owner| owner.controller == Some(true));
    if right {
        return None;
    }
    if of_the_set && allowed {
        wanted.push(owner_reference(set));
    }
    if of_the_pod && allowed {
        wanted.push(owner_reference(pod));
    }
    Some(wanted)
}
