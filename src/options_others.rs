//! Settings under the names that k3s' users type: those that are another setting's here, and those that knarr does not
//! have, each with the reason or with what to do instead.

use base::config::{Meaning, Other, Shape};
use clap::{Arg, ArgAction};
use serde_json::Value;

use Meaning::{Refused, Same, So, With};
use Shape::{Flag, Text, Texts};

const fn same(name: &'static str, own: &'static str) -> Other {
    Other { name, shape: Text, meaning: Same(own) }
}

const fn refused(name: &'static str, shape: Shape, why: &'static str) -> Other {
    Other { name, shape, meaning: Refused(why) }
}

const NO_RAFT: &str =
    "several servers share an etcd, which --datastore-endpoint names; see docs/several-servers.md";
const RESTORE: &str = "`knarr snapshot restore` brings a snapshot back; see docs/snapshots.md";
const IN_PROCESS: &str = "it runs in knarr's own process, which takes no flags for it; what can be set is in `knarr server --help`";
const ONE_PORT: &str = "all that servers answer is on one port, --https-listen-port";
const OWN_RUNTIME: &str = "knarr writes containerd's configuration itself; another runtime is named by --container-runtime-endpoint";
const NO_VPN: &str =
    "knarr joins no VPN by itself: set that up beside it, and --node-ip to this machine's address in it";
const LOGS: &str = "knarr logs to standard error, for the service manager to keep; --debug says more, and --log-format json says it as JSON";
const NODE_ADDRESS: &str = "packets to other nodes leave where the address of --node-ip is";
const NO_ROOTLESS: &str = "knarr needs root: for networks, mounts and cgroups of pods";

/// What k3s calls otherwise, or has and knarr has not.
#[rustfmt::skip]
pub(crate) static OTHERS: &[Other] = &[
    same("flannel-backend", "network-backend"),
    same("flannel-external-ip", "network-external-ip"),
    same("etcd-snapshot-dir", "snapshot-dir"),
    same("etcd-snapshot-schedule-cron", "snapshot-schedule-cron"),
    same("etcd-snapshot-retention", "snapshot-retention"),
    same("etcd-s3", "s3"),
    same("etcd-s3-endpoint", "s3-endpoint"),
    same("etcd-s3-endpoint-ca", "s3-endpoint-ca"),
    same("etcd-s3-skip-ssl-verify", "s3-skip-ssl-verify"),
    same("etcd-s3-access-key", "s3-access-key"),
    same("etcd-s3-secret-key", "s3-secret-key"),
    same("etcd-s3-session-token", "s3-session-token"),
    same("etcd-s3-bucket", "s3-bucket"),
    same("etcd-s3-bucket-lookup-type", "s3-bucket-lookup-type"),
    same("etcd-s3-region", "s3-region"),
    same("etcd-s3-folder", "s3-folder"),
    same("etcd-s3-insecure", "s3-insecure"),
    same("etcd-s3-timeout", "s3-timeout"),
    same("etcd-s3-config-secret", "s3-config-secret"),
    same("etcd-s3-retention", "s3-retention"),
    // Of agents alone; a server is told why not.
    same("server", "join"),
    Other { name: "disable-helm-controller", shape: Flag, meaning: With("disable", "helm-controller") },
    Other { name: "etcd-disable-snapshots", shape: Flag, meaning: With("snapshot-schedule-cron", "") },
    Other { name: "protect-kernel-defaults", shape: Flag, meaning: With("kubelet-arg", "protect-kernel-defaults=true") },
    Other { name: "image-credential-provider-bin-dir", shape: Text, meaning: With("kubelet-arg", "image-credential-provider-bin-dir=") },
    Other { name: "image-credential-provider-config", shape: Text, meaning: With("kubelet-arg", "image-credential-provider-config=") },
    Other { name: "disable-cloud-controller", shape: Flag, meaning: So },
    Other { name: "etcd-snapshot-compress", shape: Flag, meaning: So },
    Other { name: "tls-san-security", shape: Flag, meaning: So },
    refused("cluster-init", Flag, NO_RAFT),
    refused("disable-etcd", Flag, NO_RAFT),
    refused("disable-apiserver", Flag, NO_RAFT),
    refused("etcd-arg", Texts, NO_RAFT),
    refused("etcd-expose-metrics", Flag, NO_RAFT),
    refused("kine-tls", Flag, NO_RAFT),
    refused("cluster-reset", Flag, RESTORE),
    refused("cluster-reset-restore-path", Text, RESTORE),
    refused("etcd-snapshot-name", Text, "snapshots by the clock are called `scheduled`; `knarr snapshot save --name` takes another"),
    refused("etcd-snapshot-reconcile-interval", Text, "snapshots are listed from where they lie, at the time of asking"),
    refused("etcd-s3-proxy", Text, "buckets are reached without a proxy"),
    refused("kube-apiserver-arg", Texts, IN_PROCESS),
    refused("kube-controller-manager-arg", Texts, IN_PROCESS),
    refused("kube-controller-arg", Texts, IN_PROCESS),
    refused("kube-cloud-controller-manager-arg", Texts, "there is no cloud controller in knarr"),
    refused("kube-cloud-controller-arg", Texts, "there is no cloud controller in knarr"),
    refused("disable-kube-proxy", Flag, "the node's proxy is how Services are reached, and cannot be left out"),
    refused("disable-network-policy", Flag, "policies are enforced where there are any, and cost nothing where there are none"),
    refused("agent-token", Text, "make tokens for agents with `knarr token create`, which can expire and be deleted"),
    refused("agent-token-file", Text, "make tokens for agents with `knarr token create`, which can expire and be deleted"),
    refused("advertise-port", Text, ONE_PORT),
    refused("supervisor-port", Text, ONE_PORT),
    refused("supervisor-metrics", Flag, ONE_PORT),
    refused("apiserver-port", Text, ONE_PORT),
    refused("apiserver-bind-address", Text, "--bind-address is where the API listens"),
    refused("lb-server-port", Text, "agents reach servers without a balancer on a port of their own"),
    refused("enable-pprof", Flag, "there is no profiler to ask; /metrics says what knarr takes"),
    refused("write-kubeconfig-group", Text, "the kubeconfig is its owner's; --write-kubeconfig-mode says who else may read it"),
    refused("helm-job-image", Text, "charts are installed in knarr's own process, without a Job"),
    refused("servicelb-namespace", Text, "Services get addresses without pods of their own"),
    refused("default-local-storage-path", Text, "volumes lie in the folder `storage` of --data-dir"),
    refused("secrets-encryption-provider", Text, "`knarr secrets-encrypt enable` and --encryption-provider-config say by what Secrets are sealed"),
    refused("flannel-ipv6-masq", Flag, "pods of a private block (fd00::/8) are masqueraded where they leave the cluster, and those of a public one are not"),
    refused("flannel-iface", Text, NODE_ADDRESS),
    refused("flannel-conf", Text, "--network-backend and what stands beside it are all there is to set of the network between nodes"),
    refused("flannel-cni-conf", Text, "a plugin of one's own takes over with --network-backend none; see docs/network-plugins.md"),
    refused("vpn-auth", Text, NO_VPN),
    refused("vpn-auth-file", Text, NO_VPN),
    refused("with-node-id", Flag, "a node is called as --node-name says"),
    refused("node-internal-dns", Text, "nodes are reached by their addresses"),
    refused("node-external-dns", Text, "nodes are reached by their addresses"),
    refused("docker", Flag, "name its CRI socket by --container-runtime-endpoint, such as unix:///run/cri-dockerd.sock"),
    refused("default-runtime", Text, OWN_RUNTIME),
    refused("image-service-endpoint", Text, OWN_RUNTIME),
    refused("snapshotter", Text, OWN_RUNTIME),
    refused("nonroot-devices", Flag, OWN_RUNTIME),
    refused("selinux", Flag, OWN_RUNTIME),
    refused("pause-image", Text, "the image of sandboxes is in knarr itself, and fetched from nowhere"),
    refused("system-default-registry", Text, "there are no system pods, so that their images are fetched from nowhere; see --private-registry for others"),
    refused("airgap-extra-registry", Text, "images in `agent/images` are imported under the names they have"),
    refused("prefer-bundled-bin", Flag, "the network's programs are in knarr itself"),
    refused("rootless", Flag, NO_ROOTLESS),
    refused("v", Text, LOGS),
    refused("log", Text, LOGS),
    refused("vmodule", Text, LOGS),
    refused("alsologtostderr", Flag, LOGS),
];

/// Why a server is not told of another.
pub(crate) const SERVER_OF_SERVERS: Other = refused("server", Text, NO_RAFT);

/// The settings' short names, as k3s has them.
pub(crate) fn short(name: &str) -> Option<char> {
    match name {
        "data-dir" => Some('d'),
        "token" => Some('t'),
        "join" => Some('s'),
        "write-kubeconfig" => Some('o'),
        _ => None,
    }
}

/// The flag of a name that is no other flag's.
pub(crate) fn argument(other: &Other) -> Arg {
    let argument = Arg::new(other.name).long(other.name).hide(true);
    match other.shape {
        Flag => argument.action(ArgAction::SetTrue),
        _ => argument.action(ArgAction::Append).num_args(1),
    }
}

/// What was given for it.
pub(crate) fn given(matches: &clap::ArgMatches, other: &Other) -> Option<Value> {
    match other.shape {
        Flag => matches.get_flag(other.name).then_some(Value::Bool(true)),
        _ => {
            let mut values = matches.get_many::<String>(other.name)?.cloned();
            values.next_back().map(Value::String)
        }
    }
}
