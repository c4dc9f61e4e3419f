//! `/metrics/resource`, which `metrics.k8s.io` is made of. Pure.

use super::measure::{Group, Measured};
use api::Object;
use base::exposition::Text;

/// Something that uses processors and memory, with its labels.
struct Row<'a> {
    labels: Vec<(&'a str, &'a str)>,
    group: &'a Group,
    created_ns: i64,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

/// A family of what containers or pods use.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Group) -> Option<f64>,
}

fn cpu(group: &Group) -> Option<f64> {
    Some(seconds(group.usage.cpu.usage_ns))
}

fn working_set(group: &Group) -> Option<f64> {
    Some(float(group.usage.memory.working_set))
}

fn swap(group: &Group) -> Option<f64> {
    Some(float(group.usage.memory.swap))
}

fn swap_limit(group: &Group) -> Option<f64> {
    group.usage.memory.swap_limit.map(float)
}

const OF_CONTAINERS: [Family; 4] = [
    Family {
        name: "container_cpu_usage_seconds_total",
        kind: "counter",
        help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        value: cpu,
    },
    Family {
        name: "container_memory_working_set_bytes",
        kind: "gauge",
        help: "[STABLE] Current working set of the container in bytes",
        value: working_set,
    },
    Family {
        name: "container_swap_limit_bytes",
        kind: "gauge",
        help: "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        value: swap_limit,
    },
    Family {
        name: "container_swap_usage_bytes",
        kind: "gauge",
        help: "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        value: swap,
    },
];
const OF_PODS: [Family; 3] = [
    Family {
        name: "pod_cpu_usage_seconds_total",
        kind: "counter",
        help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        value: cpu,
    },
    Family {
        name: "pod_memory_working_set_bytes",
        kind: "gauge",
        help: "[STABLE] Current working set of the pod in bytes",
        value: working_set,
    },
    Family {
        name: "pod_swap_usage_bytes",
        kind: "gauge",
        help: "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        value: swap,
    },
];

/// Samples of families, each with the time of the measurement; a family without any is left out.
fn families(text: &mut Text, table: &[Family], rows: &[Row], at_ms: i64) {
    for family in table {
        let values = rows.iter().filter_map(|row| Some((&row.labels, (family.value)(row.group)?)));
        let values: Vec<_> = values.collect();
        if values.is_empty() {
            continue;
        }
        text.family(family.name, family.kind, family.help);
        values.into_iter().for_each(|(labels, value)| text.sample_at(family.name, labels, value, at_ms));
    }
}

/// The text.
pub(crate) fn render(measured: &Measured) -> String {
    let at_ms = measured.at.as_millisecond();
    let mut text = Text::default();
    let containers = containers(measured);
    families(&mut text, &OF_CONTAINERS, &containers, at_ms);
    start_times(&mut text, &containers);
    node(&mut text, measured);
    families(&mut text, &OF_PODS, &pods(measured), at_ms);
    scrape_error(&mut text, 0.0);
    text.finish()
}

/// The text where nothing could be measured.
pub(crate) fn failed() -> String {
    let mut text = Text::default();
    scrape_error(&mut text, 1.0);
    text.finish()
}

fn scrape_error(text: &mut Text, value: f64) {
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", "gauge", help);
    text.sample("resource_scrape_error", &[], value);
    let help = "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("scrape_error", "gauge", help);
    text.sample("scrape_error", &[], value);
}

fn node(text: &mut Text, measured: &Measured) {
    let (machine, at_ms) = (&measured.machine, measured.at.as_millisecond());
    let used = machine.swap_bytes.saturating_sub(machine.swap_free);
    let rows = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            seconds(machine.cpu_ns),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            float(machine.working_set),
        ),
        (
            "node_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            float(used),
        ),
    ];
    for (name, kind, help, value) in rows {
        text.family(name, kind, help);
        text.sample_at(name, &[], value, at_ms);
    }
}

/// These have no time of measurement: they do not change.
#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn start_times(text: &mut Text, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let name = "container_start_time_seconds";
    text.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for row in rows.iter().filter(|row| row.created_ns > 0) {
        text.sample(name, &row.labels, row.created_ns as f64 / 1e9);
    }
}

fn containers(measured: &Measured) -> Vec<Row<'_>> {
    let rows = measured.pods.iter().flat_map(|pod| {
        pod.containers.iter().filter_map(|container| {
            let labels = vec![
                ("container", container.name.as_str()),
                ("namespace", pod.pod.namespace()),
                ("pod", pod.pod.name()),
            ];
            Some(Row { labels, group: container.group.as_ref()?, created_ns: container.created_ns })
        })
    });
    rows.collect()
}

fn pods(measured: &Measured) -> Vec<Row<'_>> {
    let rows = measured.pods.iter().filter_map(|pod| {
        let labels = vec![("namespace", pod.pod.namespace()), ("pod", pod.pod.name())];
        Some(Row { labels, group: pod.group.as_ref()?, created_ns: 0 })
    });
    rows.collect()
}
