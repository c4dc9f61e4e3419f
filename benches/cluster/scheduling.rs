//! The scheduler under scheduler_perf's workloads: nodes that only the API knows, and pods that wait when it
//! starts.

use crate::Failure;
use crate::api::Api;
use crate::knarr::Knarr;
use crate::subject::Subject;
use crate::table::{Row, Table};
use base::clock;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const NODES: &str = "/api/v1/nodes";
/// Clients that create objects.
const CLIENTS: usize = 16;
/// How often it is asked whether pods still wait.
const POLL: Duration = Duration::from_millis(20);
/// Beyond this a workload has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// scheduler_perf's pods.
const CPU: &str = "100m";

/// A workload for some nodes.
struct Workload {
    name: &'static str,
    /// Pods a second that scheduler_perf asks of kube-scheduler with the larger number of nodes; 0 for a
    /// workload that is not one of its.
    threshold: usize,
    nodes: [usize; 2],
    /// How many pods are there before, by the number of nodes.
    before: fn(usize) -> usize,
    before_pod: fn(usize) -> Value,
    /// And how many are measured.
    measured: fn(usize) -> usize,
    pod: fn(usize) -> Value,
    /// The first ones do not come to a node.
    before_waits: bool,
    /// What comes meanwhile.
    churn: &'static [Churn],
}

/// An object that is made again and again while pods are scheduled.
struct Churn {
    every: Duration,
    path: &'static str,
    object: fn(usize) -> Value,
    /// The one before goes.
    replaces: bool,
}

const IMPORTANT: Churn = Churn {
    every: Duration::from_millis(200),
    path: PODS,
    object: |number| named("churn", number, pod("3", important())),
    replaces: false,
};
const TOO_LARGE: Churn =
    Churn { object: |number| named("churn", number, pod("9", important())), ..IMPORTANT };
const SECOND: Duration = Duration::from_secs(1);

const fn workload(name: &'static str, threshold: usize, pod: fn(usize) -> Value) -> Workload {
    Workload {
        name,
        threshold,
        nodes: [500, 5_000],
        before: |nodes| nodes / 5,
        before_pod: pod,
        measured: |nodes| if nodes > 500 { 10_000 } else { 1_000 },
        pod,
        before_waits: false,
        churn: &[],
    }
}

/// One with as many pods before, and as many that are measured, as there are nodes.
const fn one_for_each(name: &'static str, threshold: usize, pod: fn(usize) -> Value) -> Workload {
    Workload { before: |nodes| nodes, measured: |nodes| nodes, ..workload(name, threshold, pod) }
}

/// scheduler_perf's, with the thresholds of Kubernetes 1.36.
static WORKLOADS: &[Workload] = &[
    workload("basic", 270, |_| pod(CPU, json!({}))),
    workload("node affinity", 220, |_| pod(CPU, json!({"affinity": {"nodeAffinity": in_zone()}}))),
    one_for_each("pod affinity", 35, |_| {
        pod(CPU, json!({"affinity": {"podAffinity": required("topology.kubernetes.io/region", "blue")}}))
    }),
    Workload {
        measured: |nodes| nodes * 2 / 5,
        ..workload("pod anti-affinity", 60, |_| {
            pod(CPU, json!({"affinity": {"podAntiAffinity": required("kubernetes.io/hostname", "blue")}}))
        })
    },
    Workload {
        before_pod: |_| pod(CPU, json!({})),
        ..one_for_each("topology spread", 85, |_| pod(CPU, spread("DoNotSchedule")))
    },
    Workload {
        before_pod: |_| pod(CPU, json!({})),
        ..one_for_each("preferred topology spread", 125, |_| pod(CPU, spread("ScheduleAnyway")))
    },
    one_for_each("preferred pod affinity", 90, |_| {
        pod(CPU, json!({"affinity": {"podAffinity": preferred("blue")}}))
    }),
    one_for_each("preferred pod anti-affinity", 90, |_| {
        pod(CPU, json!({"affinity": {"podAntiAffinity": preferred("blue")}}))
    }),
    Workload {
        before: |nodes| 2 * nodes,
        before_pod: mixed,
        measured: |nodes| nodes,
        ..workload("mixed", 140, |_| pod(CPU, json!({})))
    },
    Workload {
        before: |nodes| 4 * nodes,
        before_pod: cheap,
        measured: |nodes| nodes,
        churn: &[IMPORTANT],
        ..workload("beside preemption", 160, |_| pod(CPU, json!({})))
    },
    Workload {
        before: |nodes| 4 * nodes,
        before_pod: cheap,
        measured: |nodes| nodes,
        ..workload("preemption by every pod", 0, |_| pod("3", important()))
    },
    Workload {
        before: |_| 200,
        before_pod: |_| pod("9", json!({})),
        before_waits: true,
        churn: &[TOO_LARGE],
        ..workload("beside unschedulable pods", 140, |_| pod(CPU, json!({})))
    },
    Workload {
        before: |_| 0,
        churn: &[
            Churn { every: SECOND, path: NODES, object: empty_node, replaces: true },
            Churn { every: SECOND, replaces: true, ..TOO_LARGE },
            Churn { every: SECOND, path: SERVICES, object: service, replaces: true },
        ],
        ..workload("mixed churn", 265, |_| pod(CPU, json!({})))
    },
    Workload {
        nodes: [500, 15_000],
        before: |_| 0,
        measured: |nodes| nodes,
        ..workload("daemon set", 390, |number| {
            pod(CPU, json!({"affinity": {"nodeAffinity": on_node(number)}}))
        })
    },
];

fn pod(cpu: &str, spec: Value) -> Value {
    let requests = json!({"cpu": cpu, "memory": "500Mi"});
    // Nodes keep the taint of new ones: nobody watches over them here.
    let tolerations = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    let mut whole = json!({"tolerations": tolerations, "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
        "ports": [{"containerPort": 80}], "resources": {"requests": requests, "limits": requests}}]});
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": whole})
}

/// One that others may take the place of.
fn cheap(_: usize) -> Value {
    pod("900m", json!({"terminationGracePeriodSeconds": 0}))
}

fn important() -> Value {
    json!({"priorityClassName": "important"})
}

fn preferred(color: &str) -> Value {
    let term =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": color}}});
    json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]})
}

/// Pods of five kinds in turn; those that avoid or seek one another have a color of their own.
fn mixed(number: usize) -> Value {
    let affinity = |kind: &str, terms: Value| json!({"affinity": {kind: terms}});
    let (color, spec) = match number % 5 {
        0 => ("blue", affinity("podAffinity", required("topology.kubernetes.io/region", "blue"))),
        1 => ("green", affinity("podAntiAffinity", required("kubernetes.io/hostname", "green"))),
        2 => ("red", affinity("podAffinity", preferred("red"))),
        3 => ("yellow", affinity("podAntiAffinity", preferred("yellow"))),
        _ => ("white", json!({})),
    };
    let mut pod = pod(CPU, spec);
    pod["metadata"]["labels"]["color"] = json!(color);
    pod
}

fn required(topology: &str, color: &str) -> Value {
    json!({"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": topology, "labelSelector": {"matchLabels": {"color": color}}}]})
}

fn selected(term: Value) -> Value {
    json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}})
}

fn in_zone() -> Value {
    let key = "topology.kubernetes.io/zone";
    selected(json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["zone-0", "zone-1"]}]}))
}

fn on_node(number: usize) -> Value {
    selected(
        json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node_name(number)]}]}),
    )
}

fn spread(when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"color": "blue"}}}]})
}

fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

fn node(number: usize) -> Value {
    let name = node_name(number);
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/region": "region",
        "topology.kubernetes.io/zone": format!("zone-{}", number % 3)});
    let has = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": has, "capacity": has,
        "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A node that takes nothing.
fn empty_node(number: usize) -> Value {
    json!({"metadata": {"name": format!("churn-{number}")}, "status": {"capacity": {"pods": "0"},
        "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(number: usize) -> Value {
    json!({"metadata": {"name": format!("churn-{number}")},
        "spec": {"selector": {"app": "foo"}, "ports": [{"port": 8080}]}})
}

/// The workloads, or those that are named beside `scheduling`.
pub(crate) async fn scheduling(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let named: Vec<String> = std::env::args().skip(1).filter(|word| word.contains('=')).collect();
    for workload in WORKLOADS {
        let asked = |word: &String| word.strip_prefix("workload=").is_some_and(|name| name == workload.name);
        if !named.is_empty() && !named.iter().any(asked) {
            continue;
        }
        for nodes in workload.nodes {
            let folder = folder.join(format!("{}-{nodes}", workload.name.replace(' ', "-")));
            let row = run(workload, nodes, executable, &folder).await?;
            let budget = format!("{}/s", 10 * workload.threshold);
            table.add(if nodes == 500 || workload.threshold == 0 { row } else { row.budget(&budget) });
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

async fn run(
    workload: &'static Workload,
    nodes: usize,
    executable: &Path,
    folder: &Path,
) -> Result<Row, Failure> {
    let both = ["--disable-agent", "--disable-controller-manager"];
    let mut server = Knarr::start(executable, folder, &both)?.ready().await?.0;
    prepare(&server.api()?).await?;
    create_all(&server.subject()?, NODES, nodes, node).await?;
    let before = (workload.before)(nodes);
    let pod = |number| named("before", number, (workload.before_pod)(number));
    create_all(&server.subject()?, PODS, before, pod).await?;
    if !workload.before_waits {
        scheduled(&server.api()?, "before", before).await?;
    }
    server.stop().await?;
    // Creating pods takes longer than scheduling them: they are there when the scheduler starts.
    let nobody = [both[0], both[1], "--disable-scheduler"];
    server = Knarr::start(executable, folder, &nobody)?.ready().await?.0;
    let count = (workload.measured)(nodes);
    let pod = |number| named("measured", number, (workload.pod)(number));
    create_all(&server.subject()?, PODS, count, pod).await?;
    server.stop().await?;
    let mut server = Knarr::start(executable, folder, &both)?.ready().await?.0;
    let (began, usage) = (clock::instant(), server.usage()?);
    let mut churning = JoinSet::new();
    for churn in workload.churn {
        churning.spawn(keep_making(server.api()?, churn));
    }
    scheduled(&server.api()?, "measured", count).await?;
    let (took, after) = (began.elapsed().as_secs_f64(), server.usage()?);
    if let Some(ended) = churning.try_join_next() {
        ended??;
    }
    churning.shutdown().await;
    let cpu = (after.cpu_ns - usage.cpu_ns) as f64 / 1e3 / count as f64;
    server.stop().await?;
    let what = format!("scheduling, {}: {nodes} nodes, {count} pods", workload.name);
    let row = Row::new(&what, format!("{:.0} pods/s, {cpu:.0} µs CPU each", count as f64 / took));
    let asked =
        (workload.threshold > 0).then(|| format!("kube-scheduler's threshold {}/s", workload.threshold));
    Ok(row.peer(asked.unwrap_or_default()))
}

async fn keep_making(api: Api, churn: &'static Churn) -> Result<(), Failure> {
    let mut before: Option<String> = None;
    for number in 0.. {
        clock::sleep(churn.every).await;
        let object = (churn.object)(number);
        api.create(churn.path, &object).await?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let last = before.replace(format!("{}/{name}", churn.path));
        if let Some(last) = last.filter(|_| churn.replaces) {
            api.call(Method::DELETE, &last, Bytes::new()).await?;
        }
    }
    Ok(())
}

fn named(phase: &str, number: usize, mut pod: Value) -> Value {
    pod["metadata"]["name"] = json!(format!("{phase}-{number:05}"));
    pod["metadata"]["labels"]["phase"] = json!(phase);
    pod
}

/// What controllers would make, and a priority.
async fn prepare(api: &Api) -> Result<(), Failure> {
    let account = json!({"metadata": {"name": "default"}});
    api.create("/api/v1/namespaces/default/serviceaccounts", &account).await?;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "important"}, "value": 1_000});
    api.create("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await
}

async fn create_all(
    subject: &Subject,
    path: &'static str,
    count: usize,
    object: impl Fn(usize) -> Value + Send + Sync + Clone + 'static,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS.min(count) {
        let (api, next, object) = (subject.api()?, next.clone(), object.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<(), Failure>(());
                }
                api.create(path, &object(number)).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Waits until no pod of a phase is without a node. Pods are scheduled by and by in the order in which they
/// came: as long as the last one waits nobody looks for others, which would slow the server down.
async fn scheduled(api: &Api, phase: &str, count: usize) -> Result<(), Failure> {
    let last = format!("{PODS}/{phase}-{:05}", count.saturating_sub(1));
    let path = format!("/api/v1/pods?labelSelector=phase%3D{phase}&fieldSelector=spec.nodeName%3D&limit=1");
    let began = clock::instant();
    while (count > 0 && api.get(&last).await?["spec"]["nodeName"].is_null())
        || api.get(&path).await?["items"].as_array().is_none_or(|waiting| !waiting.is_empty())
    {
        if began.elapsed() > LIMIT {
            return Err(format!("pods of phase {phase} still wait after {LIMIT:?}").into());
        }
        clock::sleep(POLL).await;
    }
    Ok(())
}
