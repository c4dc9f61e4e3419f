//! The controllers: each watches what is, compares it with what is wanted, and writes the difference.
//!
//! One file per controller: a pure `plan` over what the shared caches hold, and a thin runner that
//! carries it out through the client. They must never read the store, list the world in a loop, or act
//! on a cache that is older than their own writes. Start reading at [`start`], then `replicaset.rs`,
//! the plainest of them.

mod account_tokens;
mod attach;
mod attach_runner;
mod autoscaler;
mod autoscaler_metrics;
mod autoscaler_plan;
mod autoscaler_runner;
#[cfg(test)]
mod autoscaler_tests;
mod autoscaler_usage;
mod availability;
mod backends;
mod binder;
mod binder_runner;
#[cfg(test)]
mod binder_tests;
mod bootstrap_tokens;
mod certificate_request;
mod certificates;
mod cluster_roles;
mod common;
mod cronjob;
mod cronjob_runner;
#[cfg(test)]
mod cronjob_tests;
mod daemon_pods;
mod daemon_rollout;
mod daemonset;
mod daemonset_runner;
#[cfg(test)]
mod daemonset_tests;
mod definitions;
mod deployment;
mod deployment_status;
#[cfg(test)]
mod deployment_tests;
mod device_eviction;
mod disruption;
mod endpoints;
mod ephemeral;
mod eviction;
mod expansion;
mod garbage;
mod garbage_runner;
#[cfg(test)]
mod golden;
mod history;
mod indexes;
mod job;
mod job_index;
mod job_policy;
mod job_runner;
#[cfg(test)]
mod job_tests;
mod kinds;
mod leases;
mod load_balancer;
mod load_balancer_range;
mod load_balancer_runner;
#[cfg(test)]
mod load_balancer_tests;
mod local_path;
mod manifests;
mod mirroring;
mod namespace;
mod node;
mod node_ranges;
mod node_taints;
mod node_ttl;
mod node_zones;
mod pod_certificates;
mod pod_control;
mod pod_garbage;
mod pods;
mod policy_status;
mod protection;
mod quota;
mod registration;
mod replicaset;
#[cfg(test)]
mod replicaset_tests;
mod replicated;
mod resource_claims;
mod rollback;
mod rollout;
mod service_account;
mod service_addresses;
mod service_cidr;
mod service_ports;
mod serving_certificates;
mod slice_runner;
mod slices;
#[cfg(test)]
mod slices_tests;
mod stateful_claims;
mod stateful_pods;
mod statefulset;
mod statefulset_runner;
#[cfg(test)]
mod statefulset_tests;
mod storage;
mod storage_migration;
mod subsets;
mod template;
mod token_cleaner;
mod topology_hints;
mod trigger_times;
mod trust_bundle;
mod upgrade;
#[cfg(test)]
mod worlds;

pub use leases::Serving;
pub use load_balancer_range::AddressRange;
pub use load_balancer_runner::LoadBalancers;
pub use manifests::{Manifests, start_manifests};

use base::Supervisor;
use client::{Caches, Client};
use common::Room;
use futures_util::future::BoxFuture;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tokio::sync::watch;

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ranges pods get their addresses from, one per address family, such as `10.42.0.0/16`. Each
    /// node gets a /24 or /64 of each.
    pub cluster_cidrs: Vec<String>,
    /// The ports of nodes that services may have.
    pub node_ports: RangeInclusive<u16>,
    /// What Services of type LoadBalancer get; nothing where another load balancer sees to them.
    pub service_lb: Option<LoadBalancers>,
    /// The authorities that the API server's certificate is verified by, for `kube-root-ca.crt`, as they change.
    pub root_ca_pem: watch::Receiver<String>,
}

/// Asks whether the service behind an APIService answers, which only the API server can know; an error says
/// why it does not.
pub type Reach = Arc<dyn Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Says what is to be warned of in a ValidatingAdmissionPolicy, by field; only the API server knows its kinds.
pub type CheckPolicy =
    Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, Vec<(String, String)>> + Send + Sync>;

/// Signs a certificate: by the name of the signer, the request (PKCS#10 in DER), its usages, and for how many
/// seconds it is asked for. The answer is PEM; an error says why there is none. The key stays with its owner.
pub type Sign = Arc<dyn Fn(&str, &[u8], &[String], Option<i32>) -> Result<String, String> + Send + Sync>;

/// Starts to approve and to sign requests for certificates.
pub fn start_certificates(sign: Sign, client: Client, caches: Caches, supervisor: &Supervisor) {
    certificates::start(&Room { client, caches, supervisor: supervisor.clone() }, sign);
}

/// Makes the token that a Secret holds: by namespace, the account's name and uid, and the Secret's name.
pub type IssueToken = Arc<dyn Fn(&str, (&str, &str), &str) -> Result<String, String> + Send + Sync>;

/// Waits for uses of such tokens that their Secrets do not tell of, by namespace and name.
pub type UsedTokens = Arc<dyn Fn() -> BoxFuture<'static, Vec<(String, String)>> + Send + Sync>;

/// Starts to keep the Secrets that hold service accounts' tokens.
pub fn start_account_tokens(
    root_ca_pem: watch::Receiver<String>,
    (issue, used): (IssueToken, UsedTokens),
    client: Client,
    caches: Caches,
    supervisor: &Supervisor,
) {
    account_tokens::start(&Room { client, caches, supervisor: supervisor.clone() }, root_ca_pem, issue, used);
}

/// Starts what an API server keeps itself in Kubernetes, and of several servers one is enough for: the APIServices of
/// its own groups, whether others are available, and since when uses of tokens are noted.
pub fn start_registration(reach: Reach, client: Client, caches: Caches, supervisor: &Supervisor) {
    let room = Room { client, caches, supervisor: supervisor.clone() };
    registration::start(&room);
    availability::start(&room, reach);
    token_cleaner::start_tracking(&room);
}

/// Starts to keep the lease by which this API server is known, and to remove those of servers that are no more.
/// `serving` says where it is, if there may be others that want to know.
pub fn start_identity(
    hostname: &str,
    serving: Option<Serving>,
    (client, caches): (Client, Caches),
    supervisor: &Supervisor,
) {
    leases::start(&Room { client, caches, supervisor: supervisor.clone() }, hostname, serving);
}

/// Starts to check policies, which is for those who run the other controllers as well.
pub fn start_policy_status(check: CheckPolicy, client: Client, caches: Caches, supervisor: &Supervisor) {
    policy_status::start(&Room { client, caches, supervisor: supervisor.clone() }, check);
}

/// Starts to carry out Plans of upgrades, as a client that may do everything: what they bring runs as the machine's root.
pub fn start_upgrades(client: Client, caches: Caches, supervisor: &Supervisor) {
    upgrade::start(&Room { client, caches, supervisor: supervisor.clone() });
}

/// Starts all controllers under `supervisor` and returns.
pub fn start(config: Config, client: Client, caches: Caches, supervisor: &Supervisor) {
    let room = Room { client, caches, supervisor: supervisor.clone() };
    namespace::start(&room);
    trust_bundle::start(&room, config.root_ca_pem.clone());
    service_account::start(&room, config.root_ca_pem.clone());
    replicaset::start(&room);
    deployment::start(&room);
    job_runner::start(&room);
    statefulset_runner::start(&room);
    daemonset_runner::start(&room);
    cronjob_runner::start(&room);
    endpoints::start(&room);
    slice_runner::start(&room);
    mirroring::start(&room);
    node::start(&room, &config.cluster_cidrs);
    node_ttl::start(&room);
    eviction::start(&room);
    pod_garbage::start(&room);
    protection::start(&room);
    binder_runner::start(&room);
    local_path::start(&room);
    attach_runner::start(&room);
    ephemeral::start(&room);
    expansion::start(&room);
    resource_claims::start(&room);
    device_eviction::start(&room);
    quota::start(&room);
    service_cidr::start(&room);
    service_addresses::start(&room);
    service_ports::start(&room, config.node_ports);
    if let Some(settings) = &config.service_lb {
        load_balancer_runner::start(&room, settings);
    }
    definitions::start(&room);
    storage_migration::start(&room);
    autoscaler_runner::start(&room);
    disruption::start(&room);
    cluster_roles::start(&room);
    bootstrap_tokens::start(&room, config.root_ca_pem);
    token_cleaner::start(&room);
    pod_certificates::start(&room);
    garbage_runner::start(&room);
}
