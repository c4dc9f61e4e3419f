//! Load on the control plane alone: creates, watchers, many pods.

use crate::api::Api;
use crate::etcd::Etcd;
use crate::subject::Subject;
use crate::table::percentile;
use crate::{Failure, SETTLE};
use base::clock::{self, Instant};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long each rate of writing is measured.
const WRITING: Duration = Duration::from_secs(8);
/// What makes an object 1 KiB together with its metadata.
const PAYLOAD_BYTES: usize = 800;
/// A kind of which objects are created.
pub(crate) struct Kind {
    pub(crate) path: &'static str,
    /// `apiVersion`.
    pub(crate) api: &'static str,
    /// `kind`.
    pub(crate) name: &'static str,
}

pub(crate) const CONFIG_MAPS: Kind =
    Kind { path: "/api/v1/namespaces/default/configmaps", api: "v1", name: "ConfigMap" };

/// Durable creates with so many clients: how many a second, and µs of CPU for each.
pub(crate) struct Creates {
    pub(crate) rate: f64,
    cpu: f64,
}

impl fmt::Display for Creates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.0}/s, {:.0} µs CPU each", self.rate, self.cpu)
    }
}

pub(crate) async fn creates(server: &Subject, clients: usize, kind: &Kind) -> Result<Creates, Failure> {
    let before = server.usage()?;
    let (rate, count) = create_objects(server, clients, kind).await?;
    let cpu = (server.usage()?.cpu_ns - before.cpu_ns) as f64 / 1e3 / count as f64;
    Ok(Creates { rate, cpu })
}

async fn create_objects(server: &Subject, clients: usize, kind: &Kind) -> Result<(f64, usize), Failure> {
    let apis: Vec<Api> = (0..clients).map(|_| server.api()).collect::<Result<_, _>>()?;
    for api in &apis {
        // Connections are made before the clock starts.
        api.get("/version").await?;
    }
    let payload = "x".repeat(PAYLOAD_BYTES);
    let began = clock::instant();
    let mut tasks = JoinSet::new();
    for (client, api) in apis.into_iter().enumerate() {
        let payload = payload.clone();
        let Kind { path, api: version, name: kind } = *kind;
        tasks.spawn(async move {
            let mut count = 0;
            while began.elapsed() < WRITING {
                let name = format!("bench-{clients}-{client}-{count}");
                let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name},
                    "data": {"text": payload}});
                api.create(path, &object).await?;
                count += 1;
            }
            Ok::<usize, Failure>(count)
        });
    }
    per_second(tasks, began).await
}

async fn per_second(
    mut tasks: JoinSet<Result<usize, Failure>>,
    began: Instant,
) -> Result<(f64, usize), Failure> {
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok((count as f64 / began.elapsed().as_secs_f64(), count))
}

/// Durable puts into etcd a second.
pub(crate) async fn etcd_puts(clients: usize) -> Result<f64, Failure> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Etcd::connect().await?);
    }
    let began = clock::instant();
    let mut tasks = JoinSet::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut count = 0;
            while began.elapsed() < WRITING {
                let key = format!("/registry/configmaps/default/bench-{clients}-{client}-{count}");
                connection.put(key.as_bytes(), vec![b'x'; 1024]).await?;
                count += 1;
            }
            Ok::<usize, Failure>(count)
        });
    }
    Ok(per_second(tasks, began).await?.0)
}

const WATCHERS: usize = 1_000;
const WATCHERS_PER_CONNECTION: usize = 100;
const EVENTS: usize = 40;
/// Between events, so that each is alone.
const PAUSE: Duration = Duration::from_millis(150);

/// One event to a thousand watchers: ms from before the write is sent until a watcher has read it, and
/// ms of CPU for all of it.
pub(crate) struct Fanout {
    p50: f64,
    p99: f64,
    pub(crate) cpu: f64,
}

impl fmt::Display for Fanout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "p50 {:.1} ms, p99 {:.1} ms, {:.1} ms CPU", self.p50, self.p99, self.cpu)
    }
}

pub(crate) async fn fanout(server: &Subject) -> Result<Fanout, Failure> {
    let api = server.api()?;
    api.create(CONFIG_MAPS.path, &json!({"metadata": {"name": "watched"}})).await?;
    let path = format!("{}?watch=1&fieldSelector=metadata.name%3Dwatched", CONFIG_MAPS.path);
    let object = format!("{}/watched", CONFIG_MAPS.path);
    let revision = api.get(&object).await?;
    let path =
        format!("{path}&resourceVersion={}", crate::knarr::text(&revision["metadata"]["resourceVersion"]));
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for _ in 0..WATCHERS / WATCHERS_PER_CONNECTION {
        let api = server.api()?;
        api.get("/version").await?;
        for _ in 0..WATCHERS_PER_CONNECTION {
            let answer = api.send(Method::GET, &path, Bytes::new()).await?;
            tasks.spawn(watch(answer.into_body(), seen.clone()));
        }
    }
    let before = server.usage()?;
    let mut latencies = Vec::new();
    for event in 0..EVENTS {
        clock::sleep(PAUSE).await;
        let patch = json!({"data": {"event": event.to_string()}}).to_string();
        let sent = clock::instant();
        api.call(Method::PATCH, &object, Bytes::from(patch)).await?;
        for _ in 0..WATCHERS {
            let arrived = tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await?;
            let arrived: Instant = arrived.ok_or("every watch ended")?;
            latencies.push((arrived - sent).as_secs_f64() * 1e3);
        }
    }
    let cpu = (server.usage()?.cpu_ns - before.cpu_ns) as f64 / 1e6 / EVENTS as f64;
    latencies.sort_by(f64::total_cmp);
    Ok(Fanout { p50: percentile(&latencies, 0.5), p99: percentile(&latencies, 0.99), cpu })
}

/// Tells when each line of a watch's answer came.
async fn watch(mut body: base::Body, seen: mpsc::UnboundedSender<Instant>) {
    while let Some(Ok(frame)) = body.frame().await {
        let now = clock::instant();
        let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        for _ in 0..lines {
            if seen.send(now).is_err() {
                return;
            }
        }
    }
}

const PODS: usize = 10_000;
const LISTS: usize = 10;

/// Many pods stored: bytes of memory, and the price of a LIST of them.
pub(crate) struct Many {
    pub(crate) memory: u64,
    pub(crate) list_cpu: f64,
    list_bytes: usize,
    pub(crate) memory_after: u64,
}

impl Many {
    pub(crate) fn list(&self) -> String {
        format!("{:.1} ms CPU, {:.1} MB (TLS)", self.list_cpu, self.list_bytes as f64 / 1e6)
    }
}

pub(crate) async fn many_pods(server: &Subject) -> Result<Many, Failure> {
    create_pods(server).await?;
    clock::sleep(SETTLE).await;
    let memory = server.usage()?.pss_bytes;
    let api = server.api()?;
    let mut list_bytes = api.call(Method::GET, "/api/v1/pods", Bytes::new()).await?.len();
    let before = server.usage()?;
    for _ in 0..LISTS {
        list_bytes = api.call(Method::GET, "/api/v1/pods", Bytes::new()).await?.len();
    }
    let after = server.usage()?;
    let list_cpu = (after.cpu_ns - before.cpu_ns) as f64 / 1e6 / LISTS as f64;
    Ok(Many { memory, list_cpu, list_bytes, memory_after: after.pss_bytes })
}

async fn create_pods(server: &Subject) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (api, next) = (server.api()?, next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= PODS {
                    return Ok::<(), Failure>(());
                }
                api.create("/api/v1/namespaces/default/pods", &pod(number)).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A pod of usual size that is another scheduler's business: no event and no status beside it.
fn pod(number: usize) -> Value {
    let variable =
        |name: &str| json!({"name": name, "value": "http://service.default.svc.cluster.local:8080"});
    json!({
        "metadata": {
            "name": format!("web-{number:05}"),
            "labels": {"app": "web", "tier": format!("tier-{}", number % 10), "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"description": "a pod that waits for a scheduler of its own"}
        },
        "spec": {
            "schedulerName": "somebody-else",
            "nodeSelector": {"disk": "none"},
            "containers": [{
                "name": "web",
                "image": "registry.example/team/web:1.2.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [variable("UPSTREAM"), variable("FALLBACK"), variable("METRICS")],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 10}
            }]
        }
    })
}
