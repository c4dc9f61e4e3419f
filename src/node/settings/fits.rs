//! Whether this machine is as the configuration says that it has to be.

use super::KubeletConfiguration;
use std::path::Path;

/// What the kernel has to be set to where `protectKernelDefaults` asks for it.
const KERNEL: [(&str, i64); 6] = [
    ("kernel/keys/root_maxbytes", 25_000_000),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
];

/// What of the machine is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// It has version 2 of cgroups alone.
    pub(crate) unified: bool,
    /// Names of cgroups follow systemd's slices.
    pub(crate) systemd: bool,
    /// Swap areas, as /proc/swaps names them.
    pub(crate) swaps: Vec<String>,
    /// The values of [`KERNEL`].
    kernel: Vec<Option<i64>>,
}

impl Facts {
    /// Looks at the machine.
    pub(crate) fn detect(unified: bool, systemd: bool) -> Self {
        let value = |name: &str| {
            let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            text.trim().parse().ok()
        };
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        Self { unified, systemd, swaps: areas(&swaps), kernel: KERNEL.map(|(name, _)| value(name)).into() }
    }
}

fn areas(swaps: &str) -> Vec<String> {
    let lines = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    lines.map(str::to_owned).collect()
}

/// Everything that does not fit.
pub(crate) fn check(it: &KubeletConfiguration, facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    if it.fail_cgroup_v1 && !facts.unified {
        found.push("kubelet is configured to not run on a host using cgroup v1".to_owned());
    }
    if it.single_process_oom_kill == Some(false) && !facts.unified {
        let why = "singleProcessOOMKill must not be explicitly set to false when using cgroup v1";
        found.push(format!("invalid configuration: {why}"));
    }
    let driver = if facts.systemd { "systemd" } else { "cgroupfs" };
    if !it.cgroup_driver.is_empty() && it.cgroup_driver != driver {
        found.push(format!(
            "cgroupDriver {:?} cannot be honoured: this machine's is {driver}",
            it.cgroup_driver
        ));
    }
    if it.fail_swap_on && !facts.swaps.is_empty() {
        found.push(format!("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false: {}", facts.swaps.join(", ")));
    }
    let kernel = KERNEL.iter().zip(&facts.kernel).filter(|_| it.protect_kernel_defaults);
    for ((name, wanted), actual) in kernel {
        if *actual != Some(*wanted) {
            let actual = actual.map_or("unknown".to_owned(), |actual| actual.to_string());
            found.push(format!(
                "invalid kernel flag: {name}, expected value: {wanted}, actual value: {actual}"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_fit_is_told_why() {
        let kernel = KERNEL.map(|(_, wanted)| Some(wanted)).into();
        let good = Facts { unified: true, systemd: false, swaps: Vec::new(), kernel };
        let strict = KubeletConfiguration {
            fail_cgroup_v1: true,
            fail_swap_on: true,
            protect_kernel_defaults: true,
            cgroup_driver: "cgroupfs".to_owned(),
            single_process_oom_kill: Some(false),
            ..Default::default()
        };
        assert_eq!(check(&strict, &good), [""; 0]);
        let swaps = areas("Filename Type Size Used Priority\n/dev/zram0 partition 8 0 100\n");
        let bad = Facts { unified: false, systemd: true, swaps, kernel: vec![None; KERNEL.len()] };
        let told = check(&strict, &bad);
        assert_eq!(told.len(), 4 + KERNEL.len(), "{told:?}");
        assert!(told[3].ends_with("/dev/zram0"), "{told:?}");
        assert_eq!(check(&KubeletConfiguration::default(), &bad), [""; 0]);
    }
}
