//! Questions about pods that several controllers ask.

use crate::common::seconds_between;
use api::meta::{ObjectMeta, OwnerReference};
use api::slim::{Pod, PodCondition};
use api::{Object, core};
use jiff::Timestamp;
use std::sync::Arc;

/// `status.phase`.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Its containers have ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// It counts as a replica: neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_deleting()
}

/// `spec.nodeName`, "" before it was scheduled.
pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// One of `status.conditions`.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| &*condition.type_ == kind)
}

/// Its `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| &*ready.status == "True")
}

/// When it became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| &*ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// It has been ready for `minReadySeconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_s == 0
            || ready_since(pod)
                .is_some_and(|since| now.duration_since(since).as_secs() >= i64::from(min_ready_s)))
}

/// How far its phase is, as what is ended first is chosen.
pub(crate) fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// How often the container that was started again most often was.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|container| container.restart_count).max().unwrap_or(0)
}

/// The seconds until the next of the pods that are ready will be available.
pub(crate) fn seconds_to_availability<'a>(
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    min_ready_s: i32,
    now: Timestamp,
) -> Option<u64> {
    let left = pods.filter_map(|pod| {
        let ready_s = seconds_between(ready_since(pod)?, now);
        u64::try_from(i64::from(min_ready_s) - ready_s).ok().filter(|left| *left > 0)
    });
    left.min()
}

/// A new pod made from a template, with a name that the server chooses.
pub(crate) fn from_template(
    template: &core::PodTemplateSpec,
    namespace: &str,
    parent: &str,
    owner: OwnerReference,
) -> core::Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    core::Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{parent}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
