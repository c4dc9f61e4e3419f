//! What is only read: logs, pods, and numbers.

use super::route::{Logs, Of};
use super::{Refusal, Service, backend};
use crate::logs;
use crate::pods::observe::{Life, names};
use crate::protocols::runtime::v1 as cri;
use crate::{cgroups, machine};
use api::Whole;
use api::core::{ContainerStatus, Pod};
use base::{Body, Phase, clock, full_body};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Pieces of a log on their way; a slow reader slows the reading down.
const PIECES: usize = 16;

pub(super) fn json_answer(value: &Value) -> Response<Body> {
    let mut response = Response::new(full_body(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A container's log.
pub(super) async fn logs(service: &Service, of: &Of, asked: Logs) -> Result<Response<Body>, Refusal> {
    let (path, id) = log_of(service, of, asked.previous).await?;
    let (into, from) = mpsc::channel(PIECES);
    let runtime = service.context.runtime.clone();
    let supervisor = service.context.supervisor.clone();
    supervisor.detached("log reader", Phase::Front, async move {
        let source = logs::Source { path, runtime, container: id };
        if let Err(error) = source.send(asked.options, into).await {
            tracing::debug!(%error, "log reader");
        }
    });
    let pieces = stream::unfold(from, |mut from| async move {
        let piece: Vec<u8> = from.recv().await?;
        Some((Ok::<_, base::BodyError>(Frame::data(Bytes::from(piece))), from))
    });
    Ok(plain(StreamBody::new(pieces).boxed_unsync()))
}

/// The log file of a container or of the one before it, with the container's id.
async fn log_of(service: &Service, of: &Of, previous: bool) -> Result<(PathBuf, String), Refusal> {
    let (name, pod_name) = (&of.container, &of.pod);
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let pod = service.pods.find(&of.namespace, pod_name);
    let pod = pod.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {pod_name:?} not found")))?;
    if crate::pods::spec::container(&pod, name).is_none() {
        return Err(bad(format!("container {name} is not valid for pod {pod_name}")));
    }
    let observed = backend::observe(service, &of.namespace, pod_name).await?;
    let current = observed.all(name).find(|record| record.life != Life::Created);
    let status = status_of(&pod, name);
    let record = if previous {
        // The status tells which container was the last that ended: with a restart to come, the newest.
        let ended = status
            .and_then(|status| status.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref());
        let id = ended.and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
        let found = observed.containers.iter().find(|record| record.id == id);
        found.ok_or_else(|| {
            bad(format!("previous terminated container {name:?} in pod {pod_name:?} not found"))
        })?
    } else {
        current.ok_or_else(|| {
            bad(format!("container {name:?} in pod {pod_name:?} is waiting to start: {}", waits_for(status)))
        })?
    };
    Ok((PathBuf::from(&record.log_path), record.id.clone()))
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// Why a container has no log yet.
fn waits_for(status: Option<&ContainerStatus>) -> String {
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("ContainerCreating");
    match reason {
        "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
        "ErrImagePull" | "ErrImageNeverPull" => {
            waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_else(|| reason.to_owned())
        }
        reason => reason.to_owned(),
    }
}

/// The pods of this node.
pub(super) fn pods(service: &Service) -> Response<Body> {
    let items: Vec<Value> = service.pods.list().iter().filter_map(|pod| pod.to_value().ok()).collect();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// One container's usage as the runtime measured it.
struct Usage {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    cpu_ns: u64,
    /// When the CPU was measured, in nanoseconds since 1970.
    cpu_at_ns: i64,
    working_set: u64,
    rss: u64,
    usage: u64,
    disk: u64,
}

async fn usages(service: &Service) -> Result<Vec<Usage>, Refusal> {
    let answer =
        service.context.runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await;
    let answer = answer.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
    let usage = |stats: cri::ContainerStats| {
        let labels = stats.attributes?.labels;
        let label = |name: &str| labels.get(name).cloned();
        // Containers that ended have none.
        let (cpu, memory) = (stats.cpu?, stats.memory?);
        Some(Usage {
            namespace: label(names::NAMESPACE)?,
            pod: label(names::POD)?,
            uid: label(names::UID)?,
            container: label(names::CONTAINER)?,
            cpu_ns: value(cpu.usage_core_nano_seconds),
            cpu_at_ns: cpu.timestamp,
            working_set: value(memory.working_set_bytes),
            rss: value(memory.rss_bytes),
            usage: value(memory.usage_bytes),
            disk: value(stats.writable_layer.and_then(|layer| layer.used_bytes)),
        })
    };
    Ok(answer.stats.into_iter().filter_map(usage).collect())
}

/// `/stats/summary`, as far as autoscalers and dashboards read it.
pub(super) async fn summary(service: &Service) -> Result<Response<Body>, Refusal> {
    let now = clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut pods: HashMap<String, Value> = HashMap::new();
    for usage in usages(service).await? {
        let pod = pods.entry(usage.uid.clone()).or_insert_with(|| {
            json!({
                "podRef": {"name": usage.pod, "namespace": usage.namespace, "uid": usage.uid},
                "containers": [],
                "cpu": {"time": now, "usageCoreNanoSeconds": 0},
                "memory": {"time": now, "workingSetBytes": 0},
            })
        });
        let add = |field: &mut Value, more: u64| *field = (field.as_u64().unwrap_or(0) + more).into();
        add(&mut pod["cpu"]["usageCoreNanoSeconds"], usage.cpu_ns);
        add(&mut pod["memory"]["workingSetBytes"], usage.working_set);
        if let Some(containers) = pod["containers"].as_array_mut() {
            containers.push(json!({
                "name": usage.container,
                "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu_ns},
                "memory": {"time": now, "workingSetBytes": usage.working_set, "rssBytes": usage.rss, "usageBytes": usage.usage},
                "rootfs": {"time": now, "usedBytes": usage.disk},
            }));
        }
    }
    let config = &service.context.config;
    let (size, free) = machine::disk(&config.kubelet_dir);
    let node = cgroups::usage_of_machine();
    Ok(json_answer(&json!({
        "node": {
            "nodeName": config.node_name,
            "cpu": {"time": now, "usageCoreNanoSeconds": node.cpu_ns},
            "memory": {"time": now, "workingSetBytes": node.working_set, "availableBytes": node.available},
            "fs": {"time": now, "capacityBytes": size, "availableBytes": free, "usedBytes": size - free},
        },
        "pods": pods.into_values().collect::<Vec<_>>(),
    })))
}

/// `/metrics`: how much this kubelet has to do.
pub(super) fn metrics(service: &Service) -> Response<Body> {
    let pods = service.pods.list();
    let containers: usize = pods.iter().map(|pod| crate::pods::spec::containers(pod).len()).sum();
    plain(full_body(format!(
        "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
         # HELP kubelet_desired_containers Containers in the specifications of this node's pods\n\
         # TYPE kubelet_desired_containers gauge\nkubelet_desired_containers {containers}\n\
         # HELP kubelet_node_name The node's name. The count is always 1.\n\
         # TYPE kubelet_node_name gauge\nkubelet_node_name{{node={:?}}} 1\n",
        pods.len(),
        service.context.config.node_name,
    )))
}

/// `/metrics/resource`, which `metrics.k8s.io` is made of.
pub(super) async fn resource_metrics(service: &Service) -> Result<Response<Body>, Refusal> {
    let usages = usages(service).await?;
    let now_ms = clock::now().as_millisecond();
    let node = cgroups::usage_of_machine();
    let seconds = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let labels =
        |u: &Usage| format!("{{container={:?},namespace={:?},pod={:?}}}", u.container, u.namespace, u.pod);
    let mut pods: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for usage in &usages {
        let sum = pods.entry((&usage.namespace, &usage.pod)).or_default();
        *sum = (sum.0 + usage.cpu_ns, sum.1 + usage.working_set);
    }
    let of_pods = |value: &dyn Fn(&(u64, u64)) -> String| -> Vec<String> {
        let line = |((namespace, pod), sum): (&(&str, &str), &(u64, u64))| {
            format!("{{namespace={namespace:?},pod={pod:?}}} {} {now_ms}", value(sum))
        };
        pods.iter().map(line).collect()
    };
    let cpu =
        usages.iter().map(|u| format!("{} {} {}", labels(u), seconds(u.cpu_ns), u.cpu_at_ns / 1_000_000));
    let memory = usages.iter().map(|u| format!("{} {} {now_ms}", labels(u), u.working_set));
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, lines: Vec<String>| {
        text.push_str(&format!("# TYPE {name} {kind}\n"));
        lines.iter().for_each(|line| text.push_str(&format!("{name}{line}\n")));
    };
    family("node_cpu_usage_seconds_total", "counter", vec![format!(" {} {now_ms}", seconds(node.cpu_ns))]);
    family("node_memory_working_set_bytes", "gauge", vec![format!(" {} {now_ms}", node.working_set)]);
    family("container_cpu_usage_seconds_total", "counter", cpu.collect());
    family("container_memory_working_set_bytes", "gauge", memory.collect());
    family("pod_cpu_usage_seconds_total", "counter", of_pods(&|sum| seconds(sum.0)));
    family("pod_memory_working_set_bytes", "gauge", of_pods(&|sum| sum.1.to_string()));
    family("resource_scrape_error", "gauge", vec![" 0".to_owned()]);
    Ok(plain(full_body(text)))
}
