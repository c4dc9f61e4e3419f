//! Pod templates: what tells them apart, and from a Deployment's to the ReplicaSet of that template.

use crate::rollout::{set_spec, spec};
use api::apps::{Deployment, ReplicaSet, ReplicaSetSpec};
use api::core::PodTemplateSpec;
use api::meta::ObjectMeta;
use api::{Object, owner_reference};
use std::collections::BTreeMap;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// The longest name an object may have (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;
/// Letters and digits that form no words and are not mistaken for one another.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The ReplicaSet runs the Deployment's current template.
pub(crate) fn is_same(set: &ReplicaSet, deployment: &Deployment) -> bool {
    set_spec(set).template.as_ref().is_some_and(|template| bare(template) == bare(&spec(deployment).template))
}

/// The template without what the controller adds to it.
pub(crate) fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    let mut labels = meta.labels.take().unwrap_or_default();
    labels.remove(HASH_LABEL);
    meta.labels = Some(labels);
    template
}

/// FNV-1a over the template and the number of collisions so far.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let json = serde_json::to_vec(&bare(template)).unwrap_or_default();
    let bytes = json.iter().chain(collisions.to_string().as_bytes()).copied().collect::<Vec<_>>();
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The ReplicaSet of the current template.
pub(crate) fn replica_set(
    deployment: &Deployment,
    size: i32,
    annotations: BTreeMap<String, String>,
) -> ReplicaSet {
    let spec = spec(deployment);
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let name = deployment.name();
    let prefix = &name[..name.len().min(LONGEST_NAME - 1 - hash.len())];
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
