//! What a configuration has to hold to, in Kubernetes' words.

use super::{GoDuration, KubeletConfiguration, gates};
use crate::affinity;
use crate::eviction::threshold::thresholds;
use std::collections::HashSet;
use std::ops::RangeInclusive;

/// Ids of user namespaces are given out in blocks of so many.
const ID_BLOCK: i64 = 65_536;

const ENFORCEMENTS: [&str; 6] = [
    "pods",
    "system-reserved",
    "system-reserved-compressible",
    "kube-reserved",
    "kube-reserved-compressible",
    "none",
];

/// Mistakes as they are found.
struct Mistakes(Vec<String>);

impl Mistakes {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(format!("invalid configuration: {}", what()));
        }
    }

    fn not_negative(&mut self, field: &str, value: i64) {
        self.unless(value >= 0, || format!("{field} {value} must not be a negative number"));
    }

    fn within(&mut self, field: &str, value: i64, range: RangeInclusive<i64>) {
        let (least, most) = (*range.start(), *range.end());
        self.unless(range.contains(&value), || {
            format!("{field} {value} must be between {least} and {most}, inclusive")
        });
    }

    fn one_of(&mut self, field: &str, value: &str, all: &[&str]) {
        self.unless(all.contains(&value), || format!("{field} {value:?} must be one of: {all:?}"));
    }
}

/// All mistakes.
pub(super) fn check(it: &KubeletConfiguration) -> Vec<String> {
    let mut found = Mistakes(Vec::new());
    numbers(it, &mut found);
    images(it, &mut found);
    policies(it, &mut found);
    logs(it, &mut found);
    shutdown(it, &mut found);
    enforcements(it, &mut found);
    reservations(it, &mut found);
    namespaces(it, &mut found);
    for taint in &it.register_with_taints {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let well = effects.contains(&taint.effect.as_str())
            && api::validate::qualified_name(&taint.key).is_empty()
            && taint.time_added.is_none();
        found.unless(well, || format!("invalid taint: {}={}", taint.key, taint.effect));
    }
    let gates = it.feature_gates.iter().filter_map(|(name, on)| gates::check(name, *on));
    found.0.extend(gates);
    found.0.extend(thresholds(it).err());
    found.0
}

fn numbers(it: &KubeletConfiguration, found: &mut Mistakes) {
    found.unless(it.node_lease_duration_seconds > 0, || {
        "nodeLeaseDurationSeconds must be greater than 0".to_owned()
    });
    found.unless(it.system_cgroups.is_empty() || !it.cgroup_root.is_empty(), || {
        "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified"
            .to_owned()
    });
    found.not_negative("eventBurst (--event-burst)", it.event_burst);
    found.not_negative("eventRecordQPS (--event-qps)", it.event_record_qps);
    found.not_negative("kubeAPIBurst (--kube-api-burst)", it.kube_api_burst);
    found.not_negative("kubeAPIQPS (--kube-api-qps)", it.kube_api_qps);
    found.not_negative("maxOpenFiles (--max-open-files)", it.max_open_files);
    found.not_negative("maxPods (--max-pods)", it.max_pods);
    found.not_negative("podsPerCore (--pods-per-core)", it.pods_per_core);
    found.not_negative("registryBurst (--registry-burst)", it.registry_burst);
    found.not_negative("registryPullQPS (--registry-qps)", it.registry_pull_qps);
    found.within("iptablesDropBit (--iptables-drop-bit)", it.iptables_drop_bit, 0..=31);
    found.within("iptablesMasqueradeBit (--iptables-masquerade-bit)", it.iptables_masquerade_bit, 0..=31);
    found.within("oomScoreAdj (--oom-score-adj)", it.oom_score_adj, -1000..=1000);
    found.within("port (--port)", it.port, 1..=65535);
    found.within("readOnlyPort (--read-only-port)", it.read_only_port, 0..=65535);
    found.within("healthzPort (--healthz-port)", it.healthz_port, 0..=65535);
    found.unless(it.node_status_max_images >= -1, || {
        let images = it.node_status_max_images;
        format!("nodeStatusMaxImages (--node-status-max-images) {images} must be -1 or greater")
    });
    let period = it.cpu_cfs_quota_period;
    found.unless((GoDuration::millis(1)..=GoDuration::secs(1)).contains(&period), || {
        format!("cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {period} must be between 1ms and 1sec, inclusive")
    });
    let longest = it.crash_loop_back_off.max_container_restart_period;
    found.unless((GoDuration::secs(1)..=GoDuration::secs(300)).contains(&longest), || {
        let got = longest.as_secs();
        format!(
            "CrashLoopBackOff.MaxContainerRestartPeriod (got: {got} seconds) must be set between 1s and 300s"
        )
    });
    found.unless(!it.run_once, || {
        "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set".to_owned()
    });
}

fn images(it: &KubeletConfiguration, found: &mut Mistakes) {
    let (high, low) = (it.image_gc_high_threshold_percent, it.image_gc_low_threshold_percent);
    found.within("imageGCHighThresholdPercent (--image-gc-high-threshold)", high, 0..=100);
    found.within("imageGCLowThresholdPercent (--image-gc-low-threshold)", low, 0..=100);
    found.unless(low < high, || {
        format!(
            "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        )
    });
    let (least, most) = (it.image_minimum_gc_age, it.image_maximum_gc_age);
    found.unless(!least.is_negative(), || format!("imageMinimumGCAge {least} must not be negative"));
    found.unless(!most.is_negative(), || format!("imageMaximumGCAge {most} must not be negative"));
    found.unless(most <= GoDuration::default() || most > least, || {
        format!("imageMaximumGCAge {most} must be greater than imageMinimumGCAge {least}")
    });
    if let Some(pulls) = it.max_parallel_image_pulls {
        found.unless(pulls >= 1, || format!("maxParallelImagePulls {pulls} must be a positive number"));
        found.unless(pulls <= 1 || !it.serialize_image_pulls, || {
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false".to_owned()
        });
    }
    let policy = &it.image_pull_credentials_verification_policy;
    let policies =
        ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];
    found.unless(policies.contains(&policy.as_str()), || {
        format!(
            "option {policy:?} specified for imagePullCredentialsVerificationPolicy. Valid options are {policies:?}"
        )
    });
    let allowed = &it.preloaded_images_verification_allowlist;
    found.unless(allowed.is_empty() || policy == "NeverVerifyAllowlistedImages", || {
        "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"".to_owned()
    });
}

fn policies(it: &KubeletConfiguration, found: &mut Mistakes) {
    let field = "topologyManagerPolicy (--topology-manager-policy)";
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    found.one_of(field, &it.topology_manager_policy, &policies);
    let field = "topologyManagerScope (--topology-manager-scope)";
    found.one_of(field, &it.topology_manager_scope, &["container", "pod"]);
    found.one_of("cpuManagerPolicy (--cpu-manager-policy)", &it.cpu_manager_policy, &["none", "static"]);
    let field = "memoryManagerPolicy (--memory-manager-policy)";
    let memory = &it.memory_manager_policy;
    found.unless(memory != "BestEffort", || {
        format!("policy {memory:?} is not available for platform \"linux\"")
    });
    found.one_of(field, memory, &["None", "Static", "BestEffort"]);
    found.unless(it.cpu_manager_reconcile_period > GoDuration::default(), || {
        let period = it.cpu_manager_reconcile_period;
        format!("cpuManagerReconcilePeriod (--cpu-manager-reconcile-period) {period} must be greater than 0")
    });
    found.0.extend(affinity::check(it).into_iter().map(|what| format!("invalid configuration: {what}")));
    let modes = ["none", "hairpin-veth", "promiscuous-bridge"];
    found.one_of("hairpinMode (--hairpin-mode)", &it.hairpin_mode, &modes);
    let behaviors = ["", "LimitedSwap", "NoSwap"];
    found.one_of("memorySwap.swapBehavior", &it.memory_swap.swap_behavior, &behaviors);
    found.one_of("memoryReservationPolicy", &it.memory_reservation_policy, &["None", "TieredReservation"]);
    let strategies = ["Get", "Cache", "Watch"];
    let strategy = &it.config_map_and_secret_change_detection_strategy;
    found.one_of("configMapAndSecretChangeDetectionStrategy", strategy, &strategies);
    let factor = it.memory_throttling_factor;
    found.unless(factor > 0.0 && factor <= 1.0, || {
        format!("memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0")
    });
}

fn logs(it: &KubeletConfiguration, found: &mut Mistakes) {
    found.unless(it.container_log_max_workers >= 1, || {
        "containerLogMaxWorkers must be greater than or equal to 1".to_owned()
    });
    found.unless(it.container_log_monitor_interval >= GoDuration::secs(3), || {
        "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".to_owned()
    });
    found.unless(it.container_log_max_files > 1, || "containerLogMaxFiles must be greater than 1".to_owned());
    let size = api::quantity::parse(&it.container_log_max_size);
    found.unless(size.is_ok_and(|size| size.to_units() > 0), || {
        format!("containerLogMaxSize {:?} has to be an amount of bytes above zero", it.container_log_max_size)
    });
    let folder = std::path::Path::new(&it.pod_logs_dir);
    let clean =
        folder.components().collect::<std::path::PathBuf>() == folder && !it.pod_logs_dir.ends_with('/');
    let given = !it.pod_logs_dir.is_empty();
    found.unless(!given || folder.is_absolute(), || {
        format!("pod logs path {:?} must be absolute path", it.pod_logs_dir)
    });
    found.unless(!given || clean, || format!("pod logs path {:?} must be normalized", it.pod_logs_dir));
    found.unless(it.pod_logs_dir.is_ascii(), || {
        format!("pod logs path {:?} mut contains ASCII characters only", it.pod_logs_dir)
    });
}

fn shutdown(it: &KubeletConfiguration, found: &mut Mistakes) {
    let (all, critical) = (it.shutdown_grace_period, it.shutdown_grace_period_critical_pods);
    found.unless(critical <= all, || {
        format!("shutdownGracePeriodCriticalPods {critical} must be <= shutdownGracePeriod {all}")
    });
    for (field, grace) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        found.unless(grace.is_zero() || grace >= GoDuration::secs(1), || {
            format!("{field} {grace} must be either zero or otherwise >= 1 sec")
        });
    }
    let by_priority = !it.shutdown_grace_period_by_pod_priority.is_empty();
    found.unless(!by_priority || all.is_zero() && critical.is_zero(), || {
        "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
            .to_owned()
    });
}

fn enforcements(it: &KubeletConfiguration, found: &mut Mistakes) {
    const FIELD: &str = "enforceNodeAllocatable (--enforce-node-allocatable)";
    let all = &it.enforce_node_allocatable;
    let mut seen = HashSet::new();
    for what in all {
        found.unless(seen.insert(what), || format!("duplicated enforcements {what:?} in {FIELD}"));
        let (cgroup, flag, name) = match what.as_str() {
            "none" => {
                found.unless(all.len() == 1, || {
                    format!("{FIELD} may not contain additional enforcements when {what:?} is specified")
                });
                continue;
            }
            "pods" => continue,
            "system-reserved" | "system-reserved-compressible" => (
                &it.system_reserved_cgroup,
                "systemReservedCgroup (--system-reserved-cgroup)",
                "system-reserved",
            ),
            "kube-reserved" | "kube-reserved-compressible" => {
                (&it.kube_reserved_cgroup, "kubeReservedCgroup (--kube-reserved-cgroup)", "kube-reserved")
            }
            _ => {
                found.unless(false, || {
                    format!("option {what:?} specified for {FIELD}. Valid options are {ENFORCEMENTS:?}")
                });
                continue;
            }
        };
        let compressible = format!("{name}-compressible");
        found.unless(!cgroup.is_empty(), || {
            format!("{flag} must be specified when {name:?} or {compressible:?} included in {FIELD}")
        });
        found.unless(what != name || !all.contains(&compressible), || {
            format!("both {name:?} and {compressible:?} cannot be specified together in {FIELD}")
        });
    }
}

fn reservations(it: &KubeletConfiguration, found: &mut Mistakes) {
    for (field, list) in [("kube-reserved", &it.kube_reserved), ("system-reserved", &it.system_reserved)] {
        for (name, amount) in list {
            let known = ["cpu", "memory", "ephemeral-storage", "pid"].contains(&name.as_str());
            found.unless(known, || format!("{field}: cannot reserve {name:?} resource"));
            let amount = api::quantity::parse(amount);
            found.unless(amount.is_ok_and(|amount| !amount.is_negative()), || {
                format!("{field}: resource quantity for {name:?} has to be an amount that is not negative")
            });
        }
    }
    let cpus = &it.reserved_system_cpus;
    if !cpus.is_empty() {
        let alone = it.system_reserved_cgroup.is_empty() && it.kube_reserved_cgroup.is_empty();
        found.unless(alone, || {
            "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)".to_owned()
        });
        found.unless(crate::amount::cpus(cpus).is_some(), || {
            format!("unable to parse reservedSystemCPUs (--reserved-cpus) {cpus}")
        });
    }
    let mut seen = HashSet::new();
    for reservation in &it.reserved_memory {
        let node = reservation.numa_node;
        for (name, amount) in &reservation.limits {
            found.unless(name == "memory" || name.starts_with("hugepages-"), || {
                format!("the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted")
            });
            found.unless(crate::amount::whole(amount) != 0, || {
                format!("reserved memory may not be zero for NUMA node {node} and resource {name:?}")
            });
            found.unless(seen.insert((node, name)), || {
                format!(
                    "the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"
                )
            });
        }
    }
}

fn namespaces(it: &KubeletConfiguration, found: &mut Mistakes) {
    let Some(ids) = it.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod) else { return };
    found.unless(ids >= ID_BLOCK, || format!("userNamespaces.idsPerPod must not be less than {ID_BLOCK}"));
    found
        .unless(ids % ID_BLOCK == 0, || format!("userNamespaces.idsPerPod must be a multiple of {ID_BLOCK}"));
    found.unless(ids <= i64::from(u32::MAX), || {
        format!("userNamespaces.idsPerPod must not be more than {}", u32::MAX)
    });
}
