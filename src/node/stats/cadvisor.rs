//! `/metrics/cadvisor`: the families of containers and of the machine that dashboards are made of, one row each.

use super::cgroup::{Device, Share, Usage};
use super::machine;
use super::measure::{ContainerUse, Group, Measured, PodUse};
use super::network::Interface;
use super::pressure::Waits;
use api::Object;
use api::core::NodeSystemInfo;
use base::exposition::Text;
use std::collections::HashMap;

/// What a row of the table looks at: one cgroup.
struct Entity<'a> {
    group: &'a Group,
    share: Share,
    /// Of a container or sandbox: name, id, image, and when it was made.
    container: Option<&'a ContainerUse>,
    pod: Option<&'a PodUse>,
    /// Only of sandboxes.
    interfaces: &'a [Interface],
    /// With the file of each.
    devices: Vec<(String, &'a Device)>,
    /// The size of the file system that containers write to.
    fs_bytes: u64,
    now_s: i64,
}

/// A value with the labels that only its family has.
type Values = Vec<(Vec<(&'static str, String)>, f64)>;

/// A row of the table.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: fn(&Entity) -> Values,
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(ns: u64) -> f64 {
    float(ns) / 1e9
}

fn one(value: f64) -> Values {
    vec![(Vec::new(), value)]
}

fn some(value: Option<u64>) -> Values {
    value.map(|value| one(float(value))).unwrap_or_default()
}

fn count(value: u64) -> Values {
    one(float(value))
}

fn usage<'a>(entity: &'a Entity) -> &'a Usage {
    &entity.group.usage
}

/// Containers alone, not the classes and pods above them.
fn of_container(entity: &Entity, value: impl FnOnce(&ContainerUse) -> Option<f64>) -> Values {
    entity.container.and_then(value).map(one).unwrap_or_default()
}

fn devices(entity: &Entity, value: fn(&Device) -> u64) -> Values {
    let rows = entity.devices.iter();
    rows.map(|(file, device)| (vec![("device", file.clone())], float(value(device)))).collect()
}

fn interfaces(entity: &Entity, value: fn(&Interface) -> u64) -> Values {
    let rows = entity.interfaces.iter().map(|one| (vec![("interface", one.name.clone())], float(value(one))));
    rows.collect()
}

/// Kernels count in microseconds what is waited for.
fn waited(waits: Option<Waits>, total: fn(&Waits) -> u64) -> Values {
    waits.map(|waits| one(float(total(&waits)) / 1e6)).unwrap_or_default()
}

fn faults(entity: &Entity) -> Values {
    let memory = &usage(entity).memory;
    let row = |kind: &str, scope: &str, value| {
        (vec![("failure_type", kind.to_owned()), ("scope", scope.to_owned())], float(value))
    };
    vec![
        row("pgfault", "hierarchy", memory.page_faults),
        row("pgmajfault", "hierarchy", memory.major_page_faults),
    ]
}

/// CPU of one cgroup is of all processors together.
fn cpu_total(entity: &Entity) -> Values {
    vec![(vec![("cpu", "total".to_owned())], seconds(usage(entity).cpu.usage_ns))]
}

const fn counter(name: &'static str, help: &'static str, values: fn(&Entity) -> Values) -> Family {
    Family { name, kind: "counter", help, values }
}

const fn gauge(name: &'static str, help: &'static str, values: fn(&Entity) -> Values) -> Family {
    Family { name, kind: "gauge", help, values }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn created_s(container: &ContainerUse) -> Option<f64> {
    Some((container.created_ns / 1_000_000_000) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn now(entity: &Entity) -> Values {
    one(entity.now_s as f64)
}

/// The table, in the order of names.
static FAMILIES: &[Family] = &[
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |e| {
        if e.share.quota_us.is_some() { count(usage(e).cpu.periods) } else { Vec::new() }
    }),
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |e| {
        if e.share.quota_us.is_some() { count(usage(e).cpu.throttled_periods) } else { Vec::new() }
    }),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |e| if e.share.quota_us.is_some() { one(seconds(usage(e).cpu.throttled_ns)) } else { Vec::new() },
    ),
    counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |e| {
        one(seconds(usage(e).cpu.system_ns))
    }),
    counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", cpu_total),
    counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |e| {
        one(seconds(usage(e).cpu.user_ns))
    }),
    gauge(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        |e| {
            let bytes = float(e.fs_bytes);
            if e.container.is_some_and(|one| one.layer.is_some()) { on_root(bytes) } else { Vec::new() }
        },
    ),
    counter("container_fs_reads_bytes_total", "Cumulative count of bytes read", |e| {
        devices(e, |device| device.read_bytes)
    }),
    counter("container_fs_reads_total", "Cumulative count of reads completed", |e| {
        devices(e, |device| device.reads)
    }),
    gauge(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        |e| e.container.and_then(|one| one.layer).map(|part| on_root(float(part.bytes))).unwrap_or_default(),
    ),
    counter("container_fs_writes_bytes_total", "Cumulative count of bytes written", |e| {
        devices(e, |device| device.written_bytes)
    }),
    counter("container_fs_writes_total", "Cumulative count of writes completed", |e| {
        devices(e, |device| device.writes)
    }),
    gauge("container_last_seen", "Last time a container was seen by the exporter", now),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", |e| {
        count(usage(e).memory.cache)
    }),
    counter("container_memory_failcnt", "Number of memory usage hits limits", |e| {
        count(usage(e).memory.failures)
    }),
    counter("container_memory_failures_total", "Cumulative count of memory allocation failures.", faults),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |e| {
        count(usage(e).memory.mapped_file)
    }),
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |e| {
        some(usage(e).memory.most)
    }),
    gauge("container_memory_rss", "Size of RSS in bytes.", |e| count(usage(e).memory.rss)),
    gauge("container_memory_swap", "Container swap usage in bytes.", |e| count(usage(e).memory.swap)),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |e| count(usage(e).memory.usage),
    ),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |e| {
        count(usage(e).memory.working_set)
    }),
    counter("container_network_receive_bytes_total", "Cumulative count of bytes received", |e| {
        interfaces(e, |one| one.received.bytes)
    }),
    counter(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |e| interfaces(e, |one| one.received.errors),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |e| interfaces(e, |one| one.received.dropped),
    ),
    counter("container_network_receive_packets_total", "Cumulative count of packets received", |e| {
        interfaces(e, |one| one.received.packets)
    }),
    counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |e| {
        interfaces(e, |one| one.sent.bytes)
    }),
    counter(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |e| interfaces(e, |one| one.sent.errors),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |e| interfaces(e, |one| one.sent.dropped),
    ),
    counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |e| {
        interfaces(e, |one| one.sent.packets)
    }),
    counter("container_oom_events_total", "Count of out of memory events observed for the container", |e| {
        count(usage(e).memory.oom_kills)
    }),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |e| waited(usage(e).pressure.cpu, |waits| waits.full.total),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |e| waited(usage(e).pressure.cpu, |waits| waits.some.total),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |e| waited(usage(e).pressure.io, |waits| waits.full.total),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |e| waited(usage(e).pressure.io, |waits| waits.some.total),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |e| waited(usage(e).pressure.memory, |waits| waits.full.total),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |e| waited(usage(e).pressure.memory, |waits| waits.some.total),
    ),
    gauge("container_processes", "Number of processes running inside the container.", |e| {
        count(usage(e).processes)
    }),
    gauge("container_spec_cpu_period", "CPU period of the container.", |e| some(e.share.period_us)),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", |e| some(e.share.quota_us)),
    gauge("container_spec_cpu_shares", "CPU share of the container.", |e| some(e.share.shares)),
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", |e| {
        count(usage(e).memory.limit.unwrap_or(0))
    }),
    gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |e| {
        count(usage(e).memory.swap_limit.unwrap_or(0))
    }),
    gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |e| {
        of_container(e, created_s)
    }),
    gauge("container_threads", "Number of threads running inside the container", |e| count(usage(e).threads)),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |e| count(usage(e).most_threads.unwrap_or(0)),
    ),
];

/// The layer of a container lies on no device of its own.
fn on_root(value: f64) -> Values {
    vec![(vec![("device", String::new())], value)]
}

/// The text. `share_of` tells what a cgroup was given.
pub(crate) fn render(measured: &Measured, info: &NodeSystemInfo, share_of: impl Fn(&str) -> Share) -> String {
    let entities = entities(measured, share_of);
    let at_ms = measured.at.as_millisecond();
    let mut text = Text::default();
    for family in FAMILIES {
        let values: Vec<_> = entities.iter().map(|entity| (entity, (family.values)(entity))).collect();
        if values.iter().all(|(_, values)| values.is_empty()) {
            continue;
        }
        text.family(family.name, family.kind, family.help);
        for (entity, values) in &values {
            let base = labels(entity);
            for (more, value) in values {
                let mut all: Vec<(&str, &str)> = base.iter().map(|(name, value)| (*name, *value)).collect();
                all.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
                text.sample_at(family.name, &all, *value, at_ms);
            }
        }
    }
    text.family(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample("container_scrape_error", &[], 0.0);
    of_machine(&mut text, measured, info);
    text.finish()
}

/// Who a sample is about; what does not apply is empty.
fn labels<'a>(entity: &Entity<'a>) -> [(&'static str, &'a str); 6] {
    let container = entity.container;
    [
        ("container", container.map_or("", |one| one.name.as_str())),
        ("id", entity.group.path.as_str()),
        ("image", container.map_or("", |one| one.image.as_str())),
        ("name", container.map_or("", |one| one.id.as_str())),
        ("namespace", entity.pod.map_or("", |pod| pod.pod.namespace())),
        ("pod", entity.pod.map_or("", |pod| pod.pod.name())),
    ]
}

/// Every cgroup that is told of: classes, pods, sandboxes, containers.
fn entities<'a>(measured: &'a Measured, share_of: impl Fn(&str) -> Share) -> Vec<Entity<'a>> {
    let fs_bytes = measured.container_fs.map_or(0, |space| space.capacity);
    // Few devices are used by many.
    let mut files: HashMap<&'a str, String> = HashMap::new();
    let mut file =
        |numbers: &'a str| files.entry(numbers).or_insert_with(|| machine::device_file(numbers)).clone();
    let mut entity = |group: &'a Group, container, pod| Entity {
        devices: group.usage.devices.iter().map(|device| (file(&device.device), device)).collect(),
        share: share_of(&group.path),
        group,
        container,
        pod,
        interfaces: &[],
        fs_bytes,
        now_s: measured.at.as_second(),
    };
    let mut all: Vec<Entity> = measured.classes.iter().map(|group| entity(group, None, None)).collect();
    for pod in &measured.pods {
        all.extend(pod.group.as_ref().map(|group| entity(group, None, Some(pod))));
        let sandbox = pod.sandbox.as_ref().and_then(|sandbox| Some((sandbox, sandbox.group.as_ref()?)));
        all.extend(sandbox.map(|(sandbox, group)| Entity {
            interfaces: pod.interfaces.as_deref().unwrap_or_default(),
            ..entity(group, Some(sandbox), Some(pod))
        }));
        let containers = pod.containers.iter().filter_map(|one| Some((one, one.group.as_ref()?)));
        all.extend(containers.map(|(container, group)| entity(group, Some(container), Some(pod))));
    }
    all
}

fn of_machine(text: &mut Text, measured: &Measured, info: &NodeSystemInfo) {
    let (sockets, cores, logical) = machine::processors();
    let labels = [
        ("boot_id", info.boot_id.as_str()),
        ("machine_id", info.machine_id.as_str()),
        ("system_uuid", info.system_uuid.as_str()),
    ];
    let rows = [
        ("machine_cpu_cores", "Number of logical CPU cores.", logical),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", cores),
        ("machine_cpu_sockets", "Number of CPU sockets.", sockets),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", measured.machine.memory_bytes),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            measured.machine.swap_bytes,
        ),
    ];
    for (name, help, value) in rows {
        text.family(name, "gauge", help);
        text.sample_at(name, &labels, float(value), measured.at.as_millisecond());
    }
    text.family(
        "machine_scrape_error",
        "gauge",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
    );
    text.sample("machine_scrape_error", &[], 0.0);
}
