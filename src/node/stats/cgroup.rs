//! What one cgroup uses, as the kernel counts it. Reading is thin; what the files say is parsed by pure functions.

use super::pressure::{self, Pressure};
use crate::cgroups::{self, Hierarchy};
use std::path::{Path, PathBuf};

/// A limit at or above this is none: version 1 says a number just below 2⁶³.
const UNLIMITED: u64 = 1 << 62;

/// Memory of one cgroup, in bytes and in events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) usage: u64,
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) cache: u64,
    pub(crate) mapped_file: u64,
    pub(crate) swap: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    pub(crate) most: Option<u64>,
    pub(crate) limit: Option<u64>,
    /// Of memory and swap together on version 1, of swap alone on version 2; both are told as of swap here.
    pub(crate) swap_limit: Option<u64>,
    pub(crate) failures: u64,
    /// Processes that the kernel killed because there was no more.
    pub(crate) oom_kills: u64,
}

/// Processor time of one cgroup, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) usage_ns: u64,
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
    pub(crate) periods: u64,
    pub(crate) throttled_periods: u64,
    pub(crate) throttled_ns: u64,
}

/// What was read and written on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// `major:minor`.
    pub(crate) device: String,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// What a cgroup was given of the processors; no quota is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) shares: Option<u64>,
    pub(crate) quota_us: Option<u64>,
    pub(crate) period_us: Option<u64>,
}

/// One cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
    pub(crate) processes: u64,
    /// The first of the processes directly in it.
    pub(crate) first_process: Option<u32>,
    pub(crate) threads: u64,
    pub(crate) most_threads: Option<u64>,
    pub(crate) devices: Vec<Device>,
    pub(crate) pressure: Pressure,
}

/// A number after a word at the start of a line.
pub(super) fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(own, _)| *own == name);
    found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn limit(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit < UNLIMITED)
}

/// `cpu.stat` of version 2, in microseconds.
fn cpu_v2(stat: &str) -> Cpu {
    let ns = |name| field(stat, name).saturating_mul(1000);
    Cpu {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        throttled_ns: ns("throttled_usec"),
    }
}

/// `cpuacct.usage`, its shares of user and system, and `cpu.stat` of version 1.
fn cpu_v1(usage: &str, (user, system): (&str, &str), stat: &str) -> Cpu {
    Cpu {
        usage_ns: number(usage).unwrap_or(0),
        user_ns: number(user).unwrap_or(0),
        system_ns: number(system).unwrap_or(0),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        throttled_ns: field(stat, "throttled_time"),
    }
}

/// Memory that is used now, less file pages that nobody touched lately: those are given up first.
fn working_set(usage: u64, inactive_file: u64) -> u64 {
    usage.saturating_sub(inactive_file)
}

/// `memory.stat` of version 2.
fn memory_v2(usage: u64, stat: &str) -> Memory {
    Memory {
        usage,
        working_set: working_set(usage, field(stat, "inactive_file")),
        rss: field(stat, "anon"),
        cache: field(stat, "file"),
        mapped_file: field(stat, "file_mapped"),
        page_faults: field(stat, "pgfault"),
        major_page_faults: field(stat, "pgmajfault"),
        ..Memory::default()
    }
}

/// `memory.stat` of version 1, with what is below it.
fn memory_v1(usage: u64, stat: &str) -> Memory {
    Memory {
        usage,
        working_set: working_set(usage, field(stat, "total_inactive_file")),
        rss: field(stat, "total_rss"),
        cache: field(stat, "total_cache"),
        mapped_file: field(stat, "total_mapped_file"),
        swap: field(stat, "total_swap"),
        page_faults: field(stat, "total_pgfault"),
        major_page_faults: field(stat, "total_pgmajfault"),
        ..Memory::default()
    }
}

/// `io.stat` of version 2: a device a line, `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn devices_v2(stat: &str) -> Vec<Device> {
    let device = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let value = |name: &str| {
            let mut pairs = rest.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(own, _)| *own == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Some(Device {
            device: device.to_owned(),
            read_bytes: value("rbytes"),
            written_bytes: value("wbytes"),
            reads: value("rios"),
            writes: value("wios"),
        })
    };
    stat.lines().filter_map(device).collect()
}

/// `blkio.throttle.io_service_bytes_recursive` and `…io_serviced_recursive` of version 1: `8:0 Read 1`.
fn devices_v1(bytes: &str, operations: &str) -> Vec<Device> {
    let mut found: Vec<Device> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, verb @ ("Read" | "Write"), value] = words.as_slice() else { continue };
            let at = found.iter().position(|one| one.device == *device).unwrap_or_else(|| {
                found.push(Device { device: (*device).to_owned(), ..Device::default() });
                found.len() - 1
            });
            let one = &mut found[at];
            let slot = match (counts_bytes, *verb) {
                (true, "Read") => &mut one.read_bytes,
                (true, _) => &mut one.written_bytes,
                (false, "Read") => &mut one.reads,
                (false, _) => &mut one.writes,
            };
            *slot = value.parse().unwrap_or(0);
        }
    }
    found
}

/// Where the files of cgroups are.
#[derive(Clone, Debug)]
pub(crate) enum Kernel {
    V1 { cpu: PathBuf, cpuacct: PathBuf, memory: PathBuf, pids: PathBuf, blkio: PathBuf },
    V2(PathBuf),
}

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap_or_default()
}

impl Kernel {
    /// Finds the controllers in a machine's hierarchies.
    pub(crate) fn of(hierarchy: &Hierarchy) -> Self {
        let roots = match hierarchy {
            Hierarchy::V2(root) => return Self::V2(root.clone()),
            Hierarchy::V1(roots) => roots,
        };
        // A mount may be of several controllers: `cpu,cpuacct`.
        let named = |controller: &str| {
            let fits = |root: &&PathBuf| {
                let name = root.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| name.split(',').any(|part| part == controller))
            };
            roots.iter().find(fits).cloned().unwrap_or_default()
        };
        Self::V1 {
            cpu: named("cpu"),
            cpuacct: named("cpuacct"),
            memory: named("memory"),
            pids: named("pids"),
            blkio: named("blkio"),
        }
    }

    /// The folder by which a cgroup is known to be there.
    fn main(&self, path: &str) -> PathBuf {
        let root = match self {
            Self::V1 { memory, .. } => memory,
            Self::V2(root) => root,
        };
        root.join(path.trim_start_matches('/'))
    }

    /// What a cgroup uses; none if it is gone.
    pub(crate) fn usage(&self, path: &str) -> Option<Usage> {
        if !self.main(path).is_dir() {
            return None;
        }
        Some(match self {
            Self::V1 { .. } => self.usage_v1(path.trim_start_matches('/')),
            Self::V2(root) => usage_v2(&root.join(path.trim_start_matches('/'))),
        })
    }

    fn usage_v1(&self, path: &str) -> Usage {
        let Self::V1 { cpu, cpuacct, memory, pids, blkio } = self else { return Usage::default() };
        let at = |root: &Path, file: &str| read(&root.join(path), file);
        let shares = (at(cpuacct, "cpuacct.usage_user"), at(cpuacct, "cpuacct.usage_sys"));
        let usage = number(&at(memory, "memory.usage_in_bytes")).unwrap_or(0);
        let most = limit(&at(memory, "memory.limit_in_bytes"));
        let both = limit(&at(memory, "memory.memsw.limit_in_bytes"));
        let processes = at(memory, "cgroup.procs");
        Usage {
            cpu: cpu_v1(&at(cpuacct, "cpuacct.usage"), (&shares.0, &shares.1), &at(cpu, "cpu.stat")),
            memory: Memory {
                most: number(&at(memory, "memory.max_usage_in_bytes")),
                limit: most,
                swap_limit: both.zip(most).map(|(both, memory)| both.saturating_sub(memory)),
                failures: number(&at(memory, "memory.failcnt")).unwrap_or(0),
                oom_kills: field(&at(memory, "memory.oom_control"), "oom_kill"),
                ..memory_v1(usage, &at(memory, "memory.stat"))
            },
            processes: lines(&processes),
            first_process: first(&processes),
            threads: number(&at(pids, "pids.current")).unwrap_or(0),
            most_threads: limit(&at(pids, "pids.max")),
            devices: devices_v1(
                &at(blkio, "blkio.throttle.io_service_bytes_recursive"),
                &at(blkio, "blkio.throttle.io_serviced_recursive"),
            ),
            pressure: Pressure::default(),
        }
    }

    /// Memory that a cgroup uses now, less file pages that nobody touched lately; none if it is gone.
    pub(crate) fn working_set(&self, path: &str) -> Option<u64> {
        let folder = self.main(path);
        if !folder.is_dir() {
            return None;
        }
        let usage = |file| number(&read(&folder, file)).unwrap_or(0);
        let stat = read(&folder, "memory.stat");
        let memory = match self {
            Self::V1 { .. } => memory_v1(usage("memory.usage_in_bytes"), &stat),
            Self::V2(_) => memory_v2(usage("memory.current"), &stat),
        };
        Some(memory.working_set)
    }

    /// What a cgroup was given of the processors.
    pub(crate) fn share(&self, path: &str) -> Share {
        let path = path.trim_start_matches('/');
        match self {
            Self::V1 { cpu, .. } => {
                let at = |file: &str| read(&cpu.join(path), file);
                Share {
                    shares: number(&at("cpu.shares")),
                    quota_us: number(&at("cpu.cfs_quota_us")),
                    period_us: number(&at("cpu.cfs_period_us")),
                }
            }
            Self::V2(root) => {
                let folder = root.join(path);
                let weight = read(&folder, "cpu.weight").trim().parse().ok().map(cgroups::shares_of);
                let most = read(&folder, "cpu.max");
                let (quota, period) = most.split_once(' ').unwrap_or_default();
                let shares = weight.and_then(|shares| u64::try_from(shares).ok());
                Share { shares, quota_us: number(quota), period_us: number(period) }
            }
        }
    }
}

fn lines(text: &str) -> u64 {
    text.lines().count() as u64
}

fn first(text: &str) -> Option<u32> {
    text.lines().next()?.parse().ok()
}

fn usage_v2(folder: &Path) -> Usage {
    let at = |file: &str| read(folder, file);
    let usage = number(&at("memory.current")).unwrap_or(0);
    let (events, processes) = (at("memory.events"), at("cgroup.procs"));
    Usage {
        cpu: cpu_v2(&at("cpu.stat")),
        memory: Memory {
            swap: number(&at("memory.swap.current")).unwrap_or(0),
            most: number(&at("memory.peak")),
            limit: limit(&at("memory.max")),
            swap_limit: limit(&at("memory.swap.max")),
            failures: field(&events, "max"),
            oom_kills: field(&events, "oom_kill"),
            ..memory_v2(usage, &at("memory.stat"))
        },
        processes: lines(&processes),
        first_process: first(&processes),
        threads: number(&at("pids.current")).unwrap_or(0),
        most_threads: limit(&at("pids.max")),
        devices: devices_v2(&at("io.stat")),
        pressure: Pressure {
            cpu: pressure::parse(&at("cpu.pressure")),
            memory: pressure::parse(&at("memory.pressure")),
            io: pressure::parse(&at("io.pressure")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_counts_in_microseconds() {
        let stat =
            "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 9\nnr_throttled 2\nthrottled_usec 5\n";
        let cpu = cpu_v2(stat);
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns), (7000, 4000, 3000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_ns), (9, 2, 5000));
        let memory =
            memory_v2(100, "anon 40\nfile 50\nfile_mapped 5\ninactive_file 30\npgfault 8\npgmajfault 1\n");
        assert_eq!((memory.working_set, memory.rss, memory.cache), (70, 40, 50));
        assert_eq!((memory.page_faults, memory.major_page_faults), (8, 1));
        let devices = devices_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        let device =
            Device { device: "8:0".to_owned(), read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(devices, [device]);
    }

    #[test]
    fn version_1_has_a_file_for_each() {
        let cpu = cpu_v1("9\n", ("5\n", "4\n"), "nr_periods 1\nnr_throttled 1\nthrottled_time 6\n");
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.throttled_ns), (9, 5, 6));
        let memory = memory_v1(100, "rss 1\ntotal_rss 20\ntotal_inactive_file 120\ntotal_swap 3\n");
        // File pages of a cgroup below may be counted a moment earlier than its use.
        assert_eq!((memory.working_set, memory.rss, memory.swap), (0, 20, 3));
        let devices =
            devices_v1("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n", "8:0 Read 1\n8:0 Write 2\n");
        assert_eq!((devices.len(), devices[0].written_bytes, devices[0].reads), (1, 20, 1));
    }

    #[test]
    fn a_limit_that_nobody_reaches_is_none() {
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("1048576\n"), Some(1 << 20));
    }
}
