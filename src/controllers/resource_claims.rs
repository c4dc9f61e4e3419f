//! Claims of devices: made for pods from their templates, reserved for pods that got a node without the
//! scheduler, and given back when their pods have ended.
//!
//! A claim that was made says for which claim of which pod, so that a restart before the pod's status tells of
//! it finds it again. Devices are given back by whoever sees the last pod end: the allocation goes, and with it
//! the finalizer that keeps an allocated claim.

use crate::common::{Key, Room, delete_this, if_there, unless_gone, watch_self};
use crate::pods::{is_finished, node_name};
use api::meta::{ObjectMeta, OwnerReference};
use api::resource::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use api::slim::{Pod, PodResourceClaim};
use api::{Object, owner_reference};
use client::{Cache, Client, Error, Next, Queue, Recorder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// For which of its pod's claims a claim was made.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps a claim that is allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
const MANAGER: &str = "ResourceClaimController";
/// How many may share a claim (`status.reservedFor`).
const CONSUMERS: usize = 256;
/// The longest that the server may be given to make a name from.
const BASE: usize = 57;

#[derive(Clone)]
struct Claims {
    client: Client,
    pods: Cache<Pod>,
    claims: Cache<ResourceClaim>,
    templates: Cache<ResourceClaimTemplate>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = Claims {
        client: room.client.clone(),
        pods: room.caches.of(),
        claims: room.caches.of(),
        templates: room.caches.of(),
        recorder: room.recorder("resource_claim"),
    };
    let (pods, claims) = (Queue::new("pods with claims"), Queue::new("resource claims"));
    watch_self(&controller.claims, &claims);
    let (wake, released) = (pods.clone(), claims.clone());
    controller.pods.on_change(move |change| {
        let pod = change.object();
        if change.new.is_none() || is_done(pod) {
            names(pod).for_each(|name| released.add(Key::new(pod.namespace(), name)));
        } else if !wanted(pod).is_empty() {
            wake.add(Key::of(&**pod));
        }
    });
    let (wake, all) = (pods.clone(), controller.pods.clone());
    controller.claims.on_change(move |change| {
        let claim = change.object();
        let pods = all.snapshot();
        let using = pods.in_namespace(claim.namespace());
        using.filter(|pod| names(pod).any(|name| name == claim.name())).for_each(|pod| {
            wake.add(Key::of(&**pod));
        });
    });
    let (wake, all) = (pods.clone(), controller.pods.clone());
    controller.templates.on_change(move |change| {
        let template = change.object();
        let of =
            |claim: &PodResourceClaim| claim.resource_claim_template_name.as_deref() == Some(template.name());
        let pods = all.snapshot();
        let using = pods.in_namespace(template.namespace()).filter(|pod| wanted(pod).iter().any(of));
        using.for_each(|pod| wake.add(Key::of(&**pod)));
    });
    let own = controller.clone();
    room.work("pods with resource claims", &pods, 4, move |key| own.clone().pod(key));
    room.work("resource claims", &claims, 4, move |key| controller.clone().claim(key));
}

fn wanted(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The pod needs no claims any more.
fn is_done(pod: &Pod) -> bool {
    is_finished(pod) || (pod.is_deleting() && node_name(pod).is_empty())
}

/// Which claim a pod's claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named<'a> {
    /// None was made yet.
    NotYet,
    /// None is needed.
    Needless,
    /// One that somebody made.
    Given(&'a str),
    /// One that was made for the pod.
    Own(&'a str),
}

fn named<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Named<'a> {
    if let Some(name) = &claim.resource_claim_name {
        return Named::Given(name);
    }
    let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match statuses.into_iter().find(|status| status.name == claim.name) {
        None => Named::NotYet,
        Some(status) => status.resource_claim_name.as_deref().map_or(Named::Needless, Named::Own),
    }
}

/// The names of all claims that a pod uses, as far as there are any.
fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let claims = wanted(pod).iter().filter_map(|claim| match named(pod, claim) {
        Named::Given(name) | Named::Own(name) => Some(name),
        Named::NotYet | Named::Needless => None,
    });
    let extended = pod.status.iter().filter_map(|status| status.extended_resource_claim_status.as_deref());
    claims.chain(extended.map(|status| &*status.resource_claim_name))
}

fn is_for(pod: &Pod, claim: &ResourceClaim) -> bool {
    claim.controller().is_some_and(|owner| owner.uid == pod.uid())
}

/// The claim made for one of a pod's claims, which the pod's status may not tell of yet.
fn made_for<'a>(
    claims: impl Iterator<Item = &'a Arc<ResourceClaim>>,
    pod: &Pod,
    claim: &PodResourceClaim,
) -> Option<&'a Arc<ResourceClaim>> {
    let mut claims = claims;
    claims.find(|made| {
        is_for(pod, made) && made.annotations().get(POD_CLAIM).is_some_and(|of| **of == *claim.name)
    })
}

/// What the server makes a name from: both names shortened alike, so that something is left of each.
fn base_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= BASE {
        return whole;
    }
    let share = |text: &str| text[..text.floor_char_boundary(text.len() * BASE / whole.len())].to_owned();
    format!("{}-{}", share(pod), share(claim))
}

fn from_template(template: &ResourceClaimTemplate, pod: &Pod, claim: &PodResourceClaim) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), claim.name.to_string());
    ResourceClaim {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace().to_owned()),
            generate_name: Some(base_name(pod.name(), &claim.name)),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                block_owner_deletion: None,
                ..owner_reference(pod)
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

fn status(claim: &ResourceClaim) -> ResourceClaimStatus {
    claim.status.clone().unwrap_or_default()
}

fn reserved_for(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

fn is_guarded(claim: &ResourceClaim) -> bool {
    claim.metadata.finalizers.iter().flatten().any(|own| own == FINALIZER)
}

/// The claim reserved for the pod, where it is allocated, not reserved for it, and may be.
fn reserved(claim: &ResourceClaim, pod: &Pod) -> Option<ResourceClaim> {
    let mut status = claim.status.clone().filter(|status| status.allocation.is_some())?;
    let consumers = status.reserved_for.get_or_insert_default();
    if consumers.iter().any(|consumer| consumer.uid == pod.uid()) || consumers.len() >= CONSUMERS {
        return None;
    }
    consumers.push(ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
    });
    Some(ResourceClaim { status: Some(status), ..claim.clone() })
}

/// The claim without those of its consumers that are not in `kept`; the last one's end frees its devices.
fn released(claim: &ResourceClaim, kept: Vec<ResourceClaimConsumerReference>) -> Option<ResourceClaim> {
    let freed = kept.len() < reserved_for(claim).len();
    let deleted = claim.is_deleting() && kept.is_empty() && is_guarded(claim);
    let mut status = status(claim);
    if kept.is_empty() && is_guarded(claim) && (freed || deleted) {
        status.allocation = None;
    }
    status.reserved_for = Some(kept).filter(|kept| !kept.is_empty());
    let changed = freed || status.allocation.is_some() != self::status(claim).allocation.is_some();
    changed.then(|| ResourceClaim { status: Some(status), ..claim.clone() })
}

/// The claim without the finalizer that it needs no more. One that was never allocated has it only until it is
/// used or deleted.
fn unguarded(claim: &ResourceClaim, freed: bool) -> Option<ResourceClaim> {
    let unused = status(claim).allocation.is_none() && reserved_for(claim).is_empty();
    if !is_guarded(claim) || !unused || !(freed || claim.is_deleting()) {
        return None;
    }
    let mut free = claim.clone();
    free.metadata.finalizers.iter_mut().for_each(|all| all.retain(|own| own != FINALIZER));
    Some(free)
}

impl Claims {
    async fn pod(self, key: Key) -> Result<Next, Error> {
        self.claims.synced().await;
        self.templates.synced().await;
        let pod = self.pods.get(&key.namespace, &key.name).filter(|pod| !pod.is_deleting());
        let Some(mut pod) = pod else { return Ok(Next::Done) };
        let mut new = BTreeMap::new();
        for claim in wanted(&pod) {
            match self.ensure(&pod, claim).await {
                Ok(Some(name)) => drop(new.insert(claim.name.to_string(), name)),
                Ok(None) => {}
                Err((why, error)) => {
                    let about = format!("PodResourceClaim {}: {why}", claim.name);
                    self.recorder.warning(&*pod, "FailedResourceClaimCreation", about);
                    return Err(error);
                }
            }
        }
        if !new.is_empty() {
            pod = Arc::new(self.tell(&pod, new).await?);
        }
        if !node_name(&pod).is_empty() {
            self.reserve(&pod).await?;
        }
        Ok(Next::Done)
    }

    /// Makes the claim from a template, unless it is there; returns what the pod's status does not say.
    async fn ensure(&self, pod: &Pod, claim: &PodResourceClaim) -> Result<Option<String>, (String, Error)> {
        let there = |name: &str| self.claims.get(pod.namespace(), name);
        match named(pod, claim) {
            Named::Needless | Named::Given(_) => return Ok(None),
            Named::Own(name) if there(name).is_some_and(|claim| is_for(pod, &claim)) => return Ok(None),
            Named::Own(_) | Named::NotYet => {}
        }
        let Some(name) = claim.resource_claim_template_name.as_deref() else { return Ok(None) };
        let claims = self.claims.snapshot();
        if let Some(made) = made_for(claims.in_namespace(pod.namespace()), pod, claim) {
            return Ok(Some(made.name().to_owned()));
        }
        let Some(template) = self.templates.get(pod.namespace(), name) else {
            let why = format!(
                "resource claim template {name:?}: resourceclaimtemplate.resource.k8s.io {name:?} not found"
            );
            return Err((why.clone(), Error::Transport(why)));
        };
        let made = self.client.create(&from_template(&template, pod, claim)).await;
        let made = made.map_err(|error| (format!("create ResourceClaim : {error}"), error))?;
        self.claims.reached(made.revision()).await;
        Ok(Some(made.name().to_owned()))
    }

    /// Tells in a pod's status which claims are its.
    async fn tell(&self, pod: &Pod, new: BTreeMap<String, String>) -> Result<Pod, Error> {
        // What is applied is all that this manager says.
        let known = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        let known = known.into_iter().filter(|status| !new.contains_key(&*status.name));
        let mut all: Vec<Value> = known
            .map(|status| json!({"name": status.name, "resourceClaimName": status.resource_claim_name}))
            .collect();
        all.extend(new.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})));
        let value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace()},
            "status": {"resourceClaimStatuses": all},
        });
        let told: Pod = self.client.apply_status(pod.namespace(), pod.name(), MANAGER, &value).await?;
        self.pods.reached(told.revision()).await;
        Ok(told)
    }

    /// Reserves the claims of a pod that has a node: the scheduler did, if it was the one who chose.
    async fn reserve(&self, pod: &Pod) -> Result<(), Error> {
        for claim in wanted(pod) {
            let (name, own) = match named(pod, claim) {
                Named::Given(name) => (name, false),
                Named::Own(name) => (name, true),
                Named::NotYet | Named::Needless => continue,
            };
            let Some(found) = self.claims.get(pod.namespace(), name) else { return Ok(()) };
            if own && !is_for(pod, &found) {
                continue;
            }
            if let Some(reserved) = reserved(&found, pod) {
                self.claims.reached(self.client.update_status(&reserved).await?.revision()).await;
            }
        }
        Ok(())
    }

    async fn claim(self, key: Key) -> Result<Next, Error> {
        self.pods.synced().await;
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let mut kept = Vec::new();
        for consumer in reserved_for(&claim) {
            if self.is_needed(&key.namespace, consumer).await? {
                kept.push(consumer.clone());
            }
        }
        let is_used = !kept.is_empty();
        let released = released(&claim, kept);
        let freed = released.is_some();
        let claim = match released {
            Some(released) => Arc::new(self.client.update_status(&released).await?),
            None => claim,
        };
        if let Some(free) = unguarded(&claim, freed) {
            unless_gone(self.client.update(&free).await.map(drop))?;
        }
        if !is_used {
            self.drop_needless(&claim).await?;
        }
        Ok(Next::Done)
    }

    /// Whether a consumer may still use its claim. What is no pod is not judged; a pod that the cache does not
    /// know is asked for, as it may be behind.
    async fn is_needed(
        &self,
        namespace: &str,
        consumer: &ResourceClaimConsumerReference,
    ) -> Result<bool, Error> {
        if consumer.resource != "pods" || consumer.api_group.as_deref().is_some_and(|group| !group.is_empty())
        {
            return Ok(true);
        }
        if let Some(pod) = self.pods.get(namespace, &consumer.name) {
            return Ok(pod.uid() == consumer.uid && !is_done(&pod));
        }
        let pod = if_there(self.client.get::<Pod>(namespace, &consumer.name).await)?;
        Ok(pod.is_some_and(|pod| pod.uid() == consumer.uid))
    }

    /// Deletes a claim that was made for a pod which will not run, before the pod itself is deleted.
    async fn drop_needless(&self, claim: &ResourceClaim) -> Result<(), Error> {
        let Some(owner) = claim.controller().filter(|owner| owner.kind == "Pod") else { return Ok(()) };
        let pod = self.pods.get(claim.namespace(), owner.name);
        if claim.is_deleting() || pod.is_none_or(|pod| pod.uid() == owner.uid && !is_done(&pod)) {
            return Ok(());
        }
        delete_this(&self.client, claim).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "given", "resourceClaimName": "somebodys"},
                {"name": "own", "resourceClaimTemplateName": "t"}]},
            "status": status});
        Pod::from_json(pod.to_string().as_bytes()).unwrap()
    }

    fn claim(status: Value, guarded: bool, deleted: bool) -> ResourceClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {}, "status": status});
        if guarded {
            claim["metadata"]["finalizers"] = json!([FINALIZER, "other"]);
        }
        if deleted {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn claims_are_known_by_spec_or_status() {
        let all = |pod: &Pod| names(pod).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(all(&pod(json!({}))), ["somebodys"]);
        let told = json!({"resourceClaimStatuses": [{"name": "own", "resourceClaimName": "p-own-x"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "p-extended", "requestMappings": []}});
        assert_eq!(all(&pod(told)), ["somebodys", "p-own-x", "p-extended"]);
        let needless = pod(json!({"resourceClaimStatuses": [{"name": "own"}]}));
        assert_eq!(named(&needless, &wanted(&needless)[1]), Named::Needless);
    }

    #[test]
    fn long_names_keep_something_of_both() {
        assert_eq!(base_name("p", "gpu"), "p-gpu-");
        let long = base_name(&"p".repeat(60), &"c".repeat(20));
        assert_eq!(long, format!("{}-{}", "p".repeat(41), "c".repeat(13)));
    }

    /// A claim that is `allocated`, `for POD…`, `guarded` by its finalizer, `deleted`, and the pods that still use it:
    /// `used by POD…`.
    fn told(input: &str) -> String {
        let (mut status, mut guarded, mut deleted, mut kept) = (json!({}), false, false, Vec::new());
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["allocated"] => status["allocation"] = json!({}),
                ["for", ref pods @ ..] => {
                    let of = |name: &&str| json!({"resource": "pods", "name": name, "uid": name});
                    status["reservedFor"] = pods.iter().map(of).collect();
                }
                ["guarded"] => guarded = true,
                ["deleted"] => deleted = true,
                ["used", "by", ref pods @ ..] => kept = pods.to_vec(),
                _ => panic!("{line}"),
            }
        }
        let claim = claim(status, guarded, deleted);
        let kept = reserved_for(&claim).iter().filter(|own| kept.contains(&own.name.as_str()));
        let freed = released(&claim, kept.cloned().collect());
        let now = freed.as_ref().unwrap_or(&claim);
        let names: Vec<&str> = reserved_for(now).iter().map(|own| own.name.as_str()).collect();
        let allocated = if super::status(now).allocation.is_some() { "allocated" } else { "free" };
        let written = if freed.is_some() { "written" } else { "as it is" };
        let guard = if unguarded(now, freed.is_some()).is_some() { ", let go" } else { "" };
        format!("{written}: {allocated} for {names:?}{guard}\n")
    }

    #[test]
    fn the_last_pod_gives_devices_back() {
        crate::golden::check("resource_claims.txt", told);
    }

    #[test]
    fn pods_with_a_node_are_let_in() {
        let pod = pod(json!({}));
        assert_eq!(reserved(&claim(json!({}), true, false), &pod), None);
        let free = claim(json!({"allocation": {}}), true, false);
        let taken = reserved(&free, &pod).unwrap();
        assert_eq!(
            serde_json::to_value(reserved_for(&taken)).unwrap(),
            json!([{"resource": "pods", "name": "p", "uid": "u"}])
        );
        assert_eq!(reserved(&taken, &pod), None);
    }
}
