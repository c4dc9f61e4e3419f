//! Has pods leave a node, as `kubectl drain` does.

use super::job;
use super::plan::Drain;
use api::core::Pod;
use api::selector::Labels;
use api::{Meta, Object};
use client::{Client, Error, ListSelector};
use serde_json::json;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is still on a node that should not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// So many pods, which were asked to leave.
    Pods(usize),
    /// Pods that may not be made leave; why.
    Held(String),
}

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Leaves,
    Holds(&'static str),
}

fn fate(pod: &Pod, settings: &Drain) -> Fate {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let owner = pod.meta().controller();
    let selected =
        settings.pod_selector.as_ref().is_none_or(|selector| Labels::of(Some(selector)).selects(pod));
    let is_of_plan = pod.labels().contains_key(job::PLAN);
    if pod.annotations().contains_key(MIRROR)
        || is_of_plan
        || !selected
        || matches!(phase, "Succeeded" | "Failed")
    {
        return Fate::Stays;
    }
    match owner {
        Some(owner) if owner.kind == "DaemonSet" => return Fate::Stays,
        None if !settings.force => return Fate::Holds("nobody would make it anew (drain.force)"),
        _ => {}
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut volumes = volumes.filter(|volume| volume.empty_dir.is_some());
    if volumes.next().is_some() && !settings.delete_empty_dir_data {
        return Fate::Holds("it has data in an emptyDir volume (drain.deleteEmptyDirData)");
    }
    Fate::Leaves
}

/// Asks all pods of a node to leave, and tells what is left. Nothing leaves while there are some that may not.
pub(super) async fn drain(client: &Client, node: &str, settings: &Drain) -> Result<Left, Error> {
    let selector = ListSelector { fields: format!("spec.nodeName={node}"), ..ListSelector::default() };
    let pods: Vec<Pod> = client.list("", &selector).await?;
    let fates: Vec<(&Pod, Fate)> = pods.iter().map(|pod| (pod, fate(pod, settings))).collect();
    let named = |pod: &Pod| format!("{}/{}", pod.namespace(), pod.name());
    let held = fates.iter().find_map(|(pod, fate)| match fate {
        Fate::Holds(why) => Some(format!("pod {} may not be made leave: {why}", named(pod))),
        _ => None,
    });
    if let Some(why) = held {
        return Ok(Left::Held(why));
    }
    let leaving: Vec<&Pod> =
        fates.iter().filter(|(_, fate)| *fate == Fate::Leaves).map(|(pod, _)| *pod).collect();
    for pod in leaving.iter().filter(|pod| !pod.is_deleting()) {
        match ask(client, pod, settings).await {
            // A budget allows it later.
            Err(error) if !error.is_not_found() && error.code() != 429 => return Err(error),
            _ => {}
        }
    }
    Ok(if leaving.is_empty() { Left::Nothing } else { Left::Pods(leaving.len()) })
}

async fn ask(client: &Client, pod: &Pod, settings: &Drain) -> Result<(), Error> {
    let options = json!({"gracePeriodSeconds": settings.grace_period_seconds});
    if settings.disable_eviction {
        let options = serde_json::from_value(options).unwrap_or_default();
        return client.delete::<Pod>(pod.namespace(), pod.name(), &options).await;
    }
    let path = format!("{}/{}/eviction", client::path_of::<Pod>(pod.namespace()), pod.name());
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"namespace": pod.namespace(), "name": pod.name()}, "deleteOptions": options,
    });
    client.post_subresource(&path, &eviction).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pods_leave_as_kubectl_drain_has_them() {
        let of = |metadata: Value, spec: Value, settings: Value| {
            let pod = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}});
            fate(&serde_json::from_value(pod).unwrap(), &serde_json::from_value(settings).unwrap())
        };
        let owned = |kind: &str| {
            json!({"name": "p", "labels": {"app": "web"}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}]})
        };
        let plain = json!({"containers": []});
        let data = json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]});
        assert_eq!(of(owned("ReplicaSet"), plain.clone(), json!({})), Fate::Leaves);
        assert_eq!(of(owned("DaemonSet"), plain.clone(), json!({})), Fate::Stays);
        assert!(matches!(of(json!({"name": "p"}), plain.clone(), json!({})), Fate::Holds(_)));
        assert_eq!(of(json!({"name": "p"}), plain.clone(), json!({"force": true})), Fate::Leaves);
        assert!(matches!(of(owned("ReplicaSet"), data.clone(), json!({})), Fate::Holds(_)));
        assert_eq!(of(owned("ReplicaSet"), data, json!({"deleteEmptyDirData": true})), Fate::Leaves);
        let others = json!({"podSelector": {"matchLabels": {"app": "other"}}});
        assert_eq!(of(owned("ReplicaSet"), plain.clone(), others), Fate::Stays);
        let mirror = json!({"name": "p", "annotations": {MIRROR: "x"}});
        assert_eq!(of(mirror, plain.clone(), json!({})), Fate::Stays);
        assert_eq!(of(json!({"name": "p", "labels": {job::PLAN: "x"}}), plain, json!({})), Fate::Stays);
    }
}
