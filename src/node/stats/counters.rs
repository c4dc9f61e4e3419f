//! What this process has counted and timed since it started, one row a family.

use api::core::{ContainerStatus, Pod, PodStatus};
use api::meta::Time;
use base::clock::{self, Instant};
use base::exposition::Text;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The client libraries' default limits of durations, in seconds.
const USUAL: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 5 ms times powers of 2.5.
const RUNTIME: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
const STARTS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const PULLS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];
const STATUS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

/// One series of a family.
#[derive(Clone, Debug, Default)]
struct Series {
    /// The count, or the sum of what was observed.
    sum: f64,
    count: u64,
    /// How many were at most each limit.
    buckets: Vec<u64>,
}

/// A family: a counter, or a histogram where it has limits.
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    limits: Option<&'static [f64]>,
    series: Mutex<BTreeMap<Vec<String>, Series>>,
}

impl Family {
    const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, limits: None, series: Mutex::new(BTreeMap::new()) }
    }

    const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        limits: &'static [f64],
    ) -> Self {
        Self { name, help, labels, limits: Some(limits), series: Mutex::new(BTreeMap::new()) }
    }

    fn change(&self, labels: &[&str], work: impl FnOnce(&mut Series)) {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        let key = labels.iter().map(|label| (*label).to_owned()).collect();
        work(self.series.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
    }

    /// Counts one.
    pub(crate) fn count(&self, labels: &[&str]) {
        self.change(labels, |series| series.sum += 1.0);
    }

    /// Takes note of a duration.
    pub(crate) fn observe(&self, labels: &[&str], took: Duration) {
        let limits = self.limits.unwrap_or_default();
        let value = took.as_secs_f64();
        self.change(labels, |series| {
            series.buckets.resize(limits.len(), 0);
            let fits = series.buckets.iter_mut().zip(limits).filter(|(_, limit)| value <= **limit);
            fits.for_each(|(bucket, _)| *bucket += 1);
            series.sum += value;
            series.count += 1;
        });
    }

    /// Takes note of how long it is since then.
    pub(crate) fn observe_since(&self, labels: &[&str], since: Instant) {
        self.observe(labels, clock::instant().saturating_duration_since(since));
    }

    /// Drops the series that have this value of a label.
    fn forget(&self, label: &str, value: &str) {
        let Some(at) = self.labels.iter().position(|own| *own == label) else { return };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|labels, _| labels.get(at).is_none_or(|own| own != value));
    }

    /// Writes the family where there is anything of it.
    pub(crate) fn render(&self, text: &mut Text) {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        let kind = if self.limits.is_some() { "histogram" } else { "counter" };
        text.family(self.name, kind, self.help);
        for (values, series) in all.iter() {
            let labels: Vec<(&str, &str)> =
                self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            match self.limits {
                None => text.sample(self.name, &labels, series.sum),
                Some(limits) => render_histogram(text, self.name, (&labels, limits), series),
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2⁵³")]
fn render_histogram(
    text: &mut Text,
    name: &str,
    (labels, limits): (&[(&str, &str)], &[f64]),
    series: &Series,
) {
    let bucket = format!("{name}_bucket");
    for (limit, count) in limits.iter().zip(&series.buckets) {
        let limit = limit.to_string();
        text.sample(&bucket, &[labels, &[("le", limit.as_str())]].concat(), *count as f64);
    }
    text.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), series.count as f64);
    text.sample(&format!("{name}_sum"), labels, series.sum);
    text.sample(&format!("{name}_count"), labels, series.count as f64);
}

pub(crate) static RUNTIME_OPERATIONS: Family = Family::counter(
    "kubelet_runtime_operations_total",
    "[ALPHA] Cumulative number of runtime operations by operation type.",
    &["operation_type"],
);
pub(crate) static RUNTIME_ERRORS: Family = Family::counter(
    "kubelet_runtime_operations_errors_total",
    "[ALPHA] Cumulative number of runtime operation errors by operation type.",
    &["operation_type"],
);
pub(crate) static RUNTIME_DURATION: Family = Family::histogram(
    "kubelet_runtime_operations_duration_seconds",
    "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
    &["operation_type"],
    RUNTIME,
);
pub(crate) static SANDBOX_DURATION: Family = Family::histogram(
    "kubelet_run_podsandbox_duration_seconds",
    "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
    &["runtime_handler"],
    USUAL,
);
pub(crate) static SANDBOX_ERRORS: Family = Family::counter(
    "kubelet_run_podsandbox_errors_total",
    "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
    &["runtime_handler"],
);
pub(crate) static STARTED_PODS: Family =
    Family::counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started", &[]);
pub(crate) static STARTED_PODS_ERRORS: Family = Family::counter(
    "kubelet_started_pods_errors_total",
    "[ALPHA] Cumulative number of errors when starting pods",
    &[],
);
pub(crate) static STARTED_CONTAINERS: Family = Family::counter(
    "kubelet_started_containers_total",
    "[ALPHA] Cumulative number of containers started",
    &["container_type"],
);
pub(crate) static STARTED_CONTAINERS_ERRORS: Family = Family::counter(
    "kubelet_started_containers_errors_total",
    "[ALPHA] Cumulative number of errors when starting containers",
    &["code", "container_type"],
);
pub(crate) static TERMINATED_CONTAINERS: Family = Family::counter(
    "kubelet_terminated_containers_total",
    "[ALPHA] Cumulative number of container terminations.",
    &["container_type", "exit_code", "reason"],
);
pub(crate) static POD_START: Family = Family::histogram(
    "kubelet_pod_start_duration_seconds",
    "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
    &[],
    STARTS,
);
pub(crate) static POD_START_TOTAL: Family = Family::histogram(
    "kubelet_pod_start_total_duration_seconds",
    "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, \
     measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    &[],
    STARTS,
);
pub(crate) static POD_WORKER: Family = Family::histogram(
    "kubelet_pod_worker_duration_seconds",
    "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
    &["operation_type"],
    USUAL,
);
pub(crate) static POD_RELIST: Family = Family::histogram(
    "kubelet_pleg_pod_relist_duration_seconds",
    "[ALPHA] Duration in seconds for relisting a single pod in PLEG.",
    &[],
    USUAL,
);
pub(crate) static POD_STATUS: Family = Family::histogram(
    "kubelet_pod_status_sync_duration_seconds",
    "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status \
     until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
    &[],
    STATUS,
);
pub(crate) static IMAGE_PULL: Family = Family::histogram(
    "kubelet_image_pull_duration_seconds",
    "[ALPHA] Duration in seconds to pull an image.",
    &["image_size_in_bytes"],
    PULLS,
);
pub(crate) static HTTP_REQUESTS: Family = Family::counter(
    "kubelet_http_requests_total",
    "[ALPHA] Number of the http requests received since the server started",
    &["long_running", "method", "path", "server_type"],
);
pub(crate) static HTTP_DURATION: Family = Family::histogram(
    "kubelet_http_requests_duration_seconds",
    "[ALPHA] Duration in seconds to serve http requests",
    &["long_running", "method", "path", "server_type"],
    USUAL,
);
pub(crate) static PROBES: Family = Family::counter(
    "prober_probe_total",
    "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
);
pub(crate) static PROBE_DURATION: Family = Family::histogram(
    "prober_probe_duration_seconds",
    "[ALPHA] Duration in seconds for a probe response.",
    &["probe_type", "container", "pod", "namespace"],
    USUAL,
);

pub(crate) static PINNED_CPUS: Family = Family::counter(
    "kubelet_cpu_manager_pinning_requests_total",
    "[ALPHA] The number of cpu core allocations which required pinning.",
    &[],
);
pub(crate) static PINNED_CPUS_ERRORS: Family = Family::counter(
    "kubelet_cpu_manager_pinning_errors_total",
    "[ALPHA] The number of cpu core allocations which required pinning failed.",
    &[],
);
pub(crate) static PINNED_MEMORY: Family = Family::counter(
    "kubelet_memory_manager_pinning_requests_total",
    "[ALPHA] The number of memory pages allocations which required pinning.",
    &[],
);
pub(crate) static PINNED_MEMORY_ERRORS: Family = Family::counter(
    "kubelet_memory_manager_pinning_errors_total",
    "[ALPHA] The number of memory pages allocations which required pinning that failed.",
    &[],
);
pub(crate) static ALIGNED: Family = Family::counter(
    "kubelet_topology_manager_admission_requests_total",
    "[ALPHA] The number of admission requests where resources have to be aligned.",
    &[],
);
pub(crate) static ALIGNED_ERRORS: Family = Family::counter(
    "kubelet_topology_manager_admission_errors_total",
    "[ALPHA] The number of admission request failures where resources could not be aligned.",
    &[],
);
pub(crate) static POD_RESOURCES: Family = Family::counter(
    "kubelet_pod_resources_endpoint_requests_total",
    "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
    &["server_api_version"],
);
pub(crate) static SHARED_IMAGES: Family = Family::counter(
    "knarr_embedded_registry_requests_total",
    "What the runtime asked other nodes for, by who had it: node or nobody.",
    &["by"],
);

/// What `/metrics` tells; those of probes have a path of their own.
pub(crate) static KUBELET: [&Family; 26] = [
    &PINNED_CPUS_ERRORS,
    &PINNED_CPUS,
    &HTTP_DURATION,
    &HTTP_REQUESTS,
    &IMAGE_PULL,
    &PINNED_MEMORY_ERRORS,
    &PINNED_MEMORY,
    &POD_RELIST,
    &POD_RESOURCES,
    &POD_START,
    &POD_START_TOTAL,
    &POD_STATUS,
    &POD_WORKER,
    &SANDBOX_DURATION,
    &SANDBOX_ERRORS,
    &RUNTIME_DURATION,
    &RUNTIME_ERRORS,
    &RUNTIME_OPERATIONS,
    &STARTED_CONTAINERS_ERRORS,
    &STARTED_CONTAINERS,
    &STARTED_PODS_ERRORS,
    &STARTED_PODS,
    &TERMINATED_CONTAINERS,
    &ALIGNED_ERRORS,
    &ALIGNED,
    &SHARED_IMAGES,
];

/// Takes note of a question to the runtime, by Kubernetes' name of the verb.
pub(crate) fn runtime_asked(verb: &str, since: Instant, failed: bool) {
    let verb = verb.replace("pod_sandbox", "podsandbox");
    RUNTIME_OPERATIONS.count(&[&verb]);
    RUNTIME_DURATION.observe_since(&[&verb], since);
    if failed {
        RUNTIME_ERRORS.count(&[&verb]);
    }
}

/// Takes note of how long a pod took to start, at the report that says first that it runs.
pub(crate) fn pod_reported(before: &Pod, after: &Pod) {
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    if runs(before) || !runs(after) {
        return;
    }
    let since = |time: Option<&Time>| {
        let passed = clock::now().duration_since(time?.0);
        Duration::try_from(passed).ok()
    };
    let seen = after.status.as_ref().and_then(|status| since(status.start_time.as_ref()));
    seen.into_iter().for_each(|took| POD_START.observe(&[], took));
    let created = since(after.metadata.creation_timestamp.as_ref());
    created.into_iter().for_each(|took| POD_START_TOTAL.observe(&[], took));
}

/// Takes note of the containers that a status says have ended and the one before it did not.
pub(crate) fn containers_ended(before: Option<&PodStatus>, after: &PodStatus) {
    let kinds = ["init_container", "container", "ephemeral_container"];
    let before = before.map(lists).unwrap_or_default();
    for ((kind, before), after) in kinds.into_iter().zip(before).zip(lists(after)) {
        for (code, reason) in ends(before, after) {
            TERMINATED_CONTAINERS.count(&[kind, &code.to_string(), reason]);
        }
    }
}

fn lists(status: &PodStatus) -> [&[ContainerStatus]; 3] {
    let all =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.map(|list| list.as_deref().unwrap_or_default())
}

/// Exit codes and reasons of those that have ended only now.
fn ends<'a>(before: &'a [ContainerStatus], after: &'a [ContainerStatus]) -> Vec<(i32, &'a str)> {
    let end = |status: &'a ContainerStatus| status.state.as_ref()?.terminated.as_ref();
    let known = |name: &str| before.iter().find(|old| old.name == name).and_then(end).is_some();
    let new = after.iter().filter(|status| !known(&status.name)).filter_map(end);
    new.map(|end| (end.exit_code, end.reason.as_deref().unwrap_or_default())).collect()
}

/// Drops what is only of a pod that is gone.
pub(crate) fn forget_pod(uid: &str, (namespace, name): (&str, &str)) {
    PROBES.forget("pod_uid", uid);
    let mut series = PROBE_DURATION.series.lock().unwrap_or_else(PoisonError::into_inner);
    series.retain(|labels, _| {
        labels.get(2).map(String::as_str) != Some(name)
            || labels.get(3).map(String::as_str) != Some(namespace)
    });
}

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;
/// From which size on an image is in which range, the largest first.
const SIZES: [(u64, &str); 12] = [
    (100 * GB, "GT100GB"),
    (60 * GB, "60GB-100GB"),
    (40 * GB, "40GB-60GB"),
    (30 * GB, "30GB-40GB"),
    (20 * GB, "20GB-30GB"),
    (10 * GB, "10GB-20GB"),
    (5 * GB, "5GB-10GB"),
    (GB, "1GB-5GB"),
    (500 * MB, "500MB-1GB"),
    (100 * MB, "100MB-500MB"),
    (10 * MB, "10MB-100MB"),
    (0, "0-10MB"),
];

/// The range of sizes that an image is in, as `image_size_in_bytes` names it.
pub(crate) fn size_range(bytes: u64) -> &'static str {
    SIZES.iter().find(|(least, _)| bytes >= *least).map_or("", |(_, range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_what_is_at_most_their_limits() {
        static FAMILY: Family = Family::histogram("t_seconds", "Help.", &["a"], &[0.5, 1.0]);
        let mut text = Text::default();
        FAMILY.render(&mut text);
        assert_eq!(text.finish(), "");
        FAMILY.observe(&["x"], Duration::from_millis(500));
        FAMILY.observe(&["x"], Duration::from_secs(4));
        let mut text = Text::default();
        FAMILY.render(&mut text);
        let expected = "# HELP t_seconds Help.\n# TYPE t_seconds histogram\n\
             t_seconds_bucket{a=\"x\",le=\"0.5\"} 1\nt_seconds_bucket{a=\"x\",le=\"1\"} 1\n\
             t_seconds_bucket{a=\"x\",le=\"+Inf\"} 2\nt_seconds_sum{a=\"x\"} 4.5\nt_seconds_count{a=\"x\"} 2\n";
        assert_eq!(text.finish(), expected);
        FAMILY.forget("a", "x");
        assert!(FAMILY.series.lock().unwrap().is_empty());
    }

    #[test]
    fn the_end_of_a_container_counts_once() {
        let of = |name: &str, state: serde_json::Value| -> ContainerStatus {
            let status = serde_json::json!({"name": name, "state": state, "image": "", "imageID": "",
                "ready": false, "restartCount": 0});
            serde_json::from_value(status).unwrap()
        };
        let running = || serde_json::json!({"running": {}});
        let ended = |code: i32| serde_json::json!({"terminated": {"exitCode": code, "reason": "Error"}});
        let before = [of("a", running()), of("b", ended(1))];
        let after = [of("a", ended(139)), of("b", ended(1)), of("c", ended(2)), of("d", running())];
        assert_eq!(ends(&before, &after), [(139, "Error"), (2, "Error")]);
    }

    #[test]
    fn images_are_sorted_by_size() {
        assert_eq!(size_range(0), "0-10MB");
        assert_eq!(size_range(11 << 20), "10MB-100MB");
        assert_eq!(size_range(101 << 30), "GT100GB");
    }
}
