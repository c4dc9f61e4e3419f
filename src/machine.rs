//! What makes a machine a node: kubelet, service proxy, policies, DNS; of a server and of an agent alike.

use crate::life::Failure;
use crate::network::{Network, own_addresses};
use crate::options::{Options, Part, Role};
use crate::screen;
use base::{Exit, Supervisor};
use client::{Caches, Client};
use overlay::Backend;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a machine is in its cluster.
pub(crate) struct Place {
    pub(crate) node_name: String,
    pub(crate) tls: node::Tls,
    /// How the machine speaks to other nodes.
    pub(crate) peers: Arc<rustls::ClientConfig>,
    pub(crate) settings: node::Settings,
    pub(crate) role: Role,
}

pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_ascii_lowercase()
}

/// Starts what makes this machine a node, and waits until it is one.
pub(crate) async fn start(
    options: &Options,
    network: &Network,
    Place { node_name, tls, peers, settings, role }: Place,
    (kubelet, caches): (Client, Caches),
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let overlay = network.overlay(options, &node_name);
    network.check(options, overlay.tunnel()).await?;
    let attaches_pods = options.network_backend != Backend::None;
    let contained = if attaches_pods { network.cluster.as_slice() } else { &[] };
    net::contain(contained, &network.services).await?;
    for address in &network.dns {
        net::add_local_address(*address).await?;
    }
    let mut config = kubelet_config(options, network, (&node_name, role))?;
    config.tls = Some(tls);
    config.peers = options.embedded_registry.then_some(peers);
    config.encapsulation_bytes = overlay.overhead_bytes();
    config.attaches_pods = attaches_pods;
    let events = kubelet.clone();
    let policies = proxy::start_policies(&node_name, &network.dns, &caches, supervisor);
    let recalling = policies.clone();
    config.recall = Some(Arc::new(move |pods| recalling.recall(pods)));
    config.isolate = Some(Arc::new(move |pod, addresses| Box::pin(policies.admit(pod, addresses))));
    let mut config = config.told(settings)?;
    config.bind.set_ip(network.listening(config.bind.ip()));
    let node = node::start(config, kubelet, caches.clone(), supervisor).await?;
    overlay::start(overlay, events.clone(), &caches, supervisor);
    let proxy = proxy::Config {
        node_name,
        node_ips: network.node_ips.clone(),
        settings: proxy::Settings::read(&options.kube_proxy_arg)?,
        cluster_cidrs: network.cluster.clone(),
        service_cidrs: network.services.clone(),
        answered_here: network.dns.clone(),
    };
    let proxy = proxy::start(proxy, &caches, supervisor);
    let dns = dns::Config {
        listen: network.dns.iter().map(|address| SocketAddr::new(*address, 53)).collect(),
        cluster_domain: options.cluster_domain.clone(),
        resolv_conf: options.resolv_conf.clone(),
        blocks: network.blocks().map(|block| (block.address(), block.prefix())).collect(),
    };
    let dns = dns::start(dns, events, &caches, supervisor)?;
    // Who attaches pods instead may be one of the cluster's own pods.
    let attached = async {
        if attaches_pods {
            node.ready().await;
        }
    };
    tokio::select! {
        _ = async { tokio::join!(attached, proxy.ready(), dns.ready()) } => Ok(()),
        exit = supervisor.ended() => match exit {
            Exit::Requested => Ok(()),
            Exit::Task(name, why) => Err(format!("{name} ended: {why}").into()),
        },
    }
}

/// The kubelet's settings.
fn kubelet_config(
    options: &Options,
    network: &Network,
    (node_name, role): (&str, Role),
) -> Result<node::Config, Failure> {
    let mut config = node::Config::new(node_name, &options.data_dir);
    config.run_dir.clone_from(&options.run_dir);
    config.registries.clone_from(&options.private_registry);
    config.mirrors_alone = options.disable_default_registry_endpoint;
    config.kubelet_dir.clone_from(&options.kubelet_dir);
    config.log_dir = options.log_dir.join("pods");
    config.container_log_dir = options.log_dir.join("containers");
    config.container_runtime_endpoint.clone_from(&options.container_runtime_endpoint);
    config.node_ips.clone_from(&network.node_ips);
    if options.node_ip.is_empty() {
        let cluster = network.cluster.clone();
        config.find_addresses = Some(Arc::new(move || own_addresses(&cluster)));
    }
    config.external_ips.clone_from(&options.node_external_ip);
    config.labels = labels(&options.node_label)?;
    config.taints = options.node_taint.iter().map(|text| taint(text)).collect::<Result<_, _>>()?;
    config.cluster_dns.clone_from(&network.dns);
    config.cluster_domain.clone_from(&options.cluster_domain);
    config.cluster_cidrs.clone_from(&network.cluster);
    config.service_cidrs.clone_from(&network.services);
    let folder = options.data_dir.join("agent/pod-manifests");
    config.manifests = Some(node::Manifests { folder, complete: Arc::new(server::complete_pod) });
    config.shared_caches = role == Role::Server;
    if role == Role::Server && !options.is_disabled(Part::Ingress) {
        config.more_metrics.push(ingress::metrics);
    }
    screen::VERSION.clone_into(&mut config.version);
    Ok(config)
}

pub(crate) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = texts.iter().map(|text| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::from(format!("--node-label {text:?} has to be KEY=VALUE"))),
    });
    pairs.collect()
}

pub(crate) fn taint(text: &str) -> Result<api::core::Taint, Failure> {
    let wrong = || Failure::from(format!("--node-taint {text:?} has to be KEY=VALUE:EFFECT or KEY:EFFECT"));
    let (key, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") || key.is_empty() {
        return Err(wrong());
    }
    Ok(api::core::Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()).filter(|value| !value.is_empty()),
        effect: effect.to_owned(),
        ..api::core::Taint::default()
    })
}
