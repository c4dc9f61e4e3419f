//! The settings of `knarr server` and `knarr agent`: one table, from which flags, environment variables, the keys
//! of configuration files and the help text are made. Names are k3s' where k3s has the setting.

use crate::options_others::{self, OTHERS, SERVER_OF_SERVERS};
use crate::s3;
use api::egress::Egress;
use base::config::{Error, Known, Layers, Meaning, Other, Shape};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU16, NonZeroU64};
use std::path::{Path, PathBuf};

/// Whose a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Agent,
}

/// One setting.
struct Setting {
    /// None for both.
    of: Option<Role>,
    name: &'static str,
    shape: Shape,
    /// What the value is, in help texts.
    value: &'static str,
    help: &'static str,
}

const fn setting(name: &'static str, shape: Shape, value: &'static str, help: &'static str) -> Setting {
    Setting { of: None, name, shape, value, help }
}

/// A setting of servers alone.
const fn server(name: &'static str, shape: Shape, value: &'static str, help: &'static str) -> Setting {
    Setting { of: Some(Role::Server), name, shape, value, help }
}

/// A setting of agents alone.
const fn agent(name: &'static str, shape: Shape, value: &'static str, help: &'static str) -> Setting {
    Setting { of: Some(Role::Agent), name, shape, value, help }
}

impl Setting {
    fn is_for(&self, role: Role) -> bool {
        self.of.is_none_or(|of| of == role)
    }
}

/// What all nodes of a cluster have in common: servers tell it, and an agent that is told otherwise does not start.
pub(crate) const SHARED: [&str; 11] = [
    "cluster-cidr",
    "service-cidr",
    "cluster-dns",
    "cluster-domain",
    "network-backend",
    "direct-routing",
    "network-external-ip",
    "vxlan-port",
    "wireguard-port",
    "egress-selector-mode",
    "embedded-registry",
];

use Shape::{Flag, List, Number, Text, Texts};

#[rustfmt::skip]
static SETTINGS: &[Setting] = &[
    agent("join", Text, "URL", "A server of the cluster, such as https://192.0.2.1:6443 [also: KNARR_URL]"),
    setting("token", Text, "TOKEN", "The secret by which machines join; others on this machine see it in the list of processes: prefer the next"),
    setting("token-file", Text, "FILE", "Where the token is, or `KNARR_TOKEN` in the environment"),
    setting("data-dir", Text, "FOLDER", "Where knarr keeps its state [default: /var/lib/knarr]"),
    server("bind-address", Text, "ADDRESS", "Address the API listens on [default: 0.0.0.0]"),
    server("https-listen-port", Number, "PORT", "Port the API listens on [default: 6443]"),
    server("datastore-endpoint", List, "URL", "Members of an etcd that servers share, such as https://192.0.2.1:2379 [default: a database of this server's own]"),
    server("datastore-cafile", Text, "FILE", "The authorities that vouch for etcd, in PEM [default: the machine's]"),
    server("datastore-certfile", Text, "FILE", "The certificate to show to etcd, in PEM"),
    server("datastore-keyfile", Text, "FILE", "Its key, in PEM"),
    server("datastore-prefix", Text, "PREFIX", "What the cluster's keys in etcd start with [default: /knarr]"),
    server("prune-manifests", Flag, "", "Delete what a manifest in `server/manifests` brought when its file goes"),
    server("secrets-encryption", Flag, "", "Seal Secrets in the datastore from the first start on; later `knarr secrets-encrypt` does"),
    server("encryption-provider-config", Text, "FILE", "An EncryptionConfiguration that says what is sealed in the datastore, in place of the cluster's own"),
    server("snapshot-dir", Text, "FOLDER", "Where snapshots are kept [default: server/db/snapshots in the data folder]"),
    server("snapshot-schedule-cron", Text, "SCHEDULE", "When snapshots are taken, as cron says it; empty for never [default: 0 */12 * * *]"),
    server("snapshot-retention", Number, "NUMBER", "How many of those are kept [default: 5]"),
    server("s3", Flag, "", "Put snapshots into a bucket of S3-compatible storage as well"),
    server("s3-endpoint", Text, "HOST", "Where the storage is [default: s3.amazonaws.com]"),
    server("s3-endpoint-ca", Text, "FILE", "The authorities that vouch for it, in PEM [default: the machine's]"),
    server("s3-skip-ssl-verify", Flag, "", "Take whoever answers for the storage"),
    server("s3-access-key", Text, "KEY", "Who asks, or `AWS_ACCESS_KEY_ID` in the environment"),
    server("s3-secret-key", Text, "KEY", "By which that is proved; others on this machine see it in the list of processes: prefer the configuration file, `AWS_SECRET_ACCESS_KEY` or a Secret"),
    server("s3-session-token", Text, "TOKEN", "What goes with keys for a time, or `AWS_SESSION_TOKEN`"),
    server("s3-bucket", Text, "NAME", "The bucket"),
    server("s3-region", Text, "NAME", "Its region [default: us-east-1]"),
    server("s3-folder", Text, "FOLDER", "The folder in it"),
    server("s3-insecure", Flag, "", "Speak plain HTTP"),
    server("s3-timeout", Text, "TIME", "How long one request may take [default: 5m]"),
    server("s3-bucket-lookup-type", Text, "HOW", "Where the bucket's name stands: dns (in the host), path, auto [default: auto]"),
    server("s3-config-secret", Text, "NAME", "A Secret in kube-system that says what is not said here, with k3s' keys (etcd-s3-bucket, …)"),
    server("s3-retention", Number, "NUMBER", "How many snapshots taken by the clock are kept in the bucket [default: 5]"),
    server("advertise-address", Text, "ADDRESS", "Address under which others reach the API [default: the node's]"),
    server("tls-san", List, "NAME", "Additional names and addresses in the API's certificate"),
    setting("cluster-cidr", List, "BLOCK", "Addresses of pods; two blocks for IPv4 and IPv6 [default: 10.42.0.0/16]"),
    setting("service-cidr", List, "BLOCK", "Addresses of services; two blocks for IPv4 and IPv6 [default: 10.43.0.0/16]"),
    server("service-node-port-range", Text, "RANGE", "Ports of the node for services [default: 30000-32767]"),
    setting("cluster-dns", List, "ADDRESS", "Address of cluster DNS [default: the tenth of the services']"),
    setting("cluster-domain", Text, "DOMAIN", "Domain of the cluster's names [default: cluster.local]"),
    setting("network-backend", Text, "BACKEND", "How pods reach those of other nodes: vxlan, host-gw (all nodes share a link), wireguard (encrypted), none (another network plugin's work, as attaching pods) [default: vxlan]"),
    setting("direct-routing", Flag, "", "With vxlan: send packets as they are to nodes on a link of this one"),
    setting("network-external-ip", Flag, "", "With vxlan or wireguard: reach nodes that share no link by their external addresses"),
    setting("vxlan-port", Number, "PORT", "Port of vxlan [default: 8472]"),
    setting("wireguard-port", Number, "PORT", "Port of wireguard [default: 51820]"),
    setting("egress-selector-mode", Text, "MODE", "What servers reach through the tunnels of agents: disabled (nothing), agent (kubelets), pod (pods, too), cluster (all that Services lead to, too) [default: agent]"),
    setting("resolv-conf", Text, "FILE", "Names the resolvers for other names [default: /etc/resolv.conf]"),
    server("write-kubeconfig", Text, "FILE", "Where the administrator's kubeconfig is written [default: /etc/knarr/knarr.yaml]"),
    server("write-kubeconfig-mode", Text, "MODE", "Its permissions, in octal [default: 600]"),
    setting("private-registry", Text, "FILE", "Mirrors of registries, users and certificates [default: /etc/knarr/registries.yaml]"),
    setting("embedded-registry", Flag, "", "Nodes pull images from each other, of registries that have an entry among the mirrors"),
    setting("disable-default-registry-endpoint", Flag, "", "Do not ask registries themselves that have an entry among the mirrors"),
    setting("node-name", Text, "NAME", "Name of this node [default: the host's name]"),
    setting("node-ip", List, "ADDRESS", "Addresses of this node [default: that of the default route]"),
    setting("node-external-ip", List, "ADDRESS", "Addresses of this node from outside"),
    setting("node-label", List, "KEY=VALUE", "Labels this node registers with"),
    setting("node-taint", List, "KEY=VALUE:EFFECT", "Taints this node registers with"),
    setting("kubelet-arg", Texts, "NAME=VALUE", "Flags of the kubelet: max-pods=50; config=FILE names a KubeletConfiguration"),
    setting("container-runtime-endpoint", Text, "SOCKET", "Use this CRI runtime instead of running containerd"),
    setting("kubelet-dir", Text, "FOLDER", "Where pods' volumes are kept [default: /var/lib/kubelet]"),
    setting("run-dir", Text, "FOLDER", "What a reboot may lose [default: /run/knarr]"),
    setting("log-dir", Text, "FOLDER", "Where container logs are kept [default: /var/log]"),
    server("watch-history-bytes", Number, "BYTES", "Changes kept in memory, for watches that go on from an older version [default: 16777216]"),
    server("compaction-interval", Number, "SECONDS", "How often older states are forgotten: a list can be read on in pages for one to two of these [default: 300]"),
    setting("log-format", Text, "FORMAT", "text or json [default: text]"),
    setting("debug", Flag, "", "Log what knarr decides, not only what an operator should know"),
    server("disable", List, "PART", "Leave a part out: ingress, servicelb (Services of type LoadBalancer get no nodes' addresses), helm-controller (HelmCharts are not installed)"),
    server("lb-range", List, "RANGE", "Addresses for Services of type LoadBalancer, which nodes answer for by ARP and NDP: FIRST-LAST or a block"),
    server("ingress-http-port", Number, "PORT", "Port of the nodes for Ingresses [default: 80]"),
    server("ingress-https-port", Number, "PORT", "Port of the nodes for Ingresses over TLS [default: 443]"),
    server("ingress-access-log", Flag, "", "Log each request that comes in by an Ingress"),
    server("ingress-trusted-proxies", List, "BLOCK", "Addresses whose X-Forwarded headers are believed [default: nobody's]"),
    server("ingress-proxy-protocol", Flag, "", "Those proxies begin each connection with the PROXY protocol"),
    server("disable-agent", Flag, "", "Run the control plane alone: no node, no pods, no proxy, no DNS"),
    server("disable-controller-manager", Flag, "", "Run no controllers: objects are kept, and nobody acts on them"),
    server("kube-scheduler-arg", List, "KEY=VALUE", "Settings of the scheduler: config=FILE names a KubeSchedulerConfiguration"),
    setting("kube-proxy-arg", Texts, "NAME=VALUE", "Flags of the service proxy: nodeport-addresses=BLOCK,… or primary; healthz-bind-address, metrics-bind-address, masquerade-all"),
    server("disable-scheduler", Flag, "", "Run no scheduler: another one puts pods on nodes"),
    server("leader-elect", Flag, "", "Elect by Leases who runs controllers and scheduler [default: where servers share an etcd]"),
];

/// What `--disable` leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Ingress,
    ServiceLb,
    HelmController,
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let stays = match name.as_str() {
            // Traefik is what k3s has for it.
            "ingress" | "traefik" => return Ok(Self::Ingress),
            "servicelb" => return Ok(Self::ServiceLb),
            "helm-controller" => return Ok(Self::HelmController),
            "coredns" => "cluster DNS is a part of every node, and takes a few hundred kilobytes",
            "local-storage" => {
                "nothing of it runs while no claim asks for it; its StorageClass can be deleted"
            }
            "metrics-server" => "nothing of it runs while nobody asks",
            "runtimes" => "RuntimeClasses are made by nobody but you",
            _ => {
                let parts = "the parts are `ingress`, `servicelb` and `helm-controller`";
                return Err(D::Error::custom(format!("there is no part {name:?}: {parts}")));
            }
        };
        Err(D::Error::custom(format!("{name} cannot be left out: {stays}")))
    }
}

/// A secret, which no log shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The settings, merged from all layers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Options {
    pub(crate) join: Option<String>,
    pub(crate) token: Option<Hidden>,
    pub(crate) token_file: Option<PathBuf>,
    #[serde(deserialize_with = "absolute")]
    pub(crate) data_dir: PathBuf,
    pub(crate) bind_address: IpAddr,
    pub(crate) https_listen_port: u16,
    pub(crate) datastore_endpoint: Vec<String>,
    pub(crate) datastore_cafile: Option<PathBuf>,
    pub(crate) datastore_certfile: Option<PathBuf>,
    pub(crate) datastore_keyfile: Option<PathBuf>,
    pub(crate) datastore_prefix: String,
    pub(crate) prune_manifests: bool,
    pub(crate) secrets_encryption: bool,
    pub(crate) encryption_provider_config: Option<PathBuf>,
    pub(crate) snapshot_dir: Option<PathBuf>,
    pub(crate) snapshot_schedule_cron: String,
    pub(crate) snapshot_retention: usize,
    #[serde(flatten)]
    pub(crate) s3: s3::Settings,
    pub(crate) s3_retention: usize,
    pub(crate) advertise_address: Option<IpAddr>,
    pub(crate) tls_san: Vec<String>,
    pub(crate) cluster_cidr: Vec<String>,
    pub(crate) service_cidr: Vec<String>,
    pub(crate) service_node_port_range: String,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    #[serde(deserialize_with = "absolute")]
    pub(crate) resolv_conf: PathBuf,
    #[serde(deserialize_with = "absolute")]
    pub(crate) write_kubeconfig: PathBuf,
    pub(crate) write_kubeconfig_mode: String,
    pub(crate) node_name: Option<String>,
    pub(crate) node_ip: Vec<IpAddr>,
    pub(crate) node_external_ip: Vec<IpAddr>,
    pub(crate) network_backend: overlay::Backend,
    pub(crate) direct_routing: bool,
    pub(crate) network_external_ip: bool,
    pub(crate) vxlan_port: NonZeroU16,
    pub(crate) wireguard_port: NonZeroU16,
    pub(crate) egress_selector_mode: Egress,
    pub(crate) node_label: Vec<String>,
    pub(crate) node_taint: Vec<String>,
    pub(crate) kubelet_arg: Vec<String>,
    pub(crate) container_runtime_endpoint: Option<String>,
    #[serde(deserialize_with = "absolute")]
    pub(crate) private_registry: PathBuf,
    pub(crate) embedded_registry: bool,
    pub(crate) disable_default_registry_endpoint: bool,
    #[serde(deserialize_with = "absolute")]
    pub(crate) kubelet_dir: PathBuf,
    #[serde(deserialize_with = "absolute")]
    pub(crate) run_dir: PathBuf,
    #[serde(deserialize_with = "absolute")]
    pub(crate) log_dir: PathBuf,
    pub(crate) watch_history_bytes: usize,
    pub(crate) compaction_interval: NonZeroU64,
    pub(crate) log_format: base::log::Format,
    pub(crate) debug: bool,
    pub(crate) disable: Vec<Part>,
    pub(crate) lb_range: Vec<controllers::AddressRange>,
    pub(crate) ingress_http_port: NonZeroU16,
    pub(crate) ingress_https_port: NonZeroU16,
    pub(crate) ingress_access_log: bool,
    pub(crate) ingress_trusted_proxies: Vec<String>,
    pub(crate) ingress_proxy_protocol: bool,
    pub(crate) disable_agent: bool,
    pub(crate) disable_controller_manager: bool,
    pub(crate) kube_scheduler_arg: Vec<String>,
    pub(crate) kube_proxy_arg: Vec<String>,
    pub(crate) disable_scheduler: bool,
    pub(crate) leader_elect: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            join: None,
            token: None,
            token_file: None,
            data_dir: "/var/lib/knarr".into(),
            bind_address: Ipv4Addr::UNSPECIFIED.into(),
            https_listen_port: 6443,
            datastore_endpoint: Vec::new(),
            datastore_cafile: None,
            datastore_certfile: None,
            datastore_keyfile: None,
            datastore_prefix: "/knarr".to_owned(),
            prune_manifests: false,
            secrets_encryption: false,
            encryption_provider_config: None,
            snapshot_dir: None,
            snapshot_schedule_cron: "0 */12 * * *".to_owned(),
            snapshot_retention: 5,
            s3: s3::Settings::default(),
            s3_retention: 5,
            advertise_address: None,
            tls_san: Vec::new(),
            cluster_cidr: vec!["10.42.0.0/16".to_owned()],
            service_cidr: vec!["10.43.0.0/16".to_owned()],
            service_node_port_range: "30000-32767".to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            write_kubeconfig: "/etc/knarr/knarr.yaml".into(),
            write_kubeconfig_mode: "600".to_owned(),
            node_name: None,
            node_ip: Vec::new(),
            node_external_ip: Vec::new(),
            network_backend: overlay::Backend::Vxlan,
            direct_routing: false,
            network_external_ip: false,
            vxlan_port: NonZeroU16::new(8_472).expect("it is more than nothing"),
            wireguard_port: NonZeroU16::new(51_820).expect("it is more than nothing"),
            egress_selector_mode: Egress::Agent,
            node_label: Vec::new(),
            node_taint: Vec::new(),
            kubelet_arg: Vec::new(),
            container_runtime_endpoint: None,
            private_registry: "/etc/knarr/registries.yaml".into(),
            embedded_registry: false,
            disable_default_registry_endpoint: false,
            kubelet_dir: "/var/lib/kubelet".into(),
            run_dir: "/run/knarr".into(),
            log_dir: "/var/log".into(),
            watch_history_bytes: 16 << 20,
            // Kubernetes' of etcd.
            compaction_interval: NonZeroU64::new(300).expect("it is more than nothing"),
            log_format: base::log::Format::Text,
            debug: false,
            disable: Vec::new(),
            lb_range: Vec::new(),
            ingress_http_port: NonZeroU16::new(80).expect("it is more than nothing"),
            ingress_https_port: NonZeroU16::new(443).expect("it is more than nothing"),
            ingress_access_log: false,
            ingress_trusted_proxies: Vec::new(),
            ingress_proxy_protocol: false,
            disable_agent: false,
            disable_controller_manager: false,
            kube_scheduler_arg: Vec::new(),
            kube_proxy_arg: Vec::new(),
            disable_scheduler: false,
            leader_elect: false,
        }
    }
}

impl Options {
    /// Whether other servers may share this one's store.
    pub(crate) fn is_shared(&self) -> bool {
        self.leader_elect || !self.datastore_endpoint.is_empty()
    }

    /// Whether a part was left out.
    pub(crate) fn is_disabled(&self, part: Part) -> bool {
        self.disable.contains(&part)
    }

    /// The etcd that the state is kept in; none where it is in a database of this server's own.
    pub(crate) fn datastore(&self) -> Result<Option<server::Remote>, String> {
        let certificate = match (&self.datastore_certfile, &self.datastore_keyfile) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err("--datastore-certfile and --datastore-keyfile go together".to_owned()),
        };
        let prefix = self.datastore_prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Err(
                "--datastore-prefix has to name something, or keys of others would be read".to_owned()
            );
        }
        let remote = server::Remote {
            endpoints: self.datastore_endpoint.clone(),
            prefix: format!("{prefix}/"),
            authority: self.datastore_cafile.clone(),
            certificate,
        };
        match (self.datastore_endpoint.is_empty(), &remote.authority, &remote.certificate) {
            (false, ..) => Ok(Some(remote)),
            (true, None, None) => Ok(None),
            _ => {
                Err("--datastore-cafile and --datastore-certfile are of use with --datastore-endpoint"
                    .to_owned())
            }
        }
    }

    /// The token as it was given, from a file or by itself.
    pub(crate) fn given_token(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.token_file else {
            return Ok(self.token.as_ref().map(|token| token.0.trim().to_owned()));
        };
        let read = std::fs::read_to_string(file);
        let text = read.map_err(|error| format!("--token-file {}: {error}", file.display()))?;
        Ok(Some(text.trim().to_owned()))
    }
}

const CONFIG: &str = "/etc/knarr/config.yaml";

/// The command line of `knarr server` or `knarr agent`, with the names that others have.
pub(crate) fn command(role: Role) -> Command {
    let others = others(role).into_iter().filter(|other| !matches!(other.meaning, Meaning::Same(_)));
    others.fold(own_command(role), |command, other| command.arg(options_others::argument(&other)))
}

/// The same with what there is alone, for those who are to choose.
pub(crate) fn own_command(role: Role) -> Command {
    let config = Arg::new("config").short('c').long("config").value_name("FILE").default_value(CONFIG);
    let (name, about) = match role {
        Role::Server => {
            ("server", "Run a cluster on this machine: API, scheduler, controllers, node, network, DNS")
        }
        Role::Agent => ("agent", "Make this machine a node of a cluster: pods, network, services, DNS"),
    };
    let command = Command::new(name)
        .about(about)
        .after_help("Every setting is also a key of the configuration file and of the *.yaml files in the folder\nbeside it (config.yaml.d), and an environment variable: --node-label is node-label: and KNARR_NODE_LABEL.")
        .arg(config.help("The configuration file"));
    let own = SETTINGS.iter().filter(|setting| setting.is_for(role));
    own.fold(command, |command, setting| command.arg(argument(setting)))
}

/// The names that others have for what is set here.
fn others(role: Role) -> Vec<Other> {
    let is_known = |name: &str| SETTINGS.iter().any(|setting| setting.name == name && setting.is_for(role));
    let own = OTHERS.iter().copied().filter(|other| match other.meaning {
        Meaning::Same(name) | Meaning::With(name, _) => is_known(name),
        Meaning::So | Meaning::Refused(_) => true,
    });
    own.chain((role == Role::Server).then_some(SERVER_OF_SERVERS)).collect()
}

/// A command that takes some of the server's settings, from all layers.
pub(crate) fn subset(command: Command, names: &[&str]) -> Command {
    let config = Arg::new("config").short('c').long("config").value_name("FILE").default_value(CONFIG);
    let own = SETTINGS.iter().filter(|setting| names.contains(&setting.name));
    own.fold(command.arg(config.help("The configuration file")), |command, setting| {
        command.arg(argument(setting))
    })
}

fn argument(setting: &'static Setting) -> Arg {
    let others =
        OTHERS.iter().filter(|other| matches!(other.meaning, Meaning::Same(own) if own == setting.name));
    let argument = Arg::new(setting.name)
        .long(setting.name)
        .help(setting.help)
        .aliases(others.map(|other| other.name).collect::<Vec<_>>());
    let argument = options_others::short(setting.name).into_iter().fold(argument, Arg::short);
    match setting.shape {
        Flag => argument.action(ArgAction::SetTrue),
        List => argument.value_name(setting.value).action(ArgAction::Append).value_delimiter(','),
        Texts => argument.value_name(setting.value).action(ArgAction::Append),
        Text | Number => argument.value_name(setting.value),
    }
}

/// What was said, before it is settled.
pub(crate) struct Given {
    known: Known,
    layers: Layers,
}

/// Reads all layers: files, environment, flags.
pub(crate) fn read(role: Role, matches: &ArgMatches) -> Result<Given, Error> {
    read_with(role, matches, std::env::vars())
}

/// Reads all layers with the environment of another process.
pub(crate) fn read_with(
    role: Role,
    matches: &ArgMatches,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Given, Error> {
    let variables: Vec<(String, String)> = variables.collect();
    let own = || SETTINGS.iter().filter(|setting| setting.is_for(role));
    let known: Known = own().map(|setting| (setting.name, setting.shape)).collect();
    let file = matches.get_one::<String>("config").map_or(CONFIG, String::as_str);
    let mut layers = Layers::with(others(role).into_iter());
    layers.read_files(&known, Path::new(file))?;
    let url = variables.iter().find(|(name, _)| name == "KNARR_URL" && role == Role::Agent);
    if let Some((_, url)) = url {
        layers.set("environment variable KNARR_URL", &known, "join", Value::String(url.clone()))?;
    }
    layers.read_environment(&known, "KNARR_", variables.into_iter())?;
    // Of a command that takes some of them, others are not known at all.
    let is_taken = |setting: &&Setting| matches.ids().any(|id| id.as_str() == setting.name);
    for setting in own().filter(is_taken) {
        if let Some(value) = flag_value(matches, setting) {
            layers.set_flag(&known, setting.name, value)?;
        }
    }
    let others = others(role);
    for other in others.iter().filter(|other| matches.ids().any(|id| id.as_str() == other.name)) {
        if let Some(value) = options_others::given(matches, other) {
            layers.set_flag(&known, other.name, value)?;
        }
    }
    Ok(Given { known, layers })
}

impl Given {
    /// The settings.
    pub(crate) fn options(&self) -> Result<Options, Error> {
        self.layers.decode()
    }

    /// The settings with those that the cluster's nodes have in common.
    pub(crate) fn shared(mut self, cluster: &Map<String, Value>) -> Result<Options, String> {
        for name in SHARED {
            let Some(value) = cluster.get(name) else { continue };
            if let Some((origin, own)) = self.layers.get(name).filter(|(_, own)| *own != value) {
                return Err(format!(
                    "{origin}: {name} is {own} here and {value} in the cluster: leave it out, or set what the cluster has"
                ));
            }
            self.layers
                .set("the cluster", &self.known, name, value.clone())
                .map_err(|error| error.to_string())?;
        }
        self.options().map_err(|error| error.to_string())
    }
}

/// A path that stays the same wherever it is handed on to: other programs have other working folders.
fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    std::path::absolute(PathBuf::deserialize(from)?).map_err(D::Error::custom)
}

fn flag_value(matches: &ArgMatches, setting: &Setting) -> Option<Value> {
    match setting.shape {
        Flag => matches.get_flag(setting.name).then_some(Value::Bool(true)),
        List | Texts => {
            let values = matches.get_many::<String>(setting.name)?;
            Some(values.cloned().map(Value::String).collect())
        }
        Text | Number => matches.get_one::<String>(setting.name).cloned().map(Value::String),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
