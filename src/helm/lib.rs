//! Helm charts, installed by knarr itself: HelmChart objects and what HelmChartConfigs add to them (group
//! `helm.cattle.io`, as k3s has it), with releases kept where Helm looks for them.
//!
//! It must never start a process or a pod of its own, hold anything to speak of while there is no HelmChart, or write
//! around the API. Start reading at `engine.rs` for how charts are rendered, and at `controller.rs` for what is done with
//! them.

mod chart;
mod cluster;
mod controller;
mod dependencies;
mod engine;
#[cfg(test)]
mod engine_tests;
mod error;
mod fetch;
mod functions;
mod inputs;
mod install;
mod manifest;
mod registry;
mod release;
mod schema;
mod semver;
mod set;
mod status;
mod tar;
mod types;
mod values;
mod web;

pub use error::Error;

use base::{Phase, Restart, Shutdown, Supervisor, clock};
use chart::Chart;
use client::{Caches, Client, Recorder};
use controller::Controller;
use semver::{Range, Version};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The definitions of the kinds.
const DEFINITIONS: &str = include_str!("definitions.yaml");
const DEFINITIONS_PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How many charts are worked on at once: each may be a download, and waits for its hooks.
const AT_ONCE: usize = 4;
/// How often it is looked whether the kinds are served.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What has to be known of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of files that charts may be of (`https://%{KUBERNETES_API}%/static/…`).
    pub files: PathBuf,
}

/// Starts to keep HelmCharts installed. `client` has to be a cluster administrator's: charts may hold anything.
pub fn start(config: Config, client: Client, caches: Caches, supervisor: &Supervisor) {
    let recorder = Recorder::new(client.clone(), supervisor, "helm-controller", "");
    let started = std::sync::Arc::new(OnceLock::new());
    supervisor.run("helm charts", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (config, client, caches) = (config.clone(), client.clone(), caches.clone());
        let (recorder, started) = (recorder.clone(), started.clone());
        async move {
            define(&client, &shutdown).await?;
            let controller: &Controller =
                started.get_or_init(|| Controller::new(client, caches, config, recorder));
            controller.synced().await;
            let working = controller.clone();
            controller.queue().work(shutdown, AT_ONCE, move |key| working.clone().sync(key)).await;
            Ok::<(), Error>(())
        }
    });
}

/// Makes the definitions as they are to be, and waits until their kinds are served.
async fn define(client: &Client, shutdown: &Shutdown) -> Result<(), Error> {
    for document in api::yaml::documents(DEFINITIONS) {
        let wanted =
            document.map_err(|error| Error::Wrong(format!("the kinds' definitions: {error}")))?.value;
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{DEFINITIONS_PATH}/{name}");
        let doing = format!("defining {name}");
        client.apply_at(&path, "knarr", &wanted).await.map_err(Error::api(doing.clone()))?;
        while !shutdown.is_requested() {
            let found: Value = client.read(&path).await.map_err(Error::api(doing.clone()))?;
            let mut conditions = found["status"]["conditions"].as_array().into_iter().flatten();
            if conditions.any(|one| one["type"] == "Established" && one["status"] == "True") {
                break;
            }
            clock::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Whether a chart is for this version of Kubernetes (`kubeVersion`).
fn check_version(chart: &Chart, version: &str) -> Result<(), Error> {
    let wanted = &chart.metadata.kube_version;
    if wanted.is_empty() {
        return Ok(());
    }
    let range = Range::parse(wanted).map_err(Error::Wrong)?;
    match Version::parse(version) {
        Some(own) if range.holds(&own) => Ok(()),
        _ => Err(Error::Wrong(format!(
            "chart requires kubeVersion: {wanted} which is incompatible with Kubernetes {version}"
        ))),
    }
}
