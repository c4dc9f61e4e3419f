//! A node whose API server is away: real workers over a runtime that only says that it runs.

use super::ledger::Given;
use super::observe::names;
use crate::checkpoint::Checkpoint;
use crate::cri::Runtime;
use crate::hollow::Hollow;
use crate::machine::Machine;
use crate::protocols::runtime::v1 as cri;
use crate::provisions::{Provisions, Stores};
use crate::{Config, Context, Size, files};
use api::Quantity;
use api::core::Pod;
use base::{Body, Supervisor, clock};
use client::{Caches, Client, Error, Transport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Nobody answers.
struct Away;

impl Transport for Away {
    fn call(&self, _: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        async { Err(Error::Transport("connection refused".to_owned())) }.boxed()
    }
}

fn remember(config: &Config, name: &str, status: &Value) {
    remember_with(config, name, status, &json!({}));
}

fn remember_with(config: &Config, name: &str, status: &Value, more: &Value) {
    let mut container = json!({"name": "c", "image": "i", "imagePullPolicy": "IfNotPresent"});
    container.as_object_mut().unwrap().extend(more["container"].as_object().cloned().unwrap_or_default());
    let pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "annotations": {"knarr.io/hollow-seconds": "30"}},
        "spec": {"nodeName": "node-1", "containers": [container], "volumes": more["volumes"]},
        "status": status,
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let kept = Checkpoint { given: Given::of(&pod), actuated: Default::default(), pod };
    kept.write(config).unwrap();
}

/// The containers of a pod.
async fn containers(runtime: &Runtime, uid: &str) -> Vec<cri::Container> {
    let label_selector = HashMap::from([(names::UID.to_owned(), uid.to_owned())]);
    let filter = Some(cri::ContainerFilter { label_selector, ..Default::default() });
    runtime.list_containers(cri::ListContainersRequest { filter }).await.unwrap().containers
}

/// The restart counts of those that run.
async fn running(runtime: &Runtime, uid: &str) -> Vec<String> {
    let all = containers(runtime, uid).await;
    let run = all.iter().filter(|it| it.state() == cri::ContainerState::ContainerRunning);
    run.map(|it| it.annotations[names::RESTART_COUNT].clone()).collect()
}

async fn until_running(runtime: &Runtime, uid: &str, wanted: &str) {
    let reached = async {
        while running(runtime, uid).await != [wanted] {
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    let limit = Duration::from_secs(300);
    let in_time = tokio::time::timeout(limit, reached).await.is_ok();
    assert!(in_time, "{uid} runs {:?}, never for the time {wanted}", running(runtime, uid).await);
}

/// Remembers a pod that cannot start without what it was provided with.
fn provide(config: &Config) {
    let token = json!({"serviceAccountToken": {"path": "token"}});
    let more = json!({
        "volumes": [{"name": "v", "projected": {"sources": [token, {"secret": {"name": "s"}}]}}],
        "container": {
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
        },
    });
    remember_with(config, "provided", &json!({"phase": "Running"}), &more);
    let files = json!({"token": {"content": "dG9rZW4=", "mode": 420, "owner": null}});
    let volume = json!({"files": files, "renew": "2020-01-01T00:00:00Z", "passing": ["token"]});
    let provisions: Provisions = serde_json::from_value(json!({
        "volumes": {"v": volume},
        "config_maps": {"m": {"data": {"k": "v"}}},
    }))
    .unwrap();
    Stores::new(config).write("provided", &provisions).unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_are_run_and_started_again_without_an_api_server() {
    clock::follow_tokio();
    let data = std::env::temp_dir().join(format!("knarr-alone-{}", std::process::id()));
    let config = Config::new("node-1", &data);
    remember(
        &config,
        "goes-on",
        &json!({"phase": "Running", "containerStatuses": [
        {"name": "c", "restartCount": 4, "image": "i", "imageID": "", "ready": true, "containerID": "containerd://gone"}]}),
    );
    remember(&config, "over", &json!({"phase": "Succeeded"}));
    provide(&config);
    let size = Size {
        cpu: Quantity("2".to_owned()),
        memory: Quantity("1Gi".to_owned()),
        spare: "100.64.0.0/25".parse().unwrap(),
    };
    let supervisor = Supervisor::new();
    let runtime = Runtime::hollow(Hollow::new(size.spare, supervisor.clone()));
    let client = Client::new(Arc::new(Away));
    let caches = Caches::new(client.clone(), supervisor.clone());
    let machine = Machine::hollow(&config, &size);
    let context =
        Arc::new(Context::new(config, (client, caches), supervisor.clone(), runtime.clone(), machine));
    crate::start_pods(&context);
    // It was lost with the machine's restart; the count of its restarts was not.
    until_running(&runtime, "goes-on", "5").await;
    assert!(context.reach.is_away());
    until_running(&runtime, "goes-on", "6").await;
    // It has what it was provided with once.
    assert!(!containers(&runtime, "provided").await.is_empty());
    assert_eq!(running(&runtime, "over").await, [""; 0]);
    supervisor.stop();
    files::remove_folder(&data).unwrap();
}
