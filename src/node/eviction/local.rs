//! Pods that take more of the node's disk than they may: limits of emptyDir volumes, containers and pods. Pure.

use super::usage::Usage;
use crate::amount::{self, signed};
use crate::pods::spec;
use api::Quantity;
use api::core::{Container, Pod};
use api::quantity::Amount;

const STORAGE: &str = "ephemeral-storage";

fn limit(container: &Container) -> Option<&Quantity> {
    let limit = container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?;
    Some(limit).filter(|limit| amount::whole(limit) > 0)
}

/// The limits of a pod's emptyDir volumes by their names.
fn volumes(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    let all = spec::spec(pod).volumes.iter().flatten();
    let limited = all
        .filter_map(|volume| Some((volume.name.as_str(), volume.empty_dir.as_ref()?.size_limit.as_ref()?)));
    limited.filter(|(_, limit)| amount::whole(limit) > 0)
}

/// Whether there is any limit: those without are not measured.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    let mut all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    all.any(|container| limit(container).is_some()) || volumes(pod).next().is_some()
}

fn shown(limit: &Quantity) -> String {
    api::quantity::canonical(&limit.0).unwrap_or_default()
}

/// What a pod takes too much of, as its eviction says. `dedicated` is whether containers' own files lie on another
/// file system than the node's.
pub(crate) fn excess(pod: &Pod, usage: &Usage, dedicated: bool) -> Option<String> {
    for (name, limit) in volumes(pod) {
        let used = usage.volumes.get(name).map_or(0, |(part, _)| signed(part.bytes));
        if used > amount::whole(limit) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", shown(limit)));
        }
    }
    let of = |container: &Container| limit(container).map_or(0, amount::whole);
    let all = amount::total(pod, &of);
    if all > 0 && signed(usage.ephemeral.bytes) > all {
        let limit = Amount::bytes(all);
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    usage.containers.iter().find_map(|container| {
        let specified = spec::spec(pod).containers.iter().find(|it| it.name == container.name)?;
        let limit = limit(specified)?;
        let files = container.rootfs.filter(|_| !dedicated);
        let used: i64 = [container.logs, files].iter().flatten().map(|part| signed(part.bytes)).sum();
        (used > amount::whole(limit)).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name,
                shown(limit)
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use crate::stats::Part;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn part(mib: u64) -> Part {
        Part { bytes: mib << 20, inodes: 1 }
    }

    #[test]
    fn a_volume_above_its_limit_is_named() {
        let pod = pod(json!({
            "containers": [{"name": "c"}],
            "volumes": [{"name": "free", "emptyDir": {}}, {"name": "v", "emptyDir": {"sizeLimit": "5Mi"}}],
        }));
        assert!(is_limited(&pod));
        let with =
            |mib| Usage { volumes: [("v".to_owned(), (part(mib), true))].into(), ..Default::default() };
        assert_eq!(excess(&pod, &with(5), false), None);
        let told = "Usage of EmptyDir volume \"v\" exceeds the limit \"5Mi\". ";
        assert_eq!(excess(&pod, &with(6), false).as_deref(), Some(told));
    }

    #[test]
    fn containers_and_pods_have_limits_of_their_own() {
        let limits = json!({"limits": {"ephemeral-storage": "10Mi"}});
        let pod = pod(
            json!({"containers": [{"name": "a", "resources": limits}, {"name": "b", "resources": limits}]}),
        );
        let uses = |rootfs, logs, all| {
            let container = ContainerUsage {
                name: "a".to_owned(),
                rootfs: Some(part(rootfs)),
                logs: Some(part(logs)),
                ..Default::default()
            };
            Usage { containers: vec![container], ephemeral: part(all), ..Default::default() }
        };
        assert_eq!(excess(&pod, &uses(5, 5, 10), false), None);
        let own = "Container a exceeded its local ephemeral storage limit \"10Mi\". ";
        assert_eq!(excess(&pod, &uses(6, 5, 11), false).as_deref(), Some(own));
        assert_eq!(excess(&pod, &uses(6, 5, 11), true), None);
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ";
        assert_eq!(excess(&pod, &uses(1, 1, 21), false).as_deref(), Some(whole));
    }

    #[test]
    fn who_has_no_limit_is_not_measured() {
        assert!(!is_limited(&pod(
            json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]})
        )));
    }
}
