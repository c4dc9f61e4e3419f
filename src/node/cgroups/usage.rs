//! What of the machine is in use, as the kernel counts it.

/// What the whole machine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    pub(crate) working_set: u64,
    pub(crate) available: u64,
}

/// The kernel's clock of CPU time ticks a hundred times a second for programs, whatever it does inside.
const TICK_NS: u64 = 10_000_000;

/// Reads the machine's use from /proc.
pub(crate) fn usage_of_machine() -> Usage {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = text("/proc/stat");
    let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<u64> = times.filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy: u64 =
        times.iter().enumerate().filter(|(i, _)| ![3, 4].contains(i) && *i < 8).map(|(_, time)| time).sum();
    let memory = text("/proc/meminfo");
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let available = bytes("MemAvailable:");
    Usage { cpu_ns: busy * TICK_NS, working_set: bytes("MemTotal:").saturating_sub(available), available }
}
