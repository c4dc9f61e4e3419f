//! In which order pods are evicted: those that use more than they asked for, then by priority, then those that use
//! most. Pure.

use super::threshold::Signal;
use super::usage::Usage;
use crate::amount::{self, signed};
use crate::pods::spec;
use crate::stats::Part;
use api::core::Pod;
use std::cmp::Reverse;
use std::sync::Arc;

/// A pod that may be evicted. Of one that nothing is known of, nothing is known to speak for it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    pub(crate) usage: Option<Usage>,
}

/// Which of a pod's files lie on the file system that runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Files {
    rootfs: bool,
    logs_and_volumes: bool,
}

impl Files {
    /// `dedicated` is whether images and containers' own files have a file system of their own.
    fn on(signal: Signal, dedicated: bool) -> Self {
        let images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
        Self { rootfs: !dedicated || images, logs_and_volumes: !dedicated || !images }
    }

    fn of(self, usage: &Usage) -> Part {
        let mut sum = Part::default();
        for container in &usage.containers {
            let parts =
                [container.rootfs.filter(|_| self.rootfs), container.logs.filter(|_| self.logs_and_volumes)];
            parts.into_iter().flatten().for_each(|part| sum += part);
        }
        let volumes =
            usage.volumes.values().filter(|(_, is_ephemeral)| *is_ephemeral && self.logs_and_volumes);
        volumes.for_each(|(part, _)| sum += *part);
        sum
    }
}

/// How much of what runs short a pod uses, and how much it asked for.
fn measure(signal: Signal, dedicated: bool, candidate: &Candidate) -> Option<(i64, i64)> {
    let usage = candidate.usage.as_ref()?;
    let disk = || Files::on(signal, dedicated).of(usage);
    Some(match signal {
        Signal::Memory | Signal::AllocatableMemory => {
            (usage.memory, amount::request(&candidate.pod, "memory"))
        }
        Signal::NodeFs | Signal::ImageFs | Signal::ContainerFs => {
            (signed(disk().bytes), amount::request(&candidate.pod, "ephemeral-storage"))
        }
        Signal::NodeFsInodes | Signal::ImageFsInodes | Signal::ContainerFsInodes => {
            (signed(disk().inodes), 0)
        }
        Signal::Pids => (usage.processes, 0),
    })
}

/// Sorts candidates: the first is to be evicted first.
pub(crate) fn rank(signal: Signal, dedicated: bool, candidates: &mut [Candidate]) {
    candidates.sort_by_cached_key(|candidate| {
        let measured = measure(signal, dedicated, candidate);
        // Nobody asks for processes: nobody uses more of them than asked for.
        let within = signal == Signal::Pids || measured.is_some_and(|(used, asked)| used <= asked);
        let over = measured.map(|(used, asked)| used.saturating_sub(asked));
        let priority = spec::spec(&candidate.pod).priority.unwrap_or(0);
        (measured.is_some() && signal != Signal::Pids, within, priority, over.is_some(), Reverse(over))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use api::Object;
    use serde_json::json;

    fn candidate(name: &str, (priority, request): (i32, &str), usage: Option<Usage>) -> Candidate {
        let requests = json!({"memory": request, "ephemeral-storage": request});
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]},
        });
        Candidate { pod: Arc::new(serde_json::from_value(pod).unwrap()), usage }
    }

    fn order(signal: Signal, dedicated: bool, mut candidates: Vec<Candidate>) -> Vec<String> {
        rank(signal, dedicated, &mut candidates);
        candidates.iter().map(|candidate| candidate.pod.name().to_owned()).collect()
    }

    #[test]
    fn memory_goes_by_excess_priority_and_amount() {
        let uses = |memory| Some(Usage { memory, ..Default::default() });
        let all = vec![
            candidate("within, low", (0, "1000"), uses(1000)),
            candidate("over, high", (10, "10"), uses(5000)),
            candidate("over a little", (1, "10"), uses(20)),
            candidate("over a lot", (1, "100"), uses(200)),
            candidate("unknown", (99, "10"), None),
        ];
        let wanted = ["unknown", "over a lot", "over a little", "over, high", "within, low"];
        assert_eq!(order(Signal::Memory, false, all), wanted);
    }

    #[test]
    fn disks_go_by_the_files_that_lie_on_them() {
        let uses = |rootfs, logs, volume| {
            let part = |bytes| Part { bytes, inodes: bytes };
            let container = ContainerUsage {
                name: "c".to_owned(),
                rootfs: Some(part(rootfs)),
                logs: Some(part(logs)),
                ..Default::default()
            };
            let volumes =
                [("v".to_owned(), (part(volume), true)), ("memory".to_owned(), (part(1 << 30), false))];
            Some(Usage { containers: vec![container], volumes: volumes.into(), ..Default::default() })
        };
        let all = || {
            vec![
                candidate("logs", (0, "1"), uses(10, 200, 10)),
                candidate("files", (0, "1"), uses(150, 10, 10)),
                candidate("volume", (0, "1"), uses(10, 10, 170)),
            ]
        };
        assert_eq!(order(Signal::NodeFs, false, all()), ["logs", "volume", "files"]);
        assert_eq!(order(Signal::ImageFs, true, all()), ["files", "logs", "volume"]);
        assert_eq!(order(Signal::NodeFsInodes, true, all()), ["logs", "volume", "files"]);
    }

    #[test]
    fn processes_go_by_priority_and_number() {
        let uses = |processes| Some(Usage { processes, ..Default::default() });
        let all = vec![
            candidate("high", (5, "1"), uses(900)),
            candidate("few", (0, "1"), uses(1)),
            candidate("many", (0, "1"), uses(90)),
        ];
        assert_eq!(order(Signal::Pids, false, all), ["many", "few", "high"]);
    }
}
