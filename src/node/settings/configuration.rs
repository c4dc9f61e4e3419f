//! `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1) as it is once defaults are filled in.

use super::duration::GoDuration;
use api::Quantity;
use api::core::Taint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Texts by name.
pub(crate) type Texts = BTreeMap<String, String>;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KubeletConfiguration {
    pub(crate) kind: String,
    pub(crate) api_version: String,
    pub(crate) enable_server: bool,
    pub(crate) static_pod_path: String,
    pub(crate) pod_logs_dir: String,
    pub(crate) sync_frequency: GoDuration,
    pub(crate) file_check_frequency: GoDuration,
    pub(crate) http_check_frequency: GoDuration,
    #[serde(rename = "staticPodURL")]
    pub(crate) static_pod_url: String,
    #[serde(rename = "staticPodURLHeader")]
    pub(crate) static_pod_url_header: BTreeMap<String, Vec<String>>,
    pub(crate) address: String,
    pub(crate) port: i64,
    pub(crate) read_only_port: i64,
    pub(crate) tls_cert_file: String,
    pub(crate) tls_private_key_file: String,
    pub(crate) tls_cipher_suites: Vec<String>,
    pub(crate) tls_curve_preferences: Vec<i64>,
    pub(crate) tls_min_version: String,
    pub(crate) rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub(crate) server_tls_bootstrap: bool,
    pub(crate) authentication: Authentication,
    pub(crate) authorization: Authorization,
    #[serde(rename = "registryPullQPS")]
    pub(crate) registry_pull_qps: i64,
    pub(crate) registry_burst: i64,
    pub(crate) image_pull_credentials_verification_policy: String,
    pub(crate) preloaded_images_verification_allowlist: Vec<String>,
    #[serde(rename = "eventRecordQPS")]
    pub(crate) event_record_qps: i64,
    pub(crate) event_burst: i64,
    pub(crate) enable_debugging_handlers: bool,
    pub(crate) enable_contention_profiling: bool,
    pub(crate) healthz_port: i64,
    pub(crate) healthz_bind_address: String,
    pub(crate) oom_score_adj: i64,
    pub(crate) cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) streaming_connection_idle_timeout: GoDuration,
    pub(crate) node_status_update_frequency: GoDuration,
    pub(crate) node_status_report_frequency: GoDuration,
    pub(crate) node_lease_duration_seconds: i64,
    #[serde(rename = "imageMinimumGCAge")]
    pub(crate) image_minimum_gc_age: GoDuration,
    #[serde(rename = "imageMaximumGCAge")]
    pub(crate) image_maximum_gc_age: GoDuration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub(crate) image_gc_high_threshold_percent: i64,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub(crate) image_gc_low_threshold_percent: i64,
    pub(crate) volume_stats_agg_period: GoDuration,
    pub(crate) kubelet_cgroups: String,
    pub(crate) system_cgroups: String,
    pub(crate) cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub(crate) cgroups_per_qos: bool,
    pub(crate) cgroup_driver: String,
    pub(crate) cpu_manager_policy: String,
    #[serde(rename = "singleProcessOOMKill")]
    pub(crate) single_process_oom_kill: Option<bool>,
    pub(crate) cpu_manager_policy_options: Texts,
    pub(crate) cpu_manager_reconcile_period: GoDuration,
    pub(crate) memory_manager_policy: String,
    pub(crate) topology_manager_policy: String,
    pub(crate) topology_manager_scope: String,
    pub(crate) topology_manager_policy_options: Texts,
    pub(crate) qos_reserved: Texts,
    pub(crate) runtime_request_timeout: GoDuration,
    pub(crate) hairpin_mode: String,
    pub(crate) max_pods: i64,
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: String,
    pub(crate) pod_pids_limit: i64,
    pub(crate) resolv_conf: String,
    pub(crate) run_once: bool,
    #[serde(rename = "cpuCFSQuota")]
    pub(crate) cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub(crate) cpu_cfs_quota_period: GoDuration,
    pub(crate) node_status_max_images: i64,
    pub(crate) max_open_files: i64,
    pub(crate) content_type: String,
    #[serde(rename = "kubeAPIQPS")]
    pub(crate) kube_api_qps: i64,
    #[serde(rename = "kubeAPIBurst")]
    pub(crate) kube_api_burst: i64,
    pub(crate) serialize_image_pulls: bool,
    pub(crate) max_parallel_image_pulls: Option<i64>,
    pub(crate) eviction_hard: Texts,
    pub(crate) eviction_soft: Texts,
    pub(crate) eviction_soft_grace_period: Texts,
    pub(crate) eviction_pressure_transition_period: GoDuration,
    pub(crate) eviction_max_pod_grace_period: i64,
    pub(crate) eviction_minimum_reclaim: Texts,
    pub(crate) merge_default_eviction_settings: bool,
    pub(crate) pods_per_core: i64,
    pub(crate) enable_controller_attach_detach: bool,
    pub(crate) protect_kernel_defaults: bool,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub(crate) make_iptables_util_chains: bool,
    pub(crate) iptables_masquerade_bit: i64,
    pub(crate) iptables_drop_bit: i64,
    pub(crate) feature_gates: BTreeMap<String, bool>,
    pub(crate) fail_swap_on: bool,
    pub(crate) memory_swap: MemorySwap,
    pub(crate) container_log_max_size: String,
    pub(crate) container_log_max_files: i64,
    pub(crate) container_log_max_workers: i64,
    pub(crate) container_log_monitor_interval: GoDuration,
    pub(crate) config_map_and_secret_change_detection_strategy: String,
    pub(crate) system_reserved: Texts,
    pub(crate) kube_reserved: Texts,
    #[serde(rename = "reservedSystemCPUs")]
    pub(crate) reserved_system_cpus: String,
    pub(crate) show_hidden_metrics_for_version: String,
    pub(crate) system_reserved_cgroup: String,
    pub(crate) kube_reserved_cgroup: String,
    pub(crate) enforce_node_allocatable: Vec<String>,
    pub(crate) allowed_unsafe_sysctls: Vec<String>,
    pub(crate) volume_plugin_dir: String,
    #[serde(rename = "providerID")]
    pub(crate) provider_id: String,
    pub(crate) kernel_memcg_notification: bool,
    pub(crate) logging: Logging,
    pub(crate) enable_system_log_handler: bool,
    pub(crate) enable_system_log_query: bool,
    pub(crate) shutdown_grace_period: GoDuration,
    pub(crate) shutdown_grace_period_critical_pods: GoDuration,
    pub(crate) shutdown_grace_period_by_pod_priority: Vec<GraceOfPriority>,
    pub(crate) crash_loop_back_off: CrashLoopBackOff,
    pub(crate) reserved_memory: Vec<MemoryReservation>,
    pub(crate) enable_profiling_handler: bool,
    pub(crate) enable_debug_flags_handler: bool,
    pub(crate) seccomp_default: bool,
    pub(crate) memory_throttling_factor: f64,
    pub(crate) memory_reservation_policy: String,
    pub(crate) register_with_taints: Vec<Taint>,
    pub(crate) register_node: bool,
    pub(crate) tracing: Option<serde_json::Value>,
    pub(crate) local_storage_capacity_isolation: bool,
    pub(crate) container_runtime_endpoint: String,
    pub(crate) image_service_endpoint: String,
    pub(crate) fail_cgroup_v1: bool,
    pub(crate) user_namespaces: Option<UserNamespaces>,
}

/// Who may speak to the kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Authentication {
    pub(crate) x509: X509,
    pub(crate) webhook: AuthenticationWebhook,
    pub(crate) anonymous: Anonymous,
}

/// Client certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct X509 {
    #[serde(rename = "clientCAFile")]
    pub(crate) client_ca_file: String,
}

/// Bearer tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthenticationWebhook {
    pub(crate) enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub(crate) cache_ttl: GoDuration,
}

/// Requests without a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Anonymous {
    pub(crate) enabled: bool,
}

/// What they may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Authorization {
    pub(crate) mode: String,
    pub(crate) webhook: AuthorizationWebhook,
}

/// For how long answers are remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthorizationWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub(crate) cache_authorized_ttl: GoDuration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub(crate) cache_unauthorized_ttl: GoDuration,
}

/// Swap of pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MemorySwap {
    pub(crate) swap_behavior: String,
}

/// The kubelet's own log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Logging {
    pub(crate) format: String,
    pub(crate) flush_frequency: serde_json::Value,
    pub(crate) verbosity: u32,
    pub(crate) vmodule: serde_json::Value,
    pub(crate) options: serde_json::Value,
}

/// What pods of a priority and above get when the machine is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GraceOfPriority {
    pub(crate) priority: i64,
    pub(crate) shutdown_grace_period_seconds: i64,
}

/// Waiting between restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CrashLoopBackOff {
    pub(crate) max_container_restart_period: GoDuration,
}

/// Memory of a NUMA node that no pod gets to itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MemoryReservation {
    pub(crate) numa_node: i64,
    pub(crate) limits: BTreeMap<String, Quantity>,
}

/// Ids of pods with `hostUsers: false`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UserNamespaces {
    #[serde(rename = "idsPerPod")]
    pub(crate) ids_per_pod: Option<i64>,
}
