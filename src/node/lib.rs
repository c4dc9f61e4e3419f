//! The kubelet: registers this machine as a Node, keeps its pods as the API server wants them over
//! CRI, reports what they do, and serves their logs, terminals and ports.
//!
//! It must never write what the API server does not let it, nor keep state of its own that a restart
//! would lose: everything is read back from the runtime's labels and annotations, from the machine, and
//! from what is written down of a pod when it is taken (`checkpoint`). Start reading at [`start`], then
//! `pods::admission`, which takes pods, `pods::plan`, which decides, and `pods::worker`, which carries out.

mod affinity;
mod amount;
mod background;
mod bucket;
mod capacity;
mod cgroups;
mod checkpoint;
mod checksum;
mod config;
mod containerd;
mod context;
mod cri;
mod csi;
mod devices;
mod dra;
mod enforcement;
mod error;
mod eviction;
mod files;
mod garbage;
mod grpc;
mod hollow;
mod images;
mod logs;
mod machine;
mod network;
mod peers;
mod plugins;
mod pod_resources;
mod pods;
mod protocols {
    #![allow(
        clippy::all,
        missing_docs,
        unreachable_pub,
        dead_code,
        clippy::cast_possible_truncation,
        clippy::let_underscore_must_use,
        clippy::allow_attributes_without_reason,
        reason = "generated from proto/"
    )]
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}
mod provisions;
mod reach;
mod registration;
mod settings;
mod shutdown;
mod stats;
mod storage;
mod streaming;
mod turns;
mod turnstile;
mod volumes;

pub use config::{Complete, Config, FindAddresses, Isolate, Manifests, Recall, Size, Tls};
pub use containerd::find_program;
pub use error::Error;
pub use settings::Settings;

use api::core::Pod;
use base::{Phase, Ready, Restart, Shutdown, Supervisor};
use client::{Caches, Client};
use context::Context;
use hollow::Hollow;
use machine::Machine;
use peers::Door;
use pods::Pods;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Starts the kubelet: its tasks run under `supervisor` when this returns. Fails at once where the
/// machine lacks something that only a person can give it.
pub async fn start(
    config: Config,
    client: Client,
    caches: Caches,
    supervisor: &Supervisor,
) -> Result<Ready, Error> {
    let machine = Machine::detect(&config)?;
    let (runtime, door) = start_runtime(&config, supervisor).await?;
    if let Some(recall) = &config.recall {
        recall(pods::observe::there(&runtime).await?);
    }
    let images = config.data_dir.join("agent/images");
    volumes::share(&config.kubelet_dir)?;
    let context = Arc::new(Context::new(config, (client, caches), supervisor.clone(), runtime, machine));
    enforcement::protect(context.config.kubelet());
    enforcement::limit_reserved(&context)?;
    work(&context, "node allocatable", enforcement::run);
    Box::pin(context.images.start(&context)).await?;
    let handle = start_registration(&context);
    let (of, own) = (context.clone(), context.node.clone());
    supervisor.run("node network", Phase::Work, Restart::OnFailure, move |shutdown| {
        network::run(of.clone(), own.clone(), shutdown)
    });
    if let Some(find) = context.config.find_addresses.clone() {
        let of = context.clone();
        supervisor.run("addresses of the machine", Phase::Work, Restart::OnFailure, move |shutdown| {
            network::run_addresses(of.clone(), find.clone(), shutdown)
        });
    }
    let of = context.clone();
    supervisor.run("image archives", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (folder, context) = (images.clone(), of.clone());
        async move { containerd::images::run(&folder, &context, shutdown).await }
    });
    work(&context, "log rotation", logs::run_rotation);
    context.csi.in_use.recover(&context.config.kubelet_dir);
    context.devices.restore();
    start_devices(&context);
    context.dra.recover(&context.config.kubelet_dir)?;
    context.affinity.start(&context.config, &context.machine)?;
    let pods = start_pods(&context);
    start_plugins(&context, &pods);
    work_on_pods((&context, &pods), "image garbage collection", garbage::run);
    work_on_pods((&context, &pods), "machine shutdown", shutdown::run);
    work_on_pods((&context, &pods), "eviction", eviction::runner::run);
    work_on_pods((&context, &pods), "device health", devices::run_health);
    work(&context, "processors of containers", affinity::run);
    work_on_pods((&context, &pods), "resources of pods", pod_resources::run);
    work_on_pods((&context, &pods), "health of claimed devices", dra::run_health);
    dra::wipe_unserved(&context);
    start_server(&context, pods, door);
    Ok(handle)
}

/// Starts a kubelet with nothing below it, for load tests: its runtime only says that it runs pods. It serves
/// no HTTPS, writes no file and changes no network. `caches` are those that the process' nodes share, of what
/// many of them look at; `client` is the node's own.
pub fn start_hollow(
    config: Config,
    size: &Size,
    client: Client,
    caches: Caches,
    supervisor: &Supervisor,
) -> Ready {
    let machine = Machine::hollow(&config, size);
    let hollow = Hollow::new(size.spare, supervisor.clone());
    let runtime = cri::Runtime::hollow(hollow.clone());
    let context = Arc::new(Context::new(config, (client, caches), supervisor.clone(), runtime, machine));
    let handle = start_registration(&context);
    let nodes = context.node.clone();
    let (name, own) = (context.config.node_name.clone(), nodes.clone());
    supervisor.run("hollow network", Phase::Work, Restart::OnFailure, move |shutdown| {
        hollow.clone().follow_blocks(name.clone(), own.clone(), shutdown)
    });
    start_pods(&context);
    handle
}

/// Ready when the Node's condition Ready was written as True.
fn start_registration(context: &Arc<Context>) -> Ready {
    let sender = watch::Sender::new(false);
    let ready = Ready::of(&sender);
    let of = context.clone();
    context.supervisor.run("node registration", Phase::Work, Restart::OnFailure, move |shutdown| {
        registration::run(of.clone(), sender.clone(), shutdown)
    });
    ready
}

/// The kubelet's HTTPS, which other nodes ask for images as well.
fn start_server(context: &Arc<Context>, pods: Pods, door: Option<Door>) {
    let sharing = door.map(|door| peers::start(context, door));
    if let Some(tls) = context.config.tls.clone() {
        let service = streaming::Service::new(context.clone(), pods, sharing);
        context.supervisor.run("kubelet server", Phase::Front, Restart::OnFailure, move |shutdown| {
            streaming::run(service.clone(), tls.clone(), shutdown)
        });
    }
}

/// The runtime's connection; knarr's own containerd is started first where none is named. That asks other nodes for
/// images, if they are to share them.
async fn start_runtime(
    config: &Config,
    supervisor: &Supervisor,
) -> Result<(cri::Runtime, Option<Door>), Error> {
    if let Some(endpoint) = &config.container_runtime_endpoint {
        let socket = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let runtime = cri::Runtime::new(&socket)?;
        containerd::answering(&runtime).await.map_err(|error| {
            Error::Setup(format!("no container runtime answers at {}: {error}", socket.display()))
        })?;
        if config.peers.is_some() {
            peers::leave_out(&socket);
        }
        return Ok((runtime, None));
    }
    let (daemon, door) = containerd::Containerd::prepare(config).await?;
    let daemon = Arc::new(daemon);
    let runtime = cri::Runtime::new(&daemon.socket())?;
    // An old one that is to end must not answer meanwhile as if it were the new one.
    daemon.adopt(&runtime).await?;
    let (own, of) = (daemon.clone(), runtime.clone());
    supervisor.run("containerd", Phase::Ground, Restart::OnFailure, move |shutdown| {
        let (daemon, runtime) = (own.clone(), of.clone());
        async move { daemon.run(&runtime, shutdown).await }
    });
    if let Some(rewriter) = daemon.rewriter.clone() {
        let own = supervisor.clone();
        supervisor.run("mirrors with rewrite", Phase::Ground, Restart::OnFailure, move |shutdown| {
            let (rewriter, supervisor) = (rewriter.clone(), own.clone());
            async move { rewriter.run(supervisor, shutdown).await }
        });
    }
    containerd::answering(&runtime).await.map_err(|error| {
        Error::Setup(format!("containerd does not answer ({error}): {}", daemon.last_words()))
    })?;
    containerd::images::ensure_pause(&runtime).await?;
    Ok((runtime, door))
}

/// Runs a part of the node until the node ends.
fn work<Working>(context: &Arc<Context>, name: &str, run: fn(Arc<Context>, Shutdown) -> Working)
where
    Working: Future<Output = Result<(), Error>> + Send + 'static,
{
    let of = context.clone();
    context.supervisor.run(name, Phase::Work, Restart::OnFailure, move |shutdown| run(of.clone(), shutdown));
}

/// Runs a part of the node that has to do with its pods, until the node ends.
fn work_on_pods<Working>(
    (context, pods): (&Arc<Context>, &Pods),
    name: &str,
    run: fn(Arc<Context>, Pods, Shutdown) -> Working,
) where
    Working: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (of, pods) = (context.clone(), pods.clone());
    context
        .supervisor
        .run(name, Phase::Work, Restart::OnFailure, move |shutdown| run(of.clone(), pods.clone(), shutdown));
}

fn start_devices(context: &Arc<Context>) {
    work(context, "device plugins", devices::run);
    work(context, "device expiry", devices::run_expiry);
}

/// Caches of what is this node's alone: it watches that as itself.
fn own_caches(context: &Context) -> Caches {
    Caches::new(context.client.clone(), context.supervisor.clone())
}

/// Drivers of storage and devices, which are pods or programs beside.
fn start_plugins(context: &Arc<Context>, pods: &Pods) {
    work(context, "plugin sockets", plugins::run);
    work(context, "node's drivers of storage", csi::run_node_info);
    work(context, "room of drivers of storage", csi::run_allocatable);
    work_on_pods((context, pods), "volumes in use", csi::run_in_use);
    work_on_pods((context, pods), "health of volumes", csi::run_volume_health);
}

fn start_pods(context: &Arc<Context>) -> Pods {
    let selector = format!("spec.nodeName={}", context.config.node_name);
    // Of its own also where all pods are held: those (`api::slim`) lack what only their nodes act upon.
    let cache = own_caches(context).selected::<Pod>("", &selector);
    let pods = Pods::default();
    let (of, registry) = (context.clone(), pods.clone());
    context.supervisor.run("pods", Phase::Work, Restart::OnFailure, move |shutdown| {
        pods::run(of.clone(), registry.clone(), cache.clone(), shutdown)
    });
    work_on_pods((context, &pods), "static pods", pods::manifests::run);
    work_on_pods((context, &pods), "runtime events", pods::run_runtime);
    work_on_pods((context, &pods), "returns of the API server", pods::run_returns);
    work_on_pods((context, &pods), "pod admission", pods::run_admission);
    pods
}
