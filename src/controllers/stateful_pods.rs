//! The pods of a StatefulSet and their claims: which name, labels and volumes the one of an ordinal has.

use crate::pods;
use api::apps::{StatefulSet, StatefulSetSpec};
use api::core::{self, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use api::slim::Pod;
use api::{Object, owner_reference};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::LazyLock;

pub(crate) const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(crate) fn spec(set: &StatefulSet) -> &StatefulSetSpec {
    static NONE: LazyLock<StatefulSetSpec> = LazyLock::new(Default::default);
    set.spec.as_ref().unwrap_or(&NONE)
}

pub(crate) fn replicas(set: &StatefulSet) -> i32 {
    spec(set).replicas.unwrap_or(1)
}

/// The first ordinal (`spec.ordinals.start`).
fn start(set: &StatefulSet) -> i32 {
    spec(set).ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The number at the end of the name of one of the set's pods.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let text = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
    text.parse().ok().filter(|number: &i32| *number >= 0 && number.to_string() == text)
}

/// The ordinals that the set asks for.
pub(crate) fn ordinals(set: &StatefulSet) -> Range<i32> {
    start(set)..start(set).saturating_add(replicas(set))
}

pub(crate) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name(), set.name())
}

pub(crate) fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    spec(set).volume_claim_templates.as_deref().unwrap_or_default()
}

/// The claims of the pod of an ordinal.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
    claim_templates(set).iter().map(move |template| {
        let mut claim = PersistentVolumeClaim { status: None, ..template.clone() };
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec(set).selector.match_labels.clone().unwrap_or_default());
        claim
    })
}

fn volumes(set: &StatefulSet, ordinal: i32) -> Vec<Volume> {
    let volume = |template: &PersistentVolumeClaim| {
        let claim = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            ..PersistentVolumeClaimVolumeSource::default()
        };
        Volume { name: template.name().to_owned(), persistent_volume_claim: Some(claim), ..Volume::default() }
    };
    claim_templates(set).iter().map(volume).collect()
}

/// The pod of an ordinal, of a template that is known as `revision`.
pub(crate) fn new(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> core::Pod {
    let mut pod = pods::from_template(template, set.namespace(), set.name(), owner_reference(set));
    let name = format!("{}-{ordinal}", set.name());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let own = pod.spec.get_or_insert_default();
    own.hostname = Some(name);
    own.subdomain.clone_from(&spec(set).service_name);
    let mut volumes = volumes(set, ordinal);
    let others = own.volumes.take().unwrap_or_default();
    volumes
        .extend(others.into_iter().filter(|one| claim_templates(set).iter().all(|it| it.name() != one.name)));
    own.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    pod
}

/// What has to be changed of a pod that was taken from elsewhere, so that it is the one of its ordinal.
pub(crate) fn mended(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Value> {
    let is_named = pod.labels().get(POD_NAME) == Some(pod.name());
    let has = |volume: &Volume| {
        let wanted = volume.persistent_volume_claim.as_ref().map(|claim| &*claim.claim_name);
        let own = pod.spec.iter().flat_map(|spec| &*spec.volumes).find(|own| *own.name == *volume.name);
        own.and_then(|own| own.persistent_volume_claim.as_ref()).map(|claim| &*claim.claim_name) == wanted
    };
    let volumes = volumes(set, ordinal);
    let has_storage = volumes.iter().all(has);
    if is_named && has_storage {
        return None;
    }
    let labels = json!({POD_NAME: pod.name(), POD_INDEX: ordinal.to_string()});
    let mut patch = json!({"metadata": {"uid": pod.uid(), "labels": labels}});
    if !has_storage {
        patch["spec"]["volumes"] = json!(volumes);
    }
    Some(patch)
}
