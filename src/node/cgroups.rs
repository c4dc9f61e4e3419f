//! The cgroups of pods: `kubepods/[burstable|besteffort/]pod<uid>` in every v1 hierarchy, or in the one
//! of v2. The runtime makes the containers' own below them; nobody but us removes the pods'.

use crate::amount::{Qos, Resources, of_pod};
use crate::{Error, files};
use api::Object;
use api::core::Pod;
use std::path::{Path, PathBuf};

/// The period that CPU quotas count in.
pub(crate) const PERIOD_US: i64 = 100_000;
/// The kernel's least quota and weight.
const LEAST_QUOTA_US: i64 = 1000;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;

/// What of v2's controllers works on pods.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// CPU as cgroups count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) shares: i64,
    /// 0 for no limit.
    pub(crate) quota_us: i64,
}

impl Cpu {
    pub(crate) fn of(resources: Resources) -> Self {
        let quota = |milli: i64| (milli * PERIOD_US / 1000).max(LEAST_QUOTA_US);
        Self {
            shares: (resources.cpu_request_m * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES),
            quota_us: if resources.cpu_limit_m > 0 { quota(resources.cpu_limit_m) } else { 0 },
        }
    }

    /// v2's weight of these shares.
    fn weight(self) -> i64 {
        1 + (self.shares - LEAST_SHARES) * 9999 / 262_142
    }

    /// The shares that have this weight.
    pub(crate) fn shares_of(weight: i64) -> i64 {
        LEAST_SHARES + (weight - 1) * 262_142 / 9999
    }
}

/// How this machine's cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One hierarchy for each set of controllers, `unified` among them where there is one.
    V1(Vec<PathBuf>),
    V2(PathBuf),
}

impl Hierarchy {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.to_owned());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let found = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(at))
        });
        Self::V1(found.collect())
    }

    fn roots(&self) -> &[PathBuf] {
        match self {
            Self::V1(roots) => roots,
            Self::V2(root) => std::slice::from_ref(root),
        }
    }
}

/// The cgroups of this node's pods.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    /// Below which our own begin, "" for the top.
    root: String,
    /// Names follow systemd's slices.
    systemd: bool,
}

impl Cgroups {
    pub(crate) fn new(root: &str, systemd: bool) -> Self {
        Self { hierarchy: Hierarchy::detect(), root: root.trim_matches('/').to_owned(), systemd }
    }

    /// Those of a node without a machine.
    pub(crate) fn none() -> Self {
        Self { hierarchy: Hierarchy::V1(Vec::new()), root: String::new(), systemd: false }
    }

    /// Whether there is one unified hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        matches!(self.hierarchy, Hierarchy::V2(_))
    }

    /// How they are mounted.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The cgroup of a class of pods, within every hierarchy.
    pub(crate) fn path_of_class(&self, qos: Qos) -> String {
        format!("/{}", self.class(qos).join("/"))
    }

    /// The cgroup of a pod, within every hierarchy.
    pub(crate) fn path_of_pod(&self, pod: &Pod) -> String {
        format!("/{}", self.path(Qos::of(pod), pod.uid()))
    }

    /// The cgroup that the runtime made for a container or sandbox of a pod.
    pub(crate) fn path_of_container(&self, pod: &Pod, id: &str) -> String {
        let name = if self.systemd { format!("cri-containerd-{id}.scope") } else { id.to_owned() };
        format!("{}/{name}", self.path_of_pod(pod))
    }

    /// The folders of a class, from the top.
    fn class(&self, qos: Qos) -> Vec<String> {
        let name = |parts: &[&str]| {
            if self.systemd {
                format!("{}.slice", parts.join("-"))
            } else {
                parts.last().map_or_else(String::new, |p| (*p).to_owned())
            }
        };
        let mut path: Vec<String> =
            Some(self.root.clone()).filter(|root| !root.is_empty()).into_iter().collect();
        path.push(name(&["kubepods"]));
        match qos {
            Qos::Guaranteed => {}
            Qos::Burstable => path.push(name(&["kubepods", "burstable"])),
            Qos::BestEffort => path.push(name(&["kubepods", "besteffort"])),
        }
        path
    }

    /// The path of a pod's cgroup within a hierarchy.
    fn path(&self, qos: Qos, uid: &str) -> String {
        let mut path = self.class(qos);
        path.push(if self.systemd {
            let class = path.last().map_or("", |class| class.trim_end_matches(".slice"));
            format!("{class}-pod{}.slice", uid.replace('-', "_"))
        } else {
            format!("pod{uid}")
        });
        path.join("/")
    }

    /// What the runtime is told as the parent of a pod's containers.
    pub(crate) fn parent(&self, pod: &Pod) -> String {
        let path = self.path(Qos::of(pod), pod.uid());
        if self.systemd { path.rsplit('/').next().unwrap_or_default().to_owned() } else { format!("/{path}") }
    }

    /// Makes a pod's cgroup with its limits, and those above it.
    pub(crate) fn make(&self, pod: &Pod) -> Result<(), Error> {
        let qos = Qos::of(pod);
        let wanted = of_pod(pod);
        for root in self.hierarchy.roots() {
            let mut at = root.clone();
            for name in self.class(qos) {
                self.delegate(&at)?;
                at.push(name);
                files::make_folder(&at, 0o755)?;
            }
            self.delegate(&at)?;
            if qos == Qos::BestEffort {
                self.set(&at, Resources::default())?;
            }
            let folder = root.join(self.path(qos, pod.uid()));
            files::make_folder(&folder, 0o755)?;
            self.set(&folder, wanted)?;
            self.delegate(&folder)?;
            self.balance(root)?;
        }
        Ok(())
    }

    /// Raises those of a pod's limits that are below what it gets now, before its containers are changed.
    pub(crate) fn grow(&self, pod: &Pod) -> Result<(), Error> {
        let wanted = of_pod(pod);
        for root in self.hierarchy.roots() {
            let folder = root.join(self.path(Qos::of(pod), pod.uid()));
            for (name, value) in self.settings(wanted) {
                let file = folder.join(name);
                let now = std::fs::read_to_string(&file).ok();
                if now.is_some_and(|now| first_number(&now) < first_number(&value)) {
                    std::fs::write(&file, value).map_err(files::at(&file))?;
                }
            }
        }
        Ok(())
    }

    /// Gives the burstable pods together what each of them asks for, against the guaranteed ones beside
    /// them.
    fn balance(&self, root: &Path) -> Result<(), Error> {
        let folder = root.join(self.class(Qos::Burstable).join("/"));
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
        let shares = entries.flatten().filter_map(|entry| {
            let pod = entry.path();
            number(pod.join("cpu.shares")).or_else(|| number(pod.join("cpu.weight")).map(Cpu::shares_of))
        });
        let cpu_request_m = shares.sum::<i64>() * 1000 / 1024;
        self.set(&folder, Resources { cpu_request_m, ..Default::default() })
    }

    /// On v2, lets the controllers work below this folder.
    fn delegate(&self, folder: &Path) -> Result<(), Error> {
        if !self.is_unified() {
            return Ok(());
        }
        let words = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (offered, given) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let missing =
            offered.split_whitespace().filter(|name| !given.split_whitespace().any(|have| have == *name));
        for controller in missing.filter(|name| CONTROLLERS.contains(name)) {
            let file = folder.join("cgroup.subtree_control");
            std::fs::write(&file, format!("+{controller}")).map_err(files::at(&file))?;
        }
        Ok(())
    }

    /// Writes the limits that this hierarchy's controllers know.
    fn set(&self, folder: &Path, resources: Resources) -> Result<(), Error> {
        for (name, value) in self.settings(resources) {
            let file = folder.join(name);
            if file.exists() {
                std::fs::write(&file, value).map_err(files::at(&file))?;
            }
        }
        Ok(())
    }

    /// The files and what they say.
    fn settings(&self, resources: Resources) -> [(&'static str, String); 3] {
        let cpu = Cpu::of(resources);
        let limit = |value: i64, none: &str| if value > 0 { value.to_string() } else { none.to_owned() };
        if self.is_unified() {
            [
                ("cpu.weight", cpu.weight().to_string()),
                ("cpu.max", format!("{} {PERIOD_US}", limit(cpu.quota_us, "max"))),
                ("memory.max", limit(resources.memory_limit, "max")),
            ]
        } else {
            [
                ("cpu.shares", cpu.shares.to_string()),
                ("cpu.cfs_quota_us", limit(cpu.quota_us, "-1")),
                ("memory.limit_in_bytes", limit(resources.memory_limit, "-1")),
            ]
        }
    }

    /// Removes what is left of a pod's cgroups, whatever class it had.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), Error> {
        for root in self.hierarchy.roots() {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                remove_tree(&root.join(self.path(qos, uid)))?;
            }
            self.balance(root)?;
        }
        Ok(())
    }

    /// Uids of pods that have cgroups.
    pub(crate) fn uids(&self) -> Vec<String> {
        let mut found = Vec::new();
        for root in self.hierarchy.roots() {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                let Ok(entries) = std::fs::read_dir(root.join(self.class(qos).join("/"))) else { continue };
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                found.extend(names.filter_map(|name| self.uid_of(&name)));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn uid_of(&self, name: &str) -> Option<String> {
        if self.systemd {
            let uid = name.strip_suffix(".slice")?.rsplit_once("-pod")?.1;
            return Some(uid.replace('_', "-"));
        }
        name.strip_prefix("pod").map(str::to_owned)
    }
}

/// The number that a limit begins with; none at all is more than any.
fn first_number(text: &str) -> i64 {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.filter(|number| *number >= 0).unwrap_or(i64::MAX)
}

/// Removes a cgroup with those below it. Files in it are the kernel's and cannot be removed.
fn remove_tree(folder: &Path) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(files::at(folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_class_and_the_driver() {
        let plain = Cgroups { hierarchy: Hierarchy::V1(Vec::new()), root: "k".to_owned(), systemd: false };
        assert_eq!(plain.path(Qos::Burstable, "a-b"), "k/kubepods/burstable/poda-b");
        assert_eq!(plain.path(Qos::Guaranteed, "a-b"), "k/kubepods/poda-b");
        let slices = Cgroups { hierarchy: Hierarchy::V2("/c".into()), root: String::new(), systemd: true };
        let path = slices.path(Qos::BestEffort, "a-b");
        assert_eq!(path, "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice");
        assert_eq!(slices.uid_of("kubepods-besteffort-poda_b.slice").as_deref(), Some("a-b"));
    }

    #[test]
    fn cpu_has_the_kernels_bounds() {
        let cpu = |request, limit| {
            Cpu::of(Resources { cpu_request_m: request, cpu_limit_m: limit, ..Default::default() })
        };
        assert_eq!(cpu(0, 0), Cpu { shares: 2, quota_us: 0 });
        assert_eq!(cpu(1, 5), Cpu { shares: 2, quota_us: 1000 });
        assert_eq!(cpu(1500, 2000), Cpu { shares: 1536, quota_us: 200_000 });
        assert_eq!((cpu(0, 0).weight(), Cpu::shares_of(1)), (1, 2));
    }
}
