//! What the machine is: its size and its names.

use crate::amount::List;
use crate::capacity::{self, Capacity};
use crate::cgroups::{Cgroups, Hierarchy, Rules, Swap};
use crate::settings::{KubeletConfiguration, fits};
use crate::{Config, Error, Size, containerd};
use api::Quantity;
use api::core::{NodeSwapStatus, NodeSystemInfo};
use nix::sys::utsname::uname;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

fn line_of(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// What /proc/meminfo said at one time.
pub(crate) struct Meminfo(String);

impl Meminfo {
    pub(crate) fn read() -> Self {
        Self(std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    /// A field in bytes; the kernel counts KiB.
    pub(crate) fn bytes(&self, field: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

/// The address that packets to the world would carry; nothing is sent to find out.
fn outgoing_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address reserved for documentation: only the route to it is looked up.
    socket.connect(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9))).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// The machine as the node and its pods are told about it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) addresses: Vec<IpAddr>,
    /// What there is, what pods get of it, and what their cgroups are limited to.
    pub(crate) capacity: Capacity,
    /// Names and versions; that of the runtime is not known yet.
    pub(crate) info: NodeSystemInfo,
    /// The kernel enforces AppArmor's profiles.
    pub(crate) apparmor: bool,
    facts: capacity::Facts,
    /// How cgroups are mounted, and whether they follow systemd's slices. A hollow node has none: no file is
    /// written, nothing runs short.
    cgroups: Option<(Hierarchy, bool)>,
}

impl Machine {
    /// Looks at the machine.
    pub(crate) fn detect(config: &Config) -> Result<Self, Error> {
        let own = config.node_ips.clone();
        let addresses = if own.is_empty() { outgoing_address().into_iter().collect() } else { own };
        if addresses.is_empty() {
            return Err(Error::Setup(
                "this machine has no address to be reached at: name one with --node-ip".to_owned(),
            ));
        }
        let containerd::config::Machine { systemd_cgroups, apparmor, .. } =
            containerd::config::Machine::detect();
        let hierarchy = Hierarchy::detect();
        let fits = fits::Facts::detect(hierarchy.is_unified(), systemd_cgroups);
        let misfits = fits::check(config.kubelet(), &fits);
        if !misfits.is_empty() {
            return Err(Error::Setup(misfits.join("; ")));
        }
        let facts = capacity::Facts::detect(&config.kubelet_dir);
        let capacity = capacity::plan(&facts, config.kubelet(), config.max_pods).map_err(Error::Setup)?;
        let mut info = system_info(&config.version);
        info.swap = Some(NodeSwapStatus { capacity: Some(facts.swap) }).filter(|_| facts.swap > 0);
        let cgroups = Some((hierarchy, systemd_cgroups));
        Ok(Self { addresses, capacity, info, apparmor, facts, cgroups })
    }

    /// What a hollow node says of itself.
    pub(crate) fn hollow(config: &Config, size: &Size) -> Self {
        let all = [("cpu", &size.cpu), ("memory", &size.memory), ("ephemeral-storage", &size.memory)];
        let own = all.map(|(name, amount)| (name.to_owned(), amount.clone()));
        let pods = ("pods".to_owned(), Quantity(config.max_pods.to_string()));
        let all: List = own.into_iter().chain([pods]).collect();
        Self {
            addresses: config.node_ips.clone(),
            capacity: Capacity { capacity: all.clone(), allocatable: all, ..Default::default() },
            info: system_info(&config.version),
            apparmor: false,
            facts: capacity::Facts { memory: crate::amount::whole(&size.memory), ..Default::default() },
            cgroups: None,
        }
    }

    /// Whether there is a machine; a hollow node has none.
    pub(crate) fn is_there(&self) -> bool {
        self.cgroups.is_some()
    }

    /// Changes files of this machine; a hollow node has nothing to change.
    pub(crate) fn change(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        if self.is_there() { work() } else { Ok(()) }
    }

    /// The cgroups of its pods.
    pub(crate) fn cgroups(&self, config: &Config) -> Cgroups {
        let Some((hierarchy, systemd)) = &self.cgroups else { return Cgroups::none() };
        let rules = self.rules(config.kubelet(), hierarchy.is_unified());
        Cgroups::new(hierarchy.clone(), &config.cgroup_root, *systemd, rules)
    }

    /// What holds for its pods' cgroups.
    fn rules(&self, kubelet: &KubeletConfiguration, unified: bool) -> Rules {
        let period = i64::try_from(kubelet.cpu_cfs_quota_period.get().as_micros()).unwrap_or(100_000);
        let limited = kubelet.memory_swap.swap_behavior == "LimitedSwap";
        Rules {
            unified,
            period_us: Some(period).filter(|_| kubelet.cpu_cfs_quota),
            pids: Some(kubelet.pod_pids_limit).filter(|limit| *limit > 0),
            page_sizes: self.facts.huge_pages.keys().copied().collect(),
            swap: match has_swap_controller(unified) {
                false => Swap::Unknown,
                true if limited => Swap::Limited(self.facts.swap),
                true => Swap::None,
            },
            memory: self.facts.memory,
            ends_whole: kubelet.single_process_oom_kill != Some(true),
        }
    }
}

/// How many processes there are.
pub(crate) fn processes() -> Option<i64> {
    let running = line_of("/proc/loadavg");
    running.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Whether what containers swap can be limited. The top of version 2 has no such file, only cgroups have.
fn has_swap_controller(unified: bool) -> bool {
    if !unified {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let file = |cgroup: &Path| cgroup.join("memory.swap.max").exists();
    let top = Path::new("/sys/fs/cgroup");
    let others = || std::fs::read_dir(top).into_iter().flatten().flatten().any(|entry| file(&entry.path()));
    file(&top.join(own)) || others()
}

/// Names and versions, as `kubectl describe node` shows them.
fn system_info(version: &str) -> NodeSystemInfo {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line_of("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: String::new(),
        kernel_version: kernel,
        kube_proxy_version: String::new(),
        kubelet_version: version.to_owned(),
        machine_id: line_of("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: name.map_or("Linux", |name| name.trim_matches('"')).to_owned(),
        system_uuid: Some(line_of("/sys/class/dmi/id/product_uuid"))
            .filter(|uuid| !uuid.is_empty())
            .unwrap_or_else(|| line_of("/etc/machine-id")),
        swap: None,
    }
}

/// Kubernetes' name of this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart_by_their_whole_names() {
        let memory = Meminfo("MemTotal:       100 kB\nMemFree: 7 kB\n".to_owned());
        assert_eq!((memory.bytes("MemFree"), memory.bytes("Mem")), (7168, 0));
    }
}
