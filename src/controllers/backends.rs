//! Which pods stand behind a Service, and at which ports: what Endpoints and EndpointSlices share.

use crate::common::Key;
use crate::pods;
use api::core::{ObjectReference, Service, ServicePort, ServiceSpec};
use api::selector::Labels;
use api::slim::{ContainerPort, Pod};
use api::{IntOrString, Object};
use client::{Cache, Queue, Snapshot};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) fn spec(service: &Service) -> &ServiceSpec {
    static NONE: LazyLock<ServiceSpec> = LazyLock::new(ServiceSpec::default);
    service.spec.as_ref().unwrap_or(&NONE)
}

/// It has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    matches!(spec(service).cluster_ip.as_deref(), None | Some("" | "None"))
}

/// The Service's endpoints are this controller's to keep: it selects pods.
pub(crate) fn selector(service: &Service) -> Option<Labels> {
    let selector = spec(service).selector.as_ref().filter(|selector| !selector.is_empty())?;
    (spec(service).type_.as_deref() != Some("ExternalName")).then(|| Labels::of_map(selector))
}

/// The pods of its namespace that a Service selects and that have an address and have not ended, by name.
pub(crate) fn of<'a>(service: &Service, in_namespace: impl Iterator<Item = &'a Arc<Pod>>) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let backs =
        |pod: &&Arc<Pod>| selector.selects(&***pod) && !pods::is_finished(pod) && !addresses(pod).is_empty();
    in_namespace.filter(backs).cloned().collect()
}

pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| &*ip.ip).collect();
    if all.is_empty() {
        status.pod_ip.as_deref().into_iter().filter(|ip| !ip.is_empty()).collect()
    } else {
        all
    }
}

/// The name a pod has under a headless Service (`spec.hostname` and `spec.subdomain`).
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| hostname.to_owned())
}

/// What an endpoint says of its pod.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: Some(pod.uid().to_owned()),
        ..ObjectReference::default()
    }
}

/// The port a Service's port leads to in one pod: a number, or the name of a container's port
/// (`spec.ports[].targetPort`).
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let mut all = spec.containers.iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten());
    let named = |port: &&ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    all.find(named).map(|port| port.container_port)
}

/// The labels an endpoints object takes over from its Service, with the mark of a headless one.
pub(crate) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Looks at a Service when it changes, and at all Services that select a pod, as it was or as it is,
/// when the pod changes.
pub(crate) fn watch(services: &Cache<Service>, all_pods: &Cache<Pod>, queue: &Queue<Key>) {
    crate::common::watch_self(services, queue);
    let (services, queue) = (services.clone(), queue.clone());
    all_pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && !matters(old, new)
        {
            return;
        }
        let services = services.snapshot();
        for pod in [&change.old, &change.new].into_iter().flatten() {
            selecting(&services, pod).for_each(|key| queue.add(key));
        }
    });
}

/// The Services that select a pod.
pub(crate) fn selecting(services: &Snapshot<Service>, pod: &Pod) -> impl Iterator<Item = Key> {
    let of_namespace = services.in_namespace(pod.namespace());
    of_namespace
        .filter(|service| selector(service).is_some_and(|selector| selector.selects(pod)))
        .map(|service| Key::of(&**service))
}

/// Most changes of a pod, such as a probe's time, change no endpoint.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.labels() != new.labels()
        || old.is_deleting() != new.is_deleting()
        || addresses(old) != addresses(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_finished(old) != pods::is_finished(new)
        || pods::node_name(old) != pods::node_name(new)
}
