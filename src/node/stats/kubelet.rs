//! `/metrics` and `/metrics/probes`: what this kubelet has to do and how long it takes.

use super::counters::{self, Family};
use super::measure::Measured;
use super::process::{self, Process};
use crate::pods::spec;
use crate::protocols::runtime::v1 as cri;
use api::Object;
use api::core::Pod;
use base::exposition::{Labels, Text};
use std::collections::HashSet;
use std::sync::Arc;

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

fn gauge(text: &mut Text, (name, help): (&str, &str), samples: &[(Labels, u64)]) {
    text.family(name, "gauge", help);
    samples.iter().for_each(|(labels, value)| text.sample(name, labels, float(*value)));
}

/// The text of `/metrics`, from the pods that are wanted, all containers that the runtime has, the processors that they
/// share and have to themselves, and the volumes.
pub(crate) fn render(
    (node, version): (&str, &str),
    pods: &[Arc<Pod>],
    (containers, shares): (&[cri::Container], Option<(usize, usize)>),
    measured: &Measured,
) -> String {
    let mut text = Text::default();
    about_pods(&mut text, node, pods);
    running(&mut text, containers, measured);
    if let Some((shared, exclusive)) = shares {
        processors(&mut text, shared as u64, exclusive as u64);
    }
    volumes(&mut text, measured);
    families(&mut text, &counters::KUBELET);
    build(&mut text, version);
    own_process(&mut text, measured.machine.booted_s);
    text.finish()
}

/// The text of `/metrics/probes`.
pub(crate) fn probes(booted_s: i64) -> String {
    let mut text = Text::default();
    let started = Process::of("self").map_or(0.0, |process| started_s(booted_s, process));
    text.family("process_start_time_seconds", "gauge", START_HELP);
    text.sample("process_start_time_seconds", &[], started);
    families(&mut text, &[&counters::PROBE_DURATION, &counters::PROBES]);
    text.finish()
}

fn families(text: &mut Text, all: &[&Family]) {
    all.iter().for_each(|family| family.render(text));
}

fn about_pods(text: &mut Text, node: &str, pods: &[Arc<Pod>]) {
    let active = pods.iter().filter(|pod| !spec::has_ended(pod)).count() as u64;
    let ephemeral: usize = pods.iter().map(|pod| spec::ephemeral_containers(pod).len()).sum();
    let help = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new \
                pods. static is true if the pod is not from the apiserver.";
    gauge(text, ("kubelet_active_pods", help), &[(&[("static", "")], active)]);
    let help = "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from \
                the apiserver.";
    gauge(text, ("kubelet_desired_pods", help), &[(&[("static", "")], pods.len() as u64)]);
    let help = "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.";
    gauge(text, ("kubelet_managed_ephemeral_containers", help), &[(&[], ephemeral as u64)]);
    let help = "[ALPHA] The node's name. The count is always 1.";
    gauge(text, ("kubelet_node_name", help), &[(&[("node", node)], 1)]);
}

fn running(text: &mut Text, containers: &[cri::Container], measured: &Measured) {
    let states = [
        (cri::ContainerState::ContainerCreated, "created"),
        (cri::ContainerState::ContainerExited, "exited"),
        (cri::ContainerState::ContainerRunning, "running"),
        (cri::ContainerState::ContainerUnknown, "unknown"),
    ];
    let counted = states.map(|(state, name)| {
        (name, containers.iter().filter(|container| container.state() == state).count() as u64)
    });
    let labels = counted.map(|(name, count)| ([("container_state", name)], count));
    let samples: Vec<(Labels, u64)> = labels
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(labels, count)| (labels.as_slice(), *count))
        .collect();
    let help = "[ALPHA] Number of containers currently running";
    gauge(text, ("kubelet_running_containers", help), &samples);
    let pods = measured.pods.iter().filter(|pod| pod.sandbox.is_some()).count() as u64;
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    gauge(text, ("kubelet_running_pods", help), &[(&[], pods)]);
}

/// How many processors pods share and have to themselves.
fn processors(text: &mut Text, shared: u64, exclusive: u64) {
    let help = "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node";
    gauge(text, ("kubelet_cpu_manager_exclusive_cpu_allocation_count", help), &[(&[], exclusive)]);
    let help = "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.";
    gauge(text, ("kubelet_cpu_manager_shared_pool_size_millicores", help), &[(&[], shared * 1000)]);
}

/// Volumes of claims; one that several pods use is told of once.
fn volumes(text: &mut Text, measured: &Measured) {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for pod in &measured.pods {
        for volume in &pod.volumes {
            let Some(claim) = &volume.claim else { continue };
            if seen.insert((pod.pod.namespace(), claim)) {
                found.push((
                    [("namespace", pod.pod.namespace()), ("persistentvolumeclaim", claim.as_str())],
                    volume,
                ));
            }
        }
    }
    if found.is_empty() {
        return;
    }
    let rows = [
        ("available_bytes", "Number of available bytes in the volume"),
        ("capacity_bytes", "Capacity in bytes of the volume"),
        ("inodes", "Maximum number of inodes in the volume"),
        ("inodes_free", "Number of free inodes in the volume"),
        ("inodes_used", "Number of used inodes in the volume"),
        ("used_bytes", "Number of used bytes in the volume"),
    ];
    for (name, help) in rows {
        let samples: Vec<(Labels, u64)> = found
            .iter()
            .map(|(labels, volume)| {
                let space = &volume.space;
                let value = match name {
                    "available_bytes" => space.available,
                    "capacity_bytes" => space.capacity,
                    "inodes" => space.inodes,
                    "inodes_free" => space.inodes_free,
                    "inodes_used" => space.inodes_used,
                    _ => space.used,
                };
                (labels.as_slice(), value)
            })
            .collect();
        gauge(text, (&format!("kubelet_volume_stats_{name}"), &format!("[ALPHA] {help}")), &samples);
    }
    let told = found.iter().filter_map(|(labels, volume)| Some((labels.as_slice(), volume.abnormal?.into())));
    let told: Vec<(Labels, u64)> = told.collect();
    if !told.is_empty() {
        let help = "[ALPHA] Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 \
                    indicates volume is healthy";
        gauge(text, ("kubelet_volume_stats_health_status_abnormal", help), &told);
    }
}

/// `v1.36.2+knarr` as Kubernetes' programs say what they are.
fn build(text: &mut Text, version: &str) {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let platform = format!("linux/{}", crate::machine::architecture());
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, \
                build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    let labels = [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", version),
        ("go_version", ""),
        ("major", major),
        ("minor", minor),
        ("platform", platform.as_str()),
    ];
    gauge(text, ("kubernetes_build_info", help), &[(&labels, 1)]);
}

const START_HELP: &str = "Start time of the process since unix epoch in seconds.";

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn started_s(booted_s: i64, process: Process) -> f64 {
    booted_s as f64 + process.started_ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn own_process(text: &mut Text, booted_s: i64) {
    let Some(process) = Process::of("self") else { return };
    let (open, most) = process::open_files();
    let rows = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            process.cpu_ns as f64 / 1e9,
        ),
        ("process_max_fds", "gauge", "Maximum number of open file descriptors.", float(most)),
        ("process_open_fds", "gauge", "Number of open file descriptors.", float(open)),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            float(process.resident_bytes),
        ),
        ("process_start_time_seconds", "gauge", START_HELP, started_s(booted_s, process)),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            float(process.virtual_bytes),
        ),
    ];
    for (name, kind, help, value) in rows {
        text.family(name, kind, help);
        text.sample(name, &[], value);
    }
}
