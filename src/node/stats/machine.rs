//! What the whole machine uses and has.

use super::cgroup::field;
use super::network::{self, Interface};
use super::pressure::Pressure;
use super::process::TICK_NS;
use crate::amount::signed;
use crate::capacity::most_pids;
use crate::machine::{Meminfo, processes};
use std::path::Path;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) cpu_ns: u64,
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) usage: u64,
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) cache: u64,
    pub(crate) swap_bytes: u64,
    pub(crate) swap_free: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    /// Seconds since 1970.
    pub(crate) booted_s: i64,
    pub(crate) most_processes: u64,
    pub(crate) processes: u64,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) pressure: Pressure,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `cpu  user nice system idle iowait irq softirq steal …`: busy, of it for programs and for the kernel.
fn cpu(stat: &str) -> (u64, u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let time = |at: usize| times.get(at).copied().unwrap_or(0) * TICK_NS;
    let (user, system) = (time(0) + time(1), time(2) + time(5) + time(6));
    (user + system + time(7), user, system)
}

/// When the machine started, in seconds since 1970, as `/proc/stat` says.
fn started(stat: &str) -> i64 {
    signed(field(stat, "btime"))
}

/// When the machine started, in seconds since 1970.
pub(crate) fn booted_s() -> i64 {
    started(&read("/proc/stat"))
}

impl Machine {
    /// Looks at the machine.
    pub(crate) fn measure() -> Self {
        let (stat, meminfo, vmstat) = (read("/proc/stat"), Meminfo::read(), read("/proc/vmstat"));
        let (cpu_ns, user_ns, system_ns) = cpu(&stat);
        let bytes = |name| meminfo.bytes(name);
        let usage = bytes("MemTotal").saturating_sub(bytes("MemFree"));
        Self {
            cpu_ns,
            user_ns,
            system_ns,
            memory_bytes: bytes("MemTotal"),
            usage,
            working_set: usage.saturating_sub(bytes("Inactive(file)")),
            rss: bytes("AnonPages"),
            cache: bytes("Cached"),
            swap_bytes: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
            page_faults: field(&vmstat, "pgfault"),
            major_page_faults: field(&vmstat, "pgmajfault"),
            booted_s: started(&stat),
            most_processes: most_pids().map_or(0, i64::unsigned_abs),
            processes: processes().map_or(0, i64::unsigned_abs),
            interfaces: network::of_process("self"),
            pressure: Pressure::of_machine(),
        }
    }
}

/// How the processors are made: sockets, physical cores, logical ones.
pub(crate) fn processors() -> (u64, u64, u64) {
    let logical = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let mut cores = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let topology = entry.path().join("topology");
        let id =
            |file: &str| std::fs::read_to_string(topology.join(file)).ok().map(|text| text.trim().to_owned());
        if let (Some(socket), Some(core)) = (id("physical_package_id"), id("core_id")) {
            cores.insert((socket, core));
        }
    }
    let sockets: std::collections::BTreeSet<_> = cores.iter().map(|(socket, _)| socket).collect();
    ((sockets.len() as u64).max(1), (cores.len() as u64).max(1), logical)
}

/// The file of a block device of these numbers, such as `/dev/sda` for `8:0`.
pub(crate) fn device_file(numbers: &str) -> String {
    let link = std::fs::read_link(Path::new("/sys/dev/block").join(numbers)).unwrap_or_default();
    link.file_name().map(|name| format!("/dev/{}", name.to_string_lossy())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_no_use() {
        let stat = "cpu  10 1 5 1000 200 2 3 4 0 0\ncpu0 1 1 1 1\nbtime 5\n";
        assert_eq!(cpu(stat), (25 * TICK_NS, 11 * TICK_NS, 10 * TICK_NS));
    }

    #[test]
    fn this_machine_has_memory_in_use() {
        let machine = Machine::measure();
        assert!(0 < machine.working_set && machine.working_set <= machine.memory_bytes, "{machine:?}");
        assert!(machine.processes > 0 && machine.booted_s > 0, "{machine:?}");
    }
}
