//! `/stats/summary`, as `k8s.io/kubelet/pkg/apis/stats/v1alpha1` has it. Pure.

use super::cgroup::Memory;
use super::disk::{Part, Space};
use super::measure::{ContainerUse, Depth, Group, Measured, PodUse, SystemUse};
use super::network::Interface;
use super::pressure::Waits;
use super::volumes::VolumeUse;
use api::Object;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The interface whose counts stand for the whole.
const MAIN_INTERFACE: &str = "eth0";

/// Times have whole seconds, in UTC.
fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

fn time_ns(ns: i64) -> Value {
    Timestamp::from_nanosecond(ns.into()).map_or(Value::Null, time)
}

/// An object without the fields that have no value.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let given = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn psi(waits: Option<Waits>) -> Value {
    waits.map_or(Value::Null, Waits::to_value)
}

/// What is the same in every part of one summary.
struct Summary<'a> {
    measured: &'a Measured,
    now: Value,
    depth: Depth,
}

/// The summary as JSON.
pub(crate) fn render(measured: &Measured, depth: Depth) -> Value {
    let summary = Summary { measured, now: time(measured.at), depth };
    let pods: Vec<Value> = measured.pods.iter().map(|pod| summary.pod(pod)).collect();
    json!({"node": summary.node(), "pods": pods})
}

impl Summary<'_> {
    fn deep(&self, value: impl FnOnce() -> Value) -> Value {
        if self.depth == Depth::Everything { value() } else { Value::Null }
    }

    fn node(&self) -> Value {
        let (of, machine) = (self.measured, &self.measured.machine);
        let booted = Timestamp::from_second(machine.booted_s).map_or(Value::Null, time);
        let containers: Vec<Value> =
            of.system.iter().map(|part| self.system(part)).chain(self.pods_together()).collect();
        object([
            ("nodeName", of.node_name.clone().into()),
            ("systemContainers", containers.into()),
            ("startTime", booted),
            ("cpu", self.cpu((machine.cpu_ns, of.nano_cores), machine.pressure.cpu)),
            ("memory", self.node_memory()),
            ("io", self.deep(|| self.io(machine.pressure.io))),
            ("network", self.deep(|| self.network(&machine.interfaces))),
            ("fs", self.deep(|| self.space(of.node_fs))),
            ("runtime", self.deep(|| self.runtime())),
            ("rlimit", self.deep(|| {
                json!({"time": self.now, "maxpid": machine.most_processes, "curproc": machine.processes})
            })),
            ("swap", json!({
                "time": self.now,
                "swapAvailableBytes": machine.swap_free,
                "swapUsageBytes": machine.swap_bytes.saturating_sub(machine.swap_free),
            })),
        ])
    }

    fn node_memory(&self) -> Value {
        let machine = &self.measured.machine;
        object([
            ("time", self.now.clone()),
            ("availableBytes", machine.memory_bytes.saturating_sub(machine.working_set).into()),
            ("usageBytes", machine.usage.into()),
            ("workingSetBytes", machine.working_set.into()),
            ("rssBytes", machine.rss.into()),
            ("pageFaults", machine.page_faults.into()),
            ("majorPageFaults", machine.major_page_faults.into()),
            ("psi", psi(machine.pressure.memory)),
        ])
    }

    fn runtime(&self) -> Value {
        let space = |space: Option<Space>| space.map_or(Value::Null, |space| self.space(space));
        object([
            ("imageFs", space(self.measured.image_fs)),
            ("containerFs", space(self.measured.container_fs)),
        ])
    }

    fn system(&self, part: &SystemUse) -> Value {
        let process = part.process;
        object([
            ("name", part.name.into()),
            ("startTime", self.started(process.started_ns)),
            ("cpu", self.cpu((process.cpu_ns, part.nano_cores), None)),
            (
                "memory",
                json!({
                    "time": self.now,
                    "usageBytes": process.resident_bytes,
                    "workingSetBytes": process.resident_bytes,
                    "rssBytes": process.resident_bytes,
                    "pageFaults": process.page_faults,
                    "majorPageFaults": process.major_page_faults,
                }),
            ),
        ])
    }

    /// A time since the machine started.
    fn started(&self, after_ns: u64) -> Value {
        let boot = self.measured.machine.booted_s.saturating_mul(1_000_000_000);
        time_ns(boot.saturating_add(i64::try_from(after_ns).unwrap_or(0)))
    }

    fn pods_together(&self) -> Option<Value> {
        let group = self.measured.classes.first()?;
        let machine = &self.measured.machine;
        let mut memory = self.memory_of(group);
        // Without a limit of their own, pods can have what the node has.
        if memory["availableBytes"].is_null() {
            let left = machine.memory_bytes.saturating_sub(group.usage.memory.working_set);
            memory["availableBytes"] = left.into();
        }
        Some(object([
            ("name", "pods".into()),
            ("startTime", self.started(0)),
            ("cpu", self.cpu_of(group)),
            ("memory", memory),
            ("swap", self.swap(&group.usage.memory)),
        ]))
    }

    fn pod(&self, one: &PodUse) -> Value {
        let pod = &one.pod;
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let containers: Vec<Value> =
            one.containers.iter().map(|container| self.container(container)).collect();
        let usage = one.group.as_ref().map(|group| &group.usage);
        let volumes: Vec<Value> = one.volumes.iter().map(|volume| self.volume(one, volume)).collect();
        object([
            ("podRef", json!({"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()})),
            ("startTime", started.map_or(Value::Null, |start| time(start.0))),
            ("containers", containers.into()),
            ("cpu", one.group.as_ref().map_or(Value::Null, |group| self.cpu_of(group))),
            ("memory", one.group.as_ref().map_or(Value::Null, |group| self.memory_of(group))),
            ("io", self.deep(|| usage.map_or(Value::Null, |usage| self.io(usage.pressure.io)))),
            ("network", one.interfaces.as_ref().map_or(Value::Null, |all| self.network(all))),
            ("volume", if volumes.is_empty() { Value::Null } else { volumes.into() }),
            ("ephemeral-storage", self.deep(|| self.space(self.measured.node_fs.with_use(one.ephemeral)))),
            ("process_stats", self.deep(|| json!({"process_count": one.processes()}))),
            ("swap", usage.map_or(Value::Null, |usage| self.swap(&usage.memory))),
        ])
    }

    fn container(&self, one: &ContainerUse) -> Value {
        let usage = one.group.as_ref().map(|group| &group.usage);
        let within = |space: Option<Space>, part: Option<Part>| match (space, part) {
            (Some(space), Some(part)) => self.space(space.with_use(part)),
            _ => Value::Null,
        };
        object([
            ("name", one.name.clone().into()),
            ("startTime", time_ns(one.created_ns)),
            ("cpu", one.group.as_ref().map_or(Value::Null, |group| self.cpu_of(group))),
            ("memory", one.group.as_ref().map_or(Value::Null, |group| self.memory_of(group))),
            ("io", self.deep(|| usage.map_or(Value::Null, |usage| self.io(usage.pressure.io)))),
            ("rootfs", within(self.measured.container_fs, one.layer)),
            ("logs", within(Some(self.measured.node_fs), one.logs)),
            ("swap", usage.map_or(Value::Null, |usage| self.swap(&usage.memory))),
        ])
    }

    fn cpu_of(&self, group: &Group) -> Value {
        self.cpu((group.usage.cpu.usage_ns, group.nano_cores), group.usage.pressure.cpu)
    }

    fn cpu(&self, (total_ns, nano_cores): (u64, Option<u64>), waits: Option<Waits>) -> Value {
        object([
            ("time", self.now.clone()),
            ("usageNanoCores", nano_cores.map_or(Value::Null, Value::from)),
            ("usageCoreNanoSeconds", total_ns.into()),
            ("psi", psi(waits)),
        ])
    }

    fn memory_of(&self, group: &Group) -> Value {
        let mut memory = self.memory(&group.usage.memory);
        if let Some(waits) = group.usage.pressure.memory {
            memory["psi"] = waits.to_value();
        }
        memory
    }

    fn memory(&self, memory: &Memory) -> Value {
        let available = memory.limit.map(|limit| limit.saturating_sub(memory.working_set));
        object([
            ("time", self.now.clone()),
            ("availableBytes", available.map_or(Value::Null, Value::from)),
            ("usageBytes", memory.usage.into()),
            ("workingSetBytes", memory.working_set.into()),
            ("rssBytes", memory.rss.into()),
            ("pageFaults", memory.page_faults.into()),
            ("majorPageFaults", memory.major_page_faults.into()),
        ])
    }

    fn swap(&self, memory: &Memory) -> Value {
        let available = memory.swap_limit.map(|limit| limit.saturating_sub(memory.swap));
        object([
            ("time", self.now.clone()),
            ("swapAvailableBytes", available.map_or(Value::Null, Value::from)),
            ("swapUsageBytes", memory.swap.into()),
        ])
    }

    fn io(&self, waits: Option<Waits>) -> Value {
        waits.map_or(Value::Null, |waits| json!({"time": self.now, "psi": waits.to_value()}))
    }

    fn network(&self, interfaces: &[Interface]) -> Value {
        let all: Vec<Value> = interfaces.iter().map(interface).collect();
        let main = interfaces.iter().find(|one| one.name == MAIN_INTERFACE).map(interface);
        let mut network = main.unwrap_or_else(|| json!({"name": ""}));
        network["time"] = self.now.clone();
        network["interfaces"] = all.into();
        network
    }

    fn space(&self, space: Space) -> Value {
        json!({
            "time": self.now,
            "availableBytes": space.available,
            "capacityBytes": space.capacity,
            "usedBytes": space.used,
            "inodesFree": space.inodes_free,
            "inodes": space.inodes,
            "inodesUsed": space.inodes_used,
        })
    }

    fn volume(&self, one: &PodUse, volume: &VolumeUse) -> Value {
        let mut value = self.space(volume.space);
        value["name"] = volume.name.clone().into();
        if let Some(claim) = &volume.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": one.pod.namespace()});
        }
        if let Some(abnormal) = volume.abnormal {
            value["volumeHealthStats"] = json!({"abnormal": abnormal});
        }
        value
    }
}

fn interface(interface: &Interface) -> Value {
    json!({
        "name": interface.name,
        "rxBytes": interface.received.bytes,
        "rxErrors": interface.received.errors,
        "txBytes": interface.sent.bytes,
        "txErrors": interface.sent.errors,
    })
}
