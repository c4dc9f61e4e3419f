//! Who has which processors, memory, devices and claims, told at the socket `pod-resources/kubelet.sock`
//! (`podresources/v1`): monitors of devices read it.

use crate::affinity::Block;
use crate::bucket::Bucket;
use crate::devices::Placed;
use crate::pods::{Pods, spec};
use crate::protocols::podresources as told;
use crate::stats::counters;
use crate::{Context, Error, dra, files, grpc};
use api::Object;
use api::core::{Container, Pod};
use base::Shutdown;
use base::clock;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;

/// Requests in a second, and at once, as Kubernetes limits them.
const PER_S: f64 = 100.0;
const BURST: f64 = 10.0;

/// Answers until asked to stop.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let folder = context.config.kubelet_dir.join("pod-resources");
    files::make_folder(&folder, 0o750)?;
    let limit = Arc::new(Mutex::new(Bucket::new(PER_S, BURST, clock::instant())));
    let socket = folder.join("kubelet.sock");
    let of = context.clone();
    let verbs = move |verb: &str, body: &[u8]| {
        if !limit.lock().unwrap_or_else(PoisonError::into_inner).take(clock::instant()) {
            return Err(Status::resource_exhausted("rejected by rate limit"));
        }
        let version = verb.trim_start_matches('/').split('.').next().unwrap_or_default();
        if ["v1", "v1alpha1"].contains(&version) {
            counters::POD_RESOURCES.count(&[version]);
        }
        match verb {
            // What version 1alpha1 has of it reads the same.
            "/v1.PodResourcesLister/List" | "/v1alpha1.PodResourcesLister/List" => {
                grpc::reply(body, |_: told::ListPodResourcesRequest| Ok(list(&of, &pods)))
            }
            "/v1.PodResourcesLister/Get" => grpc::reply(body, |asked| get(&of, &pods, &asked)),
            "/v1.PodResourcesLister/GetAllocatableResources" => {
                grpc::reply(body, |_: told::AllocatableResourcesRequest| Ok(allocatable(&of)))
            }
            other => Err(Status::unimplemented(format!("unknown method {other}"))),
        }
    };
    grpc::serve((&context.supervisor, "pods' resources"), &socket, verbs, shutdown).await
}

fn list(context: &Context, pods: &Pods) -> told::ListPodResourcesResponse {
    let active = pods.active().into_iter().filter(|pod| !spec::has_ended(pod));
    told::ListPodResourcesResponse { pod_resources: active.map(|pod| of_pod(context, &pod)).collect() }
}

fn get(
    context: &Context,
    pods: &Pods,
    asked: &told::GetPodResourcesRequest,
) -> Result<told::GetPodResourcesResponse, Status> {
    let (name, namespace) = (&asked.pod_name, &asked.pod_namespace);
    let found = pods.find(namespace, name);
    let found =
        found.ok_or_else(|| Status::unknown(format!("pod {name} in namespace {namespace} not found")))?;
    Ok(told::GetPodResourcesResponse { pod_resources: Some(of_pod(context, &found)) })
}

fn allocatable(context: &Context) -> told::AllocatableResourcesResponse {
    told::AllocatableResourcesResponse {
        devices: devices(context.devices.healthy()),
        cpu_ids: context.affinity.allocatable_cpus().into_iter().map(i64::from).collect(),
        memory: memory(context.affinity.allocatable_memory()),
    }
}

/// What a pod's containers have, those that have ended before the others began aside.
fn of_pod(context: &Context, pod: &Pod) -> told::PodResources {
    let sidecars = spec::init_containers(pod).iter().filter(|container| spec::is_sidecar(container));
    let all = sidecars.chain(&spec::spec(pod).containers);
    told::PodResources {
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        containers: all.map(|container| of_container(context, pod, container)).collect(),
    }
}

fn of_container(context: &Context, pod: &Pod, container: &Container) -> told::ContainerResources {
    let (uid, name) = (pod.uid(), container.name.as_str());
    told::ContainerResources {
        name: name.to_owned(),
        devices: devices(context.devices.of_container(uid, name)),
        cpu_ids: context.affinity.cpus(uid, name).into_iter().map(i64::from).collect(),
        memory: memory(context.affinity.memory(uid, name)),
        dynamic_resources: dra::told(&context.dra, pod, container),
    }
}

fn topology(nodes: impl Iterator<Item = i64>) -> told::TopologyInfo {
    told::TopologyInfo { nodes: nodes.map(|id| told::NumaNode { id }).collect() }
}

/// Devices by resource, one entry for each and each node that it is near.
fn devices(all: Placed) -> Vec<told::ContainerDevices> {
    let entry = |resource: &str, id: String, topology| told::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id],
        topology,
    };
    let mut list = Vec::new();
    for (resource, own) in all {
        for (id, nodes) in own {
            if nodes.is_empty() {
                list.push(entry(&resource, id, None));
                continue;
            }
            let near =
                nodes.iter().map(|node| entry(&resource, id.clone(), Some(topology([*node].into_iter()))));
            list.extend(near);
        }
    }
    list
}

fn memory(blocks: Vec<Block>) -> Vec<told::ContainerMemory> {
    let block = |block: Block| told::ContainerMemory {
        memory_type: block.resource,
        size: block.size,
        topology: Some(topology(block.nodes.into_iter().map(i64::from))),
    };
    blocks.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_once_for_each_node() {
        let own = [("a".to_owned(), Vec::new()), ("b".to_owned(), vec![0, 1])].into();
        let told = devices([("r".to_owned(), own)].into());
        let near = |one: &told::ContainerDevices| one.topology.as_ref().map(|it| it.nodes[0].id);
        let shown: Vec<(&str, Option<i64>)> =
            told.iter().map(|one| (one.device_ids[0].as_str(), near(one))).collect();
        assert_eq!(shown, [("a", None), ("b", Some(0)), ("b", Some(1))]);
    }
}
