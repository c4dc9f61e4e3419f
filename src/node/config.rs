//! What the room is started with.

use crate::settings::{KubeletConfiguration, PORT};
use crate::{Error, Settings};
use api::Quantity;
use api::core::{Pod, Taint};
use futures_util::future::BoxFuture;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Kubernetes' version that the node reports.
const VERSION: &str = "v1.36.2+knarr";

/// The serving side of the kubelet's HTTPS. Both are looked up per connection, so that certificates
/// can be renewed while running.
#[derive(Clone)]
pub struct Tls {
    /// The serving certificate.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Verifies client certificates by the cluster's authority.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// The common name that the API server's client certificate carries; the group `system:masters`
    /// is let in as well.
    pub api_server: String,
}

/// What a hollow node says it has.
#[derive(Clone, Debug)]
pub struct Size {
    /// Processors.
    pub cpu: Quantity,
    /// Memory, and as much storage.
    pub memory: Quantity,
    /// Addresses of its pods where the cluster has given it no block.
    pub spare: net::Cidr,
}

/// Fills in what a pod's manifest leaves out, and says what is wrong with it, as the API server would.
pub type Complete = Arc<dyn Fn(Value) -> Result<Value, String> + Send + Sync>;

/// Pods that the node runs by itself.
#[derive(Clone)]
pub struct Manifests {
    /// A folder with a manifest of a pod in each file.
    pub folder: PathBuf,
    /// Rules of the API.
    pub complete: Complete,
}

/// Completes when a pod may send and receive: the rules of its network hold for the addresses it was given.
pub type Isolate = Arc<dyn Fn(&Pod, &[IpAddr]) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Is told once which pods the runtime has at the start, as far as it knows them, and their addresses.
pub type Recall = Arc<dyn Fn(Vec<(Pod, Vec<IpAddr>)>) + Send + Sync>;

/// Finds the machine's addresses as they are now.
pub type FindAddresses = Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>;

/// The kubelet's settings. Start from [`Config::new`].
#[derive(Clone)]
pub struct Config {
    /// The Node's name.
    pub node_name: String,
    /// Awaited before any container of a pod runs.
    pub isolate: Option<Isolate>,
    /// Called before anything is done to pods.
    pub recall: Option<Recall>,
    /// knarr's data, `/var/lib/knarr`.
    pub data_dir: PathBuf,
    /// What is lost when the machine restarts, `/run/knarr`.
    pub run_dir: PathBuf,
    /// Pods' volumes and files, `/var/lib/kubelet` as everywhere, because storage plugins look there.
    pub kubelet_dir: PathBuf,
    /// Container logs, `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Links to them, `/var/log/containers`.
    pub container_log_dir: PathBuf,
    /// Mirrors of registries and how to speak to them, `/etc/knarr/registries.yaml`; there may be none.
    pub registries: PathBuf,
    /// Nodes pull images of those mirrors' registries from each other: how this node is known to the others, and
    /// whom it takes for one.
    pub peers: Option<Arc<rustls::ClientConfig>>,
    /// Registries with mirrors are not asked themselves.
    pub mirrors_alone: bool,
    /// A runtime that runs already (`unix:///…`); none to run a containerd of our own.
    pub container_runtime_endpoint: Option<String>,
    /// The node's addresses; none to take that of the default route.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of the node from outside.
    pub external_ips: Vec<IpAddr>,
    /// knarr's own plugin attaches pods where no configuration of others comes first; otherwise they wait for one.
    pub attaches_pods: bool,
    /// What is put around packets on their way to other nodes: pods' are smaller by it.
    pub encapsulation_bytes: u32,
    /// Finds the node's addresses anew when links or routes have changed; none where they were given and stay.
    pub find_addresses: Option<FindAddresses>,
    /// Labels that the node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<Taint>,
    /// The cluster's name servers.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The addresses of all pods.
    pub cluster_cidrs: Vec<net::Cidr>,
    /// The addresses of all services.
    pub service_cidrs: Vec<net::Cidr>,
    /// The cgroup below which the pods' begin, "" for the top.
    pub cgroup_root: String,
    /// Pods of the node itself; none to have none.
    pub manifests: Option<Manifests>,
    /// What other parts of the process count, in Prometheus' text format, to be shown at `/metrics` too.
    pub more_metrics: Vec<fn() -> String>,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Where the kubelet's HTTPS listens.
    pub bind: SocketAddr,
    /// Certificates for it; none to serve nothing.
    pub tls: Option<Tls>,
    /// This process holds a cache of all nodes anyway, as a server does: share it.
    pub shared_caches: bool,
    /// The version that the node reports.
    pub version: String,
    /// What the kubelet is told besides; see [`Config::told`].
    pub(crate) settings: Settings,
}

impl Config {
    /// The defaults for a node of this name with its data in this folder.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            isolate: None,
            recall: None,
            data_dir: data_dir.into(),
            run_dir: "/run/knarr".into(),
            kubelet_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            container_log_dir: "/var/log/containers".into(),
            registries: "/etc/knarr/registries.yaml".into(),
            peers: None,
            mirrors_alone: false,
            container_runtime_endpoint: None,
            node_ips: Vec::new(),
            find_addresses: None,
            external_ips: Vec::new(),
            attaches_pods: true,
            encapsulation_bytes: 0,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cgroup_root: String::new(),
            manifests: None,
            more_metrics: Vec::new(),
            max_pods: 110,
            bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            tls: None,
            shared_caches: false,
            version: VERSION.to_owned(),
            settings: Settings::default(),
        }
    }

    /// Takes over what the kubelet is told by its own settings, which win over knarr's of the same thing.
    pub fn told(mut self, settings: Settings) -> Result<Self, Error> {
        let kubelet = settings.kubelet.clone();
        let address = |text: &str| -> Result<IpAddr, Error> {
            text.parse().map_err(|_| Error::Setup(format!("--kubelet-arg: {text:?} is no address")))
        };
        self.labels.extend(settings.node_labels.clone());
        self.taints.extend(kubelet.register_with_taints.clone());
        self.max_pods = u32::try_from(kubelet.max_pods).unwrap_or(u32::MAX);
        if !kubelet.cluster_dns.is_empty() {
            self.cluster_dns =
                kubelet.cluster_dns.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
        }
        let or = |given: &String, own: &mut String| {
            if !given.is_empty() {
                own.clone_from(given);
            }
        };
        or(&kubelet.cluster_domain, &mut self.cluster_domain);
        or(&kubelet.cgroup_root, &mut self.cgroup_root);
        if !kubelet.pod_logs_dir.is_empty() {
            self.log_dir = PathBuf::from(&kubelet.pod_logs_dir);
        }
        if !kubelet.container_runtime_endpoint.is_empty() {
            self.container_runtime_endpoint = Some(kubelet.container_runtime_endpoint.clone());
        }
        if let Some(manifests) = self.manifests.as_mut().filter(|_| !kubelet.static_pod_path.is_empty()) {
            manifests.folder = PathBuf::from(&kubelet.static_pod_path);
        }
        self.bind = SocketAddr::new(address(&kubelet.address)?, settings.port());
        if !kubelet.enable_server {
            self.tls = None;
        }
        self.settings = settings;
        Ok(self)
    }

    /// The kubelet's own configuration.
    pub(crate) fn kubelet(&self) -> &KubeletConfiguration {
        &self.settings.kubelet
    }
}
