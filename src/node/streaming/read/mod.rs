//! What is only read: logs, pods, numbers, and files of the node.

pub(super) mod files;
pub(super) mod numbers;

use super::route::{Logs, Of};
use super::{Refusal, Service, backend};
use crate::logs;
use crate::pods::observe::{Life, names};
use crate::protocols::runtime::v1 as cri;
use api::Whole;
use api::core::{ContainerStatus, Pod};
use base::{Body, Phase, full_body};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    if let Err(error) = std::fs::metadata(&path) {
        let text = format!("failed to try resolving symlinks in path {path:?}: {error}");
        return Err((StatusCode::BAD_REQUEST, text));
    }
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
    let missing = |text: String| (StatusCode::NOT_FOUND, text);
    let pod = pod.ok_or_else(|| missing(format!("pod {pod_name:?} does not exist")))?;
    if crate::pods::spec::container(&pod, name).is_none() {
        return Err(missing(format!("container {name:?} not found in pod {pod_name:?}")));
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
        "ErrImagePull" => "image can't be pulled".to_owned(),
        reason => reason.to_owned(),
    }
}

/// The pods of this node.
pub(super) fn pods(service: &Service) -> Response<Body> {
    let items: Vec<Value> = service.pods.list().iter().filter_map(|pod| pod.to_value().ok()).collect();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The pods that the runtime runs, as far as it knows them.
pub(super) async fn running_pods(service: &Service) -> Result<Response<Body>, Refusal> {
    let runtime = &service.context.runtime;
    let failed = |error: crate::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let sandboxes =
        runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.map_err(failed)?.items;
    let state = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
    let filter = cri::ContainerFilter { state: Some(state), ..Default::default() };
    let running = cri::ListContainersRequest { filter: Some(filter) };
    let containers = runtime.list_containers(running).await.map_err(failed)?.containers;
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for sandbox in sandboxes.iter().filter(|one| one.state() == cri::PodSandboxState::SandboxReady) {
        let label = |name: &str| sandbox.labels.get(name).cloned().unwrap_or_default();
        let own = containers.iter().filter(|container| container.pod_sandbox_id == sandbox.id);
        let own: Vec<Value> = own.map(running_container).collect();
        let metadata = json!({"name": label(names::POD), "namespace": label(names::NAMESPACE),
            "uid": label(names::UID)});
        pods.insert(
            label(names::UID),
            json!({"metadata": metadata, "spec": {"containers": own}, "status": {}}),
        );
    }
    let items: Vec<Value> = pods.into_values().collect();
    Ok(json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
}

fn running_container(container: &cri::Container) -> Value {
    let image = container.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    json!({"name": container.labels.get(names::CONTAINER), "image": image, "resources": {}})
}
